"""What a model costs: parameters, multiply-accumulates, and time, by one protocol for every runtime."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from limbeck.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

WARMUP_CALLS = 3


def parameters(model: nn.Module) -> int:
    """How many parameters `model` has; one used in two places counts once."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass for one sample: convolutions, matrix products and attention.

    Args:
        model: the network; its mode is left as it was.
        example: [B, ...], of which the first sample is used.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        # The counter does not know the CPU's fused attention and encoder kernels and would count them as nothing, so
        # attention is computed in its parts. For the same reason this is no_grad and not inference_mode.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(example[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training
    return int(counter.get_total_flops()) // 2


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch compute on `n` threads within the block, and on as many as before after it."""
    import torch

    if n < 1:
        raise UserError(f"{n} threads cannot compute anything", hint="at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stopwatch(call: Callable[[], object]) -> Callable[[], float]:
    """A call that gives its own time in milliseconds. On a GPU it must synchronise itself."""

    def run() -> float:
        begun = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - begun) / 1e6

    return run


def latency(
    runs: Mapping[str, Callable[[], float]], *, rounds: int = 30, seconds: float = 2.0
) -> dict[str, dict[str, float]]:
    """How long each of some calls takes.

    The calls take turns, one of each a round, so that a busy machine slows all of them alike and the ratios hold where
    the times do not. Rounds alternate their direction, so that nobody always follows the same neighbour. Compare
    medians; the minimum shows what the machine can do undisturbed.

    Args:
        runs: name -> a call that does the work once and gives its time in milliseconds; see `stopwatch`.
        rounds: the most rounds to measure.
        seconds: time to spend for each entry of `runs`; at least one round is measured, however long it takes.

    Returns:
        name -> median_ms, min_ms and n, the number of calls measured.
    """
    if rounds < 1:
        raise UserError(f"{rounds} rounds measure nothing", hint="at least 1")
    budget = seconds * len(runs)
    started = time.perf_counter()
    for _ in range(WARMUP_CALLS):
        for run in runs.values():
            run()
        if time.perf_counter() - started > budget / 2:
            break
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs.items())
    collecting = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(rounds):
            for name, run in order:
                taken[name].append(run())
            order.reverse()
            if time.perf_counter() - started > budget:
                break
    finally:
        if collecting:
            gc.enable()
    return {
        name: {"median_ms": statistics.median(times), "min_ms": min(times), "n": len(times)}
        for name, times in taken.items()
    }


def latency_seconds(call: float, *, rounds: int = 30, seconds: float = 2.0) -> float:
    """How long `latency` takes for each of its runs, if a call takes so many seconds."""
    warmup = min(WARMUP_CALLS, 1 + seconds / 2 // call) if call else 0.0
    measured = min(rounds, 1 + seconds // call) if call else 0.0
    return call * (warmup + measured)
