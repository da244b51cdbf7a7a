"""Losses on one pair of features: maps [B, channels, H, W], tokens [B, tokens, width] or vectors [B, width].

Where the sizes or kinds of the two differ, `projectors` says how they are brought together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, features, mean_of_samples
from limbeck.losses.projection import Shape, aligned, entered, projector, shapes, with_space
from limbeck.losses.row import LossRow


class FitNet(nn.Module):
    """Mean squared difference from the teacher's feature, through a regressor from the student's channels to its own.

    Mean over rows, channels and pixels of (r(s) - t)^2, in the square of the teacher's unit; r is a 1x1 convolution
    with batch norm (for tokens and vectors a linear layer), and nothing where the channels are equal already.

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3.

    Blind to: what the regressor can undo: any invertible linear map of the student's channels.

    Extra cost: a 1x1 convolution of the student's map.

    The paper trains with this alone before it distils; here it is a term beside the others, as in RepDistiller and
    mdistiller. Theirs has a ReLU after the regressor, which rules out negative features, and strided or transposed
    convolutions where the sizes differ; here the larger map is averaged down. The batch norm takes the statistics of
    the batch (in evaluation mode, and for a single value a channel, its running averages).

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's.

    Raises:
        UserError: shapes that cannot be compared, or a feature of other channels than these.
    """

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.made_for = (tuple(student), tuple(teacher))
        self.projector = projector(student, teacher)

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = aligned(*entered(self, self.made_for, student, teacher))
        student, teacher, target = counted(target, student, teacher, target)
        return mean_of_samples((self.projector(student) - teacher).square().flatten(1).mean(dim=1), target)


def at(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Squared difference of the attention maps: where in the image the channels are large.

    Mean over rows and pixels of (a_s - a_t)^2, where a is the mean over channels of the squared feature, scaled to
    norm 1 over the pixels. Without a unit, between 0 and 2 / pixels.

    Source: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", equation 2.

    Blind to: which channel is large, signs, and the scale of either feature.

    Extra cost: none to speak of.

    The paper has the norm of the difference; the authors' code, RepDistiller and mdistiller its mean square, as here,
    with a weight of 1000. Features are averaged to the smaller size before they are squared, as in RepDistiller.

    Args:
        student: maps [B, channels, H, W] or tokens [B, tokens, width].
        teacher: the same; its channels may be others.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, other rows, or features without space.

    Example:
        >>> maps = torch.tensor([[[[3.0, 2.0], [0.0, -1.0]]]])
        >>> at(maps, -2 * maps.expand(1, 4, 2, 2), torch.tensor([0]))  # other channels in the same places
        tensor(0.)
    """
    student, teacher = _spatial(student, teacher, "attention is spread over space")
    difference = _attention(student) - _attention(teacher)
    return mean_of_samples(difference.square().mean(dim=1), target)


def _attention(feature: Tensor) -> Tensor:
    """[B, pixels] of norm 1."""
    return F.normalize(feature.square().mean(dim=1).flatten(1), dim=1)


