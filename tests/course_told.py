"""What run.log tells of the stages of a run."""

import re


def stages_told(folder):
    """The stages that the log of a run counts, [(number, of how many)], a line each."""
    lines = (folder / "run.log").read_text().splitlines()
    found = [re.match(r"\S+ \S+  stage (\d+) of (\d+), ", line) for line in lines]
    return [(int(match[1]), int(match[2])) for match in found if match]


def check_every_stage_is_told(folder, silent=()):
    """Every stage of a run that was not interrupted is counted, in its order, but those in which nothing is trained."""
    numbers, totals = zip(*stages_told(folder), strict=True)
    assert len(set(totals)) == 1
    assert list(numbers) == sorted(numbers)
    assert set(range(1, totals[0] + 1)) - set(numbers) == set(silent)
