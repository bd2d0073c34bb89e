"""The filter of outputs: hostile messages in, inert outputs out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agent.sandbox.filter import cleaning
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.filter.outputs import WIDGET_VIEW, read_output, weight


def bundle(**data: object) -> dict[str, Any]:
    content = {"data": {k.replace("_", "/", 1): v for k, v in data.items()}, "metadata": {}}
    output = read_output("display_data", content)
    assert output is not None
    return dict(output.data)


def html(source: str) -> str:
    return str(bundle(text_html=source).get("text/html", ""))


@pytest.mark.parametrize(
    "source",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<img src='http://evil/x.png'>",
        "<img src='//evil/x.png' srcset='//evil/y.png 2x'>",
        "<img src='data:image/svg+xml;base64,PHN2Zz4='>",
        "<svg onload=alert(1)><image href='//evil'/></svg>",
        "<iframe src='//evil'></iframe>",
        "<object data='//evil'></object><embed src='//evil'>",
        "<link rel=stylesheet href='//evil'><meta http-equiv=refresh content='0;url=//evil'>",
        "<style>@import '//evil'; td {background: url(//evil)}</style>",
        "<p style='background: url(//evil)'>x</p>",
        "<p style='color: red; background-image: url(//evil)'>x</p>",
        "<p style='color: \\75rl(//evil)'>x</p>",
        "<form action='//evil'><input name=a><button>b</button></form>",
        "<a href='//evil/?d=1'>x</a><a href='javascript:alert(1)'>y</a><a ping='//evil'>z</a>",
        "<p style='background: image-set(\"//evil\" 1x)'>x</p><p style='background: src(\"//evil\")'>x</p>",
        "<style>p {background: image-set('//evil' 1x); color: \\75rl(//evil)}</style><p>x</p>",
        "<svg><style>@import '//evil'; rect {fill: url(//evil)}</style><rect onclick='x()'/></svg>",
        "<video src='//evil' poster='//evil'></video><audio src='//evil'></audio>",
        "<button data-commandlinker-command='x' data-commandlinker-args='{}'>b</button>",
        "<table background='//evil'><td background='//evil' onclick='x()'>1</td></table>",
        "<math><mtext><table><mglyph><style><img src='//evil' onerror=x>",
        "<base href='//evil'><p class='jp-Button' id='x'>x</p>",
    ],
)
def test_html_that_runs_or_fetches_is_taken_apart(source: str) -> None:
    cleaned = html(source)
    dangerous = r"(?i)<script|onerror|onload|onclick|evil|javascript:|data-|<form|<input|<style|url\(|jp-|<svg|id="
    assert not re.search(dangerous, cleaned), cleaned


def test_a_table_keeps_its_looks() -> None:
    source = (
        '<table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th>'
        '<th colspan="2">a</th></tr></thead><tbody><tr><td style="color: red">1</td></tr></tbody></table>'
    )
    cleaned = html(source)
    for kept in ('class="dataframe"', "text-align:right", 'colspan="2"', "color:red"):
        assert kept in cleaned


HEAVY_HTML = {
    "nested": "<div>" * 1_000_000,
    "misnested": "<p>" + "".join(f"<b title={n}>" for n in range(2500)) + "<p>x" * 2500,
    "grows": "&" * 5_000_000,
}


@pytest.mark.usefixtures("fresh_cleaner")
@pytest.mark.parametrize("text", HEAVY_HTML.values(), ids=HEAVY_HTML.keys())
def test_html_that_takes_too_much_to_clean_is_left_out_and_what_follows_is_shown(text: str) -> None:
    assert "html that" in str(bundle(text_html=text))
    assert html("<b>x</b>") == "<b>x</b>"


@pytest.mark.usefixtures("fresh_cleaner")
def test_cleaning_takes_no_more_than_its_share_of_a_processor() -> None:
    refused = (str(bundle(text_html=HEAVY_HTML["nested"])) for _ in range(20))
    assert any("after some that took too long" in shown for shown in refused)


def test_the_cleaner_has_no_environment_and_ends_with_a_host_that_is_killed() -> None:
    code = (
        "import os\n"
        "from jupyter_agent.sandbox.filter.cleaning import _cleaners, cleaned\n"
        "cleaned('html', '<b>x</b>')\n"
        "print(_cleaners._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "sk-decoy"}
    run = [sys.executable, "-c", f"import time\n{code.replace('os.kill', 'input(); os.kill')}"]
    with subprocess.Popen(
        run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as host:
        assert host.stdin
        assert host.stdout
        process = Path(f"/proc/{int(host.stdout.readline())}")
        assert b"decoy" not in (process / "environ").read_bytes()
        host.stdin.write("\n")
        host.stdin.flush()
        deadline = time.monotonic() + 20
        while process.exists() and "Z" not in (process / "stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_fork_of_the_host_has_a_cleaner_of_its_own() -> None:
    assert html("<b>1</b>") == "<b>1</b>"
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, cleaning.cleaned("markdown", "**2**").encode())
        cleaning.end()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == "**2**"
    os.waitpid(pid, 0)
    assert html("<b>3</b>") == "<b>3</b>"
    cleaning.end()


def test_a_picture_inside_html_stays() -> None:
    source = '<img src="data:image/png;base64,iVBORw0KGgo=" width="20">'
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in html(source)


@pytest.mark.parametrize(
    "mime",
    [
        "application/javascript",
        "application/vnd.jupyter.es-module+json",
        "text/x-unheard-of",
    ],
)
def test_what_is_not_on_the_white_list_is_named_and_dropped(mime: str) -> None:
    content = {"data": {mime: "window.PWNED = 1", "text/plain": "x"}, "metadata": {mime: {"a": 1}}}
    output = read_output("display_data", content)
    assert output is not None
    assert set(output.data) == {"text/plain"}
    note = output.data["text/plain"]
    assert f"[{mime} may not leave the sandbox]" in note
    assert f"c.Sandbox.admit = ['{mime}'" in note
    assert output.metadata == {}


def test_a_widget_is_dropped_and_its_own_trait_is_named() -> None:
    output = read_output("display_data", {"data": {WIDGET_VIEW: {}}, "metadata": {}})
    assert output is not None
    assert set(output.data) == {"text/plain"}
    assert "c.AgentKernel.widgets = True" in output.data["text/plain"]
    assert "c.Sandbox.admit" not in output.data["text/plain"]


def test_a_mime_type_that_the_user_admits_passes_as_it_is() -> None:
    content = {"data": {"text/html": "<form>", "application/x-own+json": {"a": [1]}}}
    output = read_output("display_data", content, admit={"text/html", "application/x-own+json"})
    assert output is not None
    assert output.data["text/html"] == "<form>"
    assert output.data["application/x-own+json"] == {"a": [1]}


def test_plain_text_is_always_there() -> None:
    assert "text/plain" in bundle(text_html="<b>x</b>")


def test_metadata_keeps_the_size_of_a_picture_and_nothing_else() -> None:
    content = {
        "data": {"image/png": "iVBORw0KGgo="},
        "metadata": {"image/png": {"width": 10, "x": {"y": 1}}, "jupyter_agent": {"op": "cell"}},
    }
    output = read_output("display_data", content)
    assert output is not None
    assert output.metadata == {"image/png": {"width": 10}}


def test_numbers_and_names_that_no_notebook_can_hold_do_not_come_out() -> None:
    nan, lone = float("nan"), "\ud800"
    content = {
        "data": {"application/json": [nan, 1.5], "image/png": "aaaa", f"x/{lone}": ""},
        "metadata": {"image/png": {"width": nan, "height": 10**400}},
        "transient": {"display_id": lone},
        "execution_count": 10**400,
    }
    shown = read_output("execute_result", content)
    hidden = read_output("display_data", {"data": {f"x/{lone}": ""}})
    assert shown is not None
    assert shown.data["application/json"] == [None, 1.5]
    assert shown.metadata == {}
    json.dumps([shown, hidden], allow_nan=False, ensure_ascii=False).encode()
    assert len(str(shown.execution_count)) < 10


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("display_data", lambda: {"data": {"application/json": [1.5] * 1_000_000}}),
        (
            "display_data",
            lambda: {"data": {"application/json": {str(n): {} for n in range(200_000)}}},
        ),
        ("error", lambda: {"ename": "x", "evalue": "x" * 1_000_000, "traceback": []}),
    ],
    ids=["numbers", "objects", "value"],
)
def test_what_an_output_weighs_is_what_it_takes(kind: str, content: Callable[[], object]) -> None:
    output = read_output(kind, content())
    assert output is not None
    assert weight(output) >= 1_000_000


def test_many_small_things_are_as_long_as_one_large() -> None:
    error = read_output("error", {"ename": "x", "evalue": "", "traceback": [""] * 2_000_000})
    assert error is not None
    assert len(error.traceback) == 1
    assert len(bundle(**{f"x_{n}": "" for n in range(10_000)})["text/plain"]) < 5000


def test_tex_that_writes_html_is_defused() -> None:
    tex = r"\style{background:url(//evil)}{x} \href{//evil}{y} \frac{1}{2}"
    for source in (
        bundle(text_latex=f"${tex}$")["text/latex"],
        html(f"${tex}$"),
    ):
        assert r"\style" not in source
        assert r"\href" not in source
        assert r"\frac" in source


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {"name": "stdout"}),
        ("stream", {"name": "stdout", "text": ["a"]}),
        ("stream", {"name": "/etc/passwd", "text": "a"}),
        ("stream", "text"),
        ("stream", None),
        ("error", {"ename": 1, "evalue": "", "traceback": []}),
        ("error", {"ename": "", "evalue": "", "traceback": [1]}),
        ("display_data", {"data": []}),
        ("display_data", {"data": {"text/plain": {"a": 1}}}),
        ("display_data", {"data": {"image/png": "<script>"}}),
        ("display_data", {"data": {}, "metadata": []}),
        ("execute_result", {"data": {"text/plain": "x"}, "transient": 3}),
    ],
)
def test_a_malformed_message_is_a_value_error(kind: str, content: object) -> None:
    with pytest.raises(ValueError, match="."):
        read_output(kind, content)


def test_json_nested_too_deep_is_a_value_error() -> None:
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        bundle(application_json=deep)


def test_comms_and_inputs_are_no_outputs() -> None:
    for kind in ("comm_open", "comm_msg", "input_request", "execute_input", "status", "made_up"):
        assert read_output(kind, {"data": {}}) is None


def test_a_display_id_is_kept_for_updates() -> None:
    content = {"data": {"text/plain": "x"}, "transient": {"display_id": "a"}}
    output = read_output("update_display_data", content)
    assert output is not None
    assert (output.output_type, output.transient.display_id) == ("update_display_data", "a")


def test_text_for_a_terminal_keeps_colours_and_obeys_nothing() -> None:
    text = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]52;c;aGk=\x1b\\ \x1b[2J\x1b[1;1H \x9b31m \x08\rx\ty\n"
    assert printable(text) == "\x1b[31mred\x1b[0m      31m \x08\rx\ty\n".replace("      ", "    ")


def test_a_picture_without_a_source_is_named() -> None:
    assert (
        html('<p>a <img alt="x > y" src="http://evil"> b</p>') == "<p>a [picture not shown] b</p>"
    )
    assert "<img" in html('<img alt="x" src="data:image/png;base64,iVBORw0KGgo=">')


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "data",
                        "metadata",
                        "text",
                        "name",
                        "text/html",
                        "text/plain",
                        "transient",
                        "ename",
                        "traceback",
                    ]
                ),
                x,
            )
        ),
    ),
    st.sampled_from(["stream", "error", "display_data", "execute_result", "update_display_data"]),
)
def test_any_content_is_an_output_or_a_value_error(content: object, kind: str) -> None:
    try:
        output = read_output(kind, content)
    except ValueError:
        return
    assert output is not None


def test_tex_that_would_take_long_to_read_is_left_out_and_said() -> None:
    output = read_output("display_data", {"data": {"text/latex": r"$\url{x}$" * 200_000}})
    assert output is not None
    assert set(output.data) == {"text/plain"}
    assert "TeX of 1,800,000 characters" in output.data["text/plain"]


def test_tex_in_html_is_read_with_it() -> None:
    output = read_output("display_data", {"data": {"text/html": r"<b>$\href{x}{y}$</b>"}})
    assert output is not None
    assert r"\href" not in output.data["text/html"]
    assert "<b>$" in output.data["text/html"]
