"""Which models a run measures, and which of them become files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

from limbeck.core.formats import TRAINED
from limbeck.core.result import BudgetSearch
from limbeck.pipeline.compress import starts
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.measure import Candidate, measure
from limbeck.pipeline.stage_results import MeasuredResult
from limbeck.pipeline.train_teachers import Teachers
from limbeck.pipeline.trained import TrainedModel
from limbeck.recipe import Deployable
from limbeck.recipe.stages import ENSEMBLE, SEARCH
from limbeck.tasks import main_metric


def measured_models(
    job: RunContext,
    teachers: Teachers | None,
    students: Sequence[TrainedModel],
    compressed: Sequence[TrainedModel],
    searched: BudgetSearch | None,
    chosen: str,
    _: Path,
) -> MeasuredResult:
    """What every model of a run is worth and costs, and the files of those that are shipped."""
    shipped = _shipped(job, students, compressed, chosen, searched)
    seed = next(s.seed for s in students if s.name == chosen)
    candidates = [Candidate(one, timed=True) for one in _taught(job, teachers)]
    for one in students:
        drawn = one.role in ("student", "distilled") and one.seed == seed
        candidates.append(Candidate(one, shipped.get(one.name, ()), timed=one.name == chosen, drawn=drawn))
    candidates += [Candidate(one, shipped.get(one.name, ()), timed=one.name in shipped) for one in compressed]
    combine = None if teachers is None or teachers.joint else teachers.combine
    return measure(job, candidates, combine)


def _taught(job: RunContext, teachers: Teachers | None) -> list[TrainedModel]:
    """Those who teach: the teachers, all of them as one where they were trained so, and assistants."""
    found, checked = [], job.recipe
    for spec in checked.teachers if teachers else ():
        if teachers and spec.name in teachers.results:
            file = job.source(spec)
            found.append(TrainedModel(spec.name, "teacher", 0, file, partial(job.network, spec, file)))
    if teachers and teachers.joint:
        assert checked.combine is not None
        file = job.weights(ENSEMBLE, checked.combine.train)
        found.append(TrainedModel(ENSEMBLE, "teacher", 0, file, teachers.joint))
    for helper in checked.assistants:
        file = job.weights(helper.name, helper.train)
        found.append(TrainedModel(helper.name, "assistant", 0, file, partial(job.network, helper, file)))
    return found


def _shipped(
    job: RunContext,
    students: Sequence[TrainedModel],
    compressed: Sequence[TrainedModel],
    chosen: str,
    searched: BudgetSearch | None,
) -> dict[str, list[Deployable]]:
    """Which files each network becomes: the chosen student, and of each compressed variant the best on validation."""
    metric = main_metric(job.data.task)
    every, exported = job.recipe.files.every_seed, job.recipe.export
    winner = searched.winner if searched else None
    fits = [cast("Deployable", winner.format)] if winner else []
    found = {name: list(exported) for name in [chosen, *([s.name for s in starts(students)] if every else [])]}
    for variant in dict.fromkeys(s.variant for s in compressed):
        own = [s for s in compressed if s.variant == variant and s.role == "compressed"]
        best = metric.best(own, key=lambda s: s.result.val[metric.name])
        formats = [name for name in exported if name in TRAINED or not best.quantized]
        if variant == SEARCH:
            formats = list(dict.fromkeys([*formats, *fits]))
        found |= {s.name: formats for s in (own if every else [best])}
    if searched and winner and not winner.steps:  # the student as it is keeps to the budget in this format
        for name in [s.name for s in starts(students)] if every else [searched.start]:
            found[name] = list(dict.fromkeys([*found.get(name, ()), *fits]))
    return found
