"""The training loop, on Accelerate: one student, one objective, perhaps a teacher.

A run can stop at any moment: at the end of every epoch a checkpoint is put in place atomically, and everything random
in an epoch (order, views, dropout) follows from (seed, epoch) alone, so a resumed training takes the same steps as one
that was never interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck import evaluate
from limbeck.data import Data, batches, pixels, targets
from limbeck.devices import make_accelerator
from limbeck.errors import UserError
from limbeck.models import channels_last, gives_probabilities, load_weights, plain, save_weights
from limbeck.objective import Objective
from limbeck.recipe import Plan, Run
from limbeck.runtime import Progress, derive_seed, seed_everything, write_bytes, write_text
from limbeck.taps import Taps
from limbeck.types import Batch, Teacher

Augmentation = Callable[[Batch], Batch]


@dataclass
class History:
    """How a training went.

    Attributes:
        epochs: one mapping an epoch: epoch (from 1), lr, seconds, train_loss, train_<term>, val_loss, val_<metric>.
        best_epoch: the epoch with the best validation score, 0 before there is one.
        best: (validation score, higher is better; negative validation loss, which breaks ties).
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)


def fit(
    student: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    data: Data,
    plan: Plan,
    *,
    seed: int = 0,
    folder: Path | None = None,
    augment: Augmentation | None = None,
    run: Run | None = None,
    progress: Progress | None = None,
    label: str = "student",
) -> History:
    """Train `student` in place on the training rows and leave it with the selected weights.

    Args:
        student: gives logits [B, C] or values [B, K].
        objective: what is minimised.
        teacher: asked for every batch when the objective learns from one.
        data: rows and splits; the test split is never looked at.
        plan: epochs, optimizer, schedule and so on.
        seed: everything random here follows from it.
        folder: where best.safetensors, last.safetensors, history.jsonl and checkpoint.pt go; a training found there is
            continued. None: nothing is written.
        augment: applied to every training batch.
        run: device, precision, trackers.
        progress: where progress is shown.
        label: what it is called there.

    Raises:
        UserError: the loss becomes NaN or infinite; the disk is full.
    """
    return _Loop(
        student=student,
        objective=objective,
        teacher=teacher,
        data=data,
        plan=plan,
        seed=seed,
        folder=folder,
        augment=augment,
        settings=run or Run(),
        progress=progress or Progress(quiet=True),
        label=label,
    ).run()


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


