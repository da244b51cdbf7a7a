"""Ensembles, chains and self-teaching as whole runs, and the stored outputs they learn from."""

import json

import pytest
import torch
from course_told import check_every_stage_is_told
from safetensors.torch import load_file

import limbeck
from limbeck.core.errors import UserError
from limbeck.core.progress import Progress
from limbeck.distill import cache

MLP = {"model": "mlp", "options": {"hidden": [8]}}
PLAN = {"epochs": 2, "batch_size": 32, "lr": 3e-3}
TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 300, "flat": True, "split": {"val": 0.2, "test": 0.25}},
    "teachers": [{"name": f"wide-{w}", "model": "mlp", "options": {"hidden": [w]}, "train": PLAN} for w in (16, 32)],
    "student": {**MLP, "train": PLAN},
    "losses": {"hard": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "seeds": [0],
    "run": {"threads": 1, "device": "cpu"},
}
ALONE = {**TINY, "teachers": []}
ONE = {**TINY, "teachers": TINY["teachers"][:1]}


def rows(result, role):
    return [m["name"] for m in result["models"] if m["role"] == role]


def weights(folder, stage, kind="last"):
    return load_file(folder / stage / f"{kind}.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "outputs"


# --- ensembles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "combine",
    [
        "average",
        "logits-average",
        "vote",
        {"name": "weighted", "weights": [3, 1]},
        {"name": "weighted", "weights": "accuracy"},
        {"name": "weighted", "weights": "confidence"},
        {"name": "stacked"},
        {"name": "stacked", "hidden": [6]},
    ],
    ids=str,
)
def test_every_combination_teaches_and_is_shown_beside_its_members(tmp_path, combine):
    result = limbeck.run({**TINY, "combine": combine}, out=tmp_path / "run")
    assert rows(result, "teacher") == ["wide-16", "wide-32", "ensemble"]
    assert rows(result, "distilled") == ["distilled-seed0"]
    check_every_stage_is_told(tmp_path / "run")
    told = result["ensemble"]
    assert told["combine"] == (combine if isinstance(combine, str) else combine["name"])
    assert len(told["disagreement"]["pairwise"]) == 2
    if combine == {"name": "weighted", "weights": [3, 1]}:
        assert told["weights"] == {"wide-16": 0.75, "wide-32": 0.25}
    if isinstance(combine, dict) and combine.get("weights") == "accuracy":
        val = {t["name"]: t["val"]["accuracy"] for t in result["teachers"]}
        assert told["weights"]["wide-16"] == pytest.approx(val["wide-16"] / sum(val.values()))
    assert [stored["teacher"] for stored in result["cache"]] == ["wide-16", "wide-32"]


def test_a_joint_stack_trains_its_members_together(tmp_path):
    teachers = [{k: v for k, v in t.items() if k != "train"} for t in TINY["teachers"]]
    combine = {"name": "stacked", "joint": True, "train": {**PLAN, "epochs": 20}}
    result = limbeck.run({**TINY, "teachers": teachers, "combine": combine}, out=tmp_path / "run")
    assert rows(result, "teacher") == ["ensemble"]
    check_every_stage_is_told(tmp_path / "run")
    ensemble = result["models"][0]
    members = sum(64 * w + w + w * 10 + 10 for w in (16, 32))
    assert ensemble["cost"]["params"] == members + 20 * 10 + 10
    assert ensemble["metrics"]["accuracy"] > 0.7
    assert {"ensemble", "student-seed0", "distilled-seed0"} == set(result["curves"])


@pytest.mark.parametrize("combine", ["mean", "median", {"name": "weighted", "weights": "accuracy"}, "stacked"], ids=str)
def test_regression_teachers_are_combined_too(tmp_path, combine):
    teachers = [{**t, "options": {"hidden": [4 + n]}} for n, t in enumerate([TINY["teachers"][0]] * 3)]
    teachers = [{**t, "name": f"t{n}"} for n, t in enumerate(teachers)]
    job = {
        **TINY, "task": "regression", "teachers": teachers, "combine": combine,
        "data": {"source": "diabetes"}, "losses": {"label_mse": 0.5, "mse": 0.5},
    }  # fmt: skip
    result = limbeck.run(job, out=tmp_path / "run")
    assert rows(result, "teacher") == ["t0", "t1", "t2", "ensemble"]
    assert all(30 < m["metrics"]["rmse"] < 250 for m in result["models"])
    assert len(result["ensemble"]["disagreement"]["pairwise"]) == 3


