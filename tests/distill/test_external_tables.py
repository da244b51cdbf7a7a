"""Models of tables as teachers: files of scikit-learn, XGBoost and LightGBM, and estimators fitted here."""

import dataclasses
import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import need
from runs import asked_again, one
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import limbeck
from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.progress import Progress
from limbeck.data import load, pixels, targets
from limbeck.distill.teachers import external
from limbeck.pipeline.doctor import checkup


def library(name):
    need(importlib.util.find_spec(name) is not None, f"{name} (the extra `tables`)")
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """300 stones of three colours and four cuts; `kind` and `price` follow from them."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "carat": random.uniform(0.2, 2, 300).round(2),
            "cut": random.choice(["fair", "good", "ideal", "very good"], 300),
            "depth": random.integers(55, 70, 300),
            "colour": random.choice(["D", "E", "F"], 300),
        }
    )
    better = frame["cut"].map({"fair": 0, "good": 1, "very good": 2, "ideal": 3})
    worth = 2 * frame["carat"] + better + 3 * (frame["colour"] == "D")
    frame["price"] = np.exp(worth / 3 + random.normal(0, 0.05, 300)) * 100
    frame["kind"] = np.where(worth > 6, "rich", np.where(worth > 4, "plain", "cheap"))
    path = tmp_path_factory.mktemp("table") / "stones.csv"
    frame.to_csv(path, index=False)
    return path, frame


def base(path, *, task="classification", **changes):
    about = {"target": "kind", "drop": ["price"]} if task == "classification" else {"target": "price", "drop": ["kind"]}
    losses = {"hard": 0.3, "kd": 0.7} if task == "classification" else {"label_mse": 0.5, "mse": 0.5}
    made = {
        "name": "stones",
        "task": task,
        "data": {"source": "table", "path": str(path), **about},
        "student": {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 2, "batch_size": 32}},
        "losses": losses,
        "seeds": 1,
        "run": {"threads": 1, "device": "cpu"},
    }
    return {**made, **changes}


def data_of(raw):
    checked = recipe.load({"teachers": [{"model": "m.npy"}], **raw})
    return load(checked.data, checked.task)


def brought(raw, data, model, *, trust=False, **keys):
    spec = recipe.load({**raw, "teachers": [{"model": str(model), **keys}]}).teachers[0]
    return external.bring(spec, data, trust=trust)


def own(data, frame, rows):
    """The rows of the user's table that these row numbers are."""
    return frame.iloc[data.keys.own[rows.numpy()]]


def words_to_numbers():
    coder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_column_transformer((coder, ["cut", "colour"]), remainder="passthrough")


RAW = ["carat", "cut", "depth", "colour"]


def test_a_pipeline_is_given_the_columns_it_was_fitted_on(table, tmp_path):
    sio = library("skops.io")
    path, frame = table
    pipeline = make_pipeline(words_to_numbers(), LogisticRegression(max_iter=2000)).fit(frame[RAW], frame["kind"])
    sio.dump(pipeline, tmp_path / "m.skops")
    data = data_of(base(path))
    model, rows = brought(base(path), data, tmp_path / "m.skops"), data.val
    wanted = pipeline.predict_proba(own(data, frame, rows)[RAW])
    assert list(pipeline.classes_) == list(data.task.names) == ["cheap", "plain", "rich"]
    assert np.allclose(model(pixels(data, rows)).softmax(1).numpy(), wanted, atol=1e-5)


