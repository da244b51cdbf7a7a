"""A stored output is the teacher's output for that row and view, as exact as it was promised to be."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.core.errors import UserError
from limbeck.core.types import Batch, Output
from limbeck.distill import cache
from limbeck.distill.cache.store import entries
from limbeck.distill.teachers import Frozen
from limbeck.models import Normalized, channels_last
from limbeck.models.reference import NETWORKS

IDENTITY = {"teacher": {"weights": "abc"}, "data": "d1", "augment": None}
LABEL = {"recipe": "digits", "teacher": "big", "data": "digits"}


def fetch(rows, view):
    """A batch in which a row and its view can be recognised."""
    return Batch(torch.stack((rows, torch.full_like(rows, view)), 1).float(), torch.zeros_like(rows), rows, view)


def belonging(rows, view, width=3):
    """The one answer that belongs to a row and a view, exact in float16 for small ones."""
    return (rows + 100 * view).float()[:, None] + torch.arange(width) / 4


class Teacher:
    """Answers with what belongs to the row and view that it sees in the pixels, and counts."""

    def __init__(self, width=3, features=()):
        self.width, self.features, self.asked, self.sizes = width, features, [], []

    def __call__(self, batch):
        rows, view = batch.x[:, 0].long(), int(batch.x[0, 1])
        self.asked += [(int(row), view) for row in rows]
        self.sizes.append(len(rows))
        prediction = belonging(rows, view, self.width)
        return Output(prediction, dict.fromkeys(self.features, prediction[:, :2, None] + 7))


def refusing(_):
    raise AssertionError("the teacher was asked")


def answers(root, teacher, rows, *, views=1, asking=fetch, **options):
    options = {"identity": IDENTITY, "label": LABEL, "kind": "classification", **options}
    return cache.outputs(teacher, asking, rows, views=views, root=root, **options)


def batch_of(rows, view=0):
    return Batch(torch.zeros(len(rows), 2), torch.zeros(len(rows)), rows, view)


class Heard:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    @contextlib.contextmanager
    def bar(self, label, total):
        yield lambda done, note: None


# --- the right answer ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_never_the_answer_to_another_row_or_view(data):
    count = data.draw(st.integers(1, 80), "rows")
    universe = data.draw(st.integers(count, 120), "rows of the data")
    rows = torch.randperm(universe, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))[:count]
    with tempfile.TemporaryDirectory() as folder:
        total, every = 0, []
        for _ in range(data.draw(st.integers(1, 3), "opens")):
            views = data.draw(st.integers(1, 4), "views")
            teacher = Teacher()
            kept = sum(entry.views for entry in entries(Path(folder)))
            stored = answers(
                Path(folder), teacher, rows, views=views, batch_size=data.draw(st.integers(1, 100), "batch size")
            )
            total = max(total, views)
            every += teacher.asked[min(32, count) if not kept else 0 :]  # without the look at the shapes
            for view in data.draw(st.permutations(range(views)), "order of views"):
                chosen = rows[
                    torch.tensor(data.draw(st.lists(st.integers(0, count - 1), max_size=100), "shuffle")).long()
                ]
                assert torch.equal(stored(batch_of(chosen, view)).prediction, belonging(chosen, view))
        assert sorted(every) == sorted((int(row), view) for row in rows for view in range(total))


def test_a_row_or_view_that_is_not_stored_is_refused(tmp_path):
    stored = answers(tmp_path, Teacher(), torch.tensor([2, 5, 9]), views=2)
    for row in (0, 3, 10, 10**6, -1):
        with pytest.raises(UserError, match=f"row {row} is not stored"):
            stored(batch_of(torch.tensor([2, row])))
    for view in (2, -1):
        with pytest.raises(UserError, match=f"view {view} is not stored; there are 2"):
            stored(batch_of(torch.tensor([2]), view))
    assert stored(batch_of(torch.tensor([], dtype=torch.int64))).prediction.shape == (0, 3)


def test_what_is_held_on_a_device_reads_the_same_and_other_rows_as_nan(tmp_path):
    rows = torch.tensor([4, 1, 7])
    for top_k in (None, 2):
        stored = answers(tmp_path, Teacher(), rows, views=2, top_k=top_k)
        wanted = [stored(batch_of(rows.flip(0), view)).prediction for view in (0, 1)]
        stored._read.hold(torch.device("cpu"))
        stored._read._places = stored._read._places_unseen
        for view in (0, 1):
            assert torch.equal(stored(batch_of(rows.flip(0), view)).prediction, wanted[view])
            strange = stored(batch_of(torch.tensor([4, 0, 7, 8, 10**6, -1, -(10**6)]), view)).prediction
            assert strange.isnan().all(1).tolist() == [False, True, False, True, True, True, True]


def test_rows_must_be_rows(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        answers(tmp_path, Teacher(), torch.tensor([1, 2, 1]))
    with pytest.raises(ValueError, match="row numbers"):
        answers(tmp_path, Teacher(), torch.tensor([1, -2]))
    with pytest.raises(UserError, match="no rows"):
        answers(tmp_path, Teacher(), torch.tensor([], dtype=torch.int64))


def test_a_fetch_that_gives_other_rows_is_not_believed(tmp_path):
    with pytest.raises(ValueError, match="other rows"):
        answers(tmp_path, Teacher(), torch.arange(10), asking=lambda rows, view: fetch(rows.flip(0), view))
    with pytest.raises(ValueError, match="another view"):
        answers(tmp_path, Teacher(), torch.arange(10), views=2, asking=lambda rows, view: fetch(rows, 0))


def test_a_complete_store_needs_no_teacher_and_a_longer_one_asks_for_the_new_views(tmp_path):
    rows = torch.arange(2100)
    answers(tmp_path, Teacher(), rows, dtype="float32")
    stored = answers(tmp_path, refusing, rows, dtype="float32")
    report = {k: stored.report[k] for k in ("bytes", "rows", "views", "rows_asked", "rows_found", "dtype", "top_k")}
    assert report == {
        "bytes": 2100 * 3 * 4, "rows": 2100, "views": 1, "rows_asked": 0, "rows_found": 2100,
        "dtype": "float32", "top_k": None,
    }  # fmt: skip
    assert json.dumps(stored.report)
    teacher = Teacher()
    more = answers(tmp_path, teacher, rows, views=3, dtype="float32")
    assert {view for _, view in teacher.asked} == {1, 2}
    assert (more.report["rows_asked"], more.report["rows_found"]) == (4200, 2100)
    assert more.report["key"] == stored.report["key"]
    assert torch.equal(more(batch_of(rows, 2)).prediction, belonging(rows, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {**IDENTITY, "data": "d2"}},
        {"dtype": "float32"},
        {"top_k": 2},
        {"taps": ["inner"]},
        {"kind": "regression"},
        {"rows": torch.arange(10).flip(0)},
        {"rows": torch.arange(9)},
    ],
    ids=["data", "dtype", "top_k", "taps", "kind", "order", "rows"],
)
def test_whatever_an_answer_depends_on_makes_another_store(tmp_path, change):
    answers(tmp_path, Teacher(), torch.arange(10))
    teacher = Teacher(features=("inner",))
    answers(tmp_path, teacher, **{"rows": torch.arange(10), **change})
    assert teacher.asked
    assert len(entries(tmp_path)) == 2


def test_strict_says_what_differs(tmp_path):
    answers(tmp_path, Teacher(), torch.arange(10), strict=True)
    with pytest.raises(UserError, match=r"outputs of big: stored .*:\n +codec\.dtype: float16 -> float32\n  hint"):
        answers(tmp_path, refusing, torch.arange(10), strict=True, dtype="float32")


def test_no_batch_is_much_smaller_than_the_others(tmp_path):
    teacher = Teacher()
    answers(tmp_path, teacher, torch.arange(1025), batch_size=256)
    assert teacher.sizes[0] == 32
    assert sum(teacher.sizes[1:]) == 1025
    assert (min(teacher.sizes[1:]), max(teacher.sizes[1:])) == (171, 256)


PROCESS = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_cache as here
torch.set_num_threads(1)
teacher = here.Teacher()
def slow(batch):
    time.sleep(0.005)
    return teacher(batch)
print("ready", flush=True)
sys.stdin.readline()
here.answers(Path(sys.argv[2]), slow, torch.arange(6000).flip(0), views=2, dtype="float32", batch_size=64)
print(len(set(teacher.asked)))
"""


