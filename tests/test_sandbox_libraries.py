"""What libraries and programs expect of a machine, and find in the sandbox, in both tiers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from jupyter_agent.sandbox.__main__ import LIMITS
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest

from .run_code import attempt, outputs, text


async def test_a_program_finds_no_words_of_the_launcher(sandbox: Sandbox) -> None:
    code = "import argparse, sys; argparse.ArgumentParser().parse_args(), sys.argv"
    assert await text(sandbox, code) == "(Namespace(), ['ipykernel_launcher.py'])"


async def test_the_user_has_a_name(sandbox: Sandbox) -> None:
    code = "import getpass, os, pwd; me = pwd.getpwuid(os.getuid())"
    await text(sandbox, code)
    assert await text(sandbox, "me.pw_name, getpass.getuser()") == "('agent', 'agent')"
    assert await text(sandbox, "me.pw_dir == os.path.expanduser('~')") == "True"
    assert await text(sandbox, "pwd.getpwnam('agent') == me, pwd.getpwall() == [me]") == (
        "(True, True)"
    )
    assert await attempt(sandbox, "pwd.getpwuid(54321)") == "KeyError"


async def test_commands_run_in_the_users_shell(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/bin/bash")
    async with Sandbox(folder, config=sandbox.config) as inside:
        assert await text(inside, "!a=(1 2); echo ${a[1]} $SHELL") == "2 /bin/bash"
        assert await text(inside, "found = !echo {1..3}\nfound[0]") == "'1 2 3'"
    monkeypatch.setenv("SHELL", "/opt/nonexistent/fish")
    async with Sandbox(folder, config=sandbox.config) as inside:
        assert await text(inside, "!echo $SHELL") == "/bin/bash"


async def test_a_group_of_control_is_readable_or_absent(sandbox: Sandbox) -> None:
    """Libraries that look for limits go on where it is either."""
    code = "open('/proc/self/cgroup').read() is not None"
    assert await attempt(sandbox, code) in ("True", "FileNotFoundError")


async def test_the_limits_of_control_groups_are_readable_or_absent(sandbox: Sandbox) -> None:
    """DuckDB and joblib read them if they are there; what groups hold stays closed."""
    code = """
import os
said, refused = [], []
for folder, _, names in os.walk('/sys/fs/cgroup'):
    said += [os.path.join(folder, name) for name in names]
for line in open('/proc/self/cgroup'):
    _, controllers, group = line.strip().split(':', 2)
    for group in (group, ''):
        folder = f'/sys/fs/cgroup/{controllers}/{group}'
        for name in LIMITS + MEMBERS:
            try:
                open(f'{folder}/{name}').close()
                (refused if name in MEMBERS else []).append(name)
            except FileNotFoundError:
                pass
            except OSError:
                (refused if name in LIMITS else []).append(name)
said, refused
"""
    members = ["cgroup.procs", "tasks", "memory.stat"]
    code = f"LIMITS, MEMBERS = {LIMITS}, {members}\n{code}"
    assert await text(sandbox, code) == "([], [])"


async def test_cores_can_be_counted(sandbox: Sandbox) -> None:
    """joblib and scikit-learn warn in six lines where they cannot."""
    if not Path("/sys/devices/system/cpu/possible").exists():
        pytest.skip("this machine says nothing of its processors")
    assert await text(sandbox, "!lscpu --parse=core | grep -c '^[0-9]'") != "0"
    assert await attempt(sandbox, "open('/sys/devices/system/cpu/possible').read()[0]") == "0"
    assert await attempt(sandbox, "open('/sys/kernel/uevent_seqnum')") != "True"
    assert await attempt(sandbox, "len(__import__('os').getloadavg())") == "3"


async def test_a_server_of_the_codes_own_can_be_reached_in_bubblewrap(sandbox: Sandbox) -> None:
    code = """
import http.server, threading, urllib.request
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(204); self.end_headers()
    def log_message(self, *_): pass
try:
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").status)
except OSError as error:
    print(error.strerror)
