"""Check the arguments of public functions, and refuse a wrong one in one line."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from numbers import Real
from pathlib import Path

from traitlets import HasTraits

from jupyter_agent._unicode import visible
from jupyter_agent.errors import UsageError

__all__ = [
    "as_list",
    "as_number",
    "as_text",
    "check_argument",
    "check_names",
    "check_path",
    "check_traits",
    "is_count",
    "is_list_of_texts",
]


def check_argument(name: str, value: object, *, fits: bool, wanted: str) -> None:
    """Refuse an argument that does not fit.

    Parameters
    ----------
    wanted
        What it must be instead, such as "a list of names".

    Raises
    ------
    UsageError
        It does not fit.
    """
    if not fits:
        shown = " ".join(visible(f"{_short(value)} ({type(value).__name__})").split())
        raise UsageError(f"{name} must be {wanted}, not {shown}")


def _short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a value that is too long"


def check_path(name: str, path: object) -> Path:
    """Return an argument as a path, with the home folder that a ~ stands for.

    Raises
    ------
    UsageError
        It is not a path.
    """
    check_argument(name, path, fits=isinstance(path, str | os.PathLike), wanted="a path")
    try:
        expanded = Path(path).expanduser()  # type: ignore[arg-type]  # it was checked
        with suppress(OSError):  # using it fails later, with the reason
            expanded.lstat()
    except (RuntimeError, ValueError) as error:  # no such user, a null
        raise UsageError(f"{name} {str(path)!r} is not a valid path: {error}") from None
    return expanded


def check_names(function: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that a function does not have.

    Raises
    ------
    UsageError
        There is one.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"is it {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise UsageError(f"{function} has no argument {name!r}; {advice}")


def check_traits(owner: HasTraits, names: Iterable[str]) -> None:
    """Refuse arguments that are no traits of a class: traitlets would ignore them.

    Raises
    ------
    UsageError
        There is one.
    """
    known = {"config", "parent", "log", *owner.trait_names(config=True)}
    check_names(type(owner).__name__, names, known)


def as_list(value: object) -> object:
    """Return a set, an array, a generator or the like as a list; anything else as it is."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        with suppress(TypeError):  # an array without dimensions
            return [as_text(each) for each in value]
    return value


def as_text(value: object) -> object:
    """Return a path as text; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def as_number(value: object) -> object:
    """Return a number of numpy's, or a whole one such as 1e6, as one of Python's."""
    if isinstance(value, int) or not isinstance(value, Real):
        return value
    try:
        number = float(value)
    except OverflowError:
        return value
    return int(number) if number.is_integer() else number


def is_count(value: object) -> bool:
    """Tell whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_list_of_texts(value: object) -> bool:
    """Tell whether a value is a list, a tuple or the like that holds only texts."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(isinstance(each, str) for each in value)
    )
