"""Wrap an installed kernelspec, so that what runs in it is confined.

``python -m jupyter_agent.sandbox install python3 --read-only /data`` adds ``python3-sandboxed``.
The sandbox starts IPython kernels of the environment it is installed in; all else is refused.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from traitlets import TraitError

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox import files

__all__ = ["main", "wrap"]

PROVISIONER = "jupyter-agent-sandbox"
LOCAL = "local-provisioner"  # jupyter_client's own, which a kernelspec need not name
IPYTHON = ("ipykernel_launcher", "ipykernel")
UNSUPPORTED = ("supported_encryption",)  # the host's sockets are its own, in a private folder
MISUSED = 2
WHOSE = "import sys; print(sys.prefix, *sys.version_info[:2], sep='\\n')"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 installed, 2 refused."""
    options = _parser().parse_args(argv)
    try:
        where = _install(options)
    except UsageError as error:
        print(f"jupyter_agent.sandbox: {error}", file=sys.stderr)  # noqa: T201
        return MISUSED
    print(f"installed {where}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m jupyter_agent.sandbox install",
        description="Install a sandboxed copy of an IPython kernelspec of this environment. "
        "Exit code: 0 installed, 2 refused.",
    )
    parser.add_argument("kernel", help="the kernelspec to copy, as jupyter kernelspec list has it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="install for you, in all environments")
    where.add_argument(
        "--sys-prefix",
        dest="prefix",
        action="store_const",
        const=sys.prefix,
        default=sys.prefix,
        help="install in this environment (the default: it is where the sandbox is)",
    )
    where.add_argument("--prefix", metavar="P", help="install in P/share/jupyter/kernels")
    parser.add_argument("--name", help="the new kernelspec's name (default: KERNEL-sandboxed)")
    parser.add_argument("--display-name", help="what front ends call it")
    parser.add_argument(
        "--read-only",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="files and folders the kernel may read beside the notebook's folder",
    )
    parser.add_argument("--replace", action="store_true", help="replace a kernelspec of that name")
    return parser


def _install(options: argparse.Namespace) -> str:
    """Carry the command out; return the folder of the new kernelspec."""
    manager = KernelSpecManager()
    spec = _find(manager, options.kernel)
    name = (options.name or f"{options.kernel}-sandboxed").lower()
    if name == options.kernel.lower():
        raise UsageError(f"--name {name!r}: that is the kernelspec to be copied; choose another")
    there = manager.find_kernel_specs().get(name)
    prefix = None if options.user else str(Path(options.prefix).absolute())
    root = manager.user_kernel_dir if options.user else f"{prefix}/share/jupyter/kernels"
    target = Path(root, name)
    if not options.replace and (there or target.exists()):
        raise UsageError(
            f"there is a kernelspec {name!r} in {there or target}; add --replace, or choose "
            "another --name"
        )
    wrapped = wrap(spec, options.read_only, display_name=options.display_name)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel")
        try:
            shutil.copytree(spec.resource_dir, source)
            (source / "kernel.json").write_text(json.dumps(wrapped, indent=1) + "\n")
            return manager.install_kernel_spec(str(source), name, user=options.user, prefix=prefix)
        except (OSError, ValueError) as error:  # ValueError: no valid name
            raise UsageError(f"cannot install {str(target)!r}: {error}") from None


def _find(manager: KernelSpecManager, name: str) -> KernelSpec:
    """Read a kernelspec; ``get_kernel_spec`` would hide one whose provisioner is missing."""
    known = manager.find_kernel_specs()
    folder = known.get(name.lower())
    if folder is None:
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(f"there is no kernelspec {name!r}; there are: {names}")
    try:
        spec: KernelSpec = KernelSpec.from_resource_dir(folder)
    except (OSError, ValueError, TraitError) as error:  # ValueError: kernel.json is not JSON
        raise UsageError(f"kernelspec {name!r} in {folder} cannot be read: {error}") from None
    return spec


def wrap(
    spec: KernelSpec, read_only: Sequence[str] = (), *, display_name: str | None = None
) -> dict[str, Any]:
    """Return what the ``kernel.json`` of a kernelspec's sandboxed copy holds.

    Parameters
    ----------
    read_only
        What the kernel may read beside the notebook's folder; relative paths start in the current
        folder. Without any, ``c.SandboxProvisioner.data`` keeps deciding.

    Raises
    ------
    UsageError
        The sandbox cannot start this kernel as it is, or a path is not to be shared.
    """
    _check_startable(spec)
    metadata = {key: spec.metadata[key] for key in spec.metadata if key not in UNSUPPORTED}
    provisioner: dict[str, Any] = {"provisioner_name": PROVISIONER}
    if read_only:
        provisioner["config"] = {"data": [".", *map(_checked, read_only)]}
    return {
        "argv": spec.argv,
        "display_name": display_name or f"{spec.display_name} (sandboxed)",
        "language": spec.language,
        "interrupt_mode": "message",
        "metadata": metadata | {"debugger": False, "kernel_provisioner": provisioner},
    }


def _check_startable(spec: KernelSpec) -> None:
    """Refuse what the sandbox would run otherwise than the kernelspec says, or not at all."""
    name = repr(spec.display_name)
    provisioner = spec.metadata.get("kernel_provisioner", {}).get("provisioner_name", LOCAL)
    if provisioner == PROVISIONER:
        raise UsageError(f"kernel {name} is sandboxed already; choose the one it was made of")
    if provisioner != LOCAL:
        raise UsageError(
            f"kernel {name} is started by {provisioner!r}, which would be lost; "
            "only kernels that Jupyter itself starts can be sandboxed"
        )
    module = spec.argv[spec.argv.index("-m") + 1 :][:1] if "-m" in spec.argv else []
    if not spec.argv or not set(module) & set(IPYTHON):
        raise UsageError(
            f"kernel {name} ({spec.language}) is no IPython kernel, and only those can be "
            f"sandboxed so far: its command is {' '.join(spec.argv)!r}"
        )
    if extra := _ignored(spec):
        raise UsageError(
            f"kernel {name} sets {', '.join(extra)}, which the sandbox does not pass on; "
            "take them out of its kernel.json"
        )
    _check_interpreter(spec.argv[0], name)


def _ignored(spec: KernelSpec) -> list[str]:
    """Name what a kernelspec asks for that no sandboxed kernel gets."""
    after = spec.argv[spec.argv.index("-m") + 2 :]
    arguments = [word for word in after if word not in ("-f", "{connection_file}")]
    return [f"{name}=" for name in spec.env if name != "PYDEVD_DISABLE_FILE_VALIDATION"] + arguments


def _check_interpreter(python: str, name: str) -> None:
    """Refuse another environment's Python: the sandbox runs the one that Jupyter runs in."""
    major, minor = sys.version_info[:2]
    if python in ("python", f"python{major}", f"python{major}.{minor}"):
        return  # jupyter_client takes its own interpreter for these
    try:
        asked = subprocess.run(
            [python, "-I", "-c", WHOSE], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"kernel {name} runs {python!r}, which cannot start: {error}") from None
    if asked.stdout.split("\n")[:3] != [sys.prefix, str(major), str(minor)]:
        raise UsageError(
            f"kernel {name} runs {python!r}, and a sandbox runs only the Python that Jupyter "
            f"itself runs in, here {sys.executable!r}; install jupyter-agent-kernel and Jupyter "
            "in that environment"
        )


def _checked(typed: str) -> str:
    """Return a path to be shared as the kernelspec names it: absolute, so it is the same anywhere.

    Raises
    ------
    UsageError
        It is missing, unreadable, too wide, or looks like a secret.
    """
    path = Path(typed).expanduser().resolve()
    for part in path.parts[1:]:
        if any(fnmatch.fnmatchcase(part.lower(), pattern) for pattern in files.SECRETS):
            raise UsageError(
                f"--read-only {typed!r}: {part!r} looks like a secret; share a copy of what is "
                "needed of it"
            )
    try:
        files.resolve([os.fspath(path)], path)
    except UsageError as error:
        reason = str(error).partition(": ")[2]
        raise UsageError(f"--read-only {typed!r}: {reason}") from None
    return os.fspath(path)


if __name__ == "__main__":
    sys.exit(main())
