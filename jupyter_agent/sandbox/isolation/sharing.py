"""Choose which of the user's files are shared, and under which names (``--data``)."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path

from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.isolation.folder_search import (
    Budget,
    Share,
    children,
    count_of,
    is_among,
    look_through,
    secrets_of_tools,
)
from jupyter_agent.sandbox.isolation.never_shared import (
    too_wide,
    whose_home,
)
from jupyter_agent.sandbox.isolation.secret_contents import could_hold_secret, holds_secret
from jupyter_agent.sandbox.isolation.secret_names import is_secret_folder, is_secret_name

__all__ = [
    "above",
    "absolute",
    "all_exposed",
    "check",
    "describe",
    "escaped",
    "is_plain",
    "left_out",
    "listing",
    "resolve",
    "shown_names",
    "too_wide",
]

MAX_NAMED = 3
MAX_UP = 8  # folders above that a path may begin in to be found by it
MAX_PLAIN_FILES = 100  # of a home folder
MORE = "name files or folders in it: --data PATH"


# -- what is shared


def resolve(
    data: list[str], folder: Path, *, exposed: Sequence[str] = ()
) -> tuple[list[Share], str]:
    """Say what is shared, and why not if nothing is.

    Parameters
    ----------
    data
        Paths as the user typed them, relative to ``folder``; ``"."`` is the folder itself, and is
        left out with a reason where it would share too much.
    exposed
        Paths that the user has named as no secrets, whatever they look like.

    Raises
    ------
    UsageError
        A path is missing or unreadable, or would share a home folder, ``/`` or a temporary root.
    """
    found, reason = check(data, folder, exposed=exposed)
    open_to_all = all_exposed(exposed, folder)
    budget = Budget()
    shares = []
    for typed, path in found:
        name = _name(typed, path, folder)
        shares.append(look_through(path, name, exposed=open_to_all, budget=budget))
    if reason and (whose := whose_home(folder.resolve())):
        beside, note = _plain_files(folder.resolve(), exposed=open_to_all, budget=budget)
        shares += beside
        reason = f"{folder} is {whose}: of its files, those that stand in it alone{note}; {MORE}"
    return shares, reason


def _plain_files(folder: Path, *, exposed: Set[Path], budget: Budget) -> tuple[list[Share], str]:
    """Share the files in a home folder, but none of its folders; say what was left out."""
    shares: list[Share] = []
    secrets = unreached = 0
    for path in children(folder):
        if not is_plain(path):
            continue
        if len(shares) == MAX_PLAIN_FILES or budget.is_spent():
            unreached += 1
            continue
        share = look_through(path, path.name, exposed=exposed, budget=budget, typed=False)
        if share.shown:
            shares.append(share)
        secrets += "secret" in share.note
    note = f", {count_of(secrets, 'path')} left out as secret" if secrets else ""
    note += f", {count_of(unreached, 'file')} left out unchecked" if unreached else ""
    return shares, note


def is_plain(path: Path) -> bool:
    """Tell whether a path is a file that is shared of a home folder, unless it is a secret."""
    return not (path.name.startswith(".") or path.is_symlink()) and path.is_file()


def check(
    data: list[str], folder: Path, *, exposed: Sequence[str] = ()
) -> tuple[list[tuple[str, Path]], str]:
    """Find the paths that are shared, and why not if none is, without looking into folders.

    Raises
    ------
    UsageError
        As `resolve` does.
    """
    found, reason = [], ""
    open_to_all = all_exposed(exposed, folder)
    for typed in data:
        path = absolute(typed, folder)
        why = too_wide(path)
        secret = _in_secret(path) and not is_among(path, open_to_all)
        if typed == "." and (why or secret):
            what = why or "where secrets are kept"
            reason = f"{path} is {what}; {MORE}"
        elif secret:
            raise UsageError(f"--data {typed!r}: {path} is where secrets are kept; {_copy(path)}")
        elif why:
            raise UsageError(
                f"--data {typed!r}: that is {why}; name the files or folders in it that are needed"
            )
        else:
            _check_readable(path, typed)
            if (
                not is_among(path, open_to_all)
                and path.is_file()
                and could_hold_secret(path.name)
                and holds_secret(str(path))
            ):
                raise UsageError(
                    f"--data {typed!r}: {path} holds what looks like a key, token or password; "
                    f"{_copy(path)}"
                )
            found.append((typed, path))
    return found, reason


def _check_readable(path: Path, typed: str) -> None:
    if not path.exists():
        advice = "say it alone to share nothing" if typed == "none" else "check the spelling"
        raise UsageError(f"--data {typed!r}: there is no {path}; {advice}")
    if not (path.is_file() or path.is_dir()):
        raise UsageError(f"--data {typed!r}: {path} is neither a file nor a folder")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise UsageError(f"--data {typed!r}: {path} cannot be read; check its permissions")


def _copy(path: Path) -> str:
    return (
        "copy what is needed elsewhere, or say that it is none: "
        f"c.SandboxProvisioner.exposed = [{str(path)!r}]"
    )


def _name(typed: str, path: Path, folder: Path) -> str:
    """Return the name of a path in the working folder: as typed if below it, else its last part.

    The name of a link is the link's, not that of what it leads to.
    """
    if typed == ".":
        return ""
    named = Path(os.path.normpath(folder / Path(typed).expanduser()))
    for each, top in ((named, folder), (named, folder.resolve()), (path, folder.resolve())):
        if each.is_relative_to(top) and each != top:
            return str(each.relative_to(top))
    return named.name or path.name


def above(data: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Return each path that was typed with ``..``, and the real path."""
    typed = {os.path.normpath(each): each for each in data}
    return [
        (name, str(absolute(each, folder)))
        for name, each in typed.items()
        if name.startswith("../") and name.count("../") <= MAX_UP
    ]


