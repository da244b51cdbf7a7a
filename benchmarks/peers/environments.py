"""The environments that peers run in: made below limbeck's cache directory, pinned, and no part of limbeck's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from limbeck.core.files import cache_dir
from limbeck.core.hashing import fingerprint

HERE = Path(__file__).parent
KERAS = "keras==3.15.1"
# What is installed, and the command that runs the peer there.
PEERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "keras-tensorflow": ((KERAS, "tensorflow-cpu==2.21.0", "numpy==2.4.6"), ("keras_distiller.py", "tensorflow")),
    "keras-jax": ((KERAS, "jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"), ("keras_distiller.py", "jax")),
    "keras-torch": ((KERAS, "torch==2.14.1", "numpy==2.4.6"), ("keras_distiller.py", "torch")),
    "torchdistill": (
        ("torchdistill==1.1.5", "torch==2.14.1", "torchvision==0.29.2", "numpy==2.4.6"),
        ("torchdistill_loop.py",),
    ),
}


def command(name: str, say: Callable[[str], None]) -> list[str]:
    """The command that runs a peer; its environment is made first where that was not done before.

    Raises:
        RuntimeError: it could not be made, with the installer's last line.
    """
    packages, script = PEERS[name]
    folder = cache_dir() / "peers" / f"{name}-{fingerprint(packages, sys.version_info[:2])}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        say(f"{name}: installing {', '.join(packages)} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else shutil.which("uv")
        if uv:
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            _run([uv, "pip", "install", "--quiet", "--python", str(python), *packages])
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        done.touch()
    return [str(python), str(HERE / script[0]), *script[1:]]


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise RuntimeError(f"{Path(words[0]).name} could not install it: {said[-1]}")
