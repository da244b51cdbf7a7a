"""Where published sets of images lie on this machine: MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from limbeck.core.errors import AbsentError
from limbeck.core.files import cache_dir

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
BATCHES = ("cifar-10-batches-py", "cifar-10-batches-bin")
HOW = {
    "mnist": "put the four IDX files in one of these places or give `data.path`, or set `data.fallback: fashion-mnist`",
    "fashion-mnist": "install the Debian package dataset-fashion-mnist, or give `data.path`",
    "cifar10": "unpack its python or binary version and give the folder as `data.path`",
}


def find(source: str, path: str | None) -> None:
    """Look for a set without opening a file of it.

    Raises:
        AbsentError: it is not here, with the places looked in.
    """
    if source == "cifar10":
        find_cifar10(path)
    else:
        find_idx(source, path)


def find_idx(source: str, path: str | None) -> dict[str, Path]:
    """The four files of `mnist` or `fashion-mnist`: part -> path.

    Raises:
        AbsentError: no folder with all four files, with the places looked in.
    """
    places = _places(source, path)
    for place in places:
        found = {part: file for part in PARTS if (file := _file(place, part))}
        if len(found) == len(PARTS):
            return found
    raise _absent(source, places)


def find_cifar10(path: str | None) -> tuple[Path, str]:
    """The folder with the batches of CIFAR-10, and how the names of its files end.

    Raises:
        AbsentError: no folder with the batches, with the places looked in.
    """
    roots = [Path(path).expanduser()] if path else [
        Path("data"), Path.home() / "data", Path.home() / ".cache", cache_dir(), Path("/usr/share/datasets/cifar10"),
    ]  # fmt: skip
    places = [place for root in roots for place in (root, *(root / name for name in BATCHES))]
    for place in places:
        for end in ("", ".bin"):
            if (place / f"test_batch{end}").is_file() and any(place.glob(f"data_batch_[1-5]{end}")):
                return place, end
    raise _absent("cifar10", places)


def _absent(source: str, places: Iterable[Path]) -> AbsentError:
    looked = "\n".join(f"    {place}" for place in places)
    return AbsentError(f"{source} is not on this machine; looked in\n{looked}", where="data.source", hint=HOW[source])


def _places(source: str, path: str | None) -> list[Path]:
    below = Path(TORCHVISION[source], "raw")
    if path is not None:
        root = Path(path).expanduser()
        return [root, root / "raw", root / below, root / source]
    roots = [Path("data"), Path.home() / "data", Path.home() / ".cache", Path.home() / ".cache/torchvision"]
    return [
        Path("/usr/share/datasets") / source,
        cache_dir() / source,
        Path.home() / ".cache" / source,
        *(root / below for root in roots),
    ]


def _file(place: Path, part: str) -> Path | None:
    dims = "idx3" if part.endswith("images") else "idx1"
    names = [f"{part}{dot}{dims}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next((place / name for name in names if (place / name).is_file()), None)
