"""Metrics of predictions on rows that were not learned from: torchmetrics', in float64 on the CPU.

Accuracy, shares and errors of calibration are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.data import batches, targets
from limbeck.models import given
from limbeck.tasks import rules
from limbeck.tasks.normal_form import check, classes_last, counted

if TYPE_CHECKING:
    from limbeck.core.scaling import Scaling
    from limbeck.core.types import Task
    from limbeck.data import Data


def predict(
    model: Callable[[Tensor], Tensor],
    data: Data,
    rows: Tensor,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    channels_last: bool = False,
) -> Tensor:
    """Raw outputs of `model` for `rows` of `data`, in their order, without augmentation.

    Args:
        model: a network on `device`, or any function of a batch, such as a file in its own runtime.
        data: the data set.
        rows: int64 [N], which rows.
        device: where the batches are put.
        batch_size: rows asked at once; the last batch may be smaller.
        channels_last: hand images over in that memory format.

    Returns:
        Logits [N, C] (of tokens [N, L, C], of pixels [N, H, W, C]) or standardised values [N, K], float32 on the CPU.
        A network is asked in eval mode, and each of its modules is put back into the mode it was in.
    """
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    if isinstance(model, nn.Module):
        model.eval()
    found = []
    try:
        with torch.inference_mode():
            for batch in batches(data, rows, batch_size, device=device):
                x = given(model, batch)
                if channels_last and x.ndim == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                found.append(classes_last(model(x).detach().float().cpu()))
    finally:
        # Module by module: a frozen batch norm inside a network in training stays in eval mode.
        for module, training in modes.items():
            module.training = training
    # A copy made outside inference mode is an ordinary tensor, fit for autograd.
    return torch.cat(found).clone() if found else torch.empty(0, data.task.outputs)


def assess(
    model: Callable[[Tensor], Tensor], data: Data, rows: Tensor | None = None, *, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """The metrics of `model` on `rows` of `data`, the test split where none are given; see `predict` and `metrics`."""
    rows = data.test if rows is None else rows
    return metrics(data.task, predict(model, data, rows, device=device), targets(data, rows, "cpu"), data.targets)


# --- metrics -------------------------------------------------------------------------------------


def metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None = None) -> dict[str, Any]:
    """The metrics of some predictions, as plain numbers fit for JSON.

    Args:
        task: what is predicted, and the names of its classes, labels or outputs.
        prediction: logits [N, C], of tokens [N, L, C], of pixels [N, H, W, C], or standardised values [N, K].
        target: class indices [N], of tokens [N, L], of pixels [N, H, W], of which -100 do not count; yes and no [N, C];
            or standardised values [N, K].
        scaling: what regression targets were standardised with; errors are then in the target's own unit.

    Returns:
        What `metrics` of the task's file in `limbeck.tasks` says.

    Raises:
        UserError: no rows, shapes that do not fit the task, or predictions that are not finite.
    """
    return rules(task).metrics(task, prediction, target, scaling)


def agreement(
    task: Task, prediction: Tensor, teacher: Tensor, scaling: Scaling | None = None, *, target: Tensor | None = None
) -> dict[str, float]:
    """How far a student says what its teacher says.

    Args:
        task: what is predicted.
        prediction: the student's, as in `metrics`.
        teacher: the teacher's, for the same rows.
        scaling: what regression targets were standardised with.
        target: class indices of tokens or pixels, of which those that are -100 do not count; all count without them.

    Returns:
        One class each: agreement, the share of rows (tokens, pixels) with the same class, and kl, the mean KL(teacher
        || student) in nats. Several labels: agreement, the share of answers (yes or no to a label) that are the same,
        and kl, the same summed over the labels. Values: rmse_to_teacher, in the target's own unit where `scaling` is
        given.

    Raises:
        UserError: as for `metrics`.
    """
    student, teacher = _rows(task, target, prediction), _rows(task, target, teacher)
    check(task, student, "predictions")
    check(task, teacher, "the teacher's predictions")
    if student.shape != teacher.shape:
        raise UserError(f"{len(student)} predictions cannot be compared with {len(teacher)} of the teacher")
    return rules(task).agreement(task, student.double().cpu(), teacher.double().cpu(), scaling)


def disagreement(
    task: Task,
    predictions: Tensor,
    names: Sequence[str],
    scaling: Scaling | None = None,
    *,
    target: Tensor | None = None,
) -> dict[str, Any]:
    """How far the members of an ensemble say different things.

    Args:
        task: what is predicted.
        predictions: the members', one after the other [M, N, ...], each as in `metrics`, for the same rows.
        names: of the members.
        scaling: what regression targets were standardised with; errors are then in the target's own unit.
        target: as in `metrics`; the oracle is left out without it. Regression has none.

    Returns:
        names, n (rows), and in rows and columns of the members, each against each:
        One class each: pairwise, the share of rows with another first choice, and mean_pairwise over the pairs (None
        for one member); all_agree, the share of rows where all choose the same; divergence, the mean generalised
        Jensen-Shannon divergence in nats (entropy of the mean probability less the mean entropy; Lin 1991); oracle, the
        share of rows where at least one member is right. Of tokens and pixels each is a row.
        Several labels: the same, of answers instead of rows; the divergence is summed over the labels.
        Values: pairwise, the RMSE between two members as a mean over the outputs, and mean_pairwise; spread, the
        standard deviation over the members (of all M, not M - 1), as a mean over rows and outputs.

    Raises:
        UserError: as for `metrics`, or other numbers of names or targets.
    """
    if predictions.ndim < 3 or not len(predictions) or len(names) != len(predictions):
        raise UserError(f"{len(names)} names do not fit predictions {list(predictions.shape)}, which are [M, N, C]")
    rows = [_rows(task, target, member) for member in predictions]
    for name, prediction in zip(names, rows, strict=True):
        check(task, prediction, f"the predictions of {name}")
    members = torch.stack(rows).double().cpu()
    if target is not None:
        target = _rows(task, target, target)
    return {"names": list(names), "n": members.shape[1]} | rules(task).disagreement(task, members, target, scaling)


def _rows(task: Task, target: Tensor | None, values: Tensor) -> Tensor:
    """Predictions [N, ..., C], or labels [N, ...], of the places that count, one after the other."""
    if rules(task).predicts != "classes" or (values.ndim <= 2 and (target is None or target.ndim == 1)):
        return values
    return counted(target, values)