def absolute(typed: str, folder: Path) -> Path:
    """Return the real path that the user has typed.

    Raises
    ------
    UsageError
        It is empty, or no file can have it.
    """
    if not typed:
        raise UsageError(f"the path {typed!r} is empty; is a variable empty?")
    try:
        return (folder / Path(typed).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop, a null
        raise UsageError(f"{typed!r} is not a valid path: {error}") from None


def all_exposed(exposed: Sequence[str], folder: Path) -> set[Path]:
    """Return the paths that the user has said are not secret."""
    return {absolute(typed, folder) for typed in exposed}


def _in_secret(path: Path) -> bool:
    """Tell whether a path lies in a folder where secrets are kept, or is such a file."""
    named = is_secret_folder(path.name) if path.is_dir() else is_secret_name(path.name)
    above = any(is_secret_folder(parent.name) for parent in path.parents)
    return named or above or is_among(path, secrets_of_tools())


# -- what is said of it


def listing(shares: list[Share], max_names: int = 40) -> str:
    """List the shared files by the names that code in the sandbox uses."""
    names = shown_names(shares)
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(map(escaped, names[:max_names])) + more


def shown_names(shares: list[Share]) -> list[str]:
    """Name the shared files and folders, folders with a slash at the end."""
    return [name for share in shares for name in _shown(share)]


def _shown(share: Share) -> list[str]:
    hidden = set(share.hidden)
    above = {parent for path in hidden for parent in path.parents}

    def leads_inside(link: Path) -> bool:
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError):  # it leads nowhere, or in a circle
            return False
        return real.is_relative_to(share.path) and not is_among(real, hidden) and real.exists()

    def is_shown(path: Path) -> bool:
        waiting = [path]
        while waiting:
            each = waiting.pop()
            if each.is_symlink():
                if leads_inside(each):
                    return True
            elif each in above and each not in hidden:
                waiting += children(each)
            elif each not in hidden:
                return True
        return False

    if share.name:
        return [share.name + "/" * share.path.is_dir()] if is_shown(share.path) else []
    shown = filter(is_shown, children(share.path))
    return [child.name + "/" * child.is_dir() for child in shown]


def escaped(name: str) -> str:
    """Escape characters that are invisible or begin a new line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def describe(shares: list[Share], reason: str, modules: Sequence[Share] = ()) -> str:
    """Say in a few words what the sandbox can read, and import from elsewhere."""
    data = _some([_describe(share) for share in shares]) or "no files"
    data += f" ({escaped(reason)})" if reason else ""
    if not modules:
        return data
    names = [f"{share.path.name}{'/' * share.path.is_dir()}" for share in modules]
    places = _some([*dict.fromkeys(str(share.path.parent) for share in modules)])
    notes = _some([f"{share.path.name}/ {share.note}" for share in modules if share.note])
    named = escaped("; ".join(filter(None, [_some(names), notes])))
    return f"{data}, and modules of {escaped(places)} ({named})"


def left_out(shares: Sequence[Share], reason: str) -> str:
    """Say in a few words what of the user's files cannot be read, by numbers alone."""
    notes = [f"{share.name or share.path.name}: {share.note}" for share in shares if share.note]
    return "; ".join(map(escaped, [*([reason] if reason else []), *notes]))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _describe(share: Share) -> str:
    name = escaped(share.name or f"{share.path.name}/")
    if not share.note:
        return name
    remedy = "; c.SandboxProvisioner.exposed shows them" if "secret" in share.note else ""
    return f"{name} ({share.note}{remedy})"
