"""Losses on one pair of features: what the papers state, the forms of features, numbers from published code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import feature as oracle
from stated import in_waves, stated, waves
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses import bind, projection
from limbeck.losses.feature import at, nst

LABELS = torch.tensor([0, 1, 2])
STUDENT, TEACHER = waves(3, 4, 4, 4, pace=1.0), waves(3, 6, 4, 4, pace=0.7)
SMALL = waves(3, 6, 2, 2, pace=0.7)
ALIKE = waves(3, 4, 4, 4, pace=0.7)  # of the student's channels


def made(name: str, student: Tensor, teacher: Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    loss = bind(name, student=student.shape[1:], teacher=teacher.shape[1:], **options)
    return loss.double() if isinstance(loss, nn.Module) else loss


def value(name: str, student: Tensor, teacher: Tensor, **options: Any) -> float:
    loss = made(name, student, teacher, **options)
    torch.manual_seed(1)
    return loss(student, teacher, torch.arange(len(student))).item()


@st.composite
def drawn_maps(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Student and teacher of one size, of channels of their own."""
    noise = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rows, height, width = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 4))
    channels = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    student, teacher = (
        torch.randn(rows, count, height, width, generator=noise, dtype=torch.float64) for count in channels
    )
    return student, teacher


# --- what the papers state -----------------------------------------------------------------------


@stated
@given(drawn_maps(), st.floats(0.1, 10))
def test_at_ignores_scale_signs_and_order_of_the_channels(pair: tuple[Tensor, Tensor], scale: float) -> None:
    student, teacher = pair
    expected = value("at", student, teacher)
    assert value("at", -scale * student.flip(1), teacher / scale) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 0 <= expected <= 2 / student[0, 0].numel()