def test_classes_are_found_by_name_or_by_number(table, tmp_path):
    sio = library("skops.io")
    path, frame = table
    data = data_of(base(path, data={**base(path)["data"], "limit": 200}))
    rows, order = data.val, {"cheap": 2, "plain": 0, "rich": 1}
    numbers = frame["kind"].map(order).to_numpy()
    x = frame[["carat", "depth"]].to_numpy()
    raw = base(path, data={**base(path)["data"], "limit": 200, "drop": ["price", "cut", "colour"]})
    data = data_of(raw)
    rows = data.val
    mine = own(data, frame, rows)[["carat", "depth"]].to_numpy()
    by_number = LogisticRegression(max_iter=2000).fit(x, numbers)
    sio.dump(by_number, tmp_path / "m.skops")
    asked = brought(raw, data, tmp_path / "m.skops")(pixels(data, rows)).softmax(1).numpy()
    assert np.allclose(asked, by_number.predict_proba(mine), atol=1e-5)
    named = brought(raw, data, tmp_path / "m.skops", classes=sorted(order, key=order.get))
    wanted = by_number.predict_proba(mine)[:, [order[name] for name in data.task.names]]
    assert np.allclose(named(pixels(data, rows)).softmax(1).numpy(), wanted, atol=1e-5)
    wide = np.where(np.arange(len(x)) % 5 == 0, "odd", frame["kind"])
    more = LogisticRegression(max_iter=2000).fit(x, wide)
    sio.dump(more, tmp_path / "more.skops")
    given = brought(raw, data, tmp_path / "more.skops")(pixels(data, rows)).softmax(1).numpy()
    chances = more.predict_proba(mine)[:, [0, 2, 3]]
    assert np.allclose(given, chances / chances.sum(1, keepdims=True), atol=1e-5)
    sio.dump(LogisticRegression(max_iter=2000).fit(x, frame["kind"].str.upper()), tmp_path / "loud.skops")
    with pytest.raises(UserError, match="does not know the class 'cheap'"):
        brought(raw, data, tmp_path / "loud.skops")


def test_misfits_are_told_by_name(table, tmp_path):
    sio = library("skops.io")
    path, frame = table
    raw = base(path)
    data = data_of(raw)
    plain = LogisticRegression(max_iter=2000)
    for columns, fault in (
        (["carat", "depht"], r"takes a column 'depht'.*\n.*did you mean 'depth'"),
        (None, r"takes 2 columns, and the data has 9: carat, cut=fair"),
    ):
        x = frame[["carat", "depth"]]
        x = x.to_numpy() if columns is None else x.set_axis(columns, axis=1)
        sio.dump(plain.fit(x, frame["kind"]), tmp_path / "m.skops")
        with pytest.raises(UserError, match=fault):
            brought(raw, data, tmp_path / "m.skops")
    sio.dump(RidgeClassifier().fit(frame[["carat", "depth"]], frame["kind"]), tmp_path / "m.skops")
    with pytest.raises(UserError, match=r"RidgeClassifier, which gives no probabilities"):
        brought(raw, data, tmp_path / "m.skops")
    (tmp_path / "m.skops").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="skops cannot load it"):
        brought(raw, data, tmp_path / "m.skops")


