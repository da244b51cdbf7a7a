"""Losses on all stages at once: what the papers state, numbers from published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stated import in_waves, stated, waves
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import bind

LABELS = torch.tensor([0, 1, 2])
STUDENT = [waves(3, 4, 8, 8, pace=1.0), waves(3, 5, 4, 4, pace=1.3)]
TEACHER = [waves(3, 6, 8, 8, pace=0.7), waves(3, 8, 4, 4, pace=0.9)]


def made(name: str, student: list[Tensor], teacher: list[Tensor], **options: Any) -> Any:
    torch.manual_seed(0)
    shapes = [[tuple(part.shape[1:]) for part in side] for side in (student, teacher)]
    return bind(name, student=shapes[0], teacher=shapes[1], **options).double()


# --- what the papers state -----------------------------------------------------------------------


@stated
@given(st.floats(0, 5), st.floats(0, 5))
def test_ofd_asks_only_that_what_the_relu_takes_away_be_low(below: float, above: float) -> None:
    """Heo et al., equation 3: below the margin nothing counts, above it the distance from the margin."""
    student, teacher = [waves(3, 2, 3, 3, pace=1.0)], [-waves(3, 2, 3, 3, pace=0.4).abs() - 0.1]
    loss = made("ofd", student, teacher)
    loss(student, teacher, LABELS)
    margin = loss.margins[0].mean
    assert (margin < 0).all()
    loss.connectors[0].requires_grad_(False)[1].weight.zero_()  # the connector now says its bias alone
    values = []
    for off in (-below, above):
        loss.connectors[0][1].bias.copy_(margin.flatten() + off)
        values.append(loss(student, teacher, LABELS).item())
    target = torch.maximum(teacher[0], margin)
    expected = ((margin + above - target).square() * (margin + above > target)).flatten(1).sum(dim=1).mean().item()
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[1] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_ofd_margins_are_means_of_all_negative_values_seen_in_training() -> None:
    batches = [waves(3, 2, 4, 4, pace=pace) for pace in (0.3, 0.9, 1.7)]
    student = [waves(3, 3, 4, 4, pace=1.0)]
    loss = made("ofd", student, batches[:1])
    for batch in batches:
        loss(student, [batch], LABELS)
    seen = torch.cat(batches)
    expected = [channel[channel < 0].mean().item() for channel in seen.transpose(0, 1)]
    assert loss.margins[0].mean.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    loss.eval()(student, [10 * batches[0]], LABELS)
    assert loss.margins[0].mean.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_ofd_margins_leave_ignored_rows_out() -> None:
    student, teacher = [waves(3, 3, 4, 4, pace=1.0)], waves(3, 2, 4, 4, pace=0.3)
    loss = made("ofd", student, [teacher])
    loss(student, [teacher], torch.tensor([0, -100, 2]))
    chosen = teacher[[0, 2]].transpose(0, 1)
    assert loss.margins[0].mean.flatten().tolist() == pytest.approx([c[c < 0].mean().item() for c in chosen])


def test_ofd_margins_tend_to_those_of_the_batch_norm_before_the_relu() -> None:
    """What the authors compute from its weights (1.3, .5) and biases (.4, -.2), supposing normal values.

    clovaai/overhaul-distillation at 76344a84a7ce, CIFAR-100/distiller.py, get_margin_from_BN.
    """
    noise = torch.Generator().manual_seed(0)
    normal = torch.randn(100, 2, 50, 50, generator=noise, dtype=torch.float64)
    teacher = [normal * torch.tensor([1.3, 0.5])[:, None, None] + torch.tensor([0.4, -0.2])[:, None, None]]
    student = [torch.zeros(100, 1, 2, 2, dtype=torch.float64)]
    loss = made("ofd", [torch.zeros(100, 1, 50, 50)], teacher)
    loss.margins[0](teacher[0])
    assert loss.margins[0].mean.flatten().tolist() == pytest.approx(
        [-0.9045916199684143, -0.4809413552284241], rel=1e-2
    )
    assert loss(student, teacher, torch.zeros(100)).isfinite()


def test_ofd_without_negative_values_has_margin_zero() -> None:
    teacher = [part.clamp(min=0) for part in TEACHER]
    loss = made("ofd", STUDENT, teacher)
    value = loss(STUDENT, teacher, LABELS).item()
    assert all(margin.mean.abs().max() == 0 for margin in loss.margins)
    expected = 0.0
    for n, share in ((0, 0.5), (1, 1.0)):
        ours = loss.connectors[n](STUDENT[n])
        asked = (teacher[n] > 0) | (ours > 0)
        expected += share * (ours - teacher[n])[asked].square().sum().item() / 3
    assert value == pytest.approx(expected, rel=1e-9)


def test_reviewkd_takes_the_mean_of_the_last_stage_along() -> None:
    """The same as tapping it: told apart from a last stage that is a vector already."""
    with_means = [[*side, side[-1].mean(dim=(2, 3))] for side in (STUDENT, TEACHER)]
    loss, tapped = made("reviewkd", STUDENT, TEACHER), made("reviewkd", *with_means)
    tapped.load_state_dict(loss.state_dict())
    expected = loss(STUDENT, TEACHER, LABELS).item()
    assert tapped(*with_means, LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_reviewkd_is_zero_for_a_teacher_that_is_what_it_makes() -> None:
    student = [STUDENT[0], STUDENT[1].mean(dim=(2, 3), keepdim=True)]
    teacher = [torch.zeros(3, 6, 8, 8, dtype=torch.float64), torch.zeros(3, 8, 1, 1, dtype=torch.float64)]
    loss = made("reviewkd", student, teacher)
    made_of: list[Tensor] = []
    for last in loss.exits:
        last.register_forward_hook(lambda _, __, output: made_of.insert(0, output.detach()))
    assert loss(student, teacher, LABELS).item() > 0
    assert loss(student, list(made_of), LABELS).item() == pytest.approx(0, abs=1e-12)


@stated
@given(st.permutations(range(16)))
def test_fsp_ignores_where_two_channels_are_large_together(order: list[int]) -> None:
    student, teacher = ([waves(3, 4, 4, 4, pace=p), waves(3, 5, 4, 4, pace=p / 2)] for p in (1.0, 0.7))
    loss = made("fsp", student, teacher)
    moved = [part.flatten(2)[:, :, order].view(part.shape) for part in student]
    assert loss(moved, teacher, LABELS).item() == pytest.approx(loss(student, teacher, LABELS).item(), rel=1e-9)


@stated
@given(st.floats(0.1, 5))
def test_fsp_is_in_the_fourth_power_of_the_unit(scale: float) -> None:
    student, teacher = ([waves(3, 4, 4, 4, pace=p), waves(3, 5, 2, 2, pace=p / 2)] for p in (1.0, 0.7))
    loss = made("fsp", student, teacher)
    scaled = loss([scale * part for part in student], [scale * part for part in teacher], LABELS)
    assert scaled.item() == pytest.approx(scale**4 * loss(student, teacher, LABELS).item(), rel=1e-9)


# --- forms and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ofd", "reviewkd", "fsp"])
def test_maps_learn_from_tokens_and_vectors(name: str) -> None:
    student = [part.requires_grad_() for part in (waves(3, 4, 8, 8, pace=1.0), waves(3, 5, 4, 4, pace=1.3))]
    teacher = [waves(3, 17, 6, pace=0.7), waves(3, 8, pace=0.9)]
    made(name, student, teacher)(student, teacher, LABELS).backward()
    for part in student:
        assert part.grad is not None
        assert part.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["ofd", "reviewkd", "fsp"])
def test_features_that_cannot_be_paired_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="student has 2 features here and the teacher 1"):
        made(name, STUDENT, TEACHER[:1])
    with pytest.raises(UserError, match="7 tokens are no square"):
        made(name, STUDENT, [waves(3, 7, 4, pace=1.0), TEACHER[1]])
    loss = made(name, STUDENT, TEACHER)
    with pytest.raises(UserError, match="gives 1 features and the teacher 2, and this loss was made for 2"):
        loss(STUDENT[:1], TEACHER, LABELS)
    with pytest.raises(UserError, match=r"the student's feature is \[3, 5, 4, 4\].* made for rows of \[4, 8, 8\]"):
        loss(STUDENT[::-1], TEACHER, LABELS)


def test_what_needs_more_than_it_is_given_says_so() -> None:
    with pytest.raises(UserError, match="there is one"):
        made("fsp", STUDENT[:1], TEACHER[:1])
    with pytest.raises(UserError, match="width"):
        made("reviewkd", STUDENT, TEACHER, width=0)


# --- numbers from published code -----------------------------------------------------------------


def test_ofd_equals_published_code() -> None:
    """clovaai/overhaul-distillation at 76344a84a7ce, CIFAR-100/distiller.py, with margins -.1, -.2, ... by channel."""
    loss = made("ofd", STUDENT, TEACHER)
    for connector, margin in zip(loss.connectors, loss.margins, strict=True):
        in_waves(connector, "0.weight")
        margin.eval().mean.copy_(-0.1 * torch.arange(1, len(margin.mean) + 1, dtype=torch.float64)[:, None, None])
    assert loss(STUDENT, TEACHER, LABELS).item() == pytest.approx(377.7847291317974, rel=1e-12)


@pytest.mark.parametrize(
    ("teacher", "published"),
    [
        (TEACHER, 2.9469906224662),
        ([waves(3, 6, 16, 16, pace=0.7), waves(3, 8, 2, 2, pace=0.9)], 2.6782572939103244),
    ],
)
def test_reviewkd_equals_published_code(teacher: list[Tensor], published: float) -> None:
    """megvii-research/mdistiller at a08d46f10d61, distillers/ReviewKD.py, ABF and hcl_loss; then of other sizes."""
    loss = made("reviewkd", STUDENT, teacher)
    names = [f"{part}.{n}.0.weight" for part in ("entries", "exits") for n in range(3)]
    in_waves(loss, *names, *(f"shares.{n}.{part}" for n in range(2) for part in ("weight", "bias")))
    assert loss(STUDENT, teacher, LABELS).item() == pytest.approx(published, rel=1e-12)


def test_fsp_equals_published_code() -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/FSP.py, its groups summed."""
    student = [waves(3, 4, 8, 8, pace=1.0), waves(3, 5, 4, 4, pace=1.3), waves(3, 6, 4, 4, pace=1.1)]
    teacher = [waves(3, 4, 8, 8, pace=0.7), waves(3, 5, 4, 4, pace=0.9), waves(3, 6, 4, 4, pace=0.5)]
    loss = made("fsp", student, teacher)
    assert list(loss.parameters()) == []
    assert loss(student, teacher, LABELS).item() == pytest.approx(0.054017243627701196, rel=1e-12)
