"""How far a file is from the network it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import UserError
from limbeck.core.types import Kind, Parity
from limbeck.tasks import rules

if TYPE_CHECKING:
    from torch import Tensor


def parity(reference: Tensor, exported: Tensor, kind: Kind) -> Parity:
    """How far an exported file is from the PyTorch model it was made from.

    Args:
        reference: what the PyTorch model gives, [N, width].
        exported: what the file gives in its own runtime for the same rows, [N, width].
        kind: of the task, which says what share of the rows (or pixels) predict the same.

    Raises:
        UserError: the two have other shapes, or there are no rows.
    """
    if reference.shape != exported.shape or not len(reference):
        raise UserError(
            f"the exported file gives {tuple(exported.shape)} where the model gives {tuple(reference.shape)}",
            where="export",
        )
    reference, exported = reference.detach().cpu().double(), exported.detach().cpu().double()
    of_task, agreement = rules(kind), None
    if of_task.same:
        same = of_task.same(reference, exported)
        agreement = (same.all(1) if of_task.predicts == "labels" else same).double().mean().item()
    return Parity(max_abs_error=(reference - exported).abs().max().item(), agreement=agreement)


def check_parity(
    path: Path,
    found: Parity,
    reference: Tensor,
    *,
    tolerance: float = 1e-3,
    differing: Callable[[], str | None] | None = None,
) -> None:
    """Refuse a float32 file that computes something else than the model it was made from.

    Args:
        path: the file.
        found: what `parity` gave for it.
        reference: what the PyTorch model gives, [N, width].
        tolerance: the largest error allowed, as a share of the largest output (or of 1, if that is smaller).
        differing: finds the first layer that differs, as `first_difference` does; asked only where the file is refused.

    Raises:
        UserError: the error is above the tolerance, or is not a number.
    """
    import torch

    allowed = tolerance * max(1.0, torch.nan_to_num(reference.detach().double()).abs().max().item())
    if found.max_abs_error <= allowed:
        return
    layer = differing() if differing else None
    raise UserError(
        f"its outputs differ from the PyTorch model's by up to {found.max_abs_error:.3g}; {allowed:.3g} is allowed"
        + (f"; the first that differs is {layer}" if layer else ""),
        where=str(path),
        hint="do not ship this file; the converter's log beside it may say why",
    )
