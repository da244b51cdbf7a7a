"""Students made smaller within a run: what is in the folder, what is compared, what goes on where."""

import copy
import json

import pytest
import torch
from course_told import check_every_stage_is_told
from runs import one, tiny
from safetensors.torch import load_file

import limbeck
from limbeck import compress, data, evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.files import read_json
from limbeck.core.progress import Progress
from limbeck.core.types import Column
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.evaluate import costs
from limbeck.pipeline import setup
from limbeck.pipeline.compress import rebuild
from limbeck.recipe.adopt import adopt, continued

STUDENT = {
    "model": "conv-pool",
    "options": {"channels": [32], "hidden": 32},
    "train": {"epochs": 3, "batch_size": 32, "lr": 3e-3},
}
WAYS = {
    "pruned": [{"prune": 0.5, "recover": 2}],
    "both": [
        {"prune": {"ratio": 0.5, "steps": 2, "importance": "magnitude"}, "recover": 1},
        {"factorise": {"energy": 0.5, "check_latency": False}, "recover": 1},
    ],
    "sparse": [{"sparsify": 0.8, "recover": 1}],
    "cheap": [{"prune": {"params": 0.6}}],
}


def recipe_of(**changes):
    return tiny(**{"student": STUDENT, "compress": WAYS, **changes})


