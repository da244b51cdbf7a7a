"""Losses on values with their uncertainty: what is known of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import gaussian as oracles
from stated import stated
from torch import nn

from limbeck.core.errors import UserError
from limbeck.losses import bind, gaussian

NAMES = ("label_gaussian_nll", "gaussian_kl")
seeds = st.integers(0, 10_000)


@stated
@given(seeds)
def test_gaussian_kl_is_that_of_torch(seed: int) -> None:
    student, teacher, target = oracles.sample("gaussian_kl", seed=seed)
    s, t = (torch.distributions.Normal(side[:, :5], (side[:, 5:] / 2).exp()) for side in (student, teacher))
    expected = torch.distributions.kl_divergence(t, s).sum(dim=1).mean().item()
    assert gaussian.gaussian_kl(student, teacher, target).item() == pytest.approx(expected, rel=1e-10)


@stated
@given(seeds)
def test_label_gaussian_nll_is_that_of_torch(seed: int) -> None:
    student, _, target = oracles.sample("label_gaussian_nll", seed=seed)
    value = gaussian.label_gaussian_nll(student, None, target).item()
    published = nn.GaussianNLLLoss(full=True)(student[:, :5], target, student[:, 5:].exp()).item()
    assert value == pytest.approx(5 * published, rel=1e-10)


@stated
@given(seeds, st.floats(-10, 10))
def test_gaussian_kl_does_not_see_the_unit(seed: int, shift: float) -> None:
    """Values in another unit: means scaled, logarithms of variances shifted."""
    student, teacher, target = oracles.sample("gaussian_kl", seed=seed)
    scale = torch.cat([torch.full((5,), math.exp(shift / 2)), torch.ones(5)]).double()
    moved = torch.cat([torch.zeros(5), torch.full((5,), shift)]).double()
    value = gaussian.gaussian_kl(student, teacher, target).item()
    other = gaussian.gaussian_kl(student * scale + moved, teacher * scale + moved, target).item()
    assert other == pytest.approx(value, rel=1e-5)
    assert value >= 0


def test_sure_of_the_same_it_is_the_squared_difference_of_the_means() -> None:
    student, teacher, target = oracles.sample("gaussian_kl")
    student[:, 5:] = teacher[:, 5:] = math.log(0.25)
    expected = (student[:, :5] - teacher[:, :5]).square().sum(dim=1).mean().item() / 0.5
    assert gaussian.gaussian_kl(student, teacher, target).item() == pytest.approx(expected, rel=1e-12)


def test_right_variance_is_the_mean_squared_error() -> None:
    """The least of the likelihood over one variance, in closed form."""
    errors = torch.tensor([[1.0], [-2.0], [0.5], [3.0]], dtype=torch.float64)
    spread = errors.square().mean().item()
    values = [
        gaussian.label_gaussian_nll(
            torch.cat([errors, torch.full((4, 1), math.log(factor * spread))], dim=1), None, torch.zeros(4, 1).double()
        ).item()
        for factor in (0.8, 0.9, 1.0, 1.1, 1.25)
    ]
    assert min(values) == values[2]
    assert values[2] == pytest.approx((math.log(2 * math.pi * spread) + 1) / 2, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_large_and_small_outputs_stay_finite(name: str, size: float) -> None:
    student, teacher, target = (part.float() for part in oracles.sample(name))
    student = (student / student.abs().max() * size).requires_grad_()
    value = bind(name)(student, -teacher * size, target)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    half = (student.detach() / size).half()
    assert bind(name)(half * 1e4, -teacher.half() * 1e4, target).isfinite()


def test_variance_beyond_the_bounds_counts_as_the_bound() -> None:
    target = torch.zeros(1, 1)
    at_bound, beyond = (torch.tensor([[1.0, logs]], requires_grad=True) for logs in (-30.0, -90.0))
    values = [gaussian.label_gaussian_nll(output, None, target) for output in (at_bound, beyond)]
    values[1].backward()
    assert torch.equal(*values)
    assert beyond.grad is not None
    assert beyond.grad[0, 1] == 0
    assert beyond.grad[0, 0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_are_not_two_a_value_are_refused(name: str) -> None:
    student, teacher, target = oracles.sample(name)
    with pytest.raises(UserError, match=r"output is \[6, 9\] and the target \[6, 5\]"):
        bind(name)(student[:, :9], teacher[:, :9], target)
    with pytest.raises(UserError, match=r"output is \[6, 10\] and the target \[6\]"):
        bind(name)(student, teacher, torch.zeros(6, dtype=torch.long))
    with pytest.raises(UserError, match=r"shape \[10\], and a loss needs rows"):
        bind(name)(student[0], teacher[0], target[0])


def test_teacher_of_other_outputs_or_rows_is_refused() -> None:
    student, teacher, target = oracles.sample("gaussian_kl")
    with pytest.raises(UserError, match="student gives 10 outputs a row and the teacher 6"):
        gaussian.gaussian_kl(student, teacher[:, :6], target)
    with pytest.raises(UserError, match=r"\[6, 10\] and the teacher's \[1, 10\]"):
        gaussian.gaussian_kl(student, teacher[:1], target)
