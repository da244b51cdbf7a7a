"""Measured values from the table to the file: units undone everywhere, words as categories, the plots of the page."""

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import need
from torch import nn
from typer.testing import CliRunner

import limbeck
from limbeck import cli, evaluate, export, recipe, report
from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.result import parse_result
from limbeck.core.types import Column, Task
from limbeck.data import Scaling, load
from limbeck.export.predict import predict
from limbeck.pipeline.export import Rescale
from limbeck.report import values
from limbeck.report.terminal import show
from limbeck.tasks import main_metric

WIDE = (torch.tensor(-50.0), torch.tensor(50.0))
PRICE = Task("regression", ("price",))


def written(folder, rows=240, seed=0):
    """A table with a skewed target that hangs on a number and on a word."""
    draws = np.random.default_rng(seed)
    weight, cut = draws.uniform(0.2, 3, rows), draws.choice(["good", "ideal", "poor"], rows)
    factor = np.where(cut == "ideal", 2.0, np.where(cut == "good", 1.3, 0.7))
    price = 900 * factor * weight**1.6 * np.exp(0.05 * draws.standard_normal(rows))
    frame = pd.DataFrame({"weight": weight, "cut": cut, "colour": draws.choice(["D", "E"], rows), "price": price})
    frame.to_csv(folder / "gems.csv", index=False)
    return frame


def told(folder, **changes):
    """The recipe of a short run on that table."""
    plan = {"epochs": 6, "batch_size": 32, "lr": 0.02}
    return {
        "name": "gems",
        "task": "regression",
        "data": {"source": "table", "path": str(folder / "gems.csv"), "target": "price", "log_target": True},
        "teachers": [{"model": "mlp", "options": {"hidden": [16]}, "train": plan}],
        "student": {"model": "mlp", "options": {"hidden": [4]}, "train": plan},
        "losses": {"label_mse": 0.5, "mse": 0.5},
        "seeds": 1,
        "export": ["onnx"],
        "run": {"threads": 1},
    } | changes


@pytest.fixture(scope="module")
def gems(tmp_path_factory):
    """A finished run that learns the logarithm of a price: its folder, its result and the table."""
    folder = tmp_path_factory.mktemp("gems")
    frame = written(folder)
    result = limbeck.run(told(folder), out=folder / "run")
    return folder / "run", result, frame


# --- the logarithm -------------------------------------------------------------------------------


def test_a_logarithm_is_standardised_on_the_training_rows_and_undone():
    y = np.exp(np.random.default_rng(1).normal(8, 1.2, 60))
    found = limbeck.from_arrays(np.zeros((60, 1)), y, log_target=True)
    logs = np.log(y[found.train.numpy()])
    assert found.targets.log
    assert float(found.targets.mean) == pytest.approx(logs.mean(), rel=1e-6)
    assert float(found.targets.std) == pytest.approx(logs.std(), rel=1e-5)
    learned = found.targets.standardise(found.y.double())
    assert learned.squeeze(1).numpy() == pytest.approx((np.log(y) - logs.mean()) / logs.std(), abs=1e-5)
    own = found.targets.restore(learned)[found.train].squeeze(1).numpy()
    assert own == pytest.approx(y[found.train.numpy()], rel=1e-6)
    assert found.fingerprint != limbeck.from_arrays(np.zeros((60, 1)), y).fingerprint


def test_answers_keep_near_the_logarithms_learned_from():
    y = np.exp(np.linspace(1, 5, 60))
    found = limbeck.from_arrays(np.zeros((60, 1)), y, log_target=True)
    logs = np.log(y[found.train.numpy()])
    ends = [logs.min() - logs.std(), logs.max() + logs.std()]
    assert found.targets.restore(torch.tensor([[-1e6], [1e6]])).squeeze(1).numpy() == pytest.approx(
        np.exp(ends), rel=1e-5
    )


def test_a_target_without_a_logarithm_is_named():
    y = np.linspace(-1, 5, 40)
    y[:3] = 1.0
    with pytest.raises(UserError, match=r"4 targets are 0 or below .* row 3"):
        limbeck.from_arrays(np.zeros((40, 1)), y, log_target=True)
    with pytest.raises(UserError, match="classes have no logarithm"):
        limbeck.from_arrays(np.zeros((40, 1)), [0, 1] * 20, log_target=True)


