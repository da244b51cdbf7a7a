"""The metrics: what each is called and means, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: its key in results.
        title: its name in a table.
        about: what it means, in words.
        higher: whether higher values are better.
        percent: whether it is a fraction that is shown in percent.
        spoken: its name in a sentence, of one in percent that students are compared by.
    """

    name: str
    title: str
    about: str
    higher: bool = True
    percent: bool = False
    spoken: str = ""

    @property
    def sign(self) -> int:
        """What makes higher values better: 1 for a score, -1 for an error."""
        return 1 if self.higher else -1

    def best(self, items: Iterable[T], key: Callable[[T], float]) -> T:
        """The item with the best value; the first of equal ones.

        Raises:
            ValueError: there is none.
        """
        return max(items, key=lambda item: self.sign * key(item))

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is, in the metric's own unit; negative where it is worse.

        Example:
            >>> METRICS["rmse"].gain(before=3.0, after=2.5)
            0.5
        """
        return self.sign * (after - before)


# In the order of a table's columns.
_ALL = (
    Metric("accuracy", "Accuracy", "share of test rows whose class is right", percent=True, spoken="accuracy"),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean of the classes' own accuracies: rare ones count alike",
        percent=True,
        spoken="balanced accuracy",
    ),
    Metric(
        "miou",
        "mIoU",
        "mean over classes of intersection over union: what is rightly so called of all that is or is called so",
        percent=True,
        spoken="mean IoU",
    ),
    Metric("pixel_accuracy", "Pixels right", "share of the test images' pixels whose class is right", percent=True),
    Metric(
        "map",
        "mAP",
        "mean over labels of average precision: how well the rows with a label are put before others",
        percent=True,
        spoken="mean average precision",
    ),
    Metric("f1", "Macro F1", "mean over labels of the F1 score at a probability of 0.5", percent=True),
    Metric("micro_f1", "Micro F1", "F1 score of all answers together at a probability of 0.5", percent=True),
    Metric(
        "label_accuracy", "Answers right", "share of the answers, yes or no to a label, that are right", percent=True
    ),
    Metric("exact_match", "Rows right", "share of test rows whose labels are all right", percent=True),
    Metric("nll", "NLL", "negative log-likelihood in nats", higher=False),
    Metric("ece", "ECE", "expected calibration error", higher=False, percent=True),
    Metric(
        "agreement",
        "Agreement",
        "share of test rows (of several labels: answers; of masks: pixels) given the same class as by the teacher",
        percent=True,
    ),
    Metric(
        "nrmse",
        "Scaled RMSE",
        "root of the mean squared error of each output in its standard deviations, mean over outputs",
        higher=False,
    ),
    Metric("rmse", "RMSE", "root of the mean squared error", higher=False),
    Metric("mae", "MAE", "mean absolute error", higher=False),
    Metric("r2", "R²", "share of the variance explained"),
    Metric(
        "coverage95", "Coverage", "share of the values inside the 95 % interval the network gives them", percent=True
    ),
    Metric("rmse_to_teacher", "RMSE to teacher", "how far from what the teacher says", higher=False),
)
METRICS = {metric.name: metric for metric in _ALL}
SHARES = {metric.name: metric.spoken for metric in _ALL if metric.spoken}  # differences of these are points
