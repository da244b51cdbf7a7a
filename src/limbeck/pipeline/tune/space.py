"""What a search tries: which losses of a teacher, and in which ranges their weight and options lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck import recipe
from limbeck.core import signatures
from limbeck.core.errors import UserError, did_you_mean
from limbeck.recipe import Recipe
from limbeck.tasks import rules

# Those of UNMIXED need labels that name one class, those of RELATED three classes or more.
UNMIXED, RELATED = ("dkd", "nkd"), ("dist", "lskd")

# Everything is searched on a logarithmic scale: a weight as a multiple of where it begins, a temperature and the option
# that its paper tunes as they are. A temperature below 1 by default is another thing (that of CRD's similarities).
WEIGHT, TEMPERATURE = (0.1, 10.0), (1.0, 10.0)
TUNED = {"dkd": {"beta": (1.0, 10.0)}, "nkd": {"gamma": (0.5, 5.0)}}
DIGITS = 3  # of every number that is tried; more would only look exact


@dataclass(frozen=True)
class Candidate:
    """One loss that a student may learn from the teacher by.

    Attributes:
        loss: its name.
        term: what the term is called in the recipe.
        given: the term as the recipe has it, without what is searched.
        start: where the search begins: the recipe's own numbers, or the published ones.
        ranges: what is searched, from the lowest number to the highest.
    """

    loss: str
    term: str
    given: Mapping[str, Any]
    start: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]


def candidates(checked: Recipe, classes: int, names: Sequence[str] = ()) -> list[Candidate]:
    """The losses to search among: the recipe's own that learn from a teacher, and the usual ones.

    Args:
        checked: the recipe.
        classes: how many there are; of values for regression.
        names: these losses only.

    Raises:
        UserError: one of `names` is unknown, or does not learn from a teacher.
    """
    known = signatures.losses()
    own = {t.loss: (n, t) for n, t in reversed(checked.losses.items()) if known[t.loss].needs_teacher and t.learns}
    teachers = [name for name in known if known[name].needs_teacher]
    for name in names:
        if name not in known:
            raise UserError(f"unknown loss '{name}'", where="--losses", hint=did_you_mean(name, teachers))
        if name not in teachers:
            hint = "terms of labels stay as the recipe has them; name losses that learn from the teacher"
            raise UserError(f"'{name}' does not learn from a teacher", where="--losses", hint=hint)
    mixed = checked.augment.mixup or checked.augment.cutmix
    usual = [
        name
        for name in rules(checked.task).searched
        if not (mixed and name in UNMIXED)
        and not (classes < 3 and name in RELATED)
        and not (checked.data.unlabelled and known[name].needs_labels)
    ]
    wanted = dict.fromkeys(names or [*reversed(own), *usual])
    return [_candidate(name, *own.get(name, (name, None))) for name in wanted]


def _candidate(loss: str, name: str, term: recipe.Term | None) -> Candidate:
    signature = signatures.losses()[loss]
    given = term.model_dump(mode="json", exclude_unset=True) if term else {"loss": loss}
    defaults = {option: default for option, (kind, default) in signature.options.items() if kind == "float"}
    begin = {"weight": signature.weight, **defaults}
    begin |= {k: float(v) for k, v in given.items() if k in begin and isinstance(v, int | float)}
    ranges = {"weight": tuple(share * begin["weight"] for share in WEIGHT)}
    if defaults.get("temperature", 0.0) >= 1:
        ranges["temperature"] = TEMPERATURE
    ranges |= TUNED.get(loss, {})
    # What the recipe says belongs to the space, whatever it says; a logarithmic one has no zero.
    start = {option: begin[option] or low for option, (low, _) in ranges.items()}
    reach = {o: (min(low, start[o]), max(high, start[o])) for o, (low, high) in ranges.items()}
    rest = {k: v for k, v in given.items() if k not in ranges}
    return Candidate(loss, name, rest, start, reach)


def terms(checked: Recipe, candidate: Candidate, values: Mapping[str, float]) -> dict[str, Any]:
    """The losses of a recipe with this one, at these numbers, in place of all that learn from a teacher."""
    known = signatures.losses()
    labels = {
        name: term.model_dump(mode="json", exclude_unset=True)
        for name, term in checked.losses.items()
        if not known[term.loss].needs_teacher
    }
    return {**labels, candidate.term: {**candidate.given, **values}}


def recipe_with(checked: Recipe, losses: Mapping[str, Any], **changes: Any) -> Recipe:
    """The recipe with other losses and nothing to compare them with, checked as any other."""
    raw = checked.model_dump(mode="json", exclude_unset=True, exclude={"compare"})
    return recipe.load({**raw, "losses": losses, **changes})
