"""Metrics of predictions on rows that were not learned from: torchmetrics', in float64 on the CPU.

Accuracy, shares and errors of calibration are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.types import IGNORED
from limbeck.data import batches, targets
from limbeck.evaluate import multilabel
from limbeck.models import given

if TYPE_CHECKING:
    from limbeck.core.types import Task
    from limbeck.data import Data, Scaling

ECE_BINS = 15


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
        Logits [N, C] (of tokens [N, L, C]) or standardised values [N, K], float32 on the CPU. A network is asked in
        eval mode, and each of its modules is put back into the mode it was in.
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
                found.append(model(x).detach().float().cpu())
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
        task: classification, multilabel or regression, and the names of its classes, labels or outputs.
        prediction: logits [N, C], of tokens [N, L, C], or standardised values [N, K].
        target: class indices [N], of tokens [N, L], of which -100 do not count; yes and no [N, C]; or standardised
            values [N, K].
        scaling: what regression targets were standardised with; errors are then in the target's own unit.

    Returns:
        Classification: accuracy, balanced_accuracy (the mean of the classes' own accuracies, of those with a row), nll
        (nats), ece (15 bins of equal width; Guo et al. 2017), per_class_accuracy (name -> fraction, None for a class
        without a row), confusion (rows true, columns predicted) and n.
        Several labels: see `labels.metrics`.
        Regression: mae, rmse and r2 as means over the outputs, n, and where there are several outputs per_output and
        nrmse, the mean of their RMSE in what they were standardised with (of the logarithm, where that is learned), so
        that no unit counts more than another. r2 is None where it is not defined: fewer than two rows, or an output
        that never varies. Where networks say how sure they are, also nll, the mean negative log likelihood of a row
        under their Gaussians (nats), and coverage95, the share of values within 1.96 of their standard deviations.

    Raises:
        UserError: no rows, shapes that do not fit the task, or predictions that are not finite.
    """
    if task.kind == "classification":
        prediction, target = _counted(target, prediction), _counted(target, target)
    _check(task, prediction, "predictions")
    if task.kind == "classification":
        if target.shape != prediction.shape[:1]:
            raise UserError(f"{len(prediction)} predictions need as many class indices, not {tuple(target.shape)}")
        return _classification(task, prediction.double().cpu(), target.long().cpu())
    _check(replace(task, predicts_variance=False), target, "targets")
    if len(target) != len(prediction):
        raise UserError(f"{len(prediction)} predictions cannot be compared with {len(target)} targets")
    given, truth = prediction.double().cpu(), target.double().cpu()
    if task.kind == "multilabel":
        return multilabel.metrics(task.names, given, truth)
    found = _regression(task, means(task, given), truth, scaling)
    return found | (_variance_metrics(task, given, truth, scaling) if task.predicts_variance else {})


def means(task: Task, prediction: Tensor) -> Tensor:
    """What a network predicts, without how sure it is: the first K of its outputs [N, 2K]; others as they are."""
    return prediction[:, : task.width] if task.predicts_variance else prediction


def _variance_metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None) -> dict[str, Any]:
    deviation = (prediction[:, task.width :].clamp(-30, 30) / 2).exp()
    if scaling is not None:
        deviation = deviation * scaling.std.double().cpu()
    centre, truth = _unscaled(means(task, prediction), scaling), _unscaled(target, scaling)
    surprise = nn.functional.gaussian_nll_loss(centre, truth, deviation.square(), full=True, eps=0, reduction="none")
    within = (truth - centre).abs() <= 1.96 * deviation
    return {"nll": surprise.sum(1).mean().item(), "coverage95": within.double().mean().item()}


