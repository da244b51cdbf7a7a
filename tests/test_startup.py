"""What `--help` and `check` must not wait for."""

import subprocess
import sys

import pytest

from limbeck import recipe

# Prints the modules that a command has imported, as the last thing before it leaves.
LISTED = "import atexit, sys; atexit.register(lambda: print('|', *sys.modules)); from limbeck.cli import main; main()"

# What computes, draws or looks into other packages.
SLOW = {
    *("torch", "torchvision", "timm", "accelerate", "torchmetrics", "safetensors", "numpy", "scipy", "sklearn"),
    *("pandas", "PIL", "onnx", "onnxruntime", "plotly", "jinja2", "rich", "asyncio", "multiprocessing"),
}
# Rooms that may import such a thing.
ROOMS = {f"limbeck.{room}" for room in ("pipeline", "job", "data", "models", "losses", "train", "report", "evaluate")}


def imported(*words):
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.rpartition("|")[2].split())


def test_the_list_of_commands_needs_no_recipe():
    found = imported("--help")
    assert "limbeck.cli" in found
    assert not found & (SLOW | ROOMS | {"pydantic_core", "yaml", "limbeck.recipe"})


@pytest.mark.parametrize("words", [("check", "--help"), ("run", "--help"), ("data", "split", "--help"), ("--version",)])
def test_help_imports_nothing_that_computes(words):
    found = imported(*words)
    assert "limbeck.cli" in found
    assert not found & (SLOW | ROOMS | {"yaml", "limbeck.recipe"})


@pytest.mark.parametrize("name", recipe.bundled())
def test_check_imports_nothing_that_computes(name):
    found = imported("check", name)
    assert "limbeck.recipe.schema" in found
    assert not found & (SLOW | ROOMS)


def test_check_does_not_search_the_installed_packages():
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def refuse(*_, **__): sys.exit('searched the installed packages')\n"
        "metadata.distributions = refuse\n"
        "from limbeck.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "check", "quickstart"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("quickstart: fine")
