"""Which commands in a notebook's cells need the user's permission in the agent kernel.

A notebook may be a stranger's and be run as a whole. Without asking the user, its cells may let the
sandbox read the notebook's own folder, put new files of data there, and use the configured models.
Anything more needs a permission, written as the user would type it, with its path resolved:
``--data /home/ada/private``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from jupyter_agent._unicode import visible
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.approval import POLICIES
from jupyter_agent.models.http import origin
from jupyter_agent.sandbox.isolation.sharing import resolve, too_wide

__all__ = ["Permissions", "Permit"]

# Asks the user to allow this; raises UsageError if it is refused
Permit = Callable[[str], Awaitable[None]]

_VENDORS = ("anthropic", "hf", "ollama", "openai")
# Files that no program imports, runs or reads as its settings
_DATA = set(
    ".arrow .csv .feather .gif .jpeg .jpg .jsonl .npy .npz .parquet .pdf .png .tsv .xlsx".split()
)


class Permissions:
    """What cells may do unasked, and the permissions that anything more needs.

    Parameters
    ----------
    folder
        The notebook's; where it is too wide to be shared as a whole, nothing in it goes unasked.
    shared
        Paths that the configuration names as data.
    models
        The models that the configuration names; their servers are known.
    ask
        When the user is asked, as the configuration has it.
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
        """Yield the permission to change a saved run that exists: a later reader believes it."""
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
        """Yield the permission that a model needs: for its server, or for a file of replies."""
        kind, _, rest = model.partition(":")
        if model in self._models:
            return
        if kind in ("scripted", "local"):
            path = self._at(rest)
            if rest and (not _below(path, self._readable) or self._is_secret(path)):
                yield f"-m {kind}:{_shown(path)}"
        elif (server := _server(model)) and server not in self._servers:
            yield f"-m {visible(server)}"

    def to_ask(self, policy: str | None) -> Iterator[str]:
        """Yield the permission for a policy that asks the user less often."""
        if policy and POLICIES.index(policy) > POLICIES.index(self._ask):
            yield f"--ask {policy}"

    def _at(self, typed: str) -> Path:
        try:
            return (self._folder / Path(typed).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop, a null
            raise UsageError(f"{typed!r} is not a valid path: {error}") from None

    def _plain(self, path: Path) -> bool:
        """Tell whether a path is in the folder, and in no hidden part of it."""
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
        return origin(model) or model  # such a one is refused later; it is asked for all the same
    return f"{kind}:" if kind in _VENDORS else ""
