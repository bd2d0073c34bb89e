"""Every attack of the table, in both tiers, as root and as an ordinary user, and unconfined."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .as_user import UID, as_user
from .attacks import ATTACKS
from .battery import MISSING, ROOT, Attack

# The first test waits for its whole configuration. Root makes users for this alone: the limit of
# processes counts all that a user has, a browser of another test too.
pytestmark = [pytest.mark.timeout(700), pytest.mark.root]
RESULTS = Path(__file__).parent / "screenshots" / "attacks.json"  # for benchmarks/attack_table.py
CONFIGURATIONS = [
    ("plain", "root"),
    ("bubblewrap", "root"),
    ("bubblewrap", "user"),
    ("landlock", "root"),
    ("landlock", "user"),
]

Found = dict[str, dict[str, Any]]


def run(tier: str, user: str) -> Found:
    """Run the whole table once, in a process of its own."""
    world = Path(tempfile.mkdtemp(prefix="attacks-"))
    try:
        secret = f"decoy{secrets.token_hex(8)}"
        (world / "secret").write_text(secret)
        shutil.copy("/usr/bin/id", world / "setuid")
        (world / "setuid").chmod(0o4755)
        command = [sys.executable, "-c", "from tests.battery import main; main()", tier, str(world)]
        if user == "user":
            for path in (world, world / "secret"):
                os.chown(path, UID, UID)
            command = as_user(command)
        world.chmod(0o755)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DECOY_API_KEY": secret}
        log = world / "log"  # no pipe: what an attack leaves behind would hold it open
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=600)
            process.kill()
            process.wait()
        path = world / f"{tier}.json"
        assert path.exists(), log.read_text()[-3000:]
        found: Found = json.loads(path.read_text())
        return found
    finally:
        shutil.rmtree(world, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[Found]]]:
    """Run all configurations that are asked for, two at a time; write down what they found."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = {(each.params.get("tier"), each.params.get("user")) for each in parameters if each}
    with ThreadPoolExecutor(2) as pool:
        started = {pair: pool.submit(run, *pair) for pair in CONFIGURATIONS if pair in chosen}
        yield started
    done = {" ".join(pair): each.result() for pair, each in started.items() if not each.exception()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(done, indent=1))


@pytest.mark.parametrize(("tier", "user"), CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_works_where_nothing_stops_it_and_nowhere_else(
    attack: Attack, tier: str, user: str, runs: dict[tuple[str, str], Future[Found]]
) -> None:
    whole = runs[tier, user]
    assert not whole.exception(), whole.exception()  # not raised anew: its traceback would grow
    found = whole.result()[attack.name]
    if tier == "plain":
        impossible = attack.plain or MISSING in found["detail"]
        expected = "not possible" if impossible else "works"
    else:
        known = attack.known.keys() & {tier, f"{tier} {user}"}
        expected = "works" if known else "stopped"
    assert found["verdict"] == expected, found["detail"]


def test_there_are_many_attacks_and_each_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    assert len(names) >= 60


def test_security_md_owns_up_to_each_attack_that_is_known_to_work() -> None:
    text = " ".join((ROOT / "SECURITY.md").read_text().split())
    for attack in ATTACKS:
        for words in attack.known.values():
            assert words in text, attack.name
