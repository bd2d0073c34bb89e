"""Read ``jupyter_agent_config.py``, which every front end and both kernels obey, and save to it.

Only Jupyter's configuration folders are searched (``jupyter --paths``): the file is code, and
somebody else may have written one in a notebook's folder. Settings from elsewhere, such as
IPython's own configuration or a command line, override this file.
"""

from __future__ import annotations

import copy
import functools
import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_dir, jupyter_config_path
from jupyter_core.utils import ensure_dir_exists
from traitlets import HasTraits, TraitError
from traitlets.config import Config, LoggingConfigurable
from traitlets.config.loader import (
    FileConfigLoader,
    JSONFileConfigLoader,
    LazyConfigValue,
    PyFileConfigLoader,
)

from jupyter_agent._files import write_whole
from jupyter_agent.errors import UsageError

__all__ = [
    "Configured",
    "Settings",
    "check",
    "describe",
    "known",
    "merge_with_files",
    "read",
    "save",
    "unknown_setting",
]

NAME = "jupyter_agent_config"
# The modules of the classes that have settings. They are imported only if there is a file to check,
# because all of them import this module.
CLASSES = {
    "Agent": "agent.loop",
    "AgentKernel": "frontends.agent_kernel",
    "AgentMagics": "frontends.magics",
    "Sandbox": "sandbox.client",
    "SandboxProvisioner": "sandbox.isolation.provisioner",
    "Session": "session",
}
# Settings of earlier versions whose new name is not the most similar one.
_OLD_NAMES = {
    "Sandbox.most_output": "is it Sandbox.max_output_mib?",
    "SandboxProvisioner.debugger": "it was removed",
}
_LOADERS: dict[str, type[FileConfigLoader]] = {
    ".py": PyFileConfigLoader,
    ".json": JSONFileConfigLoader,
}
_Stamp = tuple[str, int, int, int]  # a file's path, and facts that change when it is written


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of all files together.

    Parameters
    ----------
    files
        The files that were read; of two settings the one in the later file counts.
    unknown
        For each name in them that is not a setting: its file, and a line that says so.
    fault
        Why the files cannot be used; empty if they can. With a fault nothing may start: a setting
        that could not be read may protect somebody.
    """

    config: Config
    files: tuple[Path, ...]
    unknown: tuple[tuple[Path, str], ...] = ()
    fault: str = ""

    @property
    def warnings(self) -> list[str]:
        """A line for each unknown name, with its file."""
        return [f"{path}: {line}" for path, line in self.unknown]


class Configured(LoggingConfigurable):
    """A configurable class that obeys the settings files; settings from elsewhere override them."""

    def __init__(self, **kwargs: Any) -> None:
        given = kwargs.get("config") or getattr(kwargs.get("parent"), "config", None)
        super().__init__(**kwargs | {"config": merge_with_files(given or Config())})


def merge_with_files(config: Config) -> Config:
    """Return the files' settings, overridden by others."""
    whole = copy.deepcopy(read().config)
    whole.merge(copy.deepcopy(config))
    return whole


def check() -> None:
    """Check that the files could be read.

    Raises
    ------
    UsageError
        They could not, so nothing may start.
    """
    if fault := read().fault:
        raise UsageError(fault)


def describe() -> str:
    """Name the files that were read, with what is wrong in them."""
    found = read()
    if found.fault:
        return found.fault
    if not found.files:
        return f"none; {Path(jupyter_config_dir(), NAME)}.py does not exist"
    lines = {path: [line for of, line in found.unknown if of == path] for path in found.files}
    return ", ".join(
        f"{path}: {'; '.join(few)}" if few else f"{path}" for path, few in lines.items()
    )


def read() -> Settings:
    """Read the files, if they have changed since the last time."""
    folders = [Path(folder) for folder in jupyter_config_path()]
    try:
        stamps = tuple(_stamps([folder for folder in folders if folder.is_absolute()]))
    except OSError as error:
        return Settings(Config(), (), fault=f"cannot look for settings: {error}")
    return _read(stamps)


def _stamps(folders: list[Path]) -> Iterator[_Stamp]:
    """Find the files; a later one overrides an earlier one."""
    for folder in reversed(folders):
        for ending in _LOADERS:
            path = folder / f"{NAME}{ending}"
            try:
                facts = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield str(path), facts.st_mtime_ns, facts.st_size, facts.st_ino


