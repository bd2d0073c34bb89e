"""The debugger of the agent kernel, over the wire, beside that of a plain ipykernel."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from jupyter_agent.sandbox.filter.debugger import read_event, read_response

from .servers import descendants
from .test_agent_kernel import Content, Kernel, kernel, reply_to, said, sandbox_of
from .test_sandboxed_kernel import wait_until

CODE = "def double(a):\n    b = a * 2\n    return b\nprint(double(21))"
DEBUGGED = "--SandboxProvisioner.debugger=True"
INITIALIZE = {
    "clientID": "jupyterlab",
    "clientName": "JupyterLab",
    "adapterID": "",
    "pathFormat": "path",
    "linesStartAt1": True,
    "columnsStartAt1": True,
    "supportsVariableType": True,
}
_seq = itertools.count(1)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("work"), DEBUGGED) as mine:
        yield mine


@pytest.fixture(scope="module")
def plain() -> Iterator[Kernel]:
    mine = Kernel(*start_new_kernel(kernel_name="python3"))
    yield mine
    mine.client.stop_channels()
    mine.manager.shutdown_kernel(now=True)


def send(kernel: Kernel, command: str, **arguments: Any) -> str:
    content = {"type": "request", "seq": next(_seq), "command": command, "arguments": arguments}
    message = kernel.client.session.msg("debug_request", content)
    kernel.client.control_channel.send(message)
    msg_id: str = message["header"]["msg_id"]
    return msg_id


def debug(kernel: Kernel, command: str, **arguments: Any) -> Content:
    """Send a debug_request and return the content of its reply."""
    msg_id = send(kernel, command, **arguments)
    while True:
        reply = kernel.client.get_control_msg(timeout=30)
        if reply["parent_header"]["msg_id"] == msg_id:
            content: Content = reply["content"]
            return content


def heard(kernel: Kernel, event: str) -> Content:
    """Wait for an event."""
    while True:
        message = kernel.client.get_iopub_msg(timeout=30)
        if message["msg_type"] == "debug_event" and message["content"]["event"] == event:
            content: Content = message["content"]
            return content


def attach(kernel: Kernel, code: str = CODE, line: int = 3) -> None:
    """Start the debugger and set a breakpoint."""
    assert debug(kernel, "initialize", **INITIALIZE)["success"]
    assert debug(kernel, "attach")["success"]
    path = debug(kernel, "dumpCell", code=code)["body"]["sourcePath"]
    arguments = {"breakpoints": [{"line": line}], "source": {"path": path}}
    assert debug(kernel, "setBreakpoints", **arguments)["body"]["breakpoints"][0]["verified"]
    assert debug(kernel, "configurationDone")["success"]


def normal(content: Content) -> str:
    """Write a reply so that it can be compared: without numbers that are given out, and paths."""
    text = json.dumps(content, sort_keys=True)
    numbers = "seq|request_seq|sequence_seq|id|variablesReference"
    return re.sub(rf'"({numbers})": \d+(, )?|[^"]*ipykernel_\d+/', "", text)


def session(kernel: Kernel) -> list[Content]:
    """Debug a cell as a page does; return all that is answered, and what happens."""
    found = [debug(kernel, "initialize", **INITIALIZE), debug(kernel, "attach")]
    found.append(debug(kernel, "dumpCell", code=CODE))
    source = {"path": found[-1]["body"]["sourcePath"]}
    found.append(debug(kernel, "setBreakpoints", breakpoints=[{"line": 3}], source=source))
    found.append(debug(kernel, "configurationDone"))
    kernel.client.execute(CODE)
    found.append(heard(kernel, "stopped"))
    found.append(debug(kernel, "stackTrace", threadId=1))
    frame = found[-1]["body"]["stackFrames"][0]["id"]
    found.append(debug(kernel, "scopes", frameId=frame))
    local = found[-1]["body"]["scopes"][0]["variablesReference"]
    found.append(debug(kernel, "variables", variablesReference=local))
    found.append(debug(kernel, "richInspectVariables", variableName="b", frameId=frame))
    found.append(debug(kernel, "evaluate", expression="a + 1", frameId=frame, context="repl"))
    found.append(debug(kernel, "evaluate", expression="nope", frameId=frame, context="repl"))
    found.append(debug(kernel, "copyToGlobals", srcVariableName="b", dstVariableName="mine", srcFrameId=frame))  # fmt: skip
    found.append(debug(kernel, "source", source=source))
    found.append(debug(kernel, "next", threadId=1))
    found += [heard(kernel, "continued"), heard(kernel, "stopped")]
    found.append(debug(kernel, "continue", threadId=1))
    found.append(heard(kernel, "continued"))
    assert kernel.shell("execute_reply")["content"]["status"] == "ok"
    kernel.late()
    assert said(kernel.run("mine")[1]) == "42"
    found.append(debug(kernel, "richInspectVariables", variableName="mine"))
    found.append(debug(kernel, "disconnect", restart=False, terminateDebuggee=False))
    return found


def test_a_cell_is_debugged_as_on_a_plain_kernel(plain: Kernel, agent: Kernel) -> None:
    assert "debugger" in reply_to(agent, "kernel_info_request", {})["supported_features"]
    before = [debug(each, "debugInfo") for each in (agent, plain)]
    assert normal(before[0]) == normal(before[1])
    found = [*map(normal, session(agent))]
    assert found == [*map(normal, session(plain))]
    assert '"line": 3' in found[6]


def test_an_interrupt_at_a_breakpoint_ends_the_cell(agent: Kernel) -> None:
    agent.manager.restart_kernel()
    agent.client.wait_for_ready(timeout=40)
    attach(agent)
    agent.client.execute(CODE)
    heard(agent, "stopped")
    agent.manager.interrupt_kernel()
    assert agent.shell("execute_reply")["content"]["ename"] == "KeyboardInterrupt"
    send(agent, "continue", threadId=1)  # ipykernel never answers it; interrupts do not wait for it
    agent.client.execute("print('going', flush=True)\nwhile True: pass")
    agent.iopub("text", "going")
    agent.manager.interrupt_kernel()
    assert agent.shell("execute_reply")["content"]["ename"] == "KeyboardInterrupt"
    agent.late()
    assert said(agent.run("1 + 1")[1]) == "2"


def test_a_sandbox_that_dies_at_a_breakpoint_ends_the_session(agent: Kernel) -> None:
    agent.run("%agent reset")
    attach(agent)
    agent.client.execute(CODE)
    thread = heard(agent, "stopped")["body"]["threadId"]
    os.kill(sandbox_of(agent), signal.SIGKILL)
    assert heard(agent, "continued")["body"] == {"threadId": thread, "allThreadsContinued": True}
    heard(agent, "terminated")
    assert agent.shell("execute_reply")["content"]["ename"] == "SandboxDied"
    agent.late()
    assert debug(agent, "disconnect")["success"]
    assert said(agent.run("1 + 1")[1]) == "2"
    assert not debug(agent, "debugInfo")["body"]["isStarted"]
    attach(agent)
    agent.client.execute(CODE)
    heard(agent, "stopped")
    assert debug(agent, "continue", threadId=1)["success"]
    assert agent.shell("execute_reply")["content"]["status"] == "ok"
    agent.late()


def test_it_starts_between_cells(agent: Kernel) -> None:
    agent.run("%agent reset")
    agent.client.execute("print('on', flush=True); import time; time.sleep(600)")
    agent.iopub("text", "on")
    refused = debug(agent, "initialize", **INITIALIZE)
    assert (refused["success"], refused["message"]) == (False, "there is no debugger: a cell runs")
    assert debug(agent, "debugInfo")["success"]  # all else is answered while a cell runs
    agent.manager.interrupt_kernel()
    agent.shell("execute_reply")
    agent.late()
    send(agent, "initialize", **INITIALIZE)
    assert said(agent.run("'after it'")[1]) == "'after it'"
    answer = agent.client.get_control_msg(timeout=20)["content"]
    if not answer["success"]:  # whichever came first
        assert "a cell runs" in answer["message"]
        assert debug(agent, "initialize", **INITIALIZE)["success"]
    broken = debug(agent, "variables")
    assert (broken["success"], broken["message"]) == (False, "KeyError: 'variablesReference'")


def test_a_restart_at_a_breakpoint_leaves_nothing(agent: Kernel) -> None:
    agent.run("%agent reset")
    attach(agent)
    agent.client.execute(CODE)
    heard(agent, "stopped")
    front: int = agent.manager.provisioner.pid  # type: ignore[union-attr]
    before = descendants(front)
    assert len(before) > 2  # debugpy's adapter is one
    agent.manager.restart_kernel()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    agent.client.wait_for_ready(timeout=40)
    assert said(agent.run("2")[1]) == "2"


def test_the_guest_reaches_its_own_loopback_and_no_other(agent: Kernel) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
    ):
        addresses = [each.getsockname()[:2] for each in (server, other)]
        code = (
            "import os, socket\ndef tried(*address):\n"
            "    try:\n        socket.create_connection(address, 2).close()\n        return 'open'\n"
            "    except OSError as error:\n        return type(error).__name__\n"
            f"print([tried(*address) for address in {addresses}], tried('192.0.2.1', 80),"
            " tried('example.org', 80), [name for _, name in socket.if_nameindex()])"
        )
        agent.run("%agent reset")
        attach(agent)
        found = said(agent.run(code)[1])
    refused = ["ConnectionRefusedError"] * 2
    assert found == f"{refused} OSError gaierror ['lo']\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "c.SandboxProvisioner.debugger is False"),
        ([DEBUGGED, "--SandboxProvisioner.isolation=landlock"], "where Landlock confines"),
    ],
)
def test_where_there_is_none_it_says_why(folder: Path, arguments: list[str], why: str) -> None:
    with kernel(folder, *arguments) as mine:
        assert reply_to(mine, "kernel_info_request", {})["supported_features"] == []
        for command in ("debugInfo", "initialize", "disconnect"):
            answer = debug(mine, command)
            assert not answer["success"]
            assert why in answer["message"]
        assert said(mine.run("import sys; 'debugpy' in sys.modules")[1]) == "False"
        forge = (
            "kernel = get_ipython().kernel\nkernel.session.send(kernel.iopub_socket, 'debug_event',"
            " {'event': 'stopped', 'body': {'threadId': 1}}, parent=kernel.get_parent())"
        )
        assert "debug_event" not in [kind for kind, _ in mine.run(forge)[1]]
        with pytest.raises(Empty):
            mine.client.get_control_msg(timeout=0.1)


# -- what a guest may say that no debugger would


def test_a_variable_is_drawn_as_an_output_is() -> None:
    data = {"text/html": "<b>x</b><script>1</script>", "application/javascript": "1"}
    reply = read_response("debug_reply", {"success": True, "body": {"data": data, "metadata": {}}})
    assert reply["body"]["data"]["text/html"] == "<b>x</b>"  # type: ignore[index, call-overload]
    assert "application/javascript" not in reply["body"]["data"]  # type: ignore[index, call-overload, operator]


def test_what_is_no_plain_json_of_the_protocol_stays_out() -> None:
    nested: Any = []
    for _ in range(100):
        nested = [nested]
    for value in (nested, float("nan"), 1 << 64, [{"a": {"b": nested}}]):
        for read in (read_event, lambda content: read_response("debug_reply", content)):
            with pytest.raises(ValueError, match="where plain JSON belongs"):
                read({"body": {"x": value}})
    fields = {"__proto__": {"a": 1}, "x y": 1, "name": "\x1b]0;t\x07n\x00"}
    event = read_event({"event": "output", "body": fields, "script": 1, "type": "event"})
    assert event == {"event": "output", "type": "event", "body": {"name": "n"}}
    with pytest.raises(ValueError, match="where an object belongs"):
        read_event(["stopped"])
