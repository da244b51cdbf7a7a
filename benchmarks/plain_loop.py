"""The common way to distil: the teacher is asked again in every step of every epoch.

    python benchmarks/plain_loop.py --steps 50

Loops like this one stand in tutorials and in the KD scripts of papers: teacher in eval mode without gradients, a
DataLoader over tensors, the soft targets' KL divergence at a temperature, Adam, everything in eager float32 and in the
default memory layout. Nothing is slowed down and nothing tuned. It is what the other benchmarks compare with.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def train(
    teacher: nn.Module,
    student: nn.Module,
    x: Tensor,
    y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    *,
    epochs: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    temperature: float = 10.0,
    hard: float = 0.1,
    before_step: Callable[[bool], object] = lambda first: None,
) -> list[float]:
    """Distil `teacher` into `student`; gives the validation accuracy after each epoch.

    `before_step` is told whether the step to come is the first of its epoch: that is how the loop is timed.
    """
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    teacher.eval()
    accuracies = []
    for _ in range(epochs):
        student.train()
        for step, (images, labels) in enumerate(loader):
            before_step(step == 0)
            with torch.no_grad():
                told = teacher(images)
            given = student(images)
            soft = F.kl_div(
                F.log_softmax(given / temperature, dim=1), F.softmax(told / temperature, dim=1), reduction="batchmean"
            )
            loss = hard * F.cross_entropy(given, labels) + (1 - hard) * temperature**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        student.eval()
        with torch.no_grad():
            right = sum(
                (student(images).argmax(1) == labels).sum()
                for images, labels in DataLoader(TensorDataset(val_x, val_y), batch_size=256)
            )
        accuracies.append(float(right) / len(val_y))
    return accuracies


def main() -> None:
    import mnist_distiller as job

    from limbeck.core.progress import Progress
    from limbeck.data import pixels

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="how many steps to time (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="how many threads torch may use (default 1)")
    parser.add_argument("--weights", type=Path, help="the teacher's weights; one trained for an epoch if not given")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = job.load_data()
    weights = options.weights or job.trained_teacher(whole, Progress())
    data = job.load_data(job.BATCH * (options.steps + 1), 640)
    times: list[float] = []
    train(
        job.teacher(data, weights),
        job.student(data),
        pixels(data, data.train),
        data.y[data.train],
        pixels(data, data.val),
        data.y[data.val],
        epochs=1,
        before_step=lambda first: times.append(time.perf_counter()),
    )
    median = statistics.median(b - a for a, b in itertools.pairwise(times))
    print(f"teacher in every step: {1000 * median:.1f} ms a step of 64, median of {len(times) - 1} steps")


if __name__ == "__main__":
    main()
