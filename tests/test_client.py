"""Cells in a real sandbox, in both tiers: outputs, questions, limits, interrupts, death."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from nbformat import NotebookNode

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.client import INTERRUPT_WAIT, Sandbox
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.sandbox.filter.outputs import weight
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .run_code import outputs, text

# -- work


async def test_outputs_come_in_order_and_state_lives_on(sandbox: Sandbox) -> None:
    found = await outputs(
        sandbox,
        "import sys\nprint('one')\nprint('two', file=sys.stderr)\ndisplay('three')\nx = 5\nx + 1",
    )
    kinds = [output.output_type for output in found]
    assert kinds == ["stream", "stream", "display_data", "execute_result"]
    assert found[-1].data["text/plain"] == "6"
    assert sandbox.execution_count == 1
    assert await text(sandbox, "x") == "5"
    assert sandbox.execution_count == 2


async def test_an_output_arrives_while_the_cell_still_runs(sandbox: Sandbox) -> None:
    async with aclosing(
        sandbox.execute("print('now', flush=True)\nimport time\ntime.sleep(60)")
    ) as found:
        assert (await anext(found)).text == "now\n"


async def test_an_error_is_an_output_and_what_was_printed_before_is_kept(sandbox: Sandbox) -> None:
    found = await outputs(sandbox, "print('before')\n1/0")
    assert [output.output_type for output in found] == ["stream", "error"]
    assert found[1].ename == "ZeroDivisionError"


async def test_tables_and_plots_come_out(sandbox: Sandbox) -> None:
    table = await outputs(sandbox, "import pandas as pd\npd.read_csv('penguins.csv').head(2)")
    assert "<table" in table[0].data["text/html"]
    assert "<style" not in table[0].data["text/html"]
    plot = await outputs(sandbox, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert "image/png" in plot[-1].data


async def test_top_level_await_and_magics_work(sandbox: Sandbox) -> None:
    assert await text(sandbox, "import asyncio\nawait asyncio.sleep(0, 'waited')") == "'waited'"
    assert await text(sandbox, "!echo from a shell") == "from a shell"


async def test_input_is_an_error_not_a_hang(sandbox: Sandbox) -> None:
    assert await text(sandbox, "input('?')") == "StdinNotImplementedError"


async def test_every_request_has_its_reply_also_where_they_overlap(sandbox: Sandbox) -> None:
    async def ask() -> str:
        reply = await sandbox.ask("is_complete_request", {"code": "if x:"})
        return str(reply["status"])

    for n in range(200):
        async with asyncio.timeout(20):
            first = asyncio.gather(ask(), ask())
            await asyncio.sleep(n % 8 / 2000)  # so that a reply arrives while the next is sent
            assert [await ask(), *await first] == ["incomplete"] * 3


# -- questions and limits


async def test_questions_of_the_code_are_answered_while_outputs_go_on(sandbox: Sandbox) -> None:
    asked = []

    async def answer(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        if prompt == "fail":
            raise RuntimeError("nobody there")
        return "7"

    code = (
        "import getpass\nprint(input('n? '))\nprint(getpass.getpass('key? '))\n"
        "try:\n    input('fail')\nexcept EOFError:\n    print('end')"
    )
    async with aclosing(sandbox.execute(code, answer=answer)) as found:
        shown = "".join([output.text async for output in found])
    assert shown.split() == ["7", "7", "end"]
    assert asked == [("n? ", False), ("key? ", True), ("fail", False)]


async def test_a_question_that_nobody_answers_can_be_interrupted(sandbox: Sandbox) -> None:
    asked = asyncio.Event()

    async def answer(_prompt: str, _password: bool) -> str:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    found = sandbox.execute("x = 8\ninput('?')", answer=answer)
    first = asyncio.ensure_future(anext(found))
    await asked.wait()
    first.cancel()
    await asyncio.wait({first})
    await found.aclose()
    assert await text(sandbox, "x") == "8"


async def test_a_question_does_not_hide_the_kernels_death(sandbox: Sandbox) -> None:
    async def answer(_prompt: str, _password: bool) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    code = "import os, threading\nthreading.Timer(0.3, os._exit, [3]).start()\ninput('?')"
    async with aclosing(sandbox.execute(code, answer=answer)) as found:
        assert [output.ename async for output in found] == ["SandboxDied"]


# -- interrupts and death

# What an interrupt does that comes when the cell's code is over.
LATE_INTERRUPT = """
import sys
flush = sys.stdout.flush

