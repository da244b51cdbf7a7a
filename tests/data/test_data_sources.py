"""Embedded sets, IDX files and CIFAR-10's two layouts."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need

from limbeck import data, recipe
from limbeck.core.errors import UserError
from limbeck.data.dataset import measure

FASHION = Path("/usr/share/datasets/fashion-mnist")


def load(kind="classification", **fields):
    return data.load(recipe.Data.model_validate(fields), kind)


# --- embedded ------------------------------------------------------------------------------------


def test_digits_are_images_and_flat_digits_a_table():
    from sklearn.datasets import load_digits

    d, flat = load(source="digits"), load(source="digits", flat=True)
    assert (d.shape, len(d.x), d.x.dtype, d.task.width) == ((1, 8, 8), 1797, torch.uint8, 10)
    assert d.counts() == {"train": 1222, "val": 216, "test": 359}
    values = data.pixels(d, torch.arange(1797)).flatten(1).numpy()
    assert np.abs(values - load_digits().data / 16).max() <= 0.5 / 255 + 1e-6
    assert (flat.shape, flat.images, len(flat.columns)) == ((64,), False, 64)
    assert np.allclose(data.pixels(flat, torch.arange(1797)).numpy(), values, atol=1e-7)
    assert torch.equal(flat.train, d.train)
    assert np.allclose(flat.inputs.mean, values[d.train.numpy()].mean(0), atol=1e-6)
    assert flat.inputs.std.min() > 0  # some pixels are always blank
    assert flat.fingerprint != d.fingerprint


@pytest.mark.parametrize(
    ("source", "kind", "shape", "names"),
    [
        ("wine", "classification", (178, 13), ("class_0", "class_1", "class_2")),
        ("breast-cancer", "classification", (569, 30), ("malignant", "benign")),
        ("diabetes", "regression", (442, 10), ("progression",)),
        ("linnerud", "regression", (20, 3), ("Weight", "Waist", "Pulse")),
    ],
)
def test_bundled_tables(source, kind, shape, names):
    d = load(kind, source=source)
    assert (tuple(d.x.shape), d.task.kind, d.task.names) == (shape, kind, names)
    assert len(d.columns) == shape[1]
    assert sum(d.counts().values()) == shape[0]
    if kind == "regression":
        assert d.targets is not None
        assert np.allclose(d.targets.mean, d.y[d.train].double().mean(0), rtol=1e-5)
        scaled = data.targets(d, d.train).double()
        assert np.allclose(scaled.mean(0), 0, atol=1e-5)
        assert np.allclose(scaled.std(0, correction=0), 1, atol=1e-5)
    else:
        assert d.targets is None


def test_a_limit_keeps_the_shares_of_classes():
    d = load(source="breast-cancer", limit=100)
    assert len(d.x) == 100
    assert abs(int((d.y == 1).sum()) - 100 * 357 / 569) < 1
    assert d.notes == ("limited to 100 of 569 rows",)
    assert load(source="breast-cancer", limit=100, split={"seed": 1}).fingerprint != d.fingerprint
    assert load("regression", source="diabetes", limit=50).y.shape == (50, 1)


def test_mean_and_std_of_the_recipe_are_used():
    d = load(source="digits", mean=[0.5], std=[0.25])
    assert (d.inputs.mean.tolist(), d.inputs.std.tolist()) == ([0.5], [0.25])
    with pytest.raises(UserError, match=r"data.mean: `mean` has 3 numbers for 1 channels"):
        load(source="digits", mean=[0.5] * 3, std=[0.25] * 3)


def test_a_source_and_a_task_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="'digits' is for `task: classification`"):
        load("regression", source="digits")
    with pytest.raises(UserError, match="'diabetes' is for `task: regression`"):
        load(source="diabetes")
    with pytest.raises(UserError, match="`flat` has no effect"):
        load(source="wine", flat=True)


# --- IDX -----------------------------------------------------------------------------------------


def idx(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def write_mnist(folder, *, packed=False, dot="-", train=60, test=20, **replaced):
    """Four files in MNIST's layout with random images; returns the arrays."""
    random = np.random.default_rng(0)
    arrays = {
        "train-images": random.integers(0, 256, (train, 5, 4)), "train-labels": np.arange(train) % 10,
        "t10k-images": random.integers(0, 256, (test, 5, 4)), "t10k-labels": np.arange(test) % 10,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        content = replaced.get(name.replace("-", "_"), idx(values))
        file = f"{name}{dot}idx{values.ndim}-ubyte"
        (folder / (file + ".gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize(
    ("below", "options"),
    [("", {}), ("", {"packed": True}), ("", {"dot": "."}), ("MNIST/raw", {}), ("mnist", {"packed": True})],
)
def test_mnist_is_found_in_the_usual_layouts(tmp_path, below, options):
    arrays = write_mnist(tmp_path / below, **options)
    d = load(source="mnist", path=str(tmp_path), split={"val": 0.2})
    assert (d.name, d.shape, d.counts()) == ("mnist", (1, 5, 4), {"train": 48, "val": 12, "test": 20})
    assert d.test.tolist() == list(range(60, 80))
    assert np.array_equal(d.x[:60, 0], arrays["train-images"])
    assert np.array_equal(d.x[60:, 0], arrays["t10k-images"])
    assert np.array_equal(d.y[60:], arrays["t10k-labels"])


def test_split_test_sets_the_published_test_rows_aside(tmp_path):
    write_mnist(tmp_path)
    assert load(source="mnist", path=str(tmp_path), split={"test": 0.5}).counts()["test"] == 40
    limited = load(source="mnist", path=str(tmp_path), limit=40)
    assert limited.counts() == {"train": 20, "val": 10, "test": 10}
    assert limited.test.tolist() == list(range(30, 40))


def test_mnist_in_the_cache_and_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data/FashionMNIST/raw", train=30)
    if not FASHION.exists():
        assert len(load(source="fashion-mnist").x) == 50
    if not Path("/usr/share/datasets/mnist").exists():
        write_mnist(tmp_path / "cache/mnist")
        assert len(load(source="mnist").x) == 80
        with pytest.raises(UserError) as caught:
            load(source="mnist", path=str(tmp_path / "nowhere"))
        assert str(tmp_path / "nowhere/MNIST/raw") in str(caught.value)
        assert "fallback" in str(caught.value)


def test_a_fallback_is_loaded_and_said_loudly(tmp_path):
    d = load(source="mnist", path=str(tmp_path), fallback="digits")
    assert d.name == "digits"
    assert d.notes[0] == "mnist was not found: THIS IS digits INSTEAD, in every figure below"
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        load(source="fashion-mnist", path=str(tmp_path))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"train_images": b"PNG, or so"}, "is no IDX file"),
        ({"train_images": b"\0\0\x08\x03\0\0"}, "ends within its header"),
        ({"train_images": idx(np.zeros((60, 5, 4)))[:-7]}, "promises 1200 bytes as (60, 5, 4), but holds 1193"),
        ({"train_images": idx(np.zeros((59, 5, 4)))}, "has 59 images, but there are 60 labels"),
        ({"train_labels": idx(np.arange(60) % 11)}, "labels are outside 0 to 9; the first is 10 in row 10"),
        ({"t10k_images": idx(np.zeros((20, 4, 4)))}, "test images are"),
        ({"t10k_labels": idx(np.zeros((20, 5, 4)))}, "mixed up"),
    ],
)  # fmt: skip
def test_damaged_idx_files_are_refused_even_with_a_fallback(tmp_path, broken, message):
    write_mnist(tmp_path, **broken)
    with pytest.raises(UserError) as caught:
        load(source="mnist", path=str(tmp_path), fallback="digits")
    assert message in str(caught.value)


