"""From YAML text to a checked recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck.core.errors import UserError, did_you_mean
from limbeck.recipe.faults import line_number, one_line
from limbeck.recipe.schema import Recipe


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads `1e-3` as the number it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def bundled() -> dict[str, str]:
    """The recipes that come with Limbeck: name -> YAML text."""
    folder = resources.files("limbeck") / "recipes"
    found = {
        p.name.removesuffix(".yaml"): p.read_text(encoding="utf-8")
        for p in folder.iterdir()
        if p.name.endswith(".yaml")
    }
    return dict(sorted(found.items()))


def load(recipe: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        recipe: a bundled name, the path of a YAML file, or the recipe as a mapping.
        overrides: `key=value` texts with dotted keys, for instance `student.train.epochs=3`.

    Raises:
        UserError: every fault found, one line each with its place and, for a typo, a guess.
    """
    if isinstance(recipe, Mapping):
        raw, label, text = _plain(recipe), "recipe", None
    else:
        label, text = _text(recipe)
        raw = _plain(parse(text, label))  # what an anchor shares, an override must not
    for override in overrides:
        _apply(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        node = yaml.compose(text, Loader=_Loader) if text else None
        lines = [one_line(fault, label, node) for fault in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def where(source: object, place: str) -> str:
    """A dotted key as messages name it, with file and line where `source` is the name or path of a recipe."""
    if not isinstance(source, str | Path):
        return place
    label, text = _text(source)
    path = [int(part) if part.isdigit() else part for part in place.split(".")]
    line = line_number(yaml.compose(text, Loader=_Loader), path)
    return f"{label}{f':{line}' if line else ''}: {place}"


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` reads again: what was given, overrides included, without the defaults."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True, width=100
    )


def parse(text: str, label: str) -> dict[str, Any]:
    """YAML text as plain values.

    Raises:
        UserError: it is not YAML, or not a mapping.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{label}:{mark.line + 1}" if mark else label
        raise UserError(f"not readable as YAML: {getattr(error, 'problem', None) or error}", where=where) from None
    if not isinstance(raw, dict):
        raise UserError("a recipe is a mapping with the keys data, student, losses, ...", where=label)
    return raw


def _text(recipe: str | Path) -> tuple[str, str]:
    path, known = Path(recipe), bundled()
    if str(recipe) in known:
        return f"{recipe}.yaml", known[str(recipe)]
    try:
        return str(path), path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise UserError("is a folder, not a recipe", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"no bundled recipe and no readable file of that name ({error})",
            where=str(recipe),
            hint=did_you_mean(str(recipe), known),
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is not of the form key=value", hint="for instance student.train.epochs=3")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise UserError(f"the value in '{override}' is not readable as YAML") from None
    place: Any = raw
    *parents, last = key.split(".")
    for part in parents:
        inner = place[int(part)] if isinstance(place, list) and part.isdigit() and int(part) < len(place) else None
        if isinstance(place, dict):
            inner = place.setdefault(part, {})
            if isinstance(inner, str | int | float):
                inner = place[part] = {"weight": inner} if place is raw.get("losses") else {}
        if not isinstance(inner, dict | list):
            raise UserError(f"'{override}': there is no '{part}' to set something in")
        place = inner
    if isinstance(place, list):
        if not last.isdigit() or int(last) >= len(place):
            raise UserError(f"'{override}': '{last}' is not the number of an entry (0 to {len(place) - 1})")
        place[int(last)] = value
    else:
        place[last] = value
