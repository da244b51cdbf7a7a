"""What every exporter starts with: the model as one traced graph."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import UserError
from limbeck.export.chatter import converting
from limbeck.export.elsewhere import elsewhere


@contextlib.contextmanager
def lowering(
    target: str, task: str, model: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, **options: Any
) -> Iterator[Path]:
    """Trace a model here, let a process of its own make the file, and give that to be put in place.

    Args:
        target: name of the format, for messages.
        task: `module:function`, which gets `graph`, the path of the traced graph, `lowered`, the path of the file to
            make, and the options.
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...]; its values do not matter.
        path: where the file will stand; the log is beside it.
        dynamic_batch: whether B stays free in the graph.
        options: what else the function is given, as JSON can hold it.

    Yields:
        The path of the file made, in a folder that is gone afterwards.

    Raises:
        UserError: the model cannot be converted, or the place cannot be written.
    """
    with converting(target, path) as log, tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        graph, lowered = Path(folder) / "graph.pt2", Path(folder) / f"model{path.suffix}"
        torch.export.save(trace(model, example, dynamic_batch=dynamic_batch), graph)
        arguments = {"graph": str(graph), "lowered": str(lowered), **options}
        doing = f"the model cannot be exported to {target}"
        elsewhere(task, arguments, log=log, doing=doing, where=str(path))
        yield lowered


def trace(model: nn.Module, example: Tensor, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """A model as one graph: eval mode, float32, on the CPU. The model given is not touched.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K].
        example: at least one row of input, [B, ...]; its values do not matter.
        dynamic_batch: whether B stays free; it is 1 otherwise.

    Raises:
        UserError: the model does not give one tensor with a row for each row of input.
    """
    own = copy.deepcopy(model).eval().requires_grad_(False)
    own = own.to(device="cpu", dtype=torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # Tracing takes a batch of one for a constant, so a free batch needs two rows; the clone keeps the graph from
    # holding on to the whole data set that the example is a view of.
    row = example[:1].detach().to("cpu").clone(memory_format=torch.contiguous_format)
    row = row.float() if row.is_floating_point() else row
    rows = torch.cat([row, row]) if dynamic_batch else row
    with torch.no_grad():
        output = own(rows)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(rows):
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"the model gives {shown} for {len(rows)} rows",
                where="export",
                hint="wrap it in a module whose forward gives one tensor [rows, classes or values]",
            )
        batch = {0: torch.export.Dim("batch")} if dynamic_batch else None
        return torch.export.export(own, (rows,), dynamic_shapes=(batch,), strict=False)
