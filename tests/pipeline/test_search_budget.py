"""The search for the smallest file within a budget: what it finds, goes on with, and does where rounding costs much."""

import json
import shutil
from functools import partial

import pytest
import torch
from course_told import stages_told
from runs import one, tiny

import limbeck
from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.formats import FORMATS
from limbeck.core.progress import Progress
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.pipeline import compress, search_budget, setup
from limbeck.pipeline.trained import TrainedModel

STUDENT = {
    "model": "conv-pool",
    "options": {"channels": [16], "hidden": 32},
    "train": {"epochs": 2, "batch_size": 32, "lr": 3e-3},
}
WANTED = {"accuracy_drop": 0.2, "size_kb": 1000, "latency_ms": 1000, "runtime": "onnx", "trials": 3, "recover": 1}


def recipe_of(**changes):
    return tiny(student=STUDENT, seeds=[0], budget={**WANTED, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "budget"
    return folder, limbeck.run(recipe_of(), out=folder)


def test_every_stage_is_told(finished):
    numbers = [number for number, _ in stages_told(finished[0])]
    assert numbers == sorted(numbers)
    of = {total for _, total in stages_told(finished[0])}
    assert of == {7}  # a teacher, two students, the search, what it finds with and without the teacher, the end
    assert {1, 2, 3, 4, 7} <= set(numbers)  # what is found may need no training


def test_ways_are_steps_of_a_recipe():
    recover = recipe.Recover(epochs=2)
    steps = search_budget.TrialSettings(0.5, 0.8, "int8").steps(recover)
    assert [step.prune.ratio if step.prune else step.factorise.energy for step in steps] == [0.5, 0.8]
    assert search_budget.TrialSettings(0.0, 1.0, "float32").steps(recover) == []
    assert search_budget.TrialSettings(0.0, 1.0, "w4").format("litert") == "litert-w4"
    assert search_budget.TrialSettings(0.0, 1.0, "float32").format("onnx") == "onnx"
    for runtime, row in FORMATS.items():
        for precision in row.searched:
            recipe.load(tiny(export=[search_budget.TrialSettings(0, 1, precision).format(runtime)]))


@pytest.mark.slow
def test_the_smallest_file_within_the_budget_becomes_a_student_and_its_file(finished):
    folder, result = finished
    found = result["budget"]
    assert len(found["trials"]) == 3
    tried = [(t["way"]["ratio"], t["way"]["energy"], t["way"]["precision"]) for t in found["trials"]]
    assert tried == [(0.0, 1.0, "int8"), (0.5, 1.0, "int8"), (0.75, 1.0, "int8")]
    sizes = [t["size_kb"] for t in found["trials"]]
    assert sizes == sorted(sizes, reverse=True)
    within = [t for t in found["trials"] if t["within"]]
    assert found["winner"] == min(within, key=lambda t: t["size_kb"])
    assert found["words"].startswith("the smallest of 3 trials within the budget: onnx-int8")
    chosen = one(result, "budget-seed0.onnx-int8")
    assert (folder / chosen["file"]).stat().st_size / 1000 == pytest.approx(found["winner"]["size_kb"], rel=0.02)
    assert {"budget-seed0", "budget-alone-seed0"} <= {model["name"] for model in result["models"]}
    assert 'id="budget"' in (folder / "report.html").read_text()
    stamp = (folder / "budget" / "search.db").stat().st_mtime_ns
    assert limbeck.run(recipe_of(), out=folder)["budget"] == found
    assert (folder / "budget" / "search.db").stat().st_mtime_ns == stamp


def test_every_folder_of_a_stage_has_a_name_that_no_other_may_have(finished):
    folder, _ = finished
    known = {name for _, name in recipe.load(folder / "recipe.yaml").stage_names}
    stages = {str(path.parent.relative_to(folder)) for path in folder.rglob("stage.json")}
    own = {stage for stage in stages if not stage.startswith(("budget/trials", "export/made")) and "/step" not in stage}
    assert {"teacher", "budget", "budget-seed0", "measured"} <= own <= known


@pytest.mark.slow
def test_a_budget_that_the_student_keeps_to_as_it_is_gives_its_file(finished):
    """The first trial takes nothing away, and may be the smallest of those within the budget."""
    folder, _ = finished
    shutil.rmtree(folder / "budget")
    result = limbeck.run(recipe_of(trials=1, size_kb=998), out=folder)
    winner, start = result["budget"]["winner"], result["budget"]["start"]
    assert winner["steps"] == []
    exported = [model for model in result["models"] if model["role"] == "exported"]
    assert [model["name"] for model in exported] == [f"{start}.onnx-int8"]
    assert (folder / exported[0]["file"]).stat().st_size / 1000 == pytest.approx(winner["size_kb"], rel=0.02)
    assert result["compressed"] == []
    assert not any(model["role"].startswith("compressed") for model in result["models"])


@pytest.mark.slow
def test_an_impossible_budget_is_said_and_the_nearest_named(finished):
    folder, _ = finished
    with pytest.raises(UserError, match=r"begun from .* another recipe"):
        limbeck.run(recipe_of(size_kb=0.5, trials=1), out=folder)
    shutil.rmtree(folder / "budget")
    result = limbeck.run(recipe_of(size_kb=0.5, trials=1), out=folder)
    found = result["budget"]
    assert found["winner"] is None
    assert found["words"].startswith("none of 1 trials keeps to the budget; the nearest: onnx-int8")
    assert found["trials"][0]["exceeded"] == ["size_kb"]
    assert not any(model["name"].startswith("budget") for model in result["models"])


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(finished, monkeypatch):
    folder, result = finished
    measured = search_budget._measured
    calls = []

    def stopped(*given, **options):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*given, **options)

    monkeypatch.setattr(search_budget, "_measured", stopped)
    wanted = recipe_of(trials=2, size_kb=999)
    shutil.rmtree(folder / "budget")
    with pytest.raises(KeyboardInterrupt):
        limbeck.run(wanted, out=folder)
    found = limbeck.run(wanted, out=folder)["budget"]
    assert len(calls) == 3  # the first was not done again
    assert [t["way"] for t in found["trials"]] == [t["way"] for t in result["budget"]["trials"][:2]]
    assert [t["drop"] for t in found["trials"]] == [t["drop"] for t in result["budget"]["trials"][:2]]


@pytest.mark.slow
def test_where_rounding_costs_too_much_the_network_learns_rounded(finished, monkeypatch, tmp_path):
    """The tool's int8 files are made worthless; those of networks that learned quantized are as they come."""
    folder, _ = finished
    checked = recipe.load(folder / "recipe.yaml").model_copy(update={"budget": recipe.Budget(**WANTED), "teachers": []})
    job = setup.begin(checked, folder, make_accelerator(checked.run, folder), Progress(quiet=True))
    predicted, file_of = search_budget.predicted, search_budget.file_of
    learned = []

    def made(*given, trained_quantized=False):
        learned.append(trained_quantized)
        return file_of(*given, trained_quantized=trained_quantized)

    def worthless(*given, **options):
        told, latency = predicted(*given, **options)
        return (told if learned[-1] else torch.zeros_like(told)), latency

    monkeypatch.setattr(search_budget, "file_of", made)
    monkeypatch.setattr(search_budget, "predicted", worthless)
    weights = job.weights("distilled-seed0", checked.student.train)
    student = TrainedModel("distilled-seed0", "distilled", 0, weights, partial(compress.rebuild, job, weights))
    teacher_name = search_budget.student_as_teacher(job, student, ["key"])
    job, _ = setup.dry_run(job)
    before = evaluate.predict(compress.rebuild(job, weights).eval(), job.data, job.data.val)
    told = search_budget._tried(
        job, search_budget.TrialSettings(0.0, 1.0, "int8"), student, before, teacher_name, tmp_path
    )
    assert learned == [False, True]
    assert told["within"]
    assert told["learned"]
    assert [list(step) for step in told["steps"]] == [["quantize", "recover"]]
    assert json.loads(json.dumps(told)) == told
    # Nothing is learned where the file is too large anyway, or where it is not made of integers.
    del learned[:]
    whole = search_budget.TrialSettings(0.0, 1.0, "float32")
    assert not search_budget._tried(job, whole, student, before, teacher_name, tmp_path / "float")["within"]
    assert learned == [False]
