"""The one way in which a run trains a network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limbeck.core.types import Teacher
from limbeck.distill.objective import Objective
from limbeck.distill.train import History, fit
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.teacher_outputs import fetch
from limbeck.recipe import Plan


def train_network(
    job: RunContext,
    network: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    plan: Plan,
    folder: Path,
    *,
    seed: int,
    stored: bool,
) -> History:
    """Train a network of this run in the folder of its stage, or go on with a training found there; see `fit`.

    Args:
        job: the run.
        network: trained in place.
        objective: what is minimised.
        teacher: queried for every batch when the objective learns from one.
        plan: of the training.
        folder: of the stage; its name is that of the training.
        seed: everything random follows from it.
        stored: whether it sees the views of the rows that the run stores, as students do with and without a teacher; a
            teacher sees another one in every epoch.
    """
    return fit(
        network,
        objective,
        teacher,
        job.data,
        plan,
        seed=seed,
        folder=folder,
        fetch=fetch(job, stored=stored),
        views=job.views if stored else 0,
        run=job.recipe.run,
        progress=job.progress,
        label=str(folder.relative_to(job.folder)),
    )
