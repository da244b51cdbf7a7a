"""Peers that learn from each other: their steps, their files, their faults."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

import limbeck
from limbeck.core.errors import UserError
from limbeck.core.seeding import derive_seed
from limbeck.core.types import Batch
from limbeck.data import Data, batches, fetcher, from_arrays
from limbeck.distill.objective import Objective, Term
from limbeck.distill.train import fit, fit_mutual, loop
from limbeck.losses import bind
from limbeck.recipe import Plan, Run


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 3
    x = torch.randn(200, 5, generator=generator) + 2 * nn.functional.one_hot(y, 5)
    return from_arrays(x, y)


def network(seed: int, *, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def distance(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """A loss of one's own, which leaves it to the loop that the teacher is a constant."""
    return (student - teacher).square().mean()


def objective(kd: float = 0.6) -> Objective:
    soft = Term("kd", bind("kd", temperature=2.0), kd)
    return Objective([Term("hard", bind("hard"), 0.4), soft, Term("near", distance, kd / 2)])


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("count", [2, 3])
def test_it_takes_the_very_steps_of_a_plain_loop(data: Data, count: int) -> None:
    """Against the loop anyone would write: all forwards, each one's loss to the others' outputs, then all updates."""
    plan = Plan(epochs=2, batch_size=32, lr=0.05, optimizer="sgd", momentum=0.9, select="last")
    peers, plain = ([network(seed) for seed in range(count)] for _ in range(2))
    histories = fit_mutual(peers, [objective()] * count, data, plan, seed=5)
    optimizers = [torch.optim.SGD(peer.parameters(), lr=0.05, momentum=0.9) for peer in plain]
    seen = []
    for epoch in range(2):
        for batch in batches(data, data.train, 32, order=derive_seed(5, "order", epoch)):
            logits = [peer(batch.x) for peer in plain]
            for optimizer in optimizers:
                optimizer.zero_grad()
            for own, given in enumerate(logits):
                loss = 0.4 * nn.functional.cross_entropy(given, batch.y)
                for other in range(count):
                    if other != own:
                        told = logits[other].detach()
                        kl = nn.functional.kl_div(
                            (given / 2).log_softmax(1), (told / 2).softmax(1), reduction="batchmean"
                        )
                        loss = loss + (0.6 * 4 * kl + 0.3 * nn.functional.mse_loss(given, told)) / (count - 1)
                loss.backward()
                if own == 0 and epoch == 0:
                    seen.append(loss.item() * len(batch.y))
            for optimizer in optimizers:
                optimizer.step()
    for peer, expected in zip(peers, plain, strict=True):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(peer.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    first = histories[0].epochs[0]
    assert first["train_loss"] == pytest.approx(sum(seen) / len(data.train), rel=1e-5)
    assert {"train_hard", "train_kd", "train_near", "val_accuracy", "seconds"} <= set(first)


def test_without_a_loss_to_each_other_it_is_two_trainings(data: Data) -> None:
    plan = Plan(epochs=2, batch_size=32, lr=0.01, ema=0.9, clip_norm=0.5, accumulate=2, schedule="cosine")
    peers, alone = ([network(seed, norm=True) for seed in (1, 2)] for _ in range(2))
    histories = fit_mutual(peers, [objective(kd=0)] * 2, data, plan, seed=4)
    for peer, single, history in zip(peers, alone, histories, strict=True):
        expected = fit(single, objective(kd=0), None, data, plan, seed=4)
        assert same(peer, single)
        assert history.best == expected.best
        assert history.epochs[-1]["train_kd"] > 0  # watched


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_one_loss_scale_serves_all_peers(
    data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip_norm: float | None
) -> None:
    """A scale that is a power of two changes no bit, however often it grows: between steps, never between peers."""
    plan = Plan(epochs=2, batch_size=32, lr=0.05, optimizer="sgd", clip_norm=clip_norm, accumulate=2, select="last")
    plain, scaled = ([network(seed) for seed in (1, 2)] for _ in range(2))
    fit_mutual(plain, [objective()] * 2, data, plan)
    make, made = loop.make_accelerator, []

    def with_scaler(run: Run, folder: Path | None) -> Accelerator:
        accelerator = make(run, folder)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        made.append(accelerator)
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", with_scaler)
    fit_mutual(scaled, [objective()] * 2, data, plan, folder=tmp_path)
    steps = 2 * math.ceil(len(data.train) / 32)
    assert made[0].scaler.get_scale() == 8.0 * 2 ** (steps // 3)
    assert all(same(a, b) for a, b in zip(plain, scaled, strict=True))
    again = [network(7), network(8)]
    fit_mutual(again, [objective()] * 2, data, plan, folder=tmp_path)
    assert made[1].scaler.get_scale() == made[0].scaler.get_scale()


def test_a_training_that_was_cut_off_ends_with_the_same_bits(data: Data, tmp_path: Path) -> None:
    plan = Plan(epochs=4, batch_size=32, lr=0.01, ema=0.9)
    arguments = {"seed": 2, "views": 2}

    def peers() -> list[nn.Module]:
        return [network(seed, norm=True, dropout=0.3) for seed in (1, 2)]

    whole = peers()
    fit_mutual(whole, [objective()] * 2, data, plan, folder=tmp_path / "whole", **arguments)

    class Cut(Exception):
        pass

    rows, calls = fetcher(data), iter(range(1000))
    steps = math.ceil(len(data.train) / 32)

    def fetch(index: Tensor, view: int) -> Batch:
        if next(calls) == 2 * steps + 1:
            raise Cut
        return rows(index, view)

    with pytest.raises(Cut):
        fit_mutual(peers(), [objective()] * 2, data, plan, folder=tmp_path / "cut", fetch=fetch, **arguments)
    assert len((tmp_path / "cut" / "peer1" / "history.jsonl").read_text().splitlines()) == 2
    again = [network(7, norm=True, dropout=0.3) for _ in range(2)]
    views = []

    def noted(index: Tensor, view: int) -> Batch:
        views.append(view)
        return rows(index, view)

    histories = fit_mutual(again, [objective()] * 2, data, plan, folder=tmp_path / "cut", fetch=noted, **arguments)
    assert views == [0] * steps + [1] * steps
    for number, (peer, expected) in enumerate(zip(again, whole, strict=True)):
        assert same(peer, expected)
        assert [e["epoch"] for e in histories[number].epochs] == [1, 2, 3, 4]
        for name in ("best.safetensors", "last.safetensors"):
            one, other = (load_file(tmp_path / run / f"peer{number}" / name) for run in ("whole", "cut"))
            assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not same(again[0], again[1])
    assert not (tmp_path / "cut" / "peer0" / "checkpoint.pt").exists()


def test_a_checkpoint_of_fewer_peers_is_refused(data: Data, tmp_path: Path) -> None:
    plan = Plan(epochs=1, batch_size=64)
    fit_mutual([network(1), network(2)], [objective()] * 2, data, plan, folder=tmp_path)
    with pytest.raises(UserError, match=r"checkpoint.pt.*holds 2 networks, and these are 3"):
        fit_mutual([network(n) for n in range(3)], [objective()] * 3, data, plan, folder=tmp_path)


def test_each_peer_is_selected_by_its_own_score(data: Data, tmp_path: Path) -> None:
    plan = {"epochs": 5, "batch_size": 16, "lr": 0.2, "optimizer": "sgd"}
    best, last = ([network(seed) for seed in (1, 5)] for _ in range(2))
    histories = fit_mutual(best, [objective()] * 2, data, Plan(**plan), folder=tmp_path)
    fit_mutual(last, [objective()] * 2, data, Plan(**plan, select="last"))
    for number, (peer, history) in enumerate(zip(best, histories, strict=True)):
        scores = [(e["val_accuracy"], -e["val_loss"]) for e in history.epochs]
        assert history.best_epoch == 1 + scores.index(max(scores))
        folder = tmp_path / f"peer{number}"
        assert [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] == history.epochs
        for file, network_ in (("best", peer), ("last", last[number])):
            kept = load_file(folder / f"{file}.safetensors")
            assert all(torch.equal(value, kept[key]) for key, value in network_.state_dict().items())
        found = limbeck.assess(peer, data, data.val)["accuracy"]
        assert found == pytest.approx(max(scores)[0])


def test_it_stops_when_no_peer_gets_better(data: Data) -> None:
    """A peer that stands still from the start is out of patience long before one that still learns."""
    still, learning = network(1), network(2)
    for parameter in still[:-1].parameters():
        parameter.requires_grad_(False)
    nothing = Objective([Term("hard", bind("hard"), 1e-12)])
    hard = Objective([Term("hard", bind("hard"), 1.0)])
    plan = Plan(epochs=60, batch_size=32, lr=0.02, patience=2, optimizer="sgd", momentum=0.0)
    first, second = fit_mutual([still, learning], [nothing, hard], data, plan)
    assert len(first.epochs) == len(second.epochs)
    waited = [len(h.epochs) - h.best_epoch for h in (first, second)]
    assert min(waited) >= 2 or len(first.epochs) == 60
    assert first.best_epoch + 2 < len(first.epochs)


def test_a_loss_that_breaks_names_its_peer_and_the_good_weights_stay(data: Data, tmp_path: Path) -> None:
    steps = math.ceil(len(data.train) / 32)
    calls = iter(range(1000))

    def breaks(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return student.sum() * (math.nan if next(calls) == steps + 2 else 0.0)

    own = Objective([Term("hard", bind("hard"), 1.0), Term("breaks", breaks, 1.0)])
    peers = [network(1), network(2)]
    with pytest.raises(UserError, match=rf"peers, peer1: .*nan in epoch 2, step 3 of {steps}.*last finished epoch"):
        fit_mutual(peers, [objective(), own], data, Plan(epochs=3, batch_size=32), folder=tmp_path)
    for number in (0, 1):
        kept = load_file(tmp_path / f"peer{number}" / "last.safetensors")
        assert all(torch.isfinite(value).all() for value in kept.values())


def test_peers_learn_from_each_others_features(data: Data) -> None:
    term = Term("hint", bind("mse"), 1.0, student="0", teacher="0")
    own = [Objective([Term("hard", bind("hard"), 1.0), term]), Objective([Term("hard", bind("hard"), 1.0)])]
    history, _ = fit_mutual([network(1), network(2)], own, data, Plan(epochs=4, batch_size=32, lr=0.02))
    assert history.epochs[-1]["train_hint"] < history.epochs[0]["train_hint"]


def test_faults_are_told_before_anything_is_trained(data: Data) -> None:
    plan, one = Plan(epochs=1), network(1)

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(3, 3)

        def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return (self.project(student) - teacher).square().mean()

    for peers in ([], [one]):
        with pytest.raises(UserError, match=f"two peers or more, not {len(peers)}"):
            fit_mutual(peers, [objective()] * len(peers), data, plan)
    with pytest.raises(UserError, match="2 peers and 1 objectives"):
        fit_mutual([one, network(2)], [objective()], data, plan)
    with pytest.raises(UserError, match="share weights"):
        fit_mutual([one, one], [objective()] * 2, data, plan)
    with pytest.raises(UserError, match="share weights"):
        fit_mutual([one, network(2)], [Objective([Term("own", Projected(), 1.0)])] * 2, data, plan)
    with pytest.raises(UserError, match=r"peers, peer1: .*ends in a softmax"):
        fit_mutual([one, nn.Sequential(network(2), nn.Softmax(1))], [objective()] * 2, data, plan)


def test_a_tracker_is_told_of_every_peer(data: Data, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(trackers=["tensorboard"])
    histories = fit_mutual([network(1), network(2)], [objective()] * 2, data, Plan(epochs=2), folder=tmp_path, run=run)
    events = EventAccumulator(str(tmp_path / "peers")).Reload()
    for number, history in enumerate(histories):
        told = {e.step: e.value for e in events.Scalars(f"peer{number}/val_accuracy")}
        assert told == pytest.approx({int(e["epoch"]): e["val_accuracy"] for e in history.epochs})


TWO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from limbeck.data import from_arrays
from limbeck.recipe import Plan, Run
from limbeck.distill.train import fit_mutual
from test_mutual import network, objective
torch.set_num_threads(1)
y = torch.arange(200) % 3
x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) + 2 * torch.nn.functional.one_hot(y, 5)
plan = Plan(epochs=2, batch_size=33, lr=0.05, optimizer="sgd", accumulate=2, select="last")
fit_mutual([network(1), network(2)], [objective()] * 2, from_arrays(x, y), plan,
           folder=Path(sys.argv[2]), run=Run(device="cpu"))
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, command in (("one", [sys.executable]), ("two", launch)):
        done = subprocess.run(
            [*command, str(script), str(Path(__file__).parent), str(tmp_path / name)],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    for number in (0, 1):
        one, two = (tmp_path / name / f"peer{number}" for name in ("one", "two"))
        for key, value in load_file(one / "last.safetensors").items():
            torch.testing.assert_close(load_file(two / "last.safetensors")[key], value, atol=1e-5, rtol=1e-4)
        histories = [[json.loads(line) for line in (f / "history.jsonl").read_text().splitlines()] for f in (one, two)]
        for a, b in zip(*histories, strict=True):
            assert a["train_kd"] == pytest.approx(b["train_kd"], rel=1e-4)
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
