"""Losses on how rows, or channels, relate: what their papers state, and the numbers of published code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import relation as oracles
from stated import LABELS, STUDENT, TEACHER, stated
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import bind, relation

ON_ROWS = ("sp", "pkt", "rkd_distance", "rkd_angle")
on_rows = pytest.mark.parametrize("name", ON_ROWS)
seeds = st.integers(0, 10_000)


def rotation(width: int, noise: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=noise, dtype=torch.float64))[0]


@on_rows
@stated
@given(seeds, st.floats(0.01, 100))
def test_rotation_and_scale_are_not_seen(name: str, seed: int, scale: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    student, teacher, target = oracles.sample(name, seed=seed)
    loss = bind(name)
    value = loss(student, teacher, target).item()
    turned = loss(scale * student @ rotation(5, noise), teacher @ rotation(3, noise) / scale, target).item()
    assert turned == pytest.approx(value, rel=1e-7, abs=1e-11)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
@stated
@given(seeds, st.floats(-100, 100))
def test_shift_is_not_seen_by_rkd(name: str, seed: int, shift: float) -> None:
    student, teacher, target = oracles.sample(name, seed=seed)
    loss = bind(name)
    value = loss(student, teacher, target).item()
    assert loss(student + shift, teacher - shift, target).item() == pytest.approx(value, rel=1e-7, abs=1e-11)


@pytest.mark.parametrize("name", ["sp", "pkt"])
def test_shift_is_seen_by_the_others(name: str) -> None:
    student, teacher, target = oracles.sample(name)
    loss = bind(name)
    assert abs(loss(student + 3, teacher, target).item() - loss(student, teacher, target).item()) > 1e-4


@stated
@given(seeds)
def test_pkt_does_not_see_the_scale_of_a_row(seed: int) -> None:
    student, teacher, target = oracles.sample("pkt", seed=seed)
    scales = torch.rand(6, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    value = relation.pkt(student, teacher, target).item()
    assert relation.pkt(student * scales, teacher / scales, target).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", ["sp", "pkt"])
def test_batch_given_twice_has_half_the_value(name: str) -> None:
    student, teacher, target = oracles.sample(name)
    value = bind(name)(student, teacher, target).item()
    twice = bind(name)(student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2)).item()
    assert twice == pytest.approx(value / 2, rel=1e-5)


@on_rows
def test_maps_are_flattened(name: str) -> None:
    student, teacher, target = oracles.sample(name, width=8)
    value = bind(name)(student, teacher, target)
    assert torch.equal(bind(name)(student.view(6, 2, 2, 2), teacher.view(6, 1, 3), target), value)


@on_rows
def test_batch_of_one_has_no_relations(name: str) -> None:
    student, teacher, target = (part[:1] for part in oracles.sample(name))
    student.requires_grad_()
    value = bind(name)(student, teacher, target)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@on_rows
def test_dead_and_equal_rows_do_not_blow_up(name: str) -> None:
    """Norms and distances of 0 have no slope; a guard of 10^-12 in a denominator would make one of 10^12."""
    student, teacher, target = oracles.sample(name)
    student[1] = 0
    student[3] = student[4]
    student.requires_grad_()
    value = bind(name)(student, teacher, target)
    value.backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 10
    expected = oracles.ORACLES[name](student.tolist(), teacher.tolist(), target.tolist())
    assert value.item() == pytest.approx(expected, rel=1e-10)


@on_rows
def test_student_that_answers_the_same_for_all_is_finite(name: str) -> None:
    teacher, target = oracles.sample(name)[1:]
    for constant in (0.0, 2.0):
        student = torch.full((6, 5), constant, dtype=torch.float64, requires_grad=True)
        value = bind(name)(student, teacher, target)
        value.backward()
        assert value.item() > 0
        assert student.grad is not None
        assert student.grad.isfinite().all()


@on_rows
def test_shares_as_target_count_all_rows(name: str) -> None:
    student, teacher, _ = oracles.sample(name)
    shares = torch.full((6, 3), 1 / 3)
    value = bind(name)(student, teacher, shares)
    assert torch.equal(value, bind(name)(student, teacher, torch.zeros(6, dtype=torch.long)))


def test_rkd_angle_in_parts_is_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, target = oracles.sample("rkd_angle", rows=9)
    found = []
    for at_once in (relation.AT_ONCE, 2 * 9 * 9, 1):
        monkeypatch.setattr(relation, "AT_ONCE", at_once)
        student = student.detach().requires_grad_()
        value = relation.rkd_angle(student, teacher, target)
        value.backward()
        found.append((value.detach(), student.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-14)


# --- losses with weights -------------------------------------------------------------------------


def test_cc_is_zero_where_both_embeddings_agree() -> None:
    student, _, target = oracles.sample("cc")
    loss = bind("cc", student=(5,), teacher=(5,)).double()
    assert isinstance(loss, relation.CC)
    loss.teacher.load_state_dict(loss.student.state_dict())
    assert loss(student, student.clone(), target).item() == pytest.approx(0, abs=1e-12)
    assert loss(student + 1, student, target).item() > 0
    assert loss(student[:1] + 1, student[:1], target[:1]).item() == 0


def test_cc_refuses_features_of_another_width() -> None:
    student, teacher, target = oracles.sample("cc")
    with pytest.raises(UserError, match=r"student's feature is \[6, 5\], and this loss was made for rows of \[4\]"):
        bind("cc", student=(4,), teacher=(3,))(student, teacher, target)


@stated
@given(seeds, st.floats(0.01, 100))
def test_ickd_sees_neither_scale_nor_places(seed: int, scale: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, 2, 3, generator=noise, dtype=torch.float64)
    target = torch.zeros(4, dtype=torch.long)
    loss = bind("ickd", student=(3, 2, 3), teacher=(3, 2, 3))
    value = loss(student, teacher, target).item()
    places = torch.randperm(6, generator=noise)
    moved = scale * student.flatten(2)[..., places].view(4, 3, 3, 2)
    assert loss(moved, teacher / scale, target).item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert loss(moved, student, target).item() == pytest.approx(0, abs=1e-12)


def test_ickd_has_weights_only_where_the_channels_differ() -> None:
    assert not list(bind("ickd", student=(3, 2, 2), teacher=(3, 4, 4)).parameters())  # type: ignore[attr-defined]
    assert list(bind("ickd", student=(2, 2, 2), teacher=(3, 4, 4)).parameters())  # type: ignore[attr-defined]


# --- numbers from published code -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published", "within"),
    [
        ("sp", 0.11012620559392806, 1e-12),
        ("pkt", 0.016791660751716134, 2e-7),  # theirs adds 1e-7 to the norms
        ("rkd_distance", 0.013634112809228008, 1e-12),
        ("rkd_angle", 0.018862250209361827, 1e-12),
    ],
)
def test_equals_published_code(name: str, published: float, within: float) -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/SP.py, PKT.py and RKD.py."""
    assert bind(name)(STUDENT, TEACHER, LABELS).item() == pytest.approx(published, rel=within)


def test_cc_is_the_mean_of_published_code_over_all_orders() -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/CC.py, on the features themselves."""
    loss = bind("cc", student=(4,), teacher=(4,), width=4).double()
    assert isinstance(loss, relation.CC)
    for embedding in (loss.student, loss.teacher):
        torch.nn.init.eye_(embedding.weight)
        torch.nn.init.zeros_(embedding.bias)
    assert loss(STUDENT[:2], TEACHER[:2], LABELS[:2]).item() == pytest.approx(4.875, rel=1e-12)
    in_six_orders = [9.1875, 12.625, 8.3125, 12.625, 8.3125, 9.1875]
    assert loss(STUDENT, TEACHER, LABELS).item() == pytest.approx(sum(in_six_orders) / 6, rel=1e-12)


def test_ickd_equals_published_code() -> None:
    """ADLab-AutoDrive/ICKD at 403b8d3d7c3a, Cifar100/distiller_zoo/ICKD.py, without the embedding."""
    loss = bind("ickd", student=(2, 1, 2), teacher=(2, 2, 1))
    value = loss(STUDENT.view(3, 2, 1, 2), TEACHER.view(3, 2, 2, 1), LABELS)
    assert value.item() == pytest.approx(0.4585919082082084, rel=1e-12)