def interrupted():
    sys.stdout.flush = flush
    raise KeyboardInterrupt

sys.stdout.flush = interrupted
"""


async def test_an_interrupt_after_the_code_loses_no_reply(sandbox: Sandbox) -> None:
    async with asyncio.timeout(20):
        assert [output async for output in sandbox.execute(LATE_INTERRUPT)] == []
    assert sandbox.reply
    assert sandbox.reply["ename"] == "KeyboardInterrupt"
    assert await text(sandbox, "sys.stdout.flush == flush") == "True"


# It comes while the reply is sent.
INTERRUPT_IN_SEND = """
import os, signal
session = get_ipython().kernel.session
serialize = session.serialize

def interrupted(message, ident=None):
    if message["msg_type"] == "execute_reply":
        session.serialize = serialize
        os.kill(0, signal.SIGINT)
    return serialize(message, ident)

session.serialize = interrupted
"""


async def test_an_interrupt_does_not_cut_a_reply(sandbox: Sandbox) -> None:
    async with asyncio.timeout(20):
        assert [output async for output in sandbox.execute(INTERRUPT_IN_SEND)] == []
    assert sandbox.reply
    assert sandbox.reply["status"] == "ok"
    assert await text(sandbox, "session.serialize == serialize") == "True"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "!sleep 600",
        "import asyncio; await asyncio.sleep(600)",
    ],
)
async def test_closing_early_interrupts_and_keeps_the_variables(
    sandbox: Sandbox, code: str
) -> None:
    await text(sandbox, "kept = 7")
    started = time.monotonic()
    task = asyncio.create_task(text(sandbox, f"print('going', flush=True)\n{code}"))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 10  # not a speed test: it must end at all
    assert await text(sandbox, "kept") == "7"


STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


@asynccontextmanager
async def a_stubborn_cell(sandbox: Sandbox) -> AsyncIterator[None]:
    """A cell that runs and ignores interrupts; it is left at the end."""
    sandbox.grace = 0.3
    code = f"{STUBBORN}print('on', flush=True)\nwhile True: pass"
    async with aclosing(sandbox.execute(code)) as found:
        await anext(found)
        yield


async def test_code_that_ignores_interrupts_is_killed_and_the_loss_is_said(
    sandbox: Sandbox,
) -> None:
    async with a_stubborn_cell(sandbox):
        pass
    said = await text(sandbox, "1 + 1")
    assert said.startswith(
        "the cell ignored its interrupt, and its kernel was ended; its variables"
    )
    assert said.endswith("2")
    assert await text(sandbox, "1 + 1") == "2"  # once


async def test_a_cell_ends_when_its_kernel_is_replaced_or_closed(sandbox: Sandbox) -> None:
    for end in (sandbox.restart, sandbox.close):
        async with aclosing(
            sandbox.execute("print('on', flush=True); import time; time.sleep(600)")
        ) as found:
            await anext(found)
            await end()
            async with asyncio.timeout(10):
                assert [output.get("ename") async for output in found] == ["SandboxDied"]
    assert await text(sandbox, "1 + 1") == "2"


async def test_a_request_ends_when_the_cell_beside_it_ignores_its_interrupt(
    sandbox: Sandbox,
) -> None:
    async with a_stubborn_cell(sandbox):
        asking = asyncio.create_task(
            sandbox.ask("complete_request", {"code": "pri", "cursor_pos": 3})
        )
        await asyncio.sleep(0)
    with pytest.raises(SandboxError):
        await asyncio.wait_for(asking, 10)


async def test_closing_waits_for_the_end_of_a_kernel_that_is_being_ended(sandbox: Sandbox) -> None:
    """The sandbox is closed at the moment when a cell that ignored its interrupt is given up."""
    async with a_stubborn_cell(sandbox):
        kernel = sandbox._kernel
        assert kernel
        asking = asyncio.create_task(sandbox.ask("is_complete_request", {"code": "1"}))
        await asyncio.sleep(0)  # so that it is sent
        sandbox.grace = INTERRUPT_WAIT + 0.1  # the cell is left before it is given up
    with pytest.raises(SandboxError):
        await asyncio.wait_for(asking, 10)
    await sandbox.close()
    provisioner = kernel.manager.provisioner
    assert isinstance(provisioner, SandboxProvisioner)
    assert provisioner.process is None
    assert provisioner.run_folder is None  # nor are its sockets


async def test_a_cell_whose_kernel_is_replaced_before_it_is_sent_ends_too(
    sandbox: Sandbox, folder: Path
) -> None:
    (folder / ".env").write_text("x")  # so that late files are looked for
    await sandbox.start()
    cell = asyncio.create_task(outputs(sandbox, "1 + 1"))
    await asyncio.sleep(0)
    await sandbox.restart()
    async with asyncio.timeout(10):
        assert await cell


async def test_a_cell_over_a_limit_that_ignores_its_interrupt_says_what_is_lost(
    sandbox: Sandbox,
) -> None:
    sandbox.grace, sandbox.cell_timeout = 0.3, 3
    found = await outputs(sandbox, f"{STUBBORN}while True: pass")
    assert found[-1].ename == "TimeLimit"
    assert "its variables and files are gone" in found[-1].evalue
    sandbox.cell_timeout, sandbox.max_outputs = 0, 50
    found = await outputs(sandbox, f"{STUBBORN}while True: display(1)")
    assert found[-1].ename == "OutputLimit"
    assert "its variables and files are gone" in found[-1].evalue
    assert await text(sandbox, "1 + 1") == "2"


async def test_a_kernel_that_another_request_has_started_outlives_the_cell_of_the_one_before(
    sandbox: Sandbox,
) -> None:
    await sandbox.start()
    dying = sandbox._kernel
    assert dying
    async with aclosing(sandbox.execute("print('on', flush=True)\ninput()\n")) as found:
        await anext(found)
        assert isinstance(dying.manager.provisioner, SandboxProvisioner)
        assert dying.manager.provisioner.process
        dying.manager.provisioner.process.kill()
        await asyncio.wait({dying._watcher})
        await sandbox.ask("complete_request", {"code": "pri", "cursor_pos": 3})
        kernel = sandbox._kernel
        assert [output.ename async for output in found if output.output_type == "error"][-1:] == [
            "SandboxDied"
        ]
    assert sandbox._kernel is kernel
    assert await text(sandbox, "1 + 1") == "2"


@pytest.mark.parametrize(
    "death",
    [
        "import os; os._exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
    ],
)
async def test_a_kernel_that_dies_is_an_error_output_and_the_next_cell_runs(
    sandbox: Sandbox, death: str
) -> None:
    await text(sandbox, "x = 1")
    found = await outputs(sandbox, f"print('last words', flush=True)\n{death}")
    assert found[-1].ename == "SandboxDied"
    assert "variables and files are gone" in found[-1].evalue
    assert await text(sandbox, "x") == "NameError"


async def test_a_cell_that_takes_too_long_is_interrupted_and_says_so(sandbox: Sandbox) -> None:
    await text(sandbox, "kept = 1")
    sandbox.cell_timeout = 0.5
    found = await outputs(sandbox, "print('on', flush=True)\nwhile True: pass")
    assert found[-1].ename == "TimeLimit"
    assert "ran longer than 0.5 s" in found[-1].evalue
    assert await text(sandbox, "kept") == "1"


async def test_a_cell_that_puts_out_too_much_is_interrupted(sandbox: Sandbox) -> None:
    sandbox.max_outputs = 50
    found = await outputs(sandbox, "while True: display(1)")
    assert found[-1].ename == "OutputLimit"
    assert len(found) == 51
    sandbox.max_output_mib = 1
    found = await outputs(sandbox, "kept = 1\nwhile True: print('x' * 10_000)")
    assert found[-1].ename == "OutputLimit"
    assert sum(len(output.get("text", "")) for output in found) < 4 << 20
    assert await text(sandbox, "kept") == "1"


async def test_a_message_too_large_for_the_host_is_passed_over(sandbox: Sandbox) -> None:
    await text(sandbox, "kept = 7")
    [note] = await outputs(sandbox, "display({'text/plain': 'x' * 140_000_000}, raw=True)")
    assert note.text == "[an output of more than 32 MiB in one message was left out]\n"
    assert await text(sandbox, "kept") == "7"


FUZZ = """
import json, os, random, time
kernel, thread = get_ipython().kernel, get_ipython().kernel.iopub_thread
session, parent = kernel.session, kernel.get_parent("shell")
random.seed({seed})
kinds = ["stream", "display_data", "update_display_data", "execute_result", "error", "status"]
kinds += ["clear_output", "comm_open", "input_request", "execute_reply", "no such kind"]
values = [None, True, -1, 1e308, "text", "\\x1b]0;t\\x07", [], {{}}, [[[[]]]], "x" * 5000, {{"a": None}}]
names = ["name", "text", "data", "metadata", "transient", "ename", "traceback", "wait", "state"]
until = time.monotonic() + 4
while time.monotonic() < until:
    content = {{random.choice(names): random.choice(values) for _ in range(random.randrange(5))}}
    message = session.msg(random.choice(kinds), content, parent=parent)
    if random.random() < .3:
        message[random.choice(list(message))] = random.choice(values)
    try:
        frames = session.serialize(message)
    except Exception:
        continue
    frames = [bytes(frame) for frame in frames]
    if random.random() < .5:
        place = random.randrange(len(frames))
        frame = bytearray(frames[place] or b"x")
        frame[random.randrange(len(frame))] = random.randrange(256)
        frames[place] = bytes(frame)
    if random.random() < .1:
        frames.pop(random.randrange(len(frames)))
    thread.send_multipart(frames)
