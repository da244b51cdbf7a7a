"""A whole recipe, and which combinations of its parts cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from limbeck.core import signatures
from limbeck.core.formats import TRAINED, file_format
from limbeck.core.types import Framework, Kind
from limbeck.recipe.compression import Budget, Deployable, Files, Step
from limbeck.recipe.frameworks import framework_misfit, of_keras, student_misfit
from limbeck.recipe.model_source import Code, ModelFile
from limbeck.recipe.networks import Assistant, Combine, Student, Teacher
from limbeck.recipe.sources import Augment, Data, Positive, Strict
from limbeck.recipe.stages import FOLDER, NO_FOLDER, RESERVED, SEARCH, clash, generation, peer, recovered, seeded
from limbeck.recipe.tasks import WEIGHTED, combine_misfit, loss_misfit, source_misfit
from limbeck.recipe.terms import AUTO, Term
from limbeck.tasks import rules


class MisfitError(ValueError):
    """Parts of a recipe that do not fit together, with the dotted place of the part to change."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(what)
        self.place = place


class Cache(Strict):
    """How the teachers' outputs are stored.

    Attributes:
        strict: refuse what is damaged, or stored for another teacher, data set or augmentation, rather than ask anew.
        dtype: of stored logits, values and features.
        top_k: keep that many logits of each row and the mass of the rest; 0 keeps all. By default 64 from 1,000
            classes on.
        limit_gb: how much all stored outputs together may take.
        pixels: store the augmented images, too.
    """

    strict: bool = False
    dtype: Literal["float16", "float32"] = "float16"
    top_k: Annotated[int, Field(ge=0)] | None = None
    limit_gb: Positive = 20.0
    pixels: bool = False


