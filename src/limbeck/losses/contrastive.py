"""Losses that remember a vector for every row of the data set, by row number."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses.autocast import in_full_precision
from limbeck.losses.checks import counted, everywhere
from limbeck.losses.projection import Shape, entered
from limbeck.losses.relation import unit
from limbeck.losses.row import LossRow

UNSEEN = torch.iinfo(torch.int64).max  # as a row's class: sorts behind all others


class CRD(nn.Module):
    """Contrast: a row's two embeddings belong together, and apart from those of rows of other classes.

    Both features are embedded linearly and scaled to norm 1; what is remembered of each row is a moving average of its
    embeddings. With s(v, m) = exp(v m / temperature) / Z of an embedding and a remembered vector of the other network,
    and K negatives, the loss is the mean over rows of -log(s+ / (s+ + K)) - sum over negatives of log(K / (s- + K)),
    for the student against the remembered teacher and the teacher against the remembered student, added. In nats. Z is
    the mean of exp(v m / temperature) in the first batch, and stays.

    Source: Tian, Krishnan and Isola 2020, "Contrastive Representation Distillation", equation 18.

    Blind to: what the embeddings can undo, and how rows of one class are related.

    Extra cost: a linear layer for each feature, two banks of rows x width numbers, and the products of every embedding
    with all of a bank.

    Negatives are drawn with replacement, for each row anew, from the rows seen so far that are of another class; under
    labels that are shares, or measured values, from all other rows seen so far. As the authors' code in its mode
    "exact", but for this: theirs knows all labels beforehand, and in the first epoch draws rows not seen yet, whose
    vectors are random; theirs adds 10^-7 to the denominators, and counts the training set's rows in Z and K alike,
    where they cancel. A row without negatives has its positive part alone. With several processes each contrasts its
    own rows; the banks take those of all, and stay alike.

    Args:
        student: shape of one row of the student's feature, flattened.
        teacher: the same of the teacher's.
        rows: row numbers are below it.
        width: dimensions of the embeddings.
        negatives: how many are drawn for each row.
        temperature: above 0.
        momentum: what a remembered vector keeps of itself, from 0 to 1.

    Raises:
        UserError: an option out of its range, no teacher, other rows than the student's, features of other shapes than
            these, or row numbers that do not fit.
    """

    bank_student: Tensor
    bank_teacher: Tensor
    classes: Tensor
    log_z: Tensor

    def __init__(
        self,
        student: Shape,
        teacher: Shape,
        rows: int,
        *,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if width < 1 or negatives < 1:
            raise UserError(f"`width` and `negatives` are 1 or more, not {width} and {negatives}")
        if not temperature > 0:
            raise UserError(f"`temperature` is above 0, not {temperature}")
        if not 0 <= momentum < 1:
            raise UserError(f"`momentum` is from 0 to below 1, not {momentum}")
        self.made_for = (tuple(student), tuple(teacher))
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.student = nn.Linear(math.prod(student), width)
        self.teacher = nn.Linear(math.prod(teacher), width)
        reach = math.sqrt(3 / width)  # vectors of norm 1 on average
        self.register_buffer("bank_student", torch.empty(rows, width).uniform_(-reach, reach))
        self.register_buffer("bank_teacher", torch.empty(rows, width).uniform_(-reach, reach))
        self.register_buffer("classes", torch.full((rows,), UNSEEN))
        self.register_buffer("log_z", torch.full((2,), torch.nan))

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """Features [B, ...] of both, target and row numbers int64 [B] -> scalar; rows labelled -100 do not count."""
        student, teacher = entered(self, self.made_for, student, teacher)
        if index.shape != student.shape[:1]:
            raise UserError(f"the row numbers are {list(index.shape)}, and the features are of {len(student)} rows")
        # A row without one label, as under shares or a mask, is a class of its own, below all labels.
        kind = target.long() if target.ndim == 1 and not target.is_floating_point() else -1 - index
        student, teacher, index, kind = counted(target, student, teacher, index, kind)
        seen = everywhere(torch.stack([index, kind], dim=1))
        self._note(seen)
        drawn, possible = self._draw(kind)
        places = torch.cat([index[:, None], drawn], dim=1)
        v_s, v_t = unit(self.student(student.flatten(1))), unit(self.teacher(teacher.flatten(1)))
        # The banks change before the backward pass, which needs them as they are now.
        scores = [
            ((v @ bank.clone().T).gather(1, places) / self.temperature).masked_fill(~possible, -torch.inf)
            for v, bank in ((v_s, self.bank_teacher), (v_t, self.bank_student))
        ]
        sums = [each.logsumexp(dim=1) for each in (*scores, possible.to(v_s.dtype).log())]
        found = everywhere(torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach())
        self._normalise(found[:, -3:])
        self._remember(seen[:, 0], found[:, :-3])
        rows = self._contrast(scores[0], self.log_z[0]) + self._contrast(scores[1], self.log_z[1])
        return rows.sum() / max(len(rows), 1)

    def _note(self, seen: Tensor) -> None:
        """Keep of which class the rows are; `seen` is [rows, 2]: row numbers and classes."""
        try:
            self.classes[seen[:, 0]] = seen[:, 1]
        except IndexError as error:
            raise UserError(
                f"a row number does not fit a memory of {len(self.classes)} rows ({error})",
                hint="`rows` is the number of rows of the whole data set: the greatest row number, plus 1",
            ) from error

    def _draw(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers [B, negatives] of other classes than `kind` [B], and which of [B, 1 + negatives] there are."""
        # Sorted by class, the rows of one class are one stretch, which a draw from the others steps over.
        classes, order = self.classes.sort(stable=True)
        first, end = torch.searchsorted(classes, kind), torch.searchsorted(classes, kind, right=True)
        others = (classes != UNSEEN).sum() - (end - first)
        draw = torch.randint(2**62, (len(kind), self.negatives), device=kind.device) % others.clamp(min=1)[:, None]
        draw = torch.where(draw >= first[:, None], draw + (end - first)[:, None], draw)
        possible = (others > 0)[:, None].expand(-1, 1 + self.negatives).clone()
        possible[:, 0] = True
        return order[draw.clamp(max=len(order) - 1)], possible

    def _normalise(self, sums: Tensor) -> None:
        """Set both Z once, to the mean of the first scores: of [rows, 3] logarithms of sums, and of how many."""
        found = sums[:, :2].logsumexp(dim=0) - sums[:, 2].logsumexp(dim=0)
        self.log_z.copy_(torch.where(self.log_z.isnan(), found, self.log_z))

    def _remember(self, index: Tensor, vectors: Tensor) -> None:
        with torch.no_grad():
            for bank, new in zip((self.bank_student, self.bank_teacher), vectors.chunk(2, dim=1), strict=True):
                moved = self.momentum * bank[index] + (1 - self.momentum) * new
                bank.index_copy_(0, index, unit(moved).to(bank.dtype))

    def _contrast(self, scores: Tensor, log_z: Tensor) -> Tensor:
        """Of each row, from the logarithms [B, 1 + negatives] of scores, the positive first."""
        logits = scores - log_z - math.log(self.negatives)
        return -F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1:]).sum(dim=1)


LOSSES: dict[str, LossRow] = {
    "crd": LossRow(CRD, weight=0.8, taps="pooled", needs_labels=True),
}
