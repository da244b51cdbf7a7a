"""What is wrong with the rows themselves: classes without rows, few rows, the same row on two sides."""

from __future__ import annotations

from collections import defaultdict

from limbeck.data import Data, class_counts, digests
from limbeck.distill.teachers.diagnose.finding import Finding, Level
from limbeck.tasks import rules

UNEVEN = 10  # times as many rows of one class as of another
LEAKED = 0.01  # of the validation or test rows
NAMED = 8


def survey(data: Data) -> list[Finding]:
    """What there is to say about a data set. Of the test split only inputs are looked at, for rows that stand twice."""
    found = [*_classes(data), *_duplicates(data)]
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts().items())
    return found or [Finding("ok", "data", "rows", f"{counts}; no row stands on two sides")]


def _classes(data: Data) -> list[Finding]:
    """Classes, or labels, that nothing can be learned of, or that nobody would notice."""
    if rules(data.task).predicts == "values" or data.places:
        return []
    found, names = [], data.task.names
    learned, chosen = (class_counts(data, part) for part in (data.train, data.val))
    if absent := [names[n] for n in (learned == 0).nonzero().flatten().tolist()]:
        text = f"no training row of {_few(absent)}"
        found.append(Finding("warning", "data", "classes", text, "drop the class, or split with `stratify`"))
    if unseen := [names[n] for n in ((chosen == 0) & (learned > 0)).nonzero().flatten().tolist()]:
        text = f"no validation row of {_few(unseen)}: nothing that is chosen by validation is chosen for it"
        found.append(Finding("warning", "data", "classes", text, "a larger `data.split.val`, or `stratify`"))
    known = learned[learned > 0]
    if rules(data.task).predicts != "classes" or data.task.weights or len(known) < 2:
        return found
    if (times := int(known.max()) / int(known.min())) >= UNEVEN:
        most, least = (names[int(n)] for n in (learned.argmax(), learned.masked_fill(learned == 0, 2**31).argmin()))
        text = f"{times:.0f} times as many training rows of {most} as of {least}: accuracy hides the rare classes"
        hint = "write `class_weights: balanced`"
        found.append(Finding("note", "data", "balance", text, hint, {"times": times}))
    return found


def _duplicates(data: Data) -> list[Finding]:
    """Rows with the same inputs on two sides of the split, and with two labels."""
    sides: dict[bytes, set[str]] = defaultdict(set)
    labels: dict[bytes, set[bytes]] = defaultdict(set)
    counted: dict[str, list[bytes]] = {}
    for side, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        counted[side] = digests(data.x, part)
        for digest in counted[side]:
            sides[digest].add(side)
        if side != "test":
            for digest, label in zip(counted[side], digests(data.y, part), strict=True):
                labels[digest].add(label)
    found = []
    for side, word in (("val", "validation"), ("test", "test")):
        earlier = {"train"} if side == "val" else {"train", "val"}
        twice = sum(bool(sides[digest] & earlier) for digest in counted[side])
        if not twice:
            continue
        share = twice / len(counted[side])
        where = "training" if side == "val" else "training or validation"
        text = f"{twice:,} of {len(counted[side]):,} {word} rows ({share:.1%}) stand among the {where} rows, too"
        level: Level = "warning" if share >= LEAKED and data.images else "note"  # rows of tables may well be equal
        hint = "remove them, or keep them on one side with `data.split.group`"
        found.append(Finding(level, "data", "duplicates", text, hint, {"rows": twice, "share": share}))
    if (torn := sum(len(known) > 1 for known in labels.values())) and rules(data.task).predicts == "classes":
        text = f"{torn:,} rows stand there with different labels"
        found.append(Finding("note", "data", "labels", text, figures={"rows": torn}))
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