@functools.lru_cache(maxsize=1)
def _read(stamps: tuple[_Stamp, ...]) -> Settings:
    config, unknown = Config(), list[tuple[Path, str]]()
    files = tuple(Path(stamp[0]) for stamp in stamps)
    for path in files:
        try:
            found = _LOADERS[path.suffix](path.name, str(path.parent)).load_config()
            unknown += [(path, line) for line in _examine(found)]
        except (Exception, SystemExit) as error:  # the file is the user's code
            return Settings(
                Config(),
                files,
                fault=f"cannot use the settings in {path}: {_one_line(error, path)}",
            )
        config.merge(found)
    return Settings(config, files, tuple(unknown))


def _one_line(error: BaseException, path: Path) -> str:
    """Describe an error in a file, with its line."""
    if isinstance(error, (TraitError, SyntaxError)):  # a SyntaxError names its line
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}".replace("\n", " ")


def save(section: str, name: str, value: object) -> Path:
    """Set a setting for good, in the user's own folder; everything else there stays as it is.

    It goes to the JSON file, which overrides the Python file beside it.

    Raises
    ------
    UsageError
        The file cannot be read or written, or another one overrides it.
    """
    check()
    path = Path(jupyter_config_dir(), f"{NAME}.json")
    try:
        whole = json.loads(path.read_text()) if path.exists() else {}
        whole.setdefault(section, {})[name] = value
        ensure_dir_exists(str(path.parent), mode=0o700)
        write_whole(path, f"{json.dumps(whole, indent=2, ensure_ascii=False)}\n".encode())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot save to {path}: {error}; mend the file, or remove it") from None
    if (found := read()).config[section].get(name) != value:
        raise UsageError(f"{path} has {section}.{name} now, but {found.files[-1]} overrides it")
    return path


# -- names and values


def _examine(config: Config, outer: str = "") -> Iterator[str]:
    """Yield a line for each name that is not a setting.

    Raises
    ------
    TraitError
        A setting cannot have this value.
    """
    for section, values in config.items():
        if not isinstance(values, Config):
            if not outer:
                yield unknown_setting(section)
            continue
        yield from _examine(values, section)  # c.Session.Agent: for the agent of a session
        for name, value in values.items():
            if isinstance(value, Config):
                continue
            if f"{section}.{name}" not in known():
                yield unknown_setting(f"{section}.{name}")
            elif section in CLASSES:
                _validate(_load(section), name, value)
        if not values and section not in _owners():
            yield unknown_setting(section)


def _validate(owner: type[HasTraits], name: str, value: object) -> None:
    trait, nobody = owner.class_traits()[name], owner.__new__(owner)
    if isinstance(value, LazyConfigValue):  # c.SandboxProvisioner.data.append("/srv")
        value = value.get_value(trait.default(nobody))
    trait._validate(nobody, value)


def unknown_setting(name: str) -> str:
    """Return the message about a name that is not a setting, with the most similar one."""
    advice = _OLD_NAMES.get(name, "docs/settings.md lists them")
    near = get_close_matches(name, [*known(), *_owners()], 1)
    # the name of the class alone makes Session.budget similar to Session.model
    similar = near and get_close_matches(_last(name), [_last(near[0])])
    if name not in _OLD_NAMES and similar:
        advice = f"is it {near[0]}?"
    return f"there is no setting {name}; {advice}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


@functools.cache
def known() -> frozenset[str]:
    """Return the names of all settings, each as ``Class.name``, with those of base classes."""
    return frozenset(
        f"{owner.__name__}.{name}"
        for owner in _owners().values()
        for name in owner.class_trait_names(config=True)
    )


@functools.cache
def _owners() -> dict[str, type[HasTraits]]:
    bases = [base for name in CLASSES for base in reversed(_load(name).mro())]
    return {base.__name__: base for base in bases if issubclass(base, HasTraits)}


def _load(name: str) -> type[HasTraits]:
    owner = getattr(import_module(f"jupyter_agent.{CLASSES[name]}"), name)
    assert issubclass(owner, HasTraits)
    return owner
