"""What the stages of a run leave in their `stage.json`, one record a kind of stage."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from limbeck.core.result import BudgetSearch, Disagreement, DrawnValues, MaskPicture, StoredOutputs
from limbeck.core.types import Artifact

# JSON has no NaN: a score that does not exist is null there.
Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class StageResult(BaseModel):
    """What came out of a stage.

    Attributes:
        files: relative to the run directory; the stage is done again, or refused, where one is gone.
        epochs: of a training, a row each; their `seconds` count as time spent even where they were trained before.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    files: list[str] = []
    epochs: list[dict[str, Any]] = []

    @property
    def trained_seconds(self) -> float:
        """Seconds that the epochs took, those of earlier processes included."""
        return float(sum(epoch["seconds"] for epoch in self.epochs))


class ModelResult(StageResult):
    """A network that was trained, or taken as it is.

    Attributes:
        val: its scores on validation, those of the selected epoch, by metric.
        weights_found: of losses whose weight was `auto`, by name.
        cache: the stored outputs that it learned from.
    """

    val: dict[str, Score] = {}
    weights_found: dict[str, float] = {}
    cache: list[StoredOutputs] = []


class TeacherResult(ModelResult):
    """A network or an estimator that teaches.

    Attributes:
        notes: what speaks against it.
        dtype: that it may compute in, "bfloat16" or "float32".
        weights: their fingerprint.
    """

    notes: list[str] = []
    dtype: str
    weights: str


class StackResult(StageResult):
    """A small network over several teachers' outputs; `rows` are those it was fitted on."""

    rows: int


class PeersResult(StageResult):
    """Students that learned together, in their order."""

    peers: list[ModelResult]


class StepResult(ModelResult):
    """A student made smaller by one step; `told` says in words what was done."""

    told: list[str]


class ViewsResult(StageResult):
    """How many augmented views of every row are stored; 0 for none."""

    views: int


class SearchResult(StageResult, BudgetSearch):
    """A search within a budget."""


class FileResult(StageResult):
    """An exported file, measured in its runtime."""

    row: Artifact


class MeasuredResult(StageResult):
    """Every model on the test split.

    Attributes:
        models: a row each, teachers first.
        disagreement: how far several teachers are apart.
        predictions: what some of the models predict, of measured values.
        masks: a picture of what they predict, of pixels.
    """

    models: list[Artifact]
    disagreement: Disagreement | None = None
    predictions: DrawnValues | None = None
    masks: MaskPicture | None = None
