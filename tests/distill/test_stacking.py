"""Stacks begin as the mean of their members, earn what they learn, and travel with their members."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import UserError
from limbeck.core.types import Batch
from limbeck.distill.teachers import (
    Frozen,
    Joint,
    Stack,
    as_combine,
    average,
    combiner,
    fit_stack,
    logits_average,
    mean,
    validation_weights,
    weighted,
)
from limbeck.models import Normalized, load_weights, save_weights
from limbeck.models.reference import NETWORKS

CLASSES = 5


def told(rows, knows=(2.0, 0.0, 0.0), seed=0, scale=1.5):
    """Logits of members of which each knows the label as well as `knows` says, and the labels."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, CLASSES, rows)
    signal = np.eye(CLASSES)[target]
    logits = [scale * (k * signal + generator.normal(size=(rows, CLASSES))) for k in knows]
    return torch.tensor(np.stack(logits), dtype=torch.float32), torch.tensor(target)


def split(given, at):
    predictions, target = given
    return (predictions[:, :at], target[:at]), (predictions[:, at:], target[at:])


def measured(combine, given):
    """Accuracy and cross-entropy."""
    predictions, target = given
    logits = combine(predictions).double().numpy()
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(target))
    return float((logits.argmax(1) == target.numpy()).mean()), float(-logs[rows, target.numpy()].mean())


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_a_stack_begins_as_the_mean_of_its_members(hidden):
    predictions, _ = told(20)
    begun = Stack(3, CLASSES, hidden=hidden)(predictions)
    torch.testing.assert_close(begun.log_softmax(1), logits_average(predictions).log_softmax(1))
    begun = Stack(3, CLASSES, kind="regression", hidden=hidden)(predictions)
    torch.testing.assert_close(begun, mean(predictions))


def test_the_linear_stack_is_one_dense_layer_on_the_concatenated_members():
    stack = Stack(2, 3)
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(3, 6)), generator.normal(size=3)
    stack.load_state_dict({"linear.weight": torch.tensor(weight), "linear.bias": torch.tensor(bias)})
    logits = 2 * generator.normal(size=(2, 7, 3))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = np.concatenate([logs[0], logs[1]], axis=1) @ weight.T + bias
    np.testing.assert_allclose(stack(torch.tensor(logits)).detach().numpy(), wanted, atol=1e-5)


def test_a_row_alone_constants_and_what_is_ruled_out():
    combine = as_combine(fit_stack(*told(300)))
    predictions, _ = told(20, seed=1)
    together = combine(predictions)
    torch.testing.assert_close(combine(predictions[:, 3:4])[0], together[3], atol=1e-5, rtol=1e-5)
    moved = predictions + torch.tensor([0.0, 512.0, -64.0]).view(3, 1, 1)
    torch.testing.assert_close(combine(moved), together, atol=2e-3, rtol=1e-3)
    predictions[0, 0, 0], predictions[1, 1, 1] = -math.inf, 1e4
    assert combine(predictions).isfinite().all()


def test_a_stack_made_for_others_says_so():
    with pytest.raises(UserError, match="made for \\[2, B, 5\\]"):
        Stack(2, CLASSES)(told(4)[0])


def test_as_combine_is_a_frozen_copy():
    stack = Stack(3, CLASSES, hidden=(4,)).train()
    predictions = told(10)[0].requires_grad_()
    combine = as_combine(stack)
    before = combine(predictions)
    assert not before.requires_grad
    assert stack.training
    assert all(p.requires_grad for p in stack.parameters())
    with torch.no_grad():
        stack.linear.weight.zero_()
    assert torch.equal(combine(predictions), before)
    assert combine(predictions.double()).dtype == torch.float64
    assert not isinstance(combine, nn.Module)


# --- fitting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_stack_learns_whom_to_listen_to(hidden):
    fitted, new = split(told(2300), 300)
    accuracy, loss = measured(as_combine(fit_stack(*fitted, hidden=hidden)), new)
    alone, _ = measured(lambda p: p[0], new)
    for plain in (average, logits_average):
        assert accuracy > measured(plain, new)[0] + 0.1
        assert loss < measured(plain, new)[1] - 0.2
    assert accuracy > alone - 0.01


@pytest.mark.parametrize("rows", [60, 300])
def test_a_stack_learns_what_weights_for_members_cannot_say(rows):
    """Two members with classes exchanged: no mean of them helps, a dense layer that is held back puts it right."""
    fitted, new = split(told(2000 + rows, knows=(2.0, 2.0)), rows)
    exchanged = [(p[:, :, [1, 2, 3, 4, 0]], target) for p, target in (fitted, new)]
    accuracy, _ = measured(as_combine(fit_stack(*exchanged[0])), exchanged[1])
    assert measured(average, exchanged[1])[0] < 0.1
    assert accuracy > measured(average, new)[0] - 0.05


@pytest.mark.parametrize("rows", [1, 25])
@pytest.mark.parametrize("knows", [(1.5, 1.5, 1.5), (2.0, 1.0), (1.0, 0.0, 0.0)])
def test_few_rows_do_little_harm(rows, knows):
    """Over four draws of the rows, hardly worse than either average, however few there are."""
    found = []
    for seed in range(4):
        fitted, new = split(told(1000 + rows, knows, seed), rows)
        ways = (as_combine(fit_stack(*fitted)), average, logits_average)
        found.append([measured(way, new) for way in ways])
    (accuracy, loss), *plain = np.mean(found, axis=0)
    assert accuracy > max(a for a, _ in plain) - 0.03
    assert loss < max(e for _, e in plain) + 0.05


