"""Stored predictions as teachers, known by row number or file name, and functions of the user's."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from runs import asked_again, one, tiny

import limbeck
from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.types import Batch
from limbeck.data import load, pixels, targets
from limbeck.distill.teachers import external


def digits(limit=None):
    about = {"source": "digits", "split": {"val": 0.2, "test": 0.25}} | ({"limit": limit} if limit else {})
    return load(recipe.load(tiny(data=about)).data, "classification")


def chances(count, width=10, seed=0):
    """Probabilities that are all different."""
    return np.random.default_rng(seed).dirichlet(np.ones(width), count)


def spec_of(model, **keys):
    return recipe.load(tiny(teachers=[{"model": str(model), **keys}])).teachers[0]


def brought(model, data, **keys):
    return external.bring(spec_of(model, **keys), data, trust=False)


def answers(model, data, rows):
    """What a model says of rows, without their pixels."""
    return evaluate.predict(model, data, rows)


def written(path, values, keys=None, names="0123456789", column="row"):
    """The same predictions in whatever format the file's name says."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, predictions=values, **({} if keys is None else {"keys": keys}))
    else:
        frame = pd.DataFrame(values, columns=list(names))
        frame.insert(0, column, np.arange(len(values)) if keys is None else keys)
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "parquet"])
@pytest.mark.parametrize("limit", [None, 400])
def test_a_row_is_known_by_its_number_in_the_source(tmp_path, suffix, limit):
    data, every = digits(limit), chances(1797)
    file = written(tmp_path / f"p.{suffix}", every)
    numbers = data.keys.own
    assert len(numbers) == (limit or 1797)
    whole = digits()
    assert torch.equal(data.x, whole.x[torch.from_numpy(numbers)])
    rows = torch.cat([data.test, data.train[:50]])
    given = answers(brought(file, data), data, rows).softmax(1).numpy()
    assert np.allclose(given, every[numbers[rows.numpy()]], atol=1e-6)


@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_the_order_of_the_file_does_not_matter(tmp_path, suffix):
    data, every = digits(), chances(1797)
    order = np.random.default_rng(1).permutation(1797)
    file = written(tmp_path / f"p.{suffix}", every[order], order)
    assert np.allclose(answers(brought(file, data), data, data.val).softmax(1).numpy(), every[data.val], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda keys: np.where(keys == 7, 1800, keys), "1 have no prediction: 7"),
        (lambda keys: np.where(keys == 7, 8, keys), "1 stand twice in it: 8"),
        (lambda keys: keys.astype(str), "known here by numbers from 0"),
        (lambda keys: keys.astype(float), "'keys' is float64"),
        (lambda keys: keys[:-1], "'keys' is int64"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, change, fault):
    file = written(tmp_path / "p.npz", chances(1797), change(np.arange(1797)))
    with pytest.raises(UserError, match=fault):
        brought(file, digits())


