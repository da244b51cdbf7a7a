"""Arrays: .npz and .npy files, and a user's own arrays or tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from limbeck.core.errors import AbsentError, UserError, did_you_mean
from limbeck.core.hashing import fingerprint
from limbeck.core.types import IGNORED, VOID, Kind
from limbeck.data.dataset import Data
from limbeck.data.multilabel import answers, check_answers
from limbeck.data.prepare import Raw, check_labels, finish
from limbeck.tasks import rules

if TYPE_CHECKING:
    from limbeck import recipe


def from_arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    kind: Kind | None = None,
    names: Sequence[str] | None = None,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    stratify: bool = True,
    log_target: bool = False,
    tokens: bool = False,
) -> Data:
    """Make a data set of your own arrays or tensors.

    Args:
        x: uint8 images [N, channels, H, W] or [N, H, W, channels] or [N, H, W]; float images in [0, 1] in the same
            shapes; a table [N, columns]; or with `tokens` token ids [N, L].
        y: class indices [N], class names [N], 1 or 0 for each of several labels [N, C], measured values [N] or [N, K],
            or a class index for each pixel [N, H, W], -100 (in bytes: 255) where one does not count. With `tokens` also
            a class index for every token [N, L], -100 where there is none, as for padding.
        kind: "classification", "multilabel", "regression" or "segmentation"; by default regression where `y` is
            floating point, segmentation where it is a mask for each image, and else classification.
        names: class names, or names of the labels or values.
        val: share of the rows that are not test rows.
        test: share of all rows.
        seed: of the split.
        stratify: keep the shares of the classes (or of the commonest sets of labels) the same in every split.
        log_target: learn the logarithm of measured values, all above 0; every figure is in their own unit.
        tokens: `x` are whole numbers that stand for words, not amounts: networks get them as int64, as they are.

    Raises:
        UserError: shapes, labels or values that do not fit.
    """
    for name, share in (("val", val), ("test", test)):
        if not 0 < share < 1:
            raise UserError(f"is a share between 0 and 1, not {share}", where=name)
    values, labels = _numpy(x), _numpy(y)
    if kind is None:
        mask = labels.ndim == 3 and values.ndim > 2
        kind = "regression" if labels.dtype.kind == "f" else "segmentation" if mask else "classification"
    if log_target and rules(kind).predicts != "values":
        raise UserError("classes have no logarithm", where="log_target", hint="for measured values: kind regression")
    inputs = _tokens(values, "x") if tokens else _inputs(values, "x")
    each = tokens and rules(kind).predicts == "classes" and labels.ndim == 2
    if each and labels.shape != values.shape:
        raise UserError(f"labels of tokens have the shape {labels.shape}, the tokens {values.shape}", where="y")
    outputs, found = _outputs_of_tokens(labels, names, "y") if each else _outputs(labels, kind, names, "y")
    _same_size(inputs, outputs, "y")
    if len(inputs) != len(outputs):
        raise UserError(f"x has {len(inputs)} rows, y has {len(outputs)}", where="from_arrays")
    raw = Raw("arrays", inputs, outputs, found)
    return finish(raw, kind, val=val, test=test, seed=seed, stratify=stratify, log_target=log_target)


def load_arrays(spec: recipe.Data, kind: Kind) -> Raw:
    """Load an .npz file with x and y (or X, or x_train, y_train[, x_test, y_test]), or a folder with such .npy files.

    Raises:
        AbsentError: there is no such file or folder.
        UserError: arrays are missing, hold Python objects, or do not fit together.
    """
    path = Path(spec.path or "").expanduser()
    arrays, sources = _open(path)
    if isinstance(spec.target, list):
        raise UserError("is the name of one array here, not a list", where="data.target")
    wanted_y = [spec.target] if spec.target else ["y", "Y", "labels"]
    x_name, y_name = _pick(arrays, ["x", "X", "x_train", "X_train"], path), _pick(arrays, [*wanted_y, "y_train"], path)
    x, y = arrays[x_name], arrays[y_name]
    tests = [n.replace("train", "test") for n in (x_name, y_name)]
    tested = 0
    if all("train" in n for n in (x_name, y_name)) and all(n in arrays for n in tests):
        extra_x, extra_y = (arrays[n] for n in tests)
        if extra_x.shape[1:] != x.shape[1:] or len(extra_x) != len(extra_y):
            raise UserError(
                f"{tests[0]} is {extra_x.shape} and {tests[1]} {extra_y.shape}, beside {x_name} {x.shape}",
                where=str(path),
            )
        _same_length(x, y, path)
        x, y, tested = np.concatenate([x, extra_x]), np.concatenate([y, extra_y]), len(extra_y)
    _same_length(x, y, path)
    inputs = _inputs(x, f"{path}: {x_name}")
    outputs, names = _outputs(y, kind, None, f"{path}: {y_name}")
    _same_size(inputs, outputs, f"{path}: {y_name}")
    mapped = isinstance(x, np.memmap) and x.dtype in (np.uint8, np.float32)
    return Raw(
        name=f"arrays {path.name}",
        x=inputs,
        y=outputs,
        names=names,
        published_test=np.arange(len(y) - tested, len(y)) if tested else None,
        identity=_identity(sources[x_name]) if mapped else None,
    )


def read_inputs(path: Path) -> Tensor:
    """Samples without labels: an .npy file, or x of an .npz file.

    Raises:
        UserError: there is none, it holds Python objects, or it is neither images nor a table.
    """
    if path.suffix == ".npy":
        return _inputs(read_array(path), str(path))
    if path.suffix != ".npz":
        raise UserError("is no folder of images, .npy or .npz", where=str(path))
    with archive(path) as found:
        arrays = {name: found[name] for name in found.files}
    name = _pick(arrays, ["x", "X", "x_train", "X_train"], path)
    return _inputs(arrays[name], f"{path}: {name}")


def _open(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Path]]:
    """Arrays by name, memory-mapped where they are .npy files, and the file of each."""
    if not path.exists():
        raise AbsentError("there is no such file or folder", where=str(path))
    if path.is_dir() or path.suffix == ".npy":
        folder = path if path.is_dir() else path.parent
        files = {file.stem: file for file in sorted(folder.glob("*.npy"))}
        return {name: read_array(file) for name, file in files.items()}, files
    with archive(path) as found:
        arrays = {name: found[name] for name in found.files}
    return arrays, dict.fromkeys(arrays, path)


@contextlib.contextmanager
def archive(path: Path) -> Iterator[NpzFile]:
    """An open .npz file.

    Raises:
        UserError: it is damaged, holds Python objects, or is no archive.
    """
    try:
        with path.open("rb") as stream:  # NumPy leaves a file that it opened itself open when it turns out damaged
            found = np.load(stream, allow_pickle=False)
            if not isinstance(found, NpzFile):
                raise UserError("holds one array; an archive with x and y is needed", where=str(path))
            yield found
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise _refused(error, path) from error


def read_array(path: Path) -> NDArray[Any]:
    """One .npy file, memory-mapped copy-on-write.

    Raises:
        UserError: it is damaged or holds Python objects.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refused(error, path) from error
    return found


