"""`limbeck run`: everything that a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.app import Overrides, Quiet, RecipeName, Trust


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory.  [default: runs/<name of the recipe>]", show_default=False)
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: train teacher and students, compare them on the test split, export, report.

    Give the same command again to go on with a run that was interrupted: what is done is not done again.

    \b
      limbeck run quickstart
      limbeck run mnist-distiller data.source=fashion-mnist seeds=5 --out runs/fashion
    """  # noqa: D301 - Click wants the character itself
    from limbeck.core.machine import keep_heap
    from limbeck.core.progress import Progress
    from limbeck.recipe import needs

    checked = needs.load(recipe, overrides or (), out)
    keep_heap()
    from limbeck.pipeline.run import run as run_recipe

    started = Progress(quiet=quiet)
    result = run_recipe(checked, out=out, trust=trust, progress=started)
    if result:
        from limbeck.core.result import parse_result
        from limbeck.report.terminal import show

        folder = out or Path("runs") / result["name"]
        show(parse_result(result, str(folder)), folder)