def test_types_that_skops_does_not_trust_are_refused_by_name(table, tmp_path):
    sio, joblib = library("skops.io"), library("joblib")
    path, frame = table
    raw = base(path)
    data = data_of(raw)
    forest = RandomForestClassifier(5, random_state=0).fit(frame[["carat", "depth"]], frame["kind"])
    sio.dump(forest, tmp_path / "m.skops")
    joblib.dump(forest, tmp_path / "m.joblib")
    with pytest.raises(UserError, match=r"does not trust: sklearn.tree._tree.Tree\n.*--trust"):
        brought(raw, data, tmp_path / "m.skops")
    with pytest.raises(UserError, match=r"is to run code.*\n.*--trust"):
        brought(raw, data, tmp_path / "m.joblib")
    x, wanted = pixels(data, data.val), forest.predict_proba(own(data, frame, data.val)[["carat", "depth"]])
    for name in ("m.skops", "m.joblib"):
        assert np.allclose(brought(raw, data, tmp_path / name, trust=True)(x).softmax(1).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("names", [True, False])
def test_a_booster_of_xgboost(table, tmp_path, names):
    xgboost = library("xgboost")
    path, frame = table
    raw = base(path)
    data = data_of(raw)
    if names:
        x = frame[RAW].astype({"cut": "category", "colour": "category"})
        mine = x.iloc[data.keys.own[data.val.numpy()]]
    else:
        x = pixels(data, torch.arange(300)).numpy()
        mine = x[data.val.numpy()]
    classifier = xgboost.XGBClassifier(n_estimators=5, enable_categorical=True, early_stopping_rounds=2, n_jobs=1)
    y = data.y.numpy()
    random = np.random.default_rng(1).permutation(y)  # never gets better: the first rounds are the best
    classifier.fit(x, y, eval_set=[(x, random)], verbose=False)
    assert classifier.best_iteration < 4
    for suffix in ("ubj", "json"):
        classifier.get_booster().save_model(tmp_path / f"m.{suffix}")
        given = brought(raw, data, tmp_path / f"m.{suffix}")(pixels(data, data.val)).softmax(1).numpy()
        assert np.allclose(given, classifier.predict_proba(mine), atol=1e-5)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="XGBoost cannot load it"):
        brought(raw, data, tmp_path / "bad.json")


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova"])
def test_a_booster_of_lightgbm(table, tmp_path, objective):
    lightgbm = library("lightgbm")
    path, frame = table
    raw = base(path)
    data = data_of(raw)
    x = frame[RAW].astype({"cut": "category", "colour": "category"})
    about = {"objective": objective, "num_class": 3, "verbosity": -1, "min_data_in_leaf": 5}
    booster = lightgbm.train(about, lightgbm.Dataset(x, data.y.numpy()), 5)
    booster.save_model(tmp_path / "m.txt")
    wanted = booster.predict(x.iloc[data.keys.own[data.val.numpy()]])
    given = brought(raw, data, tmp_path / "m.txt")(pixels(data, data.val)).softmax(1).numpy()
    assert np.allclose(given, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    (tmp_path / "bad.txt").write_text("no trees here")
    with pytest.raises(UserError, match="LightGBM cannot load it"):
        brought(raw, data, tmp_path / "bad.txt")


def test_two_classes_keep_small_probabilities(tmp_path):
    xgboost, lightgbm = library("xgboost"), library("lightgbm")
    raw = base("-", data={"source": "breast-cancer"})
    data = data_of(raw)
    x, y = data.x.numpy(), data.y.numpy()
    tree = xgboost.train(
        {"objective": "binary:logistic", "eta": 1.0, "lambda": 0.0, "min_child_weight": 0.0}, xgboost.DMatrix(x, y), 40
    )
    tree.save_model(tmp_path / "m.ubj")
    margin = tree.predict(xgboost.DMatrix(x), output_margin=True).astype(np.float64)
    assert np.abs(margin).max() > 18  # 1 - p would be 0 in float32
    logits = brought(raw, data, tmp_path / "m.ubj")(torch.from_numpy(x)).double().numpy()
    assert np.allclose(logits[:, 1] - logits[:, 0], margin, atol=1e-3)
    forest = lightgbm.train({"objective": "binary", "learning_rate": 0.5, "verbosity": -1}, lightgbm.Dataset(x, y), 60)
    forest.save_model(tmp_path / "m.txt")
    logits = brought(raw, data, tmp_path / "m.txt")(torch.from_numpy(x)).double().numpy()
    assert np.allclose(logits[:, 1] - logits[:, 0], forest.predict(x, raw_score=True), atol=1e-3)


@pytest.mark.parametrize("log", [False, True])
def test_values_are_in_their_own_unit(table, tmp_path, log):
    sio = library("skops.io")
    path, frame = table
    raw = base(path, task="regression")
    raw["data"]["log_target"] = log
    data = data_of(raw)
    pipeline = make_pipeline(words_to_numbers(), LinearRegression()).fit(frame[RAW], frame["price"])
    sio.dump(pipeline, tmp_path / "m.skops")
    given = pipeline.predict(own(data, frame, data.test)[RAW])
    least = float(data.y[data.train].min())
    if log:  # a straight line goes below every price, and has no logarithm there
        assert given.min() < least
        given = given.clip(min=least)
    truth = data.y[data.test].flatten().numpy()
    found = evaluate.assess(brought(raw, data, tmp_path / "m.skops"), data)
    assert found["rmse"] == pytest.approx(float(np.sqrt(np.mean((given - truth) ** 2))), rel=1e-4)


# --- fitted here ---------------------------------------------------------------------------------


WINE = {
    "name": "wine",
    "data": {"source": "wine"},
    "student": {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 2, "batch_size": 16}},
    "losses": {"hard": 0.3, "kd": 0.7},
    "seeds": 1,
    "run": {"threads": 1, "device": "cpu"},
}
FOREST = {"model": "sklearn/RandomForestClassifier", "options": {"n_estimators": 7, "max_depth": 3}, "seed": 3}


