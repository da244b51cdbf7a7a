"""Whole runs: what is in the folder afterwards, resuming, refusing."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need
from runs import TINY, command, tiny, wait_for, write
from safetensors.torch import load_file

import limbeck
from limbeck.core.errors import UserError
from limbeck.core.progress import Progress


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tiny"
    return folder, limbeck.run(tiny(export=["onnx"]), out=folder)


@pytest.mark.slow
def test_the_folder_holds_what_the_contract_says(finished):
    folder, result = finished
    assert json.loads((folder / "result.json").read_text())["models"] == json.loads(json.dumps(result["models"]))
    assert json.loads((folder / "classes.json").read_text()) == {str(n): n for n in range(10)}
    assert "<html" in (folder / "report.html").read_text()
    assert {m["name"]: m["role"] for m in result["models"] if m["role"] != "exported"} == {
        "teacher": "teacher", "student-seed0": "student", "distilled-seed0": "distilled",
        "student-seed1": "student", "distilled-seed1": "distilled",
    }  # fmt: skip
    for model in result["models"]:
        assert set(model) == {
            "name", "role", "seed", "format", "file", "metrics", "cost", "parity", "precision", "source", "notes",
            "variant", "number",
        }  # fmt: skip
        file = folder / model["file"]
        assert file.stat().st_size == model["cost"]["size_bytes"]
        assert model["cost"]["latency_ms"] > 0
    assert set(result["curves"]) == {"teacher", "student-seed0", "distilled-seed0", "student-seed1", "distilled-seed1"}
    assert set(result["seconds"]) >= {"data", "teacher", "distilled-seed0", "measured"}
    assert result["data"]["counts"] == {"train": 240, "val": 60, "test": 100}


def test_the_comparison_is_of_the_measured_models(finished):
    _, result = finished
    accuracy = {m["name"]: m["metrics"]["accuracy"] for m in result["models"]}
    gains = [accuracy[f"distilled-seed{s}"] - accuracy[f"student-seed{s}"] for s in (0, 1)]
    assert result["comparison"]["gain"]["mean"] == pytest.approx(np.mean(gains))
    assert result["comparison"]["student"]["n"] == 2
    assert result["comparison"]["verdict"] in ("helps", "no evidence", "hurts")


def test_the_exported_file_is_the_chosen_student(finished):
    import onnxruntime

    from limbeck.data import load, pixels
    from limbeck.recipe import Data

    folder, result = finished
    [exported] = [m for m in result["models"] if m["role"] == "exported"]
    assert exported["name"] == f"{result['chosen']['name']}.onnx"
    assert exported["parity"]["max_abs_error"] < 1e-4
    assert exported["parity"]["agreement"] == 1.0
    data = load(Data.model_validate(TINY["data"]), "classification")
    session = onnxruntime.InferenceSession(folder / exported["file"])
    [logits] = session.run(None, {session.get_inputs()[0].name: pixels(data, data.test, "cpu").numpy()})
    accuracy = (torch.from_numpy(logits).argmax(1) == data.y[data.test]).float().mean().item()
    [chosen] = [m for m in result["models"] if m["name"] == result["chosen"]["name"]]
    assert accuracy == pytest.approx(exported["metrics"]["accuracy"]) == pytest.approx(chosen["metrics"]["accuracy"])


def test_the_two_students_begin_with_the_same_weights(tmp_path):
    """With a learning rate of next to nothing they end with them, too."""
    student = {**TINY["student"], "train": {"epochs": 1, "lr": 1e-12, "optimizer": "sgd", "momentum": 0.0}}
    limbeck.run(tiny(student=student), out=tmp_path / "run")
    for seed in (0, 1):
        alone, taught = (
            load_file(tmp_path / "run" / f"{role}-seed{seed}" / "best.safetensors") for role in ("student", "distilled")
        )
        for name, value in alone.items():
            torch.testing.assert_close(taught[name], value)
    assert not torch.equal(alone["0.weight"] if "0.weight" in alone else next(iter(alone.values())), torch.zeros(1))


def test_what_is_done_is_not_done_again(finished):
    folder, first = finished
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    again = limbeck.run(tiny(export=["onnx"]), out=folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == stamps
    assert again["models"] == json.loads(json.dumps(first["models"]))
    assert again["seconds"]["teacher"] == first["seconds"]["teacher"]


def test_one_more_seed_trains_nothing_again(tmp_path):
    first = limbeck.run(tiny(seeds=[0]), out=tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    result = limbeck.run(tiny(seeds=[0, 1]), out=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    before = {model["name"]: model["metrics"] for model in first["models"]}
    after = {model["name"]: model["metrics"] for model in result["models"]}
    assert before.items() < after.items()
    assert {"student-seed1", "distilled-seed1"} < after.keys()


def test_another_recipe_in_the_same_folder_is_refused_with_what_changed(finished):
    folder, _ = finished
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"student\.train\.lr: 0\.003 -> 0\.1"):
        limbeck.run(tiny(export=["onnx"]), out=folder, overrides=["student.train.lr=0.1"])
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        limbeck.run(tiny(), out=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, capsys):
    """A real SIGKILL in the middle of a training, then the same recipe again."""
    student = {**TINY["student"], "train": {**TINY["student"]["train"], "epochs": 12}}
    path = write(tmp_path / "tiny.yaml", tiny(student=student, seeds=[0]))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "limbeck", "run", str(path), "--out", str(cut), "-q"])
    history = cut / "student-seed0" / "history.jsonl"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not json.loads((cut / "student-seed0" / "stage.json").read_text())["done"]
    limbeck.run(path, out=cut, progress=Progress())
    assert "student-seed0: goes on after epoch" in capsys.readouterr().err
    limbeck.run(path, out=whole)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        resumed, weights = load_file(cut / file), load_file(whole / file)
        assert all(torch.equal(value, resumed[name]) for name, value in weights.items()), file


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    student = {**TINY["student"], "train": {**TINY["student"]["train"], "epochs": 500}}
    path = write(tmp_path / "tiny.yaml", tiny(student=student))
    words = [sys.executable, "-m", "limbeck", "run", str(path), "--out", str(tmp_path / "run"), "-q"]
    # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    wait_for((tmp_path / "run" / "student-seed0" / "history.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Give the same command again to go on" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    path = write(tmp_path / "tiny.yaml", tiny(seeds=[0]))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "limbeck"]
    two = subprocess.run(
        [*launch, "run", str(path), "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert two.returncode == 0, two.stderr
    limbeck.run(path, out=tmp_path / "one")
    for name in ("teacher", "student-seed0", "distilled-seed0"):
        one, both = (load_file(tmp_path / run / name / "last.safetensors") for run in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(both[key], value, atol=2e-3, rtol=2e-3)
        losses = [
            [
                json.loads(line)["train_loss"]
                for line in (tmp_path / run / name / "history.jsonl").read_text().splitlines()
            ]
            for run in ("one", "two")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(list(tmp_path.glob("two/*/stage.json"))) == 4
    assert json.loads((tmp_path / "two" / "result.json").read_text())["models"]


@pytest.mark.slow
def test_regression_from_recipe_to_file_in_its_own_units(tmp_path):
    result = limbeck.run("diabetes-regression", out=tmp_path / "run", overrides=[
        "seeds=2", "export=[onnx]", "teachers.0.train.epochs=10", "student.train.epochs=10", "run.device=cpu",
    ])  # fmt: skip
    by_role = {m["role"]: m for m in result["models"]}
    assert 40 < by_role["teacher"]["metrics"]["rmse"] < 90
    assert by_role["exported"]["metrics"]["rmse"] == pytest.approx(
        next(m for m in result["models"] if m["name"] == result["chosen"]["name"])["metrics"]["rmse"], rel=1e-4
    )
    assert by_role["exported"]["parity"]["agreement"] is None
    assert result["comparison"]["metric"] == "rmse"
    assert not result["comparison"]["higher_is_better"]


def test_several_teachers_are_averaged_and_shown(tmp_path):
    teachers = [
        {"name": f"wide-{w}", "model": "mlp", "options": {"hidden": [w]}, "train": {"epochs": 3, "batch_size": 32}}
        for w in (32, 64)
    ]
    data = {**TINY["data"], "flat": True}
    student = {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 2, "batch_size": 32}}
    result = limbeck.run(tiny(teachers=teachers, data=data, student=student, seeds=[0]), out=tmp_path / "run")
    assert [m["name"] for m in result["models"]] == [
        "wide-32",
        "wide-64",
        "ensemble",
        "student-seed0",
        "distilled-seed0",
    ]
    assert result["models"][2]["cost"]["params"] == sum(m["cost"]["params"] for m in result["models"][:2])
    assert result["comparison"]["verdict"] == "no evidence"


def test_a_student_without_a_teacher_is_a_run_too(tmp_path):
    result = limbeck.run(tiny(teachers=[], losses={"hard": 1.0}, seeds=[0]), out=tmp_path / "run")
    assert result["comparison"] is None
    assert [m["name"] for m in result["models"]] == ["student-seed0"]


def test_a_teacher_is_brought_along_as_weights(finished, tmp_path):
    folder, first = finished
    teacher = {k: v for k, v in TINY["teachers"][0].items() if k != "train"} | {
        "weights": str(folder / "teacher" / "best.safetensors")
    }
    result = limbeck.run(tiny(teachers=[teacher], seeds=[0]), out=tmp_path / "run")
    measured = [next(m["metrics"] for m in r["models"] if m["name"] == "teacher") for r in (first, result)]
    assert measured[0] == json.loads(json.dumps(measured[1]))
    assert "teacher" not in result["curves"]


def test_a_teacher_that_knows_nothing_is_said_loudly(tmp_path):
    teacher = {**TINY["teachers"][0], "train": {"epochs": 1, "lr": 1e-12, "optimizer": "sgd"}}
    result = limbeck.run(tiny(teachers=[teacher], seeds=[0]), out=tmp_path / "run")
    assert any("worse than the student alone" in n or "no better than" in n for n in result["notes"])


# --- bad input: exit 2, one message, nothing half-written ------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teachers": [{**TINY["teachers"][0], "weights": "absent.safetensors"}]}, "absent.safetensors"),
        ({"teachers": [{"model": "timm/resnet81", "train": {}}]}, "resnet18"),
        ({"teachers": [{"model": "vgg-small", "train": {}}]}, "8"),
        ({"data": {"source": "folder", "path": "nowhere"}}, "nowhere"),
        ({"data": {"source": "arrays", "path": "nowhere.npz"}}, "nowhere.npz"),
        ({"student": {"model": "mpl"}}, "did you mean 'mlp'"),
        ({"losses": {"kd": {"temperature": 0}}}, "`temperature` is above 0, not 0"),
        ({"losses": {"kd": 1, "near": {"loss": "mse", "student": "conv9", "teacher": "act1"}}}, "student: .*'conv9'"),
        ({"losses": {"kd": 1, "near": {"loss": "mse", "student": "act1", "teacher": "conv9"}}}, "teacher: .*'conv9'"),
        ({"losses": {"kd": 1, "near": {"loss": "mse", "student": "flatten", "teacher": "flatten"}}}, "loss 'near'"),
        ({"losses": {"kd": 1, "hard": {"student": "act1"}}}, "loss 'hard'"),
        ({"losses": {"kd": 1, "hard": {"student": "flatten"}},
          "student": {"model": "mlp", "options": {"hidden": [8]}}}, "no loss depends on the student"),
        ({"losses": {"kd": 1, "hard": {"student": "act1"}},
          "student": {"model": "mlp", "options": {"hidden": [8]}}}, "loss 'hard': .*8 outputs a row, too few"),
        ({"run": {"trackers": ["wandb"]}}, r'pip install "limbeck\[wandb\]"'),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_is_trained(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected):
        limbeck.run(tiny(**changes), out=tmp_path / "run")
    written = {p.name for p in (tmp_path / "run").rglob("*") if p.is_file()} if (tmp_path / "run").exists() else set()
    assert not {"stage.json", "result.json", "best.safetensors"} & written


def test_a_fault_put_right_needs_no_other_folder(tmp_path):
    with pytest.raises(UserError, match="limit"):
        limbeck.run(tiny(data={"source": "digits", "limit": 10}), out=tmp_path / "run")
    limbeck.run(tiny(seeds=[0], teachers=[], losses={"hard": 1}), out=tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("distilled-seed0/best.safetensors", None),
        ("teacher/stage.json", ""),
        ("teacher/stage.json", "{}"),
        ("measured/stage.json", "[1]"),
        ("measured/stage.json", '{"key": "x", "done": true}'),
    ],
)  # fmt: skip
def test_a_finished_run_that_lost_something_says_how_to_go_on(finished, tmp_path, path, content):
    shutil.copytree(finished[0], tmp_path / "run")
    [hurt] = (tmp_path / "run").glob(path)
    hurt.unlink() if content is None else hurt.write_text(content)
    with pytest.raises(UserError, match=r"remove .* to do the stage again") as caught:
        limbeck.run(tmp_path / "run" / "recipe.yaml", out=tmp_path / "run")
    assert str(hurt) in str(caught.value)


@pytest.mark.slow
def test_a_lost_file_is_made_again(finished, tmp_path):
    folder, result = finished
    shutil.copytree(folder, tmp_path / "run")
    [lost] = (tmp_path / "run").glob("export/*.onnx")
    lost.unlink()
    again = limbeck.run(tmp_path / "run" / "recipe.yaml", out=tmp_path / "run")
    assert lost.is_file()
    assert [m["metrics"] for m in again["models"]] == [m["metrics"] for m in json.loads(json.dumps(result["models"]))]


def test_a_checkpoint_of_something_else_is_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    record = tmp_path / "run" / "student-seed0" / "stage.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "done": False}))
    torch.save({"student": {}}, record.with_name("checkpoint.pt"))
    with pytest.raises(UserError, match=r"checkpoint.pt: cannot be read .*\n.* remove it to train anew"):
        limbeck.run(tmp_path / "run" / "recipe.yaml", out=tmp_path / "run")


def test_brackets_in_names_are_shown_as_they_are(finished, capsys):
    from limbeck.core.result import parse_result
    from limbeck.report import terminal

    odd = finished[1] | {"name": "[/x] [red]", "notes": ["skipped q[/bold].png"]}
    terminal.show(parse_result(odd, "here"), finished[0])
    Progress().say("[red]a/b[/bold].png")
    shown = capsys.readouterr()
    assert "[/x] [red]" in shown.out
    assert "skipped q[/bold].png" in shown.out
    assert "[red]a/b[/bold].png" in shown.err


def test_trackers_write_into_the_run(tmp_path):
    need(importlib.util.find_spec("tensorboard") is not None, "tensorboard")
    run = {**TINY["run"], "trackers": ["tensorboard"]}
    limbeck.run(tiny(seeds=[0], teachers=[], losses={"hard": 1}, run=run), out=tmp_path / "run")
    assert list((tmp_path / "run" / "student-seed0").rglob("events.out.*"))


def test_bad_input_leaves_with_2_and_one_message(tmp_path):
    path = write(tmp_path / "bad.yaml", tiny(data={"source": "folder", "path": "nowhere"}))
    found = command("run", path, "--out", tmp_path / "run", cwd=tmp_path)
    assert found.returncode == 2
    assert "nowhere" in found.stderr
    assert "Traceback" not in found.stderr
    assert "Traceback" in command("run", path, "--out", tmp_path / "run", "--debug", cwd=tmp_path).stderr


def test_a_teacher_of_other_classes_is_refused_by_its_weights(finished, tmp_path):
    folder, _ = finished
    teacher = {**TINY["teachers"][0], "train": None, "weights": str(folder / "teacher" / "best.safetensors")}
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "five.npz", x=rng.integers(0, 255, (200, 1, 8, 8), dtype=np.uint8), y=np.arange(200) % 5)
    with pytest.raises(UserError, match=r"10|shape"):
        limbeck.run(
            tiny(teachers=[teacher], data={"source": "arrays", "path": str(tmp_path / "five.npz")}),
            out=tmp_path / "run",
        )


def test_a_teacher_of_pickled_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    teacher = {**TINY["teachers"][0], "train": None, "weights": str(tmp_path / "evil.pth")}
    with pytest.raises(UserError):
        limbeck.run(tiny(teachers=[teacher]), out=tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_a_missing_extra_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(UserError, match=r'pip install "limbeck\[litert\]"'):
        limbeck.run(tiny(export=["litert"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        limbeck.run(tiny(), out=tmp_path / "file" / "run")
