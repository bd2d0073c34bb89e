"""Servers on loopback that tests talk to with real clients, and a look at processes."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    fault: str = ""  # disconnect, no end mark, not json, error event, length, endless
    usage: dict[str, Any] | None = None
    delay: float = 0.0  # seconds before each piece
    gate: threading.Event | None = None  # what its first word waits for
    hold: threading.Event | None = None  # what its last word waits for
    sent: list[tuple[float, str]] = field(default_factory=list)  # when each piece was


@dataclass
class Request:
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = json.loads(self.raw)["messages"]
        return messages


@dataclass
class ChatServer:
    """Streams chat completions, reply after reply."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                server.requests.append(Request(self.path, dict(self.headers), raw))
                reply = server.replies.pop(0)
                try:
                    self.refuse(reply) if reply.status != 200 else self.answer(reply)
                except OSError:
                    server.hung_up.set()

            def refuse(self, reply: Reply) -> None:
                body = json.dumps({"error": {"message": reply.text or "refused"}}).encode()
                self.send_response(reply.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def answer(self, reply: Reply) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                pieces = re.findall(r"\s*\S+\s?|\s+", reply.text)
                for left, piece in zip(range(len(pieces), 0, -1), pieces, strict=True):
                    time.sleep(reply.delay)
                    if reply.gate and left == len(pieces):
                        reply.gate.wait(60)
                    if reply.hold and left == 1:
                        reply.hold.wait(60)
                    reply.sent.append((time.time(), piece))
                    self.event({"choices": [_choice({"content": piece})]})
                while reply.fault == "endless":
                    self.event({"choices": [_choice({"content": "and "})]})
                    time.sleep(0.01)
                match reply.fault:
                    case "disconnect":
                        self.connection.shutdown(2)
                        raise OSError("as asked")
                    case "not json":
                        self.chunk(b'data: {"choices": [{\n\n')
                    case "error event":
                        self.event({"error": {"message": "overloaded", "code": 529}})
                    case "no end mark":
                        pass
                    case fault:
                        reason = "length" if fault == "length" else "stop"
                        self.event({"choices": [_choice({}, reason)]})
                        if reply.usage:
                            self.event({"choices": [], "usage": reply.usage})
                        self.chunk(b"data: [DONE]\n\n")
                self.chunk(b"")

            def event(self, data: dict[str, Any]) -> None:
                base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                self.chunk(b"data: " + json.dumps(base | data).encode() + b"\n\n")

            def chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.model = f"http://127.0.0.1:{self._http.server_address[1]}/v1#test"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def descendants(pid: int) -> list[int]:
    """Every process that this one has started, and those they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found
