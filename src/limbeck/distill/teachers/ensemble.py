"""Ways of joining members by a rule: [M, B, C] -> [B, C], regression [M, B, K] -> [B, K]. No gradient passes through.

What comes out for classes are log-probabilities, or for `logits_average` logits whose rows sum to 0; for labels, each a
yes or no of its own, logits. It is finite wherever the members' predictions are logits or log-probabilities, -inf (a
class ruled out) among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.errors import UserError
from limbeck.core.types import Kind
from limbeck.tasks import rules

Combine = Callable[[Tensor], Tensor]  # [M, B, C] -> [B, C]


# --- classes -------------------------------------------------------------------------------------


def log_shares(predictions: Tensor) -> Tensor:
    """Log-probabilities of logits [..., C], finite: -inf becomes the log of the smallest normal number of the type.

    A member may rule a class out; were its -inf kept, one member alone could make a loss of 0 * inf out of a row.
    """
    logs = torch.log_softmax(predictions, dim=-1)
    return torch.where(logs == -torch.inf, math.log(torch.finfo(logs.dtype).tiny), logs)


@torch.no_grad()
def average(predictions: Tensor) -> Tensor:
    """Log of the members' mean probability: logits [M, B, C] -> log-probabilities [B, C]."""
    return log_shares(predictions).logsumexp(dim=0) - math.log(len(predictions))


@torch.no_grad()
def logits_average(predictions: Tensor) -> Tensor:
    """Mean of the members' logits: [M, B, C] -> logits [B, C] whose rows sum to 0.

    As probabilities this is the normalised geometric mean. A softmax does not see a constant added to a row of logits,
    so each member has one of its own making; rows are centred first, lest those constants go into losses that compare
    logits as such, and large ones cost the others their digits.
    """
    logits = log_shares(predictions)
    return (logits - logits.mean(dim=-1, keepdim=True)).mean(dim=0)


def vote(*, smoothing: float = 1.0) -> Combine:
    """Log of the smoothed share of first choices: (votes + smoothing / C) / (M + smoothing).

    Additive (Lidstone) smoothing: `smoothing` more votes are cast, spread evenly over the classes, so that no class has
    the share 0. A member whose first choice is a tie splits its vote.

    Raises:
        UserError: smoothing that is not above 0.
    """
    if not 0 < smoothing < math.inf:
        raise UserError(f"smoothing is a number above 0, not {smoothing}", where="combine.smoothing")

    @torch.no_grad()
    def voted(predictions: Tensor) -> Tensor:
        members, classes = len(predictions), predictions.shape[-1]
        first = (predictions == predictions.amax(dim=-1, keepdim=True)).to(predictions.dtype)
        votes = (first / first.sum(dim=-1, keepdim=True)).sum(dim=0)
        return ((votes + smoothing / classes) / (members + smoothing)).log()

    return voted


@torch.no_grad()
def by_confidence(predictions: Tensor) -> Tensor:
    """Log of the mean probability, each member weighted row by row with its confidence: [M, B, C] -> [B, C].

    Confidence is 1 - entropy / log C: 0 for equal shares of all classes, 1 for certainty. Where nobody has any, all
    count the same.
    """
    logs = log_shares(predictions)
    entropy = torch.special.entr(logs.exp()).sum(dim=-1)
    confidence = (1 - entropy / math.log(max(predictions.shape[-1], 2))).clamp(0, 1)
    # What rounding leaves of no confidence is no reason to prefer a member.
    unsure = confidence.amax(dim=0, keepdim=True) <= 16 * torch.finfo(logs.dtype).eps
    confidence = torch.where(unsure, 1.0, confidence)
    weights = confidence / confidence.sum(dim=0, keepdim=True)
    return (logs + weights.log().unsqueeze(-1)).logsumexp(dim=0)


# --- labels --------------------------------------------------------------------------------------


def log_answers(predictions: Tensor) -> Tensor:
    """Log-probabilities of yes and of no, finite, of the logits of labels [...]: [2, ...]."""
    logs = torch.stack([F.logsigmoid(predictions), F.logsigmoid(-predictions)])
    return logs.clamp_min(math.log(torch.finfo(logs.dtype).tiny))


