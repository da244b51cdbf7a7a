"""Stored outputs as a teacher, and stored pixels."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Kind, Output
from limbeck.distill.cache.codec import decode
from limbeck.distill.cache.store import Array, Store

SHARE = 0.5  # of a GPU's free memory that one store may take


class Stored:
    """A teacher that is read from the disk: Batch -> Output, float32 on batch.x.device.

    A row or a view that was not asked for is a `UserError`. Where the outputs are held on a GPU (they are if they take
    no more than half of its free memory) such a row reads as NaN instead.

    Attributes:
        rows: int64 [N], the rows that are stored.
        report: key, folder, bytes, rows, views, dtype, top_k, taps, seconds (spent asking), rows_asked, rows_found.
        kind: of the task.
    """

    def __init__(self, store: Store, rows: Tensor, kind: Kind, taps: Sequence[str]) -> None:
        self.rows, self.kind, self.report = rows, kind, report(store)
        self.taps, self.arrays = tuple(taps), store.header.arrays
        self._read = Reader(store, rows)
        first = self.arrays[0]
        kept = first.shape[0] if first.name == "values" else None
        self.report |= {"dtype": first.dtype, "top_k": kept, "taps": list(self.taps)}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        """The stored logits [B, C] or values [B, K], and features, of a batch."""
        return decode(self._read(batch.index, batch.view, batch.x.device), self.arrays, self.taps)

    @property
    def views(self) -> int:
        """How many views can be read."""
        return self._read.views

    def only(self, taps: Sequence[str]) -> Stored:
        """The same outputs with these features alone: what nobody wants is not read.

        Raises:
            UserError: a feature that is not stored.
        """
        if unknown := set(taps) - set(self.taps):
            raise UserError(f"the feature '{min(unknown)}' is not stored; there are {list(self.taps)}")
        narrowed = copy.copy(self)
        narrowed._read = self._read.without({f"tap{n}" for n, name in enumerate(self.taps) if name not in taps})
        return narrowed


class Pixels:
    """Augmented pixels read from the disk: (rows int64 [B], view) -> float32 [B, *shape] in [0, 1] on `device`.

    Attributes:
        report: key, folder, bytes, rows, views, seconds, rows_asked, rows_found.
        device: where they are wanted.
    """

    def __init__(self, store: Store, rows: Tensor, device: torch.device) -> None:
        self._read, self.report, self.device = Reader(store, rows), report(store), device

    def __call__(self, rows: Tensor, view: int) -> Tensor:
        """That view of those rows."""
        return self._read(rows, view, self.device)["pixels"].float().div_(255)


class Reader:
    """The arrays of a built store as tensors [views * rows, *shape], and where each row of the data has its place."""

    def __init__(self, store: Store, rows: Tensor) -> None:
        self.store, self.count, self.views = store, len(rows), store.views
        self.tensors = {array.name: _mapped(store, array) for array in store.header.arrays}
        self.width = int(rows.max()) + 1
        self.table = torch.full((self.width,), -1).index_copy_(0, rows, torch.arange(self.count))
        self.device = torch.device("cpu")
        self._tried: set[torch.device] = set()

    def __call__(self, index: Tensor, view: int, device: torch.device) -> dict[str, Tensor]:
        """What is stored of some rows (int64 [B]) in a view, on a device: one `index_select` an array."""
        if not 0 <= view < self.views:
            raise UserError(f"view {view} is not stored; there are {self.views}", where=self._name)
        if device.type == "cuda" and device not in self._tried:
            self._tried.add(device)
            if sum(t.nbytes for t in self.tensors.values()) <= SHARE * torch.cuda.mem_get_info(device)[0]:
                self.hold(device)
        index = index.to(self.device)
        places = (self._places if self.device.type == "cpu" else self._places_unseen)(index, view)
        return {name: tensor.index_select(0, places).to(device) for name, tensor in self.tensors.items()}

    def _places(self, index: Tensor, view: int) -> Tensor:
        try:
            places = self.table.index_select(0, index)
        except IndexError:
            places = torch.full((1,), -1)
        if len(places) and int(places.min()) < 0:
            missing = next(i for i in index.tolist() if not 0 <= i < self.width or int(self.table[i]) < 0)
            raise UserError(f"row {missing} is not stored", where=self._name)
        return places + view * self.count

    def _places_unseen(self, index: Tensor, view: int) -> Tensor:
        """Without looking at the numbers, which would make the processor wait for the GPU in every step."""
        places = self.table.index_select(0, index.clamp(-1, self.width) % (self.width + 1))
        return (places + view * self.count).clamp_max(self.views * self.count)

    def without(self, names: Collection[str]) -> Reader:
        """The same reader of fewer arrays."""
        narrowed = copy.copy(self)
        narrowed.tensors = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        narrowed._tried = set(self._tried)
        return narrowed

    def hold(self, device: torch.device) -> None:
        """Keep everything on a device, with one more row, of NaN, for rows that are not stored."""
        last = self.views * self.count
        for name, tensor in self.tensors.items():
            held = torch.empty((last + 1, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
            held[:last].copy_(tensor)
            held[last] = math.nan if held.is_floating_point() else 0
            self.tensors[name] = held
        table = torch.cat((self.table, torch.tensor([-1])))
        self.table, self.device = torch.where(table < 0, last, table).to(device), device

    @property
    def _name(self) -> str:
        return self.store.header.label["what"]


def report(store: Store) -> dict[str, Any]:
    """What result.json says of a store, as its building left it."""
    header = store.header
    return {
        "key": header.key,
        "folder": str(store.folder),
        "bytes": store.views * header.view_bytes,
        "rows": header.rows,
        "views": store.views,
        "seconds": round(store.seconds, 3),
        "rows_asked": store.rows_asked,
        "rows_found": store.rows_found,
    }


def _mapped(store: Store, array: Array) -> Tensor:
    content = store.array(array.name).reshape(-1, *array.shape)
    with warnings.catch_warnings():
        # True, and meant so: nothing but copies leaves a `Reader`.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(content.view("int16") if array.dtype == "uint16" else content)
