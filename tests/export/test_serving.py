"""Files run in processes of their own: what they give, how long they take, how they die."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from limbeck.core.errors import UserError
from limbeck.export import Served, process, run, serving, session, warm


def onnx_file(path: Path, *, weights: np.ndarray | None = None, rounds: int = 1) -> Path:
    """A file that multiplies rows [B, n] by a matrix [n, m], `rounds` times, written without any converter."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(6, dtype=np.float32).reshape(3, 2) if weights is None else weights
    names = ["input", *(f"h{i}" for i in range(1, rounds)), "output"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, "weights"], [b]) for a, b in itertools.pairwise(names)],
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_file(tmp_path_factory.mktemp("served") / "product.onnx")


def test_every_row_is_answered_in_its_order(product: Path) -> None:
    x = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
    expected = x.astype(float) @ np.arange(6.0).reshape(3, 2)
    with Served(product, "onnx-int8") as served:  # a precision does not matter
        assert (served.dtype, served.shape) == ("float32", (3,))
        for rows in (1, 64, 65, 150):
            np.testing.assert_allclose(served.predict(x[:rows]), expected[:rows], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(served.predict(x[::-2]), expected[::-2], rtol=1e-5, atol=1e-6)  # not contiguous
        with pytest.raises(UserError, match="no rows to run it on"):
            served.predict(x[:0])
    np.testing.assert_allclose(run(product, "onnx", x, threads=2), expected, rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_fit_are_refused_and_the_next_are_answered(
    product: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = np.ones((2, 3), np.float32)
    with Served(product, "onnx") as served:
        for wrong, shown in ((x[:, :2], r"float32 rows \[2\]"), (x.astype(np.float64), r"float64 rows \[3\]")):
            with pytest.raises(UserError, match=f"cannot run it on {shown}: it takes float32 rows \\[3\\]") as caught:
                served.predict(wrong)
            assert caught.value.where == str(product)
        assert served.predict(x).shape == (2, 2)
    assert capfd.readouterr() == ("", "")


def test_calls_are_timed_inside(tmp_path: Path) -> None:
    size = 256
    path = onnx_file(tmp_path / "long.onnx", weights=np.eye(size, dtype=np.float32), rounds=40)
    one, many = np.ones((1, size), np.float32), np.ones((64, size), np.float32)
    with Served(path, "onnx") as served:
        begun = time.perf_counter()
        few, more = served.time(one, calls=7), served.time(many, calls=5)
        whole = (time.perf_counter() - begun) * 1e3
        assert (len(few), len(more)) == (7, 5)
        assert 0 < min(few) < min(more)
        assert sum(few) + sum(more) < whole
        for calls, rows in ((0, one), (1, one[:0]), (1, np.ones((65, size), np.float32))):
            with pytest.raises(UserError, match="cannot be timed"):
                served.time(rows, calls)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_memory_is_that_of_the_file_and_not_of_the_runtime_or_the_parent(tmp_path: Path) -> None:
    own = np.ones(200_000_000, np.uint8)  # what this process has must not count
    small = onnx_file(tmp_path / "small.onnx")
    large = onnx_file(tmp_path / "large.onnx", weights=np.ones((3000, 4000), np.float32))  # 48 MB
    with Served(small, "onnx", alone=True) as served:
        served.predict(np.ones((1, 3), np.float32))
        little = served.peak_mb
    with Served(large, "onnx", alone=True) as served:
        served.predict(np.ones((1, 3000), np.float32))
        much = served.peak_mb
    assert little is not None
    assert much is not None
    assert own.sum() == 200_000_000
    assert 0 < little < 30
    assert 48 < much < 48 * 4 + little


LIBRARIES = {"onnx": "onnxruntime", "litert": "ai_edge_litert", "openvino": "libopenvino"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
@pytest.mark.parametrize("form", LIBRARIES)
def test_nothing_but_the_runtime_is_loaded(form: str) -> None:
    with serving._start(form, 1) as child:
        child.send({"do": "peak"})
        assert child.receive() is not None
        maps = Path(f"/proc/{child.process.pid}/maps").read_text()
    found = {name for name in (*LIBRARIES.values(), "libtorch", "jaxlib", "executorch", "pandas") if name in maps}
    assert found == {LIBRARIES[form]}


def test_files_of_one_runtime_share_a_process_but_for_their_memory(product: Path, tmp_path: Path) -> None:
    other = onnx_file(tmp_path / "other.onnx", weights=np.full((2, 5), 3, np.float32))
    x, y = np.ones((1, 3), np.float32), np.ones((1, 2), np.float32)
    with warm(), Served(product, "onnx") as one, Served(other, "onnx") as two:
        assert one._child is two._child
        assert one.shape == (3,)
        assert two.shape == (2,)
        np.testing.assert_allclose(two.predict(y), np.full((1, 5), 6))
        np.testing.assert_allclose(one.predict(x), [[6, 9]])
        with Served(product, "onnx", threads=2) as wide, Served(product, "onnx", alone=True) as alone:
            assert len({one._child, wide._child, alone._child}) == 3
            assert alone.peak_mb is None or alone.peak_mb > 0
        with pytest.raises(UserError, match="not measured beside other files"):
            _ = one.peak_mb
        with pytest.raises(UserError, match="cannot load it"), Served(tmp_path / "absent", "onnx"):
            pass
        np.testing.assert_allclose(one.predict(x), [[6, 9]])
    with warm(), Served(product, "onnx") as again:
        np.testing.assert_allclose(again.predict(x), [[6, 9]])


def test_a_shared_process_that_died_is_replaced_for_the_next(product: Path) -> None:
    x = np.ones((1, 3), np.float32)
    with warm():
        with Served(product, "onnx") as one:
            assert one._child is not None
            one._child.process.kill()
            with pytest.raises(UserError, match="died"):
                one.predict(x)
        np.testing.assert_allclose(run(product, "onnx", x), [[6, 9]])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_runtime_that_dies_is_told_with_its_signal(product: Path, number: signal.Signals) -> None:
    x = np.ones((2, 3), np.float32)
    with Served(product, "onnx", alone=True) as served:
        served.predict(x)
        assert served._child is not None
        os.kill(served._child.process.pid, number)
        with pytest.raises(UserError, match=f"died: its process was stopped by {number.name}") as caught:
            served.predict(x)
        assert caught.value.where == str(product)
        assert ("out of memory?" in str(caught.value)) == (number == signal.SIGKILL)
        with pytest.raises(UserError, match="died"):
            served.time(x)


def test_a_process_that_cannot_start_shows_what_it_said(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "interpreter", lambda _: [sys.executable, "-c", "raise SystemExit('no such luck')"])
    died = "died: its process ended with 1 and gave no reason\n    no such luck"
    with pytest.raises(UserError, match=died), Served(product, "onnx", alone=True):
        pass


@pytest.mark.parametrize("form", ["onnx", "litert", "openvino", pytest.param("executorch", marks=pytest.mark.slow)])
def test_a_broken_file_is_refused(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.xml"
    path.write_bytes(b"\x00not a model" * 20)
    for broken in (path, tmp_path / "absent.xml"):
        with pytest.raises(UserError, match="cannot load it") as caught:
            run(broken, form, np.ones((1, 3), np.float32))
        assert caught.value.where == str(broken)
    assert capfd.readouterr() == ("", "")


MISSING = {
    "onnx": "onnxruntime",
    "litert": "ai_edge_litert.interpreter",
    "executorch": "executorch.extension.pybindings._C",
    "openvino": "openvino",
}


@pytest.mark.parametrize("form", MISSING)
def test_running_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setitem(sys.modules, MISSING[form], None)
    with pytest.raises(UserError, match=rf'needs: pip install "limbeck\[{form}\]"'):
        session(form, tmp_path / "model", 1)


def test_outside_its_block_nothing_is_served(product: Path) -> None:
    served = Served(product, "onnx", alone=True)
    with pytest.raises(UserError, match="is not being served"):
        served.predict(np.ones((1, 3), np.float32))
    with served:
        child = served._child
        assert child is not None
    assert not child.alive
    with pytest.raises(UserError, match="is not being served"):
        served.predict(np.ones((1, 3), np.float32))
    with pytest.raises(UserError, match="0 threads"):
        Served(product, "onnx", threads=0)
    with pytest.raises(UserError, match="unknown format"):
        Served(product, "tflight")


def test_a_block_left_by_an_error_leaves_no_process(product: Path) -> None:
    served = Served(product, "onnx", alone=True)
    child = None

    def fail() -> None:
        nonlocal child
        with served:
            child = served._child
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert child is not None
    assert not child.alive


def test_messages_keep_arrays_as_they_are() -> None:
    arrays = [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.zeros((0, 5), np.float32),
        np.array([[np.nan, -np.inf]], np.float32),
    ]
    stream = io.BytesIO()
    for number, array in enumerate(arrays):
        process.send(stream, {"number": number}, array)
    process.send(stream, {"last": True})
    whole = stream.getvalue()
    stream.seek(0)
    for number, array in enumerate(arrays):
        received = process.receive(stream)
        assert received is not None
        told, found = received
        assert told == {"number": number}
        assert found is not None
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
    assert process.receive(stream) == ({"last": True}, None)
    assert process.receive(stream) is None
    cut = io.BytesIO(whole[: whole.index(b"\n") + 5])  # the sender died on the way
    assert process.receive(cut) is None
