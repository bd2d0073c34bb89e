"""Faults of a model's server: what it does, and what a run is to make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .servers import Reply

F = "```"
FORMS = {  # model string: the form of reply it is asked for
    "openai:x": "tool",
    "anthropic:x": "tool",
    "hf:org/x": "text",
    "http://URL/v1#x": "tool",
}


def reply(form: str, fault: str = "") -> Reply:
    """A reply whose code is whole, so that only the fault keeps it from running."""
    if form == "tool":
        return Reply("I will.", calls=[json.dumps({"code": "boom()"})], fault=fault)
    if fault == "endless":  # what follows a block is cut
        return Reply("I will.", fault=fault)
    return Reply(f"I will.\n\n{F}python\nboom()\n{F}\n", fault=fault)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    kind: str
    said: str  # in what the user reads
    facts: dict[str, Any] = field(default_factory=dict)
    again: bool = True  # whether the model is asked again
    anew: bool = False  # whether it is asked again at once, without what nobody asked for
    limits: dict[str, float] = field(default_factory=dict)

    def reply(self, form: str) -> Reply:
        return Reply(**self.facts) if "status" in self.facts else reply(form, **self.facts)


def refusal(status: int, text: str = "", **headers: str) -> dict[str, Any]:
    return {"status": status, "text": text, "headers": headers}


HURRY = {"reply_timeout": 1.2}
FAULTS = [
    Fault("401", "auth", "the key was refused (401: no such key); check it", refusal(401, "no such key"), again=False),
    Fault("403", "auth", "the key was refused (403: not yours); check it", refusal(403, "not yours"), again=False),
    Fault("400", "bad_request", "the server refused the request (400: no)", refusal(400, "no"), again=False, anew=True),
    Fault("404", "bad_request", "no such model or path (404: no model x); check the name and the URL", refusal(404, "no model x"), again=False),
    Fault("413", "bad_request", "the server refused the request (413: image too large)", refusal(413, "image too large"), again=False),
    Fault("422", "bad_request", "the server refused the request (422: no)", refusal(422, "no"), again=False, anew=True),
    Fault("400, too long for the model", "context", "longer than the model can read (400: maximum context length is 8192 tokens", refusal(400, "maximum context length is 8192 tokens, you sent 9000"), again=False),
    Fault("408", "timeout", "the server did not answer in time (408: slow); try again", refusal(408, "slow")),
    Fault("429", "rate_limit", "too many requests (429: slow down); wait and try again", refusal(429, "slow down")),
    Fault("429 with Retry-After: 0", "rate_limit", "too many requests (429: slow down)", refusal(429, "slow down", **{"retry-after": "0"})),
    Fault("429 with Retry-After: 3600", "rate_limit", "too many requests (429: slow down; it asks to wait 3,600 s); wait and", refusal(429, "slow down", **{"retry-after": "3600"}), again=False),
    Fault("402", "quota", "no quota or credit is left (402: pay); see your account there", refusal(402, "pay"), again=False),
    Fault("429, no money left", "quota", "no quota or credit is left (429: insufficient_quota); see your account there", refusal(429, "insufficient_quota"), again=False),
    Fault("500", "server", "the server failed (500: boom bang); try again", refusal(500, "boom\n  bang")),
    Fault("529", "server", "the server failed (529: overloaded); try again", refusal(529, "overloaded")),
    Fault("disconnect in the reply", "network", "the connection broke (", {"fault": "disconnect"}),
    Fault("clean end before the end mark", "truncated", "broke off in the middle of its reply; try again", {"fault": "no end mark"}),
    Fault("a chunk that is not JSON", "protocol", "the server's reply is not JSON", {"fault": "not json"}),
    Fault("no event stream at all", "server", "the server failed ({}); try again", {"fault": "html"}),
    Fault("error inside the stream", "server", "overloaded", {"fault": "error event"}),
    Fault("length limit of the server", "truncated", "length limit in the middle of its reply", {"fault": "length"}, again=False),
    Fault("slow first token", "timeout", "did not finish its reply within 1.2 s", {"fault": "slow"}, limits=HURRY),
    Fault("stall in the reply", "timeout", "did not finish its reply within 1.2 s", {"fault": "stall"}, limits=HURRY),
    Fault("endless stream, by the clock", "timeout", "did not finish its reply within 1.2 s", {"fault": "endless"}, limits=HURRY),
    Fault("endless stream, by its length", "truncated", "reached c.Agent.reply_length (50 characters)", {"fault": "endless"}, again=False, limits={"reply_length": 50}),
]  # fmt: skip