"""
    reached = {"bubblewrap": "204", "landlock": "Address family not supported by protocol"}
    assert await text(sandbox, code) == reached[sandbox.tier]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
async def test_git_and_pip_work_on_files(sandbox: Sandbox) -> None:
    code = (
        "!git init -q r && cd r && git config user.email a@b && git config user.name a && touch a "
        "&& git add a && git commit -qm first && git log --format=%s"
    )
    assert await text(sandbox, code) == "first"
    assert "ERROR" not in await text(sandbox, "!pip config list; pip --version")
    listed = await text(sandbox, "!pip list")  # beside this project, which is editable
    assert "Error" not in listed
    assert "jupyter-agent-kernel" in listed
    for name in ("/etc/debian_version", "/etc/os-release"):  # pip install reads them
        there = Path(name).exists()
        assert await attempt(sandbox, f"len(open({name!r}).read()) > 1") == (
            "True" if there else "FileNotFoundError"
        )


async def test_the_shell_is_told_the_working_folder(sandbox: Sandbox) -> None:
    assert (
        await attempt(sandbox, "__import__('os').environ['PWD'] == __import__('os').getcwd()")
        == "True"
    )


async def test_what_may_not_be_run_is_said_how(sandbox: Sandbox) -> None:
    """Landlock has no say over chmod(2), so nothing can be made executable there."""
    write = "import os, subprocess; open('a.sh', 'w').write('#!/bin/sh\\necho ran')"
    await text(sandbox, f"{write}; os.chmod('a.sh', 0o755)")
    told = "no file can be made executable: run a script by its interpreter (sh a.sh)"
    found = await text(sandbox, "!./a.sh")
    [output] = await outputs(sandbox, "subprocess.run(['./a.sh'], capture_output=True).stdout")
    if found == "ran":
        assert output.data["text/plain"] == "b'ran\\n'"
    else:
        assert told in found
        assert told in output.traceback[-1]
    assert await text(sandbox, "!sh a.sh") == "ran"


async def test_temporary_files_go_to_the_private_folder(sandbox: Sandbox) -> None:
    code = "import tempfile, pathlib\npathlib.Path(tempfile.gettempdir()) == pathlib.Path.home() / 'tmp'"
    assert await text(sandbox, code) == "True"
    assert await text(sandbox, "tempfile.NamedTemporaryFile('w').write('abc')") == "3"


JOB = """
import ctypes, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

def fill(lock, counted, queue, memory, room):
    for _ in range(100):
        with lock:
            counted.value += 1
    shared = shared_memory.SharedMemory(memory)
    with lock:
        shared.buf[0] += 1
    shared.close()
    queue.put(room.acquire())