def _log_odds(logs: Tensor) -> Tensor:
    """Logits of log-probabilities of yes and of no: [2, ...] -> [...]."""
    return logs[0] - logs[1]


@torch.no_grad()
def answers_average(predictions: Tensor) -> Tensor:
    """Logit of the members' mean probability of each label: logits [M, B, C] -> logits [B, C]."""
    return _log_odds(log_answers(predictions).logsumexp(dim=1))


@torch.no_grad()
def answers_logits_average(predictions: Tensor) -> Tensor:
    """Mean of the members' logits of each label: [M, B, C] -> [B, C]; they have no constant that could differ."""
    return _log_odds(log_answers(predictions)).mean(dim=0)


# --- classes, labels or values ---------------------------------------------------------------------------


def weighted(weights: Sequence[float], *, kind: Kind = "classification") -> Combine:
    """Fixed weights: log (of a label the logit) of the weighted mean probability, or for regression the weighted mean.

    Args:
        weights: one for each member, 0 or more, not all 0; only their ratios count. A member with 0 is left out.
        kind: of the task.

    Raises:
        UserError: weights that cannot be; when called, other than one for each member.
    """
    given, predicts = [float(w) for w in weights], rules(kind).predicts
    if not given or not all(math.isfinite(w) and w >= 0 for w in given) or not any(given):
        raise UserError(f"weights are 0 or more, finite, and not all of them 0: {given}", where="combine.weights")
    # Divided by the largest first, for the sum of large ones may overflow.
    largest = max(given)
    total = math.fsum(w / largest for w in given)
    shares = [w / largest / total for w in given]
    counted = [i for i, share in enumerate(shares) if share > 0]

    @torch.no_grad()
    def joined(predictions: Tensor) -> Tensor:
        if len(predictions) != len(shares):
            what = f"{len(shares)} weights for {len(predictions)} members"
            raise UserError(what, where="combine.weights", hint="give one for each")
        used = predictions[counted] if len(counted) < len(shares) else predictions
        share = used.new_tensor([shares[i] for i in counted]).view(-1, *[1] * (used.ndim - 1))
        if predicts == "values":
            return (used * share).sum(dim=0)
        if predicts == "labels":
            return _log_odds((log_answers(used) + share.log()).logsumexp(dim=1))
        return (log_shares(used) + share.log()).logsumexp(dim=0)

    return joined


def validation_weights(kind: Kind, scores: Sequence[float]) -> list[float]:
    """Weights, with the sum 1, by what members are worth on validation.

    Args:
        kind: of the task.
        scores: each member's main metric: accuracy, mean average precision, or RMSE.

    Returns:
        Classification and several labels: proportional to the score; equal where no member is right about anything.
        Regression: proportional to 1 / MSE, the square of the RMSE, which is the best linear mean of members whose
        errors are independent; members without any error share all of the weight.

    Raises:
        UserError: no scores, or one that is negative or not finite.
    """
    if not scores or not all(math.isfinite(s) and s >= 0 for s in scores):
        raise UserError(f"scores are finite and not negative: {list(scores)}", where="combine.weights")
    if rules(kind).predicts != "values":
        parts = [float(s) for s in scores] if any(scores) else [1.0] * len(scores)
    else:
        # Relative to the smallest error, so that no unit makes the squares overflow.
        least = min(scores)
        parts = [(least / s) ** 2 if s else 1.0 for s in scores]
    total = math.fsum(parts)
    return [part / total for part in parts]


# --- values --------------------------------------------------------------------------------------


@torch.no_grad()
def mean(predictions: Tensor) -> Tensor:
    """Mean of the members' values: [M, B, K] -> [B, K]."""
    return predictions.mean(dim=0)


@torch.no_grad()
def median(predictions: Tensor) -> Tensor:
    """Median of the members' values, for an even number of them the mean of the middle two: [M, B, K] -> [B, K]."""
    ordered = predictions.sort(dim=0).values  # torch.median gives the lower of the two
    middle = len(ordered) // 2
    return ordered[middle].clone() if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
