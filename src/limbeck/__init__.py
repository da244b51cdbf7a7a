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
    "Batch": "core.types",
    "Data": "data",
    "Ensemble": "distill.teachers",
    "Frozen": "distill.teachers",
    "KerasNetwork": "models",
    "Normalized": "models",
    "Objective": "distill.objective",
    "Output": "core.types",
    "Plan": "recipe",
    "Term": "distill.objective",
    "UserError": "core.errors",
    "as_logits": "models",
    "as_teacher": "distill.teachers.external",
    "assess": "evaluate",
    "bind": "losses",
    "fit": "distill.train",
    "fit_mutual": "distill.train",
    "from_arrays": "data",
    "run": "pipeline.run",
}
_ROOMS = {
    "augment": "data.augment",
    "benchmark": "evaluate.costs",
    **{room: room for room in ("compress", "data", "distill", "evaluate", "export", "losses", "models", "report")},
}

if TYPE_CHECKING:
    from limbeck.core.errors import UserError
    from limbeck.core.types import Batch, Output
    from limbeck.data import Data, from_arrays
    from limbeck.distill.objective import Objective, Term
    from limbeck.distill.teachers import Ensemble, Frozen
    from limbeck.distill.teachers.external import as_teacher
    from limbeck.distill.train import fit, fit_mutual
    from limbeck.evaluate import assess
    from limbeck.losses import bind
    from limbeck.models import KerasNetwork, Normalized, as_logits
    from limbeck.pipeline.run import run
    from limbeck.recipe import Plan


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"limbeck.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"limbeck.{_ROOMS[name]}")
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
