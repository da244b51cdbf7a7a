"""What losses on features share: maps of one size, of one width, in the precision of the loss's weights.

Where sizes differ the larger map is averaged down to the smaller, height and width each for itself, so that no pixel
is made up. Tokens of the same number are compared one by one, as a column. Tokens beside maps, or beside another
number of tokens, stand on the square grid of their patches, row by row; a leading class token (one more than a square)
is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.checks import features, maps

Shape = Sequence[int]


# --- sizes ---------------------------------------------------------------------------------------


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as maps [B, channels, H, W] of one size; see this module's text.

    Raises:
        UserError: a feature is no map, tokens or vector, or tokens cannot be put on a grid.
    """
    student, teacher = paired(student, teacher)
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return shrunk(student, size), shrunk(teacher, size)


def paired(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as maps [B, channels, H, W], each of its own size.

    Raises:
        UserError: as `aligned`.
    """
    column = student.ndim == teacher.ndim == 3 and student.shape[1] == teacher.shape[1]
    if not column and 2 not in (student.ndim, teacher.ndim):
        student, teacher = _grid(student), _grid(teacher)
    return maps(student), maps(teacher)


def shrunk(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Maps averaged to height and width `size`; as they are if they have it."""
    return feature if list(feature.shape[2:]) == list(size) else F.adaptive_avg_pool2d(feature, (size[0], size[1]))


def shapes(student: Shape, teacher: Shape) -> tuple[list[int], list[int]]:
    """[channels, H, W] of both after `aligned`, from the shapes of one row: known before anything is trained.

    Raises:
        UserError: as `aligned`.
    """
    # Without values (device "meta") the shapes come from the same lines that make the maps.
    first, second = aligned(*(torch.empty(1, *shape, device="meta") for shape in (student, teacher)))
    return list(first.shape[1:]), list(second.shape[1:])


def with_space(student: Shape, teacher: Shape, what: str) -> tuple[list[int], list[int]]:
    """`shapes`, for a loss to which a single pixel says nothing.

    Raises:
        UserError: as `aligned`; or one of the two has no space. `what` says what the loss needs it for.
    """
    ours, theirs = shapes(student, teacher)
    if ours[1] * ours[2] < 2:
        raise UserError(
            f"{what}, and of the student's {list(student)} and the teacher's {list(teacher)} a row one has no space",
            hint="give maps [channels, H, W] or tokens [tokens, width] of more than one pixel or token",
        )
    return ours, theirs


def _grid(feature: Tensor) -> Tensor:
    """Tokens [B, tokens, width] as square maps [B, width, side, side]; anything else as it is."""
    if feature.ndim != 3:
        return feature
    tokens = feature.shape[1]
    side = math.isqrt(tokens)
    first = tokens - side**2
    if first > 1 or side == 0:
        raise UserError(
            f"{tokens} tokens are no square of patches, with or without a class token before them",
            hint="compare tokens with as many tokens, or tap a module whose tokens are the patches alone",
        )
    return feature[:, first:].transpose(1, 2).reshape(len(feature), feature.shape[2], side, side)


# --- widths --------------------------------------------------------------------------------------


class Norm(nn.BatchNorm2d):
    """Batch norm that takes less than two values a channel as well: there it uses its running averages."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, channels, H, W] of mean 0 and variance 1 a channel, scaled and shifted."""
        if x.shape[0] * x.shape[2] * x.shape[3] < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def normed(width_in: int, width_out: int, size: int = 1) -> nn.Sequential:
    """A convolution of `size` by `size` pixels that keeps the map's size, then batch norm, which makes a bias idle."""
    convolution = nn.Conv2d(width_in, width_out, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, Norm(width_out))


def projector(student: Shape, teacher: Shape, *, norm: bool = True) -> nn.Module:
    """From the student's channels to the teacher's, pixel by pixel; nothing at all where they are equal already.

    Args:
        student: shape of one row: [channels, H, W], [tokens, width] or [width].
        teacher: the same.
        norm: batch norm after the convolution. Vectors and tokens have none: theirs is a linear layer on each.

    Returns:
        Maps [B, student's channels, H, W] -> [B, teacher's channels, H, W].
    """
    (width_in, *_), (width_out, *_) = shapes(student, teacher)
    if width_in == width_out:
        return nn.Identity()
    return normed(width_in, width_out) if norm and len(student) == 3 else nn.Conv2d(width_in, width_out, 1)


# --- precision -----------------------------------------------------------------------------------


def entered(loss: nn.Module, made_for: tuple[Shape, Shape], student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the same rows, the teacher's as a constant, in the precision of the loss's weights.

    Args:
        loss: whose weights they meet.
        made_for: shapes of one row that `loss` was told.
        student: [B, ...].
        teacher: [B, ...].

    Raises:
        UserError: no teacher, other rows than the student's, or other channels than the loss was made for.
    """
    student, teacher = features(student, teacher)
    for whose, feature, shape in zip(("student", "teacher"), (student, teacher), made_for, strict=True):
        at = 1 if len(shape) == 3 else -1  # where the channels stand
        if feature.ndim != len(shape) + 1 or feature.shape[at] != shape[0 if at == 1 else -1]:
            raise UserError(
                f"the {whose}'s feature is {list(feature.shape)}, and this loss was made for rows of {list(shape)}"
            )
    weight = next(loss.parameters(), None)
    return (student, teacher) if weight is None else (student.to(weight.dtype), teacher.to(weight.dtype))
