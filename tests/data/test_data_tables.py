"""CSV, Parquet and NumPy files."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from limbeck import data, recipe
from limbeck.core.errors import UserError
from limbeck.core.readers.tables import BLOCK, GAPS, column_names
from limbeck.core.types import Column


def load(path, kind="classification", source="table", **fields):
    return data.load(recipe.Data.model_validate({"source": source, "path": str(path), **fields}), kind)


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "length": random.normal(5, 2, 60),
            "count": random.integers(0, 9, 60),
            "colour": random.choice(["red", "green", "blue"], 60),
            "wet": random.integers(0, 2, 60).astype(bool),
            "patient": np.repeat(np.arange(20), 3),
            "price": random.normal(100, 20, 60),
            "kind": np.tile(["cat", "dog", "ant"], 20),
        }
    )


@pytest.fixture(params=["csv", "csv.gz", "tsv", "parquet"])
def table(frame, tmp_path, request):
    path = tmp_path / f"table.{request.param}"
    if request.param == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if request.param == "tsv" else ",")
    return path


def test_numbers_stay_and_words_become_one_column_each(table, frame):
    d = load(table, target="kind", drop=["price", "patient"])
    assert d.columns == ("length", "count", "colour=blue", "colour=green", "colour=red", "wet")
    assert (d.task.names, d.images) == (("ant", "cat", "dog"), False)
    assert d.y[:4].tolist() == [1, 2, 0, 1]
    expected = np.stack(
        [frame["length"], frame["count"], *(frame["colour"] == c for c in ("blue", "green", "red")), frame["wet"]],
        axis=1,
    ).astype(np.float32)
    assert np.allclose(d.x, expected)
    assert np.allclose(d.inputs.mean, expected[d.train.numpy()].mean(0), atol=1e-5)


def test_regression_targets_keep_their_units(table, frame):
    d = load(table, "regression", target=["price", "length"])
    assert d.task.names == ("price", "length")
    assert np.allclose(d.y, frame[["price", "length"]], rtol=1e-6)
    assert not {"price", "length"} & set(d.columns)


def test_a_group_column_is_no_feature_and_stays_whole(table, frame):
    d = load(table, target="kind", split={"group": "patient"})
    assert "patient" not in d.columns
    sides = [set(frame["patient"].to_numpy()[rows.numpy()]) for rows in (d.train, d.val, d.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 20


def test_categories_come_from_training_rows_only(frame, tmp_path):
    frame.to_csv(path := tmp_path / "t.csv", index=False)
    held_out = int(load(path, target="kind").test[0])
    frame.loc[held_out, "colour"] = "mauve"
    frame.to_csv(path, index=False)
    d = load(path, target="kind")
    assert held_out in d.test.tolist()
    assert "colour=mauve" not in d.columns
    words = [i for i, name in enumerate(d.columns) if name.startswith("colour=")]
    assert d.x[held_out, words].tolist() == [0, 0, 0]
    others = [r for r in range(60) if r != held_out]
    assert (d.x[others][:, words].sum(1) == 1).all()


def test_class_numbers_sort_as_numbers(frame, tmp_path):
    frame["kind"] = np.tile([10, 9, -1], 20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load(tmp_path / "t.csv", target="kind").task.names == ("-1", "9", "10")


def test_a_limit_keeps_classes_even(table):
    d = load(table, target="kind", limit=30)
    assert torch.bincount(d.y).tolist() == [10, 10, 10]
    assert d.notes == ("limited to 30 of 60 rows",)


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda f: f, {"target": "knd"}, "no column 'knd'\n  hint: did you mean 'kind'?"),
        (lambda f: f, {"target": "kind", "drop": ["colur"]}, "did you mean 'colour'"),
        (lambda f: f, {"target": "kind", "drop": ["kind"]}, "cannot be the target and left out"),
        (lambda f: f, {"target": "kind", "split": {"group": "nobody"}}, "data.split.group: t.csv has no column"),
        (lambda f: f, {"target": ["kind", "wet"]}, "one target column"),
        (lambda f: f, {"target": "price"}, "has fractions, not classes"),
        (lambda f: f[:0], {"target": "kind"}, "has no rows"),
        (lambda f: f[["kind"]], {"target": "kind"}, "no columns are left"),
        (lambda f: f.assign(kind="cat"), {"target": "kind"}, "one class only, 'cat'"),
        (lambda f: f[:4], {"target": "kind"}, "class 'ant' has only 1 rows"),
        (lambda f: f.assign(length=f["length"].mask(f.index >= 16)), {"target": "kind"},
         "column 'length' has 44 missing (NaN) or infinite values, the first in row 17"),
        (lambda f: f.assign(length=f["length"].mask(f.index == 2, np.inf)), {"target": "kind"}, "the first in row 3"),
        (lambda f: f.assign(colour=f["colour"].mask(f.index == 0)), {"target": "kind"}, "'colour' has 1 missing"),
        (lambda f: f.assign(length=1e300), {"target": "kind"}, "beyond the range of float32"),
        (lambda f: pd.concat([f.assign(id=[f"{p}-{k}" for k in f.index]) for p in range(9)]), {"target": "kind"},
         "categories, more than 256"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(frame, tmp_path, change, fields, message):
    change(frame).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "t.csv", **fields)
    assert message in str(caught.value)


def test_regression_needs_numbers(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match="target 'kind' is not a column of numbers"):
        load(tmp_path / "t.csv", "regression", target="kind")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, "there is no such file"),
        ("t.csv", b"", "cannot be read as a table"),
        ("t.csv", b'a,b\n1,2\n3,4,5,6\n"', "cannot be read as a table"),
        ("t.parquet", b"PAR1 no", "cannot be read as a table"),
        ("t.xlsx", b"PK", "neither .csv, .tsv nor .parquet"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path / name, target="a")
    assert message in str(caught.value)


def test_dates_are_refused(frame, tmp_path):
    frame.assign(day=pd.Timestamp("2024-01-01")).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="column 'day' holds dates"):
        load(tmp_path / "t.parquet", target="kind")


# --- new rows, which are read without pandas ------------------------------------------------------

ODD = [
    "a,b\n1,2\n",
    "\ufeffa,b\n1,2\n",
    'a,"b, c"\n1,2\n',
    '"a\nb",c\n1,2\n',
    "a,a,a.1,a\n1,2,3,4\n",
    ",a,\n1,2,3\n",
    "\n\na,b\n\n1,2\n",
    "a,b\r\n1,2\r\n",
    "a,b\n",
    "a,b\n7,1,2\n8,3,4\n",  # a column without a name is the rows' own
]


@pytest.mark.parametrize("text", ODD)
def test_columns_are_called_what_pandas_calls_them(text, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    names = [str(name) for name in pd.read_csv(path).columns]
    assert column_names(path) == names
    if len(pd.read_csv(path)):
        found, _ = data.read_rows(path, [Column(name) for name in names], len(names))
        assert found.tolist() == pd.read_csv(path).to_numpy(np.float32).tolist()


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.csv.bz2", "t.csv.zip", "t.tsv.xz", "t.parquet", "i.parquet"])
def test_new_rows_are_those_that_pandas_reads(frame, tmp_path, name):
    many = pd.concat([frame] * (BLOCK // 60 + 2), ignore_index=True)
    many.loc[3, "length"] = 1e-30
    many.loc[BLOCK, "colour"] = "violet"
    path, plain = tmp_path / name, many
    if name.endswith(".parquet"):
        plain = many.set_index(many["price"].rename("own")) if name == "i.parquet" else many
        plain.to_parquet(path)
    else:
        plain.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    assert column_names(path) == list(frame.columns)
    table = [Column("wet"), Column("colour", ("blue", "green", "red")), Column("length"), Column("count")]
    rows, unknown = data.read_rows(path, table, 6)
    words = [(many["colour"] == word).to_numpy() for word in ("blue", "green", "red")]
    wanted = np.stack([many["wet"], *words, many["length"], many["count"]], axis=1).astype(np.float32)
    assert rows.shape == (len(many), 6)
    assert np.allclose(rows, wanted, rtol=1e-6, atol=0)
    assert [row for row, found in enumerate(unknown) if found] == [BLOCK]
    assert unknown[BLOCK] == {"colour": "violet"}


def test_gaps_are_the_words_that_pandas_takes_for_them(tmp_path):
    from pandas._libs.parsers import STR_NA_VALUES

    assert GAPS == STR_NA_VALUES
    for word in (*sorted(GAPS), '""'):
        (tmp_path / "t.csv").write_text(f"a,kind\n1,red\n{word},{word}\n")
        with pytest.raises(UserError, match="column 'a' has gaps"):
            data.read_rows(tmp_path / "t.csv", [Column("a")], 1)
        with pytest.raises(UserError, match="column 'kind' has gaps"):
            data.read_rows(tmp_path / "t.csv", [Column("kind", ("red",))], 1)


def test_a_word_of_digits_is_known_as_it_was_written(tmp_path):
    """Among words a column's digits were learned as they stand; a new table may hold nothing but digits."""
    (tmp_path / "t.csv").write_text("place\n01234\n1.50\n")
    rows, unknown = data.read_rows(tmp_path / "t.csv", [Column("place", ("01234", "1.50", "north"))], 3)
    assert rows.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert unknown == [{}, {}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("a\n1\n2,3\n", "row 2 has 2 fields, and the first line 1"),
        ("a\nx\n", "column 'a' holds what is no number .*'x'"),
        ("a\n1\nTrue\n", "column 'a' holds what is no number"),
        ("a\n1e39\n", "numbers beyond the range of float32"),
        ("a,b\n1,2\n,3\n", "column 'a' has gaps"),
        ("b,a\n1,2\n3\n", "column 'a' has gaps"),
        ("aa\n1\n", "has no column 'a'"),
    ],
)
def test_new_rows_that_are_none(text, said, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        data.read_rows(tmp_path / "t.csv", [Column("a")], 1)


def test_bytes_that_are_no_text_are_no_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read as a table"):
        data.read_rows(tmp_path / "t.csv", [Column("a")], 1)
    (tmp_path / "t.csv.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be read as a table"):
        column_names(tmp_path / "t.csv.gz")
    with pytest.raises(UserError, match="there is no such file"):
        column_names(tmp_path / "absent.csv")


def test_a_table_without_rows_gives_none(tmp_path):
    (tmp_path / "t.csv").write_text("a,kind\n")
    rows, unknown = data.read_rows(tmp_path / "t.csv", [Column("a"), Column("kind", ("red",))], 2)
    assert (rows.shape, rows.dtype, unknown) == ((0, 2), np.float32, [])


# --- arrays --------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
Y = np.arange(40) % 4


def arrays(path, kind="classification", **fields):
    return load(path, kind, source="arrays", **fields)


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("x_train", "y_train")])
def test_npz(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (X, Y), strict=True)))
    d = arrays(tmp_path / "a.npz")
    assert (d.name, d.shape, d.task.names) == ("arrays a.npz", (3, 6, 6), ("0", "1", "2", "3"))
    assert np.array_equal(d.x.permute(0, 2, 3, 1), X)
    assert d.counts() == {"train": 27, "val": 5, "test": 8}


