"""What the README and the docs show works as shown."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck import recipe
from limbeck.cli import app

ROOT = Path(__file__).parents[1]


def blocks(file, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


def test_the_readme_s_python_runs(tmp_path, capsys):
    [block] = blocks("README.md", "python")
    script = tmp_path / "readme.py"
    script.write_text(block)
    runpy.run_path(str(script))
    assert float(capsys.readouterr().out) > 0.7


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_tensors.py"))
    assert len(re.findall(r"(teacher|student): \d\d\.\d\d%", capsys.readouterr().out)) == 2


def test_the_readme_s_recipe_is_sound(tmp_path):
    [block] = blocks("README.md", "yaml")
    (tmp_path / "my.yaml").write_text(block)
    assert recipe.load(tmp_path / "my.yaml").name == "mine"


def test_the_documented_keys_are_the_recipe_s(tmp_path):
    """Every key that docs/recipe.md shows exists, and every key that exists is shown."""
    [block] = blocks("docs/recipe.md", "yaml")
    shown = set(re.findall(r"^\s*(?:- )?(\w+):|[{,] ?(\w+):", block, re.MULTILINE))
    names = {a or b for a, b in shown}
    models = [recipe.Recipe, recipe.Data, recipe.Split, recipe.Augment, recipe.Blur, recipe.Jitter, recipe.Teacher]
    models += [recipe.Assistant, recipe.Combine, recipe.Student, recipe.Plan, recipe.Schedule, recipe.Cache, recipe.Run]
    known = {key for model in models for key in model.model_fields}
    mentioned = set(re.findall(r"\w+", (ROOT / "docs/recipe.md").read_text()))
    assert names - known <= {"hard", "kd", "weight", "temperature", "channels", "hidden"}
    assert known - mentioned <= {"momentum", "step_size", "gamma"}


@pytest.mark.parametrize("line", [line for block in blocks("README.md", "sh") for line in block.splitlines()])
def test_the_commands_exist(line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    assert words[0] == "limbeck"
    commands = [w for w in words[1:3] if re.fullmatch("[a-z]+", w)]
    found = CliRunner().invoke(app, [*commands, "--help"])
    assert found.exit_code == 0
    for option in (w for w in words if w.startswith("--")):
        assert option in found.output
