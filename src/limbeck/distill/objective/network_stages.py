"""Where a network's stages end, seen by running one example through it, and which stages of two networks are a pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError

MOST_BLOCKS = (
    4  # of a network whose features keep one size: every block of a deep transformer would be too much to keep
)

REDUCED = 1.6  # times fewer pixels are a reduction; a convolution without padding takes less away


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a tap may be set.

    Attributes:
        name: dotted, as in `model.named_modules()`.
        shape: of one row of its output: [channels, H, W], [tokens, width] or [width].
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What one pass of an example shows of a network.

    Attributes:
        stages: the end of each, from the input on; at least one.
        vector: what the classifier sees, or the end of the last stage where no module gives that.
        head: the linear layer whose output is the prediction; None where there is none.
    """

    stages: tuple[Stage, ...]
    vector: Stage
    head: nn.Linear | None


@dataclass(slots=True, eq=False)
class _Call:
    """One module's one call, and how many modules with weights of their own were called until then.

    Outputs are kept, so that no later tensor gets the place of an earlier one.
    """

    name: str
    module: nn.Module
    input: object
    output: Tensor
    version: int
    weighed: int


def anatomy(model: nn.Module, x: Tensor) -> Anatomy:
    """Run an example through a network, and see where its stages end.

    A stage ends with the last module before the maps become smaller for good (a dip inside a squeeze-and-excite block
    is no end; in a network that gives logits of pixels, also before they grow again), and global pooling is no stage.
    Where tokens keep one number, as in transformers, blocks are stages: modules of one parent that give the same shape,
    at most 4 of them at equal distances, the last always among them. In a network on tables every hidden layer is one.
    Of nested modules with the same output the outermost is named.

    Args:
        model: the plain model; its mode and weights are left as they are.
        x: a few rows of input.

    Raises:
        UserError: no module gives a feature that could be tapped.
    """
    calls, prediction = _watch(model, x)
    taps = [c for c in calls if c.output is not prediction and not _same(c.output, prediction)]
    found = _by_size(taps, grows=prediction.ndim == 4) or _by_block(model, taps) or _by_layer(taps)
    if not found:
        raise UserError(
            f"{type(model).__name__} has no stage that can be tapped",
            hint="name the taps: `student:` and `teacher:` are dotted names of modules",
        )
    stages = tuple(Stage(c.name, tuple(c.output.shape[1:])) for c in found)
    head = next((c for c in reversed(calls) if isinstance(c.module, nn.Linear) and _same(c.output, prediction)), None)
    before = [c for c in taps if head is not None and _same(c.output, head.input)]
    vector = Stage(before[-1].name, tuple(before[-1].output.shape[1:])) if before else stages[-1]
    return Anatomy(stages, vector, head.module if head is not None else None)  # type: ignore[arg-type]


def pairs(student: Sequence[Stage], teacher: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
    """Stages of equal relative depth: each of the network with fewer, and the other's nearest; the last are a pair."""
    few, many = (student, teacher) if len(student) <= len(teacher) else (teacher, student)
    chosen = [many[math.ceil((n + 1) * len(many) / len(few)) - 1] for n in range(len(few))]
    return list(zip(few, chosen, strict=True)) if few is student else list(zip(chosen, few, strict=True))


def _watch(model: nn.Module, x: Tensor) -> tuple[list[_Call], Tensor]:
    calls: list[_Call] = []
    count: dict[str, int] = {}
    weighed = 0

    def keep(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            nonlocal weighed
            count[name] = count.get(name, 0) + 1
            weighed += any(True for _ in module.parameters(recurse=False))
            if isinstance(output, Tensor) and output.ndim > 1 and len(output) == len(x):
                calls.append(_Call(name, module, inputs[0] if inputs else None, output, output._version, weighed))

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if name]
    modes = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad():
            prediction = model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    # What is called twice is not one feature, and what is overwritten later is not what its module gave.
    return [c for c in calls if count[c.name] == 1 and c.output._version == c.version], prediction


def _same(one: object, other: object) -> bool:
    """Whether two tensors are the same numbers in the same place, as with `view` or `flatten`."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _by_size(calls: Sequence[_Call], *, grows: bool) -> list[_Call]:
    """The last map before each reduction, and in a network whose maps grow again before each enlargement.

    None where tokens rather than maps are what the network works on.
    """
    maps = [c for c in calls if c.output.ndim == 4 and _area(c) > 1]
    ends: list[_Call] = []
    for call in reversed(maps):
        larger = not ends or _area(call) > REDUCED * _area(ends[-1])
        if larger or (grows and REDUCED * _area(call) < _area(ends[-1])):
            ends.append(call)
    if len(ends) == 1 and any(c.output.ndim == 3 for c in calls):
        return []
    ends.reverse()
    # Where no weights came in since the stage before, that one is only pooled.
    return [end for end, last in zip(ends, [None, *ends], strict=False) if last is None or end.weighed > last.weighed]


def _area(call: _Call) -> int:
    return math.prod(call.output.shape[2:])


def _by_block(model: nn.Module, calls: Sequence[_Call]) -> list[_Call]:
    """Modules of one parent with outputs of one shape [B, tokens, width]; the parent with most of them."""
    siblings: dict[tuple[str, tuple[int, ...]], list[_Call]] = {}
    for call in calls:
        if call.output.ndim == 3:
            parent = call.name.rpartition(".")[0]
            siblings.setdefault((parent, tuple(call.output.shape)), []).append(call)
    # The outermost family of blocks: a block's own parts are families, too, but there is one such family a block.
    order = sorted(siblings.items(), key=lambda item: (item[0][0].count("."), -len(item[1])))
    family = next((found for (_, _), found in order if len(found) > 1), next((f for _, f in order), []))
    if len(family) <= MOST_BLOCKS:
        return family
    return [family[math.ceil((n + 1) * len(family) / MOST_BLOCKS) - 1] for n in range(MOST_BLOCKS)]


def _by_layer(calls: Sequence[_Call]) -> list[_Call]:
    """In a network on tables: what each linear layer but the first is given."""
    ends = []
    vectors = [c for c in calls if c.output.ndim == 2]
    for number, call in enumerate(vectors):
        following = vectors[number + 1] if number + 1 < len(vectors) else None
        if following is None or isinstance(following.module, nn.Linear):
            ends.append(call)
    return ends
