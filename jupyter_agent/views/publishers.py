"""Publish displays, streams and the busy status, from IPython or a kernel of ours."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from jupyter_agent.transcript.metadata import KEY

__all__ = ["BackgroundPublisher", "IPythonPublisher", "KernelPublisher", "Publisher", "Tag"]

Tag = dict[str, Any]


class Publisher(Protocol):
    """Publishes display messages, streams and the busy status."""

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        *,
        display_id: str,
        update: bool,
        tag: Tag | None = None,
    ) -> None:
        """Send a mime bundle, or update the one that has this id."""
        ...

    def stream(self, name: str, text: str, tag: Tag | None = None) -> None:
        """Write to ``stdout`` or ``stderr``."""
        ...

    def busy(self, tag: Tag | None = None) -> None:
        """Tell the page that the kernel is alive and busy."""
        ...


class IPythonPublisher:
    """Publishes to the output area of the cell that runs in this IPython, without tags."""

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        *,
        display_id: str,
        update: bool,
        tag: Tag | None = None,  # noqa: ARG002
    ) -> None:
        """Send a mime bundle, or update the one that has this id."""
        from IPython.display import publish_display_data

        transient = {"display_id": display_id}
        publish_display_data(data, metadata, transient=transient, update=update)

    def stream(self, name: str, text: str, tag: Tag | None = None) -> None:  # noqa: ARG002
        """Write to ``stdout`` or ``stderr``."""
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()

    def busy(self, tag: Tag | None = None) -> None:
        """Do nothing: the front end knows that the cell runs."""


class KernelPublisher:
    """Publishes messages that answer the request which this ipykernel carries out now."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.request: dict[str, Any] = kernel.get_parent("shell") or {}

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        *,
        display_id: str,
        update: bool,
        tag: Tag | None = None,
    ) -> None:
        """Send a mime bundle, or update the one that has this id."""
        kind = "update_display_data" if update else "display_data"
        transient = {"display_id": display_id}
        self._send(kind, {"data": data, "metadata": metadata, "transient": transient}, tag)

    def stream(self, name: str, text: str, tag: Tag | None = None) -> None:
        """Write to ``stdout`` or ``stderr``."""
        self._send("stream", {"name": name, "text": text}, tag)

    def busy(self, tag: Tag | None = None) -> None:
        """Tell the page that the kernel is alive and busy."""
        self._send("status", {"execution_state": "busy"}, tag)

    def _send(self, kind: str, content: dict[str, Any], tag: Tag | None) -> None:
        kernel = self._kernel
        metadata = {KEY: tag} if tag else {}
        kernel.session.send(
            kernel.iopub_socket, kind, content, parent=self.request, metadata=metadata
        )


class BackgroundPublisher(KernelPublisher):
    """Publishes what answers a request that has been replied to: the kernel may be idle."""

    def busy(self, tag: Tag | None = None) -> None:
        """Send a sign of life to our page alone, which changes no output and no status."""
        if tag:
            nothing = {"data": {}, "metadata": {}, "transient": {"display_id": KEY}}
            self._send("update_display_data", nothing, tag)
