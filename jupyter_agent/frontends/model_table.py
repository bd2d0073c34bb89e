"""Show which models can be used here, and what to do for the others, as a table."""

from __future__ import annotations

import functools

from jupyter_agent._threads import run_in_thread
from jupyter_agent.models.available import Way, ways
from jupyter_agent.views.tables import Bundle, table

__all__ = ["IN_NOTEBOOK", "IN_TERMINAL", "model_table"]

IN_NOTEBOOK = "%agent use {}"
IN_TERMINAL = "-m {}"


async def model_table(configured: str, *, line: str = IN_NOTEBOOK) -> Bundle:
    """Look for the models, and list each way to one with a line to copy.

    Parameters
    ----------
    configured
        The model in the settings, whose server may get a key.
    line
        How one is chosen here.
    """
    found = await run_in_thread(functools.partial(ways, configured))
    rows = [[f"`{way.form}`", way.found, _what_to_do(way, line)] for way in found]
    return table(["model", "here", "to use it"], rows)


def _what_to_do(way: Way, line: str) -> str:
    if way.ready:
        return f"`{line.format(way.model)}`"
    return f"{way.todo}: `{line.format(way.example)}`" if way.example else way.todo
