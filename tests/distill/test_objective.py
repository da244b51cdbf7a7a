"""The weighted sum: weights, taps, teachers, modules, errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Output
from limbeck.distill.objective import Objective, Term
from limbeck.losses import Each, bind
from limbeck.recipe import Ramp


def outputs(seed: int = 0) -> tuple[Output, Output, Batch]:
    noise = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise)

    student = Output(draw(4, 3).requires_grad_(), {"body": draw(4, 6).requires_grad_()})
    teacher = Output(draw(4, 3), {"trunk.0": draw(4, 6)})
    return student, teacher, Batch(draw(4, 2), torch.tensor([0, 2, 1, 1]), torch.arange(4))


class Projected(nn.Module):
    """A loss with weights to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 6)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return (self.map(student) - teacher).square().mean()


def first_argument(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Tells student, teacher and target apart."""
    return student.sum() + 10 * teacher.sum() + 100 * target.sum()


def test_total_is_the_weighted_sum_of_unweighted_values() -> None:
    student, teacher, batch = outputs()
    objective = Objective([Term("hard", bind("hard"), 0.1), Term("soft", bind("kd", temperature=2.0), 0.9)])
    values = objective(student, teacher, batch)
    hard = bind("hard")(student.prediction, None, batch.y).item()
    soft = bind("kd", temperature=2.0)(student.prediction, teacher.prediction, batch.y).item()
    assert list(values) == ["hard", "soft", "total"]
    assert values["hard"].item() == pytest.approx(hard)
    assert values["soft"].item() == pytest.approx(soft)
    assert values["total"].item() == pytest.approx(0.1 * hard + 0.9 * soft)
    assert values["total"].shape == ()
    values["total"].backward()
    assert student.prediction.grad is not None
    assert student.prediction.grad.abs().max() > 0


def test_student_teacher_and_target_are_given_in_this_order() -> None:
    batch = Batch(torch.zeros(1), torch.tensor([3.0]), torch.zeros(1))
    values = Objective([Term("all", first_argument, 2.0)])(
        Output(torch.tensor([1.0])), Output(torch.tensor([2.0])), batch
    )
    assert values["all"].item() == 321
    assert values["total"].item() == 642


def test_terms_learn_from_the_taps_they_name() -> None:
    student, teacher, batch = outputs()
    term = Term("hint", bind("mse"), 1.0, student="body", teacher="trunk.0")
    objective = Objective([term, Term("hard", bind("hard"), 1.0, teacher="unused")])
    assert objective.student_taps == ("body",)
    assert objective.teacher_taps == ("trunk.0",)
    expected = (student.features["body"] - teacher.features["trunk.0"]).square().mean().item()
    assert objective(student, teacher, batch)["hint"].item() == pytest.approx(expected)


def test_plain_predictions_need_no_taps() -> None:
    objective = Objective([Term("hard", bind("hard"), 1.0), Term("kd", bind("kd"), 1.0)])
    assert objective.student_taps == ()
    assert objective.teacher_taps == ()


@pytest.mark.parametrize(("weights", "needed"), [((1.0, 0.0), False), ((1.0, 0.5), True), ((0.0, 1.0), True)])
def test_a_teacher_is_needed_by_weighted_terms_only(weights: tuple[float, float], needed: bool) -> None:
    objective = Objective([Term("hard", bind("hard"), weights[0]), Term("kd", bind("kd"), weights[1])])
    assert objective.needs_teacher is needed


def test_weight_zero_is_watched_without_a_gradient() -> None:
    student, teacher, batch = outputs()
    objective = Objective([Term("hard", bind("hard"), 1.0), Term("kd", bind("kd"), 0.0)])
    values = objective(student, teacher, batch)
    assert values["kd"].item() == pytest.approx(bind("kd")(student.prediction, teacher.prediction, batch.y).item())
    assert not values["kd"].requires_grad
    assert values["total"].item() == values["hard"].item()
    alone = objective(student, None, batch)
    assert list(alone) == ["hard", "total"]
    assert alone["total"].item() == values["hard"].item()


def test_a_watched_value_that_is_not_finite_leaves_the_total_alone() -> None:
    student, teacher, batch = outputs()
    broken = Term("broken", lambda s, t, y: s.sum() * math.nan, 0.0)
    values = Objective([Term("hard", bind("hard"), 1.0), broken])(student, teacher, batch)
    assert values["broken"].isnan()
    assert values["total"].isfinite()


def test_what_is_not_finite_stays_so() -> None:
    _, teacher, batch = outputs()
    values = Objective([Term("hard", bind("hard"), 1.0)])(Output(torch.full((4, 3), math.nan)), teacher, batch)
    assert values["hard"].isnan()
    assert values["total"].isnan()


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher, batch = outputs()
    teacher.prediction.requires_grad_()
    Objective([Term("kd", bind("kd"), 1.0)])(student, teacher, batch)["total"].backward()
    assert teacher.prediction.grad is None


def test_losses_with_weights_are_registered() -> None:
    student, teacher, batch = outputs()
    objective = Objective([Term("hint", Projected(), 1.0, "body", "trunk.0"), Term("hard", bind("hard"), 1.0)])
    assert [name for name, _ in objective.named_parameters()] == ["losses.hint.map.weight", "losses.hint.map.bias"]
    assert set(objective.state_dict()) == {"losses.hint.map.weight", "losses.hint.map.bias"}
    before = objective(student, teacher, batch)
    before["total"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.parameters())

    twin = copy.deepcopy(objective)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    changed = twin(student, teacher, batch)["hint"].item()
    assert changed == pytest.approx(teacher.features["trunk.0"].square().mean().item())
    assert objective(student, teacher, batch)["hint"].item() == before["hint"].item()
    assert objective.double().terms[0].loss.map.weight.dtype == torch.float64  # type: ignore[attr-defined]


def test_losses_are_computed_in_float32_under_autocast() -> None:
    student, teacher, batch = outputs()
    product = Term("product", lambda s, t, y: (s @ t.T).sum(), 1.0)
    objective = Objective([product])
    expected = objective(student, teacher, batch)["product"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (student.prediction @ teacher.prediction.T).dtype == torch.bfloat16
        value = objective(student, teacher, batch)["product"]
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_absent_teacher_is_named() -> None:
    student, _, batch = outputs()
    with pytest.raises(UserError, match="loss 'soft': it learns from a teacher"):
        Objective([Term("soft", bind("kd"), 1.0)])(student, None, batch)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("hint", bind("mse"), 1.0, "bdy", "trunk.0"), "loss 'hint': the student gives no feature 'bdy'.*'body'"),
        (Term("hint", bind("mse"), 1.0, "body", "trunk.1"), "the teacher gives no feature 'trunk.1'.*'trunk.0'"),
        (Term("hint", bind("mse"), 1.0, "body"), "loss 'hint': the student gives 6 outputs a row and the teacher 3"),
    ],
)
def test_a_missing_tap_or_another_width_is_named(term: Term, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        Objective([term])(*outputs())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "nothing to learn"),
        ([("a", 0.0)], "nothing to learn"),
        ([("a", -1.0)], "loss 'a': the weight is 0 or more, not -1.0"),
        ([("a", math.nan)], "the weight is 0 or more"),
        ([("a", math.inf)], "the weight is 0 or more"),
        ([("a", 1.0), ("a", 1.0)], "different names"),
        ([("total", 1.0)], "cannot be called that"),
        ([("a.b", 1.0)], "cannot be called that"),
        ([("keys", 1.0)], "cannot be called that"),
    ],
)
def test_terms_that_make_no_objective_are_refused(terms: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective([Term(name, bind("hard"), weight) for name, weight in terms])


# --- what moves with the epochs ------------------------------------------------------------------


def test_a_weight_that_moves_is_where_its_schedule_says() -> None:
    student, teacher, batch = outputs()
    ramp = Ramp(start=0.0, end=2.0, epochs=4.0)
    objective = Objective([Term("hard", bind("hard"), 1.0), Term("kd", bind("kd"), ramp)])
    for epoch, weight in ((0.0, 0.0), (1.0, 0.5), (3.5, 1.75), (4.0, 2.0), (9.0, 2.0)):
        objective.pace(epoch)
        values = objective(student, teacher, batch)
        expected = values["hard"].item() + weight * values["kd"].item()
        assert values["total"].item() == pytest.approx(expected, rel=1e-6)


def test_a_temperature_moves_along_half_a_cosine() -> None:
    student, teacher, batch = outputs()
    ramp = Ramp(start=8.0, end=2.0, shape="cosine")
    objective = Objective([Term("kd", bind("kd", temperature=8.0), 1.0, ramps={"temperature": ramp})], epochs=10.0)
    for epoch in (0.0, 2.5, 5.0, 10.0):
        objective.pace(epoch)
        temperature = 2 + 6 * (1 + math.cos(math.pi * epoch / 10)) / 2
        expected = bind("kd", temperature=temperature)(student.prediction, teacher.prediction, batch.y)
        assert objective(student, teacher, batch)["kd"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_that_wants_to_know_the_moment_is_told() -> None:
    objective = Objective([Term("ctkd", bind("ctkd", epochs=10.0), 1.0)], epochs=20.0)
    strengths = []
    for epoch in (0.0, 5.0, 10.0):
        objective.pace(epoch)
        strengths.append(float(objective.losses["ctkd"].strength))  # type: ignore[arg-type]
    assert strengths == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)


def test_an_option_that_a_loss_does_not_keep_cannot_move() -> None:
    ramp = Ramp(start=1.0, end=2.0, epochs=1.0)
    term = Term("vid", bind("vid", student=(6,), teacher=(6,)), 1.0, "body", "trunk.0", ramps={"variance": ramp})
    with pytest.raises(UserError, match="'variance' of Vid cannot be changed once it is made"):
        Objective([term])


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(UserError, match="needs `epochs`"):
        Objective([Term("hard", bind("hard"), Ramp(start=0.0, end=1.0))])


# --- several features, and row numbers -----------------------------------------------------------


def test_lists_of_features_and_row_numbers_reach_the_loss() -> None:
    told = []

    def loss(student: list[Tensor], teacher: list[Tensor], target: Tensor, index: Tensor) -> Tensor:
        told.append((student, teacher, target, index))
        return student[0].sum() + student[1].sum()

    student, teacher, batch = outputs()
    term = Term("both", loss, 1.0, ("body", "prediction"), ("prediction", "trunk.0"))  # type: ignore[arg-type]
    objective = Objective([term])
    assert objective.student_taps == ("body",)
    assert objective.teacher_taps == ("trunk.0",)
    objective(student, teacher, batch)
    [(of_student, of_teacher, target, index)] = told
    assert of_student[0] is student.features["body"]
    assert of_student[1] is student.prediction
    assert of_teacher[0] is teacher.prediction
    assert of_teacher[1] is teacher.features["trunk.0"]
    assert target is batch.y
    assert index is batch.index


def test_one_loss_for_each_pair_is_their_sum() -> None:
    student, teacher, batch = outputs()
    pairs = [bind("mse"), bind("vid", student=(6,), teacher=(6,))]
    each = Each(pairs)
    taken = [
        [o.prediction, f] for o, f in ((student, student.features["body"]), (teacher, teacher.features["trunk.0"]))
    ]
    expected = sum(loss(s, t, batch.y).item() for loss, s, t in zip(pairs, *taken, strict=True))
    assert each(*taken, batch.y).item() == pytest.approx(expected, rel=1e-6)
    assert len(list(each.parameters())) == len(list(pairs[1].parameters())) > 0  # type: ignore[attr-defined]


# --- weights that are found ----------------------------------------------------------------------


def step(network: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Output, Output, Batch]:
    body = network[0](x)
    return Output(network[1](body), {"body": body}), Output(torch.ones(8, 3)), Batch(x, y, torch.arange(8))


def balanced(scale: float, steps: int, seed: int = 0) -> tuple[Objective, list[float]]:
    """An objective whose second loss is `scale` times a loss on the features, and the ratios it has seen."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    terms = [Term("hard", bind("hard"), 0.5), Term("far", lambda s, t, y: scale * s.square().sum(), "auto", "body")]
    objective = Objective(terms)
    objective.watch(network.parameters())
    ratios = []
    for _ in range(steps):
        student, teacher, batch = step(network, torch.randn(8, 4), torch.randint(3, (8,)))
        values = objective(student, teacher, batch)
        # The last parameter that both move is the first layer's bias: the features do not see the second layer.
        bias = network[0].bias
        hard, far = (torch.autograd.grad(values[n], bias, retain_graph=True)[0].norm().item() for n in ("hard", "far"))
        ratios.append(0.5 * hard / far)
        assert values["total"].item() == pytest.approx(
            0.5 * values["hard"].item() + objective.balanced["far"] * values["far"].item(), rel=1e-5
        )
    return objective, ratios


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_weight_is_found_from_the_gradients_at_the_last_shared_layer(scale: float) -> None:
    objective, ratios = balanced(scale, 12)
    assert objective.balanced["far"] == pytest.approx(math.exp(sum(map(math.log, ratios)) / 12), rel=1e-4)


def test_a_found_weight_stays_after_the_first_steps_and_is_restored() -> None:
    objective, ratios = balanced(1.0, 60)
    first = math.exp(sum(map(math.log, ratios[:50])) / 50)
    assert objective.balanced["far"] == pytest.approx(first, rel=1e-4)
    twin, _ = balanced(1.0, 3, seed=1)
    twin.load_state_dict(objective.state_dict())
    assert twin.balanced == objective.balanced
    assert copy.deepcopy(objective).balanced == objective.balanced


def test_looking_at_gradients_leaves_none_behind() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    objective = Objective([Term("hard", bind("hard"), 1.0), Term("mse", bind("mse"), "auto")])
    objective.watch(network.parameters())
    values = objective(*step(network, torch.randn(8, 4), torch.randint(3, (8,))))
    assert all(p.grad is None for p in network.parameters())
    values["total"].backward()
    assert all(p.grad is not None for p in network.parameters())


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to balance them against"):
        Objective([Term("kd", bind("kd"), "auto")])
    objective = Objective([Term("hard", bind("hard"), 1.0), Term("kd", bind("kd"), "auto")])
    with pytest.raises(UserError, match=r"objective\.watch"):
        objective(*outputs())
