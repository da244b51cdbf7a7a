"""The job that is timed: the bundled recipe `mnist-distiller` on Fashion-MNIST, its networks and a trained teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from limbeck.core.files import cache_dir
from limbeck.core.hashing import fingerprint
from limbeck.core.progress import Progress
from limbeck.core.seeding import seed_everything
from limbeck.data import Data, load
from limbeck.distill.objective import Objective, Term
from limbeck.distill.train import fit
from limbeck.losses import bind
from limbeck.models import Normalized, build, load_weights, save_weights
from limbeck.recipe import Network, Recipe
from limbeck.recipe import load as load_recipe

BATCH = 64


def recipe() -> Recipe:
    return load_recipe("mnist-distiller", ["data.source=fashion-mnist"])


def load_data(train: int | None = None, val: int | None = None) -> Data:
    """Fashion-MNIST as the recipe splits it, or only the first rows of its splits."""
    data = load(recipe().data, "classification")
    return replace(data, train=data.train[:train], val=data.val[:val])


def network(spec: Network, data: Data) -> Normalized:
    """A network of the recipe as limbeck builds it, with its input normalisation."""
    return Normalized(build(spec, data.shape, data.task.width), data.inputs.mean, data.inputs.std)


def student(data: Data, seed: int = 0) -> Normalized:
    seed_everything("student", seed)
    return network(recipe().student, data)


def teacher(data: Data, weights: Path) -> Normalized:
    model = network(recipe().teachers[0], data)
    load_weights(model, weights)
    return model


def distilling() -> Objective:
    """What the recipe's student minimises: labels and the teacher's soft targets."""
    return Objective(
        [Term(name, bind(term.loss, **term.options), term.weight) for name, term in recipe().losses.items()]
    )


def from_labels() -> Objective:
    """What it minimises without a teacher."""
    return Objective([Term("hard", bind("hard"), 1.0)])


def trained_teacher(data: Data, progress: Progress) -> Path:
    """Weights of the recipe's teacher after one epoch over the training rows, kept for the next time.

    One epoch is enough for its soft targets to mean something, which is what their accuracy is measured on.
    """
    spec = recipe().teachers[0]
    assert spec.train is not None
    key = fingerprint(data.fingerprint, len(data.train), spec.model, spec.options, spec.train.lr)
    path = cache_dir() / "benchmarks" / f"mnist-distiller-teacher-{key}.safetensors"
    if not path.exists():
        progress.say(f"training the teacher for one epoch of {len(data.train):,} rows, once: {path}")
        seed_everything("teacher", spec.name)
        model = network(spec, data)
        plan = spec.train.model_copy(update={"epochs": 1})
        fit(model, from_labels(), None, data, plan, progress=progress, label="teacher")
        save_weights(model, path)
    return path
