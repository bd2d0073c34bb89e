"""Which paths a sandbox may reach: one policy for both tiers.

It is a list of roots that may be read and a set of paths that are hidden. Of a path that lies below
several of them the nearest one decides, so no root uncovers what another one hides.
"""

from __future__ import annotations

import contextlib
import functools
import os
import site
import stat
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.isolation.folder_search import Share, links_in, uncovered
from jupyter_agent.sandbox.isolation.interpreter import interpreter_paths

__all__ = ["ETC", "PROCESSORS", "SYSTEM", "Policy", "closed_above"]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
PROCESSORS = "/sys/devices/system/cpu"  # by which libraries count cores
# What a program needs of the system's own files; /etc is never shared as a whole.
ETC = [
    Path("/etc", name)
    for name in (
        "alternatives debian_version fonts host.conf ld.so.cache ld.so.conf ld.so.conf.d localtime "
        "lsb-release matplotlibrc mime.types nsswitch.conf os-release ssl/certs ssl/openssl.cnf "
        "timezone"
    ).split()
]
# Debian's own Python has its sitecustomize there, to which a link of its library leads.
ETC.append(Path("/etc", f"python{sysconfig.get_python_version()}"))
MAX_ENTRIES = 1_000_000  # looked at for private files; folders not reached by then are hidden
_DAC_READ_SEARCH = 1 << 2


class Policy:
    """The paths that may be read, and those that are hidden.

    Parameters
    ----------
    shares
        The user's files and folders.
    imports
        The modules and packages of elsewhere.
    programs
        What else a program needs that is no part of this Python.
    reaches
        For root, whose sandbox runs as another user: the folders above these paths are to be
        entered by that user too. None where the tier makes them anew.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        imports: Sequence[Share] = (),
        *,
        programs: Iterable[str] = (),
        reaches: Iterable[Path] | None = None,
    ) -> None:
        self.python = [Path(path) for path in (*interpreter_paths(), *programs)]
        self.imports, self.shares = list(imports), list(shares)
        self._shared = [*self.imports, *self.shares]
        self.hidden = {path for share in self.shares for path in _hidden(share)}
        self.reads_all = os.geteuid() == 0 and self._needs_to_read_all(reaches)
        if self.reads_all:
            self.hidden |= _private_paths_of_the_system()
        self._changed = _changed(self.hidden)
        self._above = {parent for path in self.hidden for parent in path.parents}
        # What the user has typed is shown though another share hides it. A folder for which there
        # was no time to look through it hides itself, and is not shown.
        self._named = {share.path.resolve() for share in self.shares if share.visible()}

    def visible(self, root: Path) -> list[Path]:
        """Return the fewest paths that cover what may be read of a root."""
        real = root.resolve()
        if real in self.hidden and real not in self._named:
            return []
        if real not in self._above:
            return [root]
        return [root / path.relative_to(real) for path in uncovered(real, self.hidden_below(root))]

    def visible_of(self, share: Share) -> list[Path]:
        """Return the paths that cover what may be read of a share.

        What is hidden of a package that is imported may be shared as data all the same, so it is
        left out of that package alone.
        """
        roots = share.visible() if share in self.imports else [share.path]
        return share.judged(path for root in roots for path in self.visible(root))

    def hidden_below(self, root: Path) -> set[Path]:
        """Return what is hidden of a root, as real paths."""
        real = root.resolve()
        return {path for path in self.hidden if real in path.parents}

    def is_outdated(self) -> bool:
        """Tell whether something that is to be hidden went away: bubblewrap cannot cover that."""
        now = _changed(self.hidden)
        return len(now) < len(self.hidden) or now != self._changed

    def links(self, share: Share) -> list[tuple[str, str, bool]]:
        """Say where what is visible of a share stands below the folder that it is linked into.

        Each is a relative path, the real one, and whether it is the whole folder's contents that
        stand there.
        """
        found = []
        for path in self.visible_of(share):
            name = Path(share.name, path.relative_to(share.path))
            found.append(("" if name == Path() else str(name), str(path), name == Path()))
        return found

    def symlinks(self, share: Share) -> list[tuple[str, str]]:
        """Say what links lead to that stand in folders of a share that are not visible as a whole.

        Each is a relative path, and the real one of what it leads to; empty if that is not visible.
        """
        found = []
        shown = set(self.visible_of(share))
        for link in links_in(share.path, {*share.hidden}):
            real = _target(link)
            visible = real is not None and not shown.isdisjoint([real, *real.parents])
            name = Path(share.name, link.relative_to(share.path))
            found.append((str(name), str(real) if visible else ""))
        return found

    @functools.cached_property
    def read(self) -> list[Path]:
        """Files and whole folders that may be read."""
        roots = [*map(Path, SYSTEM), *ETC, *self.python]
        found = [path for root in roots for path in self.visible(root)]
        found += [path for share in self._shared for path in self.visible_of(share)]
        return list(dict.fromkeys(found))

    def listed(self) -> list[Path]:
        """Name the folders of Python's own that hide something: it looks for modules there."""
        return [path for path in self.python if path.resolve() in self._above]

    def _needs_to_read_all(self, reaches: Iterable[Path] | None) -> bool:
        """Tell whether a user who is nobody here lacks rights to something that is to be read.

        Raises
        ------
        SandboxError
            So it is, and root cannot hand this right on here.
        """
        needed = [*self.python, *(share.path for share in self._shared)]
        closed = {path: "rX" for path in needed if _closed_to_others(path)}
        closed |= dict.fromkeys(_closed_modules(), "rX")
        if reaches is not None:
            closed |= dict.fromkeys(closed_above((*needed, *reaches)), "x")
        if closed and not _may_read_all():
            path, rights = closed.popitem()
            raise SandboxError(
                f"the sandbox of root runs as another user, to whom {path} is closed; run "
                f"chmod o+{rights} {path}, or start Jupyter as the user whose files these are"
            )
        return _may_read_all() and bool(closed or self._has_private_files())

    def _has_private_files(self) -> bool:
        return any(True for share in self._shared for _ in _private(share.path, set(share.hidden)))


