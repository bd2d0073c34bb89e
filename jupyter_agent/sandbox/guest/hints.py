"""Add to an error a line that says what the sandbox lacks on purpose, and what to type.

Standard library only. The guest cannot know what the host has, so a hint claims of no path that it
exists. The words are the same in both tiers, whatever each of them makes of a path.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, TypedDict

from jupyter_agent.sandbox.guest.working_folder import WorkingFolder

NETWORK = "the sandbox has no network: put what is needed into a file beside the notebook"
READ_ONLY = "in the sandbox only the working folder and temporary files (tempfile) can be written"
LINKED = "it is the user's own, too large to be copied, and can only be read: write elsewhere"
NO_CHMOD = (
    "in this sandbox no file can be made executable: run a script by its interpreter (sh a.sh), "
    "a compiled program by the loader ({loader} ./a.out)"
)
OF_THE_SYSTEM = (
    "of the system only programs and libraries are in the sandbox, and none can be changed"
)
FINAL_ANSWER = "there is no {} here: to end, answer in words, without code to run"
_NO_NETWORK = {
    errno.EAFNOSUPPORT,
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}
_MISSING = {errno.ENOENT, errno.EACCES, errno.EROFS, errno.EPERM}
_FORBIDDEN = _MISSING - {errno.ENOENT}
_TEMPORARY = ["/tmp", "/var/tmp", "/dev/shm"]
_SYSTEM = "/bin /boot /dev /etc /lib /lib32 /lib64 /proc /run /sbin /sys /usr /var".split()


class Facts(TypedDict):
    """What the host says of the files that are shared."""

    data: list[str]  # paths as typed; "." is the notebook's folder
    whole: bool  # whether that folder is shared, but for what is left out of it
    left_out: str  # what that is
    magics: bool  # whether %%agent is there to be typed


class Hints:
    """Adds notes to errors (PEP 678)."""

    def __init__(self, folder: WorkingFolder, facts: Facts) -> None:
        self._folder, self._facts = folder, facts

    def install(self, shell: Any) -> None:
        """Have each error of a cell looked at before it is shown."""
        show = shell.showtraceback

        def showtraceback(exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
            error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
            with contextlib.suppress(Exception):  # such as of an error that takes no notes
                self.add_to(error)
            show(exc_tuple, *args, **kwargs)

        shell.showtraceback = showtraceback

    def add_to(self, error: BaseException | None) -> None:
        """Add a note to an error if there is something to say of it, once."""
        for each in _causes(error):
            hint = self._about(each)
            if hint and error:
                if hint not in getattr(error, "__notes__", ()):
                    error.add_note(hint)
                return

    def _about(self, error: BaseException) -> str:
        match error:
            case NameError(name="final_answer" | "finish" | "submit" | "submit_answer" as name):
                return FINAL_ANSWER.format(name)
            case socket.gaierror():
                return NETWORK
            case OSError(errno=number) if number in _NO_NETWORK:
                return NETWORK
            case OSError(errno=number, filename=str() | bytes() as path) if number in _MISSING:
                return self._about_path(os.fsdecode(path), forbidden=number in _FORBIDDEN)
            case FileNotFoundError(filename=None):
                return self._left_out()
        return ""

    def _about_path(self, typed: str, *, forbidden: bool) -> str:
        """Say why a path cannot be used; what to type is relative to the notebook's folder."""
        top = self._folder.folder
        full = os.path.normpath(os.path.join(os.getcwd(), typed))
        name = os.path.normpath(os.path.join(os.path.relpath(os.getcwd(), top), typed))
        if full == top or full.startswith(f"{top}/"):
            return self._about_own(os.path.relpath(full, top), forbidden=forbidden)
        if not os.path.isabs(typed) and name.startswith("../"):
            return self._not_shared(name)
        home = os.path.expanduser("~")
        if _is_below(full, [f"{home}/tmp"]):
            return ""
        if _is_below(full, [home]):
            return self._not_shared(f"~/{os.path.relpath(full, home)}")
        prefixes = {sys.prefix, sys.base_prefix}  # below /tmp, or /usr, or neither
        if _is_below(full, [path for path in prefixes if not _is_below(path, _SYSTEM)]):
            return READ_ONLY if forbidden else ""
        if forbidden and not _is_below(full, _SYSTEM) and _can_be_read(full):
            return READ_ONLY
        if _is_below(full, _TEMPORARY):
            said = [READ_ONLY] if forbidden else []
            return "; ".join([*said, self._not_shared(full)])
        if _is_below(full, _SYSTEM):
            return OF_THE_SYSTEM
        return self._not_shared(full)

    def _about_own(self, name: str, *, forbidden: bool) -> str:
        """Say why a path of the working folder cannot be used."""
        links = [link for link in self._folder.outside if _is_below(name, [link])]
        if links and not os.path.lexists(os.path.join(self._folder.folder, links[0])):
            return self._not_shared(name, "a link that leads elsewhere")
        if forbidden:
            return self._about_forbidden(os.path.join(self._folder.folder, name))
        if any(part.startswith(".") for part in name.split("/")):
            return self._not_shared(name, secret=True)
        return self._left_out() if self._facts["whole"] else self._not_shared(name)

    def _about_forbidden(self, path: str) -> str:
        """Say why something that is in the working folder cannot be written, or run."""
        real = os.path.realpath(path)
        if not _is_below(real, [os.path.realpath(self._folder.folder)]):
            return LINKED
        if os.path.isfile(path) and not os.access(path, os.X_OK) and not can_be_made_executable():
            return no_chmod()
        return READ_ONLY

    def _left_out(self) -> str:
        left_out = self._facts["left_out"]
        return f"not all of the user's files are in the sandbox: {left_out}" if left_out else ""

    def _not_shared(
        self, name: str, why: str = "not shared with the sandbox", *, secret: bool = False
    ) -> str:
        data = list(dict.fromkeys([*self._facts["data"], name]))
        reads, typed = "this lets it be read", f"c.SandboxProvisioner.data = {data}"
        if self._facts["magics"]:
            reads, typed = "a task can read it with", f"--data {shlex.join(data)}"
        if secret:
            why += ", as names with a dot may be those of secrets"
            typed = f"c.SandboxProvisioner.exposed = {[name]}, and {typed}"
        return f"{name} is {why}; if it is there, {reads}: {typed}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Name an error, and those that it was raised for or while."""
    seen: set[int] = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@functools.cache
def can_be_made_executable() -> bool:
    """Try it: where Landlock confines, chmod(2) is a success that changes nothing."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o700)
        return os.access(file.name, os.X_OK)


def no_chmod() -> str:
    """Say how to run what cannot be made executable."""
    loaders = [*glob.glob("/lib64/ld-linux*.so.*"), *glob.glob("/lib/ld-linux*.so.*")]
    return NO_CHMOD.format(loader=loaders[0] if loaders else "ld.so")


def _can_be_read(path: str) -> bool:
    try:  # access(2) does not ask Landlock
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _is_below(path: str, tops: list[str]) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in tops)
