"""`limbeck doctor` over whole recipes: what it says, what it leaves alone, how long it says a job will take."""

import dataclasses
import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import need
from runs import tiny, write
from safetensors.torch import load_file, save_file

import limbeck
from limbeck import evaluate, recipe
from limbeck.cli.app import app
from limbeck.core.progress import Progress
from limbeck.distill import cache
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.pipeline import expected, forecast, outline, setup
from limbeck.pipeline.doctor import checkup
from limbeck.pipeline.outline import trainings

LONG = tiny(
    data={"source": "digits", "split": {"val": 0.2, "test": 0.25}},
    teachers=[
        {"model": "conv-leaky", "options": {"channels": [16, 16]},
         "train": {"epochs": 8, "batch_size": 32, "lr": 3e-3}}
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tiny"
    return folder, limbeck.run(LONG, out=folder)


def with_weights(file, **keys):
    network = {"model": "conv-leaky", "options": {"channels": [16, 16]}, "weights": str(file), **keys}
    return {**LONG, "teachers": [network]}


def told(found, about=None):
    return [(one.what, one.level) for one in found if one.level != "ok" and about in (None, one.about)]


def test_a_sound_recipe_gets_no_warning_and_nothing_is_written(finished, tmp_path):
    folder, _ = finished
    found = checkup(with_weights(folder / "teacher" / "best.safetensors"), out=tmp_path / "run")
    assert told(found) == []
    assert {one.what for one in found} >= {
        "rows", "numbers", "steadiness", "inputs", "temperature", "worth", "time", "disk", "precision"
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_permuted_head_is_found_and_the_hint_puts_it_right(finished, tmp_path):
    state = load_file(finished[0] / "teacher" / "best.safetensors")
    last = [name.removesuffix(".weight") for name in state if state[name].ndim == 2][-1]
    turned = torch.roll(torch.arange(10), 3)
    for part in ("weight", "bias"):
        state[f"{last}.{part}"] = state[f"{last}.{part}"][turned].clone()
    meta = {"producer": "limbeck", "mean": "[0.3]", "std": "[0.37]"}
    save_file(state, tmp_path / "turned.safetensors", metadata=meta)
    job = with_weights(tmp_path / "turned.safetensors")
    found = checkup(job, out=tmp_path / "run")
    order = next(one for one in found if one.what == "classes")
    classes = json.loads(order.hint.removeprefix("write `classes: ").removesuffix("`"))
    assert classes == [str(n) for n in turned.tolist()]
    # A straight line is better than a teacher in disorder, too.
    assert set(told(found)) == {("classes", "warning"), ("worth", "warning")}
    job["teachers"][0]["classes"] = classes
    assert told(checkup(job, out=tmp_path / "run")) == []


def test_a_run_says_the_same_before_anybody_learns(finished, tmp_path):
    file = finished[0] / "teacher" / "best.safetensors"
    job = with_weights(file, preprocess="bytes")
    said = []
    progress = Progress(quiet=True)
    progress.say = said.append
    result = limbeck.run({**job, "seeds": 1}, out=tmp_path / "run", progress=progress)
    warnings = [line for line in said if line.startswith("WARNING: teacher:")]
    assert any("answers better to other inputs" in line for line in warnings)
    assert any("answers better to other inputs" in note for note in result["notes"])
    assert "answers better to other inputs" in (tmp_path / "run" / "report.html").read_text()
    well = limbeck.run({**with_weights(file), "seeds": 1}, out=tmp_path / "well")
    assert not any(note.startswith("teacher:") for note in well["notes"])


def test_a_student_that_is_better_is_told(finished, tmp_path):
    folder, _ = finished
    found = checkup(LONG, out=folder)
    against = [one for one in found if one.what == "worth" and "the student alone" in one.text]
    assert [one.level for one in against] == ["ok"]
    # The student's weights as the teacher, and the teacher's as the student.
    swapped = {
        **LONG,
        "teachers": [{"model": "conv-leaky", "options": {"channels": [4, 4]},
                      "weights": str(folder / "student-seed0" / "best.safetensors")}],
        "student": {"model": "conv-leaky", "options": {"channels": [16, 16]}, "train": {"epochs": 0},
                    "weights": str(folder / "teacher" / "best.safetensors")},
        "export": ["onnx"],
    }  # fmt: skip
    found = checkup(swapped, out=tmp_path / "run")
    against = next(one for one in found if "The student is better" in one.text)
    assert against.level == "warning"
    assert against.figures["other"] - against.figures["teacher"] > 0.1


def test_stored_predictions_in_disorder_are_put_in_order(finished, tmp_path):
    folder, _ = finished
    job = job_of(LONG, folder)
    network = job.network(job.recipe.teachers[0], folder / "teacher" / "best.safetensors")
    values = evaluate.predict(network, job.data, torch.arange(len(job.data.x))).softmax(1).numpy()
    every = np.empty_like(values)
    every[job.data.keys.own] = values
    turned = np.roll(np.arange(10), 3)
    named = json.dumps([str(n) for n in turned])
    np.save(tmp_path / "right.npy", every)
    np.save(tmp_path / "wrong.npy", every[:, turned])  # column n is the class turned[n]
    frame = pd.DataFrame(every[:, turned], columns=[str(n) for n in range(10)])
    frame.insert(0, "row", np.arange(len(every)))
    frame.to_csv(tmp_path / "wrong.csv", index=False)

    def found(name, **keys):
        return checkup({**LONG, "teachers": [{"model": str(tmp_path / name), **keys}]}, out=tmp_path / "run")

    right = found("right.npy")
    assert told(right) == []
    assert "inputs" not in {one.what for one in right}  # it is not given any
    assert next(one for one in found("wrong.npy") if one.what == "classes").hint == f"write `classes: {named}`"
    assert told(found("wrong.npy", classes=[str(n) for n in turned])) == []
    # Columns with names are found by these, in whatever order they are said to be.
    hint = next(one for one in found("wrong.csv") if one.what == "classes").hint
    assert hint == f"the columns have wrong names: rename {json.dumps([str(n) for n in range(10)])} to {named}"


def test_what_a_run_fits_is_looked_at_once_it_is_there(tmp_path):
    need(importlib.util.find_spec("skops") is not None, "skops")
    forest = {"model": "sklearn/RandomForestClassifier", "options": {"n_estimators": 30}}
    job = {
        **LONG, "teachers": [forest], "data": {**LONG["data"], "flat": True}, "seeds": 1,
        "student": {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 1}},
    }  # fmt: skip
    found = checkup(job, out=tmp_path / "run")
    assert [one.text for one in found if one.about == "teacher"] == [
        "is fitted by this recipe, in a time that nobody knows beforehand"
    ]
    limbeck.run(job, out=tmp_path / "run")
    found = checkup(job, out=tmp_path / "run")
    assert told(found) == []
    assert "worth" in {one.what for one in found}


def doctor(capsys, *words):
    code = app(["doctor", *map(str, words)], standalone_mode=False)
    return code or 0, capsys.readouterr().out


def test_the_command_line_says_it_and_exits_with_1_for_a_warning(finished, tmp_path, capsys):
    file = finished[0] / "teacher" / "best.safetensors"
    good, bad = (with_weights(file, **keys) for keys in ({}, {"preprocess": "bytes"}))
    code, said = doctor(capsys, write(tmp_path / "good.json", good), "--out", tmp_path / "run", "--json")
    found = json.loads(said)
    assert code == 0
    assert {one["level"] for one in found} == {"ok"}
    assert set(found[0]) == {"level", "about", "what", "text", "hint", "figures"}
    code, said = doctor(capsys, write(tmp_path / "bad.json", bad), "--out", tmp_path / "run", "--quiet")
    assert code == 1
    lines = said.splitlines()
    line = next(number for number, text in enumerate(lines) if "answers better to other inputs" in text)
    assert lines[line].split()[0] == "warning"
    assert "write `" in lines[line + 1]
    assert lines[-1] == f"{sum(text.split()[0] == 'warning' for text in lines if text.strip())} warnings"


# --- time and disk -------------------------------------------------------------------------------


def counted(job):
    found = {}
    for one in trainings(recipe.load(job)):
        found[one.what] = found.get(one.what, 0) + one.count * one.plan.epochs
    return found


def test_every_training_is_counted():
    assert counted(LONG) == {"teacher": 8, "students alone": 6, "students taught": 6}
    plan = {"epochs": 5}
    more = {
        **LONG,
        "teachers": [{**LONG["teachers"][0], "name": name} for name in ("a", "b")],
        "assistants": [{"model": "conv-leaky", "options": {"channels": [8, 8]}, "train": plan}],
        "compare": {"other": {"hard": 1, "dkd": {}}},
        "seeds": 4,
        "compress": {
            "small": [{"prune": {"ratio": 0.5, "steps": 2}, "recover": 3}, {"quantize": 8, "recover": 1}],
            "bare": [{"prune": 0.5}],
        },
    }
    assert counted(more) == {
        "a": 8, "b": 8, "assistant": 5, "students alone": 12, "students taught": 12, "other": 12,
        "students of the teacher itself": 12, "recovery of small": 56,
    }  # fmt: skip
    recoveries = [one for one in trainings(recipe.load(more)) if one.what == "recovery of small"]
    assert [(one.teacher_name, one.count) for one in recoveries] == [("assistant", 1), ("", 1)] * 4
    itself = {**LONG, "teachers": [], "student": {**LONG["student"], "generations": 2}}
    assert counted(itself) == {"students alone": 6, "students taught": 12}
    peers = {**LONG, "teachers": [], "student": {**LONG["student"], "peers": 3}}
    assert counted(peers) == {"students alone": 6, "peers": 18}


def job_of(source, folder):
    checked = recipe.load(source)
    job = setup.begin(checked, folder, make_accelerator(checked.run), Progress(quiet=True))
    job, _ = setup.dry_run(job)
    return replace(job, views=setup.likely_views(job))


def test_the_time_is_steps_times_the_time_of_a_step(tmp_path):
    """With a clock that moves on by a second whenever it is looked at, every step takes one, and so does a pass."""
    seconds = iter(range(10_000))
    job = job_of(LONG, tmp_path / "run")
    found = forecast.forecast(job, clock=lambda: float(next(seconds)))
    rows = len(job.data.train)
    steps = math.ceil(rows / 32)
    assert found.seconds == {
        "teacher": pytest.approx(8 * (steps + 1)),
        "students alone": pytest.approx(2 * 3 * (steps + 1)),
        "students taught": pytest.approx(2 * 3 * (steps + 1)),
        "the teachers' outputs": pytest.approx(rows / 64),
        "start-up": forecast.START_UP,
        # 64 test rows a second for four students and the teacher; then 5 calls of each: 2 to get warm, 3 in 2 seconds.
        "tests and timing": pytest.approx(5 * len(job.data.test) / 64 + 2 * 5),
    }
    assert not (tmp_path / "run").exists()


def test_peers_take_the_time_of_as_many_trainings(tmp_path):
    seconds = iter(range(10_000))
    job = job_of({**LONG, "teachers": [], "student": {**LONG["student"], "peers": 2}}, tmp_path / "run")
    found = forecast.forecast(job, clock=lambda: float(next(seconds)))
    alone = 2 * 3 * (math.ceil(len(job.data.train) / 32) + 1)
    assert found.seconds["students alone"] == pytest.approx(alone)
    assert found.seconds["peers"] == pytest.approx(2 * alone)


def test_without_views_the_teacher_is_a_part_of_every_step(tmp_path):
    job = job_of({**LONG, "views": 0, "augment": {"shift": 1}}, tmp_path / "run")
    found = forecast.forecast(job)
    assert set(found.seconds) == {"teacher", "students alone", "students taught", "start-up", "tests and timing"}
    assert found.stored_bytes == 0
    assert all(seconds > 0 for seconds in found.seconds.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": {"hard": 1, "srrl": {"weight": 1}}},
        {"losses": {"hard": 1, "at": {"weight": "auto", "student": "auto", "teacher": "auto"}}},
        {"teachers": [], "student": {**LONG["student"], "generations": 2}},
        {"teachers": [], "student": {**LONG["student"], "peers": 2}},
        {"teachers": [{**LONG["teachers"][0], "name": name} for name in ("a", "b")]},
        {"assistants": [{"model": "conv-leaky", "options": {"channels": [8, 8]}, "train": {"epochs": 2}}]},
        {"compress": {"small": [{"prune": 0.5, "recover": 1}]}, "teachers": []},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_kind_of_job_has_a_time(tmp_path, changes):
    job = job_of({**LONG, **changes}, tmp_path / "run")
    found = forecast.forecast(job)
    assert all(seconds > 0 for seconds in found.seconds.values())
    others = {"the teachers' outputs", "start-up", "tests and timing"}
    assert set(found.seconds) - others == {one.what for one in trainings(job.recipe)}


def test_files_are_counted_and_said_to_be_guessed(tmp_path):
    plain, shipped = LONG, {**LONG, "export": ["onnx", "onnx-int8", "litert"]}
    before, after = (forecast.forecast(job_of(one, tmp_path / "run")) for one in (plain, shipped))
    assert "files" not in before.seconds
    assert "guess" not in forecast.time_words(before)
    assert after.seconds[expected.IMPORTS] == expected.importing([shipped["export"]])
    assert after.seconds["files"] > expected.making([shipped["export"]], 0, 0, workers=100)
    assert forecast.time_words(after).endswith("; files and their libraries are a guess")


def test_libraries_are_counted_once_however_many_files_there_are():
    def importing(*networks):
        return expected.importing(networks)

    assert importing() == 0
    one, other = importing(["onnx"]), importing(["litert"])
    assert importing(["onnx", "onnx-int8"], ["onnx"]) == one
    assert importing(["onnx", "litert-w4"]) == pytest.approx(one + other - expected.TRACING)  # which both need


def test_a_network_is_converted_once_for_all_files_of_a_format():
    def making(*networks, layers=10, run=0.0, workers=1):
        return expected.making(networks, layers, run, workers)

    assert making() == 0
    assert making(["onnx"], ["onnx"]) == pytest.approx(2 * making(["onnx"]))
    assert making(["onnx"]) < making(["onnx", "onnx-int8"]) < making(["onnx"], ["onnx-int8"])
    assert making(["onnx", "litert"], run=7.0) == pytest.approx(making(["onnx", "litert"]) + 14)
    few, more, most = (making(["executorch-int8"], layers=count) for count in (10, 20, 30))
    assert most - more == pytest.approx(more - few)
    assert more > few


def test_formats_are_made_side_by_side_but_not_faster_than_the_slowest():
    def making(names, workers):
        return expected.making([names], 10, 1.0, workers)

    one, other = making(["onnx"], 1), making(["executorch"], 1)
    assert other > one
    assert making(["onnx", "executorch"], 1) == pytest.approx(one + other)
    assert making(["onnx", "executorch"], 2) == pytest.approx(other)
    even = making(["onnx", "executorch", "litert"], 2)
    assert even == pytest.approx(max(other, making(["onnx", "executorch", "litert"], 1) / 2))


def test_as_many_files_are_foreseen_as_are_made():
    def foreseen(**changes):
        return outline.files(recipe.load({**LONG, "seeds": 2, **changes}))

    ways = {"small": [{"prune": 0.5}], "rounded": [{"quantize": 8, "recover": 1}]}
    asked = ["onnx", "onnx-int8"]
    assert foreseen() == []
    assert foreseen(export=asked) == [asked]
    assert foreseen(export=asked, compress=ways) == [asked, asked, ["onnx-int8"]]
    assert foreseen(export=asked, files={"every_seed": True}) == [asked, asked]
    assert foreseen(budget={"size_kb": 10, "runtime": "onnx"}) == [["onnx-int8"]]


def test_the_disk_is_what_a_run_takes(finished, tmp_path):
    folder, result = finished
    found = forecast.forecast(job_of(LONG, tmp_path / "run"))
    stages = ("teacher", "student-seed0", "student-seed1", "distilled-seed0", "distilled-seed1")
    taken = sum(file.stat().st_size for name in stages for file in (folder / name).glob("*") if file.suffix != ".json")
    assert found.run_bytes == pytest.approx(taken, rel=0.5)  # small files are mostly headers
    assert found.stored_bytes == {stored["key"]: stored["bytes"] for stored in result["cache"]}.popitem()[1]
    assert found.fits
    assert not dataclasses.replace(found, run_room=0).fits
    assert not dataclasses.replace(found, stored_room=0).fits


def test_rows_without_a_label_and_spreads_take_room_too(tmp_path):
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, :2])
    np.save(tmp_path / "more.npy", x[:50] + 1)
    source = {"source": "arrays", "path": str(tmp_path / "rows.npz"), "unlabelled": str(tmp_path / "more.npy")}
    network = {"model": "mlp", "train": {"epochs": 1}}
    spread = tiny(
        task="regression", data=source, teachers=[network], student=network,
        losses={"label_gaussian_nll": 1, "gaussian_kl": 1}, export=[], seeds=1,
    )  # fmt: skip
    result = limbeck.run(spread, out=tmp_path / "run")
    (stored,) = {one["key"]: one["bytes"] for one in result["cache"]}.values()
    assert setup.stored_bytes(job_of(spread, tmp_path / "other")) == stored


def test_likely_views_are_those_of_the_run(finished, tmp_path, monkeypatch):
    assert job_of(LONG, tmp_path / "run").views == finished[1]["views"] == 1
    moving = {**LONG, "augment": {"shift": 1}}
    assert job_of(moving, tmp_path / "run").views == LONG["student"]["train"]["epochs"]
    one = setup.stored_bytes(job_of(moving, tmp_path / "run"))
    monkeypatch.setattr(cache, "room", lambda *_: 2 * one + 1)
    assert job_of(moving, tmp_path / "run").views == 2