def test_a_forest_is_fitted_on_the_training_rows_and_teaches(tmp_path):
    sio = library("skops.io")
    raw = {**WINE, "teachers": [FOREST]}
    result = limbeck.run(raw, out=tmp_path / "run")
    data = data_of(raw)
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=7, max_depth=3, random_state=3)
    forest.fit(x[data.train].astype(np.float32), y[data.train])
    row = one(result, "teacher")
    assert row["metrics"]["accuracy"] == forest.score(x[data.test].astype(np.float32), y[data.test])
    assert row["file"] == "teacher/model.skops"
    assert row["cost"]["size_bytes"] == (tmp_path / "run" / row["file"]).stat().st_size
    assert row["cost"]["latency_ms"] is None
    assert result["cache"][0]["rows"] == len(data.train)
    kept = sio.load(tmp_path / "run" / row["file"], trusted=["sklearn.tree._tree.Tree"])
    columns = pd.DataFrame(x[data.train], columns=list(data.columns))
    assert np.allclose(kept.predict_proba(columns), forest.predict_proba(x[data.train]))
    # What it fitted is a teacher of its own, and a finished run goes on without fitting it again.
    (tmp_path / "run" / "teacher" / "model.skops").write_bytes(bytes(row["cost"]["size_bytes"]))  # it is not opened
    more = limbeck.run({**raw, "seeds": [0, 5]}, out=tmp_path / "run")
    assert one(more, "teacher")["metrics"] == row["metrics"]
    assert more["cache"][-1]["asked"] == 0
    assert asked_again(tmp_path / "run") == {"teacher": 0}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "RandomForestClassifier (n estimators 7, max depth 3), fitted on the training rows." in page


def test_the_doctor_waits_for_what_is_fitted_by_the_recipe(tmp_path):
    library("skops")
    raw = {**WINE, "teachers": [{**FOREST, "name": "forest"}]}
    before = [one for one in checkup(raw, out=tmp_path / "run") if one.about == "forest"]
    assert [one.level for one in before] == ["ok"]
    assert "is fitted by this recipe" in before[0].text
    limbeck.run(raw, out=tmp_path / "run")
    after = [one for one in checkup(raw, out=tmp_path / "run") if one.about == "forest"]
    assert {one.level for one in after} == {"ok"}
    assert len(after) > 2


def test_the_doctor_leaves_alone_what_refuses_other_inputs(table, tmp_path):
    sio = library("skops.io")
    path, frame = table
    coder = OneHotEncoder(handle_unknown="error", sparse_output=False)
    columns = make_column_transformer((coder, ["cut", "colour"]), remainder="passthrough")
    sio.dump(
        make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(frame[RAW], frame["kind"]), tmp_path / "m.skops"
    )
    raw = base(path, teachers=[{"model": str(tmp_path / "m.skops")}])
    found = [one for one in checkup(raw, out=tmp_path / "run") if one.about == "teacher"]
    assert not [one for one in found if one.level == "warning"]
    with pytest.raises(UserError, match="takes the table's own columns, as they are"):
        brought(raw, data_of(raw), tmp_path / "m.skops", mean=[0.1], std=[2.0])