@pytest.mark.slow
def test_two_processes_ask_at_once_and_both_read_the_right_answers(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        teacher, rows = Teacher(), torch.arange(6000).flip(0)

        def slow(batch):
            torch.randn(64, 64) @ torch.randn(64, 64)
            return teacher(batch)

        stored = answers(tmp_path, slow, rows, views=2, dtype="float32", batch_size=64, rank=1, world=2)
        asked_there = int(other.stdout.readline())
    assert other.returncode == 0
    assert stored.report["rows_asked"] + stored.report["rows_found"] == 12000
    assert asked_there - 32 <= stored.report["rows_found"] <= asked_there
    for view in (0, 1):
        chosen = rows[torch.randperm(6000)]
        assert torch.equal(stored(batch_of(chosen, view)).prediction, belonging(chosen, view))


# --- exactness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "conv-leaky", "conv-pool"])
def test_float32_is_to_the_bit_what_the_teacher_said(tmp_path, name):
    torch.manual_seed(0)
    options = {"hidden": (32,)} if name == "mlp" else {"channels": (8, 16)}
    network = Normalized(NETWORKS[name]((1, 28, 28), 10, **options), [0.3], [0.4])
    network.to(memory_format=torch.channels_last if channels_last(network) else torch.contiguous_format)
    x = torch.rand(300, 1, 28, 28)
    teacher, said = Frozen(network), torch.full((300, 10), torch.nan)

    def seen(rows, view):
        return Batch(x[rows], rows, rows, view)

    def heard(batch):
        output = teacher(batch)
        said[batch.index] = output.prediction
        return output

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stored = answers(tmp_path, heard, torch.arange(300), asking=seen, dtype="float32")
        order = torch.randperm(300)
        for rows in order.split(64):
            kept = stored(seen(rows, 0)).prediction
            assert torch.equal(kept, said[rows])
            # In training, too: but the kernels of some processors round otherwise in a batch of another size.
            torch.testing.assert_close(kept, teacher(seen(rows, 0)).prediction)
    finally:
        torch.set_num_threads(threads)


def test_float16_costs_less_than_a_thirty_thousandth_of_a_nat(tmp_path):
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 5, (1000, 1000))).float()
    stored = answers(tmp_path, lambda batch: Output(logits[batch.index]), torch.arange(1000), limit_bytes=10**9)
    read = stored(batch_of(torch.arange(1000))).prediction.double().numpy()

    def log_softmax(z):
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    p, q = log_softmax(logits.double().numpy()), log_softmax(read)
    divergence = (np.exp(p) * (p - q)).sum(1)
    assert 0 < divergence.mean() < 5e-6
    assert divergence.max() < 3e-5