@in_full_precision
def nst(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Distance between the distributions of the channels' patterns over the image: maximum mean discrepancy, squared.

    Mean over rows of k(t, t) + k(s, s) - 2 k(s, t), where k(a, b) is the mean over pairs of channels of the squared
    inner product of the two patterns, each scaled to norm 1 over the pixels. Without a unit, between 0 and 2.

    Source: Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", equation 6,
    with the polynomial kernel of degree 2 and constant 0.

    Blind to: the order, number, signs and scale of the channels.

    Extra cost: products of all pairs of channels, or of all pairs of pixels where these are fewer.

    Args:
        student: maps [B, channels, H, W] or tokens [B, tokens, width].
        teacher: the same; its channels may be others.
        target: labels int64 [B], of which only the -100 matter: such rows do not count. Shares [B, C] count all rows.

    Raises:
        UserError: no teacher, other rows, or features without space.
    """
    student, teacher = _spatial(student, teacher, "patterns are spread over space")
    ours, theirs = (F.normalize(feature.flatten(2), dim=2) for feature in (student, teacher))
    rows = _alike(theirs, theirs) + _alike(ours, ours) - 2 * _alike(ours, theirs)
    return mean_of_samples(rows, target)


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pairs of channels of the squared inner product: [B, channels, pixels] twice -> [B]."""
    if a.shape[2] < min(a.shape[1], b.shape[1]):  # the same number from fewer products
        pixels = (a.transpose(1, 2) @ a) * (b.transpose(1, 2) @ b)
        return pixels.sum(dim=(1, 2)) / (a.shape[1] * b.shape[1])
    return (a @ b.transpose(1, 2)).square().mean(dim=(1, 2))


def _spatial(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """The two as maps of one size, of more than one pixel."""
    student, teacher = features(student, teacher)
    ours, theirs = aligned(student, teacher)
    if ours.shape[2] * ours.shape[3] < 2:
        with_space(student.shape[1:], teacher.shape[1:], what)  # says so
    return ours, theirs


class Cwd(nn.Module):
    """Divergence of where in the image each channel is active: per channel a distribution over the pixels.

    temperature^2 times the mean over rows and channels of KL(p_t || p_s) = sum over pixels of p_t log(p_t / p_s),
    where p is the softmax over the pixels of a channel divided by the temperature. In nats.

    Source: Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", equation 4.

    Blind to: what is added to a channel as a whole, so also to how strong the channel is overall.

    Extra cost: a 1x1 convolution of the student's map where its channels are others than the teacher's, else none.

    The weight of 5 at temperature 1 is mmrazor's for segmentation (10 for detection); the authors' code has 3 at
    temperature 4 for the map of logits.

    Args:
        student: shape of one row of the student's feature: [channels, H, W] or [tokens, width].
        teacher: the same of the teacher's.
        temperature: above 0.

    Raises:
        UserError: features without space, or a temperature that is not above 0.
    """

    def __init__(self, student: Shape, teacher: Shape, *, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"`temperature` is above 0, not {temperature}")
        with_space(student, teacher, "this loss compares channels over space")
        self.made_for = (tuple(student), tuple(teacher))
        self.temperature = temperature
        self.projector = projector(student, teacher, norm=False)

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = aligned(*entered(self, self.made_for, student, teacher))
        log_s = torch.log_softmax(self.projector(student).flatten(2) / self.temperature, dim=2)
        log_t = torch.log_softmax(teacher.flatten(2) / self.temperature, dim=2)
        divergence = (log_t.exp() * (log_t - log_s)).sum(dim=2).mean(dim=1)
        return mean_of_samples(self.temperature**2 * divergence, target)


class Mgd(nn.Module):
    """Squared difference from the teacher's feature of what a small network makes of the student's, part of it masked.

    Mean over rows of the sum over channels and pixels of (g(m * r(s)) - t)^2, in the square of the teacher's unit. m
    is 0 for a share `masked` of the channels (or pixels) of each row, drawn anew in every step, and 1 elsewhere; g is
    a 3x3 convolution, ReLU and another; r is a 1x1 convolution where the channels are others than the teacher's.

    Source: Yang et al. 2022, "Masked Generative Distillation", equations 3 to 5.

    Blind to: what the generating network makes up for.

    Extra cost: two 3x3 convolutions of the teacher's width on the map, with their weights: 18 times its width squared.

    As in the authors' code for classification the mask is of channels, and the weight is 7e-5 (the sum is large: if you
    tap an earlier stage, weigh it less). For detection they mask pixels: `over="pixels"`, `masked=0.65`, weight 2e-5.
    The masks come from torch's own generator, so a seeded run repeats. In evaluation mode nothing is masked.

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's.
        masked: the share that is masked, from 0 to below 1.
        over: "channels" or "pixels".

    Raises:
        UserError: an option out of its range, or pixels are to be masked and there is but one.
    """

    def __init__(self, student: Shape, teacher: Shape, *, masked: float = 0.15, over: str = "channels") -> None:
        super().__init__()
        if not 0 <= masked < 1:
            raise UserError(f"`masked` is from 0 to below 1, not {masked}")
        if over not in ("channels", "pixels"):
            raise UserError(f'`over` is "channels" or "pixels", not {over!r}')
        if over == "pixels":
            with_space(student, teacher, "pixels are to be masked")
        self.made_for = (tuple(student), tuple(teacher))
        self.masked, self.over = masked, over
        width = shapes(student, teacher)[1][0]
        self.projector = projector(student, teacher, norm=False)
        self.generator = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = aligned(*entered(self, self.made_for, student, teacher))
        student, teacher, target = counted(target, student, teacher, target)
        kept = self.projector(student)
        if self.training:
            rows, channels, height, width = kept.shape
            cells = (rows, channels, 1, 1) if self.over == "channels" else (rows, 1, height, width)
            kept = kept * (torch.rand(cells, device=kept.device) >= self.masked)
        return mean_of_samples((self.generator(kept) - teacher).square().flatten(1).sum(dim=1), target)


class Vid(nn.Module):
    """Surprise at the teacher's feature, seen from the student's: a lower bound of their mutual information, negated.

    Mean over rows, channels and pixels of ((m(s) - t)^2 / v + log v) / 2, where m is three 1x1 convolutions with ReLU
    between them and v = softplus(log_scale) + 1e-5 a variance for each of the teacher's channels, both learned. In
    nats, less a constant; it may be negative.

    Source: Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", equation 5.

    Blind to: what the student's map cannot say of a channel: its variance grows instead.

    Extra cost: three 1x1 convolutions on the map, and a variance a channel.

    As in RepDistiller, whose optimiser does not train `log_scale`; here it is trained, as the paper says. There is one
    variance a channel for vectors as well.

    Args:
        student: shape of one row of the student's feature.
        teacher: the same of the teacher's.
        variance: that of every channel before training, above 1e-5.

    Raises:
        UserError: shapes that cannot be compared, or `variance` is out of its range.
    """

    LEAST = 1e-5  # variance

    def __init__(self, student: Shape, teacher: Shape, *, variance: float = 5.0) -> None:
        super().__init__()
        if not variance > self.LEAST:
            raise UserError(f"`variance` is above {self.LEAST}, not {variance}")
        self.made_for = (tuple(student), tuple(teacher))
        (width, *_), (wanted, *_) = shapes(student, teacher)
        self.regressor = nn.Sequential(
            nn.Conv2d(width, wanted, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(wanted, wanted, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(wanted, wanted, 1, bias=False),
        )
        inverse = variance - self.LEAST  # of softplus, in the form that does not overflow
        self.log_scale = nn.Parameter(torch.full((wanted,), inverse + math.log(-math.expm1(-inverse))))

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features [B, ...] of both -> scalar; rows whose label is -100 do not count."""
        student, teacher = aligned(*entered(self, self.made_for, student, teacher))
        variance = (F.softplus(self.log_scale) + self.LEAST)[:, None, None]
        surprise = (self.regressor(student) - teacher).square() / variance + variance.log()
        return mean_of_samples(surprise.flatten(1).mean(dim=1) / 2, target)


LOSSES: dict[str, LossRow] = {
    "fitnet": LossRow(FitNet, weight=100.0, taps="middle"),
    "at": LossRow(at, weight=1000.0, taps="stages"),
    "nst": LossRow(nst, weight=50.0, taps="stages"),
    "cwd": LossRow(Cwd, weight=5.0, taps="last"),
    "mgd": LossRow(Mgd, weight=0.00007, taps="last"),
    "vid": LossRow(Vid, taps="stages"),
}
