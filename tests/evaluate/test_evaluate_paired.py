"""A paired test of what a smaller model loses, against numbers from the definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import evaluate
from limbeck.core.errors import UserError
from limbeck.core.types import Task

CLASSES = Task("classification", ("a", "b"))
VALUES = Task("regression", ("y",))


def hits(right: list[int]) -> torch.Tensor:
    """Logits of rows whose class is 0 that are right or wrong as told."""
    return torch.tensor([[1.0, 0.0] if one else [0.0, 1.0] for one in right])


def test_mcnemar_is_the_exact_binomial_one():
    # 9 rows lost, 2 won: twice the chance of 9 or more heads of 11 coins.
    before = [1] * 9 + [0] * 2 + [1] * 40
    after = [0] * 9 + [1] * 2 + [1] * 40
    found = evaluate.loss(CLASSES, hits(before), hits(after), torch.zeros(51, dtype=torch.int64))
    tail = sum(math.comb(11, k) for k in (9, 10, 11)) / 2**11
    assert found.mcnemar == pytest.approx(2 * tail)
    assert found.drop == pytest.approx(7 / 51)


def test_a_drop_below_the_noise_passes_and_a_sure_one_does_not():
    rows, zeros = 1000, torch.zeros(1000, dtype=torch.int64)
    base = hits([1] * rows)
    slightly = evaluate.loss(CLASSES, base, hits([0] * 12 + [1] * 988), zeros, allowed=0.01)
    surely = evaluate.loss(CLASSES, base, hits([0] * 40 + [1] * 960), zeros, allowed=0.01)
    assert slightly.drop == pytest.approx(0.012)
    assert slightly.within
    assert not surely.within
    assert surely.p_more < 1e-3


def test_the_bootstrap_gives_the_normal_tail_of_many_rows():
    rows = 10_000
    lost = 160  # 1.6 % against 1.4 % allowed: z = 0.002 / sqrt(0.016 * 0.984 / 10000)
    right = [0] * lost + [1] * (rows - lost)
    zeros = torch.zeros(rows, dtype=torch.int64)
    found = evaluate.loss(CLASSES, hits([1] * rows), hits(right), zeros, allowed=0.014)
    z = 0.002 / math.sqrt(0.016 * 0.984 / rows)
    assert found.p_more == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.012)


def test_regression_is_held_to_a_share_of_the_error():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(800, 1, generator=generator)
    noise = torch.randn(800, 1, generator=generator)
    before, after = target + noise, target + 1.2 * noise
    found = evaluate.loss(VALUES, before, after, target, allowed=0.25)
    assert found.drop == pytest.approx(0.2, abs=1e-6)
    assert found.mcnemar is None
    assert found.within
    assert not evaluate.loss(VALUES, before, after, target, allowed=0.1).within


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 99))
def test_the_same_predictions_lose_nothing(right, seed):
    given_, target = hits(right), torch.zeros(len(right), dtype=torch.int64)
    found = evaluate.loss(CLASSES, given_, given_.clone(), target, seed=seed)
    assert (found.drop, found.p_more, found.mcnemar) == (0.0, 1.0, 1.0)


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(UserError, match="cannot be held together"):
        evaluate.loss(CLASSES, hits([1]), hits([1, 0]), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="cannot be held together"):
        evaluate.loss(CLASSES, hits([]), hits([]), torch.zeros(0, dtype=torch.int64))
