"""From a recipe to a run directory, stage by stage.

A stage is a folder with a `stage.json` that says what it was made from and what came out. A stage that is done is not
done again; one that was interrupted goes on from its last epoch. That is all there is to resuming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from limbeck import __version__, doctor, evaluate, export, recipe
from limbeck.data import Data, load, on_device
from limbeck.devices import make_accelerator
from limbeck.errors import UserError
from limbeck.job import Job
from limbeck.measure import Candidate, measure
from limbeck.models import build, plain, save_weights
from limbeck.recipe import Network, Plan, Recipe
from limbeck.report import write_report
from limbeck.runtime import (
    Progress,
    environment,
    fingerprint,
    fingerprint_file,
    fingerprint_tensors,
    locked,
    read_json,
    seed_everything,
    write_json,
    write_text,
)
from limbeck.teachers import combiner
from limbeck.train import fit
from limbeck.types import Role, Teacher

SCHEMA = 1


def run(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recipe from data to report, or go on with a run that was interrupted.

    Args:
        source: a bundled name, the path of a YAML file, or the recipe as a mapping.
        out: the run directory; `runs/<name of the recipe>` where it is not given.
        overrides: `key=value` texts with dotted keys.
        progress: where progress is shown; quiet where it is not given.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: anything the user can put right, before the expensive part where that is possible.
    """
    checked = recipe.load(source, overrides)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    progress = progress or Progress(quiet=True)
    if checked.run.threads:
        torch.set_num_threads(checked.run.threads)
    accelerator = make_accelerator(checked.run, folder)
    export.check_available(checked.export)
    if not accelerator.is_main_process:
        return _staged(checked, folder, accelerator, Progress(quiet=True))
    with locked(folder):
        _claim(folder, checked)
        return _staged(checked, folder, accelerator, progress)


