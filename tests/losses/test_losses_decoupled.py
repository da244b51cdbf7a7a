"""Losses that treat the label's class apart: what their papers state, and numbers from published code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import decoupled as oracles
from stated import LABELS, SHARES, STUDENT, TEACHER, number, pairs, stated
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import bind, decoupled, logit

Pair = tuple[Tensor, Tensor, Tensor]


@stated
@given(pairs(), st.floats(0.5, 20))
def test_dkd_of_one_row_with_beta_the_rest_of_the_teacher_is_kd(pair: Pair, temperature: float) -> None:
    """Zhao et al., equation 6: kd is the first part and 1 - p_t of the label times the second."""
    for student, teacher, target in zip(*(part.split(1) for part in pair), strict=True):
        rest = 1 - (teacher / temperature).softmax(dim=1)[0, target.item()].item()
        value = decoupled.dkd(student, teacher, target, alpha=1.0, beta=max(rest, 0.0), temperature=temperature)
        assert value.item() == pytest.approx(
            logit.kd(student, teacher, target, temperature=temperature).item(), rel=1e-9, abs=1e-9
        )


@stated
@given(pairs(), number, number)
def test_dkd_ignores_a_shift_and_is_never_negative(pair: Pair, shift_s: float, shift_t: float) -> None:
    student, teacher, target = pair
    value = decoupled.dkd(student, teacher, target).item()
    assert value >= -1e-12
    shifted = decoupled.dkd(student + shift_s, teacher + shift_t, target).item()
    assert shifted == pytest.approx(value, rel=1e-9, abs=1e-10)


@stated
@given(pairs(), st.floats(-5, 5))
def test_second_part_of_dkd_does_not_see_the_labels_logit(pair: Pair, other: float) -> None:
    student, teacher, target = pair
    moved = student.scatter(1, target[:, None], other)
    value = decoupled.dkd(student, teacher, target, alpha=0.0).item()
    assert decoupled.dkd(moved, teacher, target, alpha=0.0).item() == pytest.approx(value, rel=1e-9, abs=1e-10)


def test_dkd_with_two_classes_has_no_second_part() -> None:
    student, teacher, target = oracles.sample("dkd", width=2)
    assert decoupled.dkd(student, teacher, target, alpha=0.0, beta=8.0).item() == 0
    value = decoupled.dkd(student, teacher, target, beta=3.0, temperature=2.0).item()
    assert value == pytest.approx(logit.kd(student, teacher, target, temperature=2.0).item(), rel=1e-10)


def test_dkd_is_exact_where_probabilities_vanish() -> None:
    """The label's probability is exp(-4000) on one side: its logarithm is not lost."""
    student = torch.tensor([[-4000.0, 0.0, 0.0]], requires_grad=True)
    value = decoupled.dkd(student, torch.zeros(1, 3), torch.tensor([0]), beta=0.0, temperature=1.0)
    value.backward()
    assert value.item() == pytest.approx((4000 + math.log(2)) / 3 + math.log(2 / 3) * 2 / 3 - math.log(3) / 3, rel=1e-6)
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-1 / 3, 1 / 6, 1 / 6])


@stated
@given(pairs(), number)
def test_nkd_ignores_a_shift_and_is_least_for_the_teachers_split_of_the_others(pair: Pair, shift: float) -> None:
    student, teacher, target = pair
    value = decoupled.nkd(student, teacher, target).item()
    assert decoupled.nkd(student + shift, teacher - shift, target).item() == pytest.approx(value, rel=1e-9)
    label = torch.nn.functional.one_hot(target, student.shape[1]).bool()
    of_student, of_teacher = (z.masked_fill(label, -math.inf).logsumexp(1, keepdim=True) for z in (student, teacher))
    best = torch.where(label, student, teacher - of_teacher + of_student)  # the same probability of the label
    assert decoupled.nkd(best, teacher, target).item() <= value + 1e-9


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_mixed_labels_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="needs one label a row") as refused:
        bind(name)(STUDENT, TEACHER, SHARES)
    assert refused.value.hint is not None
    assert "mixup" in refused.value.hint


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_labels_beyond_the_classes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="gives 4 outputs a row, too few for these labels"):
        bind(name)(STUDENT, TEACHER, torch.tensor([0, 1, 4]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dkd", {"alpha": -1.0}, "`alpha` and `beta` are 0 or more"),
        ("dkd", {"temperature": 0.0}, "`temperature` is above 0"),
        ("nkd", {"gamma": -0.5}, "`gamma` is 0 or more"),
        ("nkd", {"temperature": -1.0}, "`temperature` is above 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind(name, **options)(STUDENT, TEACHER, LABELS)


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_tokens_are_rows(name: str) -> None:
    student, teacher, _ = oracles.sample(name)
    target = torch.tensor([1, -100, 0, 3, 4, 2])
    tokens = bind(name)(student.view(2, 3, 5), teacher.view(2, 3, 5), target.view(2, 3))
    assert tokens.item() == pytest.approx(bind(name)(student, teacher, target).item(), rel=1e-12)


# --- numbers from published code -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature", "published"),
    [(1.0, 8.0, 4.0, 11.197463513821315), (1.0, 0.5, 1.0, 1.4713781360710263)],
)
def test_dkd_equals_published_code(alpha: float, beta: float, temperature: float, published: float) -> None:
    """megvii-research/mdistiller at e8c5bb331e78, mdistiller/distillers/DKD.py, dkd_loss."""
    value = decoupled.dkd(STUDENT, TEACHER, LABELS, alpha=alpha, beta=beta, temperature=temperature)
    assert value.item() == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(
    ("gamma", "temperature", "published"), [(1.5, 1.0, 3.205866281081115), (0.5, 3.0, 6.561135084493959)]
)
def test_nkd_equals_published_code(gamma: float, temperature: float, published: float) -> None:
    """yzd-v/cls_KD at 9466b3f3d8e0, mmcls/models/dis_losses/nkd.py, NKDLoss."""
    value = decoupled.nkd(STUDENT, TEACHER, LABELS, gamma=gamma, temperature=temperature)
    assert value.item() == pytest.approx(published, rel=1e-12)
