"""Structured pruning: the contract, which channels go, and that what goes is the same channel everywhere."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from compress_samples import NETWORKS, Before, losses, made, outputs, parameters, rebuilt
from torch import Tensor, nn

from limbeck import compress
from limbeck.core.errors import UserError
from limbeck.models import Normalized


@dataclass(frozen=True)
class Pruned:
    name: str
    model: nn.Module
    before: Before
    x: Tensor
    edit: compress.Edit
    small: nn.Module


@pytest.fixture(scope="module", params=[*NETWORKS])
def pruned(request: pytest.FixtureRequest) -> Pruned:
    model, x = made(request.param)
    before = Before(model)
    edit = compress.plan_prune(model, x, ratio=0.5, losses=losses(x))
    return Pruned(request.param, model, before, x, edit, compress.apply(model, edit))


def test_the_model_is_untouched(pruned: Pruned) -> None:
    assert pruned.before.same(pruned.model)


def test_it_is_smaller_and_gives_the_same_shape(pruned: Pruned) -> None:
    # Half of the channels on both sides of a layer leave a quarter of it; the first and last layers lose one side.
    assert 0.15 < parameters(pruned.small) / parameters(pruned.model) < 0.6
    given = outputs(pruned.small, pruned.x)
    assert given.shape == outputs(pruned.model, pruned.x).shape
    assert given.isfinite().all()
    assert pruned.edit.left == []


def test_modes_and_frozen_layers_stay_as_they_were(pruned: Pruned) -> None:
    for (name, old), (again, new) in zip(
        pruned.model.named_modules(), pruned.small.named_modules(), strict=True
    ):  # fmt: skip
        assert (name, old.training, type(old)) == (again, new.training, type(new))
    frozen = [[name for name, p in m.named_parameters() if not p.requires_grad] for m in (pruned.model, pruned.small)]
    assert frozen[0] == frozen[1] != []


def test_channels_remain_in_eights_and_the_first_and_last_width_stay(pruned: Pruned) -> None:
    layers = [m for m in pruned.small.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    widths = [len(layer.weight) for layer in layers]
    assert all(width % 8 == 0 for width in widths[:-1])
    assert widths[-1] == 10


def test_rebuilt_from_name_and_edits_it_is_the_same_bit_for_bit(pruned: Pruned, tmp_path: Path) -> None:
    fresh = rebuilt(pruned.name, pruned.small, [pruned.edit], tmp_path / "small.safetensors")
    assert torch.equal(outputs(fresh, pruned.x), outputs(pruned.small, pruned.x))
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in pruned.small.parameters()]


def test_it_can_be_trained(pruned: Pruned) -> None:
    model = copy.deepcopy(pruned.small).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for loss in losses(pruned.x)(model):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert outputs(model, pruned.x).isfinite().all()
    assert not torch.equal(outputs(model, pruned.x), outputs(pruned.small, pruned.x))


def test_the_plan_is_json_and_says_what_it_does(pruned: Pruned) -> None:
    again = compress.read_edit(json.loads(pruned.edit.model_dump_json()))
    assert again == pruned.edit
    lines = compress.describe(again)
    small = dict(pruned.small.named_parameters())
    for name, parameter in pruned.model.named_parameters():
        if parameter.ndim > 1 and parameter.shape != small[name].shape and name.endswith("weight"):
            shapes = ["x".join(map(str, p.shape)) for p in (parameter, small[name])]
            assert any(
                line.startswith(f"{name.removesuffix('.weight')}: {shapes[0]} -> {shapes[1]}: ") for line in lines
            )
    old = dict(pruned.model.named_parameters())
    changed = [name for name in old if old[name].shape != small[name].shape]
    before, after = (sum(m[name].numel() for name in changed) for m in (old, small))
    assert lines[-1].startswith(f"together {before:,} -> {after:,} parameters (-")
    assert before - after == parameters(pruned.model) - parameters(pruned.small)


def test_a_ratio_of_zero_changes_nothing(pruned: Pruned) -> None:
    edit = compress.plan_prune(pruned.model, pruned.x, ratio=0, importance="random")
    assert edit.history == []
    assert torch.equal(outputs(compress.apply(pruned.model, edit), pruned.x), outputs(pruned.model, pruned.x))
    assert compress.describe(edit) == ["nothing changes"]


# --- the same channel everywhere -----------------------------------------------------------------


def kept(model: nn.Module, edit: compress.Edit, dim: int) -> dict[str, list[int]]:
    """Which indices of dimension `dim` of each parameter remain, found by numbering them in a copy."""
    numbered = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in numbered.parameters():
            if dim < parameter.ndim:
                shape = [1] * parameter.ndim
                shape[dim] = -1
                parameter.copy_(torch.arange(float(parameter.shape[dim])).view(shape).expand_as(parameter))
    found = {}
    for name, parameter in compress.apply(numbered, edit).named_parameters():
        if dim < parameter.ndim and parameter.numel():
            line = parameter.detach().movedim(dim, 0).flatten(1) if parameter.ndim > 1 else parameter.detach()[:, None]
            assert (line == line[:, :1]).all()
            found[name] = line[:, 0].int().tolist()
    return found


@pytest.mark.parametrize("name", ["cnn", "resnet", "mobilenet", "mlp"])
def test_pruning_is_the_same_as_silencing_these_channels(name: str) -> None:
    model, x = made(name)
    if name == "cnn":
        model[7] = nn.BatchNorm2d(32)  # a group norm's statistics would be over fewer channels
    edit = compress.plan_prune(model, x, ratio=0.5, losses=losses(x))
    small, whole, remaining = compress.apply(model, edit), outputs(model, x), kept(model, edit, 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d):
            mask = torch.zeros(len(module.weight))
            mask[remaining[f"{name}.weight"]] = 1

            def silence(_module: nn.Module, _inputs: object, output: Tensor, mask: Tensor = mask) -> Tensor:
                return output * mask.view(1, -1, *[1] * (output.ndim - 2))

            module.register_forward_hook(silence)
    assert (outputs(small, x) - whole).abs().max() > 1e-3
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "encoder"])
def test_a_transformer_loses_the_same_channels_everywhere(name: str) -> None:
    model, x = made(name)
    edit = compress.plan_prune(model, x, ratio=0.5, importance="random", round_to=1, seed=4)
    out, into = kept(model, edit, 0), kept(model, edit, 1)
    blocks = ["blocks.0", "blocks.1"] if name == "vit" else ["encoder.layers.0", "encoder.layers.1"]
    stream = out["patch_embed.proj.weight" if name == "vit" else "embed.weight"]
    assert len(stream) == 16
    assert stream == sorted(stream)
    for block in blocks:
        first, second = ("mlp.fc1", "mlp.fc2") if name == "vit" else ("linear1", "linear2")
        assert into[f"{block}.{first}.weight"] == out[f"{block}.{second}.weight"] == stream
        assert out[f"{block}.{first}.weight"] == into[f"{block}.{second}.weight"]
        for norm in ("norm1", "norm2"):
            assert out[f"{block}.{norm}.weight"] == out[f"{block}.{norm}.bias"] == stream
    assert into["head.weight"] == stream
    for block in blocks:
        if name == "vit":
            inside = into[f"{block}.attn.proj.weight"]
            assert out[f"{block}.attn.qkv.weight"] == [part * 32 + i for part in range(3) for i in inside]
            heads = sorted({i // 8 for i in inside})
            assert len(heads) == 2
            assert inside == [head * 8 + i for head in heads for i in range(8)]
            assert out[f"{block}.attn.proj.weight"] == into[f"{block}.attn.qkv.weight"] == stream
        else:
            assert out[f"{block}.self_attn.in_proj_weight"] == [part * 32 + i for part in range(3) for i in stream]
            assert into[f"{block}.self_attn.in_proj_weight"] == stream
            assert [sum(i // 8 == head for i in stream) for head in range(4)] == [4, 4, 4, 4]


def test_a_layer_norm_keeps_the_order_of_its_channels() -> None:
    # Few channels left out of many is where a set gives integers in another order than theirs.
    model = nn.Sequential(nn.Linear(4, 512), nn.LayerNorm(512), nn.Linear(512, 3))
    edit = compress.plan_prune(model, torch.zeros(1, 4), ratio=0.97, importance="random")
    out, into = kept(model, edit, 0), kept(model, edit, 1)
    assert len(out["0.weight"]) == 16
    assert out["0.weight"] == out["1.weight"] == out["1.bias"] == into["2.weight"] == sorted(out["0.weight"])


# --- what modules say of their width -------------------------------------------------------------


def test_timms_numbers_are_right_on_a_replayed_model() -> None:
    model, x = made("vit")
    edit = compress.plan_prune(model, x, ratio=0.5, importance="magnitude")
    small = compress.replay(NETWORKS["vit"][0](), [edit])
    assert (small.num_features, small.head_hidden_size, small.embed_dim, small.head.in_features) == (16, 16, 16, 16)
    for block in small.blocks:
        attention = block.attn
        assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 8, 16)
        assert attention.qkv.out_features == 3 * attention.proj.in_features == 48
    assert [info["num_chs"] for info in small.feature_info] == [16, 16]
    small.reset_classifier(7)
    assert outputs(small, x).shape == (6, 7)


def test_a_resnets_numbers_are_right_on_a_replayed_model() -> None:
    model, x = made("resnet")
    edit = compress.plan_prune(model, x, ratio=0.5, importance="magnitude")
    small = compress.replay(NETWORKS["resnet"][0](), [edit])
    assert small.num_features == small.head_hidden_size == small.fc.in_features == 24
    widths = [layer[-1].bn2.num_features for layer in (small.layer1, small.layer2, small.layer3, small.layer4)]
    assert [info["num_chs"] for info in small.feature_info][1:] == widths
    assert all(norm.num_features == len(norm.weight) for norm in small.modules() if isinstance(norm, nn.BatchNorm2d))


def test_torchs_attention_tells_its_width() -> None:
    model, x = made("encoder")
    small = compress.apply(model, compress.plan_prune(model, x, ratio=0.5, importance="magnitude"))
    attention = small.encoder.layers[0].self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (16, 4, 4)
    assert attention.in_proj_weight.shape == (48, 16)


# --- which channels go ---------------------------------------------------------------------------


def gone(model: nn.Module, edit: compress.Edit, name: str) -> list[int]:
    remaining = kept(model, edit, 0)[name]
    return sorted(set(range(len(dict(model.named_parameters())[name]))) - set(remaining))


def test_taylor_is_the_squared_change_of_the_loss_summed_over_batches() -> None:
    model, x = made("cnn")
    model, x = model.double().eval(), x.double()
    edit = compress.plan_prune(model, x, ratio=0.5, losses=losses(x), round_to=1)
    # The derivative by a factor on what reads channel c, at 1, by central differences.
    reading, wanted = model[2], []
    for channel in range(16):
        changes = []
        for factor in (1 + 1e-5, 1 - 1e-5):
            mask = torch.ones(16, dtype=torch.float64)
            mask[channel] = factor
            handle = reading.register_forward_hook(lambda _m, _i, out, mask=mask: out * mask.view(1, -1, 1, 1))
            with torch.no_grad():
                changes.append([float(loss) for loss in losses(x)(model)])
            handle.remove()
        wanted.append(sum(((up - down) / 2e-5) ** 2 for up, down in zip(*changes, strict=True)))
    assert gone(model, edit, "0.weight") == sorted(np.argsort(wanted)[:8].tolist())


def test_magnitude_is_the_norm_of_all_weights_of_a_channel() -> None:
    model, x = made("cnn")
    edit = compress.plan_prune(model, x, ratio=0.5, importance="magnitude", round_to=1)
    first, second = (model[i].weight.detach().double().numpy() for i in (0, 4))
    wanted = (first**2).sum((1, 2, 3)) + (second**2).sum((0, 2, 3))
    assert gone(model, edit, "0.weight") == sorted(np.argsort(wanted)[:8].tolist())


def test_random_depends_on_the_seed_alone() -> None:
    model, x = made("mlp")
    a, b, c = (compress.plan_prune(model, x, ratio=0.5, importance="random", seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert a.history != c.history


def test_global_takes_from_where_little_is_lost_up_to_the_cap() -> None:
    model, x = made("mlp")
    with torch.no_grad():  # all but four of the first layer's 32 channels hardly matter
        model[0].weight[:28] *= 1e-3
        model[3].weight[:, :28] *= 1e-3

    def widths(ratio: float, scope: str, cap: float = 1.0) -> tuple[int, int]:
        options = {"scope": scope, "cap": cap, "importance": "magnitude", "round_to": 1}
        small = compress.apply(model, compress.plan_prune(model, x, ratio=ratio, **options))
        return len(small[0].weight), len(small[3].weight)

    # round(0.4 * 56) = 22 go.
    assert widths(0.4, "global") == (10, 24)
    assert widths(0.4, "global", cap=0.5) == (16, 18)
    assert widths(0.4, "uniform") == (19, 14)
    assert widths(0.4, "isomorphic") == (19, 14)  # one has a batch norm, the other has none


@pytest.mark.parametrize(
    ("width", "ratio", "left"),
    [(16, 0.5, 8), (16, 0.9, 8), (24, 0.5, 16), (24, 0.6, 8), (12, 0.1, 12), (12, 0.3, 8), (40, 0.25, 32), (8, 0.5, 8)],
)
def test_widths_are_rounded_to_the_next_eight(width: int, ratio: float, left: int) -> None:
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 3))
    small = compress.apply(model, compress.plan_prune(model, torch.zeros(1, 4), ratio=ratio, importance="magnitude"))
    assert len(small[0].weight) == left


def test_named_layers_are_protected() -> None:
    model, x = made("resnet")
    edit = compress.plan_prune(model, x, ratio=0.5, importance="magnitude", keep=["layer4", "layer2.0.conv1"])
    small = compress.apply(model, edit)
    assert small.layer4[0].conv1.out_channels == 48
    assert small.layer4[0].conv2.out_channels == small.fc.in_features == 48
    assert small.layer2[0].conv1.out_channels == 24
    assert small.layer2[1].conv1.out_channels < 24


# --- until a cost is reached ---------------------------------------------------------------------


def test_a_target_is_reached_with_as_little_as_it_takes() -> None:
    model, x = made("cnn")
    edit = compress.plan_prune(
        model, x, cost=lambda m: float(parameters(m)), target=0.5, importance="magnitude", round_to=1
    )
    share = parameters(compress.apply(model, edit)) / parameters(model)
    assert 0.46 < share <= 0.5


def test_a_target_out_of_reach_is_refused() -> None:
    model, x = made("cnn")
    with pytest.raises(UserError, match=r"0\.01 of the cost cannot be reached by pruning; 0\.076\d* can"):
        compress.plan_prune(model, x, cost=lambda m: float(parameters(m)), target=0.01, importance="magnitude")


def test_the_cost_is_asked_of_the_whole_model() -> None:
    model, x = made("cnn")
    whole = Normalized(model, 0.5, 0.25)
    seen: list[nn.Module] = []

    def cost(candidate: nn.Module) -> float:
        seen.append(candidate)
        return float(parameters(candidate))

    edit = compress.plan_prune(whole, x, cost=cost, target=0.6, importance="magnitude")
    assert all(isinstance(each, Normalized) for each in seen)
    # Names are the plain network's, so an edit fits both.
    assert torch.equal(
        outputs(compress.apply(whole, edit), x), outputs(compress.apply(model, edit), (x - 0.5) / 0.25)
    )  # fmt: skip


def test_pruning_again_goes_on_from_the_smaller_model(tmp_path: Path) -> None:
    model, x = made("resnet")
    first = compress.plan_prune(model, x, ratio=0.3, importance="magnitude")
    small = compress.apply(model, first)
    second = compress.plan_prune(small, x, ratio=0.3, importance="magnitude")
    smaller = compress.apply(small, second)
    assert parameters(smaller) < parameters(small) < parameters(model)
    fresh = rebuilt("resnet", smaller, [first, second], tmp_path / "m.safetensors")
    assert torch.equal(outputs(fresh, x), outputs(smaller, x))
    with pytest.raises(UserError, match="replay all edits in their order"):
        compress.replay(NETWORKS["resnet"][0](), [second])


# --- refused -------------------------------------------------------------------------------------


class ExternalModel(nn.Module):
    """A layer with weights of its own, as Keras layers are."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(into, out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class Fixed(nn.Module):
    """Says the width of its input in its code."""

    def __init__(self, *, more: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 32), nn.Linear(32, 24)
        self.more, self.head = nn.Linear(24, 32) if more else nn.Identity(), nn.Linear(32 if more else 24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.more(self.last(self.first(x).view(-1, 32))).view(len(x), -1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either `ratio`, or `cost` and `target`"),
        ({"ratio": 0.5, "target": 0.5}, "give either"),
        ({"ratio": 1.0}, "from 0 to below 1"),
        ({"cost": parameters, "target": 1.5}, "between 0 and 1"),
        ({"ratio": 0.5, "cap": 0}, "`cap` is above 0"),
        ({"ratio": 0.5, "importance": "tailor"}, "did you mean 'taylor'"),
        ({"ratio": 0.5, "importance": "magnitude", "scope": "globl"}, "did you mean 'global'"),
        ({"ratio": 0.5}, "needs losses"),
        ({"ratio": 0.5, "importance": "magnitude", "keep": ["44"]}, "no module '44' to keep"),
        ({"ratio": 0.5, "losses": lambda model: iter(())}, "are none"),
        ({"ratio": 0.5, "losses": lambda model: iter([model(torch.zeros(1, 1, 12, 12)).sum() * torch.nan])}, "NaN"),
        ({"ratio": 0.01, "importance": "magnitude"}, "removes nothing"),
    ],
)
def test_what_is_wrong_is_said(options: dict, said: str) -> None:
    model, x = made("cnn")
    with pytest.raises(UserError, match=said):
        compress.plan_prune(model, x, **options)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(ExternalModel(4, 32), nn.ReLU(), ExternalModel(32, 3)),
        nn.Linear(4, 32),
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)),
    ],
)
def test_a_network_without_prunable_channels_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="no channels of"):
        compress.plan_prune(model, torch.zeros(1, 4), ratio=0.5, importance="magnitude")