def _refused(error: Exception, path: Path) -> UserError:
    if "pickle" in str(error).lower() or "object" in str(error).lower():
        return UserError(
            "is no NumPy file, or holds Python objects (a pickle), which could run code: refused", where=str(path),
            hint="save plain arrays of numbers with numpy.savez",
        )  # fmt: skip
    return UserError(f"cannot be read as NumPy arrays ({error})", where=str(path))


def _pick(arrays: dict[str, NDArray[Any]], names: list[str], path: Path) -> str:
    for name in names:
        if name in arrays:
            return name
    raise UserError(f"has no array '{names[0]}'", where=str(path), hint=did_you_mean(names[0], arrays))


def _same_length(x: NDArray[Any], y: NDArray[Any], path: Path) -> None:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise UserError(f"x is {x.shape} and y is {y.shape}: not the same number of rows", where=str(path))


def _identity(path: Path) -> str:
    about = path.stat()
    return fingerprint(path.name, about.st_size, about.st_mtime_ns)


def _numpy(values: ArrayLike | Tensor) -> NDArray[Any]:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def _inputs(x: NDArray[Any], where: str) -> Tensor:
    """Images as [N, channels, H, W] (bytes, or float32 in [0, 1]), tables as float32 [N, columns]."""
    if x.dtype.kind not in "biuf":
        raise UserError(f"is of type {x.dtype}, not numbers", where=where)
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise UserError(
            f"has the shape {x.shape}",
            where=where,
            hint="images are [N, channels, H, W] or [N, H, W], tables [N, columns]",
        )
    if x.ndim == 2:
        return _finite(x, where)
    x = _channels_first(x, where)
    if x.dtype.kind == "f":
        x = _finite(x, where).numpy()
        if x.min() < 0 or x.max() > 1:
            raise UserError(
                f"float images run from {x.min():.4g} to {x.max():.4g}",
                where=where,
                hint="scale pixels to [0, 1], or give uint8",
            )
        return torch.from_numpy(x)
    if x.dtype == bool:
        x = x * np.uint8(255)
    elif x.dtype != np.uint8:
        if x.min() < 0 or x.max() > 255:
            raise UserError(f"integer images run from {x.min()} to {x.max()}, not 0 to 255", where=where)
        x = x.astype(np.uint8)
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def _tokens(x: NDArray[Any], where: str) -> Tensor:
    """Token ids as int64 [N, L]."""
    if x.dtype.kind not in "iu" or x.ndim != 2 or 0 in x.shape:
        raise UserError(f"is {x.dtype} {x.shape}, and token ids are whole numbers [N, L]", where=where)
    if x.min() < 0:
        what = f"token ids begin at 0, and the least is {x.min()}"
        raise UserError(what, where=where, hint="give padding an id of its own; labels of -100 leave it out")
    return torch.from_numpy(x.astype(np.int64))