@stated
@given(drawn_maps())
def test_nst_compares_distributions_of_patterns(pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair
    expected = value("nst", student, teacher)
    scaled = student * torch.linspace(-3, 5, student.shape[1])[:, None, None]
    if scaled.abs().amin() > 0:
        assert value("nst", scaled.flip(1), teacher) == pytest.approx(expected, abs=1e-10)
    assert value("nst", student.repeat(1, 2, 1, 1), teacher) == pytest.approx(expected, abs=1e-10)
    assert value("nst", student, student) == pytest.approx(0, abs=1e-12)
    assert -1e-12 <= expected <= 2


@pytest.mark.parametrize("channels", [(2, 9), (9, 9), (5, 4)])
def test_nst_is_the_same_over_channels_and_over_pixels(channels: tuple[int, int]) -> None:
    """Of 4 pixels: with 9 channels each their products are taken, with fewer those of the channels."""
    student, teacher = (waves(2, count, 2, 2, pace=0.3 + count) for count in channels)
    expected = oracle.nst(student.tolist(), teacher.tolist(), [])
    assert nst(student, teacher, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-10)


@stated
@given(drawn_maps(), st.floats(0.5, 8), st.floats(-5, 5))
def test_cwd_ignores_what_is_added_to_a_channel(pair: tuple[Tensor, Tensor], temperature: float, shift: float) -> None:
    student, _ = pair
    teacher = student.flip(0).flip(2)
    expected = value("cwd", student, teacher, temperature=temperature)
    shifts = shift * torch.arange(student.shape[1])[:, None, None]
    moved = value("cwd", student + shifts, teacher - shifts, temperature=temperature)
    assert moved == pytest.approx(expected, rel=1e-7, abs=1e-10)
    assert expected >= -1e-12


def test_fitnet_of_equal_channels_is_the_mean_squared_difference() -> None:
    loss = made("fitnet", STUDENT, ALIKE)
    assert list(loss.parameters()) == []
    assert loss(STUDENT, ALIKE, LABELS).item() == pytest.approx((STUDENT - ALIKE).square().mean().item())


@stated
@given(st.floats(-3, 3))
def test_vid_is_least_where_the_variance_is_the_mean_squared_error(off: float) -> None:
    """Ahn et al., equation 5: a normal distribution's likelihood."""
    loss = made("vid", STUDENT, TEACHER)
    errors = (loss.regressor(STUDENT) - TEACHER).square().mean(dim=(0, 2, 3)).detach()
    values = []
    for variance in (errors, errors * math.exp(off)):
        with torch.no_grad():
            loss.log_scale.copy_((variance - 1e-5).expm1().log())
        values.append(loss(STUDENT, TEACHER, LABELS).item())
    assert values[0] <= values[1] + 1e-12
    assert values[0] == pytest.approx((1 + errors.log().mean().item()) / 2, rel=1e-9)


@pytest.mark.parametrize("variance", [0.001, 0.5, 5.0, 1000.0])
def test_vid_begins_with_the_variance_it_is_told_and_trains_it(variance: float) -> None:
    loss = made("vid", STUDENT, TEACHER, variance=variance)
    assert (nn.functional.softplus(loss.log_scale) + 1e-5).tolist() == pytest.approx([variance] * 6, rel=1e-3)
    loss(STUDENT, TEACHER, LABELS).backward()
    assert (loss.log_scale.grad != 0).all()


def test_mgd_masks_anew_in_every_step_and_alike_in_a_seeded_run() -> None:
    loss = made("mgd", STUDENT, TEACHER, masked=0.5)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append([loss(STUDENT, TEACHER, LABELS).item() for _ in range(3)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


@pytest.mark.parametrize("over", ["channels", "pixels"])
def test_mgd_masks_whole_channels_or_pixels_of_each_row(over: str) -> None:
    student = torch.ones(400, 4, 3, 3, dtype=torch.float64)
    loss = made("mgd", student, student, masked=0.3, over=over)
    seen: list[Tensor] = []
    loss.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss(student, student, torch.zeros(400, dtype=torch.long))
    [kept] = seen
    together = (2, 3) if over == "channels" else (1,)
    assert torch.equal(kept.amin(dim=together), kept.amax(dim=together))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.7, abs=0.05)
    assert (kept != kept[:1]).any()


def test_mgd_masks_nothing_in_evaluation_mode() -> None:
    loss = made("mgd", STUDENT, TEACHER, masked=0.5)
    expected = made("mgd", STUDENT, TEACHER, masked=0.0)(STUDENT, TEACHER, LABELS)
    assert torch.equal(loss.eval()(STUDENT, TEACHER, LABELS), expected)


# --- maps, tokens and vectors --------------------------------------------------------------------

EACH = ["fitnet", "at", "nst", "cwd", "mgd", "vid"]


def as_tokens(maps: Tensor, *, first: bool = False) -> Tensor:
    """The pixels row by row, after a class token."""
    tokens = maps.flatten(2).transpose(1, 2)
    return torch.cat([torch.full_like(tokens[:, :1], 99.0), tokens], dim=1) if first else tokens


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("first", [False, True])
def test_tokens_beside_maps_are_a_square_of_patches(name: str, first: bool) -> None:
    tokens = as_tokens(ALIKE, first=first)
    assert value(name, STUDENT, tokens) == pytest.approx(value(name, STUDENT, ALIKE), rel=1e-12)
    assert value(name, tokens, STUDENT) == pytest.approx(value(name, ALIKE, STUDENT), rel=1e-12)


@pytest.mark.parametrize("name", EACH)
def test_tokens_of_one_number_are_compared_one_by_one(name: str) -> None:
    student, teacher = waves(3, 7, 4, pace=1.0), waves(3, 7, 4, pace=0.7)  # 7 are no square
    columns = [part.transpose(1, 2).unsqueeze(3) for part in (student, teacher)]
    assert value(name, student, teacher) == pytest.approx(value(name, *columns), rel=1e-12)


def test_tokens_of_other_numbers_are_averaged_as_patches() -> None:
    student, teacher = as_tokens(STUDENT, first=True), as_tokens(SMALL)
    assert value("at", student, teacher) == pytest.approx(value("at", STUDENT, SMALL), rel=1e-12)


def test_tokens_that_are_no_square_are_refused() -> None:
    for name in ("fitnet", "cwd", "mgd", "vid"):
        with pytest.raises(UserError, match=r"7 tokens are no square"):
            bind(name, student=(4, 4, 4), teacher=(7, 5))
    with pytest.raises(UserError, match=r"7 tokens are no square"):
        at(STUDENT, waves(3, 7, 5, pace=1.0), LABELS)


def test_vectors_are_projected_by_a_linear_layer() -> None:
    student, teacher = waves(3, 4, pace=1.0), waves(3, 6, pace=0.7)
    loss = made("fitnet", student, teacher)
    projected = student @ loss.projector.weight[:, :, 0, 0].T + loss.projector.bias
    expected = (projected - teacher).square().mean().item()
    assert loss(student, teacher, LABELS).item() == pytest.approx(expected, rel=1e-12)
    assert value("vid", student, teacher) > 0
    assert value("mgd", student, teacher) > 0


def test_a_vector_beside_maps_is_compared_with_their_mean() -> None:
    vector = waves(3, 4, pace=0.9)
    expected = (STUDENT.mean(dim=(2, 3)) - vector).square().mean().item()
    assert value("fitnet", STUDENT, vector) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "options"), [("cwd", {}), ("mgd", {"over": "pixels"})])
