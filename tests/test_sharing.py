"""Which of the user's files the sandbox may read."""

from __future__ import annotations

import os
import re
import shutil
import site
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traitlets.config import Config

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import folder_search, sharing
from jupyter_agent.sandbox.isolation.folder_search import Share
from jupyter_agent.sandbox.isolation.interpreter import PARTS
from jupyter_agent.sandbox.isolation.private_folders import remove

from .as_user import as_user, let_in
from .conftest import ROOT, TIERS

LOOK = """\
import asyncio, sys
from contextlib import aclosing
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

READ = '''
for name in (".env", ".git/config", "ssl/server.key", "deep/server.key", "deep/numbers.txt"):
    try:
        print(open(f"{sys.prefix}/{name}").read())
    except OSError:
        print("no")
'''

async def look(tier, data):
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(config=config, data=data) as sandbox:
        async with aclosing(sandbox.execute("import sys\\n" + READ)) as outputs:
            print("".join([str(o.get("text") or o) async for o in outputs]).split())

for data in ([], ["."]):
    asyncio.run(look(sys.argv[1], data))
"""


@pytest.mark.parametrize("typed", ["~no-such-user/x", "loop", "a\0b", ""])
def test_what_is_no_path_is_refused_in_one_line(folder: Path, typed: str) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UsageError) as refused:
        sharing.check([typed], folder)
    assert repr(typed) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_is_shared_by_its_contents_less_its_secrets(folder: Path) -> None:
    [share], reason = sharing.resolve(["."], folder)
    assert (share.path, share.name, reason) == (folder, "", "")
    assert set(share.hidden) == {folder / ".env", folder / "deep" / "server.key"}
    assert share.visible() == [folder / "deep" / "numbers.txt", folder / "penguins.csv"]
    assert sharing.listing([share]) == "deep/, penguins.csv"
    assert sharing.describe([share], reason) == (
        "project/ (1 path left out as secret; c.SandboxProvisioner.exposed shows them)"
    )


def test_a_folder_without_secrets_is_shared_whole(folder: Path) -> None:
    [share], _ = sharing.resolve(["deep"], folder)
    assert share.name == "deep"
    (folder / "deep" / "server.key").unlink()
    [share], _ = sharing.resolve(["deep"], folder)
    assert share.visible() == [folder / "deep"]


