"""One class of C for each row, or for each token of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS, Metric
from limbeck.core.types import IGNORED, Task
from limbeck.tasks.normal_form import check, choices_apart, counted
from limbeck.tasks.rules import Guess, TaskRules

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from limbeck.core.scaling import Scaling

ECE_BINS = 15


def main(task: Task) -> Metric:
    """Accuracy; where classes have weights, the mean of their own accuracies."""
    return METRICS["balanced_accuracy" if task.weights else "accuracy"]


def metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None = None) -> dict[str, Any]:
    """Of logits [N, ..., C] and class indices [N, ...], of which -100 do not count.

    Returns:
        accuracy, balanced_accuracy (the mean of the classes' own accuracies, of those with a row), nll (nats), ece (15
        bins of equal width; Guo et al. 2017), per_class_accuracy (name -> fraction, None for a class without a row),
        confusion (rows true, columns predicted) and n.
    """
    from torch import nn

    logits, target = rows(task, prediction, target)
    confusion = confused(task, logits, target)
    recalls = [row[i] / sum(row) for i, row in enumerate(confusion) if sum(row)]
    return {
        "accuracy": sum(row[i] for i, row in enumerate(confusion)) / len(target),
        "balanced_accuracy": math.fsum(recalls) / len(recalls),
        "nll": nn.functional.cross_entropy(logits, target).item(),
        "ece": calibration_error(task, logits, target),
        "per_class_accuracy": {
            name: row[i] / sum(row) if sum(row) else None
            for i, (name, row) in enumerate(zip(task.names, confusion, strict=True))
        },
        "confusion": confusion,
        "n": len(target),
    }


def rows(task: Task, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [R, C] in float64 and class indices [R] of the places that have one.

    Raises:
        UserError: shapes that do not fit, no rows, logits that are not finite, or indices beyond the classes.
    """
    places = target.ndim > 1 or prediction.ndim > 2
    logits, labels = (counted(target, each) if places else each for each in (prediction, target))
    check(task, logits, "predictions")
    if labels.shape != logits.shape[:1]:
        raise UserError(f"{len(logits)} predictions need as many class indices, not {tuple(labels.shape)}")
    logits, labels = logits.double().cpu(), labels.long().cpu()
    if labels.min() < 0 or labels.max() >= task.width:
        raise UserError(f"class indices {int(labels.min())} to {int(labels.max())} do not fit {task.width} classes")
    return logits, labels


def confused(task: Task, logits: Tensor, target: Tensor) -> list[list[int]]:
    """How many places of each class (rows) are taken for each (columns)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    found: list[list[int]] = multiclass_confusion_matrix(logits, target, num_classes=task.width).tolist()
    return found


def calibration_error(task: Task, logits: Tensor, target: Tensor) -> float:
    """Expected calibration error (Guo et al., 2017) of logits [R, C], a fraction."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    # It takes values within [0, 1] for probabilities and anything else for logits, so it is given probabilities, never
    # logits that might lie there by chance. A confidence of exactly 1 would get a bin of its own.
    confidence = logits.softmax(1).clamp(max=1 - 2**-24)
    return float(multiclass_calibration_error(confidence, target, num_classes=task.width, n_bins=ECE_BINS))


def agreement(task: Task, prediction: Tensor, teacher: Tensor, scaling: Scaling | None = None) -> dict[str, float]:
    """The share of rows with the same class, and the mean KL(teacher || student) in nats, of logits [R, C]."""
    from torchmetrics.functional.regression import kl_divergence

    kl = kl_divergence(teacher.log_softmax(1), prediction.log_softmax(1), log_prob=True)
    return {"agreement": same(prediction, teacher).double().mean().item(), "kl": max(float(kl), 0.0)}


def disagreement(
    task: Task, members: Tensor, target: Tensor | None = None, scaling: Scaling | None = None
) -> dict[str, Any]:
    """Of logits [M, R, C]: see `evaluate.disagreement`."""
    return choices_apart(members.argmax(2), members.softmax(2), target, "class indices")


def same(one: Tensor, other: Tensor) -> Tensor:
    """Whether two predictions [..., C] name the same class, [...]."""
    return one.argmax(-1) == other.argmax(-1)


def error(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, ..., C] over the places that have a label."""
    from torch import nn

    if prediction.ndim > 2:
        prediction, target = prediction.flatten(0, -2), target.flatten()
    return nn.functional.cross_entropy(prediction, target, ignore_index=IGNORED)


def row_scores(task: Task, prediction: Tensor, target: Tensor) -> Tensor | None:
    """1 for each place whose class is right, [R]; none where classes have weights."""
    if task.weights:
        return None
    return (counted(target, prediction).argmax(-1) == counted(target, target)).double()


def drawn_scores(task: Task, prediction: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """The balanced accuracy of each drawing of the rows; a class that is not drawn has none."""
    there = places_of_classes(task, target)
    right = (there * (prediction.argmax(-1) == target).reshape(len(target), -1, 1)).sum(1)
    of_rows = there.sum(1)

    def score(counts: Tensor) -> Tensor:
        of_class = counts @ of_rows
        known = (of_class > 0).double()
        return (counts @ right / of_class.clamp_min(1) * known).sum(1) / known.sum(1).clamp_min(1)

    return score


def places_of_classes(task: Task, target: Tensor) -> Tensor:
    """1 where a place is of a class, float64 [N, P, C] of labels [N, ...]; 0 for all where it has no label."""
    from torch import nn

    places = target.reshape(len(target), -1)
    known = places != IGNORED
    return nn.functional.one_hot(places.long() * known, task.width).double() * known.unsqueeze(-1)


def guess(task: Task, target: Tensor) -> Guess:
    """What always naming one class reaches."""
    if task.weights:
        return Guess("balanced_accuracy", 1 / task.width, "always naming one class")
    labels = counted(target, target)
    return Guess("accuracy", labels.bincount().max().item() / len(labels), "always naming the commonest class")


def said(names: Sequence[str], logits: np.ndarray[Any, Any], top: int) -> dict[str, Any]:
    """The likeliest classes of logits [C] with their probabilities."""
    import numpy as np

    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return {"classes": [{"name": names[n], "probability": float(shares[n])} for n in np.argsort(-shares)[:top]]}


def program(names: str, few: bool, outputs: str) -> str:
    """Python that prints the class of the first row."""
    if not few:
        return f"print(int({outputs}[0].argmax()))  # the number of the class, see classes.json"
    return f"names = {names}\nprint(names[int({outputs}[0].argmax())])"


RULES = TaskRules(
    name="classification",
    predicts="classes",
    unit="class",
    beside="agreement",
    label_loss="hard",
    recovery={"hard": 0.1, "kd": {"weight": 0.9}},
    searched=("kd", "dkd", "nkd", "dist", "lskd"),
    ensembles=("average", "logits-average", "vote", "weighted", "stacked"),
    goal=lambda names: f"{len(names)} classes",
    gives="one logit for each class",
    main=main,
    metrics=metrics,
    agreement=agreement,
    disagreement=disagreement,
    same=same,
    error=error,
    row_scores=row_scores,
    drawn_scores=drawn_scores,
    guess=guess,
    meaning=lambda _: (
        "one logit for each class; softmax makes probabilities of them, the largest is the predicted class"
    ),
    said=said,
    program=program,
)
