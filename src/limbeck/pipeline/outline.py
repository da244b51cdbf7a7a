"""What a run will consist of, from its recipe alone: trainings, files, and the stages that its user counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limbeck.core import signatures
from limbeck.core.course import EXPECTED, Part
from limbeck.core.formats import TRAINED
from limbeck.recipe import Deployable, Plan, Recipe, stages
from limbeck.recipe.model_source import Estimator
from limbeck.recipe.stages import ENSEMBLE, MEASURED, SEARCH

Kind = tuple[str, str, str]  # learner, its teacher ("" for labels alone), variant


@dataclass(frozen=True)
class Training:
    """A training, or some that one stage holds.

    Attributes:
        stage: its name.
        what: in words, the same for all seeds.
        learner: "student", or the name of a teacher or an assistant.
        teacher_name: whom it learns from, as in `Job.matches`; "" for the labels alone.
        variant: a name in `compare`, or "".
        plan: of each of them.
        count: how many there are.
    """

    stage: str
    what: str
    learner: str
    teacher_name: str
    variant: str
    plan: Plan
    count: int = 1

    @property
    def kind(self) -> Kind:
        """What the time of a step depends on."""
        return self.learner, self.teacher_name, self.variant


def trainings(checked: Recipe) -> list[Training]:
    """Everything that a recipe trains, in its order, if nothing stops early."""
    return [one for one in _everything(checked) if one.plan.epochs]


def _everything(checked: Recipe) -> list[Training]:
    """The same, and compressed variants that train nothing."""
    found, teacher_name = _teachers(checked), _teacher_name(checked)
    if not checked.student.ready:
        for seed in checked.seeds:
            found += _students(checked, seed, teacher_name)
    return [*found, *_smaller(checked, teacher_name)]


def _teachers(checked: Recipe) -> list[Training]:
    found = [Training(t.name, t.name, t.name, "", "", t.train) for t in checked.teachers if t.train]
    if checked.combine and checked.combine.train:  # all members as one network: their steps are taken together
        joint = checked.combine.train
        found += [Training(ENSEMBLE, ENSEMBLE, t.name, "", "", joint) for t in checked.teachers]
    teacher_name = "teachers"
    for assistant in checked.assistants:
        found.append(Training(assistant.name, assistant.name, assistant.name, teacher_name, "", assistant.train))
        teacher_name = assistant.name
    return found


def _teacher_name(checked: Recipe) -> str:
    """Whom students learn from: the last assistant, the teachers, or each other and themselves."""
    last = [assistant.name for assistant in checked.assistants][-1:]
    return (last or (["teachers"] if checked.teachers else ["student"]))[0]


def _students(checked: Recipe, seed: int, teacher_name: str) -> Iterator[Training]:
    spec, plan, own = checked.student, checked.student.train, stages.seeded("distilled", seed)
    yield Training(stages.seeded("student", seed), "students alone", "student", "", "", plan)
    if spec.peers:
        yield Training(own, "peers", "student", teacher_name, "", plan, spec.peers)
        return
    if checked.assistants:
        name = "students of the teacher itself"
        yield Training(stages.seeded("direct", seed), name, "student", "teachers", "", plan)
    if checked.taught:
        count = spec.generations or 1
        for name in (stages.generation(seed, number, count) for number in range(1, count + 1)):
            yield Training(name, "students taught", "student", teacher_name, "", plan)
    for name in checked.compare:
        yield Training(stages.seeded(name, seed), name, "student", teacher_name, name, plan)


def _smaller(checked: Recipe, teacher_name: str) -> Iterator[Training]:
    """Recoveries, of the whole student though it is smaller by then, and the search of a budget."""
    plan, budget = checked.student.train, checked.budget
    searched = 2 * budget.recover.epochs if budget else 0  # pruned, then factorised
    if budget:
        again = plan.model_copy(update={"epochs": searched})
        yield Training(SEARCH, "the search, at most", "student", teacher_name, "", again, budget.trials)
    variants = {
        name: sum(step.recover.epochs * step.rounds for step in steps) for name, steps in checked.compress.items()
    }
    variants |= {SEARCH: searched} if budget else {}
    for name, epochs in variants.items():
        again = plan.model_copy(update={"epochs": epochs})
        what = "recovery of what is found, at most" if name == SEARCH else f"recovery of {name}"
        for stage, taught in _walks(checked, name, epochs):
            yield Training(stage, what, "student", teacher_name if taught else "", "", again)


def _walks(checked: Recipe, name: str, epochs: int) -> list[tuple[str, bool]]:
    """The stages of a compressed variant, and whether each recovers with a teacher."""
    both = bool(epochs) and learns_from_teacher(checked)
    endings = (True, False) if both else (True,)
    found = [(seed, taught) for seed in checked.seeds for taught in endings]
    return [(stages.recovered(name, seed, taught=taught), taught and both) for seed, taught in found]


def learns_from_teacher(checked: Recipe) -> bool:
    """Whether recovering with a teacher can be another thing than without."""
    known = signatures.losses()
    return any(known[term.loss].needs_teacher and term.learns for term in checked.losses.values())


def files(checked: Recipe) -> list[list[Deployable]]:
    """The formats of the files that will be made of each network: the student, and each compressed variant."""
    formats = checked.export
    found = [list(formats)]
    for steps in checked.compress.values():
        quantized = bool(steps and steps[-1].quantize)
        found.append([name for name in formats if name in TRAINED or not quantized])
    if checked.budget:  # how many bits its file has is not known yet
        found.append(list(dict.fromkeys([*formats, f"{checked.budget.runtime}-int8"])))  # type: ignore[list-item]
    return [names for names in found if names] * (len(checked.seeds) if checked.files.every_seed else 1)


# --- stages --------------------------------------------------------------------------------------


def parts(checked: Recipe, measuring: float) -> list[Part]:
    """The stages of a run as its user counts them.

    Args:
        checked: the recipe.
        measuring: seconds that the last one should take, in which models are tested and files are made.
    """
    return [*teaching(checked), *learning(checked), Part(MEASURED, measuring, (EXPECTED,))]


def teaching(checked: Recipe) -> list[Part]:
    """The stages of those who teach. What is loaded is no stage, and nobody knows how long an estimator is fitted."""
    trained = {part.name: part for part in _counted(_teachers(checked))}
    found = [
        trained.get(teacher.name) or Part(teacher.name, None)
        for teacher in checked.teachers
        if teacher.train or isinstance(teacher.source, Estimator)
    ]
    joining = checked.combine
    if joining and (joining.joint or joining.name == "stacked"):
        found.append(trained.get(ENSEMBLE) or Part(ENSEMBLE, 0.0))
    return [*found, *(trained[assistant.name] for assistant in checked.assistants)]


def learning(checked: Recipe) -> list[Part]:
    """The stages of those who only learn."""
    own = [one for one in _everything(checked) if one.learner == "student"]
    return _counted(own)


def _counted(found: Sequence[Training]) -> list[Part]:
    """The stages that hold some trainings."""
    stages = {one.stage: one for one in found}
    return [_part(one) for one in stages.values()]


def _part(one: Training) -> Part:
    how = "taught" if one.teacher_name else "alone"
    like = (f"{one.what}, {how}", f"{one.learner}, {how}")
    if one.stage == SEARCH:
        return Part(SEARCH, one.count * max(1, one.plan.epochs), like)
    # Whoever takes its steps with others takes longer for them than alone.
    return Part(one.stage, one.plan.epochs, like if one.count == 1 else like[:1])