@pytest.mark.parametrize(("width", "numbers"), [(10, "uint16"), (40_000, "uint16"), (70_000, "int32")])
def test_the_largest_and_the_mass_of_the_rest(tmp_path, width, numbers):
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 3, (6, width))
    logits[:, -1] += 20  # a class number that needs all bits
    given = torch.from_numpy(logits).float()
    stored = answers(tmp_path, lambda b: Output(given[b.index]), torch.arange(6), top_k=4, dtype="float32")
    assert stored.arrays[1].dtype == numbers
    assert stored.report["top_k"] == 4
    read = stored(batch_of(torch.arange(6))).prediction.double().numpy()
    for row in range(6):
        p = np.exp(logits[row] - logits[row].max())
        p /= p.sum()
        largest = sorted(range(width), key=lambda c: -p[c])[:4]
        rest = sum(p[c] for c in range(width) if c not in set(largest))
        wanted = np.full(width, rest / (width - 4))
        wanted[largest] = p[largest]
        np.testing.assert_allclose(np.exp(read[row]), wanted, rtol=2e-5)
        assert math.isclose(np.exp(read[row]).sum(), 1.0, rel_tol=1e-5)


def test_top_k_of_all_classes_is_dense_and_of_values_refused(tmp_path):
    stored = answers(tmp_path, Teacher(), torch.arange(10), top_k=3)
    assert torch.equal(stored(batch_of(torch.arange(10))).prediction, belonging(torch.arange(10), 0))
    assert stored.report["top_k"] is None
    with pytest.raises(UserError, match="only the logits of classes"):
        answers(tmp_path, Teacher(), torch.arange(10), top_k=2, kind="regression")
    with pytest.raises(UserError, match="not as 'int8'"):
        answers(tmp_path, Teacher(), torch.arange(10), dtype="int8")


def test_sizes_are_what_is_written(tmp_path):
    heard = Heard()
    teacher = Teacher(width=1000, features=("b", "a"))
    stored = answers(tmp_path, teacher, torch.arange(50), views=2, top_k=64, taps=["b", "a"], progress=heard)
    size = cache.size_bytes(50, 2, (1000,), top_k=64, taps={"a": (2, 1), "b": (2, 1)})
    assert size == 50 * 2 * (64 * 2 + 64 * 2 + 4 + 2 * 2 * 2)
    assert stored.report["bytes"] == size
    assert sum(path.stat().st_size for path in Path(stored.report["folder"]).glob("*.bin")) == size
    assert heard.lines == ["outputs of big: 50 rows x 2 views, 26.8 kB"]
    assert cache.size_bytes(54_000, 1, (10,)) == 1_080_000
    assert cache.size_bytes(54_000, 1, (10,), dtype="float32") == 2_160_000


