"""Measured values: one or several for each row, with or without how sure the network is of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError
from limbeck.core.metrics import METRICS, Metric
from limbeck.core.types import Task
from limbeck.core.words import listed
from limbeck.tasks.normal_form import check, pairs
from limbeck.tasks.rules import Guess, TaskRules

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from limbeck.core.scaling import Scaling


def main(task: Task) -> Metric:
    """RMSE; of several values that of each in its standard deviations, for in pounds and inches it is of pounds."""
    return METRICS["nrmse" if task.width > 1 else "rmse"]


def means(task: Task, prediction: Tensor) -> Tensor:
    """What a network predicts, without how sure it is: the first K of its outputs [N, 2K]; others as they are."""
    return prediction[:, : task.width] if task.predicts_variance else prediction


def metrics(task: Task, prediction: Tensor, target: Tensor, scaling: Scaling | None = None) -> dict[str, Any]:
    """Of standardised values [N, K] and targets [N, K]; errors are in the target's own unit where there is a scaling.

    Returns:
        mae, rmse and r2 as means over the outputs, n, and where there are several outputs per_output and nrmse, the
        mean of their RMSE in what they were standardised with (of the logarithm, where that is learned), so that no
        unit counts more than another. r2 is None where it is not defined: fewer than two rows, or an output that never
        varies. Where networks say how sure they are, also nll, the mean negative log likelihood of a row under their
        Gaussians (nats), and coverage95, the share of values within 1.96 of their standard deviations.
    """
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

    given, truth = _rows(task, prediction, target)
    learned = means(task, given), truth
    centre, true = (_own(values, scaling) for values in learned)
    # A share of the variance has no unit, unless the logarithm was learned; tiny units are better left out of it.
    held = (centre, true) if scaling is not None and scaling.log else learned
    r2 = [_r2(p, t) for p, t in zip(held[0].T, held[1].T, strict=True)]
    mae = mean_absolute_error(centre, true, num_outputs=task.width).reshape(-1).tolist()
    rmse = mean_squared_error(centre, true, squared=False, num_outputs=task.width).reshape(-1).tolist()
    defined = [value for value in r2 if value is not None]
    found: dict[str, Any] = {
        "mae": sum(mae) / len(mae),
        "rmse": sum(rmse) / len(rmse),
        "r2": sum(defined) / len(defined) if defined else None,
        "n": len(true),
    }
    if task.width > 1:
        found["nrmse"] = (learned[0] - learned[1]).square().mean(0).sqrt().mean().item()
        found["per_output"] = {name: {"mae": mae[i], "rmse": rmse[i], "r2": r2[i]} for i, name in enumerate(task.names)}
    return found | (_of_variances(task, given, centre, true, scaling) if task.predicts_variance else {})


def _rows(task: Task, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    check(task, prediction, "predictions")
    check(task, target, "targets", width=task.width)
    if len(target) != len(prediction):
        raise UserError(f"{len(prediction)} predictions cannot be compared with {len(target)} targets")
    return prediction.double().cpu(), target.double().cpu()


def _of_variances(
    task: Task, prediction: Tensor, centre: Tensor, true: Tensor, scaling: Scaling | None
) -> dict[str, Any]:
    from torch import nn

    deviation = (prediction[:, task.width :].clamp(-30, 30) / 2).exp()
    if scaling is not None:
        deviation = deviation * scaling.std.double().cpu()
    surprise = nn.functional.gaussian_nll_loss(centre, true, deviation.square(), full=True, eps=0, reduction="none")
    within = (true - centre).abs() <= 1.96 * deviation
    return {"nll": surprise.sum(1).mean().item(), "coverage95": within.double().mean().item()}


def _r2(prediction: Tensor, target: Tensor) -> float | None:
    from torchmetrics.functional.regression import r2_score

    spread = float(target.std(correction=0)) if len(target) > 1 else 0.0
    if spread <= 1e-12 * max(1.0, float(target.abs().max())):
        return None
    # torchmetrics calls sums of squares below 1e-4 zero, which would make a perfect score of any tiny unit.
    return float(r2_score((prediction - target.mean()) / spread, (target - target.mean()) / spread))


def _own(values: Tensor, scaling: Scaling | None) -> Tensor:
    return values if scaling is None else scaling.restore(values)


def agreement(task: Task, prediction: Tensor, teacher: Tensor, scaling: Scaling | None = None) -> dict[str, float]:
    """The RMSE to what the teacher says, in the target's own unit where there is a scaling."""
    from torchmetrics.functional.regression import mean_squared_error

    student, teacher = (_own(means(task, values), scaling) for values in (prediction, teacher))
    rmse = mean_squared_error(student, teacher, squared=False, num_outputs=task.width)
    return {"rmse_to_teacher": rmse.mean().item()}


def disagreement(
    task: Task, members: Tensor, target: Tensor | None = None, scaling: Scaling | None = None
) -> dict[str, Any]:
    """Of values [M, N, K]: see `evaluate.disagreement`."""
    own = _own(members[..., : task.width], scaling)
    spread = own.std(dim=0, correction=0).mean().item()
    return pairs(lambda a, b: (a - b).square().mean(0).sqrt().mean(), own) | {"spread": spread}


def error(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of standardised values [N, K]."""
    from torch import nn

    return nn.functional.mse_loss(means(task, prediction), target)


def row_scores(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """The squared error of each row, a mean over the values, [N]."""
    scores: Tensor = ((means(task, prediction) - target).double() ** 2).mean(1)
    return scores


def drawn_scores(task: Task, prediction: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """The squared error of each drawing of the rows."""
    errors = row_scores(task, prediction, target)
    return lambda counts: counts @ errors / counts.sum(1)


def said(names: Sequence[str], values: np.ndarray[Any, Any], top: int) -> dict[str, Any]:
    """The values [K] by name; what comes after them is how sure the network is."""
    return {"values": dict(zip(names, map(float, values), strict=False))}


def _meaning(task: Task) -> str:
    variances = ", then the logarithm of the variance of each" if task.predicts_variance else ""
    return f"one number for each value, in its own unit{variances}"


RULES = TaskRules(
    name="regression",
    predicts="values",
    unit="value to predict",
    beside="r2",
    label_loss="label_mse",
    recovery={"label_mse": 0.5, "mse": 0.5},
    searched=("mse", "teacher_bounded", "attentive_imitation"),
    ensembles=("mean", "median", "weighted", "stacked"),
    no_confidence="measured values have no confidence",
    mixes=False,
    goal=lambda names: f"values to predict: {listed(list(names))}",
    gives="values in their own units",
    main=main,
    metrics=metrics,
    agreement=agreement,
    disagreement=disagreement,
    same=None,
    error=error,
    row_scores=row_scores,
    drawn_scores=drawn_scores,
    guess=lambda task, target: Guess("r2", 0.0, "always saying the mean"),
    meaning=_meaning,
    said=said,
    program=lambda names, few, outputs: f"print(dict(zip({names}, {outputs}[0].tolist())))",
)
