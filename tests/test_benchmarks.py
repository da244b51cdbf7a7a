"""The benchmarks: how turns are taken and times summed up, and that a short run gives every figure."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import need
from report_samples import classification, compared
from report_samples_compressed import within_budget

from limbeck.report import words

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FASHION = Path("/usr/share/datasets/fashion-mnist")

# Epochs of four steps, with something after each that is no step.
LOOP = """
import time
from turns import Turns
turns = Turns(warm_up=2)
print("what libraries print is no answer")
turns.info["name"] = "loop"
for epoch in range(3):
    for step in range(4):
        turns.step(first=step == 0)
        time.sleep(0.01)
    time.sleep(0.2)
turns.finish()
"""


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import turns

    return turns


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for both benchmarks, for they share a teacher."""
    return tmp_path_factory.mktemp("cache")


def run(script: str, cache: Path) -> dict[str, Any]:
    """The JSON of a short run."""
    file = cache / "result.json"
    subprocess.run(
        [sys.executable, BENCHMARKS / script, "--quick", "--no-peers", "--quiet", "--json", file],
        check=True,
        env={**os.environ, "LIMBECK_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    return dict(json.loads(file.read_text()))


def test_a_block_is_as_many_steps_as_asked_for_and_no_validation(turns, tmp_path):
    (tmp_path / "loop.py").write_text(LOOP)
    contender = turns.Contender([sys.executable, tmp_path / "loop.py"]).warm()
    try:
        assert contender.ready["name"] == "loop"
        assert contender.ready["steps"] == 2
        block = contender.block(4)  # the third step, then three of the next epoch: its first call closes no step
        assert block["steps"] == 4
        assert block["seconds"] >= 0.04
        assert block["busy_seconds"] - block["seconds"] >= 0.21
        assert block["total_busy_seconds"] == pytest.approx(
            contender.ready["total_busy_seconds"] + block["busy_seconds"], abs=1e-9
        )
        rest = contender.block("epoch")  # up to the end of the last epoch
        assert rest["steps"] == 3
        assert rest["busy_seconds"] >= 0.24
        assert block["peak_bytes"] > 1e6
    finally:
        contender.close()
    assert contender.process.returncode == 0


def test_a_contender_that_fails_says_why(turns):
    contender = turns.Contender([sys.executable, "-c", "raise SystemExit('no such library')"])
    with pytest.raises(RuntimeError, match="no such library"):
        contender.warm()


def test_ratios_are_medians_over_rounds(turns):
    above, below = [2.0, 9.0, 30.0, 4.0, 10.0], [1.0, 3.0, 5.0, 4.0, 1.0]
    assert turns.ratio(above, below) == 3.0  # of 2, 3, 6, 1, 10; the ratio of the medians is another
    assert turns.quartiles(above, below) == [2.0, 6.0]
    assert turns.quartiles([3.0], [2.0]) == [1.5, 1.5]


def test_rounds_let_everybody_begin_once(turns):
    asked = []

    class Fake:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def block(self, steps: int) -> dict[str, float]:
            asked.append((self.name, steps))
            return {"steps": steps, "seconds": steps * self.seconds}

    times = turns.in_rounds({"a": Fake("a", 0.001), "b": Fake("b", 0.02)}, 3, 0.1, lambda text: None)
    assert asked == [("a", 3), ("b", 3), ("a", 100), ("b", 5), ("b", 5), ("a", 100), ("a", 100), ("b", 5)]
    assert times["a"] == pytest.approx([1.0] * 3)
    assert times["b"] == pytest.approx([20.0] * 3)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], list[str]]:
    """The lines that results_table.py prints for a folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results_table

    def lines(folder: Path) -> list[str]:
        results_table.main([str(folder)])
        return capsys.readouterr().out.splitlines()

    return lines


def test_rows_of_results_carry_the_numbers_of_the_run(tmp_path, printed):
    result = classification()
    (tmp_path / "result.json").write_text(json.dumps(result))
    [row] = printed(tmp_path)
    cells = row.strip("| ").split(" | ")
    gain = result["comparison"]["gain"]
    low, high = (100 * end for end in gain["ci95"])
    assert cells[:3] == ["`mnist-distiller`", "Fashion-MNIST", "5"]
    assert cells[6:9] == [f"{100 * gain['mean']:+.2f} [{low:+.2f}, {high:+.2f}]", "helps", "30.0x"]
    (tmp_path / "result.json").write_text(json.dumps(classification(seeds=1)))
    assert "±" not in printed(tmp_path)[0]  # one seed has no interval


def test_a_run_that_compared_losses_prints_a_row_for_each(tmp_path, printed):
    result = compared()
    (tmp_path / "result.json").write_text(json.dumps(result))
    lines = printed(tmp_path)
    assert sum(line.startswith("| `compare-losses`") for line in lines) == 1
    rows = [line.strip("| ").split(" | ") for line in lines[6:]]
    assert [len(cells) for cells in rows] == [7] * 8
    gains = {m["name"]: m["gain"]["mean"] for m in result["methods"]}
    assert [cells[0].strip("`") for cells in rows] == sorted(gains, key=gains.get, reverse=True)
    found = {cells[0].strip("`"): cells for cells in rows}
    assert found["fitnet"][1] == "hard 1 + fitnet weight auto; found: fitnet 0.20 to 0.60"
    assert found["fitnet"][4:] == ["helps", "holds", f"2.5{words.TIMES}"]
    assert found["at"][4:6] == ["helps", "does not hold"]
    assert found["ctkd"][3].startswith(f"{100 * gains['ctkd']:+.2f} [")
    assert found["ctkd"][4:6] == ["no evidence", ""]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_distill_step_gives_every_figure(cache):
    need(FASHION.is_dir(), "Fashion-MNIST")
    result = run("distill_step.py", cache)
    figures = [result["cached_over_student"], result["live_over_bound"], result["peers_over_cached"]["plain-loop"]]
    figures += [*result["teacher_speedup"].values(), *result["ms_per_step"].values()]
    assert len(figures) >= 12
    assert all(math.isfinite(value) and value > 0 for value in figures)
    assert result["n"] == 3
    assert result["hardware"]["threads"] == 1
    for found in result["soft_targets"].values():
        assert found["agreement"] > 0.9
        assert 0 <= found["kl"] < 0.01
    # Who was not measured has no figure, and a reason.
    assert set(result["missing"]) == {"keras-tensorflow", "keras-jax", "keras-torch", "torchdistill"}
    assert all(result["peers_over_cached"][name] is None for name in result["missing"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whole_job_gives_every_figure(cache):
    need(FASHION.is_dir(), "Fashion-MNIST")
    result = run("whole_job.py", cache)
    figures = [result["whole_job_speedup"], result["per_step_speedup"], result["label_seconds"]]
    figures += [*result["stage_seconds"].values(), *result["process_seconds"].values(), *result["ms_per_step"].values()]
    assert all(math.isfinite(value) and value > 0 for value in figures)
    assert (result["epochs"], result["rows"], result["steps"]) == (2, 640, 20)
    assert all(0.1 < value < 1 for value in result["val_accuracy"].values())
    assert 1e8 < result["peak_bytes"]["limbeck"] < 1.5e9


def test_a_run_that_made_students_smaller_prints_ways_and_files(tmp_path, printed):
    result = within_budget()
    (tmp_path / "result.json").write_text(json.dumps(result))
    cells = [line.strip("| ").split(" | ") for line in printed(tmp_path) if line.startswith("|")]
    rows = {tuple(row[:2]): row for row in cells}
    for entry in result["compressed"]:
        row = next(row for row in cells if row[0] == f"`{entry['name']}`" and len(row) == 7)
        assert row[1].startswith(f"{100 * entry['against_start']['distilled']['mean']:.2f}")
    way = result["compressed"][0]["name"]
    start = next(iter(result["compressed"][0]["start"].values())).rpartition("-seed")[0]
    of = {
        name: [m for m in result["models"] if re.fullmatch(rf"{name}-seed\d+\.litert(-int8)?", m["name"])]
        for name in (way, start)
    }
    small, large = ([m for m in of[n] if m["name"].endswith(e)] for n, e in ((way, "int8"), (start, "litert")))
    score, before = (sum(100 * m["metrics"]["accuracy"] for m in ms) / len(ms) for ms in (small, large))
    size, whole = (sum(m["cost"]["size_bytes"] for m in ms) / len(ms) for ms in (small, large))
    told = rows[f"`{way}`", "litert-int8"]
    assert told[2:6] == [f"{score:.2f}", f"{before - score:+.2f}", f"{size / 1000:,.0f}", f"{size / whole:.1%}"]