def job_of(folder):
    checked = recipe.load(folder / "recipe.yaml")
    return setup.begin(checked, folder, make_accelerator(checked.run, folder), Progress(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "smaller"
    return folder, limbeck.run(recipe_of(), out=folder)


def test_every_stage_is_told(finished):
    # A teacher, two students of two seeds, three ways with and without the teacher; and `cheap`, which trains nothing.
    check_every_stage_is_told(finished[0], silent=[18, 19])


def test_every_way_is_gone_from_every_seed_with_and_without_the_teacher(finished):
    _, result = finished
    roles = {m["name"]: m["role"] for m in result["models"] if m["role"].startswith("compressed")}
    trained = {f"{way}-seed{s}": "compressed" for way in WAYS for s in (0, 1)}
    alone = {f"{way}-alone-seed{s}": "compressed-alone" for way in WAYS if way != "cheap" for s in (0, 1)}
    assert roles == trained | alone


def test_what_is_smaller_costs_less(finished):
    _, result = finished
    before = one(result, "distilled-seed0")["cost"]
    for way in ("pruned", "both", "cheap"):
        after = one(result, f"{way}-seed0")["cost"]
        assert after["params"] < before["params"]
        assert after["macs"] < before["macs"]
        assert after["size_bytes"] < before["size_bytes"]
    assert one(result, "cheap-seed0")["cost"]["params"] <= 0.6 * before["params"]
    assert one(result, "sparse-seed0")["cost"]["params"] == before["params"]


def test_the_comparison_is_that_of_the_scores(finished):
    _, result = finished
    for entry in result["compressed"]:
        names = [f"{entry['name']}-seed{s}" for s in (0, 1)]
        scores = [one(result, name)["metrics"]["accuracy"] for name in names]
        starts = [one(result, f"distilled-seed{s}")["metrics"]["accuracy"] for s in (0, 1)]
        lost = [a - b for a, b in zip(scores, starts, strict=True)]
        assert entry["against_start"]["gain"]["values"] == pytest.approx(lost)
        if entry["name"] == "cheap":
            assert entry["with_teacher"] is None
            continue
        alone = [one(result, f"{entry['name']}-alone-seed{s}")["metrics"]["accuracy"] for s in (0, 1)]
        gains = [a - b for a, b in zip(scores, alone, strict=True)]
        assert entry["with_teacher"]["gain"]["values"] == pytest.approx(gains)
    assert [entry["name"] for entry in result["compressed"]] == list(WAYS)
    assert len(result["compressed"][1]["told"]["both-seed0"]) > 4


def test_both_recoveries_begin_with_the_same_network(finished):
    folder, _ = finished
    for way in ("pruned", "sparse"):
        edits = [read_json(folder / f"{way}{ending}-seed0" / "edit.json") for ending in ("", "-alone")]
        assert edits[0] == edits[1]


def test_zeros_are_still_zero_after_recovery(finished):
    folder, _ = finished
    weights = load_file(folder / "sparse-seed0" / "model.safetensors")
    wide = torch.cat([w.flatten() for name, w in weights.items() if w.ndim > 1])
    assert (wide == 0).double().mean().item() == pytest.approx(0.8, abs=0.01)
    dense = load_file(folder / "distilled-seed0" / "best.safetensors")
    assert not any((w == 0).double().mean() > 0.5 for name, w in dense.items() if w.ndim > 1)
    moved = [name for name, w in weights.items() if w.ndim > 1 and not torch.equal(w, dense[name] * (w != 0))]
    assert moved  # what is left has learned


def test_a_file_says_how_to_build_what_is_in_it(finished):
    folder, result = finished
    job = job_of(folder)
    for way in WAYS:
        network = rebuild(job, folder / f"{way}-seed1" / "model.safetensors").eval()
        found = evaluate.assess(network, job.data, job.data.test)
        assert found["accuracy"] == one(result, f"{way}-seed1")["metrics"]["accuracy"]
        assert costs.parameters(network) == one(result, f"{way}-seed1")["cost"]["params"]
    assert [e.step for e in compress.edits_of(folder / "both-seed0" / "model.safetensors")] == [
        "prune", "prune", "factorise",
    ]  # fmt: skip


def test_one_more_way_trains_nothing_again(finished, tmp_path):
    folder, before = finished
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*-seed?/stage.json")}
    changed = continued(folder, {"compress": {"again": [{"prune": {"ratio": 0.5, "importance": "random"}}]}})
    result = limbeck.run(changed, out=folder)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [entry["name"] for entry in result["compressed"]] == [*WAYS, "again"]
    for name in ("pruned-seed0", "distilled-seed1"):
        assert one(result, name)["metrics"] == one(before, name)["metrics"]
    with pytest.raises(UserError, match="begun with another recipe"):
        limbeck.run(recipe_of(losses={"hard": 1.0, "kd": 1.0}), out=folder)


def test_without_a_teacher_the_student_teaches_its_smaller_self(tmp_path):
    ways = {"pruned": [{"prune": 0.5, "recover": 1}]}
    result = limbeck.run(recipe_of(teachers=[], compress=ways, seeds=[0]), out=tmp_path / "run")
    assert {m["name"] for m in result["models"]} == {"student-seed0", "pruned-seed0", "pruned-alone-seed0"}
    assert result["comparison"] is None
    assert result["cache"][0]["teacher"] == "student-seed0"
    assert result["compressed"][0]["start"] == {"pruned-seed0": "student-seed0"}


def test_features_are_compared_after_pruning_too(tmp_path):
    losses = {"hard": 1.0, "fitnet": {"student": "act1", "teacher": "act1"}}
    teacher = {"model": "conv-pool", "options": {"channels": [16]}, "train": {"epochs": 1, "batch_size": 32}}
    ways = {"pruned": [{"prune": 0.5, "recover": 1}]}
    result = limbeck.run(recipe_of(teachers=[teacher], losses=losses, compress=ways, seeds=[0]), out=tmp_path / "run")
    history = (tmp_path / "run" / "pruned-seed0" / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["train_fitnet"] > 0
    assert one(result, "pruned-seed0")["cost"]["params"] < one(result, "distilled-seed0")["cost"]["params"]


def test_a_student_that_was_brought_along_is_not_trained(finished, tmp_path):
    folder, before = finished
    student = copy.deepcopy(STUDENT) | {"weights": str(folder / "distilled-seed0" / "best.safetensors")}
    student["train"]["epochs"] = 0
    ways = {"pruned": [{"prune": 0.5, "recover": 1}]}
    result = limbeck.run(recipe_of(teachers=[], student=student, compress=ways, seeds=[0]), out=tmp_path / "run")
    metrics, known = one(result, "student-seed0")["metrics"], one(before, "distilled-seed0")["metrics"]
    assert metrics["accuracy"] == known["accuracy"]
    assert one(result, "pruned-seed0")["cost"]["params"] < one(result, "student-seed0")["cost"]["params"]


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"compress": {"p": []}}, "compress.p", "has no steps"),
        ({"compress": {"p": [{}]}}, "compress.p.0", "this one has none"),
        ({"compress": {"p": [{"prune": 0.5, "sparsify": 0.5}]}}, "compress.p.0", "prune and sparsify"),
        ({"compress": {"p": [{"prune": {}}]}}, "compress.p.0.prune", "not none of them"),
        ({"compress": {"p": [{"prune": {"ratio": 0.5, "macs": 0.5}}]}}, "compress.p.0.prune", "ratio and macs"),
        ({"compress": {"p": [{"prune": {"ratio": 0.5, "cap": 0.5}}]}}, "compress.p.0.prune", "no effect"),
        ({"compress": {"p": [{"factorise": {"ranks": "evbmf", "energy": 0.5}}]}}, "compress.p.0.factorise", "energy"),
        ({"compress": {"p": [{"sparsify": {}}]}}, "compress.p.0.sparsify", "`amount` or `pattern`"),
        ({"compress": {"p": [{"quantize": 8}]}}, "compress.p.0", "give `recover`"),
        ({"compress": {"p": [{"quantize": 5, "recover": 1}]}}, "compress.p.0.quantize.weights", "8 or 4"),
        (
            {"compress": {"p": [{"quantize": 8, "recover": 1}, {"prune": 0.5}]}},
            "compress.p.0", "is the last step",
        ),
        ({"compress": {"p": [{"sparsify": 0.5}, {"factorise": 0.5}]}}, "compress.p.1", "fill the zeros"),
        ({"compress": {"distilled": [{"prune": 0.5}]}}, "compress.distilled", "something of Limbeck's own"),
        ({"compress": {"a/b": [{"prune": 0.5}]}}, "compress.a/b", "folder's name"),
        ({"budget": {}}, "budget", "`size_kb`, `latency_ms` or both"),
        ({"files": {"layout": "nhwc"}}, "files.layout", "no effect without `export`"),
        ({"export": ["onnx"], "files": {"batches": [1, 2]}}, "files.batches", "LiteRT"),
        ({"export": ["onnx"], "files": {"calibration": 9}}, "files.calibration", "-int8"),
        ({"export": ["onnx", "onnx"]}, "export", "twice"),
        (
            {"export": ["onnx"], "compress": {"p": [{"quantize": 8, "recover": 1}]}},
            "export", "no format that `compress.p` can become",
        ),
    ],
)  # fmt: skip
def test_a_misfit_is_told_before_anything_is_trained(changes, place, what):
    with pytest.raises(UserError) as told:
        recipe.load(recipe_of(**{"compress": {}, **changes}))
    assert f"{place}:" in str(told.value)
    assert what in str(told.value)


