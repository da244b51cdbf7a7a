"""OpenVINO IR quantized by NNCF, in a process of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import UserError
from limbeck.export.formats.openvino.convert import save
from limbeck.export.quantize.calibration import Rows, load_rows
from limbeck.export.quantize.layer_errors import Comparison, Op, names_of, ranked

_BATCH = 32
_FIXED = ("Constant", "Convert")  # weights, and weights of another type
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
_FUSED = ("Add", "Relu", "Clamp")  # a layer's bias, and what is made one with it


def make(source: str, target: str, option: str, rows: str | None, skip: Sequence[str]) -> None:
    """Write the quantized .xml, and the .bin beside it.

    Args:
        source: the float .xml.
        target: the .xml to write.
        option: int8, or fp16: weights alone, turned back to what the processor computes in when loaded.
        rows: .npy of calibration rows, for int8.
        skip: layers that stay float.
    """
    model = _read(source)
    if option == "fp16":
        names_of(operations(model), skip)
        save(model, target, half=True)
    else:
        assert rows is not None
        save(_integers(model, _loaded(model, rows), skip), target)


def _integers(model: Any, rows: Rows, skip: Sequence[str]) -> Any:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    ops = operations(model)
    kinds = {op.get_type_name() for op in model.get_ordered_ops()}
    attention = bool(kinds & {"Softmax", "ScaledDotProductAttention"})
    # Some of an attention block loses too much in integers; NNCF knows which, if it is told what it is looking at.
    known = {"model_type": nncf.ModelType.TRANSFORMER} if attention else {}
    names = names_of(ops, skip)
    if names:
        known["ignored_scope"] = nncf.IgnoredScope(names=names, validate=False)
    data = nncf.Dataset([rows[row : row + 1] for row in range(len(rows))])
    # From the least to the largest of all rows. The tool's own way, an average over rows, cuts off larger outputs: the
    # same classes, but 11 dB more noise.
    whole = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    return nncf.quantize(model, data, subset_size=len(rows), advanced_parameters=whole, **known)


def _read(path: str) -> Any:
    import openvino

    try:
        return openvino.Core().read_model(path)
    except Exception as error:
        raise UserError(f"OpenVINO cannot load it ({error})", where=Path(path).name) from error


def _compiled(model: Any) -> Any:
    import openvino

    # Float32 where the processor could do with less: its roundings are not what is looked for here.
    exact = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, "CPU", exact)


def _loaded(model: Any, rows: str) -> Rows:
    shape = [-1 if size.is_dynamic else size.get_length() for size in model.inputs[0].get_partial_shape()]
    return load_rows(rows, tuple(shape[1:]), model.inputs[0].get_element_type().to_dtype())


def operations(model: Any) -> list[Op]:
    """The operations of a model, in their order. Weights keep their names, and say which layer it is."""
    found: list[Op] = []
    owner: dict[str, str] = {}
    for op in model.get_ordered_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind in ("Parameter", "Result", "FakeQuantize", *_FIXED):
            continue
        nodes = [source.get_source_output().get_node() for source in op.inputs()]
        inputs = tuple(node.get_friendly_name() for node in nodes)
        layers = [layer for node in nodes if (layer := _layer(node))]
        if not layers and kind in _WEIGHTED and any(node.get_type_name() in _FIXED for node in nodes[1:]):
            layers = [name.partition("/")[0]]  # weights that the normalisation was folded into
        elif not layers and kind in _FUSED and inputs[0] in owner:
            layers = [owner[inputs[0]]]
        if layers:
            owner[name] = layers[0]
        found.append(Op(name, layers[0] if layers else name.partition("/")[0], inputs, name))
    return found


def _layer(node: Any) -> str | None:
    """The layer that a constant belongs to, through what reshapes it or turns it to another type."""
    while node.get_type_name() in ("Reshape", "Convert", "Transpose") and node.inputs():
        node = node.inputs()[0].get_source_output().get_node()
    name = node.get_friendly_name()
    constant = node.get_type_name() == "Constant" and name.endswith((".weight", ".bias"))
    return str(name.rpartition(".")[0]) if constant else None


def errors(source: str, quantized: str, rows: str) -> list[dict[str, Any]]:
    """Compare what both models compute on their way, and say which layers add most noise."""
    exact, rounded = _read(source), _read(quantized)
    ops, compared = operations(exact), Comparison()
    loaded, wanted = _loaded(exact, rows), {op.output for op in ops}
    runs = [_watched(model, wanted) for model in (exact, rounded)]
    for start in range(0, len(loaded), _BATCH):
        batch = loaded[start : start + _BATCH]
        compared.add(*(dict(zip(names, compiled(batch).values(), strict=True)) for names, compiled in runs))
    return ranked(ops, compared)


def _watched(model: Any, wanted: set[str]) -> tuple[list[str], Any]:
    """A compiled model that gives all wanted tensors, each after its rounding, and their names in that order."""
    import openvino

    results, names = [], []
    for op in model.get_ordered_ops():
        if op.get_friendly_name() in wanted:
            output = op.output(0)
            rounded = [
                taker.get_node() for taker in output.get_target_inputs()
                if taker.get_node().get_type_name() == "FakeQuantize"
            ]  # fmt: skip
            results.append(rounded[0].output(0) if rounded else output)
            names.append(op.get_friendly_name())
    return names, _compiled(openvino.Model(results, model.get_parameters(), "watched"))


def lower_trained(graph: str, lowered: str) -> None:
    """Turn a saved graph with roundings in it into OpenVINO IR, by way of ONNX: of the graph it makes nothing."""
    import openvino

    from limbeck.export.formats.onnx.convert import lower
    from limbeck.export.quantize import pt2e

    pt2e.register()
    between = str(Path(lowered).with_suffix(".onnx"))
    lower(graph, between)
    save(openvino.convert_model(between), lowered)
