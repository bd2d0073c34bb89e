"""Replies as models write them: what of them is prose, what runs, and what was wrong."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.models.fences import MAX_PARSED
from jupyter_agent.models.parser import LOOK_AHEAD, ReplyReader
from jupyter_agent.models.text_calls import is_python_tool

F = "```"
CODE = 'print("a\\n", 1)\nx = {"b": [2]}'
ARGUMENTS = json.dumps({"code": CODE})
CALL = json.dumps({"name": "python", "arguments": {"code": CODE}})
LISTED = f"[{CALL}]"
BLOCK = f"{F}python\n{CODE}\n{F}\n"


def read(
    text: str, size: int = 0, *, fences: bool = True, look_ahead: int = LOOK_AHEAD
) -> ReplyReader:
    reader = ReplyReader(fences=fences, look_ahead=look_ahead)
    size = size or len(text) or 1
    for start in range(0, len(text), size):
        if reader.feed(text[start : start + size]):
            break
    reader.close()
    return reader


def outcome(reader: ReplyReader) -> tuple[object, ...]:
    return reader.prose, reader.code, reader.problem, reader.unread, reader.is_open


# -- labels and places of blocks


@pytest.mark.parametrize(
    "label",
    [
        *"python py python3 py3 Python PYTHON ipython ipython3 jupyter tool_code {.python}".split(),
        *("{python}", "python:main.py", "python3.11", "py{1,3}", "{.python #a}", "python  "),
        *('Python title="x"', "python title=a.py", "  python", "python {cmd=true}", "python show"),
    ],
)
def test_what_is_labelled_python_runs(label: str) -> None:
    reader = read(f"I look.\n\n{F}{label}\n{CODE}\n{F}\n")
    assert (reader.prose, reader.code, reader.problem) == ("I look.", CODE, None)


@pytest.mark.parametrize("label", ["text", "pycon", "python-repl", "json", "r", "sql"])
def test_what_is_labelled_otherwise_is_prose(label: str) -> None:
    text = f"I look.\n\n{F}{label}\n{CODE}\n{F}"
    reader = read(text)
    assert (reader.prose, reader.code, reader.problem) == (text, None, None)


@pytest.mark.parametrize(
    "label",
    ["python-exec", "ipynb", "[python]", "lang=python", "code python", "", "cell", "pythonic"],
)
def test_a_label_that_no_language_has_is_doubted(label: str) -> None:
    reader = read(f"I look.\n\n{F}{label}\n{CODE}\n{F}")
    assert reader.code is None
    assert reader.problem
    assert (reader.problem.kind, reader.problem.certain) == ("label", False)


@pytest.mark.parametrize("unseen", ["\ufeff", "\u200b", "\xa0", "\u2060\u200b"])
@pytest.mark.parametrize("size", [0, 1])
def test_a_fence_is_one_whatever_nobody_sees_around_it(unseen: str, size: int) -> None:
    text = f"{unseen}{F}python{unseen}\n{CODE}\n{unseen}{F}{unseen}\nOutput: 3\n"
    assert outcome(read(text, size)) == ("", CODE, None, "", False)
    inner = f"s = '''\n{unseen}{F}\n'''\nprint(s)"
    assert read(f"{F}python\n{inner}\n{F}\n", size).code == inner


def indented(text: str, by: str) -> str:
    return "".join(f"{by}{line}" for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("before", "by"),
    [
        ("1. I look.\n", "   "),
        ("1. I look.\n\n", "    "),
        ("- I look.\n\n", "    "),
        ("- I look.\n", "\t"),
        ("10. I look.\n\n", "\t"),
        ("- a\n  - I look.\n", "    "),
        ("> I look.\n", "> "),
        ("", "  "),
    ],
)
def test_blocks_in_lists_and_quotes_run(before: str, by: str) -> None:
    reader = read(before + indented(BLOCK, by))
    assert (reader.code, reader.problem) == (CODE, None)
    assert reader.prose == before.strip()


def test_blocks_without_marks_of_their_own_end_with_their_list() -> None:
    reader = read(f"- a\n  {F}python\n  x = 1\n  y = 2\n\nThat was it.")
    assert (reader.prose, reader.code) == ("- a", "x = 1\ny = 2")


def test_indented_code_shows_and_does_not_run() -> None:
    text = f"So:\n\n{indented(BLOCK, '    ')}"
    assert read(text).code is None


@pytest.mark.parametrize(
    "closing",
    [
        *(f"{F}{end}" for end in ("<end_code>", "<|im_end|>", " <|eot_id|>", "</s>", "</code>")),
        *(f"{F}{text}" for text in (" and so", ".", " # the end", "**Now**", "output", "python")),
        *(f"    {F}", f"\t{F} and so", f"{F}{F}", f"{F}</details> And so"),
    ],
)
@pytest.mark.parametrize("by", ["", "- I look.\n\n  "])
@pytest.mark.parametrize("size", [0, 1])
def test_fences_that_close_oddly_close(closing: str, by: str, size: int) -> None:
    block = "".join(f"{' ' * bool(by) * 2}{line}\n" for line in f"{CODE}\n{closing}".split("\n"))
    reader = read(f"{by or 'I look.'}\n{' ' * bool(by) * 2}{F}py\n{block}Output: 3\n", size)
    assert (reader.prose, reader.code) == (by.strip() or "I look.", CODE)
    assert not reader.is_open


@pytest.mark.parametrize("size", [0, 1])
def test_a_fence_behind_code_on_its_line_closes(size: int) -> None:
    reader = read(f"{F}python\nx = 1\nprint(x){F} \nOutput: 3\n", size)
    assert (reader.code, reader.is_open) == ("x = 1\nprint(x)", False)


@pytest.mark.parametrize(
    "end",
    [
        *("<|im_end|>", " <|eot_id|> ", "</s>", "<end_of_turn>", "<end_code>", "</code>", "<eos>"),
        *("<|eot_id|><|start_header_id|>assistant<|end_header_id|>", "<|im_end|><|im_start|>user"),
        *("<end_of_turn><start_of_turn>user", "</s><s>[INST]"),
        *("<|im_end|>\n<|im_start|>user", "<|end|><|endoftext|>", "[|endofturn|]", "<seed:eos>"),
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
)
@pytest.mark.parametrize("begin", ["\n", "\n\n  ", "", " "])
@pytest.mark.parametrize("size", [0, 1])
def test_an_end_of_turn_in_an_open_block_closes_it(end: str, begin: str, size: int) -> None:
    for after in ("", "\n", "\nOutput: 3\n"):
        reader = read(f"I look.\n\n{F}python\n{CODE}{begin}{end}{after}", size)
        assert outcome(reader) == ("I look.", CODE, None, "", False)
    listed = read(f"- I look.\n\n  {F}python\n  x = 1{begin}{end}\n", size)
    assert (listed.code, listed.is_open) == ("x = 1", False)


def test_an_end_of_turn_ends_a_file_only_where_the_reply_ends() -> None:
    for code in ("%%writefile a\nHi\n<|im_end|>\nYes", "s = '''\n<|im_end|>\n'''"):
        assert read(f"{F}python\n{code}\n{F}\n").code == code
    assert read(f"{F}python\n%%writefile a\nHi\n<|im_end|>\n").code == "%%writefile a\nHi"
    assert read(f"{F}json\n{CALL}\n<|im_end|>\n").code == CODE


@pytest.mark.parametrize(
    "code",
    [
        f"x = 1  # {F}",
        f"s = '{F}'",
        f"print('''\n{F} and so\n    {F}\n''')",
        f"!echo a {F}",
        f"%%writefile a.md\n{F}text and so\n{F}\nend",
    ],
)
def test_a_fence_that_is_code_closes_nothing(code: str) -> None:
    assert read(f"{F}python\n{code}\n{F}\n").code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{F}python print(1)\n{F}", "print(1)"),
        (f"{F}python import os\nprint(os)\n{F}", "import os\nprint(os)"),
        (f"{F}python for i in a:\n    print(i)\n{F}", "for i in a:\n    print(i)"),
        (f"{F}python\n>>> a = 1\n>>> for i in b:\n...     i\n...\n2\n>>> a\n1\n{F}", "a = 1\nfor i in b:\n    i\na"),
        (f"{F}python\n{F}\n\nAnd:\n{F}python\nx\n{F}", "x"),
    ],
)  # fmt: skip
def test_code_is_what_was_typed(text: str, code: str) -> None:
    assert read(text).code == code


@pytest.mark.parametrize(
    "code",
    [
        f"%%writefile a.md\n# T\n{F}bash\npip install x\n{F}\n\n{F}python\nx\n{F}\nend",
        f"%%bash\ncat > a.md <<'E'\n{F}bash\nls\n{F}\nE\nls",
        f's = """\n{F}bash\nls\n{F}\n"""\nprint(s)',
        f"s = '''\n{F}\n{F}\n'''",
    ],
)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_cell_is_not_cut_at_a_fence_in_it(code: str, size: int) -> None:
    reader = read(f"I write.\n{F}python\n{code}\n{F}\n", size)
    assert (reader.prose, reader.code, reader.problem) == ("I write.", code, None)


def test_a_cell_whose_end_cannot_be_told_does_not_run() -> None:
    code = f"%%writefile a.md\n# T\n{F}\npip install x\n{F}\nend"
    reader = read(f"I write.\n{F}python\n{code}\n{F}\n")
    assert reader.code is None
    assert reader.problem
    assert reader.problem.certain
    assert "longer fence" in reader.problem.said
    longer = read(f"I write.\n{F}`python\n{code}\n{F}`\n")
    assert (longer.code, longer.problem) == (code, None)


# -- thoughts


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>\n", "\n</think>\n"),
        ("<think>", "</think>"),
        ("<thinking>\n", "</thinking>"),
        ("<reasoning>", "</reasoning>\n"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("<antThinking>", "</antThinking>"),
        ("<scratch_pad>", "</scratch_pad>"),
        ("<INNER_MONOLOGUE>\n", "\n</INNER_MONOLOGUE>\n"),
        ("<|channel>thought\n", "<channel|>"),
        ("<unused94>thought\n", "<unused95>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("analysisWe look.\n", "assistantfinal"),
    ],
)
@pytest.mark.parametrize("reply", [f"I look.\n\n{BLOCK}", "The answer is 42."])
@pytest.mark.parametrize("size", [0, 1, 5])
def test_thoughts_are_neither_code_nor_answer(begin: str, end: str, reply: str, size: int) -> None:
    text = f"{begin}Perhaps:\n{F}python\nbad()\n{F}\nor not.{end}{reply}"
    assert outcome(read(text, size)) == outcome(read(reply))


@pytest.mark.parametrize("end", ["\n</think>\n\n", "</think>", "\n</reasoning>\n"])
@pytest.mark.parametrize("thought", [f"Perhaps:\n{F}python\nbad()\n{F}\nor not.", f"So\n{F}py\nba"])
@pytest.mark.parametrize("reply", [f"I look.\n\n{BLOCK}", "The answer is 42."])
@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_thought_without_a_beginning_is_one(
    end: str, thought: str, reply: str, size: int
) -> None:
    if end == "</think>":
        thought = thought.removesuffix("ba") + "\n"
    reader = read(thought + end + reply, size)
    assert reader.thinks_aloud
    assert outcome(reader) == outcome(read(reply))


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('<details type="reasoning" done="true" duration="3">\n<summary>Thought</summary>\n', "</details>"),
        ("<details><summary>Thought for 3 s</summary>\n", "</details>\n"),
        ('<details style="color:gray" open> <summary> Thinking... </summary>\n', "\n</details>\n"),
        ("<details>\n<summary>Reasoning</summary>\n", "\n</details>"),
        ('<div class="thinking">\n', "\n</div>\n"),
        ("<analysis>\n", "\n</analysis>\n"),
        ("\n<Analysis>", "</Analysis>"),
        ("<reason>\n", "\n</reason>\n"),
        ("<rationale>", "</rationale>\n"),
        ("<self_reflection>\n", "</self_reflection>\n"),
        ("<chain_of_thought>\n", "\n</chain_of_thought>\n"),
        ("<thought_process>\n", "\n</thought_process>\n"),
        ("<longcat_think>\n", "\n</longcat_think>\n"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "thought", [f"Perhaps:\n{F}python\nbad()\n{F}\nor not.", f"\n> {F}py\n> b()\n> {F}\n"]
)
@pytest.mark.parametrize("reply", [f"I look.\n\n{BLOCK}", "The answer is 42."])
@pytest.mark.parametrize("size", [0, 5])
def test_a_reply_may_begin_with_a_thought_in_tags_that_answers_hold_too(
    begin: str, end: str, thought: str, reply: str, size: int
) -> None:
    assert outcome(read(f"{begin}{thought}{end}{reply}", size)) == outcome(read(reply))
    far = read(f"{begin}{thought}{'hm ' * LOOK_AHEAD}{end}{reply}", size * 99)
    assert outcome(far) == outcome(read(reply))


@pytest.mark.parametrize("name", ["analysis", "reason", "details"])
def test_a_thought_that_nothing_follows_is_an_answer_or_only_a_thought(name: str) -> None:
    begin = '<details type="reasoning">' if name == "details" else f"<{name}>"
    for end in ("", f"\n</{name}>\n"):
        text = f"{begin}\nThe mean is 4.{end}"
        assert outcome(read(text)) == (text.strip(), None, None, "", False)
        reader = read(f"{begin}\nPerhaps:\n{F}python\nbad()\n{F}\n{end}")
        assert reader.code is None
        assert reader.problem
        assert (reader.problem.kind, reader.problem.certain) == ("thought", True)


@pytest.mark.parametrize(
    "tag", "answer code execute response output solution python final result item details".split()
)
def test_what_a_tag_gives_as_the_real_thing_is_no_thought(tag: str) -> None:
    reader = read(f"<{tag}>\n{BLOCK}</{tag}>\n\nThat is all.")
    assert (reader.code, reader.problem) == (CODE, None)


@pytest.mark.parametrize("text", ["The model writes <think>\nand goes on.", "I look.\n<think>\nSo"])
def test_a_thought_that_never_ends_cuts_no_answer_off_unseen(text: str) -> None:
    reader = read(text)
    assert reader.problem
    assert (reader.problem.kind, reader.problem.certain) == ("thought", False)


@pytest.mark.parametrize("end", ["</think>", "\n</reasoning>\n"])
def test_an_end_after_which_nothing_comes_loses_no_answer(end: str) -> None:
    assert outcome(read(f"The answer is 42.{end}")) == outcome(read("The answer is 42."))


@pytest.mark.parametrize("thought", ["<think>\nhm\n</think>\n", "Now <think>hm</think> again.\n"])
@pytest.mark.parametrize("size", [0, 1])
def test_a_thought_after_a_block_leaves_it_the_reply(thought: str, size: int) -> None:
    reader = read(f"I look.\n\n{BLOCK}Output: 3\n{thought}\n{F}python\nbad()\n{F}\n", size)
    assert (reader.prose, reader.code, reader.problem) == ("I look.", CODE, None)


@pytest.mark.parametrize("size", [0, 1])
def test_a_thought_may_begin_in_a_line(size: int) -> None:
    reader = read(f"I look. <think>So:\n{F}python\nbad()\n{F}\n</think> Now:\n{BLOCK}", size)
    assert (reader.prose, reader.code) == ("I look.\n Now:", CODE)


def test_a_mark_far_behind_a_block_is_not_read() -> None:
    reader = read(f"{BLOCK}{'x ' * LOOK_AHEAD}\n</think>\nDone.")
    assert reader.code == CODE
    reader = read(f"{BLOCK}{'x ' * LOOK_AHEAD}\n</think>\nDone.", look_ahead=3 * LOOK_AHEAD)
    assert (reader.prose, reader.code) == ("Done.", None)


def test_only_a_thought_is_no_answer() -> None:
    texts = ["<think>\nI look.\n", f"<think>\n{BLOCK}", f"{F}python\nx\n</think>"]
    for text in [*texts, f"Perhaps:\n{BLOCK}\nOr not.\n</think>\n"]:
        reader = read(text)
        assert reader.code is None
        assert reader.problem
        assert reader.problem.certain


@pytest.mark.parametrize(
    "text",
    [
        "The tag `<think>` begins a thought, and `</think>` ends it.",
        f"So:\n\n{F}xml\n<think>\na\n</think>\n{F}\n\nThat is all.",
    ],
)
def test_a_tag_that_is_quoted_is_none(text: str) -> None:
    assert outcome(read(text)) == (text, None, None, "", False)


def test_code_may_hold_the_tags() -> None:
    code = 's = """\n<think>\na\n</think>\n"""\nt = "</think>"'
    assert read(f"{F}python\n{code}\n{F}").code == code


# -- calls as text

SEP, BAR = "\u2581", "\uff5c"
TAGS = f"<parameter=code>\n{CODE}\n</parameter>"
NAMED_TAGS = f'<parameter name="code">{CODE}</parameter>'
CALLS = {
    "Qwen, Hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "twice": f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
    "text for arguments": "<tool_call>"
    + json.dumps({"name": "python", "arguments": ARGUMENTS})
    + "</tool_call>",
    "a brace too few": f"<tool_call>{CALL[:-1]}</tool_call>",
    "a tag that does not end": f"<tool_call>\n{CALL}",
    "Qwen3-Coder": f"<tool_call>\n<function=python>\n{TAGS}\n</function>\n</tool_call>",
    "Qwen3-Coder, bare": f"<function=python>\n{TAGS}\n</function>",
    "Llama 3.1": f"<|python_tag|>{CALL}<|eom_id|>",
    "Llama's code": f"<|python_tag|>{CODE}<|eom_id|>",
    "Llama's functions": f"<function=python>{ARGUMENTS}</function>",
    "Llama 3": json.dumps({"name": "python", "parameters": {"code": CODE}}),
    "Llama 4": f"[python(code={CODE!r})]",
    "OpenAI": json.dumps({"type": "function", "function": {"name": "python", "arguments": ARGUMENTS}}),
    "a list": LISTED,
    "Mistral": f"[TOOL_CALLS]{LISTED}",
    "Mistral, new": f"[TOOL_CALLS]python[ARGS]{ARGUMENTS}</s>",
    "Mistral, with an id": f"[TOOL_CALLS]python[CALL_ID]9aBc[ARGS]{ARGUMENTS}</s>",
    "Step": f'<step:invoke name="python"><step:parameter name="code">{CODE}</step:parameter>'
    "</step:invoke>",
    "DeepSeek V3": f"<{BAR}tool{SEP}calls{SEP}begin{BAR}><{BAR}tool{SEP}call{SEP}begin{BAR}>function"
    f"<{BAR}tool{SEP}sep{BAR}>python\n{F}json\n{ARGUMENTS}\n{F}<{BAR}tool{SEP}call{SEP}end{BAR}>"
    f"<{BAR}tool{SEP}calls{SEP}end{BAR}>",
    "DeepSeek V3.1": f"<{BAR}tool{SEP}calls{SEP}begin{BAR}><{BAR}tool{SEP}call{SEP}begin{BAR}>python"
    f"<{BAR}tool{SEP}sep{BAR}>{ARGUMENTS}<{BAR}tool{SEP}call{SEP}end{BAR}>",
    "DeepSeek V3.2": f'<{BAR}DSML{BAR}function_calls>\n<{BAR}DSML{BAR}invoke name="python">\n'
    f'<{BAR}DSML{BAR}parameter name="code" string="true">{CODE}</{BAR}DSML{BAR}parameter>\n'
    f"</{BAR}DSML{BAR}invoke>\n</{BAR}DSML{BAR}function_calls>",
    "gpt-oss": "<|channel|>commentary to=functions.python <|constrain|>json<|message|>"
    f"{ARGUMENTS}<|call|>",
    "gpt-oss, its own tool": f"<|start|>assistant<|channel|>analysis to=python code<|message|>{CODE}",
    "gpt-oss, bare marks": f"assistantcommentary to=functions.python json{ARGUMENTS}",
    "GLM": f"<tool_call>python\n<arg_key>code</arg_key>\n<arg_value>{CODE}</arg_value>\n</tool_call>",
    "Kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.python:0"
    f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>",
    "functionary": f">>>python\n{CODE}",
    "functionary's JSON": f">>>python\n{ARGUMENTS}",
    "smolagents": f"Code:\n<code>\n{CODE}\n</code>",
    "smolagents, labelled": f'<code language="python">\n{CODE}\n</code>',
    "smolagents, old": f"Code:\n{F}py\n{CODE}\n{F}<end_code>",
    "smolagents, structured": json.dumps({"thought": "I look.", "code": CODE}),
    "StarCoder": f"<jupyter_code>\n{CODE}\n</jupyter_code>",
    "a tag that names Python": f"<run_python>\n{CODE}\n</run_python>",
    "a tag that names a cell": f"<python-cell>\n{CODE}\n</python-cell>",
    "a word before JSON": f"functioncall: {CALL}",
    "words before JSON": f"Function call: {CALL}",
    "words before a call": f"Tool call: python(code={CODE!r})",
    "CodeAct": f"<execute>\n{CODE}\n</execute>",
    "OpenHands": f"<execute_ipython>\n{CODE}\n</execute_ipython>",
    "a fence in a tag": f"<code>\n{BLOCK}</code>",
    "MiniMax": f'<minimax:tool_call>\n<invoke name="python">\n{NAMED_TAGS}\n</invoke>\n'
    "</minimax:tool_call>",
    "Anthropic": f'<function_calls>\n<invoke name="python">\n{NAMED_TAGS}\n</invoke>\n'
    "</function_calls>",
    "Cohere": "<|START_ACTION|>"
    + json.dumps([{"tool_call_id": "0", "tool_name": "python", "parameters": {"code": CODE}}])
    + "<|END_ACTION|>",
    "Granite": f"<|tool_call|>{LISTED}",
    "Phi": f"functools{LISTED}",
    "Nemotron": f"<TOOLCALL>{LISTED}</TOOLCALL>",
    "LFM2": f"<|tool_call_start|>[python(code={CODE!r})]<|tool_call_end|>",
    "OLMo": f"<function_calls>\npython(code={CODE!r})\n</function_calls>",
    "InternLM": f"<|action_start|><|plugin|>\n{CALL}<|action_end|>",
    "LangChain's fence": f"Action: {F}json\n{LISTED}\n{F}",
    "AutoGPT": json.dumps({"thoughts": {"text": "hm"}, "command": {"name": "python", "args": {"code": CODE}}}),
    "several at once": json.dumps({"tool_uses": [{"recipient_name": "functions.python", "parameters": {"code": CODE}}]}),
    "Gemini": f"{F}tool_code\nprint(default_api.python(code={CODE!r}))\n{F}",
    "a tool's tag": f'<tool name="python">{ARGUMENTS}</tool>',
    "a tag of use": f"<tool_use>\n{CALL}\n</tool_use>",
    "HTML": f'<pre><code class="language-python">\n{CODE}\n</code></pre>',
    "Cohere's answer": f"<|START_RESPONSE|>{BLOCK}<|END_RESPONSE|>",
    "LangChain": json.dumps({"action": "python", "action_input": CODE}),
    "Python's quotes": "<tool_call>" + str(json.loads(CALL)) + "</tool_call>",
    "in a fence": f"{F}json\n{CALL}\n{F}",
    "in a fence of its own": f"{F}tool_call\n{CALL}\n{F}",
    "a tag in a fence": f"{F}xml\n<tool_call>\n{CALL}\n</tool_call>\n{F}",
}  # fmt: skip


@pytest.mark.parametrize("prose", ["", "I look.\n\n"])
@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("shape", CALLS)
def test_calls_as_text_are_read(shape: str, size: int, prose: str) -> None:
    reader = read(prose + CALLS[shape], size)
    assert reader.code == CODE
    assert reader.problem is None
    assert (
        reader.prose.removesuffix("Code:").removesuffix(f"Action: {F}json").strip() == prose.strip()
    )


@pytest.mark.parametrize(
    "call",
    [
        "name: python\narguments:\n  code: |\n    print(1)",
        "name: 'python'\narguments: {code: 'print(1)'}",
        "code: print(1)\ntool: python",
        "action: code_interpreter\naction_input: print(1)",
        "tool_calls:\n- name: python\n  arguments:\n    code: print(1)",
        "- function: execute_python\n  parameters:\n    code: print(1)",
        "tool: python\ncode: |\n  print(1)",
    ],
)
@pytest.mark.parametrize("around", ["%s", f"{F}yaml\n%s\n{F}", f"{F}\n%s\n{F}", "%s\n<|im_end|>\n"])
@pytest.mark.parametrize("prose", ["", "I look.\n\n"])
def test_a_call_may_be_yaml(call: str, around: str, prose: str) -> None:
    assert outcome(read(prose + around % call)) == (prose.strip(), "print(1)", None, "", False)


@pytest.mark.parametrize("tag", ["code", "python", "jupyter_code", "run_python"])
def test_code_in_a_tag_may_be_one_line(tag: str) -> None:
    assert outcome(read(f"I look.\n<{tag}>print(1)</{tag}>")) == (
        "I look.",
        "print(1)",
        None,
        "",
        False,
    )


def test_what_follows_a_call_is_cut() -> None:
    reader = ReplyReader(look_ahead=0)
    assert not reader.feed(f"<tool_call>{CALL}</tool_call>\n")
    assert reader.feed("<tool_response>")
    reader.close()
    assert (reader.prose, reader.code) == ("", CODE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_call></tool_call>", "holds no Python code"),
        ("<tool_call>", "holds no Python code"),
        ('<tool_call>{"name": "python", "arguments": {}}</tool_call>', "holds no Python code"),
        ('<tool_call>{"name": "python", "arguments": {"code": "x', "holds no Python code"),
        ('<tool_call>{"name": "sql", "arguments": {"code": "x"}}</tool_call>', "no tool 'sql'"),
        ('{"name": "final_answer", "arguments": {"answer": "42"}}', "no tool 'final_answer'"),
        ("<function=bash><parameter=code>ls</parameter></function>", "no tool 'bash'"),
        ('[TOOL_CALLS]javascript[ARGS]{"code": "1"}', "no tool 'javascript'"),
        ("<|channel|>commentary to=functions.get_weather<|message|>{}", "get_weather"),
        ("<execute_bash>\nls\n</execute_bash>", "no tool 'execute_bash'"),
        ("<execute_command>\n<command>ls</command>\n</execute_command>", "'execute_command'"),
        ('<tool_call>{"name": "python", "arguments": {"code": "f(1); g(', "holds no Python code"),
    ],
)
@pytest.mark.parametrize("fences", [True, False])
def test_a_call_without_our_code_is_no_answer(text: str, said: str, fences: bool) -> None:
    for prose in ("", "I look.\n\n") if text[0] != "{" else ("",):
        reader = read(prose + text, fences=fences)
        assert reader.code is None
        assert reader.problem
        assert reader.problem.certain
        assert said in reader.problem.said


@pytest.mark.parametrize(
    "text",
    [
        "Qwen marks a call by <tool_call> and </tool_call>.",
        "The tag `<tool_call>` begins a call.",
        "<tool_call> is the tag of Qwen's calls.",
        "In HTML, <code>x</code> is code.",
        "<jupyter_text>\nprint(1)\n</jupyter_text>",
        "<python_output>\n3\n</python_output>",
        "The word functioncall: comes before its JSON.",
        '{"mean": 3.5, "n": 12}',
        '{"name": "Ann", "args": 3}',
        '{"languages": [{"name": "python", "input": "x"}]}',
        "[1, 2, 3]",
        f"So:\n\n{F}text\nprint(1)\n{F}",
        f"So:\n\n{F}\n42\n{F}",
        "x = 42",
        "42",
        f"It said:\n\n{F}\nTraceback (most recent call last):\n  x\n{F}",
        f"Use it so:\n\n{F}bash\npip install x\n{F}\n\nThen start it.",
        f"In R you would write:\n\n{F}r\nprint(1)\n{F}",
        "The mean is 4.\n\nIt is that of print(1), which is none.\n\nMean: 4",
        f"In the page:\n\n{F}js\nconsole.log('x')\n{F}",
        "A thought stands between <think> and </think> in a reply.\nThat is all.",
        "It ends with </think>, the mark.",
        "The scene:\n\n<dialogue>\nHe: Yes.\n</dialogue>\n\nThat is all.",
        "The settings:\n\nname: python\nversion: 3.12\npath: a.py",
        f"{F}yaml\nname: build\non: push\njobs:\n  a:\n    script: make\n{F}",
        "<item>\n<reason>It is late.</reason>\n</item>",
    ],
)
def test_an_answer_is_an_answer(text: str) -> None:
    assert outcome(read(text)) == (text, None, None, "", False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Qwen's calls stand between <tool_call>\nand </tool_call>, as text.", "call"),
        (f'It looks so:\n\n{F}json\n{{"name": "sum", "arguments": {{"a": 1}}}}\n{F}', "call"),
        (f"I list the files.\n\n{F}bash\nls\n{F}", "shell"),
        (f"I look.\n\n{F}\nimport pandas as pd\npd.read_csv('a.csv')\n{F}", "label"),
        ("import pandas as pd\nprint(pd.read_csv('a.csv'))", "bare"),
        ("I look:\n\nimport os\n\nprint(os.listdir())", "bare"),
        ("I look.\n\n    import os\n    print(os.listdir())", "bare"),
        ("I look.\n\n[PYTHON]\nprint(1)\n[/PYTHON]", "bare"),
        ("'''python\nprint(1)\n'''", "bare"),
        ("\uff40\uff40\uff40python\nprint(1)\n\uff40\uff40\uff40", "bare"),
        ("I look.\n<my_own_python>\nprint(1)\n</my_own_python>", "bare"),
        ("I look.\n\\begin{lstlisting}[language=Python]\nprint(1)\n\\end{lstlisting}", "bare"),
        (f"I look: {F}python\nprint(1)\n{F}", "fence"),
        (f"{F}python print(1){F}", "fence"),
        (f"I look.\n\n{F}python\n\n{F}\n", "empty"),
        (f"I look.\n\n{F}\nprint(1)\n{F}", "label"),
        (f"I look:\n    {F}python\n    print(1)\n    {F}", "fence"),
        ("I write <tool_call>{...}</tool_call> in it.\n\n" + "And more. " * 500, "call"),
        (f"{F}markdown\nI look.\n\n{F}python\nprint(1)\n{F}\n{F}", "fence"),
    ],
)
def test_what_seems_to_be_more_than_an_answer_is_doubted(text: str, kind: str) -> None:
    reader = read(text)
    assert reader.code is None
    assert reader.problem
    assert (reader.problem.kind, reader.problem.certain) == (kind, False)
    if kind != "empty":
        assert reader.prose == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "Thought: I look\nAction: python\nAction Input: print(1)",
        '<|tools_prefix|>[{"python": {"code": "1"}}]<|tools_suffix|>',
        "<start_function_call>call:python{code:<escape>1<escape>}",
    ],
)
def test_a_raw_call_is_no_answer_however_often_it_comes(text: str) -> None:
    reader = read(text)
    assert reader.code is None
    assert reader.problem
    assert (reader.problem.kind, reader.problem.certain) == ("call", True)


def test_a_doubted_call_hides_no_block() -> None:
    reader = read(f"Not by <tool_call>\nbut so:\n\n{BLOCK}")
    assert (reader.code, reader.problem) == (CODE, None)


def test_where_calls_are_native_a_block_is_prose_and_its_rest_is_kept() -> None:
    text = f"Do so:\n\n{BLOCK}\nThen go on."
    reader = read(text, fences=False)
    assert (reader.prose, reader.code, reader.problem) == (text, None, None)
    assert reader.lead == "Do so:"


@pytest.mark.parametrize(
    "name",
    [
        *"python execute_python run_python code_interpreter ipython jupyter runPython".split(),
        *"python_interpreter execute_code add_and_execute_jupyter_code_cell python3".split(),
        *("functions.python", "run_code", "execute_cell", ""),
    ],
)
def test_a_tool_for_python_is_known_by_its_name(name: str) -> None:
    assert is_python_tool(name)


@pytest.mark.parametrize(
    "name", "javascript sql bash run_shell final_answer execute_sql run_r get_weather".split()
)
def test_another_tool_is_known_by_its_name(name: str) -> None:
    assert not is_python_tool(name)


# -- any text, in any pieces

ATOMS = [
    *(F, "~~~", "````", "`", "python", "bash", "text", "\n", "\n", "\n", "\n\n", "\r", "\r\n", " "),
    *("    ", "\t", "- ", "1. ", "> ", "x = 1", "print(1)", "'''", '"""', "%%writefile a", "%%bash"),
    *("<think>", "</think>", "</reasoning>", "<tool_call>", "</tool_call>", CALL, ARGUMENTS, "{", "["),
    *("<code>", "</code>", "<end_code>", "<|im_end|>", "<|python_tag|>", "[TOOL_CALLS]", ">>> ", ">>>python"),
    *("<|channel|>analysis<|message|>", "<|end|>", "<function=python>", "<parameter=code>", "word"),
    *("<details type=reasoning>", "</details>", "<analysis>", "</analysis>", "</s>"),
    *("</parameter>", "</function>", "\ue000", "\x00", "\u2028", "{.python}"),
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=25).map("".join) | st.text(max_size=60)


