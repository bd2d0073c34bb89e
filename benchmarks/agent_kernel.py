"""What the agent kernel's front process costs: a sandbox with it beside the same without, in turn.

Ratios are medians of the ratios of each round. Nothing is asserted: aims stand beside the results.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile

from sandbox import Kind, Round, flood, in_turn, ratio, round_trip, started

ROUND_TRIPS = 300
FLOODS = 8
DIRECT, FRONT = Kind("direct", "python3-sandboxed"), Kind("agent", "jupyter-agent")


def show(title: str, aim: str, rounds: list[Round]) -> None:
    """Print the medians of one measure side by side, and their ratio."""
    direct, front = (statistics.median(taken[k.name] for taken in rounds) for k in (DIRECT, FRONT))
    print(f"{title:<24}{direct:9.1f}{front:9.1f}{ratio(rounds, 'agent', 'direct'):9.2f}   {aim}")


async def main() -> None:
    """Measure and print."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(f"{'':<24}{'direct':>9}{'agent':>9}{'ratio':>9}   aim")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with started([DIRECT, FRONT], folder) as kernels:
            trips = await in_turn(kernels, ROUND_TRIPS, round_trip)
            show(f"x=1, ms (n={ROUND_TRIPS})", "<= 1.50", trips)
            show(f"stdout, MB/s (n={FLOODS})", ">= 0.90", await in_turn(kernels, FLOODS, flood))


if __name__ == "__main__":
    asyncio.run(main())
