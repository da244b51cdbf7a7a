"""Short programs that run the files of a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from limbeck.report.words import FORMATS

INSTALL = {
    "onnx": "pip install numpy onnxruntime pillow",
    "litert": "pip install numpy ai-edge-litert pillow",
    "pytorch": "pip install limbeck",
}
MAX_NAMES_SPELLED = 20


def usage(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each exported file and the chosen network: title, file, install and code."""
    models, chosen = result["models"], (result.get("chosen") or {}).get("name")
    shown = [m for m in models if m["role"] == "exported"] + [m for m in models if m["name"] == chosen]
    programs = {"onnx": _onnx, "litert": _litert, "pytorch": _pytorch}
    return [
        {
            "title": FORMATS.get(m["format"], m["format"]),
            "file": m["file"],
            "install": INSTALL[m["format"]].removesuffix("" if _images(result) else " pillow"),
            "code": programs[m["format"]](m["file"], result),
        }
        for m in shown
        if m.get("file") and m["format"] in programs
    ]


def inputs(result: Mapping[str, Any]) -> str:
    """What every file takes and gives, in words."""
    data = result["data"]
    if _images(result):
        channels, height, width = data["shape"]
        takes = f"float32 pixels in [0, 1], shape [1, {channels}, {height}, {width}]: batch, channels, height, width"
    else:
        takes = f"the table's columns as float32, shape [1, {', '.join(map(str, data['shape']))}]"
    gives = "one logit for each class" if data["task"] == "classification" else "values in their own units"
    exported = any(m["role"] == "exported" for m in result["models"])
    ready = f" Exported files normalise them inside and give {gives}." if exported else ""
    return f"All take {takes}.{ready}"


def _literal(value: Any) -> str:
    """Python source of plain values, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _images(result: Mapping[str, Any]) -> bool:
    return len(result["data"]["shape"]) == 3


def _row(result: Mapping[str, Any]) -> str:
    shape = list(result["data"]["shape"])
    if not _images(result):
        columns = ", ".join(map(str, shape))
        return f"x = np.zeros((1, {columns}), np.float32)  # your columns, in the order of the training table"
    channels, height, width = shape
    mode, turned = ("L", "pixels[None, None]") if channels == 1 else ("RGB", "pixels.transpose(2, 0, 1)[None]")
    return (
        f'image = Image.open("picture.png").convert("{mode}").resize(({width}, {height}))\n'
        f"pixels = np.asarray(image, np.float32) / 255\n"
        f"x = np.ascontiguousarray({turned})"
    )


def _answer(result: Mapping[str, Any], outputs: str) -> str:
    data = result["data"]
    names = list(data["classes"])
    if data["task"] == "regression":
        return f"print(dict(zip({_literal(names)}, {outputs}[0].tolist())))"
    if len(names) > MAX_NAMES_SPELLED:
        return f"print(int({outputs}[0].argmax()))  # the number of the class, see classes.json"
    return f"names = {_literal(names)}\nprint(names[int({outputs}[0].argmax())])"


def _imports(result: Mapping[str, Any], *modules: str) -> str:
    pillow = ["from PIL import Image"] if _images(result) else []
    return "\n".join([*modules, *pillow])


def _onnx(file: str, result: Mapping[str, Any]) -> str:
    return (
        f"{_imports(result, 'import numpy as np', 'import onnxruntime')}\n\n"
        f"session = onnxruntime.InferenceSession({_literal(file)})\n"
        f"{_row(result)}\n"
        f"(outputs,) = session.run(None, {{session.get_inputs()[0].name: x}})\n"
        f"{_answer(result, 'outputs')}"
    )


def _litert(file: str, result: Mapping[str, Any]) -> str:
    return (
        f"{_imports(result, 'import numpy as np', 'from ai_edge_litert.interpreter import Interpreter')}\n\n"
        f"interpreter = Interpreter({_literal(file)})\n"
        "interpreter.allocate_tensors()\n"
        f"{_row(result)}\n"
        'interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)\n'
        "interpreter.invoke()\n"
        'outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])\n'
        f"{_answer(result, 'outputs')}"
    )


def _pytorch(file: str, result: Mapping[str, Any]) -> str:
    spec, data = result["recipe"].get("student") or {}, result["data"]
    shape, width = tuple(data["shape"]), len(data["classes"])
    kept = {key: spec[key] for key in ("mean", "std") if spec.get(key)}
    arguments = "".join(
        f", {k}={_literal(v)}" for k, v in {"options": spec.get("options") or None, **kept}.items() if v
    )
    channels = shape[0]
    return (
        "import torch\n"
        "from limbeck.models import Normalized, build, normalization\n"
        "from limbeck.recipe import Network\n\n"
        f"spec = Network(model={_literal(spec.get('model'))}{arguments}, weights={_literal(file)})\n"
        f"plain = build(spec, {shape}, {width})\n"
        "# the file says with which mean and std its training rows were normalised\n"
        f"mean, std = normalization(spec, plain, torch.zeros({channels}), torch.ones({channels}))\n"
        "model = Normalized(plain, mean, std).eval()\n"
        f"outputs = model(torch.zeros(1, {', '.join(map(str, shape))}))"
        + ("" if data["task"] == "classification" else "  # standardised values")
    )
