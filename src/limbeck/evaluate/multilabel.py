"""Metrics of predictions for several labels a row, each a yes or no: torchmetrics', in float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def metrics(names: Sequence[str], logits: Tensor, target: Tensor) -> dict[str, Any]:
    """What the answers to each label are worth.

    Args:
        names: of the labels.
        logits: [N, C].
        target: 1 for the labels a row has and 0 for the others, [N, C].

    Returns:
        map, the mean over the labels that some row has (0 without any) of average precision: the sum over the distinct
        scores of the precision times what is added to the recall; f1 and micro_f1 at a probability of 0.5, the mean
        over labels and that of all answers together; label_accuracy, the share of answers that are right (1 - Hamming
        loss); exact_match, the share of rows whose answers are all right; nll, in nats, summed over the labels of a
        row; per_label: name -> rows that have it, ap (None without any), f1, precision, recall; and n.
    """
    from torchmetrics.functional.classification import (
        multilabel_exact_match,
        multilabel_f1_score,
        multilabel_precision,
        multilabel_recall,
    )

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


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """The share of answers that are the same, and the mean KL(teacher || student) in nats, of logits [N, C]."""
    same = (student > 0) == (teacher > 0)
    log = nn.functional.logsigmoid
    kl = sum((sign * teacher).sigmoid() * (log(sign * teacher) - log(sign * student)) for sign in (1, -1))
    assert isinstance(kl, Tensor)
    return {"agreement": same.double().mean().item(), "kl": max(kl.sum(1).mean().item(), 0.0)}


def average_precision(logits: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Average precision of each label, [C], or of each drawing of the rows, [D, C].

    The sum over the distinct scores, from the highest down, of the precision there times what it adds to the recall.
    Rows of the same score count together. A label that no row has gets 0.

    Args:
        logits: [N, C].
        target: yes and no, [N, C].
        counts: how often each row is drawn, [D, N]; once without it.
    """
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
