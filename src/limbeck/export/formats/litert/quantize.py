"""LiteRT files quantized by ai-edge-quantizer, in a process of their own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from limbeck.core.errors import UserError
from limbeck.export.quantize.calibration import Rows, load_rows
from limbeck.export.quantize.layer_errors import Comparison, Op, names_of, ranked


def make(source: str, target: str, option: str, rows: str | None, skip: Sequence[str]) -> None:
    """Write the quantized file.

    Args:
        source: the float file.
        target: the file to write, absent so far.
        option: int8 (weights and activations; inputs and outputs stay float), fp16, w8 or w4 (weights; convolutions and
            linear layers take integers and scale activations as they come).
        rows: .npy of calibration rows, for int8.
        skip: layers that stay float.
    """
    from ai_edge_quantizer import qtyping, quantizer

    every, leave = qtyping.TFLOperationName.ALL_SUPPORTED, "no_quantize"
    tool = quantizer.Quantizer(source)
    if option == "fp16":
        tool.update_quantization_recipe(".*", every, _half(), "float_casting")
    else:
        tool.load_quantization_recipe(_integers(option))
    if option == "int8":
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            tool.update_quantization_recipe(".*", end, algorithm_key=leave)
    for name in _named(source, skip):
        tool.update_quantization_recipe(f"^{re.escape(name)}$", every, algorithm_key=leave)
    measured = None if rows is None else _ranges(source, rows, tool.get_quantization_recipe())
    tool.quantize(measured, enable_progress_report=False).export_model(target)


def _integers(option: str) -> Any:
    from ai_edge_quantizer import algorithm_manager, recipe

    if option == "int8":
        return recipe.static_wi8_ai8()
    # Weights that are turned back to float for every call are neither smaller than these nor faster.
    if option == "w8":
        return recipe.dynamic_wi8_afp32()
    # With fifteen steps the largest weight must not set their size. Ranges with the least squared error (Sakr 2022)
    # lose 0.1 points of a network of two layers on Fashion-MNIST where ranges up to the largest lose 1.1.
    return recipe.dynamic_wi4_afp32(algorithm_manager.AlgorithmName.OCTAV)


def _half() -> Any:
    from ai_edge_quantizer import qtyping

    weights = qtyping.TensorQuantizationConfig(16, dtype=qtyping.TensorDataType.FLOAT)
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )


def _ranges(source: str, rows: str, recipe: Any) -> Any:
    """The ranges of activations: from the least to the largest of all rows.

    The tool's own way is an average that moves from row to row. It cuts off so much of the larger outputs that their
    signal stands 16 dB above the noise instead of 41, on a network of two convolutions.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    wanted = recipe_manager.RecipeManager()
    wanted.load_quantization_recipe(recipe)
    found = calibrator.Calibrator(source, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    found.calibrate(_signatures(source, rows), wanted)
    return found.get_model_qsvs()


def _signatures(source: str, rows: str) -> dict[str, list[dict[str, Rows]]]:
    """The calibration rows as every signature of the file takes them, in batches of its own size."""
    interpreter = _interpreter(source)
    found = {}
    for name in interpreter.get_signature_list():
        ((argument, details),) = interpreter.get_signature_runner(name).get_input_details().items()
        shape = tuple(int(n) for n in details["shape"])
        loaded = load_rows(rows, shape[1:], details["dtype"])
        found[name] = [{argument: batch} for batch in _batches(loaded, shape[0])]
    return found


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Rows in batches of exactly `size`; the last is filled up with the first rows."""
    for start in range(0, len(rows), size):
        yield np.take(rows, range(start, start + size), axis=0, mode="wrap")


def operations(source: str) -> list[Op]:
    """The operations of a float file, in their order; of the first signature where there are several."""
    return _graphs(source)[0]


def _named(source: str, layers: Sequence[str]) -> list[str]:
    """The names of the operations of some layers in all signatures, which do the same in the same order."""
    graphs = _graphs(source)
    chosen = set(names_of(graphs[0], layers))
    return [op.name for graph in graphs for op, first in zip(graph, graphs[0], strict=True) if first.name in chosen]


def _graphs(source: str) -> list[list[Op]]:
    """The operations of every signature."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as buffers

    model, found = buffers.read_model(source), []
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        tensors, ops = graph.tensors, []
        computed = {i for op in graph.operators for i in op.outputs} | set(graph.inputs)
        for op in graph.operators:
            inputs, weights = (
                tuple(buffers.get_tensor_name(tensors[i]) for i in op.inputs if i >= 0 and (i in computed) == which)
                for which in (True, False)
            )
            output = buffers.get_tensor_name(tensors[op.outputs[0]])
            ops.append(Op(buffers.get_op_scope(op, tensors), _layer(output, weights), inputs, output))
        found.append(ops)
    return found


# How the converter names a tensor: the modules down to the one it comes from, each by its class and its own name.
_MODULE = re.compile(r"\.(_*[A-Za-z0-9]+)_([^/;.]+)$")
_WEIGHTED = ("Conv", "Linear")


def _layer(output: str, weights: Sequence[str]) -> str:
    """The dotted name of the layer that an operation comes from, out of its tensors' names.

    What is fused into one operation has several: that of the convolution or linear layer counts.
    """
    found: list[tuple[bool, str]] = []
    for name in (output, *weights):
        for path in name.split(";"):
            steps = [match for step in path.split("/") if (match := _MODULE.search(step))]
            if steps:
                weighted = any(word in steps[-1][1] for word in _WEIGHTED)
                found.append((not weighted, ".".join(step[2] for step in steps)))
        if name == output and found:
            break
    return min(found, key=lambda pair: pair[0])[1] if found else output.rpartition(".")[2]


def errors(source: str, quantized: str, rows: str) -> list[dict[str, Any]]:
    """Compare every tensor of the two files, and say which layers add most noise."""
    ops, compared = operations(source), Comparison()
    exact, rounded = (_interpreter(path) for path in (source, quantized))
    given = exact.get_input_details()[0]
    loaded = load_rows(rows, tuple(given["shape"][1:]), given["dtype"])
    for batch in _batches(loaded, int(given["shape"][0])):
        compared.add(_tensors(exact, batch), _tensors(rounded, batch))
    return ranked(ops, compared)


def _interpreter(path: str) -> Any:
    """An interpreter that keeps what it computes on its way; delegates would not."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        made = Interpreter(
            path,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        made.allocate_tensors()
    except Exception as error:
        raise UserError(f"LiteRT cannot load it ({error})", where=str(Path(path).name)) from error
    return made


def _tensors(interpreter: Any, batch: Rows) -> dict[str, Rows]:
    """All that an interpreter computes of a batch, integers turned back to what they stand for."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], batch)
    interpreter.invoke()
    found = {}
    for details in interpreter.get_tensor_details():
        with contextlib.suppress(ValueError):  # a tensor of a kernel's own, or one that nothing ever filled
            value, steps = interpreter.get_tensor(details["index"]), details["quantization_parameters"]
            if value.dtype.kind == "i" and len(steps["scales"]) == 1:
                value = (value.astype(np.float64) - steps["zero_points"][0]) * steps["scales"][0]
            found[details["name"]] = value
    return found


def lower_trained(graph: str, lowered: str, batches: list[int]) -> None:
    """Turn a saved graph with roundings in it into a LiteRT file with float inputs and outputs."""
    import litert_torch
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    from limbeck.export.quantize import pt2e

    pt2e.register()
    # The converter asks for the quantizer that made the roundings; any says what it must know: that there are some.
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    given: Any = {"quant_config": QuantConfig(pt2e_quantizer=quantizer)}
    program = torch.export.load(graph)
    module, inputs = program.module(check_guards=False), cast(Any, program.example_inputs)
    module.training = False
    row = inputs[0][0][:1]
    samples = {batch: (row.repeat(batch, *(1,) * (row.ndim - 1)),) for batch in batches}
    if len(batches) == 1:
        converted = litert_torch.convert(module, samples[batches[0]], **given)
    else:
        several: Any = litert_torch
        for batch, sample in samples.items():
            several = several.signature(f"b{batch}", module, sample)
        converted = several.convert(**given)
    converted.export(lowered)
    _float_ends(lowered)


def _float_ends(path: str) -> None:
    """Let a file take and give floats where the converter left integers at its ends."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)

    def code(builtin: int) -> int:
        found = schema.OperatorCodeT()
        found.builtinCode, found.deprecatedBuiltinCode, found.version = builtin, min(builtin, 127), 1
        model.operatorCodes.append(found)
        return len(model.operatorCodes) - 1

    for number, graph in enumerate(model.subgraphs):
        for ends, builtin in (
            (graph.inputs, schema.BuiltinOperator.QUANTIZE),
            (graph.outputs, schema.BuiltinOperator.DEQUANTIZE),
        ):
            for place, old in enumerate(ends):
                inner = graph.tensors[old]
                if inner.type != schema.TensorType.INT8:
                    continue
                outer = schema.TensorT()
                outer.type, outer.shape, outer.shapeSignature = (
                    schema.TensorType.FLOAT32,
                    inner.shape,
                    inner.shapeSignature,
                )
                outer.name, outer.buffer = inner.name, 0
                inner.name = inner.name + b"_int8"
                graph.tensors.append(outer)
                new = len(graph.tensors) - 1
                op = schema.OperatorT()
                op.opcodeIndex = code(builtin)
                entering = builtin == schema.BuiltinOperator.QUANTIZE
                op.inputs, op.outputs = ([new], [old]) if entering else ([old], [new])
                graph.operators.insert(0 if entering else len(graph.operators), op)
                ends[place] = new
                for signature in model.signatureDefs or ():
                    if signature.subgraphIndex == number:
                        for named in signature.inputs if entering else signature.outputs:
                            named.tensorIndex = new if named.tensorIndex == old else named.tensorIndex
    flatbuffer_utils.write_model(model, path)
