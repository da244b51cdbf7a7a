"""Numbers and settings as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from limbeck.core.formats import FORMATS
from limbeck.core.metrics import METRICS
from limbeck.core.result import DataSummary, Result
from limbeck.core.types import Task
from limbeck.core.words import NOTHING, finite, listed
from limbeck.recipe.model_source import Estimator, read_model
from limbeck.tasks import rules

TIMES = "\N{MULTIPLICATION SIGN}"


def main_metric(result: Result) -> str:
    """The metric that students were selected and compared by."""
    data = result.data
    # Older results do not name it.
    return data.metric or rules(data.task).main(Task(data.task, ("",))).name


def number(value: Any, digits: int = 4) -> str:
    """`digits` significant digits, without an exponent where that stays short."""
    if not finite(value):
        return NOTHING
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:,.{decimals}f}"


def metric(name: str, value: Any) -> str:
    """A metric's value: fractions in percent, the rest with four significant digits."""
    if not finite(value):
        return NOTHING
    return f"{100 * value:.2f} %" if METRICS[name].percent else number(value)


def spread(name: str, reach: Sequence[float] | None) -> str:
    """Half the width of an interval, as `± 0.12`."""
    if not reach or not all(finite(v) for v in reach):
        return ""
    half = (reach[1] - reach[0]) / 2
    return f"± {100 * half:.2f}" if METRICS[name].percent else f"± {number(half, 2)}"


def change(name: str, value: Any) -> str:
    """A difference of a metric, with its sign: points of a per cent, or four significant digits at most."""
    if not finite(value):
        return NOTHING
    return f"{100 * value:+.2f}" if METRICS[name].percent else f"{'-' if value < 0 else '+'}{number(abs(value), 3)}"


def count(value: Any) -> str:
    """A number of things: 20,490 or 1.21 M."""
    if not finite(value):
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 100 * size else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"


def size(value: Any) -> str:
    """Bytes, in decimal units."""
    if not finite(value):
        return NOTHING
    for step, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:.0f} B"


def milliseconds(value: Any) -> str:
    """Milliseconds, to the microsecond below one."""
    if not finite(value):
        return NOTHING
    decimals = 3 if value < 1 else 2 if value < 100 else 0
    return f"{value:,.{decimals}f} ms" if value >= 0.0005 else f"{number(value, 2)} ms"


