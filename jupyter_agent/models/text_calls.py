"""Read tool calls that a model wrote as text.

Each family of models has marks of its own for a call, which its server should read. Where that
does not, they come as text. All of them hold a name and arguments in one of few forms: JSON, tags
for each argument, YAML, a Python call, or bare code.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jupyter_agent.models.code_blocks import MAX_JUDGED, is_python, is_statement, label, parses

__all__ = ["Mark", "TextCall", "find_mark", "is_python_tool", "read_call", "read_text"]

MAX_MARKS = 20  # marks of one line that are checked

_WORDS = re.compile(r"[^a-zA-Z\d]+|(?<=[a-z])(?=[A-Z])")
_OUR_WORDS = frozenset("python python3 ipython jupyter notebook interpreter repl".split())
_GENERAL = frozenset("function tool run exec execute code cell call default api".split())


def is_python_tool(name: str) -> bool:
    """Tell whether a tool's name means our tool: it names Python, or no language at all."""
    words = {word.lower() for word in _WORDS.split(name) if word and not word.isdigit()}
    return bool(words & _OUR_WORDS) or words <= _GENERAL | {"functions", "tools"}


@dataclass(frozen=True, slots=True)
class TextCall:
    """A call that was read; ``code`` is None if it is not for our tool."""

    name: str
    code: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """The beginning of a call in a line of text.

    Parameters
    ----------
    end
        What ends the call.
    raw
        Whether bare code may follow, and not only arguments.
    """

    start: int
    text: str
    end: re.Pattern[str]
    raw: bool


_MARK = re.compile(
    r"""(?P<harmony> (?:<\|start\|>assistant)? <\|channel\|>[a-z]+\ to=
        | <\|start\|>assistant\ to= | (?<!\w)assistant(?:commentary|analysis)\ to=)
    | (?P<special> <\|(?:tool_calls?(?:_section)?(?:_begin|_start)?|START_ACTION|action_start)\|>
        | <\uff5ctool\u2581calls?\u2581begin\uff5c> | \[TOOL_CALLS?\] | ^\s*functools(?=\[)
        | (?<![\w`])(?:function|tool)[_ ]?calls?:\s*(?=\{\s*["']|i?python\() )
    | (?P<python> <\|python_tag\|> | ^\s*>>>(?=i?python\b|all\b))
    | (?P<tag> <(?P<name>\uff5cDSML\uff5c\w+
        |(?:[\w-]+:)?(?:tool(?:_?calls?|_?use)?|function_?calls?|invoke|function))
        (?=[\s=>])[^<>]{0,100}> )
    | (?P<bare> ^\s*(?:<pre>\s*)?<(?P<kind>code|execute(?:_\w+)?|code_interpreter|tool_code
        |(?:[a-z]+[_-])?(?:i?python|jupyter)(?:[_-](?:cell|code|exec\w*|run|tool|interpreter))?)
        (?P<language>\ [^<>]{0,60})?>(?=\s*$|.*</(?P=kind)>(?:\s*</pre>)?\s*$) )""",
    re.VERBOSE | re.IGNORECASE,
)
_LANGUAGE = re.compile(r".*=|language-|lang-|[\"' ]")
_ENDS = r"<\|(?:call|eom_id|eot_id|im_end|/tool_call|end)\|>|</s>"


def find_mark(line: str) -> Mark | None:
    """Find where a call begins in a line; one that is quoted as code does not count."""
    for found in islice(_MARK.finditer(line), MAX_MARKS):
        if line.count("`", 0, found.start()) % 2:
            continue
        kind = next(name for name in ("harmony", "special", "python", "tag", "bare") if found[name])
        if kind == "tag" and _is_named(line[found.end() : found.end() + 200]):
            continue
        if found["language"] and not is_python(_LANGUAGE.sub("", found["language"])):
            continue
        return Mark(found.start(), found[0], _end(found), raw=kind in ("harmony", "python", "bare"))
    return None


def _is_named(after: str) -> bool:
    """Tell whether a tag is only mentioned: words follow it on its line."""
    return re.match(r"\s*[^\s{}\[\]<>]*\s+\w|\s*[.,;:)!?]", after) is not None


def _end(found: re.Match[str]) -> re.Pattern[str]:
    if name := found["name"] or found["kind"]:
        return re.compile(re.escape(f"</{name}>"), re.IGNORECASE)
    begins = found[0].strip()
    ends = re.sub("begin|start", "end", begins).replace("START", "END")
    return re.compile(re.escape(ends) if found["special"] and ends != begins else _ENDS)


