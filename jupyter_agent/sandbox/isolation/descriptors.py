"""The descriptors that a guest inherits: texts to read, and a pipe that this process holds."""

from __future__ import annotations

import os

__all__ = ["Descriptors"]


class Descriptors:
    """The descriptors that are passed to one guest; closed here once it has started."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def add_text(self, text: str) -> int:
        """Write a text into memory; return a descriptor to read it from."""
        descriptor = os.memfd_create("jupyter-agent")
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(os.fsencode(text))  # whole, or it raises: half a list would hide less
        os.lseek(descriptor, 0, os.SEEK_SET)
        return self._add(descriptor)

    def add_pipe(self) -> tuple[int, int]:
        """Make a pipe that closes when this process ends; return the guest's end and ours."""
        guest, ours = os.pipe()
        return self._add(guest), ours

    def close(self) -> None:
        """Close them in this process."""
        for descriptor in self.numbers:
            os.close(descriptor)
        self.numbers.clear()

    def _add(self, descriptor: int) -> int:
        os.set_inheritable(descriptor, True)
        self.numbers.append(descriptor)
        return descriptor
