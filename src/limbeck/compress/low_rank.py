"""Low-rank factorisation: a layer becomes two or three thinner ones in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.compress.channel_groups import forward
from limbeck.compress.prune import check_names
from limbeck.compress.ranks import (
    channel_svd,
    energy_rank,
    evbmf_rank,
    singular_values,
    spatial_svd,
    svd_linear,
    tucker2,
    unfolded,
)
from limbeck.compress.records import FactorisedLayer, FactoriseEdit, Rank
from limbeck.core.errors import UserError, did_you_mean
from limbeck.models import plain

Method = Literal["spatial", "channel", "tucker", "svd"]
Ranks = Literal["energy", "evbmf", "sensitivity"]
FACTORS: Mapping[str, Callable[..., nn.Sequential]] = {
    "spatial": spatial_svd,
    "channel": channel_svd,
    "tucker": tucker2,
    "svd": svd_linear,
}
FEWEST_INPUTS = 16
ENERGIES = (0.95, 0.8, 0.6)  # what is tried of each layer to find how sensitive it is


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that may be factorised.

    Attributes:
        name: dotted.
        module: the layer.
        method: how it would be.
        x: what goes into it, [1, ...].
        values: the singular values of each of its matrices.
        shapes: rows and columns of these.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    method: str
    x: Tensor
    values: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Option:
    """A rank of a layer, and what the model loses in score and saves in cost by it; rank 0 is the layer as it is."""

    lost: float
    saved: float
    rank: Rank


def plan_factorise(
    model: nn.Module,
    example: Tensor,
    *,
    method: Method = "spatial",
    ranks: Ranks = "energy",
    energy: float = 0.9,
    score: Callable[[nn.Module], float] | None = None,
    drop: float = 0.02,
    budget: float | None = None,
    cost: Callable[[nn.Module], float] | None = None,
    keep: Sequence[str] = (),
    faster: Callable[[nn.Module, nn.Module, Tensor], bool] | None = None,
) -> FactoriseEdit:
    """Which layers become products of thinner ones, and of which rank.

    Convolutions become what `method` says, linear layers always two linear layers. A layer is left alone where the
    factors save no parameters or no multiply-accumulates, and with it convolutions of 1x1, with groups, or with fewer
    than 16 input channels.

    Ranks by "energy": the smallest that keeps that share of the squared singular values. By "evbmf": what stands out of
    the noise of the weights (Nakajima et al. 2013); low on networks that were trained for a short time. By
    "sensitivity": each layer is tried alone at three ranks, and steps are taken that cost the least score for what they
    save, as long as all together cost no more than `drop`, or until the cost is within `budget`.

    Args:
        model: a network, with or without its input normalisation; not touched.
        example: rows of its input, [B, ...]; the first is used.
        method: "spatial" (vertical, then horizontal), "channel" (the same with fewer outputs, then 1x1), "tucker" (1x1,
            fewer inputs and outputs, 1x1), or "svd" (linear layers alone).
        ranks: the rule.
        energy: for "energy", above 0 to 1; at 1 nothing is factorised.
        score: for "sensitivity": how good a model is, more being better (on validation rows).
        drop: for "sensitivity" without `budget`: the score that may be lost.
        budget: for "sensitivity": the share of the cost that may remain, whatever is lost.
        cost: for "sensitivity": of a model, in any unit; by default multiply-accumulates of these layers.
        keep: dotted names of modules that stay as they are, with all inside them.
        faster: told a layer, its factors and what goes in (one row); says whether the factors are the faster. Where it
            says no, the layer is left alone.

    Raises:
        UserError: an option out of its range, a name that is not there, a budget out of reach.
    """
    _check(model, method, ranks, energy, score, drop, budget, keep)
    layers = _eligible(model, example, method, keep)

    def worth(layer: Layer, rank: Rank) -> bool:
        if not _saves(layer, rank):
            return False
        return faster is None or faster(layer.module, FACTORS[layer.method](layer.module, rank), layer.x)

    if ranks == "sensitivity":
        assert score is not None
        counted = cost or (lambda model: _all_macs(model, example))
        options = _options(model, layers, worth, score, counted)
        chosen = _greedy(model, layers, options, score, counted, drop, budget)
    else:
        by_energy = {layer.name: (layer, _ranks(layer, ranks, energy)) for layer in layers}
        chosen = {name: rank for name, (layer, rank) in by_energy.items() if worth(layer, rank)}
    edit = _edit([layer for layer in layers if layer.name in chosen], chosen)
    return _running(model, edit, tuple(example.shape[1:]))


def _check(
    model: nn.Module,
    method: str,
    ranks: str,
    energy: float,
    score: object,
    drop: float,
    budget: float | None,
    keep: Sequence[str],
) -> None:
    for name, value, known in (("method", method, [*FACTORS]), ("ranks", ranks, ["energy", "evbmf", "sensitivity"])):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}", where="factorise", hint=did_you_mean(value, known))
    if not 0 < energy <= 1:
        raise UserError(f"`energy` is above 0 and at most 1, not {energy}", where="factorise")
    if (ranks == "sensitivity") != (score is not None) or (budget is not None and score is None):
        raise UserError("ranks by 'sensitivity' need `score`, and no others need it or `budget`", where="factorise")
    if not drop >= 0:
        raise UserError(f"`drop` is at least 0, not {drop}", where="factorise")
    if budget is not None and not 0 < budget < 1:
        raise UserError(f"`budget` is a share of the cost between 0 and 1, not {budget}", where="factorise")
    check_names(model, keep, "factorise")


def _eligible(model: nn.Module, example: Tensor, method: str, keep: Sequence[str]) -> list[Layer]:
    """The layers of the plain network that may be factorised."""
    network = plain(model)
    kept = {inner for name in keep for inner in network.get_submodule(name).modules()}
    # Its forward pass reads the weight of its projection without calling it.
    kept |= {m.out_proj for m in network.modules() if isinstance(m, nn.MultiheadAttention)}
    found = []
    for name, (module, x) in _inputs(model, example).items():
        if module in kept or not name:
            continue
        if type(module) is nn.Linear:
            how = "svd"
        elif type(module) is nn.Conv2d and method != "svd" and _divisible(module):
            how = method
        else:
            continue
        matrices = unfolded(module, how)
        matrices = matrices if isinstance(matrices, tuple) else (matrices,)
        values = tuple(singular_values(matrix).cpu() for matrix in matrices)
        found.append(Layer(name, module, how, x, values, tuple((m.shape[0], m.shape[1]) for m in matrices)))
    return found


def _divisible(conv: nn.Conv2d) -> bool:
    spans = max(conv.kernel_size) > 1
    return spans and conv.groups == 1 and conv.in_channels >= FEWEST_INPUTS and conv.padding_mode == "zeros"


def _inputs(model: nn.Module, example: Tensor) -> dict[str, tuple[Any, Tensor]]:
    """Each layer that one forward pass calls, and what goes into it the first time, by dotted name."""
    found: dict[str, tuple[Any, Tensor]] = {}
    handles = []
    for name, module in plain(model).named_modules():

        def note(module: nn.Module, inputs: tuple[Any, ...], _output: object, name: str = name) -> None:
            found.setdefault(name, (module, inputs[0].detach().clone()))

        if isinstance(module, nn.Linear | nn.Conv2d):
            handles.append(module.register_forward_hook(note))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found


# --- ranks ---------------------------------------------------------------------------------------


def _ranks(layer: Layer, rule: str, energy: float) -> Rank:
    found = [
        max(1, evbmf_rank(values, shape)) if rule == "evbmf" else energy_rank(values, energy)
        for values, shape in zip(layer.values, layer.shapes, strict=True)
    ]
    return (found[0], found[1]) if len(found) == 2 else found[0]


def _saves(layer: Layer, rank: Rank) -> bool:
    """Whether the factors have fewer parameters and fewer multiply-accumulates than the layer."""
    own = copy.deepcopy(layer.module).to("meta")
    factors = FACTORS[layer.method](own, rank)
    x = torch.empty(layer.x.shape, device="meta", dtype=layer.x.dtype)
    fewer = _parameters(factors) < _parameters(own)
    return fewer and _macs([*factors], x) < _macs([own], x)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _macs(layers: Sequence[Any], x: Tensor) -> int:
    """Multiply-accumulates of some layers in turn, on meta tensors."""
    total = 0
    for layer in layers:
        x = layer(x)
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        total += layer.weight.numel() * (x.numel() // width)
    return total


def _all_macs(model: nn.Module, example: Tensor) -> float:
    """Multiply-accumulates of all its convolutions and linear layers for one row."""
    called = _inputs(model, example).values()
    return float(sum(_macs([copy.deepcopy(module).to("meta")], x.to("meta")) for module, x in called))


def _built(model: nn.Module, layers: Sequence[Layer], chosen: Mapping[str, Rank]) -> nn.Module:
    edit = _edit([layer for layer in layers if layer.name in chosen], chosen)
    return apply_factorise(copy.deepcopy(model), edit, weights=True)


def _options(
    model: nn.Module,
    layers: list[Layer],
    worth: Callable[[Layer, Rank], bool],
    score: Callable[[nn.Module], float],
    cost: Callable[[nn.Module], float],
) -> dict[str, list[Option]]:
    """What each layer alone loses and saves at each of some ranks, by its name."""
    full, whole = score(model), cost(model)
    found: dict[str, list[Option]] = {}
    for layer in layers:
        for rank in dict.fromkeys(_ranks(layer, "energy", energy) for energy in ENERGIES):
            if worth(layer, rank):
                alone = _built(model, layers, {layer.name: rank})
                found.setdefault(layer.name, []).append(Option(full - score(alone), whole - cost(alone), rank))
    return found


def _greedy(
    model: nn.Module,
    layers: list[Layer],
    options: dict[str, list[Option]],
    score: Callable[[nn.Module], float],
    cost: Callable[[nn.Module], float],
    drop: float,
    budget: float | None,
) -> dict[str, Rank]:
    """The ranks to which the cheapest steps lead, by name."""
    full, whole = score(model), cost(model)
    remaining, taken = whole, dict.fromkeys(options, Option(0.0, 0.0, 0))
    while budget is None or remaining > budget * whole:
        steps = [
            ((option.lost - taken[name].lost) / (option.saved - taken[name].saved), name, number)
            for name, each in options.items()
            for number, option in enumerate(each)
            if option.saved > taken[name].saved
        ]
        if not steps and budget is not None:
            raise UserError(
                f"{budget:g} of the cost cannot be reached; {remaining / whole:.3g} can",
                where="factorise",
                hint="raise `budget`, try another `method`, or prune as well",
            )
        if not steps:
            break
        _, name, number = min(steps)
        tried = {**taken, name: options[name].pop(number)}
        built = _built(model, layers, {n: option.rank for n, option in tried.items() if option.rank})
        if budget is not None:
            remaining = cost(built)
        elif full - score(built) > drop:
            continue
        taken = tried
    return {name: option.rank for name, option in taken.items() if option.rank}


# --- the act -------------------------------------------------------------------------------------


def _edit(layers: Sequence[Layer], chosen: Mapping[str, Rank]) -> FactoriseEdit:
    rows = []
    for layer in layers:
        rank = chosen[layer.name]
        after = _parameters(FACTORS[layer.method](copy.deepcopy(layer.module).to("meta"), rank))
        shape, before = list(layer.module.weight.shape), _parameters(layer.module)
        rows.append(FactorisedLayer(layer.name, layer.method, rank, shape, before, after))
    return FactoriseEdit(layers=rows)


def _running(model: nn.Module, edit: FactoriseEdit, shape: tuple[int, ...]) -> FactoriseEdit:
    """The edit without the layers that the network cannot do without, as it reads their weights itself."""

    def runs(rows: list[FactorisedLayer]) -> bool:
        trial = plain(apply_factorise(copy.deepcopy(model), FactoriseEdit(layers=rows), weights=False))
        try:
            forward(trial, shape)
        except Exception:
            return False
        return True

    if runs(edit.layers):
        return edit
    return FactoriseEdit(layers=[row for row in edit.layers if runs([row])])


def apply_factorise(model: nn.Module, edit: FactoriseEdit, *, weights: bool) -> nn.Module:
    """Put factors in the place of layers of `model`, in place.

    Args:
        model: the network.
        edit: what `plan_factorise` gave.
        weights: whether the factors are computed; otherwise they have the right shapes and any weights.

    Raises:
        UserError: the edit does not fit the model.
    """
    network = plain(model)
    modules: dict[str, Any] = dict(network.named_modules(remove_duplicate=False))
    for name, method, rank, shape, *_ in edit.layers:
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d) or list(layer.weight.shape) != shape:
            found = list(layer.weight.shape) if isinstance(layer, nn.Linear | nn.Conv2d) else type(layer).__name__
            raise UserError(
                f"the edit does not fit: '{name}' is {found} where a layer with weights {shape} is expected",
                where="factorise",
                hint="replay all edits in their order, onto a network built with the same options",
            )
        if weights:
            factors = FACTORS[method](layer, rank)
        else:
            like = layer.weight
            factors = FACTORS[method](copy.deepcopy(layer).to("meta"), rank).to_empty(device=like.device)
            for parameter in factors.parameters():
                nn.init.zeros_(parameter)
        factors.train(layer.training).requires_grad_(layer.weight.requires_grad)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, factors)
        if isinstance(modules[parent], nn.TransformerEncoderLayer):
            # Its fused inference path reads the weights of these layers; this is how it is told not to be taken.
            modules[parent].activation_relu_or_gelu = 0
    return model
