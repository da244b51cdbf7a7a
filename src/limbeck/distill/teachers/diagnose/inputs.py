"""Whether a network is given its inputs as it was taught them: tried, rather than asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limbeck import evaluate
from limbeck.data import Data
from limbeck.distill.teachers.diagnose.finding import (
    SURE,
    Finding,
    Level,
    better_by_chance,
    in_any_unit,
    metric_words,
    recognition,
    sure_words,
)
from limbeck.models import PREPROCESSING, Normalized, external_model
from limbeck.tasks import rules

MARGIN, MUCH = 0.02, 0.05  # of accuracy or R2: what fits better by less is not told, or a note
TIED = 0.01
KNOWN = 0.25  # of what the commonest class leaves: a network that knows nothing may by chance know it better turned
GLANCE, FEWEST, SLACK = 4, 64, 0.05  # every fourth row first; ways that are worse there by so much are left at that
SHOWN = 4  # numbers of `mean` and `std` that are written out


@dataclass(frozen=True)
class Way:
    """One way to give a network its inputs.

    Attributes:
        name: in words.
        hint: what to write for it.
        network: the network, given its inputs so.
    """

    name: str
    hint: str
    network: nn.Module


def misfit(
    name: str, network: nn.Module, data: Data, rows: Tensor, given: Tensor, device: torch.device | str
) -> tuple[Finding | None, Tensor]:
    """Try the usual ways to give a network its inputs, and say which fits best.

    Args:
        name: of the network.
        network: a `Normalized`, or nothing is tried.
        data: what it answers for.
        rows: int64 [N], of the validation split.
        given: what it answers for them, as it is.
        device: where it runs.

    Returns:
        A warning if one fits clearly better than what the recipe says, None where there is nothing to try; and what the
        network answers if it is given its inputs in the way that fits.
    """
    ways = list(_ways(network, data))

    def tried(few: Tensor) -> list[tuple[float, Way, Tensor]]:
        found = []
        for way in ways:
            try:
                said = evaluate.predict(way.network.to(device), data, few, device=device)
            except Exception:  # a model of another library, or a function, may refuse what it was not made for
                if external_model(network) is None:
                    raise
                continue
            if said.isfinite().all():
                found.append((recognition(data, said, few), way, said))
        return found

    glanced = tried(rows[::GLANCE] if len(rows) >= GLANCE * FEWEST else rows)
    if not glanced:
        return None, given
    own, count = recognition(data, given, rows), len(ways)
    # Most ways are plainly worse, and a large teacher takes its time.
    ways = [way for level, way, _ in glanced if level > own - SLACK]
    whole = tried(rows)
    found = whole or glanced
    best, way, prediction = max(found, key=lambda one: one[0])
    equal = [other.name for level, other, _ in found if other is not way and best - level <= TIED]
    figures = {"as_it_is": own, "best_other": best, "rows": float(len(rows))}
    levels = metric_words(data, own), metric_words(data, best)
    chance = better_by_chance(data, prediction, given, rows) if whole else 1.0
    if best - own >= MARGIN and best >= _needed(data, rows, given) and chance < SURE:
        text = (
            f"answers better to other inputs than it is given: {levels[0]} as it is, {levels[1]} with {way.name} "
            f"({sure_words(len(rows), chance)}; {count} other way{'s' * (count > 1)} tried)"
        )
        text += f"; about as good: {', '.join(equal)}" if equal else ""
        level: Level = "warning" if best - own >= MUCH else "note"
        return Finding(level, name, "inputs", text, way.hint, figures), prediction
    others = f"the next of {count} other ways" if count > 1 else "the only other way"
    text = f"inputs fit: {levels[0]} as it is; {others}, {way.name}, {levels[1]}"
    return Finding("ok", name, "inputs", text, figures=figures), given


def _needed(data: Data, rows: Tensor, given: Tensor) -> float:
    """What a way must reach to be believed."""
    predicts = rules(data.task).predicts
    if predicts == "values":
        # Values in another unit may come nearer by other inputs, too, but not as near as in their unit.
        return max(0.0, in_any_unit(data, given, rows) - MUCH)
    truth = data.y[rows.to(data.y.device)]
    if predicts == "labels":
        guessed = float(truth.mean())
    else:
        guessed = rules(data.task).guess(replace(data.task, weights=()), truth.cpu()).value
    return guessed + KNOWN * (1 - guessed)


def _ways(network: nn.Module, data: Data) -> Iterator[Way]:
    """The usual ways other than the network's own."""
    if not isinstance(network, Normalized) or data.x.dtype == torch.int64:  # token ids are not normalised
        return
    channels = data.shape[0]
    mean, std = network.mean.cpu(), network.std.cpu()

    def same(other_mean: Tensor, other_std: Tensor) -> bool:
        return bool(torch.allclose(mean, other_mean, atol=1e-3) and torch.allclose(std, other_std, rtol=1e-2))

    def normalized(other_mean: Tensor, other_std: Tensor, bgr: bool) -> nn.Module:
        return Normalized(network.model, other_mean, other_std, bgr=bgr, order=network.order)

    pixels = data.images or data.x.dtype == torch.uint8
    for name, (means, stds, bgr) in PREPROCESSING.items():
        if (not pixels and name != "unit") or len(means) not in (1, channels) or (bgr and channels != 3):
            continue
        other_mean, other_std = torch.tensor(means).expand(channels), torch.tensor(stds).expand(channels)
        if bgr != network.bgr or not same(other_mean, other_std):
            yield Way(f"`{name}`", f"write `preprocess: {name}`", normalized(other_mean, other_std, bgr))
    if network.bgr or not same(data.inputs.mean, data.inputs.std):
        own = normalized(data.inputs.mean, data.inputs.std, False)
        yield Way("the statistics of these training rows", _own_hint(data), own)
    if data.images:
        yield from _turned(network, data)


def _own_hint(data: Data) -> str:
    if len(data.inputs.mean) > SHOWN:
        return "write neither `preprocess` nor `mean` and `std`"
    mean, std = ([round(v, 4) for v in values.tolist()] for values in (data.inputs.mean, data.inputs.std))
    return f"write `mean: {mean}` and `std: {std}`"


def _turned(network: Normalized, data: Data) -> Iterator[Way]:
    """Images that are the same to nobody but a network."""
    if data.shape[0] == 3:
        flipped = Normalized(network.model, network.mean, network.std, bgr=not network.bgr, order=network.order)
        hint = "`preprocess: caffe` is the only one in that order: otherwise turn the channels inside the model"
        yield Way("red and blue exchanged", hint, flipped)
    if data.shape[1] == data.shape[2]:
        hint = "turn the images of the data, or the model's, by 90 degrees and mirror them"
        yield Way("rows and columns exchanged", hint, _Given(network, lambda x: x.transpose(2, 3)))
    hint = "invert the images of the data, or inside the model: white on black and black on white are not the same"
    yield Way("light and dark exchanged", hint, _Given(network, lambda x: 1 - x))


class _Given(nn.Module):
    """A network that is given something made of its inputs."""

    def __init__(self, model: nn.Module, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._made = model, made

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.model(self._made(x))
        return given