def test_a_truncated_gz_file_is_refused(tmp_path):
    write_mnist(tmp_path, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        load(source="mnist", path=str(tmp_path))


def test_the_real_fashion_mnist():
    need(FASHION.exists(), f"Fashion-MNIST in {FASHION} (Debian package dataset-fashion-mnist)")
    d = load(source="fashion-mnist")
    assert (d.shape, d.counts()) == ((1, 28, 28), {"train": 51000, "val": 9000, "test": 10000})
    assert d.test.tolist() == list(range(60000, 70000))
    assert torch.bincount(d.y[d.val]).tolist() == [900] * 10
    assert torch.bincount(d.y[d.test]).tolist() == [1000] * 10
    assert d.task.names[int(d.y[0])] == "Ankle boot"
    everything = measure(d.x, torch.arange(60000))
    assert abs(float(everything.mean) - 0.2860) < 5e-5
    assert abs(float(everything.std) - 0.3530) < 5e-5


# --- CIFAR-10 ------------------------------------------------------------------------------------


def cifar_arrays(rows, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, 3072), dtype=np.uint8), (np.arange(rows) % 10).tolist()


def write_cifar(folder, *, protocol=2, keys=bytes, batches=5):
    """CIFAR-10's python version with random images, 20 rows a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    key = (lambda k: k.encode()) if keys is bytes else str
    for name, seed in [*((f"data_batch_{k}", k) for k in range(1, batches + 1)), ("test_batch", 9)]:
        images, labels = cifar_arrays(20, seed)
        content = {key("data"): images, key("labels"): labels, key("batch_label"): key(name)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    meta = {key("label_names"): [key(f"thing {k}") for k in range(10)], key("num_vis"): 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("keys", [bytes, str])
def test_cifar_python_version(tmp_path, protocol, keys):
    write_cifar(tmp_path / "cifar-10-batches-py", protocol=protocol, keys=keys)
    d = load(source="cifar10", path=str(tmp_path))
    assert (d.shape, d.x.dtype, d.task.names[3]) == ((3, 32, 32), torch.uint8, "thing 3")
    assert d.test.tolist() == list(range(100, 120))
    assert np.array_equal(d.x[40:60].flatten(1), cifar_arrays(20, 3)[0])
    assert np.array_equal(d.x[100:].flatten(1), cifar_arrays(20, 9)[0])
    assert d.y[:12].tolist() == [*range(10), 0, 1]
    assert d.notes == ()


def python_2_batch(images, labels):
    """A batch as Python 2 and the NumPy of 2009 pickled it: byte strings throughout, in protocol 2."""

    def text(word):
        return b"U" + bytes([len(word)]) + word

    count = struct.pack("<I", len(images))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01J" + count + b"M\x00\x0c\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", images.nbytes) + images.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([k]) for k in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_cifar_as_python_2_wrote_it(tmp_path):
    write_cifar(tmp_path)
    images, labels = cifar_arrays(20, 1)
    content = python_2_batch(images, labels)
    assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"], images)  # the test's own bytes are right
    (tmp_path / "data_batch_1").write_bytes(content)
    d = load(source="cifar10", path=str(tmp_path))
    assert np.array_equal(d.x[:20].flatten(1), images)
    assert d.y[:20].tolist() == labels


def test_cifar_binary_version(tmp_path):
    for name, seed in [("data_batch_1", 1), ("data_batch_2", 2), ("test_batch", 9)]:
        images, labels = cifar_arrays(30, seed)
        rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], images], axis=1)
        (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"n {k}" for k in range(10)) + "\n\n")
    d = load(source="cifar10", path=str(tmp_path))
    assert d.counts() == {"train": 50, "val": 10, "test": 30}
    assert np.array_equal(d.x[30:60].flatten(1), cifar_arrays(30, 2)[0])
    assert d.task.names == tuple(f"n {k}" for k in range(10))
    assert "only 2 of the 5 training batches" in d.notes[0]
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(UserError, match="3074 bytes, not a multiple of 3073"):
        load(source="cifar10", path=str(tmp_path))


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    write_cifar(tmp_path)
    trap = tmp_path / "it ran"
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({b"data": Touch(trap), b"labels": []}))
    with pytest.raises(UserError, match=r"this pickle is refused: it asks for posix\.mkdir"):
        load(source="cifar10", path=str(tmp_path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": np.zeros((20, 3072)), b"labels": [0] * 20}), "another type than bytes"),
        (pickle.dumps({b"data": np.array([{}] * 20), b"labels": [0] * 20}), "another type than bytes"),
        (pickle.dumps({b"data": np.zeros((20, 5), np.uint8), b"labels": [0] * 20}), "not uint8 (n, 3072)"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 3}), "20 images, but labels"),
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8), b"labels": [11] * 20}), "the first is 11"),
        (pickle.dumps({b"fine_labels": []}), "KeyError: 'data'"),
        (pickle.dumps([1, 2]), "not a dict"),
        (b"\x80\x04garbage", "cannot be read"),
        (b"", "cannot be read"),
    ],
)  # fmt: skip
def test_damaged_batches_are_refused(tmp_path, content, message):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(source="cifar10", path=str(tmp_path))
    assert message in str(caught.value)


def test_absent_cifar_names_the_places(tmp_path):
    with pytest.raises(UserError) as caught:
        load(source="cifar10", path=str(tmp_path))
    assert str(tmp_path / "cifar-10-batches-bin") in str(caught.value)
