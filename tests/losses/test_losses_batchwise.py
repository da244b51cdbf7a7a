"""Losses that relate the rows of a batch: what their papers state, and numbers from published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import batchwise as oracles
from stated import LABELS, SHARES, STUDENT, TEACHER, number, pairs, stated
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import batchwise, bind, logit

Pair = tuple[Tensor, Tensor, Tensor]


@stated
@given(pairs(least_classes=3), st.floats(0.05, 0.95))
def test_dist_between_classes_is_blind_to_linear_changes_of_probabilities(pair: Pair, share: float) -> None:
    """Huang et al., equation 3: Pearson's distance is invariant to a scale and a shift of either side."""
    student, teacher, target = pair
    mixed = (share * teacher.softmax(dim=1) + (1 - share) / teacher.shape[1]).log()  # less sure, in the same order
    value = batchwise.dist(student, teacher, target, gamma=0.0).item()
    spread = teacher.softmax(dim=1).std(dim=1).min().item() * student.softmax(dim=1).std(dim=1).min().item()
    assert batchwise.dist(student, mixed, target, gamma=0.0).item() == pytest.approx(
        value, abs=1e-7 / max(share * spread, 1e-9)
    )


@stated
@given(pairs(least_classes=3), number, number)
def test_dist_ignores_a_shift_and_lies_between_0_and_4(pair: Pair, shift_s: float, shift_t: float) -> None:
    student, teacher, target = pair
    value = batchwise.dist(student, teacher, target).item()
    assert -1e-9 <= value <= 4
    shifted = batchwise.dist(student + shift_s, teacher + shift_t, target).item()
    assert shifted == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_dist_of_a_batch_given_twice_is_the_same_but_for_its_epsilon() -> None:
    student, teacher, target = oracles.sample("dist")
    twice = batchwise.dist(student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2))
    assert twice.item() == pytest.approx(batchwise.dist(student, teacher, target).item(), rel=1e-7)


def test_dist_of_one_row_has_no_part_over_rows() -> None:
    student, teacher, target = (part[:1] for part in oracles.sample("dist"))
    value = batchwise.dist(student, teacher, target, gamma=5.0)
    expected = oracles.apart([oracles.softmax(student[0].tolist())], [oracles.softmax(teacher[0].tolist())])
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_dist_relates_the_rows_of_a_class() -> None:
    """Rows that agree each on their own, but whose order within a class does not."""
    student = torch.tensor([[0.6, 0.3, 0.1], [0.8, 0.15, 0.05]], dtype=torch.float64).log()
    teacher = student.flip(0)
    target = torch.tensor([0, 0])
    assert batchwise.dist(student, teacher, target, beta=0.0).item() == pytest.approx(2, rel=1e-5)
    assert batchwise.dist(student, teacher, target, gamma=0.0).item() < 0.05


@pytest.mark.parametrize("width", [1, 2])
def test_dist_refuses_two_classes(width: int) -> None:
    with pytest.raises(UserError, match=f"over the {width} probabilities of a row") as refused:
        batchwise.dist(*oracles.sample("dist", width=width))
    assert refused.value.hint == "use `kd` with fewer than 3 classes"


def test_mlld_of_one_level_with_all_rows_alike_is_kd() -> None:
    """Every row is as sure as the median, so that all count."""
    student, _, target = oracles.sample("mlld")
    teacher = torch.arange(5.0, dtype=torch.float64).repeat(6, 1)
    value = batchwise.mlld(student, teacher, target, temperatures=(3.0,), batch=0.0, category=0.0)
    assert value.item() == pytest.approx(logit.kd(student, teacher, target, temperature=3.0).item(), rel=1e-10)


def test_mlld_leaves_out_the_rows_of_which_the_teacher_is_sure() -> None:
    student, teacher, target = oracles.sample("mlld", rows=4)
    student.requires_grad_()
    batchwise.mlld(student, teacher, target, batch=0.0, category=0.0).backward()
    sure = teacher.softmax(dim=1).amax(dim=1).argsort(descending=True)
    assert student.grad is not None
    assert student.grad[sure[:2]].abs().max() == 0
    assert student.grad[sure[2:]].abs().amin(dim=0).max() > 0


@stated
@given(pairs(), number, number)
def test_mlld_ignores_a_shift_and_is_never_negative(pair: Pair, shift_s: float, shift_t: float) -> None:
    student, teacher, target = pair
    value = batchwise.mlld(student, teacher, target, instance=0.0).item()
    assert value >= 0
    assert batchwise.mlld(teacher, teacher, target).item() == pytest.approx(0, abs=1e-12)
    shifted = batchwise.mlld(student + shift_s, teacher + shift_s, target, temperatures=[2.0]).item()
    assert shifted == pytest.approx(batchwise.mlld(student, teacher, target, temperatures=[2.0]).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["dist", "mlld"])
def test_mixed_labels_count_all_rows(name: str) -> None:
    assert torch.equal(bind(name)(STUDENT, TEACHER, SHARES), bind(name)(STUDENT, TEACHER, LABELS))


@pytest.mark.parametrize("name", ["dist", "mlld"])
def test_tokens_are_rows(name: str) -> None:
    student, teacher, _ = oracles.sample(name)
    target = torch.tensor([1, -100, 0, 3, 4, 2])
    tokens = bind(name)(student.view(2, 3, 5), teacher.view(2, 3, 5), target.view(2, 3))
    assert tokens.item() == pytest.approx(bind(name)(student, teacher, target).item(), rel=1e-12)
    with pytest.raises(UserError, match=r"the labels are \[3, 2\], and the predictions are for \[2, 3\] rows"):
        bind(name)(student.view(2, 3, 5), teacher.view(2, 3, 5), target.view(3, 2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dist", {"temperature": 0.0}, "`temperature` is above 0"),
        ("mlld", {"temperatures": []}, "`temperatures` is a list of one or more"),
        ("mlld", {"temperatures": [2.0, -1.0]}, "`temperature` is above 0, not -1.0"),
        ("mlld", {"temperatures": 4.0}, "option 'temperatures' is a list of numbers, not 4.0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind(name, **options)(STUDENT, TEACHER, LABELS)


# --- numbers from published code -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "gamma", "published"), [(1.0, 1.0, 1.747395243693561), (0.5, 2.0, 2.4261948980938497)]
)
def test_dist_equals_published_code(beta: float, gamma: float, published: float) -> None:
    """hunto/image_classification_sota at 2bc48324cd03, lib/models/losses/dist_kd.py, DIST."""
    value = batchwise.dist(STUDENT, TEACHER, LABELS, beta=beta, gamma=gamma)
    assert value.item() == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(
    ("level", "published"),
    [("instance", 2.4221523071168085), ("batch", 0.036243418444628694), ("category", 0.02222011803248489)],
)
def test_levels_of_mlld_equal_published_code(level: str, published: float) -> None:
    """Jin-Ying/Multi-Level-Logit-Distillation at 6327e733bbbd, mdistiller/distillers/KD_ours.py.

    Its kd_loss, bc_loss and cc_loss with reduce=False, times its masks; the mean over rows of the first, the sum of the
    others, at temperatures 2 to 6.
    """
    weights = dict.fromkeys(("instance", "batch", "category"), 0.0) | {level: 1.0}
    assert batchwise.mlld(STUDENT, TEACHER, LABELS, **weights).item() == pytest.approx(published, rel=1e-12)
