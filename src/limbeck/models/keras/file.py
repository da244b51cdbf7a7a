"""Files of Keras as teachers and students."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limbeck.data import Data
from limbeck.models import KerasNetwork, read_keras
from limbeck.tasks import rules


def load_keras(path: Path, data: Data) -> nn.Module:
    """The model in a `.keras` or `.h5` file as a network that can be trained further; of classes it gives logits.

    Args:
        path: of the file. No code in it is run.
        data: whose rows it will be given.

    Raises:
        UserError: it cannot be read, asks for code, or does not fit the rows.
    """
    return KerasNetwork(read_keras(path), data.shape, named=True, logits=rules(data.task).predicts != "values")
