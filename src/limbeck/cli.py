"""The command line: commands, their help, progress and messages. No logic."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from limbeck import __version__
from limbeck.errors import UserError

# Some releases of Typer carry their own Click and some depend on it; the class is the same either way.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    help="Distil large trained models into small ones that can be shipped, and prove that they are good.\n\n"
    "Start with:  limbeck run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(help="Look at data, or split a folder of images.", no_args_is_help=True)
app.add_typer(data, name="data")
answers = typer.Typer(help="Look at the teachers' stored answers, check them, make room.", no_args_is_help=True)
app.add_typer(answers, name="cache")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A bundled name (see `limbeck recipes`) or the path of a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Changes to the recipe, for instance student.train.epochs=3", show_default=False
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY", help="These only, by the beginning of their keys; see `limbeck cache ls`.", show_default=False
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; stands anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory.  [default: runs/<name of the recipe>]", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: train teacher and students, compare them on the test split, export, report.

    Give the same command again to go on with a run that was interrupted: what is done is not done again.

    \b
      limbeck run quickstart
      limbeck run mnist-distiller data.source=fashion-mnist seeds=5 --out runs/fashion
    """  # noqa: D301 - Click wants the character itself
    from limbeck.runtime import Progress, keep_heap

    keep_heap()
    from limbeck import pipeline

    started = Progress(quiet=quiet)
    result = pipeline.run(recipe, out=out, overrides=overrides or (), progress=started)
    if result:
        from limbeck.report.terminal import show

        show(result, out or Path("runs") / result["name"])


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
    from limbeck.runtime import Progress, keep_heap

    keep_heap()
    from limbeck import tune as room
    from limbeck.report.search import show_search

    names = [name.strip() for name in losses.split(",") if name.strip()] if losses is not None else []
    found = room.tune(
        recipe,
        trials=trials,
        out=out,
        overrides=overrides or (),
        losses=names,
        seeds=_seeds(seeds),
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
    """Check a recipe without running it: every fault with its place, and a guess at what was meant."""
    from limbeck import recipe as recipes

    found = recipes.load(recipe, overrides or ())
    teachers = ", ".join(t.model for t in found.teachers) or "no teacher"
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    job = f"{found.task} on {found.data.source}; {teachers} -> {found.student.model}; {seeds}"
    print(f"{found.name}: fine ({job})")


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this one.")] = None) -> None:
    """List the bundled recipes, or print one."""
    from limbeck import recipe
    from limbeck.errors import did_you_mean

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
    from limbeck.report import write_report
    from limbeck.report.search import write_search
    from limbeck.runtime import read_json

    if (directory / "tune.json").exists():
        write_search(read_json(directory / "tune.json"), directory / "report.html")
        print(directory / "report.html")
        return
    write_report(read_json(directory / "result.json"), directory / "report.html")
    print(directory / "report.html")


@data.command("split")
def data_split(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder with one sub-folder a class.")],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="Where train/, val/ (and test/) are written; must be empty or absent.")
    ],
    val: Annotated[float, typer.Option(help="Share of the validation split.")] = 0.3,
    test: Annotated[float, typer.Option(help="Share of the test split; 0 writes none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 42,
    how: Annotated[Literal["copy", "hardlink", "symlink"], typer.Option(help="How files get there.")] = "copy",
    group: Annotated[
        str | None,
        typer.Option(help="Keep files of one group on one side: `stem`, or a regular expression on the path."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Split a folder of images into train/, val/ (and test/), stratified by class."""
    from limbeck.data import split_folder
    from limbeck.runtime import Progress

    counts = split_folder(
        source, target, val=val, test=test, seed=seed, how=how, group=group, progress=Progress(quiet=quiet)
    )
    for split, classes in counts.items():
        print(f"{split}: {sum(classes.values())} files in {len(classes)} classes")


@data.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A folder of images, .npz, .npy, .csv, .parquet or IDX file.")],
    quiet: Quiet = False,
) -> None:
    """Show what is in a data set: counts, sizes, modes, duplicates, files that cannot be read."""
    import json

    from limbeck.data import inspect
    from limbeck.runtime import Progress

    print(json.dumps(inspect(path, progress=Progress(quiet=quiet)), indent=2, ensure_ascii=False, default=str))


@answers.command("ls")
def cache_ls() -> None:
    """List what is stored: of which teacher and data, how large, when it was last used."""
    import time

    from limbeck import store

    found = store.entries()
    for entry in found:
        days = (time.time() - entry.used) / 86400
        used = "in use" if entry.in_use else "used today" if days < 1 else f"used {days:.0f} days ago"
        what = entry.damage or f"{entry.label['what']}, {entry.label['data']} ({entry.label['recipe']})"
        state = "" if entry.complete else ", not finished"
        size = f"{entry.rows:,} rows x {entry.views}, {store.in_words(entry.bytes)}{state}"
        print(f"{entry.key}  {what}\n{'':18}{size}, {used}")
    print(f"{store.in_words(sum(entry.bytes for entry in found))} in {store.outputs_dir()}")


@answers.command("verify")
def cache_verify(
    keys: Keys = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Ask the teachers of this finished run again, too.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Rows to ask each teacher for.", min=1)] = 64,
    quiet: Quiet = False,
) -> None:
    """Hold what is stored against its checksums, and with --run against the teachers themselves."""
    from limbeck import store
    from limbeck.runtime import Progress

    progress, wrong, known = Progress(quiet=quiet), 0, store.entries()
    for key in keys or ():
        if not any(entry.key.startswith(key) for entry in known):
            raise UserError(f"nothing is stored as '{key}'", hint="see `limbeck cache ls`")
    chosen = [entry for entry in known if not keys or entry.key.startswith(tuple(keys))]
    with progress.bar("checksums", len(chosen)) as advance:
        for number, entry in enumerate(chosen, start=1):
            faults = store.verify(entry)
            wrong += len(faults)
            print(f"{entry.key}: {'sound' if not faults else '; '.join(faults)}")
            advance(number, entry.key)
    if run is not None:
        from limbeck import pipeline

        for name, found in pipeline.recheck(run, sample=sample, progress=progress).items():
            print(
                f"{name}: asked again for {found.samples} rows, largest difference {found.worst:.3g}, "
                f"{found.disagreements} with another prediction"
            )
            wrong += found.disagreements
    if wrong:
        hint = "what is damaged is asked anew by the next run that needs it"
        raise UserError(f"{wrong} fault{'' if wrong == 1 else 's'}", hint=hint)


@answers.command("prune")
def cache_prune(
    keys: Keys = None,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="What was not used for so long.")] = None,
    to_gb: Annotated[
        float | None, typer.Option(metavar="GB", help="The least recently used, until the rest takes no more.")
    ] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="What was never finished, or is damaged.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove stored answers. Those a run is using stay; what is removed can be asked for again."""
    from limbeck import store

    if not (keys or everything or incomplete or older_than is not None or to_gb is not None):
        raise UserError(
            "say what shall go",
            where="limbeck cache prune",
            hint="KEY..., --older-than DAYS, --to-gb GB, --incomplete or --all",
        )
    gone = store.prune(
        None if everything else keys or [],
        older_than_days=older_than,
        to_bytes=None if to_gb is None else int(to_gb * 1e9),
        incomplete=incomplete,
        dry_run=dry_run,
        say=print,
    )
    for entry in gone:
        print(f"{entry.key}: {'would be removed' if dry_run else 'removed'}, {entry.bytes / 1e6:,.1f} MB")
    print(f"{sum(entry.bytes for entry in gone) / 1e6:,.1f} MB")


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
