"""Turn the exceptions of every client into a `ModelError`, and tell whether to try again.

Clients are told apart by the attributes and class names of their exceptions, so that none of them
has to be imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from jupyter_agent.errors import Kind, ModelError

__all__ = [
    "NoEventsError",
    "StreamError",
    "broken_off",
    "cut_short",
    "fault",
    "refuses_pictures",
    "tidy",
]

_WINDOW = re.compile(  # how servers say that a request is longer than the model can read
    r"""context[ _](?:length|window)[ _]exceeded | exceed_context_size | context\ window
    | maximum\ (?:context|model|prompt|sequence|input)\ length | context\ (?:size|length|limit)
    | (?:prompt|input|request)\ (?:is\ )?too\ long | prompt\ exceeds\ max | tokens_limit_reached
    | (?:token\ count|tokens?)[^.]{0,40}\ exceeds?\ [^.]{0,40}(?:maximum|limit\ of)
    | too\ large\ for\ model\ with | max_prompt_tokens_exceeded | model\ token\ limit
    | `?inputs`?\ (?:tokens\ |must\ have\ less) | reduce\ the\ length\ of\ the\ messages
    | too\ many\ tokens:? \b(?!.{0,20}\ wait) | range\ of\ input\ length
    | max(?:imum)?\ tokens\ of\ [\d,]+\ exceeded | length\ exceeds\ [^.]{0,20}max""",
    re.VERBOSE | re.IGNORECASE,
)
_NEVER_FITS = re.compile(r"request too large for .{0,200} tokens per min", re.IGNORECASE)
_NUMBER = r"(\d[\d,]{2,15})"
_SIZES = [
    re.compile(pattern.replace("N", _NUMBER), re.IGNORECASE)
    for pattern in (
        r"context limit: [\d ,+]{1,60}> ?N",  # Anthropic, with the reply's length
        # OpenAI, vLLM; what is exceeded "by" a number has another size
        r"context (?:length|window|size|limit)(?!\D{0,20}\b(?:by|exceeds limit)\b)[^0-9]{0,40}?N",
        r"> ?N (?:tokens )?maximum",  # Anthropic
        r"maximum number of tokens allowed \(N\)",  # Gemini
        r"model with N maximum context",  # Mistral
        r"n_ctx\D{1,5}N",  # llama.cpp
        r"maximum (?:prompt|model|input|sequence) length(?: is| of|) ?\(?N",  # xAI, vLLM
        r"must be <= ?N",  # TGI
        r"must have less than N tokens",  # TGI
        r"model token limit: ?N",  # Moonshot
        r"(?:cannot exceed|limit for this model is|exceeds the limit of) N",  # Cohere, Copilot
        r"while limit is N",  # Cerebras
        r"input length should be \[\d+, ?N",  # Qwen
        r"max(?:imum)? (?:size: |tokens of )N",  # GitHub, Snowflake
        r"tokens per min[^:]{0,20}: Limit N",  # Groq: no request of that size will ever pass
    )
]
_SAID = ("error", "message", "detail", "errors", "msg", "base_resp", "status_msg", "reason")
_NAMES = ("code", "type", "status", "status_code", "http_status", "http_status_code", "error_type")
_MAX_NESTING = 6  # levels of errors in errors
_MAX_OF_A_BODY = 10_000  # characters that are made into a line
_SHORTEST_KEY = 6  # what is shorter, such as "none", is none, and stands in many a word
_NO_MONEY = re.compile(
    r"""insufficient[_ ](?:quota|balance|credit|funds) | exceeded[_ ](?:your\ )?current[_ ]quota
    | billing[_ ]hard[_ ]limit | credit\ balance | out\ of\ credits | not\ enough\ credits
    | spending\ limit | used\ all\ (?:available\ |your\ )?credits | included\ credits
    | payment[_ ]required""",
    re.VERBOSE | re.IGNORECASE,
)
_FOR_A_DAY = re.compile(r"per[-_ ]?day|\bTPD\b|\bRPD\b|\bdaily\b|\blimit: 0\b", re.IGNORECASE)
_FOR_A_MINUTE = re.compile(r"per[-_ ]?min", re.IGNORECASE)
_NO_MEMORY = re.compile(r"requires more (?:system |GPU |video )?memory", re.IGNORECASE)
# how servers say that a model takes no pictures, or only text
_NO_PICTURES = re.compile(
    r"image|picture|vision|visual|multi-?modal|modalit|content must be a string|valid string",
    re.IGNORECASE,
)
_WAIT = re.compile(r"try (?:again )?in (?:(\d{1,4})m)?(\d{1,6}(?:\.\d+)?)s", re.IGNORECASE)
_BAD_CALL = re.compile(r"tool_use_failed|malformed_function_call", re.IGNORECASE)
_NO_MODEL = re.compile(r"\bmodel\b.{0,100}(?:not found|not exist)|no such model", re.IGNORECASE)
_CODES = {  # words in an error's type or code, and the status that says the same
    "quota|billing|payment|balance|credit": 402,
    "context_length|exceed_context|prompt_tokens": 400,
    "authentication|api_key|unauthorized|unauthenticated": 401,
    "permission|forbidden": 403,
    "not_?found": 404,
    "rate_limit|too_many|exhausted|throttl": 429,
    "invalid|bad_request|unsupported|validation|policy|mismatch|^image_": 400,
    "time_?out": 504,
}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A server's answer that is not a reply."""

    status: int  # of HTTP, or 0 for an error inside a stream
    said: str
    body: Any  # the same as JSON, where it is
    wait: float | None = None  # seconds, as a header asks


