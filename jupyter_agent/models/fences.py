"""The fence parser: find the first fenced block of Python while its lines arrive.

Markdown's own parser says where blocks begin and end. It is asked only at lines that can change
that; a fence in a string, or in a cell that holds text, is hidden from it.
"""

from __future__ import annotations

import re

from jupyter_agent.models import code_blocks
from jupyter_agent.models.code_blocks import Fence, is_python, may_be_fence
from jupyter_agent.models.text_calls import read_text

__all__ = ["MAX_PARSED", "OPENS_THOUGHT", "THOUGHT", "BlockReader"]

MAX_PARSED = 2_000_000  # characters of one reply; those that are parsed twice count twice
WEIGHT_OF_A_LINE = 100  # characters that each line counts on top of its length

THOUGHT = (
    r"(?:ant|[\w-]{1,20}[_:-])?"
    r"(?:think(?:ing)?|thoughts?|reasoning|reflection|scratch_?pad|inner_monologue)"
)
OPENS_THOUGHT = re.compile(
    rf"(?<!\s)\s*(?:<{THOUGHT}>|\[THINK\]|\u25c1think\u25b7|<\|(?:begin_of_thought|START_THINKING)\|>"
    r"|<\|inner_prefix\|>|(?:<\|channel>|<unused94>)thought)",
    re.IGNORECASE,
)
_ODD_CLOSING = re.compile(r"([\s>]*)(`{3,}|~{3,})\s*(?:<[^<>\s]{1,40}>\s*)+")
_BACKTICKS = re.compile(r"([\s>]*)(`{3,})")
_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff"
_BLANK = f" \t\xa0{_UNSEEN}"
# Marks that end a turn or wrap code. Behind code that is not Python with them, they end the block.
_ENDS = (
    r"(?:</[\w:.-]{1,40}>|<[|\uff5c][^\s<>|\uff5c]{1,40}[|\uff5c]>|\[\|endofturn\|\]|<turn\|>"
    r"|<(?:\w+:)?(?:end_\w+|eo[ahst])>|\[EOS\]"
    # marks that begin another turn
    r"|(?:<\|(?:start_header_id|im_start|start)\|>|<start_of_turn>|<s>)(?:\s{0,3}\w{1,20})?"
    r"(?:<\|end_header_id\|>|\s{0,3}\[INST\])?)\s*"
)
_ENDS_TURN = re.compile(rf"[\s>]*(?:{_ENDS})+", re.IGNORECASE)
_MAX_END = 60  # characters
_LAST_END = re.compile(rf"(?:`{{3,}}|~{{3,}}|{_ENDS})$", re.IGNORECASE)
_NAMED_FENCE = re.compile(r"([\s>]*)(`{3,}|~{3,})\s*[^\s`]")
_TEXT_CELL = re.compile(r"\s*%%(?!time|timeit|capture|prun|python)\w")


