"""Limbeck's contenders and the plain loop, one in a process: started by distill_step.py and whole_job.py.

    python benchmarks/contenders.py cached --weights teacher.safetensors

Every one of limbeck's trains with `limbeck.fit` itself; `Turns.step` hides in the function that fetches a batch.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import mnist_distiller as job
import numpy as np
import torch
from plain_loop import train as train_plainly
from torch import Tensor, nn
from turns import WARM_UP, Turns

from limbeck.core.machine import keep_heap
from limbeck.core.types import Batch, Fetch, Teacher
from limbeck.data import Data, fetcher, pixels
from limbeck.distill import cache
from limbeck.distill.objective import Objective
from limbeck.distill.teachers import Frozen, diagnose
from limbeck.distill.train import fit

FOREVER = 100_000
CPU = torch.device("cpu")


class Setting(NamedTuple):
    """What a contender is given."""

    data: Data
    weights: Path
    epochs: int
    folder: Path | None
    answers: Path | None
    turns: Turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--weights", type=Path, required=True, help="the trained teacher's")
    parser.add_argument("--train-rows", type=int, help="use only so many training rows")
    parser.add_argument("--val-rows", type=int, help="use only so many validation rows")
    parser.add_argument("--epochs", type=int, help="stop after so many, as a whole job does")
    parser.add_argument("--folder", type=Path, help="where checkpoints go")
    parser.add_argument("--answers", type=Path, help="write the logits of the validation rows to this .npy file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.name not in ("plain-loop", "teacher-plain"):
        keep_heap()  # as the command line does
    data = job.load_data(options.train_rows, options.val_rows)
    turns = Turns(warm_up=0 if options.epochs else WARM_UP)
    setting = Setting(data, options.weights, options.epochs or FOREVER, options.folder, options.answers, turns)
    CONTENDERS[options.name](setting)


# --- students ------------------------------------------------------------------------------------


def student(setting: Setting) -> None:
    """The student alone, from the labels."""
    _fit(setting, job.from_labels(), None)


def cached(setting: Setting) -> None:
    """Distillation from the teacher's stored outputs."""
    network = job.teacher(setting.data, setting.weights)
    loaded = setting.turns.busy()
    dtype = _dtype(network, setting.data)  # a run does this once, when its teacher is trained
    begun = setting.turns.busy()
    stored = cache.outputs(
        Frozen(network, dtype=dtype, probabilities=False),
        fetcher(setting.data),
        setting.data.train,
        identity={"teacher": cache.identify(network, dtype), "data": setting.data.fingerprint},
        label={"recipe": "benchmark", "teacher": "teacher", "data": setting.data.name},
        views=1,
        kind="classification",
    )
    setting.turns.info |= {
        "teacher_dtype": str(dtype).removeprefix("torch."),
        "before_stage_seconds": begun,
        "check_seconds": begun - loaded,
        "label_seconds": setting.turns.busy() - begun,
    }
    _fit(setting, job.distilling(), stored, views=1)


def live(setting: Setting) -> None:
    """Distillation with the teacher in every step, as fast as limbeck can safely ask it."""
    network = job.teacher(setting.data, setting.weights)
    dtype = _dtype(network, setting.data)
    setting.turns.info["teacher_dtype"] = str(dtype).removeprefix("torch.")
    _fit(setting, job.distilling(), Frozen(network, dtype=dtype, probabilities=False))


def plain_loop(setting: Setting) -> None:
    """Distillation with the teacher in every step, the common way."""
    data, turns = setting.data, setting.turns
    teacher, student = job.teacher(data, setting.weights), job.student(data)
    turns.info["before_stage_seconds"] = turns.busy()
    plan, losses = job.recipe().student.train, job.recipe().losses
    accuracies = train_plainly(
        teacher,
        student,
        pixels(data, data.train),
        data.y[data.train],
        pixels(data, data.val),
        data.y[data.val],
        epochs=setting.epochs,
        batch_size=plan.batch_size,
        lr=plan.lr,
        temperature=losses["kd"].options["temperature"],
        hard=losses["hard"].weight,
        before_step=lambda first: turns.step(first=first),
    )
    turns.info["val_accuracy"] = accuracies[-1]
    turns.finish()


