"""Print the table of attacks for the README, from what tests/test_escape.py has written down."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "tests" / "screenshots" / "attacks.json"
COLUMNS = {
    "plain kernel": ["plain root"],
    "bubblewrap": ["bubblewrap root", "bubblewrap user"],
    "Landlock": ["landlock root", "landlock user"],
}


def cell(found: list[dict[str, Any]]) -> str:
    """Sum up an attack in one column; as root and as a user it may end differently."""
    verdicts = sorted({each["verdict"] for each in found})
    if verdicts == ["not possible"]:
        return f"not here: {found[0]['detail']}"
    return {"works": "**works**", "stopped": "stopped"}.get(" ".join(verdicts), ", ".join(verdicts))


def main() -> None:
    """Print Markdown, one row for each attack, in the order in which they were run."""
    results = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS).read_text())
    print(f"| The agent's code can ... | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name in results["plain root"]:
        cells = []
        for runs in COLUMNS.values():
            cells.append(cell([results[run][name] for run in runs if run in results]))
        print(f"| {name.replace('|', '/')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
