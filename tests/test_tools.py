"""Tools: what the guest sees of the user's functions, and what it may do with them."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import threading
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from PIL import Image
from traitlets.config import Config

from jupyter_agent import tool
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.approval import Ask, Question, Verdict
from jupyter_agent.exchange.tools import Tool, Tools, find, fits, marked
from jupyter_agent.sandbox.connection import END_OF_FILE
from jupyter_agent.sandbox.guest.calls import from_text, to_text
from jupyter_agent.sandbox.guest.codec import decode, encode
from jupyter_agent.session import Session

F = "```"


def search(query: str, *, limit: int = 2, api_key: str = "sk-secret") -> list[str]:
    """Search for something.

    The second paragraph.
    """
    return [query] * limit


class Store:
    """Something with a secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def read(self, name: str) -> str:
        return f"{name}: {len(self._secret)}"

    @tool(ask=True)
    def drop(self, name: str) -> str:
        return f"dropped {name}"

    async def __call__(self, n: int) -> int:
        await asyncio.sleep(0)
        return n + 1


def tools(*functions: object, ask: Ask | None = None, max_calls: int = 1000) -> Tools:
    return Tools(map(Tool.of, functions), ask=ask, max_calls=max_calls)


def question(name: str, *args: object, token: str = "", **kwargs: object) -> str:
    parts = to_text(encode({"args": args, "kwargs": kwargs}))
    token = token or secrets.token_hex(8)
    return "\0rpc" + json.dumps({"id": token, "tool": name, "parts": parts})


async def ask_for(offered: Tools, name: str, *args: object, **kwargs: Any) -> Any:
    """What the guest gets for a call: a value, or the name and text of an error."""
    reply = json.loads(await offered.answer(question(name, *args, **kwargs)))
    return tuple(reply["error"]) if "error" in reply else decode(from_text(reply["parts"]))


# -- what the model is told


def test_the_model_reads_signature_and_docstring_and_no_secret() -> None:
    offered = tools(search, Store("sk-secret").read)
    assert offered.describe() == (
        "Functions you can call; they run outside the sandbox, with the user's rights:\n\n"
        "```text\n"
        "def search(query: str, *, limit: int = 2, api_key: str = ...) -> list[str]\n"
        "    Search for something.\n\n"
        "    The second paragraph.\n\n"
        "def read(name: str) -> str\n"
        "```"
    )
    assert "sk-secret" not in json.dumps(offered.specs())


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (5, "is not a function"),
        (lambda: 1, "cannot have the name '<lambda>'"),
        (max, "has no signature"),
    ],
    ids=["number", "lambda", "builtin"],
)
def test_what_cannot_be_a_tool_says_why(function: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Tool.of(function)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two tools have the name 'search'"):
        tools(search, search)


def test_tools_are_found_by_their_place_and_by_their_mark() -> None:
    assert find("json:dumps") is json.dumps
    for name in ("json", "json:gone", "gone.away:x", ":"):
        with pytest.raises(UsageError, match=r"package\.module:function"):
            find(name)

    @tool
    def good() -> None: ...

    assert list(marked({"good": good, "_1": good, "search": search, "n": 5})) == ["good"]
    assert Tool.of(Store("x").drop).ask
    assert not Tool.of(good).ask


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [1], [True, 1.0, "1", None]),
        (float, [1.0, 1], ["1", None]),
        (str | None, ["x", None], [1]),
        (typing.Optional[int], [1, None], ["x"]),  # noqa: UP045
        (list[int], [[1], []], [[1, "x"], (1,), "x"]),
        (dict[str, list[int]], [{"a": [1]}], [{1: [1]}, {"a": 1}]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (pd.DataFrame, [pd.DataFrame()], [{}, None]),
        (tuple[int, ...], [(1,)], [[1]]),
        (typing.Any, [1, None], []),
        (Callable[[], int], [], [1]),
        ("unknown", [1, None], []),
    ],
    ids=str,
)
def test_annotations_are_checked_where_that_is_simple(
    hint: Any, good: list[object], bad: list[object]
) -> None:
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []


# -- calls, without a sandbox


