"""What the sandbox costs: a sandboxed kernel beside a plain one, in one run, in turn.

``plain`` is the kernelspec python3 over tcp, as users have it; ``plain ipc`` the same over unix
sockets, which the sandbox uses too. Ratios are medians of the ratios of each round, so that a load
that comes and goes falls on both sides. Nothing is asserted: aims stand beside the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import bubblewrap, landlock

STARTS = 12
ROUND_TRIPS = 300
FLOODS = 8
LINES, LINE = 200_000, "x" * 99  # 20 MB with the line ends
FLOOD = f"for _ in range({LINES}):\n    print({LINE!r})"

Kernel = tuple[AsyncKernelManager, AsyncKernelClient]
Item = TypeVar("Item")
Round = dict[str, float]  # of each kind of kernel, what was measured


@dataclass(frozen=True)
class Kind:
    """A way to have a Python kernel."""

    name: str
    kernelspec: str
    transport: str = "tcp"
    isolation: str = "auto"

    async def start(self, folder: str) -> Kernel:
        """Start a kernel and wait for the reply to its first code."""
        config = Config({"SandboxProvisioner": {"isolation": self.isolation}})
        manager = AsyncKernelManager(
            kernel_name=self.kernelspec, transport=self.transport, config=config
        )
        if self.transport == "ipc":
            manager.ip = f"{folder}/s{time.monotonic_ns()}"
        quiet = {"stderr": asyncio.subprocess.DEVNULL} if self.kernelspec == "python3" else {}
        await manager.start_kernel(cwd=folder, **quiet)
        client = manager.client()
        client.start_channels(stdin=False, hb=False)
        await execute(client, "x=1", idle=False)
        return manager, client


PLAIN = Kind("plain", "python3")
PLAIN_IPC = Kind("plain ipc", "python3", transport="ipc")
TIERS = [
    Kind("bubblewrap", "python3-sandboxed", isolation="bubblewrap"),
    Kind("landlock", "python3-sandboxed", isolation="landlock"),
]
NAMES = [*(kind.name for kind in (PLAIN, PLAIN_IPC, *TIERS)), "spare"]


async def execute(client: AsyncKernelClient, code: str, *, idle: bool = True) -> int:
    """Run code until its reply, and until the kernel is idle; return the bytes it printed."""
    msg_id, printed = client.execute(code, allow_stdin=False), 0
    while idle:
        message = await client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == msg_id:
            printed += len(message["content"].get("text", ""))
            idle = message["content"].get("execution_state") != "idle"
    while (await client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != msg_id:
        pass
    return printed


async def end(kernel: Kernel) -> None:
    """Stop a kernel."""
    manager, client = kernel
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


@contextlib.asynccontextmanager
async def started(kinds: list[Kind], folder: str) -> AsyncIterator[dict[str, Kernel]]:
    """Have one idle kernel of each kind, whose first messages have been read."""
    async with contextlib.AsyncExitStack() as stack:
        kernels = {}
        for kind in kinds:
            kernels[kind.name] = kernel = await kind.start(folder)
            stack.push_async_callback(end, kernel)
            await kernel[1].wait_for_ready(timeout=60)
            await execute(kernel[1], "x=1")
        yield kernels


# -- what is measured


async def cold_starts(kinds: list[Kind], folder: str) -> tuple[list[Round], list[Round]]:
    """Time starts to the first reply, in milliseconds; then weigh the idle kernels, in MiB."""
    times: list[Round] = []
    sizes: list[Round] = []
    for number in range(STARTS + 1):
        kernels, took = {}, {}
        for kind in rotated(kinds, number):
            since = time.perf_counter()
            kernels[kind.name] = await kind.start(folder)
            took[kind.name] = (time.perf_counter() - since) * 1000
        sizes.append({name: memory(kernel[0]) for name, kernel in kernels.items()})
        times.append(took)
        for kernel in kernels.values():
            await end(kernel)
    return times[1:], sizes[1:]  # the first round fills the caches


async def warm_starts(colds: list[Round]) -> list[Round]:
    """Time a first reply from a spare kernel, beside the cold starts of plain ones."""
    rounds: list[Round] = []
    sandbox = Sandbox(spare=True)
    try:
        await _first_reply(sandbox)
        for cold in colds:
            while sandbox._spare.starting is None or not sandbox._spare.starting.done():
                await asyncio.sleep(0.05)
            since = time.perf_counter()
            await sandbox.restart()
            await _first_reply(sandbox)
            plain = {name: cold[name] for name in (PLAIN.name, PLAIN_IPC.name)}
            rounds.append(plain | {"spare": (time.perf_counter() - since) * 1000})
    finally:
        await sandbox.close()
    return rounds


async def _first_reply(sandbox: Sandbox) -> None:
    async for _ in sandbox.execute("1"):
        pass


def memory(manager: AsyncKernelManager) -> float:
    """Sum the proportional set sizes of a kernel's processes, in MiB."""
    assert manager.provisioner
    total = 0
    for pid in family(manager.provisioner.process.pid):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except PermissionError:
            return math.nan
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def family(pid: int) -> list[int]:
    """Name a process and all that it has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return [pid, *itertools.chain.from_iterable(family(int(child)) for child in children)]


async def in_turn(
    kernels: dict[str, Kernel], rounds: int, measure: Callable[[Kernel], Awaitable[float]]
) -> list[Round]:
    """Measure the kernels one after the other, round by round, each time from another on."""
    results = []
    for number in range(rounds + 1):
        order = rotated(list(kernels), number)
        results.append({name: await measure(kernels[name]) for name in order})
    return results[1:]


def rotated(items: list[Item], number: int) -> list[Item]:
    """Begin with another one each time."""
    start = number % len(items)
    return items[start:] + items[:start]


async def round_trip(kernel: Kernel) -> float:
    """Time ``x=1`` to its reply and to idle, in milliseconds."""
    since = time.perf_counter()
    await execute(kernel[1], "x=1")
    return (time.perf_counter() - since) * 1000


async def flood(kernel: Kernel) -> float:
    """Return how fast printed lines arrive, in MB/s."""
    since = time.perf_counter()
    printed = await execute(kernel[1], FLOOD)
    assert printed == LINES * (len(LINE) + 1), printed
    return printed / 1e6 / (time.perf_counter() - since)


# -- what is printed


def show(title: str, aim: str, rounds: list[Round]) -> None:
    """Print the medians of one measure, and of its ratios to both plain kernels."""
    if not rounds:
        print(f"{title:<24}(not there yet)")
        return
    for name in sorted(rounds[0], key=NAMES.index):
        value = statistics.median(taken[name] for taken in rounds)
        least = min(taken[name] for taken in rounds)
        line = f"{title:<24}{name:<12}{value:8.1f} {least:8.1f}"
        if name != PLAIN.name:
            line += f"{ratio(rounds, name, PLAIN.name):9.3f}"
        if name not in (PLAIN.name, PLAIN_IPC.name):
            line += f"{ratio(rounds, name, PLAIN_IPC.name):9.3f}   {aim}"
        print(line)
        title = ""


def ratio(rounds: list[Round], name: str, other: str) -> float:
    """Take the median of each round's own ratio."""
    return statistics.median(taken[name] / taken[other] for taken in rounds)


