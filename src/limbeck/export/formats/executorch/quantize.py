"""ExecuTorch files quantized in PyTorch for XNNPACK, in a process of their own."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from limbeck.core.errors import UserError
from limbeck.export.interface import LARGEST_BATCH
from limbeck.export.quantize import pt2e
from limbeck.export.quantize.calibration import load_rows
from limbeck.export.quantize.layer_errors import Comparison, Op, names_of, ranked

_BATCH = 32
_WEIGHTED = ("conv1d", "conv2d", "conv3d", "convolution", "linear")
_FUSED = ("batch_norm", "relu", "relu_", "hardtanh", "hardtanh_")


def make(source: str, target: str, rows: str, skip: Sequence[str]) -> None:
    """Write the quantized .pte.

    Args:
        source: the traced float graph, .pt2, with a free batch.
        target: the file to write.
        rows: .npy of calibration rows.
        skip: layers that stay float.
    """
    from limbeck.export.formats.executorch.convert import lower

    program = _read(source)
    loaded = _loaded(program, rows)
    graph = pt2e.convert(_measured(program, loaded, skip))
    # XNNPACK plans for the example's rows, so they are the most that are ever given.
    example = loaded.repeat(LARGEST_BATCH // len(loaded) + 1, *(1,) * (loaded.ndim - 1))[:LARGEST_BATCH].clone()
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with pt2e.quiet(), tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        traced = str(Path(folder) / "graph.pt2")
        torch.export.save(torch.export.export(graph, (example,), dynamic_shapes=({0: batch},), strict=False), traced)
        lower(traced, target)


def _read(path: str) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:
        raise UserError(f"it is no traced graph ({error})", where=Path(path).name) from error


def _loaded(program: torch.export.ExportedProgram, rows: str) -> Tensor:
    (example,), _ = program.example_inputs or ((torch.empty(0),), None)
    kind = str(example.dtype).removeprefix("torch.")
    return torch.from_numpy(load_rows(rows, tuple(example.shape[1:]), kind))


def _measured(program: torch.export.ExportedProgram, rows: Tensor, skip: Sequence[str]) -> fx.GraphModule:
    """The graph, its normalisations folded into the convolutions, with the ranges of what it computes."""
    graph: Any = program.module(check_guards=False)
    leave = set(names_of(operations(graph), skip))
    prepared = pt2e.prepare(graph, trained=False, wanted=lambda node: node.name not in leave)
    with torch.no_grad():
        for batch in torch.split(rows, _BATCH):
            prepared(batch)
    return prepared


def operations(graph: fx.GraphModule) -> list[Op]:
    """The operations of a graph, in their order, with the dotted names of their modules.

    A normalisation or a cut-off that is made one with the layer before it belongs to that layer.
    """
    found: list[Op] = []
    owner: dict[str, str] = {}  # of what a layer with weights gives
    for node in graph.graph.nodes:
        if node.op != "call_function" or _passes(node):
            continue
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        # Of what the outermost module does itself, every operation is a layer.
        layer = list(stack.values())[-1][0] or node.name
        inputs = tuple(_origin(taken).name for taken in node.all_input_nodes)
        kind = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if kind in _FUSED and inputs[0] in owner:
            layer = owner[inputs[0]]
        if kind in _WEIGHTED or kind in _FUSED:
            owner[node.name] = layer
        found.append(Op(node.name, layer, inputs, node.name))
    return found


def errors(source: str, rows: str, skip: Sequence[str]) -> list[dict[str, Any]]:
    """Quantize the graph once more, as for the file, and say which layers add most noise.

    The file itself does not let one look inside.
    """
    program = _read(source)
    loaded = _loaded(program, rows)
    exact = _measured(program, loaded, skip)
    ops, compared = operations(exact), Comparison()
    rounded = pt2e.convert(copy.deepcopy(exact))
    for batch in torch.split(loaded, _BATCH):
        compared.add(_tensors(exact, batch), _tensors(rounded, batch))
    return ranked(ops, compared)


def _tensors(graph: fx.GraphModule, batch: Tensor) -> dict[str, Any]:
    """All that a graph computes of a batch, each tensor after its rounding."""
    found: dict[str, Any] = {}

    class Watching(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, Tensor) and node.op == "call_function":
                found[_origin(node).name] = value.numpy()
            return value

    with torch.no_grad():
        Watching(graph).run(batch)
    return found


def _origin(node: fx.Node) -> fx.Node:
    """The node that computed what this one passes on, measured or rounded."""
    while _passes(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _passes(node: fx.Node) -> bool:
    return node.op == "call_module" or "quantize_per" in str(node.target)


def lower_trained(graph: str, lowered: str) -> None:
    """Turn a saved graph with roundings in it into an ExecuTorch program."""
    from limbeck.export.formats.executorch.convert import lower

    pt2e.register()
    lower(graph, lowered)