@pytest.mark.parametrize(
    "secret",
    [".env", ".git", ".netrc", "id_rsa", "id_ed25519.pub", "a.pem", "A.KEY", "credentials.json", "my-secrets.json", "service-account-x.json"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(tmp_path: Path, secret: str) -> None:
    (tmp_path / secret).write_text("x")
    (tmp_path / "data.csv").write_text("x")
    [share], _ = sharing.resolve(["."], tmp_path)
    assert share.visible() == [tmp_path / "data.csv"]


def test_sockets_and_pipes_are_hidden(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "service.sock"))
        os.mkfifo(tmp_path / "pipe")
        [share], _ = sharing.resolve(["."], tmp_path)
        assert share.visible() == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_project_that_is_a_virtual_environment_too_keeps_its_secrets(
    folder: Path, tier: str
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [library] = (folder / "lib").glob("python*/site-packages")
    library.rmdir()
    library.symlink_to(site.getsitepackages()[0])
    shutil.copytree(ROOT / "kernelspec", folder / "share" / "jupyter" / "kernels")
    for secret in (".git/config", "ssl/server.key"):
        (folder / secret).parent.mkdir()
        (folder / secret).write_text("token")
    look = [str(folder / "bin" / "python"), "-c", LOOK, tier]
    done = subprocess.run(look, capture_output=True, text=True, cwd=folder, check=False)
    assert done.stdout.splitlines() == [
        "['no', 'no', 'no', 'no', 'no']",
        "['no', 'no', 'no', 'no', '1', '2', '3']",
    ], done.stderr


def test_names_are_as_typed_below_the_folder_and_bare_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "else.csv").write_text("x")
    shares, _ = sharing.resolve(["./deep/numbers.txt", "../else.csv"], folder)
    assert [share.name for share in shares] == ["deep/numbers.txt", "else.csv"]


def test_a_link_is_shared_under_its_own_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data-of-2024.csv").write_text("x")
    (folder / "sales.csv").symlink_to(tmp_path / "data-of-2024.csv")
    (folder / "deep" / "sub").symlink_to(tmp_path)
    (tmp_path / "to-project").symlink_to(folder)
    for typed, name in {
        "sales.csv": "sales.csv",
        "./deep/../sales.csv": "sales.csv",
        str(folder / "sales.csv"): "sales.csv",
        "deep/sub/data-of-2024.csv": "deep/sub/data-of-2024.csv",
        str(tmp_path / "to-project" / "sales.csv"): "sales.csv",
        str(tmp_path / "to-project" / "deep"): "deep",
    }.items():
        [share], _ = sharing.resolve([typed], folder, exposed=[])
        assert share.name == name, typed
    [share], _ = sharing.resolve(["sales.csv"], tmp_path / "to-project")
    assert (share.name, share.path) == ("sales.csv", tmp_path / "data-of-2024.csv")


@pytest.mark.parametrize("tier", TIERS)
async def test_what_is_listed_can_be_read(folder: Path, tmp_path: Path, tier: str) -> None:
    (tmp_path / "elsewhere.csv").write_text("elsewhere")
    (folder / "sales.csv").symlink_to(tmp_path / "elsewhere.csv")
    (folder / "inside.csv").symlink_to("deep/numbers.txt")
    (folder / "to-a-secret.csv").symlink_to("deep/server.key")
    (folder / os.fsdecode(b"not-utf-8-\xff.csv")).write_text("odd")
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    for data, names in (
        (["."], ["deep/", "inside.csv", "not-utf-8-\\udcff.csv", "penguins.csv"]),
        (["sales.csv", "deep"], ["sales.csv", "deep/"]),
    ):
        async with Sandbox(folder, config=config, data=data) as sandbox:
            assert sharing.listing(sandbox.shares).split(", ") == names
            code = "import os; print([[n, os.path.isdir(n) or len(open(n).read())] for n in sorted(os.listdir())])"
            [output] = [one async for one in sandbox.execute(code)]
            for name in names:
                assert f"['{name.rstrip('/')}', " in output.text
            assert "to-a-secret" not in output.text


@pytest.mark.parametrize("tier", TIERS)
async def test_a_file_above_is_found_by_the_path_that_was_typed(folder: Path, tier: str) -> None:
    (folder.parent / "data").mkdir()
    (folder.parent / "data" / "x.csv").write_text("above")
    (folder / "deep" / "notebooks").mkdir()
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    for where, data in (
        (folder, ["../data/x.csv"]),
        (folder / "deep" / "notebooks", [".", "../../../data", "../numbers.txt"]),
    ):
        async with Sandbox(where, config=config, data=data) as sandbox:
            up = os.path.relpath(folder.parent, where)
            code = f"print(open('{up}/data/x.csv').read(), sorted(__import__('os').listdir()))"
            [output] = [one async for one in sandbox.execute(code)]
            names = "['x.csv']" if where == folder else "['data', 'numbers.txt']"
            assert output.get("text", output) == f"above {names}\n"


def test_links_are_not_followed_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (folder / "deep" / "out").symlink_to(tmp_path / "out")
    [share], _ = sharing.resolve(["."], folder)
    assert not any("out" in path.name for path in share.visible())


def test_a_huge_folder_hides_what_was_not_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_search, "MAX_ENTRIES", 1)
    [share], _ = sharing.resolve(["."], folder)
    assert folder / "deep" in share.hidden


@pytest.mark.parametrize("wide", ["~", "/", "/tmp", "/dev/shm", ".."])
def test_wide_folders_are_refused_by_name(wide: str) -> None:
    with pytest.raises(UsageError, match="name the files or folders in it"):
        sharing.resolve([wide], Path.home() / "project")


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a notebook's data in it."""
    (folder / "server.pem").write_text("x")
    (folder / "notes.txt").write_text("machine a.org login b password h7Kq2wPP")
    (folder / "link.csv").symlink_to("deep/numbers.txt")
    os.mkfifo(folder / "pipe.csv")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_of_a_home_folder_its_plain_files_are_shared(home: Path) -> None:
    shares, reason = sharing.resolve(["."], home)
    assert [(share.name, share.visible()) for share in shares] == [
        ("penguins.csv", [home / "penguins.csv"])
    ]
    assert sharing.listing(shares) == "penguins.csv"
    why = (
        f"{home} is your home folder: of its files, those that stand in it alone, 2 paths left "
        "out as secret; name files or folders in it: --data PATH"
    )
    assert sharing.describe(shares, reason) == f"penguins.csv ({why})"
    assert sharing.left_out(shares, reason) == why


