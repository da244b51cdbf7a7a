"""Costs: counts against arithmetic by hand, times only against each other."""

import gc
import time
from functools import partial

import pytest
import torch
from torch import nn

from limbeck.core.errors import UserError
from limbeck.evaluate import costs, file_latency


def test_parameters_count_shared_ones_once():
    linear = nn.Linear(10, 4)
    assert costs.parameters(linear) == 10 * 4 + 4
    assert costs.parameters(nn.Sequential(linear, nn.ReLU(), linear)) == 44


def test_macs_of_a_small_network_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    by_hand = 6 * 6 * 8 * (3 * 3 * 3) + 8 * 36 * 5
    assert costs.macs(model, torch.randn(4, 3, 6, 6)) == by_hand


def test_macs_of_depthwise_and_strided_convolutions():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 6, 1, stride=2))
    assert costs.macs(model, torch.randn(1, 4, 9, 9)) == 7 * 7 * 4 * 9 + 4 * 4 * 6 * 4


def test_macs_count_attention_that_kernels_hide():
    tokens, width, inner = 7, 16, 32
    layer = nn.TransformerEncoderLayer(width, 2, inner, batch_first=True)
    projections = 4 * tokens * width * width
    attention = 2 * tokens * tokens * width
    feed_forward = 2 * tokens * width * inner
    assert costs.macs(layer, torch.randn(1, tokens, width)) == projections + attention + feed_forward
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    costs.macs(model, torch.randn(2, 3))
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("call", [0.001, 0.03, 0.3, 0.7, 1.0, 5.0])
@pytest.mark.parametrize(("rounds", "seconds"), [(30, 2.0), (10, 1.0)])
def test_how_long_latency_takes_is_known_before(monkeypatch, call, rounds, seconds):
    passed = [0.0]

    def run():
        passed[0] += call
        return call * 1000

    monkeypatch.setattr(time, "perf_counter", lambda: passed[0])
    costs.latency({"one": run}, rounds=rounds, seconds=seconds)
    assert costs.latency_seconds(call, rounds=rounds, seconds=seconds) == pytest.approx(passed[0])


def test_latency_takes_turns_and_gives_medians_of_what_comes_after_the_warm_up():
    seen, warm_up = [], [1000.0] * costs.WARMUP_CALLS
    taken = {"fast": [*warm_up, 3.0, 1.0, 9.0, 4.0, 2.0, 5.0], "slow": [*warm_up, 30.0, 20.0, 90.0, 30.0, 40.0, 10.0]}

    def run(name):
        seen.append(name)
        return taken[name][seen.count(name) - 1]

    found = costs.latency({name: partial(run, name) for name in taken}, rounds=6, seconds=600)
    assert found == {
        "fast": {"median_ms": 3.5, "min_ms": 1.0, "n": 6},
        "slow": {"median_ms": 30.0, "min_ms": 10.0, "n": 6},
    }
    rounds = [tuple(seen[i : i + 2]) for i in range(0, len(seen), 2)]
    assert rounds == [("fast", "slow")] * costs.WARMUP_CALLS + [("fast", "slow"), ("slow", "fast")] * 3


def test_a_stopwatch_tells_milliseconds():
    assert 20 <= costs.stopwatch(lambda: time.sleep(0.02))() < 20_000


def test_latency_is_bounded_by_time_but_measures_once():
    calls = []
    found = costs.latency(
        {"slow": costs.stopwatch(lambda: (calls.append(1), time.sleep(0.05)))}, rounds=10_000, seconds=0.01
    )
    assert found["slow"]["n"] == 1
    assert len(calls) == 2


def test_latency_switches_the_garbage_collector_back_on_after_an_error():
    def broken():
        calls.append(1)
        if len(calls) > costs.WARMUP_CALLS:
            raise RuntimeError("no")

    calls = []
    with pytest.raises(RuntimeError, match="no"):
        costs.latency({"broken": costs.stopwatch(broken)})
    assert gc.isenabled()


def test_latency_without_rounds_is_refused_and_without_runs_is_empty():
    with pytest.raises(UserError, match="0 rounds"):
        costs.latency({"a": lambda: 0.0}, rounds=0)
    assert costs.latency({}) == {}


def test_threads_are_restored_even_after_an_error():
    before, inside = torch.get_num_threads(), []

    def fail():
        with costs.threads(2):
            inside.append(torch.get_num_threads())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert inside == [2]
    assert torch.get_num_threads() == before
    with pytest.raises(UserError, match="0 threads"), costs.threads(0):
        pass


@pytest.mark.parametrize(("ms", "calls"), [(0.02, [1, 5]), (80.0, [1])])
def test_files_are_called_several_times_in_a_row_unless_they_take_long(ms, calls):
    asked = []

    class Fake:
        def time(self, x, *, calls):
            asked.append(calls)
            return [ms] * calls

    assert file_latency.once(Fake(), None) == ms
    assert asked == calls
