"""Seeds that follow from what they are for."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:16], 16) >> 1


def seed_everything(*parts: object) -> None:
    """Seed Python's, NumPy's and torch's generators from `parts`."""
    import random

    import numpy as np
    import torch

    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
