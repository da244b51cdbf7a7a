"""All that a recipe lacks here, each thing with the key of the recipe that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limbeck import recipe
from limbeck.core.errors import AbsentError, UserError, did_you_mean
from limbeck.core.formats import check_format, check_installed, check_quantizer
from limbeck.core.readers.tables import column_names
from limbeck.recipe import Data, Network, Recipe
from limbeck.recipe.model_source import Estimator, KerasApplication, ModelFile, Timm
from limbeck.recipe.needs.catalogue import misnamed
from limbeck.recipe.needs.weights import unfetchable

ELSEWHERE = "write where it is: data.path=PATH; `limbeck recipes NAME` says where that of a bundled one is"
# The libraries that open a whole model, by its kind, and the extra that brings them.
OPENERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("onnx", ("onnxruntime",)),
    "litert": ("litert", ("ai_edge_litert",)),
    "keras": ("keras", ("keras", "h5py")),
    "skops": ("tables", ("skops",)),
    "xgboost": ("tables", ("xgboost",)),
    "lightgbm": ("tables", ("lightgbm",)),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a recipe needs and that is not here.

    Attributes:
        place: the dotted key that asks for it.
        what: what is missing.
        hint: what would be right.
        file: it is a file or folder, which may well be on another machine.
    """

    place: str
    what: str
    hint: str | None = None
    file: bool = False


def load(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), out: str | Path | None = None
) -> Recipe:
    """Read and check a recipe, and look for what it needs.

    Args:
        source: a bundled name, the path of a YAML file, or the recipe as a mapping.
        overrides: `key=value` texts with dotted keys.
        out: the run directory; `runs/<name of the recipe>` where it is not given.

    Raises:
        UserError: every fault of the recipe, or else everything that it lacks here.
    """
    checked = recipe.load(source, overrides)
    check(checked, source, out)
    return checked


def check(
    checked: Recipe, source: object = None, out: str | Path | None = None, *, elsewhere: bool = False
) -> list[str]:
    """Refuse a recipe that lacks something here.

    Args:
        checked: the recipe.
        source: where it came from, for the lines in messages.
        out: the run directory; `runs/<name of the recipe>` where it is not given.
        elsewhere: it may be meant for another machine, so files may be missing here.

    Returns:
        Files that are missing, one sentence each.

    Raises:
        UserError: everything that is missing, one line each with its place.
    """
    folder = Path(out) if out is not None else Path("runs") / checked.name
    found = list(lacking(checked, folder))
    refused = [one for one in found if not (one.file and elsewhere)]
    if refused:
        errors = (UserError(one.what, where=recipe.where(source, one.place), hint=one.hint) for one in refused)
        raise UserError("\n".join(dict.fromkeys(str(error) for error in errors)))
    return [f"{one.place}: {one.what}" for one in found]


def lacking(checked: Recipe, folder: Path) -> Iterator[Lack]:
    """All that a recipe needs and that is not here.

    Args:
        checked: the recipe.
        folder: the run directory, where networks may be that are trained already.
    """
    yield from _data(checked.data)
    for place, network in _networks(checked):
        yield from _network(place, network)
        if not _trained(folder, place, network) and (lack := unfetchable(network, checked.framework)):
            yield Lack(f"{place}.{lack.key}", lack.what, lack.hint)
    yield from _libraries(checked)


# --- data ----------------------------------------------------------------------------------------


