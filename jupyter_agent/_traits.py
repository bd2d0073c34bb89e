"""Trait types that traitlets does not have."""

from __future__ import annotations

import math
from typing import Any

from traitlets import Float

__all__ = ["Seconds"]


class Seconds(Float[float, float]):
    """A trait that is a number of seconds, or inf, and never nan."""

    info_text = "a number of seconds"

    def validate(self, obj: Any, value: Any) -> float:
        """Refuse nan, which every comparison with a limit lets through."""
        if isinstance(value, float) and math.isnan(value):
            self.error(obj, value)
        seconds: float = super().validate(obj, value)
        return seconds