def test_of_a_large_home_folder_some_files_are_shared_and_it_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MAX_PLAIN_FILES", 3)
    for number in range(10):
        (home / f"a{number}.csv").touch()
    shares, reason = sharing.resolve(["."], home)
    assert sharing.describe(shares, reason).startswith("a0.csv, a1.csv, a2.csv (")
    assert "10 files left out unchecked" in reason


@pytest.mark.parametrize("tier", TIERS)
async def test_a_notebook_in_a_home_folder_reads_the_files_beside_it(home: Path, tier: str) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(home, config=config) as sandbox:
        code = f"import os; print(os.listdir(), len(open('penguins.csv').read()))\nopen({str(home / 'deep/numbers.txt')!r})"
        outputs = [one async for one in sandbox.execute(code)]
        assert outputs[0].text == f"['penguins.csv'] {len((home / 'penguins.csv').read_text())}\n"
        assert outputs[1].ename in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_folder_that_there_was_no_time_to_look_through_is_not_seen(
    folder: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_search, "MAX_SECONDS", -1.0)
    (folder / "to_a_key").symlink_to("server.key")
    (folder / "server.key").write_text("x")
    code = f"import os\nprint(os.listdir('.'))\nopen({str(folder / 'server.key')!r})"
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        assert sandbox.shares[0].note == "1 folder left out unchecked"
        outputs = [one async for one in sandbox.execute(code)]
        assert outputs[0].text == "[]\n"
        assert outputs[1].ename in ("FileNotFoundError", "PermissionError")


def test_other_wide_folders_share_nothing_and_say_why() -> None:
    shares, reason = sharing.resolve(["."], Path("/srv"))
    assert shares == []
    why = "/srv is the system's own; name files or folders in it: --data PATH"
    assert sharing.describe(shares, reason) == f"no files ({why})"
    assert sharing.left_out(shares, reason) == why


@pytest.mark.parametrize("named", [".ssh", ".config/x.json", ".cache/huggingface", "id_rsa"])
def test_a_path_where_secrets_are_kept_is_refused(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="is where secrets are kept"):
        sharing.resolve([str(tmp_path / named)], tmp_path)


def test_a_path_that_the_user_has_named_as_no_secret_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    table = tmp_path / ".config" / "tables" / "credentials.csv"
    table.parent.mkdir(parents=True)
    table.write_text("x")
    (tmp_path / ".config" / "token.key").write_text("x")
    for exposed in ("~/.config/tables", str(table)):
        [share], _ = sharing.resolve([str(table)], tmp_path, exposed=[exposed])
        assert share.visible() == [table]
    with pytest.raises(UsageError, match="c.SandboxProvisioner.exposed"):
        sharing.resolve(["~/.config"], tmp_path, exposed=[str(table)])


def test_a_secret_beside_the_data_stays_hidden_when_another_is_named(folder: Path) -> None:
    [share], _ = sharing.resolve(["."], folder, exposed=["deep/server.key"])
    assert set(share.hidden) == {folder / ".env"}


@pytest.mark.parametrize("name", ["HF_HOME", "JUPYTER_RUNTIME_DIR"])
def test_where_tools_keep_secrets_is_hidden_wherever_it_was_moved(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(folder / "deep"))
    [share], _ = sharing.resolve(["."], folder)
    assert folder / "deep" in share.hidden
    with pytest.raises(UsageError, match="is where secrets are kept"):
        sharing.resolve(["deep"], folder)


def test_a_missing_path_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'gone.csv': there is no .*/gone.csv"):
        sharing.resolve(["gone.csv"], folder)


def test_what_is_read_of_a_pythons_folder_is_what_is_promised() -> None:
    promise = (ROOT / "SECURITY.md").read_text().partition("of its folder")[2].partition(";")[0]
    assert sorted(re.findall("`(.+?)`", promise)) == sorted(PARTS)


# -- what looking through a folder finds, costs and says