def test_predictions_of_rows_that_are_not_there_are_refused_by_name(tmp_path):
    file = written(tmp_path / "p.csv", chances(1804))
    with pytest.raises(UserError, match=r"7 are no rows of the data: 1797, 1798, 1799, 1800, 1801, \.\.\."):
        brought(file, digits())
    with pytest.raises(UserError, match="has 1804 predictions, and the data 1797 rows"):
        brought(written(tmp_path / "p.npy", chances(1804)), digits(400))


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (lambda f: f.drop(columns="row"), "no column that says whose row"),
        (lambda f: f.rename(columns={"3": "three"}), r"no column '3'"),
        (lambda f: f.assign(label=1), r"a column 'label', which is nothing that is predicted\n.*`classes`"),
        (lambda f: f.assign(file="a"), "the columns row and file"),
        (lambda f: f.assign(row=f["row"] + 0.5), "holds what is no row number"),
        (lambda f: f.assign(**{"3": "x"}), "column '3' holds what is no number"),
        (lambda f: f.assign(**{"3": f["3"].where(f["row"] != 5)}), "not finite for row 5"),
    ],
)
def test_tables_of_predictions_that_do_not_fit_are_refused(tmp_path, frame, fault):
    file = written(tmp_path / "p.csv", chances(1797))
    frame(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(UserError, match=fault):
        brought(file, digits())


def test_arrays_that_are_no_predictions_are_refused(tmp_path):
    data = digits()
    np.savez(tmp_path / "p.npz", prediction=chances(1797))
    with pytest.raises(UserError, match=r"no array 'predictions'\n.*'prediction'"):
        brought(tmp_path / "p.npz", data)
    np.savez(tmp_path / "p.npz", predictions=chances(1797), key=np.arange(1797))
    with pytest.raises(UserError, match="holds 'key' beside"):
        brought(tmp_path / "p.npz", data)
    np.save(tmp_path / "p.npy", np.array([{"a": 1}] * 3), allow_pickle=True)
    with pytest.raises(UserError, match="pickle"):
        brought(tmp_path / "p.npy", data)
    np.save(tmp_path / "p.npy", chances(1797, 12))
    with pytest.raises(UserError, match=r"gives \[12\] for one row instead of \[10\]"):
        brought(tmp_path / "p.npy", data)


def test_probabilities_written_with_few_digits_are_still_probabilities(tmp_path):
    data, every = digits(), chances(1797)
    wanted = every[data.val]
    short = written(tmp_path / "p.csv", every.round(3))
    assert np.allclose(answers(brought(short, data), data, data.val).softmax(1).numpy(), wanted, atol=2e-3)
    half = written(tmp_path / "p.npy", every.astype(np.float16))
    assert np.allclose(answers(brought(half, data), data, data.val).softmax(1).numpy(), wanted, atol=1e-3)
    logits = written(tmp_path / "z.npy", 3 * every)
    assert np.allclose(answers(brought(logits, data), data, data.val).numpy(), 3 * wanted, atol=1e-6)


def test_classes_by_the_names_of_columns(tmp_path):
    data, every = digits(), chances(1797, 12)
    names = ["zero", *"123456789", "0", "ten"]
    file = written(tmp_path / "p.csv", every, names=names)
    given = answers(brought(file, data, classes=names), data, data.val).softmax(1).numpy()
    chosen = every[data.val][:, [names.index(name) for name in data.task.names]]
    assert np.allclose(given, chosen / chosen.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_images_are_known_by_their_files(tmp_path, suffix):
    random = np.random.default_rng(0)
    paths = []
    for label in ("cat", "dog"):
        for number in range(20):
            path = tmp_path / "pictures" / label / f"{number % 10}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
            paths.append(path.relative_to(tmp_path / "pictures").as_posix())
    order = random.permutation(40)
    every, keys = chances(40, 2), np.array(paths)
    for limit in ({}, {"limit": 20}):
        about = {"source": "folder", "path": str(tmp_path / "pictures"), "size": 8, **limit}
        data = load(recipe.load(tiny(data=about)).data, "classification")
        file = written(tmp_path / f"p.{suffix}", every[order], keys[order], ["cat", "dog"], "file")
        given = answers(brought(file, data), data, data.train).softmax(1).numpy()
        wanted = every[[paths.index(key) for key in data.keys.own[data.train.numpy()]]]
        assert np.allclose(given, wanted, atol=1e-6)
        assert [key.split("/")[0] for key in data.keys.own] == [data.task.names[y] for y in data.y]
    with pytest.raises(UserError, match="no order to rely on"):
        brought(written(tmp_path / "p.npy", every), data)
    keys[3] = "cat/elsewhere.png"
    about.pop("limit")
    data = load(recipe.load(tiny(data=about)).data, "classification")
    with pytest.raises(UserError, match=f"1 have no prediction: {paths[3]}"):
        brought(written(tmp_path / f"p.{suffix}", every, keys, ["cat", "dog"], "file"), data)


def test_stored_predictions_teach_from_recipe_to_page(tmp_path):
    data, every = digits(400), chances(1797, seed=3)
    truth = digits().y.numpy()
    every = 0.3 * every + 0.7 * np.eye(10)[truth]
    file = written(tmp_path / "p.npy", every)
    asked = tiny(seeds=1, teachers=[{"model": str(file)}])
    result = limbeck.run(asked, out=tmp_path / "run")
    teacher = one(result, "teacher")
    numbers = data.keys.own[data.test.numpy()]
    assert teacher["metrics"]["accuracy"] == float((every[numbers].argmax(1) == truth[numbers]).mean())
    assert teacher["cost"]["latency_ms"] is None
    assert teacher["cost"]["params"] is None
    assert teacher["cost"]["size_bytes"] == file.stat().st_size
    assert result["cache"][0]["rows"] == len(data.train)
    assert asked_again(tmp_path / "run") == {"teacher": 0}
    assert "p.npy" in (tmp_path / "run" / "report.html").read_text()
    np.save(file, every[::-1])
    with pytest.raises(UserError, match="begun from other data, another teacher"):
        limbeck.run(asked, out=tmp_path / "run")


# --- functions -----------------------------------------------------------------------------------


def weigh(rows):
    """A function of pixels that is no module: where the ink is."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return np.stack([flat @ np.cos(np.arange(64) * (k + 1) / 7) for k in range(10)], axis=1)


def test_a_function_teaches(tmp_path):
    asked = tiny(seeds=1, teachers=[{"name": "mine", "model": "callable"}])
    result = limbeck.run(asked, out=tmp_path / "run", callables={"mine": weigh})
    data = load(recipe.load(tiny()).data, "classification")
    right = weigh(pixels(data, data.test).numpy()).argmax(1) == data.y[data.test].numpy()
    mine = one(result, "mine")
    assert mine["metrics"]["accuracy"] == float(right.mean())
    assert mine["file"] is None
    assert mine["cost"]["size_bytes"] is None
    assert mine["cost"]["latency_ms"] > 0
    assert "mine" in (tmp_path / "run" / "report.html").read_text()
    again = limbeck.run({**asked, "seeds": [0, 4]}, out=tmp_path / "run", callables={"mine": lambda x: weigh(x)})
    assert again["cache"][-1]["asked"] == 0  # it says the same, and is the same
    with pytest.raises(UserError, match="another teacher"):
        limbeck.run(asked, out=tmp_path / "run", callables={"mine": lambda x: -weigh(x)})


def test_functions_and_teachers_go_together(tmp_path):
    asked = tiny(seeds=1, teachers=[{"name": "mine", "model": "callable"}])
    for given, fault in (
        ({}, r"no function is given for the teacher 'mine'\n.*callables="),
        ({"mine": weigh, "yours": weigh}, "no teacher is the function 'yours'"),
        ({"mine": lambda rows: rows.nothing}, "fails for some rows"),
        ({"mine": lambda rows: np.zeros((len(rows), 3))}, r"gives \[3\] for one row"),
    ):
        with pytest.raises(UserError, match=fault):
            limbeck.run(asked, out=tmp_path / "run", callables=given)


def test_a_function_is_a_teacher_for_fit():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    y = x @ [1.0, -2.0, 0.5] + 100
    data = limbeck.from_arrays(x, y)
    teacher = limbeck.as_teacher(lambda rows: rows @ np.array([1.0, -2.0, 0.5]) + 100, data)
    rows = data.val
    told = teacher(Batch(pixels(data, rows), targets(data, rows), rows)).prediction
    assert torch.allclose(told, targets(data, rows), atol=1e-4)
    labels = (y > 100).astype(int)
    data = limbeck.from_arrays(x, labels, names=["no", "yes"])
    teacher = limbeck.as_teacher(lambda rows: np.clip(rows[:, :1] + 0.5, 0.1, 0.9), data, outputs="probabilities")
    told = teacher(Batch(pixels(data, rows := data.val), data.y[rows], rows)).prediction.softmax(1)[:, 1]
    assert np.allclose(told.numpy(), np.clip(x[rows][:, 0] + 0.5, 0.1, 0.9), atol=1e-5)
    student = torch.nn.Linear(3, 2)
    terms = [limbeck.Term("kd", limbeck.bind("kd", temperature=1.0), weight=1.0)]
    history = limbeck.fit(student, limbeck.Objective(terms), teacher, data, limbeck.Plan(epochs=3, lr=0.05))
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]


def test_a_function_of_colours_is_given_them_as_it_takes_them():
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (60, 3, 8, 8), dtype=np.uint8)
    data = limbeck.from_arrays(images, np.arange(60) % 3)
    seen = []

    def look(rows):
        seen.append(rows)
        return rows.mean(axis=(2, 3))

    spec = spec_of("callable", preprocess="imagenet")
    asked = external.bring(spec, data, trust=False, function=external.from_function(look, data, "teacher"))
    asked(pixels(data, data.val))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (images[data.val] / 255 - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(seen[-1], wanted, atol=1e-5)
