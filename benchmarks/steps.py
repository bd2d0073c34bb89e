"""How long a step takes at the beginning and at the end of a long run, beyond its cell.

A script replies, so what is measured is ours: the reply's cells, the request, the sandbox, the
file. Beside it stands the round trip of the same code to the same kernel, without a run.

    python benchmarks/steps.py [STEPS]
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from traitlets.config import Config

from jupyter_agent.session import Session
from jupyter_agent.transcript.metadata import KEY

FENCE = "```"
REPLY = f"""\
I look at part {{number}} of the table, and print the sums of its columns.

{FENCE}python
part = [row * {{number}} for row in range(50)]
total = sum(part)
for start in range(0, 50, 10):
    print(start, part[start], total)
{FENCE}
<!-- next reply -->
"""
AROUND = 8  # steps before and after the one that is named


def code(number: int) -> str:
    """Return the code of a reply."""
    return REPLY.format(number=number).split(f"{FENCE}python\n")[1].split(f"\n{FENCE}")[0]


async def kernel_alone(session: Session, count: int) -> list[float]:
    """Time cells in the sandbox, in milliseconds."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        async with aclosing(session.sandbox.execute(code(number))) as outputs:
            async for _ in outputs:
                pass
        times.append((time.perf_counter() - began) * 1000)
    return times


async def run(session: Session, script: Path, save: str | None) -> list[float]:
    """Carry a run out; return how long each step took, in milliseconds."""
    ends = []
    changes = session.run("Look at it all", model=f"scripted:{script}", save=save)
    async with aclosing(changes):
        async for change in changes:
            if change.done and change.cell.metadata[KEY]["role"] == "code":
                ends.append(time.perf_counter())
    return [(after - before) * 1000 for before, after in itertools.pairwise(ends)]


def around(times: list[float], step: int) -> float:
    """Return the median of the steps around one."""
    return statistics.median(times[max(0, step - AROUND) : step + AROUND])


async def measure(steps: int) -> None:
    """Print the table."""
    config = Config(
        {"Agent": {"max_steps": steps + AROUND + 2}, "SandboxProvisioner": {"data": []}}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replies = [REPLY.format(number=number) for number in range(steps + AROUND + 1)]
        (folder / "script.md").write_text("".join(replies) + "Done.\n")
        print(
            f"{'':24}{'step 10':>10}{f'step {steps}':>10}{'ratio':>8}{'kernel':>10}{'beyond':>18}"
        )
        for title, save in (("in memory", None), ("with --save", "run.ipynb")):
            session = Session(folder, config=config)
            try:
                times = await run(session, folder / "script.md", save)
                alone = statistics.median(await kernel_alone(session, 100))
            finally:
                await session.close()
            first, last = around(times, 10), around(times, steps)
            beyond = f"{first - alone:.1f}, {last - alone:.1f}"
            print(
                f"{title:16}{first:9.1f} ms{last:9.1f} ms{last / first:12.2f}{alone:9.1f} ms"
                f"{beyond:>12} ms"
            )


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
