"""What can be predicted: a file for each task, and one row for it here."""

from limbeck.core.metrics import Metric
from limbeck.core.types import Kind, Task
from limbeck.tasks import classification, multilabel, regression, segmentation
from limbeck.tasks.rules import Guess, TaskRules

__all__ = ["TASKS", "Guess", "TaskRules", "main_metric", "rules"]

TASKS: dict[Kind, TaskRules] = {
    task.name: task for task in (classification.RULES, multilabel.RULES, regression.RULES, segmentation.RULES)
}


def rules(task: Task | Kind) -> TaskRules:
    """All that differs between this task and another."""
    return TASKS[task.kind if isinstance(task, Task) else task]


def main_metric(task: Task) -> Metric:
    """The metric that students are selected and compared by."""
    return rules(task).main(task)
