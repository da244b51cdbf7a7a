"""Models that the user brings along, and runs that are gone on with: a command line's words as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import recipe
from limbeck.core.errors import UserError
from limbeck.core.types import Kind
from limbeck.recipe import Recipe
from limbeck.recipe.sources import Source, has_masks
from limbeck.recipe.tasks import tasks_of
from limbeck.tasks import rules

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz")
ARRAYS = (".npz",)
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
WHOLE = (".keras", ".h5")


def is_run(path: Path) -> bool:
    """Whether a folder holds a run."""
    return (path / "recipe.yaml").is_file()


def continued(folder: Path, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a run with more to do.

    Args:
        folder: the run directory.
        changes: of the keys `compress`, `budget`, `export` and `files`; what is there already is kept.

    Raises:
        UserError: there is no run, or the changes do not fit it.
    """
    raw = recipe.parse((folder / "recipe.yaml").read_text(encoding="utf-8"), str(folder / "recipe.yaml"))
    compress = {**raw.get("compress", {}), **changes.get("compress", {})}
    export = list(dict.fromkeys([*raw.get("export", []), *changes.get("export", [])]))
    files = {**raw.get("files", {}), **changes.get("files", {})}
    merged = {**raw, "compress": compress, "export": export, "files": files if export else {}}
    if changes.get("budget"):
        merged["budget"] = changes["budget"]
    return recipe.load(merged)


def adopt(
    weights: Path,
    model: str | None,
    data: str | None,
    *,
    options: Mapping[str, Any] | None = None,
    target: str | None = None,
    task: Kind | None = None,
    lr: float | None = None,
    changes: Mapping[str, Any],
) -> Recipe:
    """A recipe around a trained network of the user's own: nothing is trained but what it is made smaller by.

    Args:
        weights: its file; of Keras, with the whole model in it.
        model: its name, a reference network or timm/NAME; not of a whole model.
        data: a folder of images, an .npz, a table, or a recipe whose data it was trained on.
        options: of the network.
        target: of a table, the column that it predicts, or several with commas between.
        task: of a table or arrays; classification if it is not said.
        lr: the learning rate of a recovery.
        changes: of the keys `compress`, `budget`, `export` and `files`.

    Raises:
        UserError: the file is no file of weights, or something that only the user knows is not said.
    """
    whole = weights.name.endswith(WHOLE)
    if not weights.is_file() or not (whole or weights.name.endswith(WEIGHTS)):
        kinds = ", ".join(WEIGHTS + WHOLE)
        raise UserError("is neither a run directory nor a file of weights", where=str(weights), hint=f"give {kinds}")
    if whole and (model is not None or options):
        raise UserError("the file says itself what network it is", where="--model", hint="leave it out")
    if (model is None and not whole) or data is None:
        missing = "--model NAME" if model is None and not whole else "--data"
        what = "a file of weights does not say what network it is of, nor what data that is proved on"
        raise UserError(what, where=str(weights), hint=f"give {missing}, too")
    around, task = _data(data, target, task)
    train: dict[str, Any] = {"epochs": 0, "schedule": "cosine", **({"lr": lr} if lr else {})}
    network = {"model": model, "options": dict(options or {}), "weights": str(weights)}
    return recipe.load(
        {
            "name": weights.name.partition(".")[0] or "model",
            "about": f"{weights.name}, {'a model of Keras' if whole else f'a {model}'}, made smaller and into files.",
            "task": task,
            "seeds": 1,
            "student": {**({"model": str(weights)} if whole else network), "train": train},
            "losses": dict(rules(task).recovery),
            **around,
            **{key: value for key, value in changes.items() if value},
        }
    )


def _data(text: str, target: str | None, task: Kind | None) -> tuple[dict[str, Any], Kind]:
    """The keys of a recipe about data, and its task."""
    path, kept = Path(text), {"data", "augment", "views", "class_weights"}
    if text in recipe.bundled() or path.suffix in (".yaml", ".yml"):
        known = recipe.load(text)
        if task not in (None, known.task):
            raise UserError(f"the recipe says `task: {known.task}`", where="--task", hint="leave it out")
        return known.model_dump(mode="json", exclude_unset=True, include=kept), known.task
    if path.is_dir():
        source: Source = "masks" if has_masks(path) else "folder"
        (fits,) = tasks_of(source)
        if task not in (None, fits):
            what = "images and masks are" if source == "masks" else "images with a folder for each class are"
            raise UserError(f"{what} for `task: {fits}`", where="--task", hint="leave it out")
        return {"data": {"source": source, "path": text}}, fits
    task = task or "classification"
    if path.name.endswith(TABLES):
        if target is None:
            raise UserError("which column is predicted?", where=text, hint="give --target NAME")
        columns = [name.strip() for name in target.split(",")]
        one = len(columns) == 1 and rules(task).predicts != "labels"
        return {"data": {"source": "table", "path": text, "target": columns[0] if one else columns}}, task
    if path.name.endswith(ARRAYS):
        return {"data": {"source": "arrays", "path": text}}, task
    raise UserError(
        "is neither a folder of images, an .npz, a table nor a recipe",
        where=text,
        hint="for anything else write a recipe with `data:` and give that",
    )


def formats(text: Sequence[str] | None) -> list[str]:
    """`a,b` and several of these as names of formats."""
    return [name.strip() for part in text or () for name in part.split(",") if name.strip()]
