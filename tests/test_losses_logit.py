"""Losses on logits: what their papers state, and numbers from published code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import logit as oracles
from stated import LABELS, SHARES, STUDENT, TEACHER, number, pairs, stated
from torch import Tensor, nn

from limbeck.errors import UserError
from limbeck.losses import bind, logit, regression


@stated
@given(pairs(), number, number, st.floats(0.5, 20))
def test_kd_ignores_a_shift_of_the_logits(
    pair: tuple[Tensor, Tensor, Tensor], shift_s: float, shift_t: float, temperature: float
) -> None:
    student, teacher, target = pair
    shifted = logit.kd(student + shift_s, teacher + shift_t, target, temperature=temperature)
    assert shifted.item() == pytest.approx(
        logit.kd(student, teacher, target, temperature=temperature).item(), rel=1e-9, abs=1e-10
    )


@stated
@given(pairs(), st.floats(0.5, 20))
def test_kd_is_never_negative_and_zero_for_equals(pair: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    student, teacher, target = pair
    assert logit.kd(student, teacher, target, temperature=temperature).item() >= -1e-12
    assert logit.kd(teacher, teacher, target, temperature=temperature).item() == 0


@stated
@given(pairs())
def test_kd_tends_to_logit_matching_at_high_temperature(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    """Hinton, equation 4: for centred logits the gradient of a row tends to (z - v) / N."""
    student, teacher, target = (z - z.mean(dim=1, keepdim=True) if z.ndim == 2 else z for z in pair)
    student.requires_grad_()
    value = logit.kd(student, teacher, target, temperature=1e4)
    value.backward()
    rows, classes = student.shape
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / classes / rows, rtol=0, atol=5e-3)
    assert value.item() == pytest.approx(regression.mse(student, teacher, target).item() / 2, abs=2e-2)


def test_kd_is_the_forward_divergence() -> None:
    student = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([0])
    forward, reverse = logit.kd(student, teacher, target), logit.kd(teacher, student, target)
    assert abs(forward.item() - reverse.item()) > 0.01
    assert forward.item() == pytest.approx(oracles.kd(student.tolist(), teacher.tolist(), [0]))


@stated
@given(pairs())
def test_kd_has_the_gradient_of_soft_cross_entropy(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    """Hinton, equation 2: dC/dz = (q - p) / T, here times T squared and over the rows."""
    student, teacher, target = pair
    student.requires_grad_()
    logit.kd(student, teacher, target, temperature=3.0).backward()
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)).detach() / len(student)
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


def test_kd_takes_a_class_the_teacher_rules_out() -> None:
    student = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[math.log(0.25), math.log(0.75), -math.inf]], dtype=torch.float64)
    value = logit.kd(student, teacher, torch.tensor([0]), temperature=1.0)
    value.backward()
    p = oracles.softmax([1.0, 2.0, 3.0])
    assert value.item() == pytest.approx(0.25 * math.log(0.25 / p[0]) + 0.75 * math.log(0.75 / p[1]))
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([p[0] - 0.25, p[1] - 0.75, p[2]])


@stated
@given(pairs(), number)
def test_hard_ignores_a_shift_and_takes_labels_as_shares(pair: tuple[Tensor, Tensor, Tensor], shift: float) -> None:
    student, _, target = pair
    shares = nn.functional.one_hot(target, student.shape[1]).double()
    value = logit.hard(student, None, target, label_smoothing=0.2).item()
    assert logit.hard(student + shift, None, target, label_smoothing=0.2).item() == pytest.approx(value, rel=1e-9)
    assert logit.hard(student, None, shares, label_smoothing=0.2).item() == pytest.approx(value, rel=1e-12)


def test_hard_tells_labels_beyond_the_outputs() -> None:
    with pytest.raises(UserError, match="gives 3 outputs a row, too few"):
        logit.hard(torch.zeros(2, 3), None, torch.tensor([0, 3]))


def test_hard_takes_mixed_labels() -> None:
    student = oracles.sample("hard")[0]
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0]] * 6)
    for smoothing in (0.0, 0.1):
        expected = oracles.hard(student.tolist(), [], shares.double().tolist(), smoothing)
        assert logit.hard(student, None, shares, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["hard", "kd", "mse"])
def test_tokens_are_rows(name: str) -> None:
    student, teacher, _ = oracles.sample(name)
    target = torch.tensor([1, -100, 0, 3, 4, 2])
    tokens = bind(name)(student.view(2, 3, 5), teacher.view(2, 3, 5), target.view(2, 3))
    assert tokens.item() == pytest.approx(bind(name)(student, teacher, target).item(), rel=1e-12)


# --- numbers from published code -----------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "published"), [(1.0, 1.2756045732136085), (4.0, 2.344141116780102)])
def test_kd_equals_published_code(temperature: float, published: float) -> None:
    """Two repositories give the same numbers.

    megvii-research/mdistiller at e8c5bb331e78, mdistiller/distillers/KD.py, kd_loss;
    HobbitLong/RepDistiller at 5237c1fdeeb0, distiller_zoo/KD.py, DistillKL.
    """
    value = logit.kd(STUDENT, TEACHER, LABELS, temperature=temperature)
    assert value.item() == pytest.approx(published, rel=1e-12)


def test_hard_equals_published_code() -> None:
    """timm 1.0.31, timm/loss/cross_entropy.py: LabelSmoothingCrossEntropy(0.1) and SoftTargetCrossEntropy."""
    assert logit.hard(STUDENT, None, LABELS, label_smoothing=0.1).item() == pytest.approx(1.7267557197814407, rel=1e-12)
    assert logit.hard(STUDENT, None, SHARES).item() == pytest.approx(2.0205057197814407, rel=1e-12)
