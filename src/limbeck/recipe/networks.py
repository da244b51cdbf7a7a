"""Networks, how each of them is trained, and how several teachers become one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from limbeck.core import signatures
from limbeck.core.errors import did_you_mean
from limbeck.recipe.applications import APPLICATIONS, prepared
from limbeck.recipe.model_source import (
    ESTIMATORS,
    FILES,
    Code,
    Estimator,
    KerasApplication,
    ModelFile,
    ModelSource,
    Reference,
    read_model,
)
from limbeck.recipe.sources import Count, Fraction, Positive, Share, Strict, only_with
from limbeck.recipe.stages import FOLDER, NO_FOLDER

Preprocess = Literal["unit", "bytes", "signed", "imagenet", "caffe"]


class Schedule(Strict):
    """How the learning rate moves, in epochs."""

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    t_max: Positive | None = None
    eta_min: Annotated[float, Field(ge=0)] = 0.0
    step_size: Positive | None = None
    gamma: Fraction = 0.1

    @model_validator(mode="after")
    def _takes_effect(self) -> Schedule:
        belongs = {
            "t_max": ("cosine", "linear"),
            "eta_min": ("cosine", "linear"),
            "step_size": ("step",),
            "gamma": ("step",),
        }
        only_with(self, self.name, belongs, f"the {self.name} schedule")
        if self.name == "step" and self.step_size is None:
            raise ValueError("the step schedule needs `step_size`, in epochs")
        return self


class Plan(Strict):
    """How one network is trained.

    `batch_size` is the number of rows behind one optimizer step, over all processes and accumulated parts. A student
    with `epochs: 0` is not trained but taken as its `weights` are, to be made smaller.
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Count = 64
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 1e-3
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Schedule = Schedule()
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Fraction | None = None
    patience: Count | None = None
    accumulate: Count = 1
    select: Literal["best", "last"] = "best"

    @field_validator("schedule", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _takes_effect(self) -> Plan:
        only_with(self, self.optimizer, {"momentum": ("sgd",)}, f"optimizer '{self.optimizer}'")
        if self.accumulate > self.batch_size:
            raise ValueError("`accumulate` splits a batch into that many parts; it cannot exceed `batch_size`")
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError("`warmup_epochs` must be less than `epochs`")
        return self


class Network(Strict):
    """A reference network by name, a model of a library as `timm/NAME`, a model in a file, or one that code makes.

    Attributes:
        model: `NAME`, `timm/NAME`, `keras/NAME` of keras.applications, the path of a whole model, `PATH.py:FUNCTION`,
            an estimator as `sklearn/NAME`, `xgboost/NAME` or `lightgbm/NAME`, or `callable`, a function given in
            Python.
        options: of a network that is built, or of an estimator.
        weights: a state dict for it.
        pretrained: with the library's own weights.
        preprocess: what the network takes, by the usual names; or by `mean` and `std`. A keras/NAME takes what its
            published weights do unless something is said here.
        mean: what is taken off each channel of pixels in [0, 1], or off each column.
        std: what they are divided by then.
        classes: of a model from elsewhere, the names of its outputs in its own order. It may know more than the data.
        outputs: of a model from elsewhere. Logits and probabilities are told apart by looking; values are in the
            target's own unit unless they are said to be `standardised`.
    """

    model: str
    options: dict[str, Any] = {}
    weights: str | None = None
    pretrained: bool = False
    preprocess: Preprocess | None = None
    mean: list[float] | None = None
    std: list[Positive] | None = None
    classes: list[str] | None = None
    outputs: Literal["logits", "probabilities", "standardised"] | None = None

    @property
    def source(self) -> ModelSource:
        """Where the network comes from."""
        return read_model(self.model)

    @property
    def fixed(self) -> bool:
        """Whether it can only be asked, or fitted by its own rules. Files of Keras can be trained."""
        return self.source.fixed

    @property
    def keyed(self) -> bool:
        """Whether it answers for the rows of the data set as they are, known by their number, and for no others."""
        return self.source.keyed

    @property
    def external(self) -> bool:
        """Whether the model was made elsewhere."""
        return self.source.external

    @property
    def files(self) -> list[str]:
        """What it is read from."""
        own = [self.source.path] if isinstance(self.source, Code | ModelFile) else []
        return [*own, *([self.weights] if self.weights else [])]

    @property
    def trained(self) -> bool:
        """Whether it is trained here, from whatever weights."""
        return getattr(self, "train", None) is not None

    @property
    def asked(self) -> bool:
        """Whether it is a model from elsewhere that is asked as it is, and of which the run keeps no weights."""
        return self.external and not self.trained

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, value: Any) -> Any:
        return prepared(value)

    @model_validator(mode="after")
    def _known(self) -> Network:
        if self.preprocess and (self.mean or self.std):
            raise ValueError("`preprocess` stands for a `mean` and a `std`: give it or them")
        source = self.source
        if type(source) is Reference:
            known = signatures.networks()
            if self.model not in known:
                else_ = f"timm/NAME, keras/NAME, sklearn/NAME, a file ({', '.join(FILES)}), or PATH.py:FUNCTION"
                raise ValueError(f"unknown model '{self.model}'; {did_you_mean(self.model, known)} (or {else_})")
            if self.pretrained and "pretrained" not in known[self.model].options:
                raise ValueError(f"`pretrained` has no effect with '{self.model}', only with timm/NAME")
            check_options(f"model '{self.model}'", self.options, known[self.model])
        if isinstance(source, KerasApplication) and source.name not in APPLICATIONS:
            what = f"keras.applications has no '{source.name}'"
            raise ValueError(f"{what}; {did_you_mean(source.name, APPLICATIONS)}")
        for key in self._without_effect():
            if key in self.model_fields_set:
                raise ValueError(f"`{key}` has no effect with '{self.model}'")
        if self.outputs and self.external and self.trained:
            raise ValueError(
                "`outputs` has no effect where `train` is given: what is trained here gives logits or values"
            )
        return self

    def _without_effect(self) -> tuple[str, ...]:
        """Keys that cannot do anything for a network from there."""
        keys = self.source.without_effect
        # A reference network, timm's or Keras's that brings weights may have been taught the classes in another order.
        return tuple(key for key in keys if key != "classes") if self.weights and not self.external else keys