@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (1, 4)])
def test_features_without_space_are_refused_before_training(
    name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    with pytest.raises(UserError, match="no space"):
        bind(name, student=shape, teacher=shape, **options)


@pytest.mark.parametrize("loss", [at, nst])
def test_features_without_space_are_refused(loss: Any) -> None:
    with pytest.raises(UserError, match=r"\[4, 4, 4\] and the teacher's \[6\] a row one has no space"):
        loss(STUDENT, waves(3, 6, pace=1.0), LABELS)
    with pytest.raises(UserError, match=r"\[B, channels, H, W\]"):
        loss(STUDENT[..., None], TEACHER, LABELS)


@pytest.mark.parametrize("name", ["fitnet", "cwd", "mgd", "vid"])
def test_features_other_than_those_it_was_made_for_are_refused(name: str) -> None:
    loss = made(name, STUDENT, TEACHER)
    for student, teacher, whose in [(STUDENT[:, 1:], TEACHER, "student"), (STUDENT, as_tokens(TEACHER), "teacher")]:
        with pytest.raises(UserError, match=rf"the {whose}'s feature is .* made for rows of \["):
            loss(student, teacher, LABELS)
    larger = nn.functional.interpolate(STUDENT, scale_factor=2)
    assert loss(larger, TEACHER, LABELS).isfinite()  # other sizes than the example's are fine


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cwd", {"temperature": 0}),
        ("mgd", {"masked": 1}),
        ("mgd", {"over": "rows"}),
        ("vid", {"variance": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        made(name, STUDENT, TEACHER, **options)


def test_norm_uses_its_averages_for_a_single_value() -> None:
    norm = projection.Norm(2)
    norm(waves(4, 2, 3, 3, pace=1.0).float())
    before = norm.running_mean.clone()
    one = torch.tensor([[0.5, -1.0]])[..., None, None]
    expected = (one[0, :, 0, 0] - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(one)[0, :, 0, 0], expected)
    assert norm(one[:0]).shape == (0, 2, 1, 1)
    assert torch.equal(norm.running_mean, before)


# --- numbers from published code -----------------------------------------------------------------


def test_at_equals_published_code() -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/AT.py; the last two of unequal sizes."""
    assert at(STUDENT, TEACHER, LABELS).item() == pytest.approx(0.018311363316630982, rel=1e-12)
    assert at(STUDENT, SMALL, LABELS).item() == pytest.approx(0.08001171499753855, rel=1e-12)
    assert at(SMALL, STUDENT, LABELS).item() == pytest.approx(0.08001171499753855, rel=1e-12)


def test_nst_equals_published_code() -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/NST.py."""
    assert nst(STUDENT, TEACHER, LABELS).item() == pytest.approx(1.2327868767624022, rel=1e-12)
    assert nst(STUDENT, SMALL, LABELS).item() == pytest.approx(0.9819934341310508, rel=1e-12)


@pytest.mark.parametrize(("teacher", "published"), [(TEACHER, 0.8554140589247251), (SMALL, 0.8554785068503435)])
def test_vid_equals_published_code(teacher: Tensor, published: float) -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, distiller_zoo/VID.py; it keeps log_scale in float32."""
    loss = bind("vid", student=(4, 4, 4), teacher=teacher.shape[1:])
    in_waves(loss, "regressor.0.weight", "regressor.2.weight", "regressor.4.weight")
    assert loss.log_scale[0].item() == pytest.approx(4.993229389190674, rel=1e-6)
    assert loss(STUDENT, teacher, LABELS).item() == pytest.approx(published, rel=1e-6)


def test_fitnet_equals_published_code() -> None:
    """megvii-research/mdistiller at a08d46f10d61, distillers/_common.py, ConvReg(use_relu=False), and its MSE."""
    loss = in_waves(bind("fitnet", student=(4, 4, 4), teacher=(6, 4, 4)), "projector.0.weight")
    assert loss(STUDENT, TEACHER, LABELS).item() == pytest.approx(1.5057739362577347, rel=1e-12)


@pytest.mark.parametrize(("temperature", "published"), [(1.0, 0.4359251181552793), (4.0, 0.48274832212350144)])
def test_cwd_equals_published_code(temperature: float, published: float) -> None:
    """open-mmlab/mmrazor at 90c7af1fdf35, mmrazor/models/losses/cwd.py."""
    assert value("cwd", STUDENT, ALIKE, temperature=temperature) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(("masked", "published"), [(0.15, 616.4822784919901), (0.5, 375.5725183871595)])
def test_mgd_equals_published_code(masked: float, published: float) -> None:
    """yzd-v/MGD at 2c9da0b28625, cls/mmcls/distillation/losses/mgd.py with alpha_mgd=1, after torch.manual_seed(3)."""
    loss = bind("mgd", student=(4, 4, 4), teacher=(6, 4, 4), masked=masked)
    names = [f"{layer}.{part}" for layer in ("projector", "generator.0", "generator.2") for part in ("weight", "bias")]
    in_waves(loss, *names)
    torch.manual_seed(3)
    assert loss(STUDENT, TEACHER, LABELS).item() == pytest.approx(published, rel=1e-12)
