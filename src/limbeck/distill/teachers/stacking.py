"""Members joined by a small network over their predictions, fitted on rows they have not learned from, or with them.

Wolpert, 1992, "Stacked Generalization".
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limbeck.core.errors import UserError
from limbeck.core.types import Kind
from limbeck.distill.teachers.ensemble import Combine
from limbeck.models import Normalized
from limbeck.tasks import rules

LOWEST = -30.0  # nats; below it a probability is as good as 0, and its logarithm would only unbalance the fit
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
WEIGHT_PENALTY = 0.01  # on the members' weights: hardly felt, but perfect members do not get endless ones
FOLDS = 5
FEWEST = 20  # rows; of fewer, the standard error is itself a guess


class Stack(nn.Module):
    """A small network over the members' predictions: [M, B, C] -> logits [B, C], or [M, B, K] -> values [B, K].

    Members' log-probabilities (so the constant in a row of logits does not matter) or values stand side by side as
    [B, M * C] before a linear layer that begins as their mean. With `hidden`, a perceptron whose last layer begins as 0
    is added to it. So a stack that has learned nothing is a sane ensemble already.

    Args:
        members: M, how many.
        width: C or K.
        kind: of the task.
        hidden: widths of the hidden layers; none makes it linear.
    """

    def __init__(self, members: int, width: int, *, kind: Kind = "classification", hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.members, self.width, self.kind = members, width, kind
        self.hidden: nn.Sequential | None = None
        if hidden:
            widths = [members * width, *hidden]
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(widths):
                layers += [nn.Linear(before, after), nn.ReLU()]
            last = nn.Linear(widths[-1], width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.hidden = nn.Sequential(*layers, last)
        self.linear = nn.Linear(members * width, width)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(width).repeat(1, members) / members)
            self.linear.bias.zero_()

    def forward(self, predictions: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] for the members' predictions [M, B, C] or [M, B, K]."""
        return self.join(self.side_by_side(predictions.to(self.linear.weight.dtype)))

    def side_by_side(self, predictions: Tensor) -> Tensor:
        """What the layers see: log-probabilities [B, M * C], or values [B, M * K].

        Raises:
            UserError: other members or another width than the stack was made for.
        """
        if predictions.ndim != 3 or (len(predictions), predictions.shape[2]) != (self.members, self.width):
            raise UserError(
                f"predictions are {list(predictions.shape)}, the stack was made for [{self.members}, B, {self.width}]"
            )
        if rules(self.kind).predicts == "classes":
            predictions = torch.log_softmax(predictions, dim=-1).clamp_min(LOWEST)
        return predictions.transpose(0, 1).flatten(1)

    def join(self, rows: Tensor) -> Tensor:
        """The layers themselves: what `side_by_side` gave -> [B, C] or [B, K]."""
        joined: Tensor = self.linear(rows)
        return joined if self.hidden is None else joined + self.hidden(rows)


def as_combine(stack: Stack) -> Combine:
    """A stack as a way of joining: its own copy in eval mode, without gradients; the prediction's type is kept."""
    frozen = copy.deepcopy(stack).eval().requires_grad_(False)

    @torch.no_grad()
    def stacked(predictions: Tensor) -> Tensor:
        given: Tensor = frozen.to(predictions.device)(predictions)
        return given.to(predictions.dtype)

    return stacked


