"""The command line: exit codes, help, messages."""

import subprocess
import sys

import pytest


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "limbeck", *map(str, words)], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize(
    "words", [[], ["run"], ["check"], ["recipes"], ["report"], ["data"], ["data", "split"], ["data", "inspect"]]
)
def test_help_teaches(words):
    found = command(*words, "--help")
    assert found.returncode == 0
    assert "Usage:" in found.stdout
    assert len(found.stdout.splitlines()) > 5


def test_recipes_are_listed_and_printed():
    listed = command("recipes").stdout
    for name in (
        "quickstart",
        "mnist-distiller",
        "mnist-compress",
        "cifar10-vgg19",
        "seedlings-coatnet",
        "tabular-ensemble",
        "diabetes-regression",
    ):
        assert name in listed
    assert "temperature: 10" in command("recipes", "mnist-distiller").stdout
    unknown = command("recipes", "quikstart")
    assert unknown.returncode == 2
    assert "did you mean 'quickstart'?" in unknown.stderr


def test_check_says_what_would_run():
    found = command("check", "quickstart", "student.train.epochs=3")
    assert found.returncode == 0
    assert found.stdout.startswith("quickstart: fine")


def test_check_tells_a_typo_and_leaves_with_2():
    found = command("check", "quickstart", "student.train.epohcs=3")
    assert found.returncode == 2
    assert "student.train.epohcs: unknown key; did you mean 'epochs'?" in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("words", [["rnu"], ["run"], ["run", "quickstart", "--no-such"], ["data", "split", "only-one"]])
def test_misuse_leaves_with_2(words):
    assert command(*words).returncode == 2


def test_version():
    from limbeck import __version__

    assert command("--version").stdout.strip() == __version__


def test_report_needs_a_run(tmp_path):
    found = command("report", tmp_path)
    assert found.returncode == 2
    assert "result.json" in found.stderr


@pytest.mark.parametrize("content", ["{}", "[]", '{"models": []}'])
def test_report_refuses_what_is_no_result(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    found = command("report", tmp_path)
    assert found.returncode == 2
    assert "result.json: is not the result of a run" in found.stderr