_NAME = re.compile(
    r"""(?:<(?:\uff5cDSML\uff5c|[\w-]+:)?(?:invoke|function|tool)\s*(?:=|\s+name=)\s*"?)([\w.:-]+)"""
)
_OPEN_ARGUMENT = re.compile(
    r"""<(?:\uff5cDSML\uff5c|[\w-]+:)?parameter(?:=|\s+name=)\s*"?(\w+)"?[^<>]*>"""
    r"|<arg_key>\s*(\w+)\s*</arg_key>\s*<arg_value>"
)
_CLOSE_ARGUMENT = re.compile(r"</(?:(?:\uff5cDSML\uff5c|[\w-]+:)?parameter|arg_value)>\s*(?=<|$)")
_JSON_BEGINS = re.compile(r"""\{\s*["'}]|\[\s*\{""")
_NO_CODE = re.compile(r"[\w.:\s<>|\[\]`\uff5c\u2581-]*")
_ANY_MARK = re.compile(
    r"\[CALL_ID\]\w*|<\|[^|<>]*\|>|<\uff5c[^<>]*\uff5c>|\[[A-Z_]+\]|</?[^<>]*>|[()\[\]]|(?<=\w):\d+"
)
_MAX_NESTING = 20  # levels of YAML collections
_CODE = ("code", "python_code", "source", "script", "cell", "query", "input", "__arg1")


def read_call(text: str, mark: Mark) -> TextCall | None:
    """Read a call from its mark on; None if the text is not a call.

    Parameters
    ----------
    text
        What follows the mark, up to what ends the call.
    """
    argument, body = _OPEN_ARGUMENT.search(text), _JSON_BEGINS.search(text)
    if argument and (not body or argument.start() < body.start()):
        return _read_tags(mark.text + text, text[: argument.start()])
    if body and not _NO_CODE.fullmatch(text, 0, body.start()):
        body = None  # the language belongs to what follows
    if body:
        named = _name_in(mark.text + text[: body.start()])
        if call := _read_json(text[body.start() :], named):
            return call
    inside = text.strip()
    if mark.raw:
        return _read_bare(mark, inside)
    if call := _read_python(inside):
        return call
    has_form = body or not inside or inside[0] in "{[<"
    before = re.split(r"[{(]", text, maxsplit=1)[0] if "{" in text else text
    return TextCall(_name_in(mark.text + before), None) if has_form else None


def read_text(text: str) -> TextCall | None:
    """Read a text that is a call and nothing else, with or without a mark at its beginning."""
    text = text.strip()
    mark = find_mark(text.split("\n", 1)[0])
    if mark and not mark.start:
        inside = text[len(mark.text) :]
        found = mark.end.search(inside)
        return read_call(inside[: found.start()] if found else inside, mark)
    if call := _read_json(text, whole=True):
        return call
    call = _read_python(text)  # without brackets it may be a line of any program
    return call if call and (call.code or text.startswith("[")) else _read_yaml(text)


def _name_in(before: str) -> str:
    """Find the tool's name in the text before its arguments."""
    if found := _NAME.search(before):
        return found[1]
    if found := re.search(r"to=([\w.:-]+)", before):
        return found[1]
    words = _ANY_MARK.sub(" ", before[-300:]).replace("```json", " ").split()
    names = [word for word in words if re.fullmatch(r"[A-Za-z][\w.-]*", word)]
    names = [name for name in names if name not in ("functools", "assistant", "json", "code")]
    return names[-1].removeprefix("functions.") if names else ""


def _read_tags(text: str, before: str) -> TextCall | None:
    """Read a call with a tag for each argument."""
    name = _NAME.search(text)
    named = name[1] if name else _name_in(before)
    for argument in _OPEN_ARGUMENT.finditer(text):
        if (argument[1] or argument[2]) in _CODE and is_python_tool(named):
            closed = _CLOSE_ARGUMENT.search(text, argument.end())
            code = text[argument.end() : closed.start()] if closed else None
            return TextCall(named, code.strip("\n") if code else None)
    return TextCall(named, None)


def _read_bare(mark: Mark, text: str) -> TextCall | None:
    """Read plain code that follows a mark; a Markdown fence around it is left out."""
    header, _, code = text.partition("<|message|>")
    if not code:
        header, code = "", text
    if not mark.text.strip().startswith("<|python_tag") and (
        found := re.match(r"(?:functions\.)?(i?python|all)\b[^\n]*\n", code)
    ):
        header, code = found[1], code[found.end() :]
    name = mark.text.strip(" <>") if "<execute_" in mark.text else ""
    name = _name_in(mark.text + header) if "to=" in mark.text else name
    if fence := re.fullmatch(r"(`{3,})([^\n`]*)\n(.*)\n\1\s*", code.strip(), re.DOTALL):
        code = fence[3] if is_python(fence[2]) or not label(fence[2]) else ""
    is_html = "<code" in mark.text.lower()
    if is_html and not parses(code) and not re.search(r"^\s*[%!]", code, re.MULTILINE):
        return None
    return TextCall(name, code.strip("\n") if is_python_tool(name) and code.strip() else None)


