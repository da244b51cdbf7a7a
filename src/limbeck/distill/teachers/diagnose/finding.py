"""What a look at a teacher or at data has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from limbeck import evaluate
from limbeck.data import Data, targets
from limbeck.distill.teachers.diagnose.alignment import luck, r2, recognised, straightened
from limbeck.tasks import main_metric, rules

Level = Literal["ok", "note", "warning"]

SURE = 1e-3  # a finding is told if chance alone would make it look so less often than that
LOOKED_AT = 512  # validation rows that a model is tried on in ways that it was not brought along in


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
    """How good predictions of some rows are by the main metric of classes or labels, or by R2."""
    found = evaluate.metrics(data.task, prediction, targets(data, rows, "cpu"), data.targets)
    return float(found["r2" if rules(data.task).predicts == "values" else main_metric(data.task).name] or 0.0)


def one_class_a_row(data: Data) -> bool:
    """Whether each row as a whole has one class: only then classes can be counted row by row."""
    return rules(data.task).predicts == "classes" and not data.places


def recognition(data: Data, prediction: Tensor, rows: Tensor) -> float:
    """As `level_of`, but classes may stand in another order: that is another fault."""
    if one_class_a_row(data):
        return float(_hits(data, prediction, rows).double().mean())
    return level_of(data, prediction, rows)


def better_by_chance(data: Data, prediction: Tensor, other: Tensor, rows: Tensor) -> float:
    """How likely the `recognition` of one looks as much better than the other's as it does, were it not."""
    if one_class_a_row(data):
        return luck(_hits(data, other, rows), _hits(data, prediction, rows))
    return evaluate.loss(data.task, prediction, other, targets(data, rows, "cpu")).p_more


def in_any_unit(data: Data, prediction: Tensor, rows: Tensor) -> float:
    """The R2 of values [N, outputs] after a straight line through them."""
    truth, given = targets(data, rows, "cpu").double(), evaluate.means(data.task, prediction).double()
    return r2(straightened(truth, given), truth)


def _hits(data: Data, prediction: Tensor, rows: Tensor) -> Tensor:
    return recognised(targets(data, rows, "cpu"), prediction.argmax(1), data.task.width)


def metric_words(data: Data, value: float) -> str:
    """A level in words: shares in per cent, or R2."""
    return f"R2 {value:.3f}" if rules(data.task).predicts == "values" else f"{100 * value:.1f} %"


def sure_words(rows: int, chance: float) -> str:
    """How sure a comparison on so many rows is."""
    return f"{rows:,} validation rows, {'p < 0.001' if chance < SURE else f'p = {chance:.3f}'}"
