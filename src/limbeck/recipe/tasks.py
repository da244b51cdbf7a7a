"""Which losses, sources and ways of joining suit a task."""

from __future__ import annotations

from limbeck.core import signatures
from limbeck.core.types import Kind
from limbeck.recipe.networks import Combine
from limbeck.recipe.sources import Data

MEASURED = ("diabetes", "linnerud")
EITHER = ("arrays", "table")  # whose targets are what the task says
WEIGHTED = ("hard", "label_binary")  # losses that `class_weights` weigh
JOINS: dict[Kind, tuple[str, ...]] = {
    "classification": ("average", "logits-average", "vote", "weighted", "stacked"),
    "multilabel": ("average", "logits-average", "weighted"),
    "regression": ("mean", "median", "weighted", "stacked"),
}


def source_misfit(data: Data, task: Kind) -> str | None:
    """Why a source does not suit a task, if it does not."""
    if data.source in EITHER:
        return None
    if data.source in MEASURED:
        fits, what = task == "regression", "has measured values to predict: say `task: regression`"
    else:
        fits, what = task == "classification", f"has one class a row: `task: {task}` does not fit"
    return None if fits else f"'{data.source}' {what}"


def loss_misfit(loss: str, task: Kind) -> str | None:
    """Why a loss does not suit a task, if it does not."""
    known = signatures.losses()[loss]
    if task in known.tasks:
        return None
    if known.tasks == ("regression",):
        return f"compares measured values: it does not fit `task: {task}`"
    if known.tasks == ("multilabel",):
        return "takes rows of several labels, each a yes or no: say `task: multilabel`"
    if task == "regression":
        return "compares classes: it does not fit `task: regression`"
    instead = "binary_kd" if known.needs_teacher else "label_binary"
    return f"takes one class a row, and `task: multilabel` has several labels: use `{instead}`"


def combine_misfit(combine: Combine, task: Kind) -> tuple[str, str] | None:
    """Where a way of joining does not suit a task, and why, if it does not."""
    if combine.name not in JOINS[task]:
        return "combine", f"'{combine.name}' does not fit `task: {task}`: choose of {', '.join(JOINS[task])}"
    if combine.weights == "confidence" and task == "regression":
        return "combine.weights", "measured values have no confidence: give numbers, or `accuracy`"
    if combine.weights == "confidence" and task == "multilabel":
        return "combine.weights", "a row of several labels has no one confidence: give numbers, or `accuracy`"
    return None
