"""Which features each loss compares: found, named, refused; and what a run keeps of the losses' own weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck
from limbeck import recipe
from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Output
from limbeck.distill.objective.feature_matching import fit_terms
from limbeck.models.reference import NETWORKS
from limbeck.recipe import Plan

SHAPE, CLASSES = (1, 28, 28), 10


def network(channels: list[int], hidden: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS["conv-pool"](SHAPE, CLASSES, channels=channels, hidden=hidden)


def terms(**losses: object) -> dict[str, recipe.Term]:
    given = {"data": {"source": "digits"}, "student": {"model": "mlp"}, "losses": {"hard": 0.1, **losses}}
    return recipe.load({**given, "teachers": [{"model": "mlp", "train": {}}]}).losses


def fitted(**losses: object):
    x = torch.rand(2, *SHAPE)
    return fit_terms(terms(**losses), network([4, 8], 16), network([8, 12, 16], 32), x, rows=50, classes=CLASSES)


def test_stages_are_paired_by_depth_and_the_plan_is_told() -> None:
    found = fitted(at="auto")
    assert found.plan == ["at: act1 [4, 26, 26] from act2 [12, 11, 11], act2 [8, 11, 11] from act3 [16, 3, 3]"]
    assert found.teacher_shapes == {"act2": (12, 11, 11), "act3": (16, 3, 3)}
    [hard, at] = found.objective(Plan(), seed=0).terms
    assert hard.weight == 0.1
    assert at.weight == 1000
    assert (at.student, at.teacher) == (("act1", "act2"), ("act2", "act3"))


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        ("sp", "act2", "act3"),
        ("fitnet", "act2", "act3"),
        ("rkd_distance", "act", "act"),
        ("reviewkd", ("act1", "act2"), ("act2", "act3")),
    ],
)
def test_a_loss_takes_what_it_was_published_for(loss: str, student: object, teacher: object) -> None:
    [_, term] = fitted(**{loss: "auto"}).objective(Plan(), seed=0).terms
    assert (term.student, term.teacher) == (student, teacher)


def test_taps_can_be_named_one_or_several() -> None:
    one = fitted(at={"student": "act1", "teacher": "act1", "weight": 2})
    assert one.plan == []
    [_, term] = one.objective(Plan(), seed=0).terms
    assert (term.student, term.teacher, term.weight) == ("act1", "act1", 2)
    several = fitted(vid={"student": ["act1", "act2"], "teacher": ["act1", "act3"]})
    [_, term] = several.objective(Plan(), seed=0).terms
    assert (term.student, term.teacher) == (("act1", "act2"), ("act1", "act3"))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            {"at": {"student": "akt1", "teacher": "act1"}},
            "loss 'at', student: .*no submodule 'akt1'.*did you mean 'act1'",
        ),
        ({"at": {"student": "act1", "teacher": "act9"}}, "loss 'at', teacher: .*no submodule 'act9'"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(losses: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        fitted(**losses)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"kd": "auto"}, "compares predictions, and has no taps to find"),
        ({"at": {"student": "act1"}}, "`auto` on both sides, or named on both"),
        ({"at": {"student": ["a", "b"], "teacher": ["c"]}}, "2 taps of the student and 1 of the teacher"),
        ({"kd": {"weight": {"start": 1}}}, r"`weight\.end`: Field required"),
        ({"lskd": {"wraps": {"start": 1, "end": 2}}}, "'wraps'"),
        ({"hard": {"weight": "auto"}, "kd": {"weight": "auto"}}, "give one"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(losses: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        terms(**losses)


def test_features_of_several_teachers_are_refused() -> None:
    with pytest.raises(UserError, match="loss 'at': features are tapped from one teacher"):
        fit_terms(terms(at="auto"), network([4, 8], 16), None, torch.rand(2, *SHAPE), rows=5, classes=CLASSES)


def test_weights_of_losses_follow_from_the_seed() -> None:
    found = fitted(fitnet="auto", crd="auto")
    one, again, other = (
        {k: v for k, v in found.objective(Plan(), seed=seed).state_dict().items() if v.isfinite().all()}
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_the_teacher_s_classifier_is_found() -> None:
    found = fitted(srrl={"student": "act", "teacher": "act"})
    teacher = network([8, 12, 16], 32)
    head = teacher.get_submodule(found.head)
    assert isinstance(head, nn.Linear)
    assert head.weight.shape == (CLASSES, 32)
    objective = found.objective(Plan(), 0, head)
    student = Output(torch.randn(4, 10), {"act": torch.randn(4, 16)})
    told = Output(torch.randn(4, 10), {"act": torch.randn(4, 32)})
    batch = Batch(torch.zeros(4, 1), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    assert objective(student, told, batch)["srrl"].isfinite()


# --- whole runs ----------------------------------------------------------------------------------

PLAN = {"epochs": 2, "batch_size": 32, "lr": 3e-3}
TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 240, "split": {"val": 0.2, "test": 0.25}},
    "teachers": [{"model": "conv-pool", "options": {"channels": [8], "hidden": 16}, "train": PLAN}],
    "student": {"model": "conv-pool", "options": {"channels": [4], "hidden": 8}, "train": PLAN},
    "losses": {"hard": 0.1, "kd": {"weight": 0.9, "temperature": {"start": 8, "end": 2}}},
    "seeds": [0],
    "run": {"threads": 1, "device": "cpu"},
}
FEATURES = {
    "hint": {"hard": 1, "fitnet": {"weight": "auto"}},
    "contrast": {"hard": 1, "crd": {}},
    "softmax": {"hard": 1, "srrl": {}},
    "learned": {"hard": 0.1, "ctkd": {"weight": {"start": 0, "end": 0.9, "epochs": 1}}},
    "free": {"tf_kd": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(folder / "cache"))
        return folder, limbeck.run({**TINY, "compare": FEATURES}, out=folder / "run")


def test_what_losses_train_is_no_part_of_the_student(finished) -> None:
    """Projectors, banks and temperatures stay behind: the file is the plain architecture's."""
    folder, _ = finished
    plain = {k: tuple(v.shape) for k, v in load_file(folder / "run/student-seed0/best.safetensors").items()}
    for name in FEATURES:
        of = load_file(folder / f"run/{name}-seed0/best.safetensors")
        assert {k: tuple(v.shape) for k, v in of.items()} == plain
        state = torch.load(folder / f"run/{name}-seed0/checkpoint.pt", weights_only=True)["networks"][0]["objective"]
        assert bool(state) == (name != "free")


