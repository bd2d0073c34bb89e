"""Hostile Markdown by the thousand, cleaned and drawn by the renderers that users have.

``make fuzz`` runs it for long; ``test_fuzz_markdown.py`` for a bounded time. Every document is made
from a seed, so that a hit can be repeated.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import BrowserContext, Page

from jupyter_agent.sandbox.filter.markdown import clean_markdown
from jupyter_agent.sandbox.filter.outputs import read_output

from .lab import Lab, browsing, opened, serving

EVIL = "http://evil.test"
BATCH = 200  # documents
PAGE = 10_000  # documents until a page is opened anew

# -- documents

PAYLOADS = [
    '<img src=x onerror="window.PWNED=1">',
    f"<img src={EVIL}/tag.png>",
    f"![x]({EVIL}/picture.png)",
    f"![x]( <{EVIL}/angle.png> 'title')",
    "![x][ref]",
    "[x][ref]",
    "[x](javascript:window.PWNED=2)",
    "[x](JaVaScRiPt&colon;window.PWNED=3)",
    "[x](data:text/html,<script>window.PWNED=4</script>)",
    "<javascript:window.PWNED=5>",
    "<script>window.PWNED=6</script>",
    f"<iframe src={EVIL}/frame></iframe>",
    '<svg onload="window.PWNED=7"></svg>',
    "<details open ontoggle=window.PWNED=8>",
    f"<style>@import '{EVIL}/sheet'</style>",
    f"<p style='background:url({EVIL}/style)'>",
    f'http://x/$" onmouseover="window.PWNED=9$ {EVIL}',
    f'{EVIL}/"onmouseover="window.PWNED=10',
    "<!-- --><b onclick=window.PWNED=11>",
    "\\<img src=x onerror=window.PWNED=12>",
    "&lt;img src=x onerror=window.PWNED=13>",
    "<a href=javascript:window.PWNED=14>x</a>",
    f"&#33;[x]({EVIL}/entity.png)",
    f"!\\[x]({EVIL}/escape.png)",
    f"[![x]({EVIL}/inner.png)](http://a)",
]
TEX = [
    rf"\unicode[x;background:url({EVIL}/unicode)]{{64}}",
    rf"\unicode[Arial](0){{x3c;background:url({EVIL}/unicode)}}",
    rf"\style{{background:url({EVIL}/tex)}}{{x}}",
    r"\href{javascript:window.PWNED=20}{x}",
    r"\class{jp-Button}{x}",
    r"\cssId{id}{x}",
    r"\data{commandlinker-command=x}{x}",
    r"\require{html}\href{javascript:window.PWNED=21}{x}",
    r"\def\x{\href{javascript:window.PWNED=22}{x}}\x",
    r"\csname href\endcsname{javascript:window.PWNED=23}{x}",
    r"\let\x=\href \x{javascript:window.PWNED=24}{x}",
    r"\newcommand{\x}[1]{\href{#1}{x}}\x{javascript:window.PWNED=25}",
    rf"\includegraphics{{{EVIL}/graphics}}",
    rf"\bbox[background:url({EVIL}/bbox)]{{x}}",
    rf"\enclose{{circle}}[mathbackground=\"url({EVIL}/enclose)\"]{{x}}",
    r"\text{$\href{javascript:window.PWNED=26}{x}$}",
    rf"\color{{red;background:url({EVIL}/color)}}x",
    r"\ref{x} \eqref{<img src=x onerror=window.PWNED=27>} \label{x}",
    r"\mmlToken{mi}[href=\"javascript:window.PWNED=28\"]{x}",
    r"\begin{align} a &= b \\ c &= d \end{align}",
    r"\begin{array}{c|c} a & b \\[2pt] c & d \end{array}",
    r"\frac{1}{2}",
    r"{a \\} b",
    r"x^2 <img src=x onerror=window.PWNED=29>",
    r"a\\",
    r"a\ ",
    r"\text{a & b <b> ![x](y)}",
    r"<img/src=x/onerror=window.PWNED=30>",
]
DELIMITERS = [
    ("$", "$"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\\\(", "\\\\)"), ("\\\\[", "\\\\]"),
    ("\\begin{align}", "\\end{align}"), ("\\begin{x}", "\\end{x}"), ("$$\n", "\n$$"), ("$", "$$"),
    ("", ""), ("&#36;", "&#36;"), ("\\$", "$"), ("$ ", " $"),
]  # fmt: skip
WORDS = (
    "a the cost price is of x_1 *y* **z** `code` $5 $1.2M 10% C:\\dir \\alpha [1, 2] (x) - 1. # > | "
    "~~gone~~ ~ _it_ __b__ & &copy; &#36; &#96; \\$ \\\\ \\* @@0@@ @\\@0@@ a@b.c www.x.y ftp://x "
    "http://a.b/c_d?e=f&g=h#i http://a/~b *** --- === +++ ^ {x} } { : ; ! !! ? \u00a0 \u2060 \u200b "
    "\u00e9 \u4e2d \U0001f600 [ ] ( ) ](http://a) ![ < > \\( \\) \\[ \\] \\\\( \\\\[ $ $$ ` `` ``` ~~~ "
    "\\begin{x} \\end{x} \\begin{align} \\end{align} {{ }} \\{ \\} \\` \\< \\! \\[ \\] \\& \\_ \\~ \\| "
    "&lt; &gt; &amp; &quot; &NewLine; &Tab; &lbrack; &excl; &grave; &dollar; &bsol; &#x5c; &#0; &#10;"
).split(" ")
BREAKS = ["\n"] * 8 + ["\r", "\r\n", "\n\n", "\n\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "  \n", "\\\n", "\t\n", "\x00"]  # fmt: skip
INDENTS = ["", "", "", " ", "  ", "   ", "    ", "\t", " \t", "> ", ">", "- ", "* ", "1. ", "10) ", "+ ", "> > ", "- > ", "# "]  # fmt: skip
LABELS = ["", "", "x", "python", "html", "mermaid", "Mermaid x", "mermaid-source", "{.x}", "a`b", "math", "$", "\\", "@@0@@", "svg onload=x", '"><img src=x onerror=window.PWNED=40>']  # fmt: skip
KNOWN = [  # what has come past a filter, and what came close
    "```x\nabc\r```\r{}\n```",
    "```x\nabc\u2028```\u2028{}\n```",
    "\\begin{{x}}\n```\n\\end{{x}}\n{}\n```",
    "\\begin{{x}}\n```\n{}\n```\n\\end{{x}}\n```\n{}\n```",
    "[a]:\n```\n'\n{}\n```\n",
    "[a]: <\n```\n>\n{}\n```",
    '[a]: b "\n```\n{}\n"\n```\n\n[a]',
    "- item\n\n  ```\n{}\n```",
    "> ```\n{}\n```",
    "` {} ``",
    "\\` {} \\`",
    "a `\n\n{}\n\n` b",
    "``` a`b\n\n{}\n\n```",
    "`` ` `` {} `` ` ``",
    "*a `` ` ` x* {} `` *",
    "~~a `x~~ {}` b~~",
    "**a `x** {}` b**",
    "*a < `>` `* {}`*",
    "[a `` `](javascript:window.PWNED=41) `` b]",
    "[`` `](javascript:window.PWNED=42) ``](http://ok)",
    "`$$` x `$$` {} `y`",
    "`\\begin{{x}}` `{}` ``\\end{{x}}``",
    "\\\\`$` {} `$`",
    "| a | b |\n|---|---|\n| `x | {} ` | c |",
    "| a |\n|---|\n| `\\\\| {}` |",
    "a | b\n-|-\n`c | {}`",
    "$a$$ {} $$b$",
    "$x$\n```\n$ {}\n```\n$y$",
    "- `$\n- ```\n  $ {}\n  ```\n",
    "1. a\n   ```\n   $x\n   ```\n2. $y {}\n   ```\n   {}\n   ```",
    "> \\begin{{x}}\n>\n> ```\n> \\end{{x}}\n> {}\n> ```",
    "---\ntitle: {}\n---\n\n{}",
    "[^1]\n\n[^1]: {}\n    {}",
    "<details>\n\n```\n</details>\n{}\n```",
    "<div>\n```\n{}\n```\n</div>",
    "<!--\n```\n-->\n{}\n```",
    "~~~\n```\n~~~\n{}\n```",
    "````\n```\n{}\n````",
    "   ```\n   {}\n  ```",
    "a\n    ```\n{}\n    ```",
    "$\n```\n$\n{}\n```",
    "\\\\(\n```\n\\\\)\n{}\n```",
    "{{\n$a}}\n```\n$ {}\n```",
    "http://a/$ {} $`{}`",
    "[$x$]({}) [a](http://x/$y$)",
    '[a](http://x/@\\@0@@) $" onmouseover="window.PWNED=43$',
    '# $"><img src=x onerror=window.PWNED=44>$\n\n`{}`',
    "\\begin{{a}}`\\end{{a}}` {} `",
    "![`]({evil}/tick.png)`{}`".replace("{evil}", EVIL),
    "*[{}]: x\n\n{}",
    "`a`` {} ``b`",
    "\U0001f600~~`{}`~~",
    "a~~`{}`~~ b",
    "@@1$x$ {}",
    "```\n@@1\\begin{{x}}\\end{{x}}\n```\n{}",
    "a\\\n`{}`",
    "~T~D {} `~D`",
]


def documents(seed: int) -> Iterator[str]:
    """Make documents without end, each followed by the beginning of itself, as it streams."""
    for number in range(sys.maxsize):
        source = random.Random(seed * 1_000_003 + number)
        text = _document(source)
        yield text
        yield text[: source.randrange(len(text) + 1)]


def _document(source: random.Random) -> str:
    blocks = [_block(source, 0) for _ in range(source.choice([1, 1, 1, 2, 3, 5]))]
    text = "".join(block + source.choice(BREAKS) for block in blocks)
    for _ in range(source.choice([0, 0, 1, 3, 10])):
        text = _mutated(source, text)
    return text


def _payload(source: random.Random) -> str:
    return source.choice(PAYLOADS) if source.random() < 0.75 else _formula(source)


def _formula(source: random.Random) -> str:
    tex = source.choice(TEX)
    opening, closing = source.choice(DELIMITERS)
    return f"{opening}{tex}{closing}"


def _inline(source: random.Random, depth: int = 0) -> str:
    pieces = []
    for _ in range(source.choice([1, 2, 3, 5]) if depth < 1 else source.choice([1, 1, 2])):
        kind = source.randrange(12)
        inner = _inline(source, depth + 1) if depth < 2 else source.choice(WORDS)
        ticks = "`" * source.choice([1, 1, 1, 2, 3])
        pieces.append(
            [
                source.choice(WORDS),
                source.choice(WORDS),
                _payload(source),
                f"{ticks}{inner}{ticks}",
                f"{ticks}{_payload(source)}{'`' * source.choice([1, 2, 3])}",
                f"*{inner}*",
                f"**{inner}**",
                f"~~{inner}~~",
                f"[{inner}]({source.choice(['http://a', 'b c', 'javascript:window.PWNED=50', '<http://x y>', 'mailto:a@b'])})",
                f"![{inner}]({EVIL}/inline.png)",
                _formula(source),
                f"_{inner}_",
            ][kind]
        )
    return source.choice(["", " ", " "]).join(pieces)


def _block(source: random.Random, depth: int) -> str:
    kind = source.randrange(12)
    if kind < 3:
        return source.choice(INDENTS) + _inline(source)
    if kind < 5:
        return _known(source)
    if kind < 7:
        fence = source.choice("`~") * source.choice([3, 3, 3, 4, 5])
        inside = [source.choice([_payload, _inline, _known])(source) for _ in range(2)]
        closing = source.choice([fence, fence, fence[:-1], fence + "`", "", fence + " x"])
        indent = source.choice(INDENTS)
        lines = [fence + source.choice(LABELS), *inside, closing]
        return indent + _break(source).join(source.choice(["", "", indent, " "]) + x for x in lines)
    if kind == 7 and depth < 4:
        prefix = source.choice(["> ", ">", "- ", "1. ", "  ", "    ", "* ", "3) "])
        rest = source.choice([" " * len(prefix), prefix, ""])
        first, *others = _block(source, depth + 1).split("\n")
        return "\n".join([prefix + first, *(rest + line for line in others)])
    if kind == 8:
        cells = lambda: " | ".join(_inline(source, 2) for _ in range(source.choice([1, 2, 3])))  # noqa: E731
        rule = source.choice(["|---|---|", "-|-", ":-:|:-", "| - |", "---"])
        return f"{source.choice(['| ', ''])}{cells()}\n{rule}\n" + "\n".join(cells() for _ in "ab")
    if kind == 9:
        label = source.choice(["ref", "a", "^1", "x"])
        to = source.choice([f"{EVIL}/ref.png", "javascript:window.PWNED=51", "<x>", "\nhttp://a"])
        title = source.choice(
            ["", ' "t"', "\n'\n", f' "{_payload(source)}"', f"\n({_payload(source)}"]
        )
        return f"[{label}]:{_break(source)[:1]}{to}{title}"
    if kind == 10:
        under = source.choice(["===", "---", "- - -", "***", "|-|"])
        return f"{_inline(source)}\n{under}"
    return _known(source) + _break(source) + _block(source, depth + 1) if depth < 4 else ""


def _known(source: random.Random) -> str:
    text = source.choice(KNOWN)
    return text.replace("{}", "\0").replace("{{", "{").replace("}}", "}").replace("\0", _payload(source))  # fmt: skip


def _break(source: random.Random) -> str:
    return source.choice(BREAKS)


def _mutated(source: random.Random, text: str) -> str:
    place = source.randrange(len(text) + 1)
    match source.randrange(6):
        case 0:
            return text[:place] + text[place + 1 :]
        case 1:
            return text[:place] + source.choice(WORDS) + text[place:]
        case 2:
            return text[:place] + _break(source) + source.choice(INDENTS) + text[place:]
        case 3:
            end = source.randrange(place, min(len(text), place + 40) + 1)
            return text[:end] + text[place:end] + text[end:]
        case 4:
            return text[:place] + _payload(source) + text[place:]
    return text[:place] + source.choice("`~$\\{}[]()<>&*_!|\"'@") + text[place:]


# -- what draws them

# Finds what would run or fetch below an element: null, or what it is.
JUDGE = r"""
() => { window.judge = host => {
    const tags = 'script, iframe, frame, object, embed, img, image, link, style, meta, base, form, '
        + 'video, audio, source, picture, input:not([type=checkbox][disabled]), button, svg, use, '
        + 'portal, template, textarea, mjx-container a, mjx-container [href], .jp-Button, .jp-RenderedMermaid';
    const found = host.querySelector(tags);
    if (found) return found.outerHTML.slice(0, 300);
    for (const element of host.querySelectorAll('*')) {
        for (const {name, value} of element.attributes) {
            const says = `${element.localName} ${name}=${value}`.slice(0, 300);
            if (name.startsWith('on') || name.startsWith('data-commandlinker')) return says;
            if (['src', 'srcset', 'background', 'poster', 'action', 'formaction', 'ping', 'xlink:href'].includes(name)) return says;
            if (name === 'href' && !/^(https?:\/|mailto:|#)/i.test(value)) return says;
            if (name === 'style' && /url|image|expression|fixed/i.test(value)) return says;
        }
    }
    return null;
}; }
"""
# Draws documents as JupyterLab draws trusted outputs and Markdown cells, formulas and all.
DRAW = r"""
async documents => {
    const {rendermime} = window.jupyterapp.shell.currentWidget.content;
    const hits = [];
    for (const [index, [mime, text]] of documents.entries()) {
        let node, failed = null;
        if (mime === 'nbconvert') {
            node = document.createElement('div');
            document.body.append(node);
            node.innerHTML = text;
        } else {
            const renderer = rendermime.createRenderer(mime);
            node = renderer.node;
            document.body.append(node);
            const model = rendermime.createModel({data: {[mime]: text}, trusted: true});
            await renderer.renderModel(model).catch(error => { failed = `${error}`; });
        }
        await rendermime.latexTypesetter.typeset(node);  // a node outside a widget is not, as yet
        const why = failed || window.judge(node) || (window.PWNED ? `PWNED=${window.PWNED}` : null);
        if (why) hits.push([index, why]);
        window.PWNED = undefined;
        node.remove();
    }
    await new Promise(done => setTimeout(done, 50));  // what runs when a picture has not come
    if (window.PWNED && !hits.length) hits.push([documents.length - 1, `PWNED=${window.PWNED}`]);
    window.PWNED = undefined;
    return hits;
}
"""

Clean = Callable[[str], str]
Drawn = tuple[str, str]  # how it is drawn, and what


def drawings(text: str, clean: Clean = clean_markdown) -> list[Drawn]:
    """Clean a document, as each of those that it could be."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    markdown = clean(text)
    outputs = read_output("display_data", {"data": {"text/latex": text}})
    assert outputs is not None
    return [
        ("text/markdown", markdown),
        ("nbconvert", markdown2html_mistune(markdown)),
        ("text/latex", outputs.data["text/latex"]),
    ]


@dataclass
class Hit:
    """A document that ran or fetched something, or would have."""

    text: str
    drawn: Drawn
    why: str

    def __str__(self) -> str:
        return f"{self.why}\nfrom {self.text!r}\nas {self.drawn[0]}: {self.drawn[1]!r}"


@dataclass
class Drawer:
    """A page of JupyterLab's that draws."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self._ask(request.url))
        self.page.evaluate(JUDGE)

    def _ask(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.requests.append(url)

    def hits(self, texts: Sequence[str], clean: Clean = clean_markdown) -> list[Hit]:
        """Draw documents; return those that did harm."""
        drawn = [(text, each) for text in texts for each in drawings(text, clean)]
        found = self.page.evaluate(DRAW, [each for _, each in drawn])
        hits = [Hit(drawn[index][0], drawn[index][1], why) for index, why in found]
        if self.requests and not hits and len(texts) > 1:
            self.requests.clear()
            middle = len(texts) // 2
            return self.hits(texts[:middle], clean) + self.hits(texts[middle:], clean)
        if self.requests and not hits:
            hits = [Hit(drawn[0][0], drawn[0][1], f"asked for {self.requests}")]
        self.requests.clear()
        return hits

    def smallest(self, text: str, clean: Clean = clean_markdown) -> Hit:
        """Take pieces out of a document for as long as it does harm."""
        hit = next(
            iter(self.hits([text], clean)), Hit(text, ("a batch", clean(text)), "it did before")
        )
        size = len(text) // 2
        while size:
            shorter = [text[:i] + text[i + size :] for i in range(0, len(text), size)]
            worse = next((h for each in shorter for h in self.hits([each], clean)), None)
            if worse:
                hit, text = worse, worse.text
            else:
                size //= 2
        return hit


@contextmanager
def drawing(lab: Lab, browser: BrowserContext) -> Iterator[Drawer]:
    """Open a page that draws."""
    path = lab.folder / "empty.ipynb"
    if not path.exists():
        lab.write(path.name, "")
    with opened(lab, browser, path) as notebook:
        yield Drawer(notebook.page, lab.url)


def main() -> None:
    """Draw documents until the time is up or one did harm."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "600"))
    seed = int(os.environ.get("FUZZ_SEED", str(int(time.time()))))
    begun, count, source = time.monotonic(), 0, documents(seed)
    print(f"seed {seed}, {seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        (Path(folder) / "served").mkdir()
        (Path(folder) / "home").mkdir()
        with serving(Path(folder) / "served", Path(folder) / "home") as lab:
            while time.monotonic() < begun + seconds:
                with browsing() as browser, drawing(lab, browser) as drawer:
                    for _ in range(PAGE // BATCH):
                        hits = drawer.hits([next(source) for _ in range(BATCH)])
                        count += BATCH
                        if hits:
                            print(f"a hit among {count:,} documents; the smallest is sought")
                            print(drawer.smallest(hits[0].text))
                            sys.exit(1)
                        if time.monotonic() > begun + seconds:
                            break
                print(f"{count:,} documents, {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{count:,} documents without a hit")


if __name__ == "__main__":
    main()
