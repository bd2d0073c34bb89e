"""The kernelspec `python3-sandboxed` as any Jupyter client uses it, in both tiers."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import jupyter_kernel_test as jkt  # type: ignore[import-untyped]
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .as_user import as_user
from .conftest import ROOT, TIERS
from .servers import descendants

BIN = Path(sys.executable).parent
SPIN = "print('going', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module", autouse=True)
def kernelspecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The shipped kernelspec once for each tier, found as `sandboxed-<tier>`."""
    root, home = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("home")
    spec = json.loads((ROOT / "kernelspec" / "python3-sandboxed" / "kernel.json").read_text())
    for tier in TIERS:
        spec["metadata"]["kernel_provisioner"]["config"] = {"isolation": tier}
        folder = root / "kernels" / f"sandboxed-{tier}"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(root))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        patch.setenv("XDG_RUNTIME_DIR", str(home))  # where a sandbox has its folder
        patch.chdir(home)
        yield


def provisioner(manager: KernelManager) -> SandboxProvisioner:
    assert isinstance(manager.provisioner, SandboxProvisioner)
    return manager.provisioner


def execute(client: BlockingKernelClient, code: str, **kwargs: Any) -> str:
    """Run code and return what it printed, or the name of its error."""
    found = []

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        found.append(content.get("text") or content.get("ename") or "")

    client.execute_interactive(code, timeout=30, output_hook=take, **kwargs)
    return "".join(found).strip()


@contextmanager
def kernel(tier: str) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager, client = start_new_kernel(kernel_name=f"sandboxed-{tier}")
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# -- the messaging protocol: nothing of jupyter_kernel_test is left out