def main(way):
    context = multiprocessing.get_context(way)
    memory = shared_memory.SharedMemory(create=True, size=8)
    lock, counted, queue = context.RLock(), context.Value("i", 0, lock=False), context.Queue()
    room = context.BoundedSemaphore(2)
    started = [
        context.Process(target=fill, args=(lock, counted, queue, memory.name, room))
        for _ in range(2)
    ]
    for process in started:
        process.start()
    ended = [queue.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    found = counted.value, memory.buf[0], all(ended), room.get_value()
    memory.close()
    memory.unlink()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        print(*found, *pool.map(abs, [-3, 4]), flush=True)

if __name__ == "__main__":
    main(sys.argv[1])
"""


async def test_processes_share_locks_queues_and_memory(sandbox: Sandbox) -> None:
    """Also those of a program of its own, and those that are started anew."""
    await text(sandbox, f"open('job.py', 'w').write({JOB!r})\nimport job")
    assert await text(sandbox, "job.main('fork')") == "200 2 True 0 3 4"
    for way in ("fork", "spawn"):
        assert await text(sandbox, f"!python job.py {way}") == "200 2 True 0 3 4"


async def test_pools_work_where_a_fork_server_is_the_default(sandbox: Sandbox) -> None:
    """As it is from Python 3.14 on; its socket cannot be made where Landlock confines."""
    code = (
        "from multiprocessing import Pool, context\n"
        "context._default_context._default_context = context._concrete_contexts['forkserver']\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1) as pool: print(pool.map(abs, [-1]))\n"
    )
    await text(sandbox, f"open('pool.py', 'w').write({code!r})")
    assert await text(sandbox, "!python pool.py") == "[1]"


async def test_locks_are_those_of_any_python(sandbox: Sandbox) -> None:
    await text(sandbox, "import multiprocessing as mp, time\nlock, own = mp.Lock(), mp.RLock()")
    for code, found in {
        "lock.acquire(), lock.acquire(False), lock.acquire(timeout=0.01)": "(True, False, False)",
        "lock.release(), lock.acquire(timeout=1)": "(None, True)",
        "lock.release(), lock.release()": "ValueError",
        "own.acquire(), own.acquire(), own": "(True, True, <RLock(MainProcess, 2)>)",
        "[own.release(), own.release(), own.release()]": "AssertionError",
        "mp.BoundedSemaphore(2)": "<BoundedSemaphore(value=2, maxvalue=2)>",
        "mp.Event().wait(0)": "False",
    }.items():
        assert await text(sandbox, code) == found
    code = "s = mp.Array('d', [1, 2]); r = mp.RawArray('i', 3)"
    assert await text(sandbox, f"{code}\ns[:], r[:]") == "([1.0, 2.0], [0, 0, 0])"


async def test_a_sitecustomize_of_the_users_runs_too(
    folder: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = folder.parent / "elsewhere"
    project.mkdir()
    (project / "sitecustomize.py").write_text("import sys\nsys.customized = True\n")
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.syspath_prepend(str(project))
    async with Sandbox(folder, config=sandbox.config) as inside:
        code = "!python -c 'import sys, _multiprocessing; print(sys.customized)'"
        assert await text(inside, code) == "True"


async def test_a_cell_that_waits_sees_a_change_by_the_absolute_path(
    sandbox: Sandbox, folder: Path
) -> None:
    own = folder / "deep" / "numbers.txt"
    code = f"print('waits', flush=True)\nwhile open({str(own)!r}).read() != 'new': pass"
    async with aclosing(sandbox.execute(f"{code}\nopen('deep/numbers.txt').read()")) as found:
        assert (await anext(found)).text == "waits\n"
        before = own.read_text()
        own.write_text("new")
        assert (await anext(found)).data["text/plain"] == repr(before)


# -- what a model reads


@pytest.fixture
async def filtered(folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of the tier that comes first."""
    async with Sandbox(folder) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("HTML('<h1>Sales</h1><style>a</style><table><tr><th>a<th>b</tr><tr><td>1<td>x &lt; 2</tr></table>')", "Sales\na | b\n1 | x < 2"),
        ("Markdown('# Sales\\n- a')", "# Sales\n- a"),
        ("Latex('$x^2$')", "$x^2$"),
        ("display(Markdown('# Sales'))", "# Sales"),
        ("import pandas as pd; pd.DataFrame({'a': [1.25], 'b': ['x']}).style.format(precision=1)", "| a | b\n0 | 1.2 | x"),
        ("import plotly.express as px; px.bar(x=[1, 2], y=[3, 4], title='Sales')", "[a Plotly figure 'Sales' of 1 traces: bar]"),
        ("px.bar(x=[1, 2], y=[3, 4]).show()", "[a Plotly figure of 1 traces: bar]"),
        ("IFrame('https://example.org', 300, 200)", "[iframe https://example.org]"),
        ("HTML('<b>a</b> Make this Notebook Trusted <iframe srcdoc=x>no</iframe>')", "a[iframe]"),
        ("JSON({'a': [1]})", '{"a": [1]}'),
        ("SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><rect width=\"9\" height=\"9\"/></svg>')", "[svg]"),
        ("type('Graph', (), {'__str__': lambda self: 'two nodes'})()", "two nodes"),
        ("object.__new__(type('Plain', (), {}))", "<__main__.Plain at 0x"),
        ("type('Own', (), {'_repr_html_': lambda self: '<p>seen</p>', '__repr__': lambda self: 'itself'})()", "itself"),
        ("type('Odd', (), {'_repr_html_': lambda self: '</script><td'})()", "<__main__.Odd at 0x"),
    ],
)  # fmt: skip
async def test_displays_say_what_is_in_them(filtered: Sandbox, code: str, told: str) -> None:
    await text(
        filtered, "from IPython.display import HTML, JSON, SVG, IFrame, Latex, Markdown, display"
    )
    if "px." in code:
        await text(filtered, "import plotly.express as px")
    [output] = await outputs(filtered, code)
    assert output.data["text/plain"].startswith(told)


async def test_help_that_is_asked_for_is_read_once(filtered: Sandbox) -> None:
    [page] = await outputs(filtered, "len?")
    assert "Return the number of items in a container" in page.data["text/plain"]
    assert await outputs(filtered, "1;") == []
    request = UserRequest()  # of a user's own cell: a page shows it
    async with aclosing(filtered.execute("len?", request=request)) as found:
        assert [output async for output in found] == []
    assert filtered.reply
    assert filtered.reply["payload"]
