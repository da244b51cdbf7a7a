"""A layer as a product of thinner ones: the factors, and how many are worth keeping.

All factors are computed in float64 and balanced, so that those of one layer have weights of about the same size. At
full rank they give what the layer gives.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
HOOI_SWEEPS = 10
GRID = 200


def _balanced(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[rows, rank] and [rank, columns] whose product is the best approximation of that rank (Eckart and Young 1936).

    Of the eigenvectors of the smaller Gram matrix: many times faster than a singular value decomposition.
    """
    if matrix.shape[0] > matrix.shape[1]:
        left, right = _balanced(matrix.T, rank)
        return right.T, left.T
    left = _leading(matrix, rank)
    right = left.T @ matrix
    root = right.norm(dim=1).sqrt()
    return left * root, right / root.clamp(min=1e-150)[:, None]


def _linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, like.weight.device, like.weight.dtype)
    return _filled(layer, weight, bias)


def _conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d, **options: Any) -> nn.Conv2d:
    out, into, *size = weight.shape
    layer = nn.Conv2d(
        into,
        out,
        (size[0], size[1]),
        bias=bias is not None,
        device=like.weight.device,
        dtype=like.weight.dtype,
        **options,
    )
    return _filled(layer, weight, bias)


def _filled(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    if weight.is_meta:
        return layer
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer


def _axis(value: Any, axis: int) -> Any:
    """A setting of one axis for a convolution that spans no other; "same" and "valid" hold for both."""
    return value if isinstance(value, str) else (value[0], 0) if axis == 0 else (0, value[1])


def svd_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """`layer` as two linear layers with `rank` values between them."""
    first, second = (
        _empty(layer, (rank, layer.in_features), (layer.out_features, rank))
        if layer.weight.is_meta
        else _balanced(layer.weight.detach().double(), rank)[::-1]
    )
    return nn.Sequential(_linear(first, None, layer), _linear(second, layer.bias, layer))


def channel_svd(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """`layer` as the same convolution with `rank` outputs, then a 1x1 one (Zhang et al. 2015)."""
    out, into, height, width = layer.weight.shape
    if layer.weight.is_meta:
        first, second = _empty(layer, (rank, into, height, width), (out, rank, 1, 1))
    else:
        second, first = _balanced(unfolded(layer, "channel"), rank)
        first, second = first.view(rank, into, height, width), second.view(out, rank, 1, 1)
    same = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return nn.Sequential(_conv(first, None, layer, **same), _conv(second, layer.bias, layer))


def spatial_svd(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """`layer` as a vertical convolution with `rank` outputs, then a horizontal one (Jaderberg et al. 2014)."""
    out, into, height, width = layer.weight.shape
    if layer.weight.is_meta:
        first, second = _empty(layer, (rank, into, height, 1), (out, rank, 1, width))
    else:
        left, right = _balanced(unfolded(layer, "spatial"), rank)
        first = left.view(into, height, rank).permute(2, 0, 1)[..., None]
        second = right.view(rank, width, out).permute(2, 0, 1)[:, :, None]
    down = {"stride": (layer.stride[0], 1), "padding": _axis(layer.padding, 0), "dilation": (layer.dilation[0], 1)}
    along = {"stride": (1, layer.stride[1]), "padding": _axis(layer.padding, 1), "dilation": (1, layer.dilation[1])}
    return nn.Sequential(_conv(first, None, layer, **down), _conv(second, layer.bias, layer, **along))


def tucker2(layer: nn.Conv2d, ranks: tuple[int, int]) -> nn.Sequential:
    """`layer` as a 1x1 convolution to fewer inputs, itself on these to fewer outputs, and a 1x1 one to all outputs.

    Tucker-2 (Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications") by higher-order orthogonal iteration (De Lathauwer et al. 2000).

    Args:
        layer: [out, in, H, W].
        ranks: of the outputs, of the inputs.
    """
    out, into, height, width = layer.weight.shape
    r_out, r_in = ranks
    if layer.weight.is_meta:
        first, core, last = _empty(layer, (r_in, into, 1, 1), (r_out, r_in, height, width), (out, r_out, 1, 1))
    else:
        weight = layer.weight.detach().double()
        of_out, of_in = unfolded(layer, "tucker")
        u_out, u_in = _leading(of_out, r_out), _leading(of_in, r_in)
        for _ in range(HOOI_SWEEPS):
            u_out = _leading(torch.einsum("oihw,ir->orhw", weight, u_in).flatten(1), r_out)
            u_in = _leading(torch.einsum("oihw,or->irhw", weight, u_out).flatten(1), r_in)
        core = torch.einsum("oihw,or,is->rshw", weight, u_out, u_in)
        # Orthonormal factors have weights of another size than the core; three layers of one size train better.
        size = core.norm().clamp(min=1e-30) / math.sqrt(max(1, min(ranks)))
        spread = size ** (1 / 3)
        first, core, last = u_in.T[..., None, None] * spread, core / spread**2, u_out[..., None, None] * spread
    same = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return nn.Sequential(
        _conv(first, None, layer), _conv(core, None, layer, **same), _conv(last, layer.bias, layer)
    )  # fmt: skip


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, [rows, rank]; of the Gram matrix, which is small."""
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T).eigenvectors
    return vectors.flip(1)[:, :rank]


def _empty(layer: nn.Module, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.empty(shape, device="meta") for shape in shapes)


def unfolded(layer: nn.Linear | nn.Conv2d, method: str) -> Any:
    """The matrix, or for "tucker" the two matrices, whose singular values tell which ranks are worth keeping."""
    weight = layer.weight.detach().double()
    if method == "svd":
        return weight
    if method == "channel":
        return weight.flatten(1)
    if method == "spatial":
        return weight.permute(1, 2, 3, 0).flatten(2).flatten(0, 1)
    return weight.flatten(1), weight.transpose(0, 1).flatten(1)


# --- ranks ---------------------------------------------------------------------------------------


def singular_values(matrix: Tensor) -> Tensor:
    """All of them, the largest first; those below 1e-8 of the largest are not exact."""
    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: Tensor = torch.linalg.eigvalsh(smaller @ smaller.T)
    return values.flip(0).clamp(min=0).sqrt()


def energy_rank(values: Tensor, energy: float) -> int:
    """The fewest singular values whose squares add up to the share `energy` of all squares; at least 1."""
    if not values.any():
        return 1
    shares = values.square().cumsum(0) / values.square().sum()
    return min(len(values), int((shares < energy - 1e-12).sum()) + 1)


def evbmf_rank(values: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values stand out of noise, whose variance is estimated; 0 where none does.

    The global solution of empirical variational Bayesian matrix factorisation: Nakajima, Sugiyama, Babacan and Tomioka
    2013, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix Factorization", theorem 2 and
    corollaries 1 to 3.

    Args:
        values: all singular values of the matrix, the largest first.
        shape: rows and columns of the matrix.
    """
    from scipy.optimize import brentq, minimize_scalar

    rows, columns = min(shape), max(shape)
    alpha = rows / columns
    squares = values.double().square().numpy() / columns

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    # The threshold: below it an empirical Bayesian explains a direction as noise.
    tau_threshold = brentq(lambda tau: phi(tau) + phi(tau / alpha), 1e-9, 1e3)
    threshold = (1 + tau_threshold) * (1 + alpha / tau_threshold)

    def free_energy(log_variance: float) -> float:
        x = squares / np.exp(log_variance)
        signal = x[x > threshold]
        part = signal - (1 + alpha)
        tau = (part + np.sqrt(np.maximum(part**2 - 4 * alpha, 0))) / 2
        known = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
        return float((x - np.log(np.maximum(x, 1e-300))).sum() + known.sum())

    most = min(math.ceil(rows / (1 + alpha)) - 1, rows - 1)
    high = max(float(squares.mean()), 1e-300)
    low = max(float(squares[most]) / threshold, float(squares[most:].mean()), high * 1e-12)
    # It has a dent for each direction, so the best of a grid is refined.
    grid = np.linspace(math.log(min(low, high * 1e-6 if low >= high else low)), math.log(high), GRID)
    at = int(np.argmin([free_energy(point) for point in grid]))
    bounds = (grid[max(at - 1, 0)], grid[min(at + 1, GRID - 1)])
    best = minimize_scalar(free_energy, bounds=bounds, method="bounded")
    return int((squares > math.exp(best.x) * threshold).sum())
