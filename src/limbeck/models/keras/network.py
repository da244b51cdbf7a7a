"""Keras models as networks of PyTorch, which train, answer and are stored like all others."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.hashing import fingerprint
from limbeck.models.keras.backend import library

NAMING = ("name", "keras_history", "input_layers", "output_layers")  # where a configuration names layers


class KerasNetwork(nn.Module):
    """A Keras model with weights that are PyTorch's: of [B, channels, H, W] or [B, columns], logits [B, C] or values.

    The model itself only says what is computed. Weights are parameters and buffers here, handed to it at every call, so
    that copies, devices, optimizers and state dicts are as for every other network. What Keras moves while it trains,
    the statistics of batch normalisation and the states of its random generators, are buffers; weights of layers that
    are not `trainable` want no gradient. BatchNormalization and Dropout follow `.train()` and `.eval()`.

    Its sub-modules are the layers, under the names they have in Keras; those of a model inside it are below that, as
    `base.conv1`. Their outputs can be tapped, and are [B, channels, H, W]. Their state has Keras's names, too:
    `conv1.kernel`.

    Args:
        model: built, with one input and one output.
        shape: of one row as it will be given, [channels, H, W] or [columns]; if absent, as the model takes it.
        named: the layers' names stand in a file. Of others, those that Keras made up are counted anew, for it counts
            all layers of a process: the second convolution is `conv2d-2`.
        logits: leave a closing softmax or sigmoid out, so that logits are what is given.

    Raises:
        UserError: the model has several inputs or outputs, or cannot take such rows.
    """

    def __init__(
        self, model: Any, shape: tuple[int, ...] | None = None, *, named: bool = False, logits: bool = False
    ) -> None:
        super().__init__()
        self._takes = _row(model)
        self._first = _channels_first(model)
        self._permuted = _permuted(self._takes, shape, self._first)
        if shape is not None and not _fits(self._takes, shape, self._permuted):
            raise UserError(
                f"takes rows of shape {list(self._takes)}, and here they are {_told(shape, self._permuted)}",
                where=str(model.name),
                hint="give the data another size (`data.size`, `data.channels`), or take another model",
            )
        config = _config(model)
        names = {} if named else _recounted(config)
        self._digest = fingerprint(_renamed(config, names))
        self._graph = _Graph(model, logits)
        self._points: list[_Layer] = []
        self._held: list[tuple[nn.Module, str]] = []
        with self._graph.keras.device("cpu"):
            self._add(self, model, names, set())

    def _add(self, here: nn.Module, layer: Any, names: Mapping[str, str], seen: set[int]) -> None:
        """What a Keras layer holds, and the layers in it, below a module of ours."""
        for part in layer._flatten_layers(include_self=False, recursive=False):
            if type(part).__name__ == "InputLayer":
                continue
            point = _Layer(type(part).__name__, self._first)
            here.add_module(_free(here, names.get(part.name, part.name)), point)
            self._graph.watch(part, len(self._points))
            self._points.append(point)
            self._add(point, part, names, seen)
        weights = {id(v) for v in layer._trainable_variables}
        for variable in layer.variables:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            value, name = variable.value.detach().to("cpu", copy=True), _free(here, variable.name)
            if id(variable) in weights:
                here.register_parameter(name, nn.Parameter(value, requires_grad=variable.trainable))
            else:
                here.register_buffer(name, value)
            self._graph.variables.append(variable)
            self._held.append((here, name))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of rows [B, ...]."""
        if self._permuted and x.ndim == 4:
            x = x.permute(0, 2, 3, 1)
        if None not in self._takes and tuple(x.shape[1:]) != self._takes:
            x = x.reshape(-1, *self._takes)  # type: ignore[arg-type]
        held = [getattr(owner, name) for owner, name in self._held]
        with self._graph.computing(self, x.device, held) as scope:
            given: Tensor = self._graph.model(x, training=self.training)
        if self.training:
            with torch.no_grad():
                for variable, (owner, name), value in zip(self._graph.variables, self._held, held, strict=True):
                    if name in owner._buffers:
                        value.copy_(scope.get_current_value(variable))
        return given

    @contextlib.contextmanager
    def written(self) -> Iterator[Callable[[Any], Any]]:
        """The Keras model with the weights as they are now, to be made a part of another one and saved inside.

        Yields:
            What it gives for symbolic rows [B, H, W, channels] or [B, columns]; without a closing softmax, too.
        """
        with torch.no_grad(), self._graph.keras.device("cpu"):
            for variable, (owner, name) in zip(self._graph.variables, self._held, strict=True):
                variable.assign(getattr(owner, name).detach().cpu())

        def given(rows: Any) -> Any:
            layers = self._graph.keras.layers
            if len(rows.shape) == 4 and not self._permuted:
                rows = layers.Permute((3, 1, 2), name="channels_first")(rows)
            if None not in self._takes and tuple(rows.shape[1:]) != self._takes:
                rows = layers.Reshape(self._takes, name="as_taken")(rows)
            return self._graph.model(rows)

        with self._graph.opened():
            yield given

    @property
    def memory_steps(self) -> int:
        """After how many steps of training statistics of batch normalisation have forgotten 99 % of their beginning.

        0 where there are none. Until then the network answers badly outside training, however well it has learned.
        """
        layers = self._graph.model._flatten_layers(include_self=False)
        norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization" and layer.trainable]
        momentum = max((layer.momentum for layer in norms), default=0.0)
        return math.ceil(math.log(0.01) / math.log(momentum)) if 0 < momentum < 1 else 0

    @property
    def gives_logits(self) -> bool:
        """Whether a softmax or sigmoid was left out."""
        return self._graph.opens

    def extra_repr(self) -> str:
        """What it takes, and which architecture it is."""
        return f"takes={list(self._takes)}, architecture={self._digest[:16]}"


