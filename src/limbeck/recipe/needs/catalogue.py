"""What the installed timm has, by name: read from its sources, for importing it takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from limbeck.core.errors import did_you_mean

_MODEL = re.compile(r"^@register_model[ \t]*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"""^\s*['"](\w+)['"]\s*:\s*['"]([\w.-]+)['"]""", re.MULTILINE)

_HUB = ("hf_hub_id", "hf_hub_filename")


@dataclass(frozen=True, slots=True)
class Weights:
    """Where published weights lie; nowhere, where all is empty.

    Attributes:
        hub: the repository on the hub; empty where they are on no hub.
        file: its file there, where that is not called as usual.
        url: the file elsewhere.
    """

    hub: str = ""
    file: str = ""
    url: str = ""


def misnamed(name: str) -> str | None:
    """What is wrong with the name of a timm model, with or without the tag of its weights; None where nothing is.

    Names of models on the hub or in a folder, as `hf-hub:OWNER/NAME`, are not looked into.
    """
    if ":" in name or not _files():
        return None
    model, _, tag = name.partition(".")
    source = _source(model)
    if source is None:
        timm = sys.modules.get("timm")  # where it is imported, somebody may have added models of their own
        if timm is not None and timm.is_model(model):
            return None
        return f"timm has no model '{name}'; {did_you_mean(model, _models())}"
    if not tag or f"{name}'" in source or f"{name}*'" in source:
        return None
    tags = set(re.findall(rf"""['"]{model}\.([\w-][\w.-]*)\*?['"]""", source))
    if not tags or tag in tags:  # some are put together while timm is imported
        return None
    return f"timm has no weights '{tag}' of {model}; {did_you_mean(tag, tags)}"


def weights_of(name: str) -> Weights | None:
    """Where the published weights of a timm model lie; None where the sources do not say it plainly."""
    name = _renamed(name)
    model, _, tag = name.partition(".")
    source = _source(model)
    if source is None:
        return None
    tree = _parsed(source)
    known: dict[str, Weights] = {}
    for key, value in _entries(tree):
        if key.partition(".")[0] == model:
            if (found := _weights(value, tree)) is None:
                return None
            known[key] = Weights(found.hub + key.rstrip("*"), found.file, found.url) if found.hub == "timm/" else found
    if tag or not known:
        return known.get(name) or known.get(f"{name}*")
    # Where no tag is given, timm takes the weights without one or those that are marked, and else the first.
    there = {key: one for key, one in known.items() if one != Weights()}
    marked = next((key for key in there if key == model or key.endswith("*")), next(iter(there), ""))
    return there.get(marked, Weights())


# --- the sources ---------------------------------------------------------------------------------


@functools.cache
def _files() -> tuple[Path, ...]:
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return ()
    return tuple(sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py")))


@functools.cache
def _source(model: str) -> str | None:
    """The source that a model stands in; None where there is no such model."""
    mark = f"def {model}(".encode()
    for file in _files():
        content = file.read_bytes()  # most files are not the one, and need not become text
        if mark in content and model in _MODEL.findall(text := content.decode()):
            return text
    return _models().get(model)


@functools.cache
def _models() -> Mapping[str, str]:
    """Every model, and the source that it stands in; former names as well."""
    texts = [file.read_text(encoding="utf-8") for file in _files()]
    return {name: text for text in texts for name in (*_MODEL.findall(text), *dict(_old_names(text)))}


def _renamed(name: str) -> str:
    """What a name stands for, if it is a former one."""
    source = _source(name)
    return dict(_old_names(source)).get(name, name) if source else name


def _old_names(text: str) -> Iterator[tuple[str, str]]:
    for listed in _RENAMED.findall(text):
        yield from _OLD_NAME.findall(listed)


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


# --- what they say of weights ---------------------------------------------------------------------


def _entries(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """The keys and values of `generate_default_cfgs({...})`, or of the table that it is given by name."""
    tables: dict[str, ast.expr] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        call = node.value
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "generate_default_cfgs" and call.args:
            table = tables.get(getattr(call.args[0], "id", ""), call.args[0])
            if isinstance(table, ast.Dict):
                pairs = zip(table.keys, table.values, strict=True)
                yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
        tables[node.targets[0].id] = node.value


def _weights(value: ast.expr, tree: ast.Module) -> Weights | None:
    """What one entry says; None where it is not said in plain words."""
    if not isinstance(value, ast.Call) or len(value.args) > 1 or any(key.arg is None for key in value.keywords):
        return None
    said = _standing(getattr(value.func, "id", ""), tree)
    if value.args:
        said["url"] = value.args[0]
    said |= {key.arg: key.value for key in value.keywords if key.arg in (*_HUB, "url", "file")}
    plain = {key: str(one.value or "") for key, one in said.items() if isinstance(one, ast.Constant)}
    if "file" in said or len(plain) < len(said):
        return None
    return Weights(plain.get("hf_hub_id", ""), plain.get("hf_hub_filename", ""), plain.get("url", ""))


def _standing(function: str, tree: ast.Module) -> dict[str | None, ast.expr]:
    """What a function of the module says of the hub in every entry that it makes."""
    found: dict[str | None, ast.expr] = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name != function:
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Dict):
                pairs = zip(part.keys, part.values, strict=True)
                found |= {str(k.value): v for k, v in pairs if isinstance(k, ast.Constant) and k.value in _HUB}
            elif isinstance(part, ast.Call):
                found |= {key.arg: key.value for key in part.keywords if key.arg in _HUB}
    return found
