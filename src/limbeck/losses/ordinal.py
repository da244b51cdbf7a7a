"""Losses on logits [B, C] whose classes are in order, so that a near miss is a smaller fault than a far one."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses.checks import class_shares, exact, mean, taught
from limbeck.losses.divergences import kl, softened
from limbeck.losses.row import LossRow


def label_emd(student: Tensor, _teacher: Tensor | None, target: Tensor) -> Tensor:
    """Squared earth mover's distance to the label: how far over the ordered classes the probability lies from it.

    Mean over rows of sum_k (P_k - Q_k)^2, where P_k and Q_k are the shares of the student's softmax and of the label
    that lie in the first k classes, k from 1 to C - 1. Without a unit: 1 for each class between a sure answer and the
    label.

    Source: Hou, Yu and Samaras 2016, "Squared Earth Mover's Distance-based Loss for Training Deep Neural Networks",
    section 3.

    Blind to: the teacher, and a shift of a row's logits.

    Extra cost: none.

    As in the paper, without the factor of 1 / C and without the root.

    Args:
        student: logits [B, C], the classes in their order.
        target: labels int64 [B], of which -100 does not count; or shares of the classes [B, C], as mixup gives.

    Raises:
        UserError: the target fits neither form, or has more classes than the student.

    Example:
        >>> label_emd(torch.tensor([[0.0, 0.0, 90.0]]), None, torch.tensor([0]))  # two classes off
        tensor(2.)
    """
    student = exact(student)
    apart = (student.softmax(dim=-1) - class_shares(target, student)).cumsum(dim=-1)
    # All shares lie in all classes: what is left there is rounding.
    return mean(apart[..., :-1].square().sum(dim=-1), target)


def ordinal_kd(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Divergence from the teacher at every threshold between two neighbouring classes.

    temperature^2 times the mean over rows of sum_k KL(T_k || S_k), where T_k and S_k are the chances that the class is
    one of the first k, from the softmax of the logits divided by the temperature; each is taken with its complement, k
    from 1 to C - 1. In nats. With two classes it is `kd`.

    Source: our own extension of Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section
    2, to the cumulative shares of Hou, Yu and Samaras 2016 (see `label_emd`); no paper of ours or others measures it.

    Blind to: a shift of a row's logits, on either side.

    Extra cost: none.

    Args:
        student: logits [B, C], the classes in their order.
        teacher: the same; -inf where a class has no probability at all.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        temperature: above 0; 1 leaves the probabilities as they are.

    Raises:
        UserError: no teacher, other classes than the student's, or a temperature that is not above 0.
    """
    student, teacher = taught(student, teacher)
    log_s, log_t = softened(student, temperature), softened(teacher, temperature)
    return mean(temperature**2 * kl(_thresholds(log_t), _thresholds(log_s)).sum(dim=-1), target)


def _thresholds(logs: Tensor) -> Tensor:
    """Logarithms of the chances to be up to a class, and beyond it: [..., C] -> [..., C - 1, 2]."""
    up_to = logs[..., :-1].logcumsumexp(dim=-1)
    beyond = logs[..., 1:].flip(-1).logcumsumexp(dim=-1).flip(-1)
    return torch.stack([up_to, beyond], dim=-1)


LOSSES: dict[str, LossRow] = {
    "label_emd": LossRow(label_emd, predicts=("classes",)),
    "ordinal_kd": LossRow(ordinal_kd, predicts=("classes",)),
}
