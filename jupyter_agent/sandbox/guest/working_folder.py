"""The working folder: real folders with copies of the user's files, kept up to date.

Standard library only. What is copied is read with the sandbox's own rights, so what is hidden stays
hidden. The user's files never change: what the guest writes goes to its copies.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections import deque
from typing import NamedTuple

# A file or folder beyond these limits is a link to the shared one.
MAX_ENTRIES = 2_000
MAX_LISTED = 20_000
MAX_SECONDS = 1.0
MAX_SECONDS_LATER = 0.1  # before a later cell; what is not reached by then is not updated
_BLOCK = 1 << 20

# Name in the working folder, real path, and whether the folder itself holds the contents.
Shares = list[tuple[str, str, bool]]
Links = list[tuple[str, str]]  # name, and real path of the target; empty if that is not shared


class _Made(NamedTuple):
    """A file or folder that was put into the working folder."""

    source: tuple[int, ...]  # the state of the user's file
    own: tuple[int, ...]  # the state of the copy
    size: int  # copied bytes


class WorkingFolder:
    """The guest's working folder, which shows the user's files.

    Parameters
    ----------
    folder
        Absolute path.
    shares
        Of two files of one name the first is shown.
    max_bytes
        How much may be copied in all.
    links
        The user's symbolic links that cannot be seen where they stand.
    """

    def __init__(
        self, folder: str, shares: Shares, max_bytes: int, *, links: Links | None = None
    ) -> None:
        self.folder = folder
        self.outside: set[str] = set()  # names of links to what is not shared
        self._shares = shares
        self._links = links or []
        self._room = max_bytes
        self._made: dict[str, _Made] = {}
        self._deadline = 0.0
        self._waiting: deque[tuple[str, str, bool]] = deque()
        self._there: set[str] = set()
        self._roots = [(name, os.path.realpath(path)) for name, path, _ in shares if path]

    def update(self) -> None:
        """Update the copies of the user's files, except those that the guest has changed."""
        first = not self._made
        self._deadline = time.monotonic() + (MAX_SECONDS if first else MAX_SECONDS_LATER)
        self._there, self.outside = set(), set()
        self._waiting = deque(self._shares)
        while self._waiting:
            if not first and time.monotonic() > self._deadline:
                return
            name, path, contents = self._waiting.popleft()
            if contents:
                self._enter(name, path)
            else:
                self._put(name, path)
        for name, target in self._links:
            self._follow(name, target and os.path.realpath(target))
        self._remove_gone()

    def is_copy(self, name: str) -> bool:
        """Tell whether a file is a copy that the guest has not changed."""
        made = self._made.get(name)
        return made is not None and made.own == _state(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _put(self, name: str, path: str) -> bool:
        """Show a file or folder of the user; tell whether it exists."""
        try:
            facts = os.stat(path)
        except OSError:
            return False
        if stat.S_ISDIR(facts.st_mode):
            self._folder(name, path)
        elif name in self._there:  # another file has this name
            return True
        elif stat.S_ISREG(facts.st_mode) and facts.st_nlink:  # 0: it was replaced meanwhile
            self._file(name, path, facts)
        return True

    def _folder(self, name: str, path: str) -> None:
        self._there.add(name)
        if name in self._made and not os.path.isdir(self._path(name)):
            return  # the guest has removed it
        if os.path.islink(self._path(name)):
            return
        if not os.path.isdir(self._path(name)):
            if self._is_spent():
                self._link(name, path)
                return
            if not self._make_folder(name):
                return
        self._waiting.append((name, path, True))

    def _make_folder(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            os.makedirs(self._path(name), exist_ok=True)
            self._made[name] = _Made((), (), 0)
            return True
        return False

    def _enter(self, name: str, path: str) -> None:
        """Show the contents of a folder."""
        try:
            with os.scandir(path) as listed:
                some = itertools.islice(listed, MAX_LISTED)
                entries = [entry for entry in some if not entry.name.startswith(".")]
        except OSError:
            return
        new = len(entries) > MAX_ENTRIES - len(self._made) and not any(
            os.path.join(name, entry.name) in self._made for entry in entries[:10]
        )
        if new and name and self._replace_by_link(name, path):
            return
        for entry in entries:
            below = os.path.join(name, entry.name)
            if entry.is_symlink():
                self._follow(below, os.path.realpath(entry.path))
            else:
                self._put(below, entry.path)

    def _replace_by_link(self, name: str, path: str) -> bool:
        """Replace a folder that holds too much by a link, unless it already has contents."""
        try:
            os.rmdir(self._path(name))
        except OSError:
            return False
        self._forget(name)
        self._link(name, path)
        return True

    def _follow(self, name: str, target: str) -> None:
        """Show the target of a link: a file as a copy, a folder as a link."""
        if not os.path.isdir(target):
            if not self._put(name, target):
                self.outside.add(name)
            return
        for root_name, root in self._roots:
            if target == root or target.startswith(f"{root}/"):
                if self._is_mixed(root_name, root):
                    break
                shown = os.path.join(self.folder, root_name, os.path.relpath(target, root))
                target = os.path.relpath(shown, os.path.dirname(self._path(name)))
                break
        self._link(name, target)

    def _is_mixed(self, name: str, root: str) -> bool:
        """Tell whether another share already has the name under which a root is shown."""
        places = ((os.path.relpath(name or ".", place or "."), path) for place, path in self._roots)
        others = (os.path.join(path, inside) for inside, path in places if inside[:2] != "..")
        return any(os.path.lexists(path) and os.path.realpath(path) != root for path in others)

    def _link(self, name: str, target: str) -> None:
        self._there.add(name)
        with contextlib.suppress(OSError):
            if name in self._made or os.path.lexists(self._path(name)):
                return
            os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
            os.symlink(target, self._path(name))
            self._made[name] = _Made((), _state(self._path(name)), 0)

    def _file(self, name: str, path: str, facts: os.stat_result) -> None:
        """Copy a file if it is new or has changed, and the guest has not changed the copy."""
        self._there.add(name)
        made, source = self._made.get(name), _identity(facts)
        if made and made.source in (source, ()):  # a link is always up to date
            return
        target = self._path(name)
        before = _state(target)
        if before and (made is None or before != made.own):
            return
        room = self._room + (made.size if made else 0)
        if facts.st_size > room or (made is None and self._is_spent()):
            if before:
                os.unlink(target)
                self._forget(name)
            self._link(name, path)
            return
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            size = self._copy(path, target, facts, room)
        except PermissionError:  # it was replaced, or its permissions have changed
            self._there.discard(name)
            return
        except OSError:  # the disk is full
            self._link(name, path)
            return
        self._room = room - size
        self._made[name] = _Made(source, _state(target), size)

    def _copy(self, path: str, target: str, facts: os.stat_result, room: int) -> int:
        """Copy a file, and rename the copy into place at once; return its size."""
        new = f"{self.folder}.new"
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(path, "rb", opener=lambda p, _: os.open(p, flags), buffering=0) as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                raise OSError("it was replaced meanwhile")
            with open(new, "wb", buffering=0) as copy:
                size = 0
                while size < room and (block := source.read(min(_BLOCK, room - size))):
                    copy.write(block)
                    size += len(block)
                os.fchmod(copy.fileno(), facts.st_mode & 0o777 | 0o600)
        os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        os.replace(new, target)
        return size

    def _is_spent(self) -> bool:
        return len(self._made) >= MAX_ENTRIES or time.monotonic() > self._deadline

    def _remove_gone(self) -> None:
        """Remove the copies of files that the user has removed, then their folders."""
        gone = self._made.keys() - self._there
        for name in sorted(gone, key=len, reverse=True):
            made, path = self._made[name], self._path(name)
            with contextlib.suppress(OSError):
                if not made.own:
                    os.rmdir(path)
                elif made.own == _state(path):
                    os.unlink(path)
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._room += self._made.pop(name).size


def _identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _state(path: str) -> tuple[int, ...]:
    """Return the state of a path, to compare; empty if nothing is there."""
    try:
        return _identity(os.lstat(path))
    except OSError:
        return ()


working_folder: WorkingFolder | None = None  # of this process
