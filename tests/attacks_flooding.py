"""Attacks on the memory of the host."""

from __future__ import annotations

from .battery import Attack

FLOODING: list[Attack] = []
