"""Quantization-aware training: an ordinary module, and files that compute what it computes."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck import export
from limbeck.compress import qat
from limbeck.compress.qat import FakeQuantized
from limbeck.compress.qat.prepare import converted
from limbeck.core.errors import UserError
from limbeck.core.formats import TRAINED
from limbeck.export import quantize
from limbeck.export.quantize import pt2e
from limbeck.models import Normalized, load_weights, save_weights

pytestmark = pytest.mark.slow  # to prepare a network takes seconds
EPS, MOMENTUM = 1e-2, 0.3


def network() -> nn.Module:
    """Batch norms unlike the library's defaults, one of them behind a sum; dropout; a channel of tiny weights."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8, eps=EPS, momentum=MOMENTUM)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.norm2 = nn.BatchNorm2d(8)
            self.alone = nn.BatchNorm2d(8, eps=EPS)
            self.drop = nn.Dropout(0.2)
            self.head = nn.Linear(8 * 16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.first(x)))
            x = self.alone(x + F.relu6(self.norm2(self.depthwise(x))))
            given: Tensor = self.head(self.drop(F.adaptive_avg_pool2d(x, 4).flatten(1)))
            return given

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for norm in (net.norm, net.norm2, net.alone):
            norm.running_var.uniform_(0.005, 0.02)
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.weight.uniform_(0.5, 1.5)
        net.head.weight[3] *= 1e-3
    return Normalized(net, [0.286], [0.353])


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def prepared(x: Tensor) -> FakeQuantized:
    need(importlib.util.find_spec("torchao") is not None, "the extra executorch")
    return qat.prepare_qat(network(), x)


@pytest.fixture
def module(prepared: FakeQuantized) -> FakeQuantized:
    return copy.deepcopy(prepared)


def train(module: nn.Module, x: Tensor, steps: int) -> list[float]:
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    losses = []
    module.train()
    for _ in range(steps):
        loss = F.cross_entropy(module(x), torch.arange(len(x)) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_starts_where_the_network_is(prepared: FakeQuantized, x: Tensor) -> None:
    net = network().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    again = qat.prepare_qat(net.train(), x)
    assert net.training  # left as it was
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        reference, given = net.eval()(x), prepared(x)
    assert 0 < (given - reference).abs().max() < 0.05 * reference.abs().max()
    one, two = prepared.state_dict(), again.state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[k], two[k]) for k in one)  # made anew, the same to the last bit


def test_weights_round_to_integers_of_their_channel(module: FakeQuantized, x: Tensor) -> None:
    graph = converted(module, fold=True)
    held = [v for v in (*graph.state_dict().values(),) if v.dtype == torch.int8 and v.ndim > 1]
    assert sorted(v.ndim for v in held) == [2, 4, 4]
    for weights in held:
        assert (weights.flatten(1).abs().amax(1) == 127).all()  # every channel uses its range, also the tiny one


def test_four_bits_take_fifteen_values(x: Tensor, prepared: FakeQuantized) -> None:
    graph = converted(qat.prepare_qat(network(), x, weight_bits=4), fold=True)
    held = [v for v in graph.state_dict().values() if v.dtype == torch.int8 and v.ndim > 1]
    assert {int(v.abs().max()) for v in held} == {7}


def test_it_learns_and_its_modes_differ_as_they_should(module: FakeQuantized, x: Tensor) -> None:
    (mean,) = (key for key in module.state_dict() if key.endswith("model.norm.running_mean"))
    start = module.state_dict()[mean].clone()
    with torch.no_grad():
        still = module(x)
        assert torch.equal(module(x), still)  # nothing drops, nothing is measured
        assert torch.equal(module.state_dict()[mean], start)
        module.train()
        seen = module.state_dict()[mean].clone()
        assert not torch.equal(module(x), module(x))  # dropout
        assert torch.equal(module.eval()(x), module(x))
    assert not torch.equal(module.state_dict()[mean], seen)
    losses = train(module, x, 12)
    assert losses[-1] < losses[0]
    assert module.training
    assert not module.eval().training


def test_batch_norm_keeps_its_own_eps_momentum_and_dropout_its_rate(module: FakeQuantized, x: Tensor) -> None:
    net = network()
    module.train()
    net.train()
    with torch.no_grad():
        # In training mode a rounded network's first batch norm sees what the plain one's sees, but for roundings.
        module(x)
        net(x)
    (ours,) = (value for key, value in module.state_dict().items() if key.endswith("model.norm.running_var"))
    assert torch.allclose(ours, net.model.norm.running_var, rtol=0.02, atol=1e-5)  # momentum
    dropout = [n for n in module.graph.graph.nodes if n.target is torch.ops.aten.dropout.default]
    assert [n.args[1:] for n in dropout] == [(0.2, True)]
    module.eval()
    assert [n.args[1:] for n in dropout] == [(0.2, False)]


