"""What learners are shown and told: rows as they are augmented, and their teachers' outputs, stored or live."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from torch import nn

from limbeck.core.progress import Progress
from limbeck.core.result import StoredOutputs
from limbeck.core.types import Fetch, Teacher
from limbeck.data import augment, fetcher, pixels, targets
from limbeck.distill import cache
from limbeck.distill.teachers import Frozen
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.objectives import teacher_shapes
from limbeck.recipe import Augment
from limbeck.tasks import rules

VIEWS_SEED = 0  # one for all students, so that every one of them is shown the same views
MANY_CLASSES, TOP_K = 1000, 64


def fetch(job: RunContext, *, stored: bool) -> Fetch:
    """What gives training rows as they are augmented; `stored` may read the images rather than make them."""
    data, spec = job.data, job.recipe.augment
    if not spec.active:
        return fetcher(data, job.device)

    keyed = partial(
        augment.keyed,
        seed=VIEWS_SEED,
        rows=data.train,
        unlabelled=data.unlabelled,
        pixels=partial(pixels, data, device=job.device),
        labels=partial(targets, data, device=job.device),
        classes=data.task.width,
    )
    if not (stored and job.views and job.recipe.cache.pixels):
        return keyed(spec)
    plain = spec.model_copy(update={"mixup": 0.0, "cutmix": 0.0})  # mixed from stored images, not stored mixed
    pictures = cache.pixels(
        keyed(plain),
        data.taught,
        identity={"images": "augmented", "data": data.fingerprint, "augment": _augmentation(plain)},
        label={"recipe": job.recipe.name, "data": data.name},
        views=job.views,
        shape=data.shape,
        device=job.device,
        **_cache_options(job),
    )
    return keyed(spec, views=pictures)


def frozen(job: RunContext, teacher_name: str, network: nn.Module, dtype: torch.dtype) -> Frozen:
    """A network as a teacher that gives the features its learners ask for."""
    taps = tuple(teacher_shapes(job, teacher_name))
    kind = job.data.task.kind
    return Frozen(network, taps=taps, dtype=dtype, device=job.device, probabilities=False, kind=kind)


def teacher(
    job: RunContext, teacher_name: str, name: str, network: nn.Module, dtype: torch.dtype, taps: Sequence[str]
) -> tuple[Teacher, list[StoredOutputs]]:
    """A network as a teacher of the training rows, and what is told of its stored outputs.

    Every output is computed once and stored with all features that anybody wants, and all students read it, each
    the features in `taps`; with `views: 0` nothing is stored and the teacher computes each batch.
    """
    if not job.views:
        return frozen(job, teacher_name, network, dtype), []
    known = stored(job, teacher_name, name, network, dtype)
    counts = {"asked": known.report["rows_asked"], "found": known.report["rows_found"]}
    keep = ("key", "bytes", "rows", "views", "dtype", "top_k", "taps", "seconds")
    about = {k: known.report[k] for k in keep}
    return known.only(taps), [StoredOutputs.model_validate({"teacher": name, **about, **counts})]


def stored(job: RunContext, teacher_name: str, name: str, network: nn.Module, dtype: torch.dtype) -> cache.Stored:
    """The stored outputs of a network; what is not there yet is computed."""
    data, spec = job.data, job.recipe.cache
    return cache.outputs(
        frozen(job, teacher_name, network, dtype),
        fetch(job, stored=True),
        data.taught,
        identity={
            "teacher": cache.identify(network, dtype),
            "data": data.fingerprint,
            "augment": _augmentation(job.recipe.augment),
        },
        label={"recipe": job.recipe.name, "teacher": name, "data": data.name},
        views=job.views,
        kind=data.task.kind,
        dtype=spec.dtype,
        top_k=top_k(job),
        taps=tuple(teacher_shapes(job, teacher_name)),
        batch_size=512 if job.device.type == "cuda" else 64,  # larger ones only take memory on a CPU
        **_cache_options(job),
    )


def top_k(job: RunContext) -> int | None:
    """How many logits of a row are stored; None for all."""
    wanted, width = job.recipe.cache.top_k, job.data.task.width
    if wanted is None and rules(job.data.task).predicts == "classes" and width >= MANY_CLASSES:
        wanted = TOP_K
    return wanted if wanted and wanted < width else None


def _augmentation(spec: Augment) -> dict[str, Any] | None:
    return {**spec.model_dump(mode="json"), "seed": VIEWS_SEED} if spec.active else None


class _CacheOptions(TypedDict):
    strict: bool
    limit_bytes: int
    progress: Progress
    rank: int
    world: int


def _cache_options(job: RunContext) -> _CacheOptions:
    spec = job.recipe.cache
    return {
        "strict": spec.strict,
        "limit_bytes": int(spec.limit_gb * 1e9),
        "progress": job.progress,
        "rank": job.accelerator.process_index,
        "world": job.accelerator.num_processes,
    }
