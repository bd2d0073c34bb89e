"""Write docs/attacks.md from what tests/test_escape.py found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.attacks import ATTACKS  # noqa: E402  # the tests are no package that is installed

Results = dict[str, dict[str, dict[str, Any]]]
RESULTS = ROOT / "tests" / "screenshots" / "attacks.json"
RULE = "|---|---|---|---|"
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


def rows(results: Results) -> list[str]:
    """Write one row for each attack, in the order in which they were run."""
    written = [f"| The agent's code can ... | {' | '.join(COLUMNS)} |", RULE]
    for name in results["plain root"]:
        cells = [cell([results[run][name] for run in runs]) for runs in COLUMNS.values()]
        written.append(f"| {name.replace('|', '/')} | {' | '.join(cells)} |")
    return written


def summary(results: Results) -> list[str]:
    """Count, for each group, the attacks that work; as root or as a user is enough."""
    groups: dict[str, list[str]] = {}
    for attack in ATTACKS:
        groups.setdefault(attack.group, []).append(attack.name)
    written = [f"| attacks that work | {' | '.join(COLUMNS)} |", RULE]
    for group, names in groups.items():
        counts = [
            sum(any(results[run][name]["verdict"] == "works" for run in runs) for name in names)
            for runs in COLUMNS.values()
        ]
        written.append(f"| {group} ({len(names)}) | {' | '.join(map(str, counts))} |")
    return written


def main() -> None:
    """Write the page."""
    results: Results = json.loads(RESULTS.read_text())
    intro = """# What was tried against the sandbox

These attacks were tried in a plain kernel and in both sandbox tiers, each as root and as an
ordinary user, with decoy files. Each is a test in `tests/test_escape.py`. How many of them work:

"""
    notes = """

[SECURITY.md](../SECURITY.md) names those that still work. "not here" means that the machine on
which this table was made lacks what the attack needs. `benchmarks/attack_table.py` writes this
page.

"""
    text = intro + "\n".join(summary(results)) + notes + "\n".join(rows(results)) + "\n"
    (ROOT / "docs" / "attacks.md").write_text(text)


if __name__ == "__main__":
    main()
