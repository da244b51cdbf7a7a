"""Losses on logits whose classes are in order."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ordinal as oracles
from stated import LABELS, SHARES, STUDENT, number, pairs, stated
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import logit, ordinal


@stated
@given(pairs(least_classes=1), st.floats(0.5, 20))
def test_of_two_classes_ordinal_kd_is_kd(pair: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    student, teacher, _ = pair
    student, teacher = (torch.nn.functional.pad(side, (0, 1))[:, :2] for side in (student, teacher))
    target = torch.zeros(len(student), dtype=torch.long)
    value = ordinal.ordinal_kd(student, teacher, target, temperature=temperature).item()
    expected = logit.kd(student, teacher, target, temperature=temperature).item()
    assert value == pytest.approx(expected, rel=1e-8, abs=1e-11)


@stated
@given(pairs(), number, number, st.floats(0.5, 20))
def test_ordinal_kd_sees_no_shift_and_no_direction(
    pair: tuple[Tensor, Tensor, Tensor], shift_s: float, shift_t: float, temperature: float
) -> None:
    student, teacher, target = pair
    value = ordinal.ordinal_kd(student, teacher, target, temperature=temperature).item()
    shifted = ordinal.ordinal_kd(student + shift_s, teacher + shift_t, target, temperature=temperature).item()
    turned = ordinal.ordinal_kd(student.flip(1), teacher.flip(1), target, temperature=temperature).item()
    assert [shifted, turned] == pytest.approx([value, value], rel=1e-8, abs=1e-10)
    assert value >= -1e-12


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_the_further_off_the_worse(wrong: int) -> None:
    """Unlike cross-entropy, to which all wrong classes are alike."""
    near, far = (torch.nn.functional.one_hot(torch.tensor([c]), 5) * 9.0 for c in (wrong, wrong + 1))
    label, teacher = torch.tensor([0]), torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0]])
    assert logit.hard(near, None, label).item() == pytest.approx(logit.hard(far, None, label).item())
    assert logit.kd(near, teacher, label).item() == pytest.approx(logit.kd(far, teacher, label).item(), rel=1e-5)
    assert ordinal.label_emd(near, None, label).item() < ordinal.label_emd(far, None, label).item() - 0.9
    assert ordinal.ordinal_kd(near, teacher, label).item() < ordinal.ordinal_kd(far, teacher, label).item() - 0.1


@stated
@given(pairs(least_classes=1))
def test_label_emd_takes_labels_as_shares(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    student, _, target = pair
    shares = torch.nn.functional.one_hot(target, student.shape[1]).double()
    value = ordinal.label_emd(student, None, target).item()
    assert ordinal.label_emd(student, None, shares).item() == pytest.approx(value, rel=1e-12, abs=1e-15)
    assert 0 <= value <= student.shape[1] - 1


def test_label_emd_takes_mixed_labels_and_leaves_out_those_that_do_not_count() -> None:
    for target in (SHARES, torch.tensor([0, -100, 3])):
        expected = oracles.label_emd(STUDENT.tolist(), [], target.tolist())
        assert ordinal.label_emd(STUDENT, None, target).item() == pytest.approx(expected, rel=1e-12)


def test_label_emd_of_a_sure_answer_counts_the_classes_between() -> None:
    sure = torch.eye(4, dtype=torch.float64) * 800
    for answer in range(4):
        for label in range(4):
            value = ordinal.label_emd(sure[answer : answer + 1], None, torch.tensor([label])).item()
            assert value == pytest.approx(abs(answer - label), abs=1e-12)


def test_one_class_leaves_nothing_to_learn() -> None:
    student = torch.randn(3, 1, requires_grad=True)
    value = ordinal.ordinal_kd(student, torch.randn(3, 1), torch.zeros(3, dtype=torch.long))
    value = value + ordinal.label_emd(student, None, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_ordinal_kd_takes_a_class_the_teacher_rules_out() -> None:
    teacher = torch.tensor([[-math.inf, math.log(0.25), math.log(0.75)]], dtype=torch.float64)
    student = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = ordinal.ordinal_kd(student, teacher, torch.tensor([0]), temperature=1.0)
    value.backward()
    p = oracles.softmax([0.0, 1.0, 2.0])
    first = -math.log(p[1] + p[2])
    second = 0.25 * math.log(0.25 / (p[0] + p[1])) + 0.75 * math.log(0.75 / p[2])
    assert value.item() == pytest.approx(first + second, rel=1e-12)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="gives 4 outputs a row, too few"):
        ordinal.label_emd(STUDENT, None, torch.tensor([0, 4, 1]))
    with pytest.raises(UserError, match="temperature"):
        ordinal.ordinal_kd(STUDENT, STUDENT, LABELS, temperature=0.0)
