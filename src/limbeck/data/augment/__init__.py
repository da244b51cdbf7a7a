"""Augmentation as a pure function of (seed, row, view).

No generator has a state here. A counter-based hash gives every (seed, row, view, draw) its own number, so a sample's
augmented view is the same whatever batch, order, process or worker it stands in, and a teacher's output for it can be
stored. What is done with the numbers is kept free of the batch too. The numbers are the same on every device; the
pixels are the same to the bit on one kind of device.
"""

from limbeck.data.augment.draws import DRAWS, uniform
from limbeck.data.augment.images import augment
from limbeck.data.augment.views import keyed

__all__ = ["DRAWS", "augment", "keyed", "uniform"]
