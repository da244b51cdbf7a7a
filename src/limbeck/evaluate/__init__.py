"""What a network is worth on rows it has not learned from, and whether the teacher helped."""

from limbeck.core.metrics import SHARES
from limbeck.core.statistics import CONFIDENCE, compare, holm, interval, p_value
from limbeck.evaluate.paired import Loss, loss
from limbeck.evaluate.scores import agreement, assess, disagreement, metrics, predict
from limbeck.tasks.regression import means

__all__ = [
    "CONFIDENCE",
    "SHARES",
    "Loss",
    "agreement",
    "assess",
    "compare",
    "disagreement",
    "holm",
    "interval",
    "loss",
    "means",
    "metrics",
    "p_value",
    "predict",
]
