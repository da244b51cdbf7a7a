"""Models of scikit-learn, XGBoost and LightGBM in files, asked for rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError, did_you_mean, require
from limbeck.core.hashing import fingerprint_file
from limbeck.core.types import Column
from limbeck.data import Data
from limbeck.models import ExternalModel
from limbeck.recipe import Network
from limbeck.recipe.model_source import ModelFile
from limbeck.tasks import rules

if TYPE_CHECKING:
    import pandas as pd

Rows = NDArray[Any]
Frame = Callable[[Rows], Any]  # encoded columns [B, columns] -> what a model takes: the same, or a data frame


class Opened(NamedTuple):
    """A model from a file.

    Attributes:
        ask: what it is given -> probabilities or logits [B, C] or [B], or values [B, K] or [B].
        names: of the columns it takes; None where it takes them by their order.
        width: how many these are; None where it does not say.
        classes: that it tells apart, in the order of its outputs; None where it does not say.
        words: whether words are given as categories rather than as text.
    """

    ask: Callable[[Any], Rows]
    names: Sequence[str] | None
    width: int | None
    classes: Sequence[Any] | None = None
    words: bool = False


def load_tabular(path: Path, data: Data, spec: Network, *, trust: bool) -> ExternalModel:
    """A model of a table, asked on all threads.

    One that knows its columns by name is given these: the data's own, or the raw ones that they were made of. All
    others are given the data's columns in order; images as one row of pixels.

    Args:
        path: of the file.
        data: whose rows it will be asked for.
        spec: what kind of file it is.
        trust: whether the user allows that opening it runs code.

    Raises:
        UserError: a library is missing, the file cannot be read or holds types that are not trusted, or the model
            cannot answer for such rows.
    """
    openers = {"skops": _skops, "pickle": _pickle, "xgboost": _xgboost, "lightgbm": _lightgbm}
    assert isinstance(spec.source, ModelFile)
    opened = openers[spec.source.kind.name](path, data, trust)
    given = _given(opened, data, path, scaled=bool(spec.mean or spec.preprocess))
    return ExternalModel(
        lambda rows: opened.ask(given(rows.reshape(len(rows), -1))),
        digest=fingerprint_file(path),
        size_bytes=path.stat().st_size,
        classes=_classes(opened.classes, data.task.names) if rules(data.task).predicts == "classes" else None,
    )


# --- opening -------------------------------------------------------------------------------------


def _skops(path: Path, data: Data, trust: bool) -> Opened:
    sio = require("skops.io", extra="tables", purpose="a .skops file")
    try:
        unknown = sio.get_untrusted_types(file=path)
        if unknown and not trust:
            shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise UserError(
                f"holds what skops does not trust: {shown}", where=str(path), hint="give --trust if you know the file"
            )
        model = sio.load(path, trusted=unknown)
    except UserError:
        raise
    except Exception as error:  # a damaged archive, or a library that is not installed
        raise UserError(f"skops cannot load it ({error})", where=str(path)) from error
    return estimator(model, data, path)


def _pickle(path: Path, data: Data, trust: bool) -> Opened:
    assert trust  # see RUNS_CODE
    joblib = require("joblib", extra="tables", purpose="a pickle")
    try:
        model = joblib.load(path)
    except Exception as error:
        raise UserError(f"cannot be unpickled ({type(error).__name__}: {error})", where=str(path)) from error
    return estimator(model, data, path)


def estimator(model: Any, data: Data, path: Path) -> Opened:
    """How an object of scikit-learn, or one that is like these, is asked."""
    predicts = rules(data.task).predicts
    method = getattr(model, "predict" if predicts == "values" else "predict_proba", None)
    if method is None:
        what = f"is a {type(model).__name__}, which gives no {'values' if predicts == 'values' else 'probabilities'}"
        hint = None if predicts == "values" else "CalibratedClassifierCV gives probabilities to those without any"
        raise UserError(what, where=str(path), hint=hint)
    names, width = getattr(model, "feature_names_in_", None), getattr(model, "n_features_in_", None)
    classes = getattr(model, "classes_", None) if predicts == "classes" else None
    booster = type(model).__module__.split(".")[0] in ("xgboost", "lightgbm")
    named = None if names is None else [str(name) for name in names]
    ask = method if predicts == "values" else lambda rows: label_probabilities(model, method(rows))
    return Opened(ask, named, None if width is None else int(width), classes, booster)


def label_probabilities(model: Any, given: Any) -> Rows:
    """What `predict_proba` gives, [B, C]; of several labels it may give a list with both answers for each."""
    if not isinstance(given, list):
        return np.asarray(given)
    yes = []
    for both, known in zip(given, model.classes_, strict=True):
        said = [int(value) for value in known]
        yes.append(both[:, said.index(1)] if 1 in said else np.zeros(len(both)))  # no row that was learned had it
    return np.stack(yes, axis=1)


def _xgboost(path: Path, data: Data, trust: bool) -> Opened:
    xgboost = require("xgboost", extra="tables", purpose="an XGBoost file")
    booster = xgboost.Booster()
    try:
        booster.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise UserError(f"XGBoost cannot load it ({_first(error)})", where=str(path)) from error
    booster.set_param({"nthread": torch.get_num_threads()})
    names, types = booster.feature_names, booster.feature_types
    if names and types and "c" in types and booster.get_categories().empty():
        what = f"takes categories in '{names[types.index('c')]}' and does not say which number stands for which"
        raise UserError(what, where=str(path), hint="save it with XGBoost 3.1 or newer, which keeps them")
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    best = booster.attr("best_iteration")  # of early stopping
    rounds = (0, int(best) + 1 if best is not None else 0)

    def ask(rows: Any) -> Rows:
        matrix = xgboost.DMatrix(rows, feature_types=None if names else types, enable_categorical=True)
        classes = rules(data.task).predicts != "values" and objective.startswith(("multi:", "binary:"))
        given: Rows = booster.predict(matrix, iteration_range=rounds, output_margin=classes)
        if classes and objective.startswith("binary:"):
            return _either(1 / (1 + np.exp(-given.astype(np.float64))))
        return torch.from_numpy(given).double().softmax(1).numpy() if classes else given

    return Opened(ask, names, booster.num_features(), words=True)


def _lightgbm(path: Path, data: Data, trust: bool) -> Opened:
    lightgbm = require("lightgbm", extra="tables", purpose="a LightGBM file")
    try:
        booster = lightgbm.Booster(model_file=path)
    except lightgbm.basic.LightGBMError as error:
        raise UserError(f"LightGBM cannot load it ({_first(error)})", where=str(path)) from error
    names: list[str] | None = booster.feature_name()
    if names == [f"Column_{number}" for number in range(booster.num_feature())]:
        names = None  # made up for columns without a name

    with path.open(encoding="utf-8") as lines:
        objective = next((line.strip() for line in lines if line.startswith("objective=")), "")

    def ask(rows: Any) -> Rows:
        given: Rows = booster.predict(rows, num_threads=torch.get_num_threads())
        if objective.startswith(("objective=binary", "objective=cross_entropy")):
            return _either(given)
        return _shares(given) if objective.startswith("objective=multiclassova") else given

    return Opened(ask, names, booster.num_feature(), words=True)


def _either(second: Rows) -> Rows:
    """Probabilities of two classes [B, 2], of that of the second [B]; of several labels [B, C] as they are.

    Made here, where they are float64: what is left for an unlikely first class is lost in float32.
    """
    return np.stack([1 - second, second], axis=1) if second.ndim == 1 else second


def _shares(given: Rows) -> Rows:
    """Probabilities [B, C] of classes, of those of each class against all others."""
    shares: Rows = given / given.sum(axis=1, keepdims=True)
    return shares


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _classes(own: Sequence[Any] | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """What a model calls its outputs: the data's names where it has these, or has numbered the same classes."""
    if own is None:
        return None
    said = [getattr(value, "item", lambda value=value: value)() for value in own]
    texts = tuple(str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in said)
    numbered = texts == tuple(str(number) for number in range(len(names)))
    return tuple(names) if numbered and not set(names) <= set(texts) else texts


