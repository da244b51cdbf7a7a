"""One run while it is going on: where the names in its recipe become objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn

from limbeck import augment, cache, foreign, losses, recipe, signatures
from limbeck.data import Data, fetcher, pixels, targets
from limbeck.errors import UserError
from limbeck.fitting import Fitting, fit_terms, own_options, within
from limbeck.models import Foreign, Normalized, build, normalization, plain, try_out
from limbeck.objective import Objective, Term
from limbeck.recipe import Augment, Network, Plan, Recipe
from limbeck.recipe import Teacher as TeacherSpec
from limbeck.runtime import Progress, derive_seed, fingerprint, fingerprint_file
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
        trust: whether the user allows that opening a model runs code.
        callables: the user's functions that teach, by the name of the teacher.
        fittings: the losses as they fit each learner and whom it learns from: (learner, tutor, variant) -> fitting.
            The tutor is "teachers", the name of an assistant, or "student"; the variant "" or a name in `compare`.
    """

    recipe: Recipe
    folder: Path
    data: Data
    accelerator: Accelerator
    progress: Progress
    stages: Stages
    views: int = 0
    trust: bool = False
    callables: Mapping[str, Foreign] = field(default_factory=dict)
    fittings: dict[tuple[str, str, str], Fitting] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return torch.device(self.accelerator.device)

    def key(self, spec: Network, *parts: object, variant: str = "") -> str:
        """What a network in this run depends on; with `variant` those losses of `compare` stand for `losses`."""
        files = [fingerprint_file(Path(name)) for name in spec.files]
        if function := self._callable(spec):
            files.append(function.digest)
        shared = self.recipe.model_dump(mode="json", include={"augment", "views", "combine", "losses", "run", "task"})
        if self.data.task.weights:
            shared["class_weights"] = self.data.task.weights
        if variant:
            shared["losses"] = {n: t.model_dump(mode="json") for n, t in self.recipe.compare[variant].items()}
        if self.recipe.framework != "torch":
            shared["framework"] = self.recipe.framework
        codec = self.recipe.cache.model_dump(include={"dtype", "top_k"})
        return fingerprint(SCHEMA, self.data.fingerprint, spec.model_dump(mode="json"), files, shared, codec, parts)

    def network(self, spec: Network, weights: Path | None = None) -> nn.Module:
        """The network of a spec with its input normalisation, as the spec begins it or with the weights of a stage."""
        if isinstance(spec, TeacherSpec) and spec.origin == "estimator":
            return foreign.fitted(weights.parent) if weights else foreign.unfitted(spec, self.data)
        if spec.asked:
            return foreign.bring(spec, self.data, trust=self.trust, function=self._callable(spec))
        say: Callable[[str], None] | None = self.progress.say
        if weights is not None:
            spec, say = spec.model_copy(update={"pretrained": False, "weights": str(weights)}), None
        model = self.plain(spec, say)
        mean, std = self.data.inputs.mean, self.data.inputs.std
        if spec.origin == "file":  # what it was trained with: rows as they are, unless something is said
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        mean, std = normalization(spec, model, mean, std)
        order = foreign.order_of(spec.classes, self.data.task.names, spec.model)
        return Normalized(model, mean, std, bgr=spec.preprocess == "caffe", order=order)

    def plain(self, spec: Network, say: Callable[[str], None] | None = None) -> nn.Module:
        """The network of a spec as it takes rows that are normalised; `say` is told what was found in its weights."""
        shape, width = self.data.shape, len(spec.classes) if spec.classes else self.data.task.outputs
        if not spec.brought:
            return build(spec, shape, width, framework=self.recipe.framework, say=say)
        model = foreign.load(spec, self.data, trust=self.trust)
        try_out(model, spec.model, shape, width)
        return model

    def _callable(self, spec: Network) -> Foreign | None:
        return self.callables[spec.name] if isinstance(spec, TeacherSpec) and spec.origin == "callable" else None

    def source(self, spec: TeacherSpec) -> Path | None:
        """The file that a teacher comes from, in the run directory where it was made here; a callable has none."""
        if spec.origin == "estimator":
            return self.folder / spec.name / foreign.MODEL
        if spec.asked:
            return Path(spec.files[-1]) if spec.files else None
        return self.weights(spec.name, spec.train)

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
                unlabelled=data.unlabelled,
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
            data.taught,
            identity={"images": "augmented", "data": data.fingerprint, "augment": self._augmentation(plain)},
            label={"recipe": self.recipe.name, "data": data.name},
            views=self.views,
            shape=data.shape,
            device=self.device,
            **self._shelf,
        )
        return made(pictures)

    def teacher_shapes(self, tutor: str) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each feature that anybody who learns from `tutor` asks of it."""
        own = [fitting.teacher_shapes for (_, of, _), fitting in self.fittings.items() if of == tutor]
        return {name: shape for shapes in own for name, shape in shapes.items()}

    def frozen(self, tutor: str, network: nn.Module, dtype: torch.dtype) -> Frozen:
        """A network as a teacher that gives the features its learners ask for."""
        taps = tuple(self.teacher_shapes(tutor))
        kind = self.data.task.kind
        return Frozen(network, taps=taps, dtype=dtype, device=self.device, probabilities=False, kind=kind)

    def answers(
        self, tutor: str, name: str, network: nn.Module, dtype: torch.dtype, taps: Sequence[str]
    ) -> tuple[Teacher, list[dict[str, Any]]]:
        """A network as a teacher of the training rows, and what is told of its stored answers.

        Every answer is asked for once and stored with all features that anybody wants, and all students read it, each
        the features in `taps`; with `views: 0` nothing is stored and the network answers live.
        """
        if not self.views:
            return self.frozen(tutor, network, dtype), []
        stored = self.stored(tutor, name, network, dtype)
        told = {"asked": stored.report["rows_asked"], "found": stored.report["rows_found"]}
        keep = ("key", "bytes", "rows", "views", "dtype", "top_k", "taps", "seconds")
        return stored.only(taps), [{"teacher": name, **{k: stored.report[k] for k in keep}, **told}]

    def stored(self, tutor: str, name: str, network: nn.Module, dtype: torch.dtype) -> cache.Stored:
        """The stored answers of a network; what is not there yet is asked for."""
        data, spec = self.data, self.recipe.cache
        return cache.outputs(
            self.frozen(tutor, network, dtype),
            self.fetch(stored=True),
            data.taught,
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
            taps=tuple(self.teacher_shapes(tutor)),
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

    def objective(
        self,
        learner: str,
        tutor: str,
        plan: Plan,
        *,
        variant: str = "",
        seed: int = 0,
        weights: Path | None = None,
        network: nn.Module | None = None,
    ) -> Objective:
        """What a learner minimises beside a tutor.

        Args:
            learner: "student" or the name of an assistant.
            tutor: whom it learns from; see `fittings`.
            plan: of the learner.
            variant: a name in `compare`, or "" for `losses`.
            seed: the learner's, from which weights of losses follow.
            weights: the tutor's file, for losses that take its classifier.
            network: the learner, where it is no longer as the recipe builds it.
        """
        fitting = self.fittings[learner, tutor, variant]
        if network is not None:
            fitting = fitting.of(network, pixels(self.data, self.data.train[:2]))
        head = None
        if fitting.needs_head:
            assert weights is not None
            head = linear(weights, fitting.head)
        return fitting.objective(plan, derive_seed("losses", seed), head)

    def label_objective(self, plan: Plan) -> Objective:
        """What a network without a teacher minimises: the recipe's own label terms, their weights summing to 1."""
        known = signatures.losses()
        own = {n: t for n, t in self.recipe.losses.items() if not known[t.loss].needs_teacher and t.learns}
        if not own:
            name = {"classification": "hard", "multilabel": "label_binary", "regression": "label_mse"}[self.recipe.task]
            name = "label_gaussian_nll" if self.recipe.spread else name
            own = {name: recipe.Term(loss=name)}
        # One that moves, or is to be found, says nothing of its share: it counts as 1.
        shares = {n: t.weight if isinstance(t.weight, float | int) else 1.0 for n, t in own.items()}
        terms = []
        for name, term in own.items():
            loss = losses.bind(term.loss, **own_options(term, plan, self.data.task.weights))
            student = term.student if isinstance(term.student, str) else term.student[0]
            terms.append(Term(name, loss, shares[name] / sum(shares.values()), student, ramps=term.ramps))
        return Objective(terms, epochs=plan.epochs)

    def rehearse(self, learner: str, student: nn.Module, tutor: str, teachers: Sequence[nn.Module]) -> None:
        """The losses of two rows by networks that know nothing yet: taps, shapes and options that fit raise nothing.

        Raises:
            UserError: something in `losses` fits neither the networks nor the data.
        """
        data, plan = self.data, self.recipe.student.train
        # With the largest label among them: a feature used as if it were logits may have too few.
        largest = data.y[data.train.to(data.y.device)].reshape(len(data.train), -1)[:, 0].argmax().cpu()
        rows = torch.stack([data.train[0], data.train[largest]])
        batch = Batch(pixels(data, rows), targets(data, rows), rows)
        variants = {"": self.recipe.losses, **(self.recipe.compare if learner == "student" else {})}
        for variant, terms in variants.items():
            with within(f"compare.{variant}") if variant else nullcontext():
                one = plain(teachers[0]) if len(teachers) == 1 else None  # taps are named from there
                fitting = fit_terms(
                    terms,
                    student,
                    one,
                    batch.x,
                    rows=len(data.x),
                    classes=data.task.width,
                    class_weights=data.task.weights,
                )
                self.fittings[learner, tutor, variant] = fitting
                head = one.get_submodule(fitting.head) if one is not None and fitting.head else None
                objective = fitting.objective(plan, 0, head)  # type: ignore[arg-type]
                self._tried(objective, student, teachers, batch)
        self._tried(self.label_objective(plan), student, (), batch)

    def _tried(self, objective: Objective, student: nn.Module, teachers: Sequence[nn.Module], batch: Batch) -> None:
        with within("teacher"):
            kind = self.data.task.kind
            told = [Frozen(teacher, taps=objective.teacher_taps, kind=kind)(batch) for teacher in teachers]
        with within("student"):
            given = Taps(student.eval(), objective.student_taps)(student, batch.x)
        objective.watch(student.parameters())
        if not objective(given, told[0] if told else None, batch)["total"].requires_grad:
            hint = "tap a module that comes after one with weights"
            raise UserError("no loss depends on the student's weights", where="losses", hint=hint)


def linear(file: Path, name: str) -> nn.Linear:
    """The linear layer of that dotted name in a file of weights."""
    with safe_open(file, framework="pt") as opened:
        weight = opened.get_tensor(f"{name}.weight")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in opened.keys())  # noqa: SIM118
        layer.weight.data = weight
        if layer.bias is not None:
            layer.bias.data = opened.get_tensor(f"{name}.bias")
    return layer
