"""Features of named submodules from the one forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.types import Output
from limbeck.tasks.normal_form import classes_last


@dataclass(slots=True)
class _Record:
    """What the hooks have seen: name -> (output, its version or None) for each call."""

    open: bool = False
    seen: dict[str, list[tuple[object, int | None]]] = field(default_factory=dict)


class Taps:
    """Forward hooks on named submodules, whose outputs become the features of an `Output`.

    Make them on the plain model, before any `torch.compile` or wrapping. They record only inside a call, so using the
    model (or a copy of it) elsewhere costs and keeps nothing. Without names there are no hooks at all.

    Args:
        model: the plain model.
        names: dotted names as in `model.named_modules()`.

    Raises:
        UserError: the model has no submodule of that name; the message gives the nearest ones.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
        for name in self.names:
            if name not in modules:
                raise UserError(
                    f"{type(model).__name__} has no submodule '{name}' to tap", hint=did_you_mean(name, modules)
                )
        self._record = _Record()
        handles = [modules[name].register_forward_hook(_hook(self._record, name)) for name in self.names]
        # The hooks know the record and not these taps, so that dropping the taps takes the hooks away as well.
        self._remove = weakref.finalize(self, _remove, handles)

    def __call__(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Output:
        """One forward pass, with the tapped features.

        Args:
            forward: the tapped model, or any wrapper around it (compiled, distributed, with a normalisation before it).
            x: the inputs.

        Raises:
            UserError: a tapped module was not called or called twice, gives something else than a tensor, or its
                output is overwritten in place later on (which a compiled forward pass or inference mode hides).
        """
        record = self._record
        record.seen.clear()
        record.open = True
        try:
            prediction = classes_last(forward(x))
            return Output(prediction, {name: _feature(name, record.seen.get(name, [])) for name in self.names})
        finally:
            record.open = False
            record.seen.clear()

    def close(self) -> None:
        """Take the hooks off the model."""
        self._remove()


def _hook(record: _Record, name: str) -> Callable[[nn.Module, object, object], None]:
    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if record.open:
            record.seen.setdefault(name, []).append((output, _version(output)))

    return keep


def _version(output: object) -> int | None:
    """PyTorch's count of in-place changes, None where it says nothing."""
    if torch.compiler.is_compiling() or not isinstance(output, Tensor):
        return None  # a compiler keeps counts of its own
    try:
        return output._version
    except RuntimeError:  # a tensor of inference mode
        return None


def _feature(name: str, calls: list[tuple[object, int | None]]) -> Tensor:
    where = f"tap '{name}'"
    if not calls:
        raise UserError(
            "this module was not called in the forward pass",
            where=where,
            hint="tap one that is, and call the tapped model itself or a wrapper around it",
        )
    if len(calls) > 1:
        raise UserError(
            f"this module is called {len(calls)} times in one forward pass, so its output is not one feature",
            where=where,
            hint="tap a module around or beside it that is called once",
        )
    [(output, version)] = calls
    if not isinstance(output, Tensor):
        raise UserError(
            f"this module gives a {type(output).__name__}, not one tensor",
            where=where,
            hint="tap a module inside it or after it",
        )
    if version is not None and output._version != version:
        raise UserError(
            "a later module overwrites this output in place, so the feature would not be what this module gave",
            where=where,
            hint="tap that later module (often a ReLU), or build the network with inplace=False",
        )
    return output


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