async def fault(name: str, error: Exception, key: str = "") -> ModelError:
    """Return a one-line error about the model ``name``: what went wrong, and what to do.

    A server may repeat the ``key`` in its message. It is removed, because others read notebooks.
    """
    refusal = await _refusal(error, key)
    if refusal is None:
        kind, text = _explain(error, key)
        return ModelError(f"{name}: {text}", kind=kind)
    return _told(name, refusal, key)


class StreamError(Exception):
    """A server sent an error inside a stream, or instead of it."""

    def __init__(self, body: object) -> None:
        super().__init__()  # without the body, which may be too deep to be written
        self.body = body


class NoEventsError(Exception):
    """A server's answer is not a reply, and gives no reason."""


def _told(name: str, refusal: _Refusal, key: str) -> ModelError:
    kind = _kind(refusal)
    wait = _seconds_to_wait(refusal)
    said = ": ".join(filter(None, [str(refusal.status or ""), _line(refusal.body, key)]))
    if wait:
        said += f"; it asks to wait {wait:,.0f} s"
    advice = _ADVICE[kind]
    if _status(refusal) == 404:
        advice = "no such model or path ({said}); check the name and the URL"
    return ModelError(
        f"{name}: {advice.format(said=said or 'no reason given')}",
        kind=kind,
        retry_after=wait,
        window=_window(refusal.said) if kind == "context" else None,
        said=refusal.said,
    )


def broken_off(name: str) -> ModelError:
    """Return the error about a reply that ended without its end mark."""
    return ModelError(f"{name} broke off in the middle of its reply; try again", kind="truncated")


def cut_short(name: str, limit: str = "the server's length limit") -> ModelError:
    """Return the error about a reply that reached a limit, and would do so again."""
    return ModelError(
        f"{name} reached {limit} in the middle of its reply; raise that limit, or make the task "
        "smaller",
        kind="truncated",
        passing=False,
    )


_ADVICE: dict[Kind, str] = {
    "auth": "the key was refused ({said}); check it",
    "quota": "no quota or credit is left ({said}); see your account there",
    "bad_request": "the server refused the request ({said})",
    "context": "the run is longer than the model can read ({said})",
    "rate_limit": "too many requests ({said}); wait and try again",
    "server": "the server failed ({said}); try again",
    "protocol": "the model made a call that its server could not read ({said}); try again",
    "timeout": "the server did not answer in time ({said}); try again",
}


def _kind(refusal: _Refusal) -> Kind:
    said = refusal.said
    match _status(refusal):
        case 402:
            return "quota"
        case 400 | 403 | 412 | 429 | 0 if _NO_MONEY.search(said) and not _FOR_A_MINUTE.search(said):
            return "quota"
        case 429 if _FOR_A_DAY.search(said) and refusal.wait is None:
            return "quota"
        case 413 | 429 if _NEVER_FITS.search(said):  # at once what a minute allows, or more
            return "context"
        case 400 | 413 | 422 | 500 | 0 if _WINDOW.search(said):
            return "context"
        case 400 | 422 if _BAD_CALL.search(said):
            return "protocol"
        case 401 | 403:
            return "auth"
        case 429:
            return "rate_limit"
        case 408 | 504:
            return "timeout"
        case status if (status >= 500 or status == 0) and not _NO_MEMORY.search(said):
            return "server"
    return "bad_request"


def _status(refusal: _Refusal) -> int:
    """Return the HTTP status, or the one that an error inside a stream corresponds to."""
    if refusal.status:
        return refusal.status
    error = _error(refusal.body)
    names = " ".join(str(error[name]) for name in _NAMES if isinstance(error.get(name), str | int))
    if number := re.search(r"\b[45]\d\d\b", names):
        return int(number[0])
    known = (status for words, status in _CODES.items() if re.search(words, names, re.IGNORECASE))
    return next(known, 404 if _NO_MODEL.search(refusal.said) else 0)


def _window(said: str) -> int | None:
    found = filter(None, (pattern.search(said) for pattern in _SIZES))
    return next((int(match[1].replace(",", "")) for match in found), None)


def _seconds_to_wait(refusal: _Refusal) -> float | None:
    """Read how long the server asks to wait, in a header or in words."""
    words = _WAIT.search(refusal.said) if refusal.wait is None else None
    return int(words[1] or 0) * 60 + float(words[2]) if words else refusal.wait


