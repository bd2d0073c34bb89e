"""Search a file or folder that is to be shared for what has to stay hidden."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from jupyter_agent.sandbox.isolation.never_shared import (
    is_system,
    looks_like_home,
    wide_folders,
)
from jupyter_agent.sandbox.isolation.secret_contents import could_hold_secret, holds_secret
from jupyter_agent.sandbox.isolation.secret_names import is_secret_folder, is_secret_name

__all__ = [
    "Budget",
    "Share",
    "children",
    "count_of",
    "is_among",
    "links_in",
    "look_through",
    "secrets_of_tools",
    "source_of",
    "uncovered",
]

# What looking through shared folders may cost. Folders not reached by then stay hidden.
MAX_ENTRIES = 20_000
MAX_SECONDS = 2.0
MAX_SECONDS_OF_READING = 0.5  # what is not reached by then is judged by its name alone
# A folder with one of these is a Python environment: no data, and tens of thousands of files. What
# this interpreter needs of its own is shared all the same.
_OF_AN_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
_COMPILED = re.compile(r"\.(?:py[cod]|so)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Share:
    """A file or folder of the user's that the sandbox may read, less what is hidden of it.

    With ``name`` empty the folder's contents stand in the sandbox's working folder themselves.
    Two shares are equal if a sandbox could read the same files and folders through both.
    """

    path: Path
    name: str = ""
    hidden: tuple[Path, ...] = ()
    # what the user should know of what is hidden; it names nothing
    note: str = field(default="", compare=False)
    # what was visible when it was looked through: path, device and inode; None if it was not
    shown: tuple[tuple[str, int, int], ...] | None = None

    def visible(self) -> list[Path]:
        """Return the fewest files and folders that cover all but the hidden paths."""
        return uncovered(self.path, set(self.hidden))

    def judged(self, paths: Iterable[Path]) -> list[Path]:
        """Leave out what has come since this was looked through, beside what is hidden."""
        if self.shown is None:
            return [*paths]
        shown = {Path(path) for path, _, _ in self.shown}
        above = {parent for path in shown for parent in path.parents}
        return [path for path in paths if path in above or is_among(path, shown)]


@dataclass(slots=True)
class Budget:
    """What is left of the entries and of the time for looking through folders; what is too wide."""

    entries: int = field(default_factory=lambda: MAX_ENTRIES)
    until: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)
    reading: float = field(default_factory=lambda: MAX_SECONDS_OF_READING)
    wide: set[tuple[int, int]] = field(default_factory=wide_folders)

    def is_spent(self) -> bool:
        """Tell whether no other folder is to be begun."""
        return self.entries <= 0 or time.monotonic() > self.until


def look_through(
    path: Path,
    name: str = "",
    *,
    exposed: Set[Path] = frozenset(),
    budget: Budget,
    wanted: Callable[[str], bool] | None = None,
    typed: bool = True,
) -> Share:
    """Share a file or folder, less what is hidden of it.

    Hidden is what looks like a secret by its name or its contents, a home folder, a Python
    environment, what is neither a file nor a folder nor a link, what cannot be read, and what was
    not reached within the budget.

    Parameters
    ----------
    wanted
        Which files are shown by their names, and only folders that hold such; all if not given.
    typed
        Whether the user has typed this path, so that nothing is hidden for its own name.
    """
    walk = _Walk(exposed, budget, wanted)
    if not typed and walk.is_secret(str(path), is_folder=path.is_dir()):
        walk.hide(path)
    elif path.is_dir():
        walk.through(path, typed=typed)
    elif any(map(holds_secret, walk.to_look_into(str(path)))):
        walk.hide(path)
    share = Share(path, name, tuple(walk.all_hidden()), walk.note())
    listed = (each for each in share.visible() if each == path or str(each) in walk.listed)
    return replace(share, shown=tuple(_identities(listed)))


def _identities(paths: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    """Return paths with their device and inode: another file may replace one."""
    for path in paths:
        with contextlib.suppress(OSError):  # it is gone
            facts = path.lstat()
            yield str(path), facts.st_dev, facts.st_ino


class _Walk:
    """A bounded search of a folder for secrets, breadth first."""

    def __init__(
        self, exposed: Set[Path], budget: Budget, wanted: Callable[[str], bool] | None
    ) -> None:
        self.exposed, self.budget, self.wanted = exposed, budget, wanted
        self._hidden: dict[Path, None] = {}
        self.listed: set[str] = set()
        self.secrets = self.unreached = self.unread = self.closed = 0
        self._of_tools = {str(each) for each in secrets_of_tools()}
        self._to_read: list[tuple[str, str]] = []  # a file, and what it is judged by
        self._unwanted: dict[str, list[str]] = {}  # folder: files in it that are not asked for
        self._useful: set[str] = set()  # folders with a file that is asked for

    def all_hidden(self) -> list[Path]:
        """Return what is hidden, without what lies in a hidden folder."""
        return [path for path in self._hidden if self._hidden.keys().isdisjoint(path.parents)]

    def is_exposed(self, path: str) -> bool:
        """Tell whether the user has said that a path, or a folder above it, is not secret."""
        return bool(self.exposed) and is_among(Path(path), self.exposed)

    def is_secret(self, path: str, *, is_folder: bool) -> bool:
        """Tell whether a path looks like a secret by its name, and the user has not exposed it."""
        named = is_secret_folder if is_folder else is_secret_name
        paths = {path, path if is_folder else source_of(path)}
        secret = path in self._of_tools or any(named(each.rpartition("/")[2]) for each in paths)
        return secret and not any(map(self.is_exposed, paths))

    def to_look_into(self, path: str) -> list[str]:
        """Name the files to look into to judge a file: itself, and the source of compiled code."""
        judged_by = {path, source_of(path)}
        exposed = any(map(self.is_exposed, judged_by))
        return [] if exposed else [*filter(could_hold_secret, judged_by)]

    def hide(self, path: Path | str, *, secret: bool = True) -> None:
        """Hide a path; count it if it is for what it may hold."""
        self._hidden[Path(path)] = None
        # dot files are expected to be left out
        self.secrets += secret and not Path(path).name.startswith(".")

    def note(self) -> str:
        """Return a note for the user, without names: the guest may read the notebook."""
        notes = []
        if self.secrets:
            notes.append(f"{count_of(self.secrets, 'path')} left out as secret")
        if self.closed:
            notes.append(f"{count_of(self.closed, 'path')} left out as unreadable")
        if self.unreached:
            notes.append(f"{count_of(self.unreached, 'folder')} left out unchecked")
        if self.unread:
            notes.append(f"{count_of(self.unread, 'file')} checked by name alone")
        return ", ".join(notes)

    def through(self, root: Path, *, typed: bool) -> None:
        """Look through a folder and all below it."""
        waiting, seen = deque([str(root)]), [str(root)]
        while waiting and not self.budget.is_spent():
            folder = waiting.popleft()
            below = self._folder(folder, typed=typed and folder == str(root))
            waiting += below
            seen += below
        for folder in waiting:
            self.unreached += 1
            self.hide(folder, secret=False)
        if self.wanted:
            self._hide_unwanted(seen)
        self._read()

    def _folder(self, folder: str, *, typed: bool) -> list[str]:
        """Look at what stands in a folder; return the folders to be looked at in turn."""
        try:
            facts = Path(folder).stat()
            if not os.access(folder, os.X_OK):
                raise PermissionError
            with os.scandir(folder) as listed:
                entries = []
                for entry in listed:
                    entries.append(entry)
                    if len(entries) % 1000 == 0 and time.monotonic() > self.budget.until:
                        self.unreached += 1
                        self.hide(folder, secret=False)
                        return []
        except OSError:  # it cannot be read, or is gone
            self.closed += 1
            self.hide(folder, secret=False)
            return []
        self.budget.entries -= len(entries)
        self.listed.update(entry.path for entry in entries)
        names = {entry.name for entry in entries}
        wide = (facts.st_dev, facts.st_ino) in self.budget.wide or looks_like_home(names)
        if not typed and (wide or ("etc" in names and is_system(Path(folder)))):
            self.hide(folder)
            return []
        if not typed and not names.isdisjoint(_OF_AN_ENVIRONMENT):
            self.hide(folder, secret=False)
            return []
        below = []
        for number, entry in enumerate(entries):
            if number % 1000 == 999 and time.monotonic() > self.budget.until:
                self.unreached += 1
                self.hide(folder, secret=False)
                return []
            if self._goes_on(entry, folder):
                below.append(entry.path)
        return below

    def _goes_on(self, entry: os.DirEntry[str], folder: str) -> bool:
        """Look at one entry; tell whether it is a folder to be looked at in turn."""
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_file = entry.is_file(follow_symlinks=False)
        except OSError:
            is_folder = is_file = False
        if entry.is_symlink():  # it shows what it leads to only where that is shared itself
            return False
        secret = self.is_secret(entry.path, is_folder=is_folder)
        if secret or not (is_folder or is_file):
            self.hide(entry.path, secret=secret)
            return False
        if is_file:
            self._file(entry, folder)
        return is_folder

    def _file(self, entry: os.DirEntry[str], folder: str) -> None:
        if self.wanted and not self.wanted(entry.name):
            self._unwanted.setdefault(folder, []).append(entry.path)
            return
        self._useful.add(folder)
        if not os.access(entry.path, os.R_OK):
            self.closed += 1
            self.hide(entry.path, secret=False)
        else:
            self._to_read += [
                (entry.path, judged_by) for judged_by in self.to_look_into(entry.path)
            ]

    def _hide_unwanted(self, folders: list[str]) -> None:
        """Hide the folders in which no file is asked for, and else such files, deepest first."""
        hidden = set(map(str, self._hidden))
        for folder in reversed(folders):
            if folder in hidden:
                continue
            if folder in self._useful:
                self._useful.add(str(Path(folder).parent))
                for path in self._unwanted.get(folder, []):
                    self.hide(path, secret=False)
            else:
                self.hide(folder, secret=False)

    def _read(self) -> None:
        """Look into files while there is time."""
        started = time.monotonic()
        for done, (path, judged_by) in enumerate(self._to_read):
            if time.monotonic() - started > self.budget.reading:
                self.unread = len({path for path, _ in self._to_read[done:]})
                break
            if holds_secret(judged_by):
                self.hide(path)
        self.budget.reading -= time.monotonic() - started


def source_of(path: str) -> str:
    """Return the file that is looked into for a path: of compiled code the source (PEP 3147)."""
    folder, _, name = path.rpartition("/")
    beside = folder.removesuffix("/__pycache__")
    if beside == folder and not _COMPILED.search(name):
        return path
    source = f"{beside}/{name.partition('.')[0]}.py"
    return str(Path(source).resolve()) if Path(source).is_symlink() else source


def count_of(number: int, what: str) -> str:
    """Write a number of things, such as "2 paths"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def uncovered(path: Path, hidden: Set[Path]) -> list[Path]:
    """Return the fewest files and folders that cover a path, but for others and the links in it."""
    above = {parent for each in hidden for parent in each.parents}

    found, waiting = [], [] if is_among(path, hidden) else [path]
    while waiting:
        each = waiting.pop()
        if each in hidden or each.is_symlink():
            continue
        if each in above:
            waiting += reversed(children(each))
        else:
            found.append(each)
    return found


def links_in(path: Path, hidden: Set[Path]) -> list[Path]:
    """Name the symbolic links in those folders of a path that hold something hidden.

    A link that is hidden for its name is none of them.
    """
    above = {parent for each in hidden for parent in each.parents if parent.is_relative_to(path)}
    return [
        child
        for folder in sorted(above)
        for child in children(folder)
        if child.is_symlink()
        and child not in hidden
        and not (is_secret_name(child.name) or is_secret_folder(child.name))
    ]


def children(folder: Path) -> list[Path]:
    """List what is in a folder; nothing if that is not possible."""
    try:
        return sorted(folder.iterdir())
    except OSError:  # it is gone, or was closed
        return []


def is_among(path: Path, paths: Set[Path]) -> bool:
    """Tell whether a path is one of these or lies below one."""
    return not paths.isdisjoint([path, *path.parents])


def secrets_of_tools() -> set[Path]:
    """Name the folders where Jupyter and the Hub's client keep their secrets, if moved too."""
    moved = ("HF_HOME", "HF_TOKEN_PATH", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
    return {Path(os.environ[name]).resolve() for name in moved if os.environ.get(name)}
