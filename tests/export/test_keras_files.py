"""Files of Keras: read without running what stands in them, written with all that a network needs, run anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need
from torch import nn

import limbeck
from limbeck import export, recipe
from limbeck.core.errors import UserError
from limbeck.data import Scaling
from limbeck.distill.teachers.external import bring, load
from limbeck.export import Interface, as_given
from limbeck.export.formats.keras.convert import session_keras, to_keras
from limbeck.models import KerasNetwork, Normalized, read_keras
from limbeck.models.keras.backend import library, making
from limbeck.pipeline.export import Rescale
from limbeck.recipe.adopt import adopt

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def keras():
    need(importlib.util.find_spec("keras") is not None, "Keras")
    return library()


def small(*, end: str | None = None, shape=(6, 5, 3)):
    """Random everywhere, in the statistics of batch norm too."""
    torch.manual_seed(0)
    with making() as keras:
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(4, 3, activation="relu", name="conv"),
                layers.BatchNormalization(name="norm"),
                layers.Flatten(),
                layers.Dropout(0.2),
                layers.Dense(3, activation=end, name="head"),
            ]
        )
        for variable in model.variables:
            if variable.dtype == "float32":
                variable.assign(torch.rand(tuple(variable.shape)))
    return model


def saved(model, path: Path) -> Path:
    with making():  # Keras warns of itself when it writes the old format
        model.save(str(path))
    return path


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_is_read_back_with_its_weights_and_names(tmp_path, suffix) -> None:
    model, x = small(), torch.rand(4, 3, 6, 5)
    network = KerasNetwork(read_keras(saved(model, tmp_path / f"m{suffix}")), (3, 6, 5), named=True).eval()
    torch.testing.assert_close(network(x), model(x.permute(0, 2, 3, 1), training=False))
    assert {"conv.kernel", "norm.moving_variance", "head.bias"} <= set(network.state_dict())
    raw = read_keras(tmp_path / f"m{suffix}")
    again = {layer.name for layer in raw.layers}
    assert {name for name, _ in network.named_children()} == again  # as they stand in the file


def test_a_connected_model_with_operations_is_read(keras, tmp_path) -> None:
    image = keras.Input((6, 5, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(image)
    x = keras.ops.relu(x + image) * 0.5
    base = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="base")
    model = keras.Model(image, keras.layers.Dense(2, kernel_regularizer="l2")(base(image)))
    model.compile(loss="mse", optimizer="adam")
    again, rows = read_keras(saved(model, tmp_path / "m.keras")), torch.rand(2, 6, 5, 3)
    torch.testing.assert_close(again(rows), model(rows))


def test_a_custom_loss_that_it_was_trained_with_does_not_matter(keras, tmp_path) -> None:
    model = small()
    model.compile(loss=lambda y, p: keras.ops.mean(p - y), optimizer="sgd")
    assert read_keras(saved(model, tmp_path / "m.keras")).name == model.name


def ran(path: Path):
    """A function that leaves a trace where it is run."""
    source = f"lambda x, p={str(path)!r}: (open(p, 'w').close(), x)[1]"
    return eval(source)  # a function of no module, as a notebook has it


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_lambda_is_refused_and_never_run(keras, tmp_path, suffix, nested) -> None:
    trace = tmp_path / "ran"
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(ran(trace), output_shape=(4,), name="sly")])
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)]) if nested else inner
    path = saved(model, tmp_path / f"m{suffix}")
    trace.unlink(missing_ok=True)  # Keras calls it while it builds
    with pytest.raises(UserError, match=r"m\.\w+: has a Lambda \(sly\), which would run code"):
        read_keras(path)
    assert not trace.exists()


def tampered(path: Path, **layer: object) -> Path:
    """The file with its last layer exchanged in its configuration."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][-1] = layer
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        ({"class_name": "TorchModuleWrapper", "module": "keras.layers", "config": {"name": "t", "module": "gASV"}},
         "has a TorchModuleWrapper"),
        ({"class_name": "TFSMLayer", "module": "keras.layers", "config": {"name": "t"}}, "has a TFSMLayer"),
        ({"class_name": "Popen", "module": "subprocess", "config": {"args": "true"}}, "'Popen', which is not a part"),
        ({"class_name": "Own", "module": "keras.layers", "registered_name": "shop>Own", "config": {}}, "'shop>Own'"),
        ({"class_name": "function", "module": "keras.utils", "config": "get_file"}, "not a part of Keras"),
        ({"class_name": "function", "module": "builtins", "config": "eval"}, "calls 'builtins.eval'"),
        ({"class_name": "Dense", "module": "keras.layers", "config": {"units": 2, "activation": {
            "class_name": "__lambda__", "config": {"value": "x"}}}}, "has a __lambda__"),
        ({"class_name": "Dense", "module": "keras.layers", "config": {"units": "two"}}, "Keras cannot load it"),
    ],
)  # fmt: skip
def test_what_is_not_of_keras_is_refused_by_name(tmp_path, layer, what) -> None:
    path = tampered(saved(small(), tmp_path / "m.keras"), **layer)
    with pytest.raises(UserError, match=what):
        read_keras(path)


