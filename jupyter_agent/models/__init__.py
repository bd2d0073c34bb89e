"""Models: make the model that a name such as ``hf:ORG/NAME`` stands for.

Each wire protocol has its own module, which is imported when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_agent.errors import NoModel, UsageError
from jupyter_agent.models.http import server_url
from jupyter_agent.models.protocol import Form, Model

__all__ = ["FORMS", "choose_model", "load_model"]

FORMS = {
    "hf:ORG/NAME": "a model on the Hugging Face Hub, through Inference Providers (HF_TOKEN)",
    "openai:NAME": "OpenAI, or the server at OPENAI_BASE_URL that speaks its Responses API "
    "(OPENAI_API_KEY)",
    "anthropic:NAME": "Anthropic, or the server at ANTHROPIC_BASE_URL (ANTHROPIC_API_KEY)",
    "http://HOST/v1#NAME": "any OpenAI-compatible server (JUPYTER_AGENT_API_KEY if it wants a key, "
    "and is the one that JUPYTER_AGENT_MODEL or c.Session.model names)",
    "ollama:NAME": "Ollama on this machine, or at OLLAMA_HOST",
    "local:FILE.gguf": "a GGUF file that llama.cpp runs on this machine: no key, no network",
    "local": "SmolLM2-135M on this machine, to try the machinery",
    "scripted:FILE": "replies read from a Markdown file, for tests and demos",
}


def choose_model(asked: str = "", *, used: Sequence[str] = ()) -> str:
    """Return the model to use: as asked, JUPYTER_AGENT_MODEL, the last used, the Hub's default.

    Parameters
    ----------
    used
        The models that were used before, the last one first.

    Raises
    ------
    NoModel
        There is none.
    UsageError
        The name holds a key.
    """
    if chosen := asked or os.environ.get("JUPYTER_AGENT_MODEL", "") or next(iter(used), ""):
        if not chosen.isprintable():
            raise UsageError(f"the model's name {chosen!a} has invisible characters; type it again")
        if chosen.startswith(("http:", "https:")):
            server_url(chosen.partition("#")[0])  # it is shown and saved, so it must hold no key
        return chosen
    from huggingface_hub import get_token

    from jupyter_agent.models.chat_completions import HUB_DEFAULT

    if get_token():
        return HUB_DEFAULT
    raise NoModel(
        "no model is named: use -m MODEL or set JUPYTER_AGENT_MODEL; %agent models (in a terminal "
        "jupyter agent models) lists what can be used"
    )


def load_model(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    form: Form | None = None,
    configured: str = "",
) -> Model:
    """Make the model of a name; nothing is sent or spent yet.

    Parameters
    ----------
    options
        Fields that are added to each request to a server, as they are.
    form
        How replies are asked for; None for what suits the server best.
    configured
        The model in the settings: a key is sent only to its server.

    Raises
    ------
    UsageError
        The string has none of the `FORMS`, a key is missing, or a file cannot be used.
    """
    kind, _, rest = name.partition(":")
    settings: dict[str, Any] = {"options": options, "form": form}
    match kind:
        case "hf" | "ollama" | "http" | "https" if rest:
            from jupyter_agent.models import chat_completions

            return chat_completions.load(name, configured=configured, **settings)
        case "openai" if rest:
            from jupyter_agent.models import openai_responses

            return openai_responses.load(name, **settings)
        case "anthropic" if rest:
            from jupyter_agent.models import anthropic_messages

            return anthropic_messages.load(name, **settings)
        case "local" if rest or name == "local":
            from jupyter_agent.models import local

            return local.load(rest, **settings)
        case "scripted" if rest:
            from jupyter_agent.models.scripted import ScriptedModel

            return ScriptedModel.load(rest)
    from jupyter_agent.models.available import suggestion

    near = suggestion(name)
    advice = f"is it {near}?" if near else f"use one of {', '.join(FORMS)}"
    raise UsageError(f"unknown model {name!r}: {advice}")
