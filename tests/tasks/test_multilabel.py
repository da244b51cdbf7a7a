"""Rows with several labels, each a yes or no: from the data to the files."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import nn

import limbeck
from limbeck import evaluate, export, recipe
from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS
from limbeck.core.types import Batch, Task
from limbeck.data import from_arrays, load, targets
from limbeck.data.multilabel import strata
from limbeck.distill.objective import Objective, Term
from limbeck.distill.teachers import Frozen, combiner, weighted
from limbeck.distill.train import fit
from limbeck.export.predict import predict
from limbeck.losses import bind
from limbeck.models import as_logits, probable, to_logits
from limbeck.recipe import Plan
from limbeck.tasks import main_metric
from limbeck.tasks.multilabel import average_precision

NAMES = ("sun", "sea", "dog")
SKY = Task("multilabel", NAMES)


def drawn(rows=400, seed=0):
    random = np.random.default_rng(seed)
    truth = (random.random((rows, 3)) < (0.6, 0.2, 0.05)).astype(np.float64)
    return 2 * random.normal(size=(rows, 3)) + 2 * truth - 1.5, truth


def table(rows=300, seed=0):
    """Columns from which three labels follow, with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 6)).astype(np.float32)
    y = (x[:, :3] + 0.3 * random.normal(size=(rows, 3)) > (0.0, 0.6, 1.1)).astype(np.int64)
    return x, y


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.bool_, np.float32])
def test_labels_are_yes_and_no_as_floats(kind):
    x, y = table()
    data = from_arrays(x, y.astype(kind), kind="multilabel", names=NAMES)
    assert (data.y.dtype, data.task) == (torch.float32, SKY)
    assert data.y.tolist() == y.tolist()
    assert targets(data, data.train[:4]).tolist() == y[data.train[:4].numpy()].tolist()


def test_columns_of_a_table_are_labels_in_any_usual_spelling(tmp_path):
    x, y = table()
    frame = pd.DataFrame(x, columns=list("abcdef"))
    frame["sun"], frame["sea"], frame["dog"] = y[:, 0], y[:, 1].astype(bool), np.where(y[:, 2], "True", "false")
    frame.to_csv(tmp_path / "sky.csv", index=False)
    spec = {"source": "table", "path": str(tmp_path / "sky.csv"), "target": list(NAMES)}
    data = load(recipe.Data.model_validate(spec), "multilabel")
    assert (data.task.names, data.y.tolist(), data.columns) == (NAMES, y.tolist(), tuple("abcdef"))
    with pytest.raises(UserError, match="say `task: multilabel`"):
        load(recipe.Data.model_validate(spec), "classification")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: np.where(np.arange(len(y))[:, None] == 7, 2, y), "'2' in row 7"),
        (lambda y: y[:, 0], r"not \[N, C\]"),
        (lambda y: y * (1, 0, 1), "no row has the label 'sea'"),
        (lambda y: np.maximum(y, (0, 0, 1)), "every row has the label 'dog'"),
    ],
)
def test_labels_that_cannot_be_are_refused(change, said):
    x, y = table()
    with pytest.raises(UserError, match=said):
        from_arrays(x, change(y), kind="multilabel", names=NAMES)


def test_labels_keep_their_shares_in_every_split():
    random = np.random.default_rng(3)
    y = (random.random((900, 6)) < (0.7, 0.5, 0.3, 0.1, 0.05, 0.03)).astype(np.int64)
    data = from_arrays(random.normal(size=(900, 4)), y, kind="multilabel")
    rare = y[:, 5].sum()
    for rows in (data.train, data.val, data.test):
        share = y[rows.numpy()].mean(0)
        # As many rows as chance would put there, and never more than two rows off where a label has few.
        assert np.abs(share - y.mean(0)).max() < 0.03
        assert abs(y[rows.numpy()][:, 5].sum() - rare * len(rows) / 900) <= 2.5


