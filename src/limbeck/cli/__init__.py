"""The command line: a file for each command, with its help and messages. No logic."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any, NoReturn

import typer

from limbeck.cli import (
    benchmark,
    cache,
    check,
    compress,
    data,
    doctor,
    export,
    predict,
    recipes,
    report,
    run,
    tune,
)
from limbeck.cli.app import app
from limbeck.core.errors import UserError

# In the order of the help: the way of a job, then what looks after things.
for command in (
    run.run,
    doctor.doctor,
    tune.tune,
    check.check,
    recipes.recipes,
    report.report,
    compress.compress,
    export.export,
    predict.predict,
    benchmark.benchmark,
):
    app.command()(command)
app.add_typer(data.data, name="data")
app.add_typer(cache.cache, name="cache")

# Some releases of Typer carry their own Click and some depend on it; the class is the same either way.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line: 0 on success, 2 on a user error, 130 on Ctrl-C."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # none is used, and looking reads every installed package
    try:
        code = app(words, standalone_mode=False)
    except UserError as error:
        if len(words) < len(sys.argv) - 1:
            raise
        _leave(f"limbeck: {error}", 2)
    except UsageError as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if code == 130:
        _leave("\nlimbeck: stopped; nothing is lost. Give the same command again to go on.", 130)
    _exit(code or 0)


def _leave(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    _exit(code)


def _exit(code: int) -> NoReturn:
    if "torch" not in sys.modules:
        gc.freeze()  # a quick command need not search all it has imported for garbage before it leaves
    sys.exit(code)
