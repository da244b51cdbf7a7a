"""`limbeck tune`: a search for the loss that a student learns best by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.app import Overrides, Quiet, RecipeName, Trust
from limbeck.core.errors import UserError


def tune(
    recipe: RecipeName,
    overrides: Overrides = None,
    trials: Annotated[
        int, typer.Option(metavar="N", help="Trials in all; a trial trains one student (for each seed).", min=1)
    ] = 30,
    out: Annotated[
        Path | None, typer.Option(help="The run directory.  [default: runs/<name of the recipe>]", show_default=False)
    ] = None,
    losses: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Losses to choose from.  [default: the recipe's own, and the usual ones of its task]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|A,B,...",
            help="How many seeds a trial is the mean of, or which.  [default: the recipe's first]",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Search the loss by which the student learns best, its weight and its temperature, on validation alone.

    The teacher is trained once (or found in the run directory) and asked once; the test split is not looked at. The
    first trials are the recipe's own losses and the usual ones as published, then each follows from what came before.
    Give the same command again to go on with a search that was interrupted, or a larger N to search on.

    \b
      limbeck tune quickstart --trials 20
      limbeck tune my.yaml --trials 50 --losses kd,dkd,at --seeds 3
      limbeck run runs/my/tune/best.yaml seeds=5     # what the winner is worth on the test split
    """  # noqa: D301 - Click wants the character itself
    from limbeck.core.loss_search import LossSearch
    from limbeck.core.machine import keep_heap
    from limbeck.core.progress import Progress
    from limbeck.recipe import needs

    checked, several = needs.load(recipe, overrides or (), out), _seeds(seeds)
    keep_heap()
    from limbeck.pipeline import tune as room
    from limbeck.report.search import show_search

    names = [name.strip() for name in losses.split(",") if name.strip()] if losses is not None else []
    found = room.tune(
        checked,
        trials=trials,
        out=out,
        losses=names,
        seeds=several,
        trust=trust,
        progress=Progress(quiet=quiet),
    )
    show_search(LossSearch.model_validate(found), (out or Path("runs") / found["name"]) / "tune")


def _seeds(text: str | None) -> int | list[int] | None:
    """`3` as the number of seeds that it is in a recipe, `3,7` as those two."""
    if text is None:
        return None
    try:
        given = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"'{text}' is neither a number of seeds nor a list", where="--seeds", hint="3, or 0,1,2"
        ) from None
    return given if "," in text or not given else given[0]
