"""Images a second from files to training batches: Limbeck's folder pipeline against torchvision's usual DataLoader.

    python benchmarks/data_path.py --json data_path.json        (about 3 minutes; --quick: half a minute, rough)

Both rotate (10 degrees), blur (5 pixels, sigma 0.1 to 3), jitter (brightness, contrast, saturation 0.5) and give the
same files as float32 [64, 3, 224, 224] in [0, 1], shuffled. torchvision's contenders are an ImageFolder with Pillow in
a DataLoader: with 2 workers (which stay alive between epochs) and with none, in the usual order (augment, then resize)
and with the image resized first. Limbeck's decode and resize once, then augment anew in every epoch (`anew`), or read
augmented views that were stored once (`stored`).

Contenders take turns, an epoch each; a ratio is taken within a turn, and the median of the turns is reported. The first
epoch is measured apart, with nothing cached but the files: for Limbeck it holds decoding, augmenting and storing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ColorJitter, Compose, GaussianBlur, RandomRotation, Resize, ToTensor

from limbeck.core.machine import environment, keep_heap
from limbeck.core.types import Fetch
from limbeck.data import Data, load, pixels, targets
from limbeck.data.augment import keyed
from limbeck.data.sources.folder import choose, scan
from limbeck.distill import cache
from limbeck.recipe import Augment, Blur, Jitter
from limbeck.recipe import Data as Source

SPRITES = Path("/usr/share/games/wesnoth/1.16/data/core/images/units")
SIZE, BATCH = 224, 64
SPEC = Augment(
    rotate=10.0,
    blur=Blur(kernel=5, sigma=(0.1, 3.0)),
    jitter=Jitter(brightness=0.5, contrast=0.5, saturation=0.5),
)
Epoch = Callable[[int], int]  # number of the epoch -> how many images it gave


def sprites(folder: Path, count: int) -> None:
    """Link `count` of the largest 12 classes' sprites into a folder, evenly over all of them."""
    files, _ = choose(scan(SPRITES), 12, str(SPRITES))
    for number, place in enumerate(np.linspace(0, len(files) - 1, count).astype(int)):
        link = folder / files[place].label / f"{number:05}.png"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(files[place].path)