def test_with_folds_no_row_is_answered_for_by_who_has_seen_it(tmp_path):
    library("skops")
    # Every tree knows its own rows by heart: 1-nearest neighbours is right about each training row it has seen.
    raw = {**WINE, "teachers": [{"model": "sklearn/KNeighborsClassifier", "options": {"n_neighbors": 1}}]}
    data = data_of(raw)
    shares = {}
    for folds in (None, 4):
        spec = recipe.load(raw).teachers[0].model_copy(update={"folds": folds})
        folder = tmp_path / str(folds)
        external.fit_estimator(spec, data, folder, Progress(quiet=True))
        answers = external.fitted(folder)(data.train)
        shares[folds] = float((answers.argmax(1) == data.y[data.train]).double().mean())
        others = external.fitted(folder)(data.test)
        shares[folds, "test"] = others
    assert shares[None] == 1.0
    assert 0.85 < shares[4] < 1.0
    assert torch.equal(shares[None, "test"], shares[4, "test"])


def test_folds_keep_groups_whole(tmp_path):
    """Every row stands there twice, as one group: in another fold than its twin it would be known by heart."""
    library("skops")
    noise = np.random.default_rng(0)
    rows = pd.DataFrame(noise.normal(size=(80, 3)), columns=list("abc"))
    rows["label"], rows["thing"] = noise.integers(2, size=80), np.arange(80)
    pd.concat([rows, rows]).to_csv(tmp_path / "twice.csv", index=False)
    neighbour = {"model": "sklearn/KNeighborsClassifier", "options": {"n_neighbors": 1}, "folds": 4}
    split = {"val": 0.2, "test": 0.25, "seed": 0}
    about = {"source": "table", "path": str(tmp_path / "twice.csv"), "target": "label"}
    right = {}
    for group in (True, False):
        grouped = {"split": {**split, "group": "thing"}} if group else {"split": split, "drop": ["thing"]}
        raw = {**WINE, "data": {**about, **grouped}, "teachers": [neighbour]}
        data, spec = data_of(raw), recipe.load(raw).teachers[0]
        external.fit_estimator(spec, data, tmp_path / str(group), Progress(quiet=True))
        answers = external.fitted(tmp_path / str(group))(data.train)
        right[group] = float((answers.argmax(1) == data.y[data.train]).double().mean())
    assert right[True] < 0.65  # labels are drawn at random
    assert right[False] > 0.7
    raw = {**raw, "data": {**about, "split": {**split, "group": "thing"}}, "teachers": [{**neighbour, "folds": 79}]}
    spec, data = recipe.load(raw).teachers[0], data_of(raw)
    with pytest.raises(UserError, match="asks for 79 folds of 48 groups of training rows"):
        external.fit_estimator(spec, data, tmp_path / "many", Progress(quiet=True))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("sklearn/HistGradientBoostingRegressor", {"max_iter": 5}),
        ("sklearn/ExtraTreesRegressor", {"n_estimators": 5}),
        ("xgboost/XGBRegressor", {"n_estimators": 5}),
        ("lightgbm/LGBMRegressor", {"n_estimators": 5, "min_child_samples": 2}),
    ],
)
def test_several_values_by_any_library(tmp_path, model, options):
    library("skops")
    library(model.partition("/")[0])
    raw = {
        **base("-", task="regression"),
        "data": {"source": "linnerud"},
        "teachers": [{"model": model, "options": options}],
    }
    data = data_of(raw)
    spec = recipe.load(raw).teachers[0]
    external.fit_estimator(spec, data, tmp_path, Progress(quiet=True))
    given = external.fitted(tmp_path)(data.train)
    assert given.shape == (len(data.train), 3)
    # Fitted on standardised values: better on what it has seen than the mean, which is 0.
    assert float((given - targets(data, data.train)).square().mean()) <= 1.01
    assert float(given.abs().max()) < 10
    assert (tmp_path / "model.skops").stat().st_size > 1000


