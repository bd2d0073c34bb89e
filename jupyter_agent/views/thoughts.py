"""Show what a model thought before a cell, where its service gives the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jupyter_agent._unicode import visible_prose
from jupyter_agent.sandbox.filter.markdown import Clean, clean_markdown

__all__ = ["folded_thought", "thought_of"]

MAX_THOUGHT = 20_000  # characters that are shown
_FIELDS = (
    "thinking",
    "reasoning_details",
    "reasoning_content",
    "reasoning",
    "summary",
    "content",
    "text",
)


def thought_of(facts: Mapping[str, Any]) -> str:
    """Return the text of the thoughts that a cell's metadata keep for the model; maybe none."""
    kept = facts.get("kept")
    items = kept.get("items") if isinstance(kept, Mapping) else None
    text = "\n\n".join(_texts(items)) if isinstance(items, list) else ""
    return visible_prose(text.strip()[:MAX_THOUGHT])


def _texts(value: object, depth: int = 4) -> Iterator[str]:
    """Yield the texts in what services send: texts, or lists of details with texts."""
    match value:
        case str() if value.strip():
            yield value
        case list() if depth:
            for item in value:
                yield from _texts(item, depth - 1)
        case Mapping() if depth:
            found = next((value[name] for name in _FIELDS if value.get(name)), None)
            yield from _texts(found, depth - 1)


def folded_thought(thought: str) -> Clean:
    """Return a thought as Markdown that is folded away, to stand before its cell."""
    if not thought:
        return Clean("")
    inside = clean_markdown(thought)
    return Clean(f"<details>\n<summary>reasoning</summary>\n\n{inside}\n\n</details>\n\n")
