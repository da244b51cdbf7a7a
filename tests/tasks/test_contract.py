"""What holds for every task: a new one gets its row in `sample`, and is tested by this."""

from __future__ import annotations

import contextlib
import io
import json
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from task_samples import guessed, right, sample

import limbeck
from limbeck import evaluate
from limbeck.core import signatures
from limbeck.core.metrics import METRICS
from limbeck.core.types import Kind
from limbeck.data import fetcher, targets
from limbeck.distill import cache
from limbeck.distill.teachers import combiner
from limbeck.export import parity
from limbeck.export.predict import predict
from limbeck.losses import bind
from limbeck.recipe import Combine
from limbeck.tasks import TASKS, main_metric, rules

each_task = pytest.mark.parametrize("kind", TASKS)


def test_the_rows_are_those_that_a_recipe_can_name():
    assert tuple(TASKS) == get_args(Kind)
    assert all(name == task.name for name, task in TASKS.items())


@each_task
def test_names_in_a_row_are_names_that_there_are(kind):
    task, losses = rules(kind), signatures.losses()
    assert task.beside in METRICS
    for name in (task.label_loss, *task.recovery, *task.searched):
        assert task.predicts in losses[name].predicts
    assert not losses[task.label_loss].needs_teacher
    assert any(losses[name].needs_teacher for name in task.recovery)
    assert all(losses[name].needs_teacher for name in task.searched)


@each_task
def test_what_is_right_is_worth_more_than_what_is_guessed(kind):
    data = sample(kind)
    truth = targets(data, data.train)
    best = evaluate.metrics(data.task, right(data, truth), truth, data.targets)
    worse = evaluate.metrics(data.task, guessed(data, len(truth)), truth, data.targets)
    metric = main_metric(data.task)
    assert best[metric.name] == pytest.approx(1.0 if metric.higher else 0.0, abs=1e-6)
    assert metric.gain(worse[metric.name], best[metric.name]) > 0.1
    assert json.loads(json.dumps(best)) == best


@each_task
def test_scores_of_rows_make_the_main_metric(kind):
    data = sample(kind)
    truth, said = targets(data, data.train), guessed(data, len(data.train))
    score = evaluate.metrics(data.task, said, truth)[main_metric(data.task).name]
    drawn = rules(kind).drawn_scores(data.task, said, truth)(torch.ones(1, len(truth), dtype=torch.float64)).item()
    each = rules(kind).row_scores(data.task, said, truth)
    if kind == "regression":  # squared errors, of outputs that are standardised
        assert each is not None
        by_hand = np.mean((said.numpy() - truth.numpy()) ** 2)
        assert (each.mean().item(), drawn) == (pytest.approx(by_hand), pytest.approx(by_hand))
        return
    assert each is None or each.mean().item() == pytest.approx(score)
    if kind != "classification":  # of which the rule for drawings is the balanced accuracy
        assert drawn == pytest.approx(score)


@each_task
def test_a_drawing_counts_rows_as_often_as_they_are_drawn(kind):
    data = sample(kind)
    truth, said = targets(data, data.train), guessed(data, len(data.train))
    random = np.random.default_rng(1)
    draw = random.multinomial(len(truth), np.full(len(truth), 1 / len(truth)))
    rows = torch.from_numpy(np.repeat(np.arange(len(truth)), draw))
    score = rules(kind).drawn_scores(data.task, said, truth)(torch.from_numpy(draw[None]).double()).item()
    again = rules(kind).drawn_scores(data.task, said[rows], truth[rows])
    assert score == pytest.approx(again(torch.ones(1, len(rows), dtype=torch.float64)).item())


@each_task
def test_a_model_loses_nothing_against_itself_and_much_against_what_is_right(kind):
    data = sample(kind)
    truth = targets(data, data.train)
    said = right(data, truth) + 0.5 * torch.randn(len(truth), *data.places, data.task.outputs)
    same = evaluate.loss(data.task, said, said, truth)
    assert (same.drop, same.within) == (0.0, True)
    lost = evaluate.loss(data.task, said, guessed(data, len(truth)), truth)
    assert lost.drop > 0.1
    assert lost.p_more < 0.05


@each_task
def test_a_model_agrees_with_itself_and_members_that_are_one_differ_in_nothing(kind):
    data = sample(kind)
    truth, said = targets(data, data.train), guessed(data, len(data.train))
    found = evaluate.agreement(data.task, said, said, data.targets, target=truth)
    assert found in ({"agreement": 1.0, "kl": 0.0}, {"rmse_to_teacher": 0.0})
    other = guessed(data, len(data.train), seed=1)
    apart = evaluate.agreement(data.task, said, other, data.targets, target=truth)
    assert apart.get("agreement", 0.0) < 0.9
    labels = None if kind == "regression" else truth
    together = evaluate.disagreement(data.task, torch.stack([said, said]), ("one", "other"), target=labels)
    assert together["mean_pairwise"] == 0
    assert parity(said, said, kind).agreement in (1.0, None)
    same = rules(kind).same
    assert same is None or bool(same(said, said).all())


@each_task
def test_the_error_on_labels_is_that_of_the_loss_on_labels_and_falls(kind):
    data = sample(kind)
    truth = targets(data, data.train)
    said = guessed(data, len(truth)).requires_grad_()
    error = rules(kind).error(data.task, said, truth)
    assert error.item() == pytest.approx(bind(rules(kind).label_loss)(said, None, truth).item(), rel=1e-5) or (
        kind == "multilabel"  # whose loss sums over the labels, where importance is judged by their mean
    )
    (gradient,) = torch.autograd.grad(error, said)
    assert rules(kind).error(data.task, said - 0.1 * gradient / gradient.norm(), truth) < error


