"""Students made smaller: what was done, what it lost, what the teacher's help in recovery was worth, what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.result import Comparison, CompressedVariant, Result, Spread
from limbeck.core.types import Artifact
from limbeck.core.words import NOTHING, finite, listed
from limbeck.report import words

METHODS = {"spatial": "spatial SVD", "channel": "channel SVD", "tucker": "Tucker-2"}
LOST = {"helps": ("good", "a gain"), "no evidence": ("open", "no evidence of a loss"), "hurts": ("bad", "a loss")}
HELP = {"helps": "good", "no evidence": "open", "hurts": "bad"}
COSTS = {
    "params": words.count,
    "macs": words.count,
    "size_bytes": words.size,
    "latency_ms": words.milliseconds,
}


# --- steps in words --------------------------------------------------------------------------------


def steps(done: Sequence[Mapping[str, Any]]) -> str:
    """Steps of a recipe as a person tells them, without a full stop; nothing for no steps."""
    return "; then ".join(f"{_act(step)}, {_recovery(step)}" for step in done)


def _act(step: Mapping[str, Any]) -> str:
    if prune := step.get("prune"):
        return _pruned(prune)
    if sparsify := step.get("sparsify"):
        pattern, amount = sparsify.get("pattern"), sparsify.get("amount")
        which = f"two of every four weights ({pattern})" if pattern else f"the smallest {_percent(amount)} of weights"
        return f"{which} set to zero{_but(sparsify)}, for which no CPU runtime is faster"
    if factorise := step.get("factorise"):
        ranks = {
            "evbmf": "ranks by EVBMF",
            "sensitivity": f"ranks by what each layer costs, {_percent(factorise.get('drop'))} at most before recovery",
        }.get(factorise.get("ranks", "energy"), f"{_percent(factorise.get('energy'))} of the energy kept")
        method = METHODS.get(factorise.get("method", "spatial"), factorise.get("method"))
        return f"layers factorised ({method}, {ranks}){_but(factorise)}"
    bits = (step.get("quantize") or {}).get("weights", 8)
    return f"trained quantized, {bits}-bit weights and 8-bit activations"


def _pruned(prune: Mapping[str, Any]) -> str:
    left = {"macs": "MACs are", "params": "parameters are", "latency": "time is"}
    how = {"taylor": "by Taylor importance", "magnitude": "by magnitude", "random": "at random"}
    whole = prune.get("scope") == "global"
    kind = next((k for k in left if prune.get(k) is not None), None)
    if kind:
        act = f"channels taken out until {_percent(prune[kind])} of the {left[kind]} left"
    else:
        act = f"{_percent(prune.get('ratio'))} of {'all' if whole else 'the'} channels taken out"
    rounds = f" in {prune['steps']} rounds" if (prune.get("steps") or 1) > 1 else ""
    ranked = " over all layers" if whole else " in each layer"
    return f"{act}{rounds}{',' if kind else ''} {how[prune.get('importance', 'taylor')]}{ranked}{_but(prune)}"


def _recovery(step: Mapping[str, Any]) -> str:
    epochs = (step.get("recover") or {}).get("epochs") or 0
    if step.get("quantize"):
        return f"{epochs} epoch{'s' if epochs != 1 else ''}"
    if not epochs:
        return "batch norms measured anew"
    each = " after each" if ((step.get("prune") or {}).get("steps") or 1) > 1 else ""
    return f"recovered for {epochs} epoch{'s' if epochs != 1 else ''}{each}"


def _but(step: Mapping[str, Any]) -> str:
    return f" but for {listed(list(step['keep']))}" if step.get("keep") else ""


def _percent(share: Any) -> str:
    return f"{100 * share:.3g} %" if finite(share) else NOTHING


def told(result: Result) -> list[str]:
    """How the student became smaller, a sentence for each variant; for the story of the run."""
    said = [f"{entry.name}: {steps(entry.steps) or 'as it is'}." for entry in result.compressed]
    if said and any(entry.with_teacher for entry in result.compressed):
        said.append("All training after a step was done twice, with the teacher and with labels alone.")
    return said


# --- the table -------------------------------------------------------------------------------------


def variants(result: Result) -> list[dict[str, Any]]:
    """A row for each compressed variant, and first one for the students they were made from; empty without."""
    entries = result.compressed
    if not entries:
        return []
    models = {m.name: m for m in result.models}
    begun = [models[name] for name in dict.fromkeys(n for e in entries for n in e.start.values()) if name in models]
    first = entries[0].against_start
    whole = {key: _mean(begun, key) for key in COSTS}
    level = first.metric, first.student
    rows = [{"name": "", "steps": "", "costs": _costs(whole, {}), **_level(*level), "lost": None, "help": None}]
    return rows + [_variant(entry, [models[n] for n in entry.start if n in models], whole) for entry in entries]


def _variant(entry: CompressedVariant, own: Sequence[Artifact], whole: Mapping[str, Any]) -> dict[str, Any]:
    against, taught = entry.against_start, entry.with_teacher
    metric = against.metric
    tone, verdict = LOST[against.verdict]
    lost = _change(against) | {"tone": tone, "verdict": verdict if against.gain.ci95 else "one seed"}
    help_ = None
    if taught:
        alone = _level(metric, taught.student)
        verdict = taught.verdict if taught.gain.ci95 else "one seed"
        help_ = _change(taught) | {"tone": HELP[taught.verdict], "verdict": verdict, "alone": alone}
    return {
        "name": entry.name,
        "steps": steps(entry.steps) or "as it is",
        **_level(metric, against.distilled),
        "lost": lost,
        "help": help_,
        "costs": _costs({key: _mean(own, key) for key in COSTS}, whole),
    }


def _level(metric: str, side: Spread) -> dict[str, str]:
    return {"score": words.metric(metric, side.mean), "spread": words.spread(metric, side.ci95)}


def _change(found: Comparison) -> dict[str, str]:
    metric, gain = found.metric, found.gain
    reach = " to ".join(words.change(metric, end) for end in gain.ci95 or [])
    return {"change": words.change(metric, gain.mean), "reach": reach}


def _costs(own: Mapping[str, Any], whole: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each cost, and its share of the uncompressed student's."""
    shown = []
    for key, say in COSTS.items():
        known = finite(own[key]) and finite(whole.get(key)) and whole[key]
        shown.append((say(own[key]), f"{100 * own[key] / whole[key]:.3g} %" if known else ""))
    return shown


