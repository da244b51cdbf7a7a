"""Classes that are rare count more, for everybody alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import limbeck
from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.types import Task
from limbeck.data import class_weights, from_arrays
from limbeck.losses import bind
from limbeck.tasks import main_metric

RARE = Task("classification", ("many", "some", "few"), weights=(0.5, 1.0, 4.0))


def imbalanced(rows=600):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [rows * 8 // 10, rows * 15 // 100, rows - rows * 95 // 100])
    return random.normal(size=(rows, 4)).astype(np.float32) + 1.2 * np.eye(4, dtype=np.float32)[y], y


def logits_and_labels(rows=50):
    random = np.random.default_rng(1)
    return torch.tensor(random.normal(size=(rows, 3))), torch.tensor(random.integers(0, 3, rows))


# --- what they are -------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn_over_the_training_rows():
    x, y = imbalanced()
    data = from_arrays(x, y)
    rows = y[data.train.numpy()]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=rows)
    found = class_weights(data, "balanced")
    assert found == pytest.approx(expected)
    assert np.mean(np.array(found)[rows]) == pytest.approx(1)


def test_given_weights_keep_their_ratios_and_have_the_mean_1():
    x, y = imbalanced()
    data = from_arrays(x, y, names=("many", "some", "few"))
    found = np.array(class_weights(data, {"few": 6, "some": 2.0}))
    assert found / found[0] == pytest.approx([1, 2, 6])
    assert found[y[data.train.numpy()]].mean() == pytest.approx(1)
    with pytest.raises(UserError, match="did you mean 'few'"):
        class_weights(data, {"few ": 2.0})


def test_of_several_labels_they_are_what_a_yes_counts():
    random = np.random.default_rng(0)
    y = (random.random((400, 2)) < (0.5, 0.1)).astype(np.int64)
    data = from_arrays(random.normal(size=(400, 3)), y, kind="multilabel", names=("sun", "dog"))
    share = y[data.train.numpy()].mean(0)
    assert class_weights(data, "balanced") == pytest.approx((1 - share) / share)
    assert class_weights(data, {"dog": 3}) == (1.0, 3.0)


# --- what they do --------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_over_all_rows_the_loss_is_pytorchs(smoothing):
    logits, labels = logits_and_labels()
    weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    weights = weights / weights[labels].mean()
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing).item()
    loss = bind("hard", class_weights=tuple(weights.tolist()), label_smoothing=smoothing)
    assert loss(logits, None, labels).item() == pytest.approx(expected, rel=1e-12)
    # Parts of a batch add up to it, whatever classes they have.
    parts = [loss(logits[i : i + 10], None, labels[i : i + 10]).item() for i in range(0, 50, 10)]
    assert np.mean(parts) == pytest.approx(expected, rel=1e-12)


def test_shares_of_one_class_are_labels_and_rows_without_a_label_do_not_count():
    logits, labels = logits_and_labels()
    loss = bind("hard", class_weights=(0.2, 1.0, 5.0), label_smoothing=0.1)
    shares = F.one_hot(labels, 3).double()
    assert loss(logits, None, shares).item() == pytest.approx(loss(logits, None, labels).item(), rel=1e-12)
    half = (shares + F.one_hot(labels.roll(1), 3)) / 2
    mixed = (loss(logits, None, labels) + loss(logits, None, labels.roll(1))).item() / 2
    assert loss(logits, None, half).item() == pytest.approx(mixed, rel=1e-12)
    ignored = torch.where(torch.arange(50) < 20, -100, labels)
    assert loss(logits, None, ignored).item() == pytest.approx(loss(logits[20:], None, labels[20:]).item(), rel=1e-12)


def test_of_several_labels_the_loss_is_pytorchs():
    random = np.random.default_rng(2)
    logits, truth = torch.tensor(random.normal(size=(20, 3))), torch.tensor((random.random((20, 3)) < 0.3) * 1.0)
    weights = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    expected = 3 * F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights).item()
    value = bind("label_binary", class_weights=(1.0, 3.0, 9.0))(logits, None, truth).item()
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0)])
def test_weights_that_cannot_be_are_refused(weights):
    logits, labels = logits_and_labels()
    with pytest.raises(UserError, match="class_weights"):
        bind("hard", class_weights=weights)(logits, None, labels)


# --- what is compared ----------------------------------------------------------------------------


def test_balanced_accuracy_is_the_mean_recall_and_what_counts_where_classes_are_weighed():
    x, y = imbalanced()
    logits = 2 * x[:, :3] + np.random.default_rng(3).normal(size=(600, 3))
    found = evaluate.metrics(RARE, torch.tensor(logits), torch.tensor(y))
    expected = reference.balanced_accuracy_score(y, logits.argmax(1))
    assert found["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert main_metric(RARE) == METRICS["balanced_accuracy"]
    assert main_metric(replace(RARE, weights=())) == METRICS["accuracy"]
    some = y != 1  # a class without a row has no recall
    found = evaluate.metrics(RARE, torch.tensor(logits[some]), torch.tensor(y[some]))
    recalls = [(logits[y == c].argmax(1) == c).mean() for c in (0, 2)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)


def test_a_model_that_forgets_the_rare_class_is_worse_though_it_is_right_more_often():
    y = torch.tensor([0] * 900 + [1] * 70 + [2] * 30)
    before, after = (F.one_hot(y, 3).double() for _ in range(2))
    before[:100] = torch.tensor([0.0, 1.0, 0.0])  # 100 of the common class wrong
    after[970:] = torch.tensor([1.0, 0.0, 0.0])  # all of the rare class wrong
    rare = evaluate.loss(RARE, before, after, y)
    drop = reference.balanced_accuracy_score(y, before.argmax(1)) - reference.balanced_accuracy_score(
        y, after.argmax(1)
    )
    assert rare.drop == pytest.approx(drop)
    assert not rare.within
    assert rare.mcnemar is None
    plain = evaluate.loss(replace(RARE, weights=()), before, after, y)
    assert plain.drop < 0
    assert plain.within


def test_the_bootstrap_of_balanced_accuracy_draws_rows():
    """Against the same done one drawing after the other."""
    random = np.random.default_rng(4)
    y = random.choice(3, 200, p=(0.7, 0.2, 0.1))
    before, after = (random.normal(size=(200, 3)) + 2 * np.eye(3)[y] * s for s in (1.0, 0.9))
    found = evaluate.loss(RARE, *map(torch.tensor, (before, after, y)), allowed=0.02)
    drops = []
    for _ in range(2000):
        rows = random.integers(0, 200, 200)
        scores = [np.mean([(z[rows][y[rows] == c].argmax(1) == c).mean() for c in range(3)]) for z in (before, after)]
        drops.append(scores[0] - scores[1])
    assert found.p_more == pytest.approx(np.mean(np.array(drops) <= 0.02), abs=0.05)


# --- recipes -------------------------------------------------------------------------------------

JOB = """\
class_weights: balanced
data: {source: arrays, path: rare.npz}
teachers:
  - model: mlp
    options: {hidden: [8]}
    train: {epochs: 2}
