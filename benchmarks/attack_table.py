"""Write docs/attacks.md and the README's summary from what tests/test_escape.py found."""

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
BEGIN, END = "<!-- attacks -->", "<!-- /attacks -->"
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
    """Write both tables where they belong."""
    results: Results = json.loads(RESULTS.read_text())
    text = """# What was tried against the sandbox

Each line is a test of `tests/test_escape.py`, run as root and as an ordinary user, with decoys.
"not here": what the attack needs is not on the machine that made this table. Written by
`benchmarks/attack_table.py`.

"""
    (ROOT / "docs" / "attacks.md").write_text(text + "\n".join(rows(results)) + "\n")
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(["", *summary(results), ""])
    (ROOT / "README.md").write_text(f"{before}{BEGIN}{table}{END}{after}")


if __name__ == "__main__":
    main()
