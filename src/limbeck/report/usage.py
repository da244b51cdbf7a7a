"""Short programs that run the files of a result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from limbeck.core.formats import FORMATS
from limbeck.core.result import DataSummary, Result
from limbeck.report.words import TITLES
from limbeck.tasks import rules

MAX_NAMES_SPELLED = 20


def usage(result: Result) -> list[dict[str, Any]]:
    """A program for each runtime that there are files for, and for the PyTorch weights.

    All files of a runtime take and give the same, so the program names the first of them.

    Returns:
        title, file, others (how many more files it can run), install and code of each.
    """
    models, chosen = result.models, (result.chosen.name if result.chosen else None)
    programs = {"litert": _litert, "onnx": _onnx, "executorch": _executorch, "openvino": _openvino, "keras": _keras}
    shown = []
    for form, program in programs.items():
        files = [m.file for m in models if m.role == "exported" and m.format == form and m.file]
        if files:
            shown.append(_shown(form, files[0], len(files) - 1, program(files[0], result), result))
    weights = [m for m in models if m.name == chosen and m.file and m.format == "pytorch"]
    if re.search(r"\.(keras|h5)$|\.py:\w+$", str((result.recipe.get("student") or {}).get("model"))):
        weights = []  # built by more than its name
    for file in (model.file for model in weights if model.file):
        shown.append(_shown("pytorch", file, 0, _pytorch(file, result), result))
    if made := _smaller(result):
        last = _shown("pytorch", made, 0, _pytorch(made, result, smaller=True), result)
        shown.append(last | {"title": "PyTorch, made smaller"})
    return shown


def _smaller(result: Result) -> str | None:
    """The weights of a student made smaller, of one that became files where there is any."""
    quantized = {e.name for e in result.compressed if e.steps and e.steps[-1].get("quantize")}
    sources = {m.source for m in result.models if m.role == "exported"}
    rows = [m for m in result.models if m.role == "compressed" and m.file]
    rows = [m for m in rows if m.variant not in quantized]
    rows.sort(key=lambda m: m.name not in sources)
    return rows[0].file if rows else None


def _shown(form: str, file: str, others: int, code: str, result: Result) -> dict[str, Any]:
    runs = f"numpy {FORMATS[form].installs}{' pillow' if _images(result) else ''}" if form in FORMATS else "limbeck"
    install = f"pip install {runs}"
    return {"title": TITLES[form], "file": file, "others": others, "install": install, "code": code}


def inputs(result: Result) -> str:
    """What every file takes and gives, in words."""
    exported = any(m.role == "exported" for m in result.models)
    changed = exported and (_bytes(result) or _channels_last(result))
    takes = f"All take {_takes(result, exported=False)}."
    if changed:
        takes = (
            f"Exported files take {_takes(result, exported=True)}; PyTorch weights {_takes(result, exported=False)}."
        )
    gives = rules(result.data.task).gives
    ready = f" Exported files normalise them inside and give {gives}." if exported else ""
    return takes + ready


def _takes(result: Result, *, exported: bool) -> str:
    shape = result.data.shape
    if not _images(result):
        return f"the table's columns as float32, shape [1, {', '.join(map(str, shape))}]"
    channels, height, width = shape
    pixels = "raw uint8 pixels from 0 to 255" if exported and _bytes(result) else "float32 pixels in [0, 1]"
    if exported and _channels_last(result):
        return f"{pixels}, shape [1, {height}, {width}, {channels}]: batch, height, width, channels"
    return f"{pixels}, shape [1, {channels}, {height}, {width}]: batch, channels, height, width"


def _literal(value: Any) -> str:
    """Python source of plain values, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _images(result: Result) -> bool:
    return len(result.data.shape) == 3


def _files(result: Result) -> Mapping[str, Any]:
    files: Mapping[str, Any] = result.recipe.get("files") or {}
    return files


def _bytes(result: Result) -> bool:
    return _images(result) and _files(result).get("input") == "uint8"


def _channels_last(result: Result) -> bool:
    return _images(result) and _files(result).get("layout") == "nhwc"


def _row(result: Result) -> str:
    shape = list(result.data.shape)
    if not _images(result):
        columns = ", ".join(map(str, shape))
        return (
            f"x = np.zeros((1, {columns}), np.float32)  # your columns; the .json beside the file says in which order"
        )
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    if _channels_last(result):
        turned = "pixels[None, :, :, None]" if channels == 1 else "pixels[None]"
    else:
        turned = "pixels[None, None]" if channels == 1 else "pixels.transpose(2, 0, 1)[None]"
    pixels = "np.asarray(image, np.uint8)" if _bytes(result) else "np.asarray(image, np.float32) / 255"
    return (
        f'image = Image.open("picture.png").convert("{mode}").resize(({width}, {height}))\n'
        f"pixels = {pixels}\n"
        f"x = np.ascontiguousarray({turned})"
    )


def _answer(result: Result, outputs: str) -> str:
    data = result.data
    names = list(data.classes)
    if _channels_last(result) and rules(data.task).each == "pixel":
        outputs = f"np.moveaxis({outputs}, -1, 1)"
    return rules(data.task).program(_literal(names), len(names) <= MAX_NAMES_SPELLED, outputs)


def _imports(result: Result, *modules: str) -> str:
    pillow = ["from PIL import Image"] if _images(result) else []
    return "\n".join([*modules, *pillow])


