"""What every exporter starts with: the model as one traced graph, with its interface folded in."""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.core.errors import UserError
from limbeck.core.formats import FORMATS, check_format
from limbeck.export.files import put
from limbeck.export.interface import LARGEST_BATCH, Interface
from limbeck.export.logs import converting, heard
from limbeck.export.workers import elsewhere


def make(
    form: str, model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None, **options: Any
) -> Path:
    """Trace a model here, let the converter's process make the file, and put that in its place.

    Args:
        form: the format whose `lower` gets `graph`, the path of the traced graph, `lowered`, the path
            of the file to make, and the options.
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: where the file will stand; the log is beside it. It is replaced in one step or not at all.
        interface: what the file takes; what the model takes where it is absent.
        options: what else the function is given, as JSON can hold it.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    check_format(form)
    path, target = Path(path), FORMATS[form].title
    with converting(target, path) as log, tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        graph, lowered = Path(folder) / "graph.pt2", Path(folder) / f"model{path.suffix}"
        with heard(log):
            torch.export.save(trace(model, example, interface), graph)
        arguments = {"graph": str(graph), "lowered": str(lowered), **options}
        doing = f"the model cannot be exported to {target}"
        task = f"limbeck.export.formats.{form}.convert:lower"
        elsewhere(task, arguments, family=form, log=log, doing=doing, where=str(path))
        put(lowered, path)
    return path


def trace(model: nn.Module, example: Tensor, interface: Interface | None = None) -> torch.export.ExportedProgram:
    """A model as one graph for 1 to 64 rows: eval mode, float32, on the CPU. The model given is not touched.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C], [B, K] or, of tokens, [B, L, C], of pixels [B, C, H, W].
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        interface: what the graph takes; what the model takes where it is absent.

    Raises:
        UserError: the model does not give one tensor with a row for each row of input, or cannot be traced.
    """
    interface = interface or Interface()
    own = copy.deepcopy(model).eval().requires_grad_(False)
    own = own.to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # The clone keeps the graph from holding on to the whole data set that the example is a view of.
    row = example[:1].detach().to("cpu").clone(memory_format=torch.contiguous_format)
    row = _given(row.float() if row.is_floating_point() else row, interface)
    if isinstance(own, fx.GraphModule):
        own = nn.Sequential(own)  # a graph by itself is traced node by node, past its hooks
    # A hook rather than a module around it, which would put a word in front of the names of all layers and weights.
    own.register_forward_pre_hook(lambda _, given: (_taken(given[0], interface),), prepend=True)
    own.register_forward_hook(lambda _, _given, output: _turned(output, interface))
    with torch.no_grad():
        output = own(torch.cat([row, row]))
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or len(output) != 2:
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"the model gives {shown} for 2 rows",
                where="export",
                hint="wrap it in a module whose forward gives one tensor [rows, classes or values]",
            )
        # XNNPACK in ExecuTorch plans for the example's rows, not for the range: the example is the largest batch.
        rows = row.expand(LARGEST_BATCH, *row.shape[1:]).contiguous()
        batch = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
        try:
            return torch.export.export(own, (rows,), dynamic_shapes=(batch,), strict=False)
        except Exception as error:
            with _entered(own) as entered, contextlib.suppress(Exception):
                torch.export.export(own, (rows,), dynamic_shapes=(batch,), strict=False)
            if entered and entered[-1]:
                error.add_note(f"in layer {entered[-1]!r}")
            raise


def _given(row: Tensor, interface: Interface) -> Tensor:
    if interface.layout == "nhwc":
        if row.ndim != 4:
            raise UserError(f"layout nhwc is for images, not for rows {tuple(row.shape[1:])}", where="export")
        row = row.permute(0, 2, 3, 1).contiguous()
    return (row * 255).to(torch.uint8) if interface.input == "uint8" else row


def _taken(x: Tensor, interface: Interface) -> Tensor:
    """What the network takes, of what the file takes."""
    if interface.layout == "nhwc":
        x = x.permute(0, 3, 1, 2)
    return x.to(torch.float32) / 255 if interface.input == "uint8" else x


def _turned(output: object, interface: Interface) -> object:
    """What the file gives, of what the network gives."""
    pixels = isinstance(output, Tensor) and output.ndim == 4 and interface.layout == "nhwc"
    return output.permute(0, 2, 3, 1) if pixels and isinstance(output, Tensor) else output


@contextlib.contextmanager
def _entered(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules whose forward has begun and not ended: where an error happened, when it has."""
    entered: list[str] = []
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            begin = module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
            end = module.register_forward_hook(lambda *_: entered.pop() and None)
            stack.callback(begin.remove)
            stack.callback(end.remove)
        yield entered


@contextlib.contextmanager
def naming(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Note on an error of a converter which layers the operators come from that it speaks of."""
    try:
        yield
    except Exception as error:
        for found in culprits(program, _everything(error))[:3]:
            error.add_note(found)
        raise


def culprits(program: torch.export.ExportedProgram, text: str) -> list[str]:
    """Operators of a graph that a converter's message names, each with its layer, in the order they are computed."""
    for graph in (program, program.run_decompositions()):
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        named = [node for node in nodes if f"%{node.name} : " in text]  # its line, not its name among arguments
        # aten._linalg_eigh.default is also told as aten::_linalg_eigh.
        meant = named or [node for node in nodes if re.search(_operator(node), text)]
        if meant:
            return list(
                dict.fromkeys(f"operator {node.target} in {layer_of(node) or 'the model itself'}" for node in meant)
            )
    return []


def _operator(node: fx.Node) -> str:
    library, name = str(node.target).split(".")[:2] if str(node.target).count(".") else ("", str(node.target))
    return rf"\b{re.escape(library)}(\.|::){re.escape(name)}\b"


def layer_of(node: fx.Node) -> str:
    """The innermost module a node comes from: its dotted name and class; empty for the model's own forward."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"layer {name!r} ({kind.rpartition('.')[2]})" if name else ""


def _everything(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)
