"""Keras models as networks of PyTorch: they compute, train and name things as Keras has it, and hold weights here."""

from __future__ import annotations

import copy
import importlib.util
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import need
from torch import nn

import limbeck
from limbeck import recipe
from limbeck.core.errors import UserError
from limbeck.core.signatures import networks
from limbeck.distill.cache import identify
from limbeck.distill.objective.feature_taps import Taps
from limbeck.distill.objective.network_stages import anatomy
from limbeck.export.formats.keras.convert import session_keras
from limbeck.models import PREPROCESSING, KerasNetwork, Normalized, build, load_weights, save_weights
from limbeck.models.keras.backend import library, making
from limbeck.models.keras.reference import TWINS
from limbeck.models.reference import NETWORKS
from limbeck.pipeline.setup import _remembers
from limbeck.recipe import Network, Plan
from limbeck.recipe.applications import APPLICATIONS

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def keras():
    need(importlib.util.find_spec("keras") is not None, "Keras")
    return library()


def small(keras, *, dropout: float = 0.0, end: str | None = None):
    """Convolution, batch norm, dropout, dense: on [6, 5, 2]."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(momentum=0.7),
            layers.MaxPooling2D(2, strides=1, padding="same"),
            layers.Conv2D(3, 2, name="second"),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(3, activation=end),
        ]
    )


def made(seed: int = 0, **options):
    torch.manual_seed(seed)
    with making() as keras:
        return small(keras, **options)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


# --- what it computes ----------------------------------------------------------------------------


def test_it_computes_in_both_modes_what_keras_computes() -> None:
    model = made()
    network, x = KerasNetwork(model, (2, 6, 5)), torch.rand(7, 2, 6, 5)
    for _ in range(3):
        network.train()
        torch.testing.assert_close(network(x), model(last(x), training=True))
    moved = {v.name: v.value for v in model.layers[1].variables}
    held = dict(network.get_submodule("batch_normalization-1").named_buffers())
    assert set(held) == {"moving_mean", "moving_variance"}
    for name, value in held.items():
        torch.testing.assert_close(value, moved[name].detach())
    network.eval()
    torch.testing.assert_close(network(x), model(last(x), training=False))


def test_batch_norm_moves_by_the_formula_and_stands_still_when_it_answers() -> None:
    network, x = KerasNetwork(made(), (2, 6, 5)), torch.rand(7, 2, 6, 5)
    norm = network.get_submodule("batch_normalization-1")
    seen = Taps(network, ["conv2d-1"])(network, x).features["conv2d-1"].detach().numpy()
    expected = 0.7 * 0 + 0.3 * seen.mean(axis=(0, 2, 3))  # the tap has channels first
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, atol=1e-6)
    network.eval()(x)
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, atol=1e-6)


def test_dropout_is_drawn_from_torchs_generator_in_training_only() -> None:
    model = made(dropout=0.5)
    network, x = KerasNetwork(model, (2, 6, 5)), torch.rand(7, 2, 6, 5)
    draws = []
    for call in (lambda: network.train()(x), lambda: network(x), lambda: model(last(x), training=True)):
        torch.manual_seed(5)
        draws.append(call())
    torch.testing.assert_close(draws[0], draws[2])
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_it_computes_where_its_rows_are_and_not_where_keras_would(tmp_path, monkeypatch) -> None:
    x = torch.rand(7, 2, 6, 5)
    expected = KerasNetwork(made(), (2, 6, 5)).train()(x)
    # As on a machine with an accelerator, where Keras puts everything on that: here, where nothing is computed at all.
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    network = KerasNetwork(made(), (2, 6, 5)).train()
    given = network(x)
    given.sum().backward()
    torch.testing.assert_close(given, expected)
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}
    limbeck.export.to_keras(network.eval(), x, tmp_path / "m.keras")
    np.testing.assert_allclose(session_keras(tmp_path / "m.keras")(x.numpy()), network(x).detach().numpy(), atol=1e-5)


def test_gradients_are_those_that_keras_would_find(keras) -> None:
    model = made()
    network, x = KerasNetwork(model, (2, 6, 5)), torch.rand(7, 2, 6, 5)
    network(x).square().sum().backward()
    model(last(x), training=True).square().sum().backward()
    theirs = [v.value.grad for v in model.trainable_variables]
    for (name, ours), other in zip(network.named_parameters(), theirs, strict=True):
        torch.testing.assert_close(ours.grad, other, msg=name)


def test_layers_that_are_not_trainable_stay_as_they_are(keras) -> None:
    model = made()
    model.layers[0].trainable = model.layers[1].trainable = False
    network, x = KerasNetwork(model, (2, 6, 5)).train(), torch.rand(7, 2, 6, 5)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {
        "conv2d-1.kernel", "conv2d-1.bias", "batch_normalization-1.gamma", "batch_normalization-1.beta"
    }  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(x).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"second.kernel", "second.bias", "dense-1.kernel", "dense-1.bias"}  # nor do the statistics


# --- weights and names ---------------------------------------------------------------------------


def test_names_are_the_same_however_many_models_were_made_before(tmp_path) -> None:
    one = KerasNetwork(made(), (2, 6, 5))
    made(), made()
    two = KerasNetwork(made(1), (2, 6, 5))
    assert list(one.state_dict()) == list(two.state_dict())
    assert {"conv2d-1.kernel", "second.kernel", "batch_normalization-1.moving_mean"} <= set(one.state_dict())
    assert identify(one, torch.float32)["architecture"] == identify(two, torch.float32)["architecture"]
    assert identify(one, torch.float32)["weights"] != identify(two, torch.float32)["weights"]
    save_weights(one, tmp_path / "w.safetensors")
    assert load_weights(two, tmp_path / "w.safetensors", fresh_head=False) == []
    x = torch.rand(3, 2, 6, 5)
    assert torch.equal(one.eval()(x), two.eval()(x))


def test_first_weights_follow_from_torchs_seed_and_take_nothing_from_others() -> None:
    random.seed(8)
    following = random.random()
    random.seed(8)
    one, two, other = (KerasNetwork(made(seed)).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["second.kernel"], other["second.kernel"])
    assert random.random() == following


def test_a_copy_is_trained_by_itself() -> None:
    network, x = KerasNetwork(made(), (2, 6, 5)).train(), torch.rand(7, 2, 6, 5)
    twin = copy.deepcopy(network)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    network(x).sum().backward()
    with torch.no_grad():
        for p in network.parameters():
            p.sub_(p.grad)
    assert all(p.grad is None for p in twin.parameters())
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert not torch.equal(network.eval()(x), twin.eval()(x))


def test_taps_of_layers_give_channels_first_and_each_copy_its_own(keras) -> None:
    base = keras.Sequential([keras.Input((6, 5, 2)), keras.layers.Conv2D(4, 3, name="conv_a")], name="base")
    parts = [base, keras.layers.Activation("linear", name="a.b"), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 5, 2)), *parts])
    network, x = KerasNetwork(model, (2, 6, 5)), torch.rand(3, 2, 6, 5)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_parameter("base.conv_a.bias").add_(1.0)
    taps, theirs = Taps(network, ["base.conv_a", "a_b", "flatten-1"]), Taps(other, ["base"])
    found, moved = taps(network, x).features, theirs(other, x).features
    expected = nn.functional.conv2d(
        x, network.get_parameter("base.conv_a.kernel").permute(3, 2, 0, 1), network.get_parameter("base.conv_a.bias")
    )
    torch.testing.assert_close(found["base.conv_a"], expected)
    torch.testing.assert_close(found["a_b"], expected)
    torch.testing.assert_close(moved["base"], expected + 1)
    assert found["flatten-1"].shape == (3, 4 * 3 * 4)
    assert anatomy(network, x).stages[-1].shape == (4, 4, 3)
    with pytest.raises(UserError, match="did you mean 'flatten-1'"):
        Taps(network, ["flatten"])


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_a_closing_softmax_or_sigmoid_is_left_out_exactly_and_stays_in_the_model(end) -> None:
    model, x = made(end=end), torch.rand(5, 2, 6, 5)
    with torch.no_grad():
        model.layers[-1].kernel.assign(model.layers[-1].kernel * 300)  # of these the logarithm is lost
    network = KerasNetwork(model, (2, 6, 5), logits=True).eval()
    assert network.gives_logits
    logits, before = network(x), model(last(x), training=False)
    own = model.layers[-1]
    seen = Taps(network, ["flatten-1"])(network, x).features["flatten-1"]
    torch.testing.assert_close(logits, seen @ own.kernel.value + own.bias.value)
    assert logits.abs().max() > 100
    torch.testing.assert_close(logits.softmax(1) if end == "softmax" else logits.sigmoid(), before)
    assert not KerasNetwork(model, (2, 6, 5)).gives_logits


def test_a_softmax_layer_is_left_out_too_and_other_ends_stay(keras) -> None:
    image = keras.Input((4,))
    logits = keras.layers.Dense(3)(image)
    model, x = keras.Model(image, keras.layers.Softmax()(logits)), torch.rand(5, 4)
    network = KerasNetwork(model, (4,), logits=True)
    torch.testing.assert_close(network(x), keras.Model(image, logits)(x))
    assert not KerasNetwork(made(end="relu"), (2, 6, 5), logits=True).gives_logits


@pytest.mark.parametrize(
    ("takes", "shape", "turned"),
    [
        ((6, 5, 2), (2, 6, 5), (6, 5, 2)),
        ((None, None, 2), (2, 6, 5), (6, 5, 2)),
        ((60,), (2, 6, 5), (60,)),
        ((6, 5), (1, 6, 5), (6, 5)),
        ((7,), (7,), (7,)),
    ],
)
def test_rows_are_turned_as_the_model_takes_them(keras, takes, shape, turned) -> None:
    image = keras.Input(takes)
    model = keras.Model(image, keras.layers.Dense(1)(keras.layers.Rescaling(1.0)(image)))
    network, x = KerasNetwork(model, shape), torch.rand(3, *shape)
    rows = (x.permute(0, 2, 3, 1) if len(shape) == 3 else x).reshape(3, *turned)
    torch.testing.assert_close(network(x), model(rows))


def test_what_does_not_fit_is_told(keras) -> None:
    image = keras.Input((4,))
    two = keras.Model(image, [keras.layers.Dense(1)(image), keras.layers.Dense(1)(image)])
    with pytest.raises(UserError, match="has 1 inputs and 2 outputs"):
        KerasNetwork(two, (4,))
    with pytest.raises(UserError, match=r"takes rows of shape \[6, 5, 2\], and here they are \[8, 8, 3\]"):
        KerasNetwork(made(), (3, 8, 8))
    with pytest.raises(UserError, match="is not built"):
        KerasNetwork(keras.Sequential([keras.layers.Dense(3)]))


def test_keras_with_another_backend_is_refused_in_words(monkeypatch) -> None:
    other = SimpleNamespace(__version__="3.15.1", backend=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", other)
    with pytest.raises(UserError, match=r"imported before, to compute with jax.*\n.*KERAS_BACKEND=torch"):
        library()


# --- by name -------------------------------------------------------------------------------------


def moved(network: nn.Module) -> nn.Module:
    """With biases and all else that is 0 at first somewhere else."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return network.eval()


