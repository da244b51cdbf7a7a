"""LiteRT (.tflite) files, and the LiteRT interpreter to run them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.errors import UserError, require
from limbeck.export.interface import Interface, Rows
from limbeck.export.logs import captured
from limbeck.export.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn


def to_litert(model: nn.Module, example: Tensor, path: Path, interface: Interface | None = None) -> Path:
    """Write `model` as one LiteRT file: float32, one signature for each batch size. TensorFlow is not needed.

    Args:
        model: maps one tensor [B, ...] to one tensor [B, C] or [B, K]; it is left as it is.
        example: at least one row of input, [B, ...], as the model takes it; its values do not matter.
        path: the file to write; it is replaced in one step or not at all. The converter's log is beside it.
        interface: what the file takes, and its batches; what the model takes, and one row, where it is absent.

    Returns:
        The path.

    Raises:
        UserError: the extra is missing, the model cannot be converted, or the place cannot be written.
    """
    from limbeck.export.trace import make

    batches = sorted((interface or Interface()).batches)
    return make("litert", model, example, path, interface, batches=batches)


def lower(graph: str, lowered: str, batches: list[int]) -> None:
    """Turn a saved graph into a LiteRT file; `to_litert` has this done elsewhere."""
    import torch

    from limbeck.export.trace import naming

    program = torch.export.load(graph)
    module = program.module()
    module.training = False  # it was traced in eval mode; the flag only says so to the converter
    inputs: Any = program.example_inputs
    row = inputs[0][0][:1]
    with naming(program):
        import litert_torch

        if len(batches) == 1:
            converted = litert_torch.convert(module, (row.repeat(batches[0], *(1,) * (row.ndim - 1)),))
        else:
            several: Any = litert_torch
            for batch in batches:  # one module for all, so that they share its weights
                several = several.signature(f"b{batch}", module, (row.repeat(batch, *(1,) * (row.ndim - 1)),))
            converted = several.convert()
        converted.export(lowered)


def session_litert(path: Path, threads: int = 1) -> Session:
    """What runs a LiteRT file in this process: rows go to the largest signature that they fill.

    Args:
        path: the file.
        threads: how many threads one call may use.

    Raises:
        UserError: the extra is missing, or the file cannot be loaded.
    """
    runtime = require("ai_edge_litert.interpreter", extra="litert", purpose="running a LiteRT file")
    try:
        with Path(os.devnull).open("w") as nowhere, captured(nowhere):
            interpreter = runtime.Interpreter(str(path), num_threads=threads)
            listed = list(interpreter.get_signature_list())
            # A lone signature is run without its runner, which takes longer than a small network.
            calls = [_whole(interpreter)] if len(listed) < 2 else [_signed(interpreter, name) for name in listed]
    except Exception as error:
        raise UserError(f"LiteRT cannot load it ({error})", where=str(path)) from error
    dtype, shape, _ = calls[0]
    by_batch = {given[0]: call for _, given, call in calls}

    def run(rows: Rows) -> Rows:
        parts: list[Rows] = []
        while len(rows):
            batch = max((b for b in by_batch if b <= len(rows)), default=min(by_batch))
            taken, rows = rows[:batch], rows[batch:]
            # The smallest signature may want more rows than are left: the last one is repeated, and forgotten again.
            full = taken if len(taken) == batch else taken[np.minimum(np.arange(batch), len(taken) - 1)]
            parts.append(by_batch[batch](full)[: len(taken)])
        return np.concatenate(parts)

    return Session("LiteRT", dtype, shape[1:], run)


def _whole(interpreter: Any) -> tuple[str, tuple[int, ...], Any]:
    """Input type and shape of a file with one signature, and what runs it."""
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def call(rows: Rows) -> Rows:
        interpreter.set_tensor(source["index"], rows)
        interpreter.invoke()
        given: Rows = interpreter.get_tensor(sink["index"])
        return given

    return np.dtype(source["dtype"]).name, tuple(int(n) for n in source["shape"]), call


def _signed(interpreter: Any, name: str) -> tuple[str, tuple[int, ...], Any]:
    """Input type and shape of one of several signatures, and what runs it."""
    runner = interpreter.get_signature_runner(name)
    key, source = next(iter(runner.get_input_details().items()))
    sink = next(iter(runner.get_output_details()))
    return (
        np.dtype(source["dtype"]).name,
        tuple(int(n) for n in source["shape"]),
        lambda rows: runner(**{key: rows})[sink],
    )


def values_litert(path: Path, rows: Rows) -> list[tuple[str, Rows]]:
    """What every operator of a LiteRT file gives for as many rows as its first signature takes: names and arrays."""
    runtime = require("ai_edge_litert.interpreter", extra="litert", purpose="running a LiteRT file")
    plain = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate keeps what is inside it to itself
    interpreter = runtime.Interpreter(
        str(path), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], rows[: source["shape"][0]])
    interpreter.invoke()
    found = []
    for detail in interpreter.get_tensor_details():
        try:
            found.append((str(detail["name"]), interpreter.get_tensor(detail["index"])))
        except ValueError:  # room for intermediate results of one operator: nothing to compare
            continue
    return found
