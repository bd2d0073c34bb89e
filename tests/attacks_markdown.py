"""Attacks on the browser by Markdown and TeX that one renderer takes for code and another does not."""

from __future__ import annotations

from .battery import Attack, shows

_PAYLOAD = "<img src=x onerror=owned()>"


def _shown(name: str, text: str, pattern: str, mime: str = "text/markdown") -> Attack:
    code = f"print('shown')\nbundle(**{{'text/plain': 'shown', {mime!r}: {text!r}}})"
    return Attack("browser", name, code, shows(pattern))


# Patterns look at the output as JSON, where a line's end is \\n, and a backslash is two.
MARKDOWN = [
    _shown(
        "end a fence of Markdown by a lone CR",
        f"```x\nabc\r```\r{_PAYLOAD}\n```",
        r"(\\r|```\\n)<img",
    ),
    _shown(
        "end a fence of Markdown by a line separator",
        f"```x\nabc\u2028```\u2028{_PAYLOAD}\n```",
        "(\u2028|\\\\u2028)<img",
    ),
    _shown(
        "hide a fence of Markdown in a formula",
        f"\\begin{{x}}\n```\n\\end{{x}}\n{_PAYLOAD}\n```",
        r'": "\\\\begin\{x\}\\n```',
    ),
    _shown(
        "open a fence of Markdown in a link's definition",
        f"[a]:\n```\n'\n{_PAYLOAD}\n```",
        r"\[a\]:\\n```",
    ),
    _shown(
        "end emphasis of Markdown within code",
        f"*a `` ` ` x* {_PAYLOAD} `` *",
        r"x\* <img",
    ),
    _shown(
        "end code of Markdown by an address",
        f"www.a`{_PAYLOAD}`",
        r"www\.a`<img",
    ),
    _shown(
        "end strikethrough of Markdown within code",
        f"~~a `x~~ {_PAYLOAD}` b~~",
        r"~~a `x~~ <img",
    ),
    _shown(
        "hide the beginning of code of Markdown behind a tilde",
        f"\U0001f600~~`{_PAYLOAD}`~~",
        r"~~`<img",
    ),
    _shown(
        "link Markdown to JavaScript out of code",
        "[a `` `](javascript:owned()) `` b]",
        r"\]\(javascript:",
    ),
    _shown(
        "fetch by TeX's \\unicode",
        r"$\unicode[x;background:url(http://127.0.0.1:1/?key)]{64}$",
        r"\$\\\\unicode",
        "text/latex",
    ),
    _shown(
        "fetch by TeX's \\unicode in Markdown",
        r"$\unicode[x;background:url(http://127.0.0.1:1/?key)]{64}$",
        r'": "\$\\\\unicode',
    ),
    _shown(
        "define a command of TeX's",
        r"$\def\x{\href{javascript:owned()}{x}}\x$",
        r"\\\\def\\\\x",
        "text/latex",
    ),
]
