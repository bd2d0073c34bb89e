"""Attacks on what is shared of the host's files, and what looks like a secret."""

from __future__ import annotations

from .battery import Attack

SHARING: list[Attack] = []