class Protocol:
    """What an IPython kernel answers; no sample is missing, so no test skips itself."""

    tier: str
    kernel_name: str
    km: KernelManager
    kc: BlockingKernelClient
    flush_channels: Callable[[], None]
    get_non_kernel_info_reply: Callable[..., dict[str, Any] | None]

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = (
        {"text": "zi", "matches": {"zip"}},
        {"text": "from shutil import copyt", "matches": {"copytree"}},
        {"text": "open('wor", "matches": set()},
    )
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q", "def 1f(): pass")
    code_page_something = "zip?"
    code_generate_error = "raise RuntimeError('expected')"
    code_execute_result = (
        {"code": "6*7", "result": "42"},
        {"code": "'a' + 'b'", "result": "'ab'"},
        {
            "code": "from IPython.display import HTML; HTML('<b>x</b>')",
            "result": "<b>x</b>",
            "mime": "text/html",
        },
    )
    code_display_data = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('x'))",
            "mime": "text/html",
        },
        {
            "code": "from IPython.display import Math, display; display(Math('x'))",
            "mime": "text/latex",
        },
        {
            "code": "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
            "mime": "image/png",
        },
    )
    code_history_pattern = "6?7*"
    # "range" of jupyter_kernel_test skips itself: IPython names the running session 0, where that
    # test wants the number that "tail" gives it; our own test of it is below
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    def test_the_tier_is_the_one_asked_for(self) -> None:
        assert provisioner(self.km).tier == self.tier

    def test_a_range_of_the_history_comes_back(self) -> None:
        self.flush_channels()
        first = self.kc.execute_interactive("kept = 'a line'", timeout=30, store_history=True)
        line = first["content"]["execution_count"]
        self.kc.history(hist_access_type="range", session=0, start=line, stop=line + 1)
        reply = self.get_non_kernel_info_reply(timeout=10)
        assert reply is not None
        assert reply["content"]["history"] == [[0, line, "kept = 'a line'"]]

    def test_nothing_is_on_stderr_after_the_start(self) -> None:
        manager, client = start_new_kernel(kernel_name=self.kernel_name)
        client.stop_channels()
        try:  # with the client there before the kernel, as a slow start has it
            manager.restart_kernel(now=True)
            client = manager.client()
            client.start_channels()
            kinds, idle = [], False
            while not idle:
                client.kernel_info()  # its idle is lost if iopub is connected after shell
                with contextlib.suppress(Empty):
                    while not idle:
                        message = client.get_iopub_msg(timeout=2)
                        idle = message["content"].get("execution_state") == "idle"
                        kinds.append(message["msg_type"])
            assert set(kinds) <= {"iopub_welcome", "status"}
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    def test_a_debugger_is_not_offered(self) -> None:
        assert "debugger" not in self._features()
        assert execute(self.kc, "import sys; print('debugpy' in sys.modules)") == "False"

    def test_input_is_asked_of_the_client(self) -> None:
        asked = []

        def answer(message: dict[str, Any]) -> None:
            asked.append((message["content"]["prompt"], message["content"]["password"]))
            self.kc.input("Ada")

        said = execute(self.kc, "print('hello', input('name? '))", stdin_hook=answer)
        assert said.endswith("hello Ada")
        code = "import getpass; print(len(getpass.getpass('key? ')))"
        assert execute(self.kc, code, stdin_hook=answer).endswith("3")
        assert asked == [("name? ", False), ("key? ", True)]

    def test_input_without_a_user_is_an_error(self) -> None:
        assert execute(self.kc, "input()", allow_stdin=False) == "StdinNotImplementedError"

    def test_a_comm_opens_and_answers(self) -> None:
        code = (
            "from comm import create_comm\n"
            "def echo(comm, opened):\n"
            "    comm.on_msg(lambda m: comm.send(m['content']['data'], buffers=m['buffers']))\n"
            "get_ipython().kernel.comm_manager.register_target('echo', echo)"
        )
        assert execute(self.kc, code) == ""
        shell, session = self.kc.shell_channel, self.kc.session
        opened = {"comm_id": "c1", "target_name": "echo", "data": {}}
        shell.send(session.msg("comm_open", opened))
        message = session.msg("comm_msg", {"comm_id": "c1", "data": {"x": 1}})
        session.send(shell.socket, message, buffers=[b"\0bytes"])
        reply = self.kc.get_iopub_msg(timeout=60)
        while reply["msg_type"] != "comm_msg":
            reply = self.kc.get_iopub_msg(timeout=60)
        assert reply["content"]["data"] == {"x": 1}
        assert bytes(reply["buffers"][0]) == b"\0bytes"
        shell.send(session.msg("comm_close", {"comm_id": "c1", "data": {}}))
        info = session.msg("comm_info_request", {"target_name": "echo"})
        shell.send(info)
        answer = self.kc.get_shell_msg(timeout=60)
        while answer["parent_header"]["msg_id"] != info["header"]["msg_id"]:
            answer = self.kc.get_shell_msg(timeout=60)
        assert answer["content"]["comms"] == {}

    def test_expressions_of_the_user_are_evaluated(self) -> None:
        reply = self.kc.execute_interactive("y = 2", user_expressions={"a": "y + 1"}, timeout=30)
        assert reply["content"]["user_expressions"]["a"]["data"]["text/plain"] == "3"

    def test_a_subshell_answers_while_a_cell_runs(self) -> None:
        if "kernel subshells" not in self._features():
            pytest.skip("this ipykernel has no subshells (it is older than 7)")
        control, session = self.kc.control_channel, self.kc.session
        control.send(session.msg("create_subshell_request", {}))
        subshell = self.kc.get_control_msg(timeout=60)["content"]["subshell_id"]
        busy = self.kc.execute("import time; time.sleep(600)")
        request = session.msg("execute_request", {"code": "z = 1", "silent": False})
        request["header"]["subshell_id"] = subshell
        self.kc.shell_channel.send(request)
        reply = self.kc.get_shell_msg(timeout=60)
        while reply["msg_type"] != "execute_reply":
            reply = self.kc.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] != busy
        self.km.interrupt_kernel()
        assert self.kc.get_shell_msg(timeout=60)["parent_header"]["msg_id"] == busy
        control.send(session.msg("delete_subshell_request", {"subshell_id": subshell}))
        while self.kc.get_control_msg(timeout=60)["msg_type"] != "delete_subshell_reply":
            pass

    def _features(self) -> list[str]:
        msg_id = self.kc.kernel_info()
        reply = self.kc.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != msg_id:
            reply = self.kc.get_shell_msg(timeout=60)
        features: list[str] = reply["content"].get("supported_features", [])
        return features


