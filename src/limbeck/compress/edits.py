"""What was done to a model, in the order it was done: shown, done, done again, and kept in its file.

An edit is a JSON-like dict `{"step": "prune" | "factorise" | "sparsify", ...}` that says exactly what changes, so that
the architecture is built again from a fresh model and no code is loaded from a file.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import nn

from limbeck.compress.low_rank import apply_factorise
from limbeck.compress.prune import Edit, apply_prune
from limbeck.compress.sparsify import apply_sparsify
from limbeck.core.errors import UserError
from limbeck.models.weights import metadata_of, save_weights

KEYS = {"prune": {"shape", "history", "layers", "left"}, "factorise": {"layers"}, "sparsify": {"pattern", "layers"}}


def apply(model: nn.Module, edit: Edit, *, weights: bool = True) -> nn.Module:
    """A new model with the change of `edit` in it; `model` stays as it is.

    Args:
        model: the model the edit was planned for, with or without its input normalisation.
        edit: what a `plan_...` gave, or its copy from JSON.
        weights: False where only the architecture is wanted, since weights are loaded afterwards.

    Raises:
        UserError: the edit does not fit the model, or is none.
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
    _check(edit)
    if edit["step"] == "prune":
        return apply_prune(own, edit)
    if edit["step"] == "factorise":
        return apply_factorise(own, edit, weights=weights)
    return apply_sparsify(own, edit) if weights else own


def _check(edit: object) -> None:
    step = edit.get("step") if isinstance(edit, Mapping) else None
    if not isinstance(edit, Mapping) or step not in KEYS or not KEYS[step] <= edit.keys():
        raise UserError(
            f"this is no edit: {str(edit)[:80]}", where="compress", hint=f"its `step` is one of {', '.join(KEYS)}"
        )


def describe(edit: Edit) -> list[str]:
    """What an edit does, a line for each layer, to be shown before it is done.

    Raises:
        UserError: it is none.
    """
    _check(edit)
    lines: list[str] = []
    if edit["step"] == "prune":
        # A layer's weight says all; its bias and its norms follow.
        for name, before, after in edit["layers"]:
            if len(before) > 1:
                lines.append(
                    f"{_layer(name)}: {_shape(before)} -> {_shape(after)}{_fewer(math.prod(before), math.prod(after))}"
                )
        lines += [f"{name}: left as it is, since the network does not run with fewer channels" for name in edit["left"]]
        old, new = (sum(math.prod(row[at]) for row in edit["layers"]) for at in (1, 2))
    elif edit["step"] == "factorise":
        for name, method, rank, shape, old, new in edit["layers"]:
            ranks = " and ".join(str(r) for r in rank) if isinstance(rank, list) else rank
            lines.append(f"{name}: {_shape(shape)} -> {method}, rank {ranks}{_fewer(old, new)}")
        old, new = (sum(row[at] for row in edit["layers"]) for at in (4, 5))
    else:
        for name, shape, count in edit["layers"]:
            lines.append(f"{_layer(name)}: {count:,} of {math.prod(shape):,} weights become zero")
        zeros, old = sum(row[2] for row in edit["layers"]), sum(math.prod(row[1]) for row in edit["layers"])
        if zeros:
            what = "2:4, for GPUs with sparse tensor cores" if edit["pattern"] else "only the compressed file shrinks"
            lines.append(f"together {zeros:,} of {old:,} ({zeros / old:.1%}); no CPU runtime gets faster ({what})")
        return lines or ["nothing changes"]
    if old:
        lines.append(f"together{_fewer(old, new).replace(':', '')}")
    return lines or ["nothing changes"]


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
    for edit in edits:
        _check(edit)
    save_weights(model, path, {**(metadata or {}), "edits": json.dumps(list(edits), separators=(",", ":"))})


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
    for edit in edits:
        _check(edit)
    return edits
