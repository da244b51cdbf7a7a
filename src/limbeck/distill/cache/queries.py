"""Query teachers for what is not stored yet.

How a row is queried is no part of a store's identity, so no batch is much smaller than another: on one CPU thread,
the networks tried (float32 and bfloat16) answer to a row with the same bits in every batch of at least four rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import UserError, did_you_mean
from limbeck.core.hashing import fingerprint, fingerprint_tensors
from limbeck.core.progress import Progress
from limbeck.core.types import Batch, Fetch, Kind, Output, Teacher
from limbeck.distill.cache.codec import FLOATS, arrays_of, decode, encode
from limbeck.distill.cache.reading import Pixels, Stored
from limbeck.distill.cache.store import SHARD_ROWS, Array, Store, open_store
from limbeck.tasks import rules

LOOK = 32  # rows queried to see the shapes of what a teacher gives


def outputs(
    teacher: Teacher,
    fetch: Fetch,
    rows: Tensor,
    *,
    identity: Mapping[str, object],
    label: Mapping[str, str],
    views: int,
    kind: Kind,
    dtype: str = "float16",
    top_k: int | None = None,
    taps: Sequence[str] = (),
    strict: bool = False,
    limit_bytes: int | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
    root: Path | None = None,
    rank: int = 0,
    world: int = 1,
) -> Stored:
    """A teacher's outputs for every (row, view), queried once: what is stored already is not queried again.

    Other processes that want the same outputs at the same time share the asking. A kill loses the shard in work.

    With float32 the outputs are the teacher's to the bit. With `top_k` the k largest log-probabilities of each row are
    kept, as exact as `dtype` is, and the mass of all others, which are read back as equally probable. At temperature 1
    the mass of each kept class and of the rest together is right, and only its spread within the rest is lost. At
    other temperatures the mass of the rest is an approximation: too large above 1, too small below.

    Args:
        teacher: queried for logits [B, C] (of tokens [B, L, C], of pixels [B, H, W, C]) or values [B, K], and features;
            not at all where all of them are stored.
        fetch: gives the batch of some rows in a view.
        rows: int64 [N], rows of the data set, none of them twice.
        identity: what the outputs depend on, JSON-like: teacher (`identify`), data, augmentation.
        label: human names, "teacher" among them. What is stored under one label is expected to have one identity.
        views: how many views. A store with more serves as well, one with fewer is extended.
        kind: of the task.
        dtype: "float16" or "float32", of logits, values and features.
        top_k: keep so many logits of each row (token, pixel), of classes only; None, 0 or at least C keeps all.
        taps: names of features to store, too.
        strict: refuse what is damaged, and what is stored under this label for something else.
        limit_bytes: how much all stores together may take.
        batch_size: rows to query at once, at most.
        progress: told how big it will be before it is queried, and how far it is.
        root: where the stores lie; by default in the user's cache directory.
        rank: this process among the `world` started together, which says where it begins.
        world: number of processes started together.

    Raises:
        UserError: not enough room, a full disk, NaN or infinity from the teacher, values too large for float16, an
            unknown tap, or what `strict` refuses.
    """
    if dtype not in FLOATS:
        raise UserError(f"outputs are stored as float16 or float32, not as '{dtype}'", where="cache.dtype")
    if top_k and rules(kind).predicts != "classes":
        raise UserError("only the logits of classes can be cut to the largest", where="cache.top_k")
    taps, what = sorted(set(taps)), f"outputs of {label.get('teacher', 'a teacher')}"

    def look() -> list[Array]:
        seen = _answer(teacher, fetch, rows[:LOOK], 0, taps, what)
        shapes = {name: tuple(seen.features[name].shape[1:]) for name in taps}
        return arrays_of(seen.prediction.shape[1:], dtype, top_k, shapes)

    codec = {"kind": kind, "dtype": dtype, "top_k": top_k or None, "taps": taps}
    store = open_store(
        _whole(identity, rows, codec),
        {**label, "what": what},
        len(rows),
        views,
        look,
        root=root,
        strict=strict,
        limit_bytes=limit_bytes,
        shard_rows=max(SHARD_ROWS, batch_size),
        progress=progress,
    )

    def query(part: Tensor, view: int) -> dict[str, Tensor]:
        output = _answer(teacher, fetch, part, view, taps, what)
        encoded = encode(output, store.header.arrays, taps)
        _refuse_nonfinite(encoded, output, part, view, what)
        return encoded

    store.build(_maker(query, rows, store, batch_size), strict=strict, rank=rank, world=world, progress=progress)
    return Stored(store, rows.cpu(), kind, taps)


def pixels(
    fetch: Fetch,
    rows: Tensor,
    *,
    identity: Mapping[str, object],
    label: Mapping[str, str],
    views: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    strict: bool = False,
    limit_bytes: int | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
    root: Path | None = None,
    rank: int = 0,
    world: int = 1,
) -> Pixels:
    """The augmented pixels of every (row, view) as bytes, made once. A pixel is off by at most half of 1/255.

    Args:
        fetch: gives the batch of some rows in a view, x in [0, 1].
        rows: int64 [N], rows of the data set, none of them twice.
        identity: what the pixels depend on, JSON-like: data, augmentation.
        label: human names, "data" among them.
        views: how many views.
        shape: of one sample.
        device: where they are wanted; they travel as bytes.
        strict: as in `outputs`, like all that follows.
        limit_bytes: how much all stores together may take.
        batch_size: rows to make at once, at most.
        progress: told how big it will be, and how far it is.
        root: where the stores lie.
        rank: this process among the `world` started together.
        world: number of processes started together.

    Raises:
        UserError: as `outputs`, or pixels outside [0, 1].
    """
    what = f"views of {label.get('data', 'the data')}"
    array = Array("pixels", "uint8", tuple(shape))
    store = open_store(
        _whole(identity, rows, {"pixels": "uint8"}),
        {**label, "what": what},
        len(rows),
        views,
        lambda: [array],
        root=root,
        strict=strict,
        limit_bytes=limit_bytes,
        shard_rows=max(SHARD_ROWS, batch_size),
        progress=progress,
    )

    def query(part: Tensor, view: int) -> dict[str, Tensor]:
        x = _fetched(fetch, part, view).x
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise UserError("only pixels in [0, 1] can be stored as bytes", where=what, hint="drop `cache.pixels`")
        return {"pixels": (x * 255).round().to(torch.uint8)}

    store.build(_maker(query, rows, store, batch_size), strict=strict, rank=rank, world=world, progress=progress)
    return Pixels(store, rows.cpu(), torch.device(device))


class Reasked(NamedTuple):
    """How far a teacher is from what is stored of it.

    Attributes:
        samples: how many (row, view) were queried again.
        worst: largest difference of any stored number, both stored in the same way.
        disagreements: samples with another first class or other labels; for regression, with a value more than 1 % of
            the values' spread away.
    """

    samples: int
    worst: float
    disagreements: int


def reask(stored: Stored, teacher: Teacher, fetch: Fetch, sample: int = 64, *, seed: int = 0) -> Reasked:
    """Ask a teacher again for some rows, at random, in every view, and compare with what is stored.

    Args:
        stored: what is held against the teacher.
        teacher: as it was when the outputs were stored.
        fetch: likewise.
        sample: rows to query, shared among the views, at least one each.
        seed: which rows.
    """
    generator = torch.Generator().manual_seed(seed)
    worst, disagreements, samples = 0.0, 0, 0
    for view in range(stored.views):
        count = min(len(stored.rows), math.ceil(sample / stored.views))
        part = stored.rows[torch.randperm(len(stored.rows), generator=generator)[:count]]
        batch = _fetched(fetch, part, view)
        with torch.no_grad():
            live = teacher(batch)
        now = decode(encode(live, stored.arrays, stored.taps), stored.arrays, stored.taps)
        then = stored(batch)
        pairs = [(now.prediction, then.prediction), *((now.features[n], then.features[n]) for n in stored.taps)]
        worst = max([worst, *(float((a - b.to(a.device)).abs().max()) for a, b in pairs)])
        a, b = now.prediction.cpu(), then.prediction.cpu()
        same = rules(stored.kind).same
        differ = (a - b).abs() > 0.01 * (a.amax(0) - a.amin(0)) if same is None else ~same(a, b)
        disagreements += int(differ.reshape(len(a), -1).any(1).sum())
        samples += count
    return Reasked(samples, worst, disagreements)


def _whole(identity: Mapping[str, object], rows: Tensor, codec: Mapping[str, object]) -> dict[str, object]:
    """The identity of a store: what the caller says, which rows, and how they are stored."""
    if len(rows) == 0:
        raise UserError("there are no rows to ask a teacher about", where="data")
    if int(rows.min()) < 0 or bool((rows.sort().values.diff() == 0).any()):
        raise ValueError("rows must be row numbers of the data set, none of them twice")
    which = {"count": len(rows), "fingerprint": fingerprint(fingerprint_tensors({"rows": rows.long()}))}
    return {**identity, "rows": which, "codec": dict(codec)}


def _maker(
    query: Callable[[Tensor, int], Mapping[str, Tensor]], rows: Tensor, store: Store, batch_size: int
) -> Callable[[int, slice], dict[str, NDArray[Any]]]:
    kinds = {array.name: array.dtype for array in store.header.arrays}

    def make(view: int, block: slice) -> dict[str, NDArray[Any]]:
        part = rows[block]
        pieces: dict[str, list[Tensor]] = {name: [] for name in kinds}
        # Batches of nearly one size, so that none has few rows only: see the head of this file.
        for few in part.tensor_split(math.ceil(len(part) / batch_size)):
            for name, piece in query(few, view).items():
                pieces[name].append(piece.cpu())
        made = {name: torch.cat(parts).numpy() for name, parts in pieces.items()}
        return {name: array.view("uint16") if kinds[name] == "uint16" else array for name, array in made.items()}

    return make


def _fetched(fetch: Fetch, part: Tensor, view: int) -> Batch:
    batch = fetch(part, view)
    if batch.view != view or not torch.equal(batch.index.cpu(), part.cpu()):
        raise ValueError("fetch gave other rows or another view than it was asked for")
    return batch


def _answer(teacher: Teacher, fetch: Fetch, part: Tensor, view: int, taps: Sequence[str], what: str) -> Output:
    batch = _fetched(fetch, part, view)
    with torch.no_grad():
        output = teacher(batch)
    if output.prediction.ndim not in (2, 3, 4) or len(output.prediction) != len(part):
        raise UserError(f"{tuple(output.prediction.shape)} for {len(part)} rows cannot be stored", where=what)
    for name in taps:
        if name not in output.features:
            raise UserError(f"no feature '{name}' among them", where=what, hint=did_you_mean(name, output.features))
    return output


def _refuse_nonfinite(encoded: Mapping[str, Tensor], output: Output, part: Tensor, view: int, what: str) -> None:
    """Refuse what cannot be learned from, or not be stored."""
    if all(bool(tensor.isfinite().all()) for tensor in encoded.values() if tensor.is_floating_point()):
        return
    for given in (output.prediction, *output.features.values()):
        bad = ~given.isfinite().flatten(1).all(1)
        if bool(bad.any()):
            row = int(part[bad.cpu()][0])
            value = float(given[bad][0].flatten()[~given[bad][0].flatten().isfinite()][0])
            raise UserError(f"the teacher gave {value} for row {row}, view {view}", where=what)
    largest = max(float(given.abs().max()) for given in (output.prediction, *output.features.values()))
    raise UserError(
        f"values up to {largest:.3g} do not fit into float16", where=what, hint="set `cache.dtype: float32`"
    )