def _stage_name(value: str) -> str:
    if not re.fullmatch(FOLDER, value):
        raise ValueError(NO_FOLDER)
    return value


StageName = Annotated[str, AfterValidator(_stage_name)]


class Teacher(Network):
    """A network to learn from: trained here by `train`, brought along as `weights` or `pretrained`, or both.

    Attributes:
        name: of its stage, and of the function that a `callable` is.
        seed: of its training.
        train: how it is trained.
        folds: of an estimator: what it says of a training row comes from one that was fitted without the row's fold.
    """

    name: StageName = "teacher"
    seed: int = 0
    train: Plan | None = None
    folds: Annotated[int, Field(ge=2)] | None = None

    @property
    def knows(self) -> bool:
        """Whether anything says where its knowledge comes from."""
        own = self.fixed or isinstance(self.source, ModelFile)
        return self.train is not None or self.weights is not None or self.pretrained or own

    @model_validator(mode="after")
    def _can_be_trained(self) -> Teacher:
        if self.train and self.fixed:
            how = "is fitted by its own rules" if isinstance(self.source, Estimator) else "is asked as it is"
            raise ValueError(f"`train` has no effect with '{self.model}', which {how}")
        if self.folds and not isinstance(self.source, Estimator):
            raise ValueError(f"`folds` has no effect with '{self.model}', only with {'/NAME, '.join(ESTIMATORS)}/NAME")
        return self


class Assistant(Network):
    """A network between teacher and student: it learns from the one before it and teaches the next one.

    Mirzadeh et al., 2020, "Improved Knowledge Distillation via Teacher Assistant".
    """

    name: StageName = "assistant"
    seed: int = 0
    train: Plan = Plan()

    @model_validator(mode="after")
    def _can_be_trained(self) -> Assistant:
        if self.fixed:
            raise ValueError(f"'{self.model}' cannot be trained, and an assistant learns from the one before it")
        return self


class Combine(Strict):
    """How several teachers become one."""

    name: Literal["average", "logits-average", "vote", "weighted", "stacked", "mean", "median"]
    weights: Literal["accuracy", "confidence"] | list[float] | None = None
    smoothing: Positive | None = None
    hidden: list[Count] = []
    joint: bool = False
    train: Plan | None = None

    @model_validator(mode="after")
    def _takes_effect(self) -> Combine:
        belongs = {"weights": ("weighted",), "smoothing": ("vote",)}
        belongs |= dict.fromkeys(("hidden", "joint", "train"), ("stacked",))
        only_with(self, self.name, belongs, f"'{self.name}'")
        if self.name == "weighted":
            if self.weights is None:
                raise ValueError("'weighted' needs `weights`: a number for each teacher, `accuracy` or `confidence`")
            if isinstance(self.weights, list) and (min(self.weights, default=0) < 0 or not sum(self.weights) > 0):
                raise ValueError("`weights` are 0 or more, and not all of them 0")
        if self.joint != (self.train is not None):
            raise ValueError("`joint: true` and `train` belong together: the plan by which all of it is trained")
        return self


class Student(Network):
    """The small network; trained alone and with the teacher by the same plan.

    Attributes:
        generations: that many taught students one after the other, each learning from the one before it; the first from
            the teachers, or without any from the student trained alone (Furlanello et al., 2018, "Born-Again Neural
            Networks").
        peers: that many students that learn together, each from the others (Zhang et al., 2018, "Deep Mutual
            Learning").
    """

    train: Plan = Plan()
    generations: Count | None = None
    peers: Annotated[int, Field(ge=2)] | None = None

    @property
    def ready(self) -> bool:
        """Whether it is taken as it is, and not trained."""
        return not self.train.epochs

    @model_validator(mode="after")
    def _known_already(self) -> Student:
        if self.fixed:
            raise ValueError(f"'{self.model}' cannot be trained: a student is a network of PyTorch, timm or Keras")
        if self.ready and not self.weights and not isinstance(self.source, ModelFile):
            raise ValueError("`train.epochs: 0` takes the student as it is: give its `weights`")
        if self.ready and (self.generations or self.peers):
            raise ValueError("`train.epochs: 0` trains nobody: leave `generations` and `peers` out")
        return self


def check_options(
    what: str, given: Mapping[str, Any], signature: signatures.Signature, beside: Iterable[str] = ()
) -> None:
    """Refuse options that a loss or network does not take."""
    if wrong := signatures.misfit(given, signature, beside):
        raise ValueError(f"{what}: {'; '.join(part for part in wrong if part)}")