async def test_calls_run_with_their_arguments() -> None:
    def outer(n: int) -> Callable[[int], int]:
        def add(m: int) -> int:
            return n + m

        return add

    def table(frame: pd.DataFrame, *more: int, **named: int) -> pd.DataFrame:
        return frame.assign(**named) * sum(more)

    async def later(n: int) -> tuple[int, bool]:
        await asyncio.sleep(0)
        return n, threading.current_thread() is threading.main_thread()

    def thread() -> bool:
        return threading.current_thread() is threading.main_thread()

    def picture() -> Image.Image:
        return Image.new("L", (2, 2))

    offered = tools(outer(5), table, later, thread, picture, Store("12").read, search)
    assert await ask_for(offered, "add", 2) == 7
    frame = pd.DataFrame({"a": [1]})
    assert (await ask_for(offered, "table", frame, 1, 2, b=4)).to_dict("list") == {
        "a": [3],
        "b": [12],
    }
    assert await ask_for(offered, "later", n=1) == (1, True)  # on the loop
    assert await ask_for(offered, "thread") is False  # in a thread of its own
    assert (await ask_for(offered, "picture")).size == (2, 2)
    assert await ask_for(offered, "read", "x") == "x: 2"
    assert await ask_for(offered, "search", "x", limit=1) == ["x"]
    called = Tools([Tool.of(Store("x"), "plus")], ask=None, max_calls=9)
    assert await ask_for(called, "plus", 1) == 2


async def test_errors_reach_the_guest_by_name_and_without_a_traceback() -> None:
    class OwnError(Exception):
        pass

    def fail(kind: str) -> object:
        secret = "sk-secret"  # noqa: F841  # what a traceback could show
        if kind == "own":
            raise OwnError("mine")
        if kind == "key":
            raise KeyError("k")
        return fail

    offered = tools(fail, search)
    assert await ask_for(offered, "fail", "own") == ("OwnError", "mine")
    assert await ask_for(offered, "fail", "key") == ("KeyError", "k")
    name, text = await ask_for(offered, "fail", "x")
    assert (name, text.partition("; ")[0]) == (
        "TypeError",
        "what fail() returned: a value of type function cannot be copied",
    )
    assert await ask_for(offered, "search", 5) == (
        "TypeError",
        "search() wants str for 'query', not int",
    )
    assert (await ask_for(offered, "search"))[1] == "missing a required argument: 'query'"
    assert (await ask_for(offered, "search", "x", 5))[1] == "too many positional arguments"
    assert (await ask_for(offered, "eval", "1"))[0] == "NameError"


async def test_a_tool_that_would_end_the_host_raises_in_the_guest() -> None:
    def leave(_code: int) -> None:
        sys.exit("leave: error: no such option")

    async def leave_later(code: int) -> None:
        leave(code)

    def run_out() -> object:
        return next(iter(()))

    offered = tools(leave, leave_later, run_out)
    told = ("RuntimeError", "SystemExit: leave: error: no such option")
    assert await ask_for(offered, "leave", 2) == told
    assert await ask_for(offered, "leave_later", 2) == told
    assert await ask_for(offered, "run_out") == ("RuntimeError", "StopIteration: ")


async def test_calls_that_never_end_hold_no_others_up() -> None:
    end = threading.Event()

    def hang() -> None:
        end.wait()

    offered = tools(hang, search)
    hanging = [asyncio.create_task(ask_for(offered, "hang")) for _ in range(50)]
    await asyncio.sleep(0)
    try:
        assert await ask_for(offered, "search", "x") == ["x", "x"]
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)
    finally:
        end.set()


FORGED = {
    "no JSON": "\0rpc{",
    "a list": "\0rpc[]",
    "no id": "\0rpc" + json.dumps({"tool": "search", "parts": ["1"]}),
    "more than there is": "\0rpc" + json.dumps({"id": "", "tool": "t", "parts": ["1"], "x": 1}),
    "no parts": "\0rpc" + json.dumps({"id": "", "tool": "search", "parts": []}),
    "parts of numbers": "\0rpc" + json.dumps({"id": "", "tool": "search", "parts": [1]}),
    "a name that is none": "\0rpc" + json.dumps({"id": "", "tool": ["search"], "parts": ["1"]}),
    "deep": "\0rpc" + "[" * 100_000,
}
BENT = {
    "no call": to_text(encode([1])),
    "args that are none": to_text(encode({"args": 1, "kwargs": {}})),
    "keywords that are numbers": to_text(encode({"args": (), "kwargs": {1: 2}})),
    "more": to_text(encode({"args": ("x",), "kwargs": {}, "self": 1})),
    "no value": ["{"],
    "no base64": [json.dumps({"is": "bytes", "data": 0}), "%"],
}


@pytest.mark.parametrize("case", FORGED)
async def test_a_forged_call_is_refused(case: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        await tools(search).answer(FORGED[case])


async def test_a_call_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="the call is too large: 101,711,876 characters"):
        await tools(search).answer("\0rpc" + "x" * (97 << 20))


@pytest.mark.parametrize("case", BENT)
async def test_a_call_with_bent_arguments_is_an_error_in_the_guest(case: str) -> None:
    text = "\0rpc" + json.dumps({"id": "1", "tool": "search", "parts": BENT[case]})
    reply = json.loads(await tools(search).answer(text))
    if case == "more":
        assert "parts" in reply or "error" in reply
    else:
        assert reply["error"][0] in ("TypeError", "ValueError", "Error")


