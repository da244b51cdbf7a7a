"""How long the end of a run takes: models are tested, files made and run, and all of them timed.

What the converters of others take is a guess: it was measured with five networks of 2 to 99 layers, on one core of one
machine. Everything else follows from how long the networks of this job take here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from torch import nn

from limbeck import evaluate
from limbeck.core.formats import file_format
from limbeck.core.machine import cores
from limbeck.data import Data
from limbeck.evaluate import costs
from limbeck.evaluate.file_latency import BATCH_ROUNDS, BATCH_SECONDS, CALLS
from limbeck.export import LARGEST_BATCH
from limbeck.pipeline.context import RunContext
from limbeck.pipeline.outline import files, learning

Clock = Callable[[], float]
IMPORTS = "libraries for files"
LONG_SECONDS = 5.0  # after which one measurement has to do
# Seconds of a processor, between those of two machines of which one is half as fast.
# Once for each family of files, until its libraries are imported.
LIBRARIES: Mapping[str, float] = {"litert": 9.0, "onnx": 5.0, "executorch": 12.0, "openvino": 5.0, "keras": 7.0}
TRACING = 2.0  # the first graph
# For a float file and for what quantizing to int8 adds: whatever the network, and for each of its layers with weights.
CONVERTING: Mapping[str, tuple[float, float]] = {
    "litert": (0.9, 0.15), "onnx": (0.7, 0.07), "executorch": (1.0, 0.17), "openvino": (0.2, 0.07), "keras": (0.5, 0.0),
}  # fmt: skip
QUANTIZING: Mapping[str, tuple[float, float]] = {
    "litert": (0.1, 0.06), "onnx": (0.1, 0.06), "executorch": (3.3, 0.4), "openvino": (0.3, 0.06),
}  # fmt: skip
# Until a runtime stands ready in a fresh process, in which each file is run once.
STARTING: Mapping[str, float] = {"litert": 0.3, "onnx": 0.3, "executorch": 3.0, "openvino": 0.5, "keras": 7.0}


def measuring(job: RunContext, networks: Mapping[str, nn.Module], clock: Clock = time.perf_counter) -> dict[str, float]:
    """Seconds for libraries and files, where there are any, and for tests and the timing of everything.

    Args:
        job: the run. How long the search of `files.max_drop` takes nobody knows; it is left out.
        networks: "student", and as many of the teachers and assistants as shall be counted.
        clock: gives seconds.
    """
    shipped, rows, student = files(job.recipe), len(job.data.test), networks["student"]
    speeds = {name: speed(network, job.data, clock) for name, network in networks.items()}
    one, many = speeds["student"]
    count = sum(map(len, shipped))
    found = {}
    if count:
        run = many * rows / LARGEST_BATCH
        found = {IMPORTS: importing(shipped), "files": making(shipped, layers(student), run, cores())}
    students = len(learning(job.recipe)) or 1
    tested = sum(batch * (students if name == "student" else 1) for name, (_, batch) in speeds.items())
    timed = sum(costs.latency_seconds(single) for single, _ in speeds.values())
    batches = costs.latency_seconds(many * (1 + CALLS), rounds=BATCH_ROUNDS, seconds=BATCH_SECONDS)
    timed += count * (costs.latency_seconds(one * (1 + CALLS)) + batches)
    return {**found, "tests and timing": tested * rows / LARGEST_BATCH + timed}


def importing(shipped: Sequence[Sequence[str]]) -> float:
    """Seconds of a processor until all libraries are imported by which some files are made: a guess.

    It happens while networks train, but takes the time of a core from them.
    """
    forms = {file_format(name).form for names in shipped for name in names}
    return sum(LIBRARIES[form] for form in forms) + (TRACING if forms else 0.0)


def making(shipped: Sequence[Sequence[str]], count: int, run: float, workers: int = 1) -> float:
    """Seconds for files of some networks, as others took elsewhere: a guess.

    Args:
        shipped: the formats of each network.
        count: layers of a network.
        run: seconds that a file runs for on the test split.
        workers: files of so many formats are made side by side.
    """
    seconds = 0.0
    for names in shipped:
        forms = dict.fromkeys((file_format(name).form for name in names), 0.0)
        for name in names:
            form, precision = file_format(name)
            forms[form] += STARTING[form] + run + (_line(QUANTIZING[form], count) if precision == "int8" else 0.0)
        for form in forms:
            forms[form] += _line(CONVERTING[form], count)  # once, for all others are made from the float file
        seconds += max(max(forms.values(), default=0.0), sum(forms.values()) / workers)
    return seconds


def _line(pair: tuple[float, float], count: int) -> float:
    return pair[0] + pair[1] * count


def layers(network: nn.Module) -> int:
    """How many modules have weights of their own."""
    return sum(bool(list(module.parameters(recurse=False))) for module in network.modules())


def speed(network: nn.Module, data: Data, clock: Clock) -> tuple[float, float]:
    """Seconds for one row and for 64 on one thread of the processor, where files run too."""
    device = next((weight.device for weight in network.parameters()), None)
    rows, found = data.train[:LARGEST_BATCH], []
    with costs.threads(1):
        for part in (rows[:1], rows):
            spent = list[float]()
            while len(spent) < 3 and sum(spent) < LONG_SECONDS:
                started = clock()
                evaluate.predict(network.cpu(), data, part)
                spent.append(clock() - started)
            found.append(median(spent) / len(part))
    if device is not None:
        network.to(device)
    return found[0], found[1] * LARGEST_BATCH
