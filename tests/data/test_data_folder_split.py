"""`limbeck data split` and `limbeck data inspect`."""

import json
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import need
from PIL import Image

from limbeck import data, recipe
from limbeck.core.errors import UserError

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def source(tmp_path):
    """Three classes of 20, 10 and 7 images, some of them deeper down."""
    for label, (name, count) in enumerate([("ant", 20), ("bee", 10), ("cat", 7)]):
        for k in range(count):
            folder = tmp_path / "source" / name / ("deep/er" if k % 3 == 0 else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4 + k % 3, 5), (label, k, 0)).save(folder / f"{chr(97 + k)}{k}.png")
    return tmp_path / "source"


def files(root, *below):
    place = Path(root, *below)
    return sorted(p.relative_to(place).as_posix() for p in place.rglob("*.png"))


def split(source, target, **options):
    return data.split_folder(source, target, **{"val": 0.3, "seed": 42, **options})


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_every_file_lands_in_one_place(source, tmp_path, how):
    counts = split(source, tmp_path / "out" / "tree", how=how)
    out = tmp_path / "out" / "tree"
    assert counts == {"train": {"ant": 14, "bee": 7, "cat": 5}, "val": {"ant": 6, "bee": 3, "cat": 2}}
    assert sorted(files(out, "train") + files(out, "val")) == files(source)
    for part, by_class in counts.items():
        assert {name: len(files(out, part, name)) for name in by_class} == by_class
    for file in out.rglob("*.png"):
        original = source / Path(*file.relative_to(out).parts[1:])
        assert file.read_bytes() == original.read_bytes()
        assert file.is_symlink() == (how == "symlink")
        assert file.samefile(original) == (how != "copy")
    assert [p.name for p in out.parent.iterdir()] == ["tree"]  # nothing half-built beside it


def test_the_seed_decides_and_what_was_split_loads(source, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split(source, tmp_path / name, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")
    spec = recipe.Data.model_validate({"source": "folder", "path": str(tmp_path / "a"), "size": 8})
    d = data.load(spec, "classification")
    assert len(d.test) == 11
    assert "val is the test split" in d.notes[0]


def test_three_parts_and_groups(source, tmp_path):
    counts = split(source, tmp_path / "three", val=0.25, test=0.2)
    assert sum(counts["test"].values()) == round(0.2 * 37)
    assert sorted(f for part in counts for f in files(tmp_path / "three", part)) == files(source)
    for folder in source.iterdir():
        for file in list(folder.glob("*.png")):
            shutil.copy(file, file.with_name(file.stem + "-again.png"))
    split(source, tmp_path / "groups", group="stem")
    for label in ("ant", "bee", "cat"):
        sides = [{Path(f).name[0] for f in files(tmp_path / "groups", part, label)} for part in ("train", "val")]
        assert not sides[0] & sides[1]
        assert all(sides)


def test_a_place_with_something_in_it_is_refused(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("keep")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="not an empty folder"):
            split(source, tmp_path / name)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert sum(split(source, tmp_path / "empty")["val"].values()) == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.0}, "shares between 0 and 1"),
        ({"val": 0.5, "test": 1.0}, "shares between 0 and 1"),
        ({"how": "hardlnk"}, "did you mean 'hardlink'"),
        ({"target": "source/inside"}, "lies inside the source"),
        ({"source": "nowhere"}, "no such folder"),
        ({"group": "zzz"}, "finds nothing in"),
    ],
)
def test_splits_that_are_refused_write_nothing(source, tmp_path, options, message):
    place = tmp_path / options.pop("target", "out")
    with pytest.raises(UserError) as caught:
        split(tmp_path / options.pop("source", "source"), place, **options)
    assert message in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_failure_half_way_leaves_nothing(source, tmp_path, monkeypatch):
    calls = Counter()

    def fails(file, new):
        calls["n"] += 1
        if calls["n"] == 9:
            raise OSError(28, "No space left on device")
        shutil.copyfile(file, new)

    monkeypatch.setattr("limbeck.data.folder_split.shutil.copy2", fails)
    with pytest.raises(UserError, match="No space left on device"):
        split(source, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_class_too_small_and_a_tree_that_is_split_already(source, tmp_path):
    split(source, tmp_path / "tree")
    with pytest.raises(UserError, match=r"is split already \(train/val\)"):
        split(tmp_path / "tree", tmp_path / "again")
    (source / "lone").mkdir()
    Image.new("L", (3, 3)).save(source / "lone" / "a.png")
    with pytest.raises(UserError, match="class 'lone' has 1 images, too few for 2 splits"):
        split(source, tmp_path / "out")


# --- inspect -------------------------------------------------------------------------------------


def test_a_folder_is_described(source):
    shutil.copy(source / "ant" / "b1.png", source / "ant" / "twin.png")
    shutil.copy(source / "ant" / "b1.png", source / "cat" / "twin.png")
    (source / "bee" / "empty.png").write_bytes(b"")
    (source / "bee" / "text.png").write_text("text")
    (source / "bee" / "notes.txt").write_text("text")
    (source / "void").mkdir()
    Image.new("LA", (90, 2)).save(source / "cat" / "wide.png")
    Image.new("RGB", (5, 5)).save(source / "loose.jpg")
    found = data.inspect(source)
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["images"]) == ("folder", 42)
    assert found["classes"] == {"ant": 21, "bee": 12, "cat": 9}
    assert found["empty_classes"] == ["void"]
    assert found["width"] == {"min": 4, "median": 5, "max": 90}
    assert found["height"] == {"min": 2, "median": 5, "max": 5}
    assert found["modes"] == {"RGB": 39, "LA": 1}
    assert found["formats"] == {"PNG": 40}
    assert (found["duplicates"]["files"], found["duplicates"]["across_classes"]) == (2, 1)
    assert found["duplicates"]["examples"] == [["ant/b1.png", "ant/twin.png", "cat/twin.png"]]
    assert {(u["file"], u["reason"]) for u in found["unreadable"]} == {
        ("bee/empty.png", "empty file"),
        ("bee/text.png", "not a PNG, JPEG, WebP or BMP image"),
    }
    assert (found["not_images"], found["outside_classes"]) == (["bee/notes.txt"], ["loose.jpg"])


