"""Losses on the ends of all stages at once: pair by pair, fused from the last to the first, or as flow between two.

Student and teacher are sequences of features, from the first stage to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, features, mean_of_samples
from limbeck.losses.projection import Shape, aligned, entered, normed, paired, projector, shapes, shrunk
from limbeck.losses.row import LossRow

Shapes = Sequence[Shape]


class Ofd(nn.Module):
    """Squared difference from the teacher's features before their ReLU, where it matters after it; for all stages.

    Mean over rows of the sum over channels and pixels of (c(s) - t')^2 wherever t' > 0 or c(s) > t', where t' = max(t,
    m) and c is a 1x1 convolution with batch norm: a value that the ReLU will take to 0 need only be low enough. The
    last stage counts whole, the one before it half, and so on. In the square of the teacher's unit.

    Source: Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", equations 2 to 5.

    Blind to: how negative the student is where the teacher is below the margin.

    Extra cost: a 1x1 convolution of every stage of the student.

    The margin m of a channel is the expectation of the teacher's negative values. The authors take it from the batch
    norm before the ReLU, supposing a normal distribution; a feature does not tell what made it, so here it is the mean
    of the negative values seen so far in training (which the paper names as the other way; in each process its own).
    Tap modules before a ReLU: a channel that is never negative has margin 0, and then the loss only asks for what the
    ReLU passes.

    Args:
        student: shapes of one row of each of the student's features, from the first stage to the last.
        teacher: the same of the teacher's, as many.

    Raises:
        UserError: other features than the teacher's, or shapes that cannot be compared.
    """

    def __init__(self, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.made_for = _pairs(student, teacher)
        widths = [(ours[0], theirs[0]) for ours, theirs in (shapes(*pair) for pair in self.made_for)]
        self.connectors = nn.ModuleList(normed(*pair) for pair in widths)
        self.margins = nn.ModuleList(Margin(theirs) for _, theirs in widths)

    @in_full_precision
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor) -> Tensor:
        """Features [B, ...] of all stages of both -> scalar; rows whose label is -100 do not count."""
        pairs, target = _entered(self, self.made_for, student, teacher, target)
        parts = []
        for connector, margin, pair in zip(self.connectors, self.margins, pairs, strict=True):
            ours, theirs = aligned(*pair)
            ours, theirs = connector(ours), torch.maximum(theirs, margin(theirs))
            # Times 0, not left out: a NaN on either side must be seen.
            partial = (ours - theirs).square() * ((ours > theirs) | (theirs > 0))
            parts.append(partial.flatten(1).sum(dim=1))
        rows = torch.stack([part / 2**earlier for earlier, part in enumerate(reversed(parts))])
        return mean_of_samples(rows.sum(dim=0), target)


class Margin(nn.Module):
    """The mean of a channel's negative values over all maps seen in training; 0 while there were none."""

    mean: Tensor
    seen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("seen", torch.zeros(channels, 1, 1))

    def forward(self, teacher: Tensor) -> Tensor:
        """Maps [B, channels, H, W] -> margins [channels, 1, 1], which in training count these maps."""
        if self.training:
            below = teacher.clamp(max=0).sum(dim=(0, 2, 3))[:, None, None]
            count = (teacher < 0).sum(dim=(0, 2, 3))[:, None, None]
            self.seen += count
            self.mean += (below - count * self.mean) / self.seen.clamp(min=1)
        return self.mean


class ReviewKD(nn.Module):
    """Every stage of the teacher from all of the student's stages at and above it, compared at several sizes.

    From the last stage to the first the student's features are fused: a 1x1 convolution to one width, then a learned
    share of it and of what the deeper stages gave, pixel by pixel; a 3x3 convolution takes the result to the teacher's
    channels. For each stage the mean squared difference at full size and averaged to 4x4, 2x2 and 1x1 pixels, weighted
    1, 1/2, 1/4 and 1/8 and divided by their sum. Mean over rows of the sum over stages, in the square of the teacher's
    unit.

    Source: Chen et al. 2021, "Distilling Knowledge via Knowledge Review", equations 6 and 7 and section 3.3.

    Blind to: what the fusion can make up for.

    Extra cost: a 1x1 and a 3x3 convolution a stage, up to `width` channels wide: often as much as a small student.

    As in the authors' code the mean of the last stage, the vector before the classifier, is a stage of its own. They
    give features of the teacher before its ReLU, and raise the weight from 0 over 20 epochs; weights of .6 to 8 by
    pair.

    Args:
        student: shapes of one row of each of the student's features, from the first stage to the last.
        teacher: the same of the teacher's, as many.
        width: the most channels of what is fused; the last stage's if these are fewer.

    Raises:
        UserError: other features than the teacher's, shapes that cannot be compared, or a `width` below 1.
    """

    def __init__(self, student: Shapes, teacher: Shapes, *, width: int = 512) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"`width` is 1 or more, not {width}")
        self.made_for = _pairs(student, teacher)
        widths = [(ours[0], theirs[0]) for ours, theirs in (shapes(*pair) for pair in self.made_for)]
        # The mean of the last stage is one more, unless that is a vector already.
        self.mean_too = any(prod(shapes(shape, shape)[0][1:]) > 1 for shape in self.made_for[-1])
        widths += widths[-1:] * self.mean_too
        middle = min(width, widths[-1][0])
        self.entries = nn.ModuleList(normed(ours, middle) for ours, _ in widths)
        self.exits = nn.ModuleList(normed(middle, theirs, 3) for _, theirs in widths)
        # How much of this stage and of the deeper ones; the deepest has none below it.
        self.shares = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in widths[:-1])

    @in_full_precision
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor) -> Tensor:
        """Features [B, ...] of all stages of both -> scalar; rows whose label is -100 do not count."""
        pairs, target = _entered(self, self.made_for, student, teacher, target)
        stages = [paired(*pair) for pair in pairs]
        if self.mean_too:
            stages.append((shrunk(stages[-1][0], (1, 1)), shrunk(stages[-1][1], (1, 1))))
        fused, rows = None, []
        for place in reversed(range(len(stages))):
            ours, theirs = stages[place]
            ours = self.entries[place](ours)
            if fused is not None:
                deeper = F.interpolate(fused, ours.shape[2:], mode="nearest")
                share = self.shares[place](torch.cat([ours, deeper], dim=1)).sigmoid()
                ours = ours * share[:, :1] + deeper * share[:, 1:]
            fused = F.interpolate(ours, theirs.shape[2:], mode="nearest")
            rows.append(_at_all_sizes(self.exits[place](fused), theirs))
        return mean_of_samples(torch.stack(rows).sum(dim=0), target)


