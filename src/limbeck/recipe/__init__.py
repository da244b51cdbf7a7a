"""Recipes: what they may say, how they are read, and the checks that need no data and no torch."""

from limbeck.recipe.reading import bundled, dump, load, parse
from limbeck.recipe.schema import (
    Augment,
    Blur,
    Data,
    Jitter,
    Network,
    Plan,
    Recipe,
    Run,
    Schedule,
    Split,
    Student,
    Teacher,
    Term,
)

__all__ = [
    "Augment",
    "Blur",
    "Data",
    "Jitter",
    "Network",
    "Plan",
    "Recipe",
    "Run",
    "Schedule",
    "Split",
    "Student",
    "Teacher",
    "Term",
    "bundled",
    "dump",
    "load",
    "parse",
]