print("fuzzed")
"""


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_and_mutated_messages_end_nothing(sandbox: Sandbox, seed: int) -> None:
    sandbox.max_outputs = 1_000_000
    sandbox.max_output_mib = 1000
    await outputs(sandbox, FUZZ.format(seed=seed))
    assert sandbox.dropped > 0
    assert await text(sandbox, "6 * 7") == "42"


async def test_a_message_of_too_many_parts_is_dropped_unread(sandbox: Sandbox) -> None:
    """Each takes twenty times its bytes of the host's RAM."""
    code = (
        "kernel = get_ipython().kernel\n"
        "parts = kernel.session.msg('display_data', {}, kernel.get_parent('shell'))\n"
        "parts = [kernel.session.pack(parts[n]) for n in ('header', 'parent_header', 'metadata')]\n"
        "parts.append(b'{\"data\":{\"application/json\":[' + b'[],' * (5 << 20) + b'1]}}')\n"
        "sent = [b'x', b'<IDS|MSG>', kernel.session.sign(parts), *parts]\n"
        "kernel.iopub_thread.socket.send_multipart(sent)\n"
        "print('sent')"
    )
    shown = await text(sandbox, code)
    assert shown.split("\n") == ["[an output of too many parts was left out]", "sent"]
    assert sandbox.dropped == 1


