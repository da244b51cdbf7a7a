"""`limbeck export`: a trained model as files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from limbeck.cli.app import Quiet, Trust
from limbeck.cli.trained import Model, Name, On, Out, Target, TaskName, To, go_on
from limbeck.core.errors import UserError

Input = Annotated[
    Literal["float32", "uint8"] | None, typer.Option(help="What files take: uint8 is raw pixels.", show_default=False)
]


Layout = Annotated[Literal["nchw", "nhwc"] | None, typer.Option(help="Of images in files.", show_default=False)]


Drop = Annotated[
    float | None,
    typer.Option(
        help="Leave the worst layers of an int8 file float until it loses no more than this share on validation.",
        show_default=False,
    ),
]


def export(
    model: Model,
    to: To = None,
    name: Name = None,
    data: On = None,
    target: Target = None,
    task: TaskName = None,
    input: Input = None,
    layout: Layout = None,
    batches: Annotated[
        str | None, typer.Option(metavar="N,...", help="Rows a call of LiteRT files.", show_default=False)
    ] = None,
    max_drop: Drop = None,
    every_seed: Annotated[bool, typer.Option("--every-seed", help="The students of all seeds.")] = False,
    out: Out = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Make files of a trained model, run each in its own runtime on the test split, and report.

    \b
      limbeck export runs/quickstart --to litert,litert-int8,onnx,executorch,openvino
      limbeck export model.pth --model timm/resnet18 --data photos/ --to litert-int8 --input uint8 --layout nhwc
      limbeck export model.keras --data photos/ --to litert,onnx
    """  # noqa: D301 - Click wants the character itself
    from limbeck.recipe.adopt import formats

    if not formats(to):
        raise UserError("into what?", where="--to", hint="litert,litert-int8,onnx,executorch,openvino or some of these")
    files = _files(input, layout, batches, max_drop, every_seed)
    go_on(model, {"export": formats(to), "files": files}, name, data, target, task, None, out, trust, quiet)


def _files(
    input: str | None, layout: str | None, batches: str | None, max_drop: float | None, every_seed: bool
) -> dict[str, Any]:
    try:
        counts = [int(part) for part in batches.split(",")] if batches else None
    except ValueError:
        raise UserError(f"'{batches}' is no list of numbers", where="--batches", hint="1,32") from None
    given = {
        "input": input,
        "layout": layout,
        "batches": counts,
        "max_drop": max_drop,
        "every_seed": every_seed or None,
    }
    return {key: value for key, value in given.items() if value is not None}