# --- columns -------------------------------------------------------------------------------------


def _given(opened: Opened, data: Data, path: Path, *, scaled: bool) -> Frame:
    """What makes of encoded rows [B, columns] what a model takes."""
    count = int(np.prod(data.shape))
    if opened.names is None or not data.columns:
        if opened.width is not None and opened.width != count:
            shown = ", ".join(data.columns[:8]) + (", ..." if len(data.columns) > 8 else "")
            what = f"takes {opened.width} columns, and the data has {count}{': ' + shown if shown else ''}"
            raise UserError(what, where=str(path), hint="look at `drop`, and at how columns were encoded")
        return (lambda rows: rows) if opened.names is None else partial(_framed, names=opened.names)
    columns = {name: number for number, name in enumerate(data.columns)}
    if all(name in columns for name in opened.names):
        chosen = [columns[name] for name in opened.names]
        return lambda rows: _framed(rows[:, chosen], names=opened.names or ())
    if scaled:
        raise UserError(
            "takes the table's own columns, as they are: `mean` and `preprocess` do not fit", where=str(path)
        )
    return partial(_raw, sources=_sources(opened.names, data, path), categories=opened.words)


def _framed(rows: Rows, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(names))


def _sources(names: Sequence[str], data: Data, path: Path) -> list[tuple[Column, int]]:
    """The columns of the user's table that a model takes, and at which of our inputs each of them begins."""
    starts = accumulate((len(column.inputs) for column in data.table), initial=0)
    known = {column.name: (column, start) for column, start in zip(data.table, starts, strict=False)}
    for name in names:
        if name not in known:
            what = f"takes a column '{name}', which the data does not have"
            raise UserError(what, where=str(path), hint=did_you_mean(name, known))
    return [known[name] for name in names]


def _raw(rows: Rows, sources: Sequence[tuple[Column, int]], categories: bool) -> pd.DataFrame:
    """Rows as they stood in the user's table. A word that no training row had is missing: it is not known any more."""
    import pandas as pd

    made: dict[str, Any] = {}
    for column, start in sources:
        if column.categories is None:
            made[column.name] = rows[:, start]
            continue
        chosen = rows[:, start : start + len(column.categories)] > 0.5
        codes = np.where(chosen.any(axis=1), chosen.argmax(axis=1), -1).astype(np.int64)
        words = pd.Categorical.from_codes(codes, categories=pd.Index(column.categories))
        made[column.name] = words if categories else np.asarray(words, dtype=object)
    return pd.DataFrame(made)
