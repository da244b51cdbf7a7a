"""Losses on values [B, K]: to the measured target, and to the teacher's values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.checks import everywhere, mean, measured, taught
from limbeck.losses.row import LossRow


def label_mse(student: Tensor, _teacher: Tensor | None, target: Tensor) -> Tensor:
    """Mean squared error to the measured target.

    Mean over rows and outputs of (s - y)^2, in the square of the target's unit.

    Source: Gauss 1809, "Theoria motus corporum coelestium", section 179: the method of least squares.

    Blind to: the teacher, and the sign of an error.

    Extra cost: none.

    Args:
        student: values [B, K].
        target: values [B, K].

    Raises:
        UserError: the shapes differ.
    """
    student, target = measured(student, target)
    return mean((student - target).square().mean(dim=-1), target)


def label_smooth_l1(student: Tensor, _teacher: Tensor | None, target: Tensor, *, beta: float = 1.0) -> Tensor:
    """Smooth L1 to the measured target: squared near it, linear far away, so that outliers weigh less.

    Mean over rows and outputs of d^2 / (2 beta) where d = |s - y| < beta, and d - beta / 2 elsewhere; the paper has
    beta = 1. Near 0 in the square of the target's unit over that of `beta`, elsewhere in the target's unit.

    Source: Girshick 2015, "Fast R-CNN", equation 3.

    Blind to: the teacher, and the sign of an error.

    Extra cost: none.

    Args:
        student: values [B, K].
        target: values [B, K].
        beta: where the square ends, in the target's unit; 0 gives the absolute error.

    Raises:
        UserError: the shapes differ, or `beta` is negative.
    """
    if not beta >= 0:
        raise UserError(f"`beta` is 0 or more, not {beta}")
    student, target = measured(student, target)
    return mean(F.smooth_l1_loss(student, target, reduction="none", beta=beta).mean(dim=-1), target)


def mse(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference from the teacher's values, or from its logits.

    Mean over rows and outputs of (s - t)^2, in the square of the output's unit. Unlike `kd` it sees a shift of a row's
    logits.

    Source: Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", equation 1.

    Blind to: the target, and the sign of a difference.

    Extra cost: none.

    The paper has half the sum over outputs. The mean keeps this on the scale of `label_mse` whatever K is, and of `kd`:
    on centred logits `kd` tends to half of it as the temperature grows.

    Args:
        student: values [B, K] or logits [B, C].
        teacher: the same.
        target: rows whose label is -100 do not count; measured values count all rows.

    Raises:
        UserError: no teacher, or other outputs than the student's.
    """
    student, teacher = taught(student, teacher)
    return mean((student - teacher).square().mean(dim=-1), target)


def teacher_bounded(student: Tensor, teacher: Tensor, target: Tensor, *, margin: float = 0.0) -> Tensor:
    """Squared error to the target, counted only while the student is not yet better than the teacher.

    Mean over rows of ||s - y||^2 where ||s - y||^2 + margin > ||t - y||^2, and 0 elsewhere; the norm is over the whole
    output vector. In the square of the target's unit.

    Source: Chen et al. 2017, "Learning Efficient Object Detection Models with Knowledge Distillation", equation 4.

    Blind to: where the teacher is, except for how far from the target.

    Extra cost: none.

    The paper adds half of this to `label_smooth_l1`; weights are a `Term`'s.

    Args:
        student: values [B, K].
        teacher: values [B, K].
        target: values [B, K].
        margin: 0 or more: by how much the student must be better before a row stops counting.

    Raises:
        UserError: no teacher, shapes that differ, or a negative `margin`.
    """
    if not margin >= 0:
        raise UserError(f"`margin` is 0 or more, not {margin}")
    student, teacher = taught(student, teacher)
    student, target = measured(student, target)
    of_student = (student - target).square().sum(dim=-1)
    of_teacher = (teacher - target).square().sum(dim=-1)
    # 0 times what was compared: a NaN on either side is never "better", and whoever trains must see it.
    done = 0 * (of_student + of_teacher)
    return mean(torch.where(of_student + margin > of_teacher, of_student, done), target)


class AttentiveImitation(nn.Module):
    """Squared difference from the teacher, which counts the less in a row the further the teacher is off there.

    Mean over rows of w ||s - t||^2, where w = 1 - e / eta, at least 0; e = ||t - y||^2 is the teacher's squared error
    in the row, and eta its greatest less its least of all rows seen so far. In the square of the target's unit.

    Source: Saputra et al. 2019, "Distilling Knowledge From a Deep Pose Regressor Network", the attentive imitation
    loss of section 4.

    Blind to: rows in which the teacher errs as far as it ever did.

    Extra cost: none; the two ends of the teacher's error are kept, saved and restored.

    The paper takes eta over the whole training set before it begins; seen so far is the same after the first epoch. Its
    weight is below 0 where the error is above eta, and would push the student away from the teacher: here it ends at 0.
    As long as all rows seen have the same error, each counts in full. The paper adds this to the student's own error
    (`label_mse`); the balance of the two is the terms' weights.

    Raises:
        UserError: no teacher, or shapes that differ.
    """

    least: Tensor
    greatest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(torch.inf))
        self.register_buffer("greatest", torch.tensor(-torch.inf))

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Values [B, K] of student, teacher and target -> scalar."""
        student, teacher = taught(student, teacher)
        student, target = measured(student, target)
        error = (teacher - target).square().sum(dim=-1)
        seen = everywhere(error).flatten()
        with torch.no_grad():
            self.least.copy_(torch.cat([self.least[None], seen]).min())
            self.greatest.copy_(torch.cat([self.greatest[None], seen]).max())
        reach = (self.greatest - self.least).to(error.dtype)
        weight = torch.where(reach == 0, 1.0, 1 - error / reach).clamp(min=0)
        return mean(weight * (student - teacher).square().sum(dim=-1), target)


def label_quantile(student: Tensor, _teacher: Tensor | None, target: Tensor, *, quantile: float = 0.5) -> Tensor:
    """Pinball loss: its least is where the target lies below the student in the given share of cases.

    Mean over rows and outputs of quantile (y - s) where s < y, and (1 - quantile) (s - y) elsewhere. In the target's
    unit. At 0.5 it is half the absolute error.

    Source: Koenker and Bassett 1978, "Regression Quantiles", the definition of a sample quantile by its least.

    Blind to: the teacher, and outliers' size: only on which side of the student a target lies moves it.

    Extra cost: none.

    Args:
        student: values [B, K].
        target: values [B, K].
        quantile: between 0 and 1.

    Raises:
        UserError: the shapes differ, or `quantile` is not between 0 and 1.

    Example:
        >>> label_quantile(torch.zeros(1, 2), None, torch.tensor([[1.0, -1.0]]), quantile=0.9)
        tensor(0.5000)
    """
    if not 0 < quantile < 1:
        raise UserError(f"`quantile` is between 0 and 1, not {quantile}")
    student, target = measured(student, target)
    missing = target - student
    return mean(torch.maximum(quantile * missing, (quantile - 1) * missing).mean(dim=-1), target)


LOSSES: dict[str, LossRow] = {
    "label_mse": LossRow(label_mse, predicts=("values",)),
    "label_smooth_l1": LossRow(label_smooth_l1, predicts=("values",)),
    "label_quantile": LossRow(label_quantile, predicts=("values",)),
    "mse": LossRow(mse),
    "teacher_bounded": LossRow(teacher_bounded, needs_labels=True, predicts=("values",)),
    "attentive_imitation": LossRow(AttentiveImitation, needs_labels=True, predicts=("values",)),
}
