"""Teachers: frozen networks, and several of them as one.

Members are joined by a `Combine`: their predictions [M, B, C] or [M, B, K] go in, one prediction comes out. All ways of
joining are of this one type, fixed rules and fitted networks alike.
"""

from limbeck.distill.teachers.ensemble import (
    Combine,
    average,
    by_confidence,
    logits_average,
    mean,
    median,
    validation_weights,
    vote,
    weighted,
)
from limbeck.distill.teachers.ensemble_choice import combiner
from limbeck.distill.teachers.frozen import Ensemble, Frozen
from limbeck.distill.teachers.stacking import Joint, Stack, as_combine, fit_stack

__all__ = [
    "Combine",
    "Ensemble",
    "Frozen",
    "Joint",
    "Stack",
    "as_combine",
    "average",
    "by_confidence",
    "combiner",
    "fit_stack",
    "logits_average",
    "mean",
    "median",
    "validation_weights",
    "vote",
    "weighted",
]
