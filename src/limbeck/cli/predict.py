"""`limbeck predict`: what a file makes of new images or rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
