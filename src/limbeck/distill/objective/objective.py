"""What a student is trained for: a weighted sum of losses on predictions and taps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.types import Batch, Loss, Output
from limbeck.distill.objective.balance import Balancer
from limbeck.losses import adjust, needs_index, needs_teacher
from limbeck.losses.checks import labelled
from limbeck.recipe import Ramp
from limbeck.tasks.normal_form import classes_first

PREDICTION = "prediction"
BALANCE_STEPS = 50


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective. Weights stand here, never inside a loss.

    Attributes:
        name: what its value is called in logs and results.
        loss: (student, teacher, target) -> scalar, as `losses.bind` gives, or one of your own; with a fourth argument
            `index` it is told the rows' numbers.
        weight: 0 or more. A term of weight 0 is only watched: measured, without a gradient. A `Ramp` moves with the
            epochs. "auto" is found over the first steps, so that the term's gradient at the student's last shared layer
            becomes as large as that of all terms with numbers together, and stays from then on.
        student: what the loss gets from the student: "prediction", the name of a tap, or several names, for a list.
        teacher: the same for the teacher.
        ramps: options of the loss that move with the epochs.
        maps: whether the loss compares features, and takes the logits of pixels as the maps [B, C, H, W] that they are.
    """

    name: str
    loss: Loss
    weight: float | Ramp | Literal["auto"]
    student: str | tuple[str, ...] = PREDICTION
    teacher: str | tuple[str, ...] = PREDICTION
    ramps: Mapping[str, Ramp] = field(default_factory=dict)
    maps: bool = False

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss learns from a teacher."""
        return needs_teacher(self.loss)


class Objective(nn.Module):
    """A weighted sum of losses. Those with weights of their own are trained, moved and checkpointed with it.

    Attributes:
        terms: the losses with their weights.
        balanced: the weights found so far of terms whose weight is "auto", by name.

    Args:
        terms: at least one with a weight above 0.
        epochs: how long the training takes; a `Ramp` without `epochs` of its own needs it.

    Raises:
        UserError: no such term, a weight that is negative or not finite, a name that is taken, or weights that are all
            to be found, so that there is nothing to balance against.
    """

    balance: Tensor
    balanced: dict[str, float]

    def __init__(self, terms: Sequence[Term], *, epochs: float | None = None) -> None:
        super().__init__()
        for term in terms:
            _refuse_misfit(term, epochs)
        if len({term.name for term in terms}) < len(terms):
            raise UserError(f"terms need different names, not {[term.name for term in terms]}")
        live = [term for term in terms if term.weight != 0]
        if not live:
            raise UserError("no loss has a weight above 0, so there is nothing to learn")
        if all(term.weight == "auto" for term in live):
            raise UserError("every weight is `auto`, so there is nothing to balance them against")
        self.terms = tuple(terms)
        self.epochs = epochs or 1.0
        # Found out once: reading a loss's signature takes longer than computing the loss.
        self._taught = tuple(term.needs_teacher for term in terms)
        self._indexed = tuple(needs_index(term.loss) for term in terms)
        self.losses = nn.ModuleDict({term.name: term.loss for term in terms if isinstance(term.loss, nn.Module)})
        self._moving = any(isinstance(term.weight, Ramp) or term.ramps for term in terms)
        self._paced = [term.loss for term in terms if callable(getattr(term.loss, "pace", None))]
        found = sum(t.weight == "auto" for t in terms)
        self.register_buffer("balance", torch.zeros(found, 2, dtype=torch.float64), persistent=found > 0)
        self._finder = Balancer()
        self.register_load_state_dict_post_hook(lambda module, _: module._recall())  # type: ignore[no-untyped-call]
        self._epoch = 0.0
        self._recall()
        self.pace(0.0)

    def pace(self, epoch: float) -> None:
        """Set what moves with time to its value at a moment, in epochs since the beginning."""
        for loss in self._paced:
            loss.pace(epoch)  # type: ignore[attr-defined]
        if not self._moving:
            return
        for term in self.terms:
            if term.ramps:
                adjust(term.loss, **{name: ramp.at(epoch, self.epochs) for name, ramp in term.ramps.items()})
        self._epoch = epoch
        self._weigh()

    def _recall(self) -> None:
        """Read what was found of weights that are `auto` from the buffer that keeps it."""
        rows = self.balance.tolist()
        names = [term.name for term in self.terms if term.weight == "auto"]
        self.balanced = {name: math.exp(logs / n) if n else 0.0 for name, (logs, n) in zip(names, rows, strict=True)}
        self._looks = rows[0][1] if rows else math.inf
        self._weigh()

    def _weigh(self) -> None:
        self._weights = []
        for term in self.terms:
            weight = self.balanced[term.name] if term.weight == "auto" else term.weight
            self._weights.append(weight.at(self._epoch, self.epochs) if isinstance(weight, Ramp) else float(weight))

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Tell the student's parameters, in their order; weights that are `auto` need them to be found."""
        self._finder.watch(parameters)

    @property
    def needs_teacher(self) -> bool:
        """Whether a loss with a weight above 0 learns from a teacher."""
        return any(term.weight != 0 and taught for term, taught in zip(self.terms, self._taught, strict=True))

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Names of the student's features that the losses ask for."""
        return _taps(term.student for term in self.terms)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Names of the teacher's features that the losses ask for."""
        return _taps(term.teacher for term, taught in zip(self.terms, self._taught, strict=True) if taught)

    def forward(
        self, student: Output, teacher: Output | None, batch: Batch, *, labelled_share: float = 1.0
    ) -> dict[str, Tensor]:
        """Every term's unweighted value by name, and their weighted sum as "total".

        Computed in float32 under any autocast. What is not finite stays so: whoever trains must see it. Terms of
        weight 0 that would need an absent teacher are left out.

        Args:
            student: with the features named in `student_taps`.
            teacher: with those of `teacher_taps`; None where no loss needs it.
            batch: gives the target.
            labelled_share: of the rows of an epoch, how many have a label. Below 1, terms that do not learn from the
                teacher see those rows only, and each batch's part of them counts as much of the mean over all of them
                as it has of them. So however few they are in a batch, over an epoch a term is the mean over them all,
                and the parts of a batch add up to the whole.

        Raises:
            UserError: a teacher or a tap is missing, or a loss refuses its inputs.
        """
        kind = student.prediction.device.type
        if not torch.is_autocast_enabled(kind):
            return self._values(student, teacher, batch, labelled_share)
        with torch.autocast(kind, enabled=False):
            return self._values(student, teacher, batch, labelled_share)

    def _values(
        self, student: Output, teacher: Output | None, batch: Batch, labelled_share: float
    ) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        own = (student, batch, None) if labelled_share == 1 else _labelled(student, batch, labelled_share)
        for term, taught, indexed in zip(self.terms, self._taught, self._indexed, strict=True):
            seen, rows, part = (student, batch, None) if taught else own
            if term.weight != 0:
                values[term.name] = _value(term, taught, indexed, seen, teacher, rows)
            elif teacher is not None or not taught:
                with torch.no_grad():
                    values[term.name] = _value(term, taught, indexed, seen, teacher, rows)
            if part is not None and term.name in values:
                values[term.name] = values[term.name] * part
        if self._looks < BALANCE_STEPS and torch.is_grad_enabled() and self.training:
            self._find(values)
        total: Tensor | None = None
        for term, weight in zip(self.terms, self._weights, strict=True):
            if term.weight != 0:
                value = values[term.name]
                total = value * weight if total is None else torch.add(total, value, alpha=weight)
        assert total is not None  # some weight is above 0
        values["total"] = total
        return values

    def _find(self, values: Mapping[str, Tensor]) -> None:
        """Look at the gradients of one more step."""
        named = list(zip(self.terms, self._weights, strict=True))
        given = [values[term.name] * weight for term, weight in named if term.weight not in (0, "auto")]
        ratios = self._finder.ratios(torch.stack(given).sum(), [values[name] for name in self.balanced])
        if ratios is not None:
            self.balance += torch.stack((ratios.log(), torch.ones_like(ratios)), dim=1).to(self.balance)
            self._recall()


