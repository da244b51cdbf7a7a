"""Which losses, sources and ways of joining suit a task."""

from __future__ import annotations

from limbeck.core import signatures
from limbeck.core.types import Kind
from limbeck.recipe.networks import Combine
from limbeck.recipe.sources import Data, Source
from limbeck.tasks import TASKS, rules

TASKS_OF: dict[Source, tuple[Kind, ...]] = {  # of sources whose rows do not have one class each
    "diabetes": ("regression",),
    "linnerud": ("regression",),
    "table": ("classification", "multilabel", "regression"),
    "masks": ("segmentation",),
    "arrays": tuple(TASKS),
}
WEIGHTED = ("hard", "label_binary")  # losses that `class_weights` weigh


def tasks_of(source: Source) -> tuple[Kind, ...]:
    """The tasks that the rows of a source are for."""
    return TASKS_OF.get(source, ("classification",))


def source_misfit(data: Data, task: Kind) -> str | None:
    """Why a source does not suit a task, if it does not."""
    fits = tasks_of(data.source)
    return None if task in fits else f"'{data.source}' is for `task: {' or '.join(fits)}`, not for {task}"


def loss_misfit(loss: str, task: Kind) -> str | None:
    """Why a loss does not suit a task, if it does not."""
    known, predicts = signatures.losses()[loss], rules(task).predicts
    if known.compares_rows and rules(task).each == "pixel":
        return "holds each row against each other one, and of pixels there are too many"
    if predicts in known.predicts:
        return None
    if known.predicts == ("values",):
        return f"compares measured values: it does not fit `task: {task}`"
    if known.predicts == ("labels",):
        return "takes rows of several labels, each a yes or no: say `task: multilabel`"
    if predicts == "values":
        return f"compares classes: it does not fit `task: {task}`"
    instead = "binary_kd" if known.needs_teacher else "label_binary"
    return f"takes one class a row, and `task: {task}` has several labels: use `{instead}`"


def combine_misfit(combine: Combine, task: Kind) -> tuple[str, str] | None:
    """Where a way of joining does not suit a task, and why, if it does not."""
    of_task = rules(task)
    if combine.name not in of_task.ensembles:
        return "combine", f"'{combine.name}' does not fit `task: {task}`: choose of {', '.join(of_task.ensembles)}"
    if combine.weights == "confidence" and of_task.no_confidence:
        return "combine.weights", f"{of_task.no_confidence}: give numbers, or `accuracy`"
    return None
