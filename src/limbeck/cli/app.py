"""The application that all commands belong to, and the arguments that many of them take."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck import __version__

app = typer.Typer(
    help="Distil large trained models into small ones that can be shipped, and prove that they are good.\n\n"
    "Start with:  limbeck run quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A bundled name (see `limbeck recipes`) or the path of a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Changes to the recipe, for instance student.train.epochs=3", show_default=False
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Allow models whose opening runs code: PATH.py:FUNCTION, .pt2, pickles.")
]


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; stands anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
