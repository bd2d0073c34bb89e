"""Tools: functions of the user's that code in the sandbox may call (``-t``, ``@tool``).

The function stays on the host, with its closure, its keys and its files. Code in the sandbox has a
stub with the same name and signature. Each call is a request of the guest, which may be hostile. It
is checked: the name is one of the tools, the arguments fit the signature, and there are not too
many calls or too large ones. The model reads what a tool returns or raises.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import json
import keyword
import re
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, overload

from jupyter_agent._arguments import check_argument
from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.approval import Ask, Question, Verdict
from jupyter_agent.exchange.values import read
from jupyter_agent.sandbox.connection import END_OF_FILE
from jupyter_agent.sandbox.execution import Answer
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.guest.calls import CALL, from_text, signature, to_text
from jupyter_agent.sandbox.guest.codec import MAX_COST, encode
from jupyter_agent.sandbox.guest.json_cost import costs_more
from jupyter_agent.sandbox.guest.nodes import CannotCopyError

__all__ = ["Tool", "Tools", "find", "tool"]

MAX_CALL = 24 << 20  # characters; a message holds 32 MiB
MAX_RESULT = 256 << 20  # bytes
MAX_DOC = 4000  # characters
_MARK = "_jupyter_agent_tool"
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
F = TypeVar("F", bound=Callable[..., object])


@overload
def tool(function: F) -> F: ...
@overload
def tool(*, ask: bool = False) -> Callable[[F], F]: ...
def tool(function: F | None = None, *, ask: bool = False) -> F | Callable[[F], F]:
    """Mark a function as one that the agent may call.

    Parameters
    ----------
    ask
        Whether the user is asked before each call.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, {"ask": ask})
        return function

    check_argument("ask", ask, fits=isinstance(ask, bool), wanted="True or False")
    if function is None:
        return mark
    check_argument("function", function, fits=callable(function), wanted="a function")
    return mark(function)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the guest may call.

    Parameters
    ----------
    ask
        Whether the user is asked before each call.
    """

    name: str
    function: Callable[..., object]
    ask: bool
    signature: inspect.Signature
    hints: Mapping[str, object]

    @classmethod
    def of(cls, function: object, name: str = "") -> Tool:
        """Make a tool of a function.

        Raises
        ------
        UsageError
            It is not a function, or has no valid name or no signature.
        """
        name = name or getattr(function, "__name__", "")
        if not callable(function):
            raise UsageError(f"the tool {name or function!r} is not a function")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(f"a tool cannot have the name {name!r}; define it with def")
        try:
            shape = inspect.signature(function)
        except Exception:  # an object of any class may raise anything
            raise UsageError(
                f"the tool {name!r} has no signature; wrap it in a function of your own"
            ) from None
        marked = getattr(function, _MARK, {})
        return cls(name, function, marked.get("ask", False), shape, _hints(function))

    @property
    def awaited(self) -> bool:
        """Whether the function is async."""
        call = getattr(self.function, "__call__", None)  # noqa: B004  # for callable objects
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def spec(self) -> dict[str, Any]:
        """Return what the guest needs to make a stub."""
        empty = inspect.Parameter.empty
        parameters = [
            [p.name, p.kind.name, _annotation(p.annotation), _default(p)]
            for p in self.signature.parameters.values()
        ]
        returns = self.signature.return_annotation
        return {
            "name": self.name,
            "parameters": parameters,
            "returns": None if returns is empty else _annotation(returns),
            "doc": printable(inspect.getdoc(self.function) or "")[:MAX_DOC],
            "awaited": self.awaited,
        }

    def describe(self) -> str:
        """Write the function's signature as the model reads it."""
        spec = self.spec()
        shape = signature(spec["parameters"], spec["returns"])
        head = f"{'async ' * self.awaited}def {self.name}{shape}"
        doc = "".join(f"\n{'    ' * bool(line)}{line}" for line in spec["doc"].splitlines())
        return head + doc

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Check arguments against the signature and its annotations.

        Raises
        ------
        TypeError
            The arguments do not fit.
        """
        bound = self.signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            hint = self.hints.get(name, Any)
            kind = self.signature.parameters[name].kind
            values = [value]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                values = list(value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                values = list(value.values())
            for one in values:
                if not fits(one, hint):
                    wanted = inspect.formatannotation(hint)
                    raise TypeError(
                        f"{self.name}() wants {wanted} for {name!r}, not {type(one).__name__}"
                    )
        return bound

    async def call(self, bound: inspect.BoundArguments) -> object:
        """Call the function: on a thread of its own, or on this event loop if it is async."""
        call = functools.partial(self.function, *bound.args, **bound.kwargs)
        if not self.awaited:
            return await run_in_thread(call)
        try:
            return await typing.cast("Awaitable[object]", call())
        except SystemExit as end:  # it would end the event loop
            raise RuntimeError(f"SystemExit: {end}") from None


class Tools:
    """The tools of a run; answers the guest's calls.

    Parameters
    ----------
    ask
        Asks the user before a tool that is marked so is called; None allows all calls.
    max_calls
        Maximum number of calls in one cell.
    """

    def __init__(self, tools: Iterable[Tool], *, ask: Ask | None, max_calls: int) -> None:
        self.tools: dict[str, Tool] = {}
        for one in tools:
            if self.tools.setdefault(one.name, one) is not one:
                raise UsageError(f"two tools have the name {one.name!r}; rename one")
        self._ask = ask
        self._max_calls = max_calls
        self._calls = 0
        self._answered = ("", "")  # the id of the last call, and its answer

    def specs(self) -> list[dict[str, Any]]:
        """Return what the guest needs to make all stubs."""
        return [one.spec() for one in self.tools.values()]

    def describe(self) -> str:
        """Write what the model reads about the tools."""
        heads = "\n\n".join(one.describe() for one in self.tools.values())
        return (
            "Functions you can call; they run outside the sandbox, with the user's rights:\n\n"
            f"```text\n{heads.replace('```', '` ` `')}\n```"
        )

    def start_cell(self, otherwise: Answer | None = None) -> Answer | None:
        """Start counting the calls of a new cell; return the function that answers them.

        Parameters
        ----------
        otherwise
            Answers other questions; without it they get an end of file.
        """
        self._calls = 0
        if not self.tools:
            return otherwise

        async def answer(prompt: str, password: bool) -> str:
            if prompt.startswith(CALL):
                return await self.answer(prompt)
            return await otherwise(prompt, password) if otherwise else END_OF_FILE

        return answer

    async def answer(self, prompt: str) -> str:
        """Answer a call from the guest."""
        token, name, arguments = _read(prompt)
        if token == self._answered[0]:  # repeated, because an interrupt lost the answer
            return self._answered[1]
        answer: dict[str, Any] = {"id": token}
        try:
            answer["parts"] = await self._call(name, arguments)
        except Exception as error:  # raised by the user's function
            answer["error"] = [type(error).__name__, _message(error)]
        self._answered = (token, json.dumps(answer))
        return self._answered[1]

    async def _call(self, name: str, arguments: list[str]) -> list[str]:
        self._calls += 1
        if self._calls > self._max_calls:
            raise PermissionError(
                f"a cell may call tools {self._max_calls:,} times; continue in another cell"
            )
        one = self.tools.get(name)
        if one is None:
            raise NameError(f"there is no tool {name[:80]!r}")
        match await read(from_text(arguments)):
            case {"args": tuple(args), "kwargs": dict(kwargs)}:
                bound = one.bind(list(args), kwargs)
            case _:
                raise TypeError("a call is made of args and kwargs")
        if one.ask and self._ask:
            verdict = await self._ask(Question("tool", _written(name, bound)))
            _allow(verdict, name)
        result = await one.call(bound)
        try:
            parts = encode(result)
        except CannotCopyError as error:
            raise TypeError(f"what {name}() returned: {error}") from None
        size = sum(map(len, parts))
        if size > MAX_RESULT:
            raise ValueError(f"{name}() returned {size:,} bytes, more than {MAX_RESULT:,}")
        return to_text(parts)


def find(name: str) -> object:
    """Import the function that ``package.module:function`` names.

    Raises
    ------
    UsageError
        It cannot be imported.
    """
    module, _, path = name.partition(":")
    try:
        found: object = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"there is no tool {name!r}: {error}; write it as package.module:function"
        ) from None
    except (Exception, SystemExit) as error:  # a module may raise anything
        why = " ".join(printable(f"{type(error).__name__}: {error}").split())[:300]
        raise UsageError(f"the module of the tool {name!r} cannot be imported: {why}") from None
    return found


def marked(values: Mapping[str, object]) -> dict[str, object]:
    """Find the functions that are marked as tools, as in a notebook's variables."""
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and callable(value) and isinstance(_mark_of(value), dict)
    }


