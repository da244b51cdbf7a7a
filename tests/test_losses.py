"""Every loss: its oracle, the shared contract, the identities of its paper, numbers from published code.

A new loss needs a row in ORACLES and in BEST (and in OPTIONS if it has any); the contract then covers it.
"""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import limbeck.losses
from limbeck import signatures
from limbeck.errors import UserError
from limbeck.losses import LOSSES, bind, logit, needs_teacher, regression

Rows = list[list[float]]

# --- oracles: each paper's equation once more, with loops and floats -----------------------------


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def hard_oracle(student: Rows, teacher: Rows, target: list[Any], label_smoothing: float = 0.0) -> float:
    rows = []
    for logits, wanted in zip(student, target, strict=True):
        classes = len(logits)
        if wanted == -100:
            continue
        shares = wanted if isinstance(wanted, list) else [1.0 if c == wanted else 0.0 for c in range(classes)]
        smooth = [(1 - label_smoothing) * q + label_smoothing / classes for q in shares]
        rows.append(-sum(q * math.log(p) for q, p in zip(smooth, softmax(logits), strict=True)))
    return sum(rows) / len(rows)


def kd_oracle(student: Rows, teacher: Rows, target: list[Any], temperature: float = 4.0) -> float:
    rows = []
    for z_s, z_t, wanted in zip(student, teacher, target, strict=True):
        if wanted == -100:
            continue
        p_s, p_t = softmax(z_s, temperature), softmax(z_t, temperature)
        rows.append(sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True)))
    return temperature**2 * sum(rows) / len(rows)


def label_mse_oracle(student: Rows, teacher: Rows, target: Rows) -> float:
    errors = [
        (s - y) ** 2 for row, wanted in zip(student, target, strict=True) for s, y in zip(row, wanted, strict=True)
    ]
    return sum(errors) / len(errors)


def label_smooth_l1_oracle(student: Rows, teacher: Rows, target: Rows, beta: float = 1.0) -> float:
    errors = []
    for row, wanted in zip(student, target, strict=True):
        for s, y in zip(row, wanted, strict=True):
            d = abs(s - y)
            errors.append(d**2 / (2 * beta) if d < beta else d - beta / 2)
    return sum(errors) / len(errors)


def mse_oracle(student: Rows, teacher: Rows, target: list[Any]) -> float:
    counted = [(s, t) for s, t, y in zip(student, teacher, target, strict=True) if y != -100]
    errors = [(a - b) ** 2 for s, t in counted for a, b in zip(s, t, strict=True)]
    return sum(errors) / len(errors)


def teacher_bounded_oracle(student: Rows, teacher: Rows, target: Rows, margin: float = 0.0) -> float:
    total = 0.0
    for s, t, y in zip(student, teacher, target, strict=True):
        of_student = sum((a - b) ** 2 for a, b in zip(s, y, strict=True))
        of_teacher = sum((a - b) ** 2 for a, b in zip(t, y, strict=True))
        total += of_student if of_student + margin > of_teacher else 0.0
    return total / len(student)


ORACLES: dict[str, Callable[..., float]] = {
    "hard": hard_oracle,
    "kd": kd_oracle,
    "label_mse": label_mse_oracle,
    "label_smooth_l1": label_smooth_l1_oracle,
    "mse": mse_oracle,
    "teacher_bounded": teacher_bounded_oracle,
}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "hard": [{"label_smoothing": 0.1}, {"label_smoothing": 1}],
    "kd": [{"temperature": 1.0}, {"temperature": 20}],
    "label_smooth_l1": [{"beta": 0.3}, {"beta": 0.0}],
    "teacher_bounded": [{"margin": 0.7}, {"margin": 100.0}],
}


def entropy(student: Tensor) -> float:
    rows = [-sum(p * math.log(p) for p in softmax(row)) for row in student.tolist()]
    return sum(rows) / len(rows)


