"""What a network is worth on rows it has not learned from, and whether the teacher helped."""

from limbeck.evaluate.scores import agreement, assess, disagreement, main_metric, means, metrics, predict
from limbeck.evaluate.verdict import CONFIDENCE, compare, holm, interval, p_value

__all__ = [
    "CONFIDENCE",
    "agreement",
    "assess",
    "compare",
    "disagreement",
    "holm",
    "interval",
    "main_metric",
    "means",
    "metrics",
    "p_value",
    "predict",
]
