"""Whether a teacher knows more than whoever could teach for less: the commonest class, a straight line, the student."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import evaluate
from limbeck.core.types import IGNORED
from limbeck.data import Data, pixels, targets
from limbeck.distill.teachers.diagnose.finding import Finding, level_of, metric_words, sure_words
from limbeck.tasks import rules

LINE_ROWS = 2000
LINE_SIDE = 16  # pixels, to which larger images are averaged for it
CHANCE = 0.01
MARGIN = 0.02  # of accuracy or R2


def doubts(name: str, val: Mapping[str, float], data: Data) -> list[Finding]:
    """What speaks against learning from a teacher, given its validation metrics; usually nothing."""
    metric, chance, guess = rules(data.task).guess(data.task, data.y[data.val.to(data.y.device)].cpu())
    reached = val.get(metric, 0.0)  # R2 is absent where values never vary
    text = f"is no better than {guess} ({metric} {reached:.3f} against {chance:.3f} on validation)"
    figures = {metric: reached, "guessed": chance}
    return [] if reached > chance else [Finding("warning", name, "worth", text, figures=figures)]


def weaker(name: str, prediction: Tensor, data: Data, other: Tensor, whose: str) -> Finding:
    """A teacher's predictions for the validation rows held against somebody else's.

    Args:
        name: of the teacher.
        prediction: the teacher's logits [N, C] or standardised values [N, K].
        data: the task and the labels.
        other: whose they might be instead.
        whose: in words, such as "a straight line".
    """
    own, against = level_of(data, prediction, data.val), level_of(data, other, data.val)
    figures = {"teacher": own, "other": against}
    levels = f"{metric_words(data, own)} against {metric_words(data, against)}"
    chance = evaluate.loss(data.task, other, prediction, targets(data, data.val, "cpu")).p_more
    if against - own >= MARGIN and chance < CHANCE:
        text = f"{whose} is better than this teacher: {levels} ({sure_words(len(data.val), chance)})"
        hint = "look at the other findings first; if there are none, take a better teacher"
        return Finding("warning", name, "worth", text[0].upper() + text[1:], hint, figures)
    return Finding("ok", name, "worth", f"{levels} of {whose}", figures=figures)


def straight_line(data: Data) -> tuple[Tensor, str]:
    """What a linear model fitted on some training rows predicts for the validation rows, and what it is.

    Logistic regression for classes, ridge regression for values and labels, on columns or pixels (averaged to 16 by
    16) that are standardised first.

    Returns:
        Logits [N, C] (of pixels [N, H, W, C]) or standardised values [N, K], and its name.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    draw = torch.Generator().manual_seed(0)
    rows = data.train[torch.randperm(len(data.train), generator=draw)[:LINE_ROWS]]
    seen, truth, wanted = _columns(data, rows), targets(data, rows, "cpu"), _columns(data, data.val)
    name = f"a linear model fitted on {len(rows):,} training rows"
    if data.places:  # each pixel, or token, by what it is itself
        seen, truth = seen.flatten(0, -2), truth.flatten()
        some = torch.randperm(len(truth), generator=draw)
        some = some[truth[some] != IGNORED][: LINE_ROWS * 10]
        seen, truth, name = seen[some], truth[some], f"a linear model of single {rules(data.task).each}s"
    mean, std = seen.mean(0), seen.std(0, correction=0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    x, new = (seen - mean) / std, ((wanted - mean) / std).flatten(0, -2)
    if rules(data.task).predicts != "classes":
        line: Any = Ridge(alpha=1.0).fit(x.numpy(), truth.numpy())
        return torch.as_tensor(line.predict(new.numpy()), dtype=torch.float32).reshape(len(new), -1), name
    known = torch.unique(truth)
    logits = torch.full((len(new), data.task.width), -1e4)
    if len(known) == 1:
        logits[:, known] = 0.0
        return logits.reshape(*wanted.shape[:-1], -1), name
    line = LogisticRegression(C=0.1, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline need not be the best one
        line.fit(x.numpy(), truth.numpy())
    logits[:, known] = torch.as_tensor(line.predict_log_proba(new.numpy()), dtype=torch.float32).clamp_min(-1e3)
    return logits.reshape(*wanted.shape[:-1], -1), name


def _columns(data: Data, rows: Tensor) -> Tensor:
    x = pixels(data, rows)
    if data.places:
        return x.movedim(1, -1) if data.images else x.unsqueeze(-1).float()
    if data.images and max(data.shape[1:]) > LINE_SIDE:
        height, width = (math.ceil(size / math.ceil(size / LINE_SIDE)) for size in data.shape[1:])
        x = F.adaptive_avg_pool2d(x, (height, width))
    return x.flatten(1)