class TestBubblewrap(Protocol, jkt.KernelTests):  # type: ignore[misc]  # it ships no types
    kernel_name, tier = "sandboxed-bubblewrap", "bubblewrap"


class TestLandlock(Protocol, jkt.KernelTests):  # type: ignore[misc]  # it ships no types
    kernel_name, tier = "sandboxed-landlock", "landlock"


class TestWelcomeInBubblewrap(jkt.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name, support_iopub_welcome = "sandboxed-bubblewrap", True


class TestWelcomeInLandlock(jkt.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name, support_iopub_welcome = "sandboxed-landlock", True


# -- life


@pytest.mark.parametrize("tier", TIERS)
def test_an_interrupt_goes_by_message_and_variables_live_on(tier: str) -> None:
    with kernel(tier) as (manager, client):
        assert manager.kernel_spec
        assert manager.kernel_spec.interrupt_mode == "message"
        execute(client, "kept = 7")
        client.execute(SPIN, stop_on_error=False)  # else the next request is dropped for a while
        wait_for(client, "text", "going")
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
        wait_for(client, "execution_state", "idle")  # until then ipykernel drops what is sent
        assert execute(client, "print(kept)") == "7"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("now", [True, False])
def test_a_restart_keeps_the_client_and_the_tier(tier: str, now: bool) -> None:
    with kernel(tier) as (manager, client):
        execute(client, "x = 1")
        before = provisioner(manager).pid
        for _ in range(2):
            manager.restart_kernel(now=now)
            client.wait_for_ready(timeout=30)
            assert execute(client, "print('x' in globals())") == "False"
        assert provisioner(manager).tier == tier
        assert provisioner(manager).pid != before


FILL = """
import os, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
while True:
    try:
        for n in range(50):
            os.makedirs(f"filled/{n}", exist_ok=True)
    except OSError:
        pass
    time.sleep(.001)
"""


@pytest.mark.root
@pytest.mark.parametrize("user", ["root", "user"])
def test_what_a_kernel_leaves_behind_keeps_none_from_starting(tmp_path: Path, user: str) -> None:
    place = Path(tempfile.mkdtemp(prefix="jupyter-agent-test-"))
    place.chmod(0o777)
    host = [sys.executable, "-c", RESTARTING, "sandboxed-landlock", FILL]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(place), "JUPYTER_RUNTIME_DIR": str(place)}
    environment |= {
        "HOME": str(place),
        "JUPYTER_PATH": str(place),
        "JUPYTER_CONFIG_DIR": str(place),
    }
    shutil.copytree(Path(os.environ["JUPYTER_PATH"]) / "kernels", place / "kernels")
    try:
        done = subprocess.run(
            as_user(host) if user == "user" else host,
            capture_output=True, text=True, env=environment, cwd="/tmp", check=False,
        )  # fmt: skip
        assert done.stdout == "3\n3\n3\n", done.stderr
        assert not list(place.glob("jupyter-agent-*"))
    finally:
        shutil.rmtree(place)


RESTARTING = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name=sys.argv[1])
for _ in range(3):
    shown = []
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sys.argv[2]!r}]).wait(); print(1 + 2)"
    client.execute_interactive(code, timeout=30, output_hook=lambda m: shown.append(m["content"].get("text", "")))
    print("".join(shown), end="", flush=True)
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=30)
client.stop_channels()
manager.shutdown_kernel()
"""


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("now", [True, False])
def test_a_shutdown_leaves_no_process_folder_or_descriptor(tier: str, now: bool) -> None:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    with kernel(tier):
        pass  # what the first start opens for good: threads, contexts
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    before = descendants(os.getpid())  # the process that cleans HTML, if another test needed it
    manager, client = start_new_kernel(kernel_name=f"sandboxed-{tier}")
    execute(client, "import subprocess; subprocess.Popen(['sleep', '600'])")
    started = [pid for pid in descendants(os.getpid()) if pid not in before]
    assert len(started) > 1
    assert list(runtime.glob("jupyter-agent-*"))
    connection = Path(manager.connection_file)
    client.stop_channels()
    manager.shutdown_kernel(now=now)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert not list(runtime.glob("jupyter-agent-*"))
    assert not connection.exists()
    del manager, client
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2


NOISY = """
import os, subprocess, sys
print('shown')
for write in (
    lambda: os.write(1, b'LEAK\\n'), lambda: os.write(2, b'LEAK\\n'),
    lambda: print('LEAK', file=sys.__stdout__, flush=True),
    lambda: print('LEAK', file=sys.__stderr__, flush=True),
    lambda: subprocess.run('echo LEAK; echo LEAK >&2; echo LEAK >/dev/tty', shell=True),
    lambda: open('/dev/tty', 'w').write('LEAK'),
    lambda: open('/proc/self/fd/2', 'w').write('LEAK'),
    lambda: [os.write(fd, b'LEAK') for fd in range(3, 64) if os.isatty(fd)],
):
    try:
        write()
    except OSError:
        pass
