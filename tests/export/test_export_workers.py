"""Work in a process of its own: what it gives, what it says, how it fails."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import gone
from torch import nn

from limbeck import export
from limbeck.core.errors import UserError
from limbeck.core.formats import file_format
from limbeck.export import (
    Interface,
    as_given,
    as_seen,
    files,
    process,
    put,
    quantize,
    size_bytes,
    suffix,
    warm,
)
from limbeck.export.workers import Limits, elsewhere

HERE = "jobs"


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    def asked(task: str, *, family: str = "test", limits: Limits | None = None, **arguments: object) -> Any:
        given = {"family": family, "log": tmp_path / "log", "doing": "no sum", "where": "here", "limits": limits}
        return elsewhere(f"{HERE}:{task}", arguments, **given)  # type: ignore[arg-type]

    return asked


# --- one job -------------------------------------------------------------------------------------


def test_it_gives_what_the_function_gives_and_logs_what_it_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "work.log"
    log.write_text("before\n")
    given = elsewhere(f"{HERE}:add", {"first": 2, "second": 3}, family="test", log=log, doing="no sum", where="here")
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
        ("no_json", {}, "no sum: TypeError: Object of type set is not JSON serializable"),
        ("die", {"number": int(signal.SIGSEGV)}, "no sum: its process was stopped by SIGSEGV"),
        ("die", {"number": int(signal.SIGKILL)}, r"stopped by SIGKILL \(out of memory\?\)"),
    ],
)
def test_a_failure_tells_its_reason(
    tmp_path: Path, ask: Callable[..., Any], task: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        ask(task, **arguments)
    assert caught.value.where == "here"
    log = tmp_path / "log"
    assert str(log) in str(caught.value)
    # A process that died is tried once more, and only that one.
    assert log.read_text().count("about to die") == (2 if task == "die" else 0)
    assert log.read_text().count("trying once more") == (1 if task == "die" else 0)


def test_a_relative_path_is_that_of_the_caller(
    tmp_path: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        monkeypatch.chdir(tmp_path / name)
        assert ask("name_of", path="file") == name


# --- many jobs -----------------------------------------------------------------------------------


def test_a_family_keeps_its_process_inside_a_block(ask: Callable[..., Any], cold: None, tmp_path: Path) -> None:
    assert ask("whose") != (outside := ask("whose"))
    assert gone(outside)
    with warm():
        first = ask("whose")
        with warm():
            assert ask("whose") == first
        with pytest.raises(UserError, match="unknown"):
            ask("fail", kind="user")
        assert ask("whose") == first  # what fails by itself leaves the process as it was
        assert ask("whose", family="other") != first
    assert gone(first)
    # Python warns once for each line of code; here each job is warned, for each has a log.
    assert (tmp_path / "log").read_text().count("UserWarning: be careful") == 6


@pytest.mark.parametrize(
    ("how", "limits"),
    [
        ("dies", Limits()),
        ("sleeps", Limits(idle_seconds=4)),
        ("works", Limits(seconds=8)),
        ("takes", Limits(share=300_000_000 / psutil.virtual_memory().total)),
    ],
)
def test_a_process_that_is_lost_is_replaced_and_the_job_done(
    ask: Callable[..., Any], cold: None, tmp_path: Path, how: str, limits: Limits
) -> None:
    told = {
        "dies": "SIGSEGV",
        "sleeps": "did nothing for",
        "works": "was not done after",
        "takes": "GB of this machine",
    }
    with warm():
        before = ask("whose")
        after = ask("once_only", mark=str(tmp_path / "mark"), how=how, limits=limits)
        assert after != before
        assert gone(before)
        assert ask("whose") == after
    assert f"{told[how]}" in (tmp_path / "log").read_text()


def test_one_that_has_grown_is_replaced_for_the_next(ask: Callable[..., Any], cold: None) -> None:
    limits = Limits(grown_bytes=200_000_000)
    with warm():
        first = ask("keep", size=1000, limits=limits)
        assert ask("keep", size=400_000_000, limits=limits) == first
        assert gone(first)
        assert ask("keep", size=1000, limits=limits) != first


def test_families_work_side_by_side_and_threads_take_turns_here(ask: Callable[..., Any]) -> None:
    """Two that wait for their processes at once; what they do in this process never overlaps."""
    here: list[str] = []

    def one(family: str) -> int:
        with process.turns.taken():
            here.append(f"{family} begins")
            time.sleep(0.05)
            here.append(f"{family} asks")
            given: int = ask("whose", family=family)
            here.append(f"{family} ends")
            return given

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(one, ["test", "other"]))) == 2
    for begins, asks in itertools.pairwise(here):
        assert not begins.endswith("begins") or asks == begins.replace("begins", "asks")
    with pytest.raises(RuntimeError, match="release"):
        process.turns._lock.release()  # nobody holds it any more


def test_a_fork_does_not_speak_with_the_processes_of_its_parent(ask: Callable[..., Any]) -> None:
    parent = ask("whose")
    read, write = os.pipe()
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException):
            os.write(write, str(ask("whose")).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(read, 20)) not in (parent, pid)
    os.close(read)
    os.close(write)
    assert ask("whose") == parent


@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path, busy: bool) -> None:
    mark = tmp_path / "mark"
    job = f"elsewhere('{HERE}:wait', dict(mark={str(mark)!r}), family='test', log=Path({str(tmp_path / 'log')!r}), "
    idle = f"print(*[child.process.pid for child in process._kept.values()], file=open({str(mark)!r}, 'w'), flush=True)"
    code = (
        "import time\nfrom pathlib import Path\nfrom limbeck.export import process, warm\n"
        "from limbeck.export.workers import elsewhere\n"
        "with warm(['onnx']):\n    " + (f"{job}doing='', where='')" if busy else f"{idle}; time.sleep(600)")
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    while not (mark.exists() and mark.read_text().strip()):
        assert parent.poll() is None
        time.sleep(0.1)
    time.sleep(0.2)
    child = int(mark.read_text().split()[0])
    assert psutil.pid_exists(child)
    parent.kill()
    parent.wait()
    assert gone(child)


# --- the same file from a process that has made others -------------------------------------------


KINDS = {
    "litert": ("litert", "litert-int8", "litert-fp16", "litert-w8", "litert-w4"),
    "onnx": ("onnx", "onnx-int8"),
    "openvino": ("openvino", "openvino-int8", "openvino-fp16"),
    "executorch": ("executorch", "executorch-int8"),
}
TENTH = 10


@pytest.mark.slow
@pytest.mark.parametrize("form", KINDS)
def test_a_tenth_job_gives_the_very_file_of_a_first(tmp_path: Path, form: str, cold: None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    x = torch.rand(64, 1, 8, 8)

    def made(name: str, folder: Path) -> Path:
        path = folder / f"net{suffix(name)}"
        if name == form:
            return export.to(form, network, x[:2], path)
        return quantize.quantize(source, path, name, x.numpy())

    def content(path: Path) -> list[bytes]:
        return [file.read_bytes() for file in files(path)]

    for name in ("first", "many"):
        (tmp_path / name).mkdir()
    source = quantize.source(form, network, x[:2], tmp_path)
    fresh = {name: content(made(name, tmp_path / "first")) for name in KINDS[form]}
    small = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with warm():
        for _ in range(TENTH - len(KINDS[form])):
            export.to(form, small, x[:2, 0, 0, :2], tmp_path / f"small{suffix(form)}")
        for name in KINDS[form]:
            assert content(made(name, tmp_path / "many")) == fresh[name], name
        assert len([key for key in process._kept if key[0] == "converter"]) == 1  # type: ignore[index]


# --- names and places ----------------------------------------------------------------------------


def test_names_of_files() -> None:
    assert suffix("litert") == ".tflite"
    assert suffix("litert-int8") == ".int8.tflite"
    assert suffix("openvino-fp16") == ".fp16.xml"
    assert file_format("executorch-int8") == ("executorch", "int8")
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