def test_strata_are_sets_of_labels_and_the_rarest_label_of_rare_sets():
    sets = [(1, 0, 0)] * 30 + [(1, 1, 0)] * 12 + [(0, 0, 0)] * 11 + [(1, 0, 1)] * 7 + [(0, 1, 1)] * 5 + [(0, 1, 0)] * 2
    found = strata(torch.tensor(sets, dtype=torch.float32)).tolist()
    firsts = dict(zip(sets, found, strict=True))
    assert firsts[1, 0, 1] == firsts[0, 1, 1]  # both have the rare third label
    assert len({firsts[s] for s in [(1, 0, 0), (1, 1, 0), (0, 0, 0), (1, 0, 1)]}) == 4
    assert firsts[0, 1, 0] == firsts[1, 0, 0]  # two rows left over join the largest
    assert all(firsts[s] == f for s, f in zip(sets, found, strict=True))
    assert set(found) == set(range(4))  # numbered without gaps


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_against_scikit_learn():
    logits, truth = drawn()
    found = evaluate.metrics(SKY, torch.tensor(logits), torch.tensor(truth))
    said, shares = logits > 0, 1 / (1 + np.exp(-logits))
    each = [reference.average_precision_score(truth[:, c], logits[:, c]) for c in range(3)]
    assert found["map"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"), abs=1e-6)
    assert found["micro_f1"] == pytest.approx(reference.f1_score(truth, said, average="micro"), abs=1e-6)
    assert found["label_accuracy"] == pytest.approx(1 - reference.hamming_loss(truth, said), abs=1e-12)
    assert found["exact_match"] == pytest.approx(reference.accuracy_score(truth, said), abs=1e-6)
    nll = -(truth * np.log(shares) + (1 - truth) * np.log(1 - shares)).sum() / len(truth)
    assert found["nll"] == pytest.approx(nll, rel=1e-9)
    dog = found["per_label"]["dog"]
    assert (dog["rows"], dog["ap"]) == (truth[:, 2].sum(), pytest.approx(each[2], abs=1e-12))
    assert dog["precision"] == pytest.approx(reference.precision_score(truth[:, 2], said[:, 2]), abs=1e-6)
    assert dog["recall"] == pytest.approx(reference.recall_score(truth[:, 2], said[:, 2]), abs=1e-6)
    assert main_metric(SKY) == METRICS["map"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_average_precision_of_drawn_rows_is_that_of_the_rows_repeated(seed):
    random = np.random.default_rng(seed)
    logits = random.integers(-3, 4, (30, 2)).astype(float)  # many ties
    truth = (random.random((30, 2)) < 0.4).astype(float)
    truth[:2] = 1
    counts = random.multinomial(30, np.full(30, 1 / 30), size=3) + (np.arange(30) < 2)
    found = average_precision(torch.tensor(logits), torch.tensor(truth), torch.tensor(counts))
    for draw, row in zip(counts, found.tolist(), strict=True):
        again = np.repeat(np.arange(30), draw)
        each = [reference.average_precision_score(truth[again, c], logits[again, c]) for c in range(2)]
        assert row == pytest.approx(each, abs=1e-12)


def test_a_label_that_no_row_has_does_not_count():
    logits, truth = drawn()
    truth[:, 2] = 0
    found = evaluate.metrics(SKY, torch.tensor(logits), torch.tensor(truth))
    each = [reference.average_precision_score(truth[:, c], logits[:, c]) for c in range(2)]
    assert found["map"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["per_label"]["dog"]["ap"] is None


def test_agreement_and_disagreement_are_of_answers():
    (a, truth), (b, _) = drawn(), drawn(seed=1)
    found = evaluate.agreement(SKY, torch.tensor(a), torch.tensor(b))
    p, q = (1 / (1 + np.exp(-z)) for z in (b, a))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1).mean()
    assert found == {"agreement": pytest.approx(((a > 0) == (b > 0)).mean()), "kl": pytest.approx(kl, rel=1e-9)}
    both = torch.tensor(np.stack([a, b]))
    apart = evaluate.disagreement(SKY, both, ["a", "b"], target=torch.tensor(truth))
    assert apart["mean_pairwise"] == pytest.approx(((a > 0) != (b > 0)).mean())
    assert apart["oracle"] == pytest.approx((((a > 0) == truth) | ((b > 0) == truth)).mean())

    def entropy(share):
        return -(share * np.log(share) + (1 - share) * np.log(1 - share)).sum(1).mean()

    assert apart["divergence"] == pytest.approx(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, rel=1e-9)


@pytest.mark.parametrize("allowed", [0.0, 0.1])
def test_a_worse_model_is_known_from_the_same_rows(allowed):
    logits, truth = drawn(300)
    logits += 3 * truth
    noise = np.random.default_rng(5).normal(size=logits.shape)
    before, target = torch.tensor(logits), torch.tensor(truth)
    same = evaluate.loss(SKY, before, torch.tensor(logits + 0.01 * noise), target, allowed=allowed)
    worse = evaluate.loss(SKY, before, torch.tensor(noise), target, allowed=allowed)
    assert same.within
    assert not worse.within

    def score(z):
        return np.mean([reference.average_precision_score(truth[:, c], z[:, c]) for c in range(3)])

    assert worse.drop == pytest.approx(score(logits) - score(noise), abs=1e-12)
    assert worse.mcnemar is None


def test_parity_is_of_rows_with_the_same_labels():
    given_ = torch.tensor([[1.0, -1.0], [2.0, 1.0], [-1.0, -1.0], [0.5, -2.0]])
    other = given_.clone()
    other[0, 1] = 0.1
    assert export.parity(given_, other, "multilabel").agreement == 0.75


# --- teachers ------------------------------------------------------------------------------------


def test_members_are_joined_label_by_label():
    members = torch.tensor(np.stack([drawn(5, seed)[0] for seed in range(3)]))
    p = torch.sigmoid(members)

    def named(name):
        return combiner("multilabel", SimpleNamespace(name=name, weights=None, smoothing=None))

    assert torch.allclose(torch.sigmoid(combiner("multilabel")(members)), p.mean(0), atol=1e-12)
    assert torch.allclose(named("logits-average")(members), members.mean(0), atol=1e-12)
    joined = weighted([3, 1, 0], kind="multilabel")(members)
    assert torch.allclose(torch.sigmoid(joined), (3 * p[0] + p[1]) / 4, atol=1e-12)
    sure = combiner("multilabel")(torch.tensor([[[math.inf, -math.inf]], [[math.inf, 0.0]]]))
    assert sure.isfinite().all()
    assert torch.allclose(torch.sigmoid(sure), torch.tensor([[1.0, 0.25]]))
    for name in ("vote", "stacked", "median"):
        with pytest.raises(UserError, match="does not join the members of a multilabel task"):
            named(name)


class Functional(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).sigmoid()


def test_a_sigmoid_at_the_end_is_recognised_and_undone():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(64, 4)
    expected = plain(x)
    ended = nn.Sequential(*plain, nn.Sigmoid())
    changed = as_logits(ended, x, "multilabel")
    assert torch.equal(changed(x), expected)
    assert isinstance(ended[-1], nn.Sigmoid)
    assert torch.allclose(as_logits(Functional(plain), x, "multilabel")(x), expected, atol=1e-5)
    told = Frozen(Functional(plain), kind="multilabel")(Batch(x, torch.zeros(64, 3), torch.arange(64)))
    assert torch.allclose(told.prediction, expected, atol=1e-5)
    assert as_logits(plain, x, "multilabel") is plain


def test_not_all_that_lies_between_0_and_1_is_a_probability():
    rows = torch.rand(50, 3)
    assert probable(rows, "multilabel")
    assert not probable(rows, "regression")
    assert not probable(rows.softmax(1) * 0.9, "classification")
    assert not probable(0.5 + rows / 2, "multilabel")  # as probabilities a yes to everything
    assert not probable(rows[:2], "multilabel")  # two rows tell nothing
    assert not probable(rows * 1.5, "multilabel")
    softmax = torch.randn(50, 3).softmax(1)
    assert torch.allclose(torch.sigmoid(to_logits(softmax, "multilabel")), softmax)  # not log-probabilities
    assert to_logits(torch.tensor([[0.0, 1.0]]), "multilabel").isfinite().all()


def test_a_student_that_ends_in_a_sigmoid_is_refused_and_one_that_is_still_small_is_not():
    x, y = table()
    data = from_arrays(x, y, kind="multilabel")
    objective, plan = Objective([Term("label", bind("label_binary"), 1.0)]), Plan(epochs=1)
    torch.manual_seed(0)
    with pytest.raises(UserError, match="ends in a sigmoid"):
        fit(Functional(nn.Linear(6, 3)), objective, None, data, plan)
    small = nn.Linear(6, 3)
    with torch.no_grad():
        small.weight.mul_(0.01)
        small.bias.copy_(torch.tensor([0.4, 0.5, 0.6]))
    assert probable(small(torch.from_numpy(x)), "multilabel")  # by chance
    assert fit(small, objective, None, data, plan).epochs[0]["val_map"] > 0


# --- training and recipes ------------------------------------------------------------------------


def test_a_student_learns_labels_and_from_its_teacher():
    x, y = table(400)
    data = from_arrays(x, y, kind="multilabel", names=NAMES)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    fit(teacher, Objective([Term("label", bind("label_binary"), 1.0)]), None, data, Plan(epochs=15, lr=0.01))
    student = nn.Linear(6, 3)
    both = Objective([Term("label", bind("label_binary"), 0.2), Term("kd", bind("binary_kd"), 0.8)])
    history = fit(student, both, Frozen(teacher, kind="multilabel"), data, Plan(epochs=15, lr=0.02))
    assert evaluate.assess(student, data)["map"] > 0.8
    assert history.epochs[-1]["train_kd"] < 0.5 * history.epochs[0]["train_kd"]
    assert history.best.score == max(row["val_map"] for row in history.epochs)


JOB = """\
task: multilabel
data: {source: arrays, path: sky.npz}
teachers:
  - model: mlp
    train: {epochs: 1}
student:
  model: mlp
  train: {epochs: 2}
losses:
  label_binary: 0.2
  binary_kd: {weight: 0.8, temperature: 2}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("binary_kd: {weight: 0.8, temperature: 2}", "kd: 0.8", "use `binary_kd`"),
        ("label_binary: 0.2", "hard: 0.2", "use `label_binary`"),
        ("label_binary: 0.2", "label_mse: 0.2", "it does not fit `task: multilabel`"),
        ("binary_kd: {weight: 0.8, temperature: 2}", "dkd: 0.8", "use `binary_kd`"),
        ("{source: arrays, path: sky.npz}", "{source: digits}", "data.source: 'digits' is for `task: classification`"),
        ("{epochs: 2}", "{epochs: 2, label_smoothing: 0.1}", "label_smoothing: has no effect with `task: multilabel`"),
        ("losses:", "cache: {top_k: 2}\nlosses:", "cache.top_k: cuts the logits of classes"),
        ("task: multilabel", "task: classification", "say `task: multilabel`"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(tmp_path, old, new, said):
    path = tmp_path / "sky.yaml"
    path.write_text(JOB)
    assert recipe.load(path).task == "multilabel"
    path.write_text(JOB.replace(old, new))
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["vote", "stacked", "mean"])
def test_ways_of_joining_that_do_not_fit_are_refused(name):
    raw = recipe.parse(JOB, "job")
    raw["teachers"] = [{"name": n, "model": "mlp", "train": {"epochs": 1}} for n in "ab"]
    assert recipe.load({**raw, "combine": "logits-average"}).combine.name == "logits-average"
    with pytest.raises(UserError, match="choose of average, logits-average, weighted"):
        recipe.load({**raw, "combine": name})
    with pytest.raises(UserError, match="no one confidence"):
        recipe.load({**raw, "combine": {"name": "weighted", "weights": "confidence"}})


@pytest.mark.slow
def test_a_whole_run_from_a_table_to_a_file_that_names_labels(tmp_path):
    x, y = table(400)
    frame = pd.DataFrame(x, columns=list("abcdef"))
    frame.assign(**dict(zip(NAMES, y.T, strict=True))).to_csv(tmp_path / "sky.csv", index=False)
    raw = {**recipe.parse(JOB, "job"), "name": "sky", "seeds": [0, 1], "export": ["onnx"], "run": {"threads": 1}}
    raw["data"] = {"source": "table", "path": str(tmp_path / "sky.csv"), "target": list(NAMES)}
    raw["teachers"] = [
        {"name": n, "model": "mlp", "options": {"hidden": [32]}, "seed": i, "train": {"epochs": 8, "lr": 0.01}}
        for i, n in enumerate("ab")
    ]
    raw["student"] = {"model": "mlp", "options": {"hidden": [4]}, "train": {"epochs": 4, "lr": 0.01}}
    result = limbeck.run(raw, out=tmp_path / "run")
    assert (result["data"]["task"], result["data"]["metric"]) == ("multilabel", "map")
    rows = {model["name"]: model for model in result["models"]}
    assert rows["ensemble"]["metrics"]["map"] > 0.7
    assert {"agreement", "kl", "per_label"} <= rows["distilled-seed0"]["metrics"].keys()
    counts = result["data"]["class_counts"]
    assert [sum(split[c] for split in counts.values()) for c in range(3)] == y.sum(0).tolist()
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="labels"' in page
    assert 'id="labels-plot"' in page
    assert 'id="confusion"' not in page
    (file,) = (tmp_path / "run" / m["file"] for m in result["models"] if m["role"] == "exported")
    card = export.read_card(file)
    assert (card.task.kind, card.task.names) == ("multilabel", NAMES)
    frame[:5].to_csv(tmp_path / "rows.csv", index=False)
    for row, logits in zip(predict(file, [tmp_path / "rows.csv"]), export.run(file, "onnx", x[:5]), strict=True):
        assert {c["name"] for c in row["labels"]} == {NAMES[i] for i in np.flatnonzero(logits > 0)}
        likely = sorted(1 / (1 + np.exp(-logits[logits > 0].astype(float))), reverse=True)
        assert [c["probability"] for c in row["labels"]] == pytest.approx(likely)
