"""Losses on values: what their papers state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import regression as oracles
from stated import pairs, stated
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import bind, regression


def test_mse_takes_labels_of_which_some_do_not_count() -> None:
    student, teacher, _ = oracles.sample("mse")
    target = torch.tensor([1, -100, 0, -100, 4, 2])
    student.requires_grad_()
    value = regression.mse(student, teacher, target)
    value.backward()
    assert value.item() == pytest.approx(oracles.mse(student.tolist(), teacher.tolist(), target.tolist()), rel=1e-10)
    assert student.grad is not None
    assert student.grad[[1, 3]].abs().max() == 0
    assert regression.mse(student, teacher, torch.full((6,), -100)).item() == 0


@pytest.mark.parametrize("name", ["label_mse", "label_smooth_l1", "teacher_bounded"])
def test_values_without_their_last_dimension_are_refused(name: str) -> None:
    """Broadcast, [6, 1] against [6] would compare every row with every other."""
    student, teacher, target = oracles.sample(name, width=1)
    with pytest.raises(UserError, match=r"\[6, 1\] and the target \[6\]"):
        bind(name)(student, teacher, target.squeeze(1))


@stated
@given(pairs(least_classes=1))
def test_teacher_bounded_of_a_perfect_teacher_is_the_squared_distance(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    student, target, _ = pair
    value = regression.teacher_bounded(student, target, target).item()
    assert value == pytest.approx(regression.label_mse(student, None, target).item() * target.shape[1], rel=1e-9)


@stated
@given(pairs(least_classes=1), st.floats(0, 3), st.floats(0, 3))
def test_teacher_bounded_grows_with_the_margin(pair: tuple[Tensor, Tensor, Tensor], one: float, other: float) -> None:
    student, teacher, _ = pair
    target = torch.zeros_like(student)
    narrow, wide = (
        regression.teacher_bounded(student, teacher, target, margin=margin).item() for margin in sorted((one, other))
    )
    unbounded = student.square().sum(dim=1).mean().item()
    assert narrow <= wide <= unbounded + 1e-12


def test_teacher_bounded_lets_the_better_rows_go() -> None:
    target = torch.zeros(3, 2, dtype=torch.float64)
    teacher = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)  # squared distance 2
    student = torch.tensor([[1.0, 0.5], [0.0, 1.5], [1.0, -1.0]], dtype=torch.float64)  # 1.25, 2.25 and 2
    assert regression.teacher_bounded(student, teacher, target).item() == pytest.approx(2.25 / 3)
    assert regression.teacher_bounded(student, teacher, target, margin=0.5).item() == pytest.approx(4.25 / 3)
    assert regression.teacher_bounded(student, teacher, target, margin=1.0).item() == pytest.approx(5.5 / 3)


def test_smooth_l1_joins_the_square_and_the_line() -> None:
    target = torch.zeros(1, 1, dtype=torch.float64)
    near, far = torch.full((1, 1), 0.5, dtype=torch.float64), torch.full((1, 1), 3.0, dtype=torch.float64)
    assert regression.label_smooth_l1(near, None, target).item() == pytest.approx(0.125)
    assert regression.label_smooth_l1(far, None, target).item() == pytest.approx(2.5)


@stated
@given(pairs(least_classes=1))
def test_label_quantile_in_the_middle_is_half_the_absolute_error(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    student, target, _ = pair
    value = regression.label_quantile(student, None, target).item()
    assert value == pytest.approx(regression.label_smooth_l1(student, None, target, beta=0.0).item() / 2, rel=1e-9)
    turned = regression.label_quantile(-student, None, -target, quantile=0.9).item()
    assert turned == pytest.approx(regression.label_quantile(student, None, target, quantile=0.1).item(), rel=1e-9)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.83])
def test_label_quantile_is_least_at_the_quantile(quantile: float) -> None:
    target = torch.arange(99, dtype=torch.float64)[:, None] ** 2
    values = [
        regression.label_quantile(guess.expand(99, 1), None, target, quantile=quantile).item() for guess in target
    ]
    assert values.index(min(values)) == int(quantile * 99)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5, float("nan")])
def test_quantile_that_is_none_is_refused(quantile: float) -> None:
    with pytest.raises(UserError, match="quantile"):
        regression.label_quantile(torch.zeros(1, 1), None, torch.zeros(1, 1), quantile=quantile)


def test_attentive_imitation_weighs_by_the_teachers_error() -> None:
    """Squared errors 1, 9 and 5: weights 1 - 1/8, 0 (not -1/8) and 1 - 5/8; each student is 2 off its teacher."""
    target = torch.zeros(3, 2, dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 2.0]], dtype=torch.float64)
    loss = regression.AttentiveImitation().double()
    student = (teacher + torch.tensor([0.0, 2.0])).requires_grad_()
    value = loss(student, teacher, target)
    value.backward()
    assert value.item() == pytest.approx(4 * (7 / 8 + 3 / 8) / 3)
    assert student.grad is not None
    assert student.grad[1].abs().max() == 0


def test_attentive_imitation_knows_the_errors_of_earlier_batches() -> None:
    target = torch.zeros(2, 1, dtype=torch.float64)
    teacher = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    loss = regression.AttentiveImitation().double()
    loss(teacher, torch.tensor([[0.0], [4.0]], dtype=torch.float64), target)  # from 0 to 16
    value = loss(teacher + 1, teacher, target).item()
    assert value == pytest.approx((15 / 16 + 12 / 16) / 2)
    assert [loss.least.item(), loss.greatest.item()] == [0, 16]
    again = regression.AttentiveImitation().double()
    again.load_state_dict(loss.state_dict())
    assert again(teacher + 1, teacher, target).item() == value


def test_attentive_imitation_of_a_teacher_that_errs_alike_counts_all() -> None:
    target = torch.zeros(2, 1, dtype=torch.float64)
    teacher = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    value = regression.AttentiveImitation().double()(teacher + 3, teacher, target).item()
    assert value == pytest.approx(9)
