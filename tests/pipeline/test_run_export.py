"""Files of one network: side by side, in order, each thing made once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import gone
from runs import tiny

import limbeck
from limbeck.core.errors import UserError
from limbeck.core.types import Artifact, Cost
from limbeck.export import process, quantize
from limbeck.export.workers import elsewhere
from limbeck.pipeline import export


def made(name: str) -> Artifact:
    return Artifact(name, "exported", 0, "onnx", name, {}, Cost(None, None, None, None))


def test_formats_are_made_side_by_side_and_given_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "cores", lambda: 2)
    both, order = threading.Barrier(2), []

    def one(job: Any, shipped: Any, name: str, sources: export.Sources) -> Artifact:
        order.append(name)
        if "-" not in name:
            with process.turns.passed():
                both.wait(60)  # neither goes on before the other has come as far
        return made(name)

    monkeypatch.setattr(export, "_shipped", one)
    names: list[Any] = ["litert-int8", "onnx", "litert"]
    advanced: list[str] = []
    counts: list[int] = []

    def advance(done: int, name: str) -> None:
        counts.append(done)
        advanced.append(name)

    found = export.ship(None, None, names, advance)  # type: ignore[arg-type]
    assert [row.name for row in found] == names
    assert sorted(advanced) == sorted(names)
    assert counts == [1, 2, 3]
    assert order.index("litert") < order.index("litert-int8")  # which is made from it


def test_one_that_fails_is_told_and_what_was_begun_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "cores", lambda: 2)
    both, done = threading.Barrier(2), []

    def one(job: Any, shipped: Any, name: str, sources: export.Sources) -> Artifact:
        with process.turns.passed():
            both.wait(60)
        if name == "onnx":
            raise UserError("the operator 'frob' is unknown")
        with process.turns.passed():
            time.sleep(0.2)
        done.append(name)
        return made(name)

    monkeypatch.setattr(export, "_shipped", one)
    with pytest.raises(UserError, match="frob"):
        export.ship(None, None, ["onnx", "litert", "litert-int8"])  # type: ignore[arg-type]
    assert done == ["litert"]


def test_a_stop_does_not_wait_for_a_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cold: None) -> None:
    monkeypatch.setattr(export, "cores", lambda: 2)
    mark = tmp_path / "mark"

    def one(job: Any, shipped: Any, name: str, sources: export.Sources) -> Artifact:
        if name == "onnx":
            arguments: dict[str, Any] = {"family": "test", "log": tmp_path / "log", "doing": "no", "where": "here"}
            elsewhere("jobs:wait", {"mark": str(mark)}, **arguments)  # ten minutes
        with process.turns.passed():
            while not (mark.exists() and mark.read_text()):
                time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_shipped", one)
    with process.keeping():
        with pytest.raises(KeyboardInterrupt):
            export.ship(None, None, ["onnx", "litert"])  # type: ignore[arg-type]
        assert gone(int(mark.read_text()))
        assert not process._kept  # and none was started in its place
        assert "trying once more" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_run_makes_every_file_and_converts_each_format_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[str] = []
    source = quantize.source
    monkeypatch.setattr(quantize, "source", lambda form, *rest: converted.append(form) or source(form, *rest))
    formats = ["litert-int8", "litert", "litert-w8", "openvino-int8", "openvino-fp16"]
    result = limbeck.run(tiny(export=formats, seeds=1), out=tmp_path / "run")
    files = {m["file"]: m for m in result["models"] if m["role"] == "exported"}
    assert [f"{m['format']}-{m['precision']}".removesuffix("-float32") for m in files.values()] == formats
    assert all((tmp_path / "run" / file).stat().st_size > 500 for file in files)
    assert converted == ["openvino"]  # the float file of LiteRT is one of the run's own