def _target(link: Path) -> Path | None:
    try:
        return link.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return None


def _changed(paths: Iterable[Path]) -> dict[Path, int]:
    """Return when each path that is there was last changed, in ns; an inode may be used again."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = os.lstat(path).st_ctime_ns
    return found


def _hidden(share: Share) -> list[Path]:
    """Name what is hidden of a share, by real paths, less what is Python's own.

    In a library of Python's, of which a wider folder is shared, a name such as ``secrets.py`` or
    ``cacert.pem`` says nothing.
    """
    real = share.path.resolve()
    libraries = {path for path in _libraries() if real in (path, *path.parents)} - {real}
    hidden = [real / path.relative_to(share.path) for path in share.hidden]
    return [path for path in hidden if libraries.isdisjoint(path.parents)]


@functools.cache
def _libraries() -> set[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [*map(sysconfig.get_path, names), *site.getsitepackages()]
    return {Path(path).resolve() for path in found}


# -- what others may not read, as root


def closed_above(paths: Iterable[Path]) -> set[Path]:
    """Find the folders above paths, as named and as they are, that others may not enter."""
    above = {folder for path in paths for folder in path.absolute().parents}
    above |= {folder for path in paths for folder in path.resolve().parents}
    return {folder for folder in above if _closed_to_others(folder, 1)}


def _closed_modules() -> frozenset[Path]:
    """Find the modules and packages of this environment that others may not read."""
    folders = [Path(path) for path in site.getsitepackages() if Path(path).is_dir()]
    entries = [path for folder in folders for path in folder.iterdir()]
    return frozenset(path for path in entries if _closed_to_others(path))


def _closed_to_others(path: Path, wanted: int = 4) -> bool:
    """Tell whether other users may not read a path; False if it is gone."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return _lacks(mode, wanted)


def _lacks(mode: int, wanted: int = 4) -> bool:
    wanted |= stat.S_ISDIR(mode)
    return mode & wanted != wanted


class _Look(NamedTuple):
    """The results of a search of a folder."""

    changed: int  # when the folder last was before that: its change time in ns
    entries: int
    private: tuple[str, ...]  # files that others may not read
    folders: tuple[str, ...]


_looks: dict[str, _Look] = {}  # at the system's folders
_SETTLED = 2_000_000_000  # ns: of two changes in one tick of the clock the second cannot be told


def _private(
    root: Path, hidden: Set[Path] = frozenset(), looks: dict[str, _Look] | None = None
) -> Iterator[Path]:
    """Find what others may not read below a path, and what was not looked at.

    Parameters
    ----------
    looks
        Earlier looks, which are used, and added to, as long as a folder has not changed.
    """
    if _closed_to_others(root):
        yield root
        return
    left_out, looks = set(map(str, hidden)), {} if looks is None else looks
    waiting, seen = [str(root)] if root.is_dir() else [], 0
    while waiting:
        folder = waiting.pop()
        try:
            facts = os.lstat(folder)
            closed = _lacks(facts.st_mode)
            look = looks.get(folder)
            if not closed and (look is None or look.changed != facts.st_ctime_ns):
                look = _look(folder, facts.st_ctime_ns)
                if time.time_ns() - facts.st_ctime_ns > _SETTLED:
                    looks[folder] = look
        except FileNotFoundError:
            continue
        except OSError:  # what is in it is not known
            yield Path(folder)
            continue
        if closed or look is None:
            yield Path(folder)
            continue
        seen += look.entries
        yield from (Path(path) for path in look.private if path not in left_out)
        waiting += (path for path in look.folders if path not in left_out)
        if seen > MAX_ENTRIES:
            yield from map(Path, waiting)
            return


def _look(folder: str, changed: int) -> _Look:
    with os.scandir(folder) as listed:
        entries = [entry for entry in listed if not entry.is_symlink()]
    files = [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
    private = [entry.path for entry in files if _is_private(entry)]
    folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return _Look(changed, len(entries), tuple(private), tuple(folders))


def _is_private(file: os.DirEntry[str]) -> bool:
    try:
        return _lacks(file.stat(follow_symlinks=False).st_mode)
    except OSError:  # another may take its place
        return True


def _private_paths_of_the_system() -> frozenset[Path]:
    """Find what others may not read of the system's files.

    The first time takes half a second, and then a twentieth of it: only folders that have changed
    are looked at again, so a file that is closed later, and was there before, is not noticed.
    """
    roots = {root.resolve() for root in (*map(Path, SYSTEM), *ETC) if root.exists()}
    tops = [root for root in roots if roots.isdisjoint(root.parents)]
    return frozenset(path for root in tops for path in _private(root, looks=_looks))


def _may_read_all() -> bool:
    """Tell whether this process has CAP_DAC_READ_SEARCH, which Docker's root has not."""
    status = Path("/proc/self/status").read_text()
    [permitted] = [line.split()[1] for line in status.splitlines() if line.startswith("CapPrm")]
    return bool(int(permitted, 16) & _DAC_READ_SEARCH)
