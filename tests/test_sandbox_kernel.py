"""One sandboxed kernel, real, in both tiers: outputs, confinement, interrupts, death."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from traitlets.config import Config

from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.sandbox.filter.outputs import weight
from jupyter_agent.sandbox.isolation import late_files
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .servers import ChatServer, descendants


async def outputs(sandbox: Sandbox, code: str) -> list[NotebookNode]:
    async with aclosing(sandbox.execute(code)) as found:
        return [output async for output in found]


async def text(sandbox: Sandbox, code: str) -> str:
    """What code prints, or the name and value of its error."""
    parts = [
        output.get("text") or output.get("data", {}).get("text/plain") or output.ename
        for output in await outputs(sandbox, code)
    ]
    return "".join(parts).strip()


async def attempt(sandbox: Sandbox, code: str) -> str:
    """What an expression gives, or the name of its error."""
    return await text(
        sandbox, f"try:\n    print({code})\nexcept BaseException as e:\n    print(type(e).__name__)"
    )


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


async def test_no_variable_of_the_hosts_environment_is_inside(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-decoy")
    monkeypatch.setenv("SOME_SETTING", "decoy")
    await sandbox.close()
    inside = await text(sandbox, "import os; print(*os.environ)")
    for name in ("OPENAI_API_KEY", "SOME_SETTING", "JPY_PARENT_PID", "XDG_RUNTIME_DIR"):
        assert name not in inside.split()
    environments = await text(
        sandbox,
        "import glob\nfor p in glob.glob('/proc/*/environ'):\n    try: print(open(p).read())\n"
        "    except OSError as e: pass",
    )
    assert "decoy" not in environments


async def test_there_is_no_network(sandbox: Sandbox, server: ChatServer) -> None:
    ask = f"__import__('urllib.request').request.urlopen('{server.url}/models', timeout=5)"
    # where there is a loopback of its own, what listens there may be ipykernel's, on the same port
    assert await attempt(sandbox, ask) in ("URLError", "BadStatusLine", "TimeoutError")
    assert await attempt(sandbox, "__import__('socket').gethostbyname('localhost.example')") in (
        "gaierror",
        "OSError",
    )


async def test_no_socket_of_the_hosts_can_be_reached(sandbox: Sandbox, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()
        abstract.bind("\0jupyter-agent-test")
        abstract.listen()
        for address in (str(tmp_path / "docker.sock"), "\0jupyter-agent-test"):
            code = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({address!r})"
            assert await text(sandbox, code) in (
                "FileNotFoundError",
                "ConnectionRefusedError",
                "OSError",
            )


async def test_no_home_and_no_key_of_the_hosts_can_be_read(sandbox: Sandbox) -> None:
    home = Path.home()
    decoy = home / ".jupyter-agent-test-decoy"
    decoy.write_text("sk-decoy")
    try:
        for path in (decoy, home / ".ssh", "/etc/shadow", "/root/.ssh", "/proc/1/environ"):
            reason = await attempt(sandbox, f"open({str(path)!r}).read()")
            assert reason in ("FileNotFoundError", "PermissionError", "IsADirectoryError"), path
        assert "sk-decoy" not in await text(sandbox, "!cat ~/.*decoy /*/.*decoy 2>&1")
    finally:
        decoy.unlink()


async def test_files_beside_the_notebook_are_read_and_never_written(
    sandbox: Sandbox, folder: Path
) -> None:
    assert "species" in await attempt(sandbox, "open('penguins.csv').readline()")
    assert await attempt(sandbox, "open('deep/numbers.txt').read()") == "1 2 3"
    before = (folder / "penguins.csv").stat()
    for code in (
        f"open({str(folder / 'penguins.csv')!r}, 'w')",
        f"open({str(folder / 'penguins.csv')!r}, 'a')",
        f"open({str(folder / 'new.txt')!r}, 'w')",
        f"__import__('os').remove({str(folder / 'penguins.csv')!r})",
        f"__import__('os').truncate({str(folder / 'penguins.csv')!r}, 0)",
        f"open({str(folder / 'deep' / 'new.txt')!r}, 'w')",
    ):
        assert await attempt(sandbox, code) in ("OSError", "PermissionError"), code
    await text(sandbox, "open('penguins.csv', 'w').write('x')")  # a copy
    await text(sandbox, f"import os\nos.chmod({str(folder / 'penguins.csv')!r}, 0o777)")
    after = (folder / "penguins.csv").stat()
    assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)
    assert sorted(path.name for path in folder.iterdir()) == [".env", "deep", "penguins.csv"]


async def test_new_files_land_in_the_private_folder(sandbox: Sandbox, folder: Path) -> None:
    assert await text(sandbox, "open('mine.txt', 'w').write('x')\nopen('mine.txt').read()") == "'x'"
    assert not (folder / "mine.txt").exists()
    copied = (
        "import shutil\nshutil.copy('penguins.csv', 'copy.csv')\nopen('copy.csv').readline()[:7]"
    )
    assert await text(sandbox, copied) == "'species'"


async def test_a_file_that_appears_in_a_shared_folder_appears_inside_unless_it_holds_secrets(
    sandbox: Sandbox, folder: Path
) -> None:
    (folder / "plain").mkdir()
    await sandbox.close()
    await text(sandbox, "1")
    for name in ("plain/later.txt", "later.txt"):
        (folder / name).write_text("later")
    assert await attempt(sandbox, "open('plain/later.txt').read()") == "later"
    assert await attempt(sandbox, "open('later.txt').read()") == "later"
    for name in ("later.env", "later.pem"):
        (folder / name).write_text("later")
        assert await attempt(sandbox, f"open({name!r}).read()") == "FileNotFoundError"


async def test_a_file_that_another_takes_the_place_of_is_read_as_it_is(
    sandbox: Sandbox, folder: Path
) -> None:
    assert await attempt(sandbox, "len(open('penguins.csv').read()) > 0") == "True"
    for text in ("new", "and newer"):
        (folder / "new").write_text(text)
        (folder / "new").replace(folder / "penguins.csv")
        assert await attempt(sandbox, "open('penguins.csv').read()") == text
    (folder / "new").write_text(f"ghp_{'aB3dE6gH9' * 4}")
    (folder / "new").replace(folder / "penguins.csv")
    found = await attempt(sandbox, "open('penguins.csv').read()")
    assert found == "FileNotFoundError"


async def test_the_names_of_hidden_files_are_not_listed(sandbox: Sandbox, folder: Path) -> None:
    for path in (".", str(folder), "deep", str(folder / "deep"), "/proc/self/mountinfo"):
        read = (
            f"open({path!r}).read()"
            if path.startswith("/proc")
            else f"__import__('os').listdir({path!r})"
        )
        shown = await attempt(sandbox, read)
        assert ".env" not in shown, path
        assert "server.key" not in shown, path
    assert await attempt(sandbox, "sorted(__import__('os').listdir('deep'))") == "['numbers.txt']"


async def test_what_looks_like_a_secret_is_hidden(sandbox: Sandbox, folder: Path) -> None:
    for path in (folder / ".env", folder / "deep" / "server.key", "deep/server.key"):
        secret = await attempt(sandbox, f"open({str(path)!r}).read()")
        assert secret in ("PermissionError", "FileNotFoundError", ""), path


async def test_a_link_out_of_the_folder_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            reason = await attempt(sandbox, "open('link.txt').read()")
            assert reason in ("FileNotFoundError", "PermissionError"), tier


async def test_a_module_beside_the_notebook_never_runs_before_the_lockdown(
    tmp_path: Path, folder: Path
) -> None:
    mark = tmp_path / "escaped"
    for name in ("json.py", "resource.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            await text(sandbox, "import json, resource")
    assert not mark.exists()


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_what_the_host_can_import_the_sandbox_can_but_not_the_data_beside_it(
    folder: Path, tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = tmp_path / "lib"
    (lib / "package").mkdir(parents=True)
    (lib / "package" / "__init__.py").write_text("x = 'imported'\n")
    (lib / "module.py").write_text("x = 'imported'\n")
    (lib / "data").mkdir()
    (lib / "data" / "private.csv").write_text("1\n")
    monkeypatch.syspath_prepend(str(lib))
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, data=[], config=config) as sandbox:
        for name in ("package", "module"):
            assert await text(sandbox, f"import {name}; {name}.x") == "'imported'"
        assert await attempt(sandbox, f"open({str(lib / 'module.py')!r}, 'w')") in (
            "OSError",
            "PermissionError",
        )
        secret = await attempt(sandbox, f"open({str(lib / 'data' / 'private.csv')!r}).read()")
        assert secret in ("FileNotFoundError", "PermissionError")


async def test_named_data_replaces_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    async with Sandbox(folder, data=["deep/numbers.txt", str(tmp_path / "other")]) as sandbox:
        assert await attempt(sandbox, "open('deep/numbers.txt').read()") == "1 2 3"
        assert await attempt(sandbox, "open('other/a.txt').read()") == "a"
        assert await attempt(sandbox, "open('penguins.csv').read()") == "FileNotFoundError"
    async with Sandbox(folder, data=[]) as sandbox:
        assert await attempt(sandbox, "__import__('os').listdir()") == "[]"
        assert sandbox.describe().endswith("reads no files")


@pytest.mark.parametrize("wide", ["~", "/", "/tmp"])
async def test_a_home_folder_is_never_shared_as_a_whole(
    wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="name the files or folders in it"):
        await Sandbox(data=[wide]).start()
    async with Sandbox(Path(wide).expanduser()) as sandbox:
        assert "reads no files (" in sandbox.describe()
        assert await attempt(sandbox, "__import__('os').listdir()") == "[]"


async def test_a_missing_path_is_refused_before_anything_starts(folder: Path) -> None:
    sandbox = Sandbox(folder, data=["nothing.csv"])
    with pytest.raises(UsageError, match=r"--data 'nothing.csv': there is no .*nothing.csv"):
        await sandbox.start()
    assert not sandbox.alive


@pytest.mark.parametrize(
    "call",
    [
        "libc.ptrace(16, 1, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.syscall(425, 8, None)",  # io_uring_setup
        "libc.syscall(250, 0, 0)",  # keyctl
        "libc.personality(0x0040000)",
        "libc.socket(40, 1, 0)",  # vsock
        "libc.socket(17, 3, 0)",  # packet
    ],
)
async def test_dangerous_system_calls_are_refused(sandbox: Sandbox, call: str) -> None:
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({call})"
    assert await text(sandbox, code) == "-1"


async def test_no_process_of_the_hosts_can_be_signalled(sandbox: Sandbox) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        reason = await attempt(sandbox, f"__import__('os').kill({sleeper.pid}, 9)")
        assert reason in ("ProcessLookupError", "PermissionError")
        await attempt(sandbox, "__import__('os').kill(-1, 15)")
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


# -- interrupts and death


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


async def test_code_that_ignores_interrupts_is_killed_and_the_loss_is_said(
    sandbox: Sandbox,
) -> None:
    sandbox.grace = 0.3
    async with aclosing(
        sandbox.execute(f"{STUBBORN}print('on', flush=True)\nwhile True: pass")
    ) as found:
        await anext(found)
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
    sandbox.grace = 0.3
    async with aclosing(
        sandbox.execute(f"{STUBBORN}print('on', flush=True)\nwhile True: pass")
    ) as found:
        await anext(found)
        asking = asyncio.create_task(
            sandbox.ask("complete_request", {"code": "pri", "cursor_pos": 3})
        )
        await asyncio.sleep(0)
    with pytest.raises(SandboxError):
        await asyncio.wait_for(asking, 10)


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


async def test_memory_is_limited(folder: Path) -> None:
    for tier in ("bubblewrap", "landlock"):
        limits = {"isolation": tier, "memory_mib": 1500}
        async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
            assert "1.5 GiB" in sandbox.describe_limits()
            found = await text(sandbox, "x = bytearray(2_000_000_000)")
            assert found in ("MemoryError", "SandboxDied")
            assert await text(sandbox, "1 + 1") == "2"


async def test_processes_are_limited(folder: Path) -> None:
    bomb = "import os\nfor _ in range(300):\n    if os.fork() == 0:\n        os.pause() if hasattr(os, 'pause') else __import__('signal').pause()"
    for tier in ("bubblewrap", "landlock"):
        limits = {"isolation": tier, "processes": 100}
        async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
            assert await text(sandbox, bomb) == "BlockingIOError", tier
            guests = descendants(os.getpid())
        deadline = time.monotonic() + 20
        while alive := [pid for pid in guests if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, alive


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


async def test_a_sandbox_that_is_closed_while_it_restarts_stays_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
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
    assert not descendants(os.getpid())


async def spare_of(sandbox: Sandbox) -> Any:
    """The spare kernel, when it is there."""
    while sandbox._spare.starting is None:
        await asyncio.sleep(0.05)
    return await asyncio.shield(sandbox._spare.starting)


async def test_a_spare_kernel_takes_over(folder: Path) -> None:
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
    assert not descendants(os.getpid())


async def test_a_spare_kernel_is_ended_when_nothing_runs_for_long(folder: Path) -> None:
    sandbox = Sandbox(folder, spare=True, spare_seconds=6)
    try:
        await text(sandbox, "1")
        alone = len(descendants(os.getpid()))
        await spare_of(sandbox)
        assert len(descendants(os.getpid())) > alone
        while len(descendants(os.getpid())) > alone:
            await asyncio.sleep(0.05)
        assert sandbox._spare.starting is None
    finally:
        await sandbox.close()
    assert not descendants(os.getpid())


async def test_nothing_is_left_when_a_sandbox_ends(folder: Path) -> None:
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            provisioner = sandbox._kernel and sandbox._kernel.manager.provisioner
            assert isinstance(provisioner, SandboxProvisioner)
            left = [provisioner.run_folder, Path(str(sandbox._kernel.manager.connection_file))]  # type: ignore[union-attr]
            pid = provisioner.pid
            await text(sandbox, "import os")
        assert pid is not None
        assert not any(path and path.exists() for path in left)
        assert not Path(f"/proc/{pid}").exists()


HOST = """
import asyncio, sys
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