def agreement(
    task: Task, prediction: Tensor, teacher: Tensor, scaling: Scaling | None = None, *, target: Tensor | None = None
) -> dict[str, float]:
    """How far a student says what its teacher says.

    Args:
        task: classification or regression.
        prediction: the student's logits [N, C], of tokens [N, L, C], or standardised values [N, K].
        teacher: the teacher's, for the same rows.
        scaling: what regression targets were standardised with.
        target: class indices, of which those of tokens that are -100 do not count; all tokens count without them.

    Returns:
        Classification: agreement, the share of rows with the same class, and kl, the mean KL(teacher || student) in
        nats. Several labels: agreement, the share of answers (yes or no to a label) that are the same, and kl, the same
        summed over the labels. Regression: rmse_to_teacher, in the target's own unit where `scaling` is given.

    Raises:
        UserError: as for `metrics`.
    """
    from torchmetrics.functional.regression import kl_divergence, mean_squared_error

    if task.kind == "classification":
        prediction, teacher = _counted(target, prediction), _counted(target, teacher)
    _check(task, prediction, "predictions")
    _check(task, teacher, "the teacher's predictions")
    if prediction.shape != teacher.shape:
        raise UserError(f"{len(prediction)} predictions cannot be compared with {len(teacher)} of the teacher")
    student, teacher = prediction.double().cpu(), teacher.double().cpu()
    if task.kind == "classification":
        same = student.argmax(1) == teacher.argmax(1)
        kl = kl_divergence(teacher.log_softmax(1), student.log_softmax(1), log_prob=True)
        return {"agreement": same.double().mean().item(), "kl": max(float(kl), 0.0)}
    if task.kind == "multilabel":
        return multilabel.agreement(student, teacher)
    student, teacher = _unscaled(means(task, student), scaling), _unscaled(means(task, teacher), scaling)
    rmse = mean_squared_error(student, teacher, squared=False, num_outputs=task.width)
    return {"rmse_to_teacher": rmse.mean().item()}


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
        task: classification or regression.
        predictions: the members' logits [M, N, C], of tokens [M, N, L, C], or standardised values [M, N, K] for the
            same rows.
        names: of the members.
        scaling: what regression targets were standardised with; errors are then in the target's own unit.
        target: class indices [N], or yes and no [N, C]; the oracle is left out without them. Regression has none.

    Returns:
        names, n (rows), and in rows and columns of the members, each against each:
        Classification: pairwise, the share of rows with another first choice, and mean_pairwise over the pairs (None
        for one member); all_agree, the share of rows where all choose the same; divergence, the mean generalised
        Jensen-Shannon divergence in nats (entropy of the mean probability less the mean entropy; Lin 1991); oracle, the
        share of rows where at least one member is right.
        Several labels: the same, of answers instead of rows; the divergence is summed over the labels.
        Regression: pairwise, the RMSE between two members as a mean over the outputs, and mean_pairwise; spread, the
        standard deviation over the members (of all M, not M - 1), as a mean over rows and outputs.

    Raises:
        UserError: as for `metrics`, or other numbers of names or targets.
    """
    if task.kind == "classification" and predictions.ndim == 4:
        predictions = torch.stack([_counted(target, member) for member in predictions])
        target = None if target is None else _counted(target, target)
    if predictions.ndim != 3 or not len(predictions) or len(names) != len(predictions):
        raise UserError(f"{len(names)} names do not fit predictions {list(predictions.shape)}, which are [M, N, C]")
    for name, prediction in zip(names, predictions, strict=True):
        _check(task, prediction, f"the predictions of {name}")
    members, count = predictions.double().cpu(), predictions.shape[1]
    found: dict[str, Any] = {"names": list(names), "n": count}
    if task.kind == "regression":
        members = _unscaled(members[..., : task.width], scaling)
        spread = members.std(dim=0, correction=0).mean().item()
        return found | _pairs(lambda a, b: (a - b).square().mean(0).sqrt().mean(), members) | {"spread": spread}
    several = task.kind == "multilabel"
    first = (members > 0).long() if several else members.argmax(2)
    shares = torch.stack([members.sigmoid(), (-members).sigmoid()], dim=3) if several else members.softmax(2)
    entropies, together = (torch.special.entr(p).flatten(-2 if several else -1) for p in (shares, shares.mean(0)))
    divergence = together.sum(1).mean() - entropies.sum(2).mean()
    found |= _pairs(lambda a, b: (a != b).double().mean(), first)
    found["all_agree"] = (first == first[0]).all(0).double().mean().item()
    found["divergence"] = max(divergence.item(), 0.0)
    if target is not None:
        if target.shape != first.shape[1:]:
            what = "rows of labels" if several else "class indices"
            raise UserError(f"{count} predictions need as many {what}, not {tuple(target.shape)}")
        found["oracle"] = (first == target.cpu()).any(0).double().mean().item()
    return found


def _pairs(distance: Callable[[Tensor, Tensor], Tensor], members: Tensor) -> dict[str, Any]:
    """The distance of each member to each other, and its mean over the pairs."""
    matrix = [[distance(a, b).item() for b in members] for a in members]
    pairs = [value for i, row in enumerate(matrix) for value in row[:i]]
    return {"pairwise": matrix, "mean_pairwise": math.fsum(pairs) / len(pairs) if pairs else None}


def _counted(target: Tensor | None, values: Tensor) -> Tensor:
    """Logits [N, L, C] or labels [N, L] of the tokens that count, one after the other; all else as it is."""
    if target is None:
        return values.flatten(0, 1) if values.ndim == 3 else values
    if target.ndim != 2:
        return values
    if values.shape[:2] != target.shape:
        raise UserError(f"{tuple(values.shape)} predictions do not fit labels of tokens {tuple(target.shape)}")
    return values[target.to(values.device) != IGNORED]


def _check(task: Task, values: Tensor, what: str) -> None:
    if values.ndim != 2 or values.shape[1] != task.outputs or not len(values):
        each = (
            "a mean and the logarithm of a variance for each output"
            if task.predicts_variance
            else "one a class or output"
        )
        raise UserError(
            f"{what} have shape {tuple(values.shape)}, not [rows, {task.outputs}]",
            hint=f"the network's head gives {task.outputs} numbers for each row: {each}",
        )
    broken = int((~values.isfinite()).any(1).sum())
    if broken:
        raise UserError(f"{what} of {broken} of {len(values)} rows are not finite numbers")


def _classification(task: Task, logits: Tensor, target: Tensor) -> dict[str, Any]:
    from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

    if target.min() < 0 or target.max() >= task.width:
        raise UserError(f"class indices {int(target.min())} to {int(target.max())} do not fit {task.width} classes")
    # The calibration error takes values within [0, 1] for probabilities and anything else for logits, so it is given
    # probabilities, never logits that might lie there by chance. A confidence of exactly 1 would get a bin of its own.
    confidence = logits.softmax(1).clamp(max=1 - 2**-24)
    ece = multiclass_calibration_error(confidence, target, num_classes=task.width, n_bins=ECE_BINS)
    confusion = multiclass_confusion_matrix(logits, target, num_classes=task.width).tolist()
    recalls = [row[i] / sum(row) for i, row in enumerate(confusion) if sum(row)]
    return {
        "accuracy": sum(row[i] for i, row in enumerate(confusion)) / len(target),
        "balanced_accuracy": math.fsum(recalls) / len(recalls),
        "nll": nn.functional.cross_entropy(logits, target).item(),
        "ece": float(ece),
        "per_class_accuracy": {
            name: row[i] / sum(row) if sum(row) else None
            for i, (name, row) in enumerate(zip(task.names, confusion, strict=True))
        },
        "confusion": confusion,
        "n": len(target),
    }


def _regression(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None) -> dict[str, Any]:
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

    learned = prediction, target
    prediction, target = _unscaled(prediction, scaling), _unscaled(target, scaling)
    # A share of the variance has no unit, unless the logarithm was learned; tiny units are better left out of it.
    held = (prediction, target) if scaling is not None and scaling.log else learned
    r2 = [_r2(p, t) for p, t in zip(held[0].T, held[1].T, strict=True)]
    mae = mean_absolute_error(prediction, target, num_outputs=task.width).reshape(-1).tolist()
    rmse = mean_squared_error(prediction, target, squared=False, num_outputs=task.width).reshape(-1).tolist()
    defined = [value for value in r2 if value is not None]
    found: dict[str, Any] = {
        "mae": sum(mae) / len(mae),
        "rmse": sum(rmse) / len(rmse),
        "r2": sum(defined) / len(defined) if defined else None,
        "n": len(target),
    }
    if task.width > 1:
        found["nrmse"] = (learned[0] - learned[1]).square().mean(0).sqrt().mean().item()
        found["per_output"] = {name: {"mae": mae[i], "rmse": rmse[i], "r2": r2[i]} for i, name in enumerate(task.names)}
    return found


def _r2(prediction: Tensor, target: Tensor) -> float | None:
    from torchmetrics.functional.regression import r2_score

    spread = target.std(correction=0) if len(target) > 1 else torch.zeros(())
    if spread <= 1e-12 * max(1.0, float(target.abs().max())):
        return None
    # torchmetrics calls sums of squares below 1e-4 zero, which would make a perfect score of any tiny unit.
    return float(r2_score((prediction - target.mean()) / spread, (target - target.mean()) / spread))


def _unscaled(values: Tensor, scaling: Scaling | None) -> Tensor:
    return values if scaling is None else scaling.restore(values)
