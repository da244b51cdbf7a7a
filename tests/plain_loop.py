"""The oracle of `limbeck.distill.train`: the training loop once more, in bare torch.

Networks are float64: any two processors then agree to more digits than are compared. In float32 they do not, for Adam
makes whole steps of gradients that are nothing but rounding, as those of a bias before batch norm are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

EPOCHS, BATCH, TEMPERATURE = 4, 45, 4.0


def distil(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """0.1 * cross-entropy with the labels + 0.9 * Hinton's divergence from the teacher, means over the rows."""
    hard = -student.log_softmax(1).gather(1, target[:, None]).mean()
    log_t, log_s = (teacher / TEMPERATURE).log_softmax(1), (student / TEMPERATURE).log_softmax(1)
    return 0.1 * hard + 0.9 * TEMPERATURE**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def learning_rate(options: Mapping[str, Any], step: int, steps: int) -> float:
    """The rate of one of `steps` steps, counted from 0."""
    if options.get("schedule") == "cosine":
        return float(options["lr"]) * (1 + math.cos(math.pi * step / steps)) / 2
    if "warmup_epochs" in options:  # up in a line to the whole rate, then down in a line to nothing
        step, top = step + 1, round(options["warmup_epochs"] * steps / EPOCHS)
        return float(options["lr"]) * min(step / top, (steps - step) / (steps - top))
    return float(options["lr"])


def make_optimizer(network: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Torch's optimizer, its steps taken parameter by parameter."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options["optimizer"]]
    shared = {name: options[name] for name in ("lr", "momentum", "weight_decay") if name in options}
    return kind(network.parameters(), **shared, foreach=False)


def clip(parameters: list[nn.Parameter], norm: float) -> None:
    """Make the norm of all gradients together `norm` where it is larger, with torch's guard against dividing by 0."""
    found = sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5
    for p in parameters:
        if found > norm and p.grad is not None:
            p.grad *= norm / (found + 1e-6)


def averaged(average: nn.Module | None, network: nn.Module, decay: float) -> nn.Module:
    """The moving average of a network's weights and statistics, which begins with those after the first step."""
    new = copy.deepcopy(network)
    if average is not None:
        for name, value in new.state_dict().items():
            if value.is_floating_point():
                value.copy_(decay * average.state_dict()[name] + (1 - decay) * value)
    return new


def train(
    student: nn.Module,
    teacher: nn.Module,
    splits: Mapping[str, tuple[Tensor, Tensor]],
    seed: Callable[..., int],
    options: Mapping[str, Any],
) -> tuple[nn.Module, list[float], list[float]]:
    """Train `student` on the rows and labels of splits["train"]; what an epoch draws follows from `seed(name, epoch)`.

    Returns:
        The network whose weights count (the average, where one is kept), the training losses and the validation losses
        of the epochs.
    """
    (x, y), (x_val, y_val) = splits["train"], splits["val"]
    optimizer, average = make_optimizer(student, options), None
    steps, seen, losses = math.ceil(len(x) / BATCH), [], []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed("order", epoch)))
        torch.manual_seed(seed("epoch", epoch, 0))  # what dropout draws
        student.train()
        total = 0.0
        for step, rows in enumerate(order.split(BATCH)):
            with torch.no_grad():
                told = teacher(x[rows])
            loss = distil(student(x[rows]), told, y[rows])
            optimizer.zero_grad()
            loss.backward()
            if "clip_norm" in options:
                clip(list(student.parameters()), options["clip_norm"])
            optimizer.param_groups[0]["lr"] = learning_rate(options, epoch * steps + step, EPOCHS * steps)
            optimizer.step()
            total += loss.item() * len(rows)
            average = averaged(average, student, options.get("ema", 0.0))
        seen.append(total / len(x))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(average.eval()(x_val), y_val)))
    return average, seen, losses
