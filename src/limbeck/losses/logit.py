"""Losses on logits [B, C]: to the labels, and to the teacher's softened probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import UserError
from limbeck.losses.inputs import IGNORED, exact, mean, taught


def hard(student: Tensor, _teacher: Tensor | None, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy to the labels.

    Mean over rows of -sum_c q_c log p_c, where p is the student's softmax and q the label as a distribution, of which
    `label_smoothing` is spread over all classes alike. In nats. With label smoothing, which a recipe has in
    `student.train`, it is the usual baseline without a teacher.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7 (smoothing).

    Blind to: the teacher, and a shift of a row's logits.

    Extra cost: none.

    Args:
        student: logits [B, C].
        target: labels int64 [B], of which -100 does not count; or shares of the classes [B, C], as mixup gives.
        label_smoothing: from 0 to 1.

    Raises:
        UserError: the target fits neither form or has more classes than the student, or `label_smoothing` is out of
            its range.

    Example:
        >>> hard(torch.zeros(2, 4), None, torch.tensor([0, 3]))  # log 4: the student knows nothing
        tensor(1.3863)
    """
    if not 0 <= label_smoothing <= 1:
        raise UserError(f"`label_smoothing` is from 0 to 1, not {label_smoothing}")
    student = exact(student)
    shares = target.is_floating_point()
    if target.shape != (student.shape if shares else student.shape[:-1]):
        raise UserError(
            f"the target is {str(target.dtype).removeprefix('torch.')} {list(target.shape)}, "
            f"and the student's logits are {list(student.shape)}",
            hint="give labels int64 [B], or shares of the classes [B, C]",
        )
    q = target.to(student.dtype).flatten(0, -2) if shares else target.long().flatten()
    try:
        rows = F.cross_entropy(
            student.flatten(0, -2), q, reduction="none", ignore_index=IGNORED, label_smoothing=label_smoothing
        )
    except IndexError as error:
        raise UserError(
            f"the student gives {student.shape[-1]} outputs a row, too few for these labels ({error})",
            hint="a feature can stand in for logits only where it has an output for every class",
        ) from error
    return mean(rows.view(student.shape[:-1]), target)


def kd(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Divergence from the teacher's softened probabilities.

    temperature^2 times the mean over rows of KL(p_t || p_s) = sum_c p_t log(p_t / p_s), where p is the softmax of the
    logits divided by the temperature. In nats. The square keeps the gradient's size as the temperature changes. As the
    temperature grows it tends to half the mean squared difference of the centred logits (equation 4).

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

    Blind to: the label, and a shift of a row's logits on either side.

    Extra cost: none.

    Hinton writes the cross-entropy; this is that less the teacher's entropy, so the gradient is the same and 0 means
    equal. mdistiller and RepDistiller compute the same value.

    Args:
        student: logits [B, C].
        teacher: logits [B, C]; -inf where a class has no probability at all.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        temperature: above 0; 1 leaves the probabilities as they are.

    Raises:
        UserError: no teacher, other classes than the student's, or a temperature that is not above 0.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> kd(logits, logits + 7, torch.tensor([0]))  # the same probabilities
        tensor(0.)
    """
    if not temperature > 0:
        raise UserError(f"`temperature` is above 0, not {temperature}")
    student, teacher = taught(student, teacher)
    log_s = torch.log_softmax(student / temperature, dim=-1)
    log_t = torch.log_softmax(teacher / temperature, dim=-1)
    p_t = log_t.exp()
    # Asked this way round, a teacher's NaN stays one: whoever trains must see it.
    divergence = (temperature**2 * p_t * (log_t - log_s)).masked_fill(p_t == 0, 0).sum(dim=-1)
    return mean(divergence, target)


LOSSES: dict[str, Callable[..., Any]] = {"hard": hard, "kd": kd}