@settings(deadline=None, max_examples=400)
@given(TEXTS, st.lists(st.integers(1, 12), max_size=30), st.booleans(), st.sampled_from([0, 9, 99]))
def test_a_reply_is_the_same_however_it_is_cut(
    text: str, sizes: list[int], fences: bool, look_ahead: int
) -> None:
    whole = read(text, fences=fences, look_ahead=look_ahead)
    reader = ReplyReader(fences=fences, look_ahead=look_ahead)
    start = 0
    for size in itertools.chain(sizes, itertools.repeat(3)):
        reader.prose, reader.code, reader.lead  # noqa: B018  # what is shown changes nothing
        if start >= len(text) or reader.feed(text[start : start + size]):
            break
        start += size
    reader.close()
    assert outcome(reader) == outcome(whole)
    assert not (reader.code and reader.problem)
    assert reader.code is None or reader.code.strip()


# -- hostile text

MOST = 4_000


@pytest.mark.parametrize(
    "atom",
    [
        *("```\n", "```python\n", "```a`\n", "`", "```", "- ```\n  x\n  ```\n", "- a\n", "> ", "- "),
        *("<think>", "</think>", "</think>\n", "<tool_call>", "</tool_call>", "<tool_call>\n", "{", "["),
        *("`<tool_call>", "<code>\n", "</code>\n", "<function=a>", "<parameter=code>", "<|im_end|>"),
        *("```python\nx\n```\n</think>\n", "'''\n```\n", "1. ", "\t", "\r", "x(", '{"a":', "<|channel|>"),
        *(">>> x\n", "~~~a\n", "[a(", "<\uff5c", "analysisA", "    ```\n", "\\", '"', "(a, ", "%%a\n```b\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "- a\n", "```python\n", "<tool_call>", "```python\n'''\n"])
def test_hostile_text_is_read_with_bounded_work(atom: str, before: str) -> None:
    text = before + atom * ((MOST - len(before)) // len(atom))
    reader = read(text, 100, look_ahead=4000)
    assert reader.parsed <= MAX_PARSED + 101 * MOST


@pytest.mark.timeout(60)  # with work that grows as the square of the text it takes hours
@pytest.mark.parametrize(
    ("before", "atom", "after"),
    [
        *(("", blank, "x") for blank in (" ", "\t", "\xa0", "\u2003", "\f")),
        *(("```", "\u200b", "x"), ("> ", " ", "x"), ("<think>", " ", "x"), ("</think>", " ", "x")),
        *(("```python\nx ", "`", " y\n"), ("```python\nx ", "</a> ", " y\n")),
        *(("```python\nx </a>", " ", " y\n"), ("```python\n", " ", "\n```")),
    ],
)
def test_a_long_line_takes_no_time(before: str, atom: str, after: str) -> None:
    text = before + atom * (180_000 // len(atom)) + after
    assert read(text, 4_000).parsed <= MAX_PARSED + 2 * len(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "{" * 6_000,
        "- &a [x]\n" + "".join(f"- &a [{'*a, ' * 60}]\n" for _ in range(60)),
        "name: python\ncode: &a [x]\n" + "".join(f"- &a [{'*a, ' * 60}]\n" for _ in range(60)),
    ],
)
def test_yaml_that_is_deep_or_stands_for_more_is_no_call(text: str) -> None:
    reader = read(f"```yaml\n{text}\n```\n" * 20, 4_000)
    assert reader.code is None
