"""The learning rate of every moment."""

from __future__ import annotations

import math

from limbeck.recipe import Plan


def learning_rate(plan: Plan, epoch: float) -> float:
    """The learning rate at a moment, in epochs since the start: linear warm-up, then the schedule.

    Cosine is Loshchilov and Hutter, 2017, without restarts: past `t_max` it rises again, as torch's does.
    """
    if epoch < plan.warmup_epochs:
        return plan.lr * epoch / plan.warmup_epochs
    schedule, since = plan.schedule, epoch - plan.warmup_epochs
    span = schedule.t_max or plan.epochs - plan.warmup_epochs
    if schedule.name == "cosine":
        return schedule.eta_min + (plan.lr - schedule.eta_min) * (1 + math.cos(math.pi * since / span)) / 2
    if schedule.name == "linear":
        return plan.lr + (schedule.eta_min - plan.lr) * min(since / span, 1.0)
    if schedule.name == "step":
        assert schedule.step_size is not None
        return plan.lr * schedule.gamma ** int(since / schedule.step_size)
    return plan.lr


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """How many optimizer steps an epoch over so many rows has."""
    steps = math.ceil(rows / batch_size)
    # Batch norm cannot learn from one row, and one row is no loss.
    return steps - 1 if rows % batch_size == 1 and steps > 1 else steps
