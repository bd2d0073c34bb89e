"""What the description of data costs and saves, in characters, replies and seconds.

Two scripted runs of the same task: in one the first cell looks at the file, as a strong model's did
in 23 of 24 tasks that were not described; in the other the model is told what it looks like. The
replies are fixed, so this shows what a look costs, not whether a model goes without.

    python benchmarks/prompt.py [MEGABYTES ...]

Each number is a CSV of that size whose description is timed, 100 by default; 1000 takes a minute to
write.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import aclosing
from importlib import resources
from pathlib import Path

from jupyter_agent.agent.summary import CHARACTERS_A_TOKEN
from jupyter_agent.exchange.data_notes import DataNotes
from jupyter_agent.session import Session
from jupyter_agent.transcript.metadata import facts_of

FENCE = "```"
TASK = "Which region of sales.csv has the highest mean amount?"
LOOK = f"""\
I look at the file first.

{FENCE}python
import pandas as pd

sales = pd.read_csv("sales.csv")
print(sales.shape)
print(sales.dtypes)
print(sales.isna().sum())
sales.head()
{FENCE}
"""
COMPUTE = f"""\
I compute the mean amount of each region.

{FENCE}python
import pandas as pd

sales = pd.read_csv("sales.csv")
sales.groupby("region")[" amount"].mean().sort_values(ascending=False)
{FENCE}
"""
ANSWER = "South has the highest mean amount, of the rows that have one."
BETWEEN = "\n<!-- next reply -->\n"
ROW = '{region},{amount},2024-01-{day:02},"a note, in quotes"\n'


def write_table(path: Path, size: int) -> None:
    """Write a CSV of about so many bytes."""
    block = "".join(
        ROW.format(
            region="NESW"[n % 4], amount=n * 7919 % 9973 / 10 if n % 11 else "", day=n % 28 + 1
        )
        for n in range(20_000)
    )
    with path.open("w") as file:
        file.write("region, amount,date,note\n")
        for _ in range(max(1, size // len(block))):
            file.write(block)


async def run(folder: Path, replies: list[str], *, described: bool) -> None:
    """Carry out the task with these replies, and print what it took."""
    (folder / "script.md").write_text(BETWEEN.join(replies))
    session = Session(folder, data_profile=described)
    try:
        async with aclosing(session.run(TASK, model=f"scripted:{folder / 'script.md'}")) as changes:
            async for _ in changes:
                pass
        cells = session.transcript.cells
        costs = [facts["usage"] for facts in map(facts_of, cells) if "usage" in facts]
        prompt = sum(cost["prompt"] for cost in costs)
        name = "described" if described else "with a look"
        print(
            f"{name:12} {len(costs)} replies, {prompt * CHARACTERS_A_TOKEN:6,} prompt characters, "
            f"about {prompt:5,} tokens"
        )
    finally:
        await session.close()


async def describe(folder: Path, megabytes: int) -> None:
    """Time the description of a CSV of this size, in a new sandbox and again."""
    path = folder / "sales.csv"
    write_table(path, megabytes * 1_000_000)
    session = Session(folder)
    try:
        await session.sandbox.start()
        for state in ("new sandbox", "again"):
            began = time.perf_counter()
            found = await DataNotes().write(TASK, session.sandbox, listed=["sales.csv"], cells=[])
            seconds = time.perf_counter() - began
            told = sum(map(len, found))
            print(
                f"{megabytes:5,} MB of CSV, {state}: {seconds:.2f} s, {told:,} characters, "
                f"about {told // CHARACTERS_A_TOKEN} tokens"
            )
        print(found[0].splitlines()[-1])
    finally:
        await session.close()


async def main() -> None:
    """Print it all."""
    system = resources.files("jupyter_agent.agent").joinpath("system.md").read_text()
    print(f"instructions: {len(system):,} characters")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "sales.csv", 1_000_000)
        await run(folder, [LOOK, COMPUTE, ANSWER], described=False)
        await run(folder, [COMPUTE, ANSWER], described=True)
    for megabytes in map(int, sys.argv[1:] or ["100"]):
        with tempfile.TemporaryDirectory() as name:
            await describe(Path(name), megabytes)


if __name__ == "__main__":
    asyncio.run(main())
