"""The common part of models behind a URL: address, key, options, fields that a server refused.

A request holds what the wire protocol cannot do without and what the user set. Where a server
refuses a field by name, it is asked again without it, and never with it again: no table of models
says who takes what.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import traceback
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies

from jupyter_agent.errors import AgentError, ModelError, UsageError
from jupyter_agent.models.faults import broken_off, fault
from jupyter_agent.models.protocol import Delta, Form, Message

__all__ = ["RemoteModel", "checked_key", "origin", "server_url", "vendor_settings"]

T = TypeVar("T")
_SECRET = re.compile(r"key|token|secret|passw|auth|credential|sig$|signature", re.IGNORECASE)
# by URL and model: fields that were refused, and the most tokens that a request and its reply had
_refused: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
_fitted: defaultdict[tuple[str, str], int] = defaultdict(int)
_taken: set[tuple[str, str]] = set()  # that have replied to a request


class RemoteModel:
    """A model that is asked over HTTP.

    Parameters
    ----------
    name
        As the user wrote it.
    model
        What the server calls it.
    url
        The server's base URL, or the full one of its replies.
    key
        Sent to that URL and nowhere else.
    keyless
        Why no key is sent, for who reads that one is wanted.
    options
        Fields that the user adds to each request, as they are.
    form
        How replies are asked for; empty for what suits the server best.
    """

    best_form: Form = "text"
    optional: tuple[str, ...] = ()  # fields that are sent unasked, and can be done without
    unasked: tuple[str, ...] = ()  # those of them that make no other request of it

    def __init__(
        self,
        name: str,
        *,
        model: str,
        url: str,
        key: str,
        keyless: str = "",
        options: Mapping[str, Any] | None = None,
        form: Form | None = None,
    ) -> None:
        self.name = name
        self._keyless = keyless
        self.window: int | None = None
        self._model = model
        self._url = url
        self._key = key
        self._options = dict(options or {})
        self._sent: set[str] = set()  # the fields of the last request that it can do without
        self._guessed: set[str] = set()  # those that are left out in case it refuses them
        self._form: Form = form or self.best_form

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"  # never the key

    @property
    def form(self) -> Form:
        """How replies are asked for: as text where the server refuses tools."""
        return "text" if "tools" in self.refused else self._form

    @property
    def refused(self) -> set[str]:
        """The fields that this server has refused for this model since Python started."""
        return _refused[self._url, self._model]

    async def check(self) -> None:
        """See that a server listens at the URL; what goes by a proxy is not tried.

        Raises
        ------
        UsageError
            Nobody listens there.
        """
        parts = urlsplit(self._url)
        if not parts.hostname or parts.scheme in getproxies():
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(10):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "no answer within 10 s"
            raise UsageError(
                f"no server answers at {parts.scheme}://{parts.netloc} ({reason}); "
                "is it running, and is the address right?"
            ) from None
        writer.close()

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply; whatever goes wrong raises `ModelError`."""
        while True:
            begun = ended = False
            try:
                async with aclosing(self._deltas(messages)) as deltas:
                    async for delta in deltas:
                        begun = True
                        ended |= delta.end is not None
                        self._note(delta)
                        yield replace(delta, kept=_encodable(delta.kept)) if delta.kept else delta
                if not ended:
                    raise broken_off(self.name)
                _taken.add((self._url, self._model))
                return
            except AgentError:
                raise
            except Exception as error:
                if isinstance(error, UnicodeEncodeError) and messages != _encodable(messages):
                    messages = _encodable(messages)
                    continue
                problem = await fault(self.name, error, self._key)
                if problem.kind == "auth" and self._keyless:
                    problem.args = (f"{problem}; {self._keyless}",)
                if problem.window and problem.window < _fitted[self._url, self._model]:
                    problem.window = None  # it is another number that was read
                if begun or not (self._learn(problem) or self._guess(problem, error)):
                    told = self._key in "".join(traceback.format_exception(error))
                    raise problem from (None if told else error)

    def _note(self, delta: Delta) -> None:
        """Remember how much fits the model."""
        if delta.usage:
            where = (self._url, self._model)
            _fitted[where] = max(_fitted[where], delta.usage.total)

    def list_request(self) -> tuple[str, dict[str, str]]:
        """Return the URL of the server's list of models, and the headers that it wants."""
        raise NotImplementedError

    def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Ask once, by this server's client; raise what the client raises."""
        raise NotImplementedError

    def _fields(self, **ours: Any) -> dict[str, Any]:
        """Put together the fields of a request that this server has not refused."""
        fields = ours | self._options
        fields = {name: value for name, value in fields.items() if name not in self.refused}
        self._sent = set(fields)
        return fields

    def _learn(self, problem: ModelError) -> bool:
        """Leave out a field that the server names in its refusal; return whether to ask again."""
        if problem.kind != "bad_request":
            return False
        for field in (*self._options, *self.optional):
            named = re.search(rf"(?<![\w-]){re.escape(field)}(?!\w)", problem.said)
            if named and field in self._sent - self.refused:
                self.refused.add(field)
                logging.getLogger(__name__).warning(
                    "%s refuses %r; asked again without it", self.name, field
                )
                if field == "tools":  # the messages were written for them
                    problem.passing, problem.retry_after = True, 0.0
                return field != "tools"
        return False

    def _guess(self, problem: ModelError, error: Exception) -> bool:
        """Leave out what nobody asked for, once, where a first refusal names no field."""
        status = getattr(getattr(error, "response", None), "status_code", 0)
        fields = self._sent.intersection(self.unasked) - self.refused - self._options.keys()
        if self._guessed:  # it was not that
            self.refused.difference_update(self._guessed)
            self._guessed = set()
        elif status in (400, 422) and problem.kind == "bad_request" and not problem.passing:
            self._guessed = set() if (self._url, self._model) in _taken else fields
            self.refused.update(self._guessed)
        return bool(self._guessed)


