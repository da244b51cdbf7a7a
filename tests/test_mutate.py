"""Breakages find their place in a source, whatever stands around it, and say what is wrong with an address."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutate import Mutant, break_in, broken, faults

SOURCE = """
LIMIT = 1 + 1

def one(x):
    return x + 1

class Two:
    limit: int = 1 + 1

    @staticmethod
    @once
    def one(x):
        def inner():
            return x + 1

        return inner() + 1

if LIMIT:
    def late(x):
        return x + 1
"""


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("one", "x + 1", "x + 2", 5),
        ("Two.one.inner", "x + 1", "x + 2", 14),
        ("Two.one", "inner() + 1", "inner() + 2", 16),
        ("Two.one", "@once", "@twice", 11),
        ("late", "x + 1", "x + 2", 20),
        ("LIMIT", "1 + 1", "1 + 2", 2),
        ("Two.limit", "1 + 1", "1 + 2", 8),
        ("", "class Two", "class Six", 7),
    ],
)
def test_only_what_has_the_name_is_changed(name: str, old: str, new: str, line: int) -> None:
    before, after = SOURCE.splitlines(), broken(SOURCE, name, old, new).splitlines()
    assert [number for number, pair in enumerate(zip(before, after, strict=True), 1) if len(set(pair)) > 1] == [line]


def test_every_fault_in_an_address_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "pack" / "deep").mkdir(parents=True)
    (tmp_path / "pack" / "deep" / "__init__.py").write_text(SOURCE)
    (tmp_path / "pack" / "flat.py").write_text("def f():\n    return 1\n\n\ndef f():\n    return 2\n")
    (tmp_path / "test_pack.py").write_text("class TestIt:\n    def test_one(self):\n        pass\n")
    right = ("test_pack.py", "test_pack.py::TestIt::test_one", "test_pack.py::TestIt::test_one[1-2]")
    good = Mutant("good", "pack.deep:one", "x + 1", "x + 2", right)
    wrong = [
        (Mutant("moved", "pack.gone:one", "x", "y", right), "No such file"),
        (Mutant("renamed", "pack.deep:three", "x", "y", right), "three is defined 0 times"),
        (Mutant("several", "pack.flat:f", "1", "2", right), "f is defined 2 times"),
        (Mutant("rewritten", "pack.deep:one", "x - 1", "x", right), "'x - 1' stands there 0 times"),
        (Mutant("unclear", "pack.deep", "x + 1", "x", right), "'x + 1' stands there 3 times"),
        (Mutant("nothing", "pack.deep:one", "x + 1", "x + 1", right), "replaced by itself"),
        (Mutant("gibberish", "pack.deep:one", "x + 1", "x +", right), "leaves no Python"),
    ]
    untested = Mutant("untested", "pack.deep:late", "x + 1", "x", ("test_pack.py::test_two", "test_other.py"))
    found = faults([good, *(mutant for mutant, _ in wrong), untested, good], tmp_path, tmp_path)
    assert len(found) == len(wrong) + 3
    assert found[0] == "good: named twice"
    for line, (mutant, reason) in zip(found[1:], wrong, strict=False):
        assert line.startswith(f"{mutant.name}: {mutant.place}: ")
        assert reason in line
    assert {line.partition(": ")[0] for line in found[-2:]} == {"tests/test_pack.py::test_two", "tests/test_other.py"}


def test_a_breakage_leaves_the_file_it_was_linked_to(tmp_path: Path) -> None:
    whole, copy = tmp_path / "whole" / "pack.py", tmp_path / "copy" / "pack.py"
    whole.parent.mkdir()
    copy.parent.mkdir()
    whole.write_text(SOURCE)
    copy.hardlink_to(whole)
    break_in(copy.parent, Mutant("it", "pack:one", "x + 1", "x + 2", ("test_pack.py",)))
    assert whole.read_text() == SOURCE
    assert copy.read_text() == SOURCE.replace("x + 1", "x + 2", 1)