def test_damaged_files_and_files_without_a_model_are_told(tmp_path, keras) -> None:
    whole = saved(small(), tmp_path / "m.keras").read_bytes()
    with pytest.raises(UserError, match="no such file"):
        read_keras(tmp_path / "absent.keras")
    for name, content, what in (
        ("half.keras", whole[: len(whole) // 2], "cannot be read as a model of Keras"),
        ("empty.h5", b"", "cannot be read as a model of Keras"),
        ("text.keras", b"hello", "cannot be read as a model of Keras"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=what):
            read_keras(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "no model")
    with pytest.raises(UserError, match=r"there is no config\.json"):
        read_keras(tmp_path / "other.keras")
    with making():
        small().save_weights(str(tmp_path / "m.weights.h5"))
    with pytest.raises(UserError, match="holds weights and no model"):
        read_keras(tmp_path / "m.weights.h5")
    broken = small()
    broken.layers[0].kernel.assign(broken.layers[0].kernel * float("nan"))
    with pytest.raises(UserError, match="NaN or infinite weights"):
        read_keras(saved(broken, tmp_path / "nan.keras"))


# --- as a teacher --------------------------------------------------------------------------------


def test_a_file_answers_as_a_teacher_in_logits(tmp_path) -> None:
    x = torch.rand(60, 3, 6, 5)
    data = limbeck.from_arrays(x, np.arange(60) % 3)
    path = saved(small(end="softmax"), tmp_path / "m.keras")
    spec = recipe.Teacher(model=str(path), mean=[0.5], std=[0.5], classes=["2", "0", "1"])
    network = bring(spec, data, trust=False)
    plain = read_keras(path)((x.permute(0, 2, 3, 1) - 0.5) / 0.5, training=False)
    given = network(x)
    torch.testing.assert_close(given.softmax(1), plain[:, [1, 2, 0]])
    assert given.abs().max() > 1  # and not their logarithms
    assert (given.exp().sum(1) - 1).abs().max() > 1


# --- writing -------------------------------------------------------------------------------------


def student() -> nn.Module:
    return Normalized(
        KerasNetwork(small(end="softmax"), (3, 6, 5), logits=True), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    ).eval()


@pytest.mark.parametrize("interface", [Interface(), Interface("uint8", "nhwc")])
def test_a_student_becomes_a_file_that_takes_what_others_take(tmp_path, interface) -> None:
    network, path = student(), tmp_path / "s.keras"
    x = (torch.randint(0, 256, (70, 3, 6, 5)) / 255).float()
    torch.manual_seed(3)
    following = torch.rand(1)
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert to_keras(network, x, path, interface) == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.keras"]
    session = session_keras(path)
    rows = as_given(x.numpy(), interface)
    assert (session.dtype, session.shape) == (interface.input, rows.shape[1:])
    np.testing.assert_allclose(session(rows[:64]), network(x[:64]).detach().numpy(), atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.model.gives_logits
    assert torch.rand(1) == following  # nobody else's numbers were drawn


def test_the_weights_that_are_written_are_those_of_the_network_and_not_of_its_copy(tmp_path) -> None:
    import copy

    network, x = student(), torch.rand(3, 3, 6, 5)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.model.get_parameter("head.bias").add_(5.0)
    to_keras(other, x, tmp_path / "other.keras")
    to_keras(network, x, tmp_path / "own.keras")
    apart = session_keras(tmp_path / "other.keras")(x.numpy()) - session_keras(tmp_path / "own.keras")(x.numpy())
    np.testing.assert_allclose(apart, 5.0, atol=1e-4)


def test_the_order_of_channels_and_classes_and_the_unit_are_written_too(tmp_path) -> None:
    inner = KerasNetwork(small(), (3, 6, 5))
    order = torch.tensor([2, 0, 1])
    around = Normalized(inner, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], bgr=True, order=order)
    scaling = Scaling(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 3.0, 4.0]))
    network, x = nn.Sequential(around, Rescale(scaling)).eval(), torch.rand(4, 3, 6, 5)
    to_keras(network, x, tmp_path / "s.keras")
    np.testing.assert_allclose(
        session_keras(tmp_path / "s.keras")(x.numpy()), network(x).detach().numpy(), rtol=1e-5, atol=1e-3
    )


def test_tables_and_flat_images_are_written(keras, tmp_path) -> None:
    for shape, takes in (((7,), (7,)), ((1, 4, 3), (12,)), ((1, 4, 3), (4, 3))):
        image = keras.Input(takes)
        model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
        network, x = Normalized(KerasNetwork(model, shape), [0.5], [0.25]).eval(), torch.rand(5, *shape)
        to_keras(network, x, tmp_path / "s.keras")
        told = session_keras(tmp_path / "s.keras")(x.numpy())
        np.testing.assert_allclose(told, network(x).detach().numpy(), atol=1e-5)


def test_a_network_of_torch_is_no_keras_file(tmp_path) -> None:
    with pytest.raises(UserError, match="a Linear is not of Keras"):
        to_keras(nn.Linear(3, 2), torch.rand(1, 3), tmp_path / "s.keras")
    assert not (tmp_path / "s.keras").exists()


def test_the_documented_python_runs(tmp_path, monkeypatch, capsys) -> None:
    text = (Path(__file__).parents[2] / "docs" / "foreign.md").read_text()
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "KerasNetwork" in b]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    exec(compile(block, "foreign.md", "exec"), {})
    assert float(capsys.readouterr().out) > 0.9
    assert read_keras(tmp_path / "student.keras").output_shape == (None, 10)


