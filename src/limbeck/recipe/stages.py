"""The stages of a run by name. Each becomes a folder of the run directory, so no two may have the same name."""

from __future__ import annotations

from collections.abc import Iterable

FOLDER = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
NO_FOLDER = "becomes part of a folder's name: letters, digits, '_', '.' and '-'"
ENSEMBLE, SEARCH, VIEWS, MEASURED = "ensemble", "budget", "views", "measured"
# What stands in the folder of every run, or may come to stand there.
RESERVED = (
    *(ENSEMBLE, VIEWS, MEASURED, "export", "tune", "recipe.yaml", "classes.json"),
    *("result.json", "report.html", "run.log"),
)


def seeded(name: str, seed: int) -> str:
    """The stage of the student `name` that begins with `seed`."""
    return f"{name}-seed{seed}"


def generation(seed: int, number: int, count: int) -> str:
    """The stage of a generation, counted from 1; the last one is the distilled student."""
    last = seeded("distilled", seed)
    return last if number == count else f"{last}-gen{number}"


def peer(seed: int, number: int) -> str:
    """The name of a peer, counted from 0; the first one is the distilled student."""
    first = seeded("distilled", seed)
    return f"{first}-peer{number}" if number else first


def recovered(name: str, seed: int, *, taught: bool) -> str:
    """The stage of a student compressed as the variant `name`, recovered with the teacher or without."""
    return seeded(name if taught else f"{name}-alone", seed)


def clash(names: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first name that stands for two things in a run: its place in the recipe and a sentence, or None.

    Capitals make no difference: on macOS and Windows the two folders would be one.

    Args:
        names: (place, name), as `Recipe.stage_names` gives them.
    """
    known: dict[str, str] = {}
    for place, name in names:
        other = known.setdefault(name.casefold(), place)
        if other != place:
            last, first = (place, other) if place else (other, place)
            what = f"`{first}`" if first else "something of Limbeck's own"
            return last, f"'{name}' would be a folder or a row of this run, and is the name of {what}: choose another"
    return None
