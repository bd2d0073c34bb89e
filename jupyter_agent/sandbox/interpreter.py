"""What this interpreter needs to start, and what it can import: the sandbox reads the same."""

from __future__ import annotations

import functools
import json
import os
import site
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupyter_agent
from jupyter_agent.sandbox.files import Share, too_wide

__all__ = ["font_lists", "imports", "interpreter_paths", "search_path"]


# What a prefix holds of Python. What stands beside it may be a project that was made a virtual
# environment (python -m venv .), or a home folder.
PARTS = (
    "bin etc/fonts include lib lib32 lib64 libexec pyvenv.cfg share "
    "ssl/cacert.pem ssl/cert.pem ssl/certs ssl/openssl.cnf"  # where keys may be, too
).split()


@functools.lru_cache(maxsize=1)
def interpreter_paths() -> list[str]:
    """Every path this interpreter needs to start and to import what its environment holds."""
    executable = Path(sys.executable)
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), executable.resolve().parent.parent]
    roots = [prefix / part for prefix in prefixes for part in PARTS]
    if site.ENABLE_USER_SITE:
        roots.append(Path(site.getusersitepackages()))
    roots += [executable, *map(Path, site.getsitepackages())]
    found = {root for path in roots for root in (path.absolute(), path.resolve()) if root.exists()}
    found.add(Path(jupyter_agent.__file__).parent)
    return sorted(str(path) for path in found if not any(p in found for p in path.parents))


def search_path() -> list[Path]:
    """Find the folders and archives elsewhere that are on the path or installed as editable.

    The current folder is none: its files are shared as data. Nor is a folder as wide as a home.
    """
    known = [Path(path) for path in interpreter_paths()]
    here = Path.cwd()
    named = [Path(entry).absolute() for entry in sys.path if entry]
    found = dict.fromkeys([*named, *_editable()])
    return [
        path
        for path in found
        if path != here
        and path.exists()
        and not any(path.is_relative_to(root) for root in [*known, Path("/usr")])
        and not too_wide(path.resolve())
    ]


@functools.lru_cache(maxsize=1)
def _editable() -> tuple[Path, ...]:
    """Find the projects that are installed as editable (PEP 610), however they are imported."""
    found = []
    for distribution in distributions():
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        except (OSError, ValueError):
            continue
        if origin.get("dir_info", {}).get("editable"):
            root = Path(unquote(urlsplit(origin["url"]).path))
            found += [root, root / "src"]
    return tuple(found)


def imports() -> list[Share]:
    """Name what can be imported from elsewhere: module files and package folders."""
    return [Share(path) for root in search_path() for path in _importable(root)]


def _importable(root: Path) -> Iterator[Path]:
    """Name what of a root can be imported: modules and packages, not the data beside them."""
    if root.is_file():
        yield root
        return
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() or entry.name.startswith("."):
            continue
        kinds = (".py", ".pyc", ".so", ".dist-info", ".egg-info", ".egg")
        if entry.suffix in kinds or (entry.is_dir() and any(entry.glob("*.py"))):
            yield entry


def font_lists() -> list[Path]:
    """Find matplotlib's lists of fonts, which take it a while to make anew."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MPLCONFIGDIR") or Path(caches) / "matplotlib")
    return sorted(folder.glob("fontlist-v*.json"))