def _mean(models: Sequence[Artifact], key: str) -> float | None:
    known = [v for m in models if finite(v := getattr(m.cost, key))]
    return math.fsum(known) / len(known) if known else None


def said(result: Result) -> list[str]:
    """What must be known to read the table."""
    entries = result.compressed
    seeds = len(entries[0].start) if entries else 0
    sentences = [
        "Each variant starts from the same students, seed by seed, and is held against them on the test split."
    ]
    if seeds > 1:
        sentences.append(f"Scores are means of {seeds} seeds ± half of the 95 % interval.")
    if any(entry.with_teacher for entry in entries):
        sentences.append("The teacher's help is what recovery with it brings over the same recovery with labels alone.")
    if len(entries) > 1 and seeds > 1:
        sentences.append(
            "Each interval stands for itself: of twenty comparisons without any effect, about one looks like one."
        )
    return sentences


def lines(result: Result) -> list[dict[str, Any]]:
    """For each variant the lines that were shown when it was made; students with the same lines stand together."""
    found = []
    for entry in result.compressed:
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, changes in entry.told.items():
            alike.setdefault(tuple(changes), []).append(name)
        parts = [(listed(names), "\n".join(changes)) for changes, names in alike.items() if changes]
        if parts:
            found.append({"name": entry.name, "parts": parts})
    return found


def in_short(result: Result) -> str:
    """What became of the student, in a sentence for each variant."""
    rows = variants(result)
    if not rows:
        return ""
    return " ".join(
        f"{row['name']}: {row['score']} instead of {rows[0]['score']}, {row['costs'][0][1]} of the parameters."
        for row in rows[1:]
    )