class Run(Strict):
    """How a run uses the machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = []


class Recipe(Strict):
    """One job, from data to verified files."""

    name: str = "run"
    about: str = ""
    task: Kind = "classification"
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None
    framework: Framework = "torch"
    data: Data
    augment: Augment = Augment()
    views: Annotated[int, Field(ge=0)] | None = None
    teachers: list[Teacher] = []
    combine: Combine | None = None
    assistants: list[Assistant] = []
    student: Student
    losses: dict[str, Term]
    compare: dict[str, dict[str, Term]] = {}
    cache: Cache = Cache()
    seeds: list[int] = [0, 1, 2]
    compress: dict[str, list[Step]] = {}
    budget: Budget | None = None
    export: list[Deployable] = []
    files: Files = Files()
    run: Run = Run()

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if value.strip() in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", value):
            raise ValueError("the name becomes a folder below runs/: one word or more, without '/' (see --out)")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _how_many(cls, value: Any) -> Any:
        return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("combine", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("cache", mode="before")
    @classmethod
    def _strict_alone(cls, value: Any) -> Any:
        return {"strict": True} if value == "strict" else value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _names_are_words(cls, value: Any) -> Any:
        return {str(name): weight for name, weight in value.items()} if isinstance(value, dict) else value

    @field_validator("losses", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _spelled(value) if isinstance(value, dict) else value

    @field_validator("compare", mode="before")
    @classmethod
    def _shorthands(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: _spelled(terms) if isinstance(terms, dict) else terms for name, terms in value.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise MisfitError("seeds", "is a number of seeds, or a list of different ones")
        if wrong := source_misfit(self.data, self.task):
            raise MisfitError("data.source", wrong)
        if self.data.log_target and rules(self.task).predicts != "values":
            raise MisfitError("data.log_target", f"classes have no logarithm: it does not fit `task: {self.task}`")
        if self.data.log_target and self.predicts_variance:
            what = "does not go with losses on Gaussians: of a logarithm's they would be none in the target's own unit"
            raise MisfitError("data.log_target", what)
        if not rules(self.task).mixes and (self.augment.mixup or self.augment.cutmix):
            raise MisfitError("augment", f"mixup and cutmix mix class labels: they do not fit `task: {self.task}`")
        if self.cache.top_k and rules(self.task).predicts != "classes":
            raise MisfitError("cache.top_k", f"cuts the logits of classes: it does not fit `task: {self.task}`")
        if not self.augment.active:
            if self.views and self.views > 1:
                raise MisfitError("views", "has no effect without `augment`: every view would be the same")
            if self.cache.pixels:
                raise MisfitError("cache.pixels", "has no effect without `augment`: there are no augmented images")
        self._teachers_fit()
        self._combine_fits()
        self._labels_fit()
        self._losses_fit("losses", self.losses)
        for name, terms in self.compare.items():
            if not re.fullmatch(FOLDER, name):
                raise MisfitError(f"compare.{name}", NO_FOLDER)
            self._losses_fit(f"compare.{name}", terms)
        if self.compare and (not self.teachers or self.student.generations):
            raise MisfitError("compare", "compares what students learn from `teachers`, in one generation")
        self._smaller_fits()
        self._framework_fits()
        if twice := clash(self.stage_names):
            raise MisfitError(*twice)
        return self

    @property
    def stage_names(self) -> Iterator[tuple[str, str]]:
        """Every name that a run gives to a stage, a model or a row of its report.

        Yields:
            (place, name): the place in the recipe that the name is from, "" for a name of Limbeck's own.
        """
        student, seeds = self.student, self.seeds
        yield from (("", name) for name in RESERVED)
        yield from ((f"teachers.{i}.name", teacher.name) for i, teacher in enumerate(self.teachers))
        yield from ((f"assistants.{i}.name", assistant.name) for i, assistant in enumerate(self.assistants))
        yield from (("", seeded(name, seed)) for name in ("student", "direct") for seed in seeds)
        count = student.generations or 1
        yield from (("", generation(seed, number, count)) for seed in seeds for number in range(1, count + 1))
        yield from (("", peer(seed, number)) for seed in seeds for number in range(1, student.peers or 1))
        for name in self.compare:
            yield f"compare.{name}", name
            yield from ((f"compare.{name}", seeded(name, seed)) for seed in seeds)
        variants = {f"compress.{name}": name for name in self.compress} | ({"budget": SEARCH} if self.budget else {})
        for place, name in variants.items():
            yield place, name
            yield from ((place, recovered(name, seed, taught=taught)) for seed in seeds for taught in (True, False))

    @property
    def edited_by(self) -> list[str]:
        """The keys that change the student's layers."""
        return [key for key in ("compress", "budget") if getattr(self, key)]

    @property
    def smaller(self) -> bool:
        """Whether the student is made smaller once it is trained."""
        return bool(self.edited_by)

    @property
    def taught(self) -> bool:
        """Whether a student learns from anybody: teachers, an earlier generation or its peers."""
        return not self.student.ready and bool(self.teachers or self.student.generations or self.student.peers)

    @property
    def predicts_variance(self) -> bool:
        """Whether networks say how sure they are of each value, as the losses on Gaussians ask."""
        known = signatures.losses()
        return any(known[t.loss].gaussian for ts in (self.losses, *self.compare.values()) for t in ts.values())

    def _teachers_fit(self) -> None:
        for number, teacher in enumerate(self.teachers):
            if teacher.keyed and self.augment.active:
                what = f"'{teacher.model}' knows rows as they are, and has no answer for augmented ones"
                raise MisfitError(f"teachers.{number}.model", what)
            if isinstance(teacher.source, ModelFile) and teacher.keyed and self.data.unlabelled:
                what = f"predictions are of the rows of `data.path`, and '{teacher.model}' has none for others"
                raise MisfitError("data.unlabelled", what)
            if teacher.fixed and self.combine and self.combine.joint:
                raise MisfitError(
                    f"teachers.{number}.model", f"'{teacher.model}' cannot be trained with others jointly"
                )
            if not teacher.knows and not (self.combine and self.combine.joint):
                raise MisfitError(f"teachers.{number}", "give `train` to train it here, or `weights` to load it")
        if self.assistants and not self.teachers:
            raise MisfitError("assistants", "learn from teachers, and `teachers` is empty")
        if self.student.peers and (self.teachers or self.student.generations):
            raise MisfitError("student.peers", "learn from each other: leave `teachers` and `student.generations` out")

    def _combine_fits(self) -> None:
        combine, count = self.combine, len(self.teachers)
        if combine is None:
            return
        if count < 2:
            raise MisfitError("combine", f"has no effect with {count} teacher{'' if count == 1 else 's'}")
        if wrong := combine_misfit(combine, self.task):
            raise MisfitError(*wrong)
        if isinstance(combine.weights, list) and len(combine.weights) != count:
            raise MisfitError("combine.weights", f"has {len(combine.weights)} numbers for {count} teachers")

    def _framework_fits(self) -> None:
        networks = [
            (f"{key}.{i}", one) for key in ("teachers", "assistants") for i, one in enumerate(getattr(self, key))
        ]
        found = framework_misfit(self.framework, [*networks, ("student", self.student)])
        if not found and not isinstance(self.student.source, Code):  # of which only the function knows what it makes
            keras = of_keras(self.student, self.framework)
            found = student_misfit(self.student, keras=keras, edited_by=self.edited_by, export=self.export)
        if found:
            raise MisfitError(*found)

    def _labels_fit(self) -> None:
        """Whether what the recipe says of labels can take effect."""
        if self.class_weights and rules(self.task).predicts == "values":
            raise MisfitError("class_weights", "measured values have no classes to weigh")
        named = [("student.train", self.student.train), ("combine.train", self.combine.train if self.combine else None)]
        named += [(f"teachers.{i}.train", teacher.train) for i, teacher in enumerate(self.teachers)]
        named += [(f"assistants.{i}.train", assistant.train) for i, assistant in enumerate(self.assistants)]
        for place, plan in named:
            if plan and plan.label_smoothing and rules(self.task).predicts != "classes":
                raise MisfitError(f"{place}.label_smoothing", f"has no effect with `task: {self.task}`")
        if self.data.unlabelled and not (self.taught or self.smaller):
            raise MisfitError(
                "data.unlabelled", "rows without a label are learned from with a teacher, and there is none"
            )
        if self.class_weights is None:
            return
        own = [t.loss for t in self.losses.values() if t.learns and not signatures.losses()[t.loss].needs_teacher]
        if own and not any(loss in WEIGHTED for loss in own):
            raise MisfitError("class_weights", f"weigh {' and '.join(WEIGHTED)}, and `losses` have none of these")

    def _losses_fit(self, place: str, terms: dict[str, Term]) -> None:
        known = signatures.losses()
        if not any(term.learns for term in terms.values()):
            raise MisfitError(place, "has no term with a weight above 0")
        if all(term.weight == AUTO for term in terms.values() if term.learns):
            raise MisfitError(place, "`weight: auto` balances against terms with a number for a weight: give one")
        for name, term in terms.items():
            if term.loss == "hard" and term.options and place == "losses":
                what = "give `label_smoothing` in student.train and `class_weights` beside `task`, for all to have them"
                raise MisfitError(f"{place}.{name}", what)
            if wrong := loss_misfit(term.loss, self.task):
                raise MisfitError(f"{place}.{name}", wrong)
            if known[term.loss].gaussian and len(self.teachers) > 1:
                raise MisfitError(f"{place}.{name}", "compares Gaussians, and those of several teachers are none")
            if self.data.unlabelled and term.learns and term.needs_labels:
                what = "needs the label of every row it learns from, and those of `data.unlabelled` have none"
                raise MisfitError(f"{place}.{name}", what)
        learns = [name for name, term in terms.items() if known[term.loss].needs_teacher]
        if learns and not self.taught and not self.smaller and not self.student.ready:
            raise MisfitError(f"{place}.{learns[0]}", "learns from a teacher, and `teachers` is empty")
        if self.taught and not any(terms[name].learns for name in learns):
            if place != "losses":
                return  # a method without a teacher, to hold the others against
            raise MisfitError(
                place,
                "there is a teacher, but no loss with a weight above 0 learns from it (add `kd`, or `mse`)",
            )

    def _smaller_fits(self) -> None:
        for name, steps in self.compress.items():
            place = f"compress.{name}"
            if not re.fullmatch(FOLDER, name):
                raise MisfitError(place, NO_FOLDER)
            if not steps:
                raise MisfitError(place, "has no steps")
            thin = next((number for number, step in enumerate(steps) if step.sparsify), len(steps))
            for number, step in enumerate(steps[thin + 1 :], start=thin + 1):
                if step.factorise or step.quantize:
                    raise MisfitError(f"{place}.{number}", "would fill the zeros of `sparsify`: take that after it")
            self._quantize_fits(place, steps)
        if self.smaller and self.student.peers:
            raise MisfitError("student.peers", "and `compress` do not go together: there is no one student to compress")
        if self.student.ready and (self.compare or not (self.smaller or self.export)):
            what = "takes the student as it is: then there is nothing but `compress`, `budget` and `export` to do"
            raise MisfitError("student.train.epochs", what)
        for number, teacher in enumerate(self.teachers):
            if teacher.train and not teacher.train.epochs:
                raise MisfitError(f"teachers.{number}.train.epochs", "is 1 or more; leave `train` out to load it only")
        if self.budget and self.budget.size_kb is None and self.budget.latency_ms is None:
            raise MisfitError("budget", "needs `size_kb`, `latency_ms` or both: what the model must keep to")
        if not self.export:
            for key in self.files.model_fields_set:
                raise MisfitError(f"files.{key}", "has no effect without `export`")
        self._files_fit()

    def _quantize_fits(self, place: str, steps: list[Step]) -> None:
        trained = [number for number, step in enumerate(steps) if step.quantize]
        if not trained:
            return
        if trained != [len(steps) - 1]:
            raise MisfitError(f"{place}.{trained[0]}", "quantization-aware training is the last step")
        if self.export and not any(name in TRAINED for name in self.export):
            raise MisfitError("export", f"has no format that `{place}` can become: {', '.join(TRAINED)}")
        for name, term in self.losses.items():
            if (term.student, term.teacher) != ("prediction", "prediction"):
                what = f"compares features, which a network that learns quantized (`{place}`) does not name"
                raise MisfitError(f"losses.{name}", what)

    def _files_fit(self) -> None:
        given, names = self.files.model_fields_set, self.export
        if "batches" in given and not any(file_format(name).form == "litert" for name in names):
            raise MisfitError("files.batches", "has an effect on LiteRT files only, and `export` has none")
        measured = any(file_format(name).precision == "int8" for name in names)
        for key in ("calibration", "max_drop"):
            if key in given and not measured:
                raise MisfitError(f"files.{key}", "has an effect on `-int8` files only, and `export` has none")
        if len(set(names)) != len(names):
            raise MisfitError("export", "names a format twice")


def _spelled(terms: dict[Any, Any]) -> dict[Any, Any]:
    """`kd: 0.9` stands for `kd: {weight: 0.9}` and `at: auto` for taps to be found; the key alone names the loss."""
    spelled = {}
    for name, term in terms.items():
        if term is None:
            term = {}
        elif term == AUTO:
            term = {"student": AUTO, "teacher": AUTO}
        elif isinstance(term, int | float) and not isinstance(term, bool):
            term = {"weight": float(term)}
        spelled[name] = {"loss": name, **term} if isinstance(term, dict) else term
    return spelled
