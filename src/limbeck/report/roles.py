"""What the models of a run are called, and which of them make one row over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.core.result import Result
from limbeck.core.types import Artifact

SMALLER = ("compressed", "compressed-alone")
SEEDED = ("student", "direct", "generation", "distilled", "peer", "compared", *SMALLER)
ORDER = ("teacher", "assistant", *SEEDED, "exported")


@dataclass(frozen=True, slots=True)
class Lesson:
    """How the taught student of a run is spoken of.

    Attributes:
        subject: what the verdict is about.
        title: the student's name in a table.
        short: the same in a legend or on a narrow screen.
        tile: above its number.
    """

    subject: str
    title: str
    short: str
    tile: str


@dataclass(frozen=True, slots=True)
class Row:
    """Models that one row stands for: one, or the same one at every seed."""

    role: str
    title: str
    short: str
    models: Sequence[Artifact]


def lesson(result: Result) -> Lesson:
    """Whom the student of this run learned from, in words."""
    recipe = result.recipe
    student = recipe.get("student") or {}
    generations = student.get("generations") or 0
    subject = "the teacher"
    if not recipe.get("teachers"):
        subject = "learning together" if student.get("peers") else "learning from itself"
    if student.get("peers"):
        return Lesson(subject, "Student with its peers", "student + peers", "With its peers")
    if generations > 1 or (generations and not recipe.get("teachers")):
        return Lesson(subject, f"Generation {generations}", f"generation {generations}", f"Generation {generations}")
    if recipe.get("assistants"):
        return Lesson(subject, "Student of the chain", "end of the chain", "End of the chain")
    return Lesson(subject, "Student with the teacher", "student + teacher", "With the teacher")


def named(name: str, role: str, result: Result) -> tuple[str, str]:
    """What a model's row is called: in full, and in short."""
    said = lesson(result)
    row = next((model for model in result.models if model.name == name), None)
    number, variant = (row.number, row.variant or name) if row else (None, name)
    alone = bool(result.comparison)
    return {
        "teacher": ("Teachers together" if name == "ensemble" else "Teacher", name),
        "student": ("Student alone" if alone else "Student", "student alone" if alone else "student"),
        "direct": ("Student of the teacher itself", "student + teacher"),
        "generation": (f"Generation {number}", f"generation {number}") if number else ("Generation", name),
        "distilled": (said.title, said.short),
        "peer": (f"Peer {number}", f"peer {number}") if number else ("Peer", name),
        "compared": (variant,) * 2,
        "compressed": (variant,) * 2,
        "compressed-alone": (
            f"{variant} without the teacher",
            f"{variant} alone",
        ),
    }.get(role, (role.capitalize(), name))


def rows(result: Result) -> list[Row]:
    """The models of a run in the order of a table: teachers, assistants, students over their seeds, files."""
    found = []
    for role in ORDER:
        same: dict[tuple[str, str], list[Artifact]] = {}
        for model in result.models:
            if model.role == role:
                titles = named(model.name, role, result)
                same.setdefault(titles if role in SEEDED else (titles[0], model.name), []).append(model)
        found += [Row(role, title, short, models) for (title, short), models in same.items()]
    return found
