"""Estimators of scikit-learn, XGBoost and LightGBM that are fitted here, to teach the rows they were fitted for."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import UserError, did_you_mean, require
from limbeck.core.files import write_atomic
from limbeck.core.hashing import fingerprint_file
from limbeck.core.progress import Progress
from limbeck.data import Data, pixels, read_array, targets
from limbeck.distill.teachers.external.predictions import by_number
from limbeck.distill.teachers.external.tree_files import label_probabilities
from limbeck.models import ExternalModel, to_logits
from limbeck.recipe import Teacher
from limbeck.tasks import rules

KEPT = MODEL, ANSWERS = "model.skops", "answers.npy"
Rows = NDArray[Any]


def fit_estimator(spec: Teacher, data: Data, folder: Path, progress: Progress) -> list[str]:
    """Fit an estimator on the training rows, and keep it and its outputs for all rows in the folder of its stage.

    Columns are standardised first, as part of what is kept: a pipeline that takes the data's columns and gives
    probabilities, or standardised values. With `spec.folds` the answers for the training rows come from further ones,
    each fitted without the rows that it answers for: of rows it has learned, a forest is far surer than it is right.

    Args:
        spec: library and name, options, seed.
        data: rows and splits.
        folder: where `MODEL` and `ANSWERS` go.
        progress: where progress is shown.

    Returns:
        What the library warned of, one sentence each.

    Raises:
        UserError: as for `unfitted`; or it cannot be fitted.
    """
    from sklearn.base import clone

    sio = require("skops.io", extra="tables", purpose=spec.model)
    blank, x, y, train = _estimator(spec, data), _inputs(data), _labels(data), data.train.numpy()
    others = np.setdiff1d(np.arange(len(data.x)), train)
    given = np.empty((len(data.x), data.task.width), dtype=np.float32)
    said: dict[str, None] = {}

    def fit(part: Rows) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = clone(blank).fit(_some(x, train[part]), y[part], **_weights(blank, y[part], data))
            except Exception as error:  # of any library
                reason = str(error).strip().splitlines() or [""]
                raise UserError(f"cannot be fitted ({type(error).__name__}: {reason[0]})", where=spec.model) from error
        said.update(dict.fromkeys(f"{spec.name}: {str(w.message).strip().splitlines()[0]}" for w in caught))
        return model

    with progress.bar(spec.name, 1 + (spec.folds or 0)) as advance:
        model = fit(np.arange(len(train)))
        if len(others):
            given[others] = _answers(model, _some(x, others), data)
        advance(1, "fitted")
        if not spec.folds:
            given[train] = _answers(model, _some(x, train), data)
        for number, (rest, fold) in enumerate(_folds(spec, data, y), 2):
            given[train[fold]] = _answers(fit(rest), _some(x, train[fold]), data)
            advance(number, f"fold {number - 1}")
    try:
        write_atomic(folder / MODEL, lambda part: sio.dump(model, part))
    except TypeError as error:
        raise UserError(f"skops cannot store it ({error})", where=spec.model) from error
    write_atomic(folder / ANSWERS, lambda part: _save(part, given))
    return list(said)


def fitted(folder: Path) -> ExternalModel:
    """An estimator that was fitted, as a model that knows the rows of the data set by their number.

    Its own file is not opened for that: it was asked for all rows when it was fitted.

    Args:
        folder: of its stage.

    Raises:
        UserError: its outputs cannot be read.
    """
    path = folder / ANSWERS
    return by_number(read_array(path), fingerprint_file(path), (folder / MODEL).stat().st_size)


def unfitted(spec: Teacher, data: Data) -> ExternalModel:
    """What stands for an estimator while networks are tried; it says nothing of any row.

    Raises:
        UserError: a library is missing, there is no such estimator, it does not take such options, or it does not fit
            the task.
    """
    require("skops.io", extra="tables", purpose=spec.model)
    _estimator(spec, data)
    return by_number(np.zeros((1, data.task.width), np.float32), "", 0, place=np.zeros(len(data.x), np.int64))


# --- estimators ----------------------------------------------------------------------------------


def _estimator(spec: Teacher, data: Data) -> Any:
    """The estimator of a recipe, not fitted, behind a standardisation of its columns."""
    from sklearn.base import is_classifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, (library, _, name) = rules(data.task).predicts == "values", spec.model.partition("/")
    if data.places:
        raise UserError(f"predicts one class a row, which does not fit `task: {data.task.kind}`", where=spec.model)
    if data.task.predicts_variance:
        raise UserError("says nothing of how sure it is of a value", where=spec.model)
    known = _known(library)
    if name not in known:
        raise UserError(f"{library} has no estimator '{name}'", where=spec.model, hint=did_you_mean(name, known))
    try:
        estimator = known[name]()
    except TypeError as error:
        raise UserError("is made of other estimators, which a recipe cannot give", where=spec.model) from error
    parameters = estimator.get_params()
    for option in spec.options:
        if option not in parameters:
            hint = did_you_mean(option, parameters)
            raise UserError(f"does not take the option '{option}'", where=spec.model, hint=hint)
    own = {"random_state": spec.seed, "n_jobs": torch.get_num_threads(), "verbosity": 0}
    own = {name: value for name, value in own.items() if name in parameters}
    quiet = {"verbosity": -1} if library == "lightgbm" else {}  # it has no such parameter, and heeds it
    estimator.set_params(**own | quiet | spec.options)
    if is_classifier(estimator) == values:
        what = "classes" if values else "measured values"
        raise UserError(f"predicts {what}, which does not fit `task: {data.task.kind}`", where=spec.model)
    if not values and not hasattr(estimator, "predict_proba"):
        raise UserError("gives no probabilities", where=spec.model, hint="choose one that has `predict_proba`")
    return make_pipeline(StandardScaler(), _several(estimator, data))


def _known(library: str) -> dict[str, Any]:
    """The classifiers and regressors of a library by name."""
    if library == "sklearn":
        from sklearn.utils import all_estimators

        return dict(all_estimators(type_filter=["classifier", "regressor"]))
    module = require(library, extra="tables", purpose=f"{library}/NAME")
    kinds = ("Classifier", "Regressor")
    return {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and name.endswith(kinds)}


def _several(estimator: Any, data: Data) -> Any:
    """An estimator that predicts all that is asked for: itself, or one of its kind for each label or value."""
    from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
    from sklearn.utils import get_tags

    tags = get_tags(estimator)
    predicts = rules(data.task).predicts
    if predicts == "values":
        several = data.task.width > 1 and not tags.target_tags.multi_output
        return MultiOutputRegressor(estimator) if several else estimator
    if predicts == "classes" or tags.classifier_tags.multi_label:
        return estimator
    return MultiOutputClassifier(estimator)


# --- rows ----------------------------------------------------------------------------------------


def _inputs(data: Data) -> Any:
    """All rows as the estimator takes them: a frame where columns have names, so that it knows them by these."""
    x = pixels(data, torch.arange(len(data.x))).flatten(1).numpy()
    if len(set(data.columns)) != x.shape[1]:
        return x
    import pandas as pd

    return pd.DataFrame(x, columns=list(data.columns))


def _some(x: Any, rows: Rows) -> Any:
    return x[rows] if isinstance(x, np.ndarray) else x.iloc[rows]


def _labels(data: Data) -> Rows:
    """What is learned of the training rows: class numbers [N], 1 or 0 [N, C], standardised values [N] or [N, K]."""
    y: Rows = targets(data, data.train, "cpu").numpy()
    if rules(data.task).predicts == "labels":
        return y.astype(np.int64)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _weights(pipeline: Any, y: Rows, data: Data) -> dict[str, Rows]:
    """What each row counts, as an argument for `fit`, where classes have weights.

    Raises:
        UserError: the estimator cannot heed them.
    """
    from sklearn.utils.validation import has_fit_parameter

    if not data.task.weights:
        return {}
    name, last = pipeline.steps[-1]
    predicts = rules(data.task).predicts
    if predicts != "classes" or not has_fit_parameter(last, "sample_weight"):
        what = "cannot weigh labels as networks do" if predicts == "labels" else "cannot weigh rows"
        raise UserError(what, where="class_weights", hint="leave them out, or take another estimator")
    return {f"{name}__sample_weight": np.asarray(data.task.weights)[y]}


def _folds(spec: Teacher, data: Data, y: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Parts of the training rows: those to learn from, and those to answer for. Groups of rows stay whole."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if not spec.folds:
        return iter(())
    groups = None if data.groups is None else data.groups[data.train.numpy()]
    count, what = (len(y), "training rows") if groups is None else (len(np.unique(groups)), "groups of training rows")
    if spec.folds > count:
        raise UserError(f"asks for {spec.folds} folds of {count} {what}", where=f"{spec.name}.folds")
    stratified = rules(data.task).predicts == "classes" and bool((np.bincount(y) >= spec.folds).all())
    kinds = (KFold, StratifiedKFold) if groups is None else (GroupKFold, StratifiedGroupKFold)
    how = kinds[stratified](spec.folds, shuffle=True, random_state=spec.seed)
    splits: Iterator[tuple[Rows, Rows]] = how.split(np.zeros(len(y)), y if stratified else None, groups)
    return splits


def _answers(model: Any, x: Any, data: Data) -> Rows:
    """Logits [B, C] or standardised values [B, K] of a fitted estimator."""
    predicts = rules(data.task).predicts
    if predicts == "values":
        return np.asarray(model.predict(x), dtype=np.float32).reshape(len(x), data.task.width)
    given = label_probabilities(model, model.predict_proba(x))
    if predicts == "classes":
        known, given = given, np.zeros((len(x), data.task.width))
        given[:, np.asarray(model.classes_, dtype=np.int64)] = known  # a fold may lack a class
    logits: Rows = to_logits(torch.from_numpy(given).float(), data.task.kind).numpy()
    return logits


def _save(path: Path, array: Rows) -> None:
    with path.open("wb") as stream:  # numpy.save adds a suffix to names
        np.save(stream, array)