class Joint(nn.Module):
    """Members and the stack over them as one network, to be trained as one: x -> [B, C] or [B, K].

    Weights files of it are complete: they hold the input normalisation of each member as well, so that a `Joint` built
    anew and loaded computes the same.

    Args:
        members: networks that take the same input, normalising it themselves where that is needed. Taken over, not
            copied.
        stack: made for as many members.

    Raises:
        ValueError: the stack is for another number of members.
    """

    def __init__(self, members: Sequence[nn.Module], stack: Stack) -> None:
        super().__init__()
        if len(members) != stack.members:
            raise ValueError(f"{len(members)} members, and a stack for {stack.members}")
        self.members, self.stack = nn.ModuleList(members), stack
        # A single network's statistics travel in the metadata of its file; those of several have their place here.
        for module in self.members.modules():
            if isinstance(module, Normalized):
                for name in ("mean", "std"):
                    module.register_buffer(name, getattr(module, name), persistent=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] or values [B, K] of inputs [B, ...]."""
        given: Tensor = self.stack(torch.stack([member(x) for member in self.members]))
        return given


# --- fitting -------------------------------------------------------------------------------------


def fit_stack(
    predictions: Tensor,
    targets: Tensor,
    *,
    kind: Kind = "classification",
    hidden: Sequence[int] = (),
    seed: int = 0,
) -> Stack:
    """Fit a stack on rows that no member has learned from.

    Three answers of growing freedom compete: the mean of the members as it is; one weight for each member (which also
    sets how sharp the whole is); and all weights free, drawn back to the second answer by a penalty (of `PENALTIES`) on
    the squared distance from it. Cross-validation over the rows takes the plainest one whose cross-entropy or squared
    error is within two standard errors (paired, over the rows) of the best: where rows are too few to tell, the members
    keep their mean. Each is fitted on all rows at once by L-BFGS in float64, so there is no learning rate to choose.

    The time grows with rows x M x C^2: on one core 0.1 s for three members, 10 classes and 1,000 rows, 5 s for 100
    classes and 5,000 rows.

    Args:
        predictions: [M, N, C] logits or log-probabilities, or [M, N, K] values.
        targets: class indices int64 [N], or values [N, K].
        kind: of the task.
        hidden: widths of hidden layers.
        seed: of hidden layers and folds.

    Returns:
        In eval mode, float32, on the CPU.

    Raises:
        UserError: shapes that do not fit, no rows, predictions or targets that are not numbers.
    """
    _check(predictions, targets, kind)
    classes = rules(kind).predicts == "classes"
    members, _, width = predictions.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = Stack(members, width, kind=kind, hidden=hidden).double()
        folds = torch.randperm(predictions.shape[1]) % FOLDS
    # Copies, for what was made in inference mode is of no use to autograd.
    rows = start.side_by_side(predictions.detach().cpu().double()).clone()
    target = (targets.detach().cpu().long() if classes else targets.detach().cpu().double()).clone()
    with _one_thread():
        pick = _plainest(start, rows, target, folds)
        return next(itertools.islice(_answers(start, rows, target), pick, None)).float().eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums so small are several times slower on two threads than on one, and the same on any machine only on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(predictions: Tensor, targets: Tensor, kind: Kind) -> None:
    if predictions.ndim != 3 or not predictions.numel():
        raise UserError(f"a stack is fitted on predictions [M, N, C], not {list(predictions.shape)}")
    count, width = predictions.shape[1:]
    classes = rules(kind).predicts == "classes"
    if targets.shape != ((count,) if classes else (count, width)):
        raise UserError(f"targets {list(targets.shape)} do not fit predictions {list(predictions.shape)}")
    ruled_out = predictions == -torch.inf if classes else False
    if not (predictions.isfinite() | ruled_out).all() or not targets.isfinite().all():
        raise UserError("a stack cannot be fitted on predictions or targets that are not finite numbers")
    if classes and not 0 <= int(targets.min()) <= int(targets.max()) < width:
        what = f"class indices {int(targets.min())} to {int(targets.max())} do not fit {width} classes"
        raise UserError(what)


def _plainest(start: Stack, rows: Tensor, target: Tensor, folds: Tensor) -> int:
    """Which of the `_answers` is the plainest that is no worse than the best, as far as rows left out can tell."""
    if len(rows) < FEWEST:
        return 0
    left_out = [folds == fold for fold in range(FOLDS)]
    errors: list[Tensor] = []
    for stacks in zip(*(_answers(start, rows[~out], target[~out]) for out in left_out), strict=True):
        now = rows.new_empty(len(rows))
        with torch.no_grad():
            for out, stack in zip(left_out, stacks, strict=True):
                now[out] = _errors(stack.join(rows[out]), target[out])
        errors.append(now)
        if not _as_good(now, _least(errors)):  # more freedom only makes it worse from here on, and takes longest to fit
            break
    return next(i for i, found in enumerate(errors) if _as_good(found, _least(errors)))


def _least(errors: list[Tensor]) -> Tensor:
    return min(errors, key=lambda e: float(e.mean()))


def _as_good(errors: Tensor, best: Tensor) -> bool:
    """Whether they exceed the best by no more than two standard errors of the difference."""
    worse = errors - best
    return bool(worse.mean() <= 2 * worse.std() / math.sqrt(len(worse)))


def _answers(start: Stack, rows: Tensor, target: Tensor) -> Iterator[Stack]:
    """The mean, the members weighted, and all weights fitted under each penalty, from the plainest on."""
    yield start
    weights = torch.full((start.members,), 1 / start.members, dtype=rows.dtype, requires_grad=True)
    parts = rows.view(len(rows), start.members, start.width)

    def of_weights() -> Tensor:
        distance = (weights - 1 / start.members).square().sum()
        return _errors(torch.einsum("nmc,m->nc", parts, weights), target).mean() + WEIGHT_PENALTY * distance

    _minimise([weights], of_weights)
    stack = copy.deepcopy(start)
    with torch.no_grad():
        stack.linear.weight.copy_(torch.cat([w * torch.eye(start.width) for w in weights], dim=1))
    yield stack
    origin = [p.detach().clone() for p in stack.parameters()]
    for penalty in PENALTIES:
        stack = copy.deepcopy(stack)  # begins where the stronger penalty ended

        def of_all(stack: Stack = stack, penalty: float = penalty) -> Tensor:
            apart = [(p - o).square().sum() for p, o in zip(stack.parameters(), origin, strict=True)]
            return _errors(stack.join(rows), target).mean() + penalty * torch.stack(apart).sum()

        _minimise(list(stack.parameters()), of_all)
        yield stack


def _errors(given: Tensor, target: Tensor) -> Tensor:
    """The error of each row [N]: cross-entropy, or the mean square over the outputs."""
    if target.is_floating_point():
        return (given - target).square().mean(dim=1)
    return nn.functional.cross_entropy(given, target, reduction="none")


def _minimise(weights: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        weights, max_iter=100, tolerance_grad=1e-7, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
