"""One run while it is going on: where the names in its recipe become objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck import losses, recipe, signatures
from limbeck.augment import keyed
from limbeck.data import Data, pixels, targets
from limbeck.errors import UserError
from limbeck.models import Normalized, build, normalization
from limbeck.objective import Objective, Term
from limbeck.recipe import Network, Plan, Recipe
from limbeck.runtime import Progress
from limbeck.taps import Taps
from limbeck.teachers import Ensemble, Frozen, combiner
from limbeck.types import Batch, Teacher


@dataclass
class Job:
    """One run: its recipe, its folder, its data, and what they make together."""

    recipe: Recipe
    folder: Path
    data: Data
    accelerator: Accelerator
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return torch.device(self.accelerator.device)

    def network(self, spec: Network, weights: Path | None = None) -> nn.Module:
        """The network of a spec with its input normalisation, as the spec begins it or with the weights of a stage."""
        say: Callable[[str], None] | None = self.progress.say
        if weights is not None:
            spec, say = spec.model_copy(update={"pretrained": False, "weights": str(weights)}), None
        model = build(spec, self.data.shape, self.data.task.width, say=say)
        return Normalized(model, *normalization(spec, model, self.data.inputs.mean, self.data.inputs.std))

    def weights(self, name: str, plan: Plan | None) -> Path:
        """The file that the stage `name` leaves its selected weights in."""
        return self.folder / name / f"{plan.select if plan else 'best'}.safetensors"

    def augmentation(self, seed: int) -> Callable[[Batch], Batch] | None:
        """What is done to training batches, if anything."""
        data, spec = self.data, self.recipe.augment
        if not spec.active:
            return None

        def fetch(rows: Tensor) -> tuple[Tensor, Tensor]:
            return pixels(data, rows, self.device), targets(data, rows, self.device)

        return keyed(spec, seed=seed, rows=data.train, fetch=fetch, classes=data.task.width)

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

    def teacher(self, dtypes: Mapping[str, torch.dtype]) -> Teacher:
        """The trained teacher of the recipe, or all of them as one; `dtypes` says in what each of them answers."""
        taps = self.objective(self.recipe.student.train).teacher_taps
        members = [
            Frozen(
                self.network(spec, self.weights(spec.name, spec.train)),
                taps=taps,
                dtype=dtypes[spec.name],
                device=self.device,
                probabilities=False,
            )
            for spec in self.recipe.teachers
        ]
        return members[0] if len(members) == 1 else Ensemble(members, combiner(self.data.task.kind))

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
