"""The loop: what it minimises, keeps, continues and refuses."""

import copy
import json
import math
from functools import partial

import plain_loop
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck
from limbeck.core.errors import UserError
from limbeck.core.seeding import derive_seed
from limbeck.core.types import Batch, Output
from limbeck.data import fetcher, from_arrays, pixels, targets
from limbeck.distill.objective import Objective, Term
from limbeck.distill.teachers import Frozen
from limbeck.distill.train import fit, learning_rate
from limbeck.losses import bind
from limbeck.models import load_weights
from limbeck.recipe import Plan, Run

HARD = Objective([Term("hard", bind("hard"), 1.0)])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.randn(300, 5, generator=generator) + 2 * nn.functional.one_hot(y, 5)
    return from_arrays(x, y)


def network(width=3, dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, width))


def distilling():
    return Objective([Term("hard", bind("hard"), 0.1), Term("kd", bind("kd", temperature=4.0), 0.9)])


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


class Doubled(nn.Sequential):
    """Takes the float32 rows of a data set and works in float64."""

    def forward(self, x):
        return super().forward(x.double())


@pytest.mark.parametrize(
    ("dropout", "options"),
    [
        (0.0, {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
        (0.1, {"optimizer": "adam", "lr": 0.01, "schedule": "cosine", "clip_norm": 0.3}),
        (0.1, {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "schedule": "linear", "warmup_epochs": 1.0}),
        (0.1, {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0, "ema": 0.7}),
    ],
    ids=["sgd", "adam", "adamw", "average"],
)
def test_it_takes_the_very_steps_of_a_plain_loop(data, dropout, options):
    """Twenty steps, the weights after them, and the history, against the loop anyone would write."""
    student, plain = (Doubled(*network(dropout=dropout)).double() for _ in range(2))
    torch.manual_seed(2)
    teacher = Doubled(nn.Linear(5, 3)).double().requires_grad_(False)
    plan = Plan(epochs=plain_loop.EPOCHS, batch_size=plain_loop.BATCH, select="last", **options)
    history = fit(student, distilling(), lambda batch: Output(teacher(batch.x)), data, plan, seed=7)
    splits = {name: (data.x[rows], data.y[rows]) for name, rows in (("train", data.train), ("val", data.val))}
    assert -(-len(data.train) // plain_loop.BATCH) == 5
    expected, train_losses, val_losses = plain_loop.train(plain, teacher, splits, partial(derive_seed, 7), options)
    for name, value in expected.state_dict().items():
        if value.is_floating_point():  # but for batch norm's number of batches
            torch.testing.assert_close(student.state_dict()[name], value, atol=1e-10, rtol=1e-8)
    assert [e["train_loss"] for e in history.epochs] == pytest.approx(train_losses, rel=1e-9)
    # Logits are handed over in float32 for validation.
    assert [e["val_loss"] for e in history.epochs] == pytest.approx(val_losses, rel=1e-5)


def test_it_learns_and_says_how(data):
    student = network()
    history = fit(student, HARD, None, data, Plan(epochs=5, batch_size=32, lr=0.01))
    assert [e["epoch"] for e in history.epochs] == [1, 2, 3, 4, 5]
    assert history.epochs[-1]["train_loss"] < 0.7 * history.epochs[0]["train_loss"]
    assert history.epochs[-1]["val_accuracy"] > 0.6
    accuracy = (
        (student.eval()(pixels(data, data.val, "cpu")).argmax(1) == targets(data, data.val, "cpu")).float().mean()
    )
    assert accuracy.item() == pytest.approx(history.epochs[history.best_epoch - 1]["val_accuracy"])


def test_the_teacher_and_the_test_split_are_left_alone(data):
    teacher = network().train()
    before = copy.deepcopy(teacher.state_dict())
    asked, frozen = [], Frozen(teacher)

    def watched(batch):
        asked.append(batch.index)
        return frozen(batch)

    fit(network(), distilling(), watched, data, Plan(epochs=1, batch_size=32))
    assert same(before, teacher.state_dict())
    assert not set(torch.cat(asked).tolist()) & set(data.test.tolist())
    assert sorted(torch.cat(asked).tolist()) == sorted(data.train.tolist())


def test_with_and_without_a_teacher_the_order_and_the_dropout_are_the_same(data):
    seen = {}
    for role, objective in (("student", HARD), ("distilled", distilling())):
        rows, plain = [], fetcher(data)

        def fetch(index, view, rows=rows, plain=plain):
            rows.append((index, view, torch.rand(1)))
            return plain(index, view)

        fit(network(), objective, Frozen(network()), data, Plan(epochs=2, batch_size=32), seed=3, fetch=fetch)
        seen[role] = rows
    for (a, view_a, drawn_a), (b, view_b, drawn_b) in zip(seen["student"], seen["distilled"], strict=True):
        assert torch.equal(a, b)
        assert view_a == view_b
        assert torch.equal(drawn_a, drawn_b)
    assert {view for _, view, _ in seen["student"]} == {0, 1}


def test_views_come_again_and_fetch_gives_the_batches(data):
    """Every epoch asks for its view of all training rows; what is fetched is what is learned from."""
    asked, plain = [], fetcher(data)

    def fetch(rows, view):
        asked.append((view, rows))
        batch = plain(rows, view)
        return Batch(batch.x + view, batch.y, batch.index, view)

    student, twin = network(), network()
    plan = Plan(epochs=5, batch_size=len(data.train), lr=0.1, optimizer="sgd", momentum=0.0, select="last")
    fit(student, HARD, None, data, plan, fetch=fetch, views=2)
    assert [view for view, _ in asked] == [0, 1, 0, 1, 0]
    assert all(sorted(rows.tolist()) == sorted(data.train.tolist()) for _, rows in asked)
    assert not torch.equal(asked[0][1], asked[2][1])  # the view comes again, the order does not
    twin.train()
    for view, rows in asked:
        loss = nn.functional.cross_entropy(twin(pixels(data, rows) + view), targets(data, rows))
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_the_history_is_the_mean_over_the_rows(data):
    """Batches of different sizes, whole or in parts, count by their rows; the student stands still here."""
    for accumulate in (1, 3):
        plan = Plan(epochs=1, batch_size=100, lr=1e-12, optimizer="sgd", momentum=0.0, accumulate=accumulate)
        student = nn.Linear(5, 3)
        history = fit(student, distilling(), Frozen(network()), data, plan)
        x, y = pixels(data, data.train), targets(data, data.train)
        with torch.no_grad():
            logits, told = student(x), network().eval()(x)
        hard = nn.functional.cross_entropy(logits, y).item()
        kd = 16 * nn.functional.kl_div((logits / 4).log_softmax(1), (told / 4).softmax(1), reduction="batchmean").item()
        assert history.epochs[0]["train_hard"] == pytest.approx(hard, rel=1e-5)
        assert history.epochs[0]["train_kd"] == pytest.approx(kd, rel=1e-5)
        assert history.epochs[0]["train_loss"] == pytest.approx(0.1 * hard + 0.9 * kd, rel=1e-5)


def test_accumulation_changes_the_memory_and_not_the_steps(data):
    def trained(accumulate):
        student = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        torch.manual_seed(0)
        for p in student.parameters():
            nn.init.normal_(p, std=0.3)
        fit(
            student,
            HARD,
            None,
            data,
            Plan(epochs=2, batch_size=50, lr=0.1, optimizer="sgd", accumulate=accumulate, select="last"),
        )
        return student.state_dict()

    whole = trained(1)
    for parts in (3, 50):
        for name, value in trained(parts).items():
            torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-5)


def test_best_and_last_weights(data, tmp_path):
    best, last = network(), network()
    plan = {"epochs": 6, "batch_size": 8, "lr": 0.1}
    history = fit(best, HARD, None, data, Plan(**plan), folder=tmp_path / "a")
    fit(last, HARD, None, data, Plan(**plan, select="last"), folder=tmp_path / "b")
    scores = [(e["val_accuracy"], -e["val_loss"]) for e in history.epochs]
    assert history.best_epoch == 1 + scores.index(max(scores))
    for student, file in ((best, "best"), (last, "last")):
        loaded = network()
        load_weights(loaded, tmp_path / "a" / f"{file}.safetensors")
        assert same(loaded.state_dict(), student.state_dict())
    lines = [json.loads(line) for line in (tmp_path / "a" / "history.jsonl").read_text().splitlines()]
    assert lines == history.epochs


def test_gradients_are_clipped(data):
    """One step of plain gradient descent moves the weights by the learning rate times the norm allowed."""
    student, before = network(), network()
    size = len(data.train)
    plan = Plan(epochs=1, batch_size=size, optimizer="sgd", momentum=0.0, lr=0.5, clip_norm=0.01, select="last")
    fit(student, HARD, None, data, plan)
    moved = torch.cat([(a - b).flatten() for a, b in zip(student.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_it_stops_when_it_no_longer_gets_better(data):
    history = fit(
        network(), HARD, None, data, Plan(epochs=50, batch_size=32, lr=1e-9, patience=3, optimizer="sgd", momentum=0.0)
    )
    assert len(history.epochs) - history.best_epoch == 3
    assert len(history.epochs) < 50


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"optimizer": "sgd", "schedule": "cosine", "clip_norm": 0.5}])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(data, tmp_path, options):
    plan = Plan(epochs=4, batch_size=32, lr=0.01, **options)
    whole, cut = network(dropout=0.3), network(dropout=0.3)
    fit(whole, distilling(), Frozen(network()), data, plan, seed=2, folder=tmp_path / "whole")

    class Cut(Exception):
        pass

    frozen, calls = Frozen(network()), iter(range(10_000))

    def teacher(batch):
        if next(calls) == 17:
            raise Cut
        return frozen(batch)

    with pytest.raises(Cut):
        fit(cut, distilling(), teacher, data, plan, seed=2, folder=tmp_path / "cut")
    fresh = network(dropout=0.3)
    with torch.no_grad():
        fresh[0].weight.zero_()
    history = fit(fresh, distilling(), Frozen(network()), data, plan, seed=2, folder=tmp_path / "cut")
    assert len(history.epochs) == 4
    assert same(whole.state_dict(), fresh.state_dict())
    for file in ("best", "last"):
        assert same(*(load_file(tmp_path / run / f"{file}.safetensors") for run in ("whole", "cut")))


def test_a_loss_with_weights_of_its_own_is_trained_and_resumed(data, tmp_path):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.project = nn.Linear(3, 3)

        def forward(self, student, teacher, target):
            return (self.project(student) - teacher).square().mean()

    def objective():
        return Objective([Term("hard", bind("hard"), 1.0), Term("own", Projected(), 1.0)])

    first = objective()
    before = copy.deepcopy(first.state_dict())
    plan = Plan(epochs=2, batch_size=32, lr=0.01)
    student = network()
    fit(student, first, Frozen(network()), data, plan, folder=tmp_path)
    assert not same(before, first.state_dict())
    again = objective()
    fit(network(), again, Frozen(network()), data, plan, folder=tmp_path)
    assert same(first.state_dict(), again.state_dict())
    assert set(student.state_dict()) == set(network().state_dict())


def test_a_loss_that_breaks_is_told_with_its_step_and_the_good_weights_stay(data, tmp_path):
    class Breaks:
        def __init__(self, at):
            self.calls, self.at = 0, at

        def __call__(self, batch):
            self.calls += 1
            return Output(torch.full((len(batch.index), 3), math.nan if self.calls > self.at else 0.0))

    plan = Plan(epochs=3, batch_size=32, lr=0.01)
    steps = math.ceil(len(data.train) / 32)
    with pytest.raises(UserError, match=rf"epoch 2, step 3 of {steps}.*last finished epoch are kept") as caught:
        fit(network(), distilling(), Breaks(steps + 2), data, plan, folder=tmp_path)
    assert "lower lr" in str(caught.value)
    kept = network()
    load_weights(kept, tmp_path / "last.safetensors")
    assert all(torch.isfinite(v).all() for v in kept.state_dict().values())
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_a_last_batch_of_one_row_does_not_break_batch_norm():
    y = torch.arange(60) % 2
    data = from_arrays(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), y, val=0.1, test=0.1)
    size = len(data.train) - 1
    history = fit(network(2), HARD, None, data, Plan(epochs=1, batch_size=size))
    assert math.isfinite(history.epochs[0]["train_loss"])


def test_values_are_learned_too():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    data = from_arrays(x, 1000 + 50 * x[:, :2], kind="regression")
    objective = Objective([Term("label_mse", bind("label_mse"), 1.0)])
    history = fit(network(2), objective, None, data, Plan(epochs=30, batch_size=16, lr=0.01))
    assert history.epochs[-1]["val_r2"] > 0.8
    assert history.epochs[-1]["val_rmse"] == pytest.approx(50 * math.sqrt(history.epochs[-1]["val_loss"]), rel=0.3)


def test_the_learning_rate_is_torch_s_at_whole_epochs():
    parameter = nn.Parameter(torch.zeros(1))
    for plan, make in (
        (Plan(epochs=50, lr=0.1, schedule={"name": "cosine", "t_max": 20, "eta_min": 1e-9}),
         lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 1e-9)),
        (Plan(epochs=50, lr=0.1, schedule={"name": "step", "step_size": 15, "gamma": 0.5}),
         lambda o: torch.optim.lr_scheduler.StepLR(o, 15, 0.5)),
        (Plan(epochs=50, lr=0.1, schedule="linear"),
         lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 1e-12, 50)),
    ):  # fmt: skip
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        schedule = make(optimizer)
        for epoch in range(50):
            assert learning_rate(plan, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            schedule.step()


def test_warm_up_rises_to_the_full_rate():
    plan = Plan(epochs=10, lr=0.2, warmup_epochs=2, schedule="cosine")
    assert learning_rate(plan, 0.5) == pytest.approx(0.05)
    assert learning_rate(plan, 2) == pytest.approx(0.2)
    assert learning_rate(plan, 10) == pytest.approx(0, abs=1e-12)


def test_a_student_that_ends_in_a_softmax_is_told_and_can_be_trained_as_logits(data):
    soft = nn.Sequential(network(), nn.Softmax(1))
    with pytest.raises(UserError, match=r"ends in a softmax.*\n.*as_logits"):
        fit(soft, HARD, None, data, Plan(epochs=1))
    student = limbeck.as_logits(soft, torch.randn(4, 5))
    assert fit(student, HARD, None, data, Plan(epochs=8, batch_size=32, lr=0.01)).epochs[-1]["val_accuracy"] > 0.6


def test_a_head_that_does_not_fit_is_told(data):
    with pytest.raises(UserError, match=r"gives \(32, 4\) for 32 rows, not \[32, 3\]"):
        fit(network(4), HARD, None, data, Plan(epochs=1))


def test_faults_are_told_before_anything_is_trained(data):
    with pytest.raises(UserError, match="there is none"):
        fit(network(), distilling(), None, data, Plan(epochs=1))
    with pytest.raises(UserError, match="no parameter wants a gradient"):
        fit(nn.Flatten(), HARD, None, data, Plan(epochs=1))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            fit(network(), HARD, None, data, Plan(epochs=1), run=Run(device="cuda"))


def test_fp16_without_a_gpu_is_refused(data):
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        fit(network(), HARD, None, data, Plan(epochs=1), run=Run(precision="fp16", device="cpu"))


def test_a_tracker_is_told_every_epoch(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(network(), HARD, None, data, Plan(epochs=3), folder=tmp_path, run=Run(trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "student")).Reload()
    told = {e.step: e.value for e in events.Scalars("val_accuracy")}
    assert told == pytest.approx({int(e["epoch"]): e["val_accuracy"] for e in history.epochs})


def test_low_precision_trains(data):
    history = fit(network(), HARD, None, data, Plan(epochs=3, batch_size=32, lr=0.01), run=Run(precision="bf16"))
    assert history.epochs[-1]["val_accuracy"] > 0.6
