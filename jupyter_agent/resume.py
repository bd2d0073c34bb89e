"""Resume a saved run: continue in its notebook, or show a finished run again and rerun its code."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from jupyter_agent._files import unwritable
from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.workspace import Workspace
from jupyter_agent.transcript.metadata import KEY, facts_of
from jupyter_agent.transcript.notebook import RUN_ROLES, Change, Transcript

__all__ = ["choose_transcript", "finished_run", "replay"]


def choose_transcript(current: Transcript, saved: Transcript) -> Transcript:
    """Return the transcript that the next run is added to: the session's own or the saved one.

    Parameters
    ----------
    saved
        The transcript of the file that the run is saved to; it has no cells if that file is new.

    Raises
    ------
    UsageError
        Both hold runs.
    """
    if saved is current or not saved.cells:
        return current
    if current.cells:
        raise UsageError(
            f"{str(saved.path)!r} holds another run, and this session has runs of its own; "
            "choose another file, or forget the session's runs with %agent reset"
        )
    return saved


def finished_run(transcript: Transcript, task: str) -> list[NotebookNode]:
    """Copy the cells of the last finished run of a task, the task's own cell first.

    The copies get new ids, because the notebook that shows them may use the old ones already.
    """
    found: list[NotebookNode] = []
    for cell in reversed(transcript.cells):
        facts = facts_of(cell)
        if facts.get("given"):
            continue
        found.insert(0, cell)
        if facts.get("role") == "task":
            if cell.source == task and _is_finished(found) and not facts.get("replaced"):
                return [_copy(cell) for cell in found if not facts_of(cell).get("deleted")]
            found = []
        elif facts.get("role") not in RUN_ROLES:
            found = []
    return []


def _is_finished(run: list[NotebookNode]) -> bool:
    return len(run) > 1 and facts_of(run[-1])["role"] == "prose"


def _copy(cell: NotebookNode) -> NotebookNode:
    copied = copy.deepcopy(cell)
    copied.id = secrets.token_hex(4)
    return copied


async def replay(
    cells: list[NotebookNode], workspace: Workspace, *, sandbox: str, saved: Transcript
) -> AsyncGenerator[Change, None]:
    """Show a finished run again and run its code again, without a model.

    The saved run is not changed.

    Parameters
    ----------
    cells
        Copies of the run's cells, from `finished_run`.
    sandbox
        The description of the sandbox in which the code runs now.
    saved
        The transcript of the run.
    """
    reason = unwritable(saved.path) if saved.path else ""
    scratch = Transcript()
    for cell in cells:
        facts = cell.metadata[KEY]
        for cost in ("usage", "failed"):
            facts.pop(cost, None)
        if facts["role"] == "task":
            model = f"{facts.get('model', 'a model')}, as recorded (--rerun asks the model again)"
            model += f"; {reason}, nothing is saved" if reason else ""
            facts.update(model=model, sandbox=sandbox)
        if facts["role"] == "code":
            cell.outputs = []
            facts["running"] = True
            yield Change(cell)
            if "refused" not in facts:
                async with aclosing(workspace.execute(cell.source)) as outputs:
                    async for output in outputs:
                        scratch.add_output(cell, output)
                        yield Change(cell)
            facts.pop("running")
        yield Change(cell, done=True)
    await workspace.collect()
