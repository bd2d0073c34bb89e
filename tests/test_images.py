"""Pictures: what a model is sent of them, hostile ones, and models that cannot see."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image

from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.request import ModelFacts
from jupyter_agent.errors import ModelError
from jupyter_agent.models import load_model
from jupyter_agent.sandbox.filter.images import MAX_BYTES, MAX_SIDE, fit
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Transcript

from .conftest import counted_turns
from .servers import ChatServer, Reply

STEP = "I draw.\n\n```python\n{}\n```\n"
NOISE = Image.effect_noise((1200, 1200), 90).convert("RGB")
PHOTO = Image.effect_noise((1024, 1024), 90).convert("RGB")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def plain(width: int = 640, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), "teal")


def png_head(width: int, height: int) -> bytes:
    """A PNG that promises this size and holds a few bytes."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def jpeg_head(width: int, height: int) -> bytes:
    raw = bytearray(base64.b64decode(encoded(plain(), "JPEG")))
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(raw)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def opened(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def shown(output: NotebookNode) -> dict[str, Any]:
    """What is recorded of a cell with one output."""
    transcript = Transcript()
    cell = transcript.add("code", "plot()")
    transcript.add_output(cell, output)
    transcript.finish(cell)
    recorded: dict[str, Any] = cell.metadata[KEY]["shown"]
    return recorded


def drawing(data: str, mime: str = "image/png") -> NotebookNode:
    return new_output("display_data", data={mime: data, "text/plain": "<Figure>"})


class Drawer:
    """A kernel that puts out the same picture for every cell."""

    def __init__(self, data: str) -> None:
        self.execution_count: int | None = 1
        self._data = data

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        yield drawing(self._data)


async def run(agent: Agent) -> None:
    async with aclosing(agent.run("Draw it")) as changes:
        async for _ in changes:
            pass


# -- what is sent


def test_a_plot_of_common_size_goes_as_it_is() -> None:
    data = encoded(plain())
    assert shown(drawing(data)) == {
        "text": "Output:\n<Figure>",
        "pictures": [{"output": 0, "mime": "image/png", "size": [640, 480]}],
    }


@pytest.mark.parametrize(
    ("image", "kind", "mime", "sent"),
    [
        (plain(3000, 1500), "PNG", "image/png", ("PNG", (1024, 512))),
        (plain(20, 3000), "JPEG", "image/jpeg", ("JPEG", (7, 1024))),
        (plain(2000, 2000).convert("P"), "GIF", "image/gif", ("PNG", (1024, 1024))),
        (NOISE, "PNG", "image/png", ("JPEG", (1024, 1024))),
        (PHOTO, "PNG", "image/png", ("JPEG", (1024, 1024))),
        (plain(4000, 4000).convert("I;16"), "PNG", "image/png", ("PNG", (1024, 1024))),
        (plain(1500, 30).convert("1"), "PNG", "image/png", ("PNG", (1024, 20))),
        (plain(1500, 30).convert("CMYK"), "JPEG", "image/jpeg", ("JPEG", (1024, 20))),
    ],
    ids=["wide", "tall photo", "palette", "noise", "small noise", "16 bits", "1 bit", "cmyk"],
)
def test_a_large_picture_is_made_small_once(
    image: Image.Image, kind: str, mime: str, sent: tuple[str, tuple[int, int]]
) -> None:
    picture = fit(mime, encoded(image, kind))
    assert picture["size"] == list(image.size)
    small = opened(picture["data"])
    small.load()
    assert (small.format, small.size) == sent
    assert picture["mime"] == f"image/{small.format}".lower()
    assert len(base64.b64decode(picture["data"])) <= MAX_BYTES
    assert max(small.size) <= MAX_SIDE


async def test_the_event_loop_goes_on_while_a_picture_is_made_small() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "1")
    transcript.add_output(cell, drawing(encoded(NOISE)))
    with counted_turns() as turns:
        await transcript.fit_pictures(cell)
    assert turns() > 10
    before = cell.outputs[0].metadata[KEY]["picture"]
    transcript.finish(cell)
    assert cell.outputs[0].metadata[KEY]["picture"] is before


