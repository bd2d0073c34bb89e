"""A file is written whole, or not at all: real full disks, a real kill in the middle."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_agent._files import clear_left_over, write_whole
from jupyter_agent.transcript.notebook import Transcript

WRITE = """
import resource, signal, sys
from pathlib import Path
from jupyter_agent._files import clear_left_over
from jupyter_agent.transcript.notebook import Transcript
from jupyter_agent._files import write_whole
{before}
try:
    write_whole(Path({path!r}), b"new" * 100_000)
except OSError as error:
    print(error.strerror)
"""


def written(path: Path, *command: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Write 300,000 bytes to a path in a process of its own."""
    program = WRITE.format(path=str(path), before=before)
    return subprocess.run(
        [*command, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


def test_a_file_is_new_or_takes_the_others_place_and_mode(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".csv")
    mask = os.umask(0o027)
    write_whole(path, b"one")
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.root  # to mount a small disk
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && printf old > {path} && "$@" && cat {path} && ls -A {tmp_path}'
    done = written(path, "unshare", "--mount", "sh", "-c", mount, "sh")
    assert done.stdout == "No space left on device\noldkept\n", done.stderr


def test_a_kill_in_the_middle_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    before = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    )
    assert written(path, before=before).returncode == -signal.SIGXFSZ
    assert path.read_text() == "old"


def test_what_a_killed_write_has_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    kinds = [tmp_path / name for name in (".kept.tmp", ".kept.mine.tmp", "kept.tmp")]
    for kind in kinds:
        kind.touch()
    before = "import os\nos.fsync = lambda _: (print('in', flush=True), signal.pause())"
    program = WRITE.format(path=str(path), before=before)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"in\n"
        clear_left_over(path)
        assert len(list(tmp_path.iterdir())) == len(kinds) + 1
        process.kill()
    clear_left_over(path)
    assert sorted(tmp_path.iterdir()) == sorted(kinds)


def test_a_run_that_is_opened_again_clears_what_is_left_over(tmp_path: Path) -> None:
    left_over = tmp_path / ".run.ipynb.jupyter-agent-abcd_123.tmp"
    left_over.touch()
    Transcript.open(tmp_path / "run.ipynb")
    assert not left_over.exists()
