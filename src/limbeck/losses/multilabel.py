"""Losses on logits [B, C] of which each is a yes or no of its own: a row may be of several classes, or of none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses.checks import mean, measured, taught, weights_of
from limbeck.losses.divergences import kl
from limbeck.losses.row import LossRow


def label_binary(
    student: Tensor, _teacher: Tensor | None, target: Tensor, *, class_weights: tuple[float, ...] = ()
) -> Tensor:
    """Binary cross-entropy to the labels, class by class.

    Mean over rows of the sum over classes of -w_c y log p - (1 - y) log(1 - p), where p is the logistic function of the
    logit. In nats. The sum makes it the cross-entropy of a row's whole answer, and lets the weight of a class not hang
    on how many others there are; PyTorch's mean over classes is 1 / C of it.

    Source: Cox 1958, "The Regression Analysis of Binary Sequences", the likelihood of logistic regression.

    Blind to: the teacher, and which classes go together.

    Extra cost: none.

    Args:
        student: logits [B, C].
        target: 1 where a row is of the class and 0 where it is not, or shares between, as floats [B, C].
        class_weights: w, what a yes counts where a no counts 1: a number above 0 for each class (PyTorch's
            `pos_weight`); all 1 by default. A recipe has them in `class_weights`.

    Raises:
        UserError: the shapes differ, or there are other numbers of weights and classes.
    """
    student, target = _answers(student, target)
    weights = weights_of(class_weights, student)
    rows = F.binary_cross_entropy_with_logits(student, target, reduction="none", pos_weight=weights)
    return mean(rows.sum(dim=-1), target)


def binary_kd(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Divergence from the teacher's softened yes or no, class by class.

    temperature^2 times the mean over rows of the sum over classes of KL(p_t || p_s), where p is the logistic function
    of the logit divided by the temperature, taken with its complement. In nats.

    Source: Yang et al. 2023, "Multi-Label Knowledge Distillation", section 3 (one-versus-all reduction), after Hinton,
    Vinyals and Dean 2015.

    Blind to: the labels, and which classes go together.

    Extra cost: none.

    It is `kd` of two logits, 0 and that of the class, summed over the classes; the factor of temperature^2 is Hinton's.

    Args:
        student: logits [B, C].
        teacher: the same.
        target: floats [B, C], which do not matter here.
        temperature: above 0; 1 leaves the probabilities as they are.

    Raises:
        UserError: no teacher, other classes than the student's, a target of another shape, or a temperature that is not
            above 0.
    """
    if not temperature > 0:
        raise UserError(f"`temperature` is above 0, not {temperature}")
    student, teacher = taught(student, teacher)
    student, target = _answers(student, target)
    rows = kl(_yes_and_no(teacher / temperature), _yes_and_no(student / temperature)).sum(dim=-1)
    return mean(temperature**2 * rows, target)


def _answers(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if not target.is_floating_point():
        raise UserError(
            f"the target is {str(target.dtype).removeprefix('torch.')} {list(target.shape)}, and these labels are many",
            hint="give floats [B, C]: 1 where a row is of a class, 0 where it is not",
        )
    return measured(student, target)


def _yes_and_no(logits: Tensor) -> Tensor:
    """Logarithms of both probabilities: [..., C] -> [..., C, 2]."""
    return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)


LOSSES: dict[str, LossRow] = {
    "label_binary": LossRow(label_binary, predicts=("labels",)),
    "binary_kd": LossRow(binary_kd, predicts=("labels",)),
}
