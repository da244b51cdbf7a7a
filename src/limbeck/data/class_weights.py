"""What each class counts in the losses on labels, where some are rare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from limbeck.core.errors import UserError, did_you_mean
from limbeck.data.dataset import Data, class_counts
from limbeck.tasks import rules


def class_weights(data: Data, wanted: Literal["balanced"] | Mapping[str, float]) -> tuple[float, ...]:
    """What each class counts in the losses on labels.

    "balanced" gives the classes n / (C n_c), where n_c of n training rows are of class c, so that all of them count
    alike; the weights of rows are 1 on average. Given numbers are scaled to that, too, so that the learning rate and
    the weights of other terms keep their meaning; classes without one have the number 1.

    Of several labels a row, a weight is what a yes counts where a no counts 1: "balanced" is (n - n_c) / n_c, which
    lets both count alike, and given numbers stay as they are.

    Args:
        data: of whose labelled training rows the classes are counted.
        wanted: "balanced", or numbers above 0 by the name of the class or label.

    Returns:
        One number for each class or label, fit for `Task.weights` and the losses' `class_weights`.

    Raises:
        UserError: measured values have no classes, or there is no class of a name.
    """
    task = data.task
    if rules(task).predicts == "values":
        raise UserError("measured values have no classes to weigh", where="class_weights")
    several, counts = rules(task).predicts == "labels", class_counts(data, data.train).double()
    rows = len(data.train) if several else int(counts.sum())
    if wanted == "balanced":
        found = (rows - counts) / counts if several else rows / (task.width * counts)
        return tuple(found.tolist())
    assert not isinstance(wanted, str)
    for name in wanted:
        if name not in task.names:
            kind = "label" if several else "class"
            raise UserError(f"there is no {kind} '{name}'", where="class_weights", hint=did_you_mean(name, task.names))
    given = torch.tensor([wanted.get(name, 1.0) for name in task.names], dtype=torch.float64)
    return tuple((given if several else given * rows / given.dot(counts)).tolist())
