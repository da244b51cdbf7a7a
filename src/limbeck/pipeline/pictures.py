"""What models make of some test images, as one picture in the run directory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.core.pictures import contact_sheet
from limbeck.core.result import DrawnModel, MaskPicture
from limbeck.core.types import IGNORED, Role
from limbeck.data import pixels, targets
from limbeck.pipeline.context import RunContext
from limbeck.tasks import rules

SHOWN = 6  # images
SIDE = 144  # pixels of a cell, at least
FILE = "masks.png"


def masks(job: RunContext, predictions: Mapping[tuple[str, Role], Tensor]) -> MaskPicture | None:
    """Some test images, drawn at random, with their true masks and those of some models beside them.

    Args:
        job: the run, whose directory the picture goes to.
        predictions: of the test rows by name and role of the model, logits [N, H, W, C].

    Returns:
        What each column shows, after the image and its true mask; None where nothing is predicted for pixels.
    """
    data = job.data
    if rules(data.task).each != "pixel" or not predictions:
        return None
    drawn = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:SHOWN].sort().values
    images = (pixels(data, data.test[drawn], "cpu") * 255).round().to(torch.uint8).numpy()
    found = [targets(data, data.test[drawn], "cpu"), *(given[drawn].argmax(-1) for given in predictions.values())]
    shown = [mask.numpy() for mask in found]
    contact_sheet(job.folder / FILE, images, shown, data.task.width, ignored=IGNORED, side=SIDE)
    columns = [DrawnModel(name=name, role=role) for name, role in predictions]
    return MaskPicture(file=FILE, columns=columns, rows=len(drawn), of=len(data.test))
