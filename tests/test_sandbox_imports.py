"""What can be imported from elsewhere, and nothing beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import folder_search, interpreter, sharing

from .conftest import TIERS

SECRET = "decoy-of-the-path"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of projects on the path, as many have one."""
    root = tmp_path / "code"
    for name, text in {
        "helper_of_mine.py": "X = 1",
        "token_of_mine.py": f"KEY = 'ghp_{'aB3dE6gH9' * 4}'",
        "customers.csv": SECRET,
        ".env": SECRET,
        "package_of_mine/__init__.py": "",
        "package_of_mine/inner/deep.py": "Y = 2",
        "package_of_mine/customers.csv": SECRET,
        "package_of_mine/secrets.json": SECRET,
        "package_of_mine/.git/config": SECRET,
        "space_of_mine/part.py": "Z = 3",
        "space_of_mine/data/customers.parquet": SECRET,
        "no_code/report.txt": SECRET,
        "my-project/run.py": SECRET,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "package_of_mine" / "link.py").symlink_to(root / "customers.csv")
    os.mkfifo(root / "package_of_mine" / "pipe.py")
    monkeypatch.syspath_prepend(root)
    return root


def shown(root: Path) -> set[str]:
    """Name the files below a folder that are shared as modules."""
    return {
        str(path.relative_to(root))
        for share in interpreter.imports()
        if share.path.is_relative_to(root)
        for top in share.visible()
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file()
    }


def test_what_can_be_imported_is_shared_and_nothing_beside_it(code: Path) -> None:
    assert shown(code) == {
        "helper_of_mine.py",
        "package_of_mine/__init__.py",
        "package_of_mine/inner/deep.py",
        "space_of_mine/part.py",
    }
    assert code in interpreter.search_path()


@pytest.mark.parametrize(
    "secret",
    (
        "secrets.py credentials.py passwords.py settings_secret.py credentials/prod.py "
        "private_keys/a.py .hidden/a.py secrets.cpython-311-x86_64-linux-gnu.so secrets.pyc"
    ).split(),
)
def test_what_is_secret_by_its_name_is_no_module(code: Path, secret: str) -> None:
    (code / secret).parent.mkdir(exist_ok=True)
    (code / secret).write_text("")
    assert secret not in shown(code)
    assert "helper_of_mine.py" in shown(code)


def test_a_secret_name_that_the_user_has_exposed_is_a_module(code: Path) -> None:
    (code / "secrets.py").write_text("")
    exposed = [str(code / "secrets.py")]
    assert code / "secrets.py" in [share.path for share in interpreter.imports(exposed=exposed)]


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history", ".bashrc .profile"])
def test_an_environment_or_a_home_on_the_path_is_no_package(code: Path, mark: str) -> None:
    for name in (*mark.split(), "tool.py"):
        path = code / "folder_of_mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert not {name for name in shown(code) if name.startswith("folder_of_mine")}
    assert "helper_of_mine.py" in shown(code)


def test_compiled_code_is_hidden_where_its_source_is(code: Path) -> None:
    package = code / "package_of_mine"
    (package / "secrets.py").write_text("KEY = 1")
    (package / "tokens_of_mine.py").write_text((code / "token_of_mine.py").read_text())
    (package / "alias.py").symlink_to("secrets.py")
    (package / "plain.py").write_text("")
    compiled = ["secrets", "tokens_of_mine", "alias", "plain"]
    for name in compiled:
        for kind in ("{}.pyc", "__pycache__/{}.cpython-311.pyc", "__pycache__/{}.pypy39.opt-1.pyc"):
            path = package / kind.format(name)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (code / "token_of_mine.pyc").touch()
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "token_of_mine.cpython-311.pyc").touch()
    assert {name for name in shown(code) if name.endswith("c")} == {
        "package_of_mine/plain.pyc",
        "package_of_mine/__pycache__/plain.cpython-311.pyc",
        "package_of_mine/__pycache__/plain.pypy39.opt-1.pyc",
    }


def test_the_header_names_the_modules(code: Path) -> None:
    modules = [share for share in interpreter.imports() if share.path.parent == code]
    said = sharing.describe([], "", modules)
    assert said == (
        f"no files, and modules of {code} (helper_of_mine.py, package_of_mine/, space_of_mine/; "
        "package_of_mine/ 1 path left out as secret)"
    )


def test_the_header_names_a_few_of_many_modules(folder: Path) -> None:
    shares = [
        folder_search.Share(
            folder / f"many{number}" / "package", note="1 file checked by name alone"
        )
        for number in range(9)
    ]
    said = sharing.describe([], "", shares)
    assert said.count("checked by name alone") == said.count("many") == 3
    assert said.count("and 6 more") == 3


def test_a_socket_beside_modules_is_not_shared(code: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(code / "space_of_mine", os.O_PATH)  # a socket's path must be short
        listener.bind(f"/proc/self/fd/{here}/agent.py")
        os.close(here)
        assert "space_of_mine/agent.py" not in shown(code)
        assert "space_of_mine/part.py" in shown(code)


@pytest.mark.parametrize("wide", ["/", "/tmp", "/etc", "~", "HOME"])
def test_a_wide_folder_on_the_path_shares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: str
) -> None:
    if wide == "HOME":
        (tmp_path / "mine.py").touch()
        monkeypatch.setenv("HOME", str(tmp_path))
    path = Path("~" if wide == "HOME" else wide).expanduser()
    monkeypatch.syspath_prepend(path)
    assert path not in interpreter.search_path()
    assert not [share for share in interpreter.imports() if share.path.parent == path]


