"""Measure how fast values are copied in and out, in rows per second, and tools called.

Beside it what JSON and pickle would take on the host alone, without any sandbox: pickle is what
other projects use, and reading one from a sandbox runs its code.

    python benchmarks/transfers.py [ROWS]
"""

from __future__ import annotations

import asyncio
import io
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import aclosing

import numpy as np
import pandas as pd
from traitlets.config import Config

from jupyter_agent.exchange.tools import Tool, Tools
from jupyter_agent.exchange.values import Inputs, unpack
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.guest.codec import encode

CALLS = 1000
TIMES = 5


def table(rows: int) -> pd.DataFrame:
    """Make a table of ten columns: seven of floats, one each of ints, text and dates."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"f{n}": rng.standard_normal(rows) for n in range(7)})
    frame["i"] = rng.integers(0, 1000, rows)
    frame["s"] = rng.choice(["alpha", "beta", "gamma", "delta"], rows)
    frame["t"] = pd.date_range("2020", periods=rows, freq="s")
    return frame


def show(what: str, rows: int, seconds: list[float]) -> None:
    """Print the median of some times, and what it means."""
    median = statistics.median(seconds)
    print(f"{what:<34}{median * 1000:>9,.0f} ms{rows / median:>14,.0f} a second")


async def transfer(tier: str, frame: pd.DataFrame) -> None:
    """Send a table in and out, and call a tool."""

    def echo(text: str) -> str:
        return text

    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(config=config) as sandbox:
        into, out = [], []
        for _ in range(TIMES + 1):  # the first one imports pandas
            start = time.perf_counter()
            await sandbox.call("take", encode(Inputs({"df": frame}).packed))
            into.append(time.perf_counter() - start)
            start = time.perf_counter()
            values, _ = await unpack(await sandbox.call("give", encode(["df"])), ["df"])
            out.append(time.perf_counter() - start)
        pd.testing.assert_frame_equal(values["df"], frame)
        show(f"{tier}: in", len(frame), into[1:])
        show(f"{tier}: out", len(frame), out[1:])
        tools = Tools([Tool.of(echo)], ask=None, max_calls=CALLS + 1)
        await sandbox.call("offer", encode(tools.specs()))
        for size, calls in ((10, CALLS), (1 << 20, 20)):
            code = f"text = 'x' * {size}\nfor _ in range({calls}):\n    echo(text)"
            start = time.perf_counter()
            answer = tools.start_cell()
            async with aclosing(sandbox.execute(code, answer=answer)) as outputs:
                async for output in outputs:
                    raise SystemExit(str(output))
            took = [time.perf_counter() - start]
            show(f"{tier}: {calls:,} calls of {size:,} bytes", calls, took)


def timed(what: str, rows: int, function: Callable[[], object], times: int) -> None:
    """Print what a function takes."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    show(what, rows, seconds)


def main() -> None:
    """Measure and print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    frame = table(rows)
    print(
        f"{rows:,} rows x {frame.shape[1]} columns, {frame.memory_usage(deep=True).sum():,} bytes"
    )
    for tier in ("bubblewrap", "landlock"):
        asyncio.run(transfer(tier, frame))
    pickled = pickle.dumps(frame, protocol=5)
    text = frame.to_json(orient="split", date_format="iso")
    timed("pickle: write, on the host alone", rows, lambda: pickle.dumps(frame, protocol=5), TIMES)
    timed("pickle: read", rows, lambda: pickle.loads(pickled), TIMES)
    timed("JSON: write", rows, lambda: frame.to_json(orient="split", date_format="iso"), 1)
    timed("JSON: read", rows, lambda: pd.read_json(io.StringIO(text), orient="split"), 1)


if __name__ == "__main__":
    main()
