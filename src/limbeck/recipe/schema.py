"""What a recipe may say, and which combinations cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limbeck import signatures
from limbeck.errors import did_you_mean
from limbeck.types import Kind

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

Source = Literal[
    "digits", "wine", "breast-cancer", "diabetes", "linnerud",
    "mnist", "fashion-mnist", "cifar10", "folder", "arrays", "table",
]  # fmt: skip
EMBEDDED = ("digits", "wine", "breast-cancer", "diabetes", "linnerud")
OWN_NAMES = (
    "ensemble", "export", "measured", "recipe.yaml", "classes.json", "result.json", "report.html",
)  # fmt: skip
NEEDS_PATH = ("folder", "arrays", "table")


class Strict(BaseModel):
    """Unknown keys and wrong types are refused; a checked recipe does not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Split(Strict):
    """Three splits, always. A published test set is kept whole unless `test` is given."""

    val: Fraction = 0.15
    test: Fraction | None = None
    seed: int = 0
    stratify: bool = True
    group: str | None = None


class Data(Strict):
    """Where rows come from, how they are prepared and how they are split."""

    source: Source
    path: str | None = None
    fallback: Source | None = None
    target: str | list[str] | None = None
    drop: list[str] = []
    classes: Annotated[int, Field(ge=2)] | list[str] | None = None
    limit: Annotated[int, Field(ge=10)] | None = None
    size: Annotated[int, Field(ge=8)] | None = None
    channels: Literal[1, 3] | None = None
    background: Literal["white", "black", "grey"] = "white"
    flat: bool = False
    mean: list[float] | None = None
    std: list[Positive] | None = None
    strict: bool = False
    split: Split = Split()

    @model_validator(mode="after")
    def _fits_source(self) -> Data:
        if self.source in NEEDS_PATH and not self.path:
            raise ValueError(f"source '{self.source}' needs `path`")
        if self.source in EMBEDDED and self.path:
            raise ValueError(f"source '{self.source}' is embedded and takes no `path`")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give `mean` and `std` together, or neither (they are then measured on the training rows)")
        only_for = {
            "target": ("table", "arrays"), "drop": ("table",), "size": ("folder",), "channels": ("folder",),
            "classes": ("folder",), "strict": ("folder",), "background": ("folder",),
        }  # fmt: skip
        for name, sources in only_for.items():
            if name in self.model_fields_set and self.source not in sources:
                raise ValueError(
                    f"`{name}` has no effect with source '{self.source}', only with {' or '.join(sources)}"
                )
        if self.split.group and self.source not in ("folder", "table"):
            raise ValueError(f"`split.group` has no effect with source '{self.source}', only with folder or table")
        if self.source == "table" and not self.target:
            raise ValueError("source 'table' needs `target`, the column to predict")
        return self


