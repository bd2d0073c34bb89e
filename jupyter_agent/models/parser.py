"""A streamed reply as prose and at most one block of code, and what was wrong with it.

The text is read line by line, and Markdown's own parser says where blocks begin and end. What
models write around a reply is taken off: thoughts, the marks of a chat template, and calls that
their server should have read.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from jupyter_agent.models.blocks import (
    Fence,
    ends_in_string,
    is_language,
    is_python,
    is_statement,
    label,
    last_fence,
    may_be_fence,
    parses,
    typed,
)
from jupyter_agent.models.call_reader import (
    Mark,
    find_mark,
    is_python_tool,
    read_call,
    read_text,
)

__all__ = ["LOOK_AHEAD", "LOOK_AHEAD_LATER", "MAX_PARSED", "Problem", "ReplyReader", "unread_call"]

MAX_PARSED = 2_000_000  # characters of one reply that are parsed, some of them again and again
WEIGHT_OF_A_LINE = 100  # characters
MAX_TRIES = 20  # of a call that seems to end
MAX_MARKS = 20  # of one line; what follows them is text
# characters that are read after a block: a mark may follow by which it was only a thought. Most
# models end there; what others invent after it costs no more than this, and is left out
LOOK_AHEAD = 10_000
LOOK_AHEAD_LATER = 2_000  # of a model that has replied without such a mark

_THOUGHT = (
    r"(?:seed:|ant)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratch_?pad|inner_monologue)"
)
_OPENS_THOUGHT = re.compile(
    rf"\s*(?:<{_THOUGHT}>|\[THINK\]|\u25c1think\u25b7|<\|(?:begin_of_thought|START_THINKING)\|>"
    r"|(?:<\|channel>|<unused94>)thought)",
    re.IGNORECASE,
)
_CLOSES_THOUGHT = re.compile(
    rf"</{_THOUGHT}>|\[/THINK\]|\u25c1/think\u25b7|<\|(?:end_of_thought|END_THINKING)\|>"
    r"|<channel\|>|<unused95>",
    re.IGNORECASE,
)
_OPENS_ANALYSIS = re.compile(  # gpt-oss's, with its marks or what servers leave of them
    r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>|^\s*(?:assistant)?analysis(?=[A-Z])"
)
_CLOSES_ANALYSIS = re.compile(
    r"<\|(?:end|return|call)\|>|(?=<\|(?:start|channel)\|>)|assistantfinal|(?=assistantcommentary)"
)
_NOISE = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)(?: <\|constrain\|>\w+)?"
    r"<\|message\|>"
    r"|<\|(?:im_end|im_start|start|end|return|eot_id|eom_id|endoftext|end_of_text|eos)\|>"
    r"|<\|(?:(?:begin|end)_of_solution|(?:START|END)_(?:RESPONSE|TEXT))\|>"
    r"|(?:</s>|<end_of_turn>|<end_code>|<EOS>|<eos>)\s*$"
)
_ODD_CLOSING = re.compile(r"([\s>]*)(`{3,}|~{3,})\s*(?:<[^<>\s]{1,40}>\s*)+")
_BACKTICKS = re.compile(r"([\s>]*)(`{3,})")
_UNSEEN = re.compile("[\u200b-\u200d\u2060\ufeff]")
_AROUND_FENCE = re.compile(
    "([ \t\xa0\u200b-\u200d\u2060\ufeff]*)((?:`{3}|~{3}).*?)[\xa0\u200b-\u200d\u2060\ufeff]*"
)
_NAMED_FENCE = re.compile(r"([\s>]*)(`{3,}|~{3,})\s*[^\s`]")
_MAYBE_FENCE = re.compile(r"[ \t>*+\-\d.)]{0,100}(?:`{1,2}|~{1,2}|(?:`{3,}|~{3,})[^`]*)?$")
_TEXT_CELL = re.compile(r"\s*%%(?!time|timeit|capture|prun|python)\w")
_SHELL = frozenset("bash sh shell zsh console shell-session terminal powershell cmd bat".split())


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a reply without code may be no answer.

    Parameters
    ----------
    kind
        The same for problems that one correction is enough for.
    said
        What was wrong, as a sentence.
    certain
        Whether it can be no answer, however often it comes.
    """

    kind: str
    said: str
    certain: bool = False


