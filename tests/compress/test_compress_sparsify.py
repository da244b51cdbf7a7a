"""Sparsity: which weights become zero, and that they stay it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_samples import NETWORKS, Before, losses, made, outputs, rebuilt
from torch import Tensor, nn

from limbeck import compress
from limbeck.core.errors import UserError

OPTIONS = [{"amount": 0.6}, {"pattern": "2:4"}]


def sparse_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that count, by name: of convolutions, linear layers and attention."""
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    own = {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False) if p.ndim > 1}
    return {name: p.detach() for name, p in model.named_parameters() if id(p) in own}


@pytest.mark.parametrize("name", [*NETWORKS])
@pytest.mark.parametrize("options", OPTIONS, ids=["amount", "2:4"])
def test_the_contract(name: str, options: dict, tmp_path: Path) -> None:
    model, x = made(name)
    before = Before(model)
    edit = compress.plan_sparsify(model, **options)
    small = compress.apply(model, edit)
    assert before.same(model)
    assert compress.read_edit(json.loads(edit.model_dump_json())) == edit
    assert outputs(small, x).shape == outputs(model, x).shape
    fresh = rebuilt(name, small, [edit], tmp_path / "m.safetensors")
    assert torch.equal(outputs(fresh, x), outputs(small, x))
    count = {row[0]: row[2] for row in edit.layers}
    for key, weight in small.named_parameters():
        assert int((weight == 0).sum()) - int((model.get_parameter(key) == 0).sum()) == count.get(key, 0)
    assert len(compress.describe(edit)) == len(count) + 1


def test_the_smallest_weights_of_all_layers_go() -> None:
    model, _ = made("resnet")
    edit = compress.plan_sparsify(model, amount=0.7)
    flat = np.concatenate([np.abs(w.numpy()).ravel() for w in sparse_weights(model).values()])
    threshold = np.sort(flat)[round(0.7 * len(flat)) - 1]
    small = compress.apply(model, edit)
    for name, weight in sparse_weights(small).items():
        old = model.get_parameter(name).detach()
        assert torch.equal(weight, torch.where(old.abs() <= threshold, 0, old))
    zeros = sum(int((w == 0).sum()) for w in sparse_weights(small).values())
    assert zeros == round(0.7 * len(flat))


def test_two_of_every_four_inputs_remain_the_larger_two() -> None:
    model, _ = made("cnn")
    small = compress.apply(model, compress.plan_sparsify(model, pattern="2:4"))
    for dense in (0, 6):  # 1 and 10 inputs are no multiples of 4
        assert not (small[dense].weight == 0).any()
    for at in (4, 11):
        old, new = model[at].weight.detach().numpy(), small[at].weight.detach().numpy()
        for out in range(len(old)):
            for place in np.ndindex(old.shape[2:]):
                for first in range(0, old.shape[1], 4):
                    four, left = (
                        old[(out, slice(first, first + 4), *place)],
                        new[(out, slice(first, first + 4), *place)],
                    )
                    larger = np.argsort(np.abs(four))[2:]
                    assert sorted(np.flatnonzero(left)) == sorted(larger)
                    assert (left[larger] == four[larger]).all()


def test_an_amount_of_zero_changes_nothing() -> None:
    model, x = made("mlp")
    edit = compress.plan_sparsify(model, amount=0)
    assert edit.layers == []
    assert torch.equal(outputs(compress.apply(model, edit), x), outputs(model, x))
    assert compress.describe(edit) == ["nothing changes"]


def test_named_layers_stay_dense() -> None:
    model, _ = made("resnet")
    edit = compress.plan_sparsify(model, amount=0.5, keep=["layer2", "fc"])
    names = {row[0] for row in edit.layers}
    assert "layer1.0.conv1.weight" in names
    assert not any(name.startswith(("layer2", "fc")) for name in names)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS])
@pytest.mark.parametrize("options", OPTIONS, ids=["amount", "2:4"])
@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_zeros_stay_zero_through_training(name: str, options: dict, optimizer: str) -> None:
    model, x = made(name)
    edit = compress.plan_sparsify(model, **options)
    small = compress.apply(model, edit)
    before = {key: weight.clone() for key, weight in sparse_weights(small).items()}
    zeros = compress.keep_zeros(small, [edit])
    step = OPTIMIZERS[optimizer]([p for p in small.parameters() if p.requires_grad])
    small.train()
    for _ in range(5):
        for loss in losses(x)(small):
            step.zero_grad()
            loss.backward()
            step.step()
    moved = 0
    for key, weight in sparse_weights(small).items():
        assert torch.equal(weight == 0, before[key] == 0)
        moved += int((weight != before[key]).sum())
    assert moved > 100
    zeros.remove()
    for loss in losses(x)(small):
        step.zero_grad()
        loss.backward()
        step.step()
    assert any((weight[before[key] == 0] != 0).any() for key, weight in sparse_weights(small).items())


def test_hooks_do_not_stay_on_copies_after_removal() -> None:
    model, x = made("mlp")
    edit = compress.plan_sparsify(model, amount=0.5)
    small = compress.apply(model, edit)
    compress.keep_zeros(small, [edit]).remove()
    copied = copy.deepcopy(small).train()
    copied(x).sum().backward()
    gone = small[3].weight == 0
    assert gone.any()
    assert (copied[3].weight.grad[gone] != 0).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either `amount` or `pattern`"),
        ({"amount": 0.5, "pattern": "2:4"}, "either"),
        ({"amount": 1.0}, "from 0 to below 1"),
        ({"pattern": "1:4"}, "'2:4' is known"),
        ({"amount": 0.5, "keep": ["nothing"]}, "no module 'nothing' to keep"),
    ],
)
def test_what_is_wrong_is_said(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compress.plan_sparsify(made("mlp")[0], **options)


def test_an_edit_of_another_network_is_refused() -> None:
    edit = compress.plan_sparsify(made("mlp")[0], amount=0.5)
    with pytest.raises(UserError, match="the edit does not fit"):
        compress.apply(made("cnn")[0], edit)