async def test_a_long_stream_in_many_pieces_is_one_output(sandbox: Sandbox) -> None:
    sandbox.max_outputs = 50
    found = await outputs(sandbox, "for n in range(500): print(n, flush=True)")
    assert "".join(output.text for output in found) == "".join(f"{n}\n" for n in range(500))
    mixed = "for n in range(500): print(n, file=(sys.stderr if n % 2 else sys.stdout), flush=True)"
    found = await outputs(sandbox, f"import sys\n{mixed}")
    assert found[-1].ename == "OutputLimit"


# fewer messages than wait in the guest's socket, which drops more when the host is behind
OWN = """
from IPython.display import clear_output
for n in range(200): clear_output(); display(n)
shown = display(-1, display_id='d')
for n in range(200): shown.update(n)
for n in range(200): print(n, flush=True)
for n in range(60): print('x' * 1_000_000)
1/0
"""


async def test_a_flood_of_the_users_own_is_thinned_out_and_not_stopped(sandbox: Sandbox) -> None:
    sandbox.max_outputs, sandbox.max_output_mib = 20, 4
    began = time.monotonic()
    async with aclosing(sandbox.execute(OWN, request=UserRequest())) as found:
        kept = [output async for output in found]
    seconds = time.monotonic() - began
    assert len(kept) < 20 + 50 * seconds + 20
    # of 60 MB; a message, at the last tick and at the end, is up to four of these lines: two that
    # wait to be sent, and two more before the guest stops to wait for that
    held = 4 + 4
    assert sum(map(weight, kept)) < (4 + seconds + held) * (1 << 20)
    displayed = [output for output in kept if output.output_type == "display_data"]
    assert [output.data["text/plain"] for output in displayed[-2:]] == ["199", "-1"]
    updates = [output for output in kept if output.output_type == "update_display_data"]
    assert updates[-1].data["text/plain"] == "199"
    printed = "".join(output.text for output in kept if output.get("name") == "stdout")
    assert printed.startswith("".join(f"{n}\n" for n in range(200)))
    assert kept[-1].ename == "ZeroDivisionError"
    assert "outputs left out: they came faster than a page draws" in kept[-2].text
    assert await text(sandbox, "6 * 7") == "42"


