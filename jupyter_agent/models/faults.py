"""What went wrong while a model was asked: every client's exceptions, read as `ModelError`.

Clients are told apart by what their exceptions carry (a response, a body, the names of their
classes), so that none of them has to be imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from jupyter_agent.errors import Kind, ModelError

__all__ = ["StreamError", "broken_off", "cut_short", "fault"]

_WINDOW = re.compile(
    r"""context[ _]length[ _]exceeded | exceed_context_size | context\ window
    | maximum\ context\ length | prompt\ is\ too\ long | context\ (?:size|length|limit)
    | (?:token\ count|tokens)[^.]{0,40}\ exceeds?\ [^.]{0,40}maximum\ number\ of\ tokens
    | too\ large\ for\ model\ with""",
    re.VERBOSE | re.IGNORECASE,
)
_SIZES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"context (?:length|window|size|limit)[^0-9]{0,40}?(\d[\d,]{2,15})",  # OpenAI, vLLM
        r"> ?(\d[\d,]{2,15}) (?:tokens )?maximum",  # Anthropic
        r"maximum number of tokens allowed \((\d[\d,]{2,15})\)",  # Gemini
        r"model with (\d[\d,]{2,15}) maximum context",  # Mistral
        r"n_ctx\D{1,5}(\d{3,15})",  # llama.cpp
    )
]
_SHORTEST_KEY = 6  # what is shorter, such as "none", is none, and stands in many a word
_OUT_OF_MONEY = re.compile(r"insufficient_quota|billing_hard_limit")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a server answered instead of a reply."""

    status: int  # 0 for an error inside a stream
    said: str
    line: str  # what it said, made for reading
    retry_after: float | None = None


async def fault(name: str, error: Exception, key: str = "") -> ModelError:
    """Say in one line what went wrong with the model ``name``, and what to do.

    A server may repeat the ``key`` it was sent, to whoever reads the notebook: it is left out.
    """
    refusal = await _refusal(error, key)
    if refusal is None:
        kind, text = _explain(error)
        return ModelError(f"{name}: {_without(key, text)}", kind=kind)
    return _told(name, refusal)


class StreamError(Exception):
    """A server told inside a stream what went wrong."""

    def __init__(self, body: object) -> None:
        super().__init__(body)
        self.body = body


def _told(name: str, refusal: _Refusal) -> ModelError:
    kind = _kind(refusal)
    said = ": ".join(filter(None, [str(refusal.status or ""), refusal.line]))
    if refusal.retry_after:
        said += f"; it asks to wait {refusal.retry_after:,.0f} s"
    advice = _ADVICE[kind]
    if refusal.status == 404:
        advice = "no such model or path ({said}); check the name and the URL"
    return ModelError(
        f"{name}: {advice.format(said=said)}",
        kind=kind,
        retry_after=refusal.retry_after,
        window=_window(refusal.said) if kind == "context" else None,
        said=refusal.said,
    )


def broken_off(name: str) -> ModelError:
    """Say that a reply ended without its end mark."""
    return ModelError(f"{name} broke off in the middle of its reply; try again", kind="truncated")


def cut_short(name: str, limit: str = "the server's length limit") -> ModelError:
    """Say that a reply reached a limit, and would reach it again."""
    return ModelError(
        f"{name} reached {limit} in the middle of its reply; raise that limit or ask for less",
        kind="truncated",
        passing=False,
    )


_ADVICE: dict[Kind, str] = {
    "auth": "the key was refused ({said}); check it",
    "bad_request": "the server refused the request ({said})",
    "context": "the run is longer than the model can read ({said})",
    "rate_limit": "too many requests ({said}); wait and try again",
    "server": "the server failed ({said}); try again",
    "timeout": "the server did not answer in time ({said}); try again",
}


def _kind(refusal: _Refusal) -> Kind:
    match refusal.status:
        case 401 | 402 | 403:
            return "auth"
        case 429:
            return "auth" if _OUT_OF_MONEY.search(refusal.said) else "rate_limit"
        case 408 | 504:
            return "timeout"
        case 400 | 413 | 422 | 500 | 0 if _WINDOW.search(refusal.said):
            return "context"
        case 0:
            return "rate_limit" if "rate_limit" in refusal.said else "server"
        case status if status >= 500:
            return "server"
    return "bad_request"


def _window(said: str) -> int | None:
    found = filter(None, (pattern.search(said) for pattern in _SIZES))
    return next((int(match[1].replace(",", "")) for match in found), None)


async def _refusal(error: Exception, key: str) -> _Refusal | None:
    """Read the server's answer that an exception stands for, if it is one."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if response is not None and status >= 400:
        try:
            said = (await response.aread()).decode(errors="replace")
        except Exception:  # the connection is gone: the status code has to do
            said = ""
        wait = _retry_after(response.headers)
        return _Refusal(status, _without(key, said), _line(_parsed(said), key), wait)
    names = _names(error)
    body: object
    if names & {"APIError", "StreamError"} and "APIConnectionError" not in names:
        body = getattr(error, "body", None) or str(error)
    elif "TextGenerationError" in names:
        body = error.args[0] if error.args else ""
    else:
        return None
    return _Refusal(0, _without(key, f"{body}"), _line(_parsed(body), key))


def _parsed(body: object) -> object:
    try:
        return json.loads(body) if isinstance(body, str) else body
    except ValueError:
        return body


def _line(body: Any, key: str) -> str:
    """Take the one line that matters from what a server said."""
    for name in ("error", "message", "detail"):
        body = body.get(name, body) if isinstance(body, dict) else body
    text = "" if isinstance(body, str) and body.lstrip().startswith("<") else str(body or "")
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())  # it may be a terminal's
    line = _without(key, line)  # before it is cut, which might leave half of it
    return line if len(line) <= 200 else f"{line[:200]}…"


def _without(key: str, text: str) -> str:
    """Leave a key out of what is shown and saved."""
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text


def _retry_after(headers: Any) -> float | None:
    """Read how long to wait: seconds, or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return None


def _explain(error: BaseException) -> tuple[Kind, str]:
    """Say what an exception means that no server answered with."""
    names = _names(error) | _names(error.__cause__)
    if "APIConnectionError" in names and error.__cause__:  # which says no more than that
        error = error.__cause__
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "OfflineModeIsEnabled" in names:
        return "bad_request", "HF_HUB_OFFLINE is set, which forbids every request; unset it"
    if names & {"UnsupportedProtocol", "TooManyRedirects"} or "location header" in text:
        return (
            "bad_request",
            f"the server sends elsewhere ({text.rstrip('.')}); is that the right URL?",
        )
    if any("Timeout" in name for name in names):
        return "timeout", "the server did not answer in time; try again"
    if "ElsewhereError" in names:
        return (
            "bad_request",
            f"the server sends elsewhere ({text}), where nothing was sent; if that is the right "
            "server, name it",
        )
    if "TooMuchError" in names:
        return "protocol", text
    if names & {"JSONDecodeError", "RecursionError"}:
        return "protocol", "the server sent what is not JSON; is that the right URL?"
    if "ConnectError" in names or "ConnectionRefusedError" in names:
        return "network", f"no server answers there ({text}); is it running?"
    if names & {"TransportError", "APIConnectionError", "OSError"}:
        return "network", f"the connection broke ({text}); try again"
    return "protocol", f"the reply could not be read ({type(error).__name__}: {text})"


def _names(error: BaseException | None) -> set[str]:
    """Name the classes of an exception; that of JSON is a plain ValueError to most."""
    return {each.__name__ for each in type(error).__mro__}
