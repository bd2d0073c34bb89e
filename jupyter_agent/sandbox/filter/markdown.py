r"""The Markdown sanitiser: parse Markdown as CommonMark and write it anew.

Each front end reads Markdown in its own way (JupyterLab with marked, after a pass of its own that
looks for formulas; nbconvert with mistune; VS Code with markdown-it), and what one of them takes
for code another takes for HTML. So nothing is left of how a text was written. What is written is
so plain that all of them read it alike:

- lines end in LF; code stands in fences of backticks, in the first column, between blank lines;
- code in a line stands between two single backticks, and no other backtick stands anywhere;
- no HTML, no image, no definition; links of plain schemes; formulas between dollars, of known
  commands; every other sign of theirs is escaped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

from jupyter_agent._unicode import visible_prose
from jupyter_agent.sandbox.filter.formulas import JOINER, read_formula

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

__all__ = ["Clean", "as_read", "clean_folded", "clean_markdown", "code_block", "folded", "one_line"]

MAX_CHARACTERS = 100_000  # a longer text is shown as plain text
MAX_BRACKETS = 5_000  # opening brackets; each costs the parser much time
MAX_LEVELS = 24  # levels of nested tokens
MAX_TEXT_LINES = 5_000
MAX_TRIES = 4  # rewrites until a text no longer changes
MAX_LINES = 60  # lines of a formula

_LANGUAGES = frozenset(
    "bash c c++ console cpp cs csharp css csv cypher dart diff dockerfile fortran fsharp go "
    "graphql haskell html http ini ipython java javascript js json jsonl julia jsx kotlin "
    "latex lua makefile markdown matlab md nix objc ocaml perl php plaintext powershell "
    "properties prolog protobuf py pycon python python3 pytb r ruby rust sas scala scss sh "
    "shell sql stata swift tcl tex text toml ts tsx tsv txt typescript vb vim xml yaml yml "
    "zig zsh".split()
)
_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")  # what some reader takes for a line end
_CONTROLS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~])?|[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\ufeff]")


class Clean(str):
    """Markdown that has been cleaned; text that is made of it must be cleaned again."""

    __slots__ = ()


def clean_markdown(text: str) -> Clean:
    """Rewrite Markdown so that every front end reads it alike, and nothing in it runs or fetches.

    What is not allowed stays as text. What has been cleaned stays as it is.
    """
    text = _plain_lines(text).strip("\n")
    tried = text
    if _WHOLE.fullmatch(text) and code_block(*_opened(text)) == text:
        return Clean(text)
    for plain in (False, True):
        tried = text
        for _ in range(MAX_TRIES):
            written = _write(tried, plain=plain)
            if written == tried:
                return Clean(written)
            if written is None:
                return code_block(text, "text")
            tried = written
    return code_block(text, "text")


def code_block(code: str, language: str = "python") -> Clean:
    """Put code into a fence longer than any fence in it; only known languages are named."""
    code = _MARKER.sub(JOINER, _plain_lines(code))
    longest = max(map(len, re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    label = language if language.lower() in _LANGUAGES else "text" if language else ""
    return Clean(f"{fence}{label}\n{code}\n{fence}")


_FOLDED = re.compile(
    r"<details open>\n<summary>([\w ,.;:·]*)</summary>\n\n(.*)\n\n</details>\s*", re.DOTALL
)


def folded(title: str, inside: Clean) -> Clean:
    """Wrap Markdown so that the page can fold it, under a plain title."""
    return Clean(f"<details open>\n<summary>{title}</summary>\n\n{inside}\n\n</details>")


def clean_folded(text: str, clean: Callable[[str], Clean]) -> Clean:
    """Clean Markdown of any origin, with the parts that `folded` has made."""
    found = _FOLDED.fullmatch(text)
    return folded(found[1], clean(found[2])) if found else clean(text)


def one_line(text: str) -> str:
    """Write plain text, such as a name or a server's message, as one line without Markdown."""
    from markdown_it.token import Token

    text = " ".join(_plain_lines(text)[:MAX_CHARACTERS].split())
    place = _Place(one_line=True)
    return " ".join(_Line([Token("text", "", 0, content=text)], place, plain=True).lines())