@pytest.mark.parametrize(
    ("teacher", "fault"),
    [
        ({"model": "sklearn/RandomForest"}, r"no estimator 'RandomForest'\n.*did you mean"),
        ({"model": "sklearn/Ridge"}, "predicts measured values, which does not fit `task: classification`"),
        ({"model": "sklearn/RidgeClassifier"}, "gives no probabilities"),
        ({"model": "sklearn/StackingClassifier"}, "is made of other estimators"),
        ({**FOREST, "options": {"n_estimator": 3}}, r"option 'n_estimator'\n.*did you mean 'n_estimators'"),
        ({**FOREST, "options": {"n_estimators": "many"}}, "cannot be fitted"),
        ({**FOREST, "folds": 1000}, "asks for 1000 folds of"),
    ],
)
def test_estimators_that_do_not_fit_are_refused(tmp_path, teacher, fault):
    library("skops")
    with pytest.raises(UserError, match=fault):
        limbeck.run({**WINE, "teachers": [teacher]}, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"teachers": [{**FOREST, "train": {"epochs": 3}}]}, "`train` has no effect with 'sklearn/RandomForest"),
        ({"teachers": [{**FOREST, "weights": "w.pth"}]}, "`weights` has no effect"),
        ({"teachers": [{**FOREST, "outputs": "logits"}]}, "`outputs` has no effect"),
        ({"teachers": [{"model": "m.skops", "folds": 3}]}, "`folds` has no effect with 'm.skops'"),
        ({"teachers": [{"model": "m.skops", "options": {"a": 1}}]}, "`options` has no effect"),
        ({"teachers": [{"model": "p.npy", "preprocess": "bytes"}]}, "`preprocess` has no effect with 'p.npy'"),
        ({"teachers": [{"model": "callable", "train": {"epochs": 2}}]}, "`train` has no effect with 'callable'"),
        ({"teachers": [FOREST], "assistants": [{"model": "m.onnx"}]}, "an assistant learns from the one before it"),
        ({"teachers": [FOREST], "student": FOREST}, "cannot be trained: a student"),
        (
            {"teachers": [FOREST, {**FOREST, "name": "b"}], "combine": {"name": "stacked", "joint": True, "train": {}}},
            "cannot be trained with others jointly",
        ),
        ({"data": {"source": "digits"}, "augment": {"shift": 1}, "teachers": [FOREST]}, "no answer for augmented ones"),
        ({"data": {"source": "digits"}, "augment": {"shift": 1}, "teachers": [{"model": "p.npy"}]}, "augmented ones"),
    ],
)
def test_recipes_that_cannot_work_are_refused_by_check(changes, fault):
    if isinstance(changes.get("student"), dict):
        changes = {**changes, "student": {k: v for k, v in changes["student"].items() if k != "seed"}}
    with pytest.raises(UserError, match=fault):
        recipe.load({**WINE, **changes})


# --- several labels, weights, rows without a label ------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """120 rows of 6 numbers; three labels follow from them, the last of which is rare."""
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 6)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0, x[:, 3] > 1.4], axis=1).astype(np.int64)
    path = tmp_path_factory.mktemp("labels") / "several.npz"
    np.savez(path, x=x, y=y)
    raw = {
        **WINE,
        "task": "multilabel",
        "data": {"source": "arrays", "path": str(path)},
        "losses": {"label_binary": 0.5, "binary_kd": 0.5},
    }
    return raw, x, y


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("sklearn/RandomForestClassifier", {"n_estimators": 9}),
        ("sklearn/HistGradientBoostingClassifier", {"max_iter": 5}),
        ("xgboost/XGBClassifier", {"n_estimators": 5}),
        ("lightgbm/LGBMClassifier", {"n_estimators": 5, "min_child_samples": 2}),
    ],
)
def test_several_labels_by_any_library(several, tmp_path, model, options):
    sio = library("skops.io")
    library(model.partition("/")[0])
    raw, x, y = several
    raw = {**raw, "teachers": [{"model": model, "options": options, "folds": 2}]}
    data = data_of(raw)
    spec = recipe.load(raw).teachers[0]
    external.fit_estimator(spec, data, tmp_path, Progress(quiet=True))
    answers = external.fitted(tmp_path)
    known = (answers(data.test).numpy() > 0) == (y[data.test] > 0)
    assert known.mean() > 0.7
    kept = sio.load(tmp_path / "model.skops", trusted=sio.get_untrusted_types(file=tmp_path / "model.skops"))
    given = kept.predict_proba(x[data.test])
    if isinstance(given, list):
        given = np.stack([both[:, 1] for both in given], axis=1)
    assert np.allclose(answers(data.test).sigmoid().numpy(), given, atol=1e-6)
    # The file is a teacher in its own right.
    again = brought(raw, data, tmp_path / "model.skops", trust=True)
    assert np.allclose(again(pixels(data, data.test)).sigmoid().numpy(), given, atol=1e-6)


