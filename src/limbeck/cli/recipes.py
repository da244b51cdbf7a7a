"""`limbeck recipes`: the bundled recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.core.errors import UserError


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
