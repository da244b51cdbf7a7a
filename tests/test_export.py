"""The contract of exporters: model untouched, file equal in its own runtime, silence, nothing half-written."""

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from limbeck import export
from limbeck.errors import UserError
from limbeck.types import Parity


def perturbed(model: nn.Module) -> nn.Module:
    """A model as if trained: no zero-initialised scales, batch-norm statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.rand(value.shape, generator=generator)
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(0.5 + noise)
            else:
                value.add_(0.2 * (noise - 0.5) * (1 if value.ndim < 2 else value.abs().mean()))
    return model


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, width))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32, 10),
    )


def resnet18() -> nn.Module:
    return timm.create_model("resnet18", in_chans=1, num_classes=10)


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=28,
        patch_size=7,
        in_chans=1,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=10,
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(10), (12,)),
    "regression": (lambda: mlp(1), (12,)),
    "cnn": (cnn, (1, 28, 28)),
    "resnet18": (resnet18, (1, 28, 28)),
    "vit": (vit, (1, 28, 28)),
}
SLOW = [pytest.mark.slow]
CASES = [
    pytest.param(("onnx", "mlp"), id="onnx-mlp"),
    pytest.param(("onnx", "regression"), id="onnx-regression"),
    pytest.param(("onnx", "cnn"), id="onnx-cnn"),
    pytest.param(("onnx", "resnet18"), id="onnx-resnet18", marks=SLOW),
    pytest.param(("onnx", "vit"), id="onnx-vit", marks=SLOW),
    pytest.param(("litert", "cnn"), id="litert-cnn", marks=SLOW),
    pytest.param(("litert", "resnet18"), id="litert-resnet18", marks=SLOW),
    pytest.param(("litert", "vit"), id="litert-vit", marks=SLOW),
]


@dataclass(frozen=True)
class Exported:
    """A model, what it was before, and the file made of it."""

    form: str
    model: nn.Module
    before: dict[str, Tensor]
    path: Path
    x: Tensor
    reference: np.ndarray


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One conversion for all that is asked about it; each LiteRT conversion takes many seconds."""
    form, name = request.param
    make, shape = MODELS[name]
    torch.manual_seed(3)
    model = perturbed(make())
    # channels_last and a mixture of modes is how a model comes out of training.
    model = model.to(memory_format=torch.channels_last).train() if len(shape) == 3 else model.train()
    next(iter(model.children())).eval()
    x = torch.randn(70, *shape, generator=torch.Generator().manual_seed(4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = export.EXPORTERS[form](model, x[:3], tmp_path_factory.mktemp(form) / f"{name}{export.SUFFIXES[form]}")
    modes = [module.training for module in model.modules()]
    assert model.training
    assert not next(iter(model.children())).training
    with torch.no_grad():
        reference = model.eval()(x).numpy()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return Exported(form, model, before, path, x, reference)


def test_the_model_is_untouched(exported: Exported) -> None:
    after = exported.model.state_dict()
    assert after.keys() == exported.before.keys()
    for name, value in exported.before.items():
        assert torch.equal(after[name], value), name
    assert all(p.requires_grad and p.grad is None for p in exported.model.parameters())


def test_the_file_gives_what_the_model_gives(exported: Exported) -> None:
    given = export.RUNNERS[exported.form](exported.path, exported.x)
    assert given.dtype == torch.float32
    assert given.shape == exported.reference.shape
    scale = np.abs(exported.reference).max()
    assert scale > 0.1  # a network that gives nothing would agree with anything
    assert np.abs(given.numpy() - exported.reference).max() < 2e-5 * max(1.0, scale)
    assert (given.numpy().argmax(1) == exported.reference.argmax(1)).all()


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_any_number_of_rows(exported: Exported, rows: int) -> None:
    given = export.SESSIONS[exported.form](exported.path, 1)(exported.x[:rows].numpy())
    tolerance = 2e-5 * max(1.0, np.abs(exported.reference).max())
    np.testing.assert_allclose(given, exported.reference[:rows], rtol=0, atol=tolerance)


def test_the_file_holds_the_weights_and_nothing_of_this_machine(exported: Exported) -> None:
    weights = sum(p.numel() * 4 for p in exported.model.parameters())
    size = exported.path.stat().st_size
    # Folded batch norms save a little, the graph costs a little; 60 times too small would mean folded branches.
    assert 0.95 * weights < size < 1.05 * weights + 60_000
    content = exported.path.read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"stack_trace" not in content


def test_one_file_and_its_log(exported: Exported) -> None:
    assert sorted(p.name for p in exported.path.parent.iterdir()) == [exported.path.name, exported.path.name + ".log"]


class Noisy(nn.Module):
    """Says and warns on every way out there is, while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        import os

        print("said on stdout")
        sys.stderr.write("said on stderr\n")
        os.write(1, b"said on descriptor 1\n")
        os.write(2, b"said on descriptor 2\n")
        warnings.warn("said as a warning", stacklevel=2)
        return self.head(x)


SAID = ("on stdout", "on stderr", "on descriptor 1", "on descriptor 2", "as a warning")


def test_what_a_converter_says_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export.to_onnx(Noisy(), torch.zeros(1, 4), tmp_path / "m.onnx")
    print("after")
    out, err = capfd.readouterr()
    assert (out, err) == ("after\n", "")
    assert caught == []
    log = (tmp_path / "m.onnx.log").read_text()
    for words in SAID:
        assert f"said {words}" in log


@pytest.mark.slow
def test_litert_says_nothing_and_leaves_no_jax_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = perturbed(mlp(1))
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    path = export.to_litert(model, x, tmp_path / "m.tflite")
    given = export.run_litert(path, x.numpy())
    with torch.no_grad():
        torch.testing.assert_close(given, model.eval()(x), rtol=0, atol=2e-5)
    assert given.shape == (9, 1)
    assert capfd.readouterr() == ("", "")
    assert "Convert" in (tmp_path / "m.tflite.log").read_text()
    assert "litert_torch" not in sys.modules


class Branches(nn.Module):
    """Takes a way that depends on the values: no graph can hold that."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Eigenvalues(nn.Module):
    """Can be traced, but neither format has the operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x)


@pytest.mark.parametrize(
    ("form", "model", "example", "reason"),
    [
        ("onnx", Branches(), torch.ones(2, 3), "data-dependent"),
        ("litert", Branches(), torch.ones(2, 3), "data-dependent"),
        ("onnx", Eigenvalues(), torch.eye(3)[None], "_linalg_eigh"),
        pytest.param("litert", Eigenvalues(), torch.eye(3)[None], "_linalg_eigh", marks=SLOW),
    ],
    ids=["onnx-trace", "litert-trace", "onnx-operator", "litert-operator"],
)
def test_what_cannot_be_converted_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str, model: nn.Module, example: Tensor, reason: str
) -> None:
    path = tmp_path / "model.file"
    path.write_bytes(b"an earlier one")
    with pytest.raises(UserError) as caught:
        export.EXPORTERS[form](model, example, path)
    text = str(caught.value)
    assert {"onnx": "exported to ONNX", "litert": "exported to LiteRT"}[form] in text
    assert reason in text
    assert str(path) in text
    assert len(text.splitlines()) <= 6
    assert f"{path}.log" in text
    assert reason in Path(f"{path}.log").read_text()
    assert path.read_bytes() == b"an earlier one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.file", "model.file.log"]
    assert capfd.readouterr() == ("", "")


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("form", ["onnx", "litert"])
@pytest.mark.parametrize(("model", "shown"), [(Pair(), "tuple"), (nn.Flatten(0), "(")])
def test_a_model_without_rows_of_outputs_is_refused(tmp_path: Path, form: str, model: nn.Module, shown: str) -> None:
    with pytest.raises(UserError, match="the model gives") as caught:
        export.EXPORTERS[form](model, torch.ones(2, 3), tmp_path / "model.file")
    assert f"gives {shown}" in str(caught.value)
    assert not (tmp_path / "model.file").exists()


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_place_that_cannot_be_written(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        export.EXPORTERS[form](nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "file" / "model")


MISSING = {
    "onnx": ("onnxruntime", 'export to ONNX needs: pip install "limbeck[onnx]"'),
    "litert": ("litert_torch", 'export to LiteRT needs: pip install "limbeck[litert]"'),
}


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_missing_extra_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    module, text = MISSING[form]
    monkeypatch.setitem(sys.modules, module, None)
    for attempt in (
        lambda: export.check_available([form]),
        lambda: export.EXPORTERS[form](nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "model"),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "module"), [("onnx", "onnxruntime"), ("litert", "ai_edge_litert.interpreter")])
def test_running_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'needs: pip install "limbeck\[{form}\]"'):
        export.SESSIONS[form](tmp_path / "model", 1)


def test_what_is_installed_is_available_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def guarded(name: str, *rest: object) -> object:
        assert name.partition(".")[0] not in {"litert_torch", "jax", "onnxscript"}, name
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", guarded)
    export.check_available(["onnx", "litert"])
    assert set(export.EXPORTERS) == set(export.RUNNERS) == set(export.SESSIONS) == set(export.SUFFIXES)


def test_an_unknown_format_is_refused_with_a_guess() -> None:
    with pytest.raises(UserError, match="did you mean 'litert'"):
        export.check_available(["litet"])


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_a_broken_file_is_refused(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"\x00not a model" * 20)
    for broken in (path, tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot load it") as caught:
            export.RUNNERS[form](broken, torch.ones(1, 3))
        assert caught.value.where == str(broken)
    assert capfd.readouterr() == ("", "")


def test_rows_that_do_not_fit_the_file_are_refused(exported: Exported) -> None:
    with pytest.raises(UserError, match="cannot run it"):
        export.RUNNERS[exported.form](exported.path, torch.zeros(2, 5))


def test_parity_counts_errors_and_agreement() -> None:
    reference = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 5.0], [1.0, 1.5]])
    other = torch.tensor([[1.0, 2.25], [3.0, 0.0], [0.0, 5.0], [1.75, 1.0]])
    assert export.parity(reference, other, "classification") == Parity(max_abs_error=0.75, agreement=0.75)
    assert export.parity(reference, other, "regression") == Parity(max_abs_error=0.75, agreement=None)
    with pytest.raises(UserError, match=r"\(4, 1\) where the model gives \(4, 2\)"):
        export.parity(reference, other[:, :1], "classification")


def test_an_error_above_the_tolerance_is_refused() -> None:
    path, outputs = Path("model.onnx"), torch.tensor([[-50.0, 2.0]])
    export.check_parity(path, Parity(0.05, None), outputs)  # 1e-3 of 50
    for wrong in (0.0501, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"model\.onnx: its outputs differ .*0\.05 is allowed"):
            export.check_parity(path, Parity(wrong, None), outputs)
    export.check_parity(path, Parity(0.001, 1.0), torch.tensor([[0.01]]))
    with pytest.raises(UserError, match=r"0\.0011; 0\.001 is allowed"):
        export.check_parity(path, Parity(0.0011, 1.0), torch.tensor([[0.01]]))


def test_a_wrong_file_is_caught(tmp_path: Path) -> None:
    """From the file to the refusal: another model's file does not pass for this one's."""
    torch.manual_seed(0)
    mine, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = torch.randn(20, 3)
    path = export.to_onnx(other, x, tmp_path / "m.onnx")
    reference = mine(x)
    found = export.parity(reference, export.run_onnx(path, x, batch_size=6), "classification")
    with pytest.raises(UserError, match="do not ship"):
        export.check_parity(path, found, reference)
