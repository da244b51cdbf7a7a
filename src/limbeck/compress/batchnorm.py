"""Batch-norm statistics anew, for a network whose channels have changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of `model` whose batch norms have the mean and variance of these batches, all counting alike.

    The cheap alternative to training on: no weight changes (EagleEye, Li et al. 2020). Other layers are in eval mode
    meanwhile. A model without batch norms is copied as it is.

    Args:
        model: a network, with or without its input normalisation; not touched.
        batches: inputs, [B, ...] each, as in training; a few hundred rows are enough, dozens a batch.

    Raises:
        UserError: there are no batches, or statistics that are not finite.
    """
    own = copy.deepcopy(model)
    norms = [m for m in own.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return own
    modes = {module: module.training for module in own.modules()}
    momenta = [norm.momentum for norm in norms]
    own.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.training = True
    count = 0
    with torch.no_grad():
        for x in batches:
            own(x)
            count += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    if not count:
        raise UserError("no batches to take batch-norm statistics from", where="recalibrate")
    if not all(b.isfinite().all() for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None):
        raise UserError(
            "the batch-norm statistics are not finite",
            where="recalibrate",
            hint="look for NaN in the rows, or give larger batches",
        )
    return own
