"""Read a streamed reply: prose, at most one block of code, and a problem if there is one.

How a reply is read:

1. It is read line by line, each line up to the next mark on it: of a thought, or of a call
   (`text_calls`) that the server should have read.
2. Thoughts are left out. The code of the reply is that of a call, or else the first block of Python
   (`fences`). Markdown's own parser tells where a block begins and ends (`code_blocks`).
3. Some text after the code is read: a mark in it may say that all before it was a thought.
4. Text without code is the answer, unless it looks like a call or like code.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from jupyter_agent.models.code_blocks import is_language, is_statement, label, may_be_fence
from jupyter_agent.models.fences import MAX_PARSED, OPENS_THOUGHT, THOUGHT, BlockReader
from jupyter_agent.models.text_calls import Mark, find_mark, is_python_tool, read_call, read_text

__all__ = ["LOOK_AHEAD", "LOOK_AHEAD_LATER", "Problem", "ReplyReader", "unread_call"]

MAX_TRIES = 20  # of a call that seems to end
MAX_MARKS = 20  # of one line; what follows them is text
# characters that are read after a block: a mark may follow by which it was only a thought. Most
# models end there; what others invent after it costs no more than this, and is left out
LOOK_AHEAD = 10_000
LOOK_AHEAD_LATER = 2_000  # of a model that has replied without such a mark

_CLOSES_THOUGHT = re.compile(
    rf"</{THOUGHT}>|\[/THINK\]|\u25c1/think\u25b7|<\|inner_suffix\|>|<\|(?:end_of_thought|END_THINKING)\|>"
    r"|<channel\|>|<unused95>",
    re.IGNORECASE,
)
# of the tags that an answer may hold too, those that a reply may begin with
_BEGINS_THOUGHT = re.compile(
    r"\s*<((?:[\w-]{1,20}[_:-])?(?:reason|analysis|rationale|deliberation|monologue|cot"
    r"|brainstorm(?:ing)?|(?:thought|thinking)[_-]?process))(?:\s[^<>]{0,200})?>"
    r"|\s*<(details|div|section)\b(?:[^<>]{0,200}>\s*<summary>)?"
    r"[^<>]{0,200}\b(?:think|thought|reasoning)",
    re.IGNORECASE,
)
_OPENS_ANALYSIS = re.compile(  # gpt-oss's, with its marks or what servers leave of them
    r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>|^\s*(?:assistant)?analysis(?=[A-Z])"
)
_CLOSES_ANALYSIS = re.compile(
    r"<\|(?:end|return|call)\|>|(?=<\|(?:start|channel)\|>)|assistantfinal|(?=assistantcommentary)"
)
_PAIRS = ((OPENS_THOUGHT, _CLOSES_THOUGHT), (_OPENS_ANALYSIS, _CLOSES_ANALYSIS))
_NOISE = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)(?: <\|constrain\|>\w+)?"
    r"<\|message\|>"
    r"|<\|(?:im_end|im_start|start|end|return|eot_id|eom_id|endoftext|end_of_text|eos)\|>"
    r"|<\|(?:(?:begin|end)_of_solution|(?:START|END)_(?:RESPONSE|TEXT))\|>"
    r"|(?:</s>|<end_of_turn>|<end_code>|<EOS>|<eos>)\s*$"
)
_MAYBE_FENCE = re.compile(r"[ \t>*+\-\d.)]{0,100}(?:`{1,2}|~{1,2}|(?:`{3,}|~{3,})[^`]*)?$")
_SHELL = frozenset("bash sh shell zsh console shell-session terminal powershell cmd bat".split())


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why a reply without code may not be an answer.

    Parameters
    ----------
    kind
        The name of the kind of problem; one correction is enough for each kind.
    said
        A sentence that says what is wrong.
    certain
        Whether such a reply is never an answer, even if it is repeated.
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
        self._blocks = BlockReader(fences=fences)
        self._reply: BlockReader | None = None  # whole; the others hold what follows
        self._behind = 0  # characters of that
        self._is_followed = False  # whether they are more than blanks
        self._thoughts: BlockReader | None = None  # what came before a mark that ends a thought
        self._thought_end: re.Pattern[str] | None = None
        self._closes_thought = _CLOSES_THOUGHT
        self._begins_thought = False  # whether the reply begins with one that has not ended
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
        is_far = self._is_followed and self._behind + len(line) > self._look_ahead
        return is_far and not self._begins_thought

    def close(self) -> None:
        """Read what is left when the reply has ended; a block left open counts as closed."""
        if self._done:
            return
        self._read(self._rest.removesuffix("\r"))
        self._rest, self._done = "", True
        if self._mark:
            self._end_call()
        if self._begins_thought:
            self._restart()
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
            found = self._closes_thought.match(line.lstrip())
            if found and self._blocks.may_end_thought:
                self._restart()
                return line.lstrip()[found.end() :]
            self._blocks.read(line)
            return None
        return self._step_in_prose(line)

    def _step_in_prose(self, line: str) -> str | None:
        if may_be_fence(bare := _NOISE.sub("", line)):
            line = bare
        self._look_for_beginning(line)
        mark = None if may_be_fence(line) or self._reply else find_mark(line)
        thoughts = [
            (found, until)
            for opens, until in (*_PAIRS, (self._closes_thought, None))
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
        self._say(line[: thought.end() if self._begins_thought and not until else thought.start()])
        self._thought_end = until
        if not until:
            self._restart()
        return line[thought.end() :]

    def _look_for_beginning(self, line: str) -> None:
        """Note what will end the thought that the reply begins with, if it does."""
        said, is_later = self._blocks.prose, self._reply or self._blocks.has_fences
        if is_later or len(said) > 3 or OPENS_THOUGHT.match(line):
            return
        if found := _BEGINS_THOUGHT.match("\n".join([*said, line])):
            ends = rf"{_CLOSES_THOUGHT.pattern}|</{found[1] or found[2]}>"
            self._closes_thought, self._begins_thought = re.compile(ends, re.IGNORECASE), True

    def _say(self, before: str) -> bool:
        """Read what stands before a mark on its line; return whether that is anything."""
        if plain := _NOISE.sub("", before).strip():
            self._blocks.read(plain)
        return bool(plain)

    def _restart(self) -> None:
        """Take all that was said for a thought."""
        self.thinks_aloud, self._begins_thought = True, False
        self._thoughts = self._reply or self._blocks
        self._reply, self._blocks = None, self._new_blocks(fences=self._fences)
        self._is_followed = False

    def _new_blocks(self, *, fences: bool) -> BlockReader:
        return BlockReader(fences=fences, room=self._blocks.room)

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
        if self._thought_end:
            return Problem("thought", _OPEN_THOUGHT if text else _ONLY_THOUGHT, certain=not text)
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


_BEGINS_CALL = re.compile(
    r"(?m)^(?:\{|\[\s*\{|\[[A-Za-z_][\w.]*\(|(?:- )?(?:tool|name|function|action|code)\w*:\s)"
)
_SEEMS_CALL = re.compile(r"(?m)^(?:Action Input:|<\|tools_prefix\|>|<start_function_call>)")
_WRAPPED = re.compile(r"(?i)(`{3,})(?:markdown|md)[ \t]*\n(?:.*\n)*?[ \t]*`{3,}(?:python|py)\b")
_OTHER_FENCE = re.compile(  # that no Markdown knows
    r"""(?im)^(?:['"\uff40]{3}\w*|\[/?python\]|</?[^<>\n]*(?:python|artifact)[^<>\n]*>|\\(begin|end)\{.*)$"""
)
_CALL = "The reply seems to hold a call written as text, which cannot be read"
_OPEN_THOUGHT = "The reply ended in a thought, which a tag such as <think> had begun"
_ONLY_THOUGHT = "The reply was only a thought, without an answer or code after it"


def unread_call(name: str, *, certain: bool = True) -> Problem:
    """Return the problem of a call that could not be run."""
    said = "The call holds no Python code that can be read"
    if name and not is_python_tool(name):
        said = f"There is no tool {name[:40]!a} to call"
    return Problem("call", said, certain)


def _ends_in_code(text: str) -> bool:
    """Tell whether a text is Python from one of its paragraphs on."""
    parts = re.split(r"\n[ \t]*\n", _OTHER_FENCE.sub("", text).strip("\n"))[-20:]
    rests = ("\n\n".join(parts[i:]) for i in range(len(parts)))
    return any(is_statement(textwrap.dedent(rest)) for rest in rests)


def _is_named(line: str, mark: re.Match[str]) -> bool:
    """Tell whether a mark between words is only named: the sentence goes on after it."""
    before, after = line[: mark.start()], line[mark.end() :]
    return bool(before.strip()) and re.match(r"\s+[a-z]+\b|[.,;:)!?](?:\s|$)", after) is not None