@pytest.mark.parametrize("whose", ["None", "UserRequest()"])
@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_a_flood_of_text_does_not_fill_the_host(folder: Path, tier: str, whose: str) -> None:
    program = f"""
import asyncio, resource
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest

async def main():
    config = Config({{"SandboxProvisioner": {{"isolation": {tier!r}}}}})
    async with Sandbox(Path({str(folder)!r}), config=config) as sandbox:
        async for output in sandbox.execute("print(1)"): pass
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        flood = "for _ in range(200): print('x' * 1_000_000)\\n1/0"
        async for output in sandbox.execute(flood, request={whose}): last = output
        async for output in sandbox.execute("print('alive')"): pass
        print(last.output_type, output.text.strip())
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    end, grown = done.stdout.splitlines()
    assert end == "error alive"
    assert int(grown) < 64


async def test_what_is_printed_is_not_kept_in_the_sandbox(sandbox: Sandbox) -> None:
    async def run(code: str) -> NotebookNode:
        async with aclosing(sandbox.execute(code, request=UserRequest())) as found:
            *_, last = [output async for output in found]
        return last

    async def mebibytes(cells: int) -> int:
        """What the kernel takes after so many cells of 5 MB, each of which the host has read.

        What waits for the host in one cell alone would take as much as the host is slow.
        """
        for _ in range(cells):
            await run("for n in range(5): print(f'{n:0>1000000}')")
        last = await run("int(open('/proc/self/statm').read().split()[1]) >> 8")
        return int(last.data["text/plain"])

    before = await mebibytes(5)
    assert await mebibytes(60) < before + 150  # and not 300