def _read_python(text: str) -> TextCall | None:
    """Read a call that is written in Python, as in ``[python(code="...")]``."""
    if len(text) > MAX_JUDGED * 10 or not re.match(r"\[?\s*[A-Za-z_][\w.]*\(", text):
        return None
    try:
        [tree] = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    call: Any = tree.value if isinstance(tree, ast.Expr) else None
    call = call.elts[0] if isinstance(call, ast.List) and call.elts else call
    if not isinstance(call, ast.Call):
        return None
    if ast.unparse(call.func) == "print" and call.args and isinstance(call.args[0], ast.Call):
        call = call.args[0]  # Gemini wraps the call in print()
    name = ast.unparse(call.func)
    values = [each.value for each in call.keywords if each.arg in _CODE] + call.args[:1]
    code = values[0].value if values and isinstance(values[0], ast.Constant) else None
    ours = isinstance(code, str) and code.strip() and is_python_tool(name)
    return TextCall(name, str(code) if ours else None)


def _read_yaml(text: str) -> TextCall | None:
    """Read a call that is written in YAML; without code it is not a call, but settings."""
    import yaml  # type: ignore[import-untyped]

    try:
        depth = 0
        for event in yaml.parse(text[: MAX_JUDGED + 1], Loader=yaml.SafeLoader):
            begins = isinstance(event, yaml.CollectionStartEvent)
            depth += begins - isinstance(event, yaml.CollectionEndEvent)
            # aliases can multiply a small text without limit
            if depth > _MAX_NESTING or isinstance(event, yaml.AliasEvent):
                return None
        value = yaml.safe_load(text) if len(text) <= MAX_JUDGED else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    calls = _calls_in(value, "")
    return next((each for each in calls if each.name and is_statement(each.code or "")), None)


def _read_json(text: str, name: str = "", *, whole: bool = False) -> TextCall | None:
    """Read a call from the JSON at the beginning of a text; None if it is not a call.

    Parameters
    ----------
    name
        The tool's, if it stood before.
    whole
        Whether nothing may follow.
    """
    value, rest = _value(text)
    if whole and rest.strip("` \n"):
        return None
    calls = [*_calls_in(value, name)]
    return next((call for call in calls if call.code), calls[0] if calls else None)


def _calls_in(value: Any, name: str, deepest: int = 4) -> Iterator[TextCall]:
    """Yield the calls in a value; lists and objects may be wrapped around each."""
    if isinstance(value, dict) and (call := _called(value, name)):
        yield call
        return
    inner = [value.get(key) for key in _WRAPPERS] if isinstance(value, dict) else value
    for each in inner if isinstance(inner, list) and deepest else ():
        yield from _calls_in(each, name, deepest - 1)


_WRAPPERS = ("tool_calls", "tool_uses", "function", "function_call", "command", "calls", "actions")
_NAMES = ("name", "tool_name", "tool", "function", "action", "recipient_name")
_BESIDE_CODE = frozenset(("code", "thought", "thoughts", "language", "name", "tool"))
_ARGUMENTS = ("arguments", "parameters", "args", "action_input", "tool_input", "input", "kwargs")


def _called(value: dict[str, Any], name: str) -> TextCall | None:
    """Read a call from an object that holds its arguments as one member, or as its members."""
    named = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")
    inner = next((value[key] for key in _ARGUMENTS if key in value and named), value)
    arguments: Any = inner
    bare = isinstance(value.get("code"), str) and value.keys() <= _BESIDE_CODE
    if (inner is value and not name and not bare) or not isinstance(inner, dict | str | None):
        return None
    name = named or name
    if isinstance(arguments, str):
        arguments = _value(arguments)[0] if arguments.lstrip()[:1] == "{" else {"code": arguments}
    code = None
    if isinstance(arguments, dict):
        language = arguments.get("language") or value.get("language") or "python"
        found = [arguments[key] for key in _CODE if isinstance(arguments.get(key), str)]
        code = found[0] if found and is_python(str(language)) else None
    return TextCall(name, code if code and code.strip() and is_python_tool(name) else None)


def _value(text: str) -> tuple[Any, str]:
    """Decode the JSON at the beginning of a text; closing braces may be missing."""
    decoder = json.JSONDecoder(strict=False)
    text = text.lstrip()
    for missing in ("", "}", "}}", "]", "}]", "}}]"):
        try:
            value, end = decoder.raw_decode(text.rstrip() + missing if missing else text)
        except (ValueError, RecursionError):
            continue
        return value, text[end:]
    if len(text) <= MAX_JUDGED:
        try:
            return ast.literal_eval(text), ""  # a dict as Python writes it
        except (SyntaxError, ValueError, MemoryError, RecursionError, TypeError):
            pass
    return None, text