def _data(spec: Data) -> Iterator[Lack]:
    try:
        names = _found(spec)
    except AbsentError as error:
        if spec.fallback is None or spec.fallback == spec.source:
            at = f": {error.where}" if spec.path and error.where != "data.source" else ""
            yield Lack("data.path" if spec.path else "data.source", error.what + at, error.hint or ELSEWHERE, file=True)
        return
    except UserError as error:
        yield Lack("data.path", f"{error.what}: {error.where}", error.hint)
        return
    targets = [spec.target] if isinstance(spec.target, str) else list(spec.target or ())
    group = [spec.split.group] if spec.split.group else []
    if names is not None:
        for key, columns in (("target", targets), ("drop", spec.drop), ("split.group", group)):
            for column in columns:
                if column not in names:
                    what = f"{Path(spec.path or '').name} has no column '{column}'"
                    yield Lack(f"data.{key}", f"{what}; {did_you_mean(column, names)}")
    if spec.unlabelled and not Path(spec.unlabelled).expanduser().exists():
        yield Lack("data.unlabelled", f"there is no such file or folder: {spec.unlabelled}", file=True)


def _found(spec: Data) -> list[str] | None:
    """The columns of a table; None for other data that is here.

    Raises:
        AbsentError: it is not.
        UserError: it cannot be read.
    """
    path = Path(spec.path or "").expanduser()
    if spec.source in ("mnist", "fashion-mnist", "cifar10"):
        from limbeck.core.readers.published import find

        find(spec.source, spec.path)
    elif spec.source == "table":
        return column_names(path)
    elif spec.source == "folder" and not path.is_dir():
        raise AbsentError("is no folder" if path.exists() else "there is no such folder", where=str(path))
    elif spec.source == "arrays" and not path.exists():
        raise AbsentError("there is no such file or folder", where=str(path))
    return None


# --- networks ------------------------------------------------------------------------------------


def _networks(checked: Recipe) -> Iterator[tuple[str, Network]]:
    """Every network with its dotted place."""
    for key in ("teachers", "assistants"):
        yield from ((f"{key}.{number}", one) for number, one in enumerate(getattr(checked, key)))
    yield "student", checked.student


def _trained(folder: Path, place: str, network: Network) -> bool:
    """Whether a run has trained a network already, and so will not begin with it again."""
    name = getattr(network, "name", None)
    done = [folder / name / "stage.json"] if name else [*folder.glob("student-seed*/stage.json")]
    return any(path.exists() for path in done)


def _network(place: str, network: Network) -> Iterator[Lack]:
    for path in network.files:
        if not Path(path).is_file():
            key = "weights" if path == network.weights else "model"
            yield Lack(f"{place}.{key}", f"there is no such file: {path}", file=True)
    extra, modules = "", tuple[str, ...]()
    match network.source:
        case Timm(name):
            if wrong := misnamed(name):
                yield Lack(f"{place}.model", wrong)
            where, _, folder = name.partition(":")
            if where == "local-dir" and not Path(folder).is_dir():
                yield Lack(f"{place}.model", f"there is no such folder: {folder}", file=True)
        case KerasApplication():
            extra, modules = OPENERS["keras"]
        case ModelFile(kind=kind):
            extra, modules = OPENERS.get(kind.name, ("", ()))
        case Estimator(library):
            extra, modules = "tables", (*(() if library == "sklearn" else (library,)), "skops")
    yield from _refused(f"{place}.model", partial(check_installed, modules, extra=extra, purpose=network.model))


# --- libraries -----------------------------------------------------------------------------------


def _libraries(checked: Recipe) -> Iterator[Lack]:
    for name in checked.export:
        yield from _refused("export", partial(check_quantizer if "-" in name else check_format, name))
    if checked.budget:
        yield from _refused("budget.runtime", partial(check_format, checked.budget.runtime))
    for way, steps in checked.compress.items():
        if steps[-1].quantize:
            purpose = "quantization-aware training"
            wanted = partial(check_installed, ("torchao", "executorch"), extra="executorch", purpose=purpose)
            yield from _refused(f"compress.{way}", wanted)
    for tracker in checked.run.trackers:
        yield from _refused(
            "run.trackers", partial(check_installed, (tracker,), extra=tracker, purpose=f"tracking with {tracker}")
        )


def _refused(place: str, check: Callable[[], None]) -> Iterator[Lack]:
    try:
        check()
    except UserError as error:
        yield Lack(place, error.what, error.hint)