def test_errors_are_in_the_targets_own_unit_whatever_was_learned():
    scaling = Scaling(torch.tensor([7.0]), torch.tensor([0.8]), WIDE)
    draws = np.random.default_rng(2)
    learned, given = draws.normal(size=(2, 50, 1))
    true, said = (np.exp(7 + 0.8 * each)[:, 0] for each in (learned, given))
    found = evaluate.metrics(PRICE, torch.tensor(given), torch.tensor(learned), scaling)
    assert found["rmse"] == pytest.approx(math.sqrt(((said - true) ** 2).mean()), rel=1e-6)
    assert found["mae"] == pytest.approx(np.abs(said - true).mean(), rel=1e-6)
    assert found["r2"] == pytest.approx(1 - ((said - true) ** 2).sum() / ((true - true.mean()) ** 2).sum(), rel=1e-6)
    apart = evaluate.agreement(PRICE, torch.tensor(given), torch.tensor(learned), scaling)
    assert apart["rmse_to_teacher"] == pytest.approx(found["rmse"], rel=1e-6)


def test_several_outputs_count_alike_whatever_their_units():
    draws = np.random.default_rng(4)
    y = np.stack([draws.normal(150, 20, 80), draws.normal(0.03, 0.001, 80)], axis=1).astype(np.float32)
    data = limbeck.from_arrays(np.zeros((80, 1)), y)
    said = torch.tensor(draws.normal(size=(len(data.test), 2)))
    found = evaluate.metrics(data.task, said, data.targets.standardise(data.y[data.test]), data.targets)
    spread, mean = y[data.train.numpy()].std(0), y[data.train.numpy()].mean(0)
    errors = (said.numpy() * spread + mean - y[data.test.numpy()]) / spread
    assert found["nrmse"] == pytest.approx(np.sqrt((errors**2).mean(0)).mean(), rel=1e-3)
    assert main_metric(data.task) == METRICS["nrmse"]
    assert main_metric(PRICE) == METRICS["rmse"]


def test_what_is_put_behind_a_network_is_what_undoes_the_scaling():
    x = torch.randn(5, 2)
    for log in (False, True):
        scaling = Scaling(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]), WIDE if log else None)
        own = x.double().numpy() * [0.5, 3.0] + [2.0, -1.0]
        assert Rescale(scaling)(x).numpy() == pytest.approx(np.exp(own) if log else own, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"task": "classification", "losses": {"hard": 1, "kd": 1}}, "data.log_target"),
        ({"losses": {"label_gaussian_nll": 1, "gaussian_kl": 1}}, "Gaussians"),
        ({"data": {"source": "digits", "log_target": True}}, "log_target"),
    ],
)
def test_a_logarithm_where_there_is_none_is_refused(tmp_path, changes, fault):
    with pytest.raises(UserError, match=re.escape(fault)):
        recipe.load(told(tmp_path) | changes)


# --- files ---------------------------------------------------------------------------------------


def fed(card, frame):
    """Rows for a file, made of a table by what the card says alone."""
    rows = np.zeros((len(frame), card["input"]["shape"][1]), np.float32)
    for column in card["input"]["table"]:
        if column["kind"] == "number":
            rows[:, column["inputs"][0]] = frame[column["name"]]
            continue
        for word, place in zip(column["categories"], column["inputs"], strict=True):
            rows[:, place] = frame[column["name"]] == word
    return rows


