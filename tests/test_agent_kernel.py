"""The agent kernel as a faithful proxy: what a plain ipykernel notebook does, this one does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jupyter_kernel_test as jkt  # type: ignore[import-untyped]
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from jupyter_agent.sandbox.outputs import read_output

from .test_sandboxed_kernel import Protocol

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


# -- the messaging protocol


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
    "%%timeit -n1 -r2\npass",
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
    return re.sub(r"0x[0-9a-f]+|[^\s\"]*ipykernel_\d+", "", re.sub(NUMBERS, "TIME", text))


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
    assert comparable(published) == comparable(wanted)
    assert normal(reply) == normal(plain_reply(expected))
    assert agent.asked == plain.asked
