"""What a run found, as result.json holds it, with a number that says how it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.core.errors import UserError
from limbeck.core.files import read_json
from limbeck.core.types import Artifact, Kind, Role

SCHEMA = 3


class ResultPart(BaseModel):
    """A part of a result. What a newer version adds to it is kept."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Spread(ResultPart):
    """Values of a metric over seeds, and the 95 % interval of their mean; None for a single seed."""

    mean: float
    ci95: tuple[float, float] | None = None
    values: list[float] = []
    n: int | None = None


class Comparison(ResultPart):
    """Students without something and with it, seed by seed; see `statistics.compare`."""

    metric: str
    higher_is_better: bool
    student: Spread
    distilled: Spread
    gain: Spread
    verdict: Literal["helps", "no evidence", "hurts"]
    words: str
    title: str | None = None


class Method(Comparison):
    """A set of losses out of `compare`, held against the student alone."""

    name: str
    losses: dict[str, Any]
    weights: list[dict[str, Any]]
    seconds: list[float]


class CompressedVariant(ResultPart):
    """A way to a smaller student: what was done, what it lost, and what the teacher's help in recovery was worth."""

    name: str
    steps: list[dict[str, Any]]
    told: dict[str, list[str]]
    start: dict[str, str]
    against_start: Comparison
    with_teacher: Comparison | None = None


class DataSummary(ResultPart):
    """The data a run learned from: what its rows are, and how many there are in each split.

    Attributes:
        outputs: how many numbers a network gives for a row; None in results before schema 3.
        metric: what students are selected by; None in older results.
        class_counts: rows of each class by split; None for measured values.
    """

    name: str
    task: Kind
    shape: list[int]
    counts: dict[str, int]
    classes: list[str]
    fingerprint: str
    notes: list[str] = []
    outputs: int | None = None
    log_target: bool = False
    metric: str | None = None
    class_weights: list[float] | None = None
    class_counts: dict[str, list[int]] | None = None


class TeacherSummary(ResultPart):
    """A teacher on validation, and what was said of it."""

    name: str
    val: dict[str, float | None] = {}
    notes: list[str] = []


class Disagreement(ResultPart):
    """How far the members of an ensemble say different things; see `evaluate.disagreement`."""

    names: list[str]
    n: int | None = None
    pairwise: list[list[float]] = []
    mean_pairwise: float | None = None
    all_agree: float | None = None
    divergence: float | None = None
    oracle: float | None = None
    spread: float | None = None


class EnsembleSummary(ResultPart):
    """How several teachers became one."""

    words: str
    combine: str | None = None
    weights: dict[str, float] | None = None
    disagreement: Disagreement | None = None


class StoredOutputs(ResultPart):
    """A teacher's stored outputs, as they were opened once.

    Attributes:
        bytes: what they take on the disk.
        asked: how many were computed for it.
        found: how many were there already.
        seconds: spent computing.
    """

    teacher: str
    key: str
    bytes: int | None = None
    rows: int | None = None
    views: int | None = None
    dtype: str | None = None
    top_k: int | None = None
    taps: list[str] = []
    asked: int | None = None
    found: int | None = None
    seconds: float | None = None


class TrialWay(ResultPart):
    """What a trial of a search within a budget does: share of channels pruned, energy of factors, precision."""

    ratio: float = 0.0
    energy: float | None = None
    precision: str


class BudgetTrial(ResultPart):
    """A trial; its numbers are None where it failed."""

    way: TrialWay
    format: str | None = None
    steps: list[dict[str, Any]] = []
    value: float | None = None
    reason: str | None = None
    within: bool = False
    size_kb: float | None = None
    latency_ms: float | None = None
    drop: float | None = None
    p_more: float | None = None
    exceeded: list[str] = []
    learned: bool = False
    front: bool = False


