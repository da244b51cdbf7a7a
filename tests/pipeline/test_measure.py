"""Which network's time stands for which others."""

import torch
from torch import nn

from limbeck.core.types import Artifact, Cost
from limbeck.evaluate import costs
from limbeck.pipeline.measure import _with_latency

SMALL, LARGE = Cost(10, 20, 100, None), Cost(1000, 2000, 10000, None)


def row(name, role, cost, variant=""):
    return Artifact(name, role, 0, "pytorch", None, {}, cost, variant=variant)


def test_one_of_the_same_architecture_stands_for_all_and_no_other(monkeypatch):
    """A network that learned quantized has as many parameters as its start, but another time."""
    rows = [
        row("teacher", "teacher", LARGE),
        row("student-seed0", "student", SMALL),
        row("student-seed1", "student", SMALL),
        row("at-seed0", "compared", SMALL, "at"),
        row("rounded-seed0", "compressed", SMALL, "rounded"),
        row("rounded-alone-seed0", "compressed-alone", SMALL, "rounded"),
        row("pruned-seed1", "compressed", Cost(5, 9, 50, None), "pruned"),
    ]
    times = {"teacher": 7.0, "student-seed0": 1.0, "rounded-seed0": 4.0}
    monkeypatch.setattr(
        costs, "latency", lambda timed: {name: {"median_ms": times[name], "min_ms": times[name] / 2} for name in timed}
    )
    found = _with_latency(rows, dict.fromkeys(times, nn.Identity()), torch.zeros(1, 2))
    assert {one.name: one.cost.latency_ms for one in found} == {
        "teacher": 7.0, "student-seed0": 1.0, "student-seed1": 1.0, "at-seed0": 1.0,
        "rounded-seed0": 4.0, "rounded-alone-seed0": 4.0, "pruned-seed1": None,
    }  # fmt: skip
    assert found[2].cost.fastest_ms == 0.5
