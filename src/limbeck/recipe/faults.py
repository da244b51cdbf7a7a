"""What pydantic finds wrong with a recipe, in one line each: where, what, and a guess at what was meant."""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from limbeck.core.errors import did_you_mean
from limbeck.recipe.schema import MisfitError, Recipe


def one_line(fault: Any, label: str, node: yaml.Node | None) -> str:
    """One of pydantic's errors as `file:line: path: what`; `node` is the text it came from, where there is one."""
    path = [p for p in fault["loc"] if not str(p).startswith(("function-", "literal[", "list[", "constrained-"))]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, MisfitError):
        path = [int(p) if p.isdigit() else p for p in cause.place.split(".")]
    dotted = ".".join(str(p) for p in path) or "recipe"
    line = line_number(node, path)
    where = f"{label}{f':{line}' if line else ''}: {dotted}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key; {did_you_mean(str(path[-1]), _fields_at(path[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}: is missing"
    if fault["type"] == "literal_error":
        known = [k.strip(" '") for k in re.split(r",| or ", fault["ctx"]["expected"])]
        guess = difflib.get_close_matches(str(fault["input"]), known, n=1)
        return f"{where}: {fault['input']!r} is none of {fault['ctx']['expected']}" + (
            f"; did you mean '{guess[0]}'?" if guess else ""
        )
    if fault["type"].endswith(("_type", "_parsing", "_than", "_than_equal", "_number")):
        message = re.sub("valid dictionary.*", "mapping", message)
        return f"{where}: {message[0].lower()}{message[1:]}, not {fault['input']!r}"
    return f"{where}: {message}"


def _fields_at(path: list[Any]) -> list[str]:
    """The keys a recipe may have at `path`."""
    model: Any = Recipe
    named = False  # whether the next part is a name of the user's own
    for part in path:
        if named or isinstance(part, int) or not isinstance(model, type) or not issubclass(model, BaseModel):
            named = False
            continue
        field = model.model_fields.get(str(part))
        named = field is not None and get_origin(field.annotation) is dict
        model = _inner_model(field.annotation) if field else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _inner_model(a))), None)


def line_number(node: yaml.Node | None, path: list[Any]) -> int | None:
    """The line of the deepest part of `path` that the text spells out."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