def test_no_room_is_told_before_the_rows_are_asked(tmp_path):
    teacher = Teacher()
    with pytest.raises(UserError, match=r"outputs of big: 6\.0 kB are needed"):
        answers(tmp_path, teacher, torch.arange(1000), limit_bytes=5000)
    assert len(teacher.asked) == 32  # the look at the shapes


# --- what teachers give --------------------------------------------------------------------------


def test_features_are_stored_by_name(tmp_path):
    teacher = Teacher(features=("conv.2", "act", "unwanted"))
    stored = answers(tmp_path, teacher, torch.arange(70), views=2, taps=["conv.2", "act"], dtype="float32")
    rows = torch.tensor([60, 3])
    output = stored(batch_of(rows, 1))
    assert set(output.features) == {"conv.2", "act"}
    for feature in output.features.values():
        assert torch.equal(feature, belonging(rows, 1)[:, :2, None] + 7)
    assert stored.report["taps"] == ["act", "conv.2"]
    with pytest.raises(UserError, match=r"no feature 'conv\.3'") as caught:
        answers(tmp_path, teacher, torch.arange(70), taps=["conv.3"])
    assert "conv.2" in caught.value.hint


def test_features_of_one_shape_are_not_confused(tmp_path):
    def teacher(batch):
        values = belonging(batch.index, 0)
        return Output(values, {"b": values + 1, "a": values + 2})

    stored = answers(tmp_path, teacher, torch.arange(9), taps=["b", "a"])
    again = answers(tmp_path, refusing, torch.arange(9), taps=["a", "b"])
    for output in (stored(batch_of(torch.arange(9))), again(batch_of(torch.arange(9)))):
        assert torch.equal(output.features["b"], output.prediction + 1)
        assert torch.equal(output.features["a"], output.prediction + 2)


def test_features_that_nobody_wants_are_not_read(tmp_path):
    teacher = Teacher(features=("conv.2", "act"))
    stored = answers(tmp_path, teacher, torch.arange(70), taps=["conv.2", "act"])
    rows = torch.tensor([60, 3])
    whole = stored(batch_of(rows))
    for taps in ([], ["act"], ["conv.2"], ["act", "conv.2"]):
        narrowed = stored.only(taps)
        output = narrowed(batch_of(rows))
        assert torch.equal(output.prediction, whole.prediction)
        assert set(output.features) == set(taps)
        assert all(torch.equal(feature, whole.features[name]) for name, feature in output.features.items())
        assert len(narrowed._read.tensors) == 1 + len(taps)
    assert set(stored(batch_of(rows)).features) == {"conv.2", "act"}
    with pytest.raises(UserError, match=r"the feature 'conv\.3' is not stored"):
        stored.only(["conv.3"])


@pytest.mark.parametrize("top_k", [None, 2])
def test_what_does_not_fit_into_float16_is_refused(tmp_path, top_k):
    def teacher(batch):
        return Output(belonging(batch.index, 0) * torch.tensor([1.0, 1e6, 1.0]))

    rows = torch.arange(40)
    with pytest.raises(UserError, match="do not fit into float16") as caught:
        answers(tmp_path, teacher, rows, top_k=top_k)
    assert caught.value.hint == "set `cache.dtype: float32`"
    stored = answers(tmp_path, teacher, rows, top_k=top_k, dtype="float32")
    assert stored(batch_of(rows)).prediction.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("top_k", [None, 2])
def test_nan_and_infinity_are_refused_with_their_row(tmp_path, bad, top_k):
    def teacher(batch):
        prediction = belonging(batch.index, 0)
        prediction[batch.index == 1111, 1] = bad
        return Output(prediction)

    with pytest.raises(UserError, match=f"the teacher gave {bad} for row 1111, view 0"):
        answers(tmp_path, teacher, torch.arange(1500), top_k=top_k, dtype="float32")
    assert not entries(tmp_path)[0].complete


def test_a_teacher_of_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be stored"):
        answers(tmp_path, lambda b: Output(torch.zeros(len(b.index), 3, 3, 3, 3)), torch.arange(10))


