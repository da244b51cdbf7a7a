"""One class of C for each pixel of an image: semantic segmentation.

Most of it is classification with a pixel where that has a row; what differs is that pixels of one image go together, so
scores are compared image by image, and that classes are judged by how well their areas overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.types import IGNORED, Task
from limbeck.tasks import classification
from limbeck.tasks.classification import calibration_error, confused, places_of_classes
from limbeck.tasks.normal_form import counted
from limbeck.tasks.rules import Guess

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from limbeck.core.scaling import Scaling

AT_ONCE = 2**20  # pixels whose logits are held in float64 together
CALIBRATED = 2**20  # pixels at most, evenly spread, that the error of calibration is measured on


def metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None = None) -> dict[str, Any]:
    """Of logits [N, H, W, C] and class indices [N, H, W], of which -100 do not count.

    Returns:
        miou, the mean intersection over union (Everingham et al. 2010) of the classes that occur in the labels or in
        the predictions, each over the pixels of all images together; per_class_iou (name -> fraction, None for a class
        that does not occur); pixel_accuracy; nll (nats a pixel); ece (15 bins; of `CALIBRATED` pixels where there are
        more); confusion, in pixels (rows true, columns predicted); and n, the number of images.
    """
    from torch import nn

    if prediction.ndim != 4 or prediction.shape[:3] != target.shape:
        what = f"{tuple(prediction.shape)} predictions do not fit masks {tuple(target.shape)}"
        raise UserError(what, hint="logits are [images, classes, height, width], of the size of the masks")
    step = max(1, AT_ONCE // max(1, target[0].numel()))
    confusion = [[0] * task.width for _ in task.names]
    surprise, count = 0.0, 0
    for some, labels in zip(_parts(prediction, step), _parts(target, step), strict=True):
        if not bool((labels != IGNORED).any()):
            continue
        logits, classes = classification.rows(task, some, labels)
        surprise += nn.functional.cross_entropy(logits, classes, reduction="sum").item()
        count += len(classes)
        found = confused(task, logits, classes)
        confusion = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(confusion, found, strict=True)]
    if not count:
        raise UserError("no pixel has a label")
    ious = [_overlap(confusion, n) for n in range(task.width)]
    known = [iou for iou in ious if iou is not None]
    every = max(1, math.ceil(count / CALIBRATED))
    logits, classes = (counted(target, each)[::every] for each in (prediction, target))
    return {
        "miou": math.fsum(known) / len(known),
        "pixel_accuracy": sum(confusion[n][n] for n in range(task.width)) / count,
        "nll": surprise / count,
        "ece": calibration_error(task, logits.double().cpu(), classes.long().cpu()),
        "per_class_iou": dict(zip(task.names, ious, strict=True)),
        "confusion": confusion,
        "n": len(target),
    }


def _parts(values: Tensor, size: int) -> list[Tensor]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _overlap(confusion: Sequence[Sequence[int]], n: int) -> float | None:
    """Intersection over union of one class; None where it does not occur."""
    union = sum(confusion[n]) + sum(row[n] for row in confusion) - confusion[n][n]
    return confusion[n][n] / union if union else None


def drawn_scores(task: Task, prediction: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean intersection over union of each drawing of the images; a class that no image drawn has, has none."""
    import torch

    both, either = [], []
    for logits, labels in zip(_parts(prediction, 8), _parts(target, 8), strict=True):  # a one for each class takes room
        true = places_of_classes(task, labels)
        said = torch.where(labels != IGNORED, logits.argmax(-1), IGNORED)
        guessed = places_of_classes(task, said)
        both.append((true * guessed).sum(1))
        either.append((true + guessed).clamp_max(1).sum(1))
    intersections, unions = torch.cat(both), torch.cat(either)

    def score(counts: Tensor) -> Tensor:
        union = counts @ unions
        known = (union > 0).double()
        overlaps = counts @ intersections / union.clamp_min(1)
        return (overlaps * known).sum(1) / known.sum(1).clamp_min(1)

    return score


def guess(task: Task, target: Tensor) -> Guess:
    """Of the commonest class its share of the pixels is the overlap with everything; the others have none."""
    labels = counted(target, target)
    counts = labels.long().bincount(minlength=task.width)
    share = counts.max().item() / len(labels)
    return Guess("miou", share / int((counts > 0).sum()), "naming the commonest class everywhere")


def said(names: Sequence[str], logits: np.ndarray[Any, Any], top: int) -> dict[str, Any]:
    """The shares of the classes in an image of logits [H, W, C], the largest first."""
    import numpy as np

    shares = np.bincount(logits.argmax(-1).ravel(), minlength=len(names)) / logits[..., 0].size
    found = [n for n in np.argsort(-shares, kind="stable") if shares[n] > 0]
    return {"pixels": [{"name": names[n], "share": float(shares[n])} for n in found]}


def program(names: str, few: bool, outputs: str) -> str:
    """Python that writes the mask of the first image."""
    return f'mask = np.asarray({outputs})[0].argmax(0)\nImage.fromarray(mask.astype(np.uint8)).save("mask.png")'


RULES = replace(
    classification.RULES,
    name="segmentation",
    each="pixel",
    ensembles=("average", "logits-average", "vote", "weighted"),
    mixes=False,
    goal=lambda names: f"one of {len(names)} classes for each pixel",
    gives="one logit for each class and pixel",
    main=lambda _: METRICS["miou"],
    metrics=metrics,
    row_scores=lambda task, prediction, target: None,
    drawn_scores=drawn_scores,
    guess=guess,
    searched=("kd", "cwd", "dkd", "nkd"),
    meaning=lambda _: (
        "one logit for each class and pixel; the class of a pixel is the one with the largest, and softmax over the "
        "classes makes probabilities of them"
    ),
    said=said,
    program=program,
)
