"""Smaller models from trained ones: channels pruned, layers factorised, weights made zero.

Everything is planned first, as an edit that `describe` shows, and then done by `apply`, which gives a new
model. Edits of a model are kept in its file; `replay` builds its architecture again from a fresh one.
"""

from limbeck.compress.batchnorm import recalibrate
from limbeck.compress.edits import apply, describe, edits_of, replay, save
from limbeck.compress.low_rank import plan_factorise
from limbeck.compress.prune import plan_prune
from limbeck.compress.records import Edit, FactoriseEdit, PruneEdit, SparsifyEdit, read_edit
from limbeck.compress.sparsify import Zeros, keep_zeros, plan_sparsify

__all__ = [
    "Edit",
    "FactoriseEdit",
    "PruneEdit",
    "SparsifyEdit",
    "Zeros",
    "apply",
    "describe",
    "edits_of",
    "keep_zeros",
    "plan_factorise",
    "plan_prune",
    "plan_sparsify",
    "read_edit",
    "recalibrate",
    "replay",
    "save",
]