def _at_all_sizes(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of maps of one shape, also of their averages over larger and larger pixels: [B]."""
    weight = weights = 1.0
    rows = (student - teacher).square().flatten(1).mean(dim=1)
    height, width = student.shape[2:]
    for size in (4, 2, 1):
        smaller = (min(size, height), min(size, width))
        if smaller != (height, width):
            weight /= 2
            weights += weight
            difference = shrunk(student, smaller) - shrunk(teacher, smaller)
            rows = rows + weight * difference.square().flatten(1).mean(dim=1)
    return rows / weights


class Fsp(nn.Module):
    """Squared difference of how features flow: products of the channels of one stage with those of the next.

    The sum over consecutive stages of the mean over rows and pairs of channels of (g_s - g_t)^2, where g is the mean
    over pixels of the product of a channel of one stage and a channel of the next. In the fourth power of the
    feature's unit.

    Source: Yim et al. 2017, "A Gift from Knowledge Distillation", equations 1 and 2.

    Blind to: where in the image the two channels are large together.

    Extra cost: for each two stages the products of all their channels; a 1x1 convolution where channels differ.

    The paper takes flow between the first and last layer within a stage, and networks of equal widths, and trains with
    this alone before the labels. Here, as in RepDistiller, it flows between the ends of stages, the larger averaged
    down (in the paper by maximum), and is a term beside others. Where the channels differ the student's are projected
    first.

    Args:
        student: shapes of one row of each of the student's features, from the first stage to the last; two or more.
        teacher: the same of the teacher's, as many.

    Raises:
        UserError: less than two features, others than the teacher's, or shapes that cannot be compared.
    """

    def __init__(self, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.made_for = _pairs(student, teacher)
        if len(self.made_for) < 2:
            raise UserError("features flow from one stage to the next, and there is one", hint="give two taps or more")
        self.projectors = nn.ModuleList(projector(*pair) for pair in self.made_for)

    @in_full_precision
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor) -> Tensor:
        """Features [B, ...] of all stages of both -> scalar; rows whose label is -100 do not count."""
        pairs, target = _entered(self, self.made_for, student, teacher, target)
        stages = [paired(*pair) for pair in pairs]
        ours = _flows([project(stage) for project, (stage, _) in zip(self.projectors, stages, strict=True)])
        theirs = _flows([stage for _, stage in stages])
        rows = [(s - t).square().flatten(1).mean(dim=1) for s, t in zip(ours, theirs, strict=True)]
        return mean_of_samples(torch.stack(rows).sum(dim=0), target)


def _flows(stages: list[Tensor]) -> list[Tensor]:
    """[B, channels of the next, channels of the one] for each two consecutive maps."""
    flows = []
    for pair in pairwise(stages):
        one, other = (stage.flatten(2) for stage in aligned(*pair))
        flows.append(other @ one.transpose(1, 2) / one.shape[2])
    return flows


# --- several features ----------------------------------------------------------------------------

Made = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def _pairs(student: Shapes, teacher: Shapes) -> Made:
    """Shapes of one row, student's beside teacher's, stage by stage."""
    if len(student) != len(teacher) or not student:
        raise UserError(f"the student has {len(student)} features here and the teacher {len(teacher)}, to be paired")
    return tuple((tuple(ours), tuple(theirs)) for ours, theirs in zip(student, teacher, strict=True))


def _entered(
    loss: nn.Module, made_for: Made, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The rows that count of all pairs of features, as `entered`, and the targets of these."""
    if teacher is None:
        features(student[0], None)
    if len(student) != len(made_for) or len(teacher) != len(made_for):
        raise UserError(
            f"the student gives {len(student)} features and the teacher {len(teacher)}, "
            f"and this loss was made for {len(made_for)}"
        )
    pairs = [
        entered(loss, shape, *pair) for shape, pair in zip(made_for, zip(student, teacher, strict=True), strict=True)
    ]
    *parts, target = counted(target, *(part for pair in pairs for part in pair), target)
    return list(zip(parts[::2], parts[1::2], strict=True)), target


LOSSES: dict[str, LossRow] = {
    "ofd": LossRow(Ofd, weight=0.001, taps="joint"),
    "reviewkd": LossRow(ReviewKD, taps="joint"),
    "fsp": LossRow(Fsp, weight=50.0, taps="joint"),
}