def test_teachers_have_seeds_of_their_own(tmp_path):
    first = {**TINY["teachers"][0], "seed": 0}
    jobs = [{**ONE, "teachers": [{**first, "seed": seed}]} for seed in (0, 1)]
    for number, job in enumerate(jobs):
        limbeck.run(job, out=tmp_path / str(number))
    one, other = (weights(tmp_path / str(n), "wide-16") for n in (0, 1))
    assert not same(one, other)


# --- chains and self-teaching --------------------------------------------------------------------


def test_a_chain_is_held_against_the_teacher_itself(tmp_path, shelf):
    assistant = {"name": "between", "model": "mlp", "options": {"hidden": [12]}, "train": PLAN}
    result = limbeck.run({**ONE, "assistants": [assistant], "seeds": [0, 1]}, out=tmp_path / "run")
    assert rows(result, "assistant") == ["between"]
    assert rows(result, "direct") == ["direct-seed0", "direct-seed1"]
    check_every_stage_is_told(tmp_path / "run")
    [chain] = result["comparisons"]
    accuracy = {m["name"]: m["metrics"]["accuracy"] for m in result["models"]}
    assert chain["student"]["values"] == [accuracy["direct-seed0"], accuracy["direct-seed1"]]
    assert chain["distilled"]["values"] == [accuracy["distilled-seed0"], accuracy["distilled-seed1"]]
    assert "the assistant" in chain["words"].lower()
    plain = limbeck.run({**ONE, "seeds": [0, 1]}, out=tmp_path / "plain")
    assert rows(plain, "direct") == []
    # Without the assistant between, "directly" is what a run without assistants does.
    assert same(weights(tmp_path / "run", "direct-seed1"), weights(tmp_path / "plain", "distilled-seed1"))
    assert [s["teacher"] for s in result["cache"] if s["asked"]] == ["wide-16", "between"]


def test_generations_learn_one_from_the_other(tmp_path):
    job = {**ALONE, "student": {**TINY["student"], "generations": 2}}
    result = limbeck.run(job, out=tmp_path / "run")
    assert rows(result, "generation") == ["distilled-seed0-gen1"]
    check_every_stage_is_told(tmp_path / "run")
    assert rows(result, "distilled") == ["distilled-seed0"]
    assert [s["teacher"] for s in result["cache"]] == ["student-seed0", "distilled-seed0-gen1"]
    assert [c["title"] for c in result["comparisons"]] == ["Generation 2 against generation 1"]
    assert result["comparison"]["words"].startswith("There is no evidence that learning from itself helps")


def test_generations_after_a_teacher_begin_with_its_student(tmp_path):
    limbeck.run({**ONE, "student": {**TINY["student"], "generations": 2}}, out=tmp_path / "two")
    limbeck.run(ONE, out=tmp_path / "one")
    assert same(weights(tmp_path / "two", "distilled-seed0-gen1"), weights(tmp_path / "one", "distilled-seed0"))


def test_peers_learn_together(tmp_path):
    job = {**ALONE, "student": {**TINY["student"], "peers": 3}, "losses": {"hard": 1.0, "kd": {"temperature": 1}}}
    result = limbeck.run(job, out=tmp_path / "run")
    assert rows(result, "peer") == ["distilled-seed0-peer1", "distilled-seed0-peer2"]
    check_every_stage_is_told(tmp_path / "run")
    assert rows(result, "distilled") == ["distilled-seed0"]
    peers = [weights(tmp_path / "run", f"distilled-seed0/peer{n}") for n in range(3)]
    assert not same(peers[0], peers[1])
    assert not same(peers[0], weights(tmp_path / "run", "student-seed0"))
    again = limbeck.run(job, out=tmp_path / "run")
    assert again["models"] == json.loads(json.dumps(result["models"]))


# --- stored outputs ------------------------------------------------------------------------------


