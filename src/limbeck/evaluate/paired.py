"""Is a smaller model worse on the very same rows? Differences below the noise of a few thousand rows are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.types import Task
from limbeck.tasks import rules

DRAWS = 10_000
LEVEL = 0.05
REDRAWS, PART = 2_000, 50  # of metrics that are computed anew of each, and how many at once


@dataclass(frozen=True)
class Loss:
    """What a smaller model loses against the one it was made from, on the same rows.

    Attributes:
        drop: of the main metric: a share of the rows for accuracy, the difference of balanced accuracies or of mean
            average precisions, a share of the error for regression.
        p_more: how likely a loss as large as this one is by chance if the true one is what is allowed; small means
            that more than that is lost.
        mcnemar: the exact two-sided p-value for no difference at all (McNemar, 1947); None for all but accuracy.
    """

    drop: float
    p_more: float
    mcnemar: float | None

    @property
    def within(self) -> bool:
        """Whether the rows leave it possible that no more is lost than is allowed."""
        return self.p_more >= LEVEL


def loss(task: Task, before: Tensor, after: Tensor, target: Tensor, *, allowed: float = 0.0, seed: int = 0) -> Loss:
    """Hold a smaller model against the one it was made from, row by row.

    A model passes a limit as long as the same rows do not show that it exceeds it: a bootstrap of the rows' differences
    (Efron, 1979), one-sided at 5 %. On 5,000 rows that resolves about half a point of accuracy. A metric that is no
    mean over rows is computed anew of every drawing.

    Args:
        task: of both.
        before: what the larger one predicts, [N, outputs].
        after: what the smaller one predicts, [N, outputs].
        target: int64 [N], yes and no [N, C], or standardised values float32 [N, K].
        allowed: the drop that is accepted.
        seed: of the bootstrap.

    Raises:
        UserError: no rows, or as many predictions as there are not rows.
    """
    if not len(target) or not len(before) == len(after) == len(target):
        what = f"{len(before)} predictions, {len(after)} predictions and {len(target)} rows cannot be held together"
        raise UserError(what, where="evaluate")
    before, after, target = (t.detach().cpu() for t in (before, after, target))
    of_task = rules(task)
    scores = [of_task.row_scores(task, given, target) for given in (before, after)]
    if scores[0] is None or scores[1] is None:
        drawn = [of_task.drawn_scores(task, given.double(), target) for given in (before, after)]
        return _recomputed(drawn[0], drawn[1], len(target), allowed, seed)
    if of_task.predicts == "values":
        drop = float((scores[1].mean() / scores[0].mean()).sqrt()) - 1
        return Loss(drop, _exceeds(scores[1] - scores[0] * (1 + allowed) ** 2, seed), None)
    lost = scores[0] - scores[1]
    gone, won = (int((lost == sign).sum()) for sign in (1, -1))
    return Loss(float(lost.mean()), _exceeds(lost - allowed, seed), _mcnemar(gone, won))


def _recomputed(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], count: int, allowed: float, seed: int
) -> Loss:
    """The drop of a metric that is no mean over rows, computed of each drawing of these."""
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(REDRAWS // PART):
        counts = torch.from_numpy(draw.multinomial(count, np.full(count, 1 / count), size=PART)).double()
        parts.append(before(counts) - after(counts))
    whole = torch.ones(1, count, dtype=torch.float64)
    return Loss(float(before(whole) - after(whole)), float((torch.cat(parts) <= allowed).double().mean()), None)


def _mcnemar(gone: int, won: int) -> float:
    """The chance of so uneven a split of the rows that only one of two models has right."""
    from scipy.stats import binomtest

    return float(binomtest(gone, gone + won).pvalue) if gone + won else 1.0


def _exceeds(differences: Tensor, seed: int) -> float:
    """How often the mean of rows drawn again is 0 or less: small where it is above 0 for sure."""
    values, counts = torch.unique(differences, return_counts=True)
    rows, draw = len(differences), np.random.default_rng(seed)
    if len(values) <= 8:  # hits and misses: how often each of few values is drawn says it all
        drawn = draw.multinomial(rows, counts.numpy() / rows, size=DRAWS) @ values.numpy() / rows
    else:
        own = differences.numpy()
        drawn = np.array([own[draw.integers(0, rows, rows)].mean() for _ in range(DRAWS // 5)])
    return float((drawn <= 0).mean())
