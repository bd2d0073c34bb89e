"""Models: a string names one, and what it names streams replies.

Each wire protocol has a file of its own, imported when a model of its kind is asked for.
"""

from __future__ import annotations

import os

from jupyter_agent.errors import UsageError
from jupyter_agent.protocol import Model

__all__ = ["FORMS", "choose_model", "load_model"]

FORMS = {
    "hf:ORG/NAME": "a model on the Hugging Face Hub, through Inference Providers (HF_TOKEN)",
    "openai:NAME": "OpenAI, or the server at OPENAI_BASE_URL (OPENAI_API_KEY)",
    "http://HOST/v1#NAME": "any OpenAI-compatible server (JUPYTER_AGENT_API_KEY if it wants a key)",
    "ollama:NAME": "Ollama on this machine, or at OLLAMA_HOST",
    "local": "SmolLM2-135M on this machine, to try the machinery: no key, no network",
    "scripted:FILE": "replies read from a Markdown file, for tests and demos",
}
HUB_DEFAULT = "hf:Qwen/Qwen3-Coder-480B-A35B-Instruct"


def choose_model(asked: str = "") -> str:
    """Say which model to use: the one asked for, JUPYTER_AGENT_MODEL, or the Hub's if it may be.

    Raises
    ------
    UsageError
        None of them is there; the message names the ways to get one.
    """
    if chosen := asked or os.environ.get("JUPYTER_AGENT_MODEL", ""):
        return chosen
    from huggingface_hub import get_token

    if get_token():
        return HUB_DEFAULT
    raise UsageError(
        "no model is named: give -m MODEL or set JUPYTER_AGENT_MODEL, for example "
        "hf:ORG/NAME after `hf auth login`, openai:NAME with OPENAI_API_KEY, ollama:NAME, "
        "http://HOST/v1#NAME, or local (a small demo model)"
    )


def load_model(name: str) -> Model:
    """Make the model that a string names; nothing is sent or spent yet.

    Raises
    ------
    UsageError
        The string has none of the `FORMS`, a key is missing, or a file cannot be used.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "hf" | "openai" | "ollama" | "http" | "https" if rest:
            from jupyter_agent.models.hub import load

            return load(name)
        case "local":
            from jupyter_agent.models.local import LocalModel

            return LocalModel(rest)
        case "scripted" if rest:
            from jupyter_agent.models.scripted import ScriptedModel

            return ScriptedModel.load(rest)
    raise UsageError(f"unknown model {name!r}: use one of {', '.join(FORMS)}")
