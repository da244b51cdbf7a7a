"""What is stored is what was made for that row and view, whoever builds, dies, damages or removes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import UserError
from limbeck.core.files import cache_dir
from limbeck.distill.cache.store import Array, building, entries, in_words, open_store, outputs_dir, prune, room, verify

IDENTITY = {"teacher": {"weights": "abc"}, "data": "d1"}
LABEL = {"what": "outputs of teacher", "recipe": "digits"}
ARRAYS = (Array("prediction", "float32", (3,)), Array("tap0", "uint8", (2, 2)))

# Another process that builds the same store and writes down what it made: root rows views shard_rows rank world delay.
WORKER = """
import json, sys, time
from pathlib import Path
import numpy as np
from limbeck.distill.cache.store import Array, open_store
root, log = Path(sys.argv[1]), Path(sys.argv[2])
rows, views, shard_rows, rank, world = map(int, sys.argv[3:8])
def make(view, block):
    log.with_suffix(".asking").touch()
    time.sleep(float(sys.argv[8]))
    with log.open("a") as stream:
        stream.write(json.dumps([view, block.start, block.stop]) + chr(10))
    at = np.arange(block.start, block.stop)
    prediction = (1000.0 * view + at)[:, None] + np.array([0.0, 0.25, 0.5])
    tap = np.broadcast_to(((at + view) % 251)[:, None, None], (len(at), 2, 2))
    return {"prediction": prediction.astype("float32"), "tap0": tap.astype("uint8")}
arrays = (Array("prediction", "float32", (3,)), Array("tap0", "uint8", (2, 2)))
identity = {"teacher": {"weights": "abc"}, "data": "d1"}
label = {"what": "outputs of teacher", "recipe": "digits"}
log.with_suffix(".ready").touch()
while not (log.parent / "go").exists():
    time.sleep(0.002)
store = open_store(identity, label, rows, views, lambda: arrays, root=root, shard_rows=shard_rows)
store.build(make, rank=rank, world=world)
print(store.rows_asked, store.rows_found)
if len(sys.argv) > 9:
    time.sleep(60)