OPTIONS = {
    "mlp": ((1, 6, 5), {"hidden": [9, 7]}),
    "conv-leaky": ((1, 9, 8), {"channels": [5, 6]}),
    "conv-pool": ((2, 18, 17), {"channels": [5, 6], "hidden": 8}),
    "vgg19-gap": ((3, 32, 32), {}),
    "vgg-small": ((3, 16, 17), {"channels": 5, "stages": 3, "convs": 2}),
}


def copied(ours: nn.Module, theirs: KerasNetwork, channels: int) -> None:
    """The weights of a torch network in its twin: [out, in, h, w] as [h, w, in, out]; channels last when flattened."""
    own = [m for m in ours.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    held = list(theirs.parameters())
    with torch.no_grad():
        for module, kernel, bias in zip(own, held[::2], held[1::2], strict=True):
            bias.copy_(module.bias)
            if isinstance(module, nn.Conv2d):
                kernel.copy_(module.weight.permute(2, 3, 1, 0))
            else:
                maps = module.weight.reshape(len(module.weight), channels, -1)
                kernel.copy_(maps.permute(2, 1, 0).reshape(kernel.shape))
            channels = len(module.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_twin_has_the_parameters_of_its_namesake_and_computes_the_same(name) -> None:
    shape, options = OPTIONS[name]
    spec = Network(model=name, options=options)
    ours, theirs = moved(build(spec, shape, 4)), build(spec, shape, 4, framework="keras").eval()
    assert isinstance(theirs, KerasNetwork)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    copied(ours, theirs, shape[0])
    x = torch.rand(3, *shape)
    torch.testing.assert_close(theirs(x), ours(x), atol=2e-5, rtol=1e-4)
    assert ours(x).std() > 1e-3


def test_every_reference_network_has_a_twin_with_its_options() -> None:
    assert list(TWINS) == list(NETWORKS)
    for name, signature in networks().items():
        if name not in NETWORKS:  # those that give logits for each pixel
            continue
        own = TWINS[name].__kwdefaults__
        assert set(own) == set(signature.options), name
        assert own == NETWORKS[name].__kwdefaults__, name


def test_the_deep_twins_begin_as_he_has_it() -> None:
    torch.manual_seed(0)
    network = build(Network(model="vgg-small"), (3, 32, 32), 10, framework="keras")
    kernel = network.get_parameter("stage3_conv2.kernel")
    assert kernel.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


FAMILIES = {
    "VGG19": "vgg19", "ResNet50": "resnet", "ResNet101V2": "resnet_v2", "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2", "Xception": "xception", "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2", "NASNetMobile": "nasnet", "DenseNet121": "densenet",
    "EfficientNetB3": "efficientnet", "EfficientNetV2S": "efficientnet_v2", "ConvNeXtTiny": "convnext",
    "MobileNetV3Small": "mobilenet_v3",
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_applications_are_given_what_keras_would_give_them(keras, name) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.float32)
    expected = getattr(keras.applications, FAMILIES[name]).preprocess_input(pixels.copy())
    spec = Network(model=f"keras/{name}")
    assert spec.preprocess == APPLICATIONS[name]
    mean, std, bgr = PREPROCESSING[spec.preprocess]
    given = Normalized(nn.Identity(), mean, std, bgr=bgr)(torch.from_numpy(pixels / 255).permute(0, 3, 1, 2))
    np.testing.assert_allclose(given.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


def test_every_name_is_one_of_keras(keras) -> None:
    assert all(callable(getattr(keras.applications, name)) for name in APPLICATIONS)
    known = {name for name, value in vars(keras.applications).items() if callable(value)}
    assert known == set(APPLICATIONS)


def test_an_application_by_name_and_what_it_refuses(keras, monkeypatch) -> None:
    spec = Network(model="keras/MobileNetV2", options={"alpha": 0.35})
    torch.manual_seed(0)
    one = build(spec, (1, 32, 32), 5)
    keras.layers.Conv2D(1, 1), keras.layers.Add()
    torch.manual_seed(0)
    two = build(spec, (1, 32, 32), 5)
    assert list(one.state_dict()) == list(two.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.get_parameter("Conv1.kernel").shape == (3, 3, 1, 16)
    assert one(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(UserError, match="cannot be built for 3 channels of 16 x 16"):
        build(spec, (3, 16, 16), 5)
    with pytest.raises(UserError, match=r"does not take these options.*width"):
        build(Network(model="keras/MobileNetV2", options={"width": 2}), (3, 32, 32), 5)
    with pytest.raises(UserError, match="`pooling` follows from the recipe"):
        build(Network(model="keras/MobileNetV2", options={"pooling": "max"}), (3, 32, 32), 5)
    with pytest.raises(UserError, match="`momentum` is a number from 0 to below 1"):
        build(Network(model="keras/MobileNetV2", options={"momentum": 1.0}), (3, 32, 32), 5)
    with pytest.raises(UserError, match="`momentum` has no effect"):
        build(Network(model="keras/VGG16", options={"momentum": 0.5}), (3, 32, 32), 5)
    assert one.memory_steps == 4603  # 0.999 ** 4603 is just below 0.01
    quick = build(Network(model="keras/MobileNetV2", options={"alpha": 0.35, "momentum": 0.5}), (3, 32, 32), 5)
    assert quick.memory_steps == 7
    norm = quick.get_submodule("bn_Conv1")
    seen = Taps(quick.train(), ["Conv1"])(quick, torch.rand(4, 3, 32, 32)).features["Conv1"]
    torch.testing.assert_close(norm.moving_mean, 0.5 * seen.detach().mean((0, 2, 3)))
    offline = OSError("no route to host")

    def fails(*_: object, **__: object) -> None:
        raise offline

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", fails)
    with pytest.raises(UserError, match=r"pretrained weights could not be fetched .no route to host"):
        build(spec.model_copy(update={"pretrained": True}), (1, 32, 32), 5)


@pytest.mark.parametrize(("epochs", "told"), [(2, True), (400, False)])
def test_a_training_too_short_for_the_statistics_is_told(epochs, told) -> None:
    spec = recipe.Student(model="keras/MobileNetV2", options={"momentum": 0.99}, train=Plan(epochs=epochs))
    lines: list[str] = []
    job = SimpleNamespace(data=SimpleNamespace(taught=range(100)), progress=SimpleNamespace(say=lines.append))
    network = KerasNetwork(made(), (2, 6, 5))
    network._graph.model.layers[1].momentum = 0.99
    _remembers(job, spec, network)
    assert bool(lines) is told
    if told:
        assert "knows its data after 459 steps; this training has 4 " in lines[0]  # 0.99 ** 459 is just below 0.01


# --- in the loop ---------------------------------------------------------------------------------


def toy() -> limbeck.Data:
    """Three classes: two rows of pixels are brighter, and which ones tells the class."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(240, 2, 6, 5, generator=generator), torch.arange(240) % 3
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 0.5
    x /= 1.5
    return limbeck.from_arrays(x, y.numpy())


@pytest.mark.parametrize("teaches", ["keras", "torch"])
def test_a_keras_student_learns_in_our_loop_and_from_either_side(teaches) -> None:
    data = toy()
    student = KerasNetwork(made(dropout=0.1), data.shape)
    teacher = KerasNetwork(made(2), data.shape)
    if teaches == "torch":
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(60, 32), nn.ReLU(), nn.Linear(32, 3))
    labels = limbeck.Term("hard", limbeck.bind("hard"), 1.0)
    limbeck.fit(teacher, limbeck.Objective([labels]), None, data, Plan(epochs=8, lr=0.01, batch_size=16))
    answers = limbeck.Frozen(teacher)
    before = [p.clone() for p in teacher.parameters()]
    both = limbeck.Objective([labels, limbeck.Term("kd", limbeck.bind("kd", temperature=2.0), 1.0)])
    history = limbeck.fit(student, both, answers, data, Plan(epochs=8, lr=0.01, batch_size=16, ema=0.5))
    assert history.epochs[-1]["train_kd"] < 0.6 * history.epochs[0]["train_kd"]
    assert limbeck.assess(student, data)["accuracy"] > 0.8
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_features_of_a_keras_teacher_are_learned_by_a_torch_student() -> None:
    data = toy()
    teacher = KerasNetwork(made(), data.shape)
    student = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    term = limbeck.Term("near", lambda s, t, _: (s - t).square().mean(), 1.0, "1", "conv2d-1")
    fit = limbeck.fit(
        student,
        limbeck.Objective([term]),
        limbeck.Frozen(teacher, taps=["conv2d-1"]),
        data,
        Plan(epochs=6, lr=0.03),
    )
    assert fit.epochs[-1]["train_near"] < 0.3 * fit.epochs[0]["train_near"]


# --- held against Keras's own --------------------------------------------------------------------

TEMPERATURE, STEPS, LR = 3.0, 4, 0.05


def distilled_by_keras(keras, teacher, student, x, y, loss) -> list[float]:
    """Losses of a few steps of keras.distillation.Distiller with plain gradient descent, batch by batch."""
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        [keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=loss)],
        student_loss_weight=0.3,
    )
    hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(LR), loss=hard)
    found = []
    for rows, labels in zip(x, y, strict=True):
        distiller.reset_metrics()
        told = distiller.train_on_batch(last(rows).numpy(), labels.numpy(), return_dict=True)
        found.append(float(told["total_loss"]))
    return found


def test_our_objective_is_that_of_keras_distiller_with_the_loss_object(keras) -> None:
    plain = keras.Sequential([keras.Input((6, 5, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with torch.no_grad():
        plain.layers[-1].kernel.assign(plain.layers[-1].kernel * 3)
    other = made(4)
    teacher, student = KerasNetwork(plain, (2, 6, 5)), KerasNetwork(other, (2, 6, 5)).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(STEPS, 16, 2, 6, 5, generator=generator)
    y = torch.randint(3, (STEPS, 16), generator=generator)
    objective = limbeck.Objective(
        [
            limbeck.Term("hard", limbeck.bind("hard"), weight=0.3),
            limbeck.Term("kd", limbeck.bind("kd", temperature=TEMPERATURE), weight=0.7),
        ]
    )
    frozen, optimizer, ours = limbeck.Frozen(teacher), torch.optim.SGD(student.parameters(), LR), []
    for rows, labels in zip(x, y, strict=True):
        batch = limbeck.Batch(rows, labels, torch.arange(16))
        loss = objective(limbeck.Output(student(rows)), frozen(batch), batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ours.append(loss.item())
    theirs = distilled_by_keras(keras, plain, other, x, y, keras.losses.KLDivergence())
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for variable, (name, value) in zip(other.trainable_variables, student.named_parameters(), strict=True):
        torch.testing.assert_close(value.detach(), variable.value.detach(), msg=name, atol=1e-5, rtol=1e-4)


def test_the_default_of_keras_is_another_loss(keras) -> None:
    """A loss named by its string becomes a function, so logits are taken for probabilities and cut to [1e-7, 1]."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(64, 10, generator=generator) for _ in range(2))
    default = keras.distillation.LogitsDistillation(temperature=TEMPERATURE)
    proper = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())
    ours = limbeck.bind("kd", temperature=TEMPERATURE)(student, teacher, torch.zeros(64, dtype=torch.int64))
    assert float(proper.compute_loss(teacher, student)) == pytest.approx(ours.item(), abs=1e-5)
    low, high = np.float32(1e-7), np.float32(1.0)
    t, s = (np.clip((z / TEMPERATURE).numpy(), low, high) for z in (teacher, student))
    wrong = float((t * np.log(t / s)).sum(1).mean())
    assert float(default.compute_loss(teacher, student)) == pytest.approx(wrong, rel=1e-4)
    assert wrong != pytest.approx(ours.item(), rel=0.1)
    assert float(default.compute_loss(teacher, torch.full((64, 10), 10.0))) < 0  # no divergence is


# --- in a recipe ---------------------------------------------------------------------------------


def checked(**changes):
    base = {
        "data": {"source": "digits"},
        "teachers": [{"model": "mlp", "train": {"epochs": 1}}],
        "student": {"model": "mlp"},
        "losses": {"kd": 1.0},
    }
    return recipe.load({**base, **changes})


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"framework": "jax"}, "framework", "keras"),
        ({"framework": "keras", "teachers": [{"model": "timm/vgg19", "train": {}}]}, "teachers.0.model", "no twin"),
        (
            {"framework": "keras", "teachers": [], "student": {"model": "keras/VGG16"}, "losses": {"hard": 1}},
            "framework",
            "has no effect",
        ),
        ({"student": {"model": "keras/MobileNetV9"}}, "student", "did you mean 'MobileNetV"),
        ({"framework": "keras", "export": ["executorch"]}, "export", "cannot be made of a model of Keras"),
        ({"framework": "keras", "compress": {"half": [{"prune": {"ratio": 0.5}}]}}, "compress", "layers of PyTorch"),
        ({"framework": "keras", "budget": {"size_kb": 9}, "export": []}, "budget", "layers of PyTorch"),
        ({"export": ["keras"]}, "export", "students of Keras"),
        ({"student": {"model": "own.keras", "options": {"a": 1}}}, "student", "`options` has no effect"),
        ({"student": {"model": "own.keras", "outputs": "logits"}}, "student", "`outputs` has no effect"),
        (
            {"framework": "keras", "teachers": [{"model": "vgg19-gap", "pretrained": True, "train": {}}]},
            "teachers.0.preprocess",
            "caffe",
        ),
    ],
)
def test_what_keras_cannot_do_is_told_by_check(changes, place, what) -> None:
    with pytest.raises(UserError) as caught:
        checked(**changes)
    assert what in str(caught.value)
    assert place in str(caught.value)


def test_what_keras_can_do_passes() -> None:
    assert checked().framework == "torch"
    assert checked(framework="keras", export=["keras", "litert", "onnx", "openvino"]).framework == "keras"
    student = checked(student={"model": "keras/VGG19", "mean": [0.5], "std": [0.5]}).student
    assert student.preprocess is None
    assert checked(student={"model": "own.keras"}, export=["keras"]).student.source.kind.name == "keras"
    assert checked(teachers=[{"model": "own.h5"}]).teachers[0].asked
    assert not checked(teachers=[{"model": "own.h5", "train": {"epochs": 2}}]).teachers[0].asked
