"""ONNX files quantized by ONNX Runtime, in a process of their own."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.errors import UserError
from limbeck.export.quantize.calibration import Rows, load_rows
from limbeck.export.quantize.layer_errors import Comparison, Op, names_of, ranked

_BATCH = 32
_DEQUANTIZED = "_DequantizeLinear_Output"  # how ONNX Runtime calls a tensor after its rounding
_ROUNDED = "_QuantizeLinear_Input"  # and an output of the file before it
_FUSED = ("Relu", "Clip")  # made one with the layer before


def make(source: str, target: str, cpu: str, rows: str, skip: Sequence[str]) -> None:
    """Write the quantized file: rounding nodes around every operation that has an integer kernel.

    Args:
        source: the float file.
        target: the file to write.
        cpu: `x86` takes unsigned activations, several times as fast there as signed ones; `arm` signed ones.
        rows: .npy of calibration rows.
        skip: layers that stay float.
    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        prepared = _prepared(source, folder)
        loaded = _loaded(prepared, rows)
        quantization.quantize_static(
            prepared,
            target,
            _reader(_session(prepared).get_inputs()[0].name, loaded),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=cpu == "x86" and _saturates(),
            activation_type=quantization.QuantType.QUInt8 if cpu == "x86" else quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=names_of(operations(prepared), skip),
        )


def _prepared(source: str, folder: str) -> str:
    """The file as the quantizer wants it: constants folded, every shape known."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, prepared = str(Path(folder) / "plain.onnx"), str(Path(folder) / "prepared.onnx")
    try:
        model = onnx.load(source)
    except Exception as error:
        raise UserError(f"it is no ONNX file ({error})", where=Path(source).name) from error
    model.graph.ClearField("value_info")  # the exporter's shapes stand in the way of the quantizer's own
    onnx.save(model, plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    return prepared


def _saturates() -> bool:
    """Whether this is an x86 CPU whose 8-bit products overflow 16 bits, so that weights must make do with 7."""
    flags = Path("/proc/cpuinfo")
    known = platform.machine().lower() in ("x86_64", "amd64") and flags.exists()
    return known and "vnni" not in flags.read_text(encoding="utf-8")


def _session(path: str, *, optimise: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _loaded(path: str, rows: str) -> Rows:
    given = _session(path).get_inputs()[0]
    dtypes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    return load_rows(rows, tuple(given.shape[1:]), dtypes.get(given.type, np.float32))


def _batches(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _reader(name: str, rows: Rows) -> Any:
    """The rows as ONNX Runtime asks for them: batch after batch, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = _batches(rows)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Rows] | None:
            batch = next(batches, None)
            return None if batch is None else {name: batch}

    return Reader()


def operations(prepared: str) -> list[Op]:
    """The operations of a prepared file, in their order.

    ONNX keeps no layers, but weights keep their names, and the bias of a linear layer may be a node of its own.
    """
    import onnx

    graph = onnx.load(prepared).graph
    constants = {value.name for value in graph.initializer}
    takers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    found: list[Op] = []
    owner: dict[str, str] = {}  # of what a layer with weights gives
    for node in graph.node:
        named = [node, *(other for other in takers.get(node.output[0], []) if node.op_type == "MatMul")]
        weights = [name for one in named for name in one.input if name in constants]
        layers = [name.rpartition(".")[0] for name in weights if name.endswith((".weight", ".bias"))]
        if layers:
            owner[node.output[0]] = layers[0]
        elif node.op_type in _FUSED and node.input[0] in owner:
            layers = [owner[node.input[0]]]
        found.append(Op(node.name, layers[0] if layers else node.name, tuple(node.input), node.output[0]))
    return found


def errors(source: str, quantized: str, rows: str) -> list[dict[str, Any]]:
    """Compare what both files compute on their way, and say which layers add most noise."""
    compared = Comparison()
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        prepared = _prepared(source, folder)
        ops = operations(prepared)
        wanted = {op.output for op in ops}
        exact = _opened(prepared, wanted, str(Path(folder) / "exact.onnx"))
        after = {name + ending for name in wanted for ending in ("", _DEQUANTIZED, _ROUNDED)}
        rounded = _opened(quantized, after, str(Path(folder) / "rounded.onnx"))
        for batch in _batches(_loaded(prepared, rows)):
            tensors = _tensors(rounded, batch)
            settled = {name: tensors.get(name + _DEQUANTIZED, tensors.get(name)) for name in wanted}
            compared.add(_tensors(exact, batch), {k: v for k, v in settled.items() if v is not None})
    return ranked(ops, compared)


def _opened(path: str, wanted: set[str], place: str) -> Any:
    """A session on a copy of a file that gives, beside its output, all wanted tensors that it computes."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    there = {value.name for value in graph.output}
    for node in graph.node:
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name in wanted - there)
    onnx.save(model, place)
    return _session(place, optimise=False)


def _tensors(session: Any, batch: Rows) -> dict[str, Rows]:
    given = session.run(None, {session.get_inputs()[0].name: batch})
    return {value.name: tensor for value, tensor in zip(session.get_outputs(), given, strict=True)}


def lower_trained(graph: str, lowered: str, cpu: str) -> None:
    """Turn a saved graph with roundings in it into an ONNX file whose integers ONNX Runtime computes with."""
    import onnx

    from limbeck.export.formats.onnx.convert import lower
    from limbeck.export.quantize import pt2e

    pt2e.register()
    lower(graph, lowered)
    model = onnx.load(lowered)
    model.graph.ClearField("value_info")
    _integer_biases(model.graph)
    if cpu == "x86":
        _unsigned_activations(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, lowered)


def _integer_biases(graph: Any) -> None:
    """Biases in steps of the products they are added to; with a float one ONNX Runtime computes all in floats."""
    from onnx import helper, numpy_helper

    values = {value.name: value for value in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in values:
            continue
        sources = [makers.get(name) for name in node.input[:2]]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            continue
        steps = [numpy_helper.to_array(values[source.input[1]]) for source in sources]  # type: ignore[union-attr]
        step = np.asarray(steps[0] * steps[1], np.float32)
        bias, name = numpy_helper.to_array(values[node.input[2]]), f"{node.name}_bias"
        whole = np.rint(bias / step).clip(-(2**31), 2**31 - 1).astype(np.int32)
        graph.initializer.extend(
            [numpy_helper.from_array(whole, f"{name}_int"), numpy_helper.from_array(step, f"{name}_step")]
        )
        inputs = [f"{name}_int", f"{name}_step"]
        made = helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dequantize", axis=0)
        graph.node.insert(list(graph.node).index(node), made)
        node.input[2] = name
    _drop_unused(graph)


def _unsigned_activations(graph: Any) -> None:
    """The same roundings with bytes from 0 to 255 for those from -128 to 127, for which x86 has faster instructions."""
    from onnx import numpy_helper

    values = {value.name: value for value in graph.initializer}
    for node in graph.node:
        weights = node.op_type == "DequantizeLinear" and node.input[0] in values
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or weights:
            continue
        zero = numpy_helper.to_array(values[node.input[2]])
        if zero.dtype != np.int8:
            continue
        name = f"{node.input[2]}_unsigned"
        if name not in values:
            graph.initializer.append(numpy_helper.from_array((zero.astype(np.int16) + 128).astype(np.uint8), name))
            values[name] = graph.initializer[-1]
        node.input[2] = name
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