def _claim(folder: Path, checked: Recipe) -> None:
    """Make `folder` this recipe's, or refuse."""
    path = folder / "recipe.yaml"
    if not path.exists():
        strangers = [p.name for p in folder.iterdir() if p.name != ".lock"]
        if strangers:
            raise UserError(
                f"is not empty and holds no run ({strangers[0]}, ...)", where=str(folder), hint="choose another --out"
            )
        write_text(path, recipe.dump(checked))
        return
    if not any(folder.glob("*/stage.json")):
        # Nothing was begun by the recipe before, most likely because it had a fault that this one has not.
        write_text(path, recipe.dump(checked))
        return
    before, now = (_flat(r.model_dump(mode="json")) for r in (recipe.load(path), checked))
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        shown = "\n  ".join(changed[:10] + ([f"and {len(changed) - 10} more"] if len(changed) > 10 else []))
        raise UserError(
            f"this run was begun with another recipe; what changed:\n  {shown}",
            where=str(folder),
            hint="choose another --out, or give the recipe it was begun with",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v for key, inner in pairs for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


# --- stages --------------------------------------------------------------------------------------


def _staged(checked: Recipe, folder: Path, accelerator: Accelerator, progress: Progress) -> dict[str, Any]:
    started = time.monotonic()
    data = on_device(load(checked.data, checked.task, progress), accelerator.device)
    job = Job(checked, folder, data, accelerator, progress, {"data": round(time.monotonic() - started, 3)})
    for note in data.notes:
        progress.say(f"note: {note}")
    counts = ", ".join(f"{n:,} {split}" for split, n in data.counts().items())
    progress.say(f"data: {data.name}, {counts}")
    if accelerator.is_main_process:
        write_json(folder / "classes.json", {name: number for number, name in enumerate(data.task.names)})
    _dry_build(job)

    keys = {spec.name: _key(job, spec) for spec in checked.teachers}
    taught = {s.name: _together(job, s.name, keys[s.name], partial(_teach, job, s)) for s in checked.teachers}
    teacher = job.teacher({name: getattr(torch, t["dtype"]) for name, t in taught.items()}) if taught else None
    trained: dict[str, dict[str, Any]] = {}
    for seed in checked.seeds:
        name, key = f"student-seed{seed}", _key(job, checked.student, seed)
        trained[name] = _together(job, name, key, partial(_study, job, seed, None))
        if teacher is not None:
            name, key = f"distilled-seed{seed}", _key(job, checked.student, seed, keys)
            trained[name] = _together(job, name, key, partial(_study, job, seed, teacher))
    # What is left needs one process.
    return _conclude(job, keys, taught, trained) if accelerator.is_main_process else {}


def _together(job: Job, name: str, key: str, compute: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A stage that all processes take part in."""
    job.accelerator.wait_for_everyone()
    result = _stage(job, name, key, compute)
    job.accelerator.wait_for_everyone()
    return result


def _stage(job: Job, name: str, key: str, compute: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The result of the stage `name`: read where it is done, computed where it is not."""
    folder, main = job.folder / name, job.accelerator.is_main_process
    record = folder / "stage.json"
    known: dict[str, Any] = _known(record) if record.exists() else {"key": key, "done": False}
    if known["done"] and (lost := [p for p in _files(job.folder, name, known["result"]) if not p.exists()]):
        raise UserError(
            "this stage is done, but the file is gone", where=str(lost[0]), hint=f"put it back, or {_again(folder)}"
        )
    if known["key"] != key:
        raise UserError(
            "this stage was begun from other data, another teacher or another version",
            where=str(folder),
            hint=f"choose another --out, or {_again(folder)}",
        )
    if not known["done"]:
        if main:
            write_json(record, known)
        started = time.monotonic()
        result = compute(folder)
        # An interrupted training counts its earlier epochs, too.
        trained: float = sum(epoch["seconds"] for epoch in result.get("epochs", []))
        seconds = round(max(time.monotonic() - started, trained), 3)
        known = {"key": key, "done": True, "seconds": seconds, "result": result}
        if main:
            write_json(record, known)
    job.seconds[name] = known["seconds"]
    return dict(known["result"])


def _known(record: Path) -> dict[str, Any]:
    """What is known of a stage that was begun."""
    try:
        known = read_json(record)
        if known["done"] in (True, False) and known["key"] and (not known["done"] or known["result"].keys()):
            return dict(known)
    except UserError as error:
        raise UserError(error.what, where=error.where, hint=_again(record.parent)) from error
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError("is damaged", where=str(record), hint=_again(record.parent))


def _files(folder: Path, name: str, result: Mapping[str, Any]) -> list[Path]:
    """What a stage that is done has left in the run directory, beside its record."""
    if "models" in result:
        return [folder / model["file"] for model in result["models"] if model["role"] == "exported"]
    return [folder / name / "best.safetensors"]


def _again(folder: Path) -> str:
    return f"remove {folder} to do the stage again"


def _key(job: Job, spec: Network, *parts: object) -> str:
    """What a network in this run depends on."""
    weights = fingerprint_file(Path(spec.weights)) if spec.weights else None
    shared = job.recipe.model_dump(mode="json", include={"augment", "losses", "run", "task"})
    return fingerprint(SCHEMA, job.data.fingerprint, spec.model_dump(mode="json"), weights, shared, parts)


def _dry_build(job: Job) -> None:
    """Build every network and try the losses once, so that a misfit is told before anything is trained."""
    networks = []
    for spec in (*job.recipe.teachers, job.recipe.student):
        if spec.weights and not Path(spec.weights).is_file():
            raise UserError("there is no such file", where=spec.weights)
        networks.append(build(spec.model_copy(update={"pretrained": False}), job.data.shape, job.data.task.width))
    *teachers, student = networks
    job.rehearse(student, teachers)


# --- teachers and students -----------------------------------------------------------------------


def _teach(job: Job, spec: recipe.Teacher, folder: Path) -> dict[str, Any]:
    """Train or load one teacher, and look at it before anyone learns from it."""
    seed_everything("teacher", spec.name)
    network = job.network(spec)
    result: dict[str, Any] = {"epochs": [], "notes": []}
    if spec.train:
        history = fit(
            network,
            job.label_objective(spec.train),
            None,
            job.data,
            spec.train,
            seed=0,
            folder=folder,
            augment=job.augmentation(0),
            run=job.recipe.run,
            progress=job.progress,
            label=spec.name,
        )
        result["epochs"] = history.epochs
    elif job.accelerator.is_main_process:
        save_weights(network, folder / "best.safetensors", {"from": spec.weights or spec.model})
    found = evaluate.assess(network.to(job.device), job.data, job.data.val, device=job.device)
    result["val"] = {k: v for k, v in found.items() if isinstance(v, float)}
    result["notes"] += doctor.doubts(spec.name, result["val"], job.data)
    result["dtype"] = "bfloat16" if doctor.bfloat16_is_safe(network, job.data, job.device) else "float32"
    result["weights"] = fingerprint_tensors(plain(network).state_dict())
    for note in result["notes"]:
        job.progress.say(f"WARNING: {note}")
    return result


def _study(job: Job, seed: int, teacher: Teacher | None, folder: Path) -> dict[str, Any]:
    """Train a student. The seed fixes its first weights and its data order, the same with and without a teacher."""
    spec = job.recipe.student
    seed_everything("student", seed)
    network = job.network(spec)
    history = fit(
        network,
        job.objective(spec.train) if teacher else job.label_objective(spec.train),
        teacher,
        job.data,
        spec.train,
        seed=seed,
        folder=folder,
        augment=job.augmentation(seed),
        run=job.recipe.run,
        progress=job.progress,
        label=folder.name,
    )
    selected = history.epochs[history.best_epoch - 1 if spec.train.select == "best" else -1]
    val = {k.removeprefix("val_"): v for k, v in selected.items() if k.startswith("val_")}
    return {"epochs": history.epochs, "val": val}


# --- what came out -------------------------------------------------------------------------------


def _conclude(
    job: Job, keys: Mapping[str, str], taught: Mapping[str, Any], trained: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure every model on the test split, export the chosen one, write result.json and the page."""
    checked, data = job.recipe, job.data
    chosen = _choose(job, trained)
    key = _key(job, checked.student, checked.model_dump(mode="json"), list(keys.values()))
    models = _stage(job, "measured", key, lambda _: {"models": _measured(job, chosen["name"])})["models"]
    notes = [*data.notes, *(n for t in taught.values() for n in t["notes"])]
    comparison = None
    if taught:
        metric, higher = evaluate.main_metric(data.task)
        roles = ("teacher", "student", "distilled")
        told, alone, helped = ([m["metrics"][metric] for m in models if m["role"] == role] for role in roles)
        comparison = evaluate.compare(alone, helped, metric=metric, higher_is_better=higher)
        mean = comparison["student"]["mean"]
        if (told[-1] < mean) == higher and told[-1] != mean:
            notes.append(
                f"the teacher ({metric} {told[-1]:.4f} on test) is worse than the student alone ({mean:.4f} on average)"
            )
    result = {
        "schema": SCHEMA,
        "name": checked.name,
        "about": checked.about,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "limbeck": __version__,
        "recipe": checked.model_dump(mode="json"),
        "recipe_yaml": recipe.dump(checked),
        "environment": environment(),
        "data": _describe(data),
        "models": models,
        "teachers": [{"name": name, "val": t["val"], "notes": t["notes"]} for name, t in taught.items()],
        "comparison": comparison,
        "chosen": chosen,
        "curves": {name: t["epochs"] for name, t in {**taught, **trained}.items() if t["epochs"]},
        "seconds": job.seconds,
        "notes": notes,
    }
    write_json(job.folder / "result.json", result)
    write_report(read_json(job.folder / "result.json"), job.folder / "report.html")
    return result


def _choose(job: Job, trained: Mapping[str, Any]) -> dict[str, str]:
    """The student to ship: the best on validation, the taught one where two are equal."""
    metric, higher = evaluate.main_metric(job.data.task)
    scores = {name: t["val"][metric] for name, t in trained.items()}
    name = max(scores, key=lambda n: (scores[n] if higher else -scores[n], n.startswith("distilled")))
    return {"name": name, "why": f"the best {metric} on validation ({scores[name]:.4f}) of {len(scores)} students"}


def _describe(data: Data) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": data.name,
        "task": data.task.kind,
        "shape": list(data.shape),
        "counts": data.counts(),
        "classes": list(data.task.names),
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
    }
    if data.task.kind == "classification":
        splits = {"train": data.train, "val": data.val, "test": data.test}
        described["class_counts"] = {
            split: torch.bincount(data.y[rows], minlength=data.task.width).tolist() for split, rows in splits.items()
        }
    return described


def _measured(job: Job, chosen: str) -> list[dict[str, Any]]:
    checked = job.recipe
    candidates = [_candidate(job, spec.name, "teacher", None, spec, spec.train) for spec in checked.teachers]
    roles: tuple[Role, ...] = ("student", "distilled") if checked.teachers else ("student",)
    for seed in checked.seeds:
        candidates += [
            _candidate(job, f"{role}-seed{seed}", role, seed, checked.student, checked.student.train) for role in roles
        ]
    rows = measure(
        candidates,
        chosen,
        checked.export,
        job.data,
        combiner(checked.task),
        root=job.folder,
        device=job.device,
        progress=job.progress,
    )
    return [asdict(row) for row in rows]


def _candidate(job: Job, name: str, role: Role, seed: int | None, spec: Network, plan: Plan | None) -> Candidate:
    file = job.weights(name, plan)
    return Candidate(name, role, seed, file, lambda: job.network(spec, file))
