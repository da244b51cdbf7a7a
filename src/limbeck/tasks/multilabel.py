"""Several labels a row, or none: each label a yes or no of its own; metrics are torchmetrics'."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.types import THRESHOLD, Task
from limbeck.tasks.normal_form import check, choices_apart
from limbeck.tasks.rules import Guess, TaskRules

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from limbeck.core.scaling import Scaling


def metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None = None) -> dict[str, Any]:
    """Of logits [N, C] and a target [N, C] that is 1 for the labels a row has and 0 for the others.

    Returns:
        map, the mean over the labels that some row has (0 without any) of average precision: the sum over the distinct
        scores of the precision times what is added to the recall; f1 and micro_f1 at a probability of 0.5, the mean
        over labels and that of all answers together; label_accuracy, the share of answers that are right (1 - Hamming
        loss); exact_match, the share of rows whose answers are all right; nll, in nats, summed over the labels of a
        row; per_label: name -> rows that have it, ap (None without any), f1, precision, recall; and n.
    """
    from torch import nn
    from torchmetrics.functional.classification import (
        multilabel_exact_match,
        multilabel_f1_score,
        multilabel_precision,
        multilabel_recall,
    )

    check(task, prediction, "predictions")
    check(task, target, "targets")
    if len(target) != len(prediction):
        raise UserError(f"{len(prediction)} predictions cannot be compared with {len(target)} targets")
    logits, target, names = prediction.double().cpu(), target.double().cpu(), task.names
    answers, truth = (logits > 0).long(), target.long()
    counts = truth.sum(0).tolist()
    ap = [float(v) if n else None for v, n in zip(average_precision(logits, target), counts, strict=True)]
    each = [
        found(answers, truth, num_labels=len(names), average="none").reshape(-1).tolist()
        for found in (multilabel_f1_score, multilabel_precision, multilabel_recall)
    ]
    known = [value for value in ap if value is not None]
    return {
        "map": math.fsum(known) / len(known) if known else 0.0,
        "f1": math.fsum(each[0]) / len(names),
        "micro_f1": float(multilabel_f1_score(answers, truth, num_labels=len(names), average="micro")),
        "label_accuracy": (answers == truth).double().mean().item(),
        "exact_match": float(multilabel_exact_match(answers, truth, num_labels=len(names))),
        "nll": nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum").item() / len(target),
        "per_label": {
            name: {"rows": n, "ap": a, "f1": f, "precision": p, "recall": r}
            for name, n, a, f, p, r in zip(names, counts, ap, *each, strict=True)
        },
        "n": len(target),
    }


def agreement(task: Task, prediction: Tensor, teacher: Tensor, scaling: Scaling | None = None) -> dict[str, float]:
    """The share of answers that are the same, and the mean KL(teacher || student) in nats, of logits [N, C]."""
    from torch import nn

    log = nn.functional.logsigmoid
    yes, no = ((sign * teacher).sigmoid() * (log(sign * teacher) - log(sign * prediction)) for sign in (1, -1))
    kl = max((yes + no).sum(1).mean().item(), 0.0)
    return {"agreement": same(prediction, teacher).double().mean().item(), "kl": kl}


def disagreement(
    task: Task, members: Tensor, target: Tensor | None = None, scaling: Scaling | None = None
) -> dict[str, Any]:
    """Of logits [M, N, C]: see `evaluate.disagreement`."""
    import torch

    shares = torch.stack([members.sigmoid(), (-members).sigmoid()], dim=3)
    return choices_apart((members > 0).long(), shares, target, "rows of labels")


def same(one: Tensor, other: Tensor) -> Tensor:
    """Which answers of two predictions [..., C] are the same, [..., C]."""
    return (one > 0) == (other > 0)


def average_precision(logits: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Average precision of each label, [C], or of each drawing of the rows, [D, C].

    The sum over the distinct scores, from the highest down, of the precision there times what it adds to the recall.
    Rows of the same score count together. A label that no row has gets 0.

    Args:
        logits: [N, C].
        target: yes and no, [N, C].
        counts: how often each row is drawn, [D, N]; once without it.
    """
    import torch

    drawn = torch.ones(1, len(logits), dtype=torch.float64) if counts is None else counts.double()
    found = []
    for scores, truth in zip(logits.T, target.double().T, strict=True):
        order = scores.argsort(descending=True)
        ends = torch.cat([scores[order].diff() != 0, torch.ones(1, dtype=torch.bool)]).nonzero().flatten()
        weights = drawn[:, order]
        right, said = (weights * truth[order]).cumsum(1)[:, ends], weights.cumsum(1)[:, ends]
        precision = right / said.clamp_min(1)
        added = right.diff(dim=1, prepend=right.new_zeros(len(right), 1))
        found.append((precision * added).sum(1) / right[:, -1].clamp_min(1))
    stacked = torch.stack(found, dim=1)
    return stacked[0] if counts is None else stacked


def error(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [N, C] over rows and labels."""
    from torch import nn

    return nn.functional.binary_cross_entropy_with_logits(prediction, target)


def drawn_scores(task: Task, prediction: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean average precision of each drawing of the rows; a label that no row drawn has, has none."""
    labels = target.double()

    def score(counts: Tensor) -> Tensor:
        there = (counts @ labels > 0).double()
        found = average_precision(prediction, target, counts)
        return (found * there).sum(1) / there.sum(1).clamp_min(1)

    return score


def guess(task: Task, target: Tensor) -> Guess:
    """A random order of the rows has a label's share of them as its average precision."""
    share = target.double().mean(0)
    reached = share[share > 0].mean().item() if bool(target.any()) else 0.0
    return Guess("map", reached, "ordering rows at random")


def said(names: Sequence[str], logits: np.ndarray[Any, Any], top: int) -> dict[str, Any]:
    """The labels of logits [C] that are likely with their probabilities, the likeliest first."""
    import numpy as np

    likely = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))
    found = sorted(((float(p), name) for p, name in zip(likely, names, strict=True) if p > THRESHOLD), reverse=True)
    return {"labels": [{"name": name, "probability": p} for p, name in found]}


def program(names: str, few: bool, outputs: str) -> str:
    """Python that prints the labels of the first row."""
    if not few:
        return f"print(({outputs}[0] > 0).nonzero()[0])  # the numbers of the labels, see classes.json"
    return f"names = {names}\nprint([names[i] for i in ({outputs}[0] > 0).nonzero()[0]])"


RULES = TaskRules(
    name="multilabel",
    predicts="labels",
    unit="label",
    beside="agreement",
    label_loss="label_binary",
    recovery={"label_binary": 0.1, "binary_kd": 0.9},
    searched=("binary_kd", "mse"),
    ensembles=("average", "logits-average", "weighted"),
    no_confidence="a row of several labels has no one confidence",
    goal=lambda names: f"{len(names)} labels, of which a row may have several",
    gives="one logit for each label, above 0 where its probability is above 0.5",
    main=lambda _: METRICS["map"],
    metrics=metrics,
    agreement=agreement,
    disagreement=disagreement,
    same=same,
    error=error,
    row_scores=lambda task, prediction, target: None,
    drawn_scores=drawn_scores,
    guess=guess,
    meaning=lambda _: (
        "one logit for each label; 1 / (1 + exp(-logit)) is its probability, and the row has the label where "
        f"that is above {THRESHOLD} (the logit above 0)"
    ),
    said=said,
    program=program,
)
