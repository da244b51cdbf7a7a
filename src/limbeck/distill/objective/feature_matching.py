"""Which features of a student and a teacher each loss compares, found before anything is trained; and the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import losses, recipe
from limbeck.core import signatures
from limbeck.core.errors import UserError, within
from limbeck.distill.objective import PREDICTION, Objective, Term
from limbeck.distill.objective.feature_taps import Taps
from limbeck.distill.objective.network_stages import Anatomy, Stage, anatomy, pairs
from limbeck.models import plain
from limbeck.recipe import AUTO, WEIGHTED, Plan
from limbeck.tasks.normal_form import classes_first

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pairing:
    """What one term compares.

    Attributes:
        student: stages of the student; empty for its prediction.
        teacher: as many of the teacher.
        joint: whether the loss takes all pairs at once.
        found: whether they were found here, and not named in the recipe.
    """

    student: tuple[Stage, ...] = ()
    teacher: tuple[Stage, ...] = ()
    joint: bool = False
    found: bool = False


@dataclass(frozen=True)
class Matching:
    """The losses of a recipe as they fit one student and one teacher.

    Attributes:
        terms: of the recipe.
        pairings: what each compares, by the term's name.
        rows: how many rows the data set has.
        classes: how many classes (or values) are predicted.
        head: dotted name of the teacher's classifier; empty where it has none.
        class_weights: what each class counts in the losses on labels; empty where all count alike.
    """

    terms: Mapping[str, recipe.Term]
    pairings: Mapping[str, Pairing] = field(default_factory=dict)
    rows: int = 0
    classes: int = 0
    head: str = ""
    class_weights: tuple[float, ...] = ()

    @property
    def teacher_shapes(self) -> dict[str, Shape]:
        """Shape of one row of each of the teacher's features that is compared, by its dotted name."""
        stages = (stage for pairing in self.pairings.values() for stage in pairing.teacher)
        return {stage.name: stage.shape for stage in stages if stage.name != PREDICTION}

    @property
    def needs_head(self) -> bool:
        """Whether a loss takes the teacher's classifier."""
        return any("head" in losses.fitted(term.loss) for term in self.terms.values())

    @property
    def plan(self) -> list[str]:
        """What was found, a line for each term, to be shown."""
        lines = []
        for name, pairing in self.pairings.items():
            if pairing.found:
                shown = zip(pairing.student, pairing.teacher, strict=True)
                pairs = ", ".join(f"{s.name} {list(s.shape)} from {t.name} {list(t.shape)}" for s, t in shown)
                lines.append(f"{name}: {pairs}")
        return lines

    def objective(self, plan: Plan, seed: int, head: nn.Linear | None = None) -> Objective:
        """What a student with this teacher minimises. Weights of losses follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Objective(
                [self._term(name, term, plan, head) for name, term in self.terms.items()], epochs=plan.epochs
            )

    def of(self, student: nn.Module, x: Tensor) -> Matching:
        """The same pairs for a student whose features have other shapes now, as after pruning.

        Raises:
            UserError: it has no such tap any more.
        """
        network = plain(student)
        pairings = {
            name: replace(pairing, student=_named(network, [stage.name for stage in pairing.student], x, "student"))
            for name, pairing in self.pairings.items()
        }
        return replace(self, pairings=pairings)

    def _term(self, name: str, term: recipe.Term, plan: Plan, head: nn.Linear | None) -> Term:
        pairing = self.pairings.get(name, Pairing())
        around: dict[str, Any] = {"rows": self.rows, "classes": self.classes}
        if head is not None:
            around["head"] = head
        options = own_options(term, plan, self.class_weights) | around
        if not pairing.student:
            return Term(name, losses.bind(term.loss, **options), term.weight, ramps=term.ramps)
        if not pairing.teacher:
            loss = losses.bind(term.loss, **options)
            return Term(name, loss, term.weight, pairing.student[0].name, ramps=term.ramps)
        ours, theirs = ([stage.shape for stage in side] for side in (pairing.student, pairing.teacher))
        names = tuple(s.name for s in pairing.student), tuple(s.name for s in pairing.teacher)
        if pairing.joint:
            loss = losses.bind(term.loss, **options, student=ours, teacher=theirs)
            return Term(name, loss, term.weight, *names, ramps=term.ramps, maps=True)
        maps = bool(signatures.losses()[term.loss].taps)
        each = [losses.bind(term.loss, **options, student=s, teacher=t) for s, t in zip(ours, theirs, strict=True)]
        if len(each) == 1:
            return Term(name, each[0], term.weight, names[0][0], names[1][0], ramps=term.ramps, maps=maps)
        return Term(name, losses.Each(each), term.weight, *names, ramps=term.ramps, maps=maps)


def own_options(term: recipe.Term, plan: Plan, class_weights: Sequence[float] = ()) -> dict[str, Any]:
    """A loss's options at the beginning, with what the training plan and the recipe's `class_weights` add."""
    added: dict[str, Any] = {"label_smoothing": plan.label_smoothing} if term.loss == "hard" else {}
    if class_weights and term.loss in WEIGHTED:
        added["class_weights"] = tuple(class_weights)
    return added | term.options | {name: ramp.start for name, ramp in term.ramps.items()}


def fit_terms(
    terms: Mapping[str, recipe.Term],
    student: nn.Module,
    teacher: nn.Module | None,
    x: Tensor,
    *,
    rows: int,
    classes: int,
    class_weights: tuple[float, ...] = (),
) -> Matching:
    """Pair the features of two networks for each loss that compares features.

    Args:
        terms: of the recipe, by name.
        student: the plain network, trained or not.
        teacher: likewise; None where there is none, or several.
        x: a few rows of input.
        rows: how many rows the data set has.
        classes: how many classes (or values) are predicted.
        class_weights: what each class counts in the losses on labels; empty where all count alike.

    Raises:
        UserError: a network has no such tap, or none that could be found.
    """
    known = signatures.losses()
    plain_ones = (PREDICTION, PREDICTION)
    wanted = {n: t for n, t in terms.items() if known[t.loss].taps or (t.student, t.teacher) != plain_ones}
    if not wanted:
        return Matching(terms, {}, rows, classes, class_weights=class_weights)
    pairings, seen = {}, Seen(student, teacher, x)
    for name, term in wanted.items():
        with within(f"loss '{name}'"):
            if not known[term.loss].needs_teacher:
                pairings[name] = Pairing(_named(student, _listed(term.student)[:1], x, "student"))
            elif teacher is None:
                raise UserError("features are tapped from one teacher, and there are several")
            else:
                pairings[name] = _pairing(term, known[term.loss].taps, seen)
    if not any("head" in losses.fitted(term.loss) for term in wanted.values()):
        return Matching(terms, pairings, rows, classes, class_weights=class_weights)
    assert teacher is not None
    head = seen.teacher.head
    if head is None:
        what = "a loss takes the teacher's classifier, and the teacher does not end in a linear layer"
        raise UserError(what, where="losses")
    name = next(name for name, module in teacher.named_modules() if module is head)
    return Matching(terms, pairings, rows, classes, name, class_weights)


class Seen:
    """Where the stages of two networks end, looked for when it is asked."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None, x: Tensor) -> None:
        self.networks, self.x = (student, teacher), x

    @cached_property
    def student(self) -> Anatomy:
        """Of the student."""
        return self._anatomy(0, "student")

    @cached_property
    def teacher(self) -> Anatomy:
        """Of the teacher."""
        return self._anatomy(1, "teacher")

    def _anatomy(self, number: int, whose: str) -> Anatomy:
        network = self.networks[number]
        assert network is not None
        with within(whose):
            return anatomy(network, self.x)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _pairing(term: recipe.Term, kind: str, seen: Seen) -> Pairing:
    student, teacher = seen.networks
    assert teacher is not None
    if term.student != AUTO:
        ours = _named(student, _listed(term.student), seen.x, "student")
        return Pairing(ours, _named(teacher, _listed(term.teacher), seen.x, "teacher"), joint=kind == "joint")
    if kind == "pooled":
        return Pairing((seen.student.vector,), (seen.teacher.vector,), found=True)
    stages = pairs(seen.student.stages, seen.teacher.stages)
    if kind == "last":
        stages = stages[-1:]
    elif kind == "middle":
        stages = [stages[len(stages) // 2]]
    ours, theirs = zip(*stages, strict=True)
    return Pairing(ours, theirs, joint=kind == "joint", found=True)


def _named(network: nn.Module, names: Sequence[str], x: Tensor, whose: str) -> tuple[Stage, ...]:
    """Taps that a recipe names, with the shapes they give. The prediction itself may be among them."""
    with within(whose), torch.no_grad():
        taps = Taps(network, [name for name in names if name != PREDICTION])
        given = taps(network.eval(), x)
        taps.close()
    outputs = {PREDICTION: classes_first(given.prediction), **given.features}
    return tuple(Stage(name, tuple(outputs[name].shape[1:])) for name in names)
