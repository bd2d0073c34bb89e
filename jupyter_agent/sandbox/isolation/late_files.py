"""Copy files into the sandbox that are newer than it.

A folder that holds something hidden is shared piece by piece, so what comes later is not in it,
and neither is a file that was saved by putting a new one in its place (as git and most editors
do). Such files are copied into a folder of the host's, which the sandbox can only read. What is
judged is the copy: nothing that happens to the user's file meanwhile can change it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from jupyter_agent.sandbox.isolation.folder_search import (
    Budget,
    Share,
    is_among,
    look_through,
    source_of,
)
from jupyter_agent.sandbox.isolation.secret_contents import could_hold_secret, holds_secret
from jupyter_agent.sandbox.isolation.secret_names import is_secret_folder, is_secret_name
from jupyter_agent.sandbox.isolation.sharing import escaped, is_plain

__all__ = ["LateFiles"]

MAX_ENTRIES = 2_000  # looked at, in all, before a cell
MAX_LISTED = 100_000  # names of a folder
MAX_SECONDS = 2.0
MAX_SECONDS_OF_COPYING = 2.0  # before a cell; the rest is passed in before the next ones
MAX_BYTES = 64 << 20  # copied in all; what does not fit takes a new sandbox
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Identity = tuple[int, int, int, int, int]


class LateFiles:
    """Find what is new in shared folders, and copy what is not secret.

    Parameters
    ----------
    folder
        An empty folder of the host's. The sandbox reads what is in ``shown`` below it.
    home
        The notebook's folder, if it is somebody's home, of which the plain files are shared.
    exposed
        As `files.resolve` has it.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        folder: Path,
        *,
        home: Path | None = None,
        exposed: Set[Path] = frozenset(),
    ) -> None:
        self.shown = _readable_folder(folder / "shown")
        self._judged = folder / "judged"
        self._judged.mkdir(mode=0o700)
        self._home, self._exposed = home, exposed
        opened = {each.path: _opened(each) for each in shares}
        # as text: before each cell all names are looked at
        self._folders = [
            (str(folder), Path(each.name, folder.relative_to(each.path)), each.path)
            for each in shares
            for folder in sorted(opened[each.path])
        ]
        self._files = [each for each in shares if not each.path.is_dir()]
        self._known = {(path, inode) for share in shares for path, _, inode in share.shown or ()}
        self._passed_over = {str(path) for share in shares for path in share.hidden}
        self._passed_over |= {str(path) for paths in opened.values() for path in paths}
        self._copied: dict[str, _Identity] = {}  # by name in the working folder
        self._sources: dict[str, Path] = {}
        self._refused: dict[str, _Identity] = {}
        self._missed: set[str] = set()
        self._room = MAX_BYTES
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of new files that were not copied, although they do not look secret."""
        return sorted({escaped(Path(name).name) for name in self._missed})

    def follow(self, *, exclude: Path | None = None) -> None:
        """Copy what is new, and remove what is gone. It blocks for a few seconds at most.

        Parameters
        ----------
        exclude
            A file that is left as it is: one that the host writes after each cell.
        """
        with self._lock:
            self._missed = set()
            until = time.monotonic() + MAX_SECONDS
            found = list(itertools.islice(self._found(until), MAX_ENTRIES))
            spent = time.monotonic() > until  # so not all was looked at
            for name in self._copied.keys() - {name for name, _, _ in found}:
                if not (spent and os.path.lexists(self._sources[name])):
                    self._remove(name)
            until = time.monotonic() + MAX_SECONDS_OF_COPYING
            for name, root, path in found:
                if path == exclude:
                    continue
                if time.monotonic() > until:
                    self._missed |= {name} - self._copied.keys() - self._refused.keys()
                    continue
                with contextlib.suppress(OSError):  # it is gone, or cannot be read
                    self._pass_in(name, root, path)

    def _found(self, until: float = float("inf")) -> Iterator[tuple[str, Path, Path]]:
        """Find what is new: the name in the working folder, the share it is of, and its path."""
        entries = list(self._new_entries())
        if not entries:
            return
        budget = Budget(entries=MAX_ENTRIES, until=until)
        for path, name, root in entries:
            if name in self._copied and _is_as_copied(path, self._copied[name]):
                yield name, root, path
                continue
            if budget.is_spent() and name not in self._copied:
                self._missed |= {name} - self._refused.keys() if path.is_file() else set()
                continue
            share = look_through(path, name, exposed=self._exposed, budget=budget, typed=False)
            for piece in share.visible():
                for file in _files(piece):
                    if not self._has_secret_name(file, path):
                        yield str(Path(name, file.relative_to(path))), root, file

    def _has_secret_name(self, file: Path, top: Path) -> bool:
        """Tell whether a file that may be newer than the search of its folder has a secret name."""
        *folders, name = file.relative_to(top).parts or ("",)
        source = Path(source_of(str(file)))
        names = {name, source.name} if name else ()
        secret = any(map(is_secret_name, names)) or any(map(is_secret_folder, folders))
        return secret and not any(is_among(each, self._exposed) for each in (file, source))

    def _new_entries(self) -> Iterator[tuple[Path, str, Path]]:
        """Yield each new path, its name in the working folder, and the share that it is in."""
        for folder, name, root in self._folders:
            for path in self._new_in(folder):
                yield path, str(name / path.name), root
        if self._home:
            for path in filter(is_plain, self._new_in(str(self._home))):
                yield path, path.name, self._home
        for share in self._files:
            with contextlib.suppress(OSError):  # it is gone
                if (str(share.path), share.path.lstat().st_ino) not in self._known:
                    yield share.path, share.name, share.path.parent

    def _new_in(self, folder: str) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                new = (
                    Path(entry.path)
                    for entry in itertools.islice(entries, MAX_LISTED)
                    if (entry.path, entry.inode()) not in self._known
                    and entry.path not in self._passed_over
                    and not entry.is_symlink()
                )
                found = list(itertools.islice(new, MAX_ENTRIES))
                self._missed |= {path.name for path in new if not is_secret_name(path.name)}
                return found
        except OSError:
            return []

    def _pass_in(self, name: str, root: Path, path: Path) -> None:
        """Copy a file, look for secrets in the copy, and show it if there are none."""
        with _opened_below(root, path) as source:
            facts = os.fstat(source)
            identity = _identity(facts)
            if identity in (self._copied.get(name), self._refused.get(name)):
                return
            self._remove(name)
            if not stat.S_ISREG(facts.st_mode):
                return
            if facts.st_nlink > 1 or facts.st_size > self._room:  # another name may be hidden
                self._missed.add(name)
                return
            copy = self._judged / path.name
            size = _copy(source, copy, self._room)
        code = Path(source_of(str(path)))
        exposed = any(is_among(each, self._exposed) for each in (path, code))
        judged_by = {str(copy), str(copy if code == path else code)}
        if not exposed and any(map(holds_secret, filter(could_hold_secret, judged_by))):
            copy.unlink()
            self._refused[name] = identity
            return
        target = self.shown / name
        for parent in reversed(target.relative_to(self.shown).parents[:-1]):
            _readable_folder(self.shown / parent)
        copy.replace(target)
        self._room -= size
        self._copied[name], self._sources[name] = identity, path

    def _remove(self, name: str) -> None:
        if self._copied.pop(name, None) is not None:
            with contextlib.suppress(OSError):
                target = self.shown / name
                self._room += target.stat().st_size
                target.unlink()
                for folder in target.relative_to(self.shown).parents[:-1]:
                    (self.shown / folder).rmdir()  # fails for one that is not empty


def _opened(share: Share) -> set[Path]:
    """Return the folders of a share that hold something hidden: they are shared in pieces."""
    above = {parent for path in share.hidden for parent in path.parents}
    return {path for path in above if path.is_relative_to(share.path)}


def _files(piece: Path) -> Iterator[Path]:
    waiting = [piece]
    while waiting:  # os.walk() goes no deeper than Python's own stack
        path = waiting.pop()
        if not path.is_dir() or path.is_symlink():
            yield path
            continue
        with contextlib.suppress(OSError):
            waiting += path.iterdir()


def _identity(facts: os.stat_result) -> _Identity:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _is_as_copied(path: Path, copied: _Identity) -> bool:
    try:
        return _identity(path.lstat()) == copied
    except OSError:
        return False


@contextlib.contextmanager
def _opened_below(root: Path, path: Path) -> Iterator[int]:
    """Open a file below a folder, through no link."""
    *folders, name = path.relative_to(root).parts
    here = os.open(root, _FOLDER)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        file = os.open(name, _FILE, dir_fd=here)
    finally:
        os.close(here)
    try:
        yield file
    finally:
        os.close(file)


def _copy(source: int, copy: Path, room: int) -> int:
    """Copy a file, or its beginning if it has grown past what there is room for."""
    size = 0
    with copy.open("wb") as target:
        while size < room and (block := os.read(source, min(1 << 20, room - size))):
            target.write(block)
            size += len(block)
        os.fchmod(target.fileno(), 0o644)
    facts = os.fstat(source)
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return size


def _readable_folder(path: Path) -> Path:
    """Make a folder that the sandbox's user can read, whatever the umask."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    return path
