"""A network that a run has trained, or was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from limbeck.core.types import Role
from limbeck.pipeline.stage_results import ModelResult
from limbeck.recipe import Step


@dataclass(frozen=True)
class TrainedModel:
    """A trained network: what it is called, how to build it, and what its training gave.

    Attributes:
        name: of its stage.
        role: what it is compared as.
        seed: of a student's first weights and data order; 0 for others.
        file: of its weights; a function has none.
        build: builds it again with these weights.
        result: of its stage: epochs, scores on validation, ...
        variant: a name in `compare` or `compress`, or "budget"; "" for the student of `losses`.
        number: of a generation, from 1 on, or of a peer.
        start: the student that a compressed one was made of.
        steps: what was done to that.
        changes: the same in words, with what came of it.
    """

    name: str
    role: Role
    seed: int
    file: Path | None
    build: Callable[[], nn.Module]
    result: ModelResult = field(default_factory=ModelResult)
    variant: str = ""
    number: int | None = None
    start: str = ""
    steps: Sequence[Step] = ()
    changes: Sequence[str] = ()

    @property
    def weights(self) -> Path:
        """The file of its weights, of a network that has one."""
        assert self.file is not None
        return self.file

    @property
    def quantized(self) -> bool:
        """Whether it went through quantization-aware training, and can become integer files only."""
        return bool(self.steps and self.steps[-1].quantize)
