"""What a run has of this machine: cores, memory, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRIM_SECONDS = 5.0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_heap() -> bool:
    """Tell glibc to keep freed memory rather than fault it in again at every training step.

    Takes about a third off a CPU step of a small network. What lies idle is given back when it has grown: aligned
    blocks of many sizes leave gaps that do not fit the next ones, and a long training would take five times what it
    uses.

    For a whole process, so the command line calls it and the library never does. Gives False where there is no glibc.
    """
    import ctypes

    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    kept = 1 << 30
    done = all(libc.mallopt(key, kept) for key in (mmap_threshold, trim_threshold, top_pad))
    if done:
        threading.Thread(target=_give_back, args=(libc.malloc_trim,), name="give back", daemon=True).start()
    return done


def _give_back(trim: Callable[[int], int]) -> None:
    """Trim the heap for ever, but only when it has grown: what is trimmed and needed again must be faulted in."""
    settled = 0
    while True:
        time.sleep(TRIM_SECONDS)
        taken = _resident_bytes()
        if not settled:
            settled = taken  # the work's own size, for it has had its time since the last trim
        elif taken > settled + settled // 8 + (64 << 20):
            trim(0)
            settled = 0


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def environment() -> dict[str, Any]:
    """What a result depends on beside its recipe: versions, processor, threads, accelerator."""
    from importlib import metadata

    import torch

    versions = {}
    for name in (
        "limbeck",
        "torch",
        "torchvision",
        "timm",
        "accelerate",
        "numpy",
        "scikit-learn",
        "onnxruntime",
        "litert-torch",
        "keras",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
