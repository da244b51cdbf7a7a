"""Data: from a source to rows with three splits, and to batches that carry their row numbers.

Every source ends as one `Data`: inputs decoded once (uint8 images, or a float table), labels or measured values,
and the row numbers of the training, validation and test split. Nothing is ever unpickled.
"""

from limbeck.core.readers.images import read_images
from limbeck.core.readers.tables import read_rows, read_table
from limbeck.core.scaling import Scaling
from limbeck.data.class_weights import class_weights
from limbeck.data.dataset import (
    Data,
    Keys,
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
from limbeck.data.folder_split import split_folder
from limbeck.data.inspection import inspect
from limbeck.data.loading import load
from limbeck.data.sources.arrays import archive, from_arrays, read_array

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
