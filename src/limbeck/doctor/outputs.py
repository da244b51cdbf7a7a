"""Whether a network's outputs mean what they are taken for: the order of classes, logits, the unit of values."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from limbeck import evaluate
from limbeck.data import Data, targets
from limbeck.doctor.finding import SURE, Finding, sure_words
from limbeck.evaluate import metrics
from limbeck.models import gives_probabilities
from limbeck.recipe import Network

ROWS_OF_A_CLASS = 6  # with fewer nothing is said about its place
STABLE = 0.9  # the share of exchanged classes that both halves of the rows must agree about
CERTAIN = 0.8  # the likeliest class of the typical row, where a softmax was applied twice
RESCALED = 0.1  # of R2: what a straight line through the values must gain
COLD, HOT = 0.05, 20.0  # temperatures that are looked at
FEW = 50  # rows below which no temperature is fitted


def class_order(name: str, prediction: Tensor, data: Data, spec: Network) -> Finding | None:
    """Whether a teacher knows the same classes in another order.

    The order is the assignment of outputs to classes with the most hits (Kuhn, 1955, "The Hungarian method"). It is
    found on one half of the rows and tried on the other, both ways, and told only if both halves find the same and the
    classes concerned are recognised by it and not as they stand.

    Args:
        name: of the teacher.
        prediction: its logits [N, C] for all validation rows.
        data: the task and the labels.
        spec: may name the model's own classes.
    """
    truth, said = targets(data, data.val, "cpu"), prediction.argmax(1)
    width, names = data.task.width, data.task.names
    half = torch.zeros(len(truth), dtype=torch.bool)
    for label in range(width):  # every other row of each class
        half[(truth == label).nonzero().flatten()[::2]] = True
    whole, first, second = (_assigned(truth[rows], said[rows], width) for rows in (half | ~half, half, ~half))
    counts = torch.bincount(truth, minlength=width)
    moved = (whole != torch.arange(width)) & (counts >= ROWS_OF_A_CLASS)
    if int(moved.sum()) < 2:
        return None
    stable = moved & (first == second)
    if int(stable.sum()) < STABLE * int(moved.sum()):
        return None
    rows = moved[truth]
    # The other half's order, so that no row is judged by an order that was made for it.
    crossed = torch.where(half, second[truth], first[truth])
    before, after = (said[rows] == truth[rows]).double(), (said[rows] == crossed[rows]).double()
    chance = _luck(before, after)
    if after.mean() < 0.5 or before.mean() > after.mean() / 2 or chance >= SURE:
        return None
    own, order = list(spec.classes or names), _order(spec, names)
    for label, output in enumerate(whole.tolist()):
        own[order[output]] = names[label]
    level, then = (float((said == wanted).double().mean()) for wanted in (truth, whole[truth]))
    text = (
        f"knows the classes in another order: accuracy {100 * level:.1f} % as it is, {100 * then:.1f} % after "
        f"{int(moved.sum())} of {width} classes change places ({sure_words(int(rows.sum()), chance)})"
    )
    if unsure := [names[n] for n in (moved & ~stable).nonzero().flatten().tolist()]:
        text += f"; not sure of {', '.join(unsure)}"
    if few := [names[n] for n in (counts < ROWS_OF_A_CLASS).nonzero().flatten().tolist()]:
        text += f"; too few rows to tell of {', '.join(few)}"
    hint = f"write `classes: {json.dumps(own, ensure_ascii=False)}`"
    return Finding("warning", name, "classes", text, hint, {"as_it_is": level, "in_order": then})


def _assigned(truth: Tensor, said: Tensor, width: int) -> Tensor:
    """Which output stands for each class, int64 [C]: the assignment with the most hits, its own where even."""
    from scipy.optimize import linear_sum_assignment

    hits = torch.bincount(truth * width + said, minlength=width * width).view(width, width).double()
    hits += 0.5 * torch.eye(width, dtype=torch.float64)
    return torch.as_tensor(linear_sum_assignment(hits.numpy(), maximize=True)[1])


def _luck(before: Tensor, after: Tensor) -> float:
    """The chance of so uneven a split of the rows that only one of two readings has right (McNemar, 1947)."""
    from scipy.stats import binomtest

    won, lost = (int(((after - before) == sign).sum()) for sign in (1, -1))
    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def _order(spec: Network, names: tuple[str, ...]) -> list[int]:
    """At which of the model's outputs each class of the data stands now."""
    return [spec.classes.index(label) for label in names] if spec.classes else list(range(len(names)))