def _onnx(file: str, result: Result) -> str:
    return (
        f"{_imports(result, 'import numpy as np', 'import onnxruntime')}\n\n"
        f"session = onnxruntime.InferenceSession({_literal(file)})\n"
        f"{_row(result)}\n"
        f"(outputs,) = session.run(None, {{session.get_inputs()[0].name: x}})\n"
        f"{_answer(result, 'outputs')}"
    )


def _litert(file: str, result: Result) -> str:
    batches = sorted(_files(result).get("batches") or [1])
    begin = (
        f"{_imports(result, 'import numpy as np', 'from ai_edge_litert.interpreter import Interpreter')}\n\n"
        f"interpreter = Interpreter({_literal(file)})\n"
    )
    row = _row(result)
    if batches[0] > 1:
        row += f"\nx = np.repeat(x, {batches[0]}, 0)  # the file takes {batches[0]} rows at a time"
    if len(batches) > 1:
        others = ", ".join(f"b{batch}" for batch in batches[1:])
        return (
            f"{begin}"
            f'run = interpreter.get_signature_runner("b{batches[0]}")  # for more rows at a time: {others}\n'
            f"{row}\n"
            "(outputs,) = run(**{next(iter(run.get_input_details())): x}).values()\n"
            f"{_answer(result, 'outputs')}"
        )
    return (
        f"{begin}"
        "interpreter.allocate_tensors()\n"
        f"{row}\n"
        'interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)\n'
        "interpreter.invoke()\n"
        'outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])\n'
        f"{_answer(result, 'outputs')}"
    )


def _executorch(file: str, result: Result) -> str:
    modules = ("from pathlib import Path", "", "import numpy as np", "import torch")
    return (
        f"{_imports(result, *modules, 'from executorch.runtime import Runtime')}\n\n"
        f"program = Runtime.get().load_program(Path({_literal(file)}))\n"
        'method = program.load_method("forward")  # 1 to 64 rows\n'
        f"{_row(result)}\n"
        "(outputs,) = method.execute([torch.from_numpy(x)])\n"
        f"{_answer(result, 'outputs')}"
    )


def _openvino(file: str, result: Result) -> str:
    return (
        f"{_imports(result, 'import numpy as np', 'import openvino')}\n\n"
        "# the .bin beside the file belongs to it; without the hint some processors round to bfloat16\n"
        'exact = {"INFERENCE_PRECISION_HINT": "f32"}\n'
        f'model = openvino.Core().compile_model({_literal(file)}, "CPU", exact)\n'
        f"{_row(result)}\n"
        "outputs = model(x)[0]\n"
        f"{_answer(result, 'outputs')}"
    )


def _keras(file: str, result: Result) -> str:
    return (
        f"{_imports(result, 'import os', 'import numpy as np')}\n\n"
        'os.environ["KERAS_BACKEND"] = "torch"  # or jax, or tensorflow\n'
        "import keras\n\n"
        f"model = keras.saving.load_model({_literal(file)}, compile=False)\n"
        f"{_row(result)}\n"
        "outputs = keras.ops.convert_to_numpy(model(x, training=False))\n"
        f"{_answer(result, 'outputs')}"
    )


def _pytorch(file: str, result: Result, *, smaller: bool = False) -> str:
    data = result.data
    shape = tuple(data.shape)
    # Older results lack it: with a Gaussian head, which gives twice as many, the weights then do not fit.
    outputs = data.outputs or len(data.classes)
    framework = ', framework="keras"' if result.recipe.get("framework") == "keras" else ""
    places = f", places={shape[1:]}" if rules(data.task).each == "pixel" else ""
    built = f"build(spec, {shape}, {outputs}{places}{framework})"
    if smaller:
        said = "the file says what was done to the network, and its weights fit what came of it"
        built = f"compress.replay({built}, compress.edits_of(file))"
    else:
        said = "the file says with which mean and std its training rows were normalised"
    return (
        "from pathlib import Path\n\n"
        "import torch\n"
        + ("from limbeck import compress\n" if smaller else "")
        + "from limbeck.models import Normalized, build, load_weights, normalization\n"
        "from limbeck.recipe import Network\n\n"
        f"file = Path({_literal(file)})\n"
        f"spec = Network(model={_literal((result.recipe.get('student') or {}).get('model'))}{_arguments(result)})\n"
        f"# {said}\n"
        f"plain = {built}\n"
        "load_weights(plain, file, fresh_head=False)\n"
        'spec = spec.model_copy(update={"weights": str(file)})\n'
        f"mean, std = normalization(spec, plain, torch.zeros({shape[0]}), torch.ones({shape[0]}))\n"
        f"model = Normalized(plain, mean, std{_bgr(result)}).eval()\n" + _called(result)
    )


def _arguments(result: Result) -> str:
    spec = result.recipe.get("student") or {}
    kept = {key: spec[key] for key in ("options", "preprocess", "mean", "std") if spec.get(key)}
    return "".join(f", {key}={_literal(value)}" for key, value in kept.items())


def _bgr(result: Result) -> str:
    return ", bgr=True" if (result.recipe.get("student") or {}).get("preprocess") == "caffe" else ""


def _called(result: Result) -> str:
    data = result.data
    zeros = f"outputs = model(torch.zeros(1, {', '.join(map(str, data.shape))}))"
    if rules(data.task).predicts != "values":
        return zeros
    return f"{zeros}  # standardised {'means, then logarithms of variances' if _gaussian(data) else 'values'}"


def _gaussian(data: DataSummary) -> bool:
    """Whether the student gives a variance beside each value."""
    return bool((data.outputs or 0) > len(data.classes))
