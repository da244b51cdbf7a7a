"""Files that are whole or not there, fingerprints, seeds."""

import io
import json
import resource
import signal
import subprocess
import sys

import pytest
import torch

from limbeck.core import files, hashing, seeding
from limbeck.core.errors import UserError, require


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fails(part):
        part.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        files.write_atomic(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def saved(tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def test_a_full_disk_is_told_and_the_old_file_survives(tmp_path):
    path = tmp_path / "weights.pt"
    files.write_bytes(path, saved({"w": torch.ones(3)}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(UserError, match="the disk is full"):
            files.write_bytes(path, saved({"w": torch.ones(1_000_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.equal(torch.load(path, weights_only=True)["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "below.txt", "x")


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [float("nan"), float("inf"), 1.5], "b": (1,)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, None, 1.5], "b": [1]}


def test_files_get_the_permissions_of_any_new_file(tmp_path):
    files.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_fingerprints_are_the_same_in_another_process():
    code = "from limbeck.core.hashing import fingerprint; print(fingerprint({'b': 1, 'a': [1.5, None]}, 'x'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert hashing.fingerprint({"a": [1.5, None], "b": 1}, "x") == other
    assert hashing.fingerprint({"a": [1.5, None], "b": 2}, "x") != other


def test_a_tensor_fingerprint_sees_names_types_shapes_and_values():
    base = {"w": torch.arange(6.0)}
    others = [
        {"v": torch.arange(6.0)},
        {"w": torch.arange(6)},
        {"w": torch.arange(6.0).view(2, 3)},
        {"w": torch.arange(6.0) + 1e-6},
    ]
    marks = {hashing.fingerprint_tensors(t) for t in [base, *others]}
    assert len(marks) == 5
    assert hashing.fingerprint_tensors({"w": torch.arange(12.0)[::2] / 2}) == hashing.fingerprint_tensors(base)


def test_seeding_fixes_what_is_drawn():
    def drawn(*parts):
        seeding.seed_everything(*parts)
        return torch.rand(3).tolist()

    assert drawn(1, "a") == drawn(1, "a")
    assert drawn(1, "a") != drawn(1, "b")


def test_a_folder_is_held_by_one_run(tmp_path):
    code = (
        f"from pathlib import Path; from limbeck.core.files import locked\nwith locked(Path({str(tmp_path)!r})): pass"
    )
    with files.locked(tmp_path):
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another run is writing here" in held.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_during_an_import_is_no_missing_extra(tmp_path, monkeypatch):
    (tmp_path / "interrupted_module.py").write_text(
        "raise ImportError('initialization failed') from KeyboardInterrupt()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("interrupted_module", extra="onnx", purpose="this")
    with pytest.raises(UserError, match=r"limbeck\[onnx\]"):
        require("no_such_module_at_all", extra="onnx", purpose="this")