_ESCAPED = re.compile(
    r"(?P<code>^(?P<fence>`{3,})[a-z+]*\n.*?\n(?P=fence)$|`[^`\n]+`|\${1,2}(?:[^$`]|(?<=\\)\$)+(?<!\\)\${1,2})"
    r"|\\{1,2}(?P<dollar>\$)|\\(?P<sign>[!-/:-@\[-`{}~]|$)|&#(?P<number>\d+);|&(?P<name>lt|amp);",
    re.MULTILINE | re.DOTALL,
)


def as_read(markdown: str) -> str:
    """Write the output of `clean_markdown` as plain text, for a reader without a page."""
    return visible_prose(_ESCAPED.sub(_unescaped, markdown.replace(JOINER, "")))


def _unescaped(found: re.Match[str]) -> str:
    if number := found["number"]:
        return chr(int(number))
    if name := found["name"]:
        return {"lt": "<", "amp": "&"}[name]
    return found["code"] or found["dollar"] or found["sign"] or ""


# what JupyterLab would take for its own placeholder of a formula
_MARKER = re.compile(r"(?<=@@)(?=\d+(?:\\begin\{|\\\\[(\[]))")
_WHOLE = re.compile(r"(?P<fence>`{3,})(?P<label>[a-z+]*)\n(?P<code>.*)\n(?P=fence)", re.DOTALL)


def _opened(block: str) -> tuple[str, str]:
    found = _WHOLE.fullmatch(block)
    assert found is not None
    return found["code"], found["label"]


def _plain_lines(text: str) -> str:
    return _CONTROLS.sub("", _ENDS.sub("\n", text))


# quotes and lists that one line opens: each adds to the time of reading what follows
_DEEP = re.compile(rf"^[ \t]*(?:(?:>|[-+*]|\d{{1,9}}[.)])[ \t]*){{{MAX_LEVELS}}}", re.MULTILINE)


def _write(text: str, *, plain: bool) -> str | None:
    """Rewrite a text once; None if it is too long or nested too deep."""
    if len(text) > MAX_CHARACTERS or text.count("\n") > MAX_TEXT_LINES or _DEEP.search(text):
        return None
    if text.count("[") > MAX_BRACKETS:
        return None
    tokens = _parser().parse(text)
    if any(token.level >= MAX_LEVELS for token in tokens):
        return None
    pieces = _Writer(plain=plain).blocks(_nest(tokens))
    written = "\n\n".join("\n".join(piece.lines) for piece in pieces)
    return written if len(written) <= MAX_CHARACTERS else None


# -- reading


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 2 * MAX_LEVELS})
    parser.enable(["table", "strikethrough"]).disable(["html_block", "html_inline"])
    ends = ["paragraph", "reference", "blockquote", "list"]  # blocks that a formula ends
    parser.block.ruler.before("code", "formula", _formula_block, {"alt": ends})
    parser.inline.ruler.before("escape", "formula", _formula_inline)
    return parser


_FORMULA = re.compile(
    r"\$\$(?P<double>(?:[^$`]|(?<=\\)\$)+)(?<!\\)\$\$(?!\$)"
    r"|\$(?P<single>(?:[^$`]|(?<=\\)\$)+)(?<!\\)\$(?![\d$])"
    r"|\\{1,2}\((?P<round>(?:[^\\$`]|\\[^()])+?)\\{1,2}\)"
    r"|\\{1,2}\[(?P<square>(?:[^\\$`]|\\[^\[\]])+?)\\{1,2}\]"
    r"|(?P<environment>\\begin\{(?P<name>[a-z]{1,12}\*?)\}(?:[^$`]|(?<=\\)\$){0,5000}?\\end\{(?P=name)\})",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"\$\$|\\{1,2}\[|\\begin\{")