def _mark_of(value: object) -> object:
    return inspect.getattr_static(value, _MARK, None)


def _hints(function: Callable[..., object]) -> dict[str, object]:
    """Return the annotations as types; empty if they cannot be resolved."""
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        return typing.get_type_hints(target)
    except Exception:  # a name that exists only for a type checker
        return {}


def _annotation(annotation: object) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return printable(text)[:200]


def _default(parameter: inspect.Parameter) -> str | None:
    """Write a default value if it is short, simple and not named like a secret; else three dots."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return None
    plain = default is None or type(default) in (bool, int, float, str)
    if not plain or _SECRET.search(parameter.name) or len(repr(default)) > 40:
        return "..."
    return repr(default)


def fits(value: object, hint: object) -> bool:
    """Tell whether a value fits an annotation, for simple annotations."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    first, second, *_ = (*inner, Any, Any)  # a bare typing.List does not say what is in it
    if origin in (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable):
        return _is(value, origin) and all(fits(one, first) for one in value)  # type: ignore[attr-defined]
    if origin in (dict, collections.abc.Mapping):
        return _is(value, origin) and all(
            fits(key, first) and fits(one, second)
            for key, one in value.items()  # type: ignore[attr-defined]
        )
    return _is(value, origin or hint)


def _is(value: object, kind: object) -> bool:
    """Tell whether a value is of a class; True if the annotation is not a class."""
    if not isinstance(kind, type):
        return True
    if kind in (float, complex) and type(value) is int:
        return True
    if kind is int and type(value) is bool:
        return False
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be checked at run time
        return True


