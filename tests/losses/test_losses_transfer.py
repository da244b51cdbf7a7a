"""Losses on the last feature: what the papers state, numbers from published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stated import in_waves, stated, waves
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.losses import bind

LABELS = torch.tensor([0, 1, 2])
STUDENT, TEACHER = waves(3, 4, 4, 4, pace=1.0), waves(3, 6, 4, 4, pace=0.7)
SMALL = waves(3, 6, 2, 2, pace=0.7)


def head(bias: bool = True) -> nn.Linear:
    layer = nn.Linear(6, 5, bias=bias).double()
    with torch.no_grad():
        layer.weight.copy_(waves(5, 6, pace=0.3))
        if bias:
            layer.bias.copy_(waves(5, pace=0.2))
    return layer


def srrl(teacher: tuple[int, ...] = (6, 4, 4), classifier: Any = None, **options: Any) -> Any:
    loss = bind("srrl", student=(4, 4, 4), teacher=teacher, head=classifier or head(), **options)
    loss.double().load_state_dict({"weight": head().weight, "bias": head().bias}, strict=False)  # in float64
    return in_waves(loss, "connector.0.weight")


@stated
@given(st.permutations(range(16)), st.permutations(range(16)))
def test_srrl_ignores_where_a_feature_is(one: list[int], other: list[int]) -> None:
    loss = srrl()
    student, teacher = (x.flatten(2)[:, :, order].view(x.shape) for x, order in ((STUDENT, one), (TEACHER, other)))
    assert loss(student, teacher, LABELS).item() == pytest.approx(loss(STUDENT, TEACHER, LABELS).item(), rel=1e-9)


@stated
@given(st.floats(0, 10))
def test_srrl_is_linear_in_the_weight_of_the_classifiers_part(beta: float) -> None:
    none, one, some = (srrl(beta=b)(STUDENT, TEACHER, LABELS).item() for b in (0.0, 1.0, beta))
    assert some == pytest.approx(none + beta * (one - none), rel=1e-9)
    assert one > none


def test_srrl_keeps_the_classifier_as_it_was() -> None:
    classifier = head()
    loss = bind("srrl", student=(4, 4, 4), teacher=(6, 4, 4), head=classifier).double()
    before = loss(STUDENT, TEACHER, LABELS)
    with torch.no_grad():
        classifier.weight.zero_()
    assert torch.equal(loss(STUDENT, TEACHER, LABELS), before)
    assert not {"weight", "bias"} & dict(loss.named_parameters()).keys()
    assert {"weight", "bias"} <= loss.state_dict().keys()
    assert loss.weight.abs().max() > 0


def test_srrl_takes_a_classifier_without_bias_and_a_vector() -> None:
    with_bias, without = (srrl(classifier=head(bias)) for bias in (True, False))
    assert with_bias(STUDENT, TEACHER, LABELS).item() == without(STUDENT, TEACHER, LABELS).item()
    pooled = TEACHER.mean(dim=(2, 3))
    expected = with_bias(STUDENT, TEACHER, LABELS).item()
    assert srrl(teacher=(6,))(STUDENT, pooled, LABELS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (nn.Sequential(nn.Linear(6, 5)), "classifier is a linear layer, not Sequential"),
        (nn.Linear(8, 5), "takes 8 values, and this feature has 6 channels"),
    ],
)
def test_srrl_refuses_a_classifier_that_does_not_take_the_feature(classifier: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind("srrl", student=(4, 4, 4), teacher=(6, 4, 4), head=classifier)
    with pytest.raises(UserError, match="not told its `head`"):
        bind("srrl", student=(4, 4, 4), teacher=(6, 4, 4))


def test_simkd_cannot_reach_below_zero() -> None:
    """The projector ends in a ReLU: a teacher of negative values costs at least their mean square."""
    loss = bind("simkd", student=(4, 4, 4), teacher=(6, 4, 4)).double()
    negative = -TEACHER.abs() - 0.1
    assert loss(STUDENT, negative, LABELS).item() >= negative.square().mean().item()
    assert (loss.projector(STUDENT) >= 0).all()


@pytest.mark.parametrize("shape", [(4,), (9, 4), (4, 3, 3)])
def test_simkd_takes_vectors_tokens_and_maps(shape: tuple[int, ...]) -> None:
    loss = bind("simkd", student=shape, teacher=(6, 3, 3)).double()
    student = waves(3, *shape, pace=1.0).requires_grad_()
    loss(student, waves(3, 6, 3, 3, pace=0.7), LABELS).backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "options"), [("simkd", {"factor": 0}), ("simkd", {"factor": 7}), ("srrl", {"beta": -1})]
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        bind(name, student=(4, 4, 4), teacher=(6, 4, 4), head=head(), **options)


@pytest.mark.parametrize(("teacher", "published"), [(TEACHER, 1.0243785733804731), (SMALL, 1.0104232052123887)])
def test_simkd_equals_published_code(teacher: Tensor, published: float) -> None:
    """DefangChen/SimKD at 2b389c31ed77, models/util.py, SimKD, and its MSE."""
    loss = bind("simkd", student=(4, 4, 4), teacher=teacher.shape[1:])
    in_waves(loss, *(f"projector.{layer}.0.weight" for layer in (0, 2, 4)))
    assert loss(STUDENT, teacher, LABELS).item() == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(("beta", "published"), [(0.0, 0.20850976409833935), (1.0, 3.1871369006579546)])
def test_srrl_equals_published_code(beta: float, published: float) -> None:
    """jingyang2017/KD_SRRL at d2e802f5f57e, distiller_zoo/AIN.py and the loss of train_imagenet_distillation.py."""
    assert srrl(beta=beta)(STUDENT, TEACHER, LABELS).item() == pytest.approx(published, rel=1e-12)