_MONEY = re.compile(r"[A-Za-z]{3}|\d\s*[KMBkmb]\b|^[\d.,]+ (?!(?:[+*/=<>]|-.*=) )")
_NAME = re.compile(r"[A-Za-z_]\w\w|[{(]\w")  # a variable's name, or a shell's after its dollar
_SIGN_OF_TEX = re.compile(r"[\\^_]")
_JOINS = frozenset("-+*/=:,;.<>|&(")


def _read(found: re.Match[str]) -> tuple[str, bool] | None:
    """Read what may be a formula: its source, and whether it is a displayed one."""
    kind = "environment" if found.lastgroup == "name" else found.lastgroup or ""
    source = found[kind]
    if kind == "single" and not _is_formula(source, found):
        return None
    if kind == "square" and not re.search(r"[\\^_=<>+]", source):
        return None  # escaped brackets
    formula = read_formula(source)
    return (formula, kind in ("double", "square", "environment")) if formula else None


def _is_formula(source: str, found: re.Match[str]) -> bool:
    """Tell whether the text between two dollars is a formula, not prices or names of variables."""
    plain = source.replace("\\$", "")
    tex = _SIGN_OF_TEX.search(plain) is not None
    spaces = (source[0].isspace(), source[-1].isspace())
    if spaces != (False, False) and not (all(spaces) and tex):
        return False
    if not tex and _MONEY.search(plain) and not source.startswith("\\$"):
        return False
    before = found.string[: found.start()][-1:]
    joins = before.isalnum() or source[-1] in _JOINS
    if not tex and joins and found.string[found.end() : found.end() + 1].isalnum():
        return False  # list$a$b, $x/$y
    return not (_NAME.match(source) and _NAME.match(found.string, found.end()))  # $A/my_bin:$PATH


