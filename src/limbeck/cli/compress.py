"""`limbeck compress`: a trained model made smaller."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from limbeck.cli.app import Quiet, Trust
from limbeck.cli.trained import Model, Name, On, Out, Target, TaskName, To, go_on
from limbeck.core.errors import UserError


def compress(
    model: Model,
    prune: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Share of the channels to take out.", show_default=False)
    ] = None,
    factorise: Annotated[
        float | None,
        typer.Option(metavar="ENERGY", help="Share of each weight that thinner layers keep.", show_default=False),
    ] = None,
    sparsify: Annotated[
        float | None, typer.Option(metavar="AMOUNT", help="Share of single weights to set to zero.", show_default=False)
    ] = None,
    quantize: Annotated[
        int | None, typer.Option(metavar="BITS", help="Train with weights of 8 or 4 bits.", show_default=False)
    ] = None,
    recover: Annotated[int, typer.Option(metavar="EPOCHS", help="Training after each step.")] = 3,
    lr: Annotated[
        float | None, typer.Option(help="For weights of your own: the learning rate of it.", show_default=False)
    ] = None,
    way: Annotated[str, typer.Option("--name", help="What the smaller model is called.")] = "compressed",
    accuracy_drop: Annotated[
        float | None,
        typer.Option(help="Search instead: the smallest model that loses no more than this share.", show_default=False),
    ] = None,
    size_kb: Annotated[float | None, typer.Option(help="...and is no larger.", show_default=False)] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="...and no slower, one row on one thread.", show_default=False)
    ] = None,
    runtime: Annotated[
        Literal["litert", "onnx", "executorch", "openvino"], typer.Option(help="...as a file of this runtime.")
    ] = "litert",
    trials: Annotated[int, typer.Option(help="How many ways the search tries.", min=1)] = 20,
    to: To = None,
    name: Name = None,
    data: On = None,
    target: Target = None,
    task: TaskName = None,
    out: Out = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Make a trained model smaller, recover it with its teacher's help, and report what was lost and won.

    The steps are taken in the order of the options here, with recovery after each. A limit searches the steps instead.

    \b
      limbeck compress runs/quickstart --prune 0.5 --recover 3 --to litert,litert-int8
      limbeck compress runs/quickstart --size-kb 20 --accuracy-drop 0.01 --trials 30
      limbeck compress model.pth --model timm/resnet18 --data photos/ --prune 0.75 --recover 5 --lr 1e-3 --to onnx
    """  # noqa: D301 - Click wants the character itself
    from limbeck.recipe.adopt import formats

    given = {"prune": prune, "factorise": factorise, "sparsify": sparsify, "quantize": quantize}
    steps = [{kind: amount, "recover": recover} for kind, amount in given.items() if amount is not None]
    searched = size_kb is not None or latency_ms is not None
    if not steps and not searched:
        raise UserError(
            "how?", where="limbeck compress", hint="--prune, --factorise, --sparsify, --quantize; or --size-kb ..."
        )
    if accuracy_drop is not None and not searched:
        raise UserError("needs a limit to search for", where="--accuracy-drop", hint="--size-kb, --latency-ms or both")
    changes: dict[str, Any] = {"compress": {way: steps} if steps else {}, "export": formats(to)}
    if searched:
        limits = {"accuracy_drop": accuracy_drop, "size_kb": size_kb, "latency_ms": latency_ms}
        kept = {key: value for key, value in limits.items() if value is not None}
        changes["budget"] = {**kept, "runtime": runtime, "trials": trials, "recover": recover}
    go_on(model, changes, name, data, target, task, lr, out, trust, quiet)