class _Layer(nn.Module):
    """Where the state of a Keras layer is, and where its output can be tapped."""

    def __init__(self, kind: str, channels_first: bool) -> None:
        super().__init__()
        self._kind, self._first = kind, channels_first

    def forward(self, output: Tensor) -> Tensor:
        """What the layer gave, images with their channels first."""
        return output if self._first or output.ndim != 4 else output.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Which layer it is."""
        return self._kind


class _Graph:
    """What a Keras model computes, shared by all copies of a network. The weights of the model itself are not used.

    Args:
        model: built.
        logits: leave a closing softmax or sigmoid out.
    """

    def __init__(self, model: Any, logits: bool) -> None:
        self.keras, self.model, self.variables = library(), model, list[Any]()
        self._closing = None
        if logits:
            self.model, self._closing = _without_softmax(self.keras, model)
        self.opens = self._closing is not None or self.model is not model
        self._asking: list[KerasNetwork] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def watch(self, layer: Any, number: int) -> None:
        """Show what a layer gives at a point of the network that is asked."""

        def show(_layer: object, _inputs: object, output: object) -> None:
            if self._asking and isinstance(output, Tensor):
                point = self._asking[-1]._points[number]
                if point._forward_hooks:  # nobody looks otherwise, and a graph that is traced stays free of it
                    point(output)

        layer.register_forward_hook(show)

    @contextlib.contextmanager
    def computing(self, network: KerasNetwork, device: torch.device, held: Sequence[Tensor]) -> Iterator[Any]:
        """Let the model compute for a network, with its weights.

        Yields:
            The scope in which Keras keeps what it changes.
        """
        self._asking.append(network)
        try:
            with (
                self.opened(),
                self.keras.device(str(device)),
                self.keras.StatelessScope(
                    list(zip(self.variables, held, strict=True)), initialize_variables=False
                ) as scope,
            ):
                yield scope
        finally:
            self._asking.pop()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The model without its softmax inside; outside it is as somebody made it."""
        if self._closing is None:
            yield
            return
        before, self._closing.activation = self._closing.activation, self.keras.activations.linear
        try:
            yield
        finally:
            self._closing.activation = before