def test_layers_without_which_it_does_not_run_are_left_and_told() -> None:
    model = Fixed(more=True)
    edit = compress.plan_prune(model, torch.zeros(1, 4), ratio=0.5, importance="magnitude")
    small = compress.apply(model, edit)
    assert (small.first.out_features, small.last.out_features) == (32, 16)
    assert edit.left == ["first"]
    assert "first: left as it is, since the network does not run with fewer channels" in compress.describe(edit)


def test_an_edit_of_another_network_is_refused() -> None:
    model, x = made("cnn")
    edit = compress.plan_prune(model, x, ratio=0.5, importance="magnitude")
    other, _ = made("mlp")
    with pytest.raises(UserError, match="the edit does not fit"):
        compress.apply(other, edit)
    with pytest.raises(UserError, match="cannot be cut out"):
        compress.apply(other, compress.PruneEdit(shape=[20], history=[("7", True, [3])], layers=[], left=[]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("mobilenetv3_small_050", {}, 28),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, 64),
        ("coatnet_pico_rw_224", {"img_size": 64}, 64),
        ("tf_efficientnet_lite0", {}, 28),
        ("resnext50_32x4d", {}, 32),
        ("densenet121", {"block_config": (2, 2, 2, 2)}, 32),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1, 1, 1), "embed_dim": 48}, 56),
    ],
)
def test_networks_of_timm(name: str, options: dict, size: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=1, num_classes=10, **options)
    x = torch.randn(6, 1, size, size)
    edit = compress.plan_prune(model, x, ratio=0.5, losses=losses(x))
    small = compress.apply(model, edit)
    assert parameters(small) < 0.65 * parameters(model)
    assert outputs(small, x).shape == (6, 10)
    fresh = compress.replay(timm.create_model(name, in_chans=1, num_classes=10, **options), [edit])
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(outputs(fresh, x), outputs(small, x))
    assert fresh.eval().forward_features(x[:1]).shape[-1 if "swin" in name else 1] == fresh.num_features
