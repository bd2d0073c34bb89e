"""Estimate the tokens of a request, and sum up the older cells of a long run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.sandbox.filter.markdown import Clean, clean_markdown, code_block, folded
from jupyter_agent.transcript.incremental import Fingerprint, IncrementalList, fingerprints_of
from jupyter_agent.transcript.metadata import facts_of

__all__ = ["CHARACTERS_A_TOKEN", "INSTRUCTION", "RequestSizes", "digest", "size", "split", "write"]

INSTRUCTION = """\
The talk is about to be longer than you can read. Sum up everything above for yourself: you will \
go on from your summary alone. Reply with the summary only, in Markdown, without a python block:

- each task and, where there is one, its answer, with its numbers;
- what was found out so far: facts, numbers, names of columns and files;
- which variables and functions the kernel holds, and what is in them;
- what went wrong, and what to do next."""

_TITLE = (
    "Summary of the cells above. The agent reads it instead of them; edit it as you like, "
    "or delete it to have them read again."
)
_DONE = "What was done:"
_WRAPPED = re.compile(
    rf"<details[^>]*>\n<summary>.*?</summary>\n(?:.*?\n{_DONE}\n)?(.*)</details>\s*", re.DOTALL
)
CHARACTERS_A_TOKEN = 4  # a rule of thumb, for what no server has counted
_TOKENS_A_PICTURE = 1000  # vendors count 700 to 1,600 for one of 1,024 px


# -- sizes


class RequestSizes:
    """Estimates the tokens of requests; measures only cells that have changed."""

    def __init__(self) -> None:
        self._sums = IncrementalList(_add_size)

    def of(
        self,
        cells: Sequence[NotebookNode],
        head: int,
        fingerprints: Sequence[Fingerprint] | None = None,
    ) -> int:
        """Estimate a request: the server's last count, and the size of what was added since.

        Without a count, the characters are counted, with ``head`` characters before the cells.
        """
        sums = self._sums.of(cells, fingerprints or fingerprints_of(cells))
        whole, counted = sums[-1] if sums else (0, -1)
        if counted < _counted_from(cells):
            return head // CHARACTERS_A_TOKEN + whole
        usage = facts_of(cells[counted])["usage"]
        since = whole - sums[counted][0] + _output_size(cells[counted])
        return int(usage["prompt"]) + int(usage["completion"]) + since


def _add_size(sums: list[tuple[int, int]], cells: Sequence[NotebookNode], index: int) -> None:
    """Add the size of all cells so far, and the index of the last one that a server counted."""
    whole, counted = sums[-1] if sums else (0, -1)
    usage = facts_of(cells[index]).get("usage", {})
    known = index if usage and not usage.get("estimated") else counted
    sums.append((whole + _cell_size(cells[index]), known))


def size(cells: Sequence[NotebookNode], head: int) -> int:
    """Estimate the tokens of one request; see `RequestSizes`."""
    return RequestSizes().of(cells, head)


def _counted_from(cells: Sequence[NotebookNode]) -> int:
    """Return the index from which counts are valid: those before the summary are too high."""
    last = facts_of(cells[0]).get("last") if cells else None
    if last is None:
        return 0
    return next((i + 1 for i, cell in enumerate(cells) if cell.get("id") == last), 0)


def _cell_size(cell: NotebookNode) -> int:
    text = len(cell.source) + len(facts_of(cell).get("note", ""))
    return text // CHARACTERS_A_TOKEN + _output_size(cell)


def _output_size(cell: NotebookNode) -> int:
    shown = facts_of(cell).get("shown", {})
    text = len(shown.get("text", "")) // CHARACTERS_A_TOKEN
    return text + _TOKENS_A_PICTURE * len(shown.get("pictures", ()))


# -- which cells are summed up


def split(cells: Sequence[NotebookNode], keep: int) -> int:
    """Return how many cells to sum up, so that the steps after them take ``keep`` tokens.

    0 if there is nothing to sum up.
    """
    first = len(cells)
    kept = 0
    for index in reversed(range(len(cells))):
        kept += _cell_size(cells[index])
        if kept > keep:
            break
        if _begins(cells, index):
            first = index
    old = {facts_of(cell).get("role") for cell in cells[:first]}
    return first if old & {"prose", "code", "end"} else 0


def _begins(cells: Sequence[NotebookNode], index: int) -> bool:
    """Tell whether a run or a step begins with this cell."""
    facts, before = facts_of(cells[index]), facts_of(cells[index - 1]) if index else {}
    return facts.get("role") == "task" or facts.get("step", 0) != before.get("step", 0)


# -- the summary


def write(task: NotebookNode | None, text: str) -> Clean:
    """Return the summary's source: the current task, word for word, then what was done."""
    parts = []
    if task is not None:
        parts += ["The task:", code_block(task.source, "text")]
        parts += [clean_markdown(note)] if (note := facts_of(task).get("note")) else []
        parts += [_DONE]
    return folded(_TITLE, Clean("\n\n".join([*parts, clean_markdown(text)])))


def digest(cells: Sequence[NotebookNode], max_characters: int) -> str:
    """Sum up cells without a model; the newest cells are kept longest."""
    old = "\n\n".join(_before(cell, max_characters // 2) for cell in cells)
    entries: list[str] = []
    for cell in reversed(cells):
        entry = _entry(cell)
        if sum(map(len, entries)) + len(entry) > max_characters - len(old):
            entries.insert(0, "[earlier cells are left out]")
            break
        entries.insert(0, entry)
    how = "[made by rule: how cells begin, and how their outputs end]"
    return "\n\n".join(filter(None, [old.strip(), how, *entries]))


def _before(cell: NotebookNode, max_characters: int) -> str:
    """Return the beginning of an earlier summary's list of what was done."""
    if facts_of(cell).get("role") != "summary":
        return ""
    wrapped = _WRAPPED.fullmatch(cell.source)
    return clean_markdown((wrapped[1] if wrapped else cell.source).strip()[:max_characters])


def _entry(cell: NotebookNode) -> str:
    facts = facts_of(cell)
    match facts.get("role"):
        case "task":
            return f"Task: {_line(cell.source)}"
        case "code":
            head = [_line(line) for line in cell.source.splitlines()[:3]]
            last = facts.get("shown", {}).get("text", "").rstrip().splitlines()[-1:]
            return code_block("\n".join([*head, *(f"# → {_line(line)}" for line in last)]), "text")
        case "summary":
            return ""
    return _line(cell.source)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"
