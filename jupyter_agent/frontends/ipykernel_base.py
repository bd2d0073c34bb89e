"""The agent kernel's changes to ipykernel that use names which ipykernel does not document.

No other module on the host uses such names. They were checked with ipykernel 6.29 to 6.31 and 7.0
to 7.4: `tests/test_ipykernel.py` looks for each name in the one that is
installed, and ``make ipykernel`` in the others.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import zmq
from ipykernel import kernelapp
from ipykernel._version import kernel_protocol_version
from ipykernel.iostream import IOPubThread
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
from tornado.ioloop import IOLoop
from traitlets import Float
from zmq.eventloop.zmqstream import ZMQStream

__all__ = ["FrontApp", "FrontKernel", "JupyterMessage"]

JupyterMessage = dict[str, Any]


class _MainLoopIOPub(IOPubThread):
    """Sends from the main loop, which no code of a user blocks; this saves a thread switch."""

    def start(self) -> None:
        """Start the thread, which ipykernel still uses for other work."""
        self._main = IOLoop.current()
        self._greets = self.socket.type == zmq.XPUB  # ipykernel 7.2
        super().start()

    def _setup_xpub_listener(self) -> None:
        """Do nothing: `greet` does it, because a socket belongs to one thread."""

    def greet(self) -> None:
        """Welcome clients when they subscribe."""
        if self._greets:
            self._subscribers = ZMQStream(self.socket, self._main)
            self._subscribers.on_recv(self._handle_subscription)

    def _greet_first(self) -> None:
        """Welcome new clients before they get any other message."""
        while self._greets and self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._handle_subscription(self.socket.recv_multipart())

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Send a message, from any thread."""
        if threading.current_thread() is not threading.main_thread():
            self._main.add_callback(self.send_multipart, *args, **kwargs)
        elif not self.closed:
            self._greet_first()
            self._really_send(*args, **kwargs)


class FrontApp(IPKernelApp):
    """An ipykernel without subshells, and without the thread that would hand requests to them."""

    def init_sockets(self) -> None:
        """Bind the ports; end the process if one is taken, so that the server tries again.

        ipykernel would hang for ever, because it closes a context that has an open socket.
        """
        try:
            super().init_sockets()
        except zmq.ZMQError as error:
            print(f"the kernel cannot start: {error}; start it again", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)

    def init_path(self) -> None:
        """Do not import from the notebook's folder: somebody else may have written it.

        IPython before 9.7 would, even with ``-P``.
        """

    def init_iopub(self, context: Any) -> None:
        """Publish from the main loop."""
        vars(kernelapp)["IOPubThread"] = _MainLoopIOPub  # there is no other way in
        super().init_iopub(context)

    def init_control(self, context: Any) -> None:
        """Use a control thread, for interrupts, and the main thread; no subshell thread."""
        super().init_control(context)
        self.shell_channel_thread = None
        # or traitlets would make each record only to drop it
        self.log.setLevel(self.log_level)


class FrontKernel(Kernel):
    """A kernel that runs no code itself: it has no streams of its own and no debugger."""

    protocol_version = kernel_protocol_version
    language_info = IPythonKernel.language_info
    help_links = IPythonKernel.help_links
    # requests that are answered while a cell runs, in a second thread
    control_msg_types = [  # noqa: RUF012  # as the base class has it
        "connect_request",
        "interrupt_request",
        "kernel_info_request",
        "shutdown_request",
        "usage_request",
    ]
    _execute_sleep = Float(0)  # the base class would wait for streams that are not used here
    _unblocking: asyncio.Task[None] | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert self.session
        self._wire = self.session

    def interrupt_from_thread(self) -> None:
        """Stop what runs (called on an interrupt_request, in the control thread)."""
        raise NotImplementedError

    def _send_interrupt_children(self) -> None:
        self.interrupt_from_thread()

    def pre_handler_hook(self) -> None:
        """Do nothing with SIGINT: no code runs here that it could stop."""

    def post_handler_hook(self) -> None:
        """Do nothing: `pre_handler_hook` changed nothing."""

    @property
    def kernel_info(self) -> dict[str, Any]:
        """The facts that a client gets first (message spec: kernel_info_reply)."""
        return {
            "protocol_version": self.protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": [],  # no debugger, no subshells
        }

    @property
    def client(self) -> Any:
        """The identity of the client whose request is handled; for questions on stdin."""
        return self._parent_ident["shell"]

    def publish(
        self,
        kind: str,
        content: dict[str, Any],
        parent: JupyterMessage | None = None,
        *,
        buffers: Sequence[Any] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Send a message to all clients, by default with the current request as its parent."""
        self._wire.send(
            self.iopub_socket,
            kind,
            content,
            parent or self.get_parent("shell"),
            ident=self._topic(kind),
            buffers=list(buffers),
            metadata=metadata,
        )

    def _abort_queues(self, *args: Any) -> None:
        """Abort the cells that wait behind a failed one, but no later ones."""
        if not hasattr(self, "_main_asyncio_lock"):  # before ipykernel 7
            super()._abort_queues(*args)
            return
        self._aborting = True
        self._unblocking = asyncio.get_running_loop().create_task(self._stop_aborting())

    async def _stop_aborting(self) -> None:
        async with self._main_asyncio_lock:  # the waiting cells wait for this lock
            self._aborting = False
