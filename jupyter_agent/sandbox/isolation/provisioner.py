"""Start a kernel confined: by bubblewrap, else by Landlock and seccomp, else not at all.

Both tiers run the same launcher (`jupyter_agent.sandbox.__main__`) and hand it the same plan. The
host binds the kernel's sockets and passes them as listening descriptors, so no folder is shared
for them and nothing that the guest can write is ever opened by the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool, Enum, Int, List, TraitError, Unicode, validate

from jupyter_agent import settings
from jupyter_agent._threads import await_to_its_end, run_in_thread, run_in_thread_to_its_end
from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.sandbox.guest import lockdown
from jupyter_agent.sandbox.isolation import bubblewrap, cgroup, landlock, sharing
from jupyter_agent.sandbox.isolation.descriptors import Descriptors
from jupyter_agent.sandbox.isolation.folder_search import Share
from jupyter_agent.sandbox.isolation.guest_environment import guest_environment, launcher
from jupyter_agent.sandbox.isolation.guest_user import unique_uid
from jupyter_agent.sandbox.isolation.interpreter import imports, inherited_path, search_path
from jupyter_agent.sandbox.isolation.kernel_sockets import KernelSockets
from jupyter_agent.sandbox.isolation.late_files import LateFiles
from jupyter_agent.sandbox.isolation.memory_watch import MemoryWatch, gibibytes
from jupyter_agent.sandbox.isolation.never_shared import whose_home
from jupyter_agent.sandbox.isolation.path_policy import Policy, closed_above
from jupyter_agent.sandbox.isolation.private_folders import Folder
from jupyter_agent.sandbox.isolation.processes import (
    count_tasks,
    grandchildren,
    kill_with_children,
    wait_for_end,
)

__all__ = ["SandboxProvisioner", "choose_tier"]

REMEDIES = (
    "install bubblewrap (apt install bubblewrap), or run in Docker or on Linux 6.2 or newer, "
    "or set c.SandboxProvisioner.isolation = 'none' to run the model's code with YOUR files, keys "
    "and network"
)
MIN_MEMORY = 1 << 30  # bytes
MIN_MEMORY_MIB = 150  # a kernel does not start with less
PART_OF_COPIES = 8  # an eighth of the private folder may hold copies of the user's files
END_TIMEOUT = 5.0  # seconds for the supervisor to end all processes, before it is killed itself
# A sandbox dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG): this one lives on.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="jupyter_agent")


class SandboxProvisioner(  # type: ignore[metaclass]  # its bases' is computed when it runs
    settings.Configured, LocalProvisioner
):
    """Starts a kernel that can reach nothing but its own private folder and what is shared."""

    isolation = Enum(
        ["auto", "bubblewrap", "landlock", "none"],
        "auto",
        help="What confines the kernel; 'auto' takes bubblewrap, else landlock, else refuses.",
    ).tag(config=True)
    data = List(
        Unicode(),
        ["."],
        help="Files and folders that may be read; '.' is the folder the kernel is started in.",
    ).tag(config=True)
    exposed = List(
        Unicode(), help="Paths among those that may be read although they look like secrets."
    ).tag(config=True)

    magics = Bool(
        False, help="Whether an error that says how to share a file names %%agent, not this class."
    ).tag(config=True)
    socket_folder = Bool(
        False,
        help="Start the kernelspec's own command, which binds its sockets in a folder shared with "
        "it: for kernels that are no IPython kernels of this environment. Needs bubblewrap.",
    ).tag(config=True)
    programs = List(
        Unicode(), help="Folders and files that such a command needs, shared as they are."
    ).tag(config=True)

    memory_mib = Int(
        0,
        min=0,
        help="MiB of memory the kernel may use; 0: 3/4 of the machine's or container's.",
    ).tag(config=True)
    processes = Int(512, min=8, help="Processes and threads the kernel may have.").tag(config=True)
    open_files = Int(4096, min=64, help="Files a process may hold open.").tag(config=True)
    file_size_mib = Int(4096, min=1, help="MiB a file may have.").tag(config=True)
    private_size_mib = Int(
        1024, min=16, help="MiB of the private folder, which bubblewrap keeps in memory."
    ).tag(config=True)
    cpu_seconds = Int(0, min=0, help="CPU seconds a process may use; 0 for no limit.").tag(
        config=True
    )

    tier = ""  # which isolation is in force, once started
    shares: list[Share]
    modules: Sequence[Share] = ()  # that can be imported from elsewhere
    late_files: LateFiles | None = None
    reason = ""  # why nothing is shared, if so
    _above: Sequence[tuple[str, str]] = ()  # what is shared by a path that begins with ..
    _policy: Policy | None = None
    _sockets: KernelSockets | None = None
    _descriptors: Descriptors
    _log = -1
    _private: Folder | None = None
    _late_folder: Folder | None = None
    _lifeline: int | None = None
    _told_to_end = 0.0
    _group: cgroup.Group | None = None
    _watch: MemoryWatch | None = None
    _exit_code: int | None = None

    def __init__(self, **kwargs: Any) -> None:
        """Take the settings of a kernelspec, which jupyter_client passes on by name.

        Raises
        ------
        UsageError
            One is none: traitlets would ignore it, and a misspelt limit would limit nothing.
        """
        for name in kwargs:
            if not self.has_trait(name):
                why = settings.unknown_setting(f"SandboxProvisioner.{name}")
                raise UsageError(f"in the kernelspec's kernel.json: {why}")
        super().__init__(**kwargs)
        self._descriptors = Descriptors()

    @validate("memory_mib")
    def _check_memory(self, proposal: dict[str, Any]) -> int:
        value: int = proposal["value"]
        if 0 < value < MIN_MEMORY_MIB:
            raise TraitError(
                f"c.SandboxProvisioner.memory_mib is {value}; set it to {MIN_MEMORY_MIB} or more, "
                "or to 0 for 3/4 of the machine's memory"
            )
        return value

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Bind the sockets, choose the tier and write the command that confines the kernel."""
        settings.check()
        for line in settings.read().warnings:
            self.log.warning(line)
        choose = functools.partial(choose_tier, self.isolation, own_sockets=self.socket_folder)
        self.tier = await run_in_thread(choose)
        folder = Path(kwargs.get("cwd") or Path.cwd())
        # in a thread: a large folder takes seconds, and other sessions share this loop
        choose_shares = functools.partial(_choose_shares, self.data, folder, exposed=self.exposed)
        (self.shares, self.reason), self._above, self.modules = await run_in_thread(choose_shares)
        manager = self.parent
        assert manager
        if self._sockets is None:
            self._sockets = KernelSockets()
            manager.transport, manager.ip = "ipc", self._sockets.ip
            # else in a file of its own, which a host that is killed leaves for good
            manager.connection_file = manager.connection_file or self._sockets.connection_file
        kwargs = await super().pre_launch(**kwargs)
        if self.tier != "none":
            await run_in_thread_to_its_end(functools.partial(self._await_late_files, folder))
        if self.socket_folder:
            await run_in_thread(self._sockets.renew_folder)
        else:
            self.kernel_spec.interrupt_mode = "message"
            self._sockets.bind(self.connection_info)
        match self.tier:
            case "bubblewrap":
                return await run_in_thread_to_its_end(
                    functools.partial(self._in_bubblewrap, kwargs)
                )
            case "landlock":
                return await run_in_thread_to_its_end(functools.partial(self._in_landlock, kwargs))
            case _:
                return self._unconfined(kwargs)

    def _await_late_files(self, folder: Path) -> None:
        """Make the folder into which files are copied that are newer than the sandbox."""
        self._late_folder = Folder(self._root)
        if os.geteuid() == 0:
            self._late_folder.path.chmod(0o711)
        folder = folder.resolve()
        home = folder if self.reason and "." in self.data and whose_home(folder) else None
        exposed = sharing.all_exposed(self.exposed, folder)
        self.late_files = LateFiles(self.shares, self._late_folder.path, home=home, exposed=exposed)

    @property
    def run_folder(self) -> Path | None:
        """The folder of this kernel's sockets, while there is one."""
        return self._sockets.run_folder.path if self._sockets else None

    @property
    def _root(self) -> Path:
        """The folder below which folders are made that the sandbox's user can enter."""
        assert self.run_folder is not None
        closed = os.geteuid() == 0 and closed_above([self.run_folder])
        return Path(tempfile.gettempdir()) if closed else self.run_folder.parent

    async def poll(self) -> int | None:
        """Return the exit code, if there is one; copy late files in, as clients poll often."""
        if self.late_files:
            await run_in_thread(self.late_files.follow)
        return await super().poll()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the process without a terminal, a log or the environment of the host."""
        read, write = os.pipe()
        os.set_blocking(write, False)  # a guest that fills it loses text, not time
        os.set_blocking(read, False)
        self._close_log()
        self._log = read
        kwargs.update(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=write)
        kwargs.setdefault("independent", True)  # no pid of ours in its environment
        launch = functools.partial(super().launch_kernel, cmd, **kwargs)
        loop = asyncio.get_running_loop()
        launching = loop.run_in_executor(_spawner, lambda: asyncio.run(launch()))
        try:
            facts = await await_to_its_end(launching)  # it passes these descriptors on
            if self.process and not self._group and self.tier != "none":
                self._watch = MemoryWatch(self.process.pid, self.memory_bytes, self._end_at_once)
            return facts
        finally:
            os.close(write)
            self._descriptors.close()

    async def send_signal(self, signum: int) -> None:
        """Interrupt the kernel, unless that is done by a message; any other signal kills it."""
        if self.process is None:
            return
        if signum != signal.SIGINT:
            self._end_at_once()
        elif self.socket_folder and self.kernel_spec.interrupt_mode == "signal":
            for kernel in grandchildren(self.process.pid):  # it would end bubblewrap itself
                with contextlib.suppress(OSError):
                    os.killpg(kernel, signum)

    def _end_at_once(self) -> None:
        process = self.process  # this may be another thread than that which sets it
        if self.tier == "landlock" and self._lifeline is not None:
            self._told_to_end = time.monotonic()
            os.write(self._lifeline, b"!")  # its supervisor knows what is to be killed
        elif process and self.tier == "bubblewrap":
            kill_with_children(process)  # what it sets up may not be bound to end with it yet
        elif process:
            process.kill()

    async def wait(self) -> int | None:
        """Wait for the end of the process; kill it if it was told to end and does not."""
        while self.process and self.process.poll() is None:
            if self._told_to_end and time.monotonic() > self._told_to_end + END_TIMEOUT:
                await super().send_signal(signal.SIGKILL)
            await wait_for_end(self.process.pid, within=1)
        self._exit_code = await super().wait()
        return self._exit_code

    async def cleanup(self, restart: bool = False) -> None:
        """End all processes, and remove sockets, folders and descriptors."""
        if self._watch:
            await run_in_thread(self._watch.stop)
            self._watch = None
        await super().cleanup(restart)
        self._descriptors.close()  # the start may have ended before the launch
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self._told_to_end = 0.0
        group, self._group = self._group, None
        folders = [self._private, self._late_folder]
        self._private = self._late_folder = self.late_files = None
        if not restart:
            self._close_log()
            if self._sockets:
                self._sockets.close_listeners()
                folders.append(self._sockets.run_folder)
                self._sockets = None

        def end() -> None:
            if group:
                group.end()
            for folder in folders:
                if folder:
                    folder.close()

        # how long it takes is up to the guest, and other kernels share this loop
        await run_in_thread_to_its_end(end)

    def is_outdated(self) -> bool:
        """Tell whether files have changed so that the start may have failed for it."""
        return self._policy is not None and self._policy.is_outdated()

    def stderr_tail(self) -> str:
        """Return the last line on stderr, which says why the process did not start."""
        try:
            text = os.read(self._log, 65536).decode(errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    # -- what both tiers need

    def _plan(
        self,
        folder: str,
        uid: int,
        *,
        policy: Policy,
        late_files: Path,
        landlock: dict[str, list[str]] | None,
        search: Iterable[Path],
        command: Sequence[str] = (),
    ) -> str:
        """Write the plan for the launcher; return the descriptor to read it from."""
        assert self._sockets
        guests_end, self._lifeline = self._descriptors.add_pipe()
        plan = {
            "lifeline": guests_end,
            "limits": self._limits(uid),
            "folder": folder,
            "uid": uid,
            "reads_all": policy.reads_all,
            "namespaces": self.tier == "bubblewrap",
            "landlock": landlock,
            "command": command,
            "connection": self._connection(),
            "facts": {
                "data": self.data,
                "whole": "." in self.data and not self.reason,
                "left_out": sharing.left_out(self.shares, self.reason),
                "magics": self.magics,
            },
            "search": [*map(str, search)],
            "sockets": self._sockets.descriptors,
            "copied": (self.private_size_mib << 20) // PART_OF_COPIES,
            "shares": [
                ("", str(late_files), True),
                *(link for share in self.shares for link in policy.links(share)),
            ],
            "links": [
                *self._above,
                *(link for share in self.shares for link in policy.symlinks(share)),
            ],
        }
        return str(self._descriptors.add_text(json.dumps(plan)))

    def _connection(self) -> dict[str, Any]:
        """Return the contents of the connection file."""
        return {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in self.connection_info.items()
        }

    def _limits(self, uid: int) -> dict[str, int]:
        """Return the limits of each process (getrlimit(2))."""
        others = 0 if uid or self.tier == "bubblewrap" else count_tasks(os.getuid())
        limits = {
            "CORE": 0,
            "DATA": self.memory_bytes,
            "FSIZE": self.file_size_mib << 20,
            "NOFILE": self.open_files,
            "NPROC": self.processes + others,
        }
        return limits | ({"CPU": self.cpu_seconds} if self.cpu_seconds else {})

    @property
    def memory_bytes(self) -> int:
        """The limit of the kernel's memory, in bytes."""
        return self.memory_mib << 20 or max(MIN_MEMORY, _machine_memory() * 3 // 4)

    @property
    def cause(self) -> str:
        """Why the process was ended, if a limit did it."""
        if self._watch and self._watch.cause:
            return self._watch.cause
        if self._exit_code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return ""
        if self._group and self._group.exhausted():
            return f"it reached c.SandboxProvisioner.memory_mib, {gibibytes(self.memory_bytes)}"
        return f"killed after at most {self.cpu_seconds} CPU seconds" if self.cpu_seconds else ""

    def describe_limits(self) -> str:
        """Say in a few words what is limited, and how."""
        how = "in all" if self._group else "in all, watched"
        parts = [f"memory {gibibytes(self.memory_bytes)} {how}"]
        parts.append(f"{self.processes} processes")
        if self.cpu_seconds:
            parts.append(f"{self.cpu_seconds} CPU seconds")
        if self.tier == "bubblewrap":
            parts.append(f"private folder {self.private_size_mib} MiB")
        return ", ".join(parts)

    def _launch(
        self, kwargs: dict[str, Any], cmd: list[str], env: dict[str, str]
    ) -> dict[str, Any]:
        assert self._sockets
        self._group = cgroup.make(memory=self.memory_bytes, processes=self.processes)
        if self._group:
            cmd = self._group.wrap(cmd)
        kept = (*self._sockets.descriptors.values(), *self._descriptors.numbers)
        return kwargs | {"cmd": cmd, "env": env, "cwd": "/", "pass_fds": kept}

    def _close_log(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    # -- the tiers

    def _in_bubblewrap(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        uid, work = unique_uid(), self._work(Path(bubblewrap.HOME))
        assert self.late_files is not None
        assert self.parent
        assert self._sockets
        programs = [*self.programs, self.kernel_spec.resource_dir] if self.socket_folder else []
        self._policy = policy = Policy(self.shares, self.modules, programs=programs)
        search = search_path()
        home = bubblewrap.HOME
        inherited = inherited_path({path: path for path in search})
        environment = guest_environment(f"{home}/tmp", home, inherited)
        sockets: list[str] | None = None
        read, write, command = [], [], []
        if self.socket_folder:
            if uid:
                self._sockets.open_to(uid)
            connection = self._descriptors.add_text(json.dumps(self._connection()))
            file = self.parent.connection_file
            sockets = bubblewrap.own_sockets(self._sockets.folder, file, connection)
            read, write, command = [file], [str(self._sockets.folder)], kwargs["cmd"]
            environment |= self.kernel_spec.env
        landlocked = lockdown.landlock_abi() >= lockdown.MIN_ABI
        arguments = bubblewrap.arguments(
            policy,
            uid=uid,
            work=work,
            private_size=self.private_size_mib << 20,
            late_files=self.late_files.shown,
            environment=environment,
            descriptors=self._descriptors,
            sockets=sockets,
            landlocked=landlocked,
        )
        rules = bubblewrap.landlock_rules(policy, read=read, write=write)
        plan = self._plan(
            str(work),
            uid,
            policy=policy,
            late_files=Path(bubblewrap.LATE_FILES),
            landlock=rules if landlocked else None,
            search=search,
            command=command,
        )
        # not in its command, which is there for all to read
        listed = self._descriptors.add_text("".join(f"{word}\0" for word in arguments))
        program = shutil.which("bwrap") or "bwrap"
        cmd = [program, "--args", str(listed), "--", *launcher(), plan]
        return self._launch(kwargs, cmd, {"PATH": "/usr/bin:/bin"})

    def _work(self, home: Path) -> Path:
        """Return a working folder so deep that paths such as ``../x`` have their place above it."""
        ups = max([1, *(name.count("../") for name, _ in self._above)])
        return home.joinpath(*["up"] * (ups - 1), "work")

    def _in_landlock(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        uid = unique_uid()
        assert self.late_files is not None
        # a new one at each start: nothing of the last one's is there
        self._private = Folder(self._root)
        if uid:
            self._private.path.chmod(0o711)
        private = self._private.path / "home"
        policy = Policy(self.shares, self.modules, reaches=[private])
        rules = landlock.rules(policy, private, self.late_files.shown)
        search = landlock.prepare(private, self._work(private), policy)
        if uid:
            for path in (private, *private.rglob("*")):
                os.chown(path, uid, uid, follow_symlinks=False)
        plan = self._plan(
            str(self._work(private)),
            uid,
            policy=policy,
            late_files=self.late_files.shown,
            landlock=rules,
            search=search.values(),
        )
        environment = landlock.environment(private, inherited_path(search))
        return self._launch(kwargs, [*launcher(), plan], environment)

    def _unconfined(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Run without a sandbox: only if the user asked for it; every run's header says so."""
        if self.socket_folder:
            return kwargs
        assert self.parent
        assert self._sockets
        self._sockets.leave_to_kernel()
        cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", self.parent.connection_file]
        return kwargs | {"cmd": cmd}


# -- choosing what is shared, and a tier


def _choose_shares(
    data: list[str], folder: Path, *, exposed: list[str]
) -> tuple[tuple[list[Share], str], list[tuple[str, str]], list[Share]]:
    """Return the shares and why there are none, what lies above the folder, and modules."""
    shares = sharing.resolve(data, folder, exposed=exposed)
    return shares, sharing.above(data, folder), imports(exposed=exposed)


def choose_tier(isolation: str, *, own_sockets: bool = False) -> str:
    """Return the tier to use; only bubblewrap lets a kernel bind its own sockets.

    Raises
    ------
    SandboxError
        The tier asked for, or with ``"auto"`` any tier, cannot work here.
    """
    if isolation == "none":
        return "none"
    checks = {"bubblewrap": bubblewrap.check, "landlock": landlock.check}
    if own_sockets:
        checks["landlock"] = lambda: "does not let a kernel bind its own sockets, as this one does"
    wanted = checks if isolation == "auto" else {isolation: checks[isolation]}
    problems = {}
    for tier, check in wanted.items():
        problems[tier] = check()
        if not problems[tier]:
            return tier
    why = "; ".join(f"{tier}: {problem}" for tier, problem in problems.items())
    raise SandboxError(f"no sandbox can start here ({why}); {REMEDIES}")


# -- measures


def _machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the container, if that has fewer."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *cgroup.memory_limits()])