def test_a_file_that_holds_a_key_is_hidden_whatever_its_name(folder: Path) -> None:
    (folder / "deep" / "notes.txt").write_text("machine a.org login b password h7Kq2wPP")
    [share], _ = sharing.resolve(["."], folder)
    assert folder / "deep" / "notes.txt" in share.hidden
    assert share.note == "2 paths left out as secret"
    with pytest.raises(UsageError, match=r"holds what looks like .*exposed"):
        sharing.resolve(["deep/notes.txt"], folder)
    [share], _ = sharing.resolve(["deep/notes.txt"], folder, exposed=["deep/notes.txt"])
    assert share.visible() == [folder / "deep" / "notes.txt"]


def test_nothing_hidden_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "server.key").write_text("x")
    (folder / "keys").mkdir()
    (folder / "keys" / "a.pem").write_text("x")
    (folder / "inside").symlink_to("penguins.csv")
    (folder / "to-a-secret").symlink_to("server.key")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "two\nlines\u202e.csv").write_text("x")
    shares, reason = sharing.resolve([".", "keys"], folder)
    names = sharing.listing(shares)
    assert names == r"deep/, inside, penguins.csv, two\nlines\u202e.csv"
    said = sharing.describe(shares, reason)
    assert not any(word in said for word in ("server.key", "a.pem", "outside", "to-a-secret"))


def test_a_folder_that_cannot_be_read_is_hidden(folder: Path) -> None:
    """As an ordinary user, for whom such a folder is there: lost+found."""
    (folder / "lost+found").mkdir(mode=0o700)
    (folder / "lost+found" / "a.txt").touch()
    (folder / "closed").mkdir(mode=0o744)  # its names can be read, but it cannot be entered
    (folder / "closed" / "b.txt").touch()
    (folder / "closed" / "sub").mkdir()
    (folder / "of-another.csv").touch(mode=0o600)
    look = (
        "import sys; from pathlib import Path; from jupyter_agent.sandbox.isolation import sharing;"
        "[s], _ = sharing.resolve(['.'], Path(sys.argv[1])); print(*sorted(p.name for p in s.hidden));"
        "print(*[p.name for p in s.visible()]); print(sharing.listing([s]));"
        "print(s.note)"
    )
    let_in(folder)
    command = [sys.executable, "-c", look, str(folder)]
    if os.geteuid() == 0:
        command = as_user(command)
    else:
        for name, mode in (("lost+found", 0), ("closed", 0o444), ("of-another.csv", 0)):
            (folder / name).chmod(mode)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"HOME": "/x"}, check=False
    )
    for name in ("lost+found", "closed"):
        (folder / name).chmod(0o700)
    hidden, visible, named, note = done.stdout.splitlines() or [done.stderr] * 4
    assert note == "1 path left out as secret, 3 paths left out as unreadable"
    assert hidden == ".env closed lost+found of-another.csv server.key"
    assert visible == "numbers.txt penguins.csv"
    assert named == "deep/, penguins.csv"


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_odd_names_and_links_in_a_circle_stop_no_start(folder: Path, tier: str) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing")
    for name in (b"not-utf-8-\xff.csv", b"line\nend.csv", b"x" * 255):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("1")
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        assert "not-utf-8" in sharing.listing(sandbox.shares)
        code = "import os; print(sum('utf-8' in name for name in os.listdir('.')))"
        outputs = [one async for one in sandbox.execute(code)]
        assert [one.get("text") for one in outputs] == ["1\n"]


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_folder_that_hides_thousands_of_paths_is_shared(
    folder: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_search, "MAX_SECONDS", 60.0)  # however busy the machine is
    for number in range(3000):
        (folder / f"{number}.key").touch()
        (folder / f"{number}.csv").touch()
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        code = "print(open('7.csv').read())\nopen('7.key')"
        outputs = [one async for one in sandbox.execute(code)]
        assert outputs[0].text == "\n"
        assert outputs[1].ename in ("FileNotFoundError", "PermissionError")


