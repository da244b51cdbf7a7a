"""Quantization-aware training: a network that rounds as its file will, and is trained like any other."""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from limbeck.core.errors import UserError
from limbeck.export.quantize import pt2e
from limbeck.export.trace import trace

_VARIANCE, _TRAINING, _MOMENTUM, _EPS = 4, 5, 6, 7  # arguments of aten.batch_norm
_MODES = {  # operations that act otherwise while they are trained, and the argument that says which
    torch.ops.aten.batch_norm.default: _TRAINING,
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.dropout_.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
    torch.ops.aten.alpha_dropout.default: 2,
}


class FakeQuantized(nn.Module):
    """A traced network that rounds weights and activations as its integer file will; gradients pass straight through.

    It trains in any loop: `train()` and `eval()` switch batch norm, dropout and the measuring of ranges; what it gives
    in eval mode is what the files made of it give. Its state dict, with ranges, fits every module that `prepare_qat`
    makes of the same network. Submodules of the network are gone, so there is nothing to tap inside it.

    Args:
        graph: prepared for training.
        example: some rows of input.
    """

    example: Tensor

    def __init__(self, graph: fx.GraphModule, example: Tensor) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("example", example, persistent=False)
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of inputs [B, ...]."""
        given: Tensor = self.graph(x)
        return given

    def train(self, mode: bool = True) -> FakeQuantized:
        """Switch between training and evaluation."""
        self.training = mode  # not for submodules: of the graph's own switch only parts would work
        _switch(self.graph, mode)
        self._measure(activations=mode, weights=True)
        if not mode:
            with torch.no_grad():
                self.graph(self.example)  # the ranges of the weights as they are now
            self._measure(activations=False, weights=False)
            for rounding in pt2e.roundings(self.graph):
                scale, zero_point = rounding.calculate_qparams()
                rounding.scale.resize_(scale.shape).copy_(scale)
                rounding.zero_point.resize_(zero_point.shape).copy_(zero_point)
        return self

    def _measure(self, *, activations: bool, weights: bool) -> None:
        for rounding in pt2e.roundings(self.graph):
            rounding.observer_enabled.fill_(int(weights if pt2e.rounds_weights(rounding) else activations))
            rounding.fake_quant_enabled.fill_(1)  # an average of integers may have lost it


def _settle(module: nn.Module, _: Any) -> None:
    """What was loaded may come from the other mode."""
    module.train(module.training)


def _switch(graph: fx.GraphModule, training: bool) -> None:
    """Write the mode into the operations that depend on it. torchao would write its own eps and dropout rate too."""
    changed = False
    for node in graph.graph.nodes:
        if (place := _MODES.get(node.target)) is not None and node.args[place] != training:
            node.update_arg(place, training)
            changed = True
    if changed:
        graph.recompile()


def prepare_qat(model: nn.Module, example: Tensor, *, weight_bits: int = 8) -> FakeQuantized:
    """A copy of a network that is trained to bear being quantized (Jacob et al. 2018), in eval mode.

    Convolutions with their batch norm, linear layers and sums round as XNNPACK has them: int8 activations, weights by
    channel. Layers for which the traced graph has no integer form stay float.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: rows of training input, [B, ...]; the ranges of activations start from theirs.
        weight_bits: 8, or 4 for weights that only take 15 values (the files still hold bytes).

    Returns:
        The same module, to the last bit, for the same network and example.

    Raises:
        UserError: a library is missing, or the network cannot be traced or quantized.
    """
    pt2e.check_pt2e("quantization-aware training")
    if weight_bits not in (4, 8):
        raise UserError(f"weights of {weight_bits} bits", where="weight_bits", hint="8 or 4")
    if not len(example):
        raise UserError("there are no rows to start from", where="example")
    rows = example.detach().to("cpu", torch.float32 if example.is_floating_point() else example.dtype)
    rows = rows.clone(memory_format=torch.contiguous_format)
    graph: Any = trace(model, rows).module(check_guards=False)
    before = {str(cast(Any, norm.args[_VARIANCE]).target): norm.args for norm in _batch_norms(graph)}
    try:
        graph = pt2e.prepare(graph, trained=True, weight_bits=weight_bits)
    except Exception as error:
        raise UserError(f"it cannot be prepared for training in integers ({error})", where="prepare_qat") from error
    _restore_constants(graph, before)
    if not any(True for _ in pt2e.roundings(graph)):
        raise UserError("nothing in it can be quantized", where="prepare_qat")
    graph.requires_grad_(True)
    made = FakeQuantized(graph, rows[:2].clone())
    _switch(graph, False)
    made._measure(activations=True, weights=True)
    with torch.no_grad():
        graph(rows)
    return made.eval()


def converted(module: FakeQuantized, *, fold: bool) -> fx.GraphModule:
    """What a trained module computes, as a graph with its roundings written out; the module is left as it is.

    Args:
        module: as `prepare_qat` made it.
        fold: whether weights become integers in it.
    """
    own = copy.deepcopy(module).cpu().eval()
    with torch.no_grad():
        _fold(own.graph)
    return pt2e.convert(own.graph, fold=fold)


def _fold(graph: fx.GraphModule) -> None:
    """Put batch norms into the convolutions before them. torchao does so too, but slowly and with its own eps only."""

    def value(node: Any) -> Tensor:
        found: Tensor = operator.attrgetter(str(node.target))(graph)
        return found

    # What stood for conv and batch norm: x * (w * s) / s + b, normalised; where s = gamma / sqrt(variance + eps).
    for number, norm in enumerate([node for node in _batch_norms(graph) if _scaling(node)]):
        given: Any = norm.args
        before, gamma, beta, mean, variance, *_, eps, _ = given
        scale = value(gamma) / (value(variance) + eps).sqrt()
        bias = torch.zeros_like(scale)
        if before.target is torch.ops.aten.add.Tensor:
            bias, before = value(before.args[1].args[0]), before.args[0]
        convolution = before.args[0]
        rounding = convolution.args[1]
        weight, shaped = rounding.args[0].args
        value(weight).mul_(scale.reshape(shaped.args[1]))
        rounding.update_arg(0, weight)
        name = f"folded_bias_{number}"
        graph.register_buffer(name, (bias - value(mean)) * scale + value(beta))
        nodes: Any = graph.graph
        with nodes.inserting_before(convolution):
            convolution.args = (*convolution.args[:2], nodes.get_attr(name), *convolution.args[3:])
        norm.replace_all_uses_with(convolution)
    for number, norm in enumerate(_batch_norms(graph)):
        if norm.users:
            _written_out(graph, norm, number)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _written_out(graph: fx.GraphModule, norm: fx.Node, number: int) -> None:
    """Put a product and a sum for a batch norm that no convolution stands before.

    A single one left in the graph has torchao trace 96 patterns to look for convolutions, which takes 15 s.
    """
    arguments: Any = norm.args
    given, gamma, beta, mean, variance, *_, eps, _ = arguments
    scale, shift = (None if node is None else operator.attrgetter(str(node.target))(graph) for node in (gamma, beta))
    mean, variance = (operator.attrgetter(str(node.target))(graph) for node in (mean, variance))
    scale = (1 if scale is None else scale) / (variance + eps).sqrt()
    shift = (0 if shift is None else shift) - mean * scale
    shape, nodes = (-1, *(1,) * (norm.meta["val"].ndim - 2)), cast(Any, graph.graph)
    with nodes.inserting_before(norm):
        for target, name, value in (
            (torch.ops.aten.mul.Tensor, f"norm_scale_{number}", scale),
            (torch.ops.aten.add.Tensor, f"norm_shift_{number}", shift),
        ):
            graph.register_buffer(name, value.reshape(shape))
            given = nodes.call_function(target, (given, nodes.get_attr(name)))
            given.meta["val"] = norm.meta["val"]
    norm.replace_all_uses_with(given)


def _restore_constants(graph: fx.GraphModule, before: dict[str, tuple[Any, ...]]) -> None:
    """Give batch norms the momentum and eps that they had: torchao writes its defaults."""
    for norm in _batch_norms(graph):
        variance: Any = norm.args[_VARIANCE]
        for place in (_MOMENTUM, _EPS):
            norm.update_arg(place, before[str(variance.target)][place])
        for scaling in _scaling(norm):
            scaling.update_arg(1, norm.args[_EPS])
    graph.recompile()


def _batch_norms(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target is torch.ops.aten.batch_norm.default]


def _scaling(norm: fx.Node) -> list[fx.Node]:
    """Where the convolution before a batch norm takes its scale from: variance + eps. Empty if it takes none."""
    variance: Any = norm.args[_VARIANCE]
    return [user for user in variance.users if user.target is torch.ops.aten.add.Tensor]
