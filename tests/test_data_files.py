"""What a model is told of data files, so that it need not look first."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jupyter_agent.sandbox.guest import data_files, table_text
from jupyter_agent.sandbox.guest.child import results_of
from jupyter_agent.sandbox.guest.data_files import describe

TABLE = pd.DataFrame({"region": ["North", "South, by sea", "East"], " amount": [1.5, None, 2.0]})
COLUMNS = "'region' (str), ' amount' (float64, 1 missing)"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(
    task: str, *listed: str, known: dict[str, Any] | None = None
) -> dict[str, tuple[str, str]]:
    """Describe files as the sandbox does; return the line and the beginning of each."""
    found = describe(
        {
            "task": task,
            "listed": listed or [path.name for path in Path().iterdir()],
            "told": known or {},
        }
    )
    return {name: (line, beginning) for name, _, line, beginning in found["files"]}


def line(name: str) -> str:
    return told(f"Look at {name}")[name][0].removesuffix("; no repeated rows")


# -- which files


def test_a_file_that_the_task_names_is_described_with_its_first_rows(here: Path) -> None:
    for name in "abcdef":
        TABLE.to_csv(here / f"{name}.csv", index=False)
    assert told("Sum it up") == {}  # six files are not a few
    [(about, begins)] = told("What is in b.csv?").values()
    assert about == f"51 bytes, CSV, 3 rows x 2 columns: {COLUMNS}; no repeated rows"
    assert begins.splitlines()[0].split("  ")[-1].strip() == "amount"
    assert "South, by sea" in begins


def test_the_rows_of_a_file_are_told_when_a_later_task_names_it(here: Path) -> None:
    TABLE.to_csv(here / "a.csv", index=False)
    request: dict[str, Any] = {"task": "Go", "listed": ["a.csv"], "told": {}}
    [[name, state, _, beginning]] = describe(request)["files"]
    assert beginning == ""
    request = {**request, "task": "Sum a.csv", "told": {name: state}}
    [[name, state, _, beginning]] = describe(request)["files"]
    assert "South, by sea" in beginning
    for task in ("Go", "Sum a.csv"):
        assert told(task, "a.csv", known={name: state}) == {}


def test_files_for_which_there_is_no_room_are_named_and_told_with_the_next_task(here: Path) -> None:
    for name in "abcdefg":
        TABLE.to_csv(here / f"{name}.csv", index=False)
    task = "Join a.csv, b.csv, c.csv, d.csv, e.csv, f.csv and g.csv"
    request: dict[str, Any] = {"task": task, "listed": [f"{n}.csv" for n in "abcdefg"], "told": {}}
    found = describe(request)
    assert [name for name, *_ in found["files"]] == [f"{n}.csv" for n in "abcde"]
    assert found["later"] == ["f.csv", "g.csv"]
    request["told"] = {name: state for name, state, *_ in found["files"]}
    found = describe(request)
    assert [name for name, *_ in found["files"]] == ["f.csv", "g.csv"]
    assert found["later"] == []


def test_a_file_is_named_by_its_stem_too(here: Path) -> None:
    for name in ("sales.csv", "costs.csv", "more.csv", "rest.csv"):
        TABLE.to_csv(here / name, index=False)
    assert [*told("Plot the Sales by region")] == ["sales.csv"]


def test_a_name_within_a_longer_one_is_not_named(here: Path) -> None:
    for name in ("sales.csv", "old_sales.csv", "2024-sales.csv", "sales.csv_old.csv"):
        TABLE.to_csv(here / name, index=False)
    assert [*told("Sum old_sales.csv, and 2024-sales.csv.")] == ["2024-sales.csv", "old_sales.csv"]
    assert [*told("Sum `sales.csv`.")] == ["sales.csv"]


def test_a_few_files_are_described_though_none_is_named(here: Path) -> None:
    TABLE.to_csv(here / "b.csv", index=False)
    (here / "readme.txt").write_text("about b")
    assert [*told("Sum it up").values()] == [(f"{line('b.csv')}; no repeated rows", "")]


def test_files_in_a_shared_folder_are_found(here: Path) -> None:
    (here / "data").mkdir()
    TABLE.to_csv(here / "data" / "b.csv", index=False)
    assert [*told("Sum it up", "data/", "gone/", "gone.csv")] == ["data/b.csv"]
    assert [*told("Sum data/b.csv up", "data/")] == ["data/b.csv"]


def test_a_file_is_described_again_only_when_it_has_changed(here: Path) -> None:
    TABLE.to_csv(here / "b.csv", index=False)
    request = {"task": "Go", "listed": ["b.csv"], "told": {}}
    [[name, state, *_]] = describe(request)["files"]
    assert told("Go", known={name: state}) == {}
    TABLE.head(1).to_csv(here / "b.csv", index=False)
    assert [*told("Go", known={name: state})] == ["b.csv"]


def test_what_is_no_regular_file_is_not_opened(here: Path) -> None:
    os.mkfifo(here / "b.csv")
    (here / "c.csv").symlink_to("nowhere")
    (here / "d.csv").mkdir()
    assert told("b.csv c.csv d.csv") == {}


# -- what they hold


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.tsv", lambda path: TABLE.to_csv(path, sep="\t", index=False), "CSV, sep='\\t'"),
        ("a.csv", lambda path: TABLE.to_csv(path, sep=";", index=False), "CSV, sep=';'"),
        ("a.csv.gz", lambda path: TABLE.to_csv(path, index=False), "CSV"),
        (
            "a.csv",
            lambda path: TABLE.to_csv(path, index=False, encoding="utf-16"),
            "CSV, encoding='utf-16'",
        ),
        ("a.jsonl", lambda path: TABLE.to_json(path, orient="records", lines=True), "JSON lines"),
    ],
)
def test_tables_of_text(here: Path, name: str, write: Callable[[Path], None], said: str) -> None:
    write(here / name)
    assert line(name).partition(", ")[2] == f"{said}, 3 rows x 2 columns: {COLUMNS}"


def test_text_that_is_not_utf_8_is_read(here: Path) -> None:
    (here / "a.csv").write_bytes("Größe,n\nwürzig,1\n".encode("latin-1"))
    assert line("a.csv").endswith(
        "CSV, encoding='latin-1', 1 rows x 2 columns: 'Größe' (str), 'n' (int64)"
    )


def test_text_of_windows_is_read_with_its_own_signs(here: Path) -> None:
    (here / "a.csv").write_bytes("Größe,preis\nklein,5 €\n".encode("cp1252"))
    about, begins = told("a.csv")["a.csv"]
    assert "CSV, encoding='cp1252', 1 rows" in about
    assert "5 €" in begins
    (here / "b.csv").write_bytes("Größe\n".encode() + b"\x81,\xff\n")
    assert "CSV, encoding='latin-1', 1 rows" in line("b.csv")


def test_a_log_of_a_database_that_is_not_looked_at_is_told(here: Path) -> None:
    with sqlite3.connect("a.db") as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (x)")
        assert line("a.db").endswith("; without what stands in 'a.db-wal'")
    database.close()
    assert line("a.db").endswith("SQLite, 1 tables: 't', 0 rows with 'x' (any)")


def test_other_kinds_of_files(here: Path) -> None:
    TABLE.to_parquet(here / "a.parquet")
    assert "Parquet, 3 rows x 2 columns: 'region' (" in line("a.parquet")
    with sqlite3.connect(here / "a.db") as database:
        TABLE.to_sql('or"ders', database, index=False)
    database.close()
    about = "SQLite, 1 tables: 'or\"ders', 3 rows with 'region' (TEXT), ' amount' (REAL)"
    assert line("a.db").endswith(about)
    np.save(here / "a.npy", np.zeros((3, 4)))
    assert line("a.npy").endswith("NumPy, float64, 3 x 4")
    np.savez(here / "a.npz", x=np.zeros(3), y=np.zeros(3))
    assert line("a.npz").endswith("NumPy, arrays 'x', 'y'")
    Image.new("RGB", (30, 20)).save(here / "a.png")
    assert line("a.png").endswith("an image, PNG, 30 x 20 px, RGB")
    (here / "a.json").write_text('{"rows": [1, 2], "by": "me"}')
    assert line("a.json").endswith("JSON, an object of 2: 'rows' (list), 'by' (str)")
    (here / "b.json").write_text('[{"id": 1}, {"id": 2, "by": "me"}, 3]')
    assert line("b.json").endswith("JSON, a list of 3; the first is an object with 'id'")
    (here / "a.txt").write_text("one\ntwo\n" * 50)
    assert told("a.txt")["a.txt"] == ("400 bytes, text", "one\ntwo\none\ntwo\none")


def test_a_view_that_fails_or_has_no_end_hides_no_table_of_its_database(here: Path) -> None:
    with sqlite3.connect("a.db") as database:
        database.execute("create table t (x int)")
        database.execute("create view broken as select * from gone")
        rows = "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c"
        database.execute(f"create view endless as {rows}")
    database.close()
    about = "'t', 0 rows with 'x' (INT); 'broken', it cannot be read as such: OperationalError: "
    about += "no such table: main.gone; 'endless', 'x' (any)"
    assert line("a.db").partition("SQLite, 3 tables: ")[2] == about


def test_a_large_table_is_told_from_its_beginning(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "WHOLE", 2_000)
    monkeypatch.setattr(data_files, "BEGINNING", 1_000)
    plain = pd.DataFrame({"n": range(5_000), "text": ["abcdef"] * 5_000})
    plain.to_csv(here / "a.csv", index=False)
    assert "CSV, 5,000 rows x 2 columns" in line("a.csv")
    plain["text"] = "two\nlines"
    plain.to_csv(here / "a.csv", index=False)
    assert "CSV, about " in line("a.csv")
    estimate = int(line("a.csv").partition("about ")[2].partition(" rows")[0].replace(",", ""))
    assert 4_000 < estimate < 6_500
    plain.to_csv(here / "b.csv.gz", index=False)
    assert "CSV, more than " in line("b.csv.gz")


def test_what_is_told_of_a_part_of_a_table_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame({"n": range(2_000), "kind": ["a"] * 1_900 + ["b"] * 100})
    table.to_parquet(here / "a.parquet")
    assert told("a.parquet")["a.parquet"][1].splitlines()[-2:] == [
        "'kind' has 'a', 'b'",
        "From the least to the greatest: 'n' 0 to 1999",
    ]
    monkeypatch.setattr(data_files, "WHOLE", 2_000)
    monkeypatch.setattr(data_files, "BEGINNING", 1_000)
    table.to_csv(here / "a.csv", index=False)
    for name in ("a.csv", "a.parquet"):
        about, begins = told(name)[name]
        assert re.search(r"2,000 rows .*\(str\) \(as in the first [\d,]+ rows\)$", about)
        assert re.search(r"\nIn the first [\d,]+ rows:\n'kind' has 'a'\nFrom the least", begins)


def test_texts_of_a_long_table_are_told_with_the_rows_that_were_looked_at(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_text, "MAX_LOOKED_AT", 10)
    pd.DataFrame({"n": [*range(9), "-", *"???"], "kind": [*"aaaaaaaaaaabc"]}).to_csv("a.csv")
    about, begins = told("a.csv")["a.csv"]
    assert "'n' (str, 1 not numbers in the first 10 rows, the others are)" in about
    assert "'kind' has 'a' in the first 10 rows\n" in begins


def test_no_number_is_cut(here: Path) -> None:
    wide = pd.DataFrame(
        {f"temperature_of_sensor_{n}": [123_456_789, n, 987_654_321] for n in range(30)}
    )
    wide.to_csv("a.csv", index=False)
    *rows, ranges = told("a.csv")["a.csv"][1].split("\nFrom the least to the greatest: ")
    assert rows[0].endswith("…")
    assert re.fullmatch(r"('temperature_of_sensor_\d+' \d+ to 987654321, )+…", ranges)


def test_what_cannot_be_read_is_told_by_its_first_lines(here: Path) -> None:
    (here / "a.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    about, begins = told("a.csv")["a.csv"]
    assert "it cannot be read as such: ParserError" in about
    assert begins == "a,b\n1,2\n1,2,3,4"
    (here / "b.parquet").write_bytes(b"\0PAR")
    assert "it cannot be read as such" in line("b.parquet")
    (here / "c.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n")[:-9])
    assert "it cannot be read as such" in line("c.csv.gz")
    (here / "d.csv").write_text("")
    assert (
        line("d.csv")
        == "0 bytes, CSV; it cannot be read as such: EmptyDataError: No columns to parse from file"
    )


def test_a_damaged_file_leaves_the_others_described(here: Path) -> None:
    (here / "a.csv.xz").write_text("not packed at all\n")
    TABLE.to_csv(here / "ok.csv", index=False)
    found = told("a.csv.xz ok.csv")
    assert "it cannot be read as such" in found["a.csv.xz"][0]
    assert COLUMNS in found["ok.csv"][0]


def test_the_columns_of_wide_tables_are_named_by_type(here: Path) -> None:
    wide = pd.DataFrame({f"c{n}": [n if n % 2 else "text"] for n in range(60)})
    wide.to_csv(here / "a.csv", index=False)
    assert "60 columns: int64: 'c1', 'c3', " in line("a.csv")
    assert line("a.csv").endswith(", 'c58'")
    wide = pd.DataFrame([range(500)], columns=[f"{'c' * 300}{n}" for n in range(500)])
    wide.to_csv(here / "a.csv", index=False)
    begins = told("a.csv")["a.csv"][1]
    assert line("a.csv").endswith(" and 380 more")
    assert len(begins) <= 1_001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Export\n#\na;b\n1,5;x\n2,5;y\n", "sep=';', skiprows=2, decimal=',', 2 rows"),
        ("From: here\n\na,b\n1,2\n3,4\n5,6\n", "skiprows=2, 3 rows"),
        ('a,"b\n(in kg)"\n1,2\n3,4\n', "CSV, 2 rows x 2 columns: 'a' (int64), 'b\\n(in kg)'"),
        ("# só\na;b\n1;x\n2;y\n", "sep=';', skiprows=1, encoding='latin-1', 2 rows"),
        ("a|b\n1|x, y\n", "sep='|', 1 rows"),
        ("one\n1\n2\n", "CSV, 2 rows x 1 columns"),
        ("Export;;\n;;\na;b;c\n1;2;3\n4;5;6\n", "sep=';', skiprows=2, 2 rows x 3 columns: 'a' "),
        ("a;;\n1;2;3\n", "sep=';', 1 rows x 3 columns: 'a' "),
        (
            "zip,n,day,x\n00123,0,01,\n10115,1,02,007\n",
            "CSV, dtype={'zip': 'str', 'day': 'str', 'x': 'str'}, 2 rows x 4 columns: 'zip' (str), ",
        ),
        ("a,b,c\n1,2\n3,4\n5,6\n", "CSV, 3 rows x 3 columns: 'a' (int64), 'b' (int64), 'c'"),
        ("a,b\n1,x,\n2,y,\n", "CSV, index_col=False, 2 rows x 2 columns: 'a' (int64), 'b' (str)"),
        ("a,b\nr1,1,2\nr2,3,4\n", "CSV, 2 rows x 2 columns: 'a' (int64), 'b' (int64)"),
        ("Sales,2024\nregion,2023,2024\nx,1,2\ny,3,4\n", "skiprows=1, 2 rows x 3 columns"),
        ('"Sales\nof 2024"\na,b\nx,1\ny,3\n', "skiprows=1, 2 rows x 2 columns: 'a' (str)"),
        ("Sales\x0bof 2024\na,b\nx,1\ny,3\n", "skiprows=1, 2 rows x 2 columns: 'a' (str)"),
        ("a;b\nx\x0by,z;1\nz,z;2\nz,z;3\n", "sep=';', 3 rows x 2 columns: 'a' (str), 'b' (int64)"),
    ],
)
def test_what_pandas_has_to_be_told_is_told(here: Path, text: str, said: str) -> None:
    (here / "a.csv").write_bytes(text.encode("latin-1"))
    assert said in line("a.csv")


def test_numbers_that_are_written_with_commas_are_told_and_what_is_none_among_them(
    here: Path,
) -> None:
    prices = [f"{n},{n:02}" for n in range(1, 60)]
    (here / "a.csv").write_text("n;price\n1;1.234,50\n" + "".join(f"1;{p}\n" for p in prices))
    assert line("a.csv").endswith("(str, 1 not numbers, the others are, numbers with commas)")
    assert told("a.csv")["a.csv"][1].splitlines()[-2:] == [
        "'price' is written like '1.234,50', '1,01'",
        "From the least to the greatest: 'n' 1 to 1",
    ]
    (here / "a.csv").write_text('price,name\n"1,234",x\n"2,000",y\n')
    assert line("a.csv").endswith("'price' (str, numbers with commas), 'name' (str)")


def test_how_texts_are_written_is_told_by_one_of_each_form(here: Path) -> None:
    weights = [f"{n}.5 kg" for n in range(50, 80)] + [f"{n} lb" for n in range(100, 130)]
    fees = [None] * 20 + [f"€ {n},50" for n in range(40)]
    names = ["".join(chr(97 + (n * k) % 26) for k in range(6)) for n in range(60)]
    odd = [str(n * 7) for n in range(59)] + ["n/a"]
    table = pd.DataFrame({"w": weights, "fee": fees, "name": names, "odd": odd, "-": -999.0})
    table["when"] = pd.date_range("2024-01-30", periods=60)
    table.to_parquet(here / "a.parquet")
    assert told("a.parquet")["a.parquet"][1].splitlines()[-4:] == [
        "'w' is written like '50.5 kg', '100 lb'",
        "'fee' is written like '€ 0,50'",
        "'odd' is written like 'n/a', '0'",
        "From the least to the greatest: '-' -999 to -999, "
        "'when' 2024-01-30 00:00:00 to 2024-03-29 00:00:00",
    ]


def test_texts_among_other_values_are_not_told_as_all_of_them() -> None:
    table = pd.DataFrame({"m": [1, "a", None, 2.5], "t": list("abab")})
    assert table_text.some_rows(table).splitlines()[-2:] == [
        "'m' has 'a' and values that are no text",
        "'t' has 'a', 'b'",
    ]


def test_lines_above_the_header_are_shown(here: Path) -> None:
    (here / "a.csv").write_text("# in UTC\n# sold\na;b\n1;x\n2;y\n")
    begins = told("a.csv")["a.csv"][1]
    assert begins.startswith("# in UTC\n# sold\n(above its header)\n   a  b\n")


def test_what_spoils_results_is_told(here: Path) -> None:
    kinds = ["small", "Small ", "large"] * 2
    odd = pd.DataFrame(
        {"n": ["1", "2", "?", "4", "5", "n.a.?"], "kind": kinds, "note": list("abcdef")}
    )
    pd.concat([odd, odd.tail(1)]).to_csv(here / "a.csv", index=False)
    about, begins = told("a.csv")["a.csv"]
    assert "'n' (str, 3 not numbers, the others are), 'kind' (str)" in about
    assert about.endswith("; repeated rows: 1")
    assert "'kind' has 3 values, 2 apart from case and blanks: 'small', 'Small ', 'large'" in begins
    assert "'note' has 'a', 'b'" in begins
    assert "6  n.a.?" in begins  # the last row


def test_the_packages_are_those_that_are_installed() -> None:
    packages = describe({"task": "", "listed": [], "told": {}})["packages"]
    assert packages.startswith("Python 3.")
    assert f", pandas {pd.__version__}" in packages
    assert "tensorflow" not in packages


# -- in a process of its own


def test_most_is_told_of_the_columns_of_a_wide_table_that_the_task_names(here: Path) -> None:
    wide = pd.DataFrame({f"lab_{n}": [n, None, n] for n in range(45)})
    wide["Resting_hr "] = ["70", "low", "80"]
    wide["smoker"] = ["Yes", "no", "yes"]
    wide.to_csv(here / "a.csv", index=False)
    about, begins = told("What is the mean resting heart rate of smokers in a.csv?")["a.csv"]
    of_these = "'Resting_hr ' (str, 1 not numbers, the others are), 'smoker' (str)"
    assert f"; of these {of_these}; no repeated rows" in about
    assert "lab_27" in begins
    assert "Resting_hr" in begins.splitlines()[0]
    assert "'Resting_hr ' has '70', 'low', '80'\n'smoker' has 3 values, 2 apart from" in begins
    wide.to_feather(here / "a.feather")
    about, begins = told("Which lab results does 'no' have in a.feather?")["a.feather"]
    assert "; of these 'lab_0' (float64, 1 missing), 'lab_1' (" in about
    assert "'smoker'" not in about.partition("; of these")[2]


def test_all_columns_that_the_task_may_be_about_are_shown(here: Path) -> None:
    names = [*(f"lab_{n}" for n in range(40)), *(f"dose_{n}" for n in range(20))]
    pd.DataFrame([range(60)] * 4, columns=names).to_csv(here / "a.csv", index=False)
    header = told("What is the mean dose in a.csv?")["a.csv"][1].splitlines()[0].split()
    assert header == [*names[40:], *names[:10]]


def test_a_file_of_bytes_is_no_table(here: Path) -> None:
    (here / "a.csv").write_bytes(b"PK\x03\x04\x14\x00,\n" * 100)
    assert told("a.csv")["a.csv"] == ("800 bytes, it holds bytes that are no text", "")


def test_what_takes_too_long_ends_with_its_process(here: Path) -> None:
    def work() -> Iterator[int]:
        yield os.getpid()
        time.sleep(60)
        yield 0

    [child] = results_of(work, seconds=0.5, more_memory=1 << 30)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_interrupts_by_way_of_another_thread_leave_no_process(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, waitpid, children = os.fork, os.waitpid, []
    resting = threading.Event()
    other = threading.Thread(target=resting.wait)  # a kernel has some, and any may get the signal
    other.start()

    def interrupted_fork() -> int:
        child = fork()
        if child:
            children.append(child)
            os.kill(os.getpid(), signal.SIGINT)
        return child

    def interrupted_wait(child: int, options: int) -> tuple[int, int]:
        os.kill(os.getpid(), signal.SIGINT)
        return waitpid(child, options)

    def work() -> Iterator[str]:
        time.sleep(60)
        yield ""

    monkeypatch.setattr(os, "fork", interrupted_fork)
    monkeypatch.setattr(os, "waitpid", interrupted_wait)
    with pytest.raises(KeyboardInterrupt):
        results_of(work, seconds=20, more_memory=1 << 30)
    resting.set()
    other.join()
    [child] = children
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_files_are_told_by_their_first_lines_where_no_process_can_be_started(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing_fork() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", failing_fork)
    TABLE.to_csv(here / "a.csv", index=False)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    assert told("a.csv")["a.csv"][1].startswith("region, amount\n")
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_what_takes_too_much_memory_is_an_error_of_its_own(here: Path) -> None:
    def work() -> Iterator[str]:
        try:
            yield str(len(bytearray(1 << 30)))
        except MemoryError:
            yield "too much"

    assert results_of(work, seconds=20, more_memory=256 << 20) == ["too much"]


def test_a_process_that_dies_tells_what_it_had(here: Path) -> None:
    def work() -> Iterator[str]:
        yield "first"
        os.kill(os.getpid(), signal.SIGKILL)

    assert results_of(work, seconds=20, more_memory=1 << 30) == ["first"]


def test_a_file_that_takes_all_the_time_leaves_smaller_ones_described(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data_files._KINDS, "jsonl", lambda *_: time.sleep(60))
    monkeypatch.setattr(data_files, "MAX_WAIT", 3)
    (here / "a.jsonl").write_text('{"a": 1}\n' * 100)
    TABLE.to_csv(here / "b.csv", index=False)
    found = told("a.jsonl b.csv")
    assert [*found] == ["a.jsonl", "b.csv"]
    assert found["a.jsonl"][0] == "900 bytes, there was too little time or memory to look at it"
    assert COLUMNS in found["b.csv"][0]


def test_a_long_description_leaves_room_for_the_others(here: Path) -> None:
    (here / "a.json").write_text(json.dumps({f"{n}{'k' * 100_000}": n for n in range(20)}))
    pd.DataFrame({"text": ["x" * 1_000_000] * 3}).to_csv(here / "b.csv", index=False)
    found = told("a.json b.csv")
    assert "JSON, an object of 20: '0kkk" in found["a.json"][0]
    assert "CSV, 3 rows" in found["b.csv"][0]


def test_a_file_for_which_there_is_no_time_is_told_by_its_first_lines(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "_describe", lambda *_: time.sleep(60))
    monkeypatch.setattr(data_files, "MAX_WAIT", 0.2)
    TABLE.to_csv(here / "a.csv", index=False)
    about, begins = told("a.csv")["a.csv"]
    assert about == "51 bytes, there was too little time or memory to look at it"
    assert begins.startswith("region, amount\n")
