"""Losses that bring the student's last feature to where the teacher's classifier could take it over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, maps, mean_of_samples, pooled
from limbeck.losses.projection import Shape, aligned, entered, normed, shapes
from limbeck.losses.row import LossRow


class SimKD(nn.Module):
    """Mean squared difference from the teacher's last feature, through a projector of three convolutions.

    Mean over rows, channels and pixels of (r(s) - t)^2, in the square of the teacher's unit; r is a 1x1, a 3x3 and a
    1x1 convolution, each with batch norm and ReLU, between them `factor` times narrower than the teacher.

    Source: Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", equation 2.

    Blind to: the labels, the teacher's classifier, and what the projector can make up for.

    Extra cost: three convolutions on the last map, of about 9 / factor^2 + 2 / factor times the teacher's width
    squared.

    The authors train with this alone and ship the projector and the teacher's classifier with the student. What is
    exported here is the plain student, so its own classifier learns from the other terms: keep one on its prediction.
    The ReLU at the end suits a teacher's feature after its own ReLU, and cannot reach negative values.

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's.
        factor: 1 or more, at most the teacher's channels.

    Raises:
        UserError: shapes that cannot be compared, or `factor` is out of its range.
    """

    def __init__(self, student: Shape, teacher: Shape, *, factor: int = 2) -> None:
        super().__init__()
        self.made_for = (tuple(student), tuple(teacher))
        (width, *_), (wanted, *_) = shapes(student, teacher)
        if not 1 <= factor <= wanted:
            raise UserError(f"`factor` is from 1 to the teacher's {wanted} channels, not {factor}")
        narrow = wanted // factor
        self.projector = nn.Sequential(
            normed(width, narrow), nn.ReLU(), normed(narrow, narrow, 3), nn.ReLU(), normed(narrow, wanted), nn.ReLU()
        )

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = aligned(*entered(self, self.made_for, student, teacher))
        student, teacher, target = counted(target, student, teacher, target)
        return mean_of_samples((self.projector(student) - teacher).square().flatten(1).mean(dim=1), target)


class Srrl(nn.Module):
    """Squared difference from the teacher's pooled feature, and between what its classifier says of the two.

    Mean over rows of the mean over channels of (p(s) - p(t))^2 plus `beta` times the mean over classes of (h(p(s)) -
    h(p(t)))^2, where p(t) is the teacher's feature averaged over space, p(s) the same of the student's after a 1x1
    convolution, batch norm and ReLU, and h the teacher's classifier, frozen. In the squares of the feature's unit and
    of the logits' (nats).

    Source: Yang et al. 2021, "Knowledge Distillation via Softmax Regression Representation Learning", section 3, with
    the L2 loss between logits.

    Blind to: where in the image a feature is, and the labels.

    Extra cost: a 1x1 convolution of the student's last map, and the teacher's classifier on it.

    As in the authors' code, means stand for the paper's squared norms and both parts have the weight 1. Tokens are
    averaged, whereas many transformers classify by the class token: tap the vector before their classifier instead.

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's; its channels are those the classifier takes.
        head: the teacher's classifier; it is copied.
        beta: 0 or more: the weight of the classifier's part.

    Raises:
        UserError: the classifier is no linear layer or takes another feature, or `beta` is negative.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, student: Shape, teacher: Shape, head: nn.Linear, *, beta: float = 1.0) -> None:
        super().__init__()
        if not beta >= 0:
            raise UserError(f"`beta` is 0 or more, not {beta}")
        if not isinstance(head, nn.Linear):
            raise UserError(f"this loss needs a teacher whose classifier is a linear layer, not {type(head).__name__}")
        width, wanted = (shapes(shape, shape)[0][0] for shape in (student, teacher))
        if head.in_features != wanted:
            raise UserError(
                f"the teacher's classifier takes {head.in_features} values, and this feature has {wanted} channels",
                hint="tap what goes into the teacher's classifier",
            )
        self.made_for = (tuple(student), tuple(teacher))
        self.beta = beta
        self.connector = nn.Sequential(*normed(width, wanted), nn.ReLU())
        self.register_buffer("weight", head.weight.detach().clone().float())
        bias = torch.zeros(head.out_features) if head.bias is None else head.bias
        self.register_buffer("bias", bias.detach().clone().float())

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = entered(self, self.made_for, student, teacher)
        student, teacher, target = counted(target, student, teacher, target)
        difference = pooled(self.connector(maps(student))) - pooled(teacher)
        # The classifier is linear, so its bias, the same on both sides, falls out of the difference.
        rows = difference.square().mean(dim=1) + self.beta * F.linear(difference, self.weight).square().mean(dim=1)
        return mean_of_samples(rows, target)


LOSSES: dict[str, LossRow] = {
    "simkd": LossRow(SimKD, taps="last"),
    "srrl": LossRow(Srrl, taps="pooled"),
}
