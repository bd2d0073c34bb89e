"""What code in a sandbox can reach: environment, network, files, processes, system calls."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import late_files

from .run_code import attempt, text
from .servers import ChatServer


async def test_no_variable_of_the_hosts_environment_is_inside(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-decoy")
    monkeypatch.setenv("SOME_SETTING", "decoy")
    await sandbox.close()
    inside = await text(sandbox, "import os; print(*os.environ)")
    for name in ("OPENAI_API_KEY", "SOME_SETTING", "JPY_PARENT_PID", "XDG_RUNTIME_DIR"):
        assert name not in inside.split()
    environments = await text(
        sandbox,
        "import glob\nfor p in glob.glob('/proc/*/environ'):\n    try: print(open(p).read())\n"
        "    except OSError as e: pass",
    )
    assert "decoy" not in environments


async def test_there_is_no_network(sandbox: Sandbox, server: ChatServer) -> None:
    ask = f"__import__('urllib.request').request.urlopen('{server.url}/models', timeout=5)"
    # where there is a loopback of its own, what listens there may be ipykernel's, on the same port
    assert await attempt(sandbox, ask) in ("URLError", "BadStatusLine", "TimeoutError")
    assert await attempt(sandbox, "__import__('socket').gethostbyname('localhost.example')") in (
        "gaierror",
        "OSError",
    )


async def test_no_socket_of_the_hosts_can_be_reached(sandbox: Sandbox, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()
        abstract.bind("\0jupyter-agent-test")
        abstract.listen()
        for address in (str(tmp_path / "docker.sock"), "\0jupyter-agent-test"):
            code = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({address!r})"
            assert await text(sandbox, code) in (
                "FileNotFoundError",
                "ConnectionRefusedError",
                "OSError",
            )


async def test_no_home_and_no_key_of_the_hosts_can_be_read(sandbox: Sandbox) -> None:
    home = Path.home()
    decoy = home / ".jupyter-agent-test-decoy"
    decoy.write_text("sk-decoy")
    try:
        for path in (decoy, home / ".ssh", "/etc/shadow", "/root/.ssh", "/proc/1/environ"):
            reason = await attempt(sandbox, f"open({str(path)!r}).read()")
            assert reason in ("FileNotFoundError", "PermissionError", "IsADirectoryError"), path
        assert "sk-decoy" not in await text(sandbox, "!cat ~/.*decoy /*/.*decoy 2>&1")
    finally:
        decoy.unlink()


async def test_files_beside_the_notebook_are_read_and_never_written(
    sandbox: Sandbox, folder: Path
) -> None:
    assert "species" in await attempt(sandbox, "open('penguins.csv').readline()")
    assert await attempt(sandbox, "open('deep/numbers.txt').read()") == "1 2 3"
    before = (folder / "penguins.csv").stat()
    for code in (
        f"open({str(folder / 'penguins.csv')!r}, 'w')",
        f"open({str(folder / 'penguins.csv')!r}, 'a')",
        f"open({str(folder / 'new.txt')!r}, 'w')",
        f"__import__('os').remove({str(folder / 'penguins.csv')!r})",
        f"__import__('os').truncate({str(folder / 'penguins.csv')!r}, 0)",
        f"open({str(folder / 'deep' / 'new.txt')!r}, 'w')",
    ):
        assert await attempt(sandbox, code) in ("OSError", "PermissionError"), code
    await text(sandbox, "open('penguins.csv', 'w').write('x')")  # a copy
    await text(sandbox, f"import os\nos.chmod({str(folder / 'penguins.csv')!r}, 0o777)")
    after = (folder / "penguins.csv").stat()
    assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)
    assert sorted(path.name for path in folder.iterdir()) == [".env", "deep", "penguins.csv"]


async def test_new_files_land_in_the_private_folder(sandbox: Sandbox, folder: Path) -> None:
    assert await text(sandbox, "open('mine.txt', 'w').write('x')\nopen('mine.txt').read()") == "'x'"
    assert not (folder / "mine.txt").exists()
    copied = (
        "import shutil\nshutil.copy('penguins.csv', 'copy.csv')\nopen('copy.csv').readline()[:7]"
    )
    assert await text(sandbox, copied) == "'species'"


async def test_a_file_that_appears_in_a_shared_folder_appears_inside_unless_it_holds_secrets(
    sandbox: Sandbox, folder: Path
) -> None:
    (folder / "plain").mkdir()
    await sandbox.close()
    await text(sandbox, "1")
    for name in ("plain/later.txt", "later.txt"):
        (folder / name).write_text("later")
    assert await attempt(sandbox, "open('plain/later.txt').read()") == "later"
    assert await attempt(sandbox, "open('later.txt').read()") == "later"
    for name in ("later.env", "later.pem"):
        (folder / name).write_text("later")
        assert await attempt(sandbox, f"open({name!r}).read()") == "FileNotFoundError"


async def test_a_file_that_another_takes_the_place_of_is_read_as_it_is(
    sandbox: Sandbox, folder: Path
) -> None:
    assert await attempt(sandbox, "len(open('penguins.csv').read()) > 0") == "True"
    for content in ("new", "and newer"):
        (folder / "new").write_text(content)
        (folder / "new").replace(folder / "penguins.csv")
        assert await attempt(sandbox, "open('penguins.csv').read()") == content
    (folder / "new").write_text(f"ghp_{'aB3dE6gH9' * 4}")
    (folder / "new").replace(folder / "penguins.csv")
    found = await attempt(sandbox, "open('penguins.csv').read()")
    assert found == "FileNotFoundError"


async def test_the_names_of_hidden_files_are_not_listed(sandbox: Sandbox, folder: Path) -> None:
    for path in (".", str(folder), "deep", str(folder / "deep"), "/proc/self/mountinfo"):
        read = (
            f"open({path!r}).read()"
            if path.startswith("/proc")
            else f"__import__('os').listdir({path!r})"
        )
        shown = await attempt(sandbox, read)
        assert ".env" not in shown, path
        assert "server.key" not in shown, path
    assert await attempt(sandbox, "sorted(__import__('os').listdir('deep'))") == "['numbers.txt']"


async def test_what_looks_like_a_secret_is_hidden(sandbox: Sandbox, folder: Path) -> None:
    for path in (folder / ".env", folder / "deep" / "server.key", "deep/server.key"):
        secret = await attempt(sandbox, f"open({str(path)!r}).read()")
        assert secret in ("PermissionError", "FileNotFoundError", ""), path


async def test_a_link_out_of_the_folder_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            reason = await attempt(sandbox, "open('link.txt').read()")
            assert reason in ("FileNotFoundError", "PermissionError"), tier


async def test_a_module_beside_the_notebook_never_runs_before_the_lockdown(
    tmp_path: Path, folder: Path
) -> None:
    mark = tmp_path / "escaped"
    for name in ("json.py", "resource.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            await text(sandbox, "import json, resource")
    assert not mark.exists()


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_what_the_host_can_import_the_sandbox_can_but_not_the_data_beside_it(
    folder: Path, tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = tmp_path / "lib"
    (lib / "package").mkdir(parents=True)
    (lib / "package" / "__init__.py").write_text("x = 'imported'\n")
    (lib / "module.py").write_text("x = 'imported'\n")
    (lib / "data").mkdir()
    (lib / "data" / "private.csv").write_text("1\n")
    monkeypatch.syspath_prepend(str(lib))
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, data=[], config=config) as sandbox:
        for name in ("package", "module"):
            assert await text(sandbox, f"import {name}; {name}.x") == "'imported'"
        assert await attempt(sandbox, f"open({str(lib / 'module.py')!r}, 'w')") in (
            "OSError",
            "PermissionError",
        )
        secret = await attempt(sandbox, f"open({str(lib / 'data' / 'private.csv')!r}).read()")
        assert secret in ("FileNotFoundError", "PermissionError")


async def test_named_data_replaces_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    async with Sandbox(folder, data=["deep/numbers.txt", str(tmp_path / "other")]) as sandbox:
        assert await attempt(sandbox, "open('deep/numbers.txt').read()") == "1 2 3"
        assert await attempt(sandbox, "open('other/a.txt').read()") == "a"
        assert await attempt(sandbox, "open('penguins.csv').read()") == "FileNotFoundError"
    async with Sandbox(folder, data=[]) as sandbox:
        assert await attempt(sandbox, "__import__('os').listdir()") == "[]"
        assert sandbox.describe().endswith("reads no files")


@pytest.mark.parametrize("wide", ["~", "/", "/tmp"])
async def test_a_home_folder_is_never_shared_as_a_whole(
    wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="name the files or folders in it"):
        await Sandbox(data=[wide]).start()
    async with Sandbox(Path(wide).expanduser()) as sandbox:
        assert "reads no files (" in sandbox.describe()
        assert await attempt(sandbox, "__import__('os').listdir()") == "[]"


async def test_a_missing_path_is_refused_before_anything_starts(folder: Path) -> None:
    sandbox = Sandbox(folder, data=["nothing.csv"])
    with pytest.raises(UsageError, match=r"--data 'nothing.csv': there is no .*nothing.csv"):
        await sandbox.start()
    assert not sandbox.alive


@pytest.mark.parametrize(
    "call",
    [
        "libc.ptrace(16, 1, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.syscall(425, 8, None)",  # io_uring_setup
        "libc.syscall(250, 0, 0)",  # keyctl
        "libc.personality(0x0040000)",
        "libc.socket(40, 1, 0)",  # vsock
        "libc.socket(17, 3, 0)",  # packet
    ],
)
async def test_dangerous_system_calls_are_refused(sandbox: Sandbox, call: str) -> None:
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({call})"
    assert await text(sandbox, code) == "-1"


async def test_no_process_of_the_hosts_can_be_signalled(sandbox: Sandbox) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        reason = await attempt(sandbox, f"__import__('os').kill({sleeper.pid}, 9)")
        assert reason in ("ProcessLookupError", "PermissionError")
        await attempt(sandbox, "__import__('os').kill(-1, 15)")
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


async def test_memory_is_limited(folder: Path) -> None:
    for tier in ("bubblewrap", "landlock"):
        limits = {"isolation": tier, "memory_mib": 1500}
        async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
            assert "1.5 GiB" in sandbox.describe_limits()
            found = await text(sandbox, "x = bytearray(2_000_000_000)")
            assert found in ("MemoryError", "SandboxDied")
            assert await text(sandbox, "1 + 1") == "2"


async def test_processes_are_limited(folder: Path, new_processes: Callable[[], list[int]]) -> None:
    bomb = "import os\nfor _ in range(300):\n    if os.fork() == 0:\n        os.pause() if hasattr(os, 'pause') else __import__('signal').pause()"
    for tier in ("bubblewrap", "landlock"):
        limits = {"isolation": tier, "processes": 100}
        async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
            assert await text(sandbox, bomb) == "BlockingIOError", tier
            guests = new_processes()
        deadline = time.monotonic() + 20
        while alive := [pid for pid in guests if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, alive


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_file_that_is_too_large_to_come_late_is_named_and_seen_by_the_next_kernel(
    tier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_files, "MAX_BYTES", 3)
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        (folder / "late.csv").write_text("a\n1\n")
        (folder / "late.env").write_text("KEY=1\n")
        outputs = [one async for one in sandbox.execute("open('late.csv')")]
        assert [one.output_type for one in outputs] == ["stream", "error"]
        assert outputs[0].text.startswith("[late.csv is newer than this sandbox: %agent reset")
        outputs = [one async for one in sandbox.execute("open('late.env')")]
        assert [one.output_type for one in outputs] == ["error"]
        await sandbox.restart()
        outputs = [one async for one in sandbox.execute("print(open('late.csv').read())")]
        assert outputs[0].text == "a\n1\n\n"
