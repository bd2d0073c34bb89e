"""Which commands in a notebook's cells need the user's permission in the agent kernel.

Somebody else may have written the notebook, and the user may run it as a whole. Without a question,
its cells may let the sandbox read the notebook's own folder, put new data files there, and use the
configured models. Anything else needs a permission. It is written as the user would type it, with
its path resolved: ``--data /home/ada/private``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from jupyter_agent._unicode import visible
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.approval import POLICIES
from jupyter_agent.models.http import origin
from jupyter_agent.sandbox.isolation.sharing import absolute, resolve, too_wide

__all__ = ["Permissions", "Permit"]

# Asks the user for a permission; raises UsageError if the user refuses it
Permit = Callable[[str], Awaitable[None]]

_VENDORS = ("anthropic", "hf", "ollama", "openai")
# Endings of files that no program imports, runs or reads as its settings
_DATA = set(
    ".arrow .csv .feather .gif .jpeg .jpg .jsonl .npy .npz .parquet .pdf .png .tsv .xlsx".split()
)


class Permissions:
    """Which permissions a cell needs.

    Parameters
    ----------
    folder
        The notebook's folder; one that is too wide to be shared as a whole gives no permissions.
    shared
        Paths that the settings share.
    models
        The models that the settings name; their servers need no permission.
    ask
        The setting that says when the user is asked.
    """

    def __init__(
        self, folder: Path, *, shared: Sequence[str], models: Sequence[str], ask: str
    ) -> None:
        self._folder = folder
        self._own = [] if too_wide(folder.resolve()) else [folder.resolve()]
        self._readable = [*self._own, *(self._at(typed) for typed in shared if typed != ".")]
        self._models = models
        self._servers = {_server(model) for model in models} - {""}
        self._ask = ask

    def to_read(self, data: Sequence[str] | None) -> Iterator[str]:
        """Yield the permissions that ``--data`` needs."""
        for typed in data or ():
            path = self._at(typed)
            if typed not in (".", "none") and not _below(path, self._readable):
                yield f"--data {_shown(path)}"

    def to_save(self, path: Path) -> Iterator[str]:
        """Yield the permission that ``--save`` needs, to read or make the file."""
        path = self._at(str(path))
        if path.suffix != ".ipynb" or not self._plain(path):
            yield f"--save {_shown(path)}"

    def to_change(self, path: Path) -> Iterator[str]:
        """Yield the permission to change an existing saved run: its later readers trust it."""
        path = self._at(str(path))
        if os.path.lexists(path):
            yield f"--save {_shown(path)}"

    def to_fetch(self, path: Path) -> Iterator[str]:
        """Yield the permission that ``%agent fetch`` needs."""
        there, path = path.exists(), path.parent.resolve() / path.name
        if there:
            yield f"%agent fetch --force {_shown(path)}"
        elif path.suffix.lower() not in _DATA or not self._plain(path):
            yield f"%agent fetch {_shown(path)}"

    def to_load(self, model: str) -> Iterator[str]:
        """Yield the permission that a model needs: for its server, its weights or its replies.

        llama.cpp reads weights with the user's rights: those beside the notebook may be hostile.
        """
        kind, _, rest = model.partition(":")
        if model in self._models:
            return
        if kind == "local" and rest:
            yield f"-m local:{_shown(self._at(rest))}"
        elif kind == "scripted" and rest:
            path = self._at(rest)
            if not _below(path, self._readable) or self._is_secret(path):
                yield f"-m scripted:{_shown(path)}"
        elif (server := _server(model)) and server not in self._servers:
            yield f"-m {visible(server)}"

    def to_ask(self, policy: str | None) -> Iterator[str]:
        """Yield the permission to ask the user less often than the setting says."""
        if policy and POLICIES.index(policy) > POLICIES.index(self._ask):
            yield f"--ask {policy}"

    def _at(self, typed: str) -> Path:
        return absolute(typed, self._folder)

    def _plain(self, path: Path) -> bool:
        """Tell whether a path is in the folder, and not in a hidden part of it."""
        return any(
            path.is_relative_to(root)
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
            for root in self._own
        )

    def _is_secret(self, path: Path) -> bool:
        """Tell whether the sandbox may not read a file."""
        try:
            resolve([str(path)], self._folder)
        except UsageError:
            return path.exists()
        return False


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _shown(path: Path) -> str:
    return visible(repr(str(path))[1:-1])


def _server(model: str) -> str:
    """Return the server of a model: its URL's origin, or the vendor; empty for none."""
    kind = model.partition(":")[0]
    if kind in ("http", "https"):
        return origin(model) or model  # it is refused later, but needs a permission all the same
    return f"{kind}:" if kind in _VENDORS else ""
