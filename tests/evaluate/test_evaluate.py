"""Metrics, agreement and the verdict, against numbers computed without torch."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference
from torch import nn

from limbeck import evaluate
from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.types import Task
from limbeck.data import Scaling, dataset, from_arrays
from limbeck.tasks import main_metric

COLOURS = Task("classification", ("red", "green", "blue"))
PAIR = Task("regression", ("weight", "height"))
WEIGHT = Task("regression", ("weight",))


def scaling(mean, std):
    return Scaling(torch.tensor(mean), torch.tensor(std))


def ece_by_hand(logits, target, bins=15):
    """Guo et al. 2017, equation 3, with loops and floats."""
    rows = []
    for row, true in zip(np.asarray(logits, float), target, strict=True):
        shares = np.exp(row - row.max())
        shares /= shares.sum()
        rows.append((shares.max(), float(shares.argmax() == true)))
    total = 0.0
    for i in range(bins):
        inside = [r for r in rows if i / bins <= r[0] < (i + 1) / bins or (i == bins - 1 and r[0] == 1)]
        if inside:
            confidence = sum(r[0] for r in inside) / len(inside)
            right = sum(r[1] for r in inside) / len(inside)
            total += len(inside) / len(rows) * abs(confidence - right)
    return total


# --- classification --------------------------------------------------------------------------------


def test_classification_metrics_against_scikit_learn_and_loops():
    generator = np.random.default_rng(0)
    logits, target = 2 * generator.normal(size=(400, 3)), generator.integers(0, 3, 400)
    found = evaluate.metrics(COLOURS, torch.tensor(logits), torch.tensor(target))
    guess, shares = logits.argmax(1), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(target, guess), abs=1e-7)
    assert found["nll"] == pytest.approx(reference.log_loss(target, shares), abs=1e-12)
    assert found["ece"] == pytest.approx(ece_by_hand(logits, target), abs=1e-6)
    assert found["confusion"] == reference.confusion_matrix(target, guess).tolist()
    recall = reference.recall_score(target, guess, average=None)
    assert found["per_class_accuracy"] == pytest.approx(dict(zip(COLOURS.names, recall, strict=True)))
    assert found["n"] == 400


def test_confusion_has_true_classes_in_rows():
    logits = torch.eye(3)[[1, 1, 2, 0]]
    found = evaluate.metrics(COLOURS, logits, torch.tensor([0, 1, 2, 0]))
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["accuracy"] == 0.75


def test_an_absent_class_has_no_accuracy_and_does_not_count():
    found = evaluate.metrics(COLOURS, torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 0]))
    assert found["per_class_accuracy"] == {"red": 0.5, "green": 1.0, "blue": None}
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_one_row():
    found = evaluate.metrics(COLOURS, torch.tensor([[0.0, math.log(2), 0.0]]), torch.tensor([1]))
    assert found["accuracy"] == 1.0
    assert found["nll"] == pytest.approx(math.log(2))
    assert found["ece"] == pytest.approx(0.5, abs=1e-6)


def test_logits_between_0_and_1_are_still_logits():
    logits, target = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]), [0, 0]
    found = evaluate.metrics(COLOURS, logits, torch.tensor(target))
    assert found["ece"] == pytest.approx(ece_by_hand(logits, target), abs=1e-6)


def test_certain_and_nearly_certain_predictions_share_the_last_bin():
    logits, target = torch.tensor([[1000.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), [1, 0]
    found = evaluate.metrics(COLOURS, logits, torch.tensor(target))
    assert found["ece"] == pytest.approx(ece_by_hand(logits, target), abs=1e-6)


logit_rows = st.lists(
    st.tuples(*[st.floats(-30, 30, width=32)] * 3, st.integers(0, 2)), min_size=1, max_size=20
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(logit_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_is_irrelevant_and_ranges_hold(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (
        evaluate.metrics(COLOURS, torch.tensor([r[:3] for r in rs]), torch.tensor([r[3] for r in rs]))
        for rs in (rows, shuffled)
    )
    assert first["confusion"] == second["confusion"]
    assert first["nll"] == pytest.approx(second["nll"], abs=1e-9)
    assert first["ece"] == pytest.approx(second["ece"], abs=1e-6)
    assert 0 <= first["ece"] <= 1
    assert 0 <= first["accuracy"] <= 1
    assert first["nll"] >= 0
    assert sum(map(sum, first["confusion"])) == first["n"] == len(rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_perfect_predictions_are_perfect(classes):
    found = evaluate.metrics(COLOURS, 50.0 * torch.eye(3)[classes], torch.tensor(classes))
    assert found["accuracy"] == 1
    assert found["nll"] == pytest.approx(0, abs=1e-12)
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert set(found["per_class_accuracy"].values()) <= {1.0, None}


# --- regression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [WEIGHT, PAIR], ids=["one output", "two outputs"])
def test_regression_metrics_against_scikit_learn(task):
    generator = np.random.default_rng(1)
    k = task.width
    target = generator.normal(size=(50, k))
    prediction = target + 0.5 * generator.normal(size=(50, k))
    mean, std = [70.0, -3.0][:k], [12.0, 0.01][:k]
    found = evaluate.metrics(task, torch.tensor(prediction), torch.tensor(target), scaling(mean, std))
    t, p = target * np.float32(std) + np.float32(mean), prediction * np.float32(std) + np.float32(mean)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(t, p))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(t, p))
    assert found["r2"] == pytest.approx(reference.r2_score(t, p))
    assert found["n"] == 50
    assert ("per_output" in found) == (k > 1)
    if k > 1:
        assert found["per_output"]["height"] == pytest.approx(
            {
                "mae": reference.mean_absolute_error(t[:, 1], p[:, 1]),
                "rmse": reference.root_mean_squared_error(t[:, 1], p[:, 1]),
                "r2": reference.r2_score(t[:, 1], p[:, 1]),
            }
        )


def test_r2_does_not_depend_on_the_unit():
    target = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    prediction = torch.tensor([[1.5], [2.0], [2.0]], dtype=torch.float64)
    found = [evaluate.metrics(WEIGHT, prediction * unit, target * unit)["r2"] for unit in (1.0, 1e-6, 1e6)]
    assert found == pytest.approx([1 - 4.25 / (14 / 3)] * 3)


def test_r2_is_none_where_it_is_not_defined():
    assert evaluate.metrics(WEIGHT, torch.ones(1, 1), torch.zeros(1, 1))["r2"] is None
    assert evaluate.metrics(WEIGHT, torch.ones(5, 1), torch.full((5, 1), 0.1))["r2"] is None
    target = torch.tensor([[0.0, 3.0], [1.0, 3.0]])
    found = evaluate.metrics(PAIR, target, target)
    assert found["r2"] == 1
    assert found["per_output"]["height"]["r2"] is None


# --- agreement -------------------------------------------------------------------------------------


def test_agreement_by_hand():
    student = torch.tensor([[0.0, math.log(3), 0.0], [1.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0, math.log(2)], [2.0, 0.0, 0.0]])
    found = evaluate.agreement(COLOURS, student, teacher)
    p, q = [1 / 4, 1 / 4, 1 / 2], [1 / 5, 3 / 5, 1 / 5]
    first = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    second = stats.entropy(np.exp([2, 0, 0]) / (math.e**2 + 2), np.exp([1, 0, 0]) / (math.e + 2))
    assert found == pytest.approx({"agreement": 0.5, "kl": (first + second) / 2})


@settings(max_examples=40, deadline=None)
@given(logit_rows, st.floats(-5, 5))
def test_agreement_is_symmetric_and_blind_to_a_shift(rows, shift):
    one, other = torch.tensor([r[:3] for r in rows]), torch.tensor([r[2::-1] for r in rows])
    found, back = evaluate.agreement(COLOURS, one, other), evaluate.agreement(COLOURS, other, one)
    assert found["agreement"] == back["agreement"]
    assert found["kl"] >= 0
    same = evaluate.agreement(COLOURS, one.double(), one.double() + shift)
    assert same["kl"] == pytest.approx(0, abs=1e-9)


def test_agreement_of_values_is_in_the_unit_of_the_target():
    student, teacher = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0], [4.0, 0.0]])
    found = evaluate.agreement(PAIR, student, teacher, scaling([5.0, 6.0], [2.0, 10.0]))
    assert found == pytest.approx({"rmse_to_teacher": (2 * math.sqrt(12.5) + 10 * math.sqrt(0.5)) / 2})


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "prediction", "target", "message"),
    [
        (COLOURS, torch.zeros(0, 3), torch.zeros(0), "shape"),
        (COLOURS, torch.zeros(2, 4), torch.zeros(2), r"not \[rows, 3\]"),
        (COLOURS, torch.tensor([[0.0, 0.0, math.nan], [0.0, 0.0, 0.0]]), torch.zeros(2), "1 of 2 rows"),
        (COLOURS, torch.tensor([[0.0, 0.0, math.inf]]), torch.zeros(1), "not finite"),
        (COLOURS, torch.zeros(2, 3), torch.zeros(3), "2 predictions"),
        (COLOURS, torch.zeros(2, 3), torch.tensor([0, 3]), "0 to 3 do not fit 3 classes"),
        (PAIR, torch.zeros(2, 2), torch.zeros(2, 1), "targets"),
        (PAIR, torch.zeros(2, 2), torch.zeros(3, 2), "3 targets"),
    ],
)
def test_values_that_do_not_fit_are_refused(task, prediction, target, message):
    with pytest.raises(UserError, match=message):
        evaluate.metrics(task, prediction, target)


def test_a_teacher_with_other_rows_is_refused():
    with pytest.raises(UserError, match="2 predictions cannot be compared with 3"):
        evaluate.agreement(COLOURS, torch.zeros(2, 3), torch.zeros(3, 3))


# --- members of an ensemble ------------------------------------------------------------------------


def entropy(shares):
    return -sum(p * math.log(p) for p in shares if p)


def test_members_of_a_classifier_against_loops():
    generator = np.random.default_rng(0)
    logits, target = 2 * generator.normal(size=(4, 50, 3)), generator.integers(0, 3, 50)
    found = evaluate.disagreement(COLOURS, torch.tensor(logits), "abcd", target=torch.tensor(target))
    first = [[int(row.argmax()) for row in member] for member in logits]
    for i, a in enumerate(first):
        for j, b in enumerate(first):
            assert found["pairwise"][i][j] == pytest.approx(sum(x != y for x, y in zip(a, b, strict=True)) / 50)
    pairs = [found["pairwise"][i][j] for i in range(4) for j in range(i)]
    assert found["mean_pairwise"] == pytest.approx(sum(pairs) / 6)
    rows = list(zip(*first, strict=True))
    assert found["all_agree"] == pytest.approx(sum(len(set(row)) == 1 for row in rows) / 50)
    assert found["oracle"] == pytest.approx(sum(t in row for t, row in zip(target, rows, strict=True)) / 50)
    shares = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    gaps = [entropy(shares[:, r].mean(0)) - sum(entropy(m) for m in shares[:, r]) / 4 for r in range(50)]
    assert found["divergence"] == pytest.approx(sum(gaps) / 50, abs=1e-12)
    assert (found["names"], found["n"]) == (["a", "b", "c", "d"], 50)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("scales", [None, scaling([10.0, -5.0], [2.0, 0.5])])
def test_members_of_a_regression_against_numpy_in_its_own_unit(scales):
    values = np.random.default_rng(0).normal(size=(3, 40, 2))
    found = evaluate.disagreement(PAIR, torch.tensor(values), ["x", "y", "z"], scales)
    own = values * scales.std.double().numpy() if scales else values
    wanted = [[np.sqrt(((a - b) ** 2).mean(0)).mean() for b in own] for a in own]
    np.testing.assert_allclose(found["pairwise"], wanted, atol=1e-12)
    assert found["mean_pairwise"] == pytest.approx((wanted[0][1] + wanted[0][2] + wanted[1][2]) / 3)
    assert found["spread"] == pytest.approx(own.std(axis=0).mean())
    assert set(found) == {"names", "n", "pairwise", "mean_pairwise", "spread"}
    json.dumps(found, allow_nan=False)


def test_copies_disagree_about_nothing_and_one_member_has_nobody_to_disagree_with():
    member = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
    found = evaluate.disagreement(COLOURS, member.expand(3, -1, -1) + torch.tensor([[[0.0]], [[5.0]], [[9.0]]]), "abc")
    assert (found["mean_pairwise"], found["all_agree"]) == (0.0, 1.0)
    assert found["divergence"] == pytest.approx(0, abs=1e-7)
    assert "oracle" not in found
    alone = evaluate.disagreement(COLOURS, member, ["a"], target=member[0].argmax(1))
    assert (alone["pairwise"], alone["mean_pairwise"], alone["oracle"]) == ([[0.0]], None, 1.0)


def test_members_that_fit_neither_each_other_nor_the_task():
    two = torch.zeros(2, 4, 3)
    with pytest.raises(UserError, match="1 names do not fit"):
        evaluate.disagreement(COLOURS, two, ["a"])
    with pytest.raises(UserError, match="predictions of b of 4 of 4 rows are not finite"):
        evaluate.disagreement(COLOURS, torch.stack([two[0], two[0] + math.nan]), ["a", "b"])
    with pytest.raises(UserError, match="not \\[rows, 2\\]"):
        evaluate.disagreement(PAIR, two, ["a", "b"])
    with pytest.raises(UserError, match="as many class indices"):
        evaluate.disagreement(COLOURS, two, ["a", "b"], target=torch.zeros(3))


# --- the verdict -----------------------------------------------------------------------------------


def test_interval_against_scipy():
    values = [0.91, 0.93, 0.90, 0.95]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert evaluate.interval(values) == pytest.approx(expected, abs=1e-12)
    assert evaluate.interval([0.9]) is None
    assert evaluate.interval([0.9, 0.9]) == (0.9, 0.9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8), st.booleans())
def test_the_verdict_is_that_of_the_paired_t_test(pairs, higher_is_better):
    student, distilled = np.array(pairs).T
    gains = (distilled - student) * (1 if higher_is_better else -1)
    found = evaluate.compare(list(student), list(distilled), metric="score", higher_is_better=higher_is_better)
    assert found["gain"]["values"] == pytest.approx(list(gains))
    if gains.std() < 1e-6:  # scipy warns and gives nan where there is no spread
        return
    p = stats.ttest_rel(distilled, student).pvalue
    if abs(p - 0.05) > 1e-6:
        assert found["verdict"] == ("no evidence" if p > 0.05 else "helps" if gains.mean() > 0 else "hurts")


@pytest.mark.parametrize(("higher_is_better", "verdict"), [(True, "helps"), (False, "hurts")])
def test_what_a_gain_is_depends_on_the_metric(higher_is_better, verdict):
    found = evaluate.compare([1.0, 2.0, 3.0], [2.0, 3.1, 4.0], metric="rmse", higher_is_better=higher_is_better)
    assert found["verdict"] == verdict
    assert found["gain"]["mean"] == pytest.approx(3.1 / 3 * (1 if higher_is_better else -1))
    assert found["student"] == {
        "mean": 2.0,
        "ci95": pytest.approx([2 - stats.t.ppf(0.975, 2) / 3**0.5, 2 + stats.t.ppf(0.975, 2) / 3**0.5]),
        "n": 3,
        "values": [1.0, 2.0, 3.0],
    }


def test_words_carry_the_numbers():
    words = evaluate.compare([0.90, 0.91, 0.92], [0.92, 0.93, 0.945], metric="accuracy", higher_is_better=True)["words"]
    assert words == (
        "The teacher helps: accuracy is 93.17 % with it and 91.00 % without, "
        "a gain of +2.17 points (95 % interval +1.45 to +2.88, 3 seeds)."
    )
    words = evaluate.compare([53.0, 55.0], [54.0, 53.0], metric="rmse", higher_is_better=False)["words"]
    assert words.startswith(
        "There is no evidence that the teacher helps: RMSE (lower is better) is 53.5 with it and 54 "
    )


def test_a_gain_that_is_only_rounding_is_none_in_words():
    words = evaluate.compare([55.1, 56.0, 55.2], [55.0, 55.4, 55.9], metric="rmse", higher_is_better=False)["words"]
    assert "a gain of +0 (95 % interval -1.63 to +1.63, 3 seeds)" in words


def test_one_seed_cannot_show_anything():
    found = evaluate.compare([0.5], [0.9], metric="accuracy", higher_is_better=True)
    assert found["verdict"] == "no evidence"
    assert found["gain"]["ci95"] is None
    assert found["student"]["ci95"] is None
    assert "one seed cannot show it" in found["words"]


def test_equal_differences():
    def verdict(student, distilled):
        return evaluate.compare(student, distilled, metric="accuracy", higher_is_better=True)["verdict"]

    assert verdict([0.9, 0.8], [0.9, 0.8]) == "no evidence"
    assert verdict([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]) == "no evidence"
    assert verdict([0.1 + 0.2] * 3, [0.3] * 3) == "no evidence"  # a difference of rounding only
    assert verdict([0.5, 0.25], [0.75, 0.5]) == "helps"
    assert verdict([0.75, 0.5], [0.5, 0.25]) == "hurts"


@pytest.mark.parametrize(
    ("student", "distilled", "message"),
    [([], [], "0 alone"), ([0.5], [0.5, 0.6], "1 alone and 2 with"), ([0.5], [math.nan], "not a finite number")],
)
def test_scores_that_do_not_pair_are_refused(student, distilled, message):
    with pytest.raises(UserError, match=message):
        evaluate.compare(student, distilled, metric="accuracy", higher_is_better=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_p_values_against_scipy_and_against_the_interval(gains):
    if np.std(gains) < 1e-6:  # scipy warns and gives nan where there is no spread
        return
    p = stats.ttest_1samp(gains, 0).pvalue
    assert evaluate.p_value(gains) == pytest.approx(p, rel=1e-9)
    if abs(p - 0.05) > 1e-9:
        low, high = evaluate.interval(gains)
        assert (evaluate.p_value(gains) < 0.05) == (low > 0 or high < 0)


def test_p_values_without_spread():
    assert evaluate.p_value([0.5, 0.5]) == 0.0
    assert evaluate.p_value([0.0, 0.0, 0.0]) == 1.0
    assert evaluate.p_value([0.3]) == 1.0  # one seed shows nothing


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_paper_s_steps_reject(p_values, level):
    """Holm 1979: go through them from the smallest, reject while p <= level / (how many are left), stop for good."""
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected.add(i)
    found = evaluate.holm(p_values)
    near = {i for i, p in enumerate(found) if abs(p - level) < 1e-9}
    assert {i for i, p in enumerate(found) if p <= level} - near == rejected - near
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))


def test_holm_by_hand():
    assert evaluate.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluate.holm([0.9, 0.6]) == [1.0, 1.0]
    assert evaluate.holm([0.02]) == [0.02]
    assert evaluate.holm([]) == []


def test_the_main_metric_is_among_the_metrics():
    assert main_metric(COLOURS) == METRICS["accuracy"]
    assert main_metric(PAIR) == METRICS["nrmse"]
    assert "accuracy" in evaluate.metrics(COLOURS, torch.eye(3), torch.arange(3))
    assert "rmse" in evaluate.metrics(PAIR, torch.eye(2), torch.eye(2))


# --- predictions -----------------------------------------------------------------------------------


@pytest.fixture
def images():
    """Sixty 2x2 images of three channels whose pixels all hold their row number, in 255ths."""
    x = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1, 1).expand(60, 3, 2, 2)
    return from_arrays(x.contiguous(), torch.arange(60) % 3, names=COLOURS.names)


class Probe(nn.Module):
    """Gives the first pixel three times and notes how it was asked."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(3).eval()
        self.drop = nn.Dropout(0.5)
        self.seen = []

    def forward(self, x):
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((len(x), self.training, torch.is_grad_enabled(), channels_last))
        return self.drop(self.scale * x[:, :, 0, 0]).half()