class Blur(Strict):
    """Gaussian blur with a sigma drawn from a range, in pixels."""

    kernel: Annotated[int, Field(ge=3)] = 5
    sigma: tuple[Positive, Positive] = (0.1, 2.0)

    @field_validator("sigma", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _odd(self) -> Blur:
        if self.kernel % 2 == 0:
            raise ValueError("`kernel` is an odd number of pixels")
        if self.sigma[0] > self.sigma[1]:
            raise ValueError("`sigma` is [smallest, largest]")
        return self


class Jitter(Strict):
    """How far brightness, contrast and saturation factors may leave 1, and hue may turn (0.5 is half the circle)."""

    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Augment(Strict):
    """Augmentation of training images. Everything off by default."""

    flip: Share = 0.0
    shift: Annotated[int, Field(ge=0)] = 0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    blur: Blur | None = None
    jitter: Jitter | None = None
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _one_mix(self) -> Augment:
        if self.mixup and self.cutmix:
            raise ValueError("`mixup` and `cutmix` both mix the labels: choose one")
        return self

    @property
    def active(self) -> bool:
        """Whether anything is switched on."""
        return self != Augment()


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
        for key, names in belongs.items():
            if key in self.model_fields_set and self.name not in names:
                raise ValueError(f"`{key}` has no effect with the {self.name} schedule, only with {' or '.join(names)}")
        if self.name == "step" and self.step_size is None:
            raise ValueError("the step schedule needs `step_size`, in epochs")
        return self


class Plan(Strict):
    """How one network is trained.

    `batch_size` is the number of rows behind one optimizer step, over all processes and accumulated parts.
    """

    epochs: Count = 10
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
        if "momentum" in self.model_fields_set and self.optimizer != "sgd":
            raise ValueError(f"`momentum` has no effect with optimizer '{self.optimizer}', only with sgd")
        if self.accumulate > self.batch_size:
            raise ValueError("`accumulate` splits a batch into that many parts; it cannot exceed `batch_size`")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("`warmup_epochs` must be less than `epochs`")
        return self


class Network(Strict):
    """A reference network by name, or any timm model as `timm/NAME`."""

    model: str
    options: dict[str, Any] = {}
    weights: str | None = None
    pretrained: bool = False
    mean: list[float] | None = None
    std: list[Positive] | None = None

    @model_validator(mode="after")
    def _known(self) -> Network:
        if self.model.startswith("timm/"):
            return self
        known = signatures.networks()
        if self.model not in known:
            raise ValueError(f"unknown model '{self.model}'; {did_you_mean(self.model, known)} (or timm/NAME)")
        if self.pretrained and "pretrained" not in known[self.model].options:
            raise ValueError(f"`pretrained` has no effect with '{self.model}', only with timm/NAME")
        _check_options(f"model '{self.model}'", self.options, known[self.model])
        return self


class Teacher(Network):
    """A network to learn from: trained here by `train`, brought along as `weights` or `pretrained`, or both."""

    name: str = "teacher"
    train: Plan | None = None

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
            raise ValueError("a teacher's name becomes a folder: letters, digits, '_', '.' and '-'")
        if value in OWN_NAMES or re.match(r"(student|distilled)-seed", value):
            raise ValueError(f"'{value}' is a name of Limbeck's own in a run directory: choose another")
        return value

    @model_validator(mode="after")
    def _has_knowledge(self) -> Teacher:
        if self.train is None and self.weights is None and not self.pretrained:
            raise ValueError("give `train` to train this teacher here, or `weights` to load it")
        return self


class Student(Network):
    """The small network; trained alone and with the teacher by the same plan."""

    train: Plan = Plan()


class Term(Strict):
    """One weighted loss of the objective. Options of the loss stand beside the weight."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    loss: str
    weight: Annotated[float, Field(ge=0)] = 1.0
    student: str = "prediction"
    teacher: str = "prediction"

    @property
    def options(self) -> dict[str, Any]:
        """What the loss itself is given."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _known(self) -> Term:
        known = signatures.losses()
        if self.loss not in known:
            raise ValueError(f"unknown loss '{self.loss}'; {did_you_mean(self.loss, known)}")
        if "label_smoothing" in self.options:
            raise ValueError("give `label_smoothing` in student.train, so that the student alone gets it too")
        _check_options(
            f"loss '{self.loss}'", self.options, known[self.loss], beside=("weight", "student", "teacher", "loss")
        )
        return self


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
    data: Data
    augment: Augment = Augment()
    teachers: list[Teacher] = []
    student: Student
    losses: dict[str, Term]
    seeds: list[int] = [0, 1, 2]
    export: list[Literal["onnx", "litert"]] = []
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

    @field_validator("losses", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        """`kd: 0.9` stands for `kd: {weight: 0.9}`; the key names the loss unless `loss` does."""
        if not isinstance(value, dict):
            return value
        spelled = {}
        for name, term in value.items():
            if term is None:
                term = {}
            elif isinstance(term, int | float) and not isinstance(term, bool):
                term = {"weight": float(term)}
            spelled[name] = {"loss": name, **term} if isinstance(term, dict) else term
        return spelled

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("`seeds` is a number of seeds, or a list of different ones")
        names = [t.name for t in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"teachers need different names, not {names}")
        if self.data.source in ("diabetes", "linnerud") and self.task != "regression":
            raise ValueError(f"source '{self.data.source}' has measured values to predict: say `task: regression`")
        if self.task == "regression" and self.data.source not in ("diabetes", "linnerud", "arrays", "table"):
            raise ValueError(f"source '{self.data.source}' has classes: `task: regression` does not fit")
        if self.task == "regression" and (self.augment.mixup or self.augment.cutmix):
            raise ValueError("mixup and cutmix mix class labels: they do not fit `task: regression`")
        self._losses_fit()
        return self

    def _losses_fit(self) -> None:
        known = signatures.losses()
        if not any(term.weight > 0 for term in self.losses.values()):
            raise ValueError("`losses` has no term with a weight above 0")
        for name, term in self.losses.items():
            family = known[term.loss].family
            if family == "logit" and self.task == "regression":
                raise ValueError(f"loss '{name}' compares classes: it does not fit `task: regression`")
            if family == "regression" and self.task == "classification" and term.loss != "mse":
                raise ValueError(f"loss '{name}' compares measured values: it does not fit `task: classification`")
        taught = [name for name, term in self.losses.items() if known[term.loss].needs_teacher]
        if taught and not self.teachers:
            raise ValueError(f"loss '{taught[0]}' learns from a teacher, and `teachers` is empty")
        if self.teachers and not any(self.losses[name].weight > 0 for name in taught):
            raise ValueError(
                "there is a teacher, but no loss with a weight above 0 learns from it (add `kd`, or `mse`)"
            )


def _check_options(
    what: str, given: Mapping[str, Any], signature: signatures.Signature, beside: Iterable[str] = ()
) -> None:
    if wrong := signatures.misfit(given, signature, beside):
        raise ValueError(f"{what}: {'; '.join(part for part in wrong if part)}")