class ReplyReader:
    """Split a reply into prose and code while its text arrives.

    `prose` and `code` are what may be shown now; `close` makes them final. `code` is None until a
    block of Python opens.

    Parameters
    ----------
    fences
        Whether a fenced block can be code, or is prose.
    look_ahead
        Characters that are read after a block, as a mark may follow that makes a thought of it.
    """

    def __init__(self, *, fences: bool = True, look_ahead: int = LOOK_AHEAD) -> None:
        self.problem: Problem | None = None  # known when the reply is closed
        self.unread = ""  # a call of the text's in which no code was found
        self.thinks_aloud = False  # whether a thought ended that had no beginning
        self.is_open = False  # whether the text ended before the block or the call did
        self._fences = fences
        self._look_ahead = look_ahead
        self._blocks = _Blocks(fences=fences)
        self._reply: _Blocks | None = None  # when its block is whole; the others hold what follows
        self._behind = 0  # characters of that
        self._is_followed = False  # whether they are more than blanks
        self._thoughts: _Blocks | None = None  # what came before a mark that ends a thought
        self._thought_end: re.Pattern[str] | None = None
        self._mark: Mark | None = None
        self._before = ""  # the call, on its line
        self._call: list[str] = []
        self._tries = MAX_TRIES
        self._rest = ""  # the last line, not whole yet
        self._done = False

    @property
    def closed(self) -> bool:
        """Whether a block of code is whole."""
        return (self._reply or self._blocks).closed

    @property
    def parsed(self) -> int:
        """Characters that were parsed, each as often as it was."""
        return MAX_PARSED - self._blocks.room

    @property
    def prose(self) -> str:
        """The prose so far; a line that could still be a fence or a mark is held back."""
        lines = [*(self._reply or self._blocks).prose]
        if not self._done and not self._hides_rest() and not self._blocks.in_code:
            lines.append(self._rest)
        return "\n".join(lines).strip()

    @property
    def lead(self) -> str:
        """The prose before the first block of Python."""
        blocks = self._reply or self._blocks
        return (
            self.prose if blocks.shown is None else "\n".join(blocks.prose[: blocks.shown]).strip()
        )

    @property
    def code(self) -> str | None:
        """The code so far; None while there is none."""
        blocks = self._reply or self._blocks
        if blocks.closed or not blocks.in_code:
            return blocks.code
        rest = [] if self._done or _MAYBE_FENCE.match(self._rest) else [self._rest]
        return blocks.code_so_far(rest)

    def _hides_rest(self) -> bool:
        """Tell whether the line that is not whole yet may be none of the prose."""
        if self._thought_end or self._mark or self.closed or _MAYBE_FENCE.match(self._rest):
            return True
        begins = self._rest.rfind("<")
        return begins >= 0 and ">" not in self._rest[begins:] and len(self._rest) - begins < 40

    def feed(self, text: str) -> bool:
        """Read more text; return whether the reply is over because more follows its block."""
        if "\n" not in text and "\r" not in text and not self._rest.endswith("\r"):
            self._rest += text
            return self._is_over(self._rest)
        # a CR may be the first half of a line's end
        *lines, self._rest = re.split(r"\r\n|\n|\r(?!\Z)", self._rest + text)
        if any(map(self._read, lines)):
            self._rest = ""
            return True
        return self._is_over(self._rest)

    def _is_over(self, line: str) -> bool:
        """Tell whether a line is too far behind the block to be read."""
        self._is_followed |= self._reply is not None and bool(line.strip())
        return self._is_followed and self._behind + len(line) > self._look_ahead

    def close(self) -> None:
        """Read what is left when the reply has ended; a block left open counts as closed."""
        if self._done:
            return
        self._read(self._rest.removesuffix("\r"))
        self._rest, self._done = "", True
        if self._mark:
            self._end_call()
        follows, self._blocks = self._blocks, self._reply or self._blocks
        if self._thoughts and self._blocks.is_blank and not self._thought_end:
            self._blocks = self._thoughts  # the mark was none, or nothing follows the thought
            if self._blocks.in_fence or self._blocks.closed:
                self._blocks.drop_code()
                self.problem = Problem("thought", _ONLY_THOUGHT, certain=True)
        self.is_open |= self._blocks.in_code and not self._blocks.closed
        self._blocks.finish()
        if self._reply and self._blocks.is_text_cell and follows.has_fences:
            self._blocks.drop_code()
            self.problem = Problem(
                "fences",
                "The cell holds fences of its own, so that its end could not be told. Open its "
                "block with a longer fence, ````python, and close it with the same",
                certain=True,
            )
        if not self.closed and not self.problem:
            self.problem = self._judge()

    def _read(self, line: str) -> bool:
        """Read a whole line; return whether it is too far behind the block for that."""
        if self._is_over(line):
            return True
        self._behind += len(line) + 1
        for _ in range(MAX_MARKS):
            rest = self._step(line)
            if self._blocks.closed:
                self._reply, self._blocks = self._blocks, self._new_blocks(fences=False)
                self._behind, self._is_followed = 0, False
                if self._is_over(rest or ""):
                    return True
            if rest is None:
                return False
            line = rest
        self._blocks.read(line)
        return False

    def _step(self, line: str) -> str | None:
        """Read a line up to what changes how it is read; return the rest."""
        if self._mark:
            self._call.append(line)
            return self._try_call()
        if self._thought_end:
            found = self._thought_end.search(line)
            if not found:
                return None
            self._thought_end = None
            return line[found.end() :] if line[found.end() :].strip() else None
        if self._blocks.in_fence:
            found = _CLOSES_THOUGHT.match(line.lstrip())
            if found and self._blocks.may_end_thought:
                self._restart()
                return line.lstrip()[found.end() :]
            self._blocks.read(line)
            return None
        return self._step_in_prose(line)

    def _step_in_prose(self, line: str) -> str | None:
        if may_be_fence(bare := _NOISE.sub("", line)):
            line = bare
        mark = None if may_be_fence(line) or self._reply else find_mark(line)
        thoughts = [
            (found, until)
            for opens, until in (
                (_OPENS_THOUGHT, _CLOSES_THOUGHT),
                (_OPENS_ANALYSIS, _CLOSES_ANALYSIS),
                (_CLOSES_THOUGHT, None),
            )
            if (found := opens.search(line))
            and line.count("`", 0, found.start()) % 2 == 0
            and not _is_named(line, found)
        ]
        thought, until = min(thoughts, key=lambda each: each[0].start(), default=(None, None))
        if mark and (not thought or mark.start < thought.start()):
            self._before = line[: mark.start] if self._say(line[: mark.start]) else ""
            self._mark, self._call = mark, []
            return line[mark.start + len(mark.text) :]
        if not thought:
            plain = line if "`" in line else _NOISE.sub("", line)
            if plain.strip() or not line.strip():
                self._blocks.read(plain)
            return None
        self._say(line[: thought.start()])
        self._thought_end = until
        if not until:
            self._restart()
        return line[thought.end() :]

    def _say(self, before: str) -> bool:
        """Read what stands before a mark on its line; return whether that is anything."""
        plain = _NOISE.sub("", before).strip()
        if plain:
            self._blocks.read(plain)
        return bool(plain)

    def _restart(self) -> None:
        """Take all that was said for a thought."""
        self.thinks_aloud = True
        self._thoughts = self._reply or self._blocks
        self._reply, self._blocks = None, self._new_blocks(fences=self._fences)
        self._is_followed = False

    def _new_blocks(self, *, fences: bool) -> _Blocks:
        return _Blocks(fences=fences, room=self._blocks.room)

    # -- calls

    def _try_call(self) -> str | None:
        """Read the call if it seems to end in its last line; return what follows it."""
        assert self._mark
        found = self._mark.end.search(self._call[-1])
        if not found or not self._tries:
            return None
        self._tries -= 1
        last = self._call[-1]
        text = "\n".join([*self._call[:-1], last[: found.start()]])
        call = read_call(text, self._mark)
        if not call or not call.code:
            return None
        self._blocks.take_code(call.code)
        self._mark = None
        return last[found.end() :]

    def _end_call(self) -> None:
        """Read the call when nothing more comes."""
        mark, text = self._mark, "\n".join(self._call)
        assert mark
        self._mark = None
        found = mark.end.search(text)
        call = read_call(text[: found.start()] if found else text, mark) or read_call(text, mark)
        if call and call.code:
            self.is_open = not found
            self._blocks.take_code(call.code)
        elif call and not (self._before and found and text[found.end() :].strip()):
            self.unread = (mark.text.strip() + text).strip()
            self.problem = unread_call(call.name)
        else:
            if self._before:
                self._blocks.unread()
            for line in (self._before + mark.text + text).split("\n"):
                self._blocks.read(line)
            self._blocks.finish()
            self.problem = Problem("call", _CALL) if not self.closed else None

    # -- what is left

    def _judge(self) -> Problem | None:
        """Read a call without a mark; or say what the text seems to be, if that is no answer."""
        blocks, text = self._blocks, self.prose
        if self._thought_end and not text:
            return Problem("thought", _ONLY_THOUGHT, certain=True)
        if blocks.room < 0:
            return Problem("fences", "The reply holds more fences than can be read", certain=True)
        last = blocks.last if self._fences else None
        if last and last.content and label(last.info) not in ("text", "plaintext"):
            before, source = "\n".join(blocks.prose[: last.first]), last.content
        elif begins := _BEGINS_CALL.search(text):
            before, source = text[: begins.start()], text[begins.start() :]
        else:
            return self._doubt()
        call = read_text(source)
        if call and call.code:
            blocks.take_code(call.code, before=before)
            return None
        certain = not before.strip() and not blocks.has_fences
        return unread_call(call.name, certain=certain) if call else self._doubt()

    def _doubt(self) -> Problem | None:
        """Say what an answer seems to be that would be code if it were well written."""
        blocks = self._blocks
        if not self._fences:
            return None
        if blocks.had_empty:
            return Problem("empty", "The python block was empty", certain=not self.prose)
        if blocks.has_fence_in_line:
            return Problem("fence", "A block begins and ends with a fence on a line of its own")
        if _SEEMS_CALL.search(self.prose):
            return Problem("call", _CALL, certain=True)
        if _WRAPPED.match(self.prose):
            return Problem("fence", "A block of Markdown is not read, nor is the code in it")
        if not blocks.has_fences and _ends_in_code(self.prose):
            return Problem("bare", "The reply is code, but in no python block")
        if blocks.last is None:
            return None
        language = label(blocks.last.info)
        if language in _SHELL:
            how = "To run a shell command, put it into a python block after a !, as in !ls"
            return Problem("shell", f"A {language} block is not run. {how}")
        if not is_language(language) and is_statement(blocks.last.content):
            return Problem("label", "A block without the label python is not run")
        return None


