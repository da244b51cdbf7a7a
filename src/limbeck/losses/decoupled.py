"""Losses on logits [B, C] that treat the label's class apart from the others."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses.checks import class_shares, mean, taught
from limbeck.losses.divergences import kl, softened
from limbeck.losses.row import LossRow


def dkd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Distillation in two parts: how likely the label is, and how the other classes share the rest.

    temperature^2 times the mean over rows of alpha KL(b_t || b_s) + beta KL(r_t || r_s), where b = (p_y, 1 - p_y), r
    is the softmax over the classes other than the label y, and all logits are divided by the temperature. In nats.
    With alpha 1 and beta 1 - p_t,y it is `kd`, which so neglects the second part where the teacher is sure.

    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", equation 7.

    Blind to: a shift of a row's logits on either side.

    Extra cost: none.

    The authors' code subtracts 1000 from the label's logit and takes the logarithm of sums of probabilities; here both
    are exact for any logits. They raise the weight over the first 20 epochs, which a schedule of the weight does. With
    2 classes there is one other class, so that the second part is 0.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        target: labels int64 [B], of which -100 does not count.
        alpha: weight of the first part, 0 or more.
        beta: weight of the second, 0 or more; the surer the teacher, the larger.
        temperature: above 0.

    Raises:
        UserError: no teacher, other classes than the student's, labels beyond them or none (mixup), or an option out
            of its range.
    """
    if not (alpha >= 0 and beta >= 0):
        raise UserError(f"`alpha` and `beta` are 0 or more, not {alpha} and {beta}")
    student, teacher = taught(student, teacher)
    label = _label(target, student)
    if student.shape[-1] < 2:  # no other class: nothing to learn in either part
        return mean(0 * (student + teacher).sum(dim=-1), target)
    log_s, log_t = softened(student, temperature), softened(teacher, temperature)
    first = kl(_label_or_not(log_t, label), _label_or_not(log_s, label))
    second = kl(_others(log_t, label), _others(log_s, label))
    return mean(temperature**2 * (alpha * first + beta * second), target)


def nkd(student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    """A soft label for the right class, and the teacher's split of the others, each brought to sum 1.

    Mean over rows of -p_t,y log p_s,y - gamma temperature^2 sum_c r_t log r_s, where p is the softmax of the logits,
    and r that over the classes other than the label y of logits divided by the temperature. In nats.

    Source: Yang et al. 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
    Normalized Loss and Customized Soft Labels", section 3 (NKD).

    Blind to: a shift of a row's logits on either side.

    Extra cost: none.

    Cross-entropies, as in the authors' code: never 0, and least where the label has all the student's probability.
    They take the largest share of a mixed label for the label; here such targets are refused. With 2 classes the second
    part is 0.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        target: labels int64 [B], of which -100 does not count.
        gamma: weight of the second part, 0 or more.
        temperature: above 0, of the second part alone.

    Raises:
        UserError: no teacher, other classes than the student's, labels beyond them or none (mixup), or an option out
            of its range.
    """
    if not gamma >= 0:
        raise UserError(f"`gamma` is 0 or more, not {gamma}")
    student, teacher = taught(student, teacher)
    label = _label(target, student)
    log_s, log_t = softened(student, 1.0), softened(teacher, 1.0)
    first = -(log_t.exp() * log_s * label).sum(dim=-1)
    if student.shape[-1] < 2:
        return mean(first, target)
    r_t = _others(softened(teacher, temperature), label).exp()
    second = -(r_t * _others(softened(student, temperature), label).masked_fill(label, 0)).sum(dim=-1)
    return mean(first + gamma * temperature**2 * second, target)


def _label(target: Tensor, student: Tensor) -> Tensor:
    """Where the labels are, as booleans [B, C]."""
    if target.is_floating_point() and target.shape == student.shape:
        raise UserError(
            "this loss needs one label a row, and is given shares of the classes",
            hint="leave mixup and cutmix out, or use `kd`, `wsld` or `dist`, which take mixed labels",
        )
    return class_shares(target, student).bool()


def _label_or_not(log_p: Tensor, label: Tensor) -> Tensor:
    """Logarithms of the label's probability and of that of all other classes together: [B, 2]."""
    of_label = log_p.masked_fill(~label, -torch.inf).logsumexp(dim=-1)
    return torch.stack([of_label, log_p.masked_fill(label, -torch.inf).logsumexp(dim=-1)], dim=-1)


def _others(log_p: Tensor, label: Tensor) -> Tensor:
    """Logarithms of the probabilities of the other classes, brought to sum 1: [B, C], the label's is -inf."""
    return torch.log_softmax(log_p.masked_fill(label, -torch.inf), dim=-1)


LOSSES: dict[str, LossRow] = {
    "dkd": LossRow(dkd, needs_labels=True, predicts=("classes",)),
    "nkd": LossRow(nkd, needs_labels=True, predicts=("classes",)),
}