def test_what_it_gives_in_eval_mode_is_what_is_converted(module: FakeQuantized, x: Tensor) -> None:
    train(module, x, 5)
    module.eval()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    with torch.no_grad():
        expected = module(x)
        for fold in (True, False):
            apart = (converted(module, fold=fold)(x) - expected).abs()
            assert apart.max() < 0.02 * expected.abs().max()  # what lies halfway may be rounded either way
            assert apart.mean() < 1e-3 * expected.abs().max()
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())  # left as it is


def test_training_goes_on_from_a_checkpoint_to_the_last_bit(prepared: FakeQuantized, x: Tensor, tmp_path: Path) -> None:
    straight, first = copy.deepcopy(prepared), copy.deepcopy(prepared)
    train(straight, x, 3)
    state = copy.deepcopy(straight.state_dict())
    other = qat.prepare_qat(network(), x)
    other.train()
    other.load_state_dict(state)
    assert train(straight, x, 2) == train(other, x, 2)
    save_weights(straight.eval(), tmp_path / "weights.safetensors")
    load_weights(first, tmp_path / "weights.safetensors", fresh_head=False)
    with torch.no_grad():
        assert torch.equal(first(x), straight(x))


def test_an_averaged_copy_rounds_too(module: FakeQuantized, x: Tensor) -> None:
    """An average over integer buffers goes wrong; ranges are taken from the measured floats instead."""
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        train(module, x, 1)
        average.update_parameters(module)
    mean = average.module.eval()
    with torch.no_grad():
        given, expected = mean(x), converted(mean, fold=True)(x)
    for rounding in pt2e.roundings(mean.graph):
        assert rounding.fake_quant_enabled.item() == 1
    assert (given - expected).abs().mean() < 0.002 * expected.abs().max()


def test_refusals(x: Tensor, prepared: FakeQuantized, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights of 3 bits"):
        qat.prepare_qat(network(), x, weight_bits=3)
    with pytest.raises(UserError, match="no rows to start from"):
        qat.prepare_qat(network(), x[:0])
    with pytest.raises(UserError, match="nothing in it can be quantized"):
        qat.prepare_qat(nn.Sequential(nn.Flatten(), nn.Tanh()), x)
    with pytest.raises(UserError, match="was not prepared"):
        qat.lower_qat(network(), x, tmp_path / "a.onnx", "onnx-int8")
    with pytest.raises(UserError, match=r"cannot become 'litert-w4'\n"):
        qat.lower_qat(prepared, x, tmp_path / "a.tflite", "litert-w4")


@pytest.mark.parametrize("name", TRAINED)
def test_files_compute_what_was_trained(name: str, prepared: FakeQuantized, x: Tensor, tmp_path: Path) -> None:
    module = copy.deepcopy(prepared)
    train(module, x, 5)
    module.eval()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    interface = export.Interface("uint8", "nhwc", (1, 64)) if name == "litert-int8" else export.Interface()
    rows = export.as_given(x.numpy(), interface)
    with torch.no_grad():
        expected = module(torch.from_numpy(export.as_seen(rows, interface))).numpy()
    path = tmp_path / f"model{export.suffix(name)}"
    qat.lower_qat(module, x, path, name, interface)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    given = export.run(path, name, rows)
    step = np.diff(np.unique(expected.round(4))).min()  # what is given is whole steps
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() < 4 * step
    # LiteRT rounds every layer's outputs by its own kernels, whose ties fall elsewhere; ONNX Runtime's saturate on an
    # x86 processor without VNNI.
    allowed = {"litert-int8": 1.0, "onnx-int8": 0.5}
    assert np.abs(given - expected).mean() < allowed.get(name, 0.3) * step
    plain = quantize.source(name, network(), x, tmp_path, interface)
    assert export.size_bytes(path) < (export.size_bytes(plain) if name in ("litert-int8", "onnx-int8") else 50_000)


def test_what_comes_after_stays_float_and_inputs_without_normalisation_are_floats(tmp_path: Path) -> None:
    need(importlib.util.find_spec("torchao") is not None, "the extra executorch")
    torch.manual_seed(0)
    x = torch.rand(64, 12)
    module = qat.prepare_qat(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2)), x)

    class Scaled(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return 1000 * y + 7

    path = tmp_path / "model.int8.tflite"
    qat.lower_qat(module, x, path, "litert-int8", after=Scaled())
    with torch.no_grad():
        expected = (1000 * module(x) + 7).numpy()
    given = export.run(path, "litert-int8", x.numpy())
    assert np.abs(given - expected).max() < 0.03 * np.abs(expected).max()
    qat.lower_qat(module, x, path, "litert-int8")
    given = export.run(path, "litert-int8", x.numpy())
    assert given.dtype == np.float32
    with torch.no_grad():
        assert np.abs(given - module(x).numpy()).max() < 0.03 * np.abs(given).max()
