"""What the shared contract of the losses (test_losses.py) knows of each family: a module of the family's name here.

ORACLES: name -> the paper's equation once more, with loops and floats, no torch (NumPy for linear algebra). Called with
    the batch as nested lists (student, teacher, target) and the loss's options; a loss with weights is also given as
    `loss` (see `arrays`), and one that takes row numbers as `index`.
OPTIONS: name -> options to try besides the defaults; a row for every loss that has any.
BEST: name -> (student, loss) -> (teacher, target, the least value): where the loss is at its least.
EXCEPT: name -> test of the contract -> why it does not hold for this loss. Optional; short and honest.
WIDTHS: name -> the widths to compare with the oracle; (1, 2, 5) unless told. For losses that refuse a width.
sample(name, *, rows, width, seed): student, teacher and target in float64. Features are as small as the loss allows,
    for gradients are checked numerically; student and teacher are lists of features for a loss on several at once.
given(name, width): what `bind` is told beyond the shapes and the number of rows, as `head` or `classes`. Optional.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn


def arrays(loss: nn.Module) -> dict[str, np.ndarray]:
    """The weights and buffers of a loss by name, for its oracle."""
    return {name: value.detach().numpy().copy() for name, value in loss.state_dict().items()}


# After `arrays`, which the families' modules import from here.
def collected(table: str) -> dict[str, Any]:
    """The rows of all families' tables of that name."""
    return {name: row for family in FAMILIES.values() for name, row in getattr(family, table, {}).items()}


FAMILIES: dict[str, ModuleType] = {
    found.name: importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
}
