"""The undocumented names of ipykernel that both kernels need are in the ipykernel installed here."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import requires, version

import pytest
from ipykernel import debugger, heartbeat, iostream, kernelapp, kernelbase
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
from packaging.requirements import Requirement

from .test_layout import MODULES

VERSION = tuple(map(int, version("ipykernel").split(".")[:2]))
MINORS = [(6, 29), (6, 30), (6, 31), (7, 0), (7, 1), (7, 2), (7, 3), (7, 4)]
HOLDERS = ["frontends.ipykernel_base", "sandbox.guest.ipykernel_app"]
METHODS = {
    Kernel: "_abort_queues _send_interrupt_children _topic get_parent post_handler_hook "
    "pre_handler_hook",
    IPKernelApp: "_try_bind_socket init_connection_file init_control init_iopub init_sockets "
    "load_connection_info log_connection_info write_connection_file",
    IOPubThread: "_really_send schedule send_multipart"
    + (" _handle_subscription _setup_xpub_listener" if VERSION >= (7, 2) else ""),
    OutStream: "_flush flush flush_timeout write",
    Heartbeat: "_try_bind_socket",
}
# What instances or modules have, by a line that makes it.
LINES = {
    kernelbase: [
        r"^    _aborting = Bool\(",
        r"^    _execute_sleep = Float\(",
        r"^    control_msg_types = \[",
        r"^        self\._parent_ident = |^    _parent_ident = ",
        r"^        self\.io_loop = ",
        r"^        self\.shell_handlers = ",
        *([r"^        self\._main_asyncio_lock = "] if VERSION >= (7, 0) else []),
    ],
    kernelapp: [r"\bIOPubThread\(", r"\bHeartbeat\(", r"^    outstream_class = "],
    iostream: [r"^        self\._master_pid = ", r"^        self\.pub_thread = "],
    heartbeat: [r"^                self\._try_bind_socket\(\)"],
    debugger: [r"^    from debugpy\.server import "],
}


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in METHODS.items() for name in names.split()]
)
def test_a_method_that_is_used_or_replaced_is_there(owner: type, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.parametrize(
    ("module", "line"), [(module, line) for module, lines in LINES.items() for line in lines]
)
def test_a_line_that_is_relied_on_is_there(module: object, line: str) -> None:
    assert re.search(line, inspect.getsource(module), re.MULTILINE)  # type: ignore[arg-type]


def test_this_ipykernel_is_one_that_was_checked() -> None:
    assert VERSION in MINORS, "check the new release with: make ipykernel"
    [needed] = [
        Requirement(line)
        for line in requires("jupyter-agent-kernel") or ()
        if line.startswith("ipykernel")
    ]
    assert all(needed.specifier.contains(f"{major}.{minor}") for major, minor in MINORS)
    assert not needed.specifier.contains(f"{MINORS[-1][0] + 1}.0")


def test_no_other_module_imports_ipykernel() -> None:
    for name, path in MODULES.items():
        found = re.search(r"^\s*(from|import) ipykernel", path.read_text(), re.MULTILINE)
        assert bool(found) == (name in HOLDERS), name