def _row(model: Any) -> tuple[int | None, ...]:
    """Shape of one row of a model's only input."""
    where = str(getattr(model, "name", type(model).__name__))
    if not getattr(model, "built", False) or not getattr(model, "inputs", None):
        what = "is not built: nothing says what it takes"
        raise UserError(what, where=where, hint="give it a keras.Input, or make it a Functional or Sequential model")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        what = f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise UserError(what, where=where, hint="only models of one tensor that give one tensor fit here")
    return tuple(model.inputs[0].shape[1:])


def _channels_first(model: Any) -> bool:
    layers = model._flatten_layers(include_self=False)
    return any(getattr(layer, "data_format", None) == "channels_first" for layer in layers)


def _permuted(takes: Sequence[int | None], shape: Sequence[int] | None, channels_first: bool) -> bool:
    """Whether rows [channels, H, W] become [H, W, channels] for a model."""
    if shape is None:
        return len(takes) == 3 and not channels_first
    if len(shape) != 3:
        return False
    as_it_is, turned = (_match(takes, given) for given in (shape, (*shape[1:], shape[0])))
    return not channels_first if as_it_is == turned else turned


def _match(takes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(takes) == len(shape) and all(t is None or t == s for t, s in zip(takes, shape, strict=True))


def _fits(takes: Sequence[int | None], shape: Sequence[int], permuted: bool) -> bool:
    """Whether rows can be given as they are, flat, or without the one channel that they have."""
    given = (*shape[1:], shape[0]) if permuted else tuple(shape)
    bare = tuple(n for n in given if n != 1)
    return _match(takes, given) or tuple(takes) == (math.prod(given),) or tuple(n for n in takes if n != 1) == bare


def _told(shape: Sequence[int], permuted: bool) -> list[int]:
    return [*shape[1:], shape[0]] if permuted else list(shape)


def _free(here: nn.Module, name: str) -> str:
    """A name that a sub-module or parameter may have: no dots, and nothing that a module has already."""
    name = name.replace(".", "_")
    while hasattr(here, name):
        name += "_"
    return name


def _config(model: Any) -> Any:
    """The layers of a model with their settings and connections, JSON-like; of one that cannot say, their classes."""
    try:
        found = library().saving.serialize_keras_object(model)
        return {key: found[key] for key in ("class_name", "config")}
    except (NotImplementedError, TypeError, ValueError):
        return [type(layer).__name__ for layer in model._flatten_layers()]


def _recounted(config: Any) -> dict[str, str]:
    """Other names for those that Keras made up: of the kind, and its number in this model."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            inner, kind = node.get("config"), node.get("class_name")
            name = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(kind, str) and isinstance(name, str) and name not in names:
                stem = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
                if re.fullmatch(rf"{re.escape(stem)}(_\d+)?", name):
                    counts[stem] = counts.get(stem, 0) + 1
                    names[name] = f"{stem}-{counts[stem]}"
            node = list(node.values())
        if isinstance(node, list | tuple):
            for part in node:
                walk(part)

    walk(config)
    return names


def _renamed(node: Any, names: Mapping[str, str], *, a_name: bool = False) -> Any:
    if isinstance(node, dict):
        return {key: _renamed(value, names, a_name=key in NAMING) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_renamed(value, names, a_name=a_name) for value in node]
    return names.get(node, node) if a_name and isinstance(node, str) else node


def _without_softmax(keras: Any, model: Any) -> tuple[Any, Any]:
    """A model that gives logits, and the layer whose activation is to be left out for that; None for none."""
    last = model
    while hasattr(last, "outputs"):  # of a model inside a model, what comes last in it
        last = last.outputs[0]._keras_history.operation
    closing = (keras.activations.softmax, keras.activations.sigmoid)
    if getattr(last, "activation", None) in closing:
        return model, last
    if isinstance(last, keras.layers.Softmax) and last is model.outputs[0]._keras_history.operation:
        return keras.Model(model.inputs, last.input, name=model.name), None
    return model, None