def test_values_of_a_regression_are_stored(tmp_path):
    stored = answers(tmp_path, Teacher(width=2), torch.arange(30), kind="regression")
    assert torch.equal(stored(batch_of(torch.arange(30))).prediction, belonging(torch.arange(30), 0, 2))


# --- identify, reask, pixels ---------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, scale, sizes=(2, 3)):
        super().__init__()
        self.scale, self.sizes, self.inner = scale, sizes, nn.Linear(4, 3)
        self.register_buffer("shift", torch.zeros(3), persistent=False)

    def forward(self, x):
        return self.scale * self.inner(x) + self.shift


def test_identity_holds_whatever_changes_an_answer():
    torch.manual_seed(0)
    network = Normalized(nn.Sequential(Scaled(0.5), nn.LeakyReLU(0.1)), [0.1], [0.2])
    first = cache.identify(network, torch.float32)
    assert json.loads(json.dumps(first)) == first
    assert cache.identify(copy.deepcopy(network).train(), torch.float32) == first

    def changed(change):
        other = copy.deepcopy(network)
        change(other)
        now = cache.identify(other, torch.float32)
        return {name for name in first if now[name] != first[name]}

    with torch.no_grad():
        assert changed(lambda n: n.model[0].inner.weight[0, 0].add_(1e-6)) == {"weights"}
        assert changed(lambda n: n.model[0].shift.add_(1)) == {"weights"}
        assert changed(lambda n: setattr(n.model[0], "scale", 0.6)) == {"architecture"}
        assert changed(lambda n: setattr(n.model[0], "sizes", (2, 4))) == {"architecture"}
        assert changed(lambda n: setattr(n.model[1], "negative_slope", 0.2)) == {"architecture"}
        assert changed(lambda n: n.mean.add_(0.1)) == {"mean"}
        assert changed(lambda n: n.std.add_(0.1)) == {"std"}
    assert cache.identify(network, torch.bfloat16) == {**first, "dtype": "bfloat16"}


def test_the_source_of_a_class_is_part_of_the_identity(tmp_path, monkeypatch):
    found = []
    for factor in (1, 2):
        (tmp_path / f"own{factor}.py").write_text(
            f"from torch import nn\nclass Own(nn.Module):\n    def forward(self, x):\n        return {factor} * x\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        module = __import__(f"own{factor}")
        module.Own.__module__ = "own"
        monkeypatch.setitem(sys.modules, "own", module)
        found.append(cache.identify(module.Own(), torch.float32)["architecture"])
    assert found[0] != found[1]


def test_a_teacher_that_has_changed_is_found_by_asking_again(tmp_path):
    rows = torch.arange(200)
    for top_k in (None, 2):
        stored = answers(tmp_path, Teacher(), rows, views=3, top_k=top_k)
        again = cache.reask(stored, Teacher(), fetch, 64)
        assert again == (66, 0.0, 0)

        def other(batch):
            prediction = belonging(batch.index, batch.view)
            return Output(torch.where((batch.index % 2 == 0)[:, None], prediction.flip(1), prediction))

        changed = cache.reask(stored, other, fetch, 600)
        assert changed.samples == 600
        assert changed.disagreements == 300
        assert changed.worst > 0.2
    stored = answers(tmp_path, Teacher(), rows, kind="regression")
    moved = cache.reask(stored, lambda b: Output(belonging(b.index, 0) + 100 * (b.index == 7)[:, None]), fetch, 200)
    assert moved == (200, 100.0, 1)


def test_pixels_are_kept_as_bytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    exact = torch.randint(0, 256, (40, 1, 4, 4), generator=generator).float().div_(255)

    def augmented(rows, view):
        x = exact[rows] if view == 0 else exact[rows] * 0.37
        return Batch(x, rows, rows, view)

    options = {"identity": {"data": "d"}, "label": LABEL, "views": 2, "shape": (1, 4, 4), "root": tmp_path}
    kept = cache.pixels(augmented, torch.arange(40), **options)
    rows = torch.tensor([39, 0, 17])
    assert torch.equal(kept(rows, 0), exact[rows])
    assert (kept(rows, 1) - 0.37 * exact[rows]).abs().max() <= 0.5001 / 255
    assert kept.report["bytes"] == 40 * 2 * 16
    again = cache.pixels(refusing, torch.arange(40), **options)
    assert torch.equal(again(rows, 1), kept(rows, 1))
    for outside in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"only pixels in \[0, 1\]"):
            cache.pixels(
                lambda r, v, o=outside: Batch(torch.full((len(r), 1, 4, 4), o), r, r, v),
                torch.arange(4),
                **{**options, "identity": {"data": outside}},
            )
