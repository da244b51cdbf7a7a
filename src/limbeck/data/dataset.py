"""A loaded data set, and how its rows reach a network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.scaling import Scaling
from limbeck.core.seeding import derive_seed
from limbeck.core.types import IGNORED, Batch, Column, Fetch, Task
from limbeck.tasks import rules

BEYOND = 1.0  # how far answers may leave the logarithms learned from, in their standard deviations


@dataclass(frozen=True, eq=False)
class Keys:
    """What a source calls its rows: paths below its folder, or numbers in its own order.

    Attributes:
        own: of each row, [N]; rows without a label are not among them.
        known: of all rows that the source has, also of those that were left out.
    """

    own: NDArray[Any]
    known: NDArray[Any]

    @classmethod
    def numbered(cls, count: int) -> Keys:
        """Of a source whose rows are all there, in its own order."""
        return cls(np.arange(count), np.arange(count))


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Rows with three splits.

    Attributes:
        name: what was really loaded.
        task: what is predicted.
        x: uint8 images [N, channels, H, W] (float32 in [0, 1] where the user brought such), float32 [N, columns], or
            the uint8 pixels of flattened images [N, columns]. May be backed by a memory-mapped file. Or token ids,
            int64 [N, L], which reach a network as they are.
        y: class indices int64 [N], or of each token int64 [N, L] or pixel int16 [N, H, W], -100 where there is none; 1
            for the labels a row has and 0 for the others, float32 [N, C]; or measured values float32 [N, K] in their
            own units. Of rows without a label `UNLABELLED`, or NaN.
        train: int64 row numbers to learn from.
        val: int64 row numbers to choose by.
        test: int64 row numbers to report on, once.
        inputs: scaling of the inputs, measured on the training rows only (or as the recipe gives it).
        targets: scaling of the regression targets, measured on the training rows only; None for classes.
        notes: what the user must be told.
        fingerprint: of contents, splits and preparation.
        columns: names of the table's columns, or of the pixels of flattened images: one for each input.
        table: the table's columns as the user has them, where the inputs were made of some.
        unlabelled: int64 row numbers to learn from by a teacher's outputs alone; in no split.
        keys: what the source calls the rows.
        groups: of each row with a label a group number, int64 [N], where rows of one group stay on one side.
    """

    name: str
    task: Task
    x: Tensor
    y: Tensor
    train: Tensor
    val: Tensor
    test: Tensor
    inputs: Scaling
    targets: Scaling | None
    notes: tuple[str, ...]
    fingerprint: str
    columns: tuple[str, ...] = ()
    table: tuple[Column, ...] = ()
    unlabelled: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    keys: Keys | None = None
    groups: NDArray[np.int64] | None = None

    @property
    def taught(self) -> Tensor:
        """int64 row numbers that somebody with a teacher learns from: `train`, then `unlabelled`."""
        return torch.cat([self.train, self.unlabelled]) if len(self.unlabelled) else self.train

    @property
    def images(self) -> bool:
        """Whether a sample is an image."""
        return self.x.ndim == 4

    @property
    def places(self) -> tuple[int, ...]:
        """What of a sample has a class of its own each: () for the sample as a whole, (tokens,) or (H, W)."""
        return tuple(self.y.shape[1:]) if rules(self.task).predicts == "classes" else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, H, W), (columns,) or (tokens,)."""
        return tuple(self.x.shape[1:])

    def counts(self) -> dict[str, int]:
        """Rows in each split, and those without a label where there are any."""
        splits = {"train": len(self.train), "val": len(self.val), "test": len(self.test)}
        return splits | ({"unlabelled": len(self.unlabelled)} if len(self.unlabelled) else {})

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return f"Data({self.name}: {self.task.kind}, {self.task.width} outputs, samples {self.shape}, {counts})"


def pixels(data: Data, rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Inputs of some rows on `device`: bytes as float32 scaled to [0, 1], all else as it is.

    Args:
        data: where the rows are.
        rows: int64 [B] row numbers.
        device: where the result shall be. Images travel as uint8 and become float32 there.
    """
    x = data.x[rows.to(data.x.device)].to(device)
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