def test_of_a_moving_picture_the_first_is_sent() -> None:
    frames = [Image.new("RGB", (90, 60), colour) for colour in ("red", "blue")]
    picture = fit("image/gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    still = opened(picture["data"]).convert("RGB")
    assert (picture["mime"], still.getpixel((0, 0))) == ("image/png", (255, 0, 0))


def test_the_copy_stands_in_the_metadata_of_the_plots_output(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    transcript = Transcript(path)
    for data in (encoded(plain()), encoded(plain(3000, 1500))):
        cell = transcript.add("code", "plot()")
        transcript.add_output(cell, drawing(data))
        transcript.finish(cell)
    transcript.save()
    small, large = nbformat.read(path, 4).cells
    assert "data" not in small.outputs[0].metadata[KEY].picture
    assert opened(large.outputs[0].metadata[KEY].picture.data).size == (1024, 512)
    assert opened(large.outputs[0].data["image/png"]).size == (3000, 1500)
    assert json.dumps(Transcript.open(path).messages()) == json.dumps(transcript.messages())


def test_a_picture_drawn_over_later_stays_what_the_model_has_seen(tmp_path: Path) -> None:
    transcript = Transcript()
    cell = transcript.add("code", "plot()")
    output = drawing(encoded(plain()))
    output.transient = NotebookNode(display_id="one")
    transcript.add_output(cell, output)
    transcript.finish(cell)
    before = transcript.messages()
    update = drawing(encoded(plain(320, 200)))
    update.transient, update.output_type = NotebookNode(display_id="one"), "update_display_data"
    transcript.add_output(transcript.add("code", "again()"), update)
    assert opened(cell.outputs[0].data["image/png"]).size == (320, 200)
    assert json.dumps(transcript.messages()).startswith(json.dumps(before)[:-2])
    transcript.path = tmp_path / "run.ipynb"
    transcript.save()
    assert json.dumps(Transcript.open(transcript.path).messages()) == json.dumps(
        transcript.messages()
    )


def test_one_output_is_one_picture_and_four_are_enough() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "plot()")
    both = drawing(encoded(plain()))
    both.data["image/jpeg"] = encoded(plain(), "JPEG")
    for _ in range(6):
        transcript.add_output(cell, NotebookNode(both))
    transcript.finish(cell)
    recorded = cell.metadata[KEY]["shown"]
    assert [p["output"] for p in recorded["pictures"]] == [0, 1, 2, 3]
    assert recorded["text"].endswith("[2 more pictures are not shown]")


# -- hostile ones

HOSTILE = {
    "bomb": ("image/png", png_head(50_000, 50_000), "of 50000x50000 px, too large to be shown"),
    "gif bomb": ("image/gif", b"GIF89a" + b"\xff" * 4 + bytes(20), "of 65535x65535 px, too large"),
    "jpeg bomb": ("image/jpeg", jpeg_head(65_500, 65_500), "of too many pixels"),
    "large jpeg": ("image/jpeg", jpeg_head(9_000, 9_000), "of 9000x9000 px, too large"),
    "half": ("image/png", base64.b64decode(encoded(NOISE))[:50_000], "its image/png is broken"),
    "half jpeg": ("image/jpeg", base64.b64decode(encoded(NOISE, "JPEG"))[:5_000], "is broken"),
    "no pixels": ("image/png", png_head(600, 400), "its image/png is broken"),
    "no size": ("image/png", png_head(0, 0), "its image/png is broken"),
    "other mime": ("image/png", base64.b64decode(encoded(plain(), "JPEG")), "called image/png and"),
    "script": ("image/gif", b"<script>alert(1)</script>", "called image/gif and is none"),
    "nothing": ("image/png", b"", "called image/png and is none"),
    "only a head": ("image/jpeg", b"\xff\xd8\xff\xe0", "its image/jpeg is broken"),
}


def slow_jpeg(scans: int) -> bytes:
    """A small picture that takes long to decode: the last scan is repeated, in 42 bytes each."""
    raw = base64.b64decode(encoded(plain(4900, 4900), "JPEG", progressive=True, quality=50))
    scan = raw[raw.rindex(b"\xff\xda") : -2]
    return raw[:-2] + scan * scans + raw[-2:]


@pytest.mark.usefixtures("fresh_cleaner")
def test_a_picture_that_takes_long_to_decode_is_told_in_words() -> None:
    """It would take minutes; the timeout of a test is the bound."""
    recorded = shown(drawing(b64(slow_jpeg(20_000)), "image/jpeg"))
    assert recorded["pictures"] == []
    assert recorded["text"] == "Output:\n<Figure>\n[a picture that takes too much to decode]"
    [picture] = shown(drawing(encoded(plain())))["pictures"]  # and the next one is seen
    assert picture["size"] == [640, 480]


def test_the_largest_picture_is_made_small_where_pictures_are_decoded() -> None:
    [picture] = shown(drawing(encoded(plain(5000, 5000).convert("RGBA"))))["pictures"]
    assert opened(picture["data"]).size == (1024, 1024)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_picture_is_told_in_words(name: str) -> None:
    mime, raw, words = HOSTILE[name]
    recorded = shown(drawing(b64(raw), mime))
    assert recorded["pictures"] == []
    assert recorded["text"].startswith("Output:\n<Figure>\n[a picture ")
    assert words in recorded["text"]


@pytest.mark.parametrize("data", ["%%%", "iVBORw0KGgo", "é", "===="])
def test_what_is_not_base64_is_told_in_words(data: str) -> None:
    with pytest.raises(ValueError, match="that cannot be shown"):
        fit("image/png", data)


@pytest.mark.parametrize("name", HOSTILE)
def test_without_pillow_a_bad_picture_is_mostly_found_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)  # as where it is not installed
    mime, raw, _ = HOSTILE[name]
    if name in ("jpeg bomb", "large jpeg", "no pixels", "no size"):  # only a decoder can tell
        assert "data" not in fit(mime, b64(raw))
        return
    with pytest.raises(ValueError, match="shown|is none"):
        fit(mime, b64(raw))


