"""What the losses of an epoch come to, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Tally:
    """The losses of every step of one epoch.

    On a GPU they stay there, one tensor each, until `settle` joins them. On a CPU they become numbers at once: small
    tensors that outlive their step would lie between its large ones and break up the memory these leave.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._rows: list[int] = []
        self._new: list[Any] = []
        self._table: list[Tensor] = []

    def add(self, values: Mapping[str, Tensor], rows: int) -> None:
        """Note the losses of a step, by name and the same names at every step, as means over `rows` rows."""
        self._names = tuple(values)
        self._rows.append(rows)
        self._new += [v.item() if v.device.type == "cpu" else v.detach() for v in values.values()]

    def settle(self) -> tuple[int, float] | None:
        """Look at the steps since the last time, which waits for the device.

        Returns:
            The first of them (from 0) whose total is NaN or infinite, and that total.
        """
        if not self._new:
            return None
        new = (
            torch.stack(self._new) if isinstance(self._new[0], Tensor) else torch.tensor(self._new, dtype=torch.float64)
        )
        table = new.view(-1, len(self._names))
        self._new = []
        self._table.append(table)
        totals = table[:, self._names.index("total")]
        bad = (~torch.isfinite(totals)).nonzero()
        if not len(bad):
            return None
        return len(self._rows) - len(totals) + int(bad[0]), float(totals[bad[0]])

    def sums(self) -> tuple[tuple[str, ...], Tensor]:
        """The names, and the sum over all rows of each."""
        self.settle()
        table = torch.cat(self._table)
        rows = torch.tensor(self._rows, dtype=table.dtype, device=table.device)
        return self._names, (table * rows[:, None]).sum(0)
