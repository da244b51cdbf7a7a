"""The normal form of predictions, [N, ..., C], and what of it counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.types import IGNORED, Task

if TYPE_CHECKING:
    from torch import Tensor


def classes_last(prediction: Tensor) -> Tensor:
    """What a network gives in the normal form: logits of pixels [B, C, H, W] as [B, H, W, C], all else as it is."""
    return prediction.movedim(1, -1) if prediction.ndim == 4 else prediction


def classes_first(prediction: Tensor) -> Tensor:
    """Logits of pixels as a network gives them, [B, C, H, W]: the inverse of `classes_last`."""
    return prediction.movedim(-1, 1) if prediction.ndim == 4 else prediction


def counted(target: Tensor | None, values: Tensor) -> Tensor:
    """The places that have a label, one after the other: predictions [N, ..., C] as [R, C], labels [N, ...] as [R].

    Args:
        target: class indices [N, ...], `IGNORED` where there is none; without them all places count.
        values: predictions [N, ..., C], or the targets themselves.

    Raises:
        UserError: predictions for other places than the labels'.
    """
    if target is None:
        return values.flatten(0, -2)
    places = values.shape[: target.ndim]
    if places != target.shape or values.ndim > target.ndim + 1:
        raise UserError(f"{tuple(values.shape)} predictions do not fit labels {tuple(target.shape)}")
    return values[target.to(values.device) != IGNORED]


def check(task: Task, values: Tensor, what: str, *, width: int | None = None) -> None:
    """Refuse what is not one number for each output of each row.

    Args:
        task: whose outputs they are.
        values: [R, width].
        what: they are, for messages.
        width: how many numbers a row has; those of a network's head, if it is not said.

    Raises:
        UserError: another shape, no rows, or numbers that are not finite.
    """
    width = task.outputs if width is None else width
    if values.ndim != 2 or values.shape[1] != width or not len(values):
        each = "one a class or output"
        if task.predicts_variance and width == task.outputs:
            each = "a mean and the logarithm of a variance for each output"
        raise UserError(
            f"{what} have shape {tuple(values.shape)}, not [rows, {width}]",
            hint=f"the network's head gives {width} numbers for each row: {each}",
        )
    broken = int((~values.isfinite()).any(1).sum())
    if broken:
        raise UserError(f"{what} of {broken} of {len(values)} rows are not finite numbers")


def pairs(distance: Callable[[Tensor, Tensor], Tensor], members: Tensor) -> dict[str, Any]:
    """The distance of each member to each other, and its mean over the pairs."""
    matrix = [[distance(a, b).item() for b in members] for a in members]
    apart = [value for i, row in enumerate(matrix) for value in row[:i]]
    return {"pairwise": matrix, "mean_pairwise": math.fsum(apart) / len(apart) if apart else None}


def choices_apart(first: Tensor, shares: Tensor, target: Tensor | None, what: str) -> dict[str, Any]:
    """How far members choose different things.

    Args:
        first: what each member says of each row, [M, R] classes or [M, R, C] answers.
        shares: probabilities of each row, [M, R, ...].
        target: what is right, as `first` without members; the oracle is left out without it.
        what: the targets are, for messages.
    """
    import torch

    shares = shares.flatten(2)
    divergence = torch.special.entr(shares.mean(0)).sum(1).mean() - torch.special.entr(shares).sum(2).mean()
    found = pairs(lambda a, b: (a != b).double().mean(), first)
    found["all_agree"] = (first == first[0]).all(0).double().mean().item()
    found["divergence"] = max(divergence.item(), 0.0)
    if target is not None:
        if target.shape != first.shape[1:]:
            raise UserError(f"{first.shape[1]} predictions need as many {what}, not {tuple(target.shape)}")
        found["oracle"] = (first == target.cpu()).any(0).double().mean().item()
    return found
