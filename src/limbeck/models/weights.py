"""Weights in and out: safetensors, and state dicts of others without a line of their code being run."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.files import write_bytes
from limbeck.models.normalization import Normalized, plain


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the plain network's state dict as safetensors, atomically.

    A `Normalized` writes its mean and std into the file's metadata, where `normalization` finds them again.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    from safetensors.torch import save

    # Cloned because safetensors refuses tensors that share memory.
    state = {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in plain(model).state_dict().items()
    }
    meta = {"producer": "limbeck", **(metadata or {})}
    if isinstance(model, Normalized):
        meta |= {name: json.dumps(getattr(model, name).tolist()) for name in ("mean", "std")}
    write_bytes(Path(path), save(state, metadata=meta))


def load_weights(model: nn.Module, path: Path, *, fresh_head: bool = True) -> list[str]:
    """Load a state dict into a network, strictly: `.safetensors`, or a `.pth`, `.pt`, `.bin` without code in it.

    Two misfits are understood. Other names are matched by order where both sides agree one to one in order and shape
    (a `.safetensors` keeps no order). A head for other classes is left out: if the file differs in the final linear
    layer alone, the network keeps its own.

    Args:
        model: filled in place; the network inside a `Normalized`.
        path: the file. A state dict may also lie under "state_dict" or "model".
        fresh_head: whether keeping the network's own head is acceptable.

    Returns:
        What was understood, a sentence each; empty when everything fitted as it was.

    Raises:
        UserError: unreadable, holding code, or not fitting (which tensors).
    """
    path, model = Path(path), plain(model)
    own, given, notes = model.state_dict(), _read(path), []
    if renamed := path.suffix != ".safetensors" and _by_order(given, own):  # safetensors keeps no order
        given = renamed
        notes.append(f"{path.name}: {len(given)} tensors have other names and were matched by order and shape")
    missing = [k for k in own if k not in given]
    unexpected = [k for k in given if k not in own]
    misshaped = [k for k in own if k in given and own[k].shape != given[k].shape]
    misfits = [*missing, *unexpected, *misshaped]
    head = _head(model)
    alike = all(own[k].shape[1:] == given[k].shape[1:] for k in misshaped)  # only the number of classes differs
    if misfits and fresh_head and alike and head and all(k.startswith(f"{head}.") for k in misfits):
        given = {k: v if k.startswith(f"{head}.") else given[k] for k, v in own.items()}
        notes.append(f"{path.name}: it has no head for these classes; '{head}' starts afresh")
    elif misfits:
        shapes = [f"{k} (file {list(given[k].shape)}, network {list(own[k].shape)})" for k in misshaped]
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        listed = "; ".join(f"{len(n)} {word}: {_first(n)}" for word, n in parts if n)
        raise UserError(
            f"the weights do not fit the network: {listed}",
            where=str(path),
            hint="the file must come from the same model, options and number of classes",
        )
    model.load_state_dict(given)
    return notes


def _first(names: list[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _head(model: nn.Module) -> str | None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _by_order(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """`given` under the names of `own`, if nothing but the names differs (and the number of classes); else None."""
    if given.keys() == own.keys() or len(given) != len(own):
        return None
    endings = {name.rpartition(".")[2] for name in own}
    for theirs, ours in zip(given, own, strict=True):
        # A name on both sides that would mean two tensors, or a weight that would become a bias: not the same order.
        ending = theirs.rpartition(".")[2]
        crossed = theirs != ours and (theirs in own or ours in given)
        if crossed or (ending in endings and ending != ours.rpartition(".")[2]):
            return None
        a, b = given[theirs].shape, own[ours].shape
        if a != b and (not a or not b or a[1:] != b[1:]):
            return None
    return dict(zip(own, given.values(), strict=True))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file.

    Raises:
        UserError: absent, damaged, holding code, no state dict, or numbers in it that are not finite.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old formats; what matters becomes an error
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # An unknown operand is damage, unless the file begins as a pickle of a protocol newer than state dicts use.
        damage = "Unsupported operand" in str(error) and not path.read_bytes().startswith(b"\x80")
        if isinstance(error, pickle.UnpicklingError) and not damage:
            raise UserError(
                "holds code, not weights, and is not loaded",
                where=str(path),
                hint="save `model.state_dict()` instead of the model, best as .safetensors",
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot be read as weights ({reason})", where=str(path)) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError("holds no state dict: a mapping of names to tensors", where=str(path))
    if all(name.startswith("module.") for name in found):  # saved from within a DataParallel wrapper
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    broken = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(f"holds NaN or infinite weights: {_first(broken)}", where=str(path))
    return dict(found)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files and absent ones.

    Raises:
        UserError: it is damaged.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"cannot be read as weights ({error})", where=str(path)) from error