def _encodable(value: T) -> T:
    """Replace what no file and no request can hold: lone surrogates, numbers that are none."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    replaced: T = json.loads(text, parse_constant=lambda _: None)
    return replaced


def vendor_settings(name: str, vendor: str, *, url: str, instead: str = "") -> dict[str, str]:
    """Find what a vendor's own client wants: the model, the key, and a base URL without /v1.

    Parameters
    ----------
    url
        Where the vendor's server is, unless the environment says otherwise.
    instead
        What to do without the client.

    Raises
    ------
    UsageError
        The extra is not installed, the key is missing or the URL is not one.
    """
    extra, _, model = name.partition(":")
    if importlib.util.find_spec(extra) is None:
        install = f'pip install "jupyter-agent-kernel[{extra}]"'
        raise UsageError(f"{name} needs {vendor}'s client: run `{install}`{instead}")
    key = _key_from(f"{extra.upper()}_API_KEY", name)
    base = server_url(os.environ.get(f"{extra.upper()}_BASE_URL") or url)
    return {"model": model, "key": key, "url": base.removesuffix("/v1")}


def _key_from(variable: str, name: str) -> str:
    if key := os.environ.get(variable, "").strip():
        return checked_key(key, variable)
    empty = ", which is empty" * (variable in os.environ)
    raise UsageError(f"{name} needs a key: set {variable}{empty}")


def checked_key(key: str, origin: str) -> str:
    """See that a key can be sent; what refuses it later would show it.

    Raises
    ------
    UsageError
        It holds a blank, a line's end or another character that no header may have.
    """
    if key.isascii() and key.isprintable() and " " not in key:
        return key
    raise UsageError(
        f"{origin} holds a character that no key has, such as a blank; copy the key again"
    )


def origin(name: str) -> str:
    """Say which server a model's name or a URL names: scheme, host and port; empty for none."""
    if not name.startswith(("http://", "https://")):
        return ""
    try:
        parts = urlsplit(server_url(name.partition("#")[0]))
    except UsageError:
        return ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def server_url(base: str) -> str:
    """Check a base URL, and take the path of a reply from its end.

    Raises
    ------
    UsageError
        It is not a URL of HTTP, or it holds a key, which would be shown and saved with it.
    """
    base = base.strip()
    if not base.isascii() or not base.isprintable() or " " in base:  # a reader might skip those
        raise UsageError(
            f"{base!a} is not a server's URL: it holds a blank, a control character or a letter "
            "that is not ASCII; write such letters of a host as xn--..., others as %.."
        )
    try:
        parts = urlsplit(base)
        there = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        secret = "@" in parts.netloc or any(map(_SECRET.search, parse_qs(parts.query)))
    except ValueError:
        there, secret = False, "@" in base
    if secret:
        raise UsageError(
            "the server's URL holds a password or a key; remove it, and set it as "
            "JUPYTER_AGENT_API_KEY (or as OPENAI_API_KEY, ANTHROPIC_API_KEY)"
        )
    if not there:
        raise UsageError(f"{base!r} is not a server's URL; write it as http://HOST:PORT/v1")
    path = parts.path.rstrip("/")
    for end in ("/chat/completions", "/responses", "/messages"):
        path = path.removesuffix(end)
    return parts._replace(path=path).geturl()
