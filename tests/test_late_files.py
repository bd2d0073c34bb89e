"""Files that come to a shared folder after the sandbox has started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jupyter_agent.sandbox.isolation import folder_search, late_files, sharing
from jupyter_agent.sandbox.isolation.late_files import LateFiles

KEY = f"ghp_{'aB3dE6gH9' * 4}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of the host's."""
    place = tmp_path / "place"
    place.mkdir()
    return place


def watch(folder: Path, place: Path, data: tuple[str, ...] = (".",), **rest: object) -> LateFiles:
    shares, _ = sharing.resolve(list(data), folder)
    return LateFiles(shares, place, **rest)  # type: ignore[arg-type]


def shown(late_files: LateFiles) -> dict[str, str]:
    """Follow what is new; tell what is passed in."""
    late_files.follow()
    top = late_files.shown
    return {str(p.relative_to(top)): p.read_text() for p in top.rglob("*") if p.is_file()}


def test_what_is_new_is_passed_in_and_what_is_gone_is_removed(folder: Path, place: Path) -> None:
    come = watch(folder, place)
    assert shown(come) == {}
    (folder / "late.csv").write_text("1")
    (folder / "deep" / "late.csv").write_text("2")
    (folder / "new" / "deeper").mkdir(parents=True)
    (folder / "new" / "deeper" / "x.csv").write_text("3")
    expected = {"late.csv": "1", "deep/late.csv": "2", "new/deeper/x.csv": "3"}
    assert shown(come) == expected
    (folder / "late.csv").write_text("1 and more")
    (folder / "new" / "deeper" / "x.csv").unlink()
    assert shown(come) == {"late.csv": "1 and more", "deep/late.csv": "2"}
    assert not (come.shown / "new").exists()
    (folder / "late.csv").unlink()
    (folder / "deep" / "late.csv").unlink()
    assert shown(come) == {}
    assert come.names() == []


def test_a_file_that_was_saved_by_putting_another_in_its_place_is_passed_in(
    folder: Path, place: Path
) -> None:
    for data in ((".",), ("penguins.csv",), ("deep/numbers.txt", "penguins.csv")):
        where = place / str(len(data)) / data[0].replace("/", "-")
        where.mkdir(parents=True)
        come = watch(folder, where, data)
        assert shown(come) == {}
        (folder / "swap").write_text("new")
        (folder / "swap").replace(folder / "penguins.csv")
        assert shown(come) == {"penguins.csv": "new"}


