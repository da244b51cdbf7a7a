"""What was done to a model, in the order it was done: shown, done, done again, and kept in its file.

An edit says exactly what changes, so that the architecture is built again from a fresh model and no code is loaded from
a file.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import nn

from limbeck.compress.low_rank import apply_factorise
from limbeck.compress.prune import apply_prune
from limbeck.compress.records import Edit, FactoriseEdit, PruneEdit, SparsifyEdit, read_edit
from limbeck.compress.sparsify import apply_sparsify
from limbeck.core.errors import UserError
from limbeck.models.weights import metadata_of, save_weights


def apply(model: nn.Module, edit: Edit, *, weights: bool = True) -> nn.Module:
    """A new model with the change of `edit` in it; `model` stays as it is.

    Args:
        model: the model the edit was planned for, with or without its input normalisation.
        edit: what a `plan_...` gave, or `read_edit` of its JSON.
        weights: False where only the architecture is wanted, since weights are loaded afterwards.

    Raises:
        UserError: the edit does not fit the model.
    """
    return _act(copy.deepcopy(model), edit, weights)


def replay(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A new model of the architecture that `edits` lead to, one after the other; its weights mean nothing.

    Raises:
        UserError: an edit does not fit.
    """
    own = copy.deepcopy(model)
    for edit in edits:
        own = _act(own, edit, weights=False)
    return own


def _act(own: nn.Module, edit: Edit, weights: bool) -> nn.Module:
    match edit:
        case PruneEdit():
            return apply_prune(own, edit)
        case FactoriseEdit():
            return apply_factorise(own, edit, weights=weights)
        case SparsifyEdit():
            return apply_sparsify(own, edit) if weights else own


def describe(edit: Edit) -> list[str]:
    """What an edit does, a line for each layer, to be shown before it is done."""
    return _described(edit) or ["nothing changes"]


def _described(edit: Edit) -> list[str]:
    match edit:
        case PruneEdit():
            return _described_pruning(edit)
        case FactoriseEdit():
            return _described_factors(edit)
        case SparsifyEdit():
            return _described_zeros(edit)


def _described_pruning(edit: PruneEdit) -> list[str]:
    sizes = [(math.prod(row.before), math.prod(row.after)) for row in edit.layers]
    lines = [
        f"{_layer(row.name)}: {_shape(row.before)} -> {_shape(row.after)}{_fewer(*size)}"
        for row, size in zip(edit.layers, sizes, strict=True)
        if len(row.before) > 1  # a layer's weight says all; its bias and its norms follow
    ]
    lines += [f"{name}: left as it is, since the network does not run with fewer channels" for name in edit.left]
    return lines + _together(sum(old for old, _ in sizes), sum(new for _, new in sizes))


def _described_factors(edit: FactoriseEdit) -> list[str]:
    lines = []
    for row in edit.layers:
        ranks = " and ".join(str(r) for r in row.rank) if isinstance(row.rank, tuple) else row.rank
        lines.append(f"{row.name}: {_shape(row.shape)} -> {row.method}, rank {ranks}{_fewer(row.before, row.after)}")
    return lines + _together(sum(row.before for row in edit.layers), sum(row.after for row in edit.layers))


def _described_zeros(edit: SparsifyEdit) -> list[str]:
    lines = [
        f"{_layer(row.name)}: {row.zeros:,} of {math.prod(row.shape):,} weights become zero" for row in edit.layers
    ]
    zeros, whole = sum(row.zeros for row in edit.layers), sum(math.prod(row.shape) for row in edit.layers)
    if zeros:
        what = "2:4, for GPUs with sparse tensor cores" if edit.pattern else "only the compressed file shrinks"
        lines.append(f"together {zeros:,} of {whole:,} ({zeros / whole:.1%}); no CPU runtime gets faster ({what})")
    return lines


def _together(old: int, new: int) -> list[str]:
    return [f"together{_fewer(old, new).replace(':', '')}"] if old else []


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def _fewer(before: int, after: int) -> str:
    return f": {before:,} -> {after:,} parameters (-{1 - after / before:.1%})"


def save(model: nn.Module, edits: Sequence[Edit], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of an edited model and the edits into one safetensors file, atomically.

    Args:
        model: with or without its input normalisation, which goes into the metadata.
        edits: all that were applied, in their order.
        path: the file.
        metadata: more texts to keep in it.

    Raises:
        UserError: it cannot be written.
    """
    kept = [edit.model_dump(mode="json") for edit in edits]
    save_weights(model, path, {**(metadata or {}), "edits": json.dumps(kept, separators=(",", ":"))})


def edits_of(path: Path) -> list[Edit]:
    """The edits in a weights file; none for a file without.

    Raises:
        UserError: the file is damaged, or holds something else as edits.
    """
    text = metadata_of(Path(path)).get("edits", "[]")
    try:
        edits = json.loads(text)
    except ValueError as error:
        raise UserError(f"its edits cannot be read ({error})", where=str(path)) from error
    if not isinstance(edits, list):
        raise UserError("its edits are no list", where=str(path))
    return [read_edit(edit, str(path)) for edit in edits]
