"""What the README and the docs show works as shown."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from limbeck import recipe
from limbeck.cli import app
from limbeck.core import signatures
from limbeck.recipe.model_source import FILES

ROOT = Path(__file__).parents[1]


def blocks(file, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


SHOWN = [block for file in ("README.md", "docs/tasks.md", "docs/foreign.md") for block in blocks(file, "python")]
SHOWN = [block for block in SHOWN if "KerasNetwork" not in block]  # see test_keras_files.py


@pytest.mark.parametrize("block", SHOWN)
def test_the_documented_python_runs(tmp_path, capsys, block):
    script = tmp_path / "readme.py"
    script.write_text(block)
    runpy.run_path(str(script))
    assert float(capsys.readouterr().out) > 0.7


@pytest.mark.parametrize("block", blocks("docs/foreign.md", "yaml"))
def test_the_documented_models_are_sound(block):
    frame = {"data": {"source": "digits"}, "student": {"model": "conv-pool"}, "losses": {"hard": 0.5, "kd": 0.5}}
    shown = yaml.safe_load(block)
    checked = recipe.load(frame | {"teachers": [{"model": "conv-pool", "train": {}}]} | shown)
    assert [teacher.model for teacher in checked.teachers] == [teacher["model"] for teacher in shown["teachers"]]


def test_every_kind_of_file_is_documented():
    page = (ROOT / "docs/foreign.md").read_text()
    assert not [suffix for suffix in FILES if f"{suffix}`" not in page]


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_tensors.py"))
    assert len(re.findall(r"(teacher|student): \d\d\.\d\d%", capsys.readouterr().out)) == 2


def test_the_readme_s_recipe_is_sound(tmp_path):
    [block] = blocks("README.md", "yaml")
    (tmp_path / "my.yaml").write_text(block)
    assert recipe.load(tmp_path / "my.yaml").name == "mine"


DOCS = ("docs/losses.md", "docs/recipe.md")


def test_the_documented_keys_are_the_recipe_s(tmp_path):
    """Every key that docs/recipe.md shows exists, and every key that exists is shown."""
    block = "\n".join(blocks("docs/recipe.md", "yaml"))
    shown = set(re.findall(r"^\s*(?:- )?(\w+):|[{,] ?(\w+):", block, re.MULTILINE))
    names = {a or b for a, b in shown}
    models = [recipe.Recipe, recipe.Data, recipe.Split, recipe.Augment, recipe.Blur, recipe.Jitter, recipe.Teacher]
    models += [recipe.Assistant, recipe.Combine, recipe.Student, recipe.Plan, recipe.Schedule, recipe.Cache, recipe.Run]
    models += [recipe.Term, recipe.Ramp, recipe.Files, recipe.Step, recipe.Prune, recipe.Sparsify, recipe.Factorise]
    models += [recipe.Recover, recipe.Budget]
    known = {key for model in models for key in model.model_fields}
    mentioned = set(re.findall(r"\w+", (ROOT / "docs/recipe.md").read_text()))
    assert names - known <= {
        "hard",
        "kd",
        "temperature",
        "attention",
        "maps",
        "channels",
        "hidden",
        "pruned",
        "max_iter",
    }
    assert known - mentioned <= {"momentum", "step_size", "gamma"}


@pytest.mark.parametrize("block", [b for file in DOCS for b in blocks(file, "yaml") if "losses:" in b])
def test_the_documented_losses_are_sound(block):
    shown = {k: v for k, v in yaml.safe_load(block).items() if k in ("losses", "compare")}
    frame = {"data": {"source": "digits"}, "teachers": [{"model": "conv-pool", "train": {}}]}
    checked = recipe.load(frame | {"student": {"model": "conv-pool"}} | shown)
    assert checked.losses.keys() == shown["losses"].keys()


def test_the_tables_of_losses_are_what_the_source_says():
    script = [sys.executable, ROOT / "docs" / "losses.py", "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^\| `(\w+)", (ROOT / "docs/losses.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(signatures.losses())
    recipes = (ROOT / "docs/recipe.md").read_text()
    assert {name for name in listed if f"`{name}`" not in recipes} == set()


def test_a_table_of_losses_that_is_out_of_date_is_noticed(tmp_path):
    for name in ("losses.py", "losses.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path / name)
    page = tmp_path / "losses.md"
    page.write_text(page.read_text().replace("`kd(temperature=4", "`kd(temperature=5"))
    script = [sys.executable, tmp_path / "losses.py"]
    assert subprocess.run([*script, "--check"], capture_output=True, check=False).returncode == 1
    subprocess.run(script, check=True)
    assert page.read_text() == (ROOT / "docs" / "losses.md").read_text()


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
