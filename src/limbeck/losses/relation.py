"""Losses on how the rows of a batch, or the channels of a feature, relate to each other.

Those on rows need no feature of the same width as the teacher's. With several processes they compare the rows of all:
see `inputs.everywhere`. A batch of one row has no relations: they are 0 there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, everywhere, features, maps, mean_of_samples
from limbeck.losses.projection import Shape, entered, projector
from limbeck.losses.row import LossRow

AT_ONCE = 2**24  # numbers of one array that `rkd_angle` holds at a time: 64 MiB in float32


@in_full_precision
def sp(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Squared difference of the rows' similarities: which rows excite a network alike.

    Mean over pairs of rows of (G_s - G_t)^2, where G holds the inner products of the rows' features, each row of G
    scaled to norm 1. Without a unit; it halves when every row is given twice, so that it fits one size of batch.

    Source: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", section 3.

    Blind to: rotations and scale of the features, and with maps to where in the image anything is.

    Extra cost: products of all pairs of rows.

    The value is that of RepDistiller's code (verified by the author), except for a row whose feature is all zeros:
    here it gives no gradient, there one of up to 10^12.

    Args:
        student: feature [B, ...], flattened.
        teacher: the same; its width may be another.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, or other rows than the student's.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> sp(feature, feature.flip(1) * 4, torch.tensor([0, 1]))
        tensor(0.)
    """
    student, teacher = _related(student, teacher, target)
    return _mean((unit(student @ student.T) - unit(teacher @ teacher.T)).square())


@in_full_precision
def pkt(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Divergence between the probabilities that two rows are neighbours.

    Mean over pairs (i, j) of rows of p_t log(p_t / p_s), where p(j | i) is (1 + cosine of the features of i and j) / 2,
    scaled to sum 1 over j. In nats; it halves when every row is given twice, so that it fits one size of batch.

    Source: Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", section 3.

    Blind to: rotations of all features, and the scale of each row's.

    Extra cost: products of all pairs of rows.

    The probabilities are 10^-7 above their value in the logarithm, as in the authors' code and RepDistiller: that of
    opposite rows is 0. Theirs adds as much to the norms, which scales the cosines by a hair. A row whose feature is all
    zeros has the cosine 0 with every other, and gives no gradient.

    Args:
        student: feature [B, ...], flattened.
        teacher: the same; its width may be another.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, or other rows than the student's.
    """
    student, teacher = _related(student, teacher, target)
    p_s, p_t = _neighbours(student), _neighbours(teacher)
    return _mean(p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log())


def _neighbours(x: Tensor) -> Tensor:
    x = unit(x)
    # Rounding can put a cosine below -1, and no probability is negative.
    likely = ((x @ x.T + 1) / 2).clamp(min=0)
    return likely / likely.sum(dim=1, keepdim=True)


class CC(nn.Module):
    """How far two rows are from the teacher in the same dimensions, in a learned common space.

    Mean over pairs of different rows i, j of sum_d |e_i,d| |e_j,d|, where e_i is the difference of a row's two features
    after a linear embedding of each. In the square of the embedding's unit. Both embeddings are trained.

    Source: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", in the form of the authors' code that
    RepDistiller publishes.

    Blind to: all that the embeddings can undo; both together can make it 0 without the student's help.

    Extra cost: a linear layer for each of the two features.

    The paper itself writes the squared difference of two kernel matrices (its equation 5), which is close to `sp`. The
    code, whose results and whose weight of 0.02 the field quotes, multiplies the differences of rows that are
    neighbours in the batch: a value that hangs on the order of the rows. This is its mean over all orders.

    Args:
        student: shape of one row of the student's feature, flattened.
        teacher: the same of the teacher's.
        width: dimensions of the common space.

    Raises:
        UserError: no teacher, other rows than the student's, or features of other shapes than these.
    """

    def __init__(self, student: Shape, teacher: Shape, *, width: int = 128) -> None:
        super().__init__()
        self.made_for = (tuple(student), tuple(teacher))
        self.student = nn.Linear(math.prod(student), width)
        self.teacher = nn.Linear(math.prod(teacher), width)

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = counted(target, *entered(self, self.made_for, student, teacher))
        apart = everywhere((self.student(student.flatten(1)) - self.teacher(teacher.flatten(1))).abs())
        # All pairs, less those of a row with itself.
        products = apart.sum(dim=0).square().sum() - apart.square().sum()
        return products / max(len(apart) * (len(apart) - 1), 1)


@in_full_precision
def rkd_distance(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Difference of the distances between rows, each network's in units of their mean.

    Mean over pairs of rows of h(d_s - d_t), where d is the Euclidean distance divided by the mean of all that are not 0
    and h the smooth L1 with its corner at 1. Without a unit.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2.1.

    Blind to: rotation, shift and scale of either network's features.

    Extra cost: distances of all pairs of rows.

    As in the authors' code and RepDistiller the mean is over all pairs, those of a row with itself among them. Theirs
    takes equal rows to be 10^-6 apart; here they are not apart, and give no gradient.

    Args:
        student: feature [B, ...], flattened.
        teacher: the same; its width may be another.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, or other rows than the student's.

    Example:
        >>> feature = torch.tensor([[1.0, 0.0], [1.0, 1.0], [3.0, 2.0]])
        >>> rkd_distance(feature, 5 - 2 * feature, torch.tensor([0, 1, 1]))
        tensor(0.)
    """
    student, teacher = _related(student, teacher, target)
    return _mean(F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="none"))


