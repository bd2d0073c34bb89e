"""Find what this Python needs to start, and what it can import."""

from __future__ import annotations

import functools
import json
import os
import re
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupyter_agent
from jupyter_agent.sandbox.isolation.folder_search import Budget, Share, look_through
from jupyter_agent.sandbox.isolation.never_shared import too_wide

__all__ = [
    "EXECUTABLE",
    "font_lists",
    "imports",
    "inherited_path",
    "interpreter_paths",
    "search_path",
]

_CODE = re.compile(r"\.(?:py|pyi|pyc|pyd|dll|dylib|so(?:\.\d+)*)$|^(?:METADATA|entry_points\.txt)$")


# What a prefix holds of Python. What stands beside it may be a project that was made a virtual
# environment (python -m venv .), or a home folder.
PARTS = (
    "bin etc/fonts include lib lib32 lib64 libexec pyvenv.cfg share "
    "ssl/cacert.pem ssl/cert.pem ssl/certs ssl/openssl.cnf"  # where keys may be, too
).split()


def _plain(path: Path) -> Path:
    """Write a path without ``..``; links stay."""
    return Path(os.path.normpath(path.absolute()))


# Python as it was called, less ``..``: folders on the way there are not in the sandbox.
EXECUTABLE = str(_plain(Path(sys.executable)))


@functools.lru_cache(maxsize=1)
def interpreter_paths() -> list[str]:
    """Every path this interpreter needs to start and to import what its environment holds."""
    executable = Path(EXECUTABLE)
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), executable.resolve().parent.parent]
    roots = [prefix / part for prefix in prefixes for part in PARTS]
    if site.ENABLE_USER_SITE:
        roots.append(Path(site.getusersitepackages()))
    roots += [executable, *map(Path, site.getsitepackages()), *_other_libraries()]
    found = {root for path in roots for root in (_plain(path), path.resolve()) if root.exists()}
    found.add(Path(jupyter_agent.__file__).parent)
    return sorted(str(path) for path in found if not any(p in found for p in path.parents))


def _other_libraries() -> list[Path]:
    """Find the packages of other environments that this one is told to import from."""
    folders = [_plain(Path(entry)) for entry in sys.path]
    named = [path for path in folders if path.name in ("site-packages", "dist-packages")]
    return [path for path in named if path.is_dir() and not too_wide(path.resolve())]


def inherited_path(places: Mapping[Path, Path]) -> list[Path]:
    """Name the folders that every Python finds modules in before its own: those of PYTHONPATH.

    Parameters
    ----------
    places
        Where what is shared apart stands in the sandbox.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [_plain(Path(entry)) for entry in entries if entry]
    libraries = {path: path for path in _other_libraries()}
    found = [({**libraries, **places}).get(path) for path in named]
    return [path for path in found if path]


def search_path() -> list[Path]:
    """Find the folders and archives elsewhere that modules are imported from, in their order.

    The current folder is none: its files are shared as data, and stand in the sandbox's working
    folder. Nor is a folder as wide as a home.
    """
    here = Path.cwd()
    named = dict.fromkeys(_plain(Path(entry)) for entry in [*sys.path, *_roots()] if entry)
    return [path for path in named if path not in (here, here.resolve()) and _is_shared_apart(path)]


def imports(*, exposed: Sequence[str] = ()) -> list[Share]:
    """Find the modules and packages elsewhere that can be imported, less what is hidden in them.

    Of a package that is installed as editable all is shared that does not look like a secret, as
    it would be in site-packages. Of what merely stands in a folder on the path it is code alone:
    what else stands there may be anybody's data. Links are not followed. What is hidden of these
    may be shown as data all the same, so take what is `Share.visible` of them.
    """
    budget = Budget()
    open_to_all = frozenset(Path(path).expanduser().absolute() for path in exposed)
    installed = {path.resolve() for path in _installed() if _is_shared_apart(path)}
    on_path = [
        path
        for root in search_path()
        for path in ([root] if root.is_file() else _importable(root))
        if path.resolve() not in installed and not _is_known(path)
    ]
    shares = []
    for path in [*sorted(installed), *dict.fromkeys(on_path)]:
        wanted = _is_code if path.is_dir() and path not in installed else None
        share = look_through(path, exposed=open_to_all, budget=budget, wanted=wanted, typed=False)
        shares.append(share)
    return [share for share in shares if "unchecked" in share.note or share.shown]


def _is_shared_apart(path: Path) -> bool:
    """Tell whether a path is there, not with the interpreter already, and not too wide."""
    return not _is_known(path) and path.exists() and not too_wide(path.resolve())


def _is_known(path: Path) -> bool:
    return not {str(each) for each in (path, *path.parents)}.isdisjoint(
        ["/usr", *interpreter_paths()]
    )


def _is_code(name: str) -> bool:
    return name == "py.typed" or _CODE.search(name) is not None


def _importable(root: Path) -> Iterator[Path]:
    """Name what of a folder on the path can be imported: modules and folders by a module's name."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = entry.name.partition(".")[0]
        if name == "__pycache__":  # of modules that stand here; each is compiled anew
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name.isidentifier() or entry.name.endswith((".dist-info", ".egg-info")):
                yield Path(entry.path)
        elif entry.is_file(follow_symlinks=False) and name.isidentifier() and _is_code(entry.name):
            yield Path(entry.path)


@functools.lru_cache(maxsize=1)
def _editable() -> tuple[tuple[Path, frozenset[str]], ...]:
    """Find the projects that are installed as editable (PEP 610): each with its modules' names."""
    found = []
    for distribution in distributions():
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        except (OSError, ValueError):
            continue
        if origin.get("dir_info", {}).get("editable"):
            root = Path(unquote(urlsplit(origin["url"]).path))
            names = (distribution.read_text("top_level.txt") or "").split()
            names.append(re.sub(r"[-_.]+", "_", distribution.name).lower())
            found.append((root, frozenset(names)))
    return tuple(found)


def _installed() -> Iterator[Path]:
    """Name the packages and modules of editable projects, where they stand."""
    for finder in _finders():
        yield from map(Path, finder.values())
    for root, names in _editable():
        for folder in (root, root / "src"):
            for name in names:
                yield from (folder / name, folder / f"{name}.py")


def _finders() -> Iterator[dict[str, str]]:
    """Find where setuptools' finders of editable projects look: a name and a path for each."""
    for name, module in list(sys.modules.items()):
        mapping = getattr(module, "MAPPING", None)
        if name.startswith("__editable__") and isinstance(mapping, dict):
            yield mapping


def _roots() -> Iterator[str]:
    """Name the folders that editable projects are imported from, where no file says so."""
    for root, names in _editable():
        for folder in (root / "src", root):
            if any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in names):
                yield str(folder)
                break


def font_lists() -> list[Path]:
    """Find matplotlib's lists of fonts, which take it a while to make anew."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MPLCONFIGDIR") or Path(caches) / "matplotlib")
    return sorted(folder.glob("fontlist-v*.json"))
