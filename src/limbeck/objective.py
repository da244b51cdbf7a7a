"""What a student is trained for: a weighted sum of losses on predictions and taps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from limbeck.errors import UserError, did_you_mean
from limbeck.losses import needs_teacher
from limbeck.types import Batch, Loss, Output

PREDICTION = "prediction"


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective. Weights stand here, never inside a loss.

    Attributes:
        name: what its value is called in logs and results.
        loss: (student, teacher, target) -> scalar, as `losses.bind` gives, or one of your own.
        weight: 0 or more. A term of weight 0 is only watched: measured, without a gradient.
        student: what the loss gets from the student: "prediction" or the name of a tap.
        teacher: the same for the teacher.
    """

    name: str
    loss: Loss
    weight: float
    student: str = PREDICTION
    teacher: str = PREDICTION

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss learns from a teacher."""
        return needs_teacher(self.loss)


class Objective(nn.Module):
    """A weighted sum of losses. Those with weights of their own are trained, moved and checkpointed with it.

    Args:
        terms: at least one with a weight above 0.

    Raises:
        UserError: no such term, a weight that is negative or not finite, or a name that is taken.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        for term in terms:
            if not (math.isfinite(term.weight) and term.weight >= 0):
                raise UserError(f"the weight is 0 or more, not {term.weight}", where=f"loss '{term.name}'")
            # Names become keys of a ModuleDict, whose own attributes and the dot are not for use.
            if term.name in ("", "total") or "." in term.name or hasattr(nn.ModuleDict, term.name):
                raise UserError("a term cannot be called that", where=f"loss '{term.name}'", hint="choose another name")
        if len({term.name for term in terms}) < len(terms):
            raise UserError(f"terms need different names, not {[term.name for term in terms]}")
        if not any(term.weight > 0 for term in terms):
            raise UserError("no loss has a weight above 0, so there is nothing to learn")
        self.terms = tuple(terms)
        # Found out once: reading a loss's signature takes longer than computing the loss.
        self._taught = tuple(term.needs_teacher for term in terms)
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms if isinstance(term.loss, nn.Module)})

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss with a weight above 0 learns from a teacher."""
        return any(term.weight > 0 and taught for term, taught in zip(self.terms, self._taught, strict=True))

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Names of the student's features that the losses ask for."""
        return _taps(term.student for term in self.terms)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Names of the teacher's features that the losses ask for."""
        return _taps(term.teacher for term, taught in zip(self.terms, self._taught, strict=True) if taught)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        """Every term's unweighted value by name, and their weighted sum as "total".

        Computed in float32 under any autocast. What is not finite stays so: whoever trains must see it. Terms of
        weight 0 that would need an absent teacher are left out.

        Args:
            student: with the features named in `student_taps`.
            teacher: with those of `teacher_taps`; None where no loss needs it.
            batch: gives the target.

        Raises:
            UserError: a teacher or a tap is missing, or a loss refuses its inputs.
        """
        kind = student.prediction.device.type
        if not torch.is_autocast_enabled(kind):
            return self._values(student, teacher, batch.y)
        with torch.autocast(kind, enabled=False):
            return self._values(student, teacher, batch.y)

    def _values(self, student: Output, teacher: Output | None, target: Tensor) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        total: Tensor | None = None
        for term, taught in zip(self.terms, self._taught, strict=True):
            if term.weight > 0:
                values[term.name] = value = _value(term, taught, student, teacher, target)
                total = value * term.weight if total is None else torch.add(total, value, alpha=term.weight)
            elif teacher is not None or not taught:
                with torch.no_grad():
                    values[term.name] = _value(term, taught, student, teacher, target)
        assert total is not None  # some weight is above 0
        values["total"] = total
        return values


def _taps(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name != PREDICTION))


def _value(term: Term, taught: bool, student: Output, teacher: Output | None, target: Tensor) -> Tensor:
    try:
        of_student = _select(student, term.student, "student")
        of_teacher = None
        if taught:
            if teacher is None:
                raise UserError("it learns from a teacher, and there is none", hint="give the teacher's output")
            of_teacher = _select(teacher, term.teacher, "teacher")
        # A loss that does not learn from the teacher takes None for it; the type of the others stays simple.
        return term.loss(of_student, cast(Tensor, of_teacher), target)
    except UserError as error:
        where = f"loss '{term.name}'" + (f", {error.where}" if error.where else "")
        raise UserError(error.what, where=where, hint=error.hint) from error


def _select(output: Output, name: str, whose: str) -> Tensor:
    if name == PREDICTION:
        return output.prediction
    if name not in output.features:
        raise UserError(
            f"the {whose} gives no feature '{name}'", hint=did_you_mean(name, [PREDICTION, *output.features])
        )
    return output.features[name]
