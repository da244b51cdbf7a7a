"""The rules of the house that the source itself must keep: who imports whom, and what is imported late."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

# From the top down. A room may look into the rooms of lower rows only; inside a room all may see each other.
ROWS = (
    ("cli",),
    ("pipeline", "tune", "checkup"),
    ("budget",),
    ("shrink", "measure"),
    ("study", "ship", "forecast"),
    ("teach", "start", "expected"),
    ("answers",),
    ("objectives",),
    ("job", "timing", "predicting", "brought"),
    ("train", "benchmark", "report", "doctor", "stages", "fitting"),
    ("quantize", "foreign"),
    ("objective", "teachers", "cache", "evaluate", "compress", "export"),
    ("losses", "taps", "pairing", "models", "augment", "data", "devices", "outline"),
    ("needs",),
    ("recipe", "sources", "store", "trials"),
    ("runtime", "progress", "signatures", "verdict", "formats"),
    ("metrics",),
    ("types", "errors", "course"),
)
DEPTH = {room: depth for depth, row in enumerate(ROWS) for room in row}

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
WITHOUT_TORCH = (
    *(
        "limbeck",
        "cli",
        "report",
        "recipe",
        "verdict",
        "errors",
        "metrics",
        "signatures",
        "types",
        "runtime",
        "progress",
        "course",
    ),
)
TORCH = {"torch", "torchvision", "timm", "accelerate", "torchmetrics"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


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
                    if name.split(".")[0] != "limbeck" or other == room or other == "__version__":
                        continue
                    if DEPTH.get(other, -1) <= DEPTH[room]:
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
    assert {"limbeck.objective", "limbeck.losses", "limbeck.losses.logit", "limbeck.errors"} <= set(paths)
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    broken = broken_rules({name: path.read_text(encoding="utf-8") for name, path in paths.items()}, packages)
    assert not broken, "\n".join(broken)


def test_every_module_that_is_quick_is_there() -> None:
    assert {
        f"limbeck.{room}" for room in ("recipe", "errors", "signatures", "types", "runtime", "progress", "course")
    } <= set(modules())


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("limbeck.losses.logit", "from limbeck.objective import Term", "limbeck.objective, which is not below it"),
        ("limbeck.losses.logit", "def f():\n    import limbeck.train", "limbeck.train, which is not below it"),
        ("limbeck.taps", "from limbeck import models", "limbeck.models, which is not below it"),
        ("limbeck.taps", "from . import models", "limbeck.models, which is not below it"),
        ("limbeck.export.onnx", "from ..compress.prune import f", "limbeck.compress.prune, which is not below it"),
        ("limbeck.errors", "from limbeck.types import Batch", "limbeck.types, which is not below it"),
        ("limbeck.data", "from limbeck import augment", "limbeck.augment, which is not below it"),
        ("limbeck.taps", "if TYPE_CHECKING:\n    import limbeck.models", "limbeck.models, which is not below it"),
        ("limbeck.augment", "if TYPE_CHECKING:\n    import limbeck.train", "limbeck.train, which is not below it"),
        ("limbeck.data", "import limbeck.attic", "limbeck.attic, which is not below it"),
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
        ("limbeck.pipeline", "from limbeck.train import fit\nfrom limbeck import __version__, evaluate\nimport torch"),
        ("limbeck.losses", "from limbeck.losses import logit\nfrom limbeck.errors import UserError"),
        ("limbeck.losses.logit", "from .inputs import mean\nfrom ..errors import UserError"),
        ("limbeck.export.onnx", "def to_onnx():\n    import onnx\n    from limbeck.types import Artifact"),
        ("limbeck.types", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
        ("limbeck.data.tables", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from limbeck import recipe"),
        ("limbeck.runtime", "def seed():\n    import torch"),
        ("limbeck.cli", "from limbeck import recipe\ndef run():\n    from limbeck import pipeline"),
        ("limbeck", "__version__ = '1'\ndef run(recipe):\n    from limbeck.pipeline import run"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert broken_rules({module: source}, frozenset({"limbeck", "limbeck.losses"})) == []


def test_packages_resolve_their_own_dots() -> None:
    sources = {"limbeck.losses": "from . import logit\nfrom ..objective import Term"}
    assert broken_rules(sources, frozenset(sources)) == [
        "limbeck.losses: imports limbeck.objective, which is not below it"
    ]