def _distances(x: Tensor) -> Tensor:
    # From differences: from products, rows that are equal would come out some rounding apart.
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    average = apart.sum() / (apart > 0).sum().clamp(min=1)
    return apart / torch.where(average > 0, average, 1)


@in_full_precision
def rkd_angle(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Difference of the angles that rows make with each other.

    Mean over triples (i, j, k) of rows of h(a_s - a_t), where a is the cosine of the angle at i between the directions
    to j and to k, and h the smooth L1 with its corner at 1. Without a unit.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2.2.

    Blind to: rotation, shift and scale of either network's features.

    Extra cost: angles of all triples of rows: 256 rows take 64 MiB for each array of them. Larger batches go in parts,
    which are computed twice.

    As in the authors' code and RepDistiller the mean is over all triples. A row has no direction to itself or to an
    equal row, and the cosine is 0; such rows give no gradient, in theirs one of up to 10^12.

    Args:
        student: feature [B, ...], flattened.
        teacher: the same; its width may be another.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, or other rows than the student's.
    """
    student, teacher = _related(student, teacher, target)
    rows = len(student)
    size = max(1, AT_ONCE // max(1, rows * max(rows, student.shape[1], teacher.shape[1])))
    if size >= rows:
        total = _angles_apart(student, student, teacher, teacher)
    else:
        parts = zip(torch.split(student, size), torch.split(teacher, size), strict=True)
        found = [
            torch.utils.checkpoint.checkpoint(_angles_apart, s, student, t, teacher, use_reentrant=False)
            for s, t in parts
        ]
        total = torch.stack(found).sum()
    return total / max(rows**3, 1)


def _angles_apart(at_s: Tensor, student: Tensor, at_t: Tensor, teacher: Tensor) -> Tensor:
    """Sum over the triples whose vertex is one of [n, width]."""
    return F.smooth_l1_loss(_angles(at_s, student), _angles(at_t, teacher), reduction="sum")


def _angles(vertices: Tensor, x: Tensor) -> Tensor:
    directions = unit(x[None] - vertices[:, None])
    return directions @ directions.transpose(1, 2)


class ICKD(nn.Module):
    """Squared difference of the channels' correlations: which channels fire in the same places.

    Mean over rows of 1 / C times the sum over pairs of channels of (G_s - G_t)^2, where G [C, C] holds the inner
    products of a row's channels over space, each row of G scaled to norm 1. Without a unit. Where the student has
    another number of channels, a 1x1 convolution with batch norm comes first.

    Source: Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation",
    section 3 (ICKD-C).

    Blind to: the scale of either feature, and where in the image anything is; the two sizes may differ.

    Extra cost: products of all pairs of channels in each row, and a 1x1 convolution where the channels differ.

    The authors' code has the convolution always, and divides by C; the paper by C^2. The weight of 2.5 goes with the
    code. On vectors a channel is one number, and what is left of the correlations is their signs and sizes.

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's.

    Raises:
        UserError: no teacher, other rows than the student's, or a feature of other channels than these.
    """

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.made_for = (tuple(student), tuple(teacher))
        self.projector = projector(student, teacher)

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = entered(self, self.made_for, student, teacher)
        student, teacher, target = counted(target, maps(student), maps(teacher), target)
        apart = _correlations(self.projector(student)) - _correlations(teacher)
        return mean_of_samples(apart.square().sum(dim=2).mean(dim=1), target)


def _correlations(feature: Tensor) -> Tensor:
    """Maps [B, channels, H, W] -> [B, channels, channels]."""
    channels = feature.flatten(2)
    return unit(channels @ channels.transpose(1, 2))


def unit(x: Tensor) -> Tensor:
    """Vectors [..., width] scaled to norm 1. One that is all zeros stays so, and gets no gradient."""
    square = x.square().sum(dim=-1, keepdim=True)
    zero = square == 0
    return (x / torch.where(zero, 1, square).sqrt()).masked_fill(zero, 0)


def _related(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all processes that count, as vectors."""
    student, teacher = counted(target, *features(student, teacher))
    return everywhere(student.flatten(1)), everywhere(teacher.flatten(1))


def _mean(x: Tensor) -> Tensor:
    return x.sum() / max(x.numel(), 1)


LOSSES: dict[str, LossRow] = {
    "sp": LossRow(sp, weight=3000.0, taps="last"),
    "pkt": LossRow(pkt, weight=30000.0, taps="pooled"),
    "cc": LossRow(CC, weight=0.02, taps="pooled"),
    "rkd_distance": LossRow(rkd_distance, weight=25.0, taps="pooled"),
    "rkd_angle": LossRow(rkd_angle, weight=50.0, taps="pooled"),
    "ickd": LossRow(ICKD, weight=2.5, taps="last"),
}
