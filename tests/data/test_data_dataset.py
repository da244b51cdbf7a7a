"""Splits, batches and scaling: what must hold for any data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import data
from limbeck.core.errors import UserError
from limbeck.data.dataset import measure
from limbeck.data.split import allocate, subset, three_way


@st.composite
def labelled(draw):
    """Labels of 2 to 5 classes with 3 to 30 rows each, shuffled."""
    sizes = draw(st.lists(st.integers(3, 30), min_size=2, max_size=5))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


def names(labels):
    return [str(c) for c in range(labels.max() + 1)]


def covers(splits, count):
    together = np.concatenate([splits.train, splits.val, splits.test])
    return sorted(together.tolist()) == list(range(count))


@settings(deadline=None, max_examples=60)
@given(labelled(), st.integers(0, 9), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_splits_cover_every_row_once_and_keep_the_shares_of_classes(labels, seed, val, test):
    splits = three_way(labels, len(labels), names=names(labels), val=val, test=test, seed=seed)
    assert covers(splits, len(labels))
    counts = np.bincount(labels)
    drawn = np.bincount(labels[splits.test], minlength=len(counts))
    assert (drawn >= 1).all()
    assert (np.bincount(labels[splits.train], minlength=len(counts)) >= 1).all()
    assert (np.bincount(labels[splits.val], minlength=len(counts)) >= 1).all()
    # Each class is within one row of its share, unless the floor of one row per class took places from it.
    assert (np.abs(drawn - counts * len(splits.test) / len(labels)) < len(counts)).all()


@settings(deadline=None, max_examples=60)
@given(labelled(), st.integers(0, 9), st.data())
def test_groups_stay_on_one_side(labels, seed, more):
    # Groups within a class, at least three of each, of uneven size.
    groups = np.array([f"{c}-{more.draw(st.integers(0, 3))}" for c in labels], dtype="U8")
    for c in range(labels.max() + 1):
        groups[np.flatnonzero(labels == c)[:3]] = [f"{c}-{k}" for k in range(3)]
    splits = three_way(labels, len(labels), names=names(labels), groups=groups, val=0.25, test=0.25, seed=seed)
    assert covers(splits, len(labels))
    sides = [set(groups[rows]) for rows in (splits.train, splits.val, splits.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert all(len({g[0] for g in side}) == labels.max() + 1 for side in sides)


def test_groups_come_near_the_share_wanted():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 500)
    groups = labels * 1000 + random.integers(0, 40, len(labels))
    splits = three_way(labels, len(labels), names=names(labels), groups=groups, val=0.2, test=0.2, seed=3)
    shares = np.bincount(labels[splits.test]) / 500
    assert np.abs(shares - 0.2).max() < 0.02
    assert "groups stay whole" in splits.notes[0]


def test_the_seed_moves_the_split_and_the_same_seed_does_not():
    labels = np.tile([0, 1], 50)
    one, same, other = (three_way(labels, 100, names="ab", seed=s) for s in (1, 1, 2))
    assert one.test.tolist() == same.test.tolist() != other.test.tolist()
    assert (len(one.train), len(one.val), len(one.test)) == (68, 12, 20)


def test_published_test_rows_are_kept_unless_a_share_is_asked_for():
    labels, published = np.tile([0, 1], 50), np.arange(90, 100)
    kept = three_way(labels, 100, names="ab", val=0.1, published_test=published)
    assert kept.test.tolist() == published.tolist()
    assert len(kept.val) == 9
    assert len(three_way(labels, 100, names="ab", test=0.3, published_test=published).test) == 30


def test_a_class_too_small_for_three_splits_is_named():
    labels = np.array([0] * 20 + [1] * 2)
    with pytest.raises(UserError, match="class 'rare' has only 2 rows to divide into 3 splits"):
        three_way(labels, 22, names=["common", "rare"])
    assert covers(three_way(labels, 22, names=["common", "rare"], stratify=False, seed=1), 22)
    with pytest.raises(UserError, match="only 2 groups"):
        three_way(labels, 22, names=["common", "rare"], groups=np.arange(22))


def test_places_are_shared_by_largest_remainder():
    assert allocate(np.array([50, 30, 20]), 10, keep=1).tolist() == [5, 3, 2]
    assert allocate(np.array([90, 5, 5]), 10, keep=1).tolist() == [8, 1, 1]
    assert allocate(np.array([4, 4]), 7, keep=1).tolist() == [3, 3]  # a row of each class stays behind
    assert allocate(np.array([3, 30]), 20, keep=2).tolist() == [1, 19]
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    assert np.bincount(labels[subset(labels, 10, seed=0)]).tolist() == [5, 3, 2]


# --- batches -------------------------------------------------------------------------------------


def table(rows=50, columns=3):
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return data.from_arrays(x, np.arange(rows) % 2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 4), st.one_of(st.none(), st.integers(0, 2**62)))
def test_batches_cover_each_row_once_over_all_ranks(size, world, order):
    d = table()
    by_rank = [list(data.batches(d, d.train, size, order=order, rank=r, world=world)) for r in range(world)]
    assert len({len(batches) for batches in by_rank}) == 1
    seen = torch.cat([b.index for batches in by_rank for b in batches])
    assert sorted(seen.tolist()) == d.train.tolist()
    whole = list(data.batches(d, d.train, size, order=order))
    for step, batch in enumerate(whole):
        parts = [batches[step].index for batches in by_rank]
        assert torch.equal(torch.cat(parts), batch.index)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert torch.equal(batch.x, d.x[batch.index])
        assert torch.equal(batch.y, d.y[batch.index])


def test_order_is_a_seed_and_none_keeps_the_order():
    d = table()
    index = lambda **k: torch.cat([b.index for b in data.batches(d, d.train, 7, **k)]).tolist()  # noqa: E731
    assert index() == d.train.tolist()
    assert index(order=1) == index(order=1) != index(order=2)
    assert {b.view for b in data.batches(d, d.train, 7, view=5)} == {5}


def test_images_become_floats_and_values_are_standardised():
    x = np.array([[[0, 51], [102, 255]]] * 12, dtype=np.uint8)
    y = np.arange(24, dtype=np.float64).reshape(12, 2) * [1, 10]
    d = data.from_arrays(x, y, val=0.2, test=0.2)
    assert (d.images, d.shape, d.x.dtype) == (True, (1, 2, 2), torch.uint8)
    assert torch.allclose(data.pixels(d, torch.tensor([3])), torch.tensor([[[[0, 0.2], [0.4, 1.0]]]]))
    train = y[d.train.numpy()]
    expected = (y[[3, 5]] - train.mean(0)) / train.std(0)
    assert np.allclose(data.targets(d, torch.tensor([3, 5])).numpy(), expected, atol=1e-6)
    assert torch.equal(d.y, torch.tensor(y, dtype=torch.float32))


# --- scaling -------------------------------------------------------------------------------------


def test_scaling_of_images_equals_numpy():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 5, 7), dtype=np.uint8))
    x[:, 2] = 77
    rows = torch.arange(0, 40, 2)
    expected = x[rows].numpy().astype(np.float64) / 255
    found = measure(x, rows)
    assert np.allclose(found.mean, expected.mean((0, 2, 3)), atol=1e-7)
    assert np.allclose(found.std[:2], expected.std((0, 2, 3))[:2], atol=1e-7)
    assert found.std[2] == 1  # constant


def test_scaling_of_a_table_survives_large_offsets_and_constants():
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    x[:, 0] += 10000
    x[:, 1] = 0.1
    found = measure(torch.from_numpy(x), torch.arange(1000))
    assert np.allclose(found.mean, x.astype(np.float64).mean(0), rtol=1e-6)
    assert found.std[1] == 1
    assert np.allclose(found.std[[0, 2]], x.astype(np.float64).std(0)[[0, 2]], rtol=1e-5)


def test_scaling_sees_training_rows_only():
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    d = data.from_arrays(x, np.arange(60) % 3)
    assert np.allclose(d.inputs.mean, x[d.train.numpy()].mean(0), atol=1e-6)
    changed = x.copy()
    changed[torch.cat([d.val, d.test]).numpy()] += 1000
    assert torch.equal(data.from_arrays(changed, np.arange(60) % 3).inputs.mean, d.inputs.mean)


def test_scaling_works_in_chunks(monkeypatch):
    x = torch.rand(50, 3, 8, 8)
    whole = measure(x, torch.arange(50))
    monkeypatch.setattr("limbeck.data.dataset.math.prod", lambda shape: 2**22 if tuple(shape) == (3, 8, 8) else 64)
    parts = measure(x, torch.arange(50))
    assert torch.allclose(whole.mean, parts.mean)
    assert torch.allclose(whole.std, parts.std)
    assert torch.allclose(whole.std, x.transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-6)


# --- arrays of the user --------------------------------------------------------------------------


def test_bytes_in_columns_are_measured_as_the_floats_that_they_become():
    x = torch.randint(0, 256, (300, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    x[:, 2], x[:, 3] = 77, 0
    rows = torch.arange(20, 290)
    found, values = measure(x, rows), x[rows].double() / 255
    assert torch.allclose(found.mean, values.mean(0).float(), atol=1e-7)
    assert torch.equal(found.std[2:4], torch.ones(2))
    others = [0, 1, 4, 5, 6]
    assert torch.allclose(found.std[others], values.std(0, correction=0).float()[others], atol=1e-6)


def test_from_arrays_takes_every_usual_shape():
    random = np.random.default_rng(0)
    y = np.arange(30) % 3
    last = random.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
    first = data.from_arrays(last.transpose(0, 3, 1, 2), y)
    d = data.from_arrays(last, y)
    assert d.shape == (3, 6, 5)
    assert torch.equal(d.x, first.x)
    assert d.fingerprint == first.fingerprint
    floats = data.from_arrays(torch.rand(30, 1, 4, 4, dtype=torch.float64), torch.from_numpy(y))
    assert floats.x.dtype == torch.float32
    assert torch.equal(data.pixels(floats, floats.train), floats.x[floats.train])
    assert data.from_arrays(last.astype(np.int64), y).fingerprint == first.fingerprint
    assert data.from_arrays(last[..., 0], y).shape == (1, 6, 5)
    words = data.from_arrays(last, np.array(["no", "yes", "maybe"])[y])
    assert words.task.names == ("maybe", "no", "yes")
    assert words.y[:3].tolist() == [1, 2, 0]
    assert d.task.kind == "classification"
    assert data.from_arrays(random.normal(size=(30, 4)), y.astype(float)).task.kind == "regression"
    assert d.counts() == {"train": 22, "val": 4, "test": 4}


def test_the_fingerprint_knows_contents_split_and_names():
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    same, again = data.from_arrays(x, y), data.from_arrays(x.copy(), y.copy())
    assert same.fingerprint == again.fingerprint
    changed = x.copy()
    changed[7, 1] += 1
    others = [
        data.from_arrays(changed, y),
        data.from_arrays(x, np.roll(y, 1)),
        data.from_arrays(x, y, seed=1),
        data.from_arrays(x, y, val=0.3),
        data.from_arrays(x, y, names=["a", "b", "c"]),
    ]
    assert len({same.fingerprint, *(o.fingerprint for o in others)}) == 6


GOOD = np.zeros((12, 2)), np.arange(12) % 2


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (GOOD[0], np.array([0, 1] * 5 + [0, -1]), {}, "outside 0 to 1; the first is -1 in row 11"),
        (GOOD[0], np.array([0, 1] * 5 + [0, 2]), {"names": ["a", "b"]}, "the first is 2 in row 11"),
        (GOOD[0], np.array([0, 2] * 6), {}, "class '1' has no row"),
        (GOOD[0], np.array([0, 10**6] * 6), {}, "label 1000000 is outside"),
        (GOOD[0], np.zeros(12, dtype=int), {}, "all rows have one class"),
        (GOOD[0], np.zeros((12, 3), dtype=int), {}, "not one-hot"),
        (GOOD[0], np.linspace(0, 1, 12), {"kind": "classification"}, "not whole numbers"),
        (GOOD[0], GOOD[1][:5], {}, "x has 12 rows, y has 5"),
        (np.full((12, 2), np.nan), GOOD[1], {}, "24 values are NaN or infinite; the first stands in row 0, column 0"),
        (np.full((12, 1, 3, 3), 7.0), GOOD[1], {}, "float images run from 7 to 7"),
        (np.full((12, 1, 3, 3), 700), GOOD[1], {}, "integer images run from 700"),
        (np.zeros((12, 9, 9, 9), np.uint8), GOOD[1], {}, "no axis of 1 to 4 channels"),
        (np.zeros(12), GOOD[1], {}, "has the shape"),
        (np.array([["a"]] * 12), GOOD[1], {}, "not numbers"),
        (*GOOD, {"val": 0.0}, "between 0 and 1"),
        (GOOD[0][:4], GOOD[1][:4], {}, "class '0' has only 2 rows"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(x, y, options, message):
    with pytest.raises(UserError, match=message):
        data.from_arrays(x, y, **options)


def test_data_stays_where_it_is_without_a_gpu():
    d = table()
    assert data.on_device(d, "cpu") is d
    assert repr(d) == "Data(arrays: classification, 2 outputs, samples (3,), train 36, val 6, test 8)"


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3)])
def test_equal_rows_have_equal_digests_and_no_rows_have_none(shape):
    x = torch.arange(700 * int(np.prod(shape)), dtype=torch.float32).reshape(700, *shape)
    x[650] = x[3]  # in another block of rows
    found = data.digests(x, torch.arange(700))
    assert found[650] == found[3]
    assert len(set(found)) == 699
    assert data.digests(x, torch.empty(0, dtype=torch.int64)) == []
