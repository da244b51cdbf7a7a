"""Teachers stay as they were, and answer with logits."""

import math

import pytest
import torch
from torch import nn

from limbeck.models import log_probabilities
from limbeck.teachers import Ensemble, Frozen, average, mean
from limbeck.types import Batch


def batch(*shape):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.rand(*shape, generator=generator), torch.zeros(shape[0], dtype=torch.int64), torch.arange(shape[0])
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_a_teacher_is_a_copy_in_eval_mode_that_nothing_changes():
    model = network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    teacher = Frozen(model)
    first = teacher(batch(16, 6)).prediction
    assert torch.equal(first, teacher(batch(16, 6)).prediction)
    assert not first.requires_grad
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(first, teacher(batch(16, 6)).prediction)


def test_nobody_reaches_the_teacher_through_a_module_that_holds_it():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = Frozen(network())
            self.head = nn.Linear(3, 3)

    holder = Holder().train()
    assert [n for n, _ in holder.named_parameters()] == ["head.weight", "head.bias"]
    assert set(holder.state_dict()) == {"head.weight", "head.bias"}


def test_a_softmax_at_the_end_is_turned_back_into_logits():
    plain, soft = network(), nn.Sequential(network(), nn.Softmax(dim=1))
    given, wanted = Frozen(soft)(batch(16, 6)).prediction, Frozen(plain)(batch(16, 6)).prediction
    torch.testing.assert_close(given.softmax(1), wanted.softmax(1))
    torch.testing.assert_close(given, wanted.log_softmax(1))
    assert Frozen(plain, probabilities=False)(batch(16, 6)).prediction.max() != given.max()


def test_log_probabilities_are_finite_at_zero():
    found = log_probabilities(torch.tensor([[0.0, 1.0], [0.25, 0.75]]))
    assert torch.isfinite(found).all()
    assert found[1].tolist() == pytest.approx([math.log(0.25), math.log(0.75)])


def test_features_come_from_the_same_pass():
    output = Frozen(network(), taps=["0", "3"])(batch(16, 6))
    assert output.features["0"].shape == (16, 8)
    assert torch.equal(output.features["3"], output.prediction)


def test_bfloat16_is_close_and_gives_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    exact, low = Frozen(model)(batch(32, 1, 8, 8)), Frozen(model, dtype=torch.bfloat16, taps=["1"])(batch(32, 1, 8, 8))
    assert low.prediction.dtype == low.features["1"].dtype == torch.float32
    torch.testing.assert_close(low.prediction, exact.prediction, atol=0.02, rtol=0.05)
    assert not torch.equal(low.prediction, exact.prediction)


def test_average_is_the_log_of_the_mean_probability():
    predictions = [[[2.0, 0.0, -1.0]], [[0.0, 1.0, 3.0]]]
    soft = [[math.exp(v) / sum(math.exp(u) for u in row) for v in row] for (row,) in predictions]
    wanted = [math.log((a + b) / 2) for a, b in zip(*soft, strict=True)]
    assert average(torch.tensor(predictions))[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_average_of_far_apart_logits_is_finite():
    assert torch.isfinite(average(torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]]))).all()


def test_an_ensemble_asks_all_its_members():
    members = [Frozen(nn.Linear(6, 2)) for _ in range(3)]
    rows = batch(5, 6)
    wanted = sum(m(rows).prediction for m in members) / 3
    torch.testing.assert_close(Ensemble(members, mean)(rows).prediction, wanted)
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([], mean)
