"""The small sets that come inside scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from limbeck.data.prepare import Raw


def load_embedded(source: str) -> Raw:
    """Load digits (8x8 images), wine, breast-cancer, diabetes or linnerud."""
    from sklearn import datasets

    if source == "digits":
        found = datasets.load_digits()
        x = np.round(found.images * (255 / 16)).astype(np.uint8)  # stored as 0 to 16
        return Raw("digits", torch.from_numpy(x)[:, None], _classes(found.target), tuple("0123456789"))
    loaders = {
        "wine": datasets.load_wine,
        "breast-cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "linnerud": datasets.load_linnerud,
    }
    found = loaders[source]()
    x = torch.from_numpy(found.data.astype(np.float32))
    columns = tuple(str(name) for name in found.feature_names)
    if source in ("wine", "breast-cancer"):
        return Raw(source, x, _classes(found.target), tuple(str(n) for n in found.target_names), columns)
    y = torch.from_numpy(found.target.astype(np.float32)).reshape(len(x), -1)
    names = ("progression",) if source == "diabetes" else tuple(str(n) for n in found.target_names)
    return Raw(source, x, y, names, columns)


def _classes(target: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(target.astype(np.int64))
