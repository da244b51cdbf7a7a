"""Losses on values: what their papers state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import regression as oracles
from stated import pairs, stated
from torch import Tensor

from limbeck.errors import UserError
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
