"""Write the tables of docs/losses.md from the losses' own signatures: `python docs/losses.py [--check]`.

With --check nothing is written; exits with 1 if the file says something else than the source.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.core.signatures import NUMBERS, REQUIRED, Signature, losses

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- made by docs/losses.py -->", "<!-- end of what docs/losses.py makes -->"

SECTIONS = {
    "On predictions of classes": ("logit", "decoupled", "batchwise"),
    "On features": ("feature", "multistage", "transfer"),
    "On relations of rows or channels": ("relation", "contrastive"),
    "On measured values": ("regression", "gaussian"),
    "On classes in order, and on rows of several labels": ("ordinal", "multilabel"),
}
TAPS = {
    "": "predictions",
    "stages": "each pair of stages",
    "joint": "all pairs of stages at once",
    "middle": "the middle pair of stages",
    "last": "the last pair of stages",
    "pooled": "what the classifiers see",
}


def called(name: str, signature: Signature) -> str:
    """The loss with its options and their defaults: `kd(temperature=4, divergence=forward)`."""

    def default(annotation: str, value: object) -> str:
        if value is REQUIRED:
            return ""
        if annotation == NUMBERS and isinstance(value, tuple):
            return f"=[{', '.join(f'{each:g}' for each in value)}]"
        return f"={value:g}" if isinstance(value, float) else f"={value}"

    options = (f"{option}{default(*given)}" for option, given in signature.options.items())
    return f"{name}({', '.join(options)})" if signature.options else name


def row(name: str, signature: Signature) -> str:
    """A loss's line of its table."""
    compares = TAPS[signature.taps] if signature.needs_teacher else "the student's prediction with the target"
    cells = [
        f"`{called(name, signature)}`<br>{signature.about}",
        compares,
        f"{signature.weight:g}",
        signature.blind_to,
        signature.extra_cost,
        signature.source,
    ]
    return f"| {' | '.join(cell.removesuffix('.').replace('|', chr(92) + '|') for cell in cells)} |"


def tables() -> str:
    """All losses, a table for each section, in the order of their modules."""
    known, parts = losses(), []
    placed = {family for families in SECTIONS.values() for family in families}
    if homeless := {signature.family for signature in known.values()} - placed:
        raise SystemExit(f"no section has the families {sorted(homeless)}")
    for title, families in SECTIONS.items():
        rows = [row(n, s) for family in families for n, s in known.items() if s.family == family]
        head = "| loss | compares | weight | blind to | extra cost | source |\n|---|---|---|---|---|---|"
        parts.append(f"### {title}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{PAGE.name} is not what the source says: python docs/losses.py" if made != text else 0)
    PAGE.write_text(made, encoding="utf-8")
