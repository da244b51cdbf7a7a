"""Token ids through the same functions: what stays whole, which tokens count, a transformer that teaches another."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import limbeck
from limbeck import evaluate, export, losses
from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Task
from limbeck.data import batches, count_labels, fetcher, targets
from limbeck.distill import cache
from limbeck.distill.teachers import ensemble
from limbeck.models import gives_probabilities

NOUNS = Task("classification", ("noun", "verb", "other"))
PAD, LENGTH = 0, 6


class Encoder(nn.Module):
    """A small transformer encoder; classes for every token, or for the mean over those that are no padding."""

    def __init__(self, width, *, each, classes=3):
        super().__init__()
        self.each = each
        self.embed = nn.Embedding(10, width, padding_idx=PAD)
        self.place = nn.Parameter(0.1 * torch.randn(1, LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        blank = x == PAD
        h = self.encoder(self.embed(x) + self.place, src_key_padding_mask=blank)
        if self.each:
            return self.head(h)
        kept = (~blank).unsqueeze(-1).to(h.dtype)
        return self.head((h * kept).sum(1) / kept.sum(1))


def sequences(rows=320, *, each, seed=0):
    """Padded sequences; a token's class hangs on itself, a sequence's on how many of its tokens are large."""
    draws = np.random.default_rng(seed)
    x = draws.integers(1, 10, (rows, LENGTH))
    x[np.arange(LENGTH) >= draws.integers(2, LENGTH + 1, rows)[:, None]] = PAD
    if each:
        return x, np.where(x == PAD, -100, x % 3)
    return x, ((x > 5).sum(1) > (x != PAD).sum(1) / 2).astype(np.int64)


def drawn(seed=0, rows=4, classes=3):
    """Logits of student and teacher, and labels of which some do not count."""
    draws = np.random.default_rng(seed)
    target = draws.integers(0, classes, (rows, LENGTH))
    target[np.arange(LENGTH) >= draws.integers(1, LENGTH + 1, rows)[:, None]] = -100
    return *draws.normal(size=(2, rows, LENGTH, classes)), target


# --- data ----------------------------------------------------------------------------------------


def test_ids_stay_whole_numbers_on_the_way_to_the_network():
    x, y = sequences(each=True)
    data = limbeck.from_arrays(x, y, tokens=True)
    assert (data.x.dtype, data.places, data.task.names) == (torch.int64, (LENGTH,), ("0", "1", "2"))
    batch = next(batches(data, data.train, 32))
    assert batch.x.dtype == torch.int64
    assert torch.equal(batch.x, torch.from_numpy(x)[batch.index])
    assert torch.equal(batch.y, torch.from_numpy(y)[batch.index])
    assert count_labels(data, data.train) == int((y[data.train.numpy()] != -100).sum())
    assert count_labels(limbeck.from_arrays(*sequences(each=False), tokens=True), torch.arange(7)) == 7


def test_a_table_of_whole_numbers_keeps_its_meaning():
    x, y = sequences(each=False)
    table = limbeck.from_arrays(x, y)
    assert table.x.dtype == torch.float32
    assert table.inputs.mean.numpy() == pytest.approx(x[table.train.numpy()].mean(0), rel=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "fault"),
    [
        (np.ones((30, 4)), np.arange(30) % 2, "token ids are whole numbers"),
        (np.full((30, 4), -1), np.arange(30) % 2, "begin at 0, and the least is -1"),
        (np.ones((30, 4), int), np.ones((30, 3), int), r"labels of tokens have the shape \(30, 3\)"),
        (np.ones((30, 4), int), np.full((30, 4), -100), "nothing to learn"),
        (np.ones((30, 4), int), np.full((30, 4), -2), "labels are outside 0"),
        (np.ones((30, 4), int), np.ones((30, 4)), "not whole numbers"),
    ],
)
def test_what_are_no_tokens_is_refused(x, y, fault):
    with pytest.raises(UserError, match=fault):
        limbeck.from_arrays(x, y, kind="classification", tokens=True)


# --- which tokens count --------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_losses_and_metrics_are_means_over_the_tokens_that_count():
    student, teacher, target = drawn()
    chosen = np.argwhere(target != -100)
    assert 4 < len(chosen) < target.size
    hard = kd = mse = right = 0.0
    for row, place in chosen:
        s, t, label = student[row, place], teacher[row, place], target[row, place]
        hard -= math.log(softmax(s)[label])
        p, q = softmax(t / 2), softmax(s / 2)
        kd += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        mse += ((s - t) ** 2).mean()
        right += s.argmax() == label
    given = [torch.tensor(each) for each in (student, teacher, target)]
    assert float(losses.bind("hard")(*given)) == pytest.approx(hard / len(chosen), rel=1e-10)
    assert float(losses.bind("kd", temperature=2.0)(*given)) == pytest.approx(kd / len(chosen), rel=1e-10)
    assert float(losses.bind("mse")(*given)) == pytest.approx(mse / len(chosen), rel=1e-10)
    found = evaluate.metrics(NOUNS, given[0], given[2])
    assert found["accuracy"] == pytest.approx(right / len(chosen))
    assert found["nll"] == pytest.approx(hard / len(chosen), rel=1e-10)
    assert found["n"] == len(chosen) == sum(map(sum, found["confusion"]))
    same = [student[r, p].argmax() == teacher[r, p].argmax() for r, p in chosen]
    assert evaluate.agreement(NOUNS, given[0], given[1], target=given[2])["agreement"] == pytest.approx(np.mean(same))
    apart = evaluate.disagreement(NOUNS, torch.stack(given[:2]), ["a", "b"], target=given[2])
    assert (apart["n"], apart["all_agree"]) == (len(chosen), pytest.approx(np.mean(same)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 1e4]))
def test_what_stands_in_padding_does_not_matter(seed, size):
    student, teacher, target = (torch.tensor(each) for each in drawn(seed))
    blank = target == -100
    other = [torch.where(blank[..., None], size * torch.randn_like(each), each) for each in (student, teacher)]
    for name in ("hard", "kd", "mse", "soft_cross_entropy", "wsld", "tf_kd"):
        loss = losses.bind(name)
        own = student.clone().requires_grad_()
        value = loss(own, teacher, target)
        assert float(loss(*other, target)) == pytest.approx(float(value.detach()), rel=1e-9)
        value.backward()
        assert own.grad[blank].abs().sum() == 0
        assert own.grad[~blank].abs().sum() > 0
    assert evaluate.metrics(NOUNS, student, target) == evaluate.metrics(NOUNS, other[0], target)
    apart = [evaluate.agreement(NOUNS, *pair, target=target) for pair in ((student, teacher), other)]
    assert apart[0] == apart[1]


def test_a_batch_in_parts_is_the_same_step_however_its_padding_is_spread():
    x, y = sequences(40, each=True)
    y[:20, 2:] = -100  # the parts have very different numbers of tokens
    data = limbeck.from_arrays(x, y, tokens=True)
    ends = []
    for parts in (1, 3):
        torch.manual_seed(0)
        network = Encoder(8, each=True)
        plan = limbeck.Plan(epochs=2, batch_size=len(data.train), optimizer="sgd", lr=0.5, accumulate=parts)
        objective = limbeck.Objective([limbeck.Term("hard", limbeck.bind("hard"), 1.0)])
        history = limbeck.fit(network, objective, None, data, plan)
        ends.append((torch.cat([p.flatten() for p in network.parameters()]), history.epochs[-1]["train_loss"]))
    assert torch.allclose(ends[0][0], ends[1][0], atol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_tokens():
    x, y = sequences(60, each=True)
    y[::3, 1:] = -100
    data = limbeck.from_arrays(x, y, tokens=True)
    torch.manual_seed(0)
    network = Encoder(8, each=True)
    with torch.no_grad():
        given = network(data.x[data.train])
    expected = evaluate.metrics(data.task, given, targets(data, data.train))["nll"]
    objective = limbeck.Objective([limbeck.Term("hard", limbeck.bind("hard"), 1.0)])
    history = limbeck.fit(network, objective, None, data, limbeck.Plan(epochs=1, batch_size=8, lr=1e-9))
    assert history.epochs[0]["train_loss"] == pytest.approx(expected, rel=1e-4)


# --- teachers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True], ids=["of sequences", "of tokens"])
def test_a_transformer_learns_and_teaches_a_smaller_one(each):
    x, y = sequences(each=each)
    data = limbeck.from_arrays(x, y, tokens=True)
    torch.manual_seed(0)
    teacher, student = (Encoder(width, each=each, classes=data.task.width) for width in (16, 4))
    hard = limbeck.Term("hard", limbeck.bind("hard"), 1.0)
    soft = limbeck.Term("kd", limbeck.bind("kd", temperature=2.0), 1.0)
    limbeck.fit(teacher, limbeck.Objective([hard]), None, data, limbeck.Plan(epochs=10, lr=0.01, batch_size=32))
    before = evaluate.predict(student, data, data.test), evaluate.predict(teacher, data, data.test)
    plan = limbeck.Plan(epochs=12, lr=0.02, batch_size=32)
    limbeck.fit(student, limbeck.Objective([soft]), limbeck.Frozen(teacher), data, plan)  # never shown a label
    truth = targets(data, data.test)
    was = evaluate.agreement(data.task, *before, target=truth)
    now = evaluate.agreement(data.task, evaluate.predict(student, data, data.test), before[1], target=truth)
    assert limbeck.assess(teacher, data)["accuracy"] > 0.9
    assert limbeck.assess(student, data)["accuracy"] > 0.85
    assert now["kl"] < was["kl"] / 2


def test_a_teacher_of_tokens_may_be_lowered_and_may_end_in_a_softmax():
    x = torch.from_numpy(sequences(8, each=True)[0])
    batch = Batch(x, torch.zeros_like(x), torch.arange(8))
    torch.manual_seed(0)
    network = Encoder(8, each=True).eval()
    live = network(x).detach()
    low = limbeck.Frozen(network, dtype=torch.bfloat16)(batch).prediction
    assert low.shape == live.shape
    assert (low - live).abs().max() < 0.1
    shares = nn.Sequential(network, nn.Softmax(-1))
    assert gives_probabilities(shares(x))
    told = limbeck.Frozen(shares)(batch).prediction
    assert torch.allclose(told, live.log_softmax(-1), atol=1e-5)
    with pytest.raises(UserError, match="ends in a softmax"):
        limbeck.fit(
            shares,
            limbeck.Objective([limbeck.Term("hard", limbeck.bind("hard"), 1.0)]),
            None,
            limbeck.from_arrays(*sequences(each=True), tokens=True),
            limbeck.Plan(epochs=1),
        )


def test_answers_to_tokens_are_stored_and_read(tmp_path):
    data = limbeck.from_arrays(*sequences(50, each=True), tokens=True)
    torch.manual_seed(0)
    teacher = limbeck.Frozen(Encoder(8, each=True))
    about = {"identity": {"teacher": "t"}, "label": {"teacher": "t"}, "views": 1, "kind": "classification"}
    stored = cache.outputs(teacher, fetcher(data), data.train, dtype="float32", root=tmp_path, **about)
    batch = fetcher(data)(data.train[[3, 0, 7]], 0)
    assert torch.equal(stored(batch).prediction, teacher(batch).prediction)
    assert stored(batch).prediction.shape == (3, LENGTH, 3)
    assert cache.reask(stored, teacher, fetcher(data), 20).disagreements == 0
    largest = cache.outputs(teacher, fetcher(data), data.train, top_k=1, dtype="float32", root=tmp_path / "k", **about)
    shares, exact = (torch.softmax(given(batch).prediction, -1) for given in (largest, teacher))
    top = exact.argmax(-1, keepdim=True)
    rest = torch.full_like(exact, 0.5) * (1 - exact.gather(-1, top))  # two classes share what the largest leaves
    assert torch.allclose(shares, rest.scatter(-1, top, exact.gather(-1, top)), atol=1e-6)


def test_ensembles_of_tokens_are_joined_token_by_token():
    members = torch.tensor(np.stack(drawn()[:2]))
    for join, weights in ((ensemble.average, [1, 1]), (ensemble.weighted([3, 1]), [3, 1])):
        shares = sum(w * softmax(m) for w, m in zip(weights, members.numpy(), strict=True)) / sum(weights)
        assert join(members).exp().numpy() == pytest.approx(shares, rel=1e-9)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "each", "takes"),
    [
        ("onnx", False, "int64"), ("onnx", True, "int64"), ("litert", True, "int32"), ("executorch", True, "int64"),
        ("openvino", True, "int64"),
    ],
)  # fmt: skip
def test_a_file_takes_ids(tmp_path, format_, each, takes):
    x = torch.from_numpy(sequences(70, each=each)[0])
    torch.manual_seed(0)
    network = Encoder(8, each=each).eval()
    path = export.to(format_, network, x[:2], tmp_path / f"encoder{export.suffix(format_)}")
    with export.Served(path, format_) as served:
        assert served.dtype == takes
        told = torch.from_numpy(served.predict(x.numpy().astype(takes)))
    found = export.parity(network(x).detach(), told, "classification")
    assert found.max_abs_error < 1e-4
    assert found.agreement == 1.0
