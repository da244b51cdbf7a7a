"""Seeds, devices, threads, the environment record, atomic files, fingerprints."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import UserError

if TYPE_CHECKING:
    import torch

TRIM_SECONDS = 5.0


# --- files ---------------------------------------------------------------------------------------


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    A reader sees the old file or the new one, never half of either; when the disk is full the old one stays.

    Raises:
        UserError: the place cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise _disk_error(error, path) from error
    part = Path(name)
    try:
        write(part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes private files; give the result the permissions that any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except OSError as error:
        raise _disk_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically.

    Weights are made as bytes first: torch and safetensors, writing by themselves, hide a full disk in errors of
    their own.
    """
    write_atomic(path, lambda part: part.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` atomically, as readable JSON; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as JSON ({error})", where=str(path)) from error


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _disk_error(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            "the disk is full; what was saved before is still there",
            where=str(path),
            hint="free some space, then give the same command again to go on",
        )
    return UserError(f"cannot be written ({error})", where=str(path), hint="choose another place with --out")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, so that two runs never write to the same one.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    import fcntl

    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise _disk_error(error, folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another run is writing here", where=str(folder), hint="wait for it, or choose --out"
            ) from error
        yield


def cache_dir() -> Path:
    """Where things that can be made again are kept: LIMBECK_CACHE, or limbeck below XDG_CACHE_HOME."""
    if own := os.environ.get("LIMBECK_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limbeck"


# --- fingerprints --------------------------------------------------------------------------------


def fingerprint(*parts: object) -> str:
    """A short hash of JSON-like values: the same values give the same text in any process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def fingerprint_file(path: Path) -> str:
    """A short hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """A short hash of named tensors: names, types, shapes and values."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


# --- seeds, threads, environment -----------------------------------------------------------------


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:16], 16) >> 1


def seed_everything(*parts: object) -> None:
    """Seed Python's, NumPy's and torch's generators from `parts`."""
    import random

    import numpy as np
    import torch

    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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