_BEGINS_CALL = re.compile(r"^(?:\{|\[\s*\{|\[[A-Za-z_][\w.]*\()", re.MULTILINE)
_SEEMS_CALL = re.compile(
    r"^(?:Action Input:|<\|tools_prefix\|>|<start_function_call>)", re.MULTILINE
)
_WRAPPED = re.compile(
    r"(`{3,})(?:markdown|md)[ \t]*\n(?:.*\n)*?[ \t]*`{3,}(?:python|py)\b", re.IGNORECASE
)
_OTHER_FENCE = re.compile(  # that no Markdown knows
    r"""(?im)^(?:['"]{3}\w*|\[/?python\]|</?[^<>\n]*(?:python|artifact)[^<>\n]*>|\\(begin|end)\{.*)$"""
)
_CALL = "The reply seems to hold a call written as text, which cannot be read"
_ONLY_THOUGHT = "The reply was only a thought, without an answer or code after it"


def unread_call(name: str, *, certain: bool = True) -> Problem:
    """Say of a call why nothing was run."""
    ours = not name or is_python_tool(name)
    no_code, no_tool = (
        "The call holds no Python code that can be read",
        "There is no tool {} to call",
    )
    return Problem("call", no_code if ours else no_tool.format(ascii(name[:40])), certain)


