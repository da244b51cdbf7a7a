"""Teachers stay as they were and answer with logits; members are joined as NumPy would in float64."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck import recipe
from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Output
from limbeck.distill.teachers import (
    Ensemble,
    Frozen,
    Joint,
    Stack,
    as_combine,
    average,
    by_confidence,
    combiner,
    logits_average,
    mean,
    median,
    validation_weights,
    vote,
    weighted,
)
from limbeck.models import Normalized, log_probabilities


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
    watched = batch(16, 6)
    watched.x.requires_grad_()
    assert not teacher(watched).prediction.requires_grad  # nor through what it is given
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


def test_bfloat16_leaves_the_normalisation_of_every_member_in_float32():
    torch.manual_seed(0)
    members = [Normalized(nn.Linear(6, 3), [100.0] * 6, [0.01] * 6) for _ in range(2)]
    near = batch(16, 6)
    near = Batch(100 + 0.01 * near.x, near.y, near.index)  # rounded to bfloat16, all of it would be 100
    joint = Joint(members, Stack(2, 3))
    exact, low = Frozen(joint)(near).prediction, Frozen(joint, dtype=torch.bfloat16)(near).prediction
    torch.testing.assert_close(low, exact, atol=0.03, rtol=0.05)
    assert not torch.equal(low, exact)


def test_an_ensemble_asks_all_its_members_whatever_they_are():
    rows = batch(5, 6)
    stored = torch.arange(10.0).view(5, 2)
    members = [Frozen(nn.Linear(6, 2)), Frozen(nn.Linear(6, 2)), lambda b: Output(stored[b.index])]
    wanted = sum(m(rows).prediction for m in members) / 3
    torch.testing.assert_close(Ensemble(members, mean)(rows).prediction, wanted)
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([], mean)


# --- the same a second time, in NumPy --------------------------------------------------------------


def shares_of(predictions):
    raised = np.exp(predictions - predictions.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def average_by_hand(predictions):
    return np.log(shares_of(predictions).mean(0))


def logits_average_by_hand(predictions):
    return (predictions - predictions.mean(-1, keepdims=True)).mean(0)


def vote_by_hand(predictions, smoothing=1.0):
    members, rows, classes = predictions.shape
    votes = np.full((rows, classes), smoothing / classes)
    for member in predictions:
        for row, choice in enumerate(member.argmax(1)):
            votes[row, choice] += 1
    return np.log(votes / (members + smoothing))


def confidence_by_hand(predictions):
    shares = shares_of(predictions)
    joined = np.empty(shares.shape[1:])
    for row in range(shares.shape[1]):
        weights = [1 + sum(p * math.log(p) for p in member if p) / math.log(len(member)) for member in shares[:, row]]
        joined[row] = sum(w * member for w, member in zip(weights, shares[:, row], strict=True)) / sum(weights)
    return np.log(joined)


def weighted_by_hand(predictions):
    return np.log((5 * shares_of(predictions[0]) + 2 * shares_of(predictions[1])) / 7)


WAYS = {
    "average": (average, average_by_hand),
    "logits-average": (logits_average, logits_average_by_hand),
    "vote": (vote(), vote_by_hand),
    "vote, little smoothing": (vote(smoothing=0.01), lambda p: vote_by_hand(p, 0.01)),
    "confidence": (by_confidence, confidence_by_hand),
    "weighted": (weighted([5, 2, 0]), weighted_by_hand),
    "mean": (mean, lambda p: np.mean(p, 0)),
    "median": (median, lambda p: np.median(p, 0)),
    "weighted values": (weighted([5, 2, 0], kind="regression"), lambda p: (5 * p[0] + 2 * p[1]) / 7),
}
SHARES = ("average", "logits-average", "vote", "vote, little smoothing", "confidence", "weighted")
ALIKE = [name for name in WAYS if not name.startswith("weighted")]  # to which all members are alike
FINE = {"atol": 1e-5, "rtol": 1e-5}


def predictions(members, rows, classes, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(members, rows, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("classes", [2, 7])
def test_members_are_joined_as_by_hand(name, classes):
    combine, by_hand = WAYS[name]
    told = predictions(3, 40, classes)
    np.testing.assert_allclose(combine(told).numpy(), by_hand(told.numpy()), atol=1e-10)
    assert combine(told.float()).dtype == torch.float32
    torch.testing.assert_close(combine(told.float()), combine(told).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("members", [1, 2, 4, 5])
def test_the_median_of_an_even_number_lies_between_the_middle_two(members):
    told = predictions(members, 9, 2)
    np.testing.assert_allclose(median(told).numpy(), np.median(told.numpy(), axis=0), atol=1e-15)


some = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 6), st.integers(0, 10**6))


@pytest.mark.parametrize("name", ALIKE)
@given(some)
@settings(max_examples=15, deadline=None)
def test_the_order_of_members_is_irrelevant(name, drawn):
    combine, told = WAYS[name][0], predictions(*drawn)
    order = torch.randperm(drawn[0], generator=torch.Generator().manual_seed(drawn[3]))
    torch.testing.assert_close(combine(told[order]), combine(told))


@pytest.mark.parametrize("name", [name for name in ALIKE if not name.startswith("vote")])
@given(some)
@settings(max_examples=15, deadline=None)
def test_copies_of_one_member_give_that_member_back(name, drawn):
    told = predictions(1, *drawn[1:])
    given, wanted = WAYS[name][0](told.expand(drawn[0], -1, -1)), told[0]
    if name in SHARES:  # up to a constant in each row
        given, wanted = given.log_softmax(1), wanted.log_softmax(1)
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("name", [name for name in SHARES if name != "logits-average"])
@given(some)
@settings(max_examples=15, deadline=None)
def test_what_comes_out_are_log_probabilities(name, drawn):
    given = WAYS[name][0](predictions(3, *drawn[1:]))
    assert (given <= 1e-12).all()
    torch.testing.assert_close(given.exp().sum(1), torch.ones(drawn[1], dtype=torch.float64))


@pytest.mark.parametrize(
    "name", [name for name in WAYS if name != "confidence"]
)  # of which a doubt may grow with a logit
@given(st.tuples(st.just(3), st.integers(1, 6), st.integers(2, 6), st.integers(0, 10**6)), st.floats(0.01, 20))
@settings(max_examples=15, deadline=None)
def test_more_of_a_class_from_a_member_is_never_less_of_it(name, drawn, more):
    told, way = predictions(*drawn), WAYS[name][0]
    raised = told.clone()
    raised[drawn[3] % 3, :, 0] += more
    before, after = (way(t) for t in (told, raised))
    if name in SHARES:
        before, after = before.log_softmax(1), after.log_softmax(1)
    assert (after[:, 0] >= before[:, 0] - 1e-12).all()


@pytest.mark.parametrize("name", WAYS)
def test_a_row_alone_is_joined_as_within_a_batch(name):
    told, combine = predictions(3, 20, 5).float(), WAYS[name][0]
    together = combine(told)
    for row in range(20):
        torch.testing.assert_close(combine(told[:, row : row + 1])[0], together[row], **FINE)


@pytest.mark.parametrize("name", WAYS)
def test_no_gradient_passes_through(name):
    told = predictions(3, 4, 3).requires_grad_()
    assert not WAYS[name][0](told).requires_grad


@pytest.mark.parametrize("name", SHARES)
def test_far_apart_logits_and_classes_ruled_out_stay_finite(name):
    far = torch.tensor([[[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]], [[0.0, 0.0, 0.0]]])
    assert WAYS[name][0](far).isfinite().all()
    out = torch.tensor([[[-math.inf, 0.0, 0.0]], [[-math.inf, 0.0, -math.inf]], [[0.0, 0.0, 0.0]]])
    assert WAYS[name][0](out).isfinite().all()
    assert WAYS[name][0](out[[0, 1, 1]]).isfinite().all()  # a class that all members rule out


def test_a_class_ruled_out_by_one_member_has_the_share_that_others_give_it():
    given = average(torch.tensor([[[-math.inf, 0.0]], [[0.0, 0.0]]]))
    assert given[0].tolist() == pytest.approx([math.log(0.25), math.log(0.75)])


def test_constants_of_the_members_are_not_seen():
    told = predictions(3, 10, 4).float()
    moved = told + torch.tensor([0.0, 512.0, -64.0]).view(3, 1, 1)
    for name in SHARES:
        torch.testing.assert_close(WAYS[name][0](moved), WAYS[name][0](told), atol=2e-4, rtol=1e-4)
    assert logits_average(moved).sum(1).abs().max() < 1e-3


def test_a_tie_splits_the_vote():
    given = vote(smoothing=0.5)(torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]]))
    wanted = [0.5 + 0.25 + 0.125, 0.5 + 0.25 + 0.125, 0.25 + 0.125, 0.25 + 0.125]
    assert given[0].exp().tolist() == pytest.approx([w / 2.5 for w in wanted])


def test_members_without_confidence_count_the_same():
    unsure = torch.tensor([0.0, 0.0, 0.0])
    sure = torch.tensor([0.0, 9.0, 1.0])
    assert by_confidence(torch.stack([unsure, unsure + 5]).unsqueeze(1)).exp()[0].tolist() == pytest.approx([1 / 3] * 3)
    given = by_confidence(torch.stack([unsure, sure]).unsqueeze(1))[0]
    torch.testing.assert_close(given, sure.log_softmax(0), atol=1e-4, rtol=1e-4)


# --- weights and the choice ------------------------------------------------------------------------


def test_weights_are_relative_and_a_weight_of_0_leaves_a_member_out():
    told = predictions(3, 6, 4)
    torch.testing.assert_close(weighted([1e308, 1e308, 1e308])(told), average(told))
    broken = told.clone()
    broken[1] = math.nan
    torch.testing.assert_close(weighted([1, 0, 0])(broken), told[0].log_softmax(1))
    torch.testing.assert_close(weighted([1, 0, 3], kind="regression")(broken), (told[0] + 3 * told[2]) / 4)


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [1, math.nan], [math.inf, 1]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(UserError, match="0 or more"):
        weighted(weights)


def test_other_weights_than_members():
    with pytest.raises(UserError, match="2 weights for 3 members"):
        weighted([1, 1])(predictions(3, 2, 2))


def test_weights_by_what_members_are_worth_on_validation():
    assert validation_weights("classification", [0.9, 0.6]) == pytest.approx([0.6, 0.4])
    assert validation_weights("classification", [0.0, 0.0]) == [0.5, 0.5]
    assert validation_weights("regression", [1.0, 2.0]) == pytest.approx([0.8, 0.2])  # RMSE: 1/1 and 1/4
    assert validation_weights("regression", [1e-200, 2e-200]) == pytest.approx([0.8, 0.2])
    assert validation_weights("regression", [0.0, 3.0, 0.0]) == [0.5, 0.0, 0.5]
    for scores in ([], [math.nan], [-1.0, 1.0]):
        with pytest.raises(UserError, match="scores"):
            validation_weights("regression", scores)


def spec(name, **given):
    return SimpleNamespace(**{"name": name, "weights": None, "smoothing": None, **given})


@pytest.mark.parametrize(
    ("kind", "said", "wanted"),
    [
        ("classification", None, average),
        ("regression", None, mean),
        ("classification", spec("average"), average),
        ("classification", spec("logits-average"), logits_average),
        ("classification", spec("vote"), vote()),
        ("classification", spec("vote", smoothing=0.1), vote(smoothing=0.1)),
        ("classification", spec("weighted", weights=[1, 2, 3]), weighted([1, 2, 3])),
        ("classification", spec("weighted", weights="accuracy"), weighted([0.5, 0.6, 0.7])),
        ("classification", spec("weighted", weights="confidence"), by_confidence),
        ("regression", spec("mean"), mean),
        ("regression", spec("median"), median),
        ("regression", spec("weighted", weights=[1, 2, 3]), weighted([1, 2, 3], kind="regression")),
        ("regression", spec("weighted", weights="accuracy"), weighted([4, 25 / 9, 100 / 49], kind="regression")),
        ("classification", recipe.Combine(name="vote", smoothing=2.0), vote(smoothing=2.0)),
    ],
)
def test_what_a_recipe_says_is_what_is_done(kind, said, wanted):
    told = predictions(3, 10, 4)
    torch.testing.assert_close(combiner(kind, said, scores=[0.5, 0.6, 0.7])(told), wanted(told))


def test_a_stack_is_taken_as_a_network_or_as_a_function():
    stack, told = Stack(3, 4), predictions(3, 10, 4)
    for way in (stack, as_combine(stack)):
        assert torch.equal(combiner("classification", spec("stacked"), stack=way)(told), as_combine(stack)(told))


@pytest.mark.parametrize(
    ("kind", "said", "fault"),
    [
        ("regression", spec("average"), "'average' does not join .* regression.*\n.*mean, median"),
        ("classification", spec("median"), "'median' does not join .* classification"),
        ("classification", spec("averege"), "unknown way to join: 'averege'\n.*did you mean 'average'"),
        ("classification", spec("weighted"), "needs weights"),
        ("classification", spec("weighted", weights="accuracy"), "need the members' scores"),
        ("classification", spec("weighted", weights="confidance"), "unknown weights 'confidance'\n.*confidence"),
        ("regression", spec("weighted", weights="confidence"), "measured values have no confidence"),
        ("classification", spec("vote", smoothing=0.0), "above 0"),
        ("classification", spec("stacked"), "needs a stack"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(kind, said, fault):
    with pytest.raises(UserError, match=f"combine.*{fault}"):
        combiner(kind, said)
