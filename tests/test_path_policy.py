"""The policy of paths that both tiers enforce, each hiding place against each wider rule."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import bubblewrap, folder_search, path_policy, sharing
from jupyter_agent.sandbox.isolation.folder_search import Share
from jupyter_agent.sandbox.isolation.path_policy import Policy

from .conftest import ROOT, TIERS
from .run_code import attempt, text

pytestmark = pytest.mark.parametrize("tier", TIERS)
REFUSED = ("FileNotFoundError", "PermissionError", "")


def sandbox_of(tier: str, folder: Path, data: list[str] | None = None) -> Sandbox:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    return Sandbox(folder, data=data, config=config)


async def read(sandbox: Sandbox, path: Path) -> str:
    return await attempt(sandbox, f"open({str(path)!r}).read()")


@pytest.fixture
def system_folder() -> Iterator[Path]:
    """A folder in the middle of what the sandbox reads of the system."""
    folder = Path(f"/usr/local/share/jupyter-agent-test-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def fill(folder: Path) -> tuple[Path, Path]:
    """Put a secret and a file beside it into a folder; return both."""
    (folder / ".env").write_text("secret")
    (folder / "data.txt").write_text("data")
    return folder / ".env", folder / "data.txt"


async def test_a_package_does_not_uncover_what_the_data_hides(
    tier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("x = 'imported'\n")
    (package / "inner.py").write_text("y = 'too'\n")
    secret, beside = fill(package)
    monkeypatch.syspath_prepend(str(folder))
    async with sandbox_of(tier, folder) as sandbox:
        assert await read(sandbox, secret) in REFUSED
        assert await read(sandbox, beside) == "data"
        code = "import package, package.inner; package.x + package.inner.y"
        assert await text(sandbox, code) == "'importedtoo'"


@pytest.mark.root
async def test_the_system_does_not_uncover_what_a_share_inside_it_hides(
    tier: str, system_folder: Path
) -> None:
    secret, beside = fill(system_folder)
    async with sandbox_of(tier, system_folder) as sandbox:
        assert await read(sandbox, secret) in REFUSED
        assert await read(sandbox, beside) == "data"
        assert await text(sandbox, "!ls /usr/bin/env") == "/usr/bin/env"


async def test_a_second_share_does_not_uncover_what_the_first_hides(
    tier: str, folder: Path
) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    for data in ([".", "deep"], ["deep", "."], [str(link), "deep"], [f"{link}/deep", "."]):
        async with sandbox_of(tier, folder, data) as sandbox:
            for place in (folder, link):
                assert await read(sandbox, place / ".env") in REFUSED
                assert await read(sandbox, place / "deep" / "server.key") in REFUSED
            assert await read(sandbox, folder / "deep" / "numbers.txt") == "1 2 3"


async def test_a_folder_with_too_many_files_to_bind_each_hides_no_less(
    tier: str, folder: Path
) -> None:
    for number in range(bubblewrap.MAX_BINDS + 1):
        (folder / f"{number}.txt").write_text(str(number))
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    async with sandbox_of(tier, folder) as sandbox:
        for path in (folder / ".env", folder / ".git" / "config", folder / "deep" / "server.key"):
            assert await read(sandbox, path) in REFUSED
        assert await read(sandbox, folder / "7.txt") == "7"
        assert await attempt(sandbox, "open('deep/numbers.txt').read()") == "1 2 3"


async def test_what_comes_between_the_look_and_the_start_is_judged(
    tier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = [folder / name for name in ("late.key", "deep/late.key", "secrets/x")]
    uncovered, resolve = folder_search.uncovered, sharing.resolve

    def put(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")

    def listed(path: Path, hidden: Set[Path]) -> list[Path]:
        put(come[0])
        return uncovered(path, hidden)

    def resolved(*args: Any, **rest: Any) -> Any:
        found = resolve(*args, **rest)
        for path in come[1:]:
            put(path)
        (folder / "late.txt").write_text("late")
        return found

    monkeypatch.setattr(folder_search, "uncovered", listed)
    monkeypatch.setattr(sharing, "resolve", resolved)
    async with sandbox_of(tier, folder) as sandbox:
        for path in come:
            assert await read(sandbox, path) in REFUSED, path
        assert await attempt(sandbox, "open('late.txt').read()") == "late"


LOOK = """\
import asyncio, sys
from contextlib import aclosing
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

