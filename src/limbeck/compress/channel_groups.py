"""Which channels of a network belong together, and how they are cut out: all that is known of Torch-Pruning.

Torch-Pruning (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning") traces which layers lose a channel when one
of them does. What is cut is a list of [layer, whether outputs, indices], its pruning history.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.records import Entry
from limbeck.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Part:
    """How one layer hangs on a group: index `at` of `dim` of `weight` goes with index `roots` of the group's root."""

    weight: Callable[[], Tensor]
    dim: int
    repeat: int
    at: Tensor
    roots: Tensor
    incoming: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be removed, and what goes with each of them.

    Attributes:
        name: of the layer at the root, dotted.
        outgoing: whether the root's outputs are meant, or its inputs.
        units: what is removed together: indices of the root, as many for each unit.
        step: the number of units that remain is a multiple of it.
        kind: "channels" or "heads".
        structure: alike for groups that are built alike (Fang et al. 2024, "Isomorphic Pruning").
        parts: the weights that go with it.
    """

    name: str
    outgoing: bool
    units: tuple[tuple[int, ...], ...]
    step: int
    kind: str
    structure: str
    parts: tuple[Part, ...]

    def entry(self, gone: Sequence[int]) -> Entry:
        """What is cut when the units `gone` are."""
        return Entry(self.name, self.outgoing, sorted(index for unit in gone for index in self.units[unit]))


def blank(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """One row of zeros in the place and number format of the network."""
    like = next(network.parameters(), torch.empty(0))
    return torch.zeros(1, *shape, device=like.device, dtype=like.dtype)


@contextlib.contextmanager
def traced(network: nn.Module, shape: Sequence[int]) -> Iterator[Any]:
    """The dependency graph of `network`, whose modes and frozen parameters are afterwards as they were.

    Raises:
        UserError: Torch-Pruning cannot trace the network.
    """
    import torch_pruning as tp

    modes = {module: module.training for module in network.modules()}
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    network.eval().requires_grad_(True)  # it follows gradients; frozen layers would be invisible
    graph = tp.DependencyGraph()
    # Its own pruner of layer norms takes the kept indices in the order of a set, which is not theirs.
    own = _layer_norm_pruner()
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.LN] = own
    for known in (graph._in_channel_pruning_fn, graph._out_channel_pruning_fn):
        known.add(own.prune_out_channels)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                # In a tuple: a bare tensor would be taken apart into its rows.
                graph.build_dependency(network, (blank(network, shape),), verbose=False)
            except Exception as error:
                raise UserError(
                    f"Torch-Pruning cannot follow the network ({_first_line(error)})", where="prune"
                ) from error
            yield graph
    finally:
        for module in network.modules():
            module.training = modes.get(module, module.training)
        named = dict(network.named_parameters())
        for name in frozen:
            named[name].requires_grad_(False)


def _layer_norm_pruner() -> Any:
    from torch_pruning.pruner.function import LayernormPruner

    class InOrder(LayernormPruner):  # type: ignore[misc]
        def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            if len(layer.normalized_shape) < -self.pruning_dim:
                return layer
            dim = self.pruning_dim % len(layer.normalized_shape)
            shape = list(layer.normalized_shape)
            kept = sorted(set(range(shape[dim])) - set(idxs))
            for name in ("weight", "bias"):
                if getattr(layer, name, None) is not None:
                    setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), kept, dim))
            shape[dim] = len(kept)
            layer.normalized_shape = tuple(shape)
            return layer

        prune_in_channels = prune_out_channels

    return InOrder()


def groups(network: nn.Module, shape: Sequence[int], *, keep: Sequence[str], round_to: int) -> list[Group]:
    """The groups of `network` that may be cut.

    Left alone are layers whose outputs are the network's, those named in `keep` with all inside them, and the inside of
    attention whose layout is not known.

    Args:
        network: the plain network.
        shape: of one row of its input.
        keep: dotted names.
        round_to: channels remain in multiples of it.
    """
    protected = {inner for name in keep for inner in network.get_submodule(name).modules()}
    heads: dict[object, Any] = {module.qkv: module for module in network.modules() if _is_attention(module)}
    protected |= _unknown_attention(network)
    with traced(network, shape) as graph:
        found = []
        for traced_group in graph.get_all_groups(ignored_layers=list(protected)):
            attention = next((heads[d.target.module] for d, _ in traced_group if d.target.module in heads
                              and graph.is_out_channel_pruning_fn(d.handler)), None)  # fmt: skip
            if attention is not None:
                # From the projection's inputs, each index leads to one query, one key and one value.
                pruner = graph.get_pruner_of_module(attention.proj)
                indices = list(range(attention.proj.in_features))
                traced_group = graph.get_pruning_group(attention.proj, pruner.prune_in_channels, indices)
            if group := _group(graph, traced_group, attention, round_to):
                found.append(group)
    return found


def _group(graph: Any, traced_group: Any, attention: Any, round_to: int) -> Group | None:
    import torch_pruning as tp

    divided, parts, structure = 1, [], []
    for number, (dependency, indices) in enumerate(traced_group):
        node = dependency.target
        outgoing = graph.is_out_channel_pruning_fn(dependency.handler)
        if node.type == tp.ops.OPTYPE.OUTPUT or (outgoing and not node.outputs):
            return None  # what comes out here is what the network gives
        structure.append(f"{type(node.module).__name__}:{outgoing}")
        divided = math.lcm(divided, _divisions(node.module))
        roots = traced_group[number].root_idxs
        if None not in roots:
            parts += [
                Part(weight, dim, repeat, torch.tensor(indices), torch.tensor(roots), incoming)
                for weight, dim, repeat, incoming in _weights(node.module, outgoing)
            ]
    root = traced_group[0].dep
    size = len(traced_group[0].idxs)
    if attention is not None:
        width = attention.head_dim
        units = tuple(tuple(range(head * width, (head + 1) * width)) for head in range(size // width))
        step, kind = 1, "heads"
    else:
        each = size // divided
        units = tuple(tuple(part * each + index for part in range(divided)) for index in range(each))
        step, kind = round_to // math.gcd(round_to, divided), "channels"
    if len(units) < 2:
        return None
    name = graph._module2name[root.target.module]
    outgoing = graph.is_out_channel_pruning_fn(root.handler)
    return Group(name, outgoing, units, step, kind, " ".join(sorted(structure)), tuple(parts))


def _divisions(module: Any) -> int:
    """Into how many parts of one size a layer divides its channels; all must lose alike."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
        return int(module.groups)
    return 1


