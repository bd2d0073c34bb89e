r"""Formulas for MathJax: keep known commands of mathematics only.

MathJax has commands that write HTML, styles and links (``\href``, ``\style``, ``\unicode[...]``),
that load packages, and that define others (``\def``, ``\csname``). New ones come with each release,
so this is a list of what is allowed.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["JOINER", "MAX_TEX", "harmless_tex", "read_formula"]

JOINER = "\u2060"  # invisible; keeps two neighbours from being read as one
MAX_FORMULA = 5_000  # characters
MAX_TEX = 200_000  # characters of a text; each command in it needs memory
MAX_BRACES = 30  # levels of nested braces

_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda "
    "mu nu xi omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega aleph beth gimel daleth ell hbar "
    "hslash imath jmath wp Re Im partial nabla infty emptyset varnothing eth mho prime backprime "
    "angle measuredangle sphericalangle triangle square Box Diamond diamondsuit heartsuit clubsuit "
    "spadesuit flat natural sharp top bot surd checkmark dagger ddagger S P copyright pounds yen "
    "complement degree bigstar blacksquare blacktriangle lozenge circledR maltese"
)
_SIGNS = (
    "pm mp times div cdot cdots ast star circ bullet oplus ominus otimes oslash odot wedge vee cap "
    "cup uplus sqcap sqcup setminus smallsetminus wr amalg bigcirc bigtriangleup bigtriangledown "
    "triangleleft triangleright diamond ltimes rtimes dotplus land lor lnot neg bmod pmod mod pod "
    "le leq leqslant leqq ge geq geqslant geqq lt gt ne neq ll gg lll ggg prec succ preceq succeq "
    "sim simeq cong approx approxeq equiv asymp doteq propto varpropto models mid nmid parallel "
    "nparallel perp vdash dashv vDash Vdash in notin ni subset subseteq subsetneq nsubseteq supset "
    "supseteq supsetneq sqsubseteq sqsupseteq smile frown bowtie therefore because between ncong "
    "nless ngtr nleq ngeq lesssim gtrsim lessgtr triangleq circeq bumpeq coloneqq eqqcolon "
    "forall exists nexists colon not centernot to gets mapsto longmapsto leftarrow rightarrow "
    "leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow longrightarrow "
    "longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow uparrow downarrow "
    "updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow hookleftarrow "
    "hookrightarrow leftharpoonup leftharpoondown rightharpoonup rightharpoondown "
    "rightleftharpoons leftrightharpoons rightsquigarrow leadsto implies impliedby iff "
    "xleftarrow xrightarrow xLeftarrow xRightarrow xmapsto twoheadrightarrow curvearrowright "
    "circlearrowleft circlearrowright rightarrowtail nrightarrow nleftarrow nRightarrow "
    "sum prod coprod int iint iiint oint bigcap bigcup bigsqcup bigvee bigwedge bigoplus bigotimes "
    "bigodot biguplus dots ldots vdots ddots dotsb dotsc dotsi dotsm dotso"
)
_FUNCTIONS = (
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf injlim ker lg lim "
    "liminf limsup ln log max min Pr projlim sec sin sinh sup tan tanh varinjlim varprojlim "
    "varliminf varlimsup operatorname operatornamewithlimits"
)
_FORMS = (
    "frac dfrac tfrac cfrac binom dbinom tbinom sqrt over atop choose brace brack stackrel overset "
    "underset overline underline overbrace underbrace overbracket underbracket overrightarrow "
    "overleftarrow overleftrightarrow underrightarrow underleftarrow widehat widetilde widecheck "
    "hat check tilde acute grave dot ddot dddot ddddot breve bar vec mathring boxed fbox cancel "
    "bcancel xcancel substack sideset phantom hphantom vphantom smash mathstrut strut tag notag "
    "nonumber limits nolimits displaylimits bra ket braket Bra Ket Braket set Set displaystyle "
    "textstyle scriptstyle scriptscriptstyle left right middle big Big bigg Bigg bigl Bigl biggl "
    "Biggl bigr Bigr biggr Biggr bigm Bigm biggm Biggm langle rangle lceil rceil lfloor rfloor "
    "lbrace rbrace lbrack rbrack lvert rvert lVert rVert vert Vert backslash lgroup rgroup "
    "lmoustache rmoustache ulcorner urcorner llcorner lrcorner quad qquad enspace thinspace "
    "medspace thickspace negthinspace hfill hline cr newline intertext shortintertext"
)
_FONTS = (
    "rm bf it sf tt cal mathrm mathbf mathit mathsf mathtt mathcal mathscr mathfrak mathbb "
    "mathnormal boldsymbol bm pmb bold text textrm textbf textit textsf texttt textnormal textup "
    "mbox hbox mathop mathbin mathrel mathord mathopen mathclose mathpunct mathinner Bbb frak scr"
)
_WITH_OPTIONS = frozenset(["cancel", "bcancel", "xcancel"])  # in brackets: styles, addresses
_COMMANDS = frozenset(" ".join([_LETTERS, _SIGNS, _FUNCTIONS, _FORMS, _FONTS]).split())
_ENVIRONMENTS = frozenset(
    "align align* aligned alignedat array bmatrix Bmatrix cases dcases rcases eqnarray eqnarray* "
    "equation equation* gather gather* gathered matrix multline multline* pmatrix smallmatrix "
    "split subarray vmatrix Vmatrix".split()
)
_SYMBOLS = frozenset("\\ ,;:!>{}|%#&_$\n")  # may follow a backslash

# every place where MathJax may begin to read, also after a backslash that it does not see
_COMMAND = re.compile(r"\\(?:(begin|end)\s*\{([^{}]{0,40})\}|([A-Za-z]+))")
_DELIMITER = re.compile(r"\$|\\[(\[]|\\begin|\\(?:eq)?ref")


def harmless_tex(text: str) -> str:
    """Remove the commands not known to be harmless from text that MathJax reads.

    Of a text that is too long none stays.
    """
    if not _DELIMITER.search(text):
        return text
    if len(text) > MAX_TEX:
        return text.replace("\\", f"\\{JOINER}")
    return _COMMAND.sub(_defused, text)


def _defused(found: re.Match[str]) -> str:
    begins, environment, command = found.groups()
    allowed = environment in _ENVIRONMENTS if begins else _known(command, found)
    return found[0] if allowed else f"\\{JOINER}{found[0][1:]}"


def _known(command: str, found: re.Match[str]) -> bool:
    """Tell whether a command is allowed, and has no options that write styles."""
    brief = command not in _WITH_OPTIONS or found.string.startswith("{", found.end())
    return command in _COMMANDS and brief


_ROW_SPACE = re.compile(r"\\\\\*?\s*\[\s*-?[0-9.]{1,5}\s*[a-z]{2}\s*\]")
_TOKEN = re.compile(
    r"\\(?P<edge>begin|end)\{(?P<environment>[A-Za-z]+\*?)\}"
    r"|\\(?P<command>[A-Za-z]+)"
    r"|\\(?P<symbol>.)"
    r"|(?P<brace>[{}])"
    r"|(?P<sign>[<&!])"
    r"|(?P<space>[\s~]+)"
    r"|(?P<plain>[A-Za-z0-9+\-*/=>()\[\]|,.:;?'^_]|[^\x00-\x7f])",
    re.DOTALL,
)


def read_formula(source: str) -> str | None:
    """Rewrite a formula on one line; None if it holds anything not known to be harmless."""
    if len(source) > MAX_FORMULA:
        return None
    source = _ROW_SPACE.sub(r"\\\\ ", source)
    written: list[str] = []
    opened: list[str] = []
    place = 0
    while place < len(source):
        found = _TOKEN.match(source, place)
        if not found or not _balances(found, opened):
            return None
        piece = _token(found, written[-1] if written else "")
        if piece is None:
            return None
        written += [piece] if piece else []
        place = found.end()
    if opened:
        return None
    while written and written[-1] in (" ", "\\ ", "\\\\ "):
        written.pop()
    if written and written[-1] == "\\$":
        written.append("{}")  # so that it does not close the formula
    return "".join(written).strip() or None


def _balances(found: re.Match[str], opened: list[str]) -> bool:
    """Count what is open; tell whether this token is allowed here."""
    opens, closes = found["edge"] == "begin" or found["brace"] == "{", found["brace"] == "}"
    if opens:
        opened.append(found["environment"] or "{")
        return len(opened) <= MAX_BRACES and opened[-1] in _ENVIRONMENTS | {"{"}
    if closes or found["edge"]:
        return bool(opened) and opened.pop() == (found["environment"] or "{")
    return True


def _token(found: re.Match[str], before: str) -> str | None:
    """Write a token so that Markdown finds no markup in it."""
    text = found[0]
    match found.lastgroup:
        case "command":
            return text if _known(text[1:], found) else None
        case "symbol" if text[1] not in _SYMBOLS:
            return None
        case "symbol" if text[1] in "\\ \n":
            return text.replace("\n", " ").rstrip() + " "  # else a brace might seem escaped
        case "space":
            return "\\ " if "~" in text else "" if before.endswith(" ") else " "
        case "sign":
            return f"{text} "  # no tag, no entity, no image
        case "plain" if text == "[" and before == "\\\\ ":
            return "{}["  # else this would be read as the height of a row
        case "plain" if text == "(" and before == "]":
            return " ("  # no link
        case "plain" if text > "\x7f" and unicodedata.category(text)[0] in "CZ":
            return None
    return text
