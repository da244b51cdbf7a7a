"""Edits one after the other, in files and out of them; batch-norm statistics anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_samples import NETWORKS, Before, losses, made, outputs, parameters
from safetensors.torch import save_file
from torch import nn

from limbeck import compress
from limbeck.core.errors import UserError
from limbeck.models import Normalized, load_weights


@pytest.mark.parametrize("name", ["cnn", "resnet", "mobilenet", "vit", "encoder"])
def test_pruned_then_factorised_then_sparsified_then_rebuilt(name: str, tmp_path: Path) -> None:
    plain, x = made(name)
    model: nn.Module = Normalized(plain, 0.3, 0.5)
    edits, sizes = [], [parameters(model)]
    for plan in (
        lambda m: compress.plan_prune(m, x, ratio=0.3, importance="magnitude"),
        lambda m: compress.plan_factorise(m, x, energy=0.5),
        lambda m: compress.plan_sparsify(m, amount=0.5),
    ):
        edits.append(plan(model))
        model = compress.apply(model, edits[-1])
        sizes.append(parameters(model))
    assert sizes[0] > sizes[1] >= sizes[2] == sizes[3]
    assert sizes[1] > sizes[2] or name == "mobilenet"  # which has nothing but pointwise and depthwise layers inside
    path = tmp_path / "small.safetensors"
    compress.save(model, edits, path, metadata={"model": name})
    assert compress.edits_of(path) == edits
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    fresh = compress.replay(NETWORKS[name][0](), compress.edits_of(path))
    assert load_weights(fresh, path) == []
    assert torch.equal(outputs(Normalized(fresh, 0.3, 0.5), x), outputs(model, x))
    zeros = [sum(int((p == 0).sum()) for p in m.parameters()) for m in (fresh, model)]
    assert zeros[0] == zeros[1] > 0.4 * sizes[3]


def test_only_the_architecture_is_made_where_weights_follow() -> None:
    model, x = made("mlp")
    edit = compress.plan_factorise(model, x, energy=0.5)
    before = Before(model)
    small = compress.apply(model, edit, weights=False)
    assert before.same(model)
    full = compress.apply(model, edit)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}


def test_a_file_without_edits_has_none(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert compress.edits_of(tmp_path / "w.safetensors") == []


@pytest.mark.parametrize("text", ["{", "3", '[{"step": "melt"}]', '["prune"]', '[{"step": "prune"}]'])
def test_what_is_no_edit_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"edits": text})
    with pytest.raises(UserError, match=r"edit"):
        compress.edits_of(path)


def test_a_step_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="its `step` is one of prune, factorise, sparsify"):
        compress.read_edit({"step": "melt"})
    with pytest.raises(UserError, match="this is no edit"):
        compress.read_edit({})
    with pytest.raises(UserError, match=r"sparsify\.layers\.0.*"):
        compress.read_edit({"step": "sparsify", "pattern": None, "layers": [["a.weight", [3]]]})


def test_edits_of_files_written_before_are_read_and_written_the_same(tmp_path: Path) -> None:
    written = [
        {
            "step": "prune",
            "shape": [4],
            "history": [["first", True, [0, 3]]],
            "layers": [["first.weight", [8, 4], [6, 4]], ["second.weight", [2, 8], [2, 6]]],
            "left": [],
        },
        {
            "step": "factorise",
            "layers": [["conv", "tucker", [3, 2], [8, 8, 3, 3], 584, 110], ["fc", "svd", 2, [8, 8], 72, 40]],
        },
        {"step": "sparsify", "pattern": None, "layers": [["fc.0.weight", [2, 8], 7]]},
    ]
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"edits": json.dumps(written)})
    edits = compress.edits_of(path)
    assert [edit.step for edit in edits] == ["prune", "factorise", "sparsify"]
    assert edits[1].layers[0].rank == (3, 2)
    assert [json.loads(edit.model_dump_json()) for edit in edits] == written


# --- batch norm ----------------------------------------------------------------------------------


def test_the_statistics_are_those_of_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).train()
    model[2].running_mean += 5
    before = Before(model)
    batches = [torch.randn(4, 2, 3, 3) * scale for scale in (1.0, 2.0, 5.0)]
    again = compress.recalibrate(model, batches)
    assert before.same(model)
    weight, bias = (p.detach().double().numpy() for p in (model[1].weight, model[1].bias))
    means, variances = [], []
    for batch in batches:  # dropout is off meanwhile
        out = np.einsum("bihw,oi->obhw", batch.double().numpy(), weight[..., 0, 0]).reshape(3, -1) + bias[:, None]
        means.append(out.mean(1))
        variances.append(out.var(1, ddof=1))
    np.testing.assert_allclose(again[2].running_mean.numpy(), np.mean(means, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again[2].running_var.numpy(), np.mean(variances, axis=0), rtol=1e-5)
    assert again[2].momentum == 0.1
    assert [m.training for m in again.modules()] == [m.training for m in model.modules()]
    assert torch.equal(again[1].weight, model[1].weight)


def test_without_batch_norms_it_is_a_copy() -> None:
    model, x = made("vit")
    again = compress.recalibrate(model, [])
    assert again is not model
    assert torch.equal(outputs(again, x), outputs(model, x))


def test_batch_norms_without_statistics_stay_without() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert compress.recalibrate(model, [])[1].running_mean is None


@pytest.mark.parametrize(("batches", "said"), [([], "no batches"), ([torch.full((4, 20), torch.nan)], "not finite")])
def test_batches_that_tell_nothing_are_refused(batches: list, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compress.recalibrate(made("mlp")[0], batches)


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "compress.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model, x = made("cnn")
    shown = {"model": model, "x": x, "losses": losses(x), "fresh_model": NETWORKS["cnn"][0]()}
    monkeypatch.chdir(tmp_path)
    exec(block, shown)
    assert torch.equal(outputs(shown["again"], x), outputs(shown["smaller"], x))


def test_edits_are_plain_json() -> None:
    model, x = made("cnn")
    for edit in (
        compress.plan_prune(model, x, ratio=0.5, importance="magnitude"),
        compress.plan_factorise(model, x, energy=0.5),
        compress.plan_sparsify(model, pattern="2:4"),
    ):
        again = compress.apply(model, compress.read_edit(json.loads(edit.model_dump_json())))
        assert torch.equal(outputs(again, x), outputs(compress.apply(model, edit), x))