def test_duplicates_across_parts_are_counted(source, tmp_path):
    split(source, tmp_path / "tree")
    file = next((tmp_path / "tree" / "train" / "ant").rglob("*.png"))
    shutil.copy(file, tmp_path / "tree" / "val" / "ant" / "leak.png")
    found = data.inspect(tmp_path / "tree")
    assert found["parts"] == ["train", "val"]
    assert found["duplicates"]["across_parts"] == 1
    assert found["classes"]["val/ant"] == 7


def test_arrays_are_described_without_unpickling(tmp_path):
    ran = tmp_path / "it ran"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    trapped = np.empty(1, dtype=object)
    trapped[0] = os.mkdir
    x = np.array([[1.0, np.nan], [0.5, -2]])
    np.savez(tmp_path / "a.npz", x=x, y=np.array([1, 0, 1]), bad=trapped)
    found = data.inspect(tmp_path / "a.npz")["arrays"]
    assert found["y"] == {"shape": [3], "type": "int64", "min": 0, "max": 1, "counts": {"0": 1, "1": 2}}
    assert (found["x"]["shape"], found["x"]["not_finite"]) == ([2, 2], 1)
    assert "unreadable" in found["bad"]
    np.save(tmp_path / "x.npy", x)
    assert data.inspect(tmp_path / "x.npy")["kind"] == "arrays"
    (tmp_path / "evil.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="refused"):
        data.inspect(tmp_path / "evil.npz")
    assert not ran.exists()


def test_a_table_is_described(tmp_path):
    frame = pd.DataFrame({"a": [1.5, None, 2.5, 2.5], "b": ["x", "y", "x", "x"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert data.inspect(tmp_path / "t.csv") == {
        "path": str(tmp_path / "t.csv"), "kind": "table", "rows": 4, "duplicate_rows": 1,
        "columns": {
            "a": {"type": "float64", "missing": 1, "distinct": 2},
            "b": {"type": str(pd.read_csv(tmp_path / "t.csv")["b"].dtype), "missing": 0, "distinct": 2},
        },
    }  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    assert data.inspect(tmp_path / "t.parquet")["rows"] == 4


def test_what_cannot_be_inspected(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        data.inspect(tmp_path / "nowhere")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(UserError, match=r"neither \.csv"):
        data.inspect(tmp_path / "a.docx")


def test_real_idx_files_are_described():
    need(FASHION.exists(), f"Fashion-MNIST in {FASHION} (Debian package dataset-fashion-mnist)")
    found = data.inspect(FASHION)
    assert found["kind"] == "idx"
    assert found["files"]["t10k-labels-idx1-ubyte.gz"]["counts"] == {str(k): 1000 for k in range(10)}
    assert data.inspect(FASHION / "t10k-images-idx3-ubyte.gz")["files"]["t10k-images-idx3-ubyte.gz"]["shape"] == [
        10000,
        28,
        28,
    ]
