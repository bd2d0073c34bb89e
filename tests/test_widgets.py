"""Widgets of the user's own cells: what reaches a page, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_agent.sandbox.filter.widgets import MAX_VIEWS, TARGET, VIEW, Widgets

from .test_agent_kernel import Content, Kernel, fence, kernel, said

Message = dict[str, Any]
CONTROLS, BASE = "@jupyter-widgets/controls", "@jupyter-widgets/base"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("work")
    code = "wide.value = 8; import ipywidgets; ipywidgets.Text()"
    (folder / "s.md").write_text(f"x\n{fence(code)}\n<!-- next reply -->\nDone.\n")
    with kernel(folder, "--AgentKernel.widgets=True") as mine:
        yield mine


def run(kernel: Kernel, code: str) -> list[Message]:
    messages: list[Message] = []
    reply = kernel.client.execute_interactive(code, timeout=40, output_hook=messages.append)
    assert reply["content"]["status"] == "ok", reply["content"]
    return messages


def opened(messages: list[Message]) -> dict[str, Message]:
    """Find the widgets that were opened, by the names of their models."""
    comms = [m["content"] for m in messages if m["msg_type"] == "comm_open"]
    return {c["data"]["state"]["_model_name"]: c for c in comms}


def tell(kernel: Kernel, kind: str, **content: Any) -> tuple[str, list[Message]]:
    """Send a comm message; return its id, and what is published for it until idle."""
    client = kernel.client
    found: list[Message] = []
    message = client.session.msg(kind, content)
    client.shell_channel.send(message)
    while True:
        heard = client.get_iopub_msg(timeout=20)
        if heard["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        if heard["content"].get("execution_state") == "idle":
            return message["header"]["msg_id"], found
        found.append(heard)


def update(kernel: Kernel, comm: Content, **state: Any) -> tuple[str, list[Message]]:
    data = {"method": "update", "state": state, "buffer_paths": []}
    return tell(kernel, "comm_msg", comm_id=comm["comm_id"], data=data)


def test_a_slider_moves_on_both_sides(agent: Kernel) -> None:
    code = (
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, description='n')\n"
        "slider.observe(lambda change: print('now', change.new), 'value')\nslider"
    )
    messages = run(agent, code)
    slider = opened(messages)["IntSliderModel"]
    assert slider["target_name"] == TARGET
    assert slider["data"]["state"]["value"] == 3
    assert [m["metadata"]["version"] for m in messages if m["msg_type"] == "comm_open"] == ["2.1.0"] * 3  # fmt: skip
    (shown,) = [m["content"]["data"] for m in messages if m["msg_type"] == "execute_result"]
    assert shown[VIEW]["model_id"] == slider["comm_id"]
    _, heard = update(agent, slider, value=7)
    assert "now 7\n" in [m["content"].get("text") for m in heard]
    echo = {"method": "echo_update", "state": {"value": 7}, "buffer_paths": []}
    assert echo in [m["content"].get("data") for m in heard]
    assert said(agent.run("slider.value")[1]) == "7"
    moved = [m["content"]["data"] for m in run(agent, "slider.value = 9") if m["msg_type"] == "comm_msg"]  # fmt: skip
    assert moved == [{"method": "update", "state": {"value": 9}, "buffer_paths": []}]


def test_a_page_that_comes_back_is_told_the_state(agent: Kernel) -> None:
    text = opened(run(agent, "back = ipywidgets.Text('kept'); back"))["TextModel"]
    _, heard = tell(agent, "comm_open", comm_id="c", target_name="jupyter.widget.control", data={})
    assert heard[-1]["msg_type"] == "comm_close"
    message = agent.client.session.msg("comm_info_request", {"target_name": TARGET})
    agent.client.shell_channel.send(message)
    comms = agent.shell("comm_info_reply")["content"]["comms"]
    assert comms[text["comm_id"]] == {"target_name": TARGET}
    _, heard = tell(agent, "comm_msg", comm_id=text["comm_id"], data={"method": "request_state"})
    states = [m["content"]["data"]["state"] for m in heard if m["msg_type"] == "comm_msg"]
    assert states == [text["data"]["state"]]
    _, heard = tell(agent, "comm_close", comm_id=text["comm_id"], data={})
    _, heard = update(agent, text, value="gone")
    assert [m["msg_type"] for m in heard] == ["status"]


def test_an_output_gathers_what_its_callback_prints(agent: Kernel) -> None:
    code = (
        "out = ipywidgets.Output(); button = ipywidgets.Button(description='Go')\n"
        "def clicked(_):\n    with out: print('clicked')\nbutton.on_click(clicked)\n"
        "ipywidgets.VBox([button, out])"
    )
    widgets = opened(run(agent, code))
    box = widgets["VBoxModel"]["data"]["state"]["children"]
    assert box == [f"IPY_MODEL_{widgets[n]['comm_id']}" for n in ("ButtonModel", "OutputModel")]
    click = {"method": "custom", "content": {"event": "click"}, "buffers": []}
    msg_id, heard = tell(agent, "comm_msg", comm_id=widgets["ButtonModel"]["comm_id"], data=click)
    states = [m["content"]["data"]["state"] for m in heard if m["msg_type"] == "comm_msg"]
    assert [state["msg_id"] for state in states] == [msg_id, ""]  # as the page knows the request
    assert "clicked\n" in [m["content"].get("text") for m in heard]


def test_a_widget_is_heard_while_a_cell_runs(agent: Kernel) -> None:
    wide = opened(run(agent, "wide = ipywidgets.FloatText(); wide"))["FloatTextModel"]
    for wait in ("import time; time.sleep(0.5)", "import asyncio; await asyncio.sleep(0.5)"):
        agent.client.execute(f"print('on', flush=True)\n{wait}")
        agent.iopub("text", "on")
        update(agent, wide, value=2.5)  # its idle comes
        agent.shell("execute_reply")
        agent.late()
        assert said(agent.run("wide.value")[1]) == "2.5"
        agent.run("wide.value = 0")


def test_a_thread_moves_a_bar_when_its_cell_is_over(agent: Kernel) -> None:
    code = (
        "import threading, time\nbar = ipywidgets.IntProgress(); display(bar)\n"
        "def work():\n    time.sleep(0.3); bar.value = 50\nthreading.Thread(target=work).start()"
    )
    run(agent, code)
    late = [content for kind, content in agent.late() if kind == "comm_msg"]
    assert [content["data"]["state"] for content in late] == [{"value": 50}]


def test_an_interrupt_ends_a_callback(agent: Kernel) -> None:
    code = (
        "def spin(change):\n    print('spinning', flush=True)\n    while True: pass\n"
        "spun = ipywidgets.IntText(); spun.observe(spin, 'value'); spun"
    )
    spun = opened(run(agent, code))["IntTextModel"]
    data = {"method": "update", "state": {"value": 1}, "buffer_paths": []}
    content = {"comm_id": spun["comm_id"], "data": data}
    agent.client.shell_channel.send(agent.client.session.msg("comm_msg", content))
    agent.iopub("text", "spinning")
    agent.manager.interrupt_kernel()
    agent.iopub("execution_state", "idle")
    agent.late()
    assert said(agent.run("spun.value")[1]) == "1"


def test_the_agents_cells_have_none(agent: Kernel) -> None:
    run(agent, "wide = ipywidgets.FloatText(); wide")
    messages = run(agent, "%%agent -m scripted:s.md\nGo.")
    assert not [m for m in messages if m["msg_type"].startswith("comm")]
    assert not [m for m in messages if VIEW in m["content"].get("data", {})]
    assert said(agent.run("wide.value")[1]) == "8.0"


def test_what_draws_more_than_it_may_is_not_shown(agent: Kernel) -> None:
    code = "video = ipywidgets.Video(value=b'http://x/y', format='url'); ipywidgets.HBox([video, slider])"
    messages = run(agent, code)
    widgets = opened(messages)
    assert "VideoModel" not in widgets
    assert len(widgets["HBoxModel"]["data"]["state"]["children"]) == 1
    shown = run(agent, "video")
    (data,) = [m["content"]["data"] for m in shown if m["msg_type"] == "execute_result"]
    assert VIEW not in data
    assert "[not shown: no widget that may be shown]" in data["text/plain"]
    html = opened(run(agent, "ipywidgets.HTML('<b>b</b><img src=x onerror=1>')"))["HTMLModel"]
    assert html["data"]["state"]["value"].startswith("<b>b</b>")
    assert "onerror" not in html["data"]["state"]["value"]
    picture = "import io, matplotlib.pyplot as plt\nf = io.BytesIO(); plt.figure().savefig(f); plt.close()\n"
    messages = run(agent, picture + "ipywidgets.Image(value=f.getvalue())")
    (image,) = [m for m in messages if m["content"].get("data", {}).get("buffer_paths")]
    assert bytes(image["buffers"][0]).startswith(b"\x89PNG")


def test_without_the_trait_there_are_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    with kernel(tmp_path_factory.mktemp("plain")) as plain:
        messages = run(plain, "import ipywidgets; ipywidgets.IntSlider()")
        assert {m["msg_type"] for m in messages} == {"status", "execute_input", "execute_result"}
        (data,) = [m["content"]["data"] for m in messages if m["msg_type"] == "execute_result"]
        assert list(data) == ["text/plain"]
        assert "c.AgentKernel.widgets" in data["text/plain"]
        _, heard = tell(plain, "comm_open", comm_id="c", target_name="t", data={})
        assert [m["msg_type"] for m in heard] == ["status", "comm_close"]


# -- what a guest may send that no ipywidgets would


def state(model: str, **more: Any) -> Content:
    module = BASE if model == "Layout" else CONTROLS
    facts = {"_view_module": module, "_view_module_version": "2.0.0", "_view_name": f"{model}View"}
    names = {"_model_module": module, "_model_module_version": "2.0.0", "_model_name": f"{model}Model"}  # fmt: skip
    return {**names, **facts, **more}


def name(number: int) -> str:
    return f"{number:032x}"


def begin(widgets: Widgets, number: int, model: str, **more: Any) -> Content:
    data = {"state": state(model, **more)}
    content = {"comm_id": name(number), "target_name": TARGET, "data": data}
    read = widgets.read("comm_open", content, [])
    found: Content = read.data["state"]
    return found


def change(widgets: Widgets, number: int, *buffers: bytes, **more: Any) -> Content:
    data = {"method": "update", "state": more, "buffer_paths": [["__proto__", "x"]]}
    content = {"comm_id": name(number), "data": data}
    return dict(widgets.read("comm_msg", content, [memoryview(b) for b in buffers]))


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("Link", {}),
        ("Video", {}),
        ("Widget", {}),
        ("Text", {"_view_name": "HTMLView"}),
        ("Text", {"_view_module": "https://x/y.js"}),
        ("Text", {"_model_module": "anywidget"}),
        ("Text", {"_model_module_version": "1.5.0"}),
        ("HTML", {"value": ["<img src=x onerror=alert(1)>"]}),
        ("Image", {"format": "url"}),
        ("Image", {"format": "svg+xml"}),
        ("Text", {"value": "x" * (5 << 20)}),
        ("Text", {"value": [[]] * 5000 + [{}], "placeholder": {1}}),
    ],
)
def test_no_other_widget_is_opened(model: str, more: Content) -> None:
    widgets = Widgets()
    with pytest.raises(ValueError):  # noqa: PT011
        begin(widgets, 1, model, **more)
    assert widgets.ids() == []


def test_no_text_becomes_more_than_text() -> None:
    widgets = Widgets()
    begin(widgets, 1, "HTML")
    begin(widgets, 2, "Layout")
    read = change(widgets, 1, value="<i>x</i><script>1</script>", _view_name="TextView", on_msg="1")
    assert read["data"]["state"] == {"value": "<i>x</i>"}
    found = change(widgets, 1, description="$\\href{javascript:1}{x}$", description_allow_html=True)
    assert found["data"]["state"] == {"description": "$\\\u2060href{javascript:1}{x}$", "description_allow_html": False}  # fmt: skip
    found = change(
        widgets, 1, _dom_classes=["jp-Dialog"], icon="x jp-Dialog", layout=f"IPY_MODEL_{name(1)}"
    )
    assert found["data"]["state"] == {"_dom_classes": [], "icon": ""}
    css = {"width": "50%", "display": "url(//x)", "margin": "1px;x:y", "border_top": ["url(//x)"]}
    with pytest.raises(ValueError, match="where text belongs"):
        change(widgets, 2, **css)
    found = change(widgets, 2, **css | {"border_top": "1px solid red", "grid_area": "a\\75rl(//x)"})
    kept = {"width": "50%", "display": None, "margin": None, "border_top": "1px solid red", "grid_area": None}  # fmt: skip
    assert found["data"]["state"] == kept


def test_buffers_come_only_where_a_picture_is() -> None:
    widgets = Widgets()
    begin(widgets, 1, "Text")
    begin(widgets, 2, "Image", format="png")
    assert change(widgets, 1, b"x")["buffers"] == []
    assert change(widgets, 1, b"x")["data"]["buffer_paths"] == []
    found = change(widgets, 2, b"pixels", b"more", value="x")
    assert found["data"] == {"method": "update", "state": {}, "buffer_paths": [["value"]]}
    assert [bytes(buffer) for buffer in found["buffers"]] == [b"pixels"]
    with pytest.raises(ValueError, match="a state of"):
        change(widgets, 2, bytes(17 << 20))


def test_no_widget_holds_itself_or_more_than_a_page_draws() -> None:
    widgets = Widgets()
    for number in range(12):
        below = [f"IPY_MODEL_{name(number - 1)}"] * 2 if 0 < number < 9 else []
        begin(widgets, number, "VBox", children=below)
    assert 2**9 < MAX_VIEWS < 2**10
    with pytest.raises(ValueError, match="can draw"):
        change(widgets, 9, children=[f"IPY_MODEL_{name(8)}"] * 2)
    assert change(widgets, 9, children=[f"IPY_MODEL_{name(8)}"])["data"]["state"]["children"]
    change(widgets, 10, children=[f"IPY_MODEL_{name(11)}"])
    with pytest.raises(ValueError, match="inside itself"):
        change(widgets, 11, children=[f"IPY_MODEL_{name(10)}"])
    change(widgets, 11, children=[f"IPY_MODEL_{name(8)}"])
    assert change(widgets, 11, children=["IPY_MODEL_x"])["data"]["state"]["children"] == []


def test_an_output_gathers_nothing_of_the_agents_and_nothing_unread() -> None:
    widgets = Widgets()
    facts = {"_model_module": "@jupyter-widgets/output", "_model_module_version": "1.0.0"}
    facts |= {"_view_module": "@jupyter-widgets/output", "_view_module_version": "1.0.0"}
    begin(widgets, 1, "Output", **facts)
    widgets.asked("guests", "clients")
    assert change(widgets, 1, msg_id="the-run")["data"]["state"] == {"msg_id": ""}
    assert change(widgets, 1, msg_id="guests")["data"]["state"] == {"msg_id": "clients"}
    with pytest.raises(ValueError, match="inside itself"):
        widgets.view({"model_id": name(1)}, "clients")
    html = {"output_type": "display_data", "data": {"text/html": "<script>1</script>x"}}
    (output,) = change(widgets, 1, outputs=[html])["data"]["state"]["outputs"]
    assert output["data"]["text/html"] == "x"
    inside = {"output_type": "display_data", "data": {VIEW: {"model_id": name(1)}}}
    with pytest.raises(ValueError, match="inside itself"):
        change(widgets, 1, outputs=[inside])
