"""A loaded file, ready to run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from limbeck.core.errors import UserError
from limbeck.export.interface import Rows


@dataclass(frozen=True, slots=True)
class Session:
    """A file in its runtime.

    Attributes:
        runtime: its name, for messages.
        dtype: of the input.
        shape: of one row.
        run: rows [B, ...] -> [B, width]; B is at most 64.
        batch: how many rows `run` takes; None for any number.
    """

    runtime: str
    dtype: str
    shape: tuple[int, ...]
    run: Callable[[Rows], Rows]
    batch: int | None = None

    def __call__(self, rows: Rows) -> Rows:
        """What the file gives for 1 to 64 rows: [B, ...] -> [B, width].

        Raises:
            UserError: the rows do not fit the file, or it fails.
        """
        if not len(rows):
            raise UserError("there are no rows to run it on")
        if rows.dtype != self.dtype or rows.shape[1:] != self.shape:
            raise UserError(
                f"{self.runtime} cannot run it on {rows.dtype} rows {list(rows.shape[1:])}: it takes {self.dtype} rows "
                f"{list(self.shape)}"
            )
        try:
            return self.run(rows)
        except Exception as error:
            raise UserError(f"{self.runtime} cannot run it ({error})") from error