def test_a_test_set_in_the_file_is_the_test_split(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:8], y_test=Y[:8])
    d = arrays(tmp_path / "a.npz", split={"val": 0.2})
    assert d.counts() == {"train": 32, "val": 8, "test": 8}
    assert d.test.tolist() == list(range(40, 48))
    np.savez(tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X[:8, :5], y_test=Y[:8])
    with pytest.raises(UserError, match=r"x_test is \(8, 5, 6, 3\)"):
        arrays(tmp_path / "b.npz")


def test_npy_files_are_mapped_not_read(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    d = arrays(tmp_path)
    assert np.array_equal(d.x.permute(0, 2, 3, 1), X)
    assert torch.equal(arrays(tmp_path / "x.npy").x, d.x)
    if Path("/proc/self/maps").exists():
        assert str(tmp_path / "x.npy") in Path("/proc/self/maps").read_text()
    np.save(tmp_path / "x.npy", X[::-1])
    os.utime(tmp_path / "x.npy", ns=(5, 5))
    assert arrays(tmp_path).fingerprint != d.fingerprint


def test_float_npy_files_are_mapped_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "isfinite", lambda x, real=np.isfinite: real(x) if x.size <= 2**23 else pytest.fail("all"))
    images, table = np.zeros((90, 3, 200, 200), np.float32), np.zeros((90, 120_000), np.float32)
    for name, x in (("images", images), ("table", table)):
        (folder := tmp_path / name).mkdir()
        x.reshape(90, -1)[:, 0] = np.arange(90) / 90
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", np.arange(90) % 3)
        d = arrays(folder)
        assert np.array_equal(d.x, x)
        d.x[0, 0] = 7  # a page of this process alone: the file stays as it is
        assert np.array_equal(arrays(folder).x, x)
        if Path("/proc/self/maps").exists():
            assert str(folder / "x.npy") in Path("/proc/self/maps").read_text()
        x.reshape(90, -1)[[80, 81], [5, 6]] = np.inf  # among the last rows that are looked at
        np.save(folder / "x.npy", x)
        with pytest.raises(UserError, match=r"^.*2 values are NaN or infinite; the first stands in row 80"):
            arrays(folder)