async def main():
    config = Config({"SandboxProvisioner": {"isolation": sys.argv[1]}})
    async with Sandbox(Path(sys.argv[2]), config=config) as sandbox:
        async for output in sandbox.execute("print('started', flush=True)\\nwhile True: pass"):
            print(output.text, end="", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_the_sandbox_dies_with_a_host_that_is_killed(folder: Path, tier: str) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, tier, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout
    assert host.stdout.readline() == "started\n"
    guests = descendants(host.pid)
    assert guests
    host.kill()
    host.wait()
    host.stdout.close()
    deadline = time.monotonic() + 20
    while alive := [pid for pid in guests if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive


def test_a_launcher_whose_host_has_ended_starts_nothing(tmp_path: Path) -> None:
    lifeline, held = os.pipe()
    plan: dict[str, object] = {
        "connection": {},
        "folder": str(tmp_path),
        "landlock": None,
        "lifeline": lifeline,
        "limits": {},
        "namespaces": True,
        "shares": [],
        "sockets": {},
        "uid": 0,
    }
    read, write = os.pipe()
    os.write(write, json.dumps(plan).encode())
    os.close(write)
    os.close(held)  # as when the host ends
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jupyter_agent.sandbox", str(read)],
        pass_fds=(read, lifeline),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    os.close(lifeline)
    assert done.stderr == "jupyter_agent.sandbox: the host has ended\n"
    assert done.returncode == 1


async def test_what_a_killed_host_left_is_swept_and_what_lives_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:  # where sockets have room
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        await sweeps(folder, Path(short))


async def sweeps(folder: Path, place: Path) -> None:
    left = place / "jupyter-agent-left"
    left.mkdir()
    (left / "s-1").write_text("")
    os.utime(left, (0, 0))
    async with Sandbox(folder) as first:
        held = [*place.glob("jupyter-agent-*")]  # an ordinary user has two
        assert held
        assert left not in held
        for each in held:
            os.utime(each, (0, 0))
        async with Sandbox(folder):
            assert all(each.exists() for each in held)
            assert await text(first, "1") == "1"
    assert not list(place.glob("jupyter-agent-*"))


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_sandbox_outlives_the_thread_that_asked_for_it(folder: Path, tier: str) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    manager = AsyncKernelManager(kernel_name="python3-sandboxed", config=config)

    async def start() -> None:
        await manager.start_kernel(cwd=str(folder))

    thread = threading.Thread(target=lambda: asyncio.run(start()))
    thread.start()
    thread.join()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        await asyncio.sleep(0.2)  # the signal of a thread's end would have come by now
        assert await manager.is_alive()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


# -- when it cannot start


async def test_no_tier_means_no_start_and_the_remedies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    config = Config({"SandboxProvisioner": {"isolation": "bubblewrap"}})
    sandbox = Sandbox(folder, config=config)
    with pytest.raises(SandboxError, match=r"not installed.*apt install bubblewrap") as caught:
        await sandbox.start()
    assert "\n" not in str(caught.value)
    assert not sandbox.alive


def test_where_no_tier_works_the_reasons_and_the_remedies_are_one_line(folder: Path) -> None:
    program = f"""
import asyncio, errno
from pathlib import Path
from jupyter_agent.sandbox.guest import lockdown
from jupyter_agent.sandbox.client import Sandbox

refused = [(0x20, 0, 0, 0)]  # as a kernel without Landlock and user namespaces answers
for number in (444, 272):
    refused += [(0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.ENOSYS)]
refused.append((6, 0, 0, 0x7FFF0000))
lockdown.install_filter(b"".join(lockdown.struct.pack("=HBBI", *step) for step in refused))
try:
    asyncio.run(Sandbox(Path({str(folder)!r})).start())
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = (
        "SandboxError no sandbox can start here (bubblewrap: not installed; landlock: this kernel"
    )
    assert done.stdout.startswith(said), done
    assert done.stdout.count("\n") == 1
    for remedy in ("apt install bubblewrap", "Docker", "isolation"):
        assert remedy in done.stdout


async def test_without_bubblewrap_landlock_takes_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    async with Sandbox(folder) as sandbox:
        assert sandbox.tier == "landlock"


async def test_no_isolation_is_only_for_who_types_it_and_is_named(folder: Path) -> None:
    config = Config({"SandboxProvisioner": {"isolation": "none"}})
    async with Sandbox(folder, config=config) as sandbox:
        assert sandbox.describe() == "NO SANDBOX: your files, keys and network"
        assert await text(sandbox, "1 + 1") == "2"


async def test_an_unknown_kernelspec_is_one_line(folder: Path) -> None:
    config = Config({"Sandbox": {"kernel_name": "no-such-kernel"}})
    with pytest.raises(SandboxError, match="there is no kernelspec 'no-such-kernel'"):
        await Sandbox(folder, config=config).start()


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_file_that_is_too_large_to_come_late_is_named_and_seen_by_the_next_kernel(
    tier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_files, "MAX_BYTES", 3)
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        (folder / "late.csv").write_text("a\n1\n")
        (folder / "late.env").write_text("KEY=1\n")
        outputs = [one async for one in sandbox.execute("open('late.csv')")]
        assert [one.output_type for one in outputs] == ["stream", "error"]
        assert outputs[0].text.startswith("[late.csv is newer than this sandbox: %agent reset")
        outputs = [one async for one in sandbox.execute("open('late.env')")]
        assert [one.output_type for one in outputs] == ["error"]
        await sandbox.restart()
        outputs = [one async for one in sandbox.execute("print(open('late.csv').read())")]
        assert outputs[0].text == "a\n1\n\n"


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
    tmp_path: Path, tier: str, comes: str
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
    assert not descendants(os.getpid())


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