def test_a_student_of_stored_answers_is_the_student_of_the_live_teacher(tmp_path, shelf):
    """Bit for bit, with augmentation: float32, one thread."""
    job = {
        **ONE, "data": {**TINY["data"], "flat": False}, "augment": {"shift": 1, "mixup": 0.4}, "views": 2,
        "cache": {"dtype": "float32"},
    }  # fmt: skip
    stored = limbeck.run(job, out=tmp_path / "stored")
    live = limbeck.run({**job, "views": 0}, out=tmp_path / "live")
    assert stored["cache"][0]["asked"] == 2 * stored["data"]["counts"]["train"]
    assert live["cache"] == []
    assert same(weights(tmp_path / "stored", "distilled-seed0"), weights(tmp_path / "live", "distilled-seed0"))


def test_another_run_asks_nothing_again(tmp_path, shelf):
    limbeck.run(ONE, out=tmp_path / "first")
    second = limbeck.run({**ONE, "losses": {"hard": 0.5, "kd": 0.5}, "seeds": [0, 1]}, out=tmp_path / "second")
    assert [s["asked"] for s in second["cache"]] == [0, 0]
    assert len(cache.entries()) == 1


def test_another_teacher_is_never_mistaken_for_the_stored_one(tmp_path, shelf):
    limbeck.run(ONE, out=tmp_path / "first")
    other = {**ONE, "teachers": [{**ONE["teachers"][0], "seed": 7}]}
    with pytest.raises(UserError, match=r"teacher\.weights"):
        limbeck.run({**other, "cache": "strict"}, out=tmp_path / "strict")
    result = limbeck.run(other, out=tmp_path / "other")
    assert result["cache"][0]["asked"] == result["data"]["counts"]["train"]
    assert len(cache.entries()) == 2


def test_want_of_room_is_told_before_anything_is_asked(tmp_path, shelf):
    with pytest.raises(UserError, match="limit_gb"):
        limbeck.run({**ONE, "cache": {"limit_gb": 1e-6}}, out=tmp_path / "run")
    # The limit may be raised without another folder.
    assert limbeck.run(ONE, out=tmp_path / "run")["comparison"]


def test_views_shrink_to_what_has_room(tmp_path, shelf):
    job = {**ONE, "data": {**TINY["data"], "flat": False}, "augment": {"shift": 1}}
    job["student"] = {**MLP, "train": {**PLAN, "epochs": 3}}
    count = limbeck.run(job, out=tmp_path / "plenty")["data"]["counts"]["train"]
    small = {**job, "cache": {"limit_gb": 2.5 * count * 20 / 1e9}, "name": "small"}
    assert len(cache.prune()) == 1
    result = limbeck.run(small, out=tmp_path / "small")
    assert result["views"] == 2
    assert any("stored views: 2 of 3" in note for note in result["notes"])


def test_stored_images_change_nothing(tmp_path, shelf):
    job = {**ONE, "data": {**TINY["data"], "flat": False}, "augment": {"rotate": 20, "cutmix": 1.0}, "views": 2}
    limbeck.run(job, out=tmp_path / "made")
    limbeck.run({**job, "cache": {"pixels": True}}, out=tmp_path / "stored")
    assert same(weights(tmp_path / "made", "distilled-seed0"), weights(tmp_path / "stored", "distilled-seed0"))
    assert len(cache.entries()) == 2


def test_features_are_stored_for_the_losses_that_ask(tmp_path, shelf):
    near = {"loss": "mse", "student": "act1", "teacher": "act1", "weight": 0.1}
    job = {
        **ONE,
        "student": {"model": "mlp", "options": {"hidden": [16]}, "train": PLAN},
        "cache": {"dtype": "float32"},
    }
    job["losses"] = {"hard": 1.0, "near": near}
    limbeck.run(job, out=tmp_path / "stored")
    limbeck.run({**job, "views": 0}, out=tmp_path / "live")
    assert same(weights(tmp_path / "stored", "distilled-seed0"), weights(tmp_path / "live", "distilled-seed0"))


def test_the_size_is_told_first(tmp_path, shelf, capsys):
    limbeck.run(ONE, out=tmp_path / "run", progress=Progress())
    said = capsys.readouterr().err
    assert said.index("outputs of wide-16: 180 rows") < said.index("distilled-seed0:")
