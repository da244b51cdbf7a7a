"""Work in a process of its own: what it gives, what it says, how it fails."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import UserError
from limbeck.export import Interface, as_given, as_seen, files, form_of, put, size_bytes, suffix
from limbeck.export.elsewhere import elsewhere

# --- the work, done in the child, which finds this file on its path ------------------------------


def add(first: int, second: int) -> dict[str, object]:
    print("added on stdout")
    os.write(2, b"added on descriptor 2\n")
    return {"sum": first + second, "process": os.getpid(), "telemetry": sys.modules.get("openvino_telemetry", "there")}


def fail(kind: str) -> None:
    if kind == "user":
        raise UserError("the operator 'frob' is unknown", hint="not carried")
    if kind == "exit":
        sys.exit("given up")
    try:
        raise KeyError("the first reason")
    except KeyError as error:
        error.add_note("in layer 'head'")
        raise RuntimeError("advice that nobody wants") from error


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def crash_afterwards() -> int:
    import atexit

    atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
    return 7


HERE = "test_export_elsewhere"


def test_it_gives_what_the_function_gives_and_logs_what_it_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "work.log"
    log.write_text("before\n")
    given = elsewhere(f"{HERE}:add", {"first": 2, "second": 3}, log=log, doing="no sum", where="here")
    assert given["sum"] == 5
    assert given["process"] != os.getpid()
    assert given["telemetry"] is None  # not importable there
    assert capfd.readouterr() == ("", "")
    assert log.read_text().splitlines()[0] == "before"
    assert sorted(log.read_text().splitlines()[1:]) == ["added on descriptor 2", "added on stdout"]


@pytest.mark.parametrize(
    ("task", "arguments", "reason"),
    [
        ("fail", {"kind": "user"}, "no sum: the operator 'frob' is unknown"),
        ("fail", {"kind": "chain"}, "no sum: KeyError: 'the first reason'\n    in layer 'head'"),
        ("fail", {"kind": "exit"}, "no sum: SystemExit: given up"),
        ("add", {"first": 2}, "missing 1 required positional argument: 'second'"),
        ("die", {"number": int(signal.SIGSEGV)}, "no sum: its process was stopped by SIGSEGV"),
        ("die", {"number": int(signal.SIGKILL)}, r"stopped by SIGKILL \(out of memory\?\)"),
    ],
)
def test_a_failure_tells_its_reason(tmp_path: Path, task: str, arguments: dict[str, object], reason: str) -> None:
    log = tmp_path / "work.log"
    with pytest.raises(UserError, match=reason) as caught:
        elsewhere(f"{HERE}:{task}", arguments, log=log, doing="no sum", where="here")
    assert caught.value.where == "here"
    assert str(log) in str(caught.value)
    assert log.exists()


def test_a_crash_on_the_way_out_does_not_matter(tmp_path: Path) -> None:
    assert elsewhere(f"{HERE}:crash_afterwards", {}, log=tmp_path / "log", doing="no", where="here") == 7


# --- names and places ----------------------------------------------------------------------------


def test_names_of_files() -> None:
    assert suffix("litert") == ".tflite"
    assert suffix("litert-int8") == ".int8.tflite"
    assert suffix("openvino-fp16") == ".fp16.xml"
    assert form_of("executorch-int8") == "executorch"
    assert files(Path("a/b.c.xml")) == (Path("a/b.c.xml"), Path("a/b.c.bin"))
    assert files(Path("a/b.onnx")) == (Path("a/b.onnx"),)
    with pytest.raises(UserError, match="unknown format 'int8'"):
        suffix("int8")


def test_two_files_count_and_move_together(tmp_path: Path) -> None:
    made, place = tmp_path / "made.xml", tmp_path / "place" / "net.int8.xml"
    made.write_bytes(b"x" * 10)
    made.with_suffix(".bin").write_bytes(b"w" * 100)
    assert size_bytes(made) == 110
    put(made, place)
    assert size_bytes(place) == 110
    assert sorted(p.name for p in place.parent.iterdir()) == ["net.int8.bin", "net.int8.xml"]
    place.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        size_bytes(place)


def test_a_stop_between_two_files_leaves_none_that_looks_whole(tmp_path: Path) -> None:
    made, place = tmp_path / "made.xml", tmp_path / "net.xml"
    place.write_bytes(b"old")
    place.with_suffix(".bin").write_bytes(b"old weights")
    made.with_suffix(".bin").write_bytes(b"new weights")  # the .xml cannot be copied: it is not there
    with pytest.raises(UserError, match="cannot be written"):
        put(made, place)
    assert not place.exists()  # never the old graph with new weights
    assert place.with_suffix(".bin").read_bytes() == b"new weights"


# --- interfaces ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_rows_for_the_file_are_seen_by_the_network_as_they_were(kind: str, layout: str) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6))
    pixels = (levels / 255).astype(np.float32)
    interface = Interface(kind, layout)  # type: ignore[arg-type]
    given = as_given(pixels, interface)
    assert given.dtype == kind
    assert given.shape == ((5, 3, 4, 6) if layout == "nchw" else (5, 4, 6, 3))
    assert given.flags.c_contiguous
    one = given[1, 2, 3, 0] if layout == "nchw" else given[1, 3, 0, 2]
    assert one == (levels[1, 2, 3, 0] if kind == "uint8" else pixels[1, 2, 3, 0])
    seen = as_seen(given, interface)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, pixels, rtol=0, atol=1e-7)


def test_tables_have_no_layout() -> None:
    columns = np.array([[0.0, 1.0, 0.5]], np.float32)
    assert as_given(columns, Interface("uint8", "nhwc")).tolist() == [[0, 255, 128]]
    assert as_given(columns, Interface(layout="nhwc")).tolist() == columns.tolist()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"input": "int8"}, "unknown input 'int8'"),
        ({"layout": "nwhc"}, "did you mean 'nhwc'"),
        ({"batches": ()}, "cannot be made"),
        ({"batches": (0, 4)}, "cannot be made"),
        ({"batches": (4, 4)}, "each once"),
        ({"batches": (True,)}, "cannot be made"),
    ],
)
def test_an_interface_that_makes_no_sense_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Interface(**options)  # type: ignore[arg-type]