async def main() -> None:
    """Measure all and print it."""
    since = time.perf_counter()
    problems = {"bubblewrap": bubblewrap.check(), "landlock": landlock.check()}
    preflight = (time.perf_counter() - since) * 1000
    for name, problem in problems.items():
        if problem:
            print(f"left out: {name} ({problem})")
    kinds = [PLAIN, PLAIN_IPC, *(kind for kind in TIERS if not problems[kind.name])]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"checks of the tiers, once in a process: {preflight:.0f} ms; {load}\n")
    print(f"{'':<36}{'median':>8} {'least':>8}{'/ plain':>9}{'/ ipc':>9}   aim")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        times, sizes = await cold_starts(kinds, folder)
        show(f"cold start, ms (n={STARTS})", "<= 1.15", times)
        show("warm start, ms", "<= 0.10", await warm_starts(times))
        show(f"idle PSS, MiB (n={STARTS})", "<= 1.05", sizes)
        async with started(kinds, folder) as kernels:
            trips = await in_turn(kernels, ROUND_TRIPS, round_trip)
            show(f"x=1, ms (n={ROUND_TRIPS})", "<= 1.10", trips)
            show(f"stdout, MB/s (n={FLOODS})", ">= 0.95", await in_turn(kernels, FLOODS, flood))
    print(f"\n{time.perf_counter() - since:.0f} s in all; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
