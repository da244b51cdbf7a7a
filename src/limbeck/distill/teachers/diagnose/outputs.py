"""Whether a network's outputs mean what they are taken for: the order of classes, logits, the unit of values."""

from __future__ import annotations

import json
from pathlib import PurePath

import torch
from torch import Tensor

from limbeck import evaluate
from limbeck.data import Data, targets
from limbeck.distill.teachers.diagnose.alignment import believable, line, luck, orders, r2, straightened
from limbeck.distill.teachers.diagnose.finding import SURE, Finding, sure_words
from limbeck.evaluate import metrics
from limbeck.models import gives_probabilities
from limbeck.recipe import Network
from limbeck.recipe.model_source import ModelFile

ROWS_OF_A_CLASS = 6  # with fewer nothing is said about its place
STABLE = 0.9  # the share of exchanged classes that both halves of the rows must agree about
CERTAIN = 0.8  # the likeliest class of the typical row, where a softmax was applied twice
EXPLAINED, RESCALED = 0.3, 0.1  # R2 that values reach on the right line, and how near another reading must come
COLD, HOT = 0.05, 20.0  # temperatures that are looked at
EVEN, MISSED = 0.25, 0.2  # a temperature below which soft targets are strangely even, and the error that it puts right
NAMED = (".csv", ".parquet")  # stored predictions whose columns have names
FEW = 50  # rows below which no temperature is fitted


def class_order(name: str, prediction: Tensor, data: Data, rows: Tensor, spec: Network) -> Finding | None:
    """Whether a teacher knows the same classes in another order.

    It is told only if both halves of the rows find the same order, and the classes concerned are recognised in the
    order that the other half gives, and are not as they stand.

    Args:
        name: of the teacher.
        prediction: its logits [N, C].
        data: the task and the labels.
        rows: int64 [N], of the validation split.
        spec: may name the model's own classes.
    """
    truth, said = targets(data, rows, "cpu"), prediction.argmax(1)
    width, names = data.task.width, data.task.names
    found = orders(truth, said, width)
    whole, counts = found.whole, torch.bincount(truth, minlength=width)
    moved = (whole != torch.arange(width)) & (counts >= ROWS_OF_A_CLASS)
    if int(moved.sum()) < 2:
        return None
    stable = moved & (found.first == found.second)
    if int(stable.sum()) < STABLE * int(moved.sum()):
        return None
    concerned = moved[truth]
    before, after = (hits[concerned] for hits in (said == truth, found.hits(truth, said)))
    chance = luck(before, after)
    if not believable(before, after) or chance >= SURE:
        return None
    own, order = list(spec.classes or names), _order(spec, names)
    for label, output in enumerate(whole.tolist()):
        own[order[output]] = names[label]
    level, then = (float((said == wanted).double().mean()) for wanted in (truth, whole[truth]))
    text = (
        f"knows the classes in another order: accuracy {100 * level:.1f} % as it is, {100 * then:.1f} % after "
        f"{int(moved.sum())} of {width} classes change places ({sure_words(int(concerned.sum()), chance)})"
    )
    if unsure := [names[n] for n in (moved & ~stable).nonzero().flatten().tolist()]:
        text += f"; not sure of {', '.join(unsure)}"
    if few := [names[n] for n in (counts < ROWS_OF_A_CLASS).nonzero().flatten().tolist()]:
        text += f"; too few rows to tell of {', '.join(few)}"
    shown = json.dumps(own, ensure_ascii=False)
    hint = f"write `classes: {shown}`"
    if (
        isinstance(spec.source, ModelFile) and spec.keyed and PurePath(spec.model).suffix.lower() in NAMED
    ):  # which are found by name, in any order
        now = json.dumps(list(spec.classes or names), ensure_ascii=False)
        hint = f"the columns have wrong names: rename {now} to {shown}"
    return Finding("warning", name, "classes", text, hint, {"as_it_is": level, "in_order": then})


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


def values(name: str, prediction: Tensor, data: Data, rows: Tensor, spec: Network) -> Finding | None:
    """Whether a teacher's values are in another unit than they are read in.

    A straight line from its values to the true ones is fitted on each half of the rows and tried on the other.

    Args:
        name: of the teacher.
        prediction: standardised values [N, K].
        data: the task and the scaling of values.
        rows: int64 [N], of the validation split.
        spec: of the recipe.
    """
    truth, given = targets(data, rows, "cpu").double(), evaluate.means(data.task, prediction).double()
    if len(truth) < FEW or bool((given.std(0) < 1e-9).any()):
        return None
    fitted = straightened(truth, given)
    level, then = r2(given, truth), r2(fitted, truth)
    if then < EXPLAINED or level > then / 2:  # a line through what knows nothing explains a little, too
        return None
    hint = "give them in the target's own unit, by a last layer that scales and shifts them"
    if data.targets is not None and spec.asked:
        # What is taken for values in the target's unit has been standardised.
        if spec.outputs is None and r2(data.targets.restore(given), truth) > then - RESCALED:
            hint = "write `outputs: standardised`"
        elif spec.outputs == "standardised" and r2(data.targets.standardise(given), truth) > then - RESCALED:
            hint = "leave `outputs: standardised` out"
    slope, shift = line(given, truth)
    shown = ", ".join(f"{s:.3g} x {b:+.3g}" for s, b in zip(slope.tolist(), shift.tolist(), strict=True))
    text = (
        f"gives values in another unit: R2 {level:.3f} as it is, {then:.3f} after a line through them "
        f"({shown}, standardised; {len(truth):,} validation rows)"
    )
    return Finding("warning", name, "unit", text, hint, {"as_it_is": level, "rescaled": then})


def temperature(name: str, prediction: Tensor, data: Data, rows: Tensor) -> Finding | None:
    """The temperature at which a teacher's probabilities are most likely on validation.

    Guo et al., 2017, "On Calibration of Modern Neural Networks": above 1 it is too sure of itself, below 1 not enough.
    The error of calibration is that on the same rows.

    Args:
        name: of the teacher.
        prediction: logits [N, C].
        data: the task and the labels.
        rows: int64 [N], of the validation split.
    """
    from scipy.optimize import minimize_scalar

    truth, logits = targets(data, rows, "cpu"), prediction.double()
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
    if fitted < EVEN and before["ece"] - after["ece"] > MISSED:
        hint = f"its soft targets are strangely even: divide its logits by {fitted:.2g}, or choose lower temperatures"
        return Finding("note", name, "temperature", text, hint, figures)
    return Finding("ok", name, "temperature", text, figures=figures)
