"""A look at a teacher, and at the rows it teaches, before anybody learns from them.

Only validation rows are asked about, and what is told is told because it cannot well be chance: a false alarm costs
more than a fault that is found a little later.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.data import Data
from limbeck.distill.teachers.diagnose.finding import Finding, Level, one_class_a_row, sample
from limbeck.distill.teachers.diagnose.inputs import misfit
from limbeck.distill.teachers.diagnose.outputs import class_order, softmax, temperature, values
from limbeck.distill.teachers.diagnose.rows import survey
from limbeck.distill.teachers.diagnose.steadiness import bfloat16_is_safe, numbers, precision, steadiness
from limbeck.distill.teachers.diagnose.worth import doubts, straight_line, weaker
from limbeck.distill.teachers.external.outputs import Read
from limbeck.models import external_model
from limbeck.recipe import Network
from limbeck.tasks import rules

__all__ = [
    "Finding",
    "Level",
    "bfloat16_is_safe",
    "doubts",
    "examine",
    "precision",
    "straight_line",
    "survey",
    "weaker",
]


def examine(
    name: str, network: nn.Module, spec: Network, data: Data, prediction: Tensor, device: torch.device
) -> list[Finding]:
    """Look at a network that was brought along, as a teacher.

    Args:
        name: what it is called.
        network: on `device`, as the recipe gives it its inputs and reads its outputs.
        spec: of the recipe.
        data: what it answers for; its test split is not touched.
        prediction: what the network gives for all validation rows.
        device: where it runs.

    Returns:
        What was found, in the order in which it is best put right.
    """
    found: list[Finding | None] = [numbers(name, network, data, prediction)]
    if not prediction.isfinite().all():
        return [one for one in found if one]
    looked, rows = sample(torch.arange(len(data.val))), data.val
    few, given = rows[looked], prediction[looked]
    inner = external_model(network)
    if inner is not None and inner.classes and not spec.classes:
        spec = spec.model_copy(update={"classes": list(inner.classes)})
    if inner is None or not inner.keyed:
        found.append(steadiness(name, network, data, few, device))
        inputs, fitting = misfit(name, network, data, few, given, device)
        found.append(inputs)
        if fitting is not given:  # its outputs mean little until that is put right
            prediction, rows = fitting, few
    if one_class_a_row(data):
        read_as = next((module.how for module in network.modules() if isinstance(module, Read)), "")
        readings = softmax(name, prediction, spec, read_as=read_as), class_order(name, prediction, data, rows, spec)
        found += readings
        if not any(one.level == "warning" for one in readings if one):  # or it says nothing that they do not
            found.append(temperature(name, prediction, data, rows))
    elif rules(data.task).predicts == "values":
        found.append(values(name, prediction, data, rows, spec))
    return [one for one in found if one]
