"""The contract of exporters: model untouched, file equal in its own runtime, silence, nothing half-written."""

from __future__ import annotations

import builtins
import contextlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from limbeck import export
from limbeck.core.errors import UserError
from limbeck.core.formats import FORMATS, QUANTIZED
from limbeck.core.types import Parity
from limbeck.export import Interface
from limbeck.export.trace import culprits, trace
from limbeck.recipe import Deployable

SRC = Path(export.__file__).parents[1]
FORMS = ("onnx", "litert", "executorch", "openvino")


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


def resnet() -> nn.Module:
    return timm.create_model("resnet10t", in_chans=1, num_classes=10)


def mobilenet() -> nn.Module:
    """The first stages: depthwise convolutions, squeeze and excitation, hard swish. The others repeat them."""
    whole = timm.create_model("mobilenetv3_small_050", in_chans=1, num_classes=10)
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(whole.conv_stem, whole.bn1, whole.blocks[:3], *end)


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
    "resnet": (resnet, (1, 28, 28)),
    "mobilenet": (mobilenet, (1, 28, 28)),
    "vit": (vit, (1, 28, 28)),
}
RAW = Interface("uint8", "nhwc")
INTERFACES = {
    ("litert", "cnn"): Interface("uint8", "nhwc", (64, 1)),
    ("litert", "mobilenet"): Interface(batches=(8,)),
    ("litert", "vit"): Interface(layout="nhwc", batches=(1, 16)),
    **{(form, "cnn"): RAW for form in ("onnx", "executorch", "openvino")},
    ("openvino", "resnet"): Interface("uint8", "nchw"),
}
SLOW = [pytest.mark.slow]
CASES = [
    pytest.param((form, name), id=f"{form}-{name}", marks=SLOW if name != "mlp" else [])
    for form in FORMS
    for name in MODELS
    if form == "onnx" or name not in ("mlp", "regression")
]


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What is said to the terminal inside, by whatever means, in the list that is given."""
    said: list[str] = []
    with tempfile.TemporaryFile() as stream:
        saved = [os.dup(fd) for fd in (1, 2)]
        for fd in (1, 2):
            os.dup2(stream.fileno(), fd)
        try:
            yield said
        finally:
            for fd, before in zip((1, 2), saved, strict=True):
                os.dup2(before, fd)
                os.close(before)
            stream.seek(0)
            said.append(stream.read().decode())


@dataclass(frozen=True)
class Exported:
    """A model, what it was before, and the file made of it.

    `x` is what the file takes, `reference` what the model gives for the same rows, `said` what the terminal got,
    `loaded` the modules that this process loaded for it.
    """

    form: str
    model: nn.Module
    before: dict[str, Tensor]
    path: Path
    x: np.ndarray
    reference: np.ndarray
    given: np.ndarray
    said: str
    loaded: set[str]
    modes_kept: bool


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One conversion for all that is asked about it; each takes many seconds."""
    form, name = request.param
    make, shape = MODELS[name]
    interface = INTERFACES.get((form, name), Interface())
    torch.manual_seed(3)
    model = perturbed(make())
    # channels_last and a mixture of modes is how a model comes out of training.
    model = model.to(memory_format=torch.channels_last).train() if len(shape) == 3 else model.train()
    next(iter(model.children())).eval()
    modes = [module.training for module in model.modules()]
    pixels = torch.rand(70, *shape, generator=torch.Generator().manual_seed(4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp(form) / f"{name}{export.suffix(form)}"
    known = set(sys.modules)
    with listening() as said:
        assert export.to(form, model, pixels[:3], path, interface) == path
        x = export.as_given(pixels.numpy(), interface)
        given = export.run(path, form, x)
    loaded = set(sys.modules) - known
    kept = modes == [module.training for module in model.modules()]
    with torch.no_grad():
        reference = model.eval()(torch.from_numpy(export.as_seen(x, interface))).numpy()
    return Exported(form, model, before, path, x, reference, given, said[0], loaded, kept)


def test_the_model_is_untouched(exported: Exported) -> None:
    after = exported.model.state_dict()
    assert after.keys() == exported.before.keys()
    for name, value in exported.before.items():
        assert torch.equal(after[name], value), name
    assert all(p.requires_grad and p.grad is None for p in exported.model.parameters())
    assert exported.modes_kept


def test_the_file_gives_what_the_model_gives(exported: Exported) -> None:
    given, reference = exported.given, exported.reference
    assert given.dtype == np.float32
    assert given.shape == reference.shape
    scale = np.abs(reference).max()
    assert scale > 0.1  # a network that gives nothing would agree with anything
    assert np.abs(given - reference).max() < 2e-5 * max(1.0, scale)
    assert np.ptp(reference, axis=0).max() > 1e-3 * scale  # and one that ignores its input, with much
    assert (given.argmax(1) == reference.argmax(1)).all()


def test_any_number_of_rows(exported: Exported) -> None:
    tolerance = 2e-5 * max(1.0, np.abs(exported.reference).max())
    with export.Served(exported.path, exported.form) as served:
        for rows in (1, 7, 64):
            given = served.predict(exported.x[:rows])
            np.testing.assert_allclose(given, exported.reference[:rows], rtol=0, atol=tolerance)
        assert served.dtype == exported.x.dtype
        assert served.shape == exported.x.shape[1:]
        with pytest.raises(UserError, match=f"cannot run it on {exported.x.dtype} rows \\[5\\]") as caught:
            served.predict(exported.x.reshape(70, -1)[:, :5])
        assert caught.value.where == str(exported.path)


def test_nothing_is_said(exported: Exported) -> None:
    assert exported.said == ""
    assert not {"litert_torch", "executorch", "openvino"} & exported.loaded


def test_the_file_holds_the_weights_and_nothing_of_this_machine(exported: Exported) -> None:
    weights = sum(p.numel() * 4 for p in exported.model.parameters())
    # Folded batch norms save a little, the graph costs a little; 60 times too small would mean folded branches.
    assert 0.95 * weights < export.size_bytes(exported.path) < 1.05 * weights + 200_000
    for file in export.files(exported.path):
        content = file.read_bytes()
        assert str(Path(export.__file__).parents[1]).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content
        assert b"stack_trace" not in content


def test_the_file_and_its_log_where_something_was_said(exported: Exported) -> None:
    log = exported.path.with_name(exported.path.name + ".log")
    said = {log} if log.exists() else set()
    assert set(exported.path.parent.iterdir()) == {*export.files(exported.path), *said}
    assert all(file.stat().st_size for file in said)


# --- what converters say -------------------------------------------------------------------------


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


@pytest.mark.slow
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


class Branches(nn.Module):
    """Takes a way that depends on the values: no graph can hold that."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Eigenvalues(nn.Module):
    """Can be traced, but no format has the operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x)


TITLES = {"onnx": "ONNX", "litert": "LiteRT", "executorch": "ExecuTorch", "openvino": "OpenVINO"}


@pytest.mark.parametrize(
    ("form", "layer", "example", "reason", "place"),
    [
        *(pytest.param(f, Branches(), torch.ones(2, 3), "data-dependent", "in layer '1.0'", id=f) for f in FORMS),
        *(
            pytest.param(
                f,
                Eigenvalues(),
                torch.eye(3)[None],
                "_linalg_eigh",
                "_linalg_eigh.default in layer '1.0' (Eigenvalues)",
                id=f"{f}-operator",
                marks=SLOW,
            )
            for f in FORMS
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_layer(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    form: str,
    layer: nn.Module,
    example: Tensor,
    reason: str,
    place: str,
) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(layer, nn.ReLU()))
    path = tmp_path / f"model{export.suffix(form)}"
    for file in export.files(path):
        file.write_bytes(b"an earlier one")
    with pytest.raises(UserError) as caught:
        export.to(form, model, example, path)
    text = str(caught.value)
    assert f"exported to {TITLES[form]}" in text
    assert reason in text
    assert place in text
    assert str(path) in text
    assert len(text.splitlines()) <= 7
    assert f"{path}.log" in text
    assert reason in Path(f"{path}.log").read_text()
    for file in export.files(path):
        assert file.read_bytes() == b"an earlier one"
    assert len(list(tmp_path.iterdir())) == len(export.files(path)) + 1
    assert capfd.readouterr() == ("", "")


def test_operators_in_a_message_are_found_in_the_graph() -> None:
    """As the converters write them, and among operators that the message only mentions."""
    graph = trace(nn.Sequential(nn.ReLU(), nn.Sequential(Eigenvalues(), nn.ReLU()), nn.ReLU()), torch.eye(3)[None])
    expected = ["operator aten._linalg_eigh.default in layer '1.0' (Eigenvalues)"]
    for message in (
        "Error when translating node %_linalg_eigh : [num_users=1] = call_function[target=x](args = (%relu,))",
        "Lowering not found: aten._linalg_eigh.default",
        "Missing out variants: {'aten::_linalg_eigh'}",
        "No conversion rule found for operations: aten._linalg_eigh.default",
    ):
        assert culprits(graph, message) == expected
    assert culprits(graph, "aten.relu.default") == [
        f"operator aten.relu.default in layer '{name}' (ReLU)" for name in ("0", "1.1", "2")
    ]
    assert culprits(graph, "the disk is full of aten._linalg_eigh_like things") == []


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("model", "shown"), [(Pair(), "tuple"), (nn.Flatten(0), "(")])
def test_a_model_without_rows_of_outputs_is_refused(tmp_path: Path, form: str, model: nn.Module, shown: str) -> None:
    path = tmp_path / f"model{export.suffix(form)}"
    with pytest.raises(UserError, match="the model gives") as caught:
        export.to(form, model, torch.ones(2, 3), path)
    assert f"gives {shown}" in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_place_that_cannot_be_written(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        export.to(form, nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "file" / f"model{export.suffix(form)}")


# --- what is installed ---------------------------------------------------------------------------

MISSING = {
    "onnx": ("onnxruntime", 'export to ONNX needs: pip install "limbeck[onnx]"'),
    "litert": ("litert_torch", 'export to LiteRT needs: pip install "limbeck[litert]"'),
    "executorch": ("executorch", 'export to ExecuTorch needs: pip install "limbeck[executorch]"'),
    "openvino": ("openvino", 'export to OpenVINO needs: pip install "limbeck[openvino]"'),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_extra_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    module, text = MISSING[form]
    monkeypatch.setitem(sys.modules, module, None)
    for attempt in (
        lambda: export.check_available([form]),
        lambda: export.check_available([f"{form}-int8"]),
        lambda: export.to(form, nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "model.xml"),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_is_available_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def guarded(name: str, *rest: object) -> object:
        assert name.partition(".")[0] not in {"litert_torch", "jax", "onnxscript", "openvino", "executorch"}, name
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", guarded)
    export.check_available(FORMS)
    # Files of Keras are made of models of Keras only: test_keras_files.py.
    assert set(FORMATS) == {*FORMS, "keras"}
    assert {f"export/formats/{form}" for form in FORMATS} <= {
        str(path.parent.relative_to(SRC)) for path in SRC.rglob("convert.py")
    }
    named = set(get_args(Deployable))
    assert named == {*FORMATS, *QUANTIZED}
    for row in FORMATS.values():
        assert set(row.searched) <= set(row.precisions)


def test_the_room_loads_no_torch() -> None:
    """Files are run in processes whose memory is measured; those import this room."""
    heavy = "torch", "jax", "onnx", "onnxruntime", "openvino", "executorch", "ai_edge_litert"
    code = f"import sys, limbeck.export.serving; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_format_is_refused_with_a_guess() -> None:
    with pytest.raises(UserError, match="did you mean 'litert'"):
        export.check_available(["litet"])
    with pytest.raises(UserError, match="unknown format 'caffe'"):
        export.to("caffe", nn.Linear(3, 2), torch.ones(1, 3), Path("model"))


# --- parity --------------------------------------------------------------------------------------


def test_parity_counts_errors_and_agreement() -> None:
    reference = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 5.0], [1.0, 1.5]])
    other = torch.tensor([[1.0, 2.25], [3.0, 0.0], [0.0, 5.0], [1.75, 1.0]])
    assert export.parity(reference, other, "classification") == Parity(max_abs_error=0.75, agreement=0.75)
    assert export.parity(reference, other, "regression") == Parity(max_abs_error=0.75, agreement=None)
    with pytest.raises(UserError, match=r"\(4, 1\) where the model gives \(4, 2\)"):
        export.parity(reference, other[:, :1], "classification")


def test_an_error_above_the_tolerance_is_refused() -> None:
    path, outputs = Path("model.onnx"), torch.tensor([[-50.0, 2.0]])
    asked = []

    def differing() -> str:
        asked.append(1)
        return "layer 'head' (Linear)"

    export.check_parity(path, Parity(0.05, None), outputs, differing=differing)  # 1e-3 of 50
    assert asked == []
    for wrong in (0.0501, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"model\.onnx: its outputs differ .*0\.05 is allowed\n"):
            export.check_parity(path, Parity(wrong, None), outputs)
    with pytest.raises(UserError, match=r"is allowed; the first that differs is layer 'head' \(Linear\)"):
        export.check_parity(path, Parity(0.0501, None), outputs, differing=differing)
    export.check_parity(path, Parity(0.001, 1.0), torch.tensor([[0.01]]))
    with pytest.raises(UserError, match=r"0\.0011; 0\.001 is allowed"):
        export.check_parity(path, Parity(0.0011, 1.0), torch.tensor([[0.01]]))


@pytest.mark.slow
def test_a_wrong_file_is_caught(tmp_path: Path) -> None:
    """From the file to the refusal: another model's file does not pass for this one's."""
    torch.manual_seed(0)
    mine, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = torch.randn(20, 3)
    path = export.to_onnx(other, x, tmp_path / "m.onnx")
    reference = mine(x)
    found = export.parity(reference, torch.from_numpy(export.run(path, "onnx", x.numpy())), "classification")
    with pytest.raises(UserError, match="do not ship"):
        export.check_parity(path, found, reference)


# --- measuring quickly ---------------------------------------------------------------------------


def test_a_quick_latency_grows_with_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    small, large = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
    before = {key: value.clone() for key, value in large.state_dict().items()}
    x = torch.rand(2, 3, 40, 40)
    slow, fast = (export.quick_latency(model, x, seconds=0.05) for model in (large, small))
    assert 0 < 10 * fast < slow
    assert large.training
    assert all(torch.equal(value, before[key]) for key, value in large.state_dict().items())
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"its time cannot be measured in ONNX Runtime: .*data-dependent"):
        export.quick_latency(Branches(), x)