def _ends_in_code(text: str) -> bool:
    """Tell whether a text is Python from one of its paragraphs on."""
    parts = re.split(r"\n[ \t]*\n", _OTHER_FENCE.sub("", text).strip("\n"))[-20:]
    rests = ("\n\n".join(parts[i:]) for i in range(len(parts)))
    return any(is_statement(textwrap.dedent(rest)) for rest in rests)


def _is_named(line: str, mark: re.Match[str]) -> bool:
    """Tell whether a mark between words is only named: the sentence goes on after it."""
    before, after = line[: mark.start()], line[mark.end() :]
    return bool(before.strip()) and re.match(r"\s+[a-z]+\b|[.,;:)!?](?:\s|$)", after) is not None


class _Blocks:
    """Finds the first block of Python in Markdown, line by line."""

    def __init__(self, *, fences: bool, room: int = MAX_PARSED) -> None:
        self.prose: list[str] = []
        self.code: str | None = None
        self.closed = False
        self.had_empty = False
        self.has_fences = False
        self.has_fence_in_line = False
        self.shown: int | None = None  # the line of the prose where Python is shown first
        self.last: Fence | None = None  # the block after which nothing came; first is in the prose
        self.is_text_cell = False  # whether the block's code is none, but text such as a file's
        self.room = room
        self._fences = fences
        self._pending: list[str] = []  # lines of which Markdown may still make another block
        self._fence: Fence | None = None
        self._inside: list[str] = []  # the lines of the block
        self._hidden: dict[int, str] = {}  # those that the parser must not see
        self._column = 0  # of its fence
        self._began = 0  # its line in the prose
        self._python = False
        self._nested = 0
        self._names_thought = False
        self._has_code = False  # whether a line of the block has been kept that is not blank
        self._string_until = -1  # up to this line, a string is known to be open

    @property
    def in_fence(self) -> bool:
        """Whether a block is open."""
        return self._fence is not None

    @property
    def in_code(self) -> bool:
        """Whether that is of Python."""
        return self._fence is not None and self._python

    @property
    def is_blank(self) -> bool:
        """Whether nothing was said."""
        return self.code is None and not self.has_fences and not any(map(str.strip, self.prose))

    @property
    def may_end_thought(self) -> bool:
        """Whether the mark of a thought's end cannot be meant as text of the block."""
        if self._names_thought or (self._python and self.is_text_cell):
            return False
        return not self._python or not self._in_string()

    def code_so_far(self, rest: list[str]) -> str:
        """Return the open block's code, and the beginning of its next line."""
        lines = [*self._inside, *rest]
        if self._column:
            lines = [_without_indent(line, self._column) for line in lines]
        return "\n".join(lines).rstrip().lstrip("\n")

    def read(self, line: str) -> None:
        """Read a whole line."""
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
        """Take back the last line, which is in no block."""
        self.prose.pop()
        self._pending.pop()

    def _parse(self, lines: list[str]) -> tuple[int, Fence | None]:
        if self.room < 0:
            return 0, None
        self.room -= sum(map(len, lines)) + WEIGHT_OF_A_LINE * len(lines)
        return last_fence(lines)

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
        elif self._python and line.rstrip().endswith(fence.markup) and self._closes_behind(line):
            self._keep(code := line.rstrip("`~ "), code)
            line, looks_like_fence = " " * self._column + fence.markup, True
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
        self.finish()  # the list is over, or there is no room to parse more
        if not self.closed:
            self.read(line)

    def _keep(self, line: str, parsed: str) -> None:
        self._pending.append(parsed)
        self._inside.append(line)
        self._names_thought |= _OPENS_THOUGHT.match(line) is not None
        if not self._python:
            self.prose.append(line)
        elif line.strip() and not self._has_code:
            self._has_code = True
            self.is_text_cell = _TEXT_CELL.match(line) is not None

    def _closing(self, line: str, fence: Fence) -> str:
        """Take what stands around a fence in code from it: no line of Python begins with one."""
        found = None if self.is_text_cell else _BACKTICKS.match(line)
        if not found or not found[2].startswith(fence.markup):
            return line
        return found[1][: self._column if ">" not in found[1] else None] + found[2]

    def _closes_behind(self, line: str) -> bool:
        """Tell whether a fence at a line's end is none of the code before it."""
        code = self.code_so_far([line])
        self.room -= len(code) + WEIGHT_OF_A_LINE * len(self._inside)
        return self.room >= 0 and not parses(code) and parses(code.rstrip("`~"))

    def _is_text(self, line: str) -> bool:
        """Tell whether a fence is only text in the code."""
        if not self.is_text_cell:
            return self._in_string()
        named, was_nested = _NAMED_FENCE.match(line) is not None, self._nested > 0
        self._nested += 1 if named else -1 if was_nested else 0
        return named or was_nested

    def _in_string(self) -> bool:
        """Tell whether the code so far ends in a string of several lines."""
        new = self._inside[max(self._string_until, 0) :]
        if self.room < 0:
            return False
        if self._string_until < 0 or any("'''" in line or '"""' in line for line in new):
            code = self.code_so_far([])
            self.room -= len(code) + WEIGHT_OF_A_LINE * len(self._inside)
            if not ends_in_string(code):
                self._string_until = -1
                return False
        self._string_until = len(self._inside)
        return True

    def _end(self, fence: Fence, line: str | None) -> None:
        """End the block as Markdown has it."""
        self._fence = None
        if not self._python:
            self.prose += [] if line is None else [line]
            fence.first = self._began
            self.last = fence
            return
        lines = fence.content.split("\n")
        for place, hidden in self._hidden.items() if fence.content else ():
            lines[place] = _without_indent(hidden, self._column)
        code = typed("\n".join(lines), fence.info)
        if label(fence.info) == "tool_code" and (call := read_text(code)) and call.code:
            code = call.code
        if code.strip():
            self.code, self.closed = code, True
        else:
            self.had_empty = True

    def finish(self) -> None:
        """End a block that is still open."""
        if self._fence:
            _, now = self._parse(self._pending)
            self._end(now or self._fence, None)

    def take_code(self, code: str, *, before: str | None = None) -> None:
        """Take code that stood in no block; ``before`` is what is left of the prose then."""
        self._fence = None
        self.code, self.closed = typed(code), True
        if before is not None:
            self.prose = before.split("\n")

    def drop_code(self) -> None:
        """Take no code from the text after all."""
        self._fence = None
        self.code, self.closed = None, False


def _seen(line: str) -> str:
    """Take what nobody sees from around a fence."""
    found = _AROUND_FENCE.fullmatch(line)
    return _UNSEEN.sub("", found[1]).replace("\xa0", " ") + found[2] if found else line


def _indent(line: str) -> int:
    marks = line.expandtabs(4)
    return len(marks) - len(marks.lstrip(" "))


def _without_indent(line: str, column: int) -> str:
    """Take blanks from a line's beginning, as Markdown does in a block that is not flush."""
    indent = min(_indent(line), column)
    return line.expandtabs(4)[indent:] if indent else line
