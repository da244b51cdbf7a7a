"""Files that runtimes take, written without any converter: they multiply each row, laid out flat, by a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.types import Task


def onnx_file(path: Path, weights: np.ndarray, shape: tuple[int, ...]) -> Path:
    """Rows [B, *shape] by weights [n, m], in ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["output"])],
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def litert_file(path: Path, weights: np.ndarray, shape: tuple[int, ...]) -> Path:
    """Rows [1, *shape] by weights [n, m], in LiteRT."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, size: list[int], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, size, buffer, schema.TensorType.FLOAT32
        return made

    contents = schema.BufferT()
    contents.data = list(np.ascontiguousarray(weights.T, dtype=np.float32).tobytes())
    operator, options, code = schema.OperatorT(), schema.FullyConnectedOptionsT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, -1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors = [
        tensor("input", [1, *shape], 0),
        tensor("weights", list(weights.T.shape), 1),
        tensor("output", [1, weights.shape[1]], 0),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    model.version, model.subgraphs, model.operatorCodes, model.buffers = (
        3,
        [graph],
        [code],
        [schema.BufferT(), contents],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def with_card(path: Path, form: str, task: Task, shape: tuple[int, ...], **told: Any) -> Path:
    """The same file, with its card beside it."""
    from limbeck.export import Interface, write_card

    write_card(
        path,
        interface=Interface(),
        format=form,
        precision="float32",
        task=task,
        shape=shape,
        metrics={},
        made={},
        **told,
    )
    return path
