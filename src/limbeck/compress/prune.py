"""Structured pruning: whole channels and attention heads go, and what remains is a smaller dense network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.compress import channel_groups as grouping
from limbeck.compress.channel_groups import Group
from limbeck.compress.records import Entry, PrunedWeight, PruneEdit
from limbeck.compress.widths import correct, shapes
from limbeck.core.errors import UserError, did_you_mean
from limbeck.models import plain

Importance = Literal["taylor", "magnitude", "random"]
Scope = Literal["uniform", "global", "isomorphic"]
BISECTIONS = 8
REMAINS = "channels remain in multiples of `round_to`, so a small ratio or a narrow layer changes nothing"


def plan_prune(
    model: nn.Module,
    example: Tensor,
    *,
    ratio: float | None = None,
    cost: Callable[[nn.Module], float] | None = None,
    target: float | None = None,
    importance: Importance = "taylor",
    losses: Callable[[nn.Module], Iterator[Tensor]] | None = None,
    scope: Scope = "uniform",
    cap: float = 1.0,
    round_to: int = 8,
    keep: Sequence[str] = (),
    seed: int = 0,
) -> PruneEdit:
    """Which channels and attention heads go, by ratio or until a cost is reached.

    The layers that give the network's output are left alone. Channels that are added, concatenated or normalised
    together go together. Of attention in timm's layout whole heads go; of `nn.MultiheadAttention`, whose width is the
    network's, the same channels of each head.

    Importance "taylor" is the first-order estimate of what the loss changes by when nothing reads the channel any more,
    the root of its squares summed over batches (Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", equation 8); many small batches tell more than few large ones. "magnitude" is the norm of all weights
    that write or read the channel (Li et al. 2017); "random" is the baseline.

    Args:
        model: a network, with or without its input normalisation; not touched.
        example: rows of its input, [B, ...]; only their shape matters.
        ratio: share of the channels to remove, from 0 to below 1.
        cost: what is to fall, in any unit; given a pruned model.
        target: the share of the cost that may remain; the smallest ratio that reaches it is searched.
        importance: what tells unimportant channels.
        losses: for "taylor": yields the loss of the model it is given, a scalar a batch; the model is in eval mode.
        scope: "uniform" removes `ratio` of each group of channels. "global" ranks the channels of all groups together,
            each in units of its group's mean; "isomorphic" those of groups that are built alike (Fang et al. 2024).
        cap: the most that is removed of one group, as a share.
        round_to: channels remain in multiples of it, and never fewer than it.
        keep: dotted names of modules whose outputs stay as they are.
        seed: for "random".

    Raises:
        UserError: an option out of its range, a name that is not there, nothing that can be pruned, a target out of
            reach, or a network that cannot be traced.
    """
    _check(model, ratio, cost, target, importance, losses, scope, cap, round_to, keep)
    own = copy.deepcopy(model)
    network, shape = plain(own), tuple(example.shape[1:])
    found = grouping.groups(network, shape, keep=keep, round_to=round_to)
    found, left = _sound(network, shape, [group for group in found if _fewest(group, cap) < len(group.units)])
    if not found and ratio != 0:
        raise UserError(
            f"no channels of {type(network).__name__} can be pruned",
            where="prune",
            hint="only layers of torch.nn can (Keras layers cannot), wider than `round_to`; the last one is protected",
        )
    scores = _scores(own, found, importance, losses, seed)

    def planned(share: float) -> PruneEdit:
        history = _history(found, scores, share, scope, cap)
        return PruneEdit(shape=list(shape), history=history, layers=[], left=left)

    if ratio is None:
        assert cost is not None
        assert target is not None
        edit = _bisect(model, planned, cost, target)
    else:
        edit = planned(ratio)
        if ratio > 0 and not edit.history:
            raise UserError(f"a ratio of {ratio:g} removes nothing here", where="prune", hint=REMAINS)
    return edit.model_copy(update={"layers": _layers(network, edit)})


def _check(
    model: nn.Module,
    ratio: float | None,
    cost: object,
    target: float | None,
    importance: str,
    losses: object,
    scope: str,
    cap: float,
    round_to: int,
    keep: Sequence[str],
) -> None:
    if (ratio is None) == (cost is None or target is None) or (cost is None) != (target is None):
        raise UserError("give either `ratio`, or `cost` and `target`", where="prune")
    if ratio is not None and not 0 <= ratio < 1:
        raise UserError(f"`ratio` is from 0 to below 1, not {ratio}", where="prune")
    if target is not None and not 0 < target < 1:
        raise UserError(f"`target` is a share of the cost between 0 and 1, not {target}", where="prune")
    if not 0 < cap <= 1 or round_to < 1:
        raise UserError(
            f"`cap` is above 0 and at most 1, `round_to` at least 1, not {cap} and {round_to}", where="prune"
        )
    for name, value, known in (
        ("importance", importance, ("taylor", "magnitude", "random")),
        ("scope", scope, ("uniform", "global", "isomorphic")),
    ):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}", where="prune", hint=did_you_mean(value, known))
    if importance == "taylor" and losses is None:
        raise UserError("importance 'taylor' needs losses of some batches", where="prune", hint="give `losses`")
    check_names(model, keep, "prune")


def check_names(model: nn.Module, names: Sequence[str], where: str) -> None:
    """Refuse names of modules that the plain network does not have."""
    known = [name for name, _ in plain(model).named_modules(remove_duplicate=False) if name]
    for name in names:
        if name not in known:
            raise UserError(f"no module '{name}' to keep", where=where, hint=did_you_mean(name, known))


def _sound(network: nn.Module, shape: tuple[int, ...], found: list[Group]) -> tuple[list[Group], list[str]]:
    """The groups without which the network still runs, and the names of the others."""

    def runs(tried: list[Group]) -> bool:
        trial = copy.deepcopy(network)
        try:
            grouping.cut(trial, shape, [group.entry(range(len(group.units) - _fewest(group, 1))) for group in tried])
        except UserError:
            return False
        return True

    if runs(found):
        return found, []
    sound = [group for group in found if runs([group])]
    if not runs(sound):
        raise UserError("the network does not run with fewer channels", where="prune", hint="protect parts with `keep`")
    return sound, sorted({group.name for group in found} - {group.name for group in sound})


# --- which go ------------------------------------------------------------------------------------


def _scores(
    own: nn.Module,
    found: list[Group],
    importance: str,
    losses: Callable[[nn.Module], Iterator[Tensor]] | None,
    seed: int,
) -> list[Tensor]:
    """The importance of each unit of each group, float64."""
    if importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(len(group.units), generator=generator, dtype=torch.float64) for group in found]
    if importance == "magnitude":
        return [_by_unit(group, lambda weight: weight.square(), reading=False).sqrt() for group in found]
    assert losses is not None
    own.eval().requires_grad_(True)
    totals = [torch.zeros(len(group.units), dtype=torch.float64) for group in found]
    batches = 0
    with torch.enable_grad():
        for value in losses(own):
            own.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            batches += 1
            for total, group in zip(totals, found, strict=True):
                total += _by_unit(group, _change, reading=True).square()
    own.zero_grad()
    if not batches or not all(total.isfinite().all() for total in totals):
        what = "are NaN or infinite" if batches else "are none"
        raise UserError(f"the losses for importance 'taylor' {what}", where="prune")
    return [total.sqrt() for total in totals]


def _change(weight: Tensor) -> Tensor:
    """What the loss changes by, to first order, when each weight becomes 0 (but for the sign)."""
    return weight * weight.grad if weight.grad is not None else torch.zeros_like(weight)


def _by_unit(group: Group, measure: Callable[[Tensor], Tensor], *, reading: bool) -> Tensor:
    """`measure` of the weights of each unit, summed; of those alone that read the channel, or of all."""
    parts = [part for part in group.parts if part.incoming or not reading] or list(group.parts)
    size = 1 + max(max(unit) for unit in group.units)
    total = torch.zeros(size, dtype=torch.float64)
    for part in parts:
        weight = part.weight()
        others = [dim for dim in range(weight.ndim) if dim != part.dim]
        values = measure(weight).detach().double().sum(others).repeat(part.repeat).cpu()
        total.index_add_(0, part.roots, values[part.at])
    return torch.stack([total[list(unit)].sum() for unit in group.units])


def _fewest(group: Group, cap: float) -> int:
    """How many units must remain: a whole step, or more if the cap says so."""
    count = len(group.units)
    allowed = math.ceil(round((1 - cap) * count, 6) / group.step) * group.step
    return min(count, max(group.step, allowed))


def _rounded(group: Group, wanted: float, cap: float) -> int:
    """How many units remain: the multiple of the step next to `wanted`, or all."""
    count = len(group.units)
    below = math.floor(wanted / group.step) * group.step
    near = min((below, min(count, below + group.step), count), key=lambda n: (abs(n - wanted), -n))
    return max(_fewest(group, cap), near)


def _history(found: list[Group], scores: list[Tensor], share: float, scope: str, cap: float) -> list[Entry]:
    pools: dict[object, list[int]] = {}
    for number, group in enumerate(found):
        key = {"uniform": number, "global": group.kind, "isomorphic": f"{group.kind} {group.structure}"}[scope]
        pools.setdefault(key, []).append(number)
    history: list[Entry] = []
    for numbers in pools.values():
        wanted = _wanted([found[n] for n in numbers], [scores[n] for n in numbers], share, cap)
        for n, remaining in zip(numbers, wanted, strict=True):
            gone = len(found[n].units) - _rounded(found[n], remaining, cap)
            if gone > 0:
                history.append(found[n].entry(scores[n].argsort(stable=True)[:gone].tolist()))
    return history


def _wanted(pool: list[Group], scores: list[Tensor], share: float, cap: float) -> list[float]:
    """How many units of each group would remain, were they not rounded, if the least important of the pool go."""
    counts = [len(group.units) for group in pool]
    if len(pool) == 1:
        return [(1 - share) * counts[0]]
    # In units of the group's mean: layers differ in scale, and a first-order estimate of the loss, which would be
    # comparable, empties some layers, as it does not see that their channels stand in for each other.
    scaled = [each / each.mean().clamp(min=1e-300) for each in scores]
    ranked = sorted(
        (value, number)
        for number, (group, each) in enumerate(zip(pool, scaled, strict=True))
        for value in each.sort().values[: counts[number] - _fewest(group, cap)].tolist()
    )
    gone = [number for _, number in ranked[: round(share * sum(counts))]]
    return [count - gone.count(number) for number, count in enumerate(counts)]


def _bisect(
    model: nn.Module, planned: Callable[[float], PruneEdit], cost: Callable[[nn.Module], float], target: float
) -> PruneEdit:
    """The edit of the smallest ratio whose cost is within `target` of the model's."""
    whole = cost(model)
    least = planned(0.999)
    share = cost(apply_prune(copy.deepcopy(model), least)) / whole
    if not share <= target:
        raise UserError(
            f"{target:g} of the cost cannot be reached by pruning; {share:.3g} can",
            where="prune",
            hint="raise `target` or `cap`, lower `round_to`, or protect less",
        )
    low, high, best = 0.0, 0.999, least
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        edit = planned(middle)
        if cost(apply_prune(copy.deepcopy(model), edit)) <= target * whole:
            high, best = middle, edit
        else:
            low = middle
    return best


# --- the act -------------------------------------------------------------------------------------


def apply_prune(model: nn.Module, edit: PruneEdit) -> nn.Module:
    """Cut the channels of an edit out of `model`, in place.

    Raises:
        UserError: the edit does not fit the model, or the model does not run afterwards.
    """
    if edit.history:
        network = plain(model)
        planned = {row.name: (row.before, row.after) for row in edit.layers}
        _compare(network, {name: before for name, (before, _) in planned.items()})
        before = shapes(network, tuple(edit.shape))
        grouping.cut(network, edit.shape, edit.history)
        correct(network, before, shapes(network, tuple(edit.shape)))
        _compare(network, {name: after for name, (_, after) in planned.items()})
    return model


def _layers(network: nn.Module, edit: PruneEdit) -> list[PrunedWeight]:
    """The weights that become smaller."""
    pruned = apply_prune(copy.deepcopy(network), edit)
    after = {name: list(parameter.shape) for name, parameter in pruned.named_parameters()}
    return [
        PrunedWeight(name, list(parameter.shape), after[name])
        for name, parameter in network.named_parameters()
        if list(parameter.shape) != after[name]
    ]


def _compare(network: nn.Module, expected: dict[str, list[int]]) -> None:
    found = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise UserError(
                f"the edit does not fit: '{name}' is {found.get(name, 'not there')} where {wanted} is expected",
                where="prune",
                hint="replay all edits in their order, onto a network built with the same options",
            )
