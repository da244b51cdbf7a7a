"""What was done to a model, exactly: typed, kept as JSON in its file, and checked when it is read."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from limbeck.core.errors import UserError

Rank = int | tuple[int, int]


class Entry(NamedTuple):
    """Channels that go together: the layer's dotted name, whether its outputs are meant, and their indices."""

    name: str
    outgoing: bool
    indices: list[int]


class PrunedWeight(NamedTuple):
    """A weight that becomes smaller, and its shape before and after."""

    name: str
    before: list[int]
    after: list[int]


class FactorisedLayer(NamedTuple):
    """A layer that becomes thinner ones: how, of which rank, the shape of its weight, and its parameters then."""

    name: str
    method: str
    rank: Rank
    shape: list[int]
    before: int
    after: int


class SparseWeight(NamedTuple):
    """A weight of which so many numbers become zero."""

    name: str
    shape: list[int]
    zeros: int


class _Edit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PruneEdit(_Edit):
    """Channels and attention heads that go.

    Attributes:
        shape: of one row that the network was traced with.
        history: what is cut, in this order.
        layers: the weights that become smaller by it.
        left: layers that the network does not run without.
    """

    step: Literal["prune"] = "prune"
    shape: list[int]
    history: list[Entry]
    layers: list[PrunedWeight]
    left: list[str]


class FactoriseEdit(_Edit):
    """Layers that become products of thinner ones."""

    step: Literal["factorise"] = "factorise"
    layers: list[FactorisedLayer]


class SparsifyEdit(_Edit):
    """Weights that become zero: the smallest, or by `pattern` two of each four."""

    step: Literal["sparsify"] = "sparsify"
    pattern: Literal["2:4"] | None
    layers: list[SparseWeight]


Edit = PruneEdit | FactoriseEdit | SparsifyEdit
_READER: TypeAdapter[Edit] = TypeAdapter(Annotated[Edit, Field(discriminator="step")])


def read_edit(content: object, where: str = "compress") -> Edit:
    """An edit of its JSON.

    Args:
        content: what was read.
        where: the file, for the message.

    Raises:
        UserError: this is no edit.

    Example:
        >>> read_edit({"step": "sparsify", "pattern": "2:4", "layers": [["fc.weight", [8, 4], 16]]}).layers[0].zeros
        16
    """
    try:
        return _READER.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"this is no edit: {str(content)[:80]} ({place + ': ' if place else ''}{first['msg']})",
            where=where,
            hint="its `step` is one of prune, factorise, sparsify",
        ) from error