def _fit(setting: Setting, objective: Objective, teacher: Teacher | None, views: int = 0) -> None:
    data, turns = setting.data, setting.turns
    plan = job.recipe().student.train.model_copy(update={"epochs": setting.epochs})
    history = fit(
        job.student(data), objective, teacher, data, plan,
        folder=setting.folder, fetch=_timed(fetcher(data), turns, -(-len(data.train) // plan.batch_size)), views=views,
    )  # fmt: skip
    turns.info["val_accuracy"] = history.epochs[-1]["val_accuracy"]
    turns.finish()


def _timed(fetch: Fetch, turns: Turns, steps: int) -> Fetch:
    """The same fetch, with a turn at every call: `fit` calls it once a step."""
    count = itertools.count()

    def timed(rows: Tensor, view: int) -> Batch:
        turns.step(first=next(count) % steps == 0)
        return fetch(rows, view)

    return timed


def _dtype(network: nn.Module, data: Data) -> torch.dtype:
    return torch.bfloat16 if diagnose.bfloat16_is_safe(network, data, CPU) else torch.float32


# --- the teacher's forward pass alone ------------------------------------------------------------


def teacher_plain(setting: Setting) -> None:
    """Eager float32, contiguous, with the heap as glibc keeps it."""
    network = job.teacher(setting.data, setting.weights).eval()
    _forward(setting, torch.no_grad()(network))


def teacher_contiguous(setting: Setting) -> None:
    """The same with freed memory kept, as limbeck's command line keeps it."""
    teacher_plain(setting)


def teacher_channels_last(setting: Setting) -> None:
    """Limbeck's teacher in float32."""
    _frozen(setting, torch.float32)


def teacher_bfloat16(setting: Setting) -> None:
    """Limbeck's teacher in bfloat16."""
    _frozen(setting, torch.bfloat16)


def teacher_compiled(setting: Setting) -> None:
    """bfloat16 weights through torch.compile, which needs a C++ compiler. Not what limbeck does."""
    network = job.teacher(setting.data, setting.weights).eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    inner = torch.compile(network.model.to(torch.bfloat16))

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        return inner(((x - network.mean.view(-1, 1, 1)) / network.std.view(-1, 1, 1)).bfloat16()).float()

    _forward(setting, forward)


def _frozen(setting: Setting, dtype: torch.dtype) -> None:
    teacher = Frozen(job.teacher(setting.data, setting.weights), dtype=dtype, probabilities=False)
    nobody = torch.zeros(job.BATCH, dtype=torch.int64)
    _forward(setting, lambda x: teacher(Batch(x, nobody, nobody)).prediction)


def _forward(setting: Setting, forward: Callable[[Tensor], Tensor]) -> None:
    data = setting.data
    if setting.answers:
        told = [forward(pixels(data, rows)) for rows in data.val.split(job.BATCH)]
        np.save(setting.answers, torch.cat(told).numpy())
    images = [pixels(data, rows) for rows in data.train.split(job.BATCH)[:-1][:64]]
    for x in itertools.cycle(images):
        setting.turns.step()
        forward(x)


CONTENDERS: dict[str, Callable[[Setting], None]] = {
    "student": student,
    "cached": cached,
    "live": live,
    "plain-loop": plain_loop,
    "teacher-plain": teacher_plain,
    "teacher-contiguous": teacher_contiguous,
    "teacher-channels-last": teacher_channels_last,
    "teacher-bfloat16": teacher_bfloat16,
    "teacher-compiled": teacher_compiled,
}
STUDENTS: Sequence[str] = ("student", "cached", "live", "plain-loop")
TEACHERS: Sequence[str] = ("teacher-plain", "teacher-contiguous", "teacher-channels-last", "teacher-bfloat16")

if __name__ == "__main__":
    main()
