"""Write docs/faults.md from what tests/test_models_faults.py found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tests" / "screenshots" / "faults.json"
ADAPTERS = {
    "openai:x": "OpenAI's Responses",
    "anthropic:x": "Anthropic's Messages",
    "hf:org/x": "chat completions",
}
TEXT = """# Faults of a model's server, and what a run does

Each line is a test in `tests/test_models_faults.py`: the real clients (huggingface_hub, openai,
anthropic) talk to a server on loopback that has this fault twice in a row. In every case no code of
the broken reply ran, the notebook held nothing of it, and the token of the Hugging Face Hub was
sent only to the Hub. "Again" means that the reply is asked for again, as `Agent.retries`,
`Agent.retry_wait` and `Agent.retry_seconds` say; every view shows the wait. Where the clients give
different messages, each is named. `benchmarks/fault_table.py` writes this page.

| fault | kind | again | message, after the model's name |
|---|---|---|---|
"""


def row(name: str, found: dict[str, dict[str, Any]]) -> str:
    """Write the row of one fault."""
    texts: dict[str, list[str]] = {}
    for adapter, title in ADAPTERS.items():
        texts.setdefault(found[adapter]["text"], []).append(title)
    if len(texts) == 1:
        said = next(iter(texts))
    else:
        said = "<br>".join(f"{', '.join(titles)}: {text}" for text, titles in texts.items())
    first = found["openai:x"]
    cells = [name, first["kind"], "yes" if first["again"] else "no", said.replace("|", "/")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the table."""
    results = json.loads(RESULTS.read_text())
    rows = [row(name, found) for name, found in results.items()]
    (ROOT / "docs" / "faults.md").write_text(TEXT + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
