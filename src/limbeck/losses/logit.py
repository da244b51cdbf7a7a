"""Losses on logits [B, C]: to the labels, and to the teacher's softened probabilities."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.types import IGNORED
from limbeck.losses.checks import class_shares, exact, mean, taught, weights_of
from limbeck.losses.decoupled import dkd
from limbeck.losses.divergences import jensen_shannon, kl, softened
from limbeck.losses.row import LossRow


def hard(
    student: Tensor,
    _teacher: Tensor | None,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: tuple[float, ...] = (),
) -> Tensor:
    """Cross-entropy to the labels.

    Mean over rows of -sum_c w_c q_c log p_c, where p is the student's softmax and q the label as a distribution, of
    which `label_smoothing` is spread over all classes alike. In nats. With label smoothing, which a recipe has in
    `student.train`, it is the usual baseline without a teacher.

    PyTorch's mean divides by the sum of the weights of the batch's rows; this one by their number, so that a batch that
    lacks the rare classes does not count the common ones in full, and parts of a batch add up to the whole. Over rows
    whose weights are 1 on average, as a recipe's are over the training rows, both are the same.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7 (smoothing).

    Blind to: the teacher, and a shift of a row's logits.

    Extra cost: none.

    Args:
        student: logits [B, C].
        target: labels int64 [B], of which -100 does not count; or shares of the classes [B, C], as mixup gives.
        label_smoothing: from 0 to 1.
        class_weights: w, a number above 0 for each class; all 1 by default. A recipe has them in `class_weights`.

    Raises:
        UserError: the target fits neither form or has more classes than the student, `label_smoothing` is out of its
            range, or there are other numbers of weights and classes.

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
    weights = weights_of(class_weights, student)
    try:
        rows = F.cross_entropy(
            student.flatten(0, -2), q, weights, reduction="none", ignore_index=IGNORED, label_smoothing=label_smoothing
        )
    except IndexError as error:
        raise UserError(
            f"the student gives {student.shape[-1]} outputs a row, too few for these labels ({error})",
            hint="a feature can stand in for logits only where it has an output for every class",
        ) from error
    return mean(rows.view(student.shape[:-1]), target)


def kd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    divergence: str = "forward",
    beta: float = 0.5,
) -> Tensor:
    """Divergence from the teacher's softened probabilities.

    temperature^2 times the mean over rows of KL(p_t || p_s) = sum_c p_t log(p_t / p_s), where p is the softmax of the
    logits divided by the temperature. In nats. The square keeps the gradient's size as the temperature changes. As the
    temperature grows it tends to half the mean squared difference of the centred logits (equation 4).

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; reverse and js:
    Agarwal et al. 2024, "On-Policy Distillation of Language Models", equation 1.

    Blind to: the label, and a shift of a row's logits on either side.

    Extra cost: none.

    Hinton writes the cross-entropy; this is that less the teacher's entropy, so the gradient is the same and 0 means
    equal. mdistiller and RepDistiller compute the same value.

    Args:
        student: logits [B, C].
        teacher: logits [B, C]; -inf where a class has no probability at all (then "reverse" is infinite).
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        temperature: above 0; 1 leaves the probabilities as they are.
        divergence: "forward" is KL(p_t || p_s), which has the student cover all that the teacher holds possible;
            "reverse" is KL(p_s || p_t), which has it keep to what the teacher holds likely; "js" lies between:
            beta KL(p_t || m) + (1 - beta) KL(p_s || m) with m = beta p_t + (1 - beta) p_s.
        beta: of "js", between 0 and 1. Divided by beta it tends to forward as beta falls to 0, and divided by
            1 - beta to reverse as it rises to 1.

    Raises:
        UserError: no teacher, other classes than the student's, a temperature that is not above 0, another divergence,
            or a beta out of range.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> kd(logits, logits + 7, torch.tensor([0]))  # the same probabilities
        tensor(0.)
    """
    student, teacher = taught(student, teacher)
    log_s, log_t = softened(student, temperature), softened(teacher, temperature)
    if divergence == "forward":
        rows = kl(log_t, log_s)
    elif divergence == "reverse":
        rows = kl(log_s, log_t)
    elif divergence == "js":
        rows = jensen_shannon(log_t, log_s, beta)
    else:
        raise UserError(f"`divergence` is forward, reverse or js, not {divergence!r}")
    return mean(temperature**2 * rows, target)