class BudgetSearch(ResultPart):
    """A search within a budget: what was asked, every trial, and the winner if there is one."""

    budget: dict[str, Any]
    metric: str
    start: str
    trials: list[BudgetTrial]
    winner: BudgetTrial | None = None
    words: str


class DrawnModel(ResultPart):
    """A model whose predictions are drawn; `values` are those of each output."""

    name: str
    role: Role
    values: list[list[float]] = []


class DrawnValues(ResultPart):
    """What some models predict of some test rows, of measured values.

    Attributes:
        outputs: names of those that are kept.
        rows: how many are kept, drawn at random.
        of: how many there are.
        true: the value of each row, of each output.
    """

    outputs: list[str]
    rows: int
    of: int
    true: list[list[float]]
    models: list[DrawnModel]


class MaskPicture(ResultPart):
    """The picture of some test images and what some models make of them."""

    file: str
    columns: list[DrawnModel]
    rows: int
    of: int


class Chosen(ResultPart):
    """The student to ship, and why."""

    name: str
    why: str


class Result(ResultPart):
    """The content of result.json.

    Attributes:
        version: how it is written, see `SCHEMA`.
        weights: weights of losses that were found, by the name of the student.
        curves: a row for each epoch, by the name of what was trained.
        predictions: what some models predict of test rows, of measured values.
        masks: the picture of test images and what some models make of them, where pixels have classes.
        cache: a row for each time that stored outputs of a teacher were opened.
        seconds: by the name of the stage.
    """

    version: int = Field(alias="schema")
    name: str
    about: str = ""
    created: str
    limbeck: str
    recipe: dict[str, Any]
    recipe_yaml: str = ""
    environment: dict[str, Any]
    data: DataSummary
    models: list[Artifact]
    teachers: list[TeacherSummary] = []
    ensemble: EnsembleSummary | None = None
    comparison: Comparison | None = None
    comparisons: list[Comparison] = []
    weights: dict[str, Any] = {}
    methods: list[Method] = []
    compressed: list[CompressedVariant] = []
    budget: BudgetSearch | None = None
    chosen: Chosen | None = None
    predictions: DrawnValues | None = None
    masks: MaskPicture | None = None
    views: int | None = None
    cache: list[StoredOutputs] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    notes: list[str] = []

    def content(self) -> dict[str, Any]:
        """The same as plain values, as they are written."""
        return self.model_dump(mode="json", by_alias=True)


def parse_result(content: object, where: str) -> Result:
    """The result in the content of a result.json, of whatever version.

    Args:
        content: what was read.
        where: the file, for the message.

    Raises:
        UserError: this is no result of a run, or a part of it is damaged.
    """
    if not isinstance(content, Mapping) or not {"data", "models", "recipe", "environment"} <= content.keys():
        raise UserError("is not the result of a run", where=where)
    if isinstance(content.get("schema"), int) and content["schema"] > SCHEMA:
        what = f"was written by a newer version (schema {content['schema']}, and this one knows {SCHEMA})"
        raise UserError(what, where=where, hint="pip install --upgrade limbeck")
    try:
        return Result.model_validate(_migrated(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"is damaged: {place}: {first['msg']}", where=where) from error


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises:
        UserError: it cannot be read, is no result of a run, or is damaged.
    """
    return parse_result(read_json(path), str(path))


def _migrated(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as this version writes it: until schema 3, variants and numbers stood in the names of models only."""
    if content.get("schema", 1) >= SCHEMA:
        return dict(content)
    models = []
    for row in content["models"]:
        known = dict(row)
        name = str(known["name"])
        if match := re.search(r"-(?:gen|peer)(\d+)$", name):
            known.setdefault("number", int(match[1]))
        if known["role"] in ("compared", "compressed", "compressed-alone"):
            known.setdefault("variant", re.sub(r"-seed-?\d+$", "", name).removesuffix("-alone"))
        models.append(known)
    return {**content, "schema": SCHEMA, "models": models}
