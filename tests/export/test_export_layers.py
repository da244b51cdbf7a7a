"""The layer that a file computes differently is found by its name in the network; CoAtNets, which have many kinds."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from test_export import MODELS, RAW, listening, perturbed
from torch import nn

from limbeck import export
from limbeck.core.errors import UserError
from limbeck.export import Interface
from limbeck.export.layers import _first_wrong
from limbeck.export.trace import layer_of, trace


def made(name: str, form: str, folder: Path, interface: Interface) -> tuple[nn.Module, Path, np.ndarray]:
    make, shape = MODELS[name]
    torch.manual_seed(3)
    model = perturbed(make()).eval()
    pixels = torch.rand(20, *shape, generator=torch.Generator().manual_seed(4))
    path = export.to(form, model, pixels[:1], folder / f"{name}{export.suffix(form)}", interface)
    return model, path, export.as_given(pixels.numpy(), interface)


def broken(path: Path, weight: torch.Tensor, folder: Path) -> Path:
    """A copy of a file in which half of one weight, found by its bytes, is half as much again."""
    forms = [weight, weight.permute(0, 2, 3, 1)] if weight.ndim == 4 else [weight, weight.T]
    found = 0
    for file in export.files(path):
        content = file.read_bytes()
        for form in forms:
            old = form.detach().contiguous().numpy()
            new = old.copy()
            new[: len(new) // 2] *= 1.5
            if content.count(old.tobytes()) == 1:
                content, found = content.replace(old.tobytes(), new.tobytes()), found + 1
                break
        (folder / file.name).write_bytes(content)
    assert found == 1
    return folder / path.name


CASES = [
    pytest.param(("onnx", "cnn", RAW), id="onnx-cnn"),
    pytest.param(("onnx", "vit", Interface()), id="onnx-vit"),
    pytest.param(("litert", "cnn", Interface("uint8", "nhwc", (4, 1))), id="litert-cnn"),
    pytest.param(("openvino", "cnn", RAW), id="openvino-cnn"),
]
LAYERS = {
    "cnn": {"4": "layer '4' (Conv2d)", "9": "layer '9' (Linear)"},
    "vit": {
        "blocks.0.attn.proj": "layer 'blocks.0.attn.proj' (Linear)",
        "blocks.1.mlp.fc1": "layer 'blocks.1.mlp.fc1' (Linear)",
        "head": "layer 'head' (Linear)",
    },
}


@pytest.fixture(scope="module", params=CASES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    form, name, interface = request.param
    return name, form, interface, *made(name, form, tmp_path_factory.mktemp(form), interface)


def test_the_first_wrong_layer_is_found_by_values_alone() -> None:
    """With values as converters leave them: a batch norm folded away, channels last, in no order."""
    make, shape = MODELS["cnn"]
    torch.manual_seed(3)
    model = perturbed(make()).eval()
    x = torch.rand(1, *shape)
    graph = trace(model, x).module()
    for broken, told in (
        (None, None),
        ("1", "layer '0' (Conv2d)"),
        ("4", "layer '4' (Conv2d)"),
        ("9", "layer '9' (Linear)"),
    ):
        other, values = copy.deepcopy(model), []
        if broken:
            with torch.no_grad():
                other.get_parameter(f"{broken}.weight")[1::2] *= 1.1
        for name, layer in other.named_children():
            if name not in ("0", "8"):
                layer.register_forward_hook(lambda _, __, y, kept=values: kept.append(y.detach()))
        with torch.no_grad():
            other(x)
        values = [(y.permute(0, 2, 3, 1) if y.ndim == 4 else y).contiguous().numpy() for y in reversed(values)]
        node = _first_wrong(graph, x, values, 1e-3)
        assert (layer_of(node) if node is not None else None) == told


@pytest.mark.slow
def test_a_broken_layer_is_named(whole: tuple, tmp_path: Path) -> None:
    name, form, interface, model, path, x = whole
    with listening() as said:
        assert export.first_difference(model, path, form, x, interface) is None
        for layer, told in LAYERS[name].items():
            wrong = broken(path, model.get_parameter(f"{layer}.weight"), tmp_path)
            assert export.first_difference(model, wrong, form, x, interface) == told
    assert said == [""]


@pytest.mark.slow
def test_a_broken_branch_is_named_and_the_refusal_tells_it(tmp_path: Path) -> None:
    """In a network with shortcuts, what stands beside the broken branch is right."""
    model, path, x = made("resnet", "onnx", tmp_path, Interface())
    (tmp_path / "broken").mkdir()
    import onnx
    from onnx import numpy_helper

    whole = onnx.load(str(path))
    for initializer in whole.graph.initializer:
        if initializer.name == "layer2.0.conv2.weight":
            initializer.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(initializer), initializer.name))
    wrong = tmp_path / "broken" / path.name
    onnx.save(whole, str(wrong))
    with torch.no_grad():
        reference = model(torch.from_numpy(x))
    found = export.parity(reference, torch.from_numpy(export.run(wrong, "onnx", x)), "classification")
    with pytest.raises(UserError, match=r"the first that differs is layer 'layer2\.0\.conv2' \(Conv2d\)"):
        export.check_parity(wrong, found, reference, differing=lambda: export.first_difference(model, wrong, "onnx", x))


@pytest.mark.slow
def test_a_program_that_shows_nothing_has_nothing_found(tmp_path: Path) -> None:
    assert export.values(tmp_path / "absent.pte", "executorch", np.zeros((1, 3), np.float32)) == []
    with pytest.raises(UserError, match="its layers cannot be looked at"):
        export.values(tmp_path / "absent.onnx", "onnx", np.zeros((1, 3), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_coatnet_becomes_a_file_that_computes_the_same(tmp_path: Path, form: str) -> None:
    """Convolutions, depthwise ones, squeeze and excitation, attention with relative positions: one of everything."""
    torch.manual_seed(0)
    model = perturbed(timm.create_model("coatnet_pico_rw_224", img_size=96, num_classes=10)).eval()
    pixels = torch.rand(6, 3, 96, 96)
    path = export.to(form, model, pixels, tmp_path / f"coatnet{export.suffix(form)}")
    with torch.no_grad():
        reference = model(pixels)
    given = torch.from_numpy(export.run(path, form, pixels.numpy()))
    found = export.parity(reference, given, "classification")
    assert found.agreement == 1.0
    export.check_parity(path, found, reference, tolerance=1e-4)
    assert (reference[0] - reference[1]).abs().max() > 1e-2 * reference.abs().max()  # it looks at its input