def date(text: Any) -> str:
    """An ISO time as `21 November 2026, 10:00 UTC`; anything else as it is."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip()


def times(value: float) -> str:
    """A ratio, as "12" or "3.4" and the sign for times."""
    return f"{value:,.0f}{TIMES}" if value >= 10 else f"{value:.1f}{TIMES}"


def settings(values: Mapping[str, Any]) -> str:
    """Options as `a 1, b 2`; nothing for those that are off."""
    shown = []
    for key, value in values.items():
        if value is None or value is False or value == 0 or value == [] or value == {}:
            continue
        text = settings(value) if isinstance(value, Mapping) else _plain(value)
        shown.append(key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {text}")
    return ", ".join(shown)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(_plain(v) for v in value) if isinstance(value, list | tuple) else str(value)


# --- what was done -------------------------------------------------------------------------------


def story(result: Result, smaller: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """What was done, from the recipe: (topic, sentences); `smaller` tells how the student became smaller."""
    recipe, data = result.recipe, result.data
    teachers, student = recipe.get("teachers") or [], recipe.get("student") or {}
    assistants = recipe.get("assistants") or []
    parts = [("Data", _data(data))]
    if teachers:
        parts.append(("Teacher" if len(teachers) == 1 else "Teachers", [_teacher(t, result) for t in teachers]))
    if ensemble := result.ensemble:
        parts.append(("Together", [f"The ensemble is {str(ensemble.words).rstrip('.')}."]))
    if assistants:
        before = ["the teacher" if len(teachers) == 1 else "the teachers", *(a["name"] for a in assistants)]
        parts.append((
            "Assistant" if len(assistants) == 1 else "Assistants",
            [f"{_trained(a, 'assistant', result)}, taught by {b}." for a, b in zip(assistants, before, strict=False)],
        ))  # fmt: skip
    parts.append(("Student", _student(student, recipe.get("seeds") or [], result)))
    parts.append(("Objective", [_objective(recipe.get("losses") or {}, bool(result.comparison))]))
    if augmented := settings(recipe.get("augment") or {}):
        parts.append(("Augmentation", [f"{augmented}. Training rows only.", *_views(result)]))
    if chosen := result.chosen:
        parts.append(("Chosen", [f"{chosen.name}: {chosen.why}."]))
    if smaller:
        parts.append(("Made smaller", list(smaller)))
    if exports := recipe.get("export"):
        parts.append(("Export", [f"{formats(exports)}; each file was run in its own runtime on the whole test split."]))
    return parts


TITLES = {"pytorch": "PyTorch"} | {form: row.title for form, row in FORMATS.items()}
PRECISIONS = {"float32": "float32", "fp16": "fp16", "int8": "int8", "w8": "8-bit weights", "w4": "4-bit weights"}


def formats(names: Sequence[str]) -> str:
    """Formats of files as `LiteRT (float32, int8) and ONNX`."""
    found: dict[str, list[str]] = {}
    for name in names:
        form, _, precision = name.partition("-")  # of whatever an older result names
        found.setdefault(TITLES.get(form, form), []).append(PRECISIONS.get(precision or "float32", precision))
    return listed([f if p == ["float32"] else f"{f} ({', '.join(p)})" for f, p in found.items()])


def _data(data: DataSummary) -> list[str]:
    shape, counts, names = list(data.shape), data.counts, data.classes
    rows = f"{sum(counts.get(split, 0) for split in ('train', 'val', 'test')):,}"
    if len(shape) == 3:
        channels = "1 channel" if shape[0] == 1 else f"{shape[0]} channels"
        what = f"{rows} images of {shape[1]} {TIMES} {shape[2]} pixels, {channels}"
    else:
        columns = math.prod(shape)
        what = f"{rows} rows of {columns:,} column{'s' if columns != 1 else ''}"
    goal = rules(data.task).goal(names)
    goal += ", whose logarithm is learned" if data.log_target else ""
    split = (
        f"{counts.get('train', 0):,} rows to learn from, {counts.get('val', 0):,} to choose by, "
        f"{counts.get('test', 0):,} to report on, which were looked at once, at the end."
    )
    said = [f"{data.name}: {what}; {goal}.", split]
    if extra := counts.get("unlabelled"):
        said.append(
            f"Of {extra:,} more rows no label is known: the taught students learned from the teacher's outputs for "
            "them. Who learns from labels alone went through the labelled rows again, for as many steps."
        )
    if weights := data.class_weights:
        said.append(f"What a {_counted(data)} counts in the losses on labels: {_weights(names, weights)}.")
    return said


WEIGHTS_TOLD = 12


def _counted(data: DataSummary) -> str:
    return "yes" if rules(data.task).predicts == "labels" else rules(data.task).each


def _weights(names: Sequence[str], weights: Sequence[float]) -> str:
    """What each class counts; of many only the extremes."""
    pairs = sorted(zip(weights, names, strict=True), reverse=True)
    if len(pairs) > WEIGHTS_TOLD:
        return f"from {number(pairs[0][0], 3)} ({pairs[0][1]}) down to {number(pairs[-1][0], 3)} ({pairs[-1][1]})"
    return ", ".join(f"{name} {number(weight, 3)}" for weight, name in pairs)


def _views(result: Result) -> list[str]:
    """How many augmented views of a row there were, where the result says."""
    views = result.views
    if not isinstance(views, int):
        return []
    if not views:
        return ["Every epoch has a new view of each row; whoever teaches was asked live, in every step."]
    return [f"Each row has {views} view{'s' if views > 1 else ''}, the same for every student."]


def _network(spec: Mapping[str, Any], role: str, result: Result) -> str:
    options = settings(spec.get("options") or {})
    rows = [m for m in result.models if m.role == role and (role == "student" or m.name == spec.get("name"))]
    params = next((m.cost.params for m in rows if finite(m.cost.params)), None)
    size = f" with {count(params)} parameters" if params else ""
    named = not {"/", "."} & set(str(spec.get("model")))  # a reference network
    keras = " in Keras" if named and result.recipe.get("framework") == "keras" else ""
    return f"{spec.get('model', 'a network')}{keras}{f' ({options})' if options else ''}{size}"


def _plan(plan: Mapping[str, Any]) -> str:
    schedule = (plan.get("schedule") or {}).get("name", "constant")
    keep = ("weight_decay", "warmup_epochs", "clip_norm", "label_smoothing", "ema", "patience")
    parts = [
        f"{plan.get('epochs')} epochs of batches of {plan.get('batch_size')}",
        f"{plan.get('optimizer')} at a learning rate of {plan.get('lr'):g}",
        f"{schedule} schedule" if schedule != "constant" else "",
        settings({key: plan.get(key) for key in keep}),
    ]
    return ", ".join(p for p in parts if p)


def _trained(spec: Mapping[str, Any], role: str, result: Result) -> str:
    """A network and its plan, without the full stop."""
    start = "from ImageNet weights" if spec.get("pretrained") else ""
    start = f"from {spec['weights']}" if spec.get("weights") else start
    called = f"{spec['name']}: " if spec.get("name", role) != role else ""
    name = called + _network(spec, role, result)
    if plan := spec.get("train"):
        return f"{name}, trained here {f'{start} ' if start else ''}for {_plan(plan)}"
    if isinstance(read_model(str(spec.get("model"))), Estimator):
        folds = spec.get("folds")
        others = f"; what it says of these is what {folds} others say, each fitted without the rows it is asked about"
        return f"{name}, fitted on the training rows{others if folds else ''}"
    return f"{name}, brought along {start}, not trained here" if start else name


def _teacher(spec: Mapping[str, Any], result: Result) -> str:
    said, plan = _trained(spec, "teacher", result), (result.recipe.get("combine") or {}).get("train")
    if plan:
        said += f",{' then' if spec.get('train') else ''} trained together with the others for {_plan(plan)}"
    return f"{said}."


def _student(spec: Mapping[str, Any], seeds: Sequence[int], result: Result) -> list[str]:
    plan, recipe = spec.get("train") or {}, result.recipe
    often = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))})"
    said = [f"{_network(spec, 'student', result)}, trained for {_plan(plan)}, with {often}."]
    if not result.comparison:
        return said
    same = "from the same initial weights, with the same order of the data and the same budget"
    if result.data.counts.get("unlabelled"):
        same = "from the same initial weights and with the same number of steps"
    if peers := spec.get("peers"):
        said.append(
            f"For every seed it was trained alone and once more in a group of {peers} that learned together, each from "
            f"the others. The first of the group and the student alone began {same}; it is the one that is compared."
        )
    elif not recipe.get("teachers"):
        said.append(
            "For every seed it was trained alone; then again with the one before it as its teacher, "
            f"{_often(spec.get('generations') or 1)}. Each generation begins with new initial weights."
        )
    else:
        said.append(f"For every seed it was trained twice, alone and with the teacher, {same}.")
        if compared := recipe.get("compare"):
            further = f"{len(compared)} other set{'s' if len(compared) != 1 else ''} of losses"
            said[-1] = f"For every seed it was trained alone, with the teacher, and so by {further}; {same}."
        if recipe.get("assistants"):
            said[-1] = (
                f"For every seed it was trained alone, taught by the teacher itself, and by the assistant; {same}."
            )
        if (generations := spec.get("generations") or 1) > 1:
            said.append(
                f"The taught student then taught its successor: {generations} generations, all but the first with new "
                "initial weights."
            )
    return said


def _often(times_: int) -> str:
    return {1: "once", 2: "twice"}.get(times_, f"{times_} times")


def formula(losses: Mapping[str, Any]) -> str:
    """A set of losses with their weights: `hard 0.1 + kd 0.9 (temperature 4)`."""
    return " + ".join(_term(name, term) for name, term in losses.items())


def _term(name: str, term: Mapping[str, Any]) -> str:
    loss = term.get("loss", name)
    details = [loss] if loss != name else []
    for key, value in term.items():
        if key not in ("weight", "loss", "student", "teacher") and value is not None:
            details.append(key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {_moving(value)}")
    ours, theirs = (_names(term.get(side, "prediction")) for side in ("student", "teacher"))
    if not {*ours, *theirs} <= {"auto", "prediction"}:
        details += [f"{s} from {t}" for s, t in zip(ours, theirs, strict=True)]
    return f"{name} {_moving(term.get('weight', 1))}" + (f" ({', '.join(details)})" if details else "")


def _names(taps: str | Sequence[str]) -> list[str]:
    return [taps] if isinstance(taps, str) else list(taps)


def _moving(value: Any) -> str:
    """A number, or where it begins and ends."""
    if value == "auto":
        return "weight auto"  # by itself it could mean the taps
    if not isinstance(value, Mapping):
        return "no" if value is False else _plain(value)
    over = f" over {value['epochs']:g} epochs" if value.get("epochs") else ""
    shape = " as a cosine" if value.get("shape") == "cosine" else ""
    return f"{value['start']:g} to {value['end']:g}{over}{shape}"


def _objective(losses: Mapping[str, Any], taught: bool) -> str:
    total = formula(losses)
    return (
        f"When taught: {total}. Alone: the terms that use labels, their weights summing to 1."
        if taught
        else f"{total}."
    )
