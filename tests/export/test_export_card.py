"""The card beside every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck import __version__
from limbeck.core.errors import UserError
from limbeck.core.types import Task
from limbeck.export import Interface, card_path, read_card, write_card

DIGITS = Task("classification", ("zero", "one", "two"))
PRICES = Task("regression", ("price", "age"), predicts_variance=True)


def written(path: Path, **changes: Any) -> Path:
    path.write_bytes(b"f" * 1000)
    told = {
        "interface": Interface("uint8", "nhwc", (64, 1)),
        "format": "litert",
        "precision": "int8",
        "task": DIGITS,
        "shape": (3, 20, 30),
        "metrics": {"accuracy": 0.5},
        "made": {"seed": 3, "edits": [{"step": "prune", "ratio": 0.5}]},
    }
    return write_card(path, **{**told, **changes})


def test_a_card_says_what_the_file_takes_and_gives(tmp_path: Path) -> None:
    path = tmp_path / "net.int8.tflite"
    assert written(path) == card_path(path) == tmp_path / "net.int8.tflite.json"
    told = json.loads((tmp_path / "net.int8.tflite.json").read_text())
    assert told["file"] == "net.int8.tflite"
    assert (told["format"], told["precision"], told["task"]) == ("litert", "int8", "classification")
    assert told["classes"] == ["zero", "one", "two"]
    assert told["input"]["shape"] == ["rows", 20, 30, 3]
    assert told["input"]["rows"] == [1, 64]
    assert (told["input"]["layout"], told["input"]["dtype"]) == ("nhwc", "uint8")
    assert told["input"]["scale"] == pytest.approx(1 / 255)
    assert "0 to 255" in told["input"]["meaning"]
    assert told["output"]["shape"] == ["rows", 3]
    assert "logit" in told["output"]["meaning"]
    assert told["metrics"] == {"accuracy": 0.5}
    assert told["made"] == {"limbeck": __version__, "seed": 3, "edits": [{"step": "prune", "ratio": 0.5}]}
    assert told["bytes"] == 1000
    assert told["files"] == {"net.int8.tflite": 1000}


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = read_card(written(tmp_path / "net.tflite").with_suffix(""))
    assert card.path == tmp_path / "net.tflite"
    assert (card.format, card.precision, card.task) == ("litert", "int8", DIGITS)
    assert card.interface == Interface("uint8", "nhwc", (1, 64))
    assert (card.shape, card.columns) == ((3, 20, 30), ())
    assert card.metrics == {"accuracy": 0.5}
    assert card.made["seed"] == 3


def test_a_table_and_two_files(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.with_suffix(".bin").write_bytes(b"w" * 50)
    written(
        path,
        format="openvino",
        precision="float32",
        task=PRICES,
        interface=Interface(),
        shape=(2,),
        columns=("size", "rooms"),
    )
    told = json.loads(card_path(path).read_text())
    assert told["values"] == ["price", "age"]
    assert told["output"]["shape"] == ["rows", 4]
    assert "variance" in told["output"]["meaning"]
    assert told["input"]["layout"] is None
    assert told["input"]["columns"] == ["size", "rooms"]
    assert told["bytes"] == 1050
    assert told["files"] == {"net.xml": 1000, "net.bin": 50}
    card = read_card(path)
    assert card.task == PRICES
    assert (card.shape, card.columns) == ((2,), ("size", "rooms"))
    assert card.interface == Interface()


def test_how_many_rows_each_format_takes(tmp_path: Path) -> None:
    for form, rows in (("onnx", "any number"), ("executorch", "1 to 64"), ("litert", [1])):
        path = tmp_path / f"net.{form}"
        written(path, format=form, interface=Interface())
        assert json.loads(card_path(path).read_text())["input"]["rows"] == rows
        assert read_card(path).interface == Interface()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: card.pop("task"), "is not a card of a file .*task"),
        (lambda card: card.update(task="clustering"), "clustering"),
        (lambda card: card.update(format="caffe"), "unknown format 'caffe'"),
        (lambda card: card["input"].update(dtype="int4"), "unknown input 'int4'"),
        (lambda card: card["input"].update(shape=3), "is not a card of a file"),
        (lambda card: card.update(card=99), "a later version of Limbeck"),
        (lambda card: card.update(bytes=999), "about a file of 999 bytes, and net.onnx has 1,000"),
    ],
)
def test_a_card_that_is_wrong_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    path = tmp_path / "net.onnx"
    where = written(path, format="onnx")
    card = json.loads(where.read_text())
    change(card)
    where.write_text(json.dumps(card))
    with pytest.raises(UserError, match=told):
        read_card(path)


def test_a_card_that_is_absent_or_no_card(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"f")
    with pytest.raises(UserError, match=r"there is no net\.onnx\.json beside it"):
        read_card(path)
    for text in ("not JSON", "[1, 2]", "{}", "null"):
        card_path(path).write_text(text)
        with pytest.raises(UserError, match=r"net\.onnx\.json: (cannot be read as JSON|it is not a card)"):
            read_card(path)


def test_a_card_needs_its_file(tmp_path: Path) -> None:
    written(tmp_path / "net.onnx", format="onnx")
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_card(tmp_path / "net.onnx")