def _formula_inline(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\" or state.src[state.pos - 1 : state.pos] in ("$", "\\"):
        return False
    found = _FORMULA.match(state.src, state.pos, state.posMax)
    formula = _read(found) if found else None
    if not found or not formula:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.meta = formula[0], {"display": formula[1]}
    state.pos = found.end()
    return True


def _formula_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """Read a formula on lines of its own before they can be read as lists or rules."""
    if state.is_code_block(first):
        return False
    start = state.bMarks[first] + state.tShift[first]
    if not _BEGINS.match(state.src, start):
        return False
    end = first + 1
    while (
        end < min(last, first + MAX_LINES)
        and state.sCount[end] >= state.blkIndent
        and not state.isEmpty(end)
    ):
        end += 1
    lines = state.getLines(first, end, state.blkIndent, False).split("\n")
    found = _FORMULA.match("\n".join(lines).lstrip())
    if not found:
        return False
    count = found[0].count("\n") + 1
    formula = _read(found) if found[0] == "\n".join(lines[:count]).strip() else None
    if not formula or not formula[1]:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.meta = formula[0], {"display": True}
        token.map = [first, first + count]
        state.line = first + count
    return True


@dataclass(slots=True)
class _Node:
    token: Token
    children: list[_Node] = field(default_factory=list)


def _nest(tokens: Sequence[Token]) -> list[_Node]:
    """Build the tree of blocks from their tokens."""
    root: list[_Node] = []
    stack = [root]
    for token in tokens:
        if token.nesting < 0:
            stack.pop()
            continue
        node = _Node(token)
        stack[-1].append(node)
        if token.nesting > 0:
            stack.append(node.children)
    return root


# -- writing blocks


@dataclass(slots=True)
class _Piece:
    """A block's lines; code is moved out of the lists and quotes around it."""

    kind: str
    lines: list[str]


class _Writer:
    """Write blocks; without emphasis where renderers would read it differently."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain

    def blocks(self, nodes: Sequence[_Node]) -> list[_Piece]:
        """Write each block on its own."""
        pieces = [piece for node in nodes for piece in self._block(node)]
        return [piece for piece in pieces if piece.lines]

    def _block(self, node: _Node) -> list[_Piece]:
        token = node.token
        match token.type:
            case "fence" | "code_block":
                label = (token.info.split() or [""])[0]
                block = code_block(token.content.removesuffix("\n"), label)
                return [_Piece("code", block.split("\n"))]
            case "formula":
                return [_Piece("formula", [f"$${token.content}$$"])]
            case "hr":
                return [_Piece("rule", ["***"])]  # dashes would begin front matter
            case "blockquote_open":
                return self._quote(node)
            case "bullet_list_open" | "ordered_list_open":
                return self._list(node)
            case "table_open":
                return [_Piece("table", self._table(node))]
            case "heading_open":
                text = " ".join(self._lines(node, _Place(one_line=True)))
                text = re.sub("#$", "&#35;", text)
                return [_Piece("heading", [f"{'#' * int(token.tag[1:])} {text}"] if text else [])]
        return [_Piece("paragraph", self._lines(node, _Place()))]

    def _lines(self, node: _Node, place: _Place) -> list[str]:
        tokens = [token for each in node.children for token in each.token.children or ()]
        return _Line(tokens, place, plain=self._plain).lines()

    def _quote(self, node: _Node) -> list[_Piece]:
        pieces: list[_Piece] = []
        for is_code, group in groupby(self.blocks(node.children), lambda each: each.kind == "code"):
            if is_code:
                pieces += group
            else:
                lines = _joined(list(group))
                pieces.append(_Piece("quote", [f"> {line}".rstrip() for line in lines]))
        return pieces

    def _list(self, node: _Node) -> list[_Piece]:
        ordered = node.token.type == "ordered_list_open"
        start = int(node.token.attrGet("start") or 0) if ordered and node.token.attrs else 1
        loose = any(
            child.token.type == "paragraph_open" and not child.token.hidden
            for item in node.children
            for child in item.children
        )
        pieces: list[_Piece] = []
        items: list[str] = []
        for number, item in enumerate(node.children, start % 100_000_000):
            marker = f"{number}. " if ordered else "- "
            inside = self.blocks(item.children) or [_Piece("paragraph", [JOINER])]
            first = True
            for is_code, group in groupby(inside, lambda each: each.kind == "code"):
                if is_code:
                    pieces += [*_listed(items, ordered=ordered), *group]
                    items = []
                elif first:
                    lines = _joined(list(group), tight=not loose)
                    indented = [line and " " * len(marker) + line for line in lines[1:]]
                    items += [""] if items and loose else []
                    items += [marker + lines[0], *indented]
                else:
                    pieces += group
                first = False
        return pieces + _listed(items, ordered=ordered)

    def _table(self, node: _Node) -> list[str]:
        rows = [row for part in node.children for row in part.children]
        if not rows or not rows[0].children:
            return []
        place = _Place(one_line=True, table=True)
        written = [[" ".join(self._lines(cell, place)) for cell in row.children] for row in rows]
        written.insert(1, [_alignment(cell.token) for cell in rows[0].children])
        return [f"| {' | '.join(row)} |" for row in written]


def _listed(items: list[str], *, ordered: bool) -> list[_Piece]:
    interrupts = not ordered or bool(items and items[0].startswith("1. "))
    return [_Piece("list" if interrupts else "numbers", items)] if items else []


def _joined(pieces: list[_Piece], *, tight: bool = False) -> list[str]:
    lines = list(pieces[0].lines)
    for before, piece in pairwise(pieces):
        follows = tight and (before.kind, piece.kind) == ("paragraph", "list")
        lines += piece.lines if follows else ["", *piece.lines]
    return lines


def _alignment(token: Token) -> str:
    style = str(token.attrGet("style") or "")
    left, right = style.endswith(("left", "center")), style.endswith(("right", "center"))
    return f"{':' if left else '-'}-{':' if right else '-'}"


# -- writing inline content


@dataclass(frozen=True, slots=True)
class _Place:
    """The place where a text is written."""

    one_line: bool = False
    table: bool = False


@dataclass(slots=True)
class _Frame:
    """An open inline element: its beginning, its end, and its content so far."""

    opens: str = ""
    closes: str = ""
    refused: str = ""  # the address of a link that is not allowed
    pieces: list[tuple[str, str]] = field(default_factory=list)  # kind and written form of each


_MARKS = {"em": "*", "strong": "**", "s": "~~"}
# Bare addresses, and others. Renderers make a link of what begins like one. Each has its own rule
# for the end, and one of them includes the backtick of code that follows.
_ADDRESS = re.compile(
    r"(?<!\w)(?:https?://|www\.)(?:[A-Za-z0-9/.:?=%+,#-]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])"
    r"|&(?!#?\w+;)|(?<!@)@(?!@)){1,1000}(?<=[A-Za-z0-9/])(?=[).,;:!?]*(?:\s|$))"
    r"|(?P<odd>https?://(?:[^\s<>\"'`\[\](){}|\\^$*]|\([^\s<>\"'`\[\](){}|\\^$*]{,99}\)){1,500}"
    r"(?<![.,:;!?~_]))"
)
_STARTS = re.compile(r"[#=:>|]|[-+](?![A-Za-z0-9])|(?P<number>\d{1,9})(?P<ends>[.)])(?=\s|$)")
_SIGNS = re.compile(
    r"(?P<address>(?:https?|ftp)(?=://)|www(?=\.))|(?<!\\)(?P<money>\\*\$)|(?P<tex>\\(?:begin|end|(?:eq)?ref)\s*(?:\{|$))"
    r"|(?<=@)@|[\\`*_~<\[\]!|&]",
    re.IGNORECASE,
)
_IN_CODE = re.compile(
    r"(?<=\$)(?=\$)|(?<=\\)(?=(?:begin|end|(?:eq)?ref)\s*(?:\{|$))|(?<=\\\\)(?=[()\[\]])",
    re.IGNORECASE,
)
_ENTITIES = {sign: f"&#{ord(sign)};" for sign in "`\\[]!)"} | {"<": "&lt;", "&": "&amp;"}


class _Line:
    """Write the inline tokens of one block."""

    def __init__(self, tokens: Sequence[Token], place: _Place, *, plain: bool) -> None:
        self._tokens = tokens
        self._place = place
        self._plain = plain
        self._frames = [_Frame()]
        self._starts = True  # whether the next text begins a line
        # no strikethrough beside code: marked and mistune would begin or end it inside the code
        self._has_code = any(token.type == "code_inline" for token in tokens)
        dollars = sum(token.content.count("$") + (token.type == "formula") for token in tokens)
        self._dollar = "\\$" if dollars < 2 else "\\\\$"  # MathJax reads two of them as a formula

    def lines(self) -> list[str]:
        """Write the lines of the block."""
        following = [*self._tokens[1:], None]
        for token, after in zip(self._tokens, following, strict=False):
            self._write(token, ends=after is None or after.type in ("softbreak", "hardbreak"))
        while len(self._frames) > 1:
            self._close(marked=False)
        lines = [line for line in _split(self._frames[0].pieces) if line.rstrip("\\")]
        return [*lines[:-1], *(line.removesuffix("\\") for line in lines[-1:])]

    @property
    def _labels(self) -> bool:
        """Whether the current place is in the label of a link."""
        return any(frame.opens == "[" for frame in self._frames)

    def _write(self, token: Token, *, ends: bool) -> None:
        kind = token.type
        match kind:
            case "softbreak" | "hardbreak":
                hard = kind == "hardbreak" and not self._place.one_line
                self._add(*(("space", " ") if self._place.one_line else ("break", "\\" * hard)))
                self._starts = True
            case "code_inline":
                self._code(token.content, ends=ends)
            case "formula":
                self._formula(token, ends=ends)
            case "image":
                self._text(f"[image not shown: {_alt(token)}]", ends=ends)
            case "link_open":
                href = str(token.attrGet("href") or "")
                to = _destination(href)
                self._frames.append(_Frame("[", f"]({to})") if to else _Frame(refused=href[:200]))
            case "link_close":
                refused = self._frames[-1].refused
                self._close(marked=bool(self._frames[-1].pieces))
                self._text(f" ({refused})" if refused else "", ends=ends)
            case "em_open" | "strong_open" | "s_open":
                mark = _MARKS[kind.removesuffix("_open")]
                self._frames.append(_Frame(mark, mark))
            case "em_close" | "strong_close" | "s_close":
                sign = self._frames[-1].opens[:1]
                opaque = [text for what, text in self._frames[-1].pieces if what in _OPAQUE]
                fits = token.level < MAX_LEVELS and not any(sign in text for text in opaque)
                fits &= sign != "~" or not self._has_code
                self._close(marked=fits and not self._plain and bool(self._frames[-1].pieces))
            case _:
                self._text(token.content, ends=ends)

    def _close(self, *, marked: bool) -> None:
        frame = self._frames.pop()
        inside = frame.pieces
        label = "".join(text for _, text in inside).replace("&#58;", ":").replace("\\_", "_")
        if (
            frame.opens == "["
            and (found := _ADDRESS.fullmatch(label))
            and not found["odd"]
            and frame.closes == f"]({label})"
        ):
            inside = [("address", label)]
        elif marked and frame.opens:
            kinds = ("link", "end") if frame.opens == "[" else ("mark", "mark")
            inside = [(kinds[0], frame.opens), *inside, (kinds[1], frame.closes)]
        self._frames[-1].pieces += inside

    def _add(self, kind: str, text: str) -> None:
        self._frames[-1].pieces.append((kind, text))
        self._starts = False

    def _code(self, code: str, *, ends: bool) -> None:
        code = " ".join(code.split("\n")).replace("\t", " ").strip()
        unclear = "`" in code or (self._labels and re.search(r"[\[\]()!<\\]", code))
        if unclear or (self._place.table and "|" in code and "\\" in code):
            self._text(code, ends=ends)
        elif code:
            code = code.replace("|", "\\|") if self._place.table else code
            code += " " if code.endswith("\\") else ""  # else marked reads the backtick as escaped
            self._add("code", f"`{_IN_CODE.sub(JOINER, code)}`")

    def _formula(self, token: Token, *, ends: bool) -> None:
        formula, signs = token.content, "$$" if token.meta["display"] else "$"
        if self._labels or (self._place.table and "|" in formula and "{array}" in formula):
            self._text(f"{signs}{formula}{signs}", ends=ends)
            return
        if self._place.table:
            formula = formula.replace("\\|", "\\Vert ").replace("|", "\\vert ")
        self._add("formula", f"{signs}{formula}{signs}")

    def _text(self, text: str, *, ends: bool) -> None:
        text = text.replace("\t", " ").replace("\n", " ")
        text = text.lstrip() if self._starts else text
        text = text.rstrip() if ends else text
        place = 0
        for found in () if self._labels else _ADDRESS.finditer(text):
            if found.start() > place:
                self._add("text", self._escaped(text[place : found.start()], ends=False))
            if found["odd"]:
                self._frames.append(_Frame("[", f"]({_destination(found[0])})"))
                self._add("text", self._escaped(found[0], ends=False))
                self._close(marked=True)
            else:
                self._add("address", found[0])
            place = found.end()
        if text[place:]:
            self._add("text", self._escaped(text[place:], ends=ends))

    def _escaped(self, text: str, *, ends: bool) -> str:
        start, begins = "", _STARTS.match(text) if self._starts else None
        if begins:
            start = f"\\{begins[0]}"
            if begins["number"]:
                start = begins["number"] + ("\\." if begins["ends"] == "." else "&#41;")
            text = text[begins.end() :]
        bare = frozenset() if self._labels else _bare_brackets(text, ends=ends)
        written = [start]
        place = 0
        while found := _SIGNS.search(text, place):
            written.append(text[place : found.start()])
            sign, place = self._sign(text, found, ends=ends, bare=bare)
            written.append(sign)
        return "".join([*written, text[place:]])

    def _sign(
        self, text: str, found: re.Match[str], *, ends: bool, bare: frozenset[int]
    ) -> tuple[str, int]:
        """Write a character that Markdown reads as markup; return the index after it."""
        start, end = found.span()
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        last = not after and not ends
        match found.lastgroup:
            case "address":
                return f"{found[0]}&#{ord(after)};", end + 1
            case "money":
                return self._dollar, end
            case "tex":
                return f"&#92;{JOINER}{found[0][1:]}", end
        match found[0]:
            case "@":  # JupyterLab fails on a cell with @@, a number and a formula
                return f"{JOINER}@", end
            case "\\" if after.isascii() and after.isalnum():
                return "\\", end
            case "\\" if after and after in "()[]{}":
                return f"&#92;{JOINER}", end
            case "_" if before.isalnum() and after.isalnum():
                return "_", end
            case "<" if after and after in " =0123456789" and not self._has_code and start:
                return "<", end
            case "[" | "]" if start in bare:
                return found[0], end
            case "!" if after != "[" and not last:
                return "!", end
            case "&" if not re.compile(r"#?\w{1,40};").match(text, end) and not last:
                return "&", end
            case "|" if not self._place.table and start:
                return "|", end
        return _ENTITIES.get(found[0], f"\\{found[0]}"), end


_OPAQUE = ("code", "formula")


def _split(pieces: list[tuple[str, str]]) -> Iterator[str]:
    """Join pieces into lines, with a separator between those that would be read as one."""
    line: list[str] = []
    before, last = "", ""
    for place, (kind, text) in enumerate(pieces):
        if kind == "break":
            yield "".join(line).strip() + text
            line, before, last = [], "", ""
            continue
        same = kind == before and kind in ("mark", *_OPAQUE)
        money = (kind == "formula" and last[-1:] in ("$", "\\")) or (
            before == "formula" and re.match(r"[\\$0-9]", text) is not None
        )
        line += [JOINER] if same or money else []
        alone = kind != "address" or _stands_alone(pieces[place + 1 :])
        line.append(text if alone else _linked(text))
        before, last = kind, text
    yield "".join(line).strip()


def _stands_alone(pieces: Sequence[tuple[str, str]]) -> bool:
    """Tell whether only the end of a sentence follows, up to a space."""
    for kind, text in pieces:
        if kind in ("break", "space"):
            return True
        if kind != "text" or text.lstrip(").,;:!?"):
            return kind == "text" and text.lstrip(").,;:!?")[0].isspace()
    return True


def _linked(address: str) -> str:
    """Write an address so that every renderer finds the same end."""
    scheme, rest = re.split(r"(?<=^www)(?=\.)|(?=:)", address, maxsplit=1)
    label = f"{scheme}&#{ord(rest[0])};{rest[1:]}"
    return label if scheme == "www" else f"[{label}]({address})"


def _bare_brackets(text: str, *, ends: bool) -> frozenset[int]:
    """Find the brackets that cannot be a link's: nothing of a link follows their end."""
    opened: list[int] = []
    bare: set[int] = set()
    for found in re.finditer(r"[\[\]]", text):
        place = found.start()
        if found[0] == "[":
            opened.append(place)
        elif opened:
            start, after = opened.pop(), text[place + 1 : place + 2]
            if (after not in "([:" if after else ends) and text[start + 1] != "^":
                bare |= {start, place}
    return frozenset(bare)


def _destination(href: str) -> str | None:
    """Write a link's address in characters that all renderers read alike; None if not allowed."""
    if len(href) > 2000 or not re.match(r"https?://[^/\s]|mailto:\w", href, re.IGNORECASE):
        return None
    quoted = quote(href.encode("utf-8", "replace"), safe="/:?=&%#,+@")
    return quoted.replace("~", "%7E").replace("@@", "%40%40")


def _alt(token: Token) -> str:
    return " ".join(child.content for child in token.children or ())[:200]
