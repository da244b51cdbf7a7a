"""Losses on values with their uncertainty: outputs [B, 2K] are K means, then K logarithms of variances.

Variances are taken between e^-30 and e^30, in the square of the target's unit: a student that is right and ever surer
would otherwise overflow. Beyond these a logarithm has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses.checks import exact, mean, measured, taught
from limbeck.losses.row import LossRow

BOUND = 30.0
LOG_TWO_PI = 1.8378770664093453


def label_gaussian_nll(student: Tensor, _teacher: Tensor | None, target: Tensor) -> Tensor:
    """Negative log likelihood of the measured target under the student's Gaussians.

    Mean over rows of the sum over values of (log(2 pi v) + (y - m)^2 / v) / 2, where m is the mean and v the variance.
    In nats, so that another unit of the target shifts it. Without a least value: it falls as long as a right student
    gets surer.

    Source: Nix and Weigend 1994, "Estimating the Mean and Variance of the Target Probability Distribution", equation 2.

    Blind to: the teacher, and how the errors of two values go together.

    Extra cost: a second output for every value.

    PyTorch's `GaussianNLLLoss` takes the variance, leaves out log(2 pi) unless told, and the mean over values.

    Args:
        student: [B, 2K]: means, then logarithms of variances.
        target: values [B, K].

    Raises:
        UserError: the student's outputs are not twice the target's values.
    """
    means, logs = _parts(exact(student), target)
    means, target = measured(means, target)
    rows = (LOG_TWO_PI + logs + (target - means).square() * (-logs).exp()).sum(dim=-1) / 2
    return mean(rows, target)


def gaussian_kl(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Divergence from the teacher's Gaussians.

    Mean over rows of the sum over values of KL(t || s) = (log(v_s / v_t) + (v_t + (m_t - m_s)^2) / v_s - 1) / 2, where
    m is the mean and v the variance. In nats. Where both variances stay the same it is the squared difference of the
    means over twice the variance.

    Source: Kullback and Leibler 1951, "On Information and Sufficiency", in closed form for Gaussians.

    Blind to: the target, its unit and its shift, and how the errors of two values go together.

    Extra cost: a second output for every value, of both networks.

    Args:
        student: [B, 2K]: means, then logarithms of variances.
        teacher: the same.
        target: values [B, K], which do not matter here.

    Raises:
        UserError: no teacher, other outputs than the student's, or outputs that are not twice the target's values.
    """
    student, teacher = taught(student, teacher)
    (m_s, log_s), (m_t, log_t) = _parts(student, target), _parts(teacher, target)
    # exp(x) - 1 - x of the logarithms' difference, not v_t / v_s - 1 - log(v_t / v_s): equals give exactly 0.
    surer = log_t - log_s
    rows = (torch.expm1(surer) - surer + (m_t - m_s).square() * (-log_s).exp()).sum(dim=-1) / 2
    return mean(rows, target)


def _parts(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Means and bounded logarithms of the variances, each [B, K]."""
    if output.shape != (*target.shape[:-1], 2 * target.shape[-1]) or not target.is_floating_point():
        raise UserError(
            f"the output is {list(output.shape)} and the target {list(target.shape)}",
            hint="the target is values [B, K], the output [B, 2K]: K means, then K logarithms of variances",
        )
    means, logs = output.chunk(2, dim=-1)
    return means, logs.clamp(-BOUND, BOUND)


LOSSES: dict[str, LossRow] = {
    "label_gaussian_nll": LossRow(label_gaussian_nll, predicts=("values",), gaussian=True),
    "gaussian_kl": LossRow(gaussian_kl, predicts=("values",), gaussian=True),
}
