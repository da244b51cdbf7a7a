"""What the command line must not wait for: imports that a command has no use for, with the way they came in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matrices import litert_file, onnx_file, with_card
from report_samples import classification

from limbeck import recipe
from limbeck.core.types import Column, Task

WATCH = Path(__file__).parent / "watch"
COMMANDS = """
import json, sys
from limbeck.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["limbeck", *words]
    try:
        main()
    except SystemExit as left:
        print("left with", left.code, flush=True)
"""

# What computes, and what draws or looks into other packages.
COMPUTES = {
    *("torch", "torchvision", "timm", "accelerate", "torchmetrics", "safetensors", "scipy", "sklearn", "pandas"),
    *("pyarrow", "optuna", "keras", "jax"),
}
SLOW = COMPUTES | {"numpy", "PIL", "onnx", "onnxruntime", "plotly", "jinja2", "rich", "asyncio", "multiprocessing"}
# Rooms that may import such a thing.
ROOMS = {f"limbeck.{room}" for room in ("pipeline", "distill", "data", "models", "losses", "report", "evaluate")}


def imported(code: str, *words: str, unwanted: set[str], folder: Path) -> tuple[str, list[str]]:
    """What a new process says, and for each module that it imports and should not, by which modules it did."""
    said = folder / "imported"
    path = os.pathsep.join(filter(None, [str(WATCH), os.environ.get("PYTHONPATH")]))
    watched = {**os.environ, "PYTHONPATH": path, "UNWANTED": ",".join(sorted(unwanted)), "SAID": str(said)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=watched)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, said.read_text().splitlines() if said.exists() else []


def given(*commands: tuple[str, ...], unwanted: set[str], folder: Path, left_with: int = 0) -> str:
    """What commands say that are given one after the other in a process, which must import nothing unwanted."""
    said, found = imported(COMMANDS, json.dumps(commands), unwanted=unwanted, folder=folder)
    assert not found, "\n".join(["imported what it must not wait for:", *found])
    assert said.count(f"left with {left_with}\n") == len(commands), said
    return said


def test_an_import_that_is_unwanted_is_told_with_the_way_it_came_in(tmp_path: Path) -> None:
    within = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import limbeck.export'], check=True)"
    looked_for = "import importlib.util as u; assert u.find_spec('numpy'); import limbeck.export, yaml"
    for code in (looked_for, within):
        found = imported(code, unwanted={"numpy", "yaml", "wave"}, folder=tmp_path)[1]
    way = "limbeck.export > limbeck.export.card > limbeck.export.interface > numpy"
    assert found == [way, "yaml", way]


def test_help_waits_for_no_recipe_and_for_nothing_that_computes(tmp_path: Path) -> None:
    unwanted = SLOW | ROOMS | {"yaml", "limbeck.recipe"}
    said = given(("--help",), unwanted=unwanted | {"pydantic_core"}, folder=tmp_path)
    assert "Start with:  limbeck run quickstart" in said
    every = [("check", "--help"), ("run", "--help"), ("data", "split", "--help"), ("--version",)]
    said = given(*every, unwanted=unwanted, folder=tmp_path)
    assert "Split a folder of images" in said


def test_no_check_of_a_bundled_recipe_waits_for_anything_that_computes(tmp_path: Path) -> None:
    names = recipe.bundled()
    said = given(*(("check", name) for name in names), unwanted=SLOW | ROOMS, folder=tmp_path)
    assert [line.partition(":")[0] for line in said.splitlines() if ": fine (" in line] == list(names)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"losses": {"hard": 0.1, "kdd": 0.9}}, "losses.kdd: "),
        ({"data": {"source": "table", "path": "t.csv", "target": "cc"}}, "data.target: t.csv has no column 'cc'"),
        ({"teachers": [{"model": "timm/resnet99", "train": {}}]}, "teachers.0.model: timm has no model 'resnet99'"),
    ],
)
def test_a_fault_waits_for_nothing_that_computes(changes, fault, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    whole = {
        "data": {"source": "digits"},
        "teachers": [{"model": "mlp", "train": {}}],
        "student": {"model": "mlp"},
        "losses": {"hard": 0.1, "kd": 0.9},
    }
    (tmp_path / "my.yaml").write_text(json.dumps({**whole, **changes}))
    commands = [(name, "my.yaml") for name in ("check", "doctor", "run", "tune")]
    said = given(*commands, unwanted=SLOW | ROOMS, folder=tmp_path, left_with=2)
    assert said.count(f"limbeck: my.yaml:1: {fault}") == len(commands), said


def test_a_fault_of_a_model_that_is_brought_waits_for_nothing_that_computes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    (tmp_path / "w.pth").write_bytes(b"")
    words = ("export", "w.pth", "--model", "mlp", "--data", "t.csv", "--target", "cc", "--to", "onnx")
    said = given(words, unwanted=SLOW | ROOMS, folder=tmp_path, left_with=2)
    assert "limbeck: data.target: t.csv has no column 'cc'" in said


def test_check_does_not_search_the_installed_packages() -> None:
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def refuse(*_, **__): sys.exit('searched the installed packages')\n"
        "metadata.distributions = refuse\n"
        "from limbeck.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "check", "quickstart"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("quickstart: fine")


def test_a_page_is_built_again_without_torch(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(classification()))
    unwanted = COMPUTES - {"scipy"} | {"limbeck.evaluate", "limbeck.data"}  # one t-interval is scipy's
    given(("report", str(tmp_path)), unwanted=unwanted, folder=tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("form", "runtime", "write"), [("onnx", "onnxruntime", onnx_file), ("litert", "ai_edge_litert", litert_file)]
)
def test_a_prediction_waits_for_its_runtime_and_numpy_alone(form, runtime, write, tmp_path: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    image, colours = random.integers(0, 256, (4, 4), dtype=np.uint8), ("red", "green")
    Image.fromarray(image).save(tmp_path / "image.png")
    (tmp_path / "rows.csv").write_text("colour,size\ngreen,2.5\n")
    weights = random.normal(size=(16, 3)).astype(np.float32)
    pictures = write(tmp_path / "pictures.bin", weights, (1, 4, 4))
    with_card(pictures, form, Task("classification", ("a", "b", "c")), (1, 4, 4))
    table = write(tmp_path / "table.bin", weights[:3, :1], (3,))
    columns = (Column("size"), Column("colour", colours))
    with_card(table, form, Task("regression", ("price",)), (3,), table=columns)
    unwanted = COMPUTES | ROOMS | {"yaml", "limbeck.recipe"}
    words = ("predict", str(table), str(tmp_path / "rows.csv"), "--json")
    said, found = imported(COMMANDS, json.dumps([words]), unwanted=unwanted | {"PIL", runtime}, folder=tmp_path)
    assert [way.rpartition(" > ")[2] for way in found] == [runtime], found  # in a process that is watched, too
    value = json.loads(said.splitlines()[0])["values"]["price"]
    assert value == pytest.approx(float(np.float32([2.5, 0, 1]) @ weights[:3, 0]), rel=1e-5)
    words = ("predict", str(pictures), str(tmp_path / "image.png"), "--json", "--top", "3")
    (tmp_path / "imported").unlink()
    said = given(words, unwanted=unwanted, folder=tmp_path)
    shares = {one["name"]: one["probability"] for one in json.loads(said.splitlines()[0])["classes"]}
    logits = np.exp(image.ravel().astype(np.float64) / 255 @ weights.astype(np.float64))
    assert [shares[name] for name in "abc"] == pytest.approx(logits / logits.sum(), rel=1e-4)