def _outputs_of_tokens(y: NDArray[Any], names: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices int64 [N, L] and class names; those that are not -100 are held to what `_outputs` asks."""
    if y.dtype.kind not in "iu":
        raise UserError(f"labels of tokens are {y.dtype}, not whole numbers", where=where)
    if not (y != IGNORED).any():
        raise UserError(f"all labels are {IGNORED}: there is nothing to learn", where=where)
    _, known = _outputs(y[y != IGNORED], "classification", names, where)
    return torch.from_numpy(y.astype(np.int64)), known


def _channels_first(x: NDArray[Any], where: str) -> NDArray[Any]:
    if x.ndim == 3:
        return x[:, None]
    for usual in ((1, 3), (2, 4)):  # channels; grey and colour before anything rarer
        if x.shape[1] in usual:
            return x
        if x.shape[3] in usual:
            return x.transpose(0, 3, 1, 2)
    raise UserError(
        f"images of shape {x.shape} have no axis of 1 to 4 channels", where=where, hint="give [N, channels, H, W]"
    )


def _finite(values: NDArray[Any], where: str) -> Tensor:
    """As float32; a mapped file of such numbers stays one, for it may be larger than the memory."""
    x = values
    if not (isinstance(values, np.memmap) and values.dtype == np.float32 and values.flags.writeable):
        with np.errstate(over="ignore"):
            x = values.astype(np.float32)
    count, place, step = 0, "", max(1, 2**23 // math.prod(x.shape[1:]))
    for start in range(0, len(x), step):
        bad = ~np.isfinite(x[start : start + step]).reshape(min(step, len(x) - start), -1)
        if bad.any() and not count:
            row, column = (int(i[0]) for i in np.nonzero(bad))
            place = f"row {start + row}" + (f", column {column}" if x.ndim == 2 else "")
        count += int(bad.sum())
    if count:
        raise UserError(f"{count} values are NaN or infinite; the first stands in {place}", where=where)
    return torch.from_numpy(x)


def _outputs(y: NDArray[Any], kind: Kind, names: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices and class names, or float32 [N, C] or [N, K] and names of labels or values."""
    if rules(kind).predicts == "values":
        return _values(y, names, where)
    if rules(kind).predicts == "labels":
        labels = answers(y, where)
        known = tuple(names) if names is not None else tuple(str(i) for i in range(labels.shape[1]))
        check_answers(labels, known, where)
        return labels, known
    if rules(kind).each == "pixel":
        return _masks(y, names, where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(
            f"class labels have the shape {y.shape}, not [N]",
            where=where,
            hint="give class numbers, not one-hot rows; rows with several labels are `task: multilabel`",
        )
    if y.dtype.kind in "US":
        words = np.asarray(y, dtype=np.str_)
        known = tuple(names) if names is not None else tuple(str(n) for n in np.unique(words))
        if unknown := sorted(set(words.tolist()) - set(known)):
            raise UserError(
                f"label '{unknown[0]}' is not among the names", where=where, hint=did_you_mean(unknown[0], known)
            )
        place = {name: i for i, name in enumerate(known)}
        labels = torch.tensor([place[w] for w in words.tolist()])
    else:
        if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
            raise UserError(
                "class labels are not whole numbers", where=where, hint="for measured values: kind regression"
            )
        if y.dtype.kind not in "biuf":
            raise UserError(f"labels are of type {y.dtype}", where=where)
        labels = torch.from_numpy(y.astype(np.int64))
        top = int(labels.max()) if len(labels) else 0
        if names is None and top >= max(2, len(labels)):
            raise UserError(f"label {top} is outside any sensible range for {len(labels)} rows", where=where)
        known = tuple(names) if names is not None else tuple(str(i) for i in range(max(2, top + 1)))
    check_labels(labels, known, where)
    counts = torch.bincount(labels, minlength=len(known))
    if (counts == 0).any():
        missing = known[int((counts == 0).nonzero()[0])]
        raise UserError(f"class '{missing}' has no row", where=where, hint="number the classes 0 to C - 1 without gaps")
    return labels, known


def _masks(y: NDArray[Any], names: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices of pixels int16 [N, H, W] and class names."""
    if y.ndim != 3 or y.dtype.kind not in "biu":
        raise UserError(f"masks are {y.dtype} {y.shape}, not whole numbers [N, H, W]", where=where)
    ignored = (y == VOID) if y.dtype == np.uint8 else (y == IGNORED)
    known = y[~ignored]
    if not known.size or known.min() < 0 or known.max() >= 2**15:
        what = f"masks hold numbers from {known.min()} to {known.max()}" if known.size else "no pixel has a class"
        raise UserError(what, where=where, hint=f"classes count from 0; {IGNORED} (in bytes {VOID}) leaves a pixel out")
    count = max(2, int(known.max()) + 1)
    if names is not None and len(names) < count:
        raise UserError(f"{len(names)} names for classes up to {count - 1}", where=where)
    labels = np.where(ignored, IGNORED, y.astype(np.int64)).astype(np.int16)
    return torch.from_numpy(labels), tuple(names) if names is not None else tuple(str(n) for n in range(count))


def _same_size(x: Tensor, y: Tensor, where: str) -> None:
    """Refuse masks of another size than their images."""
    if y.ndim == 3 and x.shape[-2:] != y.shape[-2:]:
        raise UserError(f"masks are {tuple(y.shape[1:])} and images {tuple(x.shape[1:])}", where=where)


def _values(y: NDArray[Any], names: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2):
        raise UserError(f"measured values are {y.dtype} {y.shape}, not numbers [N] or [N, K]", where=where)
    values = _finite(y.reshape(len(y), -1), where)
    width = values.shape[1]
    known = tuple(names) if names is not None else ("y",) if width == 1 else tuple(f"y{i}" for i in range(width))
    if len(known) != width:
        raise UserError(f"{len(known)} names for {width} values", where=where)
    return values, known
