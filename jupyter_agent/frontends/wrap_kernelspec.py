"""``python -m jupyter_agent.sandbox install``: wrap an installed kernelspec in the sandbox.

``python -m jupyter_agent.sandbox install python3 --read-only /data`` adds ``python3-sandboxed``.
IPython kernels of this environment get their sockets from the host. Any other kernel binds its own
sockets in a folder that is shared with it, which is a weaker promise and needs bubblewrap.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.secret_names import is_secret_folder, is_secret_name

__all__ = ["main", "wrap"]

PROVISIONER = "jupyter-agent-sandbox"
LOCAL = "local-provisioner"  # jupyter_client's default
IPYTHON = ("ipykernel_launcher", "ipykernel")
UNSUPPORTED = ("supported_encryption",)  # sockets in a private folder need no encryption
MISUSED = 2
WEAKER = (
    "this kernel binds its own sockets, in a folder shared with it: it needs bubblewrap, and what "
    "runs in it can point Jupyter's connections at other sockets of yours (SECURITY.md)"
)
WHOSE = """
import os, sys
print(sys.prefix, "%d.%d" % sys.version_info[:2], sys.base_prefix, sep="\\n")
print(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 installed, 2 refused."""
    options = _parser().parse_args(argv)
    try:
        where = _install(options)
    except UsageError as error:
        print(f"jupyter_agent.sandbox: {error}", file=sys.stderr)  # noqa: T201
        return MISUSED
    print(f"installed {where}")  # noqa: T201
    if _config(where).get("socket_folder"):
        print(WEAKER)  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m jupyter_agent.sandbox install",
        description="Install a sandboxed copy of a kernelspec. Exit code: 0 installed, 2 refused.",
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
    parser.add_argument(
        "--program",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="files and folders a kernel's program needs, shared as they are, if not below /usr",
    )
    parser.add_argument("--replace", action="store_true", help="replace a kernelspec of that name")
    return parser


def _install(options: argparse.Namespace) -> str:
    """Carry the command out; return the folder of the new kernelspec."""
    manager = KernelSpecManager()
    spec = _find(manager, options.kernel)
    name = (options.name or f"{options.kernel}-sandboxed").lower()
    if name == options.kernel.lower():
        raise UsageError(f"--name {name!r}: the original kernelspec has this name; choose another")
    there = manager.find_kernel_specs().get(name)
    prefix = None if options.user else str(Path(options.prefix).absolute())
    root = manager.user_kernel_dir if options.user else f"{prefix}/share/jupyter/kernels"
    target = Path(root, name)
    if not options.replace and (there or target.exists()):
        raise UsageError(
            f"there is a kernelspec {name!r} in {there or target}; add --replace, or choose "
            "another --name"
        )
    wrapped = wrap(
        spec, options.read_only, programs=options.program, display_name=options.display_name
    )
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
    spec: KernelSpec,
    read_only: Sequence[str] = (),
    *,
    programs: Sequence[str] = (),
    display_name: str | None = None,
) -> dict[str, Any]:
    """Return what the ``kernel.json`` of a kernelspec's sandboxed copy holds.

    Parameters
    ----------
    read_only
        Paths that the kernel may read besides the notebook's folder; relative ones start in the
        current folder. Without any, ``c.SandboxProvisioner.data`` decides.
    programs
        Paths that a kernel's program needs, if it is no IPython kernel of this environment.

    Raises
    ------
    UsageError
        The sandbox cannot start this kernel, or a path must not be shared.
    """
    _check_provisioner(spec)
    metadata = {key: spec.metadata[key] for key in spec.metadata if key not in UNSUPPORTED}
    config: dict[str, Any] = {"data": [".", *map(_checked, read_only)]} if read_only else {}
    ours = _is_ours(spec)
    if not ours:
        config |= {"socket_folder": True, "programs": _programs(spec, programs)}
    provisioner = {"provisioner_name": PROVISIONER} | ({"config": config} if config else {})
    return {
        "argv": spec.argv,
        "display_name": display_name or f"{spec.display_name} (sandboxed)",
        "language": spec.language,
        "interrupt_mode": "message" if ours else spec.interrupt_mode,
        **({"env": spec.env} if spec.env and not ours else {}),
        "metadata": metadata | {"debugger": False, "kernel_provisioner": provisioner},
    }


def _config(folder: str) -> dict[str, Any]:
    """Read the sandbox settings of an installed copy."""
    metadata = json.loads(Path(folder, "kernel.json").read_text())["metadata"]
    config: dict[str, Any] = metadata["kernel_provisioner"].get("config", {})
    return config


def _check_provisioner(spec: KernelSpec) -> None:
    """Refuse a kernel that Jupyter itself does not start."""
    name = repr(spec.display_name)
    provisioner = spec.metadata.get("kernel_provisioner", {}).get("provisioner_name", LOCAL)
    if provisioner == PROVISIONER:
        raise UsageError(f"kernel {name} is sandboxed already; choose its original")
    if provisioner != LOCAL:
        raise UsageError(
            f"kernel {name} is started by {provisioner!r}, which would be lost; "
            "only kernels that Jupyter itself starts can be sandboxed"
        )
    if not spec.argv:
        raise UsageError(f"kernel {name} has no command: argv is empty in its kernel.json")


def _is_ours(spec: KernelSpec) -> bool:
    """Tell whether the sandbox's own launcher can replace this IPython kernel."""
    module = spec.argv[spec.argv.index("-m") + 1 :] if "-m" in spec.argv else []
    asked = [word for word in module[1:] if word not in ("-f", "{connection_file}")]
    env = [name for name in spec.env if name != "PYDEVD_DISABLE_FILE_VALIDATION"]
    plain = bool(set(module[:1]) & set(IPYTHON)) and not asked and not env
    return plain and _paths_of_python(spec.argv[0])[:2] in ([], [sys.prefix, _version(sys)])


def _version(of: Any) -> str:
    return "{}.{}".format(*of.version_info[:2])


def _paths_of_python(program: str) -> list[str]:
    """Ask a Python for its prefix, version and other folders; empty for Jupyter's own Python."""
    major, minor = sys.version_info[:2]
    if program in ("python", f"python{major}", f"python{major}.{minor}"):
        return []  # jupyter_client takes its own interpreter for these
    try:
        asked = subprocess.run(
            [program, "-I", "-c", WHOSE], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{program!r} cannot start: {error}") from None
    return asked.stdout.splitlines()


def _programs(spec: KernelSpec, named: Sequence[str]) -> list[str]:
    """Return the paths outside /usr that a kernel's command needs.

    Raises
    ------
    UsageError
        Its program does not exist, or is below none of the named paths.
    """
    own = re.fullmatch(r"python[\d.]*", spec.argv[0]) and not _paths_of_python(spec.argv[0])
    program = sys.executable if own else shutil.which(spec.argv[0])
    if program is None:
        raise UsageError(
            f"kernel {spec.display_name!r} runs {spec.argv[0]!r}, which does not exist; install it "
            "or correct its kernel.json"
        )
    paths = [_wide_enough(path) for path in named]
    if re.fullmatch(r"python[\d.]*", Path(program).name):
        prefix, _, *more = _paths_of_python(program) or [sys.prefix, "", sys.base_prefix]
        paths += [prefix, *more]
    real = Path(program).resolve()
    if not any(real.is_relative_to(path) for path in ["/usr", "/bin", *paths]):
        raise UsageError(
            f"kernel {spec.display_name!r} runs {str(real)!r}; name the folder of that program "
            "and what it needs: --program PATH"
        )
    outside = [path for path in dict.fromkeys(paths) if not Path(path).is_relative_to("/usr")]
    return [path for path in outside if Path(path).exists()]


def _wide_enough(typed: str) -> str:
    path = Path(typed).expanduser().resolve()
    if why := "missing" if not path.exists() else sharing.too_wide(path):
        raise UsageError(f"--program {typed!r}: {path} is {why}; name what the program needs")
    return os.fspath(path)


def _checked(typed: str) -> str:
    """Return an absolute path to be shared, for the kernelspec.

    Raises
    ------
    UsageError
        It is missing, unreadable, too wide, or looks like a secret.
    """
    path = Path(typed).expanduser().resolve()
    for part in path.parts[1:]:
        if is_secret_folder(part) or (part == path.name and is_secret_name(part)):
            raise UsageError(
                f"--read-only {typed!r}: {part!r} looks like a secret; share a copy of what is "
                "needed of it"
            )
    try:
        sharing.check([os.fspath(path)], path)
    except UsageError as error:
        reason = str(error).partition(": ")[2]
        raise UsageError(f"--read-only {typed!r}: {reason}") from None
    return os.fspath(path)


if __name__ == "__main__":
    sys.exit(main())
