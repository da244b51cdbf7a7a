"""The search of losses: what it tries, what it may look at, and how it goes on after an interruption."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from course_told import check_every_stage_is_told, stages_told
from typer.testing import CliRunner

import limbeck
from limbeck import recipe
from limbeck.cli import app
from limbeck.core.errors import UserError
from limbeck.core.files import read_json
from limbeck.distill.train.loop import _Loop
from limbeck.pipeline import setup
from limbeck.pipeline.tune import tune
from limbeck.pipeline.tune.space import candidates, terms

PLAN = {"epochs": 2, "batch_size": 32, "lr": 3e-3}
TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 300, "flat": True, "split": {"val": 0.2, "test": 0.25}},
    "teachers": [{"model": "mlp", "options": {"hidden": [16]}, "train": PLAN}],
    "student": {"model": "mlp", "options": {"hidden": [8]}, "train": PLAN},
    "losses": {"hard": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "seeds": [0],
    "run": {"threads": 1, "device": "cpu"},
}
TRAIN_ROWS = 180
DIABETES = {**TINY, "task": "regression", "data": {"source": "diabetes"}, "losses": {"label_mse": 0.5, "mse": 0.5}}


def outcome(found):
    """What a search tried and what came out, without what the clock says."""
    keys = ("number", "state", "loss", "params", "losses", "value", "val_loss", "values", "reason")
    return [{key: trial.get(key) for key in keys} for trial in found["trials"]]


def history(folder, trial, seed=0):
    file = folder / "tune" / "trials" / str(trial) / f"trial{trial}-seed{seed}" / "history.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of 7 trials that nothing interrupted, with a cache that nobody else fills."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(folder / "cache"))
        found = tune(TINY, trials=7, out=folder / "run")
    return folder / "run", found


# --- what is tried -------------------------------------------------------------------------------


def names(changes, classes=10, wanted=()):
    return [c.loss for c in candidates(recipe.load({**TINY, **changes}), classes, wanted)]


def test_the_recipe_s_own_losses_come_first_and_then_the_usual_ones_that_fit():
    assert names({}) == ["kd", "dkd", "nkd", "dist", "lskd"]
    assert names({"losses": {"hard": 1, "at": "auto", "dist": 2}}) == ["at", "dist", "kd", "dkd", "nkd", "lskd"]
    assert names({}, classes=2) == ["kd", "dkd", "nkd"]
    assert names({"data": {"source": "digits"}, "augment": {"mixup": 0.2}}) == ["kd", "dist", "lskd"]
    assert names({**DIABETES, "losses": {"label_mse": 1, "teacher_bounded": 1}}) == [
        "teacher_bounded", "mse", "attentive_imitation",
    ]  # fmt: skip
    assert names({"losses": {"hard": 1, "kd": 1, "dkd": 0}}, wanted=["pkt", "kd"]) == ["pkt", "kd"]


def test_numbers_begin_where_the_recipe_or_the_paper_has_them():
    checked = recipe.load({**TINY, "losses": {"hard": 0.3, "soft": {"loss": "kd", "weight": 0.5, "temperature": 20}}})
    kd, dkd, nkd, dist, _ = candidates(checked, 10)
    assert (kd.term, kd.start) == ("soft", {"weight": 0.5, "temperature": 20})
    assert kd.ranges == {"weight": (0.05, 5.0), "temperature": (1, 20)}
    assert dkd.start == {"weight": 1, "temperature": 4, "beta": 8}
    assert dkd.ranges == {"weight": (0.1, 10), "temperature": (1, 10), "beta": (1, 10)}
    assert nkd.ranges == {"weight": (0.1, 10), "temperature": (1, 10), "gamma": (0.5, 5)}
    assert dist.ranges == {"weight": (0.2, 20), "temperature": (1, 10)}
    [crd] = candidates(checked, 10, ["crd"])
    assert list(crd.ranges) == ["weight"]  # its temperature is that of similarities


def test_what_is_found_or_moves_in_the_recipe_begins_at_its_published_number():
    moving = {"loss": "kd", "weight": 1, "temperature": {"start": 8, "end": 2}, "divergence": "reverse"}
    checked = recipe.load({**TINY, "losses": {"hard": 1, "at": {"weight": "auto"}, "kd": moving}})
    at, kd, *_ = candidates(checked, 10)
    assert (at.start, kd.start) == ({"weight": 1000}, {"weight": 1, "temperature": 4})
    # What is not searched stays as the recipe has it, and of all terms that learn from the teacher one is left.
    tried = terms(checked, kd, {"weight": 2.0, "temperature": 3.0})
    assert list(tried) == ["hard", "kd"]
    assert tried["kd"] | {"loss": "kd", "weight": 2.0, "temperature": 3.0, "divergence": "reverse"} == tried["kd"]
    assert tried["hard"]["weight"] == 1


# --- what comes out ------------------------------------------------------------------------------


def test_every_candidate_is_tried_as_it_begins_and_then_in_its_range(searched):
    folder, found = searched
    assert found == read_json(folder / "tune" / "tune.json")
    assert [t["number"] for t in found["trials"]] == list(range(7))
    assert [t["loss"] for t in found["trials"][:5]] == ["kd", "dkd", "nkd", "dist", "lskd"]
    assert [t["params"] for t in found["trials"][:5]] == [c["start"] for c in found["space"]]
    assert recipe.load({**TINY, "losses": found["trials"][0]["losses"]}).losses == recipe.load(TINY).losses
    ranges = {c["loss"]: c["ranges"] for c in found["space"]}
    for trial in found["trials"][5:]:
        assert trial["params"].keys() == ranges[trial["loss"]].keys()
        assert all(ranges[trial["loss"]][o][0] <= v <= ranges[trial["loss"]][o][1] for o, v in trial["params"].items())
        assert {"hard", trial["loss"]} == set(trial["losses"])
        assert trial["losses"]["hard"]["weight"] == 0.1


def test_a_score_is_that_of_the_selected_epoch_and_the_best_has_the_lower_loss_of_equals(searched):
    folder, found = searched
    for trial in found["trials"]:
        epochs = history(folder, trial["number"])
        best = max(epochs, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        assert (trial["value"], trial["val_loss"]) == (best["val_accuracy"], best["val_loss"])
    expected = max(found["trials"], key=lambda t: (t["value"], -t["val_loss"]))
    assert found["best"] == expected


def test_every_trial_is_a_stage_of_its_own(searched):
    folder, _ = searched
    check_every_stage_is_told(folder)
    assert stages_told(folder)[-1] == (8, 8)  # a teacher and seven trials


def test_the_teacher_is_trained_and_asked_once(searched):
    folder, found = searched
    told = [stored for trial in found["trials"] for stored in trial["cache"]]
    assert [stored["asked"] for stored in told] == [TRAIN_ROWS] + [0] * 6
    assert [stored["found"] for stored in told] == [0] + [TRAIN_ROWS] * 6
    assert len({stored["key"] for stored in told}) == 1
    assert [path.parent.name for path in folder.rglob("best.safetensors")] == ["teacher"]


def test_the_winner_s_recipe_runs_and_its_student_is_that_of_the_trial(searched, tmp_path, monkeypatch):
    folder, found = searched
    monkeypatch.setenv("LIMBECK_CACHE", str(folder.parent / "cache"))
    result = limbeck.run(folder / "tune" / "best.yaml", out=tmp_path / "run")
    assert result["name"] == "tiny-best"
    assert result["recipe"]["losses"] == recipe.load({**TINY, "losses": found["best"]["losses"]}).model_dump()["losses"]
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        for rows in (result["curves"]["distilled-seed0"], history(folder, found["best"]["number"]))
    ]
    assert timeless[0] == timeless[1]
    assert [stored["asked"] for stored in result["cache"]] == [0]  # the same teacher has answered already
    assert (folder / "tune" / "best.yaml").read_text().startswith(f"# limbeck run {folder / 'tune' / 'best.yaml'}\n")


def test_a_search_shares_the_teacher_of_a_run_and_leaves_the_run_alone(tmp_path):
    before = limbeck.run(TINY, out=tmp_path)
    trained = (tmp_path / "teacher" / "best.safetensors").stat().st_mtime_ns
    page = (tmp_path / "report.html").read_bytes()
    tune(TINY, trials=1, out=tmp_path, losses=["kd"])
    assert (tmp_path / "teacher" / "best.safetensors").stat().st_mtime_ns == trained
    assert (tmp_path / "report.html").read_bytes() == page
    assert limbeck.run(TINY, out=tmp_path)["models"] == json.loads(json.dumps(before["models"]))


def test_several_seeds_are_averaged_and_features_are_asked_for_with_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    found = tune(TINY, trials=2, out=tmp_path / "run", losses=["kd", "pkt"], seeds=2)
    for trial in found["trials"]:
        scores = [max(row["val_accuracy"] for row in history(tmp_path / "run", trial["number"], s)) for s in (0, 1)]
        assert trial["values"] == scores
        assert trial["value"] == pytest.approx(sum(scores) / 2)
    told = [stored for trial in found["trials"] for stored in trial["cache"]]
    assert [stored["asked"] for stored in told] == [TRAIN_ROWS, 0, 0, 0]
    assert all(len(stored["taps"]) == 1 for stored in told)


def test_values_are_searched_too_and_less_error_is_better(tmp_path):
    compare = {"plain": {"label_mse": 1.0}}
    found = tune({**DIABETES, "compare": compare}, trials=3, out=tmp_path)
    assert [t["loss"] for t in found["trials"]] == ["mse", "teacher_bounded", "attentive_imitation"]
    assert not found["higher_is_better"]
    assert found["best"]["value"] == min(t["value"] for t in found["trials"])
    # Whatever else the recipe says is in the winner's, too.
    assert recipe.load(tmp_path / "tune" / "best.yaml").compare == recipe.load({**DIABETES, "compare": compare}).compare


# --- what it may look at -------------------------------------------------------------------------


def test_the_test_split_is_not_looked_at(searched, tmp_path, monkeypatch):
    """With all rows of the test split made useless the search is the same to the last digit."""
    real, given = setup.load, []

    def poisoned(*args):
        data = real(*args)
        x, y = data.x.float() / 255 if data.x.dtype == torch.uint8 else data.x.clone(), data.y.clone()
        x[data.test], y[data.test] = math.nan, 0
        assert len(data.test) > 0
        given.append(data)
        return replace(data, x=x, y=y)

    monkeypatch.setattr(setup, "load", poisoned)
    found = tune(TINY, trials=7, out=tmp_path)
    assert len(given) == 1
    assert outcome(found) == outcome(searched[1])


# --- interruptions -------------------------------------------------------------------------------


def stop_in(monkeypatch, label, epoch, stop):
    real = _Loop._epoch

    def stopping(self, number, advance):
        if (self.label, number) == (label, epoch):
            stop()
        return real(self, number, advance)

    monkeypatch.setattr(_Loop, "_epoch", stopping)


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_trials_and_the_same_command_goes_on(searched, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, "trial5-seed0", 1, interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(TINY, trials=7, out=tmp_path)
    kept = read_json(tmp_path / "tune" / "tune.json")
    assert [t["state"] for t in kept["trials"]] == ["done"] * 5 + ["interrupted"]
    assert outcome(kept)[:5] == outcome(searched[1])[:5]
    assert recipe.load(tmp_path / "tune" / "best.yaml").losses.keys() == kept["best"]["losses"].keys()
    assert "<title>tiny: search" in (tmp_path / "tune" / "report.html").read_text()
    trained = []
    stop_in(monkeypatch, "trial5-seed0", 0, lambda: trained.append("again"))
    assert outcome(tune(TINY, trials=7, out=tmp_path)) == outcome(searched[1])
    assert not trained  # its first epoch was there already


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(searched, tmp_path):
    code = f"""
