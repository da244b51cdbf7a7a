"""Commands around trained models and their files: compress, export, benchmark, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.cli.app import Quiet, Trust, app
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


@app.command()
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
    _go_on(model, {"export": formats(to), "files": files}, name, data, target, task, None, out, trust, quiet)


@app.command()
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
    _go_on(model, changes, name, data, target, task, lr, out, trust, quiet)


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


def _go_on(
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
    from limbeck.pipeline.run import run as run_recipe
    from limbeck.report.terminal import show

    result = run_recipe(checked, out=folder, trust=trust, progress=Progress(quiet=quiet))
    if result:
        show(result, folder)


@app.command()
def benchmark(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Exported files of any runtimes, or run directories.")
    ],
    threads: Annotated[int, typer.Option(help="How many each may use.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="The most rounds.", min=1)] = 30,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time files against each other: one row and 64 rows, size, memory; each in a process of its own, all in turn.

    A busy machine slows all alike, so ratios hold where times do not. The first file is what others are held to.

    \b
      limbeck benchmark runs/quickstart/export/*.tflite
    """  # noqa: D301 - Click wants the character itself
    from limbeck.evaluate.file_latency import benchmark as measure
    from limbeck.export.files import shipped

    found = measure([path for given in files for path in shipped(given)], threads=threads, rounds=rounds)
    if json:
        import json as writer

        print(writer.dumps(found, indent=2))
        return
    width = max(len(row["file"]) for row in found)
    print(f"{'':{width}}  {'size':>11}  {'1 row':>10}  {'at best':>10}  {'against':>8}  {'64 rows':>10}  {'memory':>9}")
    for row in found:
        print(
            f"{row['file']:{width}}  {row['size_bytes'] / 1000:>8,.1f} kB  {row['latency_ms']:>7.3f} ms  "
            f"{row['fastest_ms']:>7.3f} ms  {row['ratio']:>7.2f}x  {row['batch_ms']:>7.2f} ms  "
            + (f"{row['memory_mb']:>6.1f} MB" if row["memory_mb"] is not None else "")
        )
    print(f"median of {found[0]['rounds']} rounds, {threads} thread{'s' if threads > 1 else ''}")


@app.command()
def predict(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An exported file with its card beside it, or a run directory.")
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or tables.")],
    top: Annotated[int, typer.Option(help="How many classes to name.", min=1)] = 1,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the masks go, of a file that gives a class for each pixel."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what an exported file makes of new images or rows, in its own runtime.

    \b
      limbeck predict runs/quickstart/export/distilled-seed0.onnx rows.csv
      limbeck predict model.int8.tflite photos/*.jpg --top 3
      limbeck predict runs/streets photos --masks masks
    """  # noqa: D301 - Click wants the character itself
    import json as writer
    import sys

    from limbeck.export.files import shipped
    from limbeck.export.predict import predict as say

    for row in say(shipped(file)[0], inputs, top=top, masks=masks):
        for column, word in row.get("unknown", {}).items():
            print(f"note: {row['input']}: no row learned from had {column} '{word}'", file=sys.stderr)
        if json:
            print(writer.dumps(row, ensure_ascii=False))
        elif "classes" in row:
            print(f"{row['input']}\t" + "\t".join(f"{c['name']} {c['probability']:.3f}" for c in row["classes"]))
        elif "labels" in row:
            found = [f"{c['name']} {c['probability']:.3f}" for c in row["labels"]]
            print(f"{row['input']}\t" + ("\t".join(found) or "no label"))
        elif "pixels" in row:
            found = [f"{c['name']} {100 * c['share']:.1f} %" for c in row["pixels"]]
            print(f"{row['input']}\t{row['mask']}\t" + "\t".join(found))
        else:
            print(f"{row['input']}\t" + "\t".join(f"{name} {value:g}" for name, value in row["values"].items()))