def test_predictions_come_in_the_order_of_the_rows_and_the_modes_come_back(images):
    model = Probe().train()
    model.norm.eval()
    found = evaluate.predict(model, images, torch.tensor([7, 0, 3]), batch_size=2)
    assert (255 * found).round().tolist() == [[7.0] * 3, [0.0] * 3, [3.0] * 3]
    assert (found.dtype, found.is_inference(), found.requires_grad) == (torch.float32, False, False)
    assert model.seen == [(2, False, False, False), (1, False, False, False)]
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)


def test_channels_last_on_request_and_any_function_of_a_batch(images):
    model = Probe()
    evaluate.predict(model, images, torch.arange(4), channels_last=True)
    assert model.seen == [(4, False, False, True)]
    found = evaluate.predict(lambda x: x[:, :, 0, 0], images, torch.arange(10), batch_size=3)
    assert (255 * found[:, 1]).round().tolist() == list(range(10))
    assert evaluate.predict(model, images, torch.arange(0)).shape == (0, 3)


def test_modes_come_back_after_an_error(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1)).train()
    with pytest.raises(RuntimeError):
        evaluate.predict(model, images, torch.arange(4))
    assert model.training
    assert model[1].training


def test_assess_takes_the_test_split_unless_told_otherwise(images):
    target = images.y

    def knows(x):
        return torch.eye(3)[target[(255 * x[:, 0, 0, 0]).round().long()]]

    assert evaluate.assess(knows, images)["n"] == len(images.test)
    found = evaluate.assess(knows, images, images.val)
    assert (found["n"], found["accuracy"]) == (len(images.val), 1.0)


