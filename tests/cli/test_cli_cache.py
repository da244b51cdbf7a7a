"""`limbeck cache`: what is listed, what is found damaged, what is removed."""

import shutil

import pytest
from typer.testing import CliRunner

import limbeck
from limbeck.cli import app
from limbeck.core.errors import UserError
from limbeck.pipeline import doctor

PLAN = {"epochs": 1, "batch_size": 32, "lr": 3e-3}
TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 200, "flat": True, "split": {"val": 0.2, "test": 0.25}},
    "teachers": [
        {"name": n, "model": "mlp", "options": {"hidden": [w]}, "train": PLAN} for n, w in (("a", 16), ("b", 8))
    ],
    "student": {"model": "mlp", "options": {"hidden": [8]}, "train": PLAN},
    "losses": {"hard": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "seeds": [0],
    "run": {"threads": 1, "device": "cpu"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two teachers, and the stored outputs of both."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(folder / "cache"))
        limbeck.run(TINY, out=folder / "run")
    return folder


@pytest.fixture
def shelf(finished, tmp_path, monkeypatch):
    """A copy of them that a test may damage."""
    shutil.copytree(finished / "cache", tmp_path / "cache")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "outputs"


def stores(shelf):
    return sorted(path.name for path in shelf.iterdir() if path.is_dir() and not path.name.startswith("."))


def command(*words):
    return CliRunner().invoke(app, ["cache", *map(str, words)])


def test_ls_says_whose_answers_these_are(shelf):
    found = command("ls")
    assert found.exit_code == 0
    for key in stores(shelf):
        assert key in found.output
    assert found.output.count("digits (tiny)") == 2
    assert found.output.count("120 rows x 1") == 2
    assert found.output.splitlines()[-1].endswith(str(shelf))


def test_an_empty_shelf_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "none"))
    for words in (["ls"], ["verify"], ["prune", "--all"]):
        assert command(*words).exit_code == 0


def test_verify_finds_the_damaged_byte(shelf):
    assert command("verify").output.count(": sound") == 2
    damaged, sound = stores(shelf)
    file = shelf / damaged / "prediction.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    found = command("verify", "--quiet")
    assert found.exit_code == 1
    assert isinstance(found.exception, UserError)
    assert f"{damaged}: view 0, rows 0 to" in found.output
    assert f"{sound}: sound" in found.output
    assert command("verify", sound[:6]).exit_code == 0
    assert "nothing is stored as 'zz'" in str(command("verify", "zz").exception)


def test_verify_asks_the_teachers_again(finished, shelf):
    found = command("verify", "--run", finished / "run", "--sample", 20)
    assert found.exit_code == 0
    assert "a: asked again for 20 rows, largest difference 0, 0 with another prediction" in found.output
    assert "b: asked again for 20 rows" in found.output


def test_answers_of_another_teacher_are_found(shelf):
    """Each file is whole in itself, but not where it lies."""
    one, other = stores(shelf)
    for name in ("prediction.bin", "shards.jsonl"):
        shutil.copy(shelf / one / name, shelf / other / name)
    found = command("verify")
    assert found.exit_code == 1
    assert f"{one}: sound" in found.output
    assert f"{other}: view 0, rows 0 to 119: not what was written" in found.output
    assert str(found.exception).startswith("1 fault\n")


def test_only_a_finished_run_that_stores_answers_is_checked(tmp_path):
    with pytest.raises(UserError, match=r"result\.json"):
        doctor.recheck(tmp_path)
    limbeck.run({**TINY, "views": 0}, out=tmp_path / "live")
    with pytest.raises(UserError, match="asks the teacher live"):
        doctor.recheck(tmp_path / "live")


def test_prune_removes_what_is_chosen_and_nothing_else(shelf):
    gone, kept = stores(shelf)
    assert "say what shall go" in str(command("prune").exception)
    assert "would be removed" in command("prune", gone[:8], "--dry-run").output
    assert stores(shelf) == [gone, kept]
    assert command("prune", "--older-than", 1).exit_code == 0
    assert command("prune", "--incomplete").exit_code == 0
    assert stores(shelf) == [gone, kept]
    assert f"{gone}: removed" in command("prune", gone[:8]).output
    assert stores(shelf) == [kept]
    command("prune", "--to-gb", 0)
    assert stores(shelf) == []


def test_what_was_removed_is_asked_for_again(shelf, tmp_path):
    command("prune", "--all")
    result = limbeck.run(TINY, out=tmp_path / "again")
    assert [stored["asked"] for stored in result["cache"]] == [120, 120]
