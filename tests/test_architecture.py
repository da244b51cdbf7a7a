"""The rules of the house that the source itself must keep: who imports whom, and what is imported late."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest

from limbeck.core.types import Kind

SRC = Path(__file__).parents[1] / "src"

# From the top down. A room may look into the rooms of lower rows only; inside a room all may see each other.
ROWS = (
    ("cli",),
    ("pipeline",),
    ("report", "distill", "compress"),
    ("evaluate",),
    ("export",),
    ("models",),
    ("data", "losses"),
    ("recipe",),
    ("tasks",),
    ("core",),
)
DEPTH = {room: depth for depth, row in enumerate(ROWS) for room in row}

# The same inside a room that has an order of its own.
WITHIN = {"distill": ("train", "cache", "teachers", "objective")}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 70

# The public names and `python -m limbeck`: they may import any room.
EXEMPT = ("limbeck", "limbeck.__main__")

# Libraries that are optional or slow to import: only inside the function that needs them.
HEAVY = {
    *(
        "onnx",
        "onnxruntime",
        "onnxscript",
        "litert_torch",
        "ai_edge_litert",
        "executorch",
        "keras",
        "h5py",
        "mlflow",
        "wandb",
    ),
    *("tensorboard", "plotly", "jinja2", "pandas", "sklearn", "timm", "optuna", "torch_pruning"),
    *("skops", "joblib", "xgboost", "lightgbm"),
}

# Where `limbeck check`, `report` and `--help` pass through, which must not wait for torch.
WITHOUT_TORCH = ("limbeck", "cli", "report", "recipe", "tasks", "core")
TORCH = {"torch", "torchvision", "timm", "accelerate", "torchmetrics"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def part_of(module: str) -> str:
    """The second part of a dotted name below the package: what it stands in inside its room."""
    return ".".join(module.split(".")[2:3])


def in_order(parts: tuple[str, ...], above: str, below: str) -> bool:
    """Whether `above` may look into `below`, of parts from the top down; what is none of them may see all."""
    return above == below or above not in parts or below not in parts or parts.index(above) < parts.index(below)


def imported(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """Dotted names that one import statement reaches; `from limbeck import x` reaches `limbeck.x`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    source = node.module or ""
    if node.level:
        package = module.split(".") if is_package else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1]
        source = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{source}.{alias.name}" for alias in node.names] if source == "limbeck" else [source]


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run as soon as a module is imported: none inside functions or `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from on_import(other)
            continue
        yield child
        yield from on_import(child)


def broken_rules(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """One line for each import that breaks a rule, in modules given as dotted name -> source."""
    found = []
    for module, source in sources.items():
        tree, room, is_package = ast.parse(source), room_of(module), module in packages
        if module not in EXEMPT:
            if room not in DEPTH:
                found.append(f"{module}: stands in no row")
                continue
            for node in ast.walk(tree):
                for name in imported(node, module, is_package):
                    other = room_of(name)
                    if name.split(".")[0] != "limbeck" or other == "__version__":
                        continue
                    if other == room:
                        if not in_order(WITHIN.get(room, ()), part_of(module), part_of(name)):
                            found.append(f"{module}: imports {name}, which is not below it")
                    elif DEPTH.get(other, -1) <= DEPTH[room]:
                        found.append(f"{module}: imports {name}, which is not below it")
        for node in on_import(tree):
            for name in imported(node, module, is_package):
                library = name.split(".")[0]
                if library in HEAVY:
                    found.append(f"{module}: imports {library} at its top level")
                if room in WITHOUT_TORCH and library in TORCH:
                    found.append(f"{module}: imports {library}, and must be quick")
                slow = library == "limbeck" and room_of(name) not in (*WITHOUT_TORCH, "__version__")
                if room in WITHOUT_TORCH and slow:
                    found.append(f"{module}: imports {name} at its top level, which may import torch")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((SRC / "limbeck").rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_imports_go_down_only_and_heavy_ones_come_late() -> None:
    paths = modules()
    assert {"limbeck.distill.objective", "limbeck.losses", "limbeck.losses.logit", "limbeck.core.errors"} <= set(paths)
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    broken = broken_rules({name: path.read_text(encoding="utf-8") for name, path in paths.items()}, packages)
    assert not broken, "\n".join(broken)


def test_the_rooms_are_those_of_the_rows() -> None:
    assert {room_of(name) for name in modules() if name not in EXEMPT} == set(DEPTH)
    for room, parts in WITHIN.items():
        assert {part_of(name) for name in modules() if room_of(name) == room} == {"", *parts}


def test_no_room_but_tasks_asks_which_task_it_is() -> None:
    """What differs between tasks stands in their rows; elsewhere a task's name may be a default, and no condition."""
    names = set(get_args(Kind))
    asking = [
        f"{module}:{node.lineno}"
        for module, path in modules().items()
        if room_of(module) != "tasks"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(isinstance(part, ast.Constant) and part.value in names for part in ast.walk(node))
    ]
    assert not asking, asking


def test_files_and_functions_are_short() -> None:
    """A function's lines are those below its signature and its docstring."""
    long = []
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            long.append(f"{module}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                if node.end_lineno - body[0].lineno >= MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{module}:{node.name}")
    assert not long, long


def test_no_circle_is_closed_inside_a_room() -> None:
    """Modules that import each other, be it late or for types; a package counts as what it imports from below it."""
    paths = modules()
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    arrows = {
        module: {
            other
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in imported(node, module, module in packages)
            if (other := name if name in paths else name.rpartition(".")[0]) in paths
            and other != module
            and not module.startswith(f"{other}.")
        }
        for module, path in paths.items()
        if module not in EXEMPT
    }
    while leaves := {module for module, below in arrows.items() if not below & set(arrows)}:
        arrows = {module: below for module, below in arrows.items() if module not in leaves}
    assert not arrows, {module: below & set(arrows) for module, below in arrows.items()}


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("limbeck.losses.logit", "from limbeck.distill import Term", "limbeck.distill, which is not below it"),
        ("limbeck.losses.logit", "def f():\n    import limbeck.export", "limbeck.export, which is not below it"),
        ("limbeck.data", "from limbeck import models", "limbeck.models, which is not below it"),
        ("limbeck.compress.prune", "from limbeck.distill import f", "limbeck.distill, which is not below it"),
        ("limbeck.export.onnx", "from ..compress.prune import f", "limbeck.compress.prune, which is not below it"),
        ("limbeck.core.errors", "from limbeck.recipe import Plan", "limbeck.recipe, which is not below it"),
        ("limbeck.data", "from limbeck import losses", "limbeck.losses, which is not below it"),
        ("limbeck.data", "if TYPE_CHECKING:\n    import limbeck.models", "limbeck.models, which is not below it"),
        ("limbeck.data", "import limbeck.attic", "limbeck.attic, which is not below it"),
        (
            "limbeck.distill.objective.terms",
            "from limbeck.distill.train import fit",
            "limbeck.distill.train, which is not below it",
        ),
        (
            "limbeck.distill.teachers.frozen",
            "from limbeck.distill.cache.store import open",
            "limbeck.distill.cache.store, which is not below it",
        ),
        ("limbeck.data", "from limbeck import run", "limbeck.run, which is not below it"),
        ("limbeck.helpers", "import math", "stands in no row"),
        ("limbeck.export.onnx", "import onnx.helper", "imports onnx at its top level"),
        ("limbeck.models", "class A:\n    from timm import create_model", "imports timm at its top level"),
        (
            "limbeck.data",
            "try:\n    import pandas as pd\nexcept ImportError:\n    pass",
            "imports pandas at its top level",
        ),
        ("limbeck.recipe", "from torch import Tensor", "imports torch, and must be quick"),
        ("limbeck", "import torch", "imports torch, and must be quick"),
        ("limbeck.cli", "from limbeck.pipeline import run", "at its top level, which may import torch"),
        ("limbeck", "from limbeck.pipeline import run", "at its top level, which may import torch"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str, broken: str) -> None:
    found = broken_rules({module: source})
    assert len(found) == 1
    assert found[0].startswith(module)
    assert found[0].endswith(broken)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "limbeck.pipeline",
            "from limbeck.distill import fit\nfrom limbeck import __version__, evaluate\nimport torch",
        ),
        ("limbeck.losses", "from limbeck.losses import logit\nfrom limbeck.core import errors"),
        ("limbeck.losses.logit", "from .inputs import mean\nfrom ..core.errors import UserError"),
        ("limbeck.export.onnx", "def to_onnx():\n    import onnx\n    from limbeck.core.types import Cost"),
        ("limbeck.core.types", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
        ("limbeck.data.tables", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from limbeck import recipe"),
        ("limbeck.core.seeding", "def seed():\n    import torch"),
        ("limbeck.distill.train.loop", "from limbeck.distill.cache import asking"),
        ("limbeck.distill.teachers.external", "from limbeck.distill.teachers import frozen"),
        ("limbeck.cli", "from limbeck import recipe\ndef run():\n    from limbeck import pipeline"),
        ("limbeck", "__version__ = '1'\ndef run(recipe):\n    from limbeck.pipeline import run"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert broken_rules({module: source}, frozenset({"limbeck", "limbeck.losses"})) == []


def test_packages_resolve_their_own_dots() -> None:
    sources = {"limbeck.losses": "from . import logit\nfrom ..distill import Term"}
    assert broken_rules(sources, frozenset(sources)) == [
        "limbeck.losses: imports limbeck.distill, which is not below it"
    ]
