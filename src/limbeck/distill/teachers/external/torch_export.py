"""Programs that torch.export wrote."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.data import Data


def load_exported(path: Path, data: Data) -> nn.Module:
    """The module of an exported program (.pt2). Opening one may run code: torch unpickles parts of it.

    Args:
        path: of the file.
        data: whose rows it will be asked for; one exported for a fixed number of rows is asked that many at a time.

    Raises:
        UserError: it cannot be read, or takes something else than one tensor.
    """
    if not zipfile.is_zipfile(path):  # torch would print a traceback first
        raise UserError("is no program that torch.export.save wrote", where=str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.11 reads weights from a buffer that it must not write to
            program = torch.export.load(path)
    except Exception as error:
        raise UserError(f"torch.export cannot load it ({error})", where=str(path)) from error
    inputs = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"takes {len(inputs)} inputs instead of one", where=str(path))
    rows = inputs[0].meta["val"].shape[0]
    return Program(program.module(), rows if isinstance(rows, int) else None)


class Program(nn.Module):
    """An exported program, which computes as it was exported whatever mode it is put in.

    Args:
        graph: its module.
        rows: of a program for a fixed number of rows, how many; the last batch is filled up.
    """

    def __init__(self, graph: nn.Module, rows: int | None) -> None:
        super().__init__()
        self.graph, self.rows = graph, rows

    def forward(self, x: Tensor) -> Tensor:
        """What the program gives for any number of rows [B, ...]."""
        if self.rows is None:
            return self.graph(x)  # type: ignore[no-any-return]
        parts = []
        for part in torch.split(x, self.rows):
            missing = self.rows - len(part)
            full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(self.graph(full)[: len(part)])
        return torch.cat(parts)

    def train(self, mode: bool = True) -> Self:
        """The graph refuses to be asked for a mode: it has none."""
        self.training = mode
        return self
