"""What the losses and reference networks accept, read from their source.

The signature of a loss or network is the schema of its options in a recipe. Reading it from the source text, not from
the imported function, keeps `limbeck check` and `--help` free of torch, and leaves one place where an option is named.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.errors import did_you_mean

HERE = Path(__file__).parent
REQUIRED = object()
KINDS: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True, slots=True)
class Signature:
    """The options of one named function or class.

    Attributes:
        family: the module it stands in.
        options: option name -> (annotation as text, default or REQUIRED).
        needs_teacher: False for a loss whose teacher argument begins with an underscore.
        about: first line of its docstring.
    """

    family: str
    options: dict[str, tuple[str, Any]]
    needs_teacher: bool
    about: str


@cache
def losses() -> dict[str, Signature]:
    """Every loss a recipe can name: the rows of LOSSES in each family below `limbeck/losses`."""
    found = {}
    for path in sorted((HERE / "losses").glob("[!_]*.py")):
        found.update(_table(path, "LOSSES"))
    return found


@cache
def networks() -> dict[str, Signature]:
    """Every reference network a recipe can name: the rows of NETWORKS in `limbeck/models/networks.py`."""
    return _table(HERE / "models" / "networks.py", "NETWORKS")


def misfit(given: Mapping[str, Any], signature: Signature, beside: Iterable[str] = ()) -> tuple[str, str | None] | None:
    """What is wrong with some options, and a hint where there is one; None where they fit.

    Args:
        given: option name -> value.
        signature: what is accepted.
        beside: other names that may stand among the options and have been taken out of `given`.
    """
    for name, value in given.items():
        if name not in signature.options:
            return f"no option '{name}'", did_you_mean(name, [*signature.options, *beside])
        annotation, _ = signature.options[name]
        wanted = KINDS.get(annotation.removesuffix(" | None"))
        absent = value is None and annotation.endswith("None")
        fits = wanted is None or (isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool)))
        if not absent and (not fits or value in (math.inf, -math.inf) or value != value):
            return f"option '{name}' is a {annotation}, not {value!r}", None
    for name, (annotation, default) in signature.options.items():
        if default is REQUIRED and name not in given:
            return f"the option '{name}' ({annotation}) is missing", None
    return None


def _table(path: Path, name: str) -> dict[str, Signature]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            value = node.value  # type: ignore[attr-defined]
            rows = ast.literal_eval(ast.unparse(_quoted(value)))
            return {key: _signature(path.stem, definitions[function]) for key, function in rows.items()}
    return {}


def _quoted(table: ast.Dict) -> ast.Dict:
    """The dict literal `{"kd": kd}` as `{"kd": "kd"}`."""
    return ast.Dict(table.keys, [ast.Constant(v.id) for v in table.values if isinstance(v, ast.Name)])


def _signature(family: str, node: ast.FunctionDef | ast.ClassDef) -> Signature:
    function, call = node, node
    if isinstance(node, ast.ClassDef):
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        function, call = methods["__init__"], methods["forward"]
    assert isinstance(function, ast.FunctionDef)
    assert isinstance(call, ast.FunctionDef)
    options = {
        a.arg: (ast.unparse(a.annotation) if a.annotation else "Any", REQUIRED if d is None else ast.literal_eval(d))
        for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    }
    positional = [a.arg for a in call.args.args if a.arg != "self"]
    about = (ast.get_docstring(node) or "").split("\n", 1)[0]
    return Signature(family, options, "teacher" in positional, about)