def test_a_folder_deeper_than_a_path_may_be_ends(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    [share], _ = sharing.resolve(["."], tmp_path)
    assert len(share.hidden) == 1
    shutil.rmtree(tmp_path / ("d" * 200))


def test_a_python_environment_beside_the_data_is_no_data(folder: Path) -> None:
    (folder / "venv" / "lib").mkdir(parents=True)
    (folder / "venv" / "pyvenv.cfg").touch()
    [share], _ = sharing.resolve(["."], folder)
    assert folder / "venv" in share.hidden
    assert sharing.listing([share]) == "deep/, penguins.csv"


def test_what_there_was_no_time_for_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_search, "MAX_SECONDS_OF_READING", -1.0)
    [share], _ = sharing.resolve(["."], folder)
    assert share.note == "1 path left out as secret, 2 files checked by name alone"
    monkeypatch.setattr(folder_search, "MAX_SECONDS", -1.0)
    [share], _ = sharing.resolve(["."], folder)
    assert (share.hidden, share.note) == ((folder,), "1 folder left out unchecked")
    assert share.visible() == []


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(st.booleans(), lambda kinds: st.lists(kinds, max_size=4), max_leaves=12))
def test_what_is_visible_and_what_is_hidden_make_up_the_folder(kinds: object) -> None:
    """A tree of folders and of files, each a secret or none."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve() / "root"
        secrets: set[Path] = set()
        others: set[Path] = set()

        def make(path: Path, kind: object) -> None:
            if isinstance(kind, list):
                path.mkdir()
                for number, each in enumerate(kind):
                    make(path / (f"f{number}" + ".key" * (each is True)), each)
            else:
                path.touch()
                (secrets if kind else others).add(path)

        make(root, kinds if isinstance(kinds, list) else [kinds])
        [share], _ = sharing.resolve(["."], root)
        covered = {
            path
            for top in share.visible()
            for path in ([top] if top.is_file() else top.rglob("*"))
            if path.is_file()
        }
        assert covered == others
        assert set(share.hidden) == secrets


def test_shares_are_equal_only_if_the_same_files_can_be_read(folder: Path) -> None:
    def replaced(path: Path) -> None:
        (folder / "other").write_text(path.read_text())
        (folder / "other").rename(path)

    [before], _ = sharing.resolve(["."], folder)
    for change in (
        lambda: (folder / "deep" / "late.txt").touch(),  # beside a secret
        lambda: replaced(folder / "penguins.csv"),
        lambda: (folder / "deep" / "late.txt").unlink(),
        lambda: (folder / "penguins.csv").rename(folder / "birds.csv"),
    ):
        [same], _ = sharing.resolve(["."], folder)
        assert same == before
        change()
        [after], _ = sharing.resolve(["."], folder)
        assert after != before
        before = after


def test_compiled_code_is_hidden_where_its_source_is(tmp_path: Path) -> None:
    (tmp_path / "secrets.py").write_text("")
    (tmp_path / "mine.py").write_text(f"KEY = 'ghp_{'aB3dE6gH9' * 4}'")
    (tmp_path / "plain.py").write_text("")
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for name in ("secrets", "credentials", "mine", "plain"):
        (cache / f"{name}.cpython-311.pyc").touch()
        (cache / f"{name}.work-3.py311.1.nbc").touch()  # numba's
    [share], _ = sharing.resolve(["."], tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in share.visible()} == {
        "plain.py",
        "__pycache__/plain.cpython-311.pyc",
        "__pycache__/plain.work-3.py311.1.nbc",
    }
    [share], _ = sharing.resolve(["."], tmp_path, exposed=["secrets.py"])
    assert cache / "secrets.cpython-311.pyc" in share.visible()


@pytest.mark.parametrize("name", ["__pycache__/backup.txt", "keys.so.txt", "plain.pyc.json"])
def test_what_only_looks_like_compiled_code_is_looked_into(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain.py").write_text("")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"ghp_{'aB3dE6gH9' * 4}")
    [share], _ = sharing.resolve(["."], tmp_path)
    assert tmp_path / name in share.hidden


def test_no_depth_of_a_folder_stops_it(tmp_path: Path) -> None:
    deep = tmp_path / "project"
    for _ in range(1100):  # more than Python's own stack takes
        deep.mkdir()
        deep = deep / "d"
    top = tmp_path / "project"
    deep.with_name(".env").write_text("x")
    deep.with_name("x.csv").write_text("1")
    try:
        hidden = deep.with_name(".env")
        assert folder_search.uncovered(top, {hidden}) == [deep.with_name("x.csv")]
        assert sharing.listing([Share(top, hidden=(hidden,))]) == "d/"
        sharing.resolve(["."], top)
    finally:  # pytest could not
        remove(top)