def test_measured_values_and_a_named_target(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(40, 3)), y=Y, depth=np.linspace(0, 9, 40))
    d = arrays(tmp_path / "a.npz", "regression", target="depth")
    assert (d.task.kind, d.task.names, tuple(d.y.shape)) == ("regression", ("y",), (40, 1))
    assert arrays(tmp_path / "a.npz").task.kind == "classification"
    with pytest.raises(UserError, match="did you mean 'depth'"):
        arrays(tmp_path / "a.npz", "regression", target="dept")


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["a.npz", "x.npy", "raw.npz"])
def test_pickles_are_refused_and_not_run(tmp_path, name):
    ran = tmp_path / "it ran"
    objects = np.array([Trap(ran)] * 40, dtype=object)
    if name == "a.npz":
        np.savez(tmp_path / name, x=objects, y=Y)
    elif name == "x.npy":
        np.save(tmp_path / name, objects, allow_pickle=True)
        np.save(tmp_path / "y.npy", Y)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Trap(ran)))
    with pytest.raises(UserError, match="which could run code: refused"):
        arrays(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": X, "y": Y - 1}, "labels are outside 0 to 2; the first is -1 in row 0"),
        ({"x": X, "y": Y[:9]}, "not the same number of rows"),
        ({"a": X, "b": Y}, "has no array 'x'"),
        ({"x": X.astype(float), "y": Y}, "float images run from 0 to 255"),
        ({"x": np.where(X[:, 0, :, 0] > 9, np.nan, 1.0), "y": Y}, "NaN or infinite"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UserError) as caught:
        arrays(tmp_path / "a.npz")
    assert message in str(caught.value)
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_absent_and_damaged_array_files(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read as NumPy arrays"):
        arrays(tmp_path / "a.npz")
    with pytest.raises(UserError, match="has no array 'x'"):
        arrays(tmp_path)