def softmax(name: str, prediction: Tensor, spec: Network, *, read_as: str) -> Finding | None:
    """Whether the outputs of a classifier went through a softmax, once and told, or once too often.

    The logarithm of a softmax of probabilities is these, less a constant: shifted to the sum 1 every row must be
    probabilities again, which other logits are not.

    Args:
        name: of the teacher.
        prediction: logits [N, C] as they are read now.
        spec: of the recipe.
        read_as: what was done to the model's own outputs.
    """
    logits = prediction.double()
    shares = logits - logits.mean(1, keepdim=True) + 1 / logits.shape[1]
    twice = bool((shares >= -1e-3).all()) and float(shares.amax(1).median()) >= CERTAIN
    if not twice:
        if read_as == "log":
            return Finding("ok", name, "softmax", "ends in a softmax; its logarithm is what is learned from")
        return None
    text = (
        "its logits are probabilities: all of a row lie within 1 of each other and sum to 1 but for a constant, so its "
        "soft targets would be nearly even"
    )
    if gives_probabilities(prediction):
        hint = "write `outputs: probabilities`" if spec.outputs else "give its logits"
    elif spec.asked:
        hint = "it applies a softmax to a softmax: leave one of them out of the file"
    else:
        hint = "leave a softmax out of the network"
    return Finding("warning", name, "softmax", text, hint, {"certainty": float(shares.amax(1).median())})


def values(name: str, prediction: Tensor, data: Data, spec: Network) -> Finding | None:
    """Whether a teacher's values are in another unit than they are read in.

    A straight line from its values to the true ones is fitted on each half of the rows and tried on the other.

    Args:
        name: of the teacher.
        prediction: standardised values [N, K] for all validation rows.
        data: the task and the scaling of values.
        spec: of the recipe.
    """
    truth, given = targets(data, data.val, "cpu").double(), evaluate.means(data.task, prediction).double()
    if len(truth) < FEW or bool((given.std(0) < 1e-9).any()):
        return None
    halves = [slice(0, None, 2), slice(1, None, 2)]
    fitted = torch.empty_like(truth)
    for own, other in (halves, halves[::-1]):
        slope, shift = _line(given[own], truth[own])
        fitted[other] = slope * given[other] + shift
    level, then = _r2(given, truth), _r2(fitted, truth)
    if then - max(level, 0.0) < RESCALED:
        return None
    hint = "give them in the target's own unit, by a last layer that scales and shifts them"
    if data.targets is not None and spec.asked:
        mean, std = data.targets.mean.double(), data.targets.std.double()
        # What is taken for values in the target's unit has had its mean taken off and been divided by its deviation.
        if spec.outputs is None and _r2(given * std + mean, truth) > then - RESCALED:
            hint = "write `outputs: standardised`"
        elif spec.outputs == "standardised" and _r2((given - mean) / std, truth) > then - RESCALED:
            hint = "leave `outputs: standardised` out"
    slope, shift = _line(given, truth)
    line = ", ".join(f"{s:.3g} x {b:+.3g}" for s, b in zip(slope.tolist(), shift.tolist(), strict=True))
    text = (
        f"gives values in another unit: R2 {level:.3f} as it is, {then:.3f} after a line through them "
        f"({line}, standardised; {len(truth):,} validation rows)"
    )
    return Finding("warning", name, "unit", text, hint, {"as_it_is": level, "rescaled": then})


def _line(given: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of the least squares line of each output."""
    centred = given - given.mean(0)
    slope = (centred * (truth - truth.mean(0))).sum(0) / centred.square().sum(0).clamp_min(1e-12)
    return slope, truth.mean(0) - slope * given.mean(0)


def _r2(given: Tensor, truth: Tensor) -> float:
    return 1 - float((given - truth).square().sum() / (truth - truth.mean(0)).square().sum().clamp_min(1e-12))


def temperature(name: str, prediction: Tensor, data: Data) -> Finding | None:
    """The temperature at which a teacher's probabilities are most likely on validation.

    Guo et al., 2017, "On Calibration of Modern Neural Networks": above 1 it is too sure of itself, below 1 not enough.
    The error of calibration is that on the same rows.

    Args:
        name: of the teacher.
        prediction: logits [N, C] for all validation rows.
        data: the task and the labels.
    """
    from scipy.optimize import minimize_scalar

    truth, logits = targets(data, data.val, "cpu"), prediction.double()
    if len(truth) < FEW:
        return None

    def surprise(log: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / torch.tensor(log).exp(), truth))

    low, high = float(torch.tensor(COLD).log()), float(torch.tensor(HOT).log())
    fitted = float(torch.tensor(minimize_scalar(surprise, bounds=(low, high), method="bounded").x).exp())
    before, after = (metrics(data.task, logits / t, truth) for t in (1.0, fitted))
    manner = "too sure of itself" if fitted > 1.1 else "not sure enough" if fitted < 0.9 else "about as sure as right"
    text = (
        f"{manner}: temperature {fitted:.2f} fits best on validation (NLL {before['nll']:.3f} to {after['nll']:.3f}, "
        f"calibration error {100 * before['ece']:.1f} % to {100 * after['ece']:.1f} %)"
    )
    figures = {"temperature": fitted, "ece": before["ece"], "ece_after": after["ece"]}
    return Finding("ok", name, "temperature", text, figures=figures)
