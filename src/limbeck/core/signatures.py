"""What the losses and reference networks accept, read from their source.

The signature of a loss or network is the schema of its options in a recipe. Reading it from the source text, not from
the imported function, keeps `limbeck check` and `--help` free of torch, and leaves one place where an option is named.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.core.errors import did_you_mean
from limbeck.core.types import Predicts

HERE = Path(__file__).parents[1]
REQUIRED = object()
KINDS: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}
NUMBERS = "tuple[float, ...]"  # a list of numbers in a recipe


@dataclass(frozen=True, slots=True)
class Signature:
    """The options of one named function or class.

    Attributes:
        family: the module it stands in.
        options: option name -> (annotation as text, default or REQUIRED).
        needs_teacher: False for a loss whose teacher argument begins with an underscore.
        about: first line of its docstring.
        weight: the published weight of a loss's term.
        taps: which features a loss compares if it is not told; empty for predictions.
        needs_labels: whether a loss that learns from the teacher needs the row's label as well.
        predicts: what the networks predict that a loss fits.
        compares_rows: whether a loss holds each row against each other one.
        gaussian: whether the network gives a variance for each value.
        source: the docstring's line of that name: who published it, where.
        blind_to: the docstring's line of that name: what it does not see.
        extra_cost: the docstring's line of that name: what it takes beyond the two networks.
    """

    family: str
    options: dict[str, tuple[str, Any]]
    needs_teacher: bool
    about: str
    weight: float = 1.0
    taps: str = ""
    needs_labels: bool = False
    predicts: tuple[Predicts, ...] = ("classes", "labels", "values")
    compares_rows: bool = False
    gaussian: bool = False
    source: str = ""
    blind_to: str = ""
    extra_cost: str = ""


@cache
def losses() -> dict[str, Signature]:
    """Every loss a recipe can name: the rows of LOSSES in each family below `limbeck/losses`."""
    found = {}
    for path in sorted((HERE / "losses").glob("[!_]*.py")):
        found.update(_table(path, "LOSSES"))
    return found


@cache
def networks() -> dict[str, Signature]:
    """Every reference network a recipe can name: the rows of NETWORKS in each file of `limbeck/models`."""
    found = {}
    for path in sorted((HERE / "models").glob("[!_]*.py")):
        found.update(_table(path, "NETWORKS"))
    return found


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
        if not (value is None and annotation.endswith("None")) and not _fits(value, annotation.removesuffix(" | None")):
            kind = "list of numbers" if annotation == NUMBERS else annotation
            return f"option '{name}' is a {kind}, not {value!r}", None
    for name, (annotation, default) in signature.options.items():
        if default is REQUIRED and name not in given:
            return f"the option '{name}' ({annotation}) is missing", None
    return None


def _fits(value: Any, annotation: str) -> bool:
    """Whether an option's value is of the annotated kind, and finite."""
    if annotation == NUMBERS:
        return isinstance(value, list | tuple) and all(_fits(each, "float") for each in value)
    wanted = KINDS.get(annotation)
    fits = wanted is None or (isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool)))
    return fits and value not in (math.inf, -math.inf) and value == value


def _table(path: Path, name: str) -> dict[str, Signature]:
    """The rows of a table in a module: `{"kd": kd}`, or `{"kd": LossRow(kd, weight=2.0)}` with what the row says."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    found = {}
    for key, value in _items(tree, name):
        row = value if isinstance(value, ast.Call) else None
        named = row.args[0] if row else value
        assert isinstance(named, ast.Name)
        facts = {k.arg: ast.literal_eval(k.value) for k in row.keywords if k.arg} if row else {}
        found[key] = replace(_signature(path.stem, definitions[named.id]), **facts)
    return found


def _items(tree: ast.Module, name: str) -> Iterator[tuple[str, ast.expr]]:
    """The keys and values of a module's dict literal of that name; nothing if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                yield from (
                    (ast.literal_eval(key), value)
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                    if key
                )


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
    text = ast.get_docstring(node) or ""
    source, blind_to, extra_cost = (_told(text, head) for head in ("Source", "Blind to", "Extra cost"))
    about = text.split("\n", 1)[0]
    taught = "teacher" in positional
    return Signature(family, options, taught, about, source=source, blind_to=blind_to, extra_cost=extra_cost)


def _told(text: str, head: str) -> str:
    """What a docstring says after `head` at a line's beginning, up to an empty line or another head, on one line."""
    found = re.search(rf"^{head}: (.+?)(?=\n\s*\n|\n[A-Z][a-z ]+: |\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
