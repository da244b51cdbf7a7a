"""`limbeck report`: the page of a finished run or search, built again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run, or a search.")]) -> None:
    """Build the page of a finished run again from its result.json, or that of a search from its tune.json."""
    from limbeck.core.loss_search import read_search
    from limbeck.core.result import read_result
    from limbeck.report import write_report
    from limbeck.report.search import write_search

    if (directory / "tune.json").exists():
        write_search(read_search(directory / "tune.json"), directory / "report.html")
        print(directory / "report.html")
        return
    write_report(read_result(directory / "result.json"), directory / "report.html")
    print(directory / "report.html")