def test_a_booster_of_several_labels(several, tmp_path):
    xgboost = library("xgboost")
    raw, x, y = several
    data = data_of(raw)
    booster = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(x, y)
    booster.get_booster().save_model(tmp_path / "m.ubj")
    given = brought(raw, data, tmp_path / "m.ubj")(pixels(data, data.val)).sigmoid().numpy()
    assert np.allclose(given, booster.predict_proba(x[data.val]), atol=1e-6)


def test_a_fold_without_a_class_and_classes_that_weigh_differently(tmp_path):
    library("skops")
    raw = {**WINE, "class_weights": {"class_2": 5.0}, "teachers": [FOREST]}
    data = data_of(raw)
    counts = torch.bincount(data.y[data.train]).double()
    weights = limbeck.data.class_weights(data, {"class_2": 5.0})
    data = dataclasses.replace(data, task=dataclasses.replace(data.task, weights=weights))
    prior = {"model": "sklearn/DummyClassifier", "options": {"strategy": "prior"}}  # the weighted shares of the classes
    spec = recipe.load({**raw, "teachers": [prior]}).teachers[0]
    external.fit_estimator(spec, data, tmp_path, Progress(quiet=True))
    mass = counts * torch.tensor(weights, dtype=torch.float64)
    given = external.fitted(tmp_path)(data.test).softmax(1).double()
    assert torch.allclose(given, (mass / mass.sum()).expand_as(given), atol=1e-6)
    spec = recipe.load({**raw, "teachers": [{"model": "sklearn/KNeighborsClassifier"}]}).teachers[0]
    with pytest.raises(UserError, match="cannot weigh rows"):
        external.fit_estimator(spec, data, tmp_path, Progress(quiet=True))
    # One row of a class, which is in one of two folds.
    few = torch.cat([data.train[data.y[data.train] != 2], data.train[data.y[data.train] == 2][:1]])
    lone = dataclasses.replace(data, train=few, task=dataclasses.replace(data.task, weights=()))
    spec = recipe.load({**raw, "teachers": [{**FOREST, "folds": 2}]}).teachers[0]
    external.fit_estimator(spec, lone, tmp_path, Progress(quiet=True))
    answers = external.fitted(tmp_path)(few).softmax(1)
    assert float(answers[-1, 2]) < 1e-6  # nobody who has not seen it knows of its class
    assert np.isfinite(answers.numpy()).all()


def test_rows_without_a_label_are_answered_for(tmp_path):
    library("skops")
    x, y = load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", x=x[:120:2], y=y[:120:2])
    np.savez(tmp_path / "more.npz", x=x[1:120:2])
    about = {"source": "arrays", "path": str(tmp_path / "wine.npz"), "unlabelled": str(tmp_path / "more.npz")}
    asked = {**WINE, "data": about, "teachers": [{**FOREST, "folds": 2}]}
    result = limbeck.run(asked, out=tmp_path / "run")
    assert result["cache"][0]["rows"] == result["data"]["counts"]["train"] + 60
    assert "what it says of these is what 2 others say" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match=r"data\.unlabelled: predictions are of the rows of"):
        recipe.load({**asked, "teachers": [{"model": "p.npy"}]})