def test_a_function_may_make_a_model_of_keras_and_it_is_trained_further(tmp_path) -> None:
    (tmp_path / "net.py").write_text(
        "import keras\n"
        "def build(shape, width):\n"
        "    layers = [keras.layers.Flatten(), keras.layers.Dense(width, activation='softmax')]\n"
        "    return keras.Sequential([keras.Input((*shape[1:], shape[0])), *layers])\n"
    )
    data = limbeck.from_arrays(torch.rand(60, 3, 6, 5), np.arange(60) % 3)
    spec = recipe.Student(model=f"{tmp_path / 'net.py'}:build")
    network = load(spec, data, trust=True)
    assert isinstance(network, KerasNetwork)
    assert network.gives_logits
    assert network(data.x[:2].float() / 255).shape == (2, 3)


def test_a_file_of_ones_own_becomes_a_recipe(tmp_path) -> None:
    path = saved(small(), tmp_path / "own.keras")
    made = adopt(path, None, "digits.npz", changes={"export": ["litert"]})
    assert made.student.source.kind.name == "keras"
    assert made.student.ready
    with pytest.raises(UserError, match="says itself what network it is"):
        adopt(path, "conv-pool", "digits.npz", changes={"export": ["litert"]})
    with pytest.raises(UserError, match="edits layers of PyTorch"):
        adopt(path, None, "digits.npz", changes={"compress": {"half": [{"prune": {"ratio": 0.5}}]}})


