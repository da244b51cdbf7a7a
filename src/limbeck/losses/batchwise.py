"""Losses on logits [B, C] that compare how the rows of a batch, or its classes, are related on both sides."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, everywhere, taught
from limbeck.losses.divergences import kl, softened
from limbeck.losses.row import LossRow


def dist(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Correlation with the teacher's probabilities, over the classes of each row and over the rows of each class.

    temperature^2 (beta (1 - mean over rows of r) + gamma (1 - mean over classes of r)), where r is Pearson's
    correlation of the student's and the teacher's softened probabilities. Between 0 and twice the factors; no unit.

    Source: Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", section 4 (inter- and intra-class
    relations).

    Blind to: the label, a shift of a row's logits, and how sharp the teacher is: linear changes of probabilities.

    Extra cost: none.

    As the authors' code, with 1e-8 added to the product of norms. A single row has no correlation over rows: that part
    is then 0. Several processes relate the rows of all.

    Args:
        student: logits [B, C], at least 3 classes.
        teacher: logits [B, C].
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        beta: weight of the part over classes.
        gamma: weight of the part over rows.
        temperature: above 0.

    Raises:
        UserError: no teacher, other classes than the student's, fewer than 3, or a temperature that is not above 0.
    """
    student, teacher = _rows_of_all(student, teacher, target)
    if student.shape[-1] < 3:
        raise UserError(
            f"over the {student.shape[-1]} probabilities of a row every correlation is 1, -1 or none",
            hint="use `kd` with fewer than 3 classes",
        )
    p_s, p_t = softened(student, temperature).exp(), softened(teacher, temperature).exp()
    if not len(p_s):
        return p_s.sum()
    value: Tensor = beta * (1 - _correlation(p_s, p_t).mean())
    if len(p_s) > 1:
        value = value + gamma * (1 - _correlation(p_s.T, p_t.T).mean())
    return value * temperature**2


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of a with that of b."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    correlation: Tensor = (a * b).sum(dim=1) / (norms + 1e-8)
    return correlation


@in_full_precision
def mlld(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance: float = 1.0,
    batch: float = 1.0,
    category: float = 1.0,
) -> Tensor:
    """Distillation at three levels and several temperatures: each row, the rows among each other, the classes.

    With P the softened probabilities [B, C], summed over the temperatures: `instance` times temperature^2 times the
    mean over rows of m KL(p_t || p_s); `batch` / B times the squared norm of the rows m of P_t P_t' - P_s P_s'; and
    `category` / C times that of the rows n of P_t' P_t - P_s' P_s. The masks, from the teacher at temperature 1, keep
    the rows (m) whose highest probability is not above the median, and the classes (n) whose sum over rows is not.
    In nats and squared probabilities.

    Source: Jin, Wang and Lin 2023, "Multi-Level Logit Distillation", section 3.

    Blind to: the label, and a shift of a row's logits on either side.

    Extra cost: two products of [B, C] matrices a temperature.

    The authors show each image in a weak and a strong view and learn the first level from both; here there is the one
    view that the student is shown. Their code multiplies a mean over rows by the share of rows kept, where here the
    mask picks them. The last two levels grow with the batch (the class level with its square), as published.
    Several processes relate the rows of all.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        temperatures: one or more, above 0.
        instance: weight of the first level.
        batch: weight of the second.
        category: weight of the third.

    Raises:
        UserError: no teacher, other classes than the student's, no temperature or one that is not above 0.
    """
    if not temperatures:
        raise UserError("`temperatures` is a list of one or more numbers, not empty")
    student, teacher = _rows_of_all(student, teacher, target)
    if not len(student):
        return student.sum()
    p = softened(teacher, 1.0).exp()
    rows, classes = _not_above_median(p.amax(dim=1)), _not_above_median(p.sum(dim=0))
    total = student.new_zeros(())
    for temperature in temperatures:
        log_s, log_t = softened(student, temperature), softened(teacher, temperature)
        p_s, p_t = log_s.exp(), log_t.exp()
        of_rows = (p_t @ p_t.T - p_s @ p_s.T).square().mean(dim=1)
        of_classes = (p_t.T @ p_t - p_s.T @ p_s).square().mean(dim=1)
        total = total + instance * temperature**2 * (rows * kl(log_t, log_s)).mean()
        total = total + batch * rows.dot(of_rows) + category * classes.dot(of_classes)
    return total


def _not_above_median(x: Tensor) -> Tensor:
    """1 for the lower half of a vector, and for what equals the largest of it; 0 for the rest."""
    return (x <= x.sort().values[(len(x) - 1) // 2]).to(x.dtype)


def _rows_of_all(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides as rows [rows, C] that count, of all processes."""
    student, teacher = taught(student, teacher)
    if not target.is_floating_point() and target.shape != student.shape[:-1]:
        raise UserError(
            f"the labels are {list(target.shape)}, and the predictions are for {list(student.shape[:-1])} rows"
        )
    labels = target if target.is_floating_point() else target.flatten()
    student, teacher = counted(labels, student.flatten(0, -2), teacher.flatten(0, -2))
    return everywhere(student), everywhere(teacher)


LOSSES: dict[str, LossRow] = {
    "dist": LossRow(dist, weight=2.0, predicts=("classes",)),
    "mlld": LossRow(mlld, weight=0.9, predicts=("classes",), compares_rows=True),
}
