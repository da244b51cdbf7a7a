"""ExecuTorch (.pte) files for its XNNPACK kernels, and the ExecuTorch runtime to run them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError, require
from limbeck.export.interface import Interface, Rows
from limbeck.export.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

_TYPES = {0: "uint8", 1: "int8", 4: "int64", 6: "float32"}  # c10's numbers of scalar types


def to_executorch(model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write `model` as one ExecuTorch program: float32, 1 to 64 rows, run by XNNPACK where it can.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the file to write; it is replaced in one step or not at all. The converter's log is beside it.
        interface: what the file takes; what the model takes where it is absent.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    from limbeck.export.trace import make

    return make("executorch", model, example, path, interface)


def lower(graph: str, lowered: str) -> None:
    """Turn a saved graph into an ExecuTorch program; `to_executorch` has this done elsewhere."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings._C import _get_operator_names

    from limbeck.export.trace import naming

    program = torch.export.load(graph)
    with naming(program):
        made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        wanted = {
            op.name + (f".{op.overload}" if op.overload else "")
            for op in made.executorch_program.execution_plan[0].operators
        }
        if missing := sorted(wanted.difference(_get_operator_names())):
            raise RuntimeError(f"the runtime has no {', '.join(missing)}")
    Path(lowered).write_bytes(made.buffer)


def session_executorch(path: Path, threads: int = 1) -> Session:
    """What runs an ExecuTorch program in this process.

    Args:
        path: the file.
        threads: how many threads one call may use; they are those of the whole process.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    # Its library itself: executorch.runtime brings the whole compiler with it, which takes ten seconds to import.
    require("torch", extra="executorch", purpose="running an ExecuTorch file")  # the library needs torch's
    runtime = require("executorch.extension.pybindings._C", extra="executorch", purpose="running an ExecuTorch file")
    import torch

    try:
        runtime._unsafe_reset_threadpool(threads)
        program = runtime._load_program(str(path))
        method = program.load_method("forward")
        meta: Any = method.method_meta().input_tensor_meta(0)
    except Exception as error:
        raise UserError(f"ExecuTorch cannot load it ({error})", where=str(path)) from error

    def run(rows: Rows) -> Rows:
        given: Rows = method([torch.from_numpy(rows)])[0].numpy()
        return given

    return Session("ExecuTorch", _TYPES.get(meta.dtype(), str(meta.dtype())), tuple(meta.sizes()[1:]), run)
