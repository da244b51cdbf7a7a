"""Which layer a file computes differently from the network it was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.formats import file_format
from limbeck.export.formats import converter
from limbeck.export.interface import LARGEST_BATCH, Interface, Rows, as_seen
from limbeck.export.logs import log_path
from limbeck.export.serving import run
from limbeck.export.workers import elsewhere

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def values(path: Path, name: str, rows: Rows) -> list[tuple[str, Rows]]:
    """What the operators of a file give for some rows: names in the file, and arrays. In another process.

    Args:
        path: the file.
        name: its format, with or without a precision; ExecuTorch files have nothing to show.
        rows: as the file takes them; a LiteRT file gets as many as its first signature takes.

    Raises:
        UserError: its runtime cannot run it so.
    """
    form = file_format(name).form
    if not hasattr(converter(form), f"values_{form}"):
        return []
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        given, found = Path(folder) / "rows.npy", Path(folder) / "found.npz"
        np.save(given, rows)
        arguments = {"path": str(path), "form": form, "rows": str(given), "found": str(found)}
        doing, log = "its layers cannot be looked at", Path(folder) / log_path(path).name
        names = elsewhere("limbeck.export.layers:dump", arguments, family=form, log=log, doing=doing, where=str(path))
        with np.load(found, allow_pickle=False) as arrays:
            return [(name, arrays[str(i)]) for i, name in enumerate(names)]


def dump(path: str, form: str, rows: str, found: str) -> list[str]:
    """Write what the operators of a file give; `values` has this done elsewhere."""
    pairs = getattr(converter(form), f"values_{form}")(Path(path), np.load(rows, allow_pickle=False))
    arrays: dict[str, Any] = {str(i): value for i, (_, value) in enumerate(pairs)}
    np.savez(found, **arrays)
    return [name for name, _ in pairs]


def first_difference(
    model: nn.Module, path: Path, name: str, rows: Rows, interface: Interface | None = None, *, tolerance: float = 1e-3
) -> str | None:
    """The first layer of a network that a file computes differently, as far as that can be found.

    Both compute the row that they disagree about most. Converters fuse and rename, so values are matched by what they
    are: an operator of the network is right where some operator of the file gives the same, or where one is right that
    computes with it. The first that is not makes the difference.

    Args:
        model: the network.
        path: the file.
        name: its format, with or without a precision.
        rows: as the file takes them.
        interface: what the file takes; what the network takes where it is absent.
        tolerance: the largest difference of values that are the same, as a share of the largest of them.

    Returns:
        The layer, as `layer 'features.3' (Conv2d)`; None where nothing differs or nothing can be found.

    Raises:
        UserError: the file cannot be run.
    """
    import torch

    from limbeck.export.trace import layer_of, trace

    interface, rows = interface or Interface(), rows[:LARGEST_BATCH]
    example = torch.from_numpy(as_seen(rows[:1], interface))
    graph = trace(model, example, interface).module()
    given = run(path, name, rows)
    with torch.no_grad():
        error = np.abs(graph(torch.from_numpy(rows)).numpy() - given).max(axis=1)
    worst = int(np.nan_to_num(error, nan=np.inf).argmax())
    row = rows[worst : worst + 1]
    found = values(path, name, np.repeat(row, LARGEST_BATCH, axis=0) if file_format(name).form == "litert" else row)
    if not found:
        return None
    in_file = [value[:1] if value.ndim and len(value) in (1, LARGEST_BATCH) else value for _, value in found]
    node = _first_wrong(graph, torch.from_numpy(row), in_file, tolerance)
    return (layer_of(node) or "the model's own forward") if node is not None else None


def _first_wrong(
    graph: torch.fx.GraphModule, row: Tensor, in_file: Sequence[Rows], tolerance: float
) -> torch.fx.Node | None:
    """The first operator whose value is not in the file, nor that of one which computes with it."""
    import torch

    computed: dict[torch.fx.Node, Rows] = {}

    class Watched(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            given = super().run_node(n)
            if isinstance(given, torch.Tensor) and given.is_floating_point():
                computed[n] = given.numpy().copy()
            return given

    with torch.no_grad():
        Watched(graph).run(row)
    by_size: dict[int, list[Rows]] = {}
    for value in in_file:
        if value.dtype.kind == "f":
            by_size.setdefault(value.size, []).append(value.ravel())
    variable = {node for node in graph.graph.nodes if node.op == "placeholder"}
    for node in graph.graph.nodes:
        if variable.intersection(node.all_input_nodes):
            variable.add(node)
    right: dict[torch.fx.Node, bool] = {}
    for node in reversed(graph.graph.nodes):
        compared = node in variable and node in computed and node.op != "placeholder"
        same = not compared or _among(computed[node], by_size, tolerance)
        right[node] = same or any(right[user] for user in node.users if user in computed)
    return next((node for node in graph.graph.nodes if not right[node]), None)


def _among(value: Rows, by_size: Mapping[int, Sequence[Rows]], tolerance: float) -> bool:
    """Whether one of the values is the same, be it with channels last."""
    candidates = by_size.get(value.size, ())
    allowed = tolerance * float(np.abs(value).max(initial=0)) + 1e-12
    forms = [value.ravel()] + ([value.transpose(0, 2, 3, 1).ravel()] if value.ndim == 4 else [])
    return any(bool(np.abs(form - candidate).max(initial=0) <= allowed) for form in forms for candidate in candidates)
