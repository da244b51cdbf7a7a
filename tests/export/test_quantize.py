"""Calibration rows, the ranking of layers, the search for layers to leave in float, refusals."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import UserError
from limbeck.export import quantize
from limbeck.export.formats.litert.quantize import _layer
from limbeck.export.formats.onnx import quantize as graphs
from limbeck.export.quantize import LayerError, post_training
from limbeck.export.quantize.calibration import check_rows, load_rows
from limbeck.export.quantize.layer_errors import LARGEST_DB, Comparison, Op, names_of, ranked
from limbeck.pipeline import export


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_calibration_rows_are_balanced_and_drawn_once(labels: list[int], count: int, seed: int) -> None:
    chosen = quantize.calibration(len(labels), np.array(labels), count, seed=seed).tolist()
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    assert all(0 <= row < len(labels) for row in chosen)
    taken = {label: sum(labels[row] == label for row in chosen) for label in set(labels)}
    for label, n in taken.items():  # no class has two more than another one that is not used up
        assert n == labels.count(label) or n >= max(taken.values()) - 1


def test_calibration_depends_on_the_seed_alone_and_mixes_the_classes() -> None:
    labels = np.repeat(np.arange(10), 600)
    first, again, other = (quantize.calibration(6000, labels, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(first) == 256
    assert set(np.bincount(labels[first], minlength=10)) == {25, 26}
    assert np.abs(np.diff(labels[first])).mean() > 2  # ranges that move with the rows must not see class after class


def test_calibration_without_classes_draws_evenly() -> None:
    chosen = quantize.calibration(1000, None, 500, seed=3)
    assert 400 < chosen.float().mean() < 600
    values = quantize.calibration(1000, np.linspace(0, 1, 1000), 500, seed=3)
    assert chosen.tolist() == values.tolist()


@pytest.mark.parametrize(("total", "labels", "count"), [(0, None, 5), (5, None, 0), (5, np.zeros(4, int), 3)])
def test_calibration_refuses(total: int, labels: np.ndarray | None, count: int) -> None:
    with pytest.raises(UserError, match="calibration"):
        quantize.calibration(total, labels, count)


NAN = np.ones((4, 3), np.float32)
NAN[1, 2] = np.nan
NAN[3, 0] = np.inf


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (None, "there are no rows"),
        (np.zeros((0, 1, 28, 28), np.float32), "there are no rows"),
        (NAN, "2 of 4 rows hold NaN or infinite numbers"),
        (np.zeros(3, np.float32), r"float32 \(3,\) are no rows"),
        (np.array([["a"]]), "are no rows of inputs"),
    ],
)
def test_rows_that_cannot_be_calibrated_on(tmp_path: Path, rows: np.ndarray | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_rows(rows)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        source = tmp_path / "model.onnx"
        source.write_bytes(b"never looked at")
        with pytest.raises(UserError, match=told):
            quantize.quantize(source, tmp_path / "model.int8.onnx", "onnx-int8", rows)
        assert list(tmp_path.iterdir()) == [source]


def test_rows_must_fit_the_model(tmp_path: Path) -> None:
    file = str(tmp_path / "rows.npy")
    np.save(file, np.zeros((2, 3, 8, 8), np.float32))
    assert load_rows(file, (3, 8, 8), "float32").shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"rows are float32 \[3, 8, 8\], and the model takes float32 \[8, 8, 3\]"):
        load_rows(file, (8, 8, 3), np.float32)
    with pytest.raises(UserError, match=r"the model takes uint8 \[3, 8, 8\]"):
        load_rows(file, (3, 8, 8), np.uint8)


# --- ranking -------------------------------------------------------------------------------------


def compared(tensors: dict[str, tuple[list[float], list[float]]]) -> Comparison:
    found = Comparison()
    found.add({k: np.array(v[0]) for k, v in tensors.items()}, {k: np.array(v[1]) for k, v in tensors.items()})
    return found


OPS = [
    Op("op0", "first", ("x", "w0"), "a"),
    Op("op1", "second", ("a", "w1"), "b"),
    Op("op2", "third", ("b",), "c"),
]


def test_layers_are_ranked_by_the_noise_they_add() -> None:
    powers = compared(
        {
            "a": ([3.0, 4.0], [3.0, 5.0]),  # noise 1 of 25
            "b": ([6.0, 8.0], [6.0, 10.0]),  # 4 of 100: as loud as its input
            "c": ([0.0, 10.0], [3.0, 10.0]),  # 9 of 100
            "w1": ([1.0], [2.0]),  # a weight: its noise is the layer's own
        }
    )
    found = ranked(OPS, powers)
    assert [row["layer"] for row in found] == ["third", "first", "second"]
    assert [row["noise"] for row in found] == pytest.approx([0.05, 0.04, 0.0])
    assert [row["sqnr_db"] for row in found] == pytest.approx([10 * math.log10(x) for x in (100 / 9, 25, 25)])


def test_powers_add_up_over_batches() -> None:
    whole = compared({"a": ([3.0, 4.0, 1.0], [3.0, 5.0, 2.0])})
    parts = compared({"a": ([3.0, 4.0], [3.0, 5.0])})
    parts.add({"a": np.array([1.0]), "only": np.ones(2)}, {"a": np.array([2.0])})
    assert parts.share("a") == whole.share("a") == pytest.approx(2 / 26)
    assert parts.share("only") is None


def test_padding_with_infinity_is_no_noise() -> None:
    compared = Comparison()
    compared.add({"pool": np.array([-np.inf, 3.0])}, {"pool": np.array([-8.0, 4.0])})
    assert compared.share("pool") == pytest.approx(1 / 9)


def test_what_is_fused_hands_its_noise_on_and_what_is_alike_has_none() -> None:
    found = ranked(OPS, compared({"a": ([10.0], [11.0]), "c": ([10.0], [11.0])}))  # b is computed in one with c
    assert {row["layer"]: row["noise"] for row in found} == pytest.approx({"first": 0.01, "third": 0.0})
    (same,) = ranked(OPS[:1], compared({"a": ([1.0, 2.0], [1.0, 2.0])}))
    assert same == {"layer": "first", "sqnr_db": LARGEST_DB, "noise": 0.0}
    (silent,) = ranked(OPS[:1], compared({"a": ([0.0, 0.0], [0.0, 1.0])}))
    assert silent["noise"] == 1.0


def test_a_layer_of_several_operations_is_one() -> None:
    ops = [Op("conv", "one", ("x",), "a"), Op("relu", "one", ("a",), "b")]
    (row,) = ranked(ops, compared({"a": ([1.0], [1.5]), "b": ([2.0], [2.5])}))
    assert row["noise"] == pytest.approx(0.25)  # the worst it adds
    assert row["sqnr_db"] == pytest.approx(10 * math.log10(16))  # what comes out
    assert names_of(ops, ["one"]) == ["conv", "relu"]
    with pytest.raises(UserError, match=r"no layer 'oen'\n.*did you mean 'one'"):
        names_of(ops, ["oen"])


# --- leaving layers in float ---------------------------------------------------------------------

LAYERS = [f"layer{i}" for i in range(10)]


class Bench:
    """Files whose worth is a function of the layers left in float, in place of a tool and a test set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, worth: list[float]) -> None:
        self.skipped: list[tuple[str, ...]] = []
        self.worth = worth
        monkeypatch.setattr(post_training, "quantize", self.make)
        monkeypatch.setattr(
            post_training, "errors", lambda *_: [LayerError(n, 30.0, 0.1 if n < "layer5" else 0.0) for n in LAYERS]
        )

    def make(self, source: Path, path: Path, name: str, rows: object, *, skip: list[str], cpu: object) -> Path:
        assert list(skip) == LAYERS[: len(skip)]  # the worst ones
        self.skipped.append(tuple(skip))
        return path

    def score(self, path: Path) -> float:
        return self.worth[len(self.skipped[-1])]


