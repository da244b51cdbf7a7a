"""Losses on logits of which each is a yes or no."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import multilabel as oracles
from stated import STUDENT, TEACHER, pairs, stated
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses import bind, logit, multilabel

YES = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


@stated
@given(pairs(least_classes=1), st.floats(0.5, 20))
def test_binary_kd_is_kd_of_each_class_against_none(pair: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    student, teacher, _ = pair
    expected = 0.0
    for c in range(student.shape[1]):
        alone = (torch.stack([torch.zeros(len(side)), side[:, c]], dim=1).double() for side in (student, teacher))
        nobody = torch.zeros(len(student), dtype=torch.long)
        expected += logit.kd(*alone, nobody, temperature=temperature).item()
    value = multilabel.binary_kd(student, teacher, torch.zeros_like(student), temperature=temperature).item()
    assert value == pytest.approx(expected, rel=1e-8, abs=1e-11)
    assert value >= -1e-12


@stated
@given(pairs(least_classes=1))
def test_label_binary_of_sure_labels_differs_from_binary_kd_by_nothing(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    """A teacher that is sure is the label."""
    student, teacher, _ = pair
    target = (teacher > 0).double()
    sure = 1000 * (2 * target - 1)
    value = multilabel.label_binary(student, None, target).item()
    assert multilabel.binary_kd(student, sure, target).item() == pytest.approx(value, rel=1e-9)


def test_sum_over_classes_and_mean_over_rows() -> None:
    zeros = torch.zeros(3, 7)
    assert multilabel.label_binary(zeros, None, zeros).item() == pytest.approx(7 * math.log(2))
    assert multilabel.label_binary(zeros.repeat(4, 1), None, zeros.repeat(4, 1)).item() == pytest.approx(
        7 * math.log(2)
    )


@pytest.mark.parametrize("size", [30.0, 1e4, torch.inf])
def test_binary_kd_takes_a_teacher_that_is_sure(size: float) -> None:
    student = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[size, -size]], dtype=torch.float64)
    value = multilabel.binary_kd(student, teacher, torch.zeros(1, 2))
    value.backward()
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-1 / (1 + math.exp(1)), 1 / (1 + math.exp(-2))], rel=1e-9)


def test_label_binary_equals_torch() -> None:
    value = multilabel.label_binary(STUDENT, None, YES).item()
    assert value == pytest.approx(4 * nn.BCEWithLogitsLoss()(STUDENT, YES).item(), rel=1e-12)
    assert value == pytest.approx(12 / 3 * nn.MultiLabelSoftMarginLoss()(STUDENT, YES).item(), rel=1e-12)


@pytest.mark.parametrize("name", ["label_binary", "binary_kd"])
def test_labels_of_one_class_a_row_are_refused(name: str) -> None:
    student, teacher, _ = oracles.sample(name)
    for wrong in (torch.zeros(6, dtype=torch.long), torch.zeros(6, 5, dtype=torch.long)):
        with pytest.raises(UserError, match="these labels are many"):
            bind(name)(student, teacher, wrong)


@pytest.mark.parametrize("temperature", [0.0, math.nan, -1.0])
def test_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        multilabel.binary_kd(STUDENT, TEACHER, YES, temperature=temperature)