def photographs(folder: Path, count: int) -> None:
    """Write `count` JPEGs of 500 x 375: clouds of noise of every coarseness, as detailed as photographs are."""
    random = np.random.default_rng(0)
    for number in range(count):
        picture = np.full((375, 500, 3), random.uniform(80, 170, 3))
        for cells, strength in ((3, 60), (6, 45), (12, 30), (25, 20), (60, 14), (120, 13), (250, 12), (500, 8)):
            noise = random.normal(0, strength, (cells * 3 // 4 + 1, cells, 3)).clip(-127, 127)
            layer = Image.fromarray((noise + 128).astype(np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
            picture += np.asarray(layer, dtype=np.float64) - 128
        path = folder / f"class{number % 4}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def torchvision_epochs(folder: Path, *, workers: int, resize_first: bool) -> Epoch:
    """An ImageFolder in a DataLoader, as usual."""
    jitter = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5)
    augment, resize = [RandomRotation(10), GaussianBlur(5, (0.1, 3.0)), jitter], [Resize((SIZE, SIZE))]
    steps = resize + augment if resize_first else augment + resize
    data = ImageFolder(str(folder), Compose([*steps, ToTensor()]))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def epoch(number: int) -> int:
        given = 0
        for x, _ in loader:
            given += len(x)
        return given

    return epoch


def fetch_of(data: Data, views: Callable[[Tensor, int], Tensor] | None = None) -> Fetch:
    """What gives augmented batches of all rows."""
    return keyed(
        SPEC,
        seed=0,
        rows=torch.arange(len(data.x)),
        pixels=lambda rows: pixels(data, rows),
        labels=lambda rows: targets(data, rows),
        classes=data.task.width,
        views=views,
    )


def limbeck_epochs(data: Data, fetch: Fetch, views: int | None) -> Epoch:
    """Shuffled batches, of as many views as there are (None: a new one in every epoch)."""

    def epoch(number: int) -> int:
        order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(number))
        view = number % views if views else number
        return sum(len(fetch(rows, view).x) for rows in torch.split(order, BATCH))

    return epoch


@contextlib.contextmanager
def stopwatch(into: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into[name] = time.perf_counter() - started


def contest(folder: Path, scratch: Path, *, turns: int, views: int) -> dict[str, Any]:
    """All contenders on the files of one folder."""
    os.environ["LIMBECK_CACHE"] = str(scratch)
    took: dict[str, float] = {}
    with stopwatch(took, "decode"):
        data = load(Source(source="folder", path=str(folder), size=SIZE, channels=3), "classification")
    count = len(data.x)
    with stopwatch(took, "first anew epoch"):
        anew = limbeck_epochs(data, fetch_of(data), None)
        anew(0)
    with stopwatch(took, "store views"):
        stored = cache.pixels(
            fetch_of(data), torch.arange(count), identity={"of": data.fingerprint}, label={"data": folder.name},
            views=views, shape=data.shape, root=scratch / "outputs",
        )  # fmt: skip
    epochs: dict[str, Epoch] = {
        "limbeck anew": anew,
        "limbeck stored": limbeck_epochs(data, fetch_of(data, stored), views),
        "torchvision, 2 workers": torchvision_epochs(folder, workers=2, resize_first=False),
        "torchvision, 2 workers, resized first": torchvision_epochs(folder, workers=2, resize_first=True),
        "torchvision, no workers": torchvision_epochs(folder, workers=0, resize_first=False),
    }
    for name, epoch in epochs.items():
        if name != "limbeck anew":
            with stopwatch(took, f"first {name}"):
                epoch(0)
    first = {name: took[f"first {name}"] for name in epochs if name.startswith("torchvision")}
    first["limbeck anew"] = took["decode"] + took["first anew epoch"]
    first["limbeck stored"] = took["decode"] + took["store views"] + took["first limbeck stored"]
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for turn in range(1, turns + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            if epoch(turn) != count:
                raise RuntimeError(f"{name} did not give all {count} images")
            seconds[name].append(time.perf_counter() - started)
    rivals = [name for name in epochs if name.startswith("torchvision")]
    ratios = {
        mine: {rival: _median(b / a for a, b in zip(seconds[mine], seconds[rival], strict=True)) for rival in rivals}
        for mine in ("limbeck anew", "limbeck stored")
    }
    return {
        "images": count,
        "file_kB": round(sum(f.stat().st_size for f in folder.rglob("*.*")) / count / 1000, 1),
        "views": views,
        "stored_bytes": stored.report["bytes"],
        "first_epoch_per_second": {name: round(count / time, 1) for name, time in first.items()},
        "decode_per_second": round(count / took["decode"], 1),
        "store_per_second": round(count * views / took["store views"], 1),
        "per_second": {name: round(count / statistics.median(times), 1) for name, times in seconds.items()},
        "ratios": ratios,
        "stored_over_best_rival": min(ratios["limbeck stored"].values()),
    }


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--quick", action="store_true", help="fewer images and turns")
    parser.add_argument("--views", type=int, default=1, help="augmented views that are stored")
    parser.add_argument("--threads", type=int, help="threads of torch in the main process; by default its own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    counts, turns = ({"sprites": 300, "photographs": 60}, 3) if options.quick else (
        {"sprites": 2000, "photographs": 400}, 5)  # fmt: skip
    warnings.filterwarnings("ignore", "Palette images with Transparency")  # what ImageFolder makes of some sprites
    keep_heap()  # as `limbeck` does on the command line; it helps all contenders alike
    result: dict[str, Any] = {"turns": turns, "batch": BATCH, "size": SIZE, "hardware": environment()}
    for name, write in (("sprites", sprites), ("photographs", photographs)):
        if write is sprites and not SPRITES.is_dir():
            print(f"{name}: left out, there is no {SPRITES} (Debian's wesnoth-1.16-data)")
            continue
        with tempfile.TemporaryDirectory() as place:
            folder, scratch = Path(place, name), Path(place, "cache")
            folder.mkdir()
            write(folder, counts[name])
            result[name] = found = contest(folder, scratch, turns=turns, views=options.views)
        print(f"\n{name}: {found['images']} files of {found['file_kB']} kB, images/s")
        print(f"{'':40}{'first epoch':>12}{'later':>10}")
        for contender, rate in found["per_second"].items():
            print(f"{contender:40}{found['first_epoch_per_second'][contender]:12,.0f}{rate:10,.0f}")
        print(f"stored over the best of torchvision: {found['stored_over_best_rival']:.1f} x")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
