"""Where rows come from and what is done to them, and the strictness every part of a recipe shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

Source = Literal[
    "digits", "wine", "breast-cancer", "diabetes", "linnerud",
    "mnist", "fashion-mnist", "cifar10", "folder", "masks", "arrays", "table",
]  # fmt: skip
EMBEDDED = ("digits", "wine", "breast-cancer", "diabetes", "linnerud")
FILES = ("folder", "masks")  # of images, decoded and resized
NEEDS_PATH = ("folder", "masks", "arrays", "table")


def has_masks(root: Path) -> bool:
    """Whether a folder holds images and masks: folders of these names in it, or in its `train`."""
    return any((place / "images").is_dir() and (place / "masks").is_dir() for place in (root, root / "train"))


class Strict(BaseModel):
    """Unknown keys and wrong types are refused; a checked recipe does not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def only_with(model: Strict, chosen: str, belongs: Mapping[str, Sequence[str]], what: str) -> None:
    """Refuse keys that have no effect with what was chosen.

    Args:
        model: where they stand.
        chosen: what was.
        belongs: key -> what it has an effect with.
        what: the choice in words, for the message.

    Raises:
        ValueError: a key was given that belongs to another choice.
    """
    for key, others in belongs.items():
        if key in model.model_fields_set and chosen not in others:
            raise ValueError(f"`{key}` has no effect with {what}, only with {' or '.join(others)}")


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
    unlabelled: str | None = None
    fallback: Source | None = None
    target: str | list[str] | None = None
    log_target: bool = False
    drop: list[str] = []
    classes: Annotated[int, Field(ge=2)] | list[str] | None = None
    ignore: Annotated[int, Field(ge=0)] | None = None
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
        belongs = {
            "target": ("table", "arrays"), "drop": ("table",), "size": FILES, "channels": FILES, "classes": FILES,
            "strict": FILES, "background": FILES, "ignore": ("masks",),
            "log_target": ("table", "arrays", "diabetes", "linnerud"),
        }  # fmt: skip
        only_with(self, self.source, belongs, f"source '{self.source}'")
        if self.split.group and self.source not in (*FILES, "table"):
            known = " or ".join((*FILES, "table"))
            raise ValueError(f"`split.group` has no effect with source '{self.source}', only with {known}")
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