def targets(data: Data, rows: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """What to predict for some rows, as in `Batch`: class indices int64, yes or no, or standardised values [B, K]."""
    y = data.y[rows.to(data.y.device)].to(device)
    if data.targets is not None:
        return data.targets.standardise(y)
    return y if y.is_floating_point() else y.long()  # masks are kept in fewer bytes


def fetcher(data: Data, device: torch.device | str = "cpu") -> Fetch:
    """What gives the rows of `data` as they are, whatever the view: (rows int64 [B], view) -> Batch on `device`."""

    def fetch(rows: Tensor, view: int) -> Batch:
        return Batch(pixels(data, rows, device), targets(data, rows, device), rows.to(device), view)

    return fetch


def batches(
    data: Data,
    rows: Tensor,
    size: int,
    *,
    device: torch.device | str = "cpu",
    order: int | None = None,
    view: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Go through `rows` once in batches of `size`; the last batch may be smaller.

    Args:
        data: where the rows are.
        rows: int64 row numbers, for instance `data.train`.
        size: rows in a batch, over all processes.
        device: where batches are wanted.
        order: seed of a shuffle, or None for the order given.
        view: which augmented view the batches are for.
        rank: this process.
        world: number of processes. Each batch is cut into that many nearly equal parts and this process gets its
            own, which may have no rows: every process sees the same number of batches.
    """
    fetch = fetcher(data, device)
    for part in parts(rows, size, order=order, rank=rank, world=world):
        yield fetch(part, view)


def parts(rows: Tensor, size: int, *, order: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
    """This process's part of every batch of `rows`, as row numbers int64 [B]; the arguments are those of `batches`."""
    rows = rows if order is None else shuffled(rows, order)
    for start in range(0, len(rows), size):
        yield torch.tensor_split(rows[start : start + size], world)[rank]


def shuffled(rows: Tensor, seed: int) -> Tensor:
    """The same rows in an order that follows from the seed."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


def again(data: Data, seed: int) -> Tensor:
    """As many labelled training rows as there are rows in `data.taught`: all of them in turn, in a new order each time.

    Returns:
        int64 [len(data.taught)].
    """
    count, wanted = len(data.train), len(data.taught)
    laps = [shuffled(data.train, derive_seed(seed, lap) if lap else seed) for lap in range(math.ceil(wanted / count))]
    return torch.cat(laps)[:wanted]


def count_labels(data: Data, rows: Tensor) -> int:
    """How many labels some rows have, by which the means of batches are weighted: of tokens only those that count."""
    return int((data.y[rows.to(data.y.device)] != IGNORED).sum()) if data.places else len(rows)


def class_counts(data: Data, rows: Tensor) -> Tensor:
    """How many of some rows, tokens or pixels are of each class, or have each label: int64 [C]."""
    y = data.y[rows.to(data.y.device)].cpu()
    if rules(data.task).predicts == "labels":
        return y.sum(0).long()
    return torch.bincount(y[y != IGNORED].long(), minlength=data.task.width)


def digests(x: Tensor, rows: Tensor) -> list[bytes]:
    """What some rows of `x` hold, 16 bytes each: the same for equal rows."""
    found = []
    for block in torch.split(rows, 512):
        content = x[block.to(x.device)].cpu().reshape(len(block), math.prod(x.shape[1:])).contiguous().numpy()
        found += [hashlib.blake2b(row.data, digest_size=16).digest() for row in content]
    return found


def on_device(data: Data, device: torch.device | str, *, share: float = 0.5) -> Data:
    """The same data held on a GPU, so that batches are sliced there; unchanged where it would not fit.

    Args:
        data: what to move.
        device: where to.
        share: the part of the device's free memory it may take.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    if data.x.nbytes + data.y.nbytes > share * free:
        return data
    return replace(data, x=data.x.to(device), y=data.y.to(device))


def measure(x: Tensor, rows: Tensor) -> Scaling:
    """Scaling of inputs or targets over `rows`: per channel of images [N, channels, H, W], per column of tables."""
    step = max(1, 2**21 // max(1, math.prod(x.shape[1:])))  # some tens of MB at a time: x may be a large mapped file
    chunks = torch.split(rows, step)
    of_bytes = _of_byte_columns if x.ndim == 2 else _of_bytes
    mean, variance = of_bytes(x, chunks) if x.dtype == torch.uint8 else _of_floats(x, chunks)
    std = variance.sqrt().float()
    return Scaling(mean.float(), torch.where(std > 0, std, torch.ones_like(std)))


def measure_log(y: Tensor, rows: Tensor) -> Scaling:
    """Scaling of the logarithms of regression targets over `rows`, which answers may leave by `BEYOND`.

    Raises:
        UserError: some target is not above 0, in whatever split.
    """
    if len(wrong := (y <= 0).any(dim=1).nonzero().flatten()):
        raise UserError(
            f"{len(wrong)} targets are 0 or below and have no logarithm; the first stands in row {int(wrong[0])}",
            where="data.log_target",
        )
    logs = y.double().log()
    found, own = measure(logs, rows), logs[rows].float()
    reach = BEYOND * found.std
    return Scaling(found.mean, found.std, (own.amin(0) - reach, own.amax(0) + reach))


def _of_bytes(x: Tensor, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel in [0, 1], exact, from a histogram of the 256 levels."""
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    for chunk in chunks:
        part = x[chunk].transpose(0, 1).flatten(1).numpy()
        for channel, values in enumerate(part):
            counts[channel] += np.bincount(values, minlength=256)
    share = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    return mean, (share * (level - mean[:, None]).square()).sum(dim=1)


def _of_byte_columns(x: Tensor, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column in [0, 1], exact, from sums of whole numbers."""
    count, total, squares = sum(len(c) for c in chunks), 0, 0
    for chunk in chunks:
        part = x[chunk].numpy()
        total = total + part.sum(axis=0, dtype=np.int64)
        squares = squares + np.square(part, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    mean = torch.from_numpy(total / count)
    return mean / 255, (torch.from_numpy(squares / count) - mean.square()).clamp_min(0) / 255**2


def _of_floats(x: Tensor, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel or column, in two passes; a constant one has a variance of exactly 0."""
    dims = [d for d in range(x.ndim) if d != 1]
    count = sum(len(c) for c in chunks) * math.prod(x.shape[2:])
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    low, high = torch.full_like(total, math.inf), torch.full_like(total, -math.inf)
    for chunk in chunks:
        part = x[chunk].double()
        total += part.sum(dims)
        low, high = torch.minimum(low, part.amin(dims)), torch.maximum(high, part.amax(dims))
    mean = torch.where(low == high, low, total / count)
    variance = torch.zeros_like(total)
    for chunk in chunks:
        variance += (x[chunk].double() - mean.view(-1, *[1] * (x.ndim - 2))).square().sum(dims) / count
    return mean, variance
