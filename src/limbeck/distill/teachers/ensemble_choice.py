"""From what a recipe says about joining members to the function that does it."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.types import Kind
from limbeck.distill.teachers.ensemble import (
    Combine,
    answers_average,
    answers_logits_average,
    average,
    by_confidence,
    logits_average,
    mean,
    median,
    validation_weights,
    vote,
    weighted,
)
from limbeck.distill.teachers.stacking import Stack, as_combine
from limbeck.recipe import Combine as CombineSpec
from limbeck.tasks import TASKS, rules


def combiner(
    kind: Kind,
    spec: CombineSpec | None = None,
    *,
    scores: Sequence[float] | None = None,
    stack: Combine | None = None,
) -> Combine:
    """How members are joined.

    Args:
        kind: of the task.
        spec: what the recipe says. None: `average` for classes and labels, `mean` for values.
        scores: of the members on validation, for weights by "accuracy"; see `validation_weights`.
        stack: a fitted `Stack`, or what `as_combine` made of it, for "stacked".

    Raises:
        UserError: a way that does not suit the task, or something it needs is missing.
    """
    ways = rules(kind).ensembles
    name = spec.name if spec else ways[0]
    if name not in ways:
        known = any(name in task.ensembles for task in TASKS.values())
        raise UserError(
            f"'{name}' does not join the members of a {kind} task" if known else f"unknown way to join: '{name}'",
            where="combine",
            hint=f"choose {', '.join(ways[:-1])} or {ways[-1]}" if known else did_you_mean(name, ways),
        )
    if name == "stacked":
        if stack is None:
            raise UserError("'stacked' needs a stack that was fitted", where="combine", hint="see `fit_stack`")
        return as_combine(stack) if isinstance(stack, Stack) else stack
    if spec and name == "vote":
        return vote() if spec.smoothing is None else vote(smoothing=spec.smoothing)
    if spec and name == "weighted":
        return _weighted_by(kind, spec.weights, scores)
    if rules(kind).predicts == "labels":
        return {"average": answers_average, "logits-average": answers_logits_average}[name]
    plain = {"average": average, "logits-average": logits_average, "vote": vote(), "mean": mean, "median": median}
    return plain[name]


def _weighted_by(kind: Kind, weights: Sequence[float] | str | None, scores: Sequence[float] | None) -> Combine:
    if weights is None:
        hint = "give a number for each member, or `accuracy` or `confidence`"
        raise UserError("'weighted' needs weights", where="combine.weights", hint=hint)
    if not isinstance(weights, str):
        return weighted(weights, kind=kind)
    if weights == "confidence":
        if why := rules(kind).no_confidence:
            hint = "weight by `accuracy` (the main metric on validation) or by fixed numbers"
            raise UserError(why, where="combine.weights", hint=hint)
        return by_confidence
    if weights != "accuracy":
        hint = did_you_mean(weights, ("accuracy", "confidence"))
        raise UserError(f"unknown weights '{weights}'", where="combine.weights", hint=hint)
    if scores is None:
        raise UserError(
            "weights by accuracy need the members' scores on validation", where="combine.weights", hint="give `scores`"
        )
    return weighted(validation_weights(kind, scores), kind=kind)
