"""The terms of an objective: which losses, on what, how much of each, and how that changes while a student learns."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from limbeck.core import signatures
from limbeck.core.errors import did_you_mean
from limbeck.recipe.networks import check_options
from limbeck.recipe.sources import Positive, Strict

AUTO = "auto"
PREDICTION = "prediction"
Number = Annotated[float, Field(ge=0)]


class Ramp(Strict):
    """A number that moves from `start` to `end` over the first `epochs` (all of them by default), and then stays."""

    start: Number
    end: Number
    epochs: Positive | None = None
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, epoch: float, epochs: float) -> float:
        """The number at a moment, in epochs since the start of a training of so many."""
        share = min(epoch / (self.epochs or epochs), 1.0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


class Term(Strict):
    """One weighted loss of the objective. Options of the loss stand beside the weight.

    Without `weight` it is the published one of the loss (1 for most). `auto` sets it so that the term's gradient at the
    student's last shared layer is as large as that of the terms with given weights.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    loss: str
    weight: Number | Ramp | Literal["auto"] = 1.0
    student: str | list[str] = PREDICTION
    teacher: str | list[str] = PREDICTION

    @property
    def options(self) -> dict[str, Any]:
        """What the loss itself is given."""
        return {k: v for k, v in (self.__pydantic_extra__ or {}).items() if not isinstance(v, Ramp)}

    @property
    def ramps(self) -> dict[str, Ramp]:
        """The loss's options that move."""
        return {k: v for k, v in (self.__pydantic_extra__ or {}).items() if isinstance(v, Ramp)}

    @property
    def learns(self) -> bool:
        """Whether it moves the student at all: a term of weight 0 is only watched."""
        return self.weight != 0

    @property
    def needs_labels(self) -> bool:
        """Whether it learns from a teacher and needs the label of a row for it."""
        return signatures.losses()[self.loss].needs_labels or self.options.get("wraps") == "dkd"

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        """Published weights and taps where none are given, and mappings as ramps."""
        known = signatures.losses()
        if not isinstance(value, dict) or value.get("loss") not in known:
            return value
        signature = known[value["loss"]]
        taps = AUTO if signature.taps else PREDICTION
        filled = {"weight": signature.weight, "student": taps, "teacher": taps, **value}
        for key, given in filled.items():
            if isinstance(given, dict):
                try:
                    filled[key] = Ramp.model_validate(given)
                except ValidationError as error:
                    first = error.errors()[0]
                    place = ".".join(map(str, (key, *first["loc"])))
                    raise ValueError(
                        f"`{place}`: {first['msg']}; a number that moves is "
                        "{start: 0, end: 1}, with `epochs` and `shape` (linear, cosine)"
                    ) from None
        return filled

    @field_validator("weight", mode="before")
    @classmethod
    def _a_weight(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if not (number or value == AUTO or isinstance(value, Ramp)):
            raise ValueError(f"is a number from 0 on, `auto`, or {{start: ..., end: ...}}, not {value!r}")
        return value

    @model_validator(mode="after")
    def _known(self) -> Term:
        known = signatures.losses()
        if self.loss not in known:
            raise ValueError(f"unknown loss '{self.loss}'; {did_you_mean(self.loss, known)}")
        signature = known[self.loss]
        where = f"loss '{self.loss}'"
        start = {name: ramp.start for name, ramp in self.ramps.items()}
        check_options(where, self.options | start, signature, beside=("weight", "student", "teacher", "loss"))
        for name in self.ramps:
            if signature.options[name][0] != "float":
                raise ValueError(f"{where}: option '{name}' is a {signature.options[name][0]}, which cannot move")
        self._taps_fit(signature)
        return self

    def _taps_fit(self, signature: signatures.Signature) -> None:
        sides = (self.student, self.teacher)
        if AUTO in sides and not signature.taps:
            raise ValueError("compares predictions, and has no taps to find; say `weight: auto` to balance its weight")
        if AUTO in sides and self.student != self.teacher:
            raise ValueError("taps are `auto` on both sides, or named on both")
        one, other = (len(side) if isinstance(side, list) else 1 for side in sides)
        if one != other or not (one and other):
            raise ValueError(f"has {one} taps of the student and {other} of the teacher; they are pairs")
