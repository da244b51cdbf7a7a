"""Commands around a recipe: run it, search its losses, check it, list them, build a page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.app import Overrides, Quiet, RecipeName, Trust, app
from limbeck.core.errors import UserError


@app.command()
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
        from limbeck.report.terminal import show

        show(result, out or Path("runs") / result["name"])


@app.command()
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
    told = [asdict(one) for one in found]
    if json:
        print(writer.dumps(told, indent=2, ensure_ascii=False))
    else:
        show_findings(told)
    if any(one.level == "warning" for one in found):
        raise typer.Exit(1)


@app.command()
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
    show_search(found, (out or Path("runs") / found["name"]) / "tune")


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


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe without running it: every fault with its place, and a guess at what was meant.

    Files that a bundled recipe needs may be on another machine: where they are missing, that is no fault.
    """
    from limbeck import recipe as recipes
    from limbeck.recipe import needs

    found = recipes.load(recipe, overrides or ())
    missing = needs.check(found, recipe, elsewhere=recipe in recipes.bundled())
    teachers = ", ".join(t.model for t in found.teachers) or "no teacher"
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    job = f"{found.task} on {found.data.source}; {teachers} -> {found.student.model}; {seeds}"
    print(f"{found.name}: fine ({job})")
    for sentence in missing:
        print(f"note: {sentence}")


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this one.")] = None) -> None:
    """List the bundled recipes, or print one."""
    from limbeck import recipe
    from limbeck.core.errors import did_you_mean

    known = recipe.bundled()
    if name is None:
        for key in known:
            print(f"{key:24} {recipe.load(key).about}")
    elif name in known:
        print(known[name], end="")
    else:
        raise UserError(f"no bundled recipe '{name}'", hint=did_you_mean(name, known))


@app.command()
def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run, or a search.")]) -> None:
    """Build the page of a finished run again from its result.json, or that of a search from its tune.json."""
    from limbeck.core.files import read_json
    from limbeck.report import write_report
    from limbeck.report.search import write_search

    if (directory / "tune.json").exists():
        write_search(read_json(directory / "tune.json"), directory / "report.html")
        print(directory / "report.html")
        return
    write_report(read_json(directory / "result.json"), directory / "report.html")
    print(directory / "report.html")
