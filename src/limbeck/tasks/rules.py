"""What a task is: a record of plain values and functions, which every room asks instead of the task's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.core.metrics import Metric
from limbeck.core.types import Kind, Predicts, Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from limbeck.core.scaling import Scaling


class Guess(NamedTuple):
    """What a prediction is worth that knows nothing of the row.

    Attributes:
        metric: by which it is measured.
        value: what it reaches.
        how: in words, such as "always naming the commonest class".
    """

    metric: str
    value: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRules:
    """All that differs between one task and another.

    Predictions are in the normal form: [N, ..., C], with a target [N, ...] of classes, or [N, C] for labels, [N, K] for
    values. What stands between N and C are the places of a sample that have a class each: none, tokens, or pixels.

    Attributes:
        name: of the task.
        predicts: one class of C, a yes or no to each of C labels, or K measured values.
        unit: what one output of a head stands for.
        each: what has a prediction of its own: "row" or "pixel".
        beside: the metric that the terminal shows beside the main one.
        label_loss: the loss on labels that is taken where a recipe names none.
        recovery: the losses by which a compressed network learns from what it was.
        searched: the losses that a search tries beside the recipe's own.
        ensembles: how members may be joined; the first where a recipe does not say.
        no_confidence: why members cannot be weighted by their confidence; empty where they can.
        mixes: whether rows can be mixed by `mixup` and `cutmix`.
        goal: names -> what there is to predict, in words.
        gives: what a file gives, in words.
        main: the metric that students are selected and compared by.
        metrics: (task, prediction, target, scaling) -> metrics as plain numbers.
        agreement: (task, student, teacher, scaling) -> how far a student says what its teacher says.
        disagreement: (task, members [M, N, ..., C], target or None, scaling) -> how far members are apart.
        same: whether two predictions say the same: [..., C] twice -> bool [...], or [..., C] where every output is an
            answer; None for values.
        error: (task, prediction, target) -> mean error on the labels, a scalar with a gradient.
        row_scores: (task, prediction, target) -> [N], whose mean is the main metric (of values: squared errors, whose
            mean's root it is); None where the main metric is no mean over rows.
        drawn_scores: (task, prediction, target) -> (how often each row is drawn [D, N] -> the main metric [D]).
        guess: (task, target) -> what a prediction that knows nothing reaches.
        meaning: what an output is, for the card beside a file.
        said: (names, what a file gives for one row, how many classes) -> what that says, fit for JSON.
        program: (names as source, whether these are few, name of the outputs) -> lines of Python that print it.
    """

    name: Kind
    predicts: Predicts
    unit: str
    beside: str
    label_loss: str
    recovery: Mapping[str, float | Mapping[str, float]]
    searched: Sequence[str]
    ensembles: Sequence[str]
    goal: Callable[[Sequence[str]], str]
    gives: str
    main: Callable[[Task], Metric]
    metrics: Callable[[Task, Tensor, Tensor, Scaling | None], dict[str, Any]]
    agreement: Callable[[Task, Tensor, Tensor, Scaling | None], dict[str, float]]
    disagreement: Callable[[Task, Tensor, Tensor | None, Scaling | None], dict[str, Any]]
    same: Callable[[Tensor, Tensor], Tensor] | None
    error: Callable[[Task, Tensor, Tensor], Tensor]
    row_scores: Callable[[Task, Tensor, Tensor], Tensor | None]
    drawn_scores: Callable[[Task, Tensor, Tensor], Callable[[Tensor], Tensor]]
    guess: Callable[[Task, Tensor], Guess]
    meaning: Callable[[Task], str]
    said: Callable[[Sequence[str], np.ndarray[Any, Any], int], dict[str, Any]]
    program: Callable[[str, bool, str], str]
    each: str = "row"
    no_confidence: str = ""
    mixes: bool = True
