"""Requests between host and guest: values, files and tool calls.

The host calls a function of this module with the value in its request's buffers; what that returns
goes back in comm messages, which no front end has to know. A tool is called by a question on the
stdin channel, which blocks the code that calls it, as a call should.
"""

from __future__ import annotations

import base64
import builtins
import functools
import inspect
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jupyter_agent.sandbox.guest import working_folder
from jupyter_agent.sandbox.guest.codec import decode, encode
from jupyter_agent.sandbox.guest.nodes import Buffer, CannotCopyError

CALL = "\0rpc"  # what a question starts with that is a call of a tool
MAX_FILES = 1000  # in a listing
MAX_PIECES = 1000  # in a message
PIECE = 8 << 20  # bytes of one message
Values = dict[str, Any]


def serve(function: str) -> None:
    """Call a function of this module with the value that came with the request; send its result."""
    kernel = _kernel()
    parts = [memoryview(buffer) for buffer in kernel.get_parent("shell")["buffers"]]
    result = encode(globals()[function](decode(parts)))
    comm = {"comm_id": "jupyter_agent", "data": [memoryview(part).nbytes for part in result]}
    _send(comm, [])
    for pieces in _pieces(result):
        _send({"comm_id": "jupyter_agent", "data": None}, pieces)


def _kernel() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython().kernel  # type: ignore[union-attr]


def _variables() -> Values:
    variables: Values = _kernel().shell.user_ns
    return variables


def _send(content: Values, buffers: list[memoryview]) -> None:
    kernel = _kernel()
    parent = kernel.get_parent("shell")
    kernel.session.send(kernel.iopub_socket, "comm_msg", content, parent, buffers=buffers)


def _pieces(parts: Sequence[Buffer]) -> list[list[memoryview]]:
    """Cut parts into messages that are small enough for one."""
    messages: list[list[memoryview]] = []
    room = 0
    for part in parts:
        view = memoryview(part).cast("B") if len(part) else memoryview(b"")
        while view.nbytes:
            if not room or len(messages[-1]) == MAX_PIECES:
                messages.append([])
                room = PIECE
            messages[-1].append(view[:room])
            view, room = view[room:], room - min(room, view.nbytes)
    return messages


# -- what the host asks


def take(values: Values) -> None:
    """Set variables; each value was encoded by `encode`."""
    for name, parts in values.items():
        _variables()[name] = decode(parts)


def give(names: list[str]) -> Values:
    """Return each variable encoded, or why it cannot be, or nothing if it is not set."""
    given: Values = {}
    for name in names:
        try:
            given[name] = [memoryview(part) for part in encode(_variables()[name])]
        except KeyError:
            given[name] = None
        except CannotCopyError as error:
            given[name] = f"`{name}{error.where}`: {error.why}"
    return given


def offer(tools: list[Values]) -> None:
    """Make a function for each tool."""
    for tool in tools:
        _variables()[tool["name"]] = _stub(tool)


def files(_: None) -> list[tuple[str, int]]:
    """List the regular files that the guest has made below its working folder, and their bytes."""
    found = []
    here = working_folder.working_folder
    root = here.folder if here else "."
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.relpath(f"{folder}/{name}", root)
            facts = os.lstat(f"{folder}/{name}")
            if not stat.S_ISREG(facts.st_mode) or name.startswith("."):
                continue
            if not (here and here.is_copy(path)):
                found.append((path, facts.st_size))
            if len(found) == MAX_FILES:
                return found
    return sorted(found)


def fetch(request: tuple[str, int]) -> Any:
    """Return a regular file's bytes, or why not."""
    name, max_bytes = request
    here = working_folder.working_folder
    try:
        descriptor = os.open(
            Path(here.folder if here else "", name),
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
        )
    except OSError as error:
        return f"{error.strerror}"
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        return "it is not a regular file"
    with os.fdopen(descriptor, "rb") as file:
        if facts.st_size > max_bytes:
            return f"it has {facts.st_size:,} bytes, more than {max_bytes:,}"
        return file.read(max_bytes)


def describe_data(request: Values) -> Values:
    """Describe the data files that a task is about; see `data_files.describe`."""
    from jupyter_agent.sandbox.guest import data_files

    return data_files.describe(request)


# -- what the guest asks

_calling = threading.Lock()  # one question at a time


class _Shown:
    """Text of an annotation or a default of the host."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def signature(parameters: list[list[Any]], returns: str | None) -> inspect.Signature:
    """Write a tool's signature: of each parameter name, kind, annotation and default, as text."""
    empty = inspect.Parameter.empty
    made = [
        inspect.Parameter(
            name,
            getattr(inspect.Parameter, kind),
            annotation=empty if annotation is None else _Shown(annotation),
            default=empty if default is None else _Shown(default),
        )
        for name, kind, annotation, default in parameters
    ]
    result = inspect.Signature.empty if returns is None else _Shown(returns)
    return inspect.Signature(made, return_annotation=result)


def _stub(tool: Values) -> Callable[..., Any]:
    """Make the function that calls a tool of the host."""
    name: str = tool["name"]
    shape = signature(tool["parameters"], tool["returns"])

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            shape.bind(*args, **kwargs)  # a wrong call costs no question
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        return _call(name, args, kwargs)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    stub: Any = call_async if tool["awaited"] else call
    stub.__name__ = stub.__qualname__ = name
    stub.__doc__ = tool["doc"]
    stub.__module__ = "__main__"
    stub.__signature__ = shape
    stub.__annotations__ = {p.name: repr(p.annotation) for p in shape.parameters.values()}
    return functools.update_wrapper(stub, stub)


def _call(name: str, args: tuple[Any, ...], kwargs: Values) -> Any:
    """Ask the host to call a tool; return what that returned, raise what it raised."""
    token = secrets.token_hex(8)
    question = CALL + json.dumps(
        {"id": token, "tool": name, "parts": to_text(encode({"args": args, "kwargs": kwargs}))}
    )
    with _calling:
        answer: Values = {}
        while answer.get("id") != token:  # the answer to a call that was interrupted may come first
            answer = json.loads(_kernel().raw_input(question))
    if "error" in answer:
        raise _error(*answer["error"])
    return decode(from_text(answer["parts"]))


def _error(name: str, text: str) -> Exception:
    """Make an exception of Python's own if that is what the tool raised."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # such as UnicodeDecodeError, which wants more than text
            pass
    return RuntimeError(f"{name}: {text}")


def to_text(parts: Sequence[Buffer]) -> list[str]:
    """Write a value's bytes as JSON."""
    return [bytes(parts[0]).decode(), *(base64.b64encode(part).decode() for part in parts[1:])]


def from_text(parts: list[str]) -> list[Buffer]:
    """Read a value's bytes from JSON."""
    return [parts[0].encode(), *(bytearray(base64.b64decode(part)) for part in parts[1:])]
