"""Have IPython complete the lines of the magics, without Python's names among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

if TYPE_CHECKING:
    from jupyter_agent.frontends.completion import Sources
    from jupyter_agent.session import Session

__all__ = ["add_completer"]

_ID = "jupyter_agent"  # also of the completer in the startup file, which this one replaces


def add_completer(shell: InteractiveShell) -> None:
    """Have IPython ask us for completions first."""
    others = [
        each
        for each in shell.Completer.custom_matchers
        if getattr(each, "matcher_identifier", "") != _ID
    ]
    shell.Completer.custom_matchers = [_matcher, *others]


class _NoChoice:
    """No completions, in a form for which IPython asks no other completer."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[SimpleCompletion]:
        return iter(())


@context_matcher(identifier=_ID)
def _matcher(context: CompletionContext) -> SimpleMatcherResult:
    """Complete the lines of our magics, and keep Python's names out of them."""
    lines = context.full_text.split("\n")
    line = lines[context.cursor_line]
    if "%agent" in line:
        place = sum(len(each) + 1 for each in lines[: context.cursor_line])
        place += context.cursor_position
        if (found := _completions(context.full_text, place)) is not None:
            return found
    return SimpleMatcherResult(completions=[], suppress=False)


def _completions(code: str, place: int) -> SimpleMatcherResult | None:
    from jupyter_agent.frontends.completion import complete

    shell = get_ipython()
    assert shell
    if (found := complete(code, place, _sources(shell))) is None:
        return None
    choices = [SimpleCompletion(one.text, type=one.kind) for one in found.choices]
    return SimpleMatcherResult(
        completions=choices or _NoChoice(),  # type: ignore[typeddict-item]  # it has a length
        suppress=True,
        ordered=True,
        matched_fragment=code[found.start : place],
    )


def _sources(shell: InteractiveShell) -> Sources:
    """Collect what lines are completed with; no session is made for that."""
    from jupyter_agent import settings
    from jupyter_agent.frontends.completion import Sources, known_models
    from jupyter_agent.frontends.options import CELL_OPTIONS, VALUE_OPTIONS

    magics = shell.magics_manager.registry.get("AgentMagics")
    session: Session | None = vars(magics).get("session") if magics else None
    stored = settings.merge_with_files(shell.config).Session
    configured = session.model if session else str(stored.get("model", ""))
    own = [name for name in shell.user_ns if name not in shell.user_ns_hidden]
    return Sources(
        [*CELL_OPTIONS, *VALUE_OPTIONS],
        session.folder if session else Path.cwd(),
        models=known_models(session, configured),
        configured=configured,
        variables={name: shell.user_ns[name] for name in own},
        files=lambda: _files(session) if session else [],
    )


def _files(session: Session) -> list[str]:
    from jupyter_agent.frontends.completion import working_files
    from jupyter_agent.frontends.event_loop import shared_loop

    return shared_loop().call(working_files(session))
