"""How fast a network or one of its layers is in ONNX Runtime, without making a file to keep."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import UserError, require
from limbeck.core.formats import check_format
from limbeck.export.logs import captured, cause

if TYPE_CHECKING:
    from torch import Tensor, nn


def quick_latency(network: nn.Module, x: Tensor, *, seconds: float = 0.2) -> float:
    """The shortest time that ONNX Runtime takes for `x` on one thread, in milliseconds.

    For comparing networks by the dozen, so this stays in this process and takes about two seconds. The shortest time,
    for what disturbs it only adds.

    Args:
        network: any module of one tensor; it is left as it is.
        x: its input, [B, ...].
        seconds: how long to measure; at least five calls are.

    Raises:
        UserError: the extra `onnx` is missing, or the network cannot be exported.
    """
    import torch

    check_format("onnx")
    runtime = require("onnxruntime", extra="onnx", purpose="measuring in ONNX Runtime")
    own = copy.deepcopy(network).eval().requires_grad_(False).to(device="cpu", dtype=torch.float32)
    example = x.detach().to("cpu", torch.float32).contiguous()
    try:
        with _quiet():
            program = torch.onnx.export(own, (example,), dynamo=True, verbose=False)
            if program is None:
                raise RuntimeError("torch.onnx.export gave nothing")
            content = program.model_proto.SerializeToString()
            options = runtime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"its time cannot be measured in ONNX Runtime: {cause(error)}", where="export") from error
    given = {session.get_inputs()[0].name: example.numpy()}
    session.run(None, given)
    shortest, begun, calls = float("inf"), time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - begun < seconds:
        started = time.perf_counter_ns()
        session.run(None, given)
        shortest, calls = min(shortest, (time.perf_counter_ns() - started) / 1e6), calls + 1
    return shortest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as nowhere, captured(nowhere):
            yield
    finally:
        logging.disable(before)
