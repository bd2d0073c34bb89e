"""What `%load_ext jupyter_agent` adds to the start of IPython, side by side, in seconds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
BARE = [sys.executable, "-m", "IPython", "--no-banner", "-c", "pass"]
LOADED = [*BARE[:-1], "%load_ext jupyter_agent"]


def seconds(command: list[str]) -> float:
    """Time one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Run both in turn, so that the machine's load falls on both alike."""
    for command in (BARE, LOADED):
        seconds(command)  # fill the caches
    pairs = [(seconds(BARE), seconds(LOADED)) for _ in range(ROUNDS)]
    bare, loaded = (statistics.median(times) for times in zip(*pairs, strict=True))
    added = statistics.median(loaded - bare for bare, loaded in pairs)
    print(f"ipython -c pass                     {bare:.3f} s (median of {ROUNDS})")
    print(f"ipython -c '%load_ext jupyter_agent' {loaded:.3f} s, ratio {loaded / bare:.2f}")
    print(f"added by %load_ext                  {added:+.3f} s (median of differences)")


if __name__ == "__main__":
    main()