# Where each loss is at its least: student -> (teacher, target, the least value).
BEST: dict[str, Callable[[Tensor], tuple[Tensor | None, Tensor, float]]] = {
    "hard": lambda s: (None, s.softmax(dim=-1), entropy(s)),
    "kd": lambda s: (s.clone(), torch.zeros(len(s), dtype=torch.long), 0.0),
    "label_mse": lambda s: (None, s.clone(), 0.0),
    "label_smooth_l1": lambda s: (None, s.clone(), 0.0),
    "mse": lambda s: (s.clone(), torch.zeros_like(s), 0.0),
    "teacher_bounded": lambda s: (torch.zeros_like(s), s.clone(), 0.0),
}

EVERY = [(name, options) for name in LOSSES for options in [{}, *OPTIONS.get(name, [])]]
every_loss = pytest.mark.parametrize("name", LOSSES)
every_case = pytest.mark.parametrize(("name", "options"), EVERY)


def sample(name: str, *, rows: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and target in float64: labels for the losses on logits, values for the others."""
    noise = torch.Generator().manual_seed(seed)
    student, teacher, values = 2 * torch.randn(3, rows, width, generator=noise, dtype=torch.float64)
    labels = torch.randint(width, (rows,), generator=noise)
    return student, teacher, labels if signatures.losses()[name].family == "logit" else values


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == set(LOSSES)
    assert set(BEST) == set(LOSSES)
    with_options = {name for name, signature in signatures.losses().items() if signature.options}
    assert set(OPTIONS) == with_options


@every_case
@pytest.mark.parametrize("width", [1, 2, 5])
def test_equals_its_oracle(name: str, options: dict[str, Any], width: int) -> None:
    for seed in range(5):
        student, teacher, target = sample(name, width=width, seed=seed)
        value = bind(name, **options)(student, teacher, target)
        expected = ORACLES[name](student.tolist(), teacher.tolist(), target.tolist(), **options)
        assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


# --- the contract every loss keeps ---------------------------------------------------------------


@every_case
@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_gives_a_scalar_in_float32_or_better(
    name: str, options: dict[str, Any], given_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    student, teacher, target = sample(name)
    student = student.to(given_dtype)
    value = bind(name, **options)(student, teacher, target)
    assert value.shape == ()
    assert value.dtype == dtype
    raised = bind(name, **options)(student.double(), teacher, target)  # the same numbers, computed exactly
    assert value.item() == pytest.approx(raised.item(), rel=1e-5)


@every_case
def test_gradient_reaches_the_student_and_never_the_teacher(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = sample(name)
    student.requires_grad_()
    teacher.requires_grad_()
    before = student.detach().clone(), teacher.detach().clone(), target.clone()
    bind(name, **options)(student, teacher, target).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None
    assert all(torch.equal(a, b) for a, b in zip(before, (student, teacher, target), strict=True))


@every_case
def test_gradient_is_that_of_the_value(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = sample(name)
    loss = bind(name, **options)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, target), student.requires_grad_())


@every_case
def test_order_of_the_batch_is_irrelevant(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = sample(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = bind(name, **options)
    shuffled = loss(student[order], teacher[order], target[order])
    assert shuffled.item() == pytest.approx(loss(student, teacher, target).item(), rel=1e-12)


@every_case
def test_batch_given_twice_has_the_same_value(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = sample(name)
    loss = bind(name, **options)
    twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), torch.cat([target, target]))
    assert twice.item() == pytest.approx(loss(student, teacher, target).item(), rel=1e-12)


@every_loss
def test_is_at_its_least_where_it_says(name: str) -> None:
    student = sample(name)[0]
    teacher, target, least = BEST[name](student)
    loss = bind(name)
    assert loss(student, teacher, target).item() == pytest.approx(least, abs=1e-12)
    noise = torch.Generator().manual_seed(1)
    for size in (1e-3, 0.1, 1.0):
        moved = student + size * torch.randn(student.shape, generator=noise, dtype=torch.float64)
        assert loss(moved, teacher, target).item() >= least


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_large_and_small_inputs_stay_finite(
    name: str, options: dict[str, Any], dtype: torch.dtype, size: float
) -> None:
    student, teacher, target = sample(name)
    student = (student / student.abs().max() * size).to(dtype).requires_grad_()
    value = bind(name, **options)(student, (-teacher * size).clamp(-6e4, 6e4).to(dtype), target)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_case
def test_what_is_not_finite_is_never_hidden(name: str, options: dict[str, Any]) -> None:
    for side in (0, 1) if needs_teacher(bind(name)) else (0,):
        parts = sample(name)
        parts[side][2, 1] = math.nan
        assert bind(name, **options)(*parts).isnan()


@every_case
def test_empty_batch_gives_zero_with_a_gradient(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = (part[:0] for part in sample(name))
    student = student.clone().requires_grad_()
    value = bind(name, **options)(student, teacher, target)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert student.grad.shape == (0, 5)


@every_case
def test_autocast_changes_nothing(name: str, options: dict[str, Any]) -> None:
    student, teacher, target = (part.float() if part.is_floating_point() else part for part in sample(name))
    loss = bind(name, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, target)
    assert torch.equal(value, loss(student, teacher, target))


@every_loss
def test_absent_teacher_is_refused_only_where_it_is_needed(name: str) -> None:
    student, teacher, target = sample(name)
    loss = bind(name)
    if needs_teacher(loss):
        with pytest.raises(UserError, match="learns from a teacher"):
            loss(student, None, target)
    else:
        assert torch.equal(loss(student, None, target), loss(student, -teacher, target))


@every_loss
def test_other_classes_than_the_teacher_are_refused(name: str) -> None:
    student, teacher, target = sample(name)
    if needs_teacher(bind(name)):
        with pytest.raises(UserError, match=r"student gives 5 outputs a row and the teacher 3"):
            bind(name)(student, teacher[:, :3], target)
        with pytest.raises(UserError, match=r"\[6, 5\] and the teacher's \[1, 5\]"):
            bind(name)(student, teacher[:1], target)
    else:
        assert bind(name)(student, teacher[:, :3], target).isfinite()


@every_loss
def test_target_of_another_shape_is_refused(name: str) -> None:
    student, teacher, target = sample(name, width=1)
    wrong = target[:-1] if target.ndim == 1 else target.squeeze(1)
    if name == "mse":
        assert bind(name)(student, teacher, wrong).isfinite()  # measured targets do not matter to it
        wrong = torch.zeros(5, dtype=torch.long)
    with pytest.raises(UserError, match=r"\[[56]\]"):
        bind(name)(student, teacher, wrong)


@every_loss
def test_output_without_a_batch_is_refused(name: str) -> None:
    student, teacher, target = sample(name)
    with pytest.raises(UserError, match=r"shape \[5\], and a loss needs rows"):
        bind(name)(student[0], teacher[0], target[0])


# --- what the papers state -----------------------------------------------------------------------

settings.register_profile(
    "losses", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
stated = settings(settings.get_profile("losses"))
number = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def pairs(draw: st.DrawFn, least_classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Student [B, C], teacher [B, C] and labels [B]."""
    rows, classes = draw(st.integers(1, 4)), draw(st.integers(least_classes, 5))
    table = st.lists(st.lists(number, min_size=classes, max_size=classes), min_size=rows, max_size=rows)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return (
        torch.tensor(draw(table), dtype=torch.float64),
        torch.tensor(draw(table), dtype=torch.float64),
        torch.tensor(labels),
    )


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
    assert forward.item() == pytest.approx(kd_oracle(student.tolist(), teacher.tolist(), [0]))


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
    p = softmax([1.0, 2.0, 3.0])
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
    student = sample("hard")[0]
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0]] * 6)
    for smoothing in (0.0, 0.1):
        expected = hard_oracle(student.tolist(), [], shares.double().tolist(), smoothing)
        assert logit.hard(student, None, shares, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["hard", "kd", "mse"])
