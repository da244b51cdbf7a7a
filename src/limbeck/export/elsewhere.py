"""Work in a process of its own: converters load JAX and the like, which clash, stay in memory and print."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import UserError
from limbeck.export.chatter import cause
from limbeck.runtime import write_json

# No accelerator: files are made and run on the processor. OpenVINO and NNCF report to their makers when imported.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "torch",
}  # fmt: skip


def elsewhere(task: str, arguments: Mapping[str, Any], *, log: Path, doing: str, where: str) -> Any:
    """Call `module:function` with keyword arguments in a new process, and give back what it gives.

    Args:
        task: dotted module and function, as `limbeck.export.onnx:lower`.
        arguments: what JSON can hold; data goes by the paths of files.
        log: gets everything the process says, after what already stands in it.
        doing: what cannot be done if this fails, for the message: "the model cannot be exported to ONNX".
        where: what it was done for, for the message: the path of the file being made.

    Returns:
        What the function gives, by way of JSON.

    Raises:
        UserError: it failed; the message says why, or which signal ended it, and where the log is.
    """
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        order, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        write_json(order, {"task": task, "arguments": arguments})
        command = [*interpreter("default"), "-c", f"from {__name__} import work; work()", str(order), str(answer)]
        with log.open("ab") as stream:
            done = subprocess.run(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False
            )
        # A library may crash on its way out, when all is done; and may end the process without a word.
        given = (
            json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {"failed": ending(done.returncode)}
        )
    if "failed" in given:
        raise UserError(f"{doing}: {given['failed']}", where=where, hint=f"everything the converter said is in {log}")
    return given["gives"]


def interpreter(warnings: str) -> list[str]:
    """How a child of this process is started; -P keeps this folder, where an onnx.py lies, off its path."""
    return [sys.executable, "-P", "-W", warnings]


def environment() -> dict[str, str]:
    """The environment of a child: it sees the modules that this process sees, whatever put them on the path."""
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def ending(code: int) -> str:
    """How a process ended, in words, from its exit code."""
    if code >= 0:
        return f"its process ended with {code} and gave no reason"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was stopped by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def no_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting to their makers: without this package they use a stub of it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def work() -> None:
    """The child's side of `elsewhere`: does what the order says, and writes the answer."""
    order, answer = Path(sys.argv[1]), Path(sys.argv[2])
    asked = json.loads(order.read_text(encoding="utf-8"))
    no_telemetry()
    module, _, function = asked["task"].partition(":")
    try:
        given = {"gives": getattr(importlib.import_module(module), function)(**asked["arguments"])}
        write_json(answer, given)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        write_json(answer, {"failed": error.what if isinstance(error, UserError) else cause(error)})
