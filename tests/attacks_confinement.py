"""Attacks on the system-call filter, the two tiers and what they leave behind."""

from __future__ import annotations

from .battery import Attack

CONFINEMENT: list[Attack] = []