def test_ignored_rows_count_for_nothing(name: str) -> None:
    student, teacher, _ = sample(name)
    target = torch.tensor([1, -100, 0, -100, 4, 2])
    student.requires_grad_()
    value = bind(name)(student, teacher, target)
    value.backward()
    assert value.item() == pytest.approx(ORACLES[name](student.tolist(), teacher.tolist(), target.tolist()), rel=1e-10)
    assert student.grad is not None
    assert student.grad[[1, 3]].abs().max() == 0
    assert bind(name)(student, teacher, torch.full((6,), -100)).item() == 0


@pytest.mark.parametrize("name", ["hard", "kd", "mse"])
def test_tokens_are_rows(name: str) -> None:
    student, teacher, _ = sample(name)
    target = torch.tensor([1, -100, 0, 3, 4, 2])
    tokens = bind(name)(student.view(2, 3, 5), teacher.view(2, 3, 5), target.view(2, 3))
    assert tokens.item() == pytest.approx(bind(name)(student, teacher, target).item(), rel=1e-12)


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


# --- numbers from published code -----------------------------------------------------------------

STUDENT = torch.tensor([[2.0, -1.0, 0.5, 3.0], [0.0, 1.5, -2.0, 0.25], [-3.0, 4.0, 1.0, 1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[4.0, -2.0, 1.0, 2.5], [-1.0, 3.0, 0.5, 0.0], [0.0, 2.0, -1.5, 6.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 3])
SHARES = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.25] * 4], dtype=torch.float64)


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


