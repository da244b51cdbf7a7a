"""What a recipe needs of this machine: data and files, names in libraries, extras, weights to fetch.

Looked for without torch and before anything is loaded, so that what is missing is told at once.
"""

from limbeck.recipe.needs.lacking import Lack, check, lacking, load

__all__ = ["Lack", "check", "lacking", "load"]