def test_without_pillow_a_small_picture_goes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    large, wide, photo = encoded(NOISE), encoded(plain(1500, 900)), encoded(plain(), "JPEG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert fit("image/png", wide) == {"mime": "image/png", "size": [1500, 900]}
    assert fit("image/jpeg", photo) == {"mime": "image/jpeg"}
    with pytest.raises(ValueError, match=r"^of 1200x1200 px, too large to be shown without Pillow"):
        fit("image/png", large)


# -- models that cannot see


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "Invalid content type. image_url is only supported by certain models."),
        (404, "No endpoints found that support image input"),
        (422, "messages[3].content must be a string"),
        (400, "test is not a multimodal model"),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
async def test_a_model_that_cannot_see_is_told_in_words_from_then_on(
    server: ChatServer, status: int, said: str
) -> None:
    refused = Reply(said, status=status)
    replies = [Reply(STEP.format("a")), refused, Reply(STEP.format("b")), Reply("done")]
    server.replies = [*replies, Reply(STEP.format("c")), Reply("again")]
    model_facts, transcript = ModelFacts(), Transcript()
    for _ in range(2):  # a later run of the session knows it already
        model = load_model(server.model)
        await run(Agent(model, Drawer(encoded(plain())), transcript, model_facts))
    assert server.replies == []
    assert transcript.answer == "again"
    first, pictured, *told = server.requests
    assert pictured.messages[-1]["content"][1]["image_url"]["url"].startswith("data:image/png;")
    words = "Output:\n<Figure>\n[a picture of 640x480 px, which you cannot see]"
    assert told[0].messages[-1]["content"] == words
    assert "image_url" not in str([request.messages for request in told])
    for before, after in pairwise([first, *told]):
        assert after.messages[: len(before.messages)] == before.messages
    roles = [cell.metadata[KEY]["role"] for cell in transcript.cells]
    assert roles == ["task", *["prose", "code"] * 2, "prose", "task", "prose", "code", "prose"]


async def test_other_refusals_end_the_run_and_say_nothing_of_its_sight(server: ChatServer) -> None:
    server.replies = [Reply(STEP.format("a")), Reply("the temperature is wrong", status=400)]
    agent = Agent(load_model(server.model), Drawer(encoded(plain())))
    with pytest.raises(ModelError, match="temperature"):
        await run(agent)
    assert agent.model_facts.no_vision == set()


async def test_a_refusal_that_speaks_of_pictures_where_there_are_none_is_no_lesson(
    server: ChatServer,
) -> None:
    server.replies = [Reply("no image_url here", status=400)] * 2  # once more with fewer fields
    agent = Agent(load_model(server.model), Drawer(""))
    with pytest.raises(ModelError, match="image_url"):
        await run(agent)
    assert agent.model_facts.no_vision == set()


async def test_the_same_bytes_of_a_picture_are_sent_with_every_request(server: ChatServer) -> None:
    server.replies = [*[Reply(STEP.format("a"))] * 3, Reply("done")]
    await run(Agent(load_model(server.model), Drawer(encoded(plain(3000, 1500)))))
    bodies = [json.dumps(request.messages) for request in server.requests]
    for before, after in pairwise(bodies):
        assert after.startswith(before[:-1])
    [url] = [p["image_url"]["url"] for p in server.requests[1].messages[-1]["content"][1:]]
    assert opened(url.partition(",")[2]).size == (1024, 512)
