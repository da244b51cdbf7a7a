"""Features from the one forward pass: the right ones, no leftovers, no traces."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.distill.objective.feature_taps import Taps


class Small(nn.Module):
    """A network with a part used twice, a part unused, a part that gives two tensors and an in-place one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.twice = nn.Tanh()
        self.unused = nn.Linear(4, 4)
        self.pair = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        x = self.twice(self.body(self.twice(self.stem(x))))
        x, _ = self.pair(x)
        return self.head(x)


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_features_are_those_of_the_named_modules(model: Small) -> None:
    taps = Taps(model, ["stem", "body.1"])
    x = torch.randn(5, 3)
    for _ in range(2):
        output = taps(model, x)
        stem = model.stem(x)
        assert list(output.features) == ["stem", "body.1"]
        assert torch.equal(output.features["stem"], stem)
        assert torch.equal(output.features["body.1"], model.body(stem.tanh()))
        assert torch.equal(output.prediction, model(x))
        x = x + 1


def test_one_forward_pass_is_enough(model: Small) -> None:
    Taps(model, ["stem", "head"])(model, torch.randn(2, 3))
    assert model.passes == 1


def test_gradient_flows_through_the_features(model: Small) -> None:
    taps = Taps(model, ["stem"])
    taps(model, torch.randn(2, 3)).features["stem"].sum().backward()
    assert model.stem.weight.grad is not None
    assert model.stem.weight.grad.abs().max() > 0


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients(model: Small, guard: type) -> None:
    taps = Taps(model, ["stem"])
    x = torch.randn(2, 3)
    with guard():
        output = taps(model, x)
    assert not output.features["stem"].requires_grad
    assert torch.equal(output.features["stem"], model.stem(x))


def test_no_names_no_hooks(model: Small) -> None:
    output = Taps(model, [])(model, torch.randn(2, 3))
    assert hooks(model) == 0
    assert output.features == {}
    assert output.prediction.shape == (2, 2)


def test_forward_may_be_a_wrapper(model: Small) -> None:
    taps = Taps(model, ["stem"])
    x = torch.randn(2, 3)
    output = taps(lambda images: model(images * 2), x)
    assert torch.equal(output.features["stem"], model.stem(x * 2))


def test_forward_may_be_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    taps = Taps(model, ["1"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # the hook breaks no graph
    for _ in range(2):
        x = torch.randn(2, 3)
        assert torch.equal(taps(compiled, x).features["1"], model[1](model[0](x)))
    assert compiled(x).shape == (2, 2)  # and outside the taps


def test_hooks_are_gone_after_close(model: Small) -> None:
    taps = Taps(model, ["stem", "body.1", "stem"])
    assert taps.names == ("stem", "body.1")
    assert hooks(model) == 2
    taps.close()
    assert hooks(model) == 0
    taps.close()


def test_hooks_are_gone_with_the_taps(model: Small) -> None:
    taps = Taps(model, ["stem"])
    assert hooks(model) == 1
    del taps
    gc.collect()
    assert hooks(model) == 0


def test_nothing_is_held_after_a_call(model: Small) -> None:
    taps = Taps(model, ["stem"])
    feature = weakref.ref(taps(model, torch.randn(2, 3)).features["stem"])
    gc.collect()
    assert feature() is None
    model(torch.randn(2, 3))  # used outside the taps
    assert taps._record.seen == {}


def test_the_model_is_not_held(model: Small) -> None:
    plain = nn.Sequential(nn.Linear(3, 2))
    taps = Taps(plain, ["0"])
    taps(plain, torch.randn(2, 3))
    gone = weakref.ref(plain)
    del plain
    gc.collect()
    assert gone() is None
    assert taps.names == ("0",)


def test_a_failed_pass_leaves_nothing_behind(model: Small) -> None:
    taps = Taps(model, ["stem"])
    with pytest.raises(RuntimeError):
        taps(model, torch.randn(2, 7))
    with pytest.raises(ZeroDivisionError):
        taps(lambda x: model(x) / (1 // 0), torch.randn(2, 3))
    assert taps._record.seen == {}
    assert not taps._record.open
    x = torch.randn(2, 3)
    assert torch.equal(taps(model, x).features["stem"], model.stem(x))


def test_a_copy_of_the_model_disturbs_nothing(model: Small) -> None:
    taps = Taps(model, ["stem"])
    copy.deepcopy(model)(torch.randn(2, 3))
    assert taps._record.seen == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stm", "Small has no submodule 'stm' to tap.*did you mean 'stem'"),
        ("body.2", "no submodule 'body.2'.*'body.0' or 'body.1'|no submodule 'body.2'.*'body.1' or 'body.0'"),
        ("", "no submodule ''"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(model: Small, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        Taps(model, ["stem", name])
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unused", "tap 'unused': this module was not called"),
        ("twice", "tap 'twice': this module is called 2 times"),
        ("pair", "tap 'pair': this module gives a tuple, not one tensor"),
        ("body.0", "tap 'body.0': a later module overwrites this output in place"),
    ],
)
def test_what_is_not_one_feature_is_refused(model: Small, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Taps(model, [name])(model, torch.randn(2, 3))
