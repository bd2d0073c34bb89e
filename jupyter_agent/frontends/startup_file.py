"""``jupyter agent setup``: a startup file with which every IPython kernel knows the magics.

It declares IPython's lazy magics (``MagicsManager.register_lazy``) and imports nothing of ours: the
user's kernels of other environments have no jupyter_agent, and those that have it start as fast as
before. A file of its own leaves the user's ``ipython_config.py`` and its lazy magics alone.
"""

from __future__ import annotations

from pathlib import Path

from IPython.paths import get_ipython_dir

from jupyter_agent._files import write_whole
from jupyter_agent.errors import UsageError

__all__ = ["remove", "write"]

_MARK = "# Written by `jupyter agent setup`; `jupyter agent setup --undo` removes it.\n"
_TEXT = f"""{_MARK}\
# %%agent, %agent and %%sandbox are known without %load_ext, and loaded when they are first used.


def _declare_jupyter_agent(shell):
    try:
        from IPython.core.completer import context_matcher
    except ImportError:  # before IPython 8.6
        return

    @context_matcher(identifier="jupyter_agent")
    def complete(context):
        nothing = {{"completions": [], "suppress": False}}
        if "%agent" not in context.full_text.split("\\n")[context.cursor_line]:
            return nothing
        try:
            shell.run_line_magic("load_ext", "jupyter_agent")
        except ImportError:  # this kernel's Python does not have it
            return nothing
        first = shell.Completer.custom_matchers[0]
        return nothing if first is complete else first(context)

    for name in ("agent", "sandbox"):
        shell.magics_manager.register_lazy(name, "jupyter_agent")
    shell.Completer.custom_matchers.insert(0, complete)


_declare_jupyter_agent(get_ipython())
del _declare_jupyter_agent
"""


def write() -> str:
    """Write the file; return what is so now.

    Raises
    ------
    UsageError
        Somebody else's file is there, or it cannot be written.
    """
    path = _path()
    if _is_ours(path) is False:
        raise UsageError(f"{path} was not written by this command; rename it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _TEXT.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return (
        f"Wrote {path}.\nIn kernels that start from now on, %%agent works without %load_ext; "
        "`jupyter agent setup --undo` takes that back."
    )


def remove() -> str:
    """Remove the file; return what is so now.

    Raises
    ------
    UsageError
        Somebody else's file is there, or it cannot be removed.
    """
    path = _path()
    match _is_ours(path):
        case None:
            return f"Nothing to undo: there is no {path}."
        case False:
            raise UsageError(f"{path} was not written by this command, and stays")
    try:
        path.unlink()
    except OSError as error:
        raise UsageError(f"cannot remove {path}: {error.strerror}") from None
    return f"Removed {path}. In kernels that start from now on, %load_ext jupyter_agent is needed."


def _path() -> Path:
    return Path(get_ipython_dir(), "profile_default", "startup", "50-jupyter-agent.py")


def _is_ours(path: Path) -> bool | None:
    """Tell whether this command has written the file; None if there is none."""
    try:
        return path.read_bytes().startswith(_MARK.encode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
