"""What a flood of the guest's costs the host: resident memory, of it and of what cleans for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.sandbox.guest.json_cost import costs_more

from .battery import ROOT
from .memory import Peak

PROMISED = 768 << 20  # bytes that a host grows by at most; SECURITY.md says so
TIERS = ["bubblewrap", "landlock"]

# what the guest needs to send what is no message of ipykernel's
PRELUDE = r"""
import json, threading, time
kernel = get_ipython().kernel
session = kernel.session
def signed(kind, content, buffers=(), parent=None):
    made = session.msg(kind, {}, parent=parent or kernel.get_parent("shell"))
    parts = [session.pack(made[name]) for name in ("header", "parent_header", "metadata")]
    parts.append(content if isinstance(content, bytes) else json.dumps(content).encode())
    return [b"<IDS|MSG>", session.sign(parts), *parts, *buffers]
def publish(*message):
    kernel.iopub_thread.send_multipart([b"topic", *signed(*message)])
def answer(name, *message):
    'Answer a client by a socket, in its own thread: one that two threads use loses messages.'
    frames = [IDENTITY, *signed(*message)]
    stream = {"shell": kernel.shell_stream, "control": kernel.control_stream}.get(name)
    if stream is None:
        kernel.stdin_socket.send_multipart(frames)
    elif stream.io_loop is kernel.io_loop:
        stream.socket.send_multipart(frames)
    else:
        stream.io_loop.add_callback(stream.socket.send_multipart, frames)
IDENTITY = kernel.get_parent("shell") and kernel._parent_ident["shell"][0]
BIG = bytes(100 << 20)
"""
WIDE = 'json.dumps("\\U0001f600" + "x" * 14_000_000, ensure_ascii=False).encode()'
FLOODS = {
    "large frames in one message": "publish('display_data', {}, [BIG] * 12)",
    "empty frames": "publish('display_data', {}, [b''] * 3_000_000)",
    "large content": "publish('stream', BIG, [BIG] * 6)",
    "messages just below the limit": (
        "for _ in range(12): publish('display_data', {'data': {'text/plain': 'x' * 31_000_000}})"
    ),
    "one wide character in a long text": (
        f"publish('display_data', b'{{\"data\":{{\"text/plain\":' + {WIDE} + b',\"text/latex\":' + "
        f"{WIDE} + b'}}}}')"
    ),
    "many small objects": (
        'for _ in range(5): publish("display_data", '
        "b'{\"data\":{\"application/json\":[' + b'{\"a\":1},' * 180_000 + b'1]}}')"
    ),
    "control characters": (
        "for _ in range(3): publish('stream', {'name': 'stdout', 'text': '\\x1bab\\x01' * 2_000_000})"
    ),
    "a long traceback": (
        "publish('error', {'ename': '', 'evalue': 'x' * 9_000_000, 'traceback': [''] * 600_000})"
    ),
    "misnested HTML": (
        "publish('display_data', {'data': {'text/html': '<p>' + ''.join("
        "f'<b title={n}>' for n in range(1800)) + '<p>x' * 1800}})"
    ),
    "a figure of TeX": (
        "publish('display_data', {'data': {'application/vnd.plotly.v1+json':"
        " {'data': ['$' + chr(92) + (chr(92) + 'a') * 8_380_000]}}})"
    ),
    "figures of tags and addresses": (
        "for sign in ('<', 'url('): publish('display_data', {'data':"
        " {'application/vnd.plotly.v1+json': {'data': [sign * (16_700_000 // len(sign))]}}})"
    ),
    "long HTML": "publish('display_data', {'data': {'text/html': '<p>x' * 3_500_000}})",
    "updates of one display, shown often": (
        "for _ in range(300): publish('display_data', {'data': {}, 'transient': {'display_id': 'd'}})\n"
        "for _ in range(9): publish('update_display_data', {'data': {'text/plain': 'x' * 4_000_000},"
        " 'transient': {'display_id': 'd'}})"
    ),
    "replies": "for name in ('shell', 'control', 'stdin'):\n"
    "    answer(name, 'execute_reply', {}, [BIG] * 6)",
    "replies just below the limit": "for _ in range(9):\n    for name in ('control', 'stdin'):\n"
    "        answer(name, 'input_request', {'prompt': 'x' * 31_000_000})",
    "comms and debug events": "for kind in ('comm_msg', 'comm_open', 'debug_event'):\n"
    "    for _ in range(3): publish(kind, {'data': 'x' * 20_000_000}, [bytes(9 << 20)])",
}
HOST = """
import asyncio, sys
from contextlib import aclosing
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.transcript.notebook import Transcript

tier, folder, prelude, flood, own = sys.argv[1:]

async def main():
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(Path(folder), data=[], config=config) as sandbox:
        late = lambda output: None
        transcript = Transcript(Path(folder) / "run.ipynb")
        async def run(code):
            request = UserRequest(late=late, widgets=True) if own == "own" else None
            cell = transcript.add("code", code)
            async with aclosing(sandbox.execute(code, request=request)) as found:
                async for output in found:
                    if not output.output_type.startswith("comm"):
                        transcript.add_output(cell, output)
            transcript.finish(cell)
            transcript.save()
            return cell.outputs
        await run(prelude)
        await run("display({'text/html': '<b>x</b>'}, raw=True)")
        print(sandbox._kernel.manager.provisioner.pid, flush=True)
        input()
        names = [output.get("ename", "OutputLimit") for output in await run(flood)]
        assert {*names} <= {"OutputLimit", "OutputLost", ""}, names  # the flood itself did run
        said = []
        while not said:  # while the rest of the flood is passed over, outputs may be lost
            found = await run("print('alive')")
            said = [output.text for output in found if output.get("name") == "stdout"]
        print(said[0], end="", flush=True)
        input()