def _labelled(student: Output, batch: Batch, share: float) -> tuple[Output, Batch, float]:
    """The rows with a label, and what their mean counts: how many there are, in as many as there are on average."""
    rows = labelled(batch.y)
    features = {name: feature[rows] for name, feature in student.features.items()}
    kept = Batch(batch.x[rows.to(batch.x.device)], batch.y[rows], batch.index[rows], batch.view)
    return Output(student.prediction[rows], features), kept, len(kept.index) / (len(rows) * share)


def _refuse_misfit(term: Term, epochs: float | None) -> None:
    where = f"loss '{term.name}'"
    number = isinstance(term.weight, int | float)
    if not (isinstance(term.weight, Ramp) or term.weight == "auto" or (number and 0 <= term.weight < math.inf)):
        raise UserError(f"the weight is 0 or more, not {term.weight}", where=where)
    ramps = [*term.ramps.values(), *([term.weight] if isinstance(term.weight, Ramp) else [])]
    if epochs is None and any(ramp.epochs is None for ramp in ramps):
        raise UserError("a number that moves needs `epochs`, its own or the objective's", where=where)
    # Names become keys of a ModuleDict, whose own attributes and the dot are not for use.
    if term.name in ("", "total") or "." in term.name or hasattr(nn.ModuleDict, term.name):
        raise UserError("a term cannot be called that", where=where, hint="choose another name")


def _taps(names: Iterable[str | tuple[str, ...]]) -> tuple[str, ...]:
    each = (name for names in names for name in ((names,) if isinstance(names, str) else names))
    return tuple(dict.fromkeys(name for name in each if name != PREDICTION))


def _value(term: Term, taught: bool, indexed: bool, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
    try:
        of_student = _select(student, term.student, "student", term.maps)
        of_teacher = None
        if taught:
            if teacher is None:
                raise UserError("it learns from a teacher, and there is none", hint="give the teacher's output")
            of_teacher = _select(teacher, term.teacher, "teacher", term.maps)
        # A loss that does not learn from the teacher takes None for it; the type of the others stays simple.
        loss = cast(Callable[..., Tensor], term.loss)
        return loss(of_student, of_teacher, batch.y, batch.index) if indexed else loss(of_student, of_teacher, batch.y)
    except UserError as error:
        where = f"loss '{term.name}'" + (f", {error.where}" if error.where else "")
        raise UserError(error.what, where=where, hint=error.hint) from error


def _select(output: Output, names: str | tuple[str, ...], whose: str, maps: bool) -> Tensor | list[Tensor]:
    if isinstance(names, str):
        return _one(output, names, whose, maps)
    return [_one(output, name, whose, maps) for name in names]


def _one(output: Output, name: str, whose: str, maps: bool) -> Tensor:
    if name == PREDICTION:
        return classes_first(output.prediction) if maps else output.prediction
    if name not in output.features:
        raise UserError(
            f"the {whose} gives no feature '{name}'", hint=did_you_mean(name, [PREDICTION, *output.features])
        )
    return output.features[name]