def test_how_sure_a_network_is_counts_in_the_target_s_own_unit():
    """Two values, in hundreds and in thousandths; the log likelihood by the formula, row by row."""
    task = Task("regression", ("large", "small"), predicts_variance=True)
    scaling = dataset.Scaling(torch.tensor([50.0, 0.01]), torch.tensor([100.0, 0.001]))
    means = [[0.5, -1.0], [0.0, 2.0], [1.0, 0.0]]
    logs = [[0.0, -2.0], [1.0, 0.5], [-1.0, 3.0]]
    truth = [[0.4, 1.5], [-3.5, 2.0], [1.0, 1.0]]
    found = evaluate.metrics(
        task, torch.tensor([m + v for m, v in zip(means, logs, strict=True)]), torch.tensor(truth), scaling
    )
    surprise, within = [], 0
    for row, spread, wanted in zip(means, logs, truth, strict=True):
        total = 0.0
        for m, v, y, unit in zip(row, spread, wanted, (100.0, 0.001), strict=True):
            deviation = math.exp(v / 2) * unit
            z = (y - m) * unit / deviation
            total += math.log(deviation * math.sqrt(2 * math.pi)) + z * z / 2
            within += abs(z) <= 1.96
        surprise.append(total)
    assert found["nll"] == pytest.approx(sum(surprise) / 3, rel=1e-6)
    assert found["coverage95"] == pytest.approx(within / 6)
    plain = evaluate.metrics(Task("regression", task.names), torch.tensor(means), torch.tensor(truth), scaling)
    assert {k: found[k] for k in plain} == plain


def test_outputs_without_a_variance_are_refused_where_one_is_wanted():
    with pytest.raises(UserError, match="a mean and the logarithm of a variance for each output"):
        evaluate.metrics(Task("regression", ("a",), predicts_variance=True), torch.zeros(3, 1), torch.zeros(3, 1))


def test_a_metric_knows_which_way_it_goes():
    errors = {"nll", "ece", "nrmse", "rmse", "mae", "rmse_to_teacher"}
    assert {name for name, metric in METRICS.items() if not metric.higher} == errors
    rmse, accuracy = METRICS["rmse"], METRICS["accuracy"]
    assert rmse.gain(before=3.0, after=2.5) == 0.5
    assert accuracy.gain(before=0.9, after=0.75) == pytest.approx(-0.15)
    assert rmse.best([3.0, 1.0, 2.0], key=float) == 1.0
    assert accuracy.best([(0.5, "a"), (0.9, "b"), (0.9, "c")], key=lambda one: one[0]) == (0.9, "b")