def test_features_of_a_file_are_learned_in_a_run(keras, tmp_path) -> None:
    layers = [keras.layers.Dense(16, activation="relu", name="inner"), keras.layers.Dense(10, activation="softmax")]
    path = saved(keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), *layers]), tmp_path / "t.keras")
    result = limbeck.run(
        {
            "data": {"source": "digits", "limit": 200},
            "teachers": [{"model": str(path), "mean": [0.3], "std": [0.4]}],
            "student": {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 3}},
            "losses": {"hard": 0.1, "fitnet": {"weight": 1.0, "student": ["act1"], "teacher": ["inner"]}},
            "seeds": 1,
        },
        out=tmp_path / "run",
    )
    [student] = [m for m in result["models"] if m["role"] == "distilled"]
    history = (tmp_path / "run" / student["name"] / "history.jsonl").read_text()
    lines = [json.loads(line) for line in history.splitlines()]
    assert lines[-1]["train_fitnet"] < lines[0]["train_fitnet"]


PLAIN = """
import sys
import numpy as np
import keras
assert keras.backend.backend() == "jax"
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[2], np.asarray(model(np.load(sys.argv[3]), training=False)))
"""


@pytest.mark.slow
def test_the_file_gives_the_same_in_plain_keras_with_jax(tmp_path) -> None:
    need(importlib.util.find_spec("jax") is not None, "JAX")
    for number, interface in enumerate((Interface(), Interface("uint8", "nhwc"))):
        network, path = student(), tmp_path / f"s{number}.keras"
        x = (torch.randint(0, 256, (9, 3, 6, 5)) / 255).float()
        to_keras(network, x, path, interface)
        np.save(tmp_path / "x.npy", as_given(x.numpy(), interface))
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}
        arguments = [str(path), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
        subprocess.run([sys.executable, "-c", PLAIN, *arguments], env=environment, check=True, capture_output=True)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), network(x).detach().numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["litert", "onnx", "openvino"])
def test_files_of_other_formats_are_made_of_it_with_parity(tmp_path, form) -> None:
    need(importlib.util.find_spec({"litert": "litert_torch"}.get(form, form)) is not None, form)
    network, x = student(), torch.rand(6, 3, 6, 5)
    path = export.to(form, network, x, tmp_path / f"s{export.suffix(form)}", Interface(layout="nhwc"))
    told = export.run(path, form, as_given(x.numpy(), Interface(layout="nhwc")))
    np.testing.assert_allclose(told, network(x).detach().numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_recipe_runs_with_keras_from_training_to_the_file(tmp_path) -> None:
    result = limbeck.run(
        recipe.load(
            {
                "framework": "keras",
                "data": {"source": "digits", "limit": 300},
                "teachers": [{"model": "mlp", "options": {"hidden": [32]}, "train": {"epochs": 4, "lr": 0.01}}],
                "student": {"model": "mlp", "options": {"hidden": [8]}, "train": {"epochs": 4, "lr": 0.01}},
                "losses": {"hard": 0.5, "kd": {"weight": 0.5, "temperature": 2}},
                "seeds": 1,
                "export": ["keras"],
            }
        ),
        out=tmp_path / "run",
    )
    [file] = [m for m in result["models"] if m["role"] == "exported"]
    [source] = [m for m in result["models"] if m["name"] == file["source"]]
    assert file["format"] == "keras"
    assert file["parity"]["max_abs_error"] < 1e-4
    assert file["parity"]["agreement"] == 1.0
    assert file["metrics"]["accuracy"] == source["metrics"]["accuracy"] > 0.3
    assert file["cost"]["latency_ms"] > 0
    assert read_keras(tmp_path / "run" / file["file"]).count_params() == source["cost"]["params"] == 64 * 8 + 8 + 90
