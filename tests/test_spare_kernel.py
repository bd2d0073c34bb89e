"""The kernel that is started before it is needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.spare_kernel import SpareKernel

from .run_code import text


class Kernel:
    """Stands for a kernel that has started."""

    closed = False

    async def close(self) -> None:
        self.closed = True


async def test_a_kernel_that_starts_as_its_taker_is_cancelled_is_ended() -> None:
    kernel, may_start = Kernel(), asyncio.Event()
    ends: list[Coroutine[Any, Any, None]] = []

    async def launch() -> Any:
        await may_start.wait()
        return kernel

    spare = SpareKernel(launch, ends.append)
    spare.start()
    started = spare.starting
    assert started
    taker = asyncio.create_task(spare.take())
    await asyncio.sleep(0)
    may_start.set()
    while not started.done():
        await asyncio.sleep(0)
    taker.cancel()  # before it has heard that the kernel is there
    with pytest.raises(asyncio.CancelledError):
        await taker
    for end in ends:
        await end
    assert kernel.closed


async def test_a_kernel_that_dies_before_any_code_ran_has_lost_nothing(folder: Path) -> None:
    sandbox = Sandbox(folder)
    sandbox.warm_up()
    for die in (spare_of, started):  # before it is taken, and after
        kernel = await die(sandbox)
        kernel.manager.provisioner.process.kill()
        await asyncio.wait({kernel._watcher})
        assert await text(sandbox, "1 + 1") == "2"
        await sandbox.restart()
    await sandbox.close()


async def started(sandbox: Sandbox) -> Any:
    await sandbox.start()
    return sandbox._kernel


async def test_a_spare_kernel_that_could_not_start_hinders_nothing(folder: Path) -> None:
    sandbox = Sandbox(folder, kernel_name="nosuch")
    sandbox.warm_up()
    assert sandbox._spare.starting
    await asyncio.wait({sandbox._spare.starting})
    sandbox.kernel_name = "python3-sandboxed"
    assert await text(sandbox, "1 + 1") == "2"
    await sandbox.close()


async def test_a_sandbox_that_is_closed_while_it_restarts_stays_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, new_processes: Callable[[], list[int]]
) -> None:
    looks, may_go_on = threading.Event(), threading.Event()

    def look(*_: object) -> bool:
        looks.set()
        return may_go_on.wait(30)

    sandbox = Sandbox(folder, spare=True)
    await text(sandbox, "x = 1")
    await spare_of(sandbox)
    monkeypatch.setattr(Sandbox, "_is_fresh", look)
    restarting = asyncio.create_task(sandbox.restart())
    await asyncio.to_thread(looks.wait, 30)
    closing = asyncio.create_task(sandbox.close())
    await asyncio.sleep(0.1)
    may_go_on.set()
    await asyncio.gather(restarting, closing)
    assert not sandbox.alive
    assert not new_processes()


async def spare_of(sandbox: Sandbox) -> Any:
    """The spare kernel, when it is there."""
    while sandbox._spare.starting is None:
        await asyncio.sleep(0.05)
    return await asyncio.shield(sandbox._spare.starting)


@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_all_kernels_end_though_closing_is_cancelled(folder: Path, turns: int) -> None:
    """A user interrupts a run that has changed to a new sandbox and closes the one before."""
    sandbox = Sandbox(folder)
    kernel = await started(sandbox)
    sandbox._spare.start()
    spare = await spare_of(sandbox)
    cell = sandbox.execute("print('on', flush=True); import time; time.sleep(600)")
    await anext(cell)
    leaving = asyncio.create_task(cell.aclose())
    while not sandbox._interrupted:
        await asyncio.sleep(0)
    leaving.cancel()
    closing = asyncio.create_task(sandbox.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({leaving, closing})
    await asyncio.gather(*sandbox._ending)
    assert kernel.manager.provisioner.process is None
    assert spare.manager.provisioner.process is None


async def test_a_spare_kernel_takes_over(
    folder: Path, new_processes: Callable[[], list[int]]
) -> None:
    sandbox = Sandbox(folder, spare=True)
    try:
        await text(sandbox, "x = 1")
        spare = await spare_of(sandbox)
        assert await text(sandbox, "import os; os._exit(1)") == "SandboxDied"
        assert await text(sandbox, "'x' in globals()") == "False"
        assert sandbox._kernel is spare
        following = await spare_of(sandbox)
        await sandbox.restart()
        assert sandbox._kernel is following
    finally:
        await sandbox.close()
    assert not new_processes()


async def test_a_spare_kernel_is_ended_when_nothing_runs_for_long(
    folder: Path, new_processes: Callable[[], list[int]]
) -> None:
    sandbox = Sandbox(folder, spare=True, spare_seconds=6)
    try:
        await text(sandbox, "1")
        alone = len(new_processes())
        await spare_of(sandbox)
        assert len(new_processes()) > alone
        while len(new_processes()) > alone:
            await asyncio.sleep(0.05)
        assert sandbox._spare.starting is None
    finally:
        await sandbox.close()
    assert not new_processes()


SECRETS_THAT_COME = {
    "a new secret": lambda folder: (folder / ".env").write_text("decoy"),
    "a secret deep below": lambda folder: (folder / "deep" / "server.key").write_text("decoy"),
    "a file that becomes one": lambda folder: (folder / "data.txt").write_text(
        f"decoy ghp_{'aB3dE6gH9' * 4}"
    ),
    "a folder of secrets": lambda folder: (
        (folder / "deep" / "numbers.txt").write_text("decoy"),
        (folder / "deep").rename(folder / "credentials"),
    ),
}
READ_ALL = """\
import os
for top, _, names in os.walk({!r}):
    for name in names:
        try:
            print(open(os.path.join(top, name)).read())
        except OSError:
            pass
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
@pytest.mark.parametrize("comes", SECRETS_THAT_COME)
async def test_a_spare_kernel_that_could_read_a_new_secret_is_not_used(
    tmp_path: Path, tier: str, comes: str, new_processes: Callable[[], list[int]]
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "data.txt").write_text("harmless")
    (tmp_path / "deep" / "numbers.txt").write_text("1 2 3")
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    sandbox = Sandbox(tmp_path, config=config)
    sandbox.warm_up()
    assert sandbox._spare.starting
    spare = await asyncio.shield(sandbox._spare.starting)
    SECRETS_THAT_COME[comes](tmp_path)
    try:
        said = await text(sandbox, READ_ALL.format(str(tmp_path)))
        assert "decoy" not in said
        assert sandbox._kernel is not spare
    finally:
        await sandbox.close()
    assert not new_processes()


async def test_a_spare_kernel_that_has_missed_a_file_is_not_used(folder: Path) -> None:
    sandbox = Sandbox(folder)
    sandbox.warm_up()
    assert sandbox._spare.starting
    await asyncio.wait({sandbox._spare.starting})
    (folder / "late.csv").write_text("a\n1\n")
    try:
        outputs = [one async for one in sandbox.execute("print(open('late.csv').read())")]
        assert outputs[0].text == "a\n1\n\n"
    finally:
        await sandbox.close()
