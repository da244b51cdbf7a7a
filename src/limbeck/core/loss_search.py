"""What a search of losses found, as tune.json holds it, with a number that says how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from limbeck.core.errors import UserError
from limbeck.core.files import read_json
from limbeck.core.result import ResultPart, StoredOutputs

SCHEMA = 1


class LossTrial(ResultPart):
    """A trial; its scores are None where it failed or was interrupted.

    Attributes:
        params: what was searched, by option.
        losses: all terms of the student, as in a recipe.
        value: the mean of its scores on validation.
        val_loss: the mean validation loss, which decides between equal scores.
        values: the score of each seed.
        seconds: that it took.
        reason: why it failed.
    """

    number: int
    state: Literal["done", "failed", "interrupted"]
    loss: str | None = None
    params: dict[str, float] = Field(default_factory=dict)
    losses: dict[str, Any] = Field(default_factory=dict)
    value: float | None = None
    val_loss: float | None = None
    values: list[float] = Field(default_factory=list)
    seconds: float | None = None
    reason: str | None = None
    cache: list[StoredOutputs] = Field(default_factory=list)

    @property
    def score(self) -> float:
        """`value` of a trial that is done."""
        assert self.value is not None
        return self.value


class SearchedLoss(ResultPart):
    """A loss that is tried: the numbers it begins with, and from where to where each of them is searched."""

    loss: str
    start: dict[str, float]
    ranges: dict[str, tuple[float, float]]


class SearchData(ResultPart):
    """The data of a search; the test split is none of it."""

    name: str
    task: str
    counts: dict[str, int]
    fingerprint: str


class LossSearch(ResultPart):
    """The content of tune.json."""

    version: int = Field(default=SCHEMA, alias="schema")
    name: str
    about: str = ""
    created: str
    limbeck: str
    recipe: dict[str, Any]
    recipe_yaml: str
    environment: dict[str, Any]
    data: SearchData
    metric: str
    higher_is_better: bool
    seeds: list[int]
    space: list[SearchedLoss]
    trials: list[LossTrial]
    best: LossTrial | None = None
    best_yaml: str | None = None

    @property
    def done(self) -> list[LossTrial]:
        """Trials that have a score, in their order."""
        return [trial for trial in self.trials if trial.state == "done"]

    @property
    def failed(self) -> list[LossTrial]:
        """Trials that ended without a score."""
        return [trial for trial in self.trials if trial.state == "failed"]

    @property
    def ranked(self) -> list[LossTrial]:
        """Trials that have a score, the best first; see `ranked`."""
        return ranked(self.trials, higher=self.higher_is_better)

    def content(self) -> dict[str, Any]:
        """The same as plain values, as they are written."""
        return self.model_dump(mode="json", by_alias=True)


def ranked(trials: Sequence[LossTrial], *, higher: bool) -> list[LossTrial]:
    """The trials that have a score, the best first: by score, then by validation loss, then the earlier one."""
    sign = -1 if higher else 1
    done = [trial for trial in trials if trial.state == "done"]
    return sorted(done, key=lambda trial: (sign * trial.score, trial.val_loss, trial.number))


def read_search(path: Path) -> LossSearch:
    """The search in a file.

    Raises:
        UserError: it cannot be read, is no search, or is damaged.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"trials", "space", "metric", "recipe_yaml"} <= content.keys():
        raise UserError("is not the record of a search", where=str(path))
    try:
        return LossSearch.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"is damaged: {place}: {first['msg']}", where=str(path)) from error
