"""Servers on loopback that tests talk to with real clients, and a look at processes."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    fault: str = ""  # one of FAULTS
    usage: dict[str, Any] | None = None  # as chat completions write it; others translate it
    delay: float = 0.0  # seconds before each piece
    calls: list[str] = field(default_factory=list)  # the arguments of native calls
    signature: str = ""  # of each call, as Gemini sends it
    thought: str = ""  # reasoning that the model wants back
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None  # what its first word waits for
    hold: threading.Event | None = None  # what its last word waits for
    sent: list[tuple[float, str]] = field(default_factory=list)  # when each piece was


FAULTS = """disconnect, no end mark, not json, error event, length, endless, slow, stall, empty,
split, html""".replace("\n", " ").split(", ")


@dataclass
class Request:
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


@dataclass
class ChatServer:
    """Streams replies, one after another, in the wire protocol that the path asks for.

    It speaks chat completions, OpenAI's Responses and Anthropic's Messages.
    """

    replies: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    listed: list[dict[str, Any]] = field(default_factory=list)  # at /models
    writer: Callable[[list[dict[str, Any]]], str] | None = None  # of replies, if none is left
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None  # in place of all replies

    def __post_init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                if server.answer:
                    self.close_connection = True
                    server.answer(self)
                elif not self.path.endswith("/models") or not server.listed:
                    self.whole(404, {"error": {"message": "no such path"}}, {})
                else:
                    self.whole(200, {"data": server.listed}, {})

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                request = Request(self.path, dict(self.headers), raw)
                server.requests.append(request)
                if server.answer:
                    self.close_connection = True
                    with suppress(OSError):
                        server.answer(self)
                    return
                if server.writer and not server.replies:
                    server.replies.append(Reply(server.writer(request.messages)))
                reply = server.replies.pop(0)
                try:
                    if reply.status != 200:
                        said = {"error": {"message": reply.text or "refused"}}
                        self.whole(reply.status, said, reply.headers)
                    elif reply.fault == "html":
                        self.whole(200, {}, {"content-type": "text/html"})
                    else:
                        self.answer(reply)
                except OSError:
                    server.hung_up.set()

            def whole(self, status: int, data: dict[str, Any], headers: dict[str, str]) -> None:
                body = json.dumps(data).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def answer(self, reply: Reply) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                frames = _FRAMES[self.path.rpartition("/")[2]]
                if reply.fault == "slow":
                    self.wait_for_the_end()
                for frame in _written_down(reply, frames(reply)):
                    for size in range(0, len(frame), 3) if reply.fault == "split" else [0]:
                        self.chunk(frame[size : size + 3] if reply.fault == "split" else frame)
                while reply.fault == "endless":
                    self.chunk(next(_frames(self.path, "and ")))
                    time.sleep(0.01)
                match reply.fault:
                    case "disconnect":
                        self.connection.shutdown(2)
                        raise OSError("as asked")
                    case "stall":
                        self.wait_for_the_end()
                self.chunk(b"")

            def wait_for_the_end(self) -> None:
                """Send nothing until the other side has hung up."""
                if not self.connection.recv(1):
                    raise OSError("the client is gone")

            def chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self.model = f"{self.url}#test"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _written_down(reply: Reply, frames: Iterable[bytes]) -> Iterator[bytes]:
    """Hold the first and the last frame of text up as asked, and note when each went."""
    texts = [*frames] if reply.hold else frames
    last = (
        max((i for i, f in enumerate(texts) if b'"content"' in f), default=0) if reply.hold else 0
    )
    for index, frame in enumerate(texts):
        if reply.gate and index == 0:
            reply.gate.wait(60)
        if reply.hold and index == last:
            reply.hold.wait(60)
        time.sleep(reply.delay)
        reply.sent.append((time.time(), frame.decode(errors="replace")))
        yield frame


# -- the wire protocols: frames of Server-Sent Events

_BROKEN_OFF = {"disconnect", "no end mark", "endless", "stall"}  # after the text, before the end


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s?|\s+", text)


def _event(data: dict[str, Any], name: str = "") -> bytes:
    text = f"event: {name}\n" if name else ""
    return f"{text}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _chat(reply: Reply) -> Iterator[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return _event({**base, "choices": choices, **more})

    if reply.fault != "empty":
        if reply.thought:
            yield chunk({"reasoning_content": reply.thought})
        for piece in _pieces(reply.text):
            yield chunk({"content": piece})
        for index, arguments in enumerate(reply.calls):
            function = {"name": "python", "arguments": ""}
            begin: dict[str, Any] = {
                "index": index,
                "id": f"call_{index}",
                "type": "function",
                "function": function,
            }
            if reply.signature:
                begin["extra_content"] = {"google": {"thought_signature": reply.signature}}
            yield chunk({"tool_calls": [begin]})
            for piece in _pieces(arguments):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    match reply.fault:
        case "not json":
            yield b'data: {"choices": [{\n\n'
        case "error event":
            yield _event({"error": {"message": "overloaded", "code": 529}})
        case fault if fault not in _BROKEN_OFF:
            reason = "tool_calls" if reply.calls else "stop"
            yield chunk({}, "length" if fault == "length" else reason)
            if reply.usage:
                yield chunk({}, choices=[], usage=reply.usage)
            yield b"data: [DONE]\n\n"


def _responses(reply: Reply) -> Iterator[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return _event({"type": kind, "sequence_number": 0, **data}, kind)

    place = 0
    base = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    yield event("response.created", response=base)
    if reply.thought and reply.fault != "empty":
        thought = {"type": "reasoning", "id": "rs_1", "summary": []}
        yield event("response.output_item.added", output_index=place, item=thought)
        whole = {**thought, "encrypted_content": reply.thought, "status": "completed"}
        yield event("response.output_item.done", output_index=place, item=whole)
        place += 1
    if reply.text and reply.fault != "empty":
        message: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant"}
        message |= {"content": [], "status": "in_progress"}
        message |= {"phase": "commentary" if reply.calls else "final_answer"}
        yield event("response.output_item.added", output_index=place, item=message)
        for piece in _pieces(reply.text):
            at = {"output_index": place, "item_id": "msg_1", "content_index": 0}
            yield event("response.output_text.delta", delta=piece, **at)
        place += 1
    for index, arguments in enumerate(reply.calls if reply.fault != "empty" else []):
        call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}"}
        call |= {"name": "python", "arguments": ""}
        yield event("response.output_item.added", output_index=place, item=call)
        for piece in _pieces(arguments):
            at = {"output_index": place, "item_id": f"fc_{index}"}
            yield event("response.function_call_arguments.delta", delta=piece, **at)
        place += 1
    usage = None
    if reply.usage:
        usage = {
            "input_tokens": reply.usage["prompt_tokens"],
            "output_tokens": reply.usage["completion_tokens"],
            "total_tokens": reply.usage["total_tokens"],
            "input_tokens_details": reply.usage.get("prompt_tokens_details", {}),
        }
    match reply.fault:
        case "not json":
            yield b'event: response.completed\ndata: {"type": [{\n\n'
        case "error event":
            yield event("error", code="server_error", message="overloaded")
        case "length":
            short = {**base, "status": "incomplete", "usage": usage}
            yield event("response.incomplete", response=short)
        case fault if fault not in _BROKEN_OFF:
            yield event("response.completed", response={**base, "usage": usage})


def _messages(reply: Reply) -> Iterator[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return _event({"type": kind, **data}, kind)

    counted = reply.usage or {"prompt_tokens": 0, "completion_tokens": 0}
    cached = counted.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    begun = {
        "input_tokens": counted["prompt_tokens"] - cached if cached else counted["prompt_tokens"],
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    yield event("message_start", message={**base, "usage": begun})
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if reply.thought:
        pieces = [{"type": "thinking_delta", "thinking": p} for p in _pieces(reply.thought)]
        signature = {"type": "signature_delta", "signature": "signed"}
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        blocks.append((empty, [*pieces, signature]))
    if reply.text:
        said = [{"type": "text_delta", "text": piece} for piece in _pieces(reply.text)]
        blocks.append(({"type": "text", "text": ""}, said))
    for index, arguments in enumerate(reply.calls):
        call = {"type": "tool_use", "id": f"call_{index}", "name": "python", "input": {}}
        pieces = [{"type": "input_json_delta", "partial_json": p} for p in _pieces(arguments)]
        blocks.append((call, pieces))
    for index, (block, deltas) in enumerate(blocks if reply.fault != "empty" else []):
        yield event("content_block_start", index=index, content_block=block)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        if index + 1 < len(blocks) or reply.fault not in _BROKEN_OFF:
            yield event("content_block_stop", index=index)
    match reply.fault:
        case "not json":
            yield b'event: message_delta\ndata: {"type": [{\n\n'
        case "error event":
            yield event("error", error={"type": "overloaded_error", "message": "overloaded"})
        case fault if fault not in _BROKEN_OFF:
            reason = "tool_use" if reply.calls else "end_turn"
            reason = "max_tokens" if fault == "length" else reason
            usage = {"output_tokens": counted["completion_tokens"]}
            yield event("message_delta", delta={"stop_reason": reason}, usage=usage)
            yield event("message_stop")


_FRAMES = {"completions": _chat, "responses": _responses, "messages": _messages}


def _frames(path: str, text: str) -> Iterator[bytes]:
    """Frames that add text to a stream, without end."""
    every = list(_FRAMES[path.rpartition("/")[2]](Reply(text, fault="endless")))
    yield from every[-1:]


def descendants(pid: int) -> list[int]:
    """Every process that this one has started, and those they have."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
        for task in [*Path(f"/proc/{pid}/task").iterdir()]:
            with contextlib.suppress(FileNotFoundError):  # or this thread of it
                for child in map(int, (task / "children").read_text().split()):
                    found += [child, *descendants(child)]
    return found
