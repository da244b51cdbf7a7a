"""Losses on logits: what their papers state, and numbers from published code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import logit as oracles
from stated import LABELS, SHARES, STUDENT, TEACHER, number, pairs, stated
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses import bind, logit, regression

Pair = tuple[Tensor, Tensor, Tensor]


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


@stated
@given(pairs(), st.floats(0.01, 0.99))
def test_js_is_bounded_and_the_same_with_sides_and_beta_exchanged(pair: Pair, beta: float) -> None:
    student, teacher, target = pair
    value = logit.kd(student, teacher, target, temperature=1.0, divergence="js", beta=beta).item()
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)  # what tells two sides apart at most
    assert -1e-12 <= value <= bound + 1e-12
    turned = logit.kd(teacher, student, target, temperature=1.0, divergence="js", beta=1 - beta).item()
    assert turned == pytest.approx(value, rel=1e-6, abs=1e-10)


@stated
@given(pairs())
def test_js_tends_to_the_divergence_in_either_direction(pair: Pair) -> None:
    """Agarwal et al.: divided by beta it tends to forward as beta falls; by 1 - beta, to reverse as it rises."""
    student, teacher, target = pair
    for beta, vanishes, divergence in ((1e-7, 1e-7, "forward"), (1 - 1e-7, 1e-7, "reverse")):
        value = logit.kd(student, teacher, target, divergence="js", beta=beta).item() / vanishes
        expected = logit.kd(student, teacher, target, divergence=divergence).item()
        assert value == pytest.approx(expected, rel=1e-2, abs=1e-4)


@stated
@given(pairs())
def test_reverse_kd_is_kd_with_sides_exchanged(pair: Pair) -> None:
    student, teacher, target = pair
    value = logit.kd(student, teacher, target, divergence="reverse").item()
    assert value == pytest.approx(logit.kd(teacher, student, target).item(), rel=1e-12)


@stated
@given(pairs(), st.floats(0.5, 20))
def test_soft_cross_entropy_is_kd_and_the_teachers_entropy(pair: Pair, temperature: float) -> None:
    student, teacher, target = pair
    student.requires_grad_()
    value = logit.soft_cross_entropy(student, teacher, target, temperature=temperature)
    (gradient,) = torch.autograd.grad(value, student)
    divergence = logit.kd(student, teacher, target, temperature=temperature)
    apart = temperature**2 * oracles.entropy(teacher / temperature)
    assert value.item() == pytest.approx(divergence.item() + apart, rel=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(divergence, student)[0], rtol=1e-9, atol=1e-12)


@stated
@given(pairs(least_classes=3), number, st.floats(0.1, 10))
def test_lskd_ignores_a_shift_and_a_scale(pair: Pair, shift: float, scale: float) -> None:
    """Sun et al., section 4: what is left of the logits are their relations."""
    student, teacher, target = (part + torch.arange(part.shape[-1]) if part.ndim > 1 else part for part in pair)
    if min(student.std(dim=1).min(), teacher.std(dim=1).min()) < 0.01:
        return
    for wraps in ("kd", "dkd"):
        value = logit.lskd(student, teacher, target, wraps=wraps).item()
        other = logit.lskd(scale * student + shift, teacher / scale - shift, target, wraps=wraps).item()
        assert other == pytest.approx(value, rel=1e-3, abs=1e-4)
        assert logit.lskd(scale * teacher, teacher, target, wraps=wraps).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("width", [1, 2])
def test_lskd_refuses_two_classes(width: int) -> None:
    with pytest.raises(UserError, match="say no more than which is larger") as refused:
        logit.lskd(*oracles.sample("lskd", width=width))
    assert refused.value.hint == "use `kd` with fewer than 3 classes"


def test_lskd_of_equal_logits_is_finite() -> None:
    student = torch.zeros(2, 4, requires_grad=True)
    value = logit.lskd(student, TEACHER[:2].float(), LABELS[:2])
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@stated
@given(pairs(), st.floats(0.5, 20))
def test_wsld_is_below_kd_and_its_weight_grows_with_the_students_error(pair: Pair, temperature: float) -> None:
    student, teacher, target = pair
    one_hot = nn.functional.one_hot(target, student.shape[1])
    value = logit.wsld(student, teacher, target, temperature=temperature).item()
    assert -1e-12 <= value <= logit.kd(student, teacher, target, temperature=temperature).item() + 1e-9
    knows = logit.wsld(student + 40 * one_hot, teacher, target, temperature=temperature).item()
    assert knows == pytest.approx(0, abs=1e-6)  # the label has all probability: nothing to learn, however unlike


def test_wsld_takes_mixed_labels() -> None:
    expected = oracles.wsld(STUDENT.tolist(), TEACHER.tolist(), SHARES.tolist())
    assert logit.wsld(STUDENT, TEACHER, SHARES).item() == pytest.approx(expected, rel=1e-10)


@stated
@given(pairs(), st.floats(0.6, 0.99))
def test_tf_kd_at_temperature_1_is_label_smoothing(pair: Pair, probability: float) -> None:
    """Yuan et al., section 3: smoothed labels are a virtual teacher."""
    student, _, target = pair
    classes = student.shape[1]
    smoothing = (1 - probability) * classes / (classes - 1)
    rest = [(1 - probability) / (classes - 1)] * (classes - 1)
    entropy = -sum(p * math.log(p) for p in (probability, *rest))
    value = logit.tf_kd(student, None, target, temperature=1.0, probability=probability).item()
    smoothed = logit.hard(student, None, target, label_smoothing=min(smoothing, 1.0)).item()
    assert value == pytest.approx(smoothed - entropy, rel=1e-9, abs=1e-9)


def test_tf_kd_takes_mixed_labels() -> None:
    expected = oracles.tf_kd(STUDENT.tolist(), [], SHARES.tolist())
    assert logit.tf_kd(STUDENT, None, SHARES).item() == pytest.approx(expected, rel=1e-10)


def test_ctkd_is_kd_at_its_temperature_and_stays_in_its_range() -> None:
    loss = logit.CTKD(start=2.0, end=6.0).double()
    with torch.no_grad():
        for weight, temperature in ((-100.0, 2.0), (0.0, 4.0), (100.0, 6.0)):
            loss.weight.fill_(weight)
            assert loss.temperature.item() == pytest.approx(temperature)
            expected = logit.kd(STUDENT, TEACHER, LABELS, temperature=temperature).item()
            assert loss(STUDENT, TEACHER, LABELS).item() == pytest.approx(expected, rel=1e-9)


def test_ctkd_moves_its_temperature_up_the_loss_as_fast_as_the_moment_allows() -> None:
    loss = logit.CTKD(epochs=4.0).double()
    gradients = []
    for epoch in (0, 2, 4, 9):
        loss.pace(epoch)
        (gradient,) = torch.autograd.grad(loss(STUDENT, TEACHER, LABELS), loss.weight)
        gradients.append(gradient.item())
    step = 1e-6
    with torch.no_grad():
        before = loss(STUDENT, TEACHER, LABELS)
        loss.weight += step
        slope = (loss(STUDENT, TEACHER, LABELS) - before).item() / step
    assert gradients == pytest.approx([0, -slope / 2, -slope, -slope], rel=1e-4, abs=1e-12)


def test_ctkd_without_epochs_is_reversed_from_the_beginning() -> None:
    assert logit.CTKD(epochs=0.0).strength.item() == 1
    assert logit.CTKD(epochs=5.0).strength.item() == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kd", {"divergence": "sideways"}, "`divergence` is forward, reverse or js, not 'sideways'"),
        ("kd", {"divergence": "js", "beta": 0.0}, "`beta` is between 0 and 1, not 0.0"),
        ("kd", {"divergence": "js", "beta": 1.0}, "`beta` is between 0 and 1, not 1.0"),
        ("soft_cross_entropy", {"temperature": 0.0}, "`temperature` is above 0"),
        ("lskd", {"wraps": "nkd"}, "`wraps` is kd or dkd, not 'nkd'"),
        ("wsld", {"temperature": -1.0}, "`temperature` is above 0"),
        ("tf_kd", {"probability": 1.0}, "`probability` is above 0 and below 1"),
        ("ctkd", {"start": 0.0}, "0 < start < end, not 0.0 and 21.0"),
        ("ctkd", {"start": 4.0, "end": 4.0}, "0 < start < end"),
        ("ctkd", {"epochs": -1.0}, "`epochs` is 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind(name, **options)(STUDENT, TEACHER, LABELS)


@pytest.mark.parametrize("name", ["wsld", "tf_kd"])
def test_labels_beyond_the_classes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="gives 4 outputs a row, too few for these labels"):
        bind(name)(STUDENT, TEACHER, torch.tensor([0, 1, 4]))


@pytest.mark.parametrize("name", ["hard", "kd", "mse", "soft_cross_entropy", "lskd", "wsld", "tf_kd", "ctkd"])
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


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"temperature": 2.0}, 0.3258748185733651),
        ({"temperature": 4.0}, 0.3350948732890296),
        ({"temperature": 2.0, "wraps": "dkd"}, 2.4363710372705665),
    ],
)
def test_lskd_equals_published_code(options: dict[str, Any], published: float) -> None:
    """sunshangquan/logit-standardization-KD at 6083e2de122d, mdistiller/distillers/KD.py and DKD.py."""
    assert logit.lskd(STUDENT, TEACHER, LABELS, **options).item() == pytest.approx(published, rel=1e-12)


def test_wsld_equals_published_code() -> None:
    """bellymonster/Weighted-Soft-Label-Distillation at 4ecf930e7da4, knowledge_distiller.py: soft_loss.

    Its gradient, and its value less the teacher's entropy in each row, weighted as there.
    """
    student = STUDENT.clone().requires_grad_()
    value = logit.wsld(student, TEACHER, LABELS)
    value.backward()
    weights = [0.9966198580618357, 0.9542713189687498, 1.0]
    apart = sum(w * oracles.entropy(row / 2) for w, row in zip(weights, TEACHER.split(1), strict=True)) * 4 / 3
    assert value.item() == pytest.approx(5.580673411076805 - apart, rel=1e-10)
    published = [
        [-0.18201544383664933, 0.02537696129419273, 0.008903959631669333, 0.1477345229107873],
        [0.08542030717753761, -0.09510455029574884, -0.060124571717646236, 0.06980881483585735],
        [-0.013826695847095373, 0.37688237364544913, 0.08777820629870298, -0.4508338840970569],
    ]
    torch.testing.assert_close(student.grad, torch.tensor(published, dtype=torch.float64), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("epoch", "published"),
    [(0, 0.0), (3, 0.0027116757201982302), (10, 0.013156616716305398), (20, 0.013156616716305398)],
)
def test_ctkd_equals_published_code(epoch: int, published: float) -> None:
    """zhengli97/CTKD at 7d5252241259: Global_T, CosineDecay(0, -1, 10) and DistillKL, t_start 1 and t_end 20."""
    loss, student = logit.CTKD().double(), STUDENT.clone().requires_grad_()
    loss.pace(epoch)
    value = loss(student, TEACHER, LABELS)
    value.backward()
    assert loss.temperature.item() == pytest.approx(15.621171572600097, rel=1e-12)
    assert value.item() == pytest.approx(2.3172200034515966, rel=1e-12)
    assert loss.weight.grad is not None
    assert loss.weight.grad.item() == pytest.approx(published, rel=1e-6, abs=1e-15)
    assert student.grad is not None
    expected = [-0.1545164568932749, 0.09236834499159696, -0.013539734915907544, 0.07568784681758511]
    assert student.grad[0].tolist() == pytest.approx(expected, rel=1e-10)
