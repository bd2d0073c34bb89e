"""``%agent fix``: the task to mend the user's last error, and the mended cell in its answer."""

from __future__ import annotations

import argparse
import shlex

from jupyter_agent.errors import UsageError
from jupyter_agent.frontends.options import wrong_line
from jupyter_agent.models.code_blocks import label
from jupyter_agent.sandbox.filter.host_commands import agents_code

__all__ = ["NO_ERROR", "NO_MENDED_CELL", "fix_options", "fix_task", "mended_cell"]

NO_ERROR = "there is no error of yours to mend: none of your own cells has failed in this kernel"
NO_MENDED_CELL = "The answer holds no mended cell (a block labelled text), so none is offered."


def fix_options(line: str, parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, str]:
    """Read what stands behind ``%agent fix``: words for the agent, and the flags of a run.

    Raises
    ------
    UsageError
        A flag does not exist, or has a wrong value.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe: "don't drop rows"
        words = line.split()
    options, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if word.startswith("-")]:
        what = f"unrecognized arguments: {' '.join(unknown)}"
        raise UsageError(wrong_line(what, command="%agent fix"))
    return options, " ".join(rest)


def fix_task(count: int, words: str) -> str:
    """Write the task.

    Parameters
    ----------
    count
        The execution count of the cell that failed; 0 if it is not known.
    words
        What the user says about it.
    """
    where = f", which is that of In [{count}]," if count else ""
    return "\n\n".join(
        filter(
            None,
            [
                f"Explain my last error{where} and mend its cell.",
                words,
                "End with an answer: what was wrong, in a few sentences, and then the whole mended "
                "cell in one block labelled `text`. I shall run it myself.",
            ],
        )
    )


def mended_cell(answer: str) -> str:
    """Return the code in the last block labelled ``text`` of an answer; empty if there is none.

    The code is the model's: it is for the user to read, and to run or not.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False})
    parser.core.ruler.enableOnly(["normalize", "block"])
    blocks = [token for token in parser.parse(answer) if token.type == "fence"]
    code = [token.content.rstrip() for token in blocks if label(token.info) in ("text", "")]
    return agents_code(code[-1]) if code else ""
