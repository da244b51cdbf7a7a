"""One run while it is going on: where the names in its recipe become objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck import augment, cache, losses, recipe, signatures
from limbeck.data import Data, fetcher, pixels, targets
from limbeck.errors import UserError
from limbeck.models import Normalized, build, normalization
from limbeck.objective import Objective, Term
from limbeck.recipe import Augment, Network, Plan, Recipe
from limbeck.runtime import Progress, fingerprint, fingerprint_file
from limbeck.stages import Stages
from limbeck.taps import Taps
from limbeck.teachers import Frozen
from limbeck.types import Batch, Fetch, Teacher

SCHEMA = 2
VIEWS_SEED = 0  # one for all students, so that every one of them is shown the same views
MANY_CLASSES, TOP_K = 1000, 64


@dataclass
class Job:
    """One run: its recipe, its folder, its data, and what they make together.

    Attributes:
        views: how many augmented views of a row there are; 0 for endless ones, for which teachers are asked live.
        feature_shapes: of one row of each feature that the losses ask of a teacher.
    """

    recipe: Recipe
    folder: Path
    data: Data
    accelerator: Accelerator
    progress: Progress
    stages: Stages
    views: int = 0
    feature_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return torch.device(self.accelerator.device)

    def key(self, spec: Network, *parts: object) -> str:
        """What a network in this run depends on."""
        weights = fingerprint_file(Path(spec.weights)) if spec.weights else None
        shared = self.recipe.model_dump(mode="json", include={"augment", "views", "combine", "losses", "run", "task"})
        codec = self.recipe.cache.model_dump(include={"dtype", "top_k"})
        return fingerprint(SCHEMA, self.data.fingerprint, spec.model_dump(mode="json"), weights, shared, codec, parts)

    def network(self, spec: Network, weights: Path | None = None) -> Normalized:
        """The network of a spec with its input normalisation, as the spec begins it or with the weights of a stage."""
        say: Callable[[str], None] | None = self.progress.say
        if weights is not None:
            spec, say = spec.model_copy(update={"pretrained": False, "weights": str(weights)}), None
        model = build(spec, self.data.shape, self.data.task.width, say=say)
        return Normalized(model, *normalization(spec, model, self.data.inputs.mean, self.data.inputs.std))

    def weights(self, name: str, plan: Plan | None) -> Path:
        """The file that the stage `name` leaves its selected weights in."""
        return self.folder / name / f"{plan.select if plan else 'best'}.safetensors"

    def fetch(self, *, stored: bool) -> Fetch:
        """What gives training rows as they are augmented; `stored` may read the images rather than make them."""
        data, spec = self.data, self.recipe.augment
        if not spec.active:
            return fetcher(data, self.device)

        def given(rows: Tensor) -> Tensor:
            return pixels(data, rows, self.device)

        def labels(rows: Tensor) -> Tensor:
            return targets(data, rows, self.device)

        def made(pictures: Callable[[Tensor, int], Tensor] | None = None) -> Fetch:
            return augment.keyed(
                spec,
                seed=VIEWS_SEED,
                rows=data.train,
                pixels=given,
                labels=labels,
                classes=data.task.width,
                views=pictures,
            )

        if not (stored and self.views and self.recipe.cache.pixels):
            return made()
        plain = spec.model_copy(update={"mixup": 0.0, "cutmix": 0.0})  # mixed from stored images, not stored mixed
        pictures = cache.pixels(
            augment.keyed(
                plain, seed=VIEWS_SEED, rows=data.train, pixels=given, labels=labels, classes=data.task.width
            ),
            data.train,
            identity={"images": "augmented", "data": data.fingerprint, "augment": self._augmentation(plain)},
            label={"recipe": self.recipe.name, "data": data.name},
            views=self.views,
            shape=data.shape,
            device=self.device,
            **self._shelf,
        )
        return made(pictures)

    def frozen(self, network: nn.Module, dtype: torch.dtype) -> Frozen:
        """A network as a teacher that gives the features this run's losses ask for."""
        taps = self.objective(self.recipe.student.train).teacher_taps
        return Frozen(network, taps=taps, dtype=dtype, device=self.device, probabilities=False)

    def answers(self, name: str, network: nn.Module, dtype: torch.dtype) -> tuple[Teacher, list[dict[str, Any]]]:
        """A network as a teacher of the training rows, and what is told of its stored answers.

        Every answer is asked for once and stored, and all students read it; with `views: 0` nothing is stored and the
        network answers live.
        """
        if not self.views:
            return self.frozen(network, dtype), []
        stored = self.stored(name, network, dtype)
        told = {"asked": stored.report["rows_asked"], "found": stored.report["rows_found"]}
        keep = ("key", "bytes", "rows", "views", "dtype", "top_k", "taps", "seconds")
        return stored, [{"teacher": name, **{k: stored.report[k] for k in keep}, **told}]

    def stored(self, name: str, network: nn.Module, dtype: torch.dtype) -> cache.Stored:
        """The stored answers of a network; what is not there yet is asked for."""
        data, spec = self.data, self.recipe.cache
        return cache.outputs(
            self.frozen(network, dtype),
            self.fetch(stored=True),
            data.train,
            identity={
                "teacher": cache.identify(network, dtype),
                "data": data.fingerprint,
                "augment": self._augmentation(self.recipe.augment),
            },
            label={"recipe": self.recipe.name, "teacher": name, "data": data.name},
            views=self.views,
            kind=data.task.kind,
            dtype=spec.dtype,
            top_k=self.top_k,
            taps=self.objective(self.recipe.student.train).teacher_taps,
            batch_size=512 if self.device.type == "cuda" else 64,  # larger ones only take memory on a CPU
            **self._shelf,
        )

    @property
    def top_k(self) -> int | None:
        """How many logits of a row are stored; None for all."""
        asked, width = self.recipe.cache.top_k, self.data.task.width
        if asked is None and self.data.task.kind == "classification" and width >= MANY_CLASSES:
            asked = TOP_K
        return asked if asked and asked < width else None

    def _augmentation(self, spec: Augment) -> dict[str, Any] | None:
        return {**spec.model_dump(mode="json"), "seed": VIEWS_SEED} if spec.active else None

    @property
    def _shelf(self) -> dict[str, Any]:
        spec = self.recipe.cache
        return {
            "strict": spec.strict,
            "limit_bytes": int(spec.limit_gb * 1e9),
            "progress": self.progress,
            "rank": int(os.environ.get("LOCAL_RANK", 0)),
            "world": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        }

    def objective(self, plan: Plan) -> Objective:
        """What a student with a teacher minimises."""
        return Objective([_term(n, t, plan, t.weight) for n, t in self.recipe.losses.items()])

    def label_objective(self, plan: Plan) -> Objective:
        """What a network without a teacher minimises: the recipe's own label terms, their weights summing to 1."""
        known = signatures.losses()
        own = {n: t for n, t in self.recipe.losses.items() if not known[t.loss].needs_teacher and t.weight > 0}
        if not own:
            name = "hard" if self.recipe.task == "classification" else "label_mse"
            own = {name: recipe.Term(loss=name)}
        total = sum(term.weight for term in own.values())
        return Objective([_term(n, t, plan, t.weight / total) for n, t in own.items()])

    def rehearse(self, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
        """The losses of two rows by networks that know nothing yet: taps, shapes and options that fit raise nothing.

        Raises:
            UserError: something in `losses` fits neither the networks nor the data.
        """
        objective, data = self.objective(self.recipe.student.train), self.data
        if len(teachers) > 1 and objective.teacher_taps:
            raise UserError("features are tapped from one teacher, and there are several", where="losses")
        # With the largest label among them: a feature used as if it were logits may have too few.
        largest = data.y[data.train.to(data.y.device)].reshape(len(data.train), -1)[:, 0].argmax().cpu()
        rows = torch.stack([data.train[0], data.train[largest]])
        batch = Batch(pixels(data, rows), targets(data, rows), rows)
        with _within("teacher"):
            told = [Frozen(teacher, taps=objective.teacher_taps)(batch) for teacher in teachers]
        with _within("student"):
            given = Taps(student.eval(), objective.student_taps)(student, batch.x)
        for tried in (objective, self.label_objective(self.recipe.student.train)):
            if not tried(given, told[0] if told else None, batch)["total"].requires_grad:
                hint = "tap a module that comes after one with weights"
                raise UserError("no loss depends on the student's weights", where="losses", hint=hint)
        self.feature_shapes = {n: tuple(f.shape[1:]) for n, f in told[0].features.items()} if told else {}


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Say where an error arose that does not know it."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, where=error.where or place, hint=error.hint) from error


def _term(name: str, spec: recipe.Term, plan: Plan, weight: float) -> Term:
    smoothing = {"label_smoothing": plan.label_smoothing} if spec.loss == "hard" else {}
    return Term(name, losses.bind(spec.loss, **smoothing, **spec.options), weight, spec.student, spec.teacher)