async def test_a_question_that_is_no_call_gets_an_end_of_file() -> None:
    answer = tools(search).start_cell()
    assert answer
    assert await answer("Your password? ", True) == END_OF_FILE


async def test_a_question_that_is_no_call_goes_to_who_else_answers() -> None:
    async def user(prompt: str, password: bool) -> str:
        return f"{prompt}{password}"

    for offered in (tools(search), tools()):
        answer = offered.start_cell(user)
        assert answer
        assert await answer("Name? ", False) == "Name? False"
    assert tools().start_cell() is None


async def test_a_call_that_is_asked_again_runs_once() -> None:
    calls = []

    def note(n: int) -> int:
        calls.append(n)
        return len(calls)

    offered = tools(note)
    first = await offered.answer(question("note", 1, token="t"))
    assert await offered.answer(question("note", 1, token="t")) == first
    await offered.answer(question("note", 1, token="u"))
    assert calls == [1, 1]


async def test_calls_are_counted_for_each_cell() -> None:
    offered = tools(search, max_calls=2)
    for _ in range(2):
        assert await ask_for(offered, "search", "x") == ["x", "x"]
    assert (await ask_for(offered, "search", "x"))[0] == "PermissionError"
    offered.start_cell()
    assert await ask_for(offered, "search", "x") == ["x", "x"]


async def test_a_tool_marked_so_is_asked_for_each_time() -> None:
    asked = []

    async def ask(question: Question) -> Verdict:
        asked.append(question)
        return Verdict(allowed=len(asked) > 1, reason="not that one")

    offered = tools(Store("x").drop, search, ask=ask)
    why = "drop() was not called: not that one"
    assert await ask_for(offered, "drop", "a") == ("PermissionError", why)
    assert await ask_for(offered, "drop", "b") == "dropped b"
    await ask_for(offered, "search", "x")
    assert asked == [Question("tool", f"drop(name={name!r})") for name in "ab"]


# -- calls from a sandbox


@pytest.fixture(params=["bubblewrap", "landlock"])
async def session(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Session]:
    monkeypatch.chdir(folder)
    isolation = Config({"SandboxProvisioner": {"isolation": request.param}})
    session = Session(folder, config=isolation)
    yield session
    await session.close()


async def run(session: Session, *codes: str, **options: Any) -> list[str]:
    """Run cells; return what each printed, or the name and text of its error."""
    blocks = [f"{F}python\n{code}\n{F}" for code in codes]
    Path("s.md").write_text("\n<!-- next reply -->\n".join([*blocks, "Done."]))
    changes = session.run("Go", model="scripted:s.md", **options)
    async with aclosing(changes):
        async for _ in changes:
            pass
    cells = [cell for cell in session.transcript.cells if cell.cell_type == "code"][-len(codes) :]
    return [
        "".join(o.get("text") or f"{o.get('ename')}: {o.get('evalue')}" for o in cell.outputs)
        for cell in cells
    ]


SECRET = "correct horse battery staple"
LOOK = """\
def copies():
    half, rest = b"correct horse ", b"elpats yrettab"
    found = 0
    for line in open("/proc/self/maps"):
        place, rights = line.split()[:2]
        start, end = (int(n, 16) for n in place.split("-"))
        if not rights.startswith("rw"):
            continue
        with open("/proc/self/mem", "rb") as ram:
            try:
                ram.seek(start)
                page = ram.read(end - start)
            except (OSError, ValueError):
                continue
        at = page.find(half)
        while at >= 0:
            found += all(page[at + 14 + i] == rest[-1 - i] for i in range(14))
            at = page.find(half, at + 1)
    return found
print(read("x"), copies())
"""


