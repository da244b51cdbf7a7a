"""`limbeck check`: the faults of a recipe, found without running it."""

from __future__ import annotations

from limbeck.cli.app import Overrides, RecipeName


def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe without running it: every fault with its place, and a guess at what was meant.

    Files that a bundled recipe needs may be on another machine: where they are missing, that is no fault.
    """
    from limbeck import recipe as recipes
    from limbeck.recipe import needs

    found = recipes.load(recipe, overrides or ())
    missing = needs.check(found, recipe, elsewhere=recipe in recipes.bundled())
    teachers = ", ".join(t.model for t in found.teachers) or "no teacher"
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    job = f"{found.task} on {found.data.source}; {teachers} -> {found.student.model}; {seeds}"
    print(f"{found.name}: fine ({job})")
    for sentence in missing:
        print(f"note: {sentence}")