asyncio.run(main())
"""


def grown(tier: str, flood: str, whose: str, folder: Path) -> int:
    """Say by how many bytes a host grows, and the process that cleans for it."""
    command = [sys.executable, "-c", HOST, tier, str(folder), PRELUDE, flood, whose]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        assert host.stdin
        assert host.stdout
        guest = int(host.stdout.readline())
        with Peak(host.pid, guest=guest) as peak:
            host.stdin.write("\n")
            host.stdin.flush()
            assert host.stdout.readline() == "alive\n"
        host.stdin.write("\n")
        host.stdin.flush()
    assert host.returncode == 0
    return peak.grown


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whose", ["agent", "own"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_leaves_the_host_below_its_promised_memory(
    flood: str, whose: str, tmp_path: Path
) -> None:
    number = [*FLOODS.values()].index(flood)
    assert grown(TIERS[number % 2], flood, whose, tmp_path) < PROMISED
    saved = (tmp_path / "run.ipynb").stat().st_size
    assert saved < 120 << 20
    json.loads((tmp_path / "run.ipynb").read_text())


BOMBS = r"""
import json, resource, time
import numpy as np, pandas as pd, polars as pl, pyarrow as pa
from jupyter_agent.sandbox.guest.codec import decode, encode
from jupyter_agent.exchange.values import describe

MANY = 450_000_000
def steps(count):
    return {"is": "pandas steps", "bounds": [0, count, 1], "name": None}
def arrow(*columns):
    sink = pa.BufferOutputStream()
    table = pa.table({str(n): column for n, column in enumerate(columns)})
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()
STREAM = {"is": "pyarrow stream", "data": 0}
POLARS = {"is": "polars frame", "data": STREAM, "enums": {"is": "dict", "keys": [], "values": []}}
CODES = {"is": "numpy array", "dtype": "|i1", "shape": [1], "data": 0}
LONG = "x" * 1_000_000
views = pa.ListViewArray.from_arrays([0] * 5000, [5000] * 5000, pa.array(range(5000)))
repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int8()), pa.array([[1] * 99_999]))
BOMBS = {
    "category": [{"is": "pandas category", "codes": CODES, "categories": steps(MANY), "ordered": 0}, b"0"],
    "levels": [{"is": "pandas levels", "levels": [steps(MANY)], "codes": [CODES], "names": [0]}, b"0"],
    "intervals": [{"is": "pandas intervals", "sides": [steps(MANY)] * 2, "closed": "left"}],
    "rows": [{"is": "pandas frame", "index": steps(MANY), "columns": steps(0), "data": []}],
    "columns": [{"is": "pandas frame", "index": steps(0), "columns": steps(MANY), "data": []}],
    "bytes used twice": [[{"is": "bytes", "data": 0}] * 3000, LONG.encode()],
    "text used twice": [[{"is": "str", "data": 0}] * 3000, LONG.encode()],
    "lines of a picture": [
        {"is": "PIL picture", "mode": "L", "size": [0, MANY], "palette": None, "data": 0}, b"",
    ],
    "tables": [[{"is": "pandas frame", "index": steps(0), "columns": steps(0), "data": []}] * 90_000],
    "nulls": [POLARS, arrow(*[pa.nulls(9_000_000)] * 50)],
    "views": [STREAM, arrow(views)],
    "text views": [STREAM, arrow(pa.array([LONG] * 9, pa.string_view()))],
    "a list in a dictionary": [POLARS, arrow(repeated)],
    "structs of nothing": [STREAM, arrow(pa.array([[{}] * 9], pa.list_(pa.struct([]))))],
    "binary of no width": [STREAM, arrow(pa.array([[b""] * 9], pa.list_(pa.binary(0))))],
}
decode(encode([pd.Series(["a"], dtype="category"), pl.DataFrame({"a": [1]}), np.ones(1)]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, (tree, *buffers) in BOMBS.items():
    parts = [json.dumps(tree).encode(), *map(bytearray, buffers)]
    try:
        value = decode(parts, time.monotonic() + 30)
    except ValueError:
        continue
    print("read:", name, describe(name, value)[:99])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("grown by more than it may:" if grown > 256 << 10 else "grown:", grown)
"""


def test_a_value_makes_no_more_elements_than_bytes_have_come_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("grown: "), done.stdout


def test_the_probe_sees_what_a_process_takes_for_a_moment() -> None:
    code = "input()\nx = bytearray(200 << 20)\ndel x\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdin
        assert host.stdout
        with Peak(host.pid) as peak:
            host.stdin.write("\n")
            host.stdin.flush()
            assert host.stdout.readline() == "\n"
        host.stdin.write("\n")
        host.stdin.flush()
    assert 190 << 20 < peak.grown < 210 << 20


def ram(value: object) -> int:
    """Sum the bytes that objects made of JSON take."""
    match value:
        case list():
            return sys.getsizeof(value) + sum(map(ram, value))
        case dict():
            return sys.getsizeof(value) + sum(ram(k) + ram(v) for k, v in value.items())
    return sys.getsizeof(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=5), inner, max_size=30)
    ),
    max_leaves=200,
)


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans())
def test_json_takes_no_more_memory_than_is_reckoned(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode()
    least = ram(json.loads(text)) - 8 * len(text) - 400  # what its texts and numbers are
    assert least <= 0 or costs_more(text, least)


def test_what_stands_in_a_text_is_not_reckoned_as_objects() -> None:
    text = json.dumps(["[{," * 100_000, '\\"' * 100_000, "x"]).encode()
    assert not costs_more(text, 1000)
    assert costs_more(b"[" + b"{}," * 1000 + b"1]", 256_000)
    assert costs_more(b'["' + b"[" * 1000, 100)  # a text that does not end