def soft_cross_entropy(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Cross-entropy to the teacher's softened probabilities.

    temperature^2 times the mean over rows of -sum_c p_t log p_s, where p is the softmax of the logits divided by the
    temperature. In nats. It has the gradient of `kd` and is larger by the teacher's entropy, so it never reaches 0.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

    Blind to: the label, and a shift of a row's logits on either side.

    Extra cost: none.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.
        temperature: above 0.

    Raises:
        UserError: no teacher, other classes than the student's, or a temperature that is not above 0.
    """
    student, teacher = taught(student, teacher)
    log_s, p_t = softened(student, temperature), softened(teacher, temperature).exp()
    return mean(-(temperature**2) * (p_t * log_s).sum(dim=-1), target)


def lskd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 2.0,
    wraps: str = "kd",
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Another loss on logits that are standardised row by row, so that only their relations matter, not their spread.

    `kd` or `dkd` of N(z) = (z - mean of z) / (standard deviation of z + 1e-7), over the classes of each row and with
    C - 1 in the variance. In nats.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithms 1 and 2.

    Blind to: a shift and a positive scale of a row's logits on either side, hence to how sure the teacher is.

    Extra cost: none.

    Nothing but a loss on labels sets how sure the student is: keep `hard` beside it. Where all logits of a row are
    equal, as those of a last layer that starts at 0, the gradient is up to 1e7 times that of `kd`.

    Args:
        student: logits [B, C], at least 3 classes.
        teacher: logits [B, C], finite.
        target: as that of the loss it wraps.
        temperature: above 0; standardised logits are small, so that 2 to 4 is already soft.
        wraps: "kd" or "dkd".
        alpha: of "dkd".
        beta: of "dkd".

    Raises:
        UserError: as the loss it wraps, or with fewer than 3 classes, whose standardised logits are always the same.
    """
    student, teacher = taught(student, teacher)
    if student.shape[-1] < 3:
        raise UserError(
            f"standardised logits of {student.shape[-1]} classes say no more than which is larger",
            hint="use `kd` with fewer than 3 classes",
        )
    student, teacher = _standardised(student), _standardised(teacher)
    if wraps == "kd":
        return kd(student, teacher, target, temperature=temperature)
    if wraps == "dkd":
        return dkd(student, teacher, target, temperature=temperature, alpha=alpha, beta=beta)
    raise UserError(f"`wraps` is kd or dkd, not {wraps!r}")


def _standardised(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=-1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(logits.shape[-1] - 1)
    standard: Tensor = centred / (deviation + 1e-7)
    return standard


def wsld(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Distillation that weighs a row less the better the student already knows its label, as seen by the teacher.

    temperature^2 times the mean over rows of w KL(p_t || p_s) with softened probabilities, where the weight
    w = 1 - exp(-h_s / h_t) comes from the cross-entropies h to the label of student and teacher, not softened. The
    weight is a constant for the gradient. In nats.

    Source: Zhou et al. 2021, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff
    Perspective", section 4 (weighted soft labels).

    Blind to: a shift of a row's logits on either side.

    Extra cost: none.

    The authors write the cross-entropy for the divergence: the same gradient, but here 0 means equal.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        target: labels int64 [B], of which -100 does not count; or shares of the classes [B, C], as mixup gives.
        temperature: above 0.

    Raises:
        UserError: no teacher, other classes than the student's, labels beyond them, or a temperature that is not
            above 0.
    """
    student, teacher = taught(student, teacher)
    q = class_shares(target, student)
    with torch.no_grad():
        h_s, h_t = (-(q * softened(logits, 1.0)).masked_fill(q == 0, 0).sum(dim=-1) for logits in (student, teacher))
        weight = -torch.expm1(-h_s / (h_t + 1e-7))
    rows = kl(softened(teacher, temperature), softened(student, temperature))
    return mean(temperature**2 * weight * rows, target)


def tf_kd(
    student: Tensor, _teacher: Tensor | None, target: Tensor, *, temperature: float = 20.0, probability: float = 0.99
) -> Tensor:
    """Distillation from a teacher that is made up: right on every row, and equally unsure of all other classes.

    temperature^2 times the mean over rows of KL(p_t || p_s), where p_t gives the label `probability` and the other
    classes the rest in equal parts; both are softened: raised to the power 1 / temperature and scaled to sum 1. At
    temperature 1 it is `hard` with a label smoothing of (1 - probability) C / (C - 1), less that target's entropy.

    Source: Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", section 4 (Tf-KD
    with a manually designed teacher).

    Blind to: the teacher, all likeness of classes, and a shift of a row's logits.

    Extra cost: none.

    The authors' code takes the softmax of the probabilities over the temperature, which makes every target nearly
    uniform, leaves the student as it is, and averages over classes as well; a multiplier makes up for that.

    Args:
        student: logits [B, C].
        target: labels int64 [B], of which -100 does not count; or shares of the classes [B, C]: a mixture of such
            teachers.
        temperature: above 0.
        probability: of the label, above 0 and below 1.

    Raises:
        UserError: labels beyond the classes, or an option out of its range.
    """
    if not 0 < probability < 1:
        raise UserError(f"`probability` is above 0 and below 1, not {probability}")
    student = exact(student)
    q = class_shares(target, student)
    others = (1 - probability) / max(student.shape[-1] - 1, 1)
    log_t = (others + (probability - others) * q).log()
    return mean(temperature**2 * kl(softened(log_t, temperature), softened(student, temperature)), target)


class CTKD(nn.Module):
    """Distillation at a temperature that is learned against the student, from easy to hard.

    `kd` at temperature start + (end - start) sigmoid(w), where the one weight w is moved up the loss while the student
    goes down: the temperature's gradient is reversed. Its strength grows along half a cosine from 0 to 1 over the first
    `epochs`. In nats.

    Source: Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", section 3 (global temperature).

    Blind to: the label, and a shift of a row's logits on either side.

    Extra cost: one number to train.

    The authors' `t_start` 1 and `t_end` 20 are start 1 and end 21 here: their range is as long as `t_end`. The paper's
    instance-wise temperature is not here.

    Args:
        start: the lowest temperature, above 0.
        end: the highest, above `start`.
        epochs: when the reversed gradient has its full strength; 0 is from the beginning.

    Raises:
        UserError: an option out of its range.
    """

    strength: Tensor

    def __init__(self, *, start: float = 1.0, end: float = 21.0, epochs: float = 10.0) -> None:
        super().__init__()
        if not 0 < start < end:
            raise UserError(f"`start` and `end` are temperatures, 0 < start < end, not {start} and {end}")
        if not epochs >= 0:
            raise UserError(f"`epochs` is 0 or more, not {epochs}")
        self.start, self.end, self.epochs = start, end, epochs
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("strength", torch.zeros(()))
        self.pace(0)

    @property
    def temperature(self) -> Tensor:
        """The learned temperature, a scalar."""
        return self.start + (self.end - self.start) * self.weight.sigmoid()

    def pace(self, epoch: float) -> None:
        """Tell the moment of the training, in epochs from its beginning: it sets the strength of the reversal."""
        passed = min(max(epoch / self.epochs, 0.0), 1.0) if self.epochs else 1.0
        self.strength.fill_((1 - math.cos(math.pi * passed)) / 2)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """`kd` at the learned temperature; see there for shapes and errors."""
        student, teacher = taught(student, teacher)
        learned = self.temperature
        # The value of the temperature itself, with the gradient turned round: what is added is 0.
        temperature = (learned.detach() + self.strength * (learned.detach() - learned)).to(student.dtype)
        rows = kl(softened(teacher, temperature), softened(student, temperature))
        return mean(temperature**2 * rows, target)


LOSSES: dict[str, LossRow] = {
    "hard": LossRow(hard, predicts=("classes",)),
    "kd": LossRow(kd, predicts=("classes",)),
    "soft_cross_entropy": LossRow(soft_cross_entropy, predicts=("classes",)),
    "lskd": LossRow(lskd, weight=9.0, predicts=("classes",)),
    "wsld": LossRow(wsld, weight=2.5, needs_labels=True, predicts=("classes",)),
    "tf_kd": LossRow(tf_kd, predicts=("classes",)),
    "ctkd": LossRow(CTKD, predicts=("classes",)),
}
