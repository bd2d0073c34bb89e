"""Tell from the text of JSON how much memory it takes once it is read."""

from __future__ import annotations

import re

# what CPython takes for each at most, with the texts between them and the room that lists keep
_COSTS = {b",": 96, b"[": 96, b"{": 256}
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def costs_more(text: bytes | bytearray, max_cost: int) -> bool:
    """Tell whether JSON may take more bytes of memory, once read, without those of its text."""
    if _cost(text, 0, len(text)) <= max_cost:
        return False
    end = 0
    for string in _STRING.finditer(text):  # what stands in a text is no part
        max_cost -= 64 + _cost(text, end, string.start())
        if max_cost < 0:
            return True
        end = string.end()
    return _cost(text, end, len(text)) > max_cost


def _cost(text: bytes | bytearray, start: int, end: int) -> int:
    return sum(each * text.count(mark, start, end) for mark, each in _COSTS.items())
