"""Whether a network answers to a row, and to nothing else; and in what numbers it may answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck import evaluate
from limbeck.core.types import Batch
from limbeck.data import Data
from limbeck.distill.teachers import Frozen
from limbeck.distill.teachers.diagnose.finding import Finding
from limbeck.models import channels_last, plain
from limbeck.tasks import rules
from limbeck.tasks.normal_form import classes_first

ROWS = 96
RANDOM = 1e-3  # mean change of an output against its spread over the rows; rounding is far below
COMPANY = 1e-2  # files that measure the range of each batch, to round by it, stay below
MUCH = 0.05


def steadiness(name: str, network: nn.Module, data: Data, rows: Tensor, device: torch.device | str) -> Finding:
    """Whether the same rows get the same answers again, and in other company.

    Args:
        name: of the teacher.
        network: asked in eval mode; a file may have been written in another.
        data: what it answers for.
        rows: int64 [N], of the validation split.
        device: where it runs.
    """
    rows = rows[:ROWS]
    first = evaluate.predict(network, data, rows, device=device)
    again = evaluate.predict(network, data, rows, device=device)
    # Shuffled, and in batches of another size: every row stands among others.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    other = evaluate.predict(network, data, rows[order], device=device, batch_size=24)[order.argsort()]
    repeated, moved = _moved(first, again), _moved(first, other)
    figures = {"again": repeated, "in_other_company": moved}
    if repeated > RANDOM:
        text = (
            f"answers change from call to call (by {repeated:.1%} of their spread): dropout, or noise, is switched on"
        )
        return Finding("warning", name, "steadiness", text, _eval_hint(), figures)
    if moved > COMPANY:
        text = (
            f"answers depend on the other rows of the batch (by {moved:.1%} of their spread), as they do with batch "
            "norm in training mode"
        )
        if moved <= MUCH:
            text = f"answers depend a little on the other rows of the batch (by {moved:.1%} of their spread)"
            return Finding("note", name, "steadiness", text, figures=figures)
        return Finding("warning", name, "steadiness", text, _eval_hint(), figures)
    text = "the same rows get the same answers, again and in other batches"
    return Finding("ok", name, "steadiness", text, figures=figures)


def _eval_hint() -> str:
    return "call `.eval()` on the model before it is exported, and give batch norms running statistics"


def _moved(one: Tensor, other: Tensor) -> float:
    """Mean change of an output against its standard deviation over the rows."""
    return float((one - other).abs().mean() / one.std(0).mean().clamp_min(1e-12))


def numbers(name: str, network: nn.Module, data: Data, prediction: Tensor) -> Finding:
    """Whether all answers are finite, and weights float32.

    Args:
        name: of the teacher.
        network: the teacher.
        data: what it answers for.
        prediction: what it gives for all validation rows.
    """
    broken = (~prediction.isfinite()).flatten(1).any(1)
    if count := int(broken.sum()):
        row = int(data.val[broken][0])
        text = f"gives NaN or infinity for {count:,} of {len(prediction):,} validation rows, row {row} among them"
        return Finding("warning", name, "numbers", text, "look at what it takes: `preprocess`", {"rows": count})
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        shown = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return Finding("note", name, "numbers", f"has weights in {shown}", "convert them to float32")
    return Finding("ok", name, "numbers", "all answers are finite")


def precision(name: str, network: nn.Module, data: Data, device: torch.device) -> Finding:
    """In what a teacher will answer here."""
    if bfloat16_is_safe(network, data, device):
        text = "answers in bfloat16, which is faster here and hardly moves its soft targets"
    else:
        text = "answers in float32: bfloat16 is not faster here, or would move its soft targets"
    return Finding("ok", name, "precision", text)


def bfloat16_is_safe(network: nn.Module, data: Data, device: torch.device, *, rows: int = 512) -> bool:
    """Whether a teacher may answer in bfloat16: fast on this device, and its soft targets hardly move.

    Hardly: on the first validation rows at least 99 % keep their class (or answers), and the mean KL is below
    0.001 nats.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    if not fast or not channels_last(plain(network)) or rules(data.task).predicts == "values":
        return False
    low, sample = Frozen(network, dtype=torch.bfloat16, device=device, kind=data.task.kind), data.val[:rows]

    def answer(x: torch.Tensor) -> torch.Tensor:
        nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return classes_first(low(Batch(x, nobody, nobody)).prediction)

    exact, moved = (evaluate.predict(f, data, sample, device=device) for f in (network, answer))
    found = evaluate.agreement(data.task, moved, exact)
    return found["agreement"] >= 0.99 and found["kl"] < 1e-3
