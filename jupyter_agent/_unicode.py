r"""Write out characters that are invisible or that change the order in which text is drawn.

Where somebody reads code to decide about it, they are written out as Python writes them in a
string (``\u202e``): in a string that means the same, and anywhere else it is an error in Python.
"""

from __future__ import annotations

import re

__all__ = ["visible", "visible_blanks", "visible_prose"]

# Controls but tab and newline; line and paragraph separators; what Unicode lists as ignorable by
# default (DerivedCoreProperties.txt), such as bidirectional controls, joiners and tags; two letters
# that look like blanks
_UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Blanks other than the space (category Zs): ordinary in data, but some of them are wide
_BLANKS = r"\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
# pictographs, none of which can be part of a name: a selector or a joiner after one draws it
_EMOJI = r"\u2190-\u2bff\U0001f000-\U0001faff"
_DRAWS = (
    rf"(?<=[{_EMOJI}])\ufe0f|(?<=[0-9#*])\ufe0f(?=\u20e3)"
    rf"|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
)
# other signs that a selector draws in colour; some can be part of a name
_SIGNS = r"\xa9\xae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299"
# joiners, which Persian, Hindi and others are not written without, and what keeps words together
_JOINS = r"(?<=[^\x00-\x7f\u2000-\u206f])[\u200c\u200d]|\u2060"
_IN_CODE = re.compile(rf"({_DRAWS})|[{_UNSEEN}]")
_IN_PROSE = re.compile(rf"({_DRAWS}|(?<=[{_SIGNS}])\ufe0f|{_JOINS})|[{_UNSEEN}]")
_BLANK = re.compile(rf"[{_BLANKS}]")


def visible(text: str) -> str:
    """Write out what cannot be seen; every kind of line end becomes a newline."""
    return _IN_CODE.sub(_written_out, _LINE_END.sub("\n", text))


def visible_prose(text: str) -> str:
    """Do the same with sentences, where joiners stay."""
    return _IN_PROSE.sub(_written_out, _LINE_END.sub("\n", text))


def visible_blanks(text: str) -> str:
    """Write out blanks other than the space, for who decides about code; data may hold them."""
    return _BLANK.sub(lambda found: _escaped(found[0]), text)


_LINE_END = re.compile(r"\r\n?")


def _written_out(found: re.Match[str]) -> str:
    return found[0] if found[1] else _escaped(found[0])


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
