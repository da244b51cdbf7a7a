"""Models in files of Keras, read without running code that stands in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from limbeck.core.errors import UserError
from limbeck.models.keras.backend import check_keras, library, making

# What brings code of its own, or another program, into a model. Keras's safe mode refuses most of them, too; here they
# are refused by name before Keras looks at the file.
CODE = ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "TFLayer", "__typespec__")
# Where Keras keeps what models are made of; its other functions fetch files, write them and more.
PARTS = (
    "keras", "keras.activations", "keras.constraints", "keras.dtype_policies", "keras.initializers", "keras.layers",
    "keras.losses", "keras.metrics", "keras.models", "keras.optimizers", "keras.quantizers", "keras.random",
    "keras.regularizers", "builtins",
)  # fmt: skip
INSIDE = ("keras.src.models.", "keras.src.layers.", "keras.src.ops.", "keras.src.applications.")
MOST_BYTES = 1 << 28  # of a configuration
PLAIN = ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__")


def read_keras(path: Path) -> Any:
    """The model in a `.keras` or `.h5` file, with its weights, on the CPU, not compiled.

    Its configuration is read first, and refused if it asks for anything that Keras itself does not have: a Lambda
    layer, a module of PyTorch, a class of somebody's. What is left is loaded in Keras's safe mode.

    Raises:
        UserError: absent, damaged, without a model in it, or asking for code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    check_keras()
    config = _config(path)
    _refuse_code(config, path)
    try:
        with making(drawn=False) as keras:
            model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
            broken = [v.path for v in model.variables if not v.value.isfinite().all()]
    except Exception as error:
        raise UserError(f"Keras cannot load it ({_reason(error)})", where=str(path)) from error
    if broken:
        raise UserError(f"holds NaN or infinite weights: {', '.join(broken[:4])}", where=str(path))
    return model


def _config(path: Path) -> Any:
    """What a file says of its model, as JSON."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if "config.json" not in archive.namelist():
                    raise UserError("holds no model: there is no config.json in it", where=str(path))
                if (size := archive.getinfo("config.json").file_size) > MOST_BYTES:
                    raise UserError(f"its config.json would take {size:,} bytes", where=str(path))
                found = json.loads(archive.read("config.json"))
        else:
            found = _legacy(path)
    except UserError:
        raise
    except Exception as error:
        what = f"cannot be read as a model of Keras ({_reason(error)})"
        raise UserError(what, where=str(path), hint="give a .keras or .h5 file as Keras saves it") from error
    if not isinstance(found, dict) or "class_name" not in found:
        raise UserError("holds no model: its configuration names no class", where=str(path))
    if path.suffix == ".keras":
        found["compile_config"] = None  # how it was trained does not matter, and is not loaded
    return found


def _legacy(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
        if text is None:
            raise UserError(
                "holds weights and no model",
                where=str(path),
                hint="save the whole model with `model.save`, not `save_weights`",
            )
        return json.loads(text.decode() if isinstance(text, bytes) else text)


def _refuse_code(node: Any, path: Path) -> None:
    """Refuse a configuration that names anything but parts of Keras."""
    if isinstance(node, list):
        for part in node:
            _refuse_code(part, path)
    if not isinstance(node, dict):
        return
    kind, where = node.get("class_name"), str(path)
    if isinstance(kind, str) and "config" in node:
        name = node["config"].get("name", kind) if isinstance(node["config"], dict) else node["config"]
        module = node.get("module")
        own = node.get("registered_name")
        if kind in CODE:
            raise UserError(
                f"has a {kind} ({name}), which would run code that stands in the file",
                where=where,
                hint="build the model from layers of Keras without code of their own, or save its outputs instead",
            )
        known = module is None or module in PARTS or module.startswith(INSIDE)
        if not known or (isinstance(own, str) and ">" in own) or (module is None and not _of_keras(kind)):
            raise UserError(
                f"is made with '{own or kind}', which is not a part of Keras",
                where=where,
                hint="a model of your own classes can be given as PATH.py:FUNCTION, with --trust",
            )
        if kind == "function" and not _a_function(str(name)):
            raise UserError(f"calls '{module}.{name}', which is no part of a model", where=where)
    for part in node.values():
        _refuse_code(part, path)


def _of_keras(kind: str) -> bool:
    """Whether a class named without its module, as in files of earlier versions, is one of Keras's."""
    keras = library()
    rooms = (keras.layers, keras.models, keras.initializers, keras.regularizers, keras.constraints, keras)
    return kind in (*PLAIN, "Functional", "DTypePolicy") or any(hasattr(room, kind) for room in rooms)


def _a_function(name: str) -> bool:
    keras = library()
    rooms = (keras.activations, keras.initializers, keras.regularizers, keras.constraints, keras.losses, keras.metrics)
    return any(hasattr(room, name) for room in rooms)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
