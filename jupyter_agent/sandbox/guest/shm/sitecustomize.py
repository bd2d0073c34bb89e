"""Have Python import the modules beside this one instead of the standard library's.

Folders that are on the path and may not be listed are taken off it.

Python imports a module of this name whenever it starts (its module ``site``), so processes that
code in the sandbox starts find the same. What stands on PYTHONPATH is not enough: some builds of
Python have these modules built in.
"""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

_HERE = os.path.dirname(__file__)
_NAMES = ("_multiprocessing", "_posixshmem")


class _Finder:
    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        if name not in _NAMES:
            return None
        return importlib.util.spec_from_file_location(name, os.path.join(_HERE, f"{name}.py"))


def _is_closed(path: str) -> bool:
    """Tell whether nothing can be imported from a folder, and pip and others fail to list it.

    Such is that of a project that is installed as editable, whose packages are found elsewhere.
    """
    try:
        os.listdir(path)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _run_the_users() -> None:
    """Run the sitecustomize that would have been found if this one were not there."""
    sys.path[:] = [path for path in sys.path if path != _HERE and not _is_closed(path)]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _Finder)
_run_the_users()