"""
QUIET_HOST = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name=sys.argv[1])
client.execute_interactive(sys.argv[2], timeout=30, output_hook=lambda message: None)
client.stop_channels()
manager.shutdown_kernel()
print('done')
"""


def test_a_kernelspec_with_a_setting_that_is_none_does_not_start(tmp_path: Path) -> None:
    spec = json.loads((ROOT / "kernelspec" / "python3-sandboxed" / "kernel.json").read_text())
    spec["metadata"]["kernel_provisioner"]["config"] = {"memory": 500}
    folder = tmp_path / "kernels" / "limited"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path))
        with pytest.raises(UsageError, match=r"no setting .*memory; is it .*memory_mib\?$"):
            start_new_kernel(kernel_name="limited")


@pytest.mark.parametrize("tier", TIERS)
def test_what_the_kernel_writes_reaches_nobodys_terminal(tier: str) -> None:
    in_terminal = "import pty, sys; pty.spawn(sys.argv[1:])"
    host = [sys.executable, "-c", QUIET_HOST, f"sandboxed-{tier}", NOISY]
    shown = subprocess.run(
        [sys.executable, "-c", in_terminal, *host],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == ["done"]
    assert shown.stderr == ""


def wait_for(client: BlockingKernelClient, key: str, text: str) -> None:
    while text not in client.get_iopub_msg(timeout=60)["content"].get(key, ""):
        pass


def wait_until(true: Callable[[], bool], say: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 40
    while not true():
        assert time.monotonic() < deadline, say()
        time.sleep(0.02)


# -- clients


def test_nbclient_runs_a_notebook(folder: Path) -> None:
    (folder / "written.txt").unlink(missing_ok=True)
    cells = ["len(open('penguins.csv').readlines())", "open('written.txt', 'w').write('x')"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3-sandboxed", resources=resources).execute()
    assert notebook.cells[0].outputs[0].data["text/plain"] == "345"
    assert not (folder / "written.txt").exists()


def test_nbconvert_runs_a_notebook_beside_a_module_named_secrets(folder: Path) -> None:
    (folder / "secrets.py").write_text("TOKEN = 'hf_' + 'x' * 34\n")
    nbformat.write(new_notebook(cells=[new_code_cell("40 + 4")]), folder / "nb.ipynb")
    command = [str(BIN / "jupyter"), "nbconvert", "--to", "notebook", "--execute", "--stdout"]
    command += ["--ExecutePreprocessor.kernel_name=sandboxed-bubblewrap", "nb.ipynb"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert nbformat.reads(done.stdout, as_version=4).cells[0].outputs[0].data["text/plain"] == "44"


def test_papermill_runs_a_notebook_with_parameters(folder: Path) -> None:
    parameters = new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    source = new_notebook(
        cells=[parameters, new_code_cell("print(n, len(open('penguins.csv').read()))")]
    )
    source.metadata.kernelspec = {"name": "python3", "display_name": "x", "language": "python"}
    nbformat.write(source, folder / "in.ipynb")
    subprocess.run(
        [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "-p", "n", "5", "-k", "python3-sandboxed"],
        cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    done = nbformat.read(folder / "out.ipynb", as_version=4)
    size = (folder / "penguins.csv").stat().st_size
    assert done.cells[-1].outputs[0].text == f"5 {size}\n"


@pytest.mark.parametrize("source", ["%%agent\nCount them", "%agent status", "x = 1\n%agent reset"])
def test_the_hosts_magics_are_an_error_that_says_where_they_work(folder: Path, source: str) -> None:
    notebook = new_notebook(cells=[new_code_cell(source)])
    resources = {"metadata": {"path": str(folder)}}
    with pytest.raises(CellExecutionError, match="%load_ext jupyter_agent"):
        NotebookClient(notebook, kernel_name="python3-sandboxed", resources=resources).execute()
    assert [output.output_type for output in notebook.cells[0].outputs] == ["error"]


@dataclass
class Console:
    """A jupyter console in a terminal."""

    tmux: list[str]

    def screen(self) -> str:
        command = [*self.tmux, "capture-pane", "-p"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def press(self, *keys: str) -> None:
        subprocess.run([*self.tmux, "send-keys", *keys], check=True)

    def shows(self, *texts: str) -> None:
        """Wait until all of this is on the screen."""
        wait_until(lambda: all(text in self.screen() for text in texts), self.screen)

    def type_in(self, keys: str, *, then: str) -> None:
        self.press(keys, "Enter")
        self.shows(then)


@contextmanager
def console(kernel: str, folder: Path) -> Iterator[Console]:
    """Start a console of one's own."""
    if not shutil.which("tmux"):
        pytest.fail("tmux is missing; .ci/run installs it")
    tmux = ["tmux", "-L", f"ja-{kernel}-{os.getpid()}"]
    command = f"{sys.executable} -m jupyter_console --kernel {kernel}; echo left $?; cat"
    command = shlex.join(["exec", "bash", "-c", command])  # dash would end with the first Ctrl-C
    start = ["new-session", "-d", "-x", "100", "-y", "50", "-c", str(folder), command]
    subprocess.run([*tmux, *start], check=True)
    try:
        shown = Console(tmux)
        shown.shows("In [1]:")
        yield shown
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def test_a_console_works_and_leaves_nothing(folder: Path) -> None:
    with console("python3-sandboxed", folder) as shown:
        shown.type_in("open('penguins.csv').readline()[:7]", then="Out[1]: 'species'")
        shown.type_in("import os; os.getenv('USER')", then="Out[2]: 'agent'")
        shown.type_in("name = input('wh' + 'o? ')", then="who?")
        shown.type_in("Ada", then="In [4]:")
        shown.type_in(
            "print('go' + 'ing', flush=True); __import__('time').sleep(600)", then="going"
        )
        shown.press("C-c")
        shown.shows("KeyboardInterrupt", "In [5]:")
        shown.type_in("'hello ' + name", then="'hello Ada'")
        # it says so to the kernel, and nothing to its provisioner
        shown.type_in("exit", then="left 0")
        assert not list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("jupyter-agent-*"))