READ = '''
import secrets, sys
for name in ("lib/server.key", "bin/deploy.pem", "share/.env"):
    try:
        print(open(f"{sys.prefix}/{name}").read())
    except OSError:
        print("no")
print(open("deep/numbers.txt").read())
'''

async def look():
    config = Config({"SandboxProvisioner": {"isolation": sys.argv[1]}})
    async with Sandbox(config=config) as sandbox:
        async with aclosing(sandbox.execute(READ)) as outputs:
            print("".join([str(o.get("text") or o) async for o in outputs]).split())

asyncio.run(look())
"""


@pytest.mark.parametrize("through", ["project", "link"])
def test_python_does_not_uncover_what_the_project_around_it_hides(
    folder: Path, tier: str, through: str
) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    place = folder.parent / through
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [library] = (folder / "lib").glob("python*/site-packages")
    library.rmdir()
    library.symlink_to(site.getsitepackages()[0])
    shutil.copytree(ROOT / "kernelspec", folder / "share" / "jupyter" / "kernels")
    for secret in ("lib/server.key", "bin/deploy.pem", "share/.env"):
        (folder / secret).write_text("secret")
    look = [str(place / "bin" / "python"), "-c", LOOK, tier]
    done = subprocess.run(look, capture_output=True, text=True, cwd=folder, check=False)
    assert done.stdout.splitlines() == ["['no', 'no', 'no', '1', '2', '3']"], done.stderr


MOUNT = """\
import asyncio, subprocess, sys
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

WRITE = '''
try:
    open({0!r} + "/later/new.txt", "w").write("x")
    print("written")
except OSError as error:
    print(type(error).__name__)
'''

async def main(tier, folder):
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(Path(folder), config=config) as sandbox:
        async for output in sandbox.execute("print('started')"):
            pass
        command = ["mount", "-t", "tmpfs", "-o", "mode=0777", "tmpfs", folder + "/later"]
        subprocess.run(command, check=True)
        Path(folder, "later", "there.txt").write_text("there")
        async for output in sandbox.execute(WRITE.format(folder)):
            print(output.text, end="")
    print(len(list(Path(folder, "later").iterdir())))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.root
