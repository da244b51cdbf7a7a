"""What every loss does before its formula: the precision, the constant teacher, the shapes, the rows that count.

A *row* is what a prediction is made for: a sample of [B, C], or a token of [B, tokens, C].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.types import IGNORED, UNLABELLED


def labelled(target: Tensor) -> Tensor:
    """Which rows have a label, bool [B]: not `UNLABELLED`, and no NaN."""
    if target.is_floating_point():
        return ~target.isnan().flatten(1).any(dim=1)
    return (target != UNLABELLED).reshape(len(target), -1).any(dim=1)


def exact(student: Tensor) -> Tensor:
    """The student's output in float32, or in float64 if it came so: half precision is too coarse for a loss.

    Raises:
        UserError: there is no batch dimension.
    """
    if student.ndim < 2:
        raise UserError(
            f"the student's output has the shape {list(student.shape)}, and a loss needs rows of outputs",
            hint="give [B, C] logits or [B, K] values; a single output is [B, 1]",
        )
    return student if student.dtype == torch.float64 else student.float()


def taught(student: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
    """Student and teacher in the student's precision, the teacher as a constant.

    Raises:
        UserError: there is no teacher, or the two do not give the same outputs for the same rows.
    """
    student = exact(student)
    if teacher is None:
        raise UserError("this loss learns from a teacher, and there is none", hint="give the teacher's output")
    if student.shape[-1] != teacher.shape[-1]:
        raise UserError(
            f"the student gives {student.shape[-1]} outputs a row and the teacher {teacher.shape[-1]}",
            hint="predictions need the same classes (or values) in the same order, features the same width",
        )
    if student.shape != teacher.shape:
        raise UserError(f"the student's output is {list(student.shape)} and the teacher's {list(teacher.shape)}")
    return student, (teacher.detach() if teacher.requires_grad else teacher).to(student.dtype)


def measured(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Student and measured target in the student's precision.

    Raises:
        UserError: the shapes differ. Broadcasting [B, 1] against [B] would compare every row with every other.
    """
    student = exact(student)
    if student.shape != target.shape:
        raise UserError(
            f"the student's output is {list(student.shape)} and the target {list(target.shape)}",
            hint="both are values [B, K]; a single target is [B, 1]",
        )
    return student, target.to(student.dtype)