# --- a command line's words ----------------------------------------------------------------------


def test_weights_of_ones_own_become_a_recipe(finished, tmp_path):
    folder, _ = finished
    weights = folder / "distilled-seed0" / "best.safetensors"
    found = adopt(weights, "conv-pool", "quickstart", changes={"export": ["onnx"]})
    assert found.student.ready
    assert found.student.weights == str(weights)
    assert found.data == recipe.load("quickstart").data
    assert found.teachers == []
    with pytest.raises(UserError, match="--model"):
        adopt(weights, None, "quickstart", changes={})
    with pytest.raises(UserError, match="--data"):
        adopt(weights, "conv-pool", None, changes={})
    with pytest.raises(UserError, match="neither a run directory nor a file of weights"):
        adopt(tmp_path, "conv-pool", "quickstart", changes={})
    with pytest.raises(UserError, match="--target"):
        adopt(weights, "mlp", "some.csv", changes={})
    price = adopt(weights, "mlp", "d.csv", target="price", task="regression", changes={"export": ["onnx"]})
    assert (price.task, price.data.target, set(price.losses)) == ("regression", "price", {"label_mse", "mse"})
    genes = adopt(weights, "mlp", "y.csv", target="a, b", task="multilabel", changes={"export": ["onnx"]})
    assert (genes.task, genes.data.target, set(genes.losses)) == (
        "multilabel",
        ["a", "b"],
        {"label_binary", "binary_kd"},
    )
    with pytest.raises(UserError, match=r"--task: the recipe says `task: classification`"):
        adopt(weights, "mlp", "quickstart", task="regression", changes={})


@pytest.mark.slow
def test_weights_of_ones_own_are_proved_without_a_teacher(finished, tmp_path):
    folder, before = finished
    weights = folder / "distilled-seed0" / "best.safetensors"
    around = tmp_path / "around.yaml"
    around.write_text(json.dumps({**tiny(), "teachers": [], "losses": {"hard": 1.0}, "seeds": 1}))
    options = recipe.load(folder / "recipe.yaml").student.options
    found = adopt(weights, "conv-pool", str(around), options=options, changes={"export": ["onnx"]})
    result = limbeck.run(found, out=tmp_path / "run")
    now, then = (one(r, name)["metrics"] for r, name in ((result, "student-seed0"), (before, "distilled-seed0")))
    assert now.items() <= then.items()  # no teacher, so nothing to agree with


def test_rows_of_files_are_prepared_as_those_of_a_data_set(tmp_path):
    from PIL import Image

    Image.new("RGBA", (10, 6), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "plain.png")
    found = data.read_images([tmp_path / "clear.png", tmp_path / "plain.png"], (3, 8, 8), "black")
    assert found.shape == (2, 3, 8, 8)
    assert found[0].max() == 0
    assert found[1, :, 3, 3].tolist() == [10, 20, 30]
    (tmp_path / "rows.csv").write_text("b,kind,a\n2,red,1\n4,blue,3\n")
    table = [Column("a"), Column("kind", ("green", "red")), Column("b")]
    rows, unknown = data.read_rows(tmp_path / "rows.csv", table, 4)
    assert rows.tolist() == [[1, 0, 1, 2], [3, 0, 0, 4]]
    assert unknown == [{}, {"kind": "blue"}]
    with pytest.raises(UserError, match="no column 'c'"):
        data.read_rows(tmp_path / "rows.csv", [Column("c")], 1)
    with pytest.raises(UserError, match="no number"):
        data.read_rows(tmp_path / "rows.csv", [Column("kind")], 1)
    (tmp_path / "bare.csv").write_text("p,q\n2,1\n")
    assert data.read_rows(tmp_path / "bare.csv", [], 2)[0].tolist() == [[2, 1]]
    with pytest.raises(UserError, match=r"has 3 columns, and the file takes 2 numbers"):
        data.read_rows(tmp_path / "rows.csv", [], 2)
    (tmp_path / "gaps.csv").write_text("a,kind\n1,\n2,red\n")
    with pytest.raises(UserError, match="column 'kind' has gaps"):
        data.read_rows(tmp_path / "gaps.csv", [Column("kind", ("red",))], 1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken.png: cannot be read"):
        data.read_images([tmp_path / "broken.png"], (3, 8, 8))