def test_an_editable_package_keeps_its_data_but_not_what_stands_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    package = project / "src" / "package_of_mine"
    package.mkdir(parents=True)
    for name in ("__init__.py", "template.json", "secrets.toml", ".env"):
        (package / name).write_text("")
    for name in ("customers.csv", "deploy.py", ".env"):
        (project / name).write_text("")
    info = tmp_path / "site" / "package_of_mine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: package-of-mine\nVersion: 1\n")
    (info / "direct_url.json").write_text(
        f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}'
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    interpreter._editable.cache_clear()
    try:
        found = shown(project)
        assert found == {"src/package_of_mine/__init__.py", "src/package_of_mine/template.json"}
        assert project / "src" in interpreter.search_path()
    finally:
        interpreter._editable.cache_clear()


def test_what_setuptools_finder_maps_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd place").mkdir()
    (tmp_path / "odd place" / "__init__.py").touch()
    finder = type(sys)("__editable___mine_finder")
    finder.MAPPING = {"mine": str(tmp_path / "odd place")}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    assert shown(tmp_path) == {"odd place/__init__.py"}


def test_a_huge_folder_on_the_path_ends_and_says_so(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_search, "MAX_ENTRIES", 1)
    modules = [share for share in interpreter.imports() if share.path.parent == code]
    assert "package_of_mine/inner/deep.py" not in shown(code)
    assert any("left out unchecked" in share.note for share in modules)


LOOK = """\
import helper_of_mine, package_of_mine.inner.deep, space_of_mine.part, beside
print(helper_of_mine.X, package_of_mine.inner.deep.Y, space_of_mine.part.Z, beside.W)
import os, sys
found = [os.path.join(top, name) for root in sys.path if root.startswith({place!r})
         for top, _, names in os.walk(root) for name in names]
for path in {paths!r} + found:
    try:
        print(open(path, opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)).read())
    except (OSError, ValueError):
        pass
"""


@pytest.mark.parametrize("tier", TIERS)
async def test_modules_can_be_imported_in_the_sandbox(code: Path, folder: Path, tier: str) -> None:
    (folder / "beside.py").write_text("W = 4")
    for root in (code, code / "package_of_mine", folder):
        (root / "credentials").mkdir()
        (root / "__pycache__").mkdir()
        (root / "mine.py").write_text((code / "token_of_mine.py").read_text())
        for name in ("secrets.py", "secrets.pyc", "mine.pyc", "credentials/prod.py"):
            (root / name).write_text(SECRET)
        for name in ("secrets", "mine"):
            (root / "__pycache__" / f"{name}.cpython-311.pyc").write_text(SECRET)
    paths = [str(path) for root in (code, folder) for path in root.rglob("*")]
    look = LOOK.format(place=str(code.parent), paths=paths)
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with (
        Sandbox(folder, config=config) as sandbox,
        aclosing(sandbox.execute(look)) as outputs,
    ):
        text = "".join([str(output.get("text") or output) async for output in outputs])
        assert "1 2 3 4" in text
        assert "W = 4" in text
        assert SECRET not in text
        assert "ghp_" not in text
        assert f"modules of {code}" in sandbox.describe()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another environment's packages on PYTHONPATH, and a project before them."""
    library = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (library / "tool_of_mine").mkdir(parents=True)
    (library / "tool_of_mine" / "__init__.py").write_text("")
    (library / "tool_of_mine" / "data.json").write_text("[1]")
    (library / "two.libs").mkdir()
    (library / "two.libs" / "lib.so.1").touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "venv" / "token.txt").write_text(SECRET)
    monkeypatch.syspath_prepend(library)
    monkeypatch.setenv("PYTHONPATH", str(library))
    interpreter.interpreter_paths.cache_clear()
    yield library
    monkeypatch.undo()
    interpreter.interpreter_paths.cache_clear()


BESIDE = """\
import os, tool_of_mine, beside, helper_of_mine, json, code, calendar
data = os.path.join(os.path.dirname(tool_of_mine.__file__), "data.json")
print(json.load(open(data)), beside.W, helper_of_mine.X, code.interact.__name__)
"""


@pytest.mark.parametrize("tier", TIERS)
async def test_what_stands_on_the_path_takes_no_place_of_the_librarys(
    library: Path, code: Path, folder: Path, tier: str
) -> None:
    (folder / "beside.py").write_text("W = 4")
    for name in ("json", "code", "calendar", "zmq", "traitlets", "ipykernel", "tornado"):
        for root in (folder, code):
            (root / f"{name}.py").write_text("raise SystemExit('taken over')")
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        outputs = [output async for output in sandbox.execute(BESIDE)]
        assert [output.get("text") or output for output in outputs] == ["[1] 4 1 interact\n"]
        secret = f"open({str(library.parents[2] / 'token.txt')!r})"
        [error] = [output async for output in sandbox.execute(secret)]
        assert error.ename in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize("tier", TIERS)
async def test_a_module_that_a_cell_writes_can_be_imported(folder: Path, tier: str) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        for code in ("%%writefile own.py\nV = 5", "import own; print(own.V)"):
            outputs = [output async for output in sandbox.execute(code)]
        assert [output.get("text") for output in outputs] == ["5\n"]


def test_python_may_be_called_by_a_path_through_other_folders(tmp_path: Path) -> None:
    called = f"{tmp_path}/{os.path.relpath(sys.executable, tmp_path)}"
    look = "from jupyter_agent.sandbox.isolation import bubblewrap; print(repr(bubblewrap.check()))"
    done = subprocess.run([called, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "''\n"