def test_what_is_mounted_later_in_a_shared_folder_cannot_be_written(
    tmp_path: Path, tier: str
) -> None:
    folder = tmp_path / "mounted"
    (folder / "later").mkdir(parents=True)
    shared = ["unshare", "--mount", "--propagation", "shared"]
    command = [*shared, sys.executable, "-c", MOUNT, tier, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout in ("PermissionError\n1\n", "FileNotFoundError\n1\n"), done


def test_the_nearest_path_decides(tier: str, tmp_path: Path) -> None:
    for name in ("a/.hidden/open/x", "a/.hidden/open/.env", "a/b/.env", "a/b/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(tier)
    top = tmp_path / "a"
    outer = Share(top, "a", (top / ".hidden", top / "b" / ".env"))
    inner = Share(top / ".hidden" / "open", "open", (top / ".hidden" / "open" / ".env",))
    policy = Policy([outer, inner])
    assert policy.visible(outer.path) == [top / "b" / "y"]
    assert policy.visible(inner.path) == [inner.path / "x"]
    assert policy.visible(top / "b" / ".env") == []


# -- as root


OPEN = """\
import os, sys
from tests.as_user import needed, open_up
open_up(needed())
os.execvp(sys.argv[1], sys.argv[1:])
"""
POWERLESS = """\
import asyncio, sys
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

async def main():
    config = Config({"SandboxProvisioner": {"isolation": sys.argv[1]}})
    async with Sandbox(data=[], config=config) as sandbox:
        code = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]"
        async for output in sandbox.execute(f"print(*{code}[:3], len(__import__('os').listdir('/proc/self/fd')) > 2)"):
            print(output.text)

asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.parametrize("lacking", ["-sys_boot", "-dac_read_search"])
def test_no_capability_is_left_where_others_may_read_what_is_needed(
    tier: str, lacking: str
) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", OPEN]
    command += ["setpriv", "--bounding-set", lacking if tier == "landlock" else "-sys_boot"]
    command += [sys.executable, "-c", POWERLESS, tier]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XDG_RUNTIME_DIR", None)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    assert done.stdout.split() == ["0000000000000000"] * 3 + ["True"], done


@pytest.mark.root
async def test_a_private_file_that_is_shared_can_be_read_and_none_of_the_systems(
    tier: str, folder: Path, system_folder: Path
) -> None:
    (folder / "private.csv").write_text("mine")
    (folder / "private.csv").chmod(0o600)
    program = f"""
import asyncio
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

async def main():
    config = Config({{"SandboxProvisioner": {{"isolation": {tier!r}}}}})
    async with Sandbox(Path({str(folder)!r}), config=config) as sandbox:
        for path in ("private.csv", {str(system_folder / "private")!r}):
            code = f"try: print(open({{path!r}}).read())\\nexcept OSError as error: print(type(error).__name__)"
            async for output in sandbox.execute(code):
                print(output.text, end="")

asyncio.run(main())
"""
    (system_folder / "private").write_text("secret")
    (system_folder / "private").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() in (["mine", "PermissionError"], ["mine"])


@pytest.mark.root
async def test_what_becomes_private_of_the_systems_is_not_read_by_a_later_sandbox(
    tier: str, folder: Path, system_folder: Path
) -> None:
    (folder / "penguins.csv").chmod(0o600)
    (system_folder / "closed").mkdir()
    inner = [system_folder / "closed" / "inner", system_folder / "open"]
    for path in inner:
        path.write_text("not yet")
    async with sandbox_of(tier, folder) as sandbox:
        assert [await read(sandbox, path) for path in inner] == ["not yet", "not yet"]
    late = [system_folder / "late", system_folder / "late-folder" / "inner", *inner]
    late[1].parent.mkdir()
    for path in late:
        path.write_text("decoy")
    for path in (late[0], late[1].parent, late[2].parent):
        path.chmod(0o600 if path.is_file() else 0o700)
    async with sandbox_of(tier, folder) as sandbox:
        assert (await read(sandbox, folder / "penguins.csv")).startswith("species")
        assert not {await read(sandbox, path) for path in late[:3]} - {*REFUSED}
        assert await read(sandbox, system_folder / "open") == "decoy"


def test_a_folder_that_changes_or_fails_while_it_is_looked_at_uncovers_nothing(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "gone").touch(0o644)
    (tmp_path / "closed").touch(0o600)
    (tmp_path / "below").mkdir(0o755)
    (tmp_path / "below" / "closed").touch(0o600)
    scandir = os.scandir

    @contextlib.contextmanager
    def look(folder: str) -> Iterator[list[os.DirEntry[str]]]:
        if folder.endswith("below"):
            raise OSError(errno.EMFILE, "no descriptor is left")
        with scandir(folder) as entries:
            listed = list(entries)
        (tmp_path / "gone").unlink()
        yield listed

    monkeypatch.setattr(os, "scandir", look)
    found = {*path_policy._private(tmp_path)}
    monkeypatch.undo()
    assert found == {tmp_path / name for name in ("gone", "closed", "below")}


@pytest.mark.root
def test_root_without_the_right_to_read_all_is_told_what_to_open(tmp_path: Path, tier: str) -> None:
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    (closed / "data").chmod(0o700)
    program = f"""
import asyncio
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox
config = Config({{"SandboxProvisioner": {{"isolation": {tier!r}}}}})
try:
    asyncio.run(Sandbox(Path({str(closed / "data")!r}), config=config).start())
except Exception as error:
    print(type(error).__name__, error)
"""
    without = ["setpriv", "--bounding-set", "-dac_read_search", sys.executable, "-c", program]
    done = subprocess.run(without, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SandboxError the sandbox of root runs as another user"), done
    assert "chmod o+" in done.stdout
    assert done.stdout.count("\n") == 1


async def test_what_a_link_of_debians_library_leads_to_can_be_read(
    tier: str, tmp_path: Path
) -> None:
    path = Path("/etc", f"python{sys.version_info[0]}.{sys.version_info[1]}", "sitecustomize.py")
    if not path.exists():
        pytest.skip("this Python is not Debian's")
    async with sandbox_of(tier, tmp_path) as sandbox:  # %autoreload reads the file of each module
        assert (await read(sandbox, path)).strip() == path.read_text().strip()
