"""Data: from a source to rows with three splits, and to batches that carry their row numbers.

Every source ends as one `Data`: inputs decoded once (uint8 images, or a float table), labels or measured values,
and the row numbers of the training, validation and test split. Nothing is ever unpickled.
"""

from limbeck.data.class_weights import class_weights
from limbeck.data.dataset import (
    Data,
    Keys,
    Scaling,
    again,
    batches,
    class_counts,
    count_labels,
    digests,
    fetcher,
    on_device,
    parts,
    pixels,
    shuffled,
    targets,
)
from limbeck.data.inspect import inspect
from limbeck.data.loading import load
from limbeck.data.sources.arrays import archive, from_arrays, read_array
from limbeck.data.split_folder import split_folder
from limbeck.recipe.files.images import read_images
from limbeck.recipe.files.tables import read_rows, read_table

__all__ = [
    "Data",
    "Keys",
    "Scaling",
    "again",
    "archive",
    "batches",
    "class_counts",
    "class_weights",
    "count_labels",
    "digests",
    "fetcher",
    "from_arrays",
    "inspect",
    "load",
    "on_device",
    "parts",
    "pixels",
    "read_array",
    "read_images",
    "read_rows",
    "read_table",
    "shuffled",
    "split_folder",
    "targets",
]