# --- bind ----------------------------------------------------------------------------------------


def test_signatures_read_from_source_are_the_real_ones() -> None:
    assert set(signatures.losses()) == set(LOSSES)
    assert len(LOSSES) == len(logit.LOSSES) + len(regression.LOSSES)
    for name, loss in LOSSES.items():
        read, arguments = signatures.losses()[name], inspect.signature(loss).parameters.values()
        real = {a.name: (a.annotation, a.default) for a in arguments if a.kind is a.KEYWORD_ONLY}
        assert read.options == real
        assert read.needs_teacher == needs_teacher(bind(name))
        assert read.about


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, "unknown loss 'kdd'.*did you mean 'kd'"),
        ("kd", {"temprature": 2.0}, "loss 'kd': no option 'temprature'.*did you mean 'temperature'"),
        ("kd", {"temperature": "4"}, "option 'temperature' is a float, not '4'"),
        ("kd", {"temperature": True}, "option 'temperature' is a float, not True"),
        ("kd", {"temperature": None}, "option 'temperature' is a float, not None"),
        ("mse", {"beta": 1.0}, "no option 'beta'.*nothing is known here"),
    ],
)
def test_bind_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        bind(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kd", {"temperature": 0}),
        ("kd", {"temperature": math.nan}),
        ("hard", {"label_smoothing": 1.5}),
        ("label_smooth_l1", {"beta": -1.0}),
        ("teacher_bounded", {"margin": -0.1}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        bind(name, **options)(*sample(name))


def test_bind_makes_a_module_of_a_loss_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose loss is a class, as projectors will be."""
    family = tmp_path / "losses" / "projected.py"
    family.parent.mkdir()
    family.write_text(
        "from torch import nn\n"
        "class Projected(nn.Module):\n"
        "    def __init__(self, *, width: int, scale: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.scale, self.map = scale, nn.Linear(width, width)\n"
        "    def forward(self, student, _teacher, target):\n"
        "        return self.scale * self.map(student).square().mean()\n"
        "LOSSES = {'projected': Projected}\n"
    )
    spec = importlib.util.spec_from_file_location("projected", family)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signatures, "HERE", tmp_path)
    monkeypatch.setattr(limbeck.losses, "LOSSES", module.LOSSES)
    signatures.losses.cache_clear()
    try:
        loss = bind("projected", width=3, scale=2)
        assert isinstance(loss, nn.Module)
        assert not needs_teacher(loss)
        assert loss(torch.ones(2, 3), None, torch.zeros(2)).requires_grad
        with pytest.raises(UserError, match=r"the option 'width' \(int\) is missing"):
            bind("projected")
        with pytest.raises(UserError, match="option 'width' is a int, not"):
            bind("projected", width=3.0)
    finally:
        signatures.losses.cache_clear()


def test_a_callable_of_ones_own_counts_as_learning_from_the_teacher() -> None:
    assert needs_teacher(lambda s, t, y: s.sum())
    assert needs_teacher(lambda *outputs: outputs[0].sum())
    assert not needs_teacher(lambda s, _t, y: s.sum())
    assert needs_teacher(max)


@pytest.mark.parametrize("module", [limbeck.losses, logit, regression])
def test_examples_in_the_docstrings_run(module: Any) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.failed == 0
    assert module is regression or found.attempted > 0
