"""Folders that are never shared as a whole, whoever asks."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.isolation import never_shared, sharing
from jupyter_agent.sandbox.isolation.never_shared import too_wide

from .as_user import as_user

ACCOUNTS = [
    user for user in pwd.getpwall() if user.pw_shell.endswith("sh") and Path(user.pw_dir).is_dir()
]


@pytest.mark.parametrize("user", ACCOUNTS, ids=lambda user: user.pw_name)
def test_the_home_of_any_user_is_too_wide(user: pwd.struct_passwd) -> None:
    assert "home folder" in too_wide(Path(user.pw_dir).resolve())


@pytest.mark.parametrize(
    "path",
    (
        "/ /home /etc /etc/ssl /etc/hosts /var /var/lib /srv /usr /opt /mnt /media /tmp /var/tmp "
        "/dev/shm /proc/self /proc/self/environ /run /sys /dev /dev/null /boot /bin"
    ).split(),
)  # fmt: skip
def test_the_systems_folders_are_too_wide(path: str) -> None:
    if Path(path).exists():
        assert too_wide(Path(path).resolve())


@pytest.mark.root
def test_a_home_that_no_list_names_is_too_wide() -> None:
    home = Path(f"/home/somebody-{os.getpid()}")
    home.mkdir(parents=True)
    try:
        assert too_wide(home) == "a home folder"
        (home / "project").mkdir()
        assert too_wide(home / "project") == ""
        _, reason = sharing.resolve(["."], home)
        assert reason.startswith(f"{home} is a home folder: of its files, those")
        with pytest.raises(UsageError, match="a home folder; name the files or folders"):
            sharing.resolve(["project/.."], home)
    finally:
        (home / "project").rmdir()
        home.rmdir()


def test_a_folder_that_looks_like_a_home_is_one(tmp_path: Path) -> None:
    home = tmp_path / "disk" / "anna"
    (home / ".ssh").mkdir(parents=True)
    (home / "letter.txt").write_text("x")
    assert too_wide(home) == ""
    (home / ".bashrc").touch()
    assert too_wide(home) == "a home folder"
    (tmp_path / "link").symlink_to(home)
    with pytest.raises(UsageError, match="a home folder"):
        sharing.resolve(["link"], tmp_path)
    [share], _ = sharing.resolve(["."], tmp_path)
    assert share.hidden == (home,)


@pytest.mark.root
@pytest.mark.parametrize(("bound", "said"), [("/root", "home folder"), ("/home", "too wide|home")])
def test_a_home_that_is_bound_elsewhere_is_too_wide(tmp_path: Path, bound: str, said: str) -> None:
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c",
         "import re, subprocess, sys; from pathlib import Path;"
         "from jupyter_agent.sandbox.isolation.never_shared import too_wide;"
         "subprocess.run(['mount', '--bind', sys.argv[1], sys.argv[2]], check=True);"
         "assert re.search(sys.argv[3], too_wide(Path(sys.argv[2])))",
         bound, tmp_path, said],
        check=True,
    )  # fmt: skip


@pytest.mark.root
def test_what_is_bound_inside_a_shared_folder_is_hidden_where_it_is_too_wide(
    tmp_path: Path,
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    for path in (
        home,
        project / "disk" / "anna",
        project / "disk" / "etc",
        project / "disk" / "home",
    ):
        path.mkdir(parents=True)
    (home / "letter.txt").touch()
    code = (
        "import os, subprocess, sys; from pathlib import Path;"
        "from jupyter_agent.sandbox.isolation import sharing;"
        "project = Path(sys.argv[2]);"
        "bind = lambda a, b: subprocess.run(['mount', '--bind', a, project / 'disk' / b], check=True);"
        "bind(sys.argv[1], 'anna'); bind('/etc', 'etc'); bind('/home', 'home');"
        "os.environ['HOME'] = sys.argv[1];"
        "[share], _ = sharing.resolve(['.'], project);"
        "print(*sorted(path.name for path in share.hidden))"
    )
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code]
    done = subprocess.run([*command, home, project], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["anna", "etc", "home"]


@pytest.mark.parametrize("names", [".config .cache", ".cache .local", ".local .bashrc"])
def test_a_folder_of_a_desktops_settings_is_a_home(tmp_path: Path, names: str) -> None:
    for name in names.split():
        (tmp_path / "disk" / "anna" / name).mkdir(parents=True)
    [share], _ = sharing.resolve(["."], tmp_path)
    assert share.hidden == (tmp_path / "disk" / "anna",)


def test_a_system_inside_a_shared_folder_is_hidden(tmp_path: Path) -> None:
    for part in ("etc", "usr"):
        (tmp_path / "copy" / part).mkdir(parents=True)
    (tmp_path / "copy" / "etc" / "passwd").touch()
    (tmp_path / "data.txt").touch()
    [share], _ = sharing.resolve(["."], tmp_path)
    assert share.hidden == (tmp_path / "copy",)


def test_a_mounted_system_is_too_wide(tmp_path: Path) -> None:
    for part in ("etc", "usr"):
        (tmp_path / part).mkdir()
    assert too_wide(tmp_path) == ""
    (tmp_path / "etc" / "passwd").touch()
    assert too_wide(tmp_path) == "the system's own"


def test_the_home_of_who_became_root_is_too_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(never_shared, "_accounts", lambda changed: ((str(tmp_path), "anna"),))
    assert too_wide(tmp_path) == "the home folder of anna"
    assert too_wide(tmp_path.parent) == "too wide a folder"


@pytest.mark.root
def test_the_home_of_a_user_who_is_new_is_too_wide(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path;"
        "from jupyter_agent.sandbox.isolation.never_shared import too_wide;"
        "home, users = Path(sys.argv[1]), Path(sys.argv[2]);"
        "text = Path('/etc/passwd').read_text(); users.write_text(text);"
        "subprocess.run(['mount', '--bind', users, '/etc/passwd'], check=True);"
        "print(too_wide(home));"
        "users.write_text(text + f'newcomer:x:4242:4242::{home}:/bin/sh\\n');"
        "print(too_wide(home))"
    )
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code]
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [*command, tmp_path / "home", tmp_path / "passwd"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["", "the home folder of newcomer"]


@pytest.mark.root
def test_a_user_without_an_entry_or_a_home_can_share(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    code = f"from jupyter_agent.sandbox.isolation import sharing; print(sharing.resolve(['.'], sharing.Path({str(tmp_path)!r})))"
    done = subprocess.run(
        as_user([sys.executable, "-c", code]), capture_output=True, text=True, env={}, check=False
    )
    assert "Share(path=" in done.stdout, done.stderr
