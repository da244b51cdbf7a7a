"""One run while it is going on: where the networks in its recipe become objects, and files have their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from limbeck.core.hashing import fingerprint, fingerprint_file
from limbeck.core.progress import Progress
from limbeck.data import Data
from limbeck.distill.objective.feature_matching import Matching
from limbeck.distill.teachers import external
from limbeck.models import ExternalModel, Normalized, build, normalization, try_out
from limbeck.pipeline.stages import Stages
from limbeck.recipe import Network, Plan, Recipe
from limbeck.recipe import Teacher as TeacherSpec
from limbeck.recipe.model_source import Estimator, ModelFile
from limbeck.recipe.model_source import Function as FunctionSource

SCHEMA = 2


@dataclass(frozen=True)
class RunContext:
    """One run: its recipe, its folder, its data. See `objectives` for losses, `teacher_outputs` for teachers.

    Attributes:
        views: how many augmented views of a row there are; 0 for endless ones, for which teachers are asked live.
        trust: whether the user allows that opening a model runs code.
        callables: the user's functions that teach, by the name of the teacher.
        matches: the losses as they fit a learner and its teacher, (learner, teacher, variant) -> matching. The
            teacher is "teachers", the name of an assistant, or "student"; the variant "" or a name in `compare`.
    """

    recipe: Recipe
    folder: Path
    data: Data
    accelerator: Accelerator
    progress: Progress
    stages: Stages
    views: int = 0
    trust: bool = False
    callables: Mapping[str, ExternalModel] = field(default_factory=dict)
    matches: Mapping[tuple[str, str, str], Matching] = field(default_factory=dict)

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
        if isinstance(spec, TeacherSpec) and isinstance(spec.source, Estimator):
            return external.fitted(weights.parent) if weights else external.unfitted(spec, self.data)
        if spec.asked:
            return external.bring(spec, self.data, trust=self.trust, function=self._callable(spec))
        say: Callable[[str], None] | None = self.progress.say
        if weights is not None:
            spec, say = spec.model_copy(update={"pretrained": False, "weights": str(weights)}), None
        model = self.plain(spec, say)
        mean, std = self.data.inputs.mean, self.data.inputs.std
        if isinstance(spec.source, ModelFile):  # what it was trained with: rows as they are, unless something is said
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        mean, std = normalization(spec, model, mean, std)
        order = external.order_of(spec.classes, self.data.task.names, spec.model)
        return Normalized(model, mean, std, bgr=spec.preprocess == "caffe", order=order)

    def plain(self, spec: Network, say: Callable[[str], None] | None = None) -> nn.Module:
        """The network of a spec as it takes rows that are normalised; `say` is told what was found in its weights."""
        shape, width = self.data.shape, len(spec.classes) if spec.classes else self.data.task.outputs
        if not spec.external:
            return build(spec, shape, width, places=self.data.places, framework=self.recipe.framework, say=say)
        model = external.load(spec, self.data, trust=self.trust)
        try_out(model, spec.model, shape, width, self.data.places)
        return model

    def _callable(self, spec: Network) -> ExternalModel | None:
        given = isinstance(spec, TeacherSpec) and isinstance(spec.source, FunctionSource)
        return self.callables[spec.name] if given and isinstance(spec, TeacherSpec) else None

    def source(self, spec: TeacherSpec) -> Path | None:
        """The file that a teacher comes from, in the run directory where it was made here; a callable has none."""
        if isinstance(spec.source, Estimator):
            return self.folder / spec.name / external.MODEL
        if spec.asked:
            return Path(spec.files[-1]) if spec.files else None
        return self.weights(spec.name, spec.train)

    def weights(self, name: str, plan: Plan | None) -> Path:
        """The file that the stage `name` leaves its selected weights in."""
        return self.folder / name / f"{plan.select if plan else 'best'}.safetensors"
