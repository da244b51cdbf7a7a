"""What stands beside a loss in the table of its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.core.types import Predicts


@dataclass(frozen=True, slots=True)
class LossRow:
    """A loss that a recipe can name. Read from the source as well, without torch: write plain values.

    Attributes:
        make: the function, or the class of a loss with weights of its own.
        weight: the usual one beside a loss on labels of weight 1, from the paper where it gives one.
        taps: which features it compares where a recipe says `auto`: "stages", "middle", "last", "joint" or "pooled"; ""
            for predictions.
        needs_labels: whether a loss that learns from the teacher needs the row's label as well.
        predicts: what the networks predict that it fits.
        compares_rows: whether it holds each row against each other one: of pixels there are too many for that.
        gaussian: whether the network gives a variance for each value.
    """

    make: Callable[..., Any]
    weight: float = 1.0
    taps: str = ""
    needs_labels: bool = False
    predicts: tuple[Predicts, ...] = ("classes", "labels", "values")
    compares_rows: bool = False
    gaussian: bool = False
