"""Commands that look at data, or split it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from limbeck.cli.app import Quiet

data = typer.Typer(help="Look at data, or split a folder of images.", no_args_is_help=True)


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
    from limbeck.core.progress import Progress
    from limbeck.data import split_folder

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

    from limbeck.core.progress import Progress
    from limbeck.data import inspect

    print(json.dumps(inspect(path, progress=Progress(quiet=quiet)), indent=2, ensure_ascii=False, default=str))