@each_task
def test_a_guess_is_worth_what_is_said(kind):
    data = sample(kind, 2000 if kind == "multilabel" else 60)
    truth = targets(data, data.train)
    guess = rules(kind).guess(data.task, truth)
    if kind == "multilabel":  # an order at random; of few rows it comes to a little more than the share
        found = evaluate.metrics(data.task, guessed(data, len(truth)), truth)
        assert found["map"] == pytest.approx(guess.value, abs=0.03)
        return
    said = torch.zeros(len(truth), *data.places, data.task.outputs)
    if kind == "regression":
        said = said + truth.mean(0)
    else:
        said[..., truth[truth >= 0].bincount().argmax()] = 1
    assert evaluate.metrics(data.task, said, truth)[guess.metric] == pytest.approx(guess.value, abs=1e-6)


@each_task
def test_members_are_joined_in_every_way_that_the_row_names(kind):
    data = sample(kind)
    members = torch.stack([guessed(data, 5, n) for n in range(3)])
    for name in rules(kind).ensembles:
        if name == "stacked":  # which is fitted: see the tests of stacking
            continue
        weights = [1.0, 2.0, 1.0] if name == "weighted" else None
        joined = combiner(kind, Combine(name=name, weights=weights) if weights else Combine(name=name))(members)
        assert joined.shape == members.shape[1:]
        assert bool(joined.isfinite().all())
        swapped = combiner(kind, Combine(name=name, weights=weights) if weights else Combine(name=name))(
            members[[2, 1, 0]]  # of equal weight
        )
        assert torch.allclose(joined, swapped, atol=1e-5)


@each_task
def test_outputs_are_stored_and_read_as_they_were(kind, tmp_path):
    data = sample(kind)
    known = guessed(data, len(data.x))

    def teacher(batch):
        return limbeck.Output(known[batch.index])

    about = {"identity": {"teacher": "t"}, "label": {"teacher": "t"}, "views": 1, "kind": kind}
    stored = cache.outputs(teacher, fetcher(data), data.train, dtype="float32", root=tmp_path, **about)
    batch = fetcher(data)(data.train[[3, 0, 7]], 0)
    assert torch.equal(stored(batch).prediction, known[batch.index])
    assert cache.reask(stored, teacher, fetcher(data), 20).disagreements == 0


@each_task
def test_a_card_and_a_program_say_what_an_output_means(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = sample(kind)
    truth = targets(data, data.test)
    outputs = right(data, truth)[:1].numpy()
    said = rules(kind).said(data.task.names, outputs[0], 2)
    assert json.loads(json.dumps(said)) == said
    assert rules(kind).meaning(data.task)
    assert rules(kind).goal(data.task.names)
    given = np.moveaxis(outputs, -1, 1) if kind == "segmentation" else outputs
    for few in (True, False):
        lines = rules(kind).program(repr(list(data.task.names)), few, "outputs")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(lines, {"outputs": given, "np": np, "Image": Image})
        if kind != "segmentation":
            assert printed.getvalue().strip()
    if kind == "segmentation":
        assert np.array_equal(np.asarray(Image.open("mask.png")), outputs[0].argmax(-1))


# --- the whole way -------------------------------------------------------------------------------


def arrays_of(data, folder):
    """The data set as a user has it, and the recipe's part about it."""
    path = folder / "rows.npz"
    np.savez(path, x=data.x.numpy(), y=data.y.numpy())
    return {"source": "arrays", "path": str(path)}


@pytest.mark.slow
@each_task
def test_a_recipe_becomes_files_of_every_format_and_a_page(kind, tmp_path):
    data = sample(kind, 120)
    small = {"model": "unet", "options": {"channels": [4, 8]}} if kind == "segmentation" else {
        "model": "mlp", "options": {"hidden": [8]}
    }  # fmt: skip
    train = {"epochs": 2, "batch_size": 16, "optimizer": "adam", "lr": 1e-2}
    job = {
        "name": "tiny",
        "about": "A small job of one task.",
        "task": kind,
        "data": arrays_of(data, tmp_path),
        "teachers": [{"name": "teacher", **small, "train": train}],
        "student": {**small, "train": train},
        "losses": dict(rules(kind).recovery),
        "seeds": 2,
        "export": ["litert", "litert-int8", "onnx", "onnx-int8", "executorch", "openvino", "openvino-int8"],
    }
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(job))
    result = limbeck.run(recipe, out=tmp_path / "run")
    metric = main_metric(data.task).name
    files = {model["name"]: model for model in result["models"] if model["role"] == "exported"}
    assert len(files) == 7
    for file in files.values():
        source = next(model for model in result["models"] if model["name"] == file["source"])
        assert np.isfinite(file["metrics"][metric])
        if file["precision"] == "float32":
            assert file["metrics"][metric] == pytest.approx(source["metrics"][metric], abs=1e-3)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert METRICS[metric].title in page
    where = None
    if data.images:
        where = tmp_path / "new"
        where.mkdir()
        for n, image in enumerate(data.x[:3].numpy()):
            Image.fromarray(image[0]).resize((20, 20)).save(where / f"{n}.png")
        inputs = [where]
    else:
        inputs = [tmp_path / "rows.csv"]
        inputs[0].write_text("\n".join(",".join(map(str, row)) for row in [range(4), *data.x[:3].tolist()]))
    onnx = next(tmp_path / "run" / file["file"] for name, file in files.items() if name.endswith(".onnx"))
    masks = tmp_path / "masks" if rules(kind).each == "pixel" else None
    assert len(predict(onnx, inputs, masks=masks)) == 3
    if masks:
        for path in sorted(masks.iterdir()):
            with Image.open(path) as mask:
                assert mask.size == (20, 20)
