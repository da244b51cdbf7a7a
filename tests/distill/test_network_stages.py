"""Where stages end, in networks of every kind, and which of them are pairs."""

import pytest
import timm
import torch
from torch import nn

from limbeck.core.errors import UserError
from limbeck.distill.objective.feature_taps import Taps
from limbeck.distill.objective.network_stages import Stage, _watch, anatomy, pairs
from limbeck.models.reference import NETWORKS


def image(size=32, channels=3, rows=2):
    return torch.rand(rows, channels, size, size)


def found(name, size=64):
    model = timm.create_model(name, pretrained=False, num_classes=7)
    return model, anatomy(model, image(size))


def test_stages_of_a_residual_network_are_its_own():
    model, seen = found("resnet18")
    assert [s.name for s in seen.stages] == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert [s.shape for s in seen.stages] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert seen.vector == Stage("global_pool", (512,))
    assert seen.head is model.fc


def test_squeeze_and_excite_is_no_reduction():
    model, seen = found("efficientnet_b0")
    assert [s.shape[1] for s in seen.stages] == [32, 16, 8, 4, 2]
    assert seen.vector.shape == (1280,)
    assert seen.head is model.classifier


def test_blocks_of_a_transformer_are_stages():
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, depth=8, img_size=64)
    seen = anatomy(model, image(64))
    assert [s.name for s in seen.stages] == ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]
    assert {s.shape for s in seen.stages} == {(17, 192)}
    assert seen.vector.shape == (192,)
    assert seen.head is model.head


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("mlp", {"hidden": [8, 6]}, [(8,), (6,)]),
        ("conv-pool", {"channels": [4, 6], "hidden": 9}, [(4, 30, 30), (6, 13, 13)]),
    ],
)
def test_stages_of_the_reference_networks(name, options, stages):
    flat = name == "mlp"
    shape = (5,) if flat else (3, 32, 32)
    model = NETWORKS[name](shape, 7, **options)
    seen = anatomy(model, torch.rand(2, *shape))
    assert [s.shape for s in seen.stages] == stages
    assert seen.head.out_features == 7
    assert seen.vector.shape == (seen.head.in_features,)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_050", "coatnet_0_rw_224"])
def test_what_is_found_can_be_tapped(name):
    """In place or not, called once, and of the shape that is told."""
    size = 224 if name.startswith("coatnet") else 64
    model, seen = found(name, size)
    stages = [*seen.stages, seen.vector]
    given = Taps(model, [s.name for s in stages])(model.eval(), image(size))
    assert [tuple(given.features[s.name].shape[1:]) for s in stages] == [s.shape for s in stages]
    assert 3 <= len(seen.stages) <= 6


def test_the_network_is_left_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(2)
    )
    model(image())
    model.train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    anatomy(model, image())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model[0].training
    assert not model[1].training
    assert not any(m._forward_hooks for m in model.modules())


def test_what_is_overwritten_is_not_offered():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    assert [s.name for s in anatomy(model, image()).stages] == ["1"]


def test_a_network_of_one_layer_has_no_stage():
    with pytest.raises(UserError, match="has no stage that can be tapped"):
        anatomy(nn.Linear(3, 2), torch.rand(2, 3))


@pytest.mark.parametrize(
    ("few", "many", "chosen"), [(1, 4, [3]), (2, 4, [1, 3]), (3, 5, [1, 3, 4]), (4, 4, [0, 1, 2, 3])]
)
def test_pairs_are_of_equal_depth(few, many, chosen):
    small = [Stage(f"s{n}", (n,)) for n in range(few)]
    large = [Stage(f"t{n}", (n,)) for n in range(many)]
    assert pairs(small, large) == [(small[n], large[m]) for n, m in enumerate(chosen)]
    assert pairs(large, small) == [(large[m], small[n]) for n, m in enumerate(chosen)]


def test_what_is_overwritten_later_is_not_offered():
    """A ReLU in place leaves other numbers in what the convolution gave."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3))
    calls, _ = _watch(network, torch.zeros(2, 1, 8, 8))
    assert [call.name for call in calls] == ["1", "2"]