@pytest.mark.parametrize("needed", range(10))
def test_as_few_layers_as_do_stay_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, needed: int) -> None:
    bench = Bench(monkeypatch, [0.8] * needed + [0.9] * (11 - needed))
    kept = quantize.within(tmp_path / "a", tmp_path / "b", "onnx-int8", np.ones(1), score=bench.score, least=0.9)
    assert kept.held
    assert kept.layers == tuple(LAYERS[:needed]) == bench.skipped[-1]  # and that is the file that is there
    assert kept.score == 0.9
    assert len(bench.skipped) <= 9


def test_when_nothing_holds_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench(monkeypatch, [0.5 + 0.01 * n for n in range(11)])
    kept = quantize.within(tmp_path / "a", tmp_path / "b", "onnx-int8", np.ones(1), score=bench.score, least=0.9)
    assert not kept.held
    assert kept.layers == bench.skipped[-1] == ()
    assert kept.score == 0.5
    assert max(n for n, _ in kept.tried) == 9  # all but one were


# --- files of networks trained in integers --------------------------------------------------------


def rounded_convolution() -> Any:
    """x -> rounded -> convolution with rounded weights and a float bias -> rounded, in signed bytes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    values = {
        "weight": generator.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "weight_step": np.float32([0.01, 0.02, 0.005, 0.001]),
        "weight_zero": np.zeros(4, np.int8),
        "bias": generator.normal(size=4).astype(np.float32),
        "in_step": np.float32(0.02),
        "in_zero": np.int8(-11),
        "out_step": np.float32(0.05),
        "out_zero": np.int8(5),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "in_step", "in_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "in_step", "in_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_step", "weight_zero"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bias"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "out_step", "out_zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "out_step", "out_zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, None, None, None]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=onnx.IR_VERSION_2024_3_25)


def test_roundings_become_unsigned_and_biases_integers_without_a_change() -> None:
    need(bool(importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime")), "the extra onnx")
    import onnx
    import onnxruntime

    def run(model: Any) -> np.ndarray:
        onnx.checker.check_model(model)
        # As the file says it, in floats: integer kernels are the processor's, and some x86 ones saturate.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.random.default_rng(1).normal(size=(3, 2, 9, 9)).astype(np.float32)})[0]

    model = rounded_convolution()
    before = run(model)
    graphs._unsigned_activations(model.graph)
    assert np.array_equal(run(model), before)
    kinds = {value.name: value.data_type for value in model.graph.initializer}
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {kinds[name] for name in zeros} == {onnx.TensorProto.UINT8}
    assert "in_zero" not in kinds  # what nothing reads any more is gone
    graphs._integer_biases(model.graph)
    after = run(model)
    assert np.abs(after - before).max() < 0.0501  # one step, where the bias decided
    assert (after != before).mean() < 0.02
    assert "bias" not in {value.name for value in model.graph.initializer}


def test_the_layer_of_a_lite_rt_operation_is_read_from_its_tensors() -> None:
    conv = "torch.nn.modules.container.Sequential_model/torch.nn.modules.conv.Conv2d_3;1"
    relu = "torch.nn.modules.container.Sequential_model/torch.nn.modules.activation.ReLU_4;"
    linear = "a.b.My_Net_body/torch.nn.modules.linear.Linear_fc_1;"
    assert _layer(f"{relu};{conv}", ()) == "model.3"  # made one; the layer with weights counts
    assert _layer(relu, (conv,)) == "model.4"
    assert _layer("serving_default_output_0_output", (conv,)) == "model.3"
    assert _layer(linear, ()).endswith(".fc_1")
    assert _layer("limbeck.models.normalization.Normalized;2", ()) == "Normalized;2"


# --- refusals ------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_a_guess(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'litert-int8'"):
        quantize.quantize(tmp_path / "a", tmp_path / "b", "litert-in8")
    with pytest.raises(UserError, match="unknown quantized format 'onnx'"):
        quantize.errors(tmp_path / "a", tmp_path / "b", "onnx", np.ones((1, 2)))


TOOLS = {"litert": "ai_edge_quantizer", "onnx": "onnxruntime", "executorch": "torchao", "openvino": "nncf"}


@pytest.mark.parametrize("name", quantize.QUANTIZED)
def test_a_missing_tool_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    form = name.partition("-")[0]
    monkeypatch.setitem(sys.modules, TOOLS[form], None)
    with pytest.raises(UserError, match=rf'needs: pip install "limbeck\[{form}\]"'):
        quantize.quantize(tmp_path / "a", tmp_path / "b", name, np.ones((1, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_an_absent_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.onnx: there is no such file"):
        quantize.quantize(tmp_path / "absent.onnx", tmp_path / "b.onnx", "onnx-int8", np.ones((1, 2), np.float32))


def test_the_room_is_quick_to_enter() -> None:
    code = "import sys, limbeck.export.quantize; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_stayed_float_or_did_not_help_is_told(tmp_path: Path) -> None:
    def told(*layers: str, held: bool = True) -> list[str]:
        return export._told(quantize.Kept(tmp_path, layers, 0.8, held, ((0, 0.8),)), 0.01, 0.1)

    assert told() == []
    assert told("stem") == ["1 layer stays float so that no more than 0.01 is lost: stem"]
    assert told("stem", "head") == ["2 layers stay float so that no more than 0.01 is lost: stem, head"]
    assert told(held=False) == ["loses 0.1 on validation, and no layers left in float keep that within 0.01"]
