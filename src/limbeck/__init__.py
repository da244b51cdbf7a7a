"""Limbeck turns large trained models into small ones that can be shipped, and proves that they are good.

One recipe does the whole job, `limbeck.run("quickstart")`, and every part can be used by itself: see the README.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Data",
    "Ensemble",
    "Frozen",
    "KerasNetwork",
    "Normalized",
    "Objective",
    "Output",
    "Plan",
    "Term",
    "UserError",
    "as_logits",
    "as_teacher",
    "assess",
    "bind",
    "fit",
    "fit_mutual",
    "from_arrays",
    "run",
]

# Names are imported when they are first used, so that `import limbeck` and the command line's help need no torch.
_HOMES = {
    "Batch": "types",
    "Data": "data",
    "Ensemble": "teachers",
    "Frozen": "teachers",
    "KerasNetwork": "models",
    "Normalized": "models",
    "Objective": "objective",
    "Output": "types",
    "Plan": "recipe",
    "Term": "objective",
    "UserError": "errors",
    "as_logits": "models",
    "as_teacher": "foreign",
    "assess": "evaluate",
    "bind": "losses",
    "fit": "train",
    "fit_mutual": "train",
    "from_arrays": "data",
    "run": "pipeline",
}
_ROOMS = ("augment", "benchmark", "data", "evaluate", "export", "losses", "models", "report")

if TYPE_CHECKING:
    from limbeck.data import Data, from_arrays
    from limbeck.errors import UserError
    from limbeck.evaluate import assess
    from limbeck.foreign import as_teacher
    from limbeck.losses import bind
    from limbeck.models import KerasNetwork, Normalized, as_logits
    from limbeck.objective import Objective, Term
    from limbeck.pipeline import run
    from limbeck.recipe import Plan
    from limbeck.teachers import Ensemble, Frozen
    from limbeck.train import fit, fit_mutual
    from limbeck.types import Batch, Output


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"limbeck.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"limbeck.{name}")
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
