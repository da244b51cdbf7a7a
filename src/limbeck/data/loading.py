"""From what a recipe says about data to `Data`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limbeck.core.errors import AbsentError, UserError
from limbeck.core.progress import Progress
from limbeck.core.types import Kind
from limbeck.data.dataset import Data
from limbeck.data.prepare import Raw, finish
from limbeck.data.sources.arrays import load_arrays
from limbeck.data.sources.cifar import load_cifar10
from limbeck.data.sources.embedded import load_embedded
from limbeck.data.sources.folder import load_folder
from limbeck.data.sources.idx import load_idx
from limbeck.data.sources.masks import load_masks
from limbeck.data.sources.tables import load_table
from limbeck.data.sources.unlabelled import with_unlabelled
from limbeck.recipe import FILES, source_misfit

if TYPE_CHECKING:
    from limbeck import recipe


def load(spec: recipe.Data, kind: Kind, progress: Progress | None = None) -> Data:
    """Load, split and measure the data of a recipe.

    Args:
        spec: the `data` part of a recipe.
        kind: its task.
        progress: where to show how far decoding is.

    Raises:
        UserError: the data is absent and there is no fallback, or it cannot be used as it is.
    """
    if wrong := source_misfit(spec, kind):
        raise UserError(wrong, where="data.source")
    try:
        raw = _raw(spec, kind, progress)
    except AbsentError as error:
        if spec.fallback is None or spec.fallback == spec.source:
            hint = "write where it is: data.path=PATH; `limbeck recipes NAME` says where that of a bundled one is"
            raise AbsentError(error.what, where=error.where, hint=error.hint or hint) from None
        without = {"path": None, "fallback": None, "unlabelled": None}
        data = load(spec.model_copy(update={"source": spec.fallback, **without}), kind, progress)
        note = f"{spec.source} was not found: THIS IS {data.name} INSTEAD, in every figure below"
        return replace(data, notes=(note, *data.notes))
    if spec.unlabelled and not raw.unlabelled:
        raw = with_unlabelled(raw, spec, progress)
    # A folder and a table choose their rows before they decode and encode them.
    limit = None if spec.source in (*FILES, "table") else spec.limit
    return finish(
        raw, kind, val=spec.split.val, test=spec.split.test, seed=spec.split.seed, stratify=spec.split.stratify,
        limit=limit, flat=spec.flat, mean=spec.mean, std=spec.std, log_target=spec.log_target,
    )  # fmt: skip


def _raw(spec: recipe.Data, kind: Kind, progress: Progress | None) -> Raw:
    if spec.source in ("mnist", "fashion-mnist"):
        return load_idx(spec.source, spec.path)
    if spec.source == "cifar10":
        return load_cifar10(spec.path)
    if spec.source == "folder":
        return load_folder(spec, progress)
    if spec.source == "masks":
        return load_masks(spec, progress)
    if spec.source == "arrays":
        return load_arrays(spec, kind)
    if spec.source == "table":
        return load_table(spec, kind)
    return load_embedded(spec.source)
