"""Losses that relate rows to each other: two processes with parts of a batch are as one process with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from limbeck.losses import bind
from limbeck.losses.checks import everywhere

ROWS = 7
# How many of the rows the first process has: nearly half, all, and few.
PARTS = (4, 7, 1)


def square(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of all products of two rows: the simplest relation."""
    student, teacher = everywhere(student), everywhere(teacher)
    return (student @ student.T - teacher @ teacher.T).square().mean()


def columns(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Mean over classes of the correlation over the rows of the batch, as in DIST."""
    student, teacher = everywhere(student), everywhere(teacher)
    return 1 - nn.functional.cosine_similarity(student - student.mean(0), teacher - teacher.mean(0), dim=0).mean()


LOSSES = {"square": square, "columns": columns}
# losses of the library
RELATED = ("dist", "mlld", "sp", "pkt", "cc", "rkd_distance", "rkd_angle")
OWN = ("attentive_imitation",)  # a mean over the process's own rows, with what is known of all rows


def loss_of(name: str) -> Any:
    if name in LOSSES:
        return LOSSES[name]
    torch.manual_seed(0)
    loss = bind(name, student=(5,), teacher=(5,), rows=2 * ROWS)
    return loss.double() if isinstance(loss, nn.Module) else loss


def batch() -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(3)
    x, teacher = torch.randn(2, ROWS, 5, generator=noise, dtype=torch.float64)
    return x, teacher, torch.tensor([0, 1, -100, 2, 1, 0, 2])


def network() -> nn.Module:
    noise = torch.Generator().manual_seed(4)
    layer = nn.Linear(5, 5).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise))
    return layer


def step(model: nn.Module, name: str, rows: slice, world: int) -> dict[str, Any]:
    """A loss on some rows and the gradients it leaves, weighted as the training loop weights a process's part."""
    x, teacher, target = batch()
    target = x.flip(0) if name == "attentive_imitation" else target
    value = loss_of(name)(model(x[rows]), teacher[rows], target[rows])
    (value * (len(x[rows]) * world / len(x))).backward()
    gradients = [cast(Tensor, parameter.grad) for parameter in model.parameters()]
    for gradient in gradients if world > 1 else ():  # what DistributedDataParallel does
        torch.distributed.all_reduce(gradient)
        gradient /= world
    return {"value": value.detach(), "gradients": gradients}


def remembered(rows: slice) -> dict[str, Tensor]:
    """What a contrast keeps after two steps on some rows."""
    x, teacher, target = batch()
    loss = loss_of("crd")
    for _ in range(2):
        loss(network()(x[rows]), teacher[rows], target[rows], 2 * torch.arange(ROWS)[rows])
    return dict(loss.state_dict())


def process(rank: int, folder: Path) -> None:
    """What each of two processes does: all cases, their results in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for first in PARTS:
        rows = slice(0, first) if rank == 0 else slice(first, ROWS)
        for name in (*LOSSES, *RELATED, *OWN):
            found[f"{name} {first}"] = step(network(), name, rows, world=2)
        found[f"memory {first}"] = remembered(rows)
        found[f"integers {first}"] = everywhere(torch.arange(ROWS)[rows])
        found[f"maps {first}"] = everywhere(torch.arange(ROWS * 6, dtype=torch.float32).view(ROWS, 2, 3)[rows])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(Path(__file__)), str(folder)]
    started = [subprocess.Popen([*words, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    try:
        for one in started:
            _, told = one.communicate(timeout=300)
            assert one.returncode == 0, told.decode()[-2000:]
    finally:
        for one in started:
            one.kill()
            one.communicate()  # closes what it said, too
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("first", PARTS)
@pytest.mark.parametrize("name", [*LOSSES, *RELATED, *OWN])
def test_value_and_gradient_are_those_of_the_whole_batch(found: list[dict[str, Any]], name: str, first: int) -> None:
    whole = step(network(), name, slice(0, ROWS), world=1)
    assert any(gradient.abs().max() > 1e-4 for gradient in whole["gradients"])
    for results in found:
        own = results[f"{name} {first}"]
        if name not in OWN:
            torch.testing.assert_close(own["value"], whole["value"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own["gradients"], whole["gradients"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("first", PARTS)
def test_memory_is_the_same_in_all_processes(found: list[dict[str, Any]], first: int) -> None:
    whole = remembered(slice(0, ROWS))
    for key, value in found[0][f"memory {first}"].items():
        assert torch.equal(value, found[1][f"memory {first}"][key])
        if key != "log_z":  # each process draws its own negatives
            torch.testing.assert_close(value, whole[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", PARTS)
def test_rows_of_all_processes_come_in_order(found: list[dict[str, Any]], first: int) -> None:
    for results in found:
        assert torch.equal(results[f"integers {first}"], torch.arange(ROWS))
        maps = torch.arange(ROWS * 6, dtype=torch.float32).view(ROWS, 2, 3)
        assert torch.equal(results[f"maps {first}"], maps)


def test_one_process_has_its_own_rows() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert everywhere(x) is x


if __name__ == "__main__":
    process(int(sys.argv[2]), Path(sys.argv[1]))