async def test_a_secret_of_a_tool_is_nowhere_in_the_sandbox(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest reads all of its own RAM: a value that was given is there, the secret is not."""
    monkeypatch.chdir(folder)
    session = Session(folder)
    read = Store(SECRET).read
    try:
        assert await run(session, LOOK, tools={"read": read}) == ["x: 28 0\n"]
        (printed,) = await run(session, LOOK, tools={"read": read}, inputs={"given": SECRET})
        assert int(printed.split()[2]) > 0
    finally:
        await session.close()


async def test_a_tool_and_an_input_of_one_name_are_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="'read' is a tool and an input; rename one of them"):
        await run(session, LOOK, tools={"read": len}, inputs={"read": 1})


async def test_tools_in_a_sandbox_are_like_functions(session: Session) -> None:
    async def later(n: int) -> int:
        return n + 1

    def fail() -> None:
        raise KeyError("k")

    def double(frame: pd.DataFrame) -> pd.DataFrame:
        return frame * 2

    def slow() -> None:
        calls.append("slow")

    calls: list[str] = []
    functions = {f.__name__: f for f in (search, later, fail, double, slow)}
    printed = await run(
        session,
        "help(search)",
        "print(search('a', limit=3), await later(1))",
        "import pandas as pd\nprint(double(pd.DataFrame({'a': [1]})).to_dict('list'))",
        "try:\n    fail()\nexcept KeyError as error:\n    print(repr(error))",
        "search()",
        "search(1)",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    print(list(pool.map(lambda n: search(str(n), limit=1)[0], range(20))) "
        "== [str(n) for n in range(20)])",
        "try:\n    input('?')\nexcept EOFError:\n    print('end')",
        "n = 0\ntry:\n    for n in range(10_000):\n        slow()\n"
        "except PermissionError as error:\n    print(n, error)",
        "slow()",
        tools=functions,
    )
    assert "search(query: str, *, limit: int = 2, api_key: str = ...) -> list[str]" in printed[0]
    assert "The second paragraph." in printed[0]
    assert printed[1:6] == [
        "['a', 'a', 'a'] 2\n",
        "{'a': [2]}\n",
        "KeyError('k')\n",
        "TypeError: search(): missing a required argument: 'query'",
        "TypeError: search() wants str for 'query', not int",
    ]
    assert printed[6:8] == ["True\n", "end\n"]
    assert printed[8] == "1000 a cell may call tools 1,000 times; continue in another cell\n"
    assert len(calls) == 1001


async def test_forged_questions_of_a_sandbox_end_in_an_error_there(session: Session) -> None:
    code = (
        "raw = get_ipython().kernel.raw_input\n"
        "for text in ('\\0rpc{', '\\0rpc[]', '\\0rpc' + 'x' * 1000):\n"
        "    try:\n        raw(text)\n    except EOFError:\n        print('refused')"
    )
    printed = await run(session, code, "print(search('x'))", tools={"search": search})
    assert printed == ["refused\n" * 3, "['x', 'x']\n"]


async def test_an_interrupted_call_does_not_answer_the_next(session: Session) -> None:
    def name(text: str) -> str:
        return text

    started = threading.Event()
    go_on = threading.Event()

    def wait(text: str) -> str:
        started.set()
        go_on.wait(20)
        return text

    code = (
        "import signal\n"
        "def late(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, late)\n"
        "try:\n    signal.setitimer(signal.ITIMER_REAL, 3)\n    wait('first')\n"
        "except KeyboardInterrupt:\n    print('late', flush=True)\n"
        "print(name('second'))"
    )
    Path("s.md").write_text(f"{F}python\n{code}\n{F}\n<!-- next reply -->\nDone.")
    tools = {"name": name, "wait": wait}
    async with aclosing(session.run("Go", model="scripted:s.md", tools=tools)) as changes:
        async for change in changes:
            if any("late" in output.get("text", "") for output in change.cell.get("outputs", ())):
                go_on.set()  # the call is given up, and what it returns comes late
    [cell] = [cell for cell in session.transcript.cells if cell.cell_type == "code"]
    assert "".join(output.text for output in cell.outputs) == "late\nsecond\n"
    assert started.is_set()


async def test_tools_of_a_session_come_by_their_place(folder: Path) -> None:
    session = Session(folder, tools=[search], config=Config({"Session": {"tools": ["json:dumps"]}}))
    offered = session._tools({}, None)
    assert list(offered.tools) == ["dumps", "search"]
    await session.close()


async def test_what_is_asked_about_a_call_is_all_of_it() -> None:
    asked: list[str] = []

    async def ask(question: Question) -> Verdict:
        asked.append(question.text)
        return Verdict(allowed=False)

    def send(text: str, rows: object = None, **more: object) -> None:
        raise AssertionError(text)

    offered = tools(tool(ask=True)(send), ask=ask)
    long = "a" * 5000 + "; rm -rf ~"
    await offered.answer(question("send", long))
    await offered.answer(question("send", "\u202eb", rows=[long]))
    await offered.answer(question("send", "", more=b"x" * 3000))
    assert asked[0] == f"send(text={long!r})"
    assert long in asked[1]
    assert "\\u202e" in asked[1]
    assert asked[2] == f"send(text='', more={ {'more': b'x' * 3000} })"
    assert all("shown in short" not in text for text in asked)
    await offered.answer(question("send", "", rows=pd.DataFrame({"a": range(5000)})))
    assert asked[3].endswith(
        "\n[tables, arrays and pictures among the arguments are shown in short]"
    )