class BlockReader:
    """Find the first block of Python in Markdown, line by line."""

    def __init__(self, *, fences: bool, room: int = MAX_PARSED) -> None:
        self.prose: list[str] = []
        self.code: str | None = None
        self.closed = False
        self.had_empty = False
        self.has_fences = False
        self.has_fence_in_line = False
        self.shown: int | None = None  # index in `prose` of the first Python block
        self.last: Fence | None = None  # the block that ends the text, with lines of `prose`
        self.is_text_cell = False  # whether the block is the text of a file, not code
        self.room = room
        self._fences = fences
        self._pending: list[str] = []  # lines that may still become another block
        self._fence: Fence | None = None
        self._inside: list[str] = []  # the lines of the block
        self._hidden: dict[int, str] = {}  # lines of the block that are hidden from the parser
        self._column = 0  # at which its fence begins
        self._began = 0  # index of its first line in `prose`
        self._python = False
        self._nested = 0
        self._names_thought = False
        self._has_code = False  # whether the block has a line that is not blank
        self._string_until = -1  # the number of lines to which a string is known to be open

    @property
    def in_fence(self) -> bool:
        """Whether a block is open."""
        return self._fence is not None

    @property
    def in_code(self) -> bool:
        """Whether a block of Python is open."""
        return self._fence is not None and self._python

    @property
    def is_blank(self) -> bool:
        """Whether there is neither prose nor a block so far."""
        return self.code is None and not self.has_fences and not any(map(str.strip, self.prose))

    @property
    def may_end_thought(self) -> bool:
        """Whether a mark that ends a thought would end it here, and is not text of the block."""
        if self._names_thought or (self._python and self.is_text_cell):
            return False
        return not self._python or not self._in_string()

    def code_so_far(self, rest: list[str]) -> str:
        """Return the code of the open block so far, with its unfinished last line."""
        lines = [*self._inside, *rest]
        if self._column:
            lines = [_without_indent(line, self._column) for line in lines]
        return "\n".join(lines).rstrip().lstrip("\n")

    def read(self, line: str) -> None:
        """Read one complete line."""
        if self._fence:
            self._read_inside(line)
            return
        line = _seen(line)
        self.prose.append(line)
        self._pending.append(line)
        self.last = None if line.strip() else self.last
        if may_be_fence(line):
            first, fence = self._parse(self._pending)
            self._pending = self._pending[first:]
            if fence and fence.first == first + len(self._pending) - 1:
                self._open(line, fence, first)
                return
        self.has_fence_in_line |= self._fences and is_python(line.partition("```")[2])

    def unread(self) -> None:
        """Remove the last line, which is in no block."""
        self.prose.pop()
        self._pending.pop()

    def _parse(self, lines: list[str]) -> tuple[int, Fence | None]:
        if self.room < 0:
            return 0, None
        self.room -= sum(map(len, lines)) + WEIGHT_OF_A_LINE * len(lines)
        return code_blocks.last_fence(lines)

    def _open(self, line: str, fence: Fence, first: int) -> None:
        fence.first -= first
        self.has_fences = True
        self._fence, self._inside, self._hidden = fence, [], {}
        self._nested, self._string_until, self._names_thought = 0, -1, False
        self._has_code = False
        self._began = len(self.prose) - 1
        found = re.search("`{3}|~{3}", line.expandtabs(4))
        self._column = found.start() if found else 0
        self._python = self._fences and is_python(fence.info)
        if is_python(fence.info) and self.shown is None:
            self.shown = self._began
        if self._python:
            self.prose.pop()
            before = line.partition(fence.markup)[0]
            if before.strip(" \t>"):
                self.prose.append(before)

    def _read_inside(self, line: str) -> None:
        fence = self._fence
        assert fence
        if odd := _ODD_CLOSING.fullmatch(line):
            line = odd[1] + odd[2]
        seen = _seen(line) if self._python else line
        looks_like_fence = may_be_fence(seen)
        if self._python and looks_like_fence:
            if self._is_text(seen):
                self._hidden[len(self._inside)] = line
                self._keep(line, "x".rjust(self._column + 1))
                return
            line = self._closing(seen, fence)
        elif self._python and (code := self._before_end(line)) is not None:
            is_quoted = code.lstrip().startswith(">")
            if code.strip(" \t>"):
                self._keep(code, code)
            line, looks_like_fence = (
                (code if is_quoted else " " * self._column) + fence.markup,
                True,
            )
        may_end_list = fence.level > 0 and line.strip() != "" and _indent(line) < self._column
        if not looks_like_fence and not may_end_list:
            self._keep(line, line)
            return
        lines = [*self._pending, line] if self.room >= 0 else []
        _, now = self._parse(lines)
        if now and now.first == fence.first and now.end == len(lines):
            if now.closed:
                self._pending = lines if now.level else []
                self._end(now, line)
            else:
                self._keep(line, line)
            return
        self.finish()  # the list has ended, or the limit of parsing is reached
        if not self.closed:
            self.read(line)

    def _keep(self, line: str, parsed: str) -> None:
        self._pending.append(parsed)
        self._inside.append(line)
        self._names_thought |= OPENS_THOUGHT.match(line) is not None
        if not self._python:
            self.prose.append(line)
        elif line.strip() and not self._has_code:
            self._has_code = True
            self.is_text_cell = _TEXT_CELL.match(line) is not None

    def _closing(self, line: str, fence: Fence) -> str:
        """Remove what stands around a fence in code: no line of Python begins with a fence."""
        found = None if self.is_text_cell else _BACKTICKS.match(line)
        if not found or not found[2].startswith(fence.markup):
            return line
        return found[1][: self._column if ">" not in found[1] else None] + found[2]

    def _before_end(self, line: str) -> str | None:
        """Return the part of a line that is code, if a fence or an end of turn follows it."""
        code = _without_ends(line)
        if code == line or self.is_text_cell:
            return None
        if not code.strip(" \t>"):
            return code if self._has_code and not self._in_string() else None
        before, whole = self.code_so_far([code]), self.code_so_far([line])
        self.room -= len(whole) + WEIGHT_OF_A_LINE * len(self._inside)
        return (
            code
            if self.room >= 0 and not code_blocks.parses(whole) and code_blocks.parses(before)
            else None
        )

    def _is_text(self, line: str) -> bool:
        """Tell whether a fence is text of the code, as in a string."""
        if not self.is_text_cell:
            return self._in_string()
        named, was_nested = _NAMED_FENCE.match(line) is not None, self._nested > 0
        self._nested += 1 if named else -1 if was_nested else 0
        return named or was_nested

    def _in_string(self) -> bool:
        """Tell whether the code so far ends inside a string of several lines."""
        new = self._inside[max(self._string_until, 0) :]
        if self.room < 0:
            return False
        if self._string_until < 0 or any("'''" in line or '"""' in line for line in new):
            code = self.code_so_far([])
            self.room -= len(code) + WEIGHT_OF_A_LINE * len(self._inside)
            if not code_blocks.ends_in_string(code):
                self._string_until = -1
                return False
        self._string_until = len(self._inside)
        return True

    def _end(self, fence: Fence, line: str | None) -> None:
        """End the block where Markdown ends it."""
        self._fence = None
        if not self._python:
            self.prose += [] if line is None else [line]
            fence.first = self._began
            self.last = fence
            return
        lines = fence.content.split("\n")
        for place, hidden in self._hidden.items() if fence.content else ():
            lines[place] = _without_indent(hidden, self._column)
        code = code_blocks.typed("\n".join(lines), fence.info)
        if code_blocks.label(fence.info) == "tool_code" and (call := read_text(code)) and call.code:
            code = call.code
        if code.strip():
            self.code, self.closed = code, True
        else:
            self.had_empty = True

    def finish(self) -> None:
        """End the block that is still open."""
        if not self._fence:
            return
        last = max((i for i, line in enumerate(self._inside) if line.strip()), default=-1)
        if last >= 0 and _ENDS_TURN.fullmatch(self._inside[last]):
            gone = len(self._inside) - last
            for lines in (self._inside, self._pending, [] if self._python else self.prose):
                del lines[-gone:]
        _, now = self._parse(self._pending)
        self._end(now or self._fence, None)

    def take_code(self, code: str, *, before: str | None = None) -> None:
        """Use code that stood in no block; ``before`` is the prose that remains."""
        self._fence = None
        self.code, self.closed = code_blocks.typed(code), True
        if before is not None:
            self.prose = before.split("\n")

    def drop_code(self) -> None:
        """Use none of the text as code."""
        self._fence = None
        self.code, self.closed = None, False


def _without_ends(line: str) -> str:
    """Remove fences and ends of turns from the end of a line."""
    end, found = len(line.rstrip()), None
    while last := _LAST_END.search(line, max(0, end - _MAX_END), end):
        end, found = last.start(), last
        while end and line[end - 1].isspace():
            end -= 1
    return line[: found.start()] if found else line


def _seen(line: str) -> str:
    """Remove invisible characters from around a fence."""
    fence = line.lstrip(_BLANK)
    if not fence.startswith(("```", "~~~")):
        return line
    before = line[: len(line) - len(fence)].replace("\xa0", " ")
    return before.translate(dict.fromkeys(map(ord, _UNSEEN))) + fence.rstrip("\xa0" + _UNSEEN)


def _indent(line: str) -> int:
    marks = line.expandtabs(4)
    return len(marks) - len(marks.lstrip(" "))


def _without_indent(line: str, column: int) -> str:
    """Remove the indent of a fence from a line of its block, as Markdown does."""
    indent = min(_indent(line), column)
    return line.expandtabs(4)[indent:] if indent else line