@pytest.mark.slow
def test_a_file_answers_in_the_targets_own_unit_to_rows_made_by_its_card(gems):
    folder, result, frame = gems
    name = result["chosen"]["name"]
    file = folder / "export" / f"{name}.onnx"
    card = json.loads(export.card_path(file).read_text())
    assert card["input"]["table"] == [
        {"name": "weight", "kind": "number", "inputs": [0]},
        {"name": "cut", "kind": "category", "categories": ["good", "ideal", "poor"], "inputs": [1, 2, 3]},
        {"name": "colour", "kind": "category", "categories": ["D", "E"], "inputs": [4, 5]},
    ]
    test = load(recipe.load(told(folder.parent)).data, "regression").test.numpy()
    session = onnxruntime.InferenceSession(str(file))
    said = session.run(None, {"input": fed(card, frame.iloc[test])})[0][:, 0]
    rmse = math.sqrt(((said - frame["price"].to_numpy()[test]) ** 2).mean())
    assert rmse < 0.5 * frame["price"].std()
    for row in (name, f"{name}.onnx"):
        found = next(m for m in result["models"] if m["name"] == row)
        assert found["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-4)


def test_raw_tables_are_predicted_and_unknown_words_are_told(gems, tmp_path):
    folder, result, frame = gems
    file = folder / "export" / f"{result['chosen']['name']}.onnx"
    rows = frame.head(4).drop(columns="price").assign(note="not asked for")[["note", "colour", "cut", "weight"]]
    rows.loc[2, "cut"] = "superb"
    rows.to_csv(tmp_path / "new.csv", index=False)
    card = json.loads(export.card_path(file).read_text())
    expected = onnxruntime.InferenceSession(str(file)).run(None, {"input": fed(card, rows)})[0][:, 0]
    found = predict(file, [tmp_path / "new.csv"])
    assert [row["values"]["price"] for row in found] == pytest.approx(expected, rel=1e-5)
    assert [row.get("unknown") for row in found] == [None, None, {"cut": "superb"}, None]
    shown = CliRunner().invoke(cli.app, ["predict", str(file), str(tmp_path / "new.csv")])
    assert shown.stdout.splitlines()[0].endswith(f"price {expected[0]:g}")
    assert "new.csv:3: no row learned from had cut 'superb'" in shown.stderr
    rows.drop(columns="cut").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(UserError, match="has no column 'cut'"):
        predict(file, [tmp_path / "less.csv"])


def test_a_card_gives_back_its_columns(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"1234")
    columns = [Column("a"), Column("b=c"), Column("kind", ("x", "y=z"))]
    assert [name for column in columns for name in column.inputs] == ["a", "b=c", "kind=x", "kind=y=z"]
    export.write_card(
        tmp_path / "m.onnx", interface=export.Interface(), format="onnx", precision="float32", task=PRICE, shape=[4],
        columns=["a", "b=c", "kind=x", "kind=y=z"], table=columns, metrics={}, made={},
    )  # fmt: skip
    assert export.read_card(tmp_path / "m.onnx").table == tuple(columns)


# --- the page ------------------------------------------------------------------------------------


def test_predictions_travel_in_the_result_in_the_targets_own_unit(gems):
    folder, result, frame = gems
    found = json.loads((folder / "result.json").read_text())["predictions"]
    prices = load(recipe.load(told(folder.parent)).data, "regression")
    assert (found["outputs"], found["rows"], found["of"]) == (["price"], len(prices.test), len(prices.test))
    assert found["true"][0] == pytest.approx(frame["price"].to_numpy()[prices.test.numpy()], rel=1e-4)
    assert [model["role"] for model in found["models"]] == ["teacher", "student", "distilled"]
    for model in found["models"]:
        errors = np.asarray(model["values"][0]) - found["true"][0]
        row = next(m for m in result["models"] if m["name"] == model["name"])
        assert math.sqrt((errors**2).mean()) == pytest.approx(row["metrics"]["rmse"], rel=1e-3)


def test_figures_show_each_model_against_the_truth(gems):
    _, result, _ = gems
    drawn = values.plots(parse_result(result, "here"))
    assert list(drawn) == ["predicted-0", "residuals-0"]
    found = result["predictions"]
    *models, line = drawn["predicted-0"]["data"]
    assert [trace["name"] for trace in models] == ["teacher", "student alone", "student + teacher"]
    for trace, model in zip(models, found["models"], strict=True):
        assert (trace["x"], trace["y"]) == (found["true"][0], model["values"][0])
    assert line["x"] == line["y"]
    ratios = drawn["residuals-0"]["data"][0]
    said = np.asarray(found["models"][0]["values"][0])
    assert ratios["x"] == found["models"][0]["values"][0]
    assert ratios["y"] == pytest.approx(said / found["true"][0], rel=1e-4)
    assert drawn["residuals-0"]["layout"]["yaxis"]["type"] == "log"


def test_residuals_of_values_that_were_learned_as_they_are(gems):
    _, result, _ = gems
    plain = {**result, "data": {**result["data"], "log_target": False}}
    drawn = values.plots(parse_result(plain, "here"))["residuals-0"]
    said = np.asarray(result["predictions"]["models"][1]["values"][0])
    assert drawn["data"][1]["y"] == pytest.approx(said - result["predictions"]["true"][0], rel=1e-4, abs=0.1)
    assert "type" not in drawn["layout"]["yaxis"]


def test_the_page_has_the_plots_and_is_made_from_the_result_alone(gems, tmp_path):
    folder, _, _ = gems
    result = json.loads((folder / "result.json").read_text())
    report.write_report(parse_result(result, "here"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'id="predicted-0"' in page
    assert 'id="residuals-0"' in page
    assert "whose logarithm is learned" in page
    older = {k: v for k, v in result.items() if k != "predictions"}
    report.write_report(parse_result(older, "here"), tmp_path / "older.html")
    assert 'id="predicted-0"' not in (tmp_path / "older.html").read_text()


def test_several_outputs_each_have_their_errors_and_their_plots(tmp_path, capsys):
    plan = {"epochs": 2, "batch_size": 8}
    small = {"model": "mlp", "options": {"hidden": [4]}, "train": plan}
    changes = {"data": {"source": "linnerud"}, "teachers": [small], "student": small, "export": [], "seeds": 2}
    result = limbeck.run(told(tmp_path) | changes, out=tmp_path / "run")
    assert [o for o, *_ in values.told(parse_result(result, "here"))["outputs"]] == ["Weight", "Waist", "Pulse"]
    found = result["predictions"]
    for model in found["models"]:
        row = next(m for m in result["models"] if m["name"] == model["name"])
        for name, true, said in zip(found["outputs"], found["true"], model["values"], strict=True):
            rmse = math.sqrt(((np.asarray(true) - said) ** 2).mean())
            assert rmse == pytest.approx(row["metrics"]["per_output"][name]["rmse"], rel=1e-3)
    table = values.outputs(parse_result(result, "here"))
    assert table["models"] == ["teacher", "student alone", "student + teacher"]
    alone = [m["metrics"]["per_output"]["Waist"]["rmse"] for m in result["models"] if m["role"] == "student"]
    assert float(table["rows"][1][1][1][0]) == pytest.approx(sum(alone) / 2, rel=1e-3)
    show(parse_result(result, "here"), tmp_path)
    shown = capsys.readouterr().out
    assert result["comparison"]["metric"] == result["data"]["metric"] == "nrmse"
    assert "Scaled RMSE" in (tmp_path / "run" / "report.html").read_text()
    assert re.search(rf"Waist +\S+ +{re.escape(table['rows'][1][1][1][0])}", shown)
    assert "price" not in shown


def test_many_rows_are_thinned():
    from limbeck.pipeline.measure import MOST_POINTS, _drawn

    y = np.linspace(1, 2, 9000)
    found = limbeck.from_arrays(np.zeros((9000, 1)), y, test=0.5)
    truth = found.targets.standardise(found.y[found.test])
    drawn = _drawn(found, {("m", "student"): truth})
    assert (drawn.rows, drawn.of) == (MOST_POINTS, 4500)
    assert len(drawn.true[0]) == MOST_POINTS
    assert drawn.models[0].values[0] == pytest.approx(drawn.true[0], rel=1e-4)
    assert set(drawn.true[0]) <= {float(f"{v:.5g}") for v in found.y[found.test].flatten().tolist()}


# --- real data -----------------------------------------------------------------------------------


def test_diamonds_have_prices_in_dollars_and_words_for_cut_colour_and_clarity():
    found = importlib.util.find_spec("plotnine")
    path = Path(found.submodule_search_locations[0]) / "data" / "diamonds.csv" if found else Path("absent")
    need(path.is_file(), "plotnine's diamonds.csv")
    told = {"source": "table", "path": str(path), "target": "price", "log_target": True, "limit": 4000}
    data = load(recipe.Data.model_validate(told), "regression")
    words = {column.name: column.categories for column in data.table if column.categories}
    assert {name: len(found) for name, found in words.items()} == {"cut": 5, "color": 7, "clarity": 8}
    assert data.shape == (26,)
    torch.manual_seed(0)
    network = limbeck.Normalized(
        nn.Sequential(nn.Linear(26, 16), nn.ReLU(), nn.Linear(16, 1)), data.inputs.mean, data.inputs.std
    )
    objective = limbeck.Objective([limbeck.Term("label_mse", limbeck.bind("label_mse"), 1.0)])
    limbeck.fit(network, objective, None, data, limbeck.Plan(epochs=6, lr=5e-3))
    said = limbeck.assess(network, data)
    assert said["rmse"] < 0.45 * float(data.y[data.test].std())