def test_twenty_rows_are_needed_to_learn_anything():
    stack = fit_stack(*told(19))
    assert all(torch.equal(a, b) for a, b in zip(stack.parameters(), Stack(3, CLASSES).parameters(), strict=True))


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_the_same_seed_fits_the_same_stack_and_leaves_the_generator_alone(hidden):
    given = told(300)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fit_stack(*given, hidden=hidden, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # nor does their number matter
    second = fit_stack(*given, hidden=hidden, seed=3).state_dict()
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(v.dtype == torch.float32 for v in first.values())


def test_values_are_stacked_better_than_their_mean():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1300, 2, generator=generator)
    noise = torch.tensor([0.1, 0.6, 1.0]).view(3, 1, 1) * torch.randn(3, 1300, 2, generator=generator)
    values = target + noise
    values[1] = -values[1] + 0.5  # a member that has the sign and the level wrong
    combine = as_combine(fit_stack(values[:, :300], target[:300], kind="regression"))
    rmse = [(v[:300] - target[:300]).square().mean().sqrt().item() for v in values]
    rivals = (mean, weighted(validation_weights("regression", rmse), kind="regression"))
    error, *others = [(way(values[:, 300:]) - target[300:]).square().mean().item() for way in (combine, *rivals)]
    assert error < 0.012
    assert error < min(others)


def test_predictions_made_in_inference_mode_can_be_fitted_on():
    with torch.inference_mode():
        values, target = torch.randn(1, 40, 2).double(), torch.randn(40, 2).double()
    assert fit_stack(values, target, kind="regression")(values).shape == (40, 2)


@pytest.mark.parametrize(
    ("predictions", "target", "kind", "fault"),
    [
        (torch.zeros(2, 3), torch.zeros(3).long(), "classification", r"not \[2, 3\]"),
        (torch.zeros(2, 0, 3), torch.zeros(0).long(), "classification", r"\[2, 0, 3\]"),
        (torch.zeros(2, 4, 3), torch.zeros(3).long(), "classification", r"\[3\] do not fit"),
        (torch.zeros(2, 4, 3), torch.full((4,), 3), "classification", "3 to 3 do not fit 3"),
        (torch.full((2, 4, 3), math.nan), torch.zeros(4).long(), "classification", "not finite"),
        (torch.full((2, 4, 3), -math.inf), torch.zeros(4, 3), "regression", "not finite"),
        (torch.zeros(2, 4, 3), torch.zeros(4), "regression", r"\[4\] do not fit"),
    ],
)
def test_what_cannot_be_fitted_on(predictions, target, kind, fault):
    with pytest.raises(UserError, match=fault):
        fit_stack(predictions, target, kind=kind)


# --- members and stack as one network --------------------------------------------------------------


def joint(shift=0.0, hidden=(), width=3):
    members = [
        Normalized(NETWORKS["mlp"]((6,), width, hidden=[8]), torch.full((6,), 0.5 + shift), torch.full((6,), 0.3)),
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, width)),
    ]
    return Joint(members, Stack(2, width, hidden=hidden))


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_a_joint_network_read_from_its_file_computes_the_same(tmp_path, hidden):
    torch.manual_seed(0)
    trained, x = joint(hidden=hidden), torch.rand(32, 6)
    trained.train()(x).sum().backward()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_weights(trained, tmp_path / "joint.safetensors")
    fresh = joint(shift=9.0, hidden=hidden)  # even with statistics of other data
    assert load_weights(fresh, tmp_path / "joint.safetensors", fresh_head=False) == []
    assert torch.equal(fresh.eval()(x), trained.eval()(x))
    with pytest.raises(UserError, match="do not fit"):
        load_weights(joint(hidden=hidden, width=4), tmp_path / "joint.safetensors", fresh_head=False)


def test_the_parts_of_a_joint_network_make_up_the_whole():
    torch.manual_seed(0)
    whole, x = joint().eval(), torch.rand(16, 6)
    with torch.no_grad():
        whole.stack.linear.weight += 0.2 * torch.randn_like(whole.stack.linear.weight)
    told = torch.stack([Frozen(m)(Batch(x, x[:, 0], torch.arange(16))).prediction for m in whole.members])
    torch.testing.assert_close(combiner("classification", None)(told), average(told))
    torch.testing.assert_close(as_combine(whole.stack)(told), whole(x).detach())
    with pytest.raises(ValueError, match="2 members"):
        Joint(list(whole.members), Stack(3, 3))


def test_everything_in_a_joint_network_is_trained():
    torch.manual_seed(0)
    whole, x, y = joint(hidden=(5,)), torch.rand(64, 6), torch.arange(64) % 3
    before = copy.deepcopy(whole.state_dict())
    optimizer, losses = torch.optim.Adam(whole.parameters(), lr=0.02), []
    for _ in range(60):
        loss = nn.functional.cross_entropy(whole(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in whole.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert torch.equal(whole.members[0].mean, before["members.0.mean"])
