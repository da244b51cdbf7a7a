"""What `export` and `compress` share: which trained model, and going on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.core.errors import UserError
from limbeck.core.types import Kind

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run directory, or a file of weights of your own.")]


To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="A,B,...",
        help="litert, onnx, executorch, openvino; with -int8, or -fp16, -w8, -w4 where there are (litert-w4); keras.",
        show_default=False,
    ),
]


Name = Annotated[
    str | None, typer.Option("--model", help="For weights of your own: the network, timm/NAME.", show_default=False)
]


On = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="For weights of your own: a folder of images, an .npz, a table, or a recipe whose data it was trained on.",
        show_default=False,
    ),
]


Target = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="For a table: the columns predicted.", show_default=False)
]


TaskName = Annotated[
    Kind | None,
    typer.Option(
        "--task", help="For a table or arrays: what is predicted.  [default: classification]", show_default=False
    ),
]


Out = Annotated[
    Path | None,
    typer.Option(help="The run directory.  [default: MODEL itself, or runs/<name of the file>]", show_default=False),
]


def go_on(
    model: Path,
    changes: dict[str, Any],
    name: str | None,
    data: str | None,
    target: str | None,
    task: Kind | None,
    lr: float | None,
    out: Path | None,
    trust: bool,
    quiet: bool,
) -> None:
    """Do more with a finished run, or with weights of the user's own, and show what came out.

    Args:
        model: the run directory, or the file of weights.
        changes: of the keys `compress`, `budget`, `export` and `files`.
        name: of weights: the network.
        data: of weights: what they are proved on.
        target: of a table: the columns predicted.
        task: of a table or arrays.
        lr: of weights: the learning rate of a recovery.
        out: the run directory, of weights.
        trust: whether opening a model may run code.
        quiet: whether nothing is shown meanwhile.

    Raises:
        UserError: a run is told what it says itself, or something fails.
    """
    from limbeck.core.machine import keep_heap
    from limbeck.core.progress import Progress
    from limbeck.recipe import needs
    from limbeck.recipe.adopt import adopt, continued, is_run

    if is_run(model):
        wrong = next(
            (f"--{k}" for k, v in {"model": name, "data": data, "target": target, "task": task, "lr": lr}.items() if v),
            None,
        )
        if wrong or out:
            raise UserError(
                "a run says that itself", where=wrong or "--out", hint=f"leave it out, or edit {model}/recipe.yaml"
            )
        checked, folder = continued(model, changes), model
    else:
        checked = adopt(model, name, data, target=target, task=task, lr=lr, changes=changes)
        folder = out or Path("runs") / checked.name
    needs.check(checked, out=folder)
    keep_heap()
    from limbeck.core.result import parse_result
    from limbeck.pipeline.run import run as run_recipe
    from limbeck.report.terminal import show

    result = run_recipe(checked, out=folder, trust=trust, progress=Progress(quiet=quiet))
    if result:
        show(parse_result(result, str(folder)), folder)