"""


def content(view, block):
    """What belongs to some rows of a view: no two places have the same numbers."""
    at = np.arange(block.start, block.stop)
    prediction = ((1000.0 * view + at)[:, None] + np.array([0.0, 0.25, 0.5])).astype("float32")
    return {
        "prediction": prediction,
        "tap0": np.broadcast_to(((at + view) % 251)[:, None, None], (len(at), 2, 2)).astype("uint8"),
    }


class Maker:
    """`content`, with a note of what was asked; stops as Ctrl-C would after so many shards."""

    def __init__(self, stop_after=None):
        self.made, self.stop_after = [], stop_after

    def __call__(self, view, block):
        if self.stop_after is not None and len(self.made) >= self.stop_after:
            raise KeyboardInterrupt
        self.made.append((view, block.start))
        return content(view, block)


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self):
        self.lines, self.bars = [], []

    def say(self, text):
        self.lines.append(text)

    def bar(self, label, total):
        import contextlib

        @contextlib.contextmanager
        def shown():
            yield lambda done, _: self.bars.append((done, total))

        return shown()


def opened(root, rows=50, views=1, shard_rows=10, **options):
    identity = options.pop("identity", IDENTITY)
    return open_store(
        identity, options.pop("label", LABEL), rows, views, lambda: ARRAYS, root=root, shard_rows=shard_rows, **options
    )


def built(root, *, make=None, strict=False, progress=None, rank=0, world=1, **options):
    store = opened(root, strict=strict, progress=progress, **options)
    store.build(make or Maker(), strict=strict, progress=progress, rank=rank, world=world)
    return store


def assert_whole(store):
    rows = store.header.rows
    for view in range(store.views):
        for name, wanted in content(view, slice(0, rows)).items():
            np.testing.assert_array_equal(store.array(name)[view], wanted)


def spoil(path, at):
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


def worker(root, log, *, rows=50, views=1, shard_rows=10, rank=0, world=1, delay=0.0, stay=False):
    numbers = [str(n) for n in (rows, views, shard_rows, rank, world, delay)]
    command = [sys.executable, "-c", WORKER, str(root), str(log), *numbers, *(["stay"] if stay else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def go(folder, *logs):
    """Let processes begin once all of them are there."""
    wait_for(lambda: all(log.with_suffix(".ready").exists() for log in logs))
    (folder / "go").touch()


def wait_for(condition):
    while not condition():
        time.sleep(0.005)


def made_by(log):
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def test_what_is_stored_is_read_back_and_not_made_again(tmp_path):
    make = Maker()
    store = built(tmp_path, views=2, make=make)
    assert_whole(store)
    assert make.made == [(view, start) for view in (0, 1) for start in range(0, 50, 10)]
    assert (store.rows_asked, store.rows_found) == (100, 0)
    again = Maker()
    other = built(tmp_path, views=2, make=again)
    assert again.made == []
    assert (other.rows_asked, other.rows_found) == (0, 100)
    assert_whole(other)


def test_the_default_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    assert outputs_dir() == cache_dir() / "outputs" == tmp_path / "outputs"


def test_more_views_extend_and_fewer_are_served(tmp_path):
    built(tmp_path, views=1)
    make = Maker()
    store = built(tmp_path, views=3, make=make)
    assert {view for view, _ in make.made} == {1, 2}
    assert_whole(store)
    again = Maker()
    assert_whole(built(tmp_path, views=2, make=again))
    assert again.made == []
    [entry] = entries(tmp_path)
    assert (entry.views, entry.complete) == (3, True)


@pytest.mark.parametrize(("rows", "shard_rows"), [(1, 10), (10, 10), (11, 10), (1025, 1024), (97, 8)])
def test_blocks_cover_all_rows_and_are_of_nearly_one_size(tmp_path, rows, shard_rows):
    header = opened(tmp_path, rows=rows, shard_rows=shard_rows).header
    blocks = [header.block(shard) for shard in range(header.shards)]
    assert [row for b in blocks for row in range(b.start, b.stop)] == list(range(rows))
    sizes = [b.stop - b.start for b in blocks]
    assert max(sizes) <= shard_rows
    assert max(sizes) - min(sizes) <= 1


def test_large_rows_make_small_shards(tmp_path):
    huge = Array("tap0", "float32", (2**20,))  # 4 MB a row
    store = open_store({}, {}, 100, 1, lambda: [huge], root=tmp_path)
    assert max(store.header.block(s).stop - store.header.block(s).start for s in range(store.header.shards)) <= 16


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 60),
    shard_rows=st.integers(1, 25),
    steps=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=5),
)
def test_any_history_of_opens_and_stops_leaves_each_number_in_its_place(rows, shard_rows, steps):
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for views, stop_after, rank in steps:
            make = Maker(stop_after)
            store = opened(Path(folder), rows=rows, views=views, shard_rows=shard_rows)
            try:
                store.build(make, rank=rank, world=4)
            except KeyboardInterrupt:
                made += make.made
                continue
            made += make.made
            assert_whole(store)
        final = max(views for views, _, _ in steps)
        last = Maker()
        store = built(Path(folder), rows=rows, views=final, shard_rows=shard_rows, make=last)
        assert_whole(store)
        made += last.made
        assert len(made) == len(set(made)) == store.header.shards * final


def test_a_kill_loses_at_most_the_shard_in_work(tmp_path):
    log = tmp_path / "log"
    process = worker(tmp_path / "root", log, rows=200, delay=0.1)
    go(tmp_path, log)
    wait_for(lambda: len(made_by(log)) >= 5)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    before = made_by(log)
    assert 5 <= len(before) < 20
    make = Maker()
    assert_whole(built(tmp_path / "root", rows=200, make=make))
    again = {start for _, start in make.made} & {start for _, start, _ in before}
    assert len(again) <= 1
    assert len(make.made) == 20 - len(before) + len(again)


def test_processes_share_the_work_and_none_makes_what_another_has_made(tmp_path):
    logs = [tmp_path / f"log{i}" for i in range(3)]
    root = tmp_path / "root"
    # Two that know of each other and one that does not.
    ranks = [(0, 2), (1, 2), (0, 1)]
    processes = [
        worker(root, log, rows=300, views=2, rank=rank, world=world, delay=0.04)
        for log, (rank, world) in zip(logs, ranks, strict=True)
    ]
    go(tmp_path, *logs)
    told = [process.communicate(timeout=300)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    made = [made_by(log) for log in logs]
    together = [shard for part in made for shard in part]
    assert len(together) == len(set(together)) == 60
    assert all(made)
    assert [int(asked) for asked, _ in told] == [10 * len(part) for part in made]
    assert all(int(asked) + int(found) == 600 for asked, found in told)
    make = Maker()
    assert_whole(built(root, rows=300, views=2, make=make))
    assert make.made == []


def test_what_a_killed_builder_held_is_made_by_the_one_that_waits(tmp_path):
    log, root = tmp_path / "log", tmp_path / "root"
    stuck = worker(root, log, rows=20, delay=1000)  # holds its first shard for ever
    go(tmp_path, log)
    wait_for(log.with_suffix(".asking").exists)
    make, kill = Maker(), threading.Timer(0.5, stuck.kill)

    def made(view, block):
        if not make.made:  # the other shard, after which it waits
            kill.start()
        return make(view, block)

    assert_whole(built(root, rows=20, make=made))
    assert stuck.wait() == -signal.SIGKILL
    stuck.stdout.close()
    assert make.made == [(0, 10), (0, 0)]


@pytest.mark.parametrize("file", ["prediction.bin", "tap0.bin"])
def test_a_damaged_byte_is_found_and_its_shard_made_again(tmp_path, file):
    store = built(tmp_path)
    spoil(store.folder / file, 23 * store.header.arrays[file == "tap0.bin"].row_bytes)
    assert verify(entries(tmp_path)[0]) == ["view 0, rows 20 to 29: not what was written"]
    with pytest.raises(UserError, match="1 of 5 stored shards are damaged"):
        built(tmp_path, strict=True)
    make, heard = Maker(), Heard()
    assert_whole(built(tmp_path, make=make, progress=heard))
    assert make.made == [(0, 20)]
    assert heard.lines[0] == "outputs of teacher: 1 of 5 stored shards are damaged, and made again"
    assert verify(entries(tmp_path)[0]) == []


def test_a_shard_in_another_place_is_damaged(tmp_path):
    store = opened(tmp_path)
    store.build(lambda _, block: {k: v[: block.stop - block.start] for k, v in content(0, slice(0, 10)).items()})
    path = store.folder / "shards.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    swapped = {0: 1, 1: 0}
    path.write_text("".join(json.dumps({**e, "shard": swapped.get(e["shard"], e["shard"])}) + "\n" for e in lines))
    make = Maker()
    built(tmp_path, make=make)
    assert make.made == [(0, 0), (0, 10)]


def test_a_file_cut_short_is_damaged(tmp_path):
    store = built(tmp_path)
    os.truncate(store.folder / "prediction.bin", 100)
    make = Maker()
    assert_whole(built(tmp_path, make=make))
    assert len(make.made) == 5


def test_a_torn_last_line_is_ignored_and_does_not_spoil_the_next(tmp_path):
    store = built(tmp_path)
    path = store.folder / "shards.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    make = Maker()
    built(tmp_path, make=make)
    assert make.made == [(0, 40)]
    again = Maker()
    assert_whole(built(tmp_path, make=again))
    assert again.made == []


def test_the_last_line_about_a_shard_counts(tmp_path):
    store = built(tmp_path)
    path = store.folder / "shards.jsonl"
    lines = path.read_text()
    first = next(line for line in lines.splitlines() if line)
    path.write_text(lines + json.dumps({**json.loads(first), "sums": [1, 2]}) + "\n" + first + "\n")
    make = Maker()
    built(tmp_path, make=make)
    assert make.made == []


@pytest.mark.parametrize("change", ["rows", "identity", "cut", "gone", "key"])
def test_a_damaged_header_is_begun_anew_or_refused(tmp_path, change):
    store = built(tmp_path)
    path = store.folder / "header.json"
    header = json.loads(path.read_text())
    if change == "rows":
        path.write_text(json.dumps({**header, "rows": 40}))
    elif change == "identity":
        path.write_text(json.dumps({**header, "identity": {"teacher": "another"}}))
    elif change == "cut":
        path.write_text(path.read_text()[:100])
    elif change == "gone":
        path.unlink()
    else:  # a sound header of something else
        other = built(tmp_path, identity={"teacher": "another"}, label={"what": "other"})
        path.write_bytes((other.folder / "header.json").read_bytes())
    with pytest.raises(UserError, match=r"header.json is damaged"):
        built(tmp_path, strict=True)
    make, heard = Maker(), Heard()
    anew = built(tmp_path, make=make, progress=heard)
    assert len(make.made) == 5
    assert "header.json is damaged" in heard.lines[0]
    assert_whole(anew)
    assert not list(tmp_path.glob(".gone*"))
    assert_whole(store)  # who had it open keeps it


def test_another_identity_is_another_store(tmp_path):
    first = built(tmp_path)
    make = Maker()
    second = built(tmp_path, identity={**IDENTITY, "data": "d2"}, make=make)
    assert first.folder != second.folder
    assert len(make.made) == 5


def test_strict_refuses_a_second_store_of_one_label_and_says_what_differs(tmp_path):
    built(tmp_path, strict=True)  # nothing of that label: it is built
    with pytest.raises(UserError) as caught:
        built(tmp_path, strict=True, identity={"teacher": {"weights": "xyz", "dtype": "float32"}, "data": "d1"})
    assert "teacher.weights: abc -> xyz" in caught.value.what
    assert "teacher.dtype: None -> float32" in caught.value.what
    assert "data" not in caught.value.what
    assert "cache.strict" in caught.value.hint
    built(tmp_path, strict=True, identity={"data": "d3"}, label={"what": "another"})
    make = Maker()
    built(tmp_path, strict=True, views=2, make=make)  # the same identity: served and extended
    assert {view for view, _ in make.made} == {1}
    assert len(entries(tmp_path)) == 2


def test_the_limit_is_told_before_anything_is_made(tmp_path):
    row = 3 * 4 + 4
    with pytest.raises(UserError, match="800 bytes are needed, and 0 bytes of the 799 bytes") as caught:
        opened(tmp_path, limit_bytes=50 * row - 1)
    assert "limbeck cache prune" in caught.value.hint
    assert "cache.limit_gb" in caught.value.hint
    assert entries(tmp_path) == []
    built(tmp_path, limit_bytes=50 * row)
    with pytest.raises(UserError, match="are taken"):
        opened(tmp_path, views=2, limit_bytes=2 * 50 * row - 1)
    built(tmp_path, views=1, limit_bytes=1)  # complete, so it needs nothing
    with pytest.raises(UserError, match="are taken"):
        opened(tmp_path, identity={"data": "d2"}, limit_bytes=2 * 50 * row - 1)
    taken = entries(tmp_path)[0].bytes
    assert taken > 50 * row  # with its header and journal
    assert room(10_000, tmp_path) == 10_000 - taken
    assert room(10, tmp_path) == 0


def test_the_disk_keeps_a_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "free_bytes", lambda _: 799)
    with pytest.raises(UserError, match="800 bytes more are needed, and 799 bytes of the disk"):
        opened(tmp_path)
    monkeypatch.undo()
    assert 0 < room(None, tmp_path / "not" / "there") < os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize


def test_it_is_told_how_big_it_will_be(tmp_path):
    heard = Heard()
    built(tmp_path, views=2, progress=heard)
    assert heard.lines == ["outputs of teacher: 50 rows x 2 views, 1.6 kB"]
    assert heard.bars == [(done, 100) for done in range(10, 101, 10)]
    heard = Heard()
    built(tmp_path, views=3, progress=heard)
    assert heard.lines == ["outputs of teacher: 50 rows x 3 views, 2.4 kB; 50 rows of them are missing"]
    assert [in_words(n) for n in (999, 1000, 1_080_000, 2_560_000_000)] == ["999 bytes", "1.0 kB", "1.1 MB", "2.6 GB"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, monkeypatch, code):
    store, pwrite, left = opened(tmp_path), os.pwrite, [5]

    def full(handle, block, start):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        return pwrite(handle, block[: max(1, len(block) // 2)], start) if left[0] == 0 else pwrite(handle, block, start)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="the disk is full; what was stored before is still there"):
        store.build(Maker())
    monkeypatch.undo()
    make = Maker()
    assert_whole(built(tmp_path, make=make))
    assert make.made == [(0, 20), (0, 30), (0, 40)]


def test_a_write_in_parts_is_completed(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, block, start: pwrite(handle, block[:7], start))
    assert_whole(built(tmp_path))


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written") as caught:
        opened(tmp_path / "file" / "cache")
    assert "LIMBECK_CACHE" in caught.value.hint


def test_prune_takes_the_least_recently_used_and_never_one_in_use(tmp_path):
    stores = [built(tmp_path, identity={"data": n}, label={"what": f"outputs {n}"}) for n in range(4)]
    keys = [store.header.key for store in stores]
    for age, store in zip((40, 30, 20, 10), stores, strict=True):
        os.utime(store.folder / "header.json", (time.time() - age * 86400,) * 2)
    assert [entry.key for entry in entries(tmp_path)] == keys[::-1]
    assert all(entry.in_use for entry in entries(tmp_path))
    said = []
    assert prune(root=tmp_path, say=said.append) == []
    assert sorted(said) == sorted(f"{key}: in use, kept" for key in keys)
    for store in stores[1:]:
        store.close()
    assert [entry.key for entry in prune(older_than_days=15, root=tmp_path, dry_run=True)] == [keys[1], keys[2]]
    assert len(entries(tmp_path)) == 4
    size = entries(tmp_path)[0].bytes
    removed = prune(to_bytes=3 * size, root=tmp_path)
    assert [entry.key for entry in removed] == [keys[1]]  # the oldest is in use
    assert [entry.key for entry in prune([keys[3]], root=tmp_path)] == [keys[3]]
    with pytest.raises(UserError, match="nothing is stored as"):
        prune(["nonsense"], root=tmp_path)
    assert prune(incomplete=True, root=tmp_path) == []
    opened(tmp_path, identity={"data": 9}).close()
    (tmp_path / ".gone-left-by-a-kill").mkdir()
    assert [entry.views for entry in prune(incomplete=True, root=tmp_path)] == [1]
    assert {path.name for path in tmp_path.iterdir()} == {".lock", keys[0], keys[2]}
    assert_whole(stores[0])


def test_prune_leaves_what_another_process_uses(tmp_path):
    root, log = tmp_path / "root", tmp_path / "log"
    process = worker(root, log, stay=True)
    go(tmp_path, log)
    assert process.stdout.readline()
    said = []
    assert prune(root=root, say=said.append) == []
    assert len(said) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(prune(root=root)) == 1


def test_opening_is_using(tmp_path):
    store = built(tmp_path)
    os.utime(store.folder / "header.json", (1, 1))
    opened(tmp_path)
    assert time.time() - entries(tmp_path)[0].used < 60


def test_what_is_read_cannot_be_written_and_takes_no_memory_of_ours(tmp_path):
    array = built(tmp_path).array("prediction")
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_content_of_another_shape_is_not_stored(tmp_path):
    with pytest.raises(ValueError, match="prediction"):
        opened(tmp_path).build(lambda _, block: content(0, slice(0, block.stop - block.start + 1)))
    with pytest.raises(ValueError, match="rows must be"):
        opened(tmp_path, rows=51)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_reading_a_large_store_takes_no_memory_of_ours(tmp_path):
    def of(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])

    rows = 2**16
    store = open_store({}, {}, rows, 1, lambda: [Array("tap0", "float32", (256,))], root=tmp_path)
    store.build(lambda _, block: {"tap0": np.ones((block.stop - block.start, 256), "float32")})
    before = {name: of(name) for name in ("RssAnon", "VmData")}
    array = store.array("tap0")[0]
    order = np.random.default_rng(0).permutation(rows)
    assert sum(float(array[part].sum()) for part in np.split(order, 64)) == rows * 256  # 64 MB are read
    assert all(of(name) - size < 16 * 2**20 for name, size in before.items())