student:
  model: mlp
  options: {hidden: [4]}
  train: {epochs: 2, label_smoothing: 0.1}
losses:
  hard: 0.5
  kd: 0.5
"""


def test_what_the_recipe_may_say(tmp_path):
    path = tmp_path / "rare.yaml"
    path.write_text(JOB.replace("balanced", "{2: 4, 1: 2.5}"))
    assert recipe.load(path).class_weights == {"2": 4, "1": 2.5}
    for old, new, said in (
        ("balanced", "even", "class_weights"),
        ("balanced", "{2: 0}", "class_weights"),
        ("class_weights: balanced", "class_weights: balanced\ntask: regression", "no classes to weigh"),
        ("  hard: 0.5\n", "  label_emd: 0.5\n", "class_weights: weigh hard and label_binary"),
        ("  hard: 0.5\n", "  hard: {weight: 0.5, class_weights: [1, 2]}\n", "`class_weights` beside `task`"),
    ):
        path.write_text(JOB.replace(old, new))
        with pytest.raises(UserError) as caught:
            recipe.load(path)
        assert said in str(caught.value)


def test_a_run_weighs_teacher_and_both_students_alike(tmp_path, monkeypatch):
    x, y = imbalanced()
    np.savez(tmp_path / "rare.npz", x=x, y=y)
    raw = {**recipe.parse(JOB, "job"), "name": "rare", "seeds": 1, "run": {"threads": 1}}
    raw["data"]["path"] = str(tmp_path / "rare.npz")
    seen, plain = [], nn.functional.cross_entropy

    def watched(logits, target, weight=None, **options):
        if torch.is_grad_enabled() and logits.requires_grad:
            seen.append(None if weight is None else tuple(weight.tolist()))
        return plain(logits, target, weight, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", watched)
    result = limbeck.run(raw, out=tmp_path / "run")
    expected = tuple(result["data"]["class_weights"])
    assert len(seen) >= 6
    assert all(weights == pytest.approx(expected) for weights in seen)
    train = np.array(result["data"]["class_counts"]["train"])
    assert expected == pytest.approx(train.sum() / (3 * train))
    assert result["comparison"]["metric"] == "balanced_accuracy"
    assert "best balanced_accuracy on validation" in result["chosen"]["why"]
    assert "balanced accuracy" in result["comparison"]["words"]
    assert "Balanced accuracy" in (tmp_path / "run" / "report.html").read_text()
