"""What a look at a teacher or at data has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from limbeck import evaluate
from limbeck.data import Data, targets

Level = Literal["ok", "note", "warning"]

SURE = 1e-3  # a finding is told if chance alone would make it look so less often than that
LOOKED_AT = 256  # validation rows that a model is tried on in ways that it was not brought along in


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what there is to say about it.

    Attributes:
        level: `ok`; `note`, worth knowing; `warning`, most likely wrong.
        about: the name of a teacher, "data" or "job".
        what: what was looked at, one word.
        text: what was found, a sentence without its full stop.
        hint: what would be right, best as a line of the recipe.
        figures: the numbers in the text, accuracies as fractions.
    """

    level: Level
    about: str
    what: str
    text: str
    hint: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """The whole of it in one line."""
        return f"{self.about}: {self.text}{f'; {self.hint}' if self.hint else ''}"


def sample(rows: Tensor, count: int = LOOKED_AT) -> Tensor:
    """Some of the rows, always the same, in their own order."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
    return rows[chosen.sort().values]


def level_of(data: Data, prediction: Tensor, rows: Tensor) -> float:
    """How good predictions of some rows are: accuracy, or R2 over all outputs together."""
    truth = targets(data, rows, "cpu")
    if data.task.kind == "classification":
        return float((prediction.argmax(1) == truth).double().mean())
    missed = (evaluate.means(data.task, prediction) - truth).double().square().sum()
    return 1 - float(missed / (truth - truth.mean(0)).double().square().sum().clamp_min(1e-12))


def better_by_chance(data: Data, prediction: Tensor, other: Tensor, rows: Tensor) -> float:
    """How likely `prediction` looks as much better than `other` on the same rows as it does, were it not."""
    return evaluate.loss(data.task, prediction, other, targets(data, rows, "cpu")).p_more


def metric_words(data: Data, value: float) -> str:
    """A level in words: the accuracy in per cent, or R2."""
    return f"{100 * value:.1f} %" if data.task.kind == "classification" else f"R2 {value:.3f}"


def sure_words(rows: int, chance: float) -> str:
    """How sure a comparison on so many rows is."""
    return f"{rows:,} validation rows, {'p < 0.001' if chance < SURE else f'p = {chance:.3f}'}"