def _weights(module: Any, outgoing: bool) -> list[tuple[Callable[[], Tensor], int, int, bool]]:
    """The weights in which a channel of `module` stands: (weight, dimension, how often repeated, whether it reads)."""
    weight = partial(getattr, module, "weight")
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups == module.out_channels:
            return [(weight, 0, 1, False)]
        dim = int(outgoing == module.transposed)
        return [(weight, dim, module.groups if dim else 1, not outgoing)]
    if isinstance(module, nn.Linear):
        return [(weight, 0 if outgoing else 1, 1, not outgoing)]
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        reading = partial(getattr, module, "in_proj_weight")
        return [(reading, 1, 1, True), (partial(getattr, module.out_proj, "weight"), 0, 1, False)]
    return []


def _is_attention(module: Any) -> bool:
    """Whether it is attention of timm's layout: qkv, whole heads one after the other, and a projection."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear) or not hasattr(module, "head_dim"):
        return False
    inside = module.num_heads * module.head_dim
    own = {*qkv.parameters(), *proj.parameters()}
    return qkv.out_features == 3 * inside and proj.in_features == inside and own == set(module.parameters())


def _unknown_attention(network: nn.Module) -> set[nn.Module]:
    """All layers but the last inside attention whose layout is not known: which channels are a head is not, either."""
    asking = {"qkv", "q", "qk", "q_proj", "to_q", "to_qkv", "query", "in_proj"}
    return {
        layer
        for module in network.modules()
        if asking & module._modules.keys() and not _is_attention(module)
        for name, child in module.named_children()
        if name not in ("proj", "out_proj", "to_out")
        for layer in child.modules()
    }


def forward(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """What the network gives for one blank row; its modes are left as they were."""
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            given: Tensor = network.eval()(blank(network, shape))
            return given
    finally:
        for module, mode in modes.items():
            module.training = mode


def cut(network: nn.Module, shape: Sequence[int], history: Sequence[Entry]) -> None:
    """Take channels out of `network`, in place.

    Raises:
        UserError: the history is not of this network, or the network does not run without these channels.
    """
    attentions: list[Any] = [module for module in network.modules() if _is_attention(module)]
    before = forward(network, shape)
    with traced(network, shape) as graph:
        try:
            # Its own load_pruning_history keeps the list it is given.
            graph.load_pruning_history([[name, outgoing, list(indices)] for name, outgoing, indices in history])
        except Exception as error:
            raise UserError(
                f"these channels cannot be cut out ({_first_line(error)})",
                where="prune",
                hint="an edit belongs to the network it was planned for, after the edits before it",
            ) from error
    for module in attentions:
        module.num_heads = module.proj.in_features // module.head_dim
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.proj.in_features
    try:
        after = forward(network, shape)
    except Exception as error:
        raise UserError(
            f"the network does not run with fewer channels ({_first_line(error)})",
            where="prune",
            hint="protect the layers of that part with `keep`",
        ) from error
    if before.shape != after.shape:
        raise UserError(
            f"the pruned network gives {list(after.shape)} where it gave {list(before.shape)}",
            where="prune",
            hint="protect its last layers with `keep`",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
