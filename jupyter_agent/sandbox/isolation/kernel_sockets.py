"""The sockets of a kernel: bound by the host, or by the kernel itself in a shared folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_agent._sockets import WHY_NO_FOLDER, folder_for_sockets
from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.isolation.private_folders import Folder, remove

__all__ = ["KernelSockets"]

CHANNELS = ("shell", "iopub", "stdin", "hb", "control")


class KernelSockets:
    """The folder of a kernel's sockets, and the sockets that the host listens on."""

    def __init__(self) -> None:
        self.run_folder = Folder(_folder_for_sockets())
        self.folder = self.run_folder.path / "sockets"
        self.folder.mkdir(mode=0o700)
        self._listeners: dict[int, socket.socket] = {}  # by port

    @property
    def ip(self) -> str:
        """The beginning of each socket's path; Jupyter adds a number to it."""
        return str(self.folder / "s")

    @property
    def connection_file(self) -> str:
        """The path of the kernel's connection file, if nobody else has chosen one."""
        return str(self.run_folder.path / "connection.json")

    @property
    def descriptors(self) -> dict[int, int]:
        """The descriptors of the sockets that listen, by port."""
        return {port: listener.fileno() for port, listener in self._listeners.items()}

    def bind(self, connection: Mapping[str, Any]) -> None:
        """Bind and listen here, so that no folder needs to be shared for sockets."""
        self.close_listeners()
        for channel in CHANNELS:
            port = int(connection[f"{channel}_port"])
            path = Path(f"{connection['ip']}-{port}")
            path.unlink(missing_ok=True)  # a restart binds anew
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(64)
            listener.set_inheritable(True)
            self._listeners[port] = listener

    def leave_to_kernel(self) -> None:
        """Bind nothing: an ordinary kernel does it itself."""
        self.close_listeners()
        for path in self.folder.glob("s-*"):
            path.unlink()

    def renew_folder(self) -> None:
        """Make the folder anew: the kernel before this one may have written in it."""
        remove(self.folder)
        self.folder.mkdir(mode=0o700)

    def open_to(self, uid: int) -> None:
        """Let another user bind sockets in the folder."""
        os.chown(self.folder, uid, uid)
        self.run_folder.path.chmod(0o711)

    def close_listeners(self) -> None:
        """Close the sockets that the host listens on."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()


def _folder_for_sockets() -> Path:
    """Find a folder in which a new one can be made, with a path that leaves room for a socket's.

    Raises
    ------
    SandboxError
        There is none.
    """
    if folder := folder_for_sockets():
        return folder
    raise SandboxError(f"no folder can hold the sandbox's sockets: {WHY_NO_FOLDER}")
