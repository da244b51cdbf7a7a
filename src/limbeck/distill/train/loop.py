"""The loop: one or several networks, moved together by losses on the same batches."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.core.errors import DivergedError, UserError
from limbeck.core.files import write_bytes
from limbeck.core.progress import Progress
from limbeck.core.seeding import derive_seed, seed_everything
from limbeck.core.types import IGNORED, Batch, Fetch, Output, Teacher
from limbeck.data import Data, again, count_labels, fetcher, parts, shuffled
from limbeck.distill.objective import Objective
from limbeck.distill.train.accelerator import make_accelerator
from limbeck.distill.train.learner import History, Learner
from limbeck.distill.train.schedule import learning_rate, steps_in_epoch
from limbeck.distill.train.tally import Tally
from limbeck.recipe import Plan, Run
from limbeck.tasks import main_metric


def fit(
    student: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    data: Data,
    plan: Plan,
    *,
    seed: int = 0,
    folder: Path | None = None,
    fetch: Fetch | None = None,
    views: int = 0,
    run: Run | None = None,
    progress: Progress | None = None,
    label: str = "student",
) -> History:
    """Train `student` in place on the training rows and leave it with the selected weights.

    Args:
        student: gives logits [B, C] or values [B, K].
        objective: what is minimised.
        teacher: queried for every batch when the objective learns from one.
        data: rows and splits; the test split is never looked at. Rows without a label are for an objective that learns
            from a teacher; any other goes through the labelled ones again, for as many steps an epoch.
        plan: epochs, optimizer, schedule and so on.
        seed: everything random here follows from it.
        folder: where best.safetensors, last.safetensors, history.jsonl and checkpoint.pt go; a training found there is
            continued. None: nothing is written.
        fetch: gives the training batches, augmented and on the device. None: the rows of `data` as they are.
        views: how many views of every row there are: view = epoch mod views. 0: another one in every epoch.
        run: device, precision, trackers.
        progress: where progress is shown.
        label: what it is called there.

    Raises:
        UserError: the loss becomes NaN or infinite; the disk is full.
    """
    if objective.needs_teacher and teacher is None:
        raise UserError("the objective learns from a teacher, and there is none", where=label)
    settings = run or Run()
    accelerator = make_accelerator(settings, folder)
    learner = Learner(student, objective, plan, data, accelerator, folder, label, objective.student_taps)
    source = teacher if objective.needs_teacher else None

    def losses(batch: Batch, labelled_share: float) -> list[Mapping[str, Tensor]]:
        shown = source(batch) if source else None
        return [learner.objective(learner(batch), shown, batch, labelled_share=labelled_share)]

    fetch = fetch or fetcher(data, accelerator.device)
    _Loop([learner], losses, data, plan, seed, folder, fetch, views, settings, accelerator, progress, label).run()
    return learner.history


def fit_mutual(
    peers: Sequence[nn.Module],
    objectives: Sequence[Objective],
    data: Data,
    plan: Plan,
    *,
    seed: int = 0,
    folder: Path | None = None,
    fetch: Fetch | None = None,
    views: int = 0,
    run: Run | None = None,
    progress: Progress | None = None,
    label: str = "peers",
) -> list[History]:
    """Train K peers in place on the same batches, each the others' teacher, and leave each with its selected weights.

    Zhang et al. 2018, "Deep Mutual Learning": a peer's loss is the mean over the other peers of its objective with
    that peer's output as the teacher's, which is taken as a constant; terms that learn from labels alone are not
    changed by it. All peers are moved at once, by one forward pass of each; the paper moves one after the other, each
    after a new forward pass of those before it (its algorithm 1).

    Each peer is selected by its own validation score, and training stops early when no peer has got better for
    `plan.patience` epochs. Peers draw different dropout.

    Args:
        peers: two or more networks that give logits [B, C] or values [B, K]; each is better begun from weights of its
            own, or all will give the same.
        objectives: what each of them minimises. One without weights of its own may be given to several peers.
        data: as for `fit`, and so are the arguments not named here.
        plan: the same for all.
        seed: everything random here follows from it.
        folder: where checkpoint.pt of all peers goes, and below it peer0, peer1 and so on with the files of each.
        fetch: gives the training batches.
        views: how many views of every row there are.
        run: device, precision, trackers.
        progress: where progress is shown.
        label: what they are called there.

    Returns:
        One history a peer; `seconds` are those of all peers together.

    Raises:
        UserError: fewer than two peers, peers that share weights, a loss that becomes NaN or infinite, a full disk.
    """
    _refuse_misfits(peers, objectives, label)
    settings = run or Run()
    accelerator = make_accelerator(settings, folder)
    learners = []
    for number, (peer, objective) in enumerate(zip(peers, objectives, strict=True)):
        others = [other for place, other in enumerate(objectives) if place != number]
        taps = dict.fromkeys((*objective.student_taps, *(tap for other in others for tap in other.teacher_taps)))
        name = f"peer{number}"
        own = folder / name if folder else None
        learners.append(
            Learner(peer, objective, plan, data, accelerator, own, f"{label}, {name}", tuple(taps), name=name)
        )

    def losses(batch: Batch, labelled_share: float) -> list[Mapping[str, Tensor]]:
        given = [learner(batch) for learner in learners]
        constants = [_constant(output) for output in given]
        found = []
        for n, learner in enumerate(learners):
            others = [other for place, other in enumerate(constants) if place != n]
            shown = [learner.objective(given[n], other, batch, labelled_share=labelled_share) for other in others]
            found.append(_mean(shown))
        return found

    fetch = fetch or fetcher(data, accelerator.device)
    _Loop(learners, losses, data, plan, seed, folder, fetch, views, settings, accelerator, progress, label).run()
    return [learner.history for learner in learners]


def _refuse_misfits(peers: Sequence[nn.Module], objectives: Sequence[Objective], label: str) -> None:
    if len(peers) < 2:
        raise UserError(f"learning from each other takes two peers or more, not {len(peers)}", where=label)
    if len(objectives) != len(peers):
        raise UserError(f"there are {len(peers)} peers and {len(objectives)} objectives", where=label)
    weights = [id(p) for pair in zip(peers, objectives, strict=True) for module in pair for p in module.parameters()]
    if len(set(weights)) < len(weights):
        hint = "give each peer a network of its own, and an objective of its own if that has weights"
        raise UserError("two peers share weights", where=label, hint=hint)


def _constant(output: Output) -> Output:
    return Output(output.prediction.detach(), {name: feature.detach() for name, feature in output.features.items()})


def _mean(losses: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    if len(losses) == 1:
        return losses[0]
    return {name: torch.stack([values[name] for values in losses]).mean() for name in losses[0]}


@dataclass(eq=False)
class _Loop:
    """One training; its methods are its steps. `losses` is given a batch and which share of an epoch has labels."""

    learners: list[Learner]
    losses: Callable[[Batch, float], list[Mapping[str, Tensor]]]
    data: Data
    plan: Plan
    seed: int
    folder: Path | None
    fetch: Fetch
    views: int
    settings: Run
    accelerator: Accelerator
    progress: Progress | None
    label: str

    def run(self) -> None:
        rows = len(self.data.taught)
        if len(self.data.train) == 0:
            raise UserError("there are no training rows", where=self.label)
        # Rows without a label are for those who learn from somebody; all others go through the labelled ones again.
        self.again = not any(learner.losses.needs_teacher for learner in self.learners)
        self.labelled_share = 1.0 if self.again else len(self.data.train) / rows
        self.steps = steps_in_epoch(rows, self.plan.batch_size)
        for learner in self.learners:
            learner.refuse_misfit()
        progress = self.progress or Progress(quiet=True)
        start = self._resume(progress)
        if self.settings.trackers:
            plan = {k: v for k, v in self.plan.model_dump(mode="json").items() if isinstance(v, int | float | str)}
            self.accelerator.init_trackers(self.label, config={**plan, "schedule": self.plan.schedule.name})
        try:
            epochs, steps = self.plan.epochs, self.steps
            with progress.bar(self.label, epochs * steps, start=start * steps, work=epochs) as advance:
                for epoch in range(start, self.plan.epochs):
                    if all(learner.out_of_patience for learner in self.learners):
                        break
                    self._epoch(epoch, advance)
        finally:
            for learner in self.learners:
                learner.close()
        if self.settings.trackers:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
        for learner in self.learners:
            learner.leave_selected()

    def _epoch(self, epoch: int, advance: Callable[[int, str], None]) -> None:
        started, shown = time.monotonic(), 0.0
        seed_everything(self.seed, "epoch", epoch, self.accelerator.process_index)
        for learner in self.learners:
            learner.forward.train()
        tallies = [Tally() for _ in self.learners]
        seen, lr = 0, learning_rate(self.plan, epoch)
        for step, (batch, count, whole) in enumerate(self._batches(epoch)):
            # Warm-up counts the step it is about to take, or the first one would be for nothing.
            lr = learning_rate(self.plan, epoch + (step + bool(self.plan.warmup_epochs)) / self.steps)
            for learner in self.learners:
                learner.pace(lr, epoch + step / self.steps)
            losses = self._step(batch, count * self.accelerator.num_processes / whole)
            for tally, values in zip(tallies, losses, strict=True):
                tally.add(values, count)
            seen += whole
            if time.monotonic() - shown > 0.25:
                # Reading a loss waits for the device, so it is not done at every step.
                shown = time.monotonic()
                self._refuse_nonfinite(tallies, epoch)
                note = "  ".join(f"{values['total'].item():.4f}" for values in losses)
                advance(epoch * self.steps + step + 1, self._note(epoch, f"loss {note}"))
        self._refuse_nonfinite(tallies, epoch)
        rows = []
        for learner, tally in zip(self.learners, tallies, strict=True):
            names, sums = tally.sums()
            means = (self.accelerator.reduce(sums, reduction="sum") / seen).tolist()
            row = {"epoch": epoch + 1, "lr": lr}
            row |= {f"train_{'loss' if n == 'total' else n}": v for n, v in zip(names, means, strict=True)}
            rows.append(row | learner.validate())
        self._record(rows, round(time.monotonic() - started, 3))
        advance((epoch + 1) * self.steps, self._note(epoch))

    def _note(self, epoch: int, loss: str = "") -> str:
        """The epoch, what the loss is in the midst of it, and the last validation."""
        metric = main_metric(self.data.task).name
        last = [learner.history.epochs[-1][f"val_{metric}"] for learner in self.learners if learner.history.epochs]
        scored = f"val {metric} " + "  ".join(f"{score:.4f}" for score in last) if last else ""
        return "  ".join(filter(None, (f"epoch {epoch + 1}/{self.plan.epochs}", loss, scored)))

    def _batches(self, epoch: int) -> Iterator[tuple[Batch, int, int]]:
        """This process's part of every batch, how many labels of it count, and how many of the whole batch."""
        size, laps, rows = self.plan.batch_size, 1, self.data.taught
        order = derive_seed(self.seed, "order", epoch)
        if self.again and len(self.data.unlabelled):
            laps, rows = math.ceil(len(rows) / len(self.data.train)), again(self.data, order)
        else:
            rows = shuffled(rows, order)
        own = parts(rows, size, rank=self.accelerator.process_index, world=self.accelerator.num_processes)
        both = zip(own, parts(rows, size), strict=True)
        for step, (part, whole) in enumerate(itertools.islice(both, self.steps)):
            # Every time that rows are gone through again they are seen as in another epoch.
            lap = epoch * laps + (step * size // len(self.data.train) if laps > 1 else 0)
            view = lap % self.views if self.views else lap
            # The last batch can be smaller than the number of processes, yet every process must take the step.
            batch = self.fetch(part, view) if len(part) else _idle(self.fetch(rows[:1], view))
            yield batch, count_labels(self.data, part), max(1, count_labels(self.data, whole))

    def _step(self, batch: Batch, share: float) -> list[Mapping[str, Tensor]]:
        """One optimizer step; `share` makes the mean over this part its part of the mean over the whole batch."""
        for learner in self.learners:
            learner.optimizer.zero_grad(set_to_none=True)
        found: list[list[Mapping[str, Tensor]]] = []
        pieces = _split(batch, self.plan.accumulate, everybody=self.accelerator.num_processes > 1)
        total = sum(rows for _, rows in pieces)
        for number, (piece, rows) in enumerate(pieces, start=1):
            fraction = rows / max(1, total)
            with contextlib.ExitStack() as unsynchronised:
                if number < len(pieces):
                    for learner in self.learners:
                        unsynchronised.enter_context(self.accelerator.no_sync(learner.forward))
                losses = self.losses(piece, self.labelled_share)
                for values in losses:
                    self._backward(values["total"], fraction * share)
            whole = len(pieces) == 1
            found.append(losses if whole else [{k: v.detach() * fraction for k, v in own.items()} for own in losses])
        for learner in self.learners:
            learner.step()
        if self.accelerator.scaler:
            self.accelerator.scaler.update()
        return [_sum(own) for own in zip(*found, strict=True)]

    def _backward(self, loss: Tensor, weight: float) -> None:
        # A factor of 1 would be one more operation to differentiate.
        loss = loss if weight == 1 else loss * weight
        scaler = self.accelerator.scaler
        (scaler.scale(loss) if scaler else loss).backward()

    def _refuse_nonfinite(self, tallies: Sequence[Tally], epoch: int) -> None:
        found = [(tally.settle(), learner) for tally, learner in zip(tallies, self.learners, strict=True)]
        bad = [(*place, learner) for place, learner in found if place is not None]
        if not bad:
            return
        # What breaks in one peer reaches the others a step later: it is the first that is to be named.
        step, total, learner = min(bad, key=lambda one: one[0])
        kept = "the weights of the last finished epoch are kept" if learner.history.epochs else "no epoch was finished"
        raise DivergedError(
            f"the loss became {total} in epoch {epoch + 1}, step {step + 1} of {self.steps}; {kept}",
            where=learner.label,
            hint="lower lr, set clip_norm (1.0 is usual), add warmup_epochs, or use precision float32",
        )

    def _record(self, rows: Sequence[dict[str, float]], seconds: float) -> None:
        for learner, row in zip(self.learners, rows, strict=True):
            row["seconds"] = seconds
            learner.record(row)
        if self.folder is not None and self.accelerator.is_main_process:
            # Last, and in one step: what it promises is on the disk before it says so.
            scaler = self.accelerator.scaler
            state = {
                "networks": [learner.state() for learner in self.learners],
                "scaler": scaler.state_dict() if scaler else None,
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_bytes(self.folder / "checkpoint.pt", buffer.getbuffer())
        if self.settings.trackers:
            values = {
                f"{learner.name}/{k}" if learner.name else k: v
                for learner, row in zip(self.learners, rows, strict=True)
                for k, v in row.items()
                if k != "epoch"
            }
            self.accelerator.log(values, step=int(rows[0]["epoch"]))

    def _resume(self, progress: Progress) -> int:
        path = self.folder / "checkpoint.pt" if self.folder else None
        if path is None or not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            if len(state["networks"]) != len(self.learners):
                raise ValueError(f"it holds {len(state['networks'])} networks, and these are {len(self.learners)}")
            for learner, own in zip(self.learners, state["networks"], strict=True):
                learner.restore(own)
            if self.accelerator.scaler and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except Exception as error:  # whatever is wrong with the file, there is one way out
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot be read ({reason})", where=str(path), hint="remove it to train anew") from error
        done = len(self.learners[0].history.epochs)
        progress.say(f"{self.label}: goes on after epoch {done} of {self.plan.epochs}")
        return done


def _split(batch: Batch, count: int, *, everybody: bool = False) -> list[tuple[Batch, int]]:
    """A batch in `count` nearly equal pieces, and how many labels of each count; empty ones are left out.

    Where `everybody` must take every step, as losses that look at all processes' rows ask, an idle row stands for them.
    """
    if count == 1:
        return [(batch, len(batch.index))]
    parts = zip(*(part.tensor_split(count) for part in (batch.x, batch.y, batch.index)), strict=True)
    pieces = [(Batch(x, y, index, batch.view), len(index)) for x, y, index in parts]
    if everybody:
        one = _idle(Batch(batch.x[:1], batch.y[:1], batch.index[:1], batch.view))
        pieces = [(piece, rows) if rows else (one, 0) for piece, rows in pieces]
    else:
        pieces = [(piece, rows) for piece, rows in pieces if rows]
    if batch.y.ndim == 1 or batch.y.is_floating_point():
        return pieces
    return [(piece, int((piece.y != IGNORED).sum())) for piece, _ in pieces]


def _idle(batch: Batch) -> Batch:
    """The same rows with labels that no loss counts. Shares of classes and measured values have no such label."""
    return batch if batch.y.is_floating_point() else replace(batch, y=torch.full_like(batch.y, IGNORED))


def _sum(losses: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Losses added by name."""
    if len(losses) == 1:
        return losses[0]
    return {name: torch.stack([values[name] for values in losses]).sum() for name in losses[0]}
