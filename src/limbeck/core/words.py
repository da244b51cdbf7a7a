"""Numbers as a person says them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

NOTHING = "\N{EN DASH}"


def finite(value: Any) -> TypeGuard[float]:
    """Whether this is a number that can be shown."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def duration(value: Any) -> str:
    """Seconds as a person says them."""
    if not finite(value):
        return NOTHING
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
