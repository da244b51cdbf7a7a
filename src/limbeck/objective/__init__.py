"""What a student is trained for: a weighted sum of losses on predictions and taps."""

from limbeck.objective.terms import PREDICTION, Objective, Term

__all__ = ["PREDICTION", "Objective", "Term"]
