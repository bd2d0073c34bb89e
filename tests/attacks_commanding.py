"""Attacks on what commands the front process, or deceives who approves."""

from __future__ import annotations

from .battery import Attack

COMMANDING: list[Attack] = []
