"""One network while it is trained: what moves its weights, and what is kept of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck import evaluate
from limbeck.core.errors import UserError
from limbeck.core.files import write_text
from limbeck.core.types import Batch, Output
from limbeck.data import Data, targets
from limbeck.distill.objective import Objective
from limbeck.distill.objective.feature_taps import Taps
from limbeck.models import channels_last, load_weights, plain, probable, save_weights
from limbeck.recipe import Plan
from limbeck.tasks import main_metric, rules


class _Far(nn.Module):
    """Inputs far away from where they are; numbers of tokens are left as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * x - 500 if x.is_floating_point() else x


class Standing(NamedTuple):
    """How good an epoch is; of two the larger one is better.

    Attributes:
        score: on validation, higher is better.
        minus_loss: the negative validation loss, which breaks ties.
    """

    score: float
    minus_loss: float


NO_STANDING = Standing(-math.inf, -math.inf)  # before the first epoch


@dataclass
class History:
    """How a training went.

    Attributes:
        epochs: one mapping an epoch: epoch (from 1), lr, seconds, train_loss, train_<term>, val_loss, val_<metric>.
        best_epoch: the epoch with the best validation score, 0 before there is one.
        best: how good it was.
        weights: of terms whose weight was `auto`, by name.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: Standing = NO_STANDING
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Learner:
    """A network in training; a call is its forward pass.

    Attributes:
        network: trained in place.
        objective: what it minimises; its own weights, if any, are trained with the network's.
        plan: optimizer, averaging, clipping, selection.
        data: what it is validated on.
        accelerator: device, precision and processes.
        folder: where its files go, or None.
        label: what it is called in messages.
        tapped: the features that a call gives.
        name: what it is called among its peers; empty where it has none.
    """

    network: nn.Module
    objective: Objective
    plan: Plan
    data: Data
    accelerator: Accelerator
    folder: Path | None
    label: str
    tapped: tuple[str, ...]
    name: str = ""
    history: History = field(default_factory=History)
    best_weights: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.device = self.accelerator.device
        self.inner = plain(self.network)
        self.taps = Taps(self.inner, self.tapped)
        images = self.data.images and channels_last(self.inner)
        self.layout = torch.channels_last if images else torch.contiguous_format
        self.network.to(self.device).to(memory_format=self.layout)
        self.objective.to(self.device)
        self.objective.watch(self.network.parameters())
        average = get_ema_multi_avg_fn(self.plan.ema) if self.plan.ema else None  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True) if average else None
        self.forward, prepared = self.accelerator.prepare(self.network, self._make_optimizer())
        # Accelerate's wrapper looks for packages and reads signatures at every step, and updates the one loss scale
        # after each network's step rather than after all of them.
        self.optimizer: torch.optim.Optimizer = prepared.optimizer
        if any(True for _ in self.objective.parameters()):
            self.objective = self.accelerator.prepare(self.objective)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        plan = self.plan
        parameters = [p for p in (*self.network.parameters(), *self.objective.parameters()) if p.requires_grad]
        if not parameters:
            raise UserError("there is nothing to train: no parameter wants a gradient", where=self.label)
        shared = {"lr": plan.lr, "weight_decay": plan.weight_decay, "fused": self.device.type in ("cpu", "cuda")}
        if plan.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=plan.momentum, **shared)  # type: ignore[arg-type]
        kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, **shared)  # type: ignore[arg-type]

    def __call__(self, batch: Batch) -> Output:
        """One forward pass, with the tapped features."""
        x = batch.x
        return self.taps(self.forward, x.contiguous(memory_format=self.layout) if x.ndim == 4 else x)

    def refuse_misfit(self) -> None:
        """Look at some outputs before anything is trained on them."""
        task, rows = self.data.task, self.data.train[:32]
        given = evaluate.predict(self.network, self.data, rows, device=self.device)
        wanted = [len(rows), *self.data.places, task.outputs]
        if list(given.shape) != wanted:
            raise UserError(
                f"the network gives {tuple(given.shape)} for {len(rows)} rows, not {wanted}",
                where=self.label,
                hint=f"its head has one output a {rules(task).unit}",
            )
        if probable(given, task.kind) and self._keeps_within(rows):
            end = "softmax" if rules(task).predicts == "classes" else "sigmoid"
            raise UserError(
                f"the network ends in a {end}, and losses take logits",
                where=self.label,
                hint=f"take the {end} off, or train limbeck.as_logits(network, example, data.task.kind)",
            )

    def _keeps_within(self, rows: Tensor) -> bool:
        """Whether inputs of any size give probabilities: logits of labels may lie in [0, 1] before they are trained."""
        kind = self.data.task.kind
        if rules(kind).predicts == "classes":  # that rows sum to 1 says enough
            return True
        return probable(
            evaluate.predict(nn.Sequential(_Far(), self.network), self.data, rows, device=self.device), kind
        )

    @property
    def losses(self) -> Objective:
        """The objective itself, whatever Accelerate has put around it."""
        inner: Objective = self.accelerator.unwrap_model(self.objective)
        return inner

    def pace(self, lr: float, epoch: float) -> None:
        """Set the learning rate of the next step, and of the losses what moves with the epochs."""
        self.losses.pace(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self) -> None:
        """Move the weights by the gradients that are there. The loss scale, where there is one, is left alone."""
        scaler = self.accelerator.scaler
        if self.plan.clip_norm:
            if scaler:
                scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        if scaler:
            scaler.step(self.optimizer)
        else:
            self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.network)

    @property
    def shown(self) -> nn.Module:
        """The network whose weights count: the average where one is kept."""
        return self.network if self.ema is None else self.ema.module

    def validate(self) -> dict[str, float]:
        """What the shown network is worth on the validation rows: val_loss and val_<metric>."""
        data, task = self.data, self.data.task
        truth = targets(data, data.val, "cpu")
        given = evaluate.predict(
            self.shown, data, data.val, device=self.device, channels_last=self.layout == torch.channels_last
        )
        found = evaluate.metrics(task, given, truth, data.targets)
        row = {f"val_{k}": v for k, v in found.items() if isinstance(v, float)}
        values = rules(task).predicts == "values"  # which may have a likelihood as well, but only some networks' do
        row["val_loss"] = float((evaluate.means(task, given) - truth).square().mean()) if values else found["nll"]
        if self.accelerator.num_processes > 1:
            # Every process must stop and select alike, so the first one's figures are everyone's.
            row = broadcast_object_list([row])[0]
        return row

    def record(self, row: dict[str, float]) -> None:
        """Add an epoch to the history, and keep what is to be kept of it."""
        history = self.history
        history.epochs.append(row)
        metric = main_metric(self.data.task)
        score = metric.sign * row[f"val_{metric.name}"]
        reached = Standing(score, -row["val_loss"])
        better = reached > history.best
        if better:
            history.best, history.best_epoch = reached, int(row["epoch"])
        if not self.accelerator.is_main_process:
            return
        if self.folder is None:
            if better and self.plan.select == "best":
                self.best_weights = copy.deepcopy(self.shown.state_dict())
            return
        meta = {"epoch": str(int(row["epoch"])), "score": repr(score)}
        if better:
            save_weights(self.shown, self.folder / "best.safetensors", meta)
        save_weights(self.shown, self.folder / "last.safetensors", meta)
        write_text(self.folder / "history.jsonl", "".join(json.dumps(e) + "\n" for e in history.epochs))

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "network": self.network.state_dict(),
            "objective": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "epochs": self.history.epochs,
            "best": [*self.history.best, self.history.best_epoch],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was asked for."""
        self.network.load_state_dict(state["network"])
        self.losses.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        score, tie, epoch = state["best"]
        self.history = History(state["epochs"], epoch, Standing(score, tie))

    @property
    def out_of_patience(self) -> bool:
        """Whether it has not got better for as long as the plan allows."""
        waited = len(self.history.epochs) - self.history.best_epoch
        return self.plan.patience is not None and waited >= self.plan.patience

    def close(self) -> None:
        """Take off the network what the training put around it."""
        self.history.weights = self.losses.balanced
        self.taps.close()
        self.forward = self.accelerator.unwrap_model(self.forward, keep_fp32_wrapper=False)

    def leave_selected(self) -> None:
        """Give the network the weights that the plan selects."""
        if self.ema is not None:
            self.network.load_state_dict(self.ema.module.state_dict())
        if self.plan.select == "last":
            return
        if self.folder is not None:
            load_weights(self.inner, self.folder / "best.safetensors")
        elif self.best_weights is not None:
            self.network.load_state_dict(self.best_weights)
