"""`limbeck doctor`: a look at rows and teachers before a long job, and how long it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.app import Overrides, Quiet, RecipeName, Trust


def doctor(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory; nothing is written there.  [default: runs/<name of the recipe>]",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="All findings as one JSON list.")] = False,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Look at a recipe before a long job: what is wrong with its rows and teachers, how long it will take.

    Nothing is trained and nothing written, but for images that are kept decoded in the cache. Exits with 1 if there is
    a warning, with 0 if there is none.

    \b
      limbeck doctor my.yaml
      limbeck doctor my.yaml teachers.0.preprocess=imagenet
    """  # noqa: D301 - Click wants the character itself
    import json as writer
    from dataclasses import asdict

    from limbeck.core.machine import keep_heap
    from limbeck.core.progress import Progress
    from limbeck.recipe import needs

    checked = needs.load(recipe, overrides or (), out)
    keep_heap()
    from limbeck.pipeline.doctor import checkup
    from limbeck.report.terminal import show_findings

    found = checkup(checked, out=out, trust=trust, progress=Progress(quiet=quiet or json))
    findings = [asdict(one) for one in found]
    if json:
        print(writer.dumps(findings, indent=2, ensure_ascii=False))
    else:
        show_findings(findings)
    if any(one.level == "warning" for one in found):
        raise typer.Exit(1)