def test_every_set_of_losses_is_held_against_the_student_alone(finished) -> None:
    _, result = finished
    assert [m["name"] for m in result["methods"]] == ["distilled", *FEATURES]
    scores = {m["name"]: m["metrics"]["accuracy"] for m in result["models"]}
    for method in result["methods"]:
        assert method["student"]["values"] == [scores["student-seed0"]]
        assert method["distilled"]["values"] == [scores[f"{method['name']}-seed0"]]
    found = {m["name"]: m["weights"] for m in result["methods"]}
    assert found["hint"][0]["fitnet"] > 0
    assert result["weights"] == {"hint-seed0": found["hint"][0]}
    assert found["distilled"] == []


def test_all_of_them_read_one_cache(finished) -> None:
    _, result = finished
    assert len({stored["key"] for stored in result["cache"]}) == 1
    assert sum(stored["asked"] for stored in result["cache"]) == result["data"]["counts"]["train"]


def test_live_and_stored_features_teach_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    losses = {"hard": 1, "fitnet": {}, "sp": {}}
    # The kernels of some processors round otherwise in a batch of another size. Plain descent adds no more to that,
    # where Adam would make whole steps of it.
    plan = {"epochs": 2, "batch_size": 16, "lr": 0.05, "optimizer": "sgd"}
    small = {**TINY, "losses": losses, "student": {**TINY["student"], "train": plan}}
    found = []
    for name, options in {"stored": {"cache": {"dtype": "float32"}}, "live": {"views": 0}}.items():
        limbeck.run({**small, **options}, out=tmp_path / name)
        found.append(load_file(tmp_path / name / "distilled-seed0" / "last.safetensors"))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["contrast", "hint", "learned"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(finished, tmp_path, monkeypatch, name: str) -> None:
    """Bank, projector, temperature, found weight: all of them go on where they were."""
    folder, _ = finished
    monkeypatch.setenv("LIMBECK_CACHE", str(folder / "cache"))
    from limbeck.distill.train import learner

    epochs = []
    record = learner.Learner.record

    def stop(self, row):
        record(self, row)
        epochs.append(row)
        if len(epochs) == 4 + 1:  # teacher 2, student alone 2, then one of this
            raise KeyboardInterrupt

    one = {**TINY, "losses": FEATURES[name]}
    whole = tmp_path / "whole"
    limbeck.run(one, out=whole)
    monkeypatch.setattr(learner.Learner, "record", stop)
    # Stopped before the checkpoint of its first epoch, or after it: both must come to the same.
    with pytest.raises(KeyboardInterrupt):
        limbeck.run(one, out=tmp_path / "cut")
    monkeypatch.setattr(learner.Learner, "record", record)
    limbeck.run(one, out=tmp_path / "cut")
    for kind in ("last", "best"):
        a, b = (load_file(run / "distilled-seed0" / f"{kind}.safetensors") for run in (whole, tmp_path / "cut"))
        assert all(torch.equal(value, b[key]) for key, value in a.items())
    results = [json.loads((run / "result.json").read_text()) for run in (whole, tmp_path / "cut")]
    assert results[0]["comparison"] == results[1]["comparison"]


@pytest.mark.slow
@pytest.mark.parametrize("losses", [{"hard": 1, "sp": {}, "vid": {}}, {"hard": 1, "crd": {"weight": "auto"}}], ids=str)
def test_two_processes_train_what_one_does(tmp_path, monkeypatch, losses: dict[str, object]) -> None:
    """Losses that relate rows see those of both; a projector's gradient is that of the whole batch."""
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    # No loss with batch norm, whose statistics are each process's own.
    plan = {"epochs": 1, "batch_size": 16, "lr": 1e-3, "optimizer": "sgd"}
    small = {**TINY, "losses": losses, "student": {**TINY["student"], "train": plan}}
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(small))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "limbeck"]
    limbeck.run(path, out=tmp_path / "one")
    shutil.copytree(tmp_path / "one" / "teacher", tmp_path / "two" / "teacher")  # the same teacher for both
    shutil.copy(tmp_path / "one" / "recipe.yaml", tmp_path / "two")
    command = [*launch, "run", str(path), "--out", str(tmp_path / "two")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "distilled-seed0" / "last.safetensors") for run in ("one", "two"))
    if "crd" in losses:  # each process draws its own negatives
        stage = json.loads((tmp_path / "two" / "distilled-seed0" / "stage.json").read_text())["result"]
        assert stage["weights_found"]["crd"] > 0
        assert stage["epochs"][0]["train_crd"] > 0
        assert not all(torch.equal(value, two[key]) for key, value in one.items())
        return
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_networks_that_say_how_sure_they_are(tmp_path, monkeypatch) -> None:
    """From a recipe to a file that answers with means and variances in the target's own unit."""
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    plan = {"epochs": 3, "batch_size": 64, "lr": 3e-3}
    result = limbeck.run(
        {
            "task": "regression",
            "data": {"source": "diabetes"},
            "teachers": [{"model": "mlp", "options": {"hidden": [16]}, "train": plan}],
            "student": {"model": "mlp", "options": {"hidden": [4]}, "train": plan},
            "losses": {"label_gaussian_nll": 0.5, "gaussian_kl": 0.5},
            "seeds": [0],
            "export": ["onnx"],
            "run": {"threads": 1},
        },
        out=tmp_path / "run",
    )
    rows = {m["name"]: m for m in result["models"]}
    for row in rows.values():
        assert 0 <= row["metrics"]["coverage95"] <= 1
        # No better than a Gaussian of the errors that it makes, in the target's own unit, and not far from it.
        assert row["metrics"]["nll"] > math.log(row["metrics"]["rmse"]) - 1
        assert row["metrics"]["nll"] < math.log(row["metrics"]["rmse"]) + 5
    [file] = [m for m in result["models"] if m["role"] == "exported"]
    assert file["metrics"]["nll"] == pytest.approx(rows[result["chosen"]["name"]]["metrics"]["nll"], rel=1e-4)
    with pytest.raises(UserError, match="those of several teachers are none"):
        recipe.load(
            {
                "task": "regression",
                "data": {"source": "diabetes"},
                "teachers": [{"name": n, "model": "mlp", "train": plan} for n in "ab"],
                "student": {"model": "mlp"},
                "losses": {"label_gaussian_nll": 0.5, "gaussian_kl": 0.5},
            }
        )
