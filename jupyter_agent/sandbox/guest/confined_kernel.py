"""The kernel that runs inside the sandbox.

Standard library and ipykernel only.
"""

from __future__ import annotations

import codecs
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.utils.text import LSString, SList

from jupyter_agent.sandbox.guest import working_folder
from jupyter_agent.sandbox.guest.hints import Hints, can_be_made_executable, no_chmod
from jupyter_agent.sandbox.guest.ipykernel_app import PACE, forget_outputs, start_app

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_agent.sandbox.guest.hints import Facts
    from jupyter_agent.sandbox.guest.working_folder import WorkingFolder

NOT_EXECUTABLE = 126  # what a shell exits with for a command that is there and may not be run


def import_from_here(search: Sequence[str]) -> None:
    """Let modules beside the user's files be imported, as in any kernel, after the library's.

    ``-P``, under which the launcher runs, keeps IPython from doing so. By now there is nothing left
    that such a module could stand in for but what the guest itself runs. The same holds for
    ``search``, the folders of projects elsewhere: they come last, as those of .pth files do.
    """
    sys.path += [path for path in search if path not in sys.path]
    if "" not in sys.path:
        library = sys.path.index(str(Path(os.__file__).parent))
        kinds = ("site-packages", "dist-packages")
        ends = (at for at, path in enumerate(sys.path) if Path(path).name in kinds and at > library)
        sys.path.insert(next(ends, library + 1), "")


def use_pipes(shell: InteractiveShell) -> None:
    """Let ``!command`` and ``x = !command`` use pipes: there is no terminal in here."""

    def system(command: str) -> None:
        with _started(shell.var_expand(command, depth=1)) as process:
            assert process.stdout
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            while piece := os.read(process.stdout.fileno(), PACE):  # a progress bar ends no line
                sys.stdout.write(decoder.decode(piece))
                sys.stdout.flush()
        shell.user_ns["_exit_code"] = process.returncode
        if process.returncode == NOT_EXECUTABLE and not can_be_made_executable():
            sys.stderr.write(f"{no_chmod()}\n")

    def getoutput(command: str, split: bool = True, depth: int = 0) -> str | list[str]:
        with _started(shell.var_expand(command, depth=depth + 1)) as process:
            text = process.communicate()[0].decode("utf-8", "replace")
        return SList(text.splitlines()) if split else LSString(text)

    shell.system = system  # type: ignore[method-assign]  # as IPython's own system_raw does
    shell.getoutput = getoutput  # type: ignore[method-assign]


class MagicError(Exception):
    """An error of a cell that is shown in one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def name_magics(shell: InteractiveShell) -> None:
    """Let the host's magics be completed, and remembered as cells; they do their work outside."""

    def agent(line: str, cell: str | None = None) -> None:  # noqa: ARG001
        sign = "%agent" if cell is None else "%%agent"
        raise MagicError(
            f"{sign} does not work here: use the kernel Python 3 (agent), in a cell of its own, or "
            "%load_ext jupyter_agent in a kernel that is not sandboxed"
        )

    shell.register_magic_function(agent, "line_cell", "agent")  # type: ignore[arg-type]


def name_user() -> None:
    """Give this user a name, as bubblewrap does: Landlock hides the list of users."""
    known, uid = pwd.getpwuid, os.getuid()
    home, shell = os.environ["HOME"], os.environ["SHELL"]
    user = pwd.struct_passwd(("agent", "x", uid, os.getgid(), "", home, shell))
    pwd.getpwuid = lambda each: user if each == uid else known(each)
    named = pwd.getpwnam
    pwd.getpwnam = lambda each: user if each == "agent" else named(each)
    pwd.getpwall = lambda: [user]


def _started(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        shell=True,
        executable=os.environ["SHELL"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def serve(
    connection: dict[str, Any],
    *,
    sockets: dict[int, int],
    folder: WorkingFolder,
    facts: Facts,
    search: Sequence[str],
) -> None:
    """Be an IPython kernel on sockets that the host has bound, until told to shut down.

    Parameters
    ----------
    connection
        What a connection file holds.
    sockets
        For each port in it, the descriptor of its listening socket.
    folder
        Follows the user's files before each cell.
    facts
        What errors are to say of the user's files.
    search
        Folders elsewhere that modules are imported from.
    """
    app = start_app(connection, sockets)
    assert app.shell
    import_from_here(search)
    use_pipes(app.shell)
    name_magics(app.shell)
    forget_outputs(app.shell)
    name_user()
    sys.argv = ["ipykernel_launcher.py"]  # as in any kernel: programs that read it find no words
    working_folder.working_folder = folder
    Hints(folder, facts).install(app.shell)
    app.shell.events.register("pre_run_cell", lambda _: folder.update())
    app.start()