def test_what_is_in_a_folder_that_is_shared_whole_is_no_late_file(
    tmp_path: Path, place: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    come = watch(plain, place)
    (plain / "late.csv").write_text("1")
    assert shown(come) == {}


@pytest.mark.parametrize(
    "name",
    ".env .netrc id_rsa a.pem credentials.json .git/config deep/.env new/server.key .hidden/x.csv "
    "credentials/x.csv venv/pyvenv.cfg".split(),
)
def test_what_is_secret_by_its_name_stays_out(folder: Path, place: Path, name: str) -> None:
    come = watch(folder, place)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert shown(come) == {}
    assert come.names() == []


@pytest.mark.parametrize("name", ["server.p12", "secrets/x", "deeper/.netrc"])
def test_what_comes_to_a_new_folder_that_was_looked_through_is_judged_by_name(
    folder: Path, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_through(path: Path, *args: Any, **rest: Any) -> folder_search.Share:
        found = folder_search.look_through(path, *args, **rest)
        (folder / "new" / name).parent.mkdir(exist_ok=True)
        (folder / "new" / name).write_text("x")
        return found

    come = watch(folder, place)
    (folder / "new").mkdir()
    (folder / "new" / "a.csv").write_text("1")
    monkeypatch.setattr(late_files, "look_through", look_through)
    assert shown(come) == {"new/a.csv": "1"}


def test_what_was_compiled_meanwhile_is_judged_by_its_source(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_through(path: Path, *args: Any, **rest: Any) -> folder_search.Share:
        found = folder_search.look_through(path, *args, **rest)
        (folder / "new" / "a.py").write_text("1")
        (folder / "new" / "b.py").write_text(KEY)
        (folder / "new" / "a.pyc").write_text("compiled")
        (folder / "new" / "b.pyc").write_text("compiled")
        return found

    come = watch(folder, place)
    (folder / "new").mkdir()
    monkeypatch.setattr(late_files, "look_through", look_through)
    assert shown(come) == {"new/a.py": "1", "new/a.pyc": "compiled"}


@pytest.mark.parametrize("name", ["__pycache__/backup.txt", "keys.so.txt", "mine.pyc.json"])
def test_what_only_looks_like_compiled_code_is_judged_itself(
    folder: Path, place: Path, name: str
) -> None:
    come = watch(folder, place)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(KEY)
    assert shown(come) == {}


def test_compiled_code_whose_source_is_exposed_is_passed_in(folder: Path, place: Path) -> None:
    come = watch(folder, place, exposed={folder / "secrets.py", folder / "mine.py"})
    (folder / "mine.py").write_text(KEY)
    (folder / "secrets.py").write_text("1")
    for name in ("mine", "secrets"):
        (folder / f"{name}.pyc").write_text("compiled")
    assert sorted(shown(come)) == ["mine.py", "mine.pyc", "secrets.py", "secrets.pyc"]


def test_what_holds_a_secret_stays_out_also_when_it_holds_one_later(
    folder: Path, place: Path
) -> None:
    come = watch(folder, place)
    (folder / "late.txt").write_text(KEY)
    (folder / "new").mkdir()
    (folder / "new" / "late.txt").write_text(KEY)
    assert shown(come) == {}
    (folder / "late.txt").write_text("harmless")
    assert shown(come) == {"late.txt": "harmless"}
    (folder / "late.txt").write_text(f"now {KEY}")
    assert shown(come) == {}
    assert come.names() == []


def test_a_hidden_file_that_is_saved_anew_stays_hidden(folder: Path, place: Path) -> None:
    (folder / "notes.txt").write_text(KEY)
    come = watch(folder, place)
    for name in (".env", "notes.txt", "deep/server.key"):
        (folder / "swap").write_text("harmless")
        (folder / "swap").replace(folder / name)
    assert shown(come) == {}


def test_no_link_is_followed_and_no_second_name_of_a_file_taken(
    folder: Path, tmp_path: Path, place: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.csv").write_text("outside")
    come = watch(folder, place)
    (folder / "link.csv").symlink_to(tmp_path / "outside" / "x.csv")
    (folder / "into").symlink_to(tmp_path / "outside")
    (folder / "new").mkdir()
    (folder / "new" / "link.csv").symlink_to(tmp_path / "outside" / "x.csv")
    os.link(folder / ".env", folder / "hard.csv")
    os.link(tmp_path / "outside" / "x.csv", folder / "hard-out.csv")
    os.mkfifo(folder / "pipe.csv")
    assert shown(come) == {}
    assert come.names() == ["hard-out.csv", "hard.csv"]


def test_a_link_that_takes_a_files_place_while_it_is_judged_is_not_followed(
    folder: Path, tmp_path: Path, place: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.csv").write_text("outside")
    come = watch(folder, place)
    for path in (folder / "x.csv", folder / "deep2" / "x.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    found = list(come._found())  # judged, and not yet opened
    (folder / "x.csv").unlink()
    (folder / "x.csv").symlink_to(tmp_path / "outside" / "x.csv")
    (folder / "deep2" / "x.csv").unlink()
    (folder / "deep2").rmdir()
    (folder / "deep2").symlink_to(tmp_path / "outside")
    assert {name for name, _, _ in found} == {"x.csv", "deep2/x.csv"}
    for name, root, path in found:
        with pytest.raises(OSError, match="symbolic link|Not a directory"):
            come._pass_in(name, root, path)
    assert not any(come.shown.iterdir())


def test_what_is_written_while_it_is_judged_is_judged(folder: Path, place: Path) -> None:
    come = watch(folder, place)
    (folder / "x.csv").write_text("harmless")
    found = list(come._found())
    (folder / "x.csv").write_text(KEY)
    for name, root, path in found:
        come._pass_in(name, root, path)
    assert not any(come.shown.iterdir())


def test_what_is_too_large_is_named_and_stays_out(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_files, "MAX_BYTES", 10)
    come = watch(folder, place)
    (folder / "a.csv").write_text("x" * 8)
    (folder / "b.csv").write_text("x" * 8)
    assert len(shown(come)) == 1
    assert len(come.names()) == 1
    (folder / "a.csv").unlink()
    (folder / "b.csv").unlink()
    (folder / "c.csv").write_text("x" * 9)
    assert shown(come) == {"c.csv": "x" * 9}


def test_of_a_home_new_plain_files_are_passed_in(folder: Path, place: Path) -> None:
    come = LateFiles([], place, home=folder)
    (folder / "late.csv").write_text("1")
    (folder / "deep" / "late.csv").write_text("2")
    assert set(shown(come)) == {"late.csv", "penguins.csv"}


def test_what_the_user_has_exposed_is_passed_in(folder: Path, place: Path) -> None:
    shares, _ = sharing.resolve(["."], folder, exposed=["late.txt"])
    come = LateFiles(shares, place, exposed={folder / "late.txt"})
    (folder / "late.txt").write_text(KEY)
    assert shown(come) == {"late.txt": KEY}


def test_the_sandboxs_user_can_read_it_whatever_the_umask(folder: Path, place: Path) -> None:
    before = os.umask(0o077)
    try:
        come = watch(folder, place)
        (folder / "new").mkdir()
        (folder / "new" / "x.csv").write_text("1")
        come.follow()
    finally:
        os.umask(before)
    for path in (come.shown, come.shown / "new", come.shown / "new" / "x.csv"):
        assert path.stat().st_mode & 0o444 == 0o444
    assert (come.shown / "new").stat().st_mode & 0o111 == 0o111


def test_a_file_that_the_host_writes_after_each_cell_is_left_alone(
    folder: Path, place: Path
) -> None:
    come = watch(folder, place)
    (folder / "run.ipynb").write_text("1")
    come.follow(exclude=folder / "run.ipynb")
    assert not any(come.shown.iterdir())
    assert shown(come) == {"run.ipynb": "1"}
    (folder / "run.ipynb").write_text("2")
    come.follow(exclude=folder / "run.ipynb")
    assert (come.shown / "run.ipynb").read_text() == "1"


def test_what_comes_to_a_folder_of_many_files_is_passed_in(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_files, "MAX_ENTRIES", 20)
    for number in range(100):
        (folder / f"{number}.png").touch()
    come = watch(folder, place)
    late = {f"late{number}.csv": "1" for number in range(20)}
    for name, text in late.items():
        (folder / name).write_text(text)
    assert shown(come) == late


def test_what_is_too_much_for_one_cell_comes_with_the_next_and_is_named(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = watch(folder, place)
    for number in range(5):
        (folder / f"late{number}.csv").write_text("1")
    (folder / ".env").write_text("x")
    monkeypatch.setattr(late_files, "MAX_SECONDS_OF_COPYING", -1)
    assert shown(come) == {}
    assert len(come.names()) == 5
    monkeypatch.undo()
    assert len(shown(come)) == 5
    assert come.names() == []
    monkeypatch.setattr(late_files, "MAX_ENTRIES", 3)
    assert len(shown(come)) + len(come.names()) == 5


def test_what_cannot_be_looked_at_in_time_is_named_and_nothing_goes_for_it(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = watch(folder, place)
    (folder / "new").mkdir()
    for name in ("new/a.csv", "b.csv", "gone.csv"):
        (folder / name).write_text("1")
    assert len(shown(come)) == 3
    (folder / "late.csv").write_text("1")
    (folder / "gone.csv").unlink()
    monkeypatch.setattr(late_files, "MAX_SECONDS", -1)
    assert shown(come).keys() == {"new/a.csv", "b.csv"}
    assert come.names() == ["late.csv"]
