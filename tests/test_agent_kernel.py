"""The agent kernel as a faithful proxy: what a plain ipykernel notebook does, this one does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import jupyter_kernel_test as jkt  # type: ignore[import-untyped]
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_agent.sandbox.filter.host_commands import plainly_prose
from jupyter_agent.sandbox.filter.outputs import read_output
from jupyter_agent.transcript.shown_outputs import ANSI

from .conftest import TIERS
from .servers import ChatServer, Reply, descendants
from .test_sandboxed_kernel import Protocol, console, wait_until

Content = dict[str, Any]


@dataclass
class Kernel:
    """A kernel that is up, and what it was asked on stdin."""

    manager: KernelManager
    client: BlockingKernelClient
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def run(self, code: str, **options: Any) -> tuple[Content, list[tuple[str, Content]]]:
        """Run a cell to its reply and to idle; return the reply and what was published."""
        published = []

        def take(message: dict[str, Any]) -> None:
            published.append((message["msg_type"], message["content"]))

        def answer(message: dict[str, Any]) -> None:
            self.asked.append((message["content"]["prompt"], message["content"]["password"]))
            self.client.input("Ada")

        reply = self.client.execute_interactive(
            code, timeout=40, output_hook=take, stdin_hook=answer, **options
        )
        return reply["content"], published

    def shell(self, kind: str) -> dict[str, Any]:
        """Wait for a reply of this kind."""
        while (message := self.client.get_shell_msg(timeout=60))["msg_type"] != kind:
            pass
        return message

    def iopub(self, key: str, text: str) -> dict[str, Any]:
        """Wait until a message says this."""
        while text not in (m := self.client.get_iopub_msg(timeout=60))["content"].get(key, ""):
            pass
        return m

    def late(self) -> list[tuple[str, Content]]:
        """Take what is published still."""
        found: list[tuple[str, Content]] = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                return found
            found.append((message["msg_type"], message["content"]))


def said(published: list[tuple[str, Content]]) -> str:
    """Join what was printed and shown."""
    return "".join(
        content.get("text")
        or content.get("data", {}).get("text/plain")
        or content.get("evalue", "")
        for kind, content in published
        if kind not in ("status", "execute_input")
    )


@contextmanager
def kernel(folder: Path, *arguments: str) -> Iterator[Kernel]:
    """Start an agent kernel of one's own."""
    manager, client = start_new_kernel(
        kernel_name="jupyter-agent", cwd=str(folder), extra_arguments=list(arguments)
    )
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Kernel]]:
    """Start kernels in a folder of their own; each kind once for this module."""
    folder = tmp_path_factory.mktemp("work")
    kernels: dict[str, Kernel] = {}

    def start(name: str) -> Kernel:
        if name not in kernels:
            kernels[name] = Kernel(*start_new_kernel(kernel_name=name, cwd=str(folder)))
        return kernels[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield start
    for kernel in kernels.values():
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel()


@pytest.fixture(scope="module")
def plain(start: Callable[[str], Kernel]) -> Kernel:
    return start("python3")


@pytest.fixture(scope="module")
def agent(start: Callable[[str], Kernel]) -> Kernel:
    return start("jupyter-agent")


@pytest.fixture(scope="module", params=TIERS)
def confined(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """A kernel whose sandbox is of each tier in turn."""
    folder = tmp_path_factory.mktemp("confined")
    allowed = "--AgentKernel.allowed=-m scripted:*"
    with kernel(folder, f"--SandboxProvisioner.isolation={request.param}", allowed) as mine:
        yield mine


@pytest.fixture
def server(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """A chat server that is configured, so that a cell needs no permission for it."""
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", server.model)
    return server


# -- the messaging protocol


@pytest.mark.parametrize("port", ["shell_port", "iopub_port"])
def test_a_port_that_is_taken_ends_the_kernel(port: str, tmp_path: Path) -> None:
    path = str(tmp_path / "connection.json")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        write_connection_file(path, **{port: other.getsockname()[1]})
        command = [sys.executable, "-m", "jupyter_agent.frontends.agent_kernel", "-f", path]
        ended = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "the kernel cannot start: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


class TestProtocol(Protocol, jkt.KernelTests):  # type: ignore[misc]  # it ships no types
    """All that jupyter_kernel_test can test, and what the sandboxed kernel is held to besides."""

    kernel_name = "jupyter-agent"
    # the front process chooses the tier; there are no comms, and so no use for subshells
    test_the_tier_is_the_one_asked_for = None  # type: ignore[assignment]
    test_a_comm_opens_and_answers = None  # type: ignore[assignment]
    test_a_subshell_answers_while_a_cell_runs = None  # type: ignore[assignment]


class TestWelcome(jkt.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name, support_iopub_welcome = "jupyter-agent", True


# -- the same cells on a plain ipykernel and on this one

NUMBERS = r"[\d.]+(e[+-]?\d+)? ?[nmµμ]?s\b"  # times, which differ from run to run
CELLS: list[str | tuple[str, Content]] = [
    "x = 1",
    "x",
    "x;",
    "",
    "   \n\n",
    "# only a comment",
    "_ + 1, __, _2",
    "print('a'); print('b', end='')",
    "import sys; print('out'); print('err', file=sys.stderr)",
    "for i in range(3):\n    print(i)\ni",
    "class A:\n    'A thing.'\n    def __init__(self, n): self.n = n\n    def __repr__(self): return f'A({self.n})'\nA(3)",
    "class H:\n    def _repr_html_(self): return '<b>bold</b><script>1</script>'\n    def __repr__(self): return 'H'\nH()",
    "def gen(n):\n    while n:\n        got = yield n\n        n -= 1\n        print('got', got)\ng = gen(3); next(g), g.send('s'), list(g)",
    "[*map(lambda v: v ** 2, range(5))]",
    "{'b': 1, 'a': [1, 2, {'c': None}], 'long': list(range(60))}",
    "import asyncio\nawait asyncio.sleep(0.01, 'slept')",
    "async def agen():\n    for i in range(3):\n        yield i\n        await asyncio.sleep(0)\n[i async for i in agen()]",
    "async with asyncio.timeout(5):\n    print('in time')",
    "await asyncio.gather(*(asyncio.sleep(0, n) for n in 'abc'))",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\n    b: str = 'b'\nP(1)",
    "match [1, 2]:\n    case [a, b]:\n        r = a + b\nr",
    "from contextlib import contextmanager\n@contextmanager\ndef cm():\n    print('in')\n    yield 5\n    print('out')\nwith cm() as v: print(v)",
    "1/0",
    "def f(): raise ValueError('deep', 1)\ndef g2(): f()\ng2()",
    "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('chained') from e",
    "import = 7q",
    "def broken(:\n  pass",
    "raise SystemExit",
    "raise KeyboardInterrupt('mine')",
    "assert 0, 'why'",
    "undefined_name",
    "raise ExceptionGroup('many', [ValueError(1), TypeError('two')])",
    "import warnings; warnings.warn_explicit('careful', UserWarning, 'f.py', 3)",
    "%%time\nsum(range(10))",
    "%timeit -n1 -r1 pass",
    "%%timeit -n1 -r1\npass",
    "%who_ls int",
    "%precision 3",
    "3.14159",
    "%precision %r",
    "%%capture held\nprint('hidden')",
    "held.stdout",
    "%no_such_magic",
    "%%no_such_magic\nbody",
    "!echo shell; echo more",
    "lines = !printf 'a\\nb\\n'\nlines",
    "%%bash\necho from bash",
    "%pwd?",
    "zip?",
    "A??",
    "nothing_at_all?",
    "*int*?",
    "%recall 2",
    "%history -l 2",
    "In[2], Out[2]",
    "from IPython.display import *\ndisplay(HTML('<i>x</i>'), Markdown('*m*'), 'text')",
    "Math('x^2')",
    "JSON({'a': [1, 2]})",
    "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')",
    "Javascript('1')",
    "display({'application/vnd.plotly.v1+json': {'data': [], 'layout': {}}, 'text/plain': 'p'}, raw=True)",
    "h = display('first', display_id='d1')",
    "update_display('second', display_id='d1')",
    "display('a'); clear_output(wait=True); display('b')",
    "print('gone'); clear_output(); print('stays')",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.title('t'); plt.show()",
    "fig, ax = plt.subplots(figsize=(2, 1)); ax.bar([1], [2])",
    "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\ndf",
    "df.describe()",
    "df.style.highlight_max(subset=['a'])",
    "df.a.nope",
    "from tqdm import tqdm\nfor _ in tqdm(range(3), bar_format='{n_fmt}/{total_fmt}', mininterval=1e9): pass",
    "name = input('name? '); name",
    "import getpass; len(getpass.getpass('key? '))",
    ("input('nobody? ')", {"allow_stdin": False}),
    "breakpoint",
    ("y = 5", {"user_expressions": {"a": "y + 1", "b": "nope", "c": "A(4)"}}),
    ("1/0", {"user_expressions": {"a": "1"}}),
    ("print('quiet'); 5", {"silent": True}),
    ("1/0", {"silent": True}),
    ("z = 7; z", {"store_history": False}),
    "z",
    ("1/0", {"stop_on_error": False}),
    "sys.stdout.write('no newline')",
    "print('é ü \\U0001f600 \\u2028 \\x1b[31mred\\x1b[0m')",
    "print('a\\rb\\bc\\x07')",
    "import logging; logging.getLogger('t').warning('logged')",
    "del x\nx",
    "get_ipython().set_next_input('offered')",
    "get_ipython().run_cell('1+1').result",
    "%reset -f",
    "sorted(k for k in dir() if len(k) == 1)",
]


def normal(content: Content) -> str:
    """Write a message so that it can be compared: without times, addresses and temporary names.

    In the sandbox `!command` has a pipe where a plain kernel has a terminal, which ends lines by
    a carriage return too.
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False).replace(r"\r\n", r"\n")
    text = text.replace(f"{Path.home()}/", "~/")  # which is another folder in the sandbox
    return re.sub(r"0x[0-9a-f]+|[^\s\"]*ipykernel_\d+", "", re.sub(NUMBERS, "TIME", text))


ADDRESS = re.compile(r"<[\w.]+ object>|<[\w.]+ at 0x[0-9a-f]+>")


def filtered(kind: str, content: Content) -> Content:
    """Put an output of a plain kernel's through the filter that stands before the sandbox."""
    output = read_output(kind, content)
    return content if output is None else {k: v for k, v in output.items() if k != "output_type"}


def comparable(published: list[tuple[str, Content]]) -> list[tuple[str, str]]:
    """Join neighbouring pieces of a stream, whose size is a matter of time."""
    found: list[tuple[str, Content]] = []
    for kind, content in published:
        before = found[-1] if found else ("", {})
        if kind == "stream" == before[0] and before[1]["name"] == content["name"]:
            before[1]["text"] += content["text"]
            continue
        if "data" in content:
            name = content.pop("transient", {}).get("display_id", "")
            content["id"] = name.removeprefix("sandbox-")
        found.append((kind, content))
    return [(kind, normal(content)) for kind, content in found]


def take_texts(published: list[tuple[str, Content]], wanted: list[tuple[str, Content]]) -> None:
    """Expect the sandbox's text where a plain kernel's is the address of an object."""
    for (_, mine), (_, plain) in zip(published, wanted, strict=False):
        text, *notes = plain.get("data", {}).get("text/plain", "").split("\n")
        if ADDRESS.fullmatch(text):  # the notes of what was left out are the same
            text = mine["data"]["text/plain"].split("\n")[: -len(notes) or None]
            plain["data"]["text/plain"] = "\n".join([*text, *notes])


def plain_reply(reply: Content) -> Content:
    """Leave out what is deprecated (engine_info); filter what shows objects."""
    for value in reply.get("user_expressions", {}).values():
        value.update(filtered("display_data" if value["status"] == "ok" else "error", value))
    if reply["status"] == "error":
        reply.update(filtered("error", reply))
    return {name: value for name, value in reply.items() if name != "engine_info"}


@pytest.mark.parametrize("cell", CELLS, ids=range(len(CELLS)))
def test_a_cell_does_what_it_does_on_a_plain_kernel(
    plain: Kernel, agent: Kernel, cell: str | tuple[str, Content]
) -> None:
    code, options = (cell, {}) if isinstance(cell, str) else cell
    expected, wanted = plain.run(code, **options)
    reply, published = agent.run(code, **options)
    wanted = [(kind, filtered(kind, content)) for kind, content in wanted]
    take_texts(published, wanted)
    assert comparable(published) == comparable(wanted)
    assert normal(reply) == normal(plain_reply(expected))
    assert agent.asked == plain.asked


REQUESTS: list[tuple[str, Content]] = [
    ("complete_request", {"code": "impor", "cursor_pos": 5}),
    ("complete_request", {"code": "number.bit_", "cursor_pos": 11}),
    ("complete_request", {"code": "open('nothing_h", "cursor_pos": 15}),
    ("complete_request", {"code": "%%ti", "cursor_pos": 4}),
    ("complete_request", {"code": "zi", "cursor_pos": 2}),
    ("inspect_request", {"code": "number", "cursor_pos": 6, "detail_level": 0}),
    ("inspect_request", {"code": "zip(", "cursor_pos": 4, "detail_level": 1}),
    ("inspect_request", {"code": "nothing", "cursor_pos": 7, "detail_level": 0}),
    ("is_complete_request", {"code": "for x in y:"}),
    ("is_complete_request", {"code": "1 + 1"}),
    ("is_complete_request", {"code": "1 +* 1"}),
    ("history_request", {"hist_access_type": "tail", "n": 2, "raw": True, "output": False}),
    ("history_request", {"hist_access_type": "tail", "n": 2, "raw": True, "output": True}),
    ("history_request", {"hist_access_type": "search", "pattern": "numb*", "n": 1, "raw": True, "output": False}),
    ("comm_info_request", {"target_name": "nobody"}),
    ("connect_request", {}),
]  # fmt: skip


def reply_to(kernel: Kernel, kind: str, content: Content) -> Content:
    client = kernel.client
    client.shell_channel.send(client.session.msg(kind, content))
    reply: Content = kernel.shell(kind.replace("request", "reply"))["content"]
    for completion in reply.get("metadata", {}).get("_jupyter_types_experimental", ()):
        completion["type"] = ""  # jedi has 400 ms to find it
    for entry in reply.get("history", ()):
        entry[0] = 0  # a plain kernel counts the sessions of all its starts
    return {name: value for name, value in reply.items() if not name.endswith("_port")}


@pytest.mark.parametrize(("kind", "content"), REQUESTS, ids=range(len(REQUESTS)))
def test_a_request_is_answered_as_by_a_plain_kernel(
    plain: Kernel, agent: Kernel, kind: str, content: Content
) -> None:
    for each in (plain, agent):
        each.run("number = 12; number")
    assert normal(reply_to(agent, kind, content)) == normal(reply_to(plain, kind, content))


def test_the_kernel_says_what_it_is(plain: Kernel, agent: Kernel) -> None:
    reply, expected = (reply_to(kernel, "kernel_info_request", {}) for kernel in (agent, plain))
    for name in ("status", "protocol_version", "language_info", "help_links"):
        assert reply[name] == expected[name]
    assert reply["banner"].startswith("Python 3")
    assert reply["supported_features"] == []  # no debugger


def test_a_debug_event_of_the_guests_reaches_nobody(agent: Kernel) -> None:
    forge = (
        "kernel = get_ipython().kernel\nkernel.session.send(kernel.iopub_socket, 'debug_event',"
        " {'event': 'stopped', 'body': {'threadId': 1}}, parent=kernel.get_parent())"
    )
    assert "debug_event" not in [kind for kind, _ in agent.run(forge)[1]]


# -- while a cell runs, and after


def test_what_is_asked_while_a_cell_runs_is_answered_afterwards(agent: Kernel) -> None:
    agent.client.execute("import time\nprint('on', flush=True)\ntime.sleep(1); known = 1")
    agent.iopub("text", "on")
    asked = agent.client.complete("kno")
    assert agent.shell("execute_reply")["content"]["status"] == "ok"
    reply = agent.shell("complete_reply")
    assert reply["parent_header"]["msg_id"] == asked
    assert "known" in reply["content"]["matches"]
    agent.late()


def test_an_error_aborts_the_cells_in_line_and_no_others(agent: Kernel) -> None:
    client = agent.client
    ids = [client.execute(code) for code in ("import time; time.sleep(0.5); 1/0", "2", "3")]
    statuses = {}
    for _ in ids:
        reply = agent.shell("execute_reply")
        statuses[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
    assert [statuses[msg_id] for msg_id in ids] == ["error", "aborted", "aborted"]
    assert agent.run("4")[0]["status"] == "ok"
    ids = [client.execute(code, stop_on_error=False) for code in ("1/0", "5")]
    assert [agent.shell("execute_reply")["content"]["status"] for _ in ids] == ["error", "ok"]
    agent.late()


def test_threads_and_tasks_are_heard_when_their_cell_is_over(agent: Kernel) -> None:
    code = (
        "import asyncio, threading, time\n"
        "def work():\n    time.sleep(0.3); print('from the thread')\n"
        "threading.Thread(target=work).start()\n"
        "async def task():\n    await asyncio.sleep(0.3); print('from the task')\n"
        "held = asyncio.create_task(task())"
    )
    agent.run(code)
    text = said(agent.late())
    assert "from the thread" in text
    assert "from the task" in text


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel whose cells may put out little, and a mime type that is on no white list."""
    limits = ["--Sandbox.max_outputs=20", "--Sandbox.max_output_mib=1"]
    admitted = "--Sandbox.admit=text/x-mine"
    with kernel(tmp_path_factory.mktemp("narrow"), *limits, admitted) as mine:
        yield mine


def displays(published: list[tuple[str, Content]]) -> int:
    return sum(kind == "display_data" for kind, _ in published)


LATE = "import threading, time\ndef later(do): threading.Timer(0.3, do).start()\n"
NO_MORE = "more than 20 outputs or 1 MiB; no more of this cell's is shown"


def test_what_comes_late_has_room_where_its_cell_has_left_some(narrow: Kernel) -> None:
    narrow.run(f"{LATE}later(lambda: [display(n) for n in range(100)])")
    late = narrow.late()
    assert displays(late) == 20
    assert said(late).count(NO_MORE) == 1
    _, published = narrow.run(
        f"{LATE}later(lambda: [display(n) for n in range(100)])\n" + 15 * "display(1);"
    )
    assert displays(published) == 15
    assert displays(narrow.late()) == 5
    narrow.run(f"{LATE}later(lambda: [print('x' * 400_000, flush=True) for n in range(9)])")
    late = narrow.late()
    assert 800_000 < len(said(late)) < 1_500_000
    assert said(late).count(NO_MORE) == 1


def test_a_guest_cannot_write_below_an_earlier_cell_without_end(narrow: Kernel) -> None:
    narrow.run("kernel = get_ipython().kernel; old = kernel.get_parent('shell')")
    forge = "kernel.session.send(kernel.iopub_socket, 'stream', {'name': 'stdout', 'text': 'forged'}, old)"
    narrow.client.execute(f"for _ in range(300): {forge}\nprint('mine')")
    text = said(narrow.late())  # of all cells
    assert text.count("forged") == 20
    assert text.count("mine") == 1


def test_what_is_admitted_passes_late_too(narrow: Kernel) -> None:
    show = "display({'text/x-mine': 'seen', 'text/plain': 'p', 'text/x-other': 'unseen'}, raw=True)"
    narrow.run(f"{LATE}later(lambda: {show})")
    [bundle] = [content["data"] for kind, content in narrow.late() if kind == "display_data"]
    assert bundle == {"text/x-mine": "seen", "text/plain": "p"}


def test_an_interrupt_ends_a_cell_as_a_plain_kernel_does(plain: Kernel, confined: Kernel) -> None:
    replies = []
    for kernel in (plain, confined):
        # one statement: IPython compiles each when it comes to it, and the interrupt may fall there
        code = "kept = 7\nif kept:\n    print('going', flush=True)\n    while True: pass"
        kernel.client.execute(code)
        kernel.iopub("text", "going")
        kernel.manager.interrupt_kernel()
        reply = kernel.shell("execute_reply")["content"]
        assert "while True" in ANSI.sub("", "".join(reply["traceback"]))
        replies.append((reply["status"], reply["ename"], reply["evalue"]))
        kernel.late()
        assert said(kernel.run("kept")[1]) == "7"
    assert replies[0] == replies[1]


def test_an_interrupt_ends_a_question(confined: Kernel) -> None:
    confined.client.execute("input('who? ')", allow_stdin=True)
    assert confined.client.get_stdin_msg(timeout=60)["content"]["prompt"] == "who? "
    confined.manager.interrupt_kernel()
    assert confined.shell("execute_reply")["content"]["ename"] == "KeyboardInterrupt"
    confined.client.input("too late")
    confined.late()
    assert said(confined.run("input('and now? ')")[1]) == "'Ada'"


def test_what_the_guest_writes_in_a_prompt_obeys_no_terminal(agent: Kernel) -> None:
    agent.run("input('\\x1b]0;title\\x07name? ')")
    assert agent.asked[-1] == ("name? ", False)


def test_what_an_output_must_not_hold_never_reaches_the_page(agent: Kernel) -> None:
    code = (
        "from IPython.display import *\n"
        "get_ipython().kernel.session.send(get_ipython().kernel.iopub_socket, 'display_data',\n"
        "    {'data': {'text/html': '<script>1</script><b>b</b>'}, 'metadata': {}},\n"
        "    parent=get_ipython().kernel.get_parent(), metadata={'jupyter_agent': {'op': 'cell'}})\n"
        "get_ipython().payload_manager.write_payload({'source': 'edit_magic', 'filename': '/etc/x'})\n"
        "get_ipython().payload_manager.write_payload("
        "{'source': 'page', 'data': {'text/html': '<script>', 'text/plain': 'p'}, 'start': 0})"
    )
    messages: list[dict[str, Any]] = []
    reply = agent.client.execute_interactive(code, timeout=20, output_hook=messages.append)
    page = {"source": "page", "data": {"text/plain": "p"}, "start": 0}
    assert reply["content"]["payload"] == [page]
    shown = next(m for m in messages if m["msg_type"] == "display_data")
    assert shown["content"]["data"]["text/html"] == "<b>b</b>"
    assert shown["metadata"] == {}


# -- death


def sandbox_of(kernel: Kernel) -> int:
    """Find the process group leader of the sandbox: a child of the front process, not its watch."""
    assert kernel.manager.provisioner
    started = descendants(kernel.manager.provisioner.pid)  # type: ignore[attr-defined]
    return next(pid for pid in started if Path(f"/proc/{pid}/comm").read_text() != "sh\n")


def test_the_notebook_survives_its_sandbox(confined: Kernel) -> None:
    confined.run("lost = 1")
    confined.client.execute("print('busy', flush=True)\nimport time; time.sleep(600)")
    confined.iopub("text", "busy")
    os.kill(sandbox_of(confined), signal.SIGKILL)
    reply = confined.shell("execute_reply")["content"]
    assert reply["ename"] == "SandboxDied"
    assert "its variables and files are gone" in reply["evalue"]
    confined.late()
    assert confined.run("'lost' in globals()")[0]["execution_count"] == 1
    dead = sandbox_of(confined)
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{dead}").exists())
    reply, published = confined.run("6 * 7")
    assert reply["status"] == "ok"
    assert "died (exit code" in said(published)
    assert said(published).endswith("this cell runs in a new one\n42")
    assert confined.run("1")[0]["execution_count"] == 2


def test_a_sandbox_may_die_in_a_run_and_before_a_request(confined: Kernel, folder: Path) -> None:
    script, code = folder / "s.md", "import subprocess; subprocess.run(['sleep', '600'])"
    script.write_text(f"x\n{fence(code)}\n<!-- next reply -->\nWell.\n")
    confined.run("%agent reset")
    confined.run("x = 1")
    sandbox = sandbox_of(confined)
    before = len(descendants(sandbox))
    confined.client.execute(f"%%agent -m scripted:{script}\nSleep.")
    wait_until(lambda: len(descendants(sandbox)) > before)
    os.kill(sandbox, signal.SIGKILL)
    assert confined.shell("execute_reply")["content"]["status"] == "ok"
    text = said(confined.late())
    assert "its variables and files are gone" in text
    assert "Well." in text
    assert said(confined.run("'x' in globals()")[1]) == "False"
    os.kill(sandbox_of(confined), signal.SIGKILL)
    reply = reply_to(confined, "complete_request", {"code": "zi", "cursor_pos": 2})
    assert "the next cell starts in a new one" in reply.get("evalue", "") or reply["matches"]
    confined.late()
    assert said(confined.run("2")[1]).endswith("2")


def asleep(pid: int) -> bool:
    return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    ("tier", "doing"),
    [
        (TIERS[0], "nothing"),
        (TIERS[0], "x"),
        (TIERS[0], "loop"),
        (TIERS[1], "loop"),
        (TIERS[1], "shell"),
    ],
)
def test_nothing_is_left_when_the_front_process_is_killed(
    folder: Path, tmp_path: Path, tier: str, doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with kernel(folder, f"--SandboxProvisioner.isolation={tier}") as mine:
        if doing != "nothing":
            mine.run("x = 1")
        if doing == "loop":
            mine.client.execute("print('on', flush=True)\nwhile True: pass")
            mine.iopub("text", "on")
        if doing == "shell":
            mine.client.execute("print('on', flush=True)\n!setsid sleep 600 & sleep 600")
            mine.iopub("text", "on")
        front: int = mine.manager.provisioner.pid  # type: ignore[union-attr]
        if doing == "shell":
            wait_until(lambda: sum(map(asleep, descendants(front))) == 2)
        processes = 2 if tier == "bubblewrap" else 1  # bwrap itself is one
        wait_until(lambda: len(descendants(front)) >= processes)
        started = descendants(front)
        os.kill(front, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
        for left in tmp_path.glob("jupyter-agent-*"):  # a folder, for the next start
            os.utime(left, (0, 0))
        mine.manager.restart_kernel(now=True)  # as Jupyter Server does
        mine.client.wait_for_ready(timeout=40)
        assert said(mine.run("'x' in globals()")[1]) == "False"
        assert mine.manager.provisioner
        mine.manager.shutdown_kernel()
    wait_until(lambda: not list(tmp_path.glob("jupyter-agent-*")))


def test_a_restart_starts_both_anew(folder: Path) -> None:
    with kernel(folder) as mine:
        mine.run("x = 1")
        before = descendants(os.getpid())
        mine.manager.restart_kernel()
        mine.client.wait_for_ready(timeout=40)
        reply, published = mine.run("'x' in globals()")
        assert (reply["execution_count"], said(published)) == (1, "False")
        front: int = mine.manager.provisioner.pid  # type: ignore[union-attr]
        assert not {front, *descendants(front)} & set(before)


# -- the agent in it


def fence(code: str) -> str:
    return f"```python\n{code}\n```"


def test_the_agent_reads_what_the_user_ran(folder: Path, server: ChatServer) -> None:
    server.replies = [
        Reply(f"I look.\n{fence('print(price + 1)')}"),
        Reply("It is **43**."),
        Reply("Gone."),
    ]
    with kernel(folder) as mine:
        mine.run("price = 42; price")
        mine.run("1/0")
        mine.run("print('long ' * 5000)")
        mine.run("'unseen'", silent=True)
        reply, published = mine.run(f"%%agent -m {server.model}\nOne more than {{price}}?")
        assert reply["status"] == "ok"
        assert reply["execution_count"] == 4
        assert "It is **43**." in said(published)
        first = server.requests[0].messages[1]["content"]
        assert first.startswith(f"I ran:\n{fence('price = 42; price')}\nOutput:\n42\n\nI ran:")
        assert "ZeroDivisionError: division by zero" in first
        assert "characters left out" in first
        assert len(first) < 10_000
        assert "unseen" not in first
        assert "One more than {price}?" in first
        assert mine.run("price")[0]["execution_count"] == 6  # 5 is the agent's own cell
        assert "run_cell_magic('agent'" in said(mine.run("print(In[4])")[1])
        os.kill(sandbox_of(mine), signal.SIGKILL)
        wait_until(lambda: mine.run("1")[0]["status"] == "ok")
        mine.run(f"%%agent -m {server.model}\nAnd now?")
        then = server.requests[-1].messages
        assert then[:2] == server.requests[0].messages[:2]
        assert "[the kernel was new here" in then[-1]["content"]


def test_the_agent_reads_its_own_cell_as_the_user_ran_it(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply(f"x\n{fence('n = 1; print(n)')}"), Reply("One."), Reply("Two.")]
    with kernel(folder) as mine:

        def run_noted(code: str, cell_id: str, **note: str) -> list[dict[str, Any]]:
            """Run a cell as a page with live cells does; return what tags say of the run's cells."""
            client, tags = mine.client, []
            metadata = {"cellId": cell_id, "jupyter_agent": {"id": cell_id, **note}}
            content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
            asked = client.session.msg("execute_request", content, metadata=metadata)
            client.shell_channel.send(asked)
            state = ""
            while state != "idle":
                heard = client.get_iopub_msg(timeout=40)
                if heard["parent_header"].get("msg_id") == asked["msg_id"]:
                    state = heard["content"].get("execution_state", "")
                    tags.append(heard["metadata"].get("jupyter_agent", {}))
            mine.shell("execute_reply")
            return tags

        tags = run_noted(f"%%agent -m {server.model}\nHow many?", "asked")
        made = next(tag for tag in tags if tag.get("type") == "code")
        run_noted("n = 2; print(n, 1/1)", made["id"], run=made["run"])
        run_noted("n = 3; print(n)", "copied", run=made["run"])  # none of the run's
        mine.run(f"%%agent -m {server.model}\nAnd now?")
    shown = [message["content"] for message in server.requests[-1].messages]
    assert fence("n = 2; print(n, 1/1)") in shown[2]
    assert "2 1.0" in shown[3]
    assert "I ran" not in shown[3]
    assert "n = 1" not in str(shown)
    assert shown[-1].startswith(f"I ran:\n{fence('n = 3; print(n)')}")


def test_the_line_magic_says_what_confines(
    confined: Kernel, request: pytest.FixtureRequest
) -> None:
    confined.run("1")
    assert (
        f"{request.node.callspec.params['confined']}, reads"
        in said(confined.run("%agent status")[1]).lower()
    )


def test_the_line_magic_answers_out_here(agent: Kernel) -> None:
    _, published = agent.run("%agent status")
    assert "bubblewrap, reads" in said(published)
    assert "%agent status" in said(agent.run("%agent help")[1])
    assert "--save" in agent.run("%%agent?")[0]["payload"][0]["data"]["text/plain"]
    assert "in a cell of its own" in said(agent.run("x = 1\n%agent status")[1])
    for code in (
        "%agent what",
        "%%agent 'unended\nx",
        "%%agent --what\nx",
        "%%agent -m gpt\nx",
        "%%agent",
    ):
        assert agent.run(code)[0]["ename"] == "UsageError"
    assert "%%agent" in reply_to(agent, "complete_request", {"code": "%%ag", "cursor_pos": 4})["matches"]  # fmt: skip


@pytest.mark.usefixtures("no_ollama")
def test_a_cell_chooses_a_model_with_the_users_permission_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(os.environ["JUPYTER_CONFIG_DIR"])
    with kernel(folder) as mine:
        for words, asked in {
            "use http://127.0.0.1:9/v1#x": "-m http://127.0.0.1:9",
            "use ollama:x --save": "%agent use --save ollama:x",
        }.items():
            reply, _ = mine.run(f"%agent {words}", allow_stdin=False)
            assert reply["evalue"].startswith(f"{asked} was not allowed")
            assert "ollama:x" not in said(mine.run("%agent status")[1])
        assert not config.exists()
        reply, published = mine.run("%%agent\nCount.")
        assert reply["ename"] == "NoModel"
        assert "run hf auth login in a terminal" in said(published)


def test_an_interrupt_ends_a_run_and_keeps_the_variables(folder: Path, server: ChatServer) -> None:
    server.replies = [
        Reply(f"x\n{fence('made = 5')}"),
        Reply("and " * 5, fault="endless"),
        Reply("done"),
    ]
    with kernel(folder) as mine:
        mine.client.execute(f"%%agent -m {server.model}\nGo on.")
        wait_until(lambda: len(server.requests) == 2)
        mine.manager.interrupt_kernel()
        reply = mine.shell("execute_reply")["content"]
        assert (reply["ename"], reply["evalue"]) == ("Interrupted", "the cell was stopped")
        assert server.hung_up.wait(20)
        mine.late()
        assert said(mine.run("made")[1]) == "5"


def test_a_recorded_run_takes_the_models_place(folder: Path, server: ChatServer) -> None:
    cell = f"%%agent -m {server.model} --save run.ipynb\nMake it."
    server.replies = [Reply(f"I make it.\n{fence('made = 6 * 7; print(made)')}"), Reply("**42**")]
    cells = ["%agent status", cell, "made"]
    assert texts(execute(folder, *cells))[2] == ["42"]
    assert len(server.requests) == 2
    record = (folder / "run.ipynb").read_text()
    shown = texts(execute(folder, *cells))
    assert len(server.requests) == 2  # nobody was asked
    assert "as recorded (--rerun asks the model again)" in shown[1][0]
    assert shown[1][1:5] == ["I make it.", "made = 6 * 7; print(made)", "42\n", "**42**"]
    assert shown[2] == ["42"]
    assert (folder / "run.ipynb").read_text() == record
    change = f"--save {folder / 'run.ipynb'}"
    for anew in (cell.replace("--save", "--rerun --save"), cell.replace("Make it", "Make another")):
        with pytest.raises(
            CellExecutionError, match=f"{change} was not allowed: the user cannot be"
        ):
            execute(folder, anew)
        with pytest.raises(
            CellExecutionError, match=f"{change} was not allowed: the user cannot be"
        ):
            execute(folder, cell, "%%agent\nMake another.")  # in the run that the first has opened
    assert (folder / "run.ipynb").read_text() == record
    assert len(server.requests) == 2
    server.replies = [Reply("Again: **42**"), Reply("Once more.")]
    again = [cell.replace("--save", "--rerun --save"), cell.replace("Make it", "Once more")]
    shown = texts(execute(folder, *again, allowed=change))
    assert "Again: **42**" in shown[0]
    assert "Once more." in shown[1]
    assert len(server.requests) == 4
    server.replies = [Reply("Another.")]
    another = cell.replace("Make it", "Make another")
    assert "Another." in texts(execute(folder, another, allowed="--save *"))[0]


def test_prose_goes_to_the_agent_only_where_asked_for(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("It is **12**.")]
    cell = "How many of them are there?"
    with kernel(folder, "--AgentKernel.prose=True", f"--Session.model={server.model}") as mine:
        assert "It is **12**." in said(mine.run(cell)[1])
        assert mine.run("import numpy as")[0]["ename"] == "SyntaxError"
    with kernel(folder) as mine:
        mine.run(cell)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text", ["'a or ' + 'not ' * 400 + 'a'", "'a b c d e f ' + '~' * 1_500 + '1'"]
)
def test_text_that_is_too_deep_for_a_parser_gets_its_reply(agent: Kernel, text: str) -> None:
    reply, _ = agent.run(f"get_ipython().set_next_input({text})")
    assert reply["status"] == "ok"
    agent.run(
        f"completer = get_ipython().kernel.do_complete\nget_ipython().kernel.do_complete = lambda code, pos: dict(status='ok', cursor_start=0, cursor_end=pos, metadata={{}}, matches=[{text}, 'a1'] * 5_000)"
    )
    agent.client.complete("a", 1)
    found = agent.shell("complete_reply")["content"]["matches"]
    agent.run("get_ipython().kernel.do_complete = completer")
    assert "a1" in found
    assert len(found) <= 2_000


def test_other_data_takes_the_variables_and_says_so(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("Done."), Reply("Done.")]
    with kernel(folder, f"--Session.model={server.model}") as mine:
        mine.run("%%agent --data deep\nLook.")
        assert said(mine.run("x = 1; x")[1]) == "1"  # and nothing of a sandbox that held nothing
        mine.run("%%agent --data .\nLook.")
        text = said(mine.run("'x' in globals()")[1])
    assert text == (
        "other --data needs a new sandbox; variables and files are gone; this cell runs in a new one\n"
        "False"
    )


FAULTY = """
from jupyter_agent.frontends import agent_kernel
def read_command(code, **_):
    raise KeyError(code)
agent_kernel.read_command = read_command
agent_kernel.main()
"""


def test_a_fault_of_ours_is_said_and_ends_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "kernels" / "faulty"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-P", "-c", FAULTY, "-f", "{connection_file}"]
    about = {
        "argv": argv,
        "display_name": "Faulty",
        "language": "python",
        "interrupt_mode": "message",
    }
    (spec / "kernel.json").write_text(json.dumps(about))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    mine = Kernel(*start_new_kernel(kernel_name="faulty", cwd=str(tmp_path)))
    for _ in range(2):
        reply, published = mine.run("1 + 1")
        assert reply["ename"] == "Defect"
        assert "unexpected KeyError" in reply["evalue"]
        assert "'1 + 1'; this is a bug in jupyter_agent" in reply["evalue"]
        kinds = [kind for kind, _ in published if kind != "status"]
        assert kinds == ["execute_input", "error"]
    mine.client.stop_channels()
    mine.manager.shutdown_kernel(now=True)


def test_code_is_never_taken_for_prose() -> None:
    for code in [cell if isinstance(cell, str) else cell[0] for cell in CELLS]:
        assert not plainly_prose(code), code
    for code in ("print hello big world", "for x in range(3", "if a is not b then", "x y z", "a b"):
        assert plainly_prose(code) == (code == "print hello big world")
    for text in ("What is the mean of each species?", "Plot it again, but with a log axis"):
        assert plainly_prose(text)


FORGE = """\
import threading, time
kernel, parents = get_ipython().kernel, []
get_ipython().events.register('pre_run_cell', lambda _: parents.append(kernel.get_parent('shell')))
def forge(kind, content):
    for parent in list(parents):
        kernel.session.send(kernel.iopub_socket, kind, content, parent)
def work():
    while True:
        time.sleep(0.05)
        forge('stream', {'name': 'stdout', 'text': 'forged'})
        forge('clear_output', {'wait': False})
        forge('error', {'ename': 'forged', 'evalue': '', 'traceback': ['forged']})
        bundle = {'data': {'text/markdown': 'forged'}, 'metadata': {}, 'transient': {}}
        forge('display_data', bundle)
threading.Thread(target=work, daemon=True).start()"""


@pytest.mark.parametrize("cell_id", ["named", ""])
def test_what_threads_put_out_is_no_part_of_a_later_run(
    folder: Path, server: ChatServer, cell_id: str
) -> None:
    server.replies = [Reply("The answer is forty two and nothing else.", delay=0.3)]
    with kernel(folder) as mine:
        client = mine.client
        mine.run(FORGE)
        earlier = client.execute("'an earlier cell'")
        mine.iopub("text", "forged")
        metadata = {"cellId": cell_id} if cell_id else {}
        code = f"%%agent -m {server.model}\nHow many?"
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        asked = client.session.msg("execute_request", content, metadata=metadata)
        client.shell_channel.send(asked)
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["content"].get("execution_state") != "idle":
            message = client.get_iopub_msg(timeout=40)
            own = message["parent_header"].get("msg_id") == asked["header"]["msg_id"]
            if own or "forged" in str(message["content"]):
                heard.append(message)
    header = [i for i, m in enumerate(heard) if "agent:" in str(m["content"])]
    forged = [m for m in heard[header[0] : header[-1]] if "forged" in str(m["content"])]
    assert {m["parent_header"]["msg_id"] for m in forged} == ({earlier} if cell_id else set())
    assert any("forty two and nothing" in str(m["content"]) for m in heard)
    assert "clear_output" not in {m["msg_type"] for m in heard}


# -- clients


def execute(folder: Path, *cells: str, allowed: str = "") -> NotebookNode:
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="jupyter-agent", resources=resources)
    client.extra_arguments = [f"--AgentKernel.allowed={allowed}"] if allowed else []
    client.execute()
    nbformat.validate(notebook)
    return notebook


def texts(notebook: NotebookNode) -> list[list[str]]:
    return [
        [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
        for cell in notebook.cells
    ]


def test_papermill_and_nbconvert_run_a_notebook(folder: Path) -> None:
    parameters = new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    cells = [parameters, new_code_cell("print(n, len(open('penguins.csv').readlines()))")]
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "jupyter-agent", "display_name": "x", "language": "python"}  # fmt: skip
    nbformat.write(notebook, folder / "in.ipynb")
    for command in (
        ["papermill", "in.ipynb", "mill.ipynb", "-p", "n", "5"],
        ["nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "conv.ipynb"],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, check=True)  # fmt: skip
    for name, text in (("mill", "5 345\n"), ("conv", "1 345\n")):
        done = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        assert done.cells[-1].outputs[0].text == text


def test_a_console_works_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (folder / "s.md").write_text(
        f"I look.\n{fence('print(name)')}\n<!-- next reply -->\nDone it.\n"
    )
    with console("jupyter-agent", folder) as shown:
        assert "cells run in a sandbox" in shown.screen()
        shown.type_in("open('penguins.csv').readline()[:7]", then="Out[1]: 'species'")
        shown.type_in("name = input('wh' + 'o? ')", then="who?")
        shown.type_in("Ada", then="In [3]:")
        shown.type_in(
            "print('go' + 'ing', flush=True); __import__('time').sleep(600)", then="going"
        )
        shown.press("C-c")
        shown.shows("KeyboardInterrupt", "In [4]:")
        shown.press("%%agent -m scripted:s.md", "Enter")
        shown.press("Who is it?", "Escape", "Enter")
        shown.shows("Done it.", "In [5]:")
        shown.type_in("exit", then="left 0")
        wait_until(lambda: not list(tmp_path.glob("jupyter-agent-*")))
