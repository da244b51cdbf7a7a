"""Data and stored outputs larger than the memory there is: a process with a limit on it uses them all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MB = 2**20
LIMIT = 224 * MB  # what the child may take beyond what it has once everything is imported
ROWS, SHAPE = 40_000, (3, 64, 64)  # 469 MB of bytes, on the disk only where something else than 0 is written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of memory, and what counts as such, are Linux's"),
]

PRELUDE = f"""
import resource, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from limbeck import losses
from limbeck.distill import cache
from limbeck.data.augment import keyed
from limbeck.data import from_arrays, load, pixels, targets
from limbeck.distill.objective import Objective, Term
from limbeck.recipe import Augment, Data, Plan
from limbeck.distill.teachers import Frozen
from limbeck.distill.train import fit

torch.set_num_threads(1)
folder = Path(sys.argv[1])


def limit(mapped=0):
    '''Let this process take no more memory than {LIMIT >> 20} MB from now on; private mappings of files count, too.'''
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    most = int(status["VmData"].split()[0]) * 1024 + mapped + {LIMIT}
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def network(flat=False):
    # Next to no work: what it takes is to bring the images here.
    pool = nn.AvgPool1d(64) if flat else nn.AvgPool2d(8)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear({SHAPE[0]} * 64, 4))


def trained(data, terms, teacher=None, fetch=None):
    student = network(data.x.ndim == 2)
    plan = Plan(epochs=1, batch_size=256, lr=0.01)
    history = fit(student, Objective(terms), teacher, data, plan, fetch=fetch, folder=folder / "run")
    return len(history.epochs) == 1 and bool(student[-1].weight.isfinite().all())


HARD = Term("hard", losses.bind("hard"), 1.0)


def mean_difference(student, teacher, target):
    return (student.mean() - teacher.mean()) ** 2


def too_much(make):
    '''Whether the limit is one: what is larger is refused.'''
    try:
        make()
    except (MemoryError, RuntimeError):
        return True
    return False


# Once in small, so that all is imported, and whatever threads there are have started.
trained(from_arrays(torch.zeros(40, *{SHAPE}, dtype=torch.uint8), torch.arange(40) % 4), [HARD])
"""


def write_images(folder: Path, dtype: str = "uint8", rows: int = ROWS) -> int:
    """A data set whose class stands in one corner of the image; gives the size of the images' file."""
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", dtype, (rows, *SHAPE))
    labels = np.arange(rows) % 4
    images[:, 0, 0, 0] = labels / (4 if dtype == "float32" else 1)
    images.flush()
    np.save(folder / "y.npy", labels)
    assert images.nbytes > 2 * LIMIT
    return images.nbytes


def run_limited(body: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", PRELUDE + body, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("dtype", "rows", "flat"), [("uint8", ROWS, False), ("uint8", ROWS, True), ("float32", ROWS // 4, False)]
)
def test_images_larger_than_the_limit(tmp_path: Path, dtype: str, rows: int, flat: bool) -> None:
    size = write_images(tmp_path, dtype, rows)
    said = run_limited(
        f"""
limit(mapped={size})
data = load(Data(source="arrays", path=str(folder), flat={flat}), "classification")
print(trained(data, [HARD]), len(data.x), too_much(lambda: data.x.clone()))
""",
        tmp_path,
    )
    assert said == f"True {rows} True"


def test_stored_answers_and_images_larger_than_the_limit(tmp_path: Path) -> None:
    size = write_images(tmp_path)
    said = run_limited(
        f"""
limit(mapped={size})
data = load(Data(source="arrays", path=str(folder)), "classification")
teacher = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.AvgPool1d(16), nn.Linear({SHAPE[0]} * 64, 4))
shared = dict(identity={{}}, label={{}}, views=1)


def fetch(views=None):
    return keyed(
        Augment(flip=0.5), seed=0, rows=data.train, classes=4, views=views,
        pixels=lambda rows: pixels(data, rows), labels=lambda rows: targets(data, rows),
    )


images = cache.pixels(fetch(), data.train, shape=data.shape, **shared)
answers = cache.outputs(
    Frozen(teacher, taps=["0"]), fetch(images), data.train, kind="classification", dtype="float32", taps=["0"], **shared
)
for stored in (images, answers):
    print(stored.report["bytes"] > {LIMIT} * 1.3, too_much(lambda: torch.zeros(stored.report["bytes"] // 4)), end=" ")
terms = [HARD, Term("kd", losses.bind("kd"), 1.0), Term("feature", mean_difference, 1.0, "prediction", "0")]
print(trained(data, terms, answers, fetch(images)))
""",
        tmp_path,
    )
    assert said == "True True True True True"


@pytest.mark.parametrize("seconds", [0.02, 1000.0], ids=["given back", "not looked at"])
def test_a_heap_full_of_gaps_does_not_grow_without_end(seconds: float) -> None:
    """Of 40 blocks each time 10 stay. The next ones are larger and do not fit between them."""
    program = f"""
import time
from limbeck.core import machine

machine.TRIM_SECONDS = {seconds}
if not machine.keep_heap():
    raise SystemExit("no glibc")
kept, idle = [], []
before = machine._resident_bytes()
for turn in range(40):
    blocks = [b"x" * ({MB} + turn * 16384) for _ in range(40)]
    kept += blocks[::4]
    blocks = None
    time.sleep(0.06)
    idle.append(machine._resident_bytes() - before - sum(map(len, kept)))
print(max(idle))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("another C library")
    assert done.returncode == 0, done.stderr
    idle = int(done.stdout)
    assert idle < 160 * MB if seconds < 1 else idle > 250 * MB