async def _refusal(error: Exception, key: str) -> _Refusal | None:
    """Read the server's answer from an exception; None if it holds none."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if response is not None and status >= 400:
        try:
            said = (await response.aread()).decode(errors="replace")
        except Exception:  # the connection is gone: the status code has to do
            said = ""
        return _Refusal(status, _without(key, said), _parsed(said), _retry_after(response.headers))
    if isinstance(error, StreamError):
        return _Refusal(0, _without(key, _written(error.body)), error.body)
    return None


def _parsed(body: object) -> Any:
    try:
        return json.loads(body) if isinstance(body, str) else body
    except (ValueError, RecursionError):
        return body


def _written(body: object) -> str:
    try:
        return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    except RecursionError:
        return ""


def _error(body: Any) -> dict[str, Any]:
    """Find what tells of the error in what a server said, which may wrap it."""
    for _ in range(_MAX_NESTING):
        body = body[0] if isinstance(body, list) and body else body
        if not isinstance(body, dict) or not isinstance(body.get("error"), dict | list):
            break
        body = body["error"]
    return body if isinstance(body, dict) else {}


def _line(body: Any, key: str) -> str:
    """Take the one line that matters from what a server said."""
    return tidy(_words(body, _MAX_NESTING), key)


def tidy(text: str, key: str = "") -> str:
    """Make a short, harmless line of a server's text, without a key."""
    text = _without(key, text)  # before it is cut, which might leave half of it
    text = " ".join(text[:_MAX_OF_A_BODY].split())
    line = "".join(c for c in text if c.isprintable())  # it may be a terminal's
    line = _without(key, line)  # which may have had such a character in it
    return line if len(line) <= 200 else f"{line[:200]}…"


def _words(body: Any, deepest: int) -> str:
    """Find the words in an error: each service puts them under a name of its own."""
    match body:
        case _ if not deepest:
            return ""
        case str():
            inner = _parsed(body)
            if isinstance(inner, dict | list):  # a gateway passes on what it was told
                return _words(inner, deepest - 1)
            return "" if body.lstrip().startswith("<") else body
        case [first, *_]:
            return _words(first, deepest - 1)
        case {"loc": [*_, place], "msg": str(text)}:
            return f"{place}: {text}"
        case {"metadata": {"raw": str(raw)}} if raw:  # OpenRouter: what the provider said
            rest = {name: value for name, value in body.items() if name != "metadata"}
            parts = (_words(part, deepest - 1) for part in (rest, raw))
            return ": ".join(filter(None, parts))
        case dict():
            found = (_words(body[name], deepest - 1) for name in _SAID if body.get(name))
            return next(filter(None, found), "") or _written(body)
    return "" if body is None else _written(body)


def _without(key: str, text: str) -> str:
    """Remove a key from a text that is shown and saved."""
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


def _explain(error: BaseException, key: str) -> tuple[Kind, str]:
    """Explain an exception that holds no answer of a server."""
    names = _names(error) | _names(error.__cause__)
    if "APIConnectionError" in names and error.__cause__:  # which says no more than that
        error = error.__cause__
    text = tidy(str(error), key) or type(error).__name__
    if "OfflineModeIsEnabled" in names:
        return "bad_request", "HF_HUB_OFFLINE is set, which forbids every request; unset it"
    if names & {"UnsupportedProtocol", "TooManyRedirects"} or "location header" in text:
        return (
            "bad_request",
            f"the server redirects elsewhere ({text.rstrip('.')}); is the URL right?",
        )
    if any("Timeout" in name for name in names):
        return "timeout", "the server did not answer in time; try again"
    if "ElsewhereError" in names:
        return (
            "bad_request",
            f"the server redirects elsewhere ({text}), where nothing was sent; if that is "
            "the right server, use its URL",
        )
    if names & {"TooMuchError", "NoEventsError"}:
        return "protocol", text
    if names & {"JSONDecodeError", "RecursionError"}:
        return "protocol", "the server's reply is not JSON; is the URL right?"
    if "ConnectError" in names or "ConnectionRefusedError" in names:
        return "network", f"no server answers ({text}); is it running?"
    if names & {"TransportError", "APIConnectionError", "OSError"}:
        return "network", f"the connection broke ({text}); try again"
    return "protocol", f"the reply could not be read ({type(error).__name__}: {text})"


def _names(error: BaseException | None) -> set[str]:
    """Name the classes of an exception; that of JSON is a plain ValueError to most."""
    return {each.__name__ for each in type(error).__mro__}


def refuses_pictures(error: ModelError) -> bool:
    """Tell whether a server refused a request because of pictures (llama.cpp with a 500)."""
    said = error.said or str(error).partition(": ")[2]  # without the name of the model
    return error.kind in ("bad_request", "server") and bool(_NO_PICTURES.search(said))
