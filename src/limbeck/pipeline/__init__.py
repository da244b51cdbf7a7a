"""From a recipe to a run directory: a file for each stage, in the order of `run`."""