import os, signal
from limbeck.distill.train.loop import _Loop
from limbeck.pipeline.tune import tune
real = _Loop._epoch
def dying(self, number, advance):
    if (self.label, number) == ("trial3-seed0", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, number, advance)
_Loop._epoch = dying
tune({TINY!r}, trials=7, out={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_json(tmp_path / "tune" / "tune.json")["trials"]) == 3
    assert outcome(tune(TINY, trials=7, out=tmp_path)) == outcome(searched[1])


def test_more_trials_go_on_and_fewer_do_nothing(searched, tmp_path):
    for count, expected in ((2, 2), (1, 2), (7, 7)):
        found = tune(TINY, trials=count, out=tmp_path)
        assert outcome(found) == outcome(searched[1])[:expected]


def test_a_training_that_diverges_is_a_failed_trial(tmp_path):
    job = {**TINY, "student": {**TINY["student"], "train": {**PLAN, "lr": 1e30}}}
    found = tune(job, trials=3, out=tmp_path)
    assert [t["state"] for t in found["trials"]] == ["failed"] * 3
    assert all(t["reason"].startswith("the loss became ") and t["value"] is None for t in found["trials"])
    assert found["best"] is None
    assert not (tmp_path / "tune" / "best.yaml").exists()
    assert "No trial has a score" in (tmp_path / "tune" / "report.html").read_text()


def test_what_else_goes_wrong_in_a_training_ends_the_search_and_the_trial_is_made_again(tmp_path, monkeypatch):
    def full():
        raise UserError("the disk is full; what was saved before is still there")

    with monkeypatch.context() as patch:
        stop_in(patch, "trial1-seed0", 0, full)
        with pytest.raises(UserError, match="the disk is full"):
            tune(TINY, trials=2, out=tmp_path, losses=["kd", "dkd"])
    found = tune(TINY, trials=2, out=tmp_path, losses=["kd", "dkd"])
    assert [(t["number"], t["state"], t["loss"]) for t in found["trials"]] == [(0, "done", "kd"), (1, "done", "dkd")]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "given", "said"),
    [
        (TINY, {"losses": ["kdd"]}, "--losses: unknown loss 'kdd'\n  hint: did you mean 'kd'"),
        (TINY, {"losses": ["kd", "hard"]}, "'hard' does not learn from a teacher"),
        (DIABETES, {"losses": ["dkd"]}, "losses.dkd: compares classes: it does not fit `task: regression`"),
        (TINY, {"trials": 0}, "--trials: is 1 or more, not 0"),
        (TINY, {"seeds": 0}, "--seeds: is a number of seeds"),
        (TINY, {"seeds": [1, 1]}, "--seeds: is a number of seeds"),
        ({**TINY, "teachers": [], "losses": {"hard": 1}}, {}, "there is nothing to search"),
        ({**TINY, "student": {**TINY["student"], "generations": 2}}, {}, "does not follow generations"),
        (TINY, {"losses": ["fsp"]}, "fsp"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_trained(tmp_path, job, given, said):
    with pytest.raises(UserError) as refused:
        tune(job, **{"trials": 2, "out": tmp_path, **given})
    assert said in str(refused.value)
    assert not list(tmp_path.rglob("stage.json"))


def test_another_search_in_the_same_place_is_refused(searched):
    folder, found = searched
    for given, what in (({"losses": ["kd"]}, "losses, ranges"), ({"seeds": [1]}, "seeds")):
        with pytest.raises(UserError, match=f"begun with other {what}"):
            tune(TINY, trials=9, out=folder, **given)
    with pytest.raises(UserError, match=r"losses.kd.temperature: 4 -> 2"):
        tune(TINY, trials=9, out=folder, overrides=["losses.kd.temperature=2"])
    assert read_json(folder / "tune" / "tune.json")["trials"] == found["trials"]


def test_a_damaged_record_is_refused(tmp_path):
    tune(TINY, trials=1, out=tmp_path, losses=["kd"])
    (tmp_path / "tune" / "search.db").write_bytes(b"not a database, whatever its name says" * 40)
    with pytest.raises(UserError, match=r"search.db: cannot be read"):
        tune(TINY, trials=1, out=tmp_path, losses=["kd"])


# --- the command and the page --------------------------------------------------------------------


def test_the_command_shows_the_best_and_how_to_measure_it(searched, tmp_path):
    folder, found = searched
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(TINY))
    told = CliRunner().invoke(app, ["tune", str(tmp_path / "my.yaml"), "--trials", "7", "--out", str(folder), "-q"])
    assert told.exit_code == 0
    best = found["best"]
    assert "the best of 7 trials, on validation" in told.stdout
    assert f"{100 * best['value']:.2f} %" in told.stdout
    assert "optimistic" in told.stdout
    assert f"limbeck run {folder / 'tune' / 'best.yaml'} seeds=5" in told.stdout
    assert str(folder / "tune" / "report.html") in told.stdout


def test_seeds_are_counted_or_listed_on_the_command_line(tmp_path):
    command = ["tune", "quickstart", "--out", str(tmp_path), "--losses", "nonsense", "--seeds"]
    wrong = CliRunner().invoke(app, [*command, "x"])
    assert isinstance(wrong.exception, UserError)
    assert "--seeds: 'x' is neither a number" in str(wrong.exception)
    assert "unknown loss 'nonsense'" in str(CliRunner().invoke(app, [*command, "1,2"]).exception)


def test_the_page_shows_every_trial_and_is_built_again_from_its_record(searched):
    folder, found = searched
    page = folder / "tune" / "report.html"
    first = page.read_text()
    page.unlink()
    assert CliRunner().invoke(app, ["report", str(folder / "tune")]).exit_code == 0
    assert page.read_text() == first
    drawn = json.loads(first.split('id="plots">', 1)[1].split("</script>", 1)[0])
    assert set(drawn) == {"progress", "by-weight", "by-temperature", "by-beta", "by-gamma"}
    points = [trace for trace in drawn["progress"]["data"] if trace["mode"] == "markers"]
    assert sorted(x for trace in points for x in trace["x"]) == list(range(7))
    so_far = drawn["progress"]["data"][0]["y"]
    assert so_far == pytest.approx([100 * max(t["value"] for t in found["trials"][: n + 1]) for n in range(7)])
    weights = {trace["name"]: trace["x"] for trace in drawn["by-weight"]["data"]}
    assert all(xs[0] == 1 and all(0.1 <= x <= 10 for x in xs) for xs in weights.values())
    for trial in found["trials"]:
        assert f"{trial['number']}: {trial['loss']}" in first
    assert "optimistic" in first
