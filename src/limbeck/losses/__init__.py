"""Losses by name. Each is an unweighted formula (student, teacher, target) -> scalar, always in that order.

A loss without weights is a function; one with projectors, banks or variances is an `nn.Module`. Its keyword-only
arguments are its options in a recipe. One that does not learn from the teacher calls that argument `_teacher` and may
be given None for it. One whose weights are kept for every row has a fourth argument, `index`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.core import signatures
from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.types import Loss
from limbeck.losses import (
    batchwise,
    contrastive,
    decoupled,
    feature,
    gaussian,
    logit,
    multilabel,
    multistage,
    ordinal,
    regression,
    relation,
    transfer,
)

__all__ = ["LOSSES", "Each", "adjust", "bind", "fitted", "needs_index", "needs_teacher"]

FITTED = ("student", "teacher", "rows", "classes", "head")  # what a loss with weights may have to fit

_ROWS = {
    **logit.LOSSES,
    **decoupled.LOSSES,
    **batchwise.LOSSES,
    **regression.LOSSES,
    **feature.LOSSES,
    **multistage.LOSSES,
    **transfer.LOSSES,
    **relation.LOSSES,
    **contrastive.LOSSES,
    **gaussian.LOSSES,
    **multilabel.LOSSES,
    **ordinal.LOSSES,
}
LOSSES: dict[str, Callable[..., Any]] = {name: row.make for name, row in _ROWS.items()}


def bind(name: str, **options: Any) -> Loss:
    """The loss called `name` with its options fixed, ready for a `Term` or for a loop of your own.

    The value is float32 whatever the precision of the student's output (float64 stays float64). No gradient reaches
    the teacher.

    Args:
        name: a key of `LOSSES`.
        options: the loss's own. A loss with weights is also told what these must fit, of the following what it asks
            for: `student` and `teacher` (shapes of one row of each feature), `rows` (how many rows the data set has),
            `classes`, `head` (the teacher's classifier, an `nn.Linear`). What it does not ask for is left aside.

    Returns:
        (student, teacher, target) -> scalar tensor; an `nn.Module` if the loss has weights to train.

    Raises:
        UserError: unknown loss or option, an option of another type, or one that is missing.

    Example:
        >>> import torch
        >>> loss = bind("kd", temperature=2.0)
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.1237)
    """
    if name not in LOSSES:
        raise UserError(f"unknown loss '{name}'", hint=did_you_mean(name, LOSSES))
    around = {key: options.pop(key) for key in FITTED if key in options}
    if wrong := signatures.misfit(options, signatures.losses()[name]):
        raise UserError(wrong[0], where=f"loss '{name}'", hint=wrong[1])
    loss = LOSSES[name]
    if not inspect.isclass(loss):
        return cast(Loss, partial(loss, **options))
    wanted = fitted(name)
    if missing := [key for key in wanted if key not in around]:
        raise UserError(
            f"this loss has weights that must fit, and is not told its `{missing[0]}`", where=f"loss '{name}'"
        )
    return cast(Loss, loss(**{key: around[key] for key in wanted}, **options))


def fitted(name: str) -> tuple[str, ...]:
    """What the weights of the loss called `name` have to fit, of `FITTED`; nothing for a loss without weights."""
    loss = LOSSES[name]
    return tuple(key for key in inspect.signature(loss).parameters if key in FITTED) if inspect.isclass(loss) else ()


def adjust(loss: Loss, **options: float) -> None:
    """Give a loss that `bind` made other options from now on.

    Raises:
        UserError: the loss keeps no such number.
    """
    if isinstance(loss, partial):
        loss.keywords.update(options)
        return
    for name, value in options.items():
        if not isinstance(getattr(loss, name, None), int | float):
            raise UserError(f"the option '{name}' of {type(loss).__name__} cannot be changed once it is made")
        setattr(loss, name, value)


class Each(nn.Module):
    """One loss for each of several pairs of features; their sum.

    Args:
        losses: as many as there are pairs.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.each = tuple(losses)
        self.weighed = nn.ModuleList([loss for loss in losses if isinstance(loss, nn.Module)])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor) -> Tensor:
        """The sum over pairs of features, given in the same order."""
        values = [loss(s, t, target) for loss, s, t in zip(self.each, student, teacher, strict=True)]
        return torch.stack(values).sum()


def needs_teacher(loss: Loss) -> bool:
    """Whether `loss` learns from a teacher: unless its second argument begins with an underscore."""
    arguments = _arguments(loss)
    return len(arguments) < 2 or not arguments[1].startswith("_")


def needs_index(loss: Loss) -> bool:
    """Whether `loss` is told the rows' numbers: a fourth argument, `index`."""
    return "index" in _arguments(loss)


def _arguments(loss: Loss) -> list[str]:
    try:
        return list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters)
    except ValueError:  # a callable that does not tell its arguments
        return []
