"""Recipes: what they may say, how they are read, and the checks that need no data and no torch."""

from limbeck.recipe.compression import Budget, Deployable, Factorise, Files, Prune, Recover, Sparsify, Step
from limbeck.recipe.frameworks import student_misfit
from limbeck.recipe.model_source import ESTIMATORS
from limbeck.recipe.networks import Assistant, Combine, Network, Plan, Schedule, Student, Teacher
from limbeck.recipe.reading import bundled, dump, load, parse, where
from limbeck.recipe.schema import Cache, Recipe, Run
from limbeck.recipe.sources import FILES, Augment, Blur, Data, Jitter, Split
from limbeck.recipe.tasks import WEIGHTED, source_misfit
from limbeck.recipe.terms import AUTO, Ramp, Term

__all__ = [
    "AUTO",
    "ESTIMATORS",
    "FILES",
    "WEIGHTED",
    "Assistant",
    "Augment",
    "Blur",
    "Budget",
    "Cache",
    "Combine",
    "Data",
    "Deployable",
    "Factorise",
    "Files",
    "Jitter",
    "Network",
    "Plan",
    "Prune",
    "Ramp",
    "Recipe",
    "Recover",
    "Run",
    "Schedule",
    "Sparsify",
    "Split",
    "Step",
    "Student",
    "Teacher",
    "Term",
    "bundled",
    "dump",
    "load",
    "parse",
    "source_misfit",
    "student_misfit",
    "where",
]
