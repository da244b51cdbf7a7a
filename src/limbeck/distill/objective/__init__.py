"""What a student is trained for: a weighted sum of losses on predictions and taps."""

from limbeck.distill.objective.objective import PREDICTION, Objective, Term

__all__ = ["PREDICTION", "Objective", "Term"]
