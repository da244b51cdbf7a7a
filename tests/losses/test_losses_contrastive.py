"""The loss that remembers a vector for every row: what is kept, what is drawn, and the numbers of published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.losses import bind
from limbeck.losses.contrastive import CRD, UNSEEN


def contrast(rows: int = 12, **options: Any) -> CRD:
    torch.manual_seed(0)
    loss = bind("crd", student=(5,), teacher=(3,), rows=rows, **{"width": 4, "negatives": 6, **options})
    assert isinstance(loss, CRD)
    return loss.double()


def batch(rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=noise, dtype=torch.float64) for width in (5, 3))
    return student, teacher


LABELS, INDEX = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([3, 11, 0, 7, 4, 8])


def test_negatives_are_rows_seen_of_other_classes_alike_often() -> None:
    loss = contrast(negatives=20_000)
    loss._note(torch.stack([INDEX, LABELS], dim=1))
    drawn, possible = loss._draw(torch.tensor([0, 1, 2, 7]))
    assert possible.all()
    for row, others in zip(drawn, ({11, 0, 4}, {3, 0, 7, 8}, {3, 11, 7, 4, 8}, set(INDEX.tolist())), strict=True):
        found, counts = row.unique(return_counts=True)
        assert set(found.tolist()) == others
        assert (counts / len(row)).tolist() == pytest.approx([1 / len(others)] * len(others), abs=0.02)


def test_shares_make_all_other_rows_negatives() -> None:
    loss = contrast(negatives=500)
    student, teacher = batch()
    loss(student, teacher, torch.full((6, 3), 1 / 3), INDEX)
    drawn, possible = loss._draw(-1 - INDEX)
    assert possible.all()
    for row, own in zip(drawn, INDEX.tolist(), strict=True):
        assert set(row.tolist()) == set(INDEX.tolist()) - {own}
    labelled, _ = loss._draw(torch.tensor([1]))
    assert set(labelled.flatten().tolist()) == set(INDEX.tolist())


def test_rows_of_one_class_have_their_positive_part_alone() -> None:
    loss = contrast()
    student, teacher = batch()
    _, possible = loss._draw(LABELS)  # nothing is seen yet
    assert possible.tolist() == [[True, *[False] * 6]] * 6
    student.requires_grad_()
    value = loss(student, teacher, torch.zeros(6, dtype=torch.long), INDEX)
    value.backward()
    assert value.item() > 0
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_rows_that_do_not_count_are_not_remembered() -> None:
    loss = contrast()
    before = loss.bank_student.clone()
    labels = LABELS.masked_fill(INDEX == 11, -100)
    loss(*batch(), labels, INDEX)
    changed = (loss.bank_student != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [0, 3, 4, 7, 8]
    assert (loss.classes != UNSEEN).nonzero().flatten().tolist() == [0, 3, 4, 7, 8]
    assert loss.classes[[0, 3, 4, 7, 8]].tolist() == [2, 0, 1, 0, 0]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_memory_is_a_moving_average_of_norm_one(momentum: float) -> None:
    loss = contrast(momentum=momentum)
    student, teacher = batch()
    old = loss.bank_teacher[INDEX].clone()
    loss(student, teacher, LABELS, INDEX)
    embedded = loss.teacher(teacher)
    embedded = embedded / embedded.square().sum(dim=1, keepdim=True).sqrt()
    moved = momentum * old + (1 - momentum) * embedded
    expected = moved / moved.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(loss.bank_teacher[INDEX], expected.detach(), rtol=1e-12, atol=1e-12)


def test_first_batch_sets_z_for_good() -> None:
    loss = contrast()
    assert loss.log_z.isnan().all()
    none = torch.full((6,), -100)
    assert loss(*batch(), none, INDEX).item() == 0
    assert loss.log_z.isnan().all()
    loss(*batch(), LABELS, INDEX)
    first = loss.log_z.clone()
    assert first.isfinite().all()
    loss(*batch(seed=1), LABELS, INDEX)
    assert torch.equal(loss.log_z, first)


def test_gradient_is_that_of_the_value_once_z_is_set() -> None:
    loss = contrast()
    student, teacher = batch()
    loss(student, teacher, LABELS, INDEX)
    state = {key: value.clone() for key, value in loss.state_dict().items()}

    def value(features: Tensor) -> Tensor:
        again = contrast()
        again.load_state_dict(state)
        torch.manual_seed(3)
        return again(features, teacher, LABELS, INDEX)

    assert torch.autograd.gradcheck(value, (student.requires_grad_(),))


def test_goes_on_as_if_never_stopped() -> None:
    torch.manual_seed(5)
    whole = contrast()
    for seed in range(2):
        whole(*batch(seed=seed), LABELS, INDEX)
    state, drawn = {key: value.clone() for key, value in whole.state_dict().items()}, torch.get_rng_state()
    few = [part[:2] for part in (*batch(seed=2), LABELS, INDEX)]  # the others are known from before
    expected = whole(*few)
    resumed = contrast()
    resumed.load_state_dict(state)
    torch.set_rng_state(drawn)
    assert torch.equal(resumed(*few), expected)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_learning_by_contrast_brings_a_row_to_its_teacher() -> None:
    """What the paper is for: the teacher's embedding that is nearest to a row's is of its class."""
    noise = torch.Generator().manual_seed(0)
    teacher = torch.randn(24, 3, generator=noise, dtype=torch.float64)
    student = torch.randn(24, 5, generator=noise, dtype=torch.float64).requires_grad_()
    loss, labels = contrast(rows=24, width=16, negatives=16), torch.arange(24) % 8
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.02)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(student, teacher, labels, torch.arange(24))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < sum(values[:5]) / 2
    embedded = torch.nn.functional.normalize(loss.teacher(teacher), dim=1)
    nearest = (loss.student(student) @ embedded.T).argmax(dim=1)
    assert (labels[nearest] == labels).double().mean() > 0.4  # by chance 0.125


@pytest.mark.parametrize(
    ("options", "what"),
    [({"temperature": 0.0}, "temperature"), ({"momentum": 1.0}, "momentum"), ({"negatives": 0}, "negatives")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        contrast(**options)


def test_row_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="a memory of 12 rows"):
        contrast()(*batch(), LABELS, INDEX + 1)
    with pytest.raises(UserError, match=r"row numbers are \[5\], and the features are of 6 rows"):
        contrast()(*batch(), LABELS, INDEX[:5])


def test_equals_published_code() -> None:
    """HobbitLong/RepDistiller at b84f547c5db6, crd/criterion.py and crd/memory.py, three steps.

    Of two rows, each is the other's only negative, so that the draws do not matter. Theirs adds 1e-7 to denominators.
    """
    loss = bind("crd", student=(2,), teacher=(4,), rows=2, width=3, negatives=3).double()
    assert isinstance(loss, CRD)
    numbers = torch.arange(12, dtype=torch.float64)
    with torch.no_grad():
        loss.student.weight.copy_(numbers[:6].sin().view(3, 2))
        loss.student.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
        loss.teacher.weight.copy_(numbers.cos().view(3, 4))
        loss.teacher.bias.copy_(torch.tensor([-0.3, 0.2, 0.1]))
        loss.bank_student.copy_((numbers[:6] + 7).sin().view(2, 3))
        loss.bank_teacher.copy_((numbers[:6] + 3).cos().view(2, 3))
    student = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.5, 2.0, 1.0, -1.0]], dtype=torch.float64)
    values, slopes = [], []
    for step in range(3):
        x = (student * (1 + step) + step).requires_grad_()
        value = loss(x, teacher - step, torch.tensor([0, 1]), torch.tensor([0, 1]))
        value.backward()
        values.append(value.item())
        assert x.grad is not None
        slopes.append(x.grad[0].tolist())
    assert values == pytest.approx([6.539686376708665, 2.115691125504159, 7.443326602322172], rel=5e-7)
    assert slopes[0] == pytest.approx([1.1360152709742428, 0.5188174131759012], rel=5e-7)
    assert slopes[2] == pytest.approx([1.3857388383088969, 1.6407850416219816], rel=5e-7)
    kept = [-0.5529801967491154, 0.776322781403897, 0.3025489069169262]
    assert loss.bank_student[0].tolist() == pytest.approx(kept, rel=1e-12)