@dataclass(eq=False)
class _Loop:
    """The state of one training; its methods are the steps of `fit` in their order."""

    student: nn.Module
    objective: Objective
    teacher: Teacher | None
    data: Data
    plan: Plan
    seed: int
    folder: Path | None
    augment: Augmentation | None
    settings: Run
    progress: Progress
    label: str
    history: History = field(default_factory=History)
    best_weights: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.objective.needs_teacher:
            self.teacher = None
        elif self.teacher is None:
            raise UserError("the objective learns from a teacher, and there is none", where=self.label)
        self.accelerator = make_accelerator(self.settings, self.folder)
        self.device = self.accelerator.device
        self.inner = plain(self.student)
        self.taps = Taps(self.inner, self.objective.student_taps)
        images = self.data.images and channels_last(self.inner)
        self.layout = torch.channels_last if images else torch.contiguous_format
        self.student.to(self.device).to(memory_format=self.layout)
        self.objective.to(self.device)
        average = get_ema_multi_avg_fn(self.plan.ema) if self.plan.ema else None  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.student, multi_avg_fn=average, use_buffers=True) if average else None
        self.forward, self.optimizer = self.accelerator.prepare(self.student, self._make_optimizer())
        if any(True for _ in self.objective.parameters()):
            self.objective = self.accelerator.prepare(self.objective)

    def _make_optimizer(self) -> Any:
        plan = self.plan
        parameters = [p for p in (*self.student.parameters(), *self.objective.parameters()) if p.requires_grad]
        if not parameters:
            raise UserError("there is nothing to train: no parameter wants a gradient", where=self.label)
        shared = {"lr": plan.lr, "weight_decay": plan.weight_decay, "fused": self.device.type in ("cpu", "cuda")}
        if plan.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=plan.momentum, **shared)  # type: ignore[arg-type]
        kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, **shared)  # type: ignore[arg-type]

    def run(self) -> History:
        rows, size = len(self.data.train), self.plan.batch_size
        if rows == 0:
            raise UserError("there are no training rows", where=self.label)
        self.steps = math.ceil(rows / size)
        if rows % size == 1 and self.steps > 1:
            self.steps -= 1  # batch norm cannot learn from one row, and one row is no loss
        self._refuse_misfit()
        start = self._resume()
        if self.settings.trackers:
            plan = {k: v for k, v in self.plan.model_dump(mode="json").items() if isinstance(v, int | float | str)}
            self.accelerator.init_trackers(self.label, config={**plan, "schedule": self.plan.schedule.name})
        try:
            with self.progress.bar(self.label, self.plan.epochs * self.steps) as advance:
                for epoch in range(start, self.plan.epochs):
                    if self._out_of_patience():
                        break
                    self._epoch(epoch, advance)
        finally:
            self.taps.close()
            self.forward = self.accelerator.unwrap_model(self.forward, keep_fp32_wrapper=False)
        if self.settings.trackers:
            self.accelerator.end_training()
        self._leave_selected()
        return self.history

    def _refuse_misfit(self) -> None:
        """Look at some outputs before anything is trained on them."""
        task, rows = self.data.task, self.data.train[:32]
        given = evaluate.predict(self.student, self.data, rows, device=self.device)
        if given.shape != (len(rows), task.width):
            raise UserError(
                f"the network gives {tuple(given.shape)} for {len(rows)} rows, not [{len(rows)}, {task.width}]",
                where=self.label,
                hint=f"its head has one output a {'class' if task.kind == 'classification' else 'value to predict'}",
            )
        if task.kind == "classification" and gives_probabilities(given):
            raise UserError(
                "the network ends in a softmax, and losses take logits",
                where=self.label,
                hint="take the softmax off, or train limbeck.as_logits(network, example)",
            )

    def _epoch(self, epoch: int, advance: Callable[[int, str], None]) -> None:
        started, shown = time.monotonic(), 0.0
        seed_everything(self.seed, "epoch", epoch, self.accelerator.process_index)
        self.forward.train()
        totals = torch.zeros(self.steps, device=self.device)
        sums: dict[str, Tensor] = {}
        seen = 0
        for step, (batch, count, whole) in enumerate(self._batches(epoch)):
            # Warm-up counts the step it is about to take, or the first one would be for nothing.
            lr = learning_rate(self.plan, epoch + (step + bool(self.plan.warmup_epochs)) / self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            losses = self._step(batch, count * self.accelerator.num_processes / whole)
            totals[step] = losses["total"]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            seen += whole
            if time.monotonic() - shown > 0.25:
                # Reading a loss waits for the device, so it is not done at every step.
                shown = time.monotonic()
                self._refuse_nonfinite(totals[: step + 1], epoch)
                advance(epoch * self.steps + step + 1, f"epoch {epoch + 1} loss {losses['total'].item():.4f}")
        self._refuse_nonfinite(totals, epoch)
        row = {"epoch": epoch + 1, "lr": lr}
        means = self.accelerator.reduce(sums, reduction="sum")
        row |= {f"train_{'loss' if name == 'total' else name}": float(v) / seen for name, v in means.items()}
        row |= self._validate()
        row["seconds"] = round(time.monotonic() - started, 3)
        self._record(row)
        if self.settings.trackers:
            self.accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=epoch + 1)
        metric, _ = evaluate.main_metric(self.data.task)
        note = f"epoch {epoch + 1}/{self.plan.epochs}  val {metric} {row[f'val_{metric}']:.4f}"
        advance((epoch + 1) * self.steps, note)

    def _batches(self, epoch: int) -> Iterator[tuple[Batch, int, int]]:
        """This process's part of every batch, how many rows of it count, and how many rows the whole batch has."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        order = derive_seed(self.seed, "order", epoch)
        rows, size = len(self.data.train), self.plan.batch_size
        source = batches(
            self.data, self.data.train, size, device=self.device, order=order, view=epoch, rank=rank, world=world
        )
        for step, part in enumerate(source):
            if step == self.steps:
                return
            batch, count = part, len(part.index)
            if not count:
                # The last batch can be smaller than the number of processes, yet every process must take the step.
                row = self.data.train[:1]
                x, y = pixels(self.data, row, self.device), targets(self.data, row, self.device)
                batch = Batch(x, y, row.to(self.device), epoch)
            yield (self.augment(batch) if self.augment else batch), count, min(size, rows - step * size)

    def _step(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """One optimizer step; `share` makes the mean over this part its part of the mean over the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        parts = _split(batch, self.plan.accumulate)
        for number, part in enumerate(parts, start=1):
            fraction = len(part.index) / len(batch.index)
            last = number == len(parts)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.forward):
                x = part.x.contiguous(memory_format=self.layout) if part.x.ndim == 4 else part.x
                told = self.teacher(part) if self.teacher else None
                output = self.taps(self.forward, x)
                losses = self.objective(output, told, part)
                self.accelerator.backward(losses["total"] * (fraction * share))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * fraction
        if self.plan.clip_norm:
            self.accelerator.clip_grad_norm_(self.student.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.student)
        return sums

    def _refuse_nonfinite(self, totals: Tensor, epoch: int) -> None:
        bad = (~torch.isfinite(totals)).nonzero()
        if not len(bad):
            return
        step = int(bad[0]) + 1
        kept = "the weights of the last finished epoch are kept" if self.history.epochs else "no epoch was finished"
        raise UserError(
            f"the loss became {float(totals[step - 1])} in epoch {epoch + 1}, step {step} of {self.steps}; {kept}",
            where=self.label,
            hint="lower lr, set clip_norm (1.0 is usual), add warmup_epochs, or use precision float32",
        )

    @property
    def _shown(self) -> nn.Module:
        """The network whose weights count: the average where one is kept."""
        return self.student if self.ema is None else self.ema.module

    def _validate(self) -> dict[str, float]:
        data = self.data
        truth = targets(data, data.val, "cpu")
        given = evaluate.predict(
            self._shown, data, data.val, device=self.device, channels_last=self.layout == torch.channels_last
        )
        found = evaluate.metrics(data.task, given, truth, data.targets)
        row = {f"val_{k}": v for k, v in found.items() if isinstance(v, float)}
        row["val_loss"] = found["nll"] if data.task.kind == "classification" else float((given - truth).square().mean())
        if self.accelerator.num_processes > 1:
            # Every process must stop and select alike, so the first one's figures are everyone's.
            row = broadcast_object_list([row])[0]
        return row

    def _record(self, row: dict[str, float]) -> None:
        history = self.history
        history.epochs.append(row)
        metric, higher = evaluate.main_metric(self.data.task)
        score = row[f"val_{metric}"] if higher else -row[f"val_{metric}"]
        better = (score, -row["val_loss"]) > history.best
        if better:
            history.best, history.best_epoch = (score, -row["val_loss"]), int(row["epoch"])
        if not self.accelerator.is_main_process:
            return
        if self.folder is None:
            if better and self.plan.select == "best":
                self.best_weights = copy.deepcopy(self._shown.state_dict())
            return
        meta = {"epoch": str(int(row["epoch"])), "score": repr(score)}
        if better:
            save_weights(self._shown, self.folder / "best.safetensors", meta)
        save_weights(self._shown, self.folder / "last.safetensors", meta)
        write_text(self.folder / "history.jsonl", "".join(json.dumps(e) + "\n" for e in history.epochs))
        # Last, and in one step: what it promises is on the disk before it says so.
        buffer = io.BytesIO()
        torch.save(self._state(), buffer)
        write_bytes(self.folder / "checkpoint.pt", buffer.getbuffer())

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "student": self.student.state_dict(),
            "objective": self.accelerator.unwrap_model(self.objective).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": scaler.state_dict() if scaler else None,
            "epochs": self.history.epochs,
            "best": [*self.history.best, self.history.best_epoch],
        }

    def _resume(self) -> int:
        path = self.folder / "checkpoint.pt" if self.folder else None
        if path is None or not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self._restore(state)
        except Exception as error:  # whatever is wrong with the file, there is one way out
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot be read ({reason})", where=str(path), hint="remove it to train anew") from error
        self.progress.say(f"{self.label}: goes on after epoch {len(self.history.epochs)} of {self.plan.epochs}")
        return len(self.history.epochs)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.accelerator.unwrap_model(self.objective).load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        score, tie, epoch = state["best"]
        self.history = History(state["epochs"], epoch, (score, tie))

    def _out_of_patience(self) -> bool:
        waited = len(self.history.epochs) - self.history.best_epoch
        return self.plan.patience is not None and waited >= self.plan.patience

    def _leave_selected(self) -> None:
        """Give the student the weights that the plan selects."""
        self.accelerator.wait_for_everyone()
        if self.ema is not None:
            self.student.load_state_dict(self.ema.module.state_dict())
        if self.plan.select == "last":
            return
        if self.folder is not None:
            load_weights(self.inner, self.folder / "best.safetensors")
        elif self.best_weights is not None:
            self.student.load_state_dict(self.best_weights)


def _split(batch: Batch, parts: int) -> list[Batch]:
    """A batch in `parts` nearly equal pieces, empty ones left out."""
    if parts == 1:
        return [batch]
    pieces = zip(batch.x.chunk(parts), batch.y.chunk(parts), batch.index.chunk(parts), strict=True)
    return [Batch(x, y, index, batch.view) for x, y, index in pieces]