def _read(prompt: str) -> tuple[str, str, list[str]]:
    """Read a call.

    Raises
    ------
    ValueError
        It is malformed.
    """
    if len(prompt) > MAX_CALL or costs_more(prompt.encode("utf-8", "replace"), MAX_COST):
        raise ValueError(f"the call is too large: {len(prompt):,} characters")
    match json.loads(prompt.removeprefix(CALL)):
        case {"id": str(token), "tool": str(name), "parts": [str(), *_] as parts, **rest} if (
            not rest and all(isinstance(part, str) for part in parts)
        ):
            return token[:64], name, parts
    raise ValueError("the call cannot be read")


def _message(error: Exception) -> str:
    text = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else str(error)
    return text[:MAX_DOC]


def _written(name: str, bound: inspect.BoundArguments) -> str:
    """Write a call with named arguments, for the question to the user."""
    parts = [f"{key}={value!r}" for key, value in bound.arguments.items()]
    call = f"{name}({', '.join(parts)})"
    whole = all(map(_is_told_whole, bound.arguments.values()))
    return call if whole else f"{call}\n[{_IN_SHORT}]"


_IN_SHORT = "tables, arrays and pictures among the arguments are shown in short"


def _is_told_whole(value: object) -> bool:
    """Tell whether ``repr`` shows the whole value."""
    match value:
        case dict():
            return all(map(_is_told_whole, [*value, *value.values()]))
        case list() | tuple() | set() | frozenset():
            return all(map(_is_told_whole, value))
    return type(value).__module__ in ("builtins", "datetime", "decimal", "uuid")


def _allow(verdict: Verdict, name: str) -> None:
    if not verdict.allowed:
        raise PermissionError(f"{name}() was not called: {verdict.reason}")
