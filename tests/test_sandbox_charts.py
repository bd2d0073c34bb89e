"""Real libraries that draw: what they show in the sandbox, where no script of theirs may run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
from nbformat import NotebookNode

from jupyter_agent.sandbox.client import Sandbox

CHART = "alt.Chart({data}).mark_bar().encode(x='a:Q', y='b:Q')"
TABLE = "alt.Data(values=[dict(a=1, b=2), dict(a=2, b=5)])"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with Sandbox(tmp_path_factory.mktemp("charts")) as sandbox:
        yield sandbox


async def shown(sandbox: Sandbox, code: str) -> list[NotebookNode]:
    async with aclosing(sandbox.execute(code)) as outputs:
        return [output async for output in outputs]


async def texts(sandbox: Sandbox, code: str) -> str:
    outputs = await shown(sandbox, code)
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("renderer", ["default", "mimetype", "html", "jupyter"])
async def test_an_altair_chart_is_a_picture_whatever_would_draw_it_in_a_page(
    sandbox: Sandbox, renderer: str
) -> None:
    chart = CHART.format(data=TABLE)
    code = f"import altair as alt\nwith alt.renderers.enable({renderer!r}):\n    display({chart})"
    (output,) = await shown(sandbox, code)
    assert output.data.keys() == {"image/png", "text/plain"}, output
    assert output.metadata["image/png"].keys() == {"width", "height"}


async def test_an_altair_chart_whose_data_is_elsewhere_says_so_in_a_line(sandbox: Sandbox) -> None:
    code = f"import altair as alt\n{CHART.format(data=repr('https://x.invalid/cars.json'))}"
    (output,) = await shown(sandbox, code)
    assert output.data.keys() == {"text/plain"}
    assert "'https://x.invalid/cars.json'" in output.data["text/plain"]
    assert "\n" not in output.data["text/plain"]


BARS = [
    "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
    "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3), display=True): pass",
    "from tqdm.notebook import trange\nfor _ in trange(3): pass",
    "from tqdm.auto import tqdm\nimport pandas\ntqdm.pandas()\npandas.Series([1, 2, 3]).progress_apply(str)",
]


@pytest.mark.parametrize("code", BARS)
async def test_a_progress_bar_is_text_that_moves_to_its_end(sandbox: Sandbox, code: str) -> None:
    assert await texts(sandbox, "import ipywidgets") == ""  # or it would be text anyway
    written = await texts(sandbox, code)
    assert "\r100%" in written
    assert "3/3" in written


async def test_a_commands_progress_ends_no_line(sandbox: Sandbox) -> None:
    written = await texts(sandbox, r"!printf '1%%\r2%%\r\303\251\nend\n'")
    assert written == "1%\r2%\ré\nend\n"