def mean(rows: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows that count: all, or with labels as target those that are not `IGNORED`.

    No row at all gives 0 with a gradient of 0, so that a process may hold an empty part of a batch.

    Raises:
        UserError: the labels are not one a row.
    """
    if target.is_floating_point():
        return rows.sum() / max(rows.numel(), 1)
    if target.shape != rows.shape:
        raise UserError(f"the labels are {list(target.shape)}, and the predictions are for {list(rows.shape)} rows")
    counted = (target != IGNORED).to(rows.dtype).flatten()
    return rows.flatten().dot(counted / counted.sum().clamp(min=1))


def of_samples(target: Tensor) -> Tensor:
    """Labels of samples as wholes [B]; of tokens or pixels 0 for a sample some of which counts, and `IGNORED` else."""
    if target.ndim < 2 or target.is_floating_point():
        return target
    return torch.where((target != IGNORED).flatten(1).any(1), 0, IGNORED)


def mean_of_samples(samples: Tensor, target: Tensor) -> Tensor:
    """Mean over samples as wholes, [B], whatever in them has a label: for losses that compare their features."""
    return mean(samples, of_samples(target))


def class_shares(target: Tensor, student: Tensor) -> Tensor:
    """The target as shares of the classes [B, C] in the student's precision: of a label, 1 for its class.

    A row whose label is `IGNORED` stands for class 0; `mean` leaves it out.

    Raises:
        UserError: the target is neither labels [B] nor shares [B, C], or a label is beyond the student's classes.
    """
    given = target.is_floating_point()
    if target.shape != (student.shape if given else student.shape[:-1]):
        raise UserError(
            f"the target is {str(target.dtype).removeprefix('torch.')} {list(target.shape)}, "
            f"and the student's logits are {list(student.shape)}",
            hint="give labels int64 [B], or shares of the classes [B, C]",
        )
    if given:
        return target.to(student.dtype)
    try:
        labels = target.long().masked_fill(target == IGNORED, 0).unsqueeze(-1)
        return torch.zeros_like(student).scatter(-1, labels, 1)
    except RuntimeError as error:
        raise UserError(
            f"the student gives {student.shape[-1]} outputs a row, too few for these labels ({error})",
            hint="a feature can stand in for logits only where it has an output for every class",
        ) from error


def weights_of(class_weights: Sequence[float], student: Tensor) -> Tensor | None:
    """Weights of the classes in the student's precision [C]; None where there are none.

    Raises:
        UserError: other numbers of weights and classes, or one that is not above 0.
    """
    if not class_weights:
        return None
    if len(class_weights) != student.shape[-1]:
        raise UserError(f"{len(class_weights)} `class_weights` for {student.shape[-1]} classes")
    if not all(0 < weight < math.inf for weight in class_weights):
        raise UserError(f"`class_weights` are numbers above 0, not {list(class_weights)}")
    return student.new_tensor(class_weights)


# --- features ------------------------------------------------------------------------------------


def features(student: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
    """Features of the same rows in the student's precision, the teacher's as a constant; their widths may differ.

    Raises:
        UserError: there is no teacher, or the two are not of the same rows.
    """
    student = exact(student)
    if teacher is None:
        raise UserError("this loss learns from a teacher, and there is none", hint="give the teacher's feature")
    if len(student) != len(teacher) or teacher.ndim < 2:
        raise UserError(f"the student's feature is {list(student.shape)} and the teacher's {list(teacher.shape)}")
    return student, (teacher.detach() if teacher.requires_grad else teacher).to(student.dtype)


def counted(target: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    """Those rows of each part whose label counts: all, or with labels as target those not wholly `IGNORED`.

    For losses that relate the rows of a batch to each other; `mean` is for those that do not.

    Raises:
        UserError: the labels are not one a row.
    """
    if target.is_floating_point():
        return parts
    if len(target) != len(parts[0]):
        raise UserError(f"the labels are {list(target.shape)}, and the features are of {len(parts[0])} rows")
    chosen = of_samples(target) != IGNORED
    return tuple(part[chosen] for part in parts)


def maps(feature: Tensor) -> Tensor:
    """A feature as maps [B, channels, H, W]: tokens [B, tokens, width] are maps of one column, vectors of one pixel."""
    if feature.ndim == 4:
        return feature
    if feature.ndim == 3:
        return feature.transpose(1, 2).unsqueeze(-1)
    if feature.ndim == 2:
        return feature[:, :, None, None]
    raise UserError(f"a feature is [B, channels, H, W], [B, tokens, width] or [B, width], not {list(feature.shape)}")


def pooled(feature: Tensor) -> Tensor:
    """A feature as one vector a row [B, channels]: the mean over space or tokens."""
    return maps(feature).mean(dim=(2, 3))


# --- several processes ---------------------------------------------------------------------------


def everywhere(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks; with one process `x` itself.

    For losses that relate the rows of a batch to each other. Called on both sides, it makes the loss the same number in
    every process: that of the whole batch. Its gradient flows back to the process a row came from, summed over the
    processes, each of which has its share of the loss. All processes must call it, equally often and in one order.

    Args:
        x: floats or integers [rows, ...], in each process of another number of rows, or of none.

    Returns:
        [rows of all, ...].
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return x
    if torch.distributed.get_world_size() == 1:
        return x
    gathered: Tensor = _Everywhere.apply(x)
    return gathered


class _Everywhere(torch.autograd.Function):
    """Rows of all processes; collectives want parts of one length, so they are filled up on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        world = torch.distributed.get_world_size()
        lengths = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(world)]
        torch.distributed.all_gather(lengths, torch.tensor(len(x), device=x.device))
        counts = torch.stack(lengths).tolist()
        filled = x.new_zeros((max(counts), *x.shape[1:]))
        filled[: len(x)] = x
        parts = [torch.empty_like(filled) for _ in range(world)]
        torch.distributed.all_gather(parts, filled)
        rank = torch.distributed.get_rank()
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.own]
