"""The sandbox kernel's changes to ipykernel that use names which ipykernel does not document.

No other module of the guest's uses them; standard library and ipykernel only. The ipykernel
releases that they were checked with are 6.29 to 6.31 and 7.0 to 7.4; `tests/test_ipykernel.py`
looks for each name in the one that is installed, and ``make ipykernel`` in the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

PACE = 1 << 20  # characters


class PacedStream(OutStream):
    """Standard output in messages of about a mebibyte.

    Left to itself it gathers all that is written in a fifth of a second, which in a loop that
    prints is more than the host takes in one message.
    """

    _written = 0
    _away: threading.Event | None = None  # set when the message before this one has been sent

    def write(self, string: str) -> int:
        """Write text, and send it when there is enough."""
        if len(string) > PACE:
            pieces = range(0, len(string), PACE)
            return sum(self.write(string[start : start + PACE]) for start in pieces)
        OutStream.write(self, string)
        self._written += len(string)
        if self._written >= PACE:
            self._written = 0
            self._send_soon()
        return len(string)

    def _send_soon(self) -> None:
        """Send collected text while the code goes on, but never collect two messages."""
        if os.getpid() != self._master_pid:  # a fork has no thread that would send
            self.flush()
            return
        if self._away:
            self._away.wait(self.flush_timeout)
        self._away = threading.Event()
        self.pub_thread.schedule(self._flush)
        self.pub_thread.schedule(self._away.set)


@contextmanager
def _no_debugger() -> Iterator[None]:
    """Let ipykernel start without debugpy, whose import takes long and warns on stderr.

    ipykernel looks for it once, and without it does not offer a debugger. Code in the sandbox can
    still import it.
    """
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # makes its import an ImportError
    try:
        yield
    finally:
        del sys.modules["debugpy"]


class ConfinedApp(IPKernelApp):
    """An ipykernel that takes its connection and its listening sockets from the host."""

    connection: dict[str, Any]
    sockets: dict[int, int]

    def init_connection_file(self) -> None:
        """Use the connection that the host has passed."""
        self.load_connection_info(cast("KernelConnectionInfo", self.connection))

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write no file: the host has the connection."""

    def log_connection_info(self) -> None:
        """Print nothing: nobody reads it."""

    def _try_bind_socket(self, s: zmq.Socket[bytes], port: int) -> int:
        self.listen(s, port)
        return port

    def listen(self, socket: zmq.Socket[bytes], port: int) -> None:
        """Use the socket that the host has bound for a port."""
        socket.setsockopt(zmq.USE_FD, self.sockets[port])
        socket.bind(f"ipc://{self.connection['ip']}-{port}")


def start_app(connection: dict[str, Any], sockets: dict[int, int]) -> IPKernelApp:
    """Make a kernel on sockets that the host has bound; it serves nothing yet.

    Parameters
    ----------
    connection
        What a connection file holds.
    sockets
        For each port in it, the descriptor of its listening socket.
    """
    app = ConfinedApp.instance()
    app.connection, app.sockets = connection, sockets

    def beat_on_the_hosts_socket(heart: Heartbeat) -> None:
        app.listen(heart.socket, heart.port)

    # IPKernelApp makes its heart by the name of the class, so a subclass would not be used
    Heartbeat._try_bind_socket = beat_on_the_hosts_socket  # type: ignore[method-assign]
    app.outstream_class = f"{PacedStream.__module__}.{PacedStream.__name__}"
    app.config.HistoryManager.hist_file = ":memory:"
    with _no_debugger():
        app.initialize([])
    app.kernel._send_interrupt_children = lambda: _interrupt(app.kernel)
    _reply_in_any_case(app.kernel)
    return app


def _reply_in_any_case(kernel: Any) -> None:
    """Reply to a cell also if an interrupt comes when its code is over.

    ipykernel then sends no reply, or the first frames of one, with which the next one is lost. A
    client waits for it without end.
    """
    execute, send = kernel.shell_handlers["execute_request"], kernel.session.send

    async def execute_request(stream: Any, ident: Any, parent: Any) -> None:
        try:
            await execute(stream, ident, parent)
        except KeyboardInterrupt:
            error = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            reply = {"status": "error", "execution_count": kernel.execution_count, **error}
            kernel.session.send(stream, "execute_reply", reply, parent, ident=ident)

    def send_whole(stream: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        if message == "execute_reply" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # ipykernel sets it after each message
        return send(stream, message, *args, **kwargs)

    kernel.shell_handlers["execute_request"] = execute_request
    kernel.session.send = send_whole


def _interrupt(kernel: Any) -> None:
    """Interrupt the code and its processes; it is called on the thread of the control channel.

    ipykernel names its process group, which the filter of system calls may not allow. And it does
    not wake the event loop, so that a cell which awaits would not end before the next message.
    """
    os.kill(0, signal.SIGINT)
    kernel.io_loop.add_callback(_wake)


def _wake() -> None:
    """Do nothing, in the event loop."""


def forget_outputs(shell: Any) -> None:
    """Do not keep all that is printed, as IPython 9 does for ``%notebook``, till memory is full."""
    shell._tee = lambda channel: contextlib.nullcontext()  # noqa: ARG005
