"""How breakages are made and tried; which ones there are stands in mutants.py.

Each is made in a copy of the package, against which its tests then run. A breakage that leaves them green has survived:
the tests would not have seen that bug.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"

# Imported once, in the process that all others are forked from: nothing of limbeck, which is broken in each of them.
PRELOADED = (
    "torch",
    "torchvision",
    "accelerate",
    "torchmetrics",
    "timm",
    "pandas",
    "sklearn.model_selection",
    "pytest",
)


class Mutant(NamedTuple):
    """A breakage: `old`, which stands once in the source of `place`, becomes `new`; one of `tests` must turn red.

    Attributes:
        name: what is broken, in words.
        place: `package.module:function`, `package.module:Class.method`, or a name that the module or class assigns;
            a module alone where the line stands in none of them.
        tests: files in tests/, or their functions as pytest names them, the one that should notice first.
    """

    name: str
    place: str
    old: str
    new: str
    tests: tuple[str, ...]


# --- making one ----------------------------------------------------------------------------------


def definitions(node: ast.AST, above: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Functions, classes and assignments under their dotted names, whatever `if` or `with` stands around them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield above + child.name, child
            yield from definitions(child, f"{above}{child.name}.")
            continue
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((above + target.id, child) for target in targets if isinstance(target, ast.Name))
        yield from definitions(child, above)


def broken(source: str, name: str, old: str, new: str) -> str:
    """The source of a module with `old` replaced in what it defines as `name`; in all of it where that is empty.

    Raises:
        ValueError: what is wrong with the address or the text.
    """
    start, end = 0, len(source)
    if name:
        found = [node for other, node in definitions(ast.parse(source)) if other == name]
        if len(found) != 1:
            raise ValueError(f"{name} is defined {len(found)} times")
        lines, node = source.splitlines(keepends=True), found[0]
        first = min(each.lineno for each in (node, *getattr(node, "decorator_list", ())))
        start, end = (len("".join(lines[:count])) for count in (first - 1, node.end_lineno))
    if old == new or (count := source.count(old, start, end)) != 1:
        raise ValueError(f"{old!r} stands there {count} times" if old != new else f"{old!r} is replaced by itself")
    result = source[:start] + source[start:end].replace(old, new) + source[end:]
    try:
        ast.parse(result)
    except SyntaxError as error:
        raise ValueError(f"{new!r} leaves no Python: {error}") from error
    return result


def file_of(module: str, sources: Path) -> Path:
    """The file of a dotted module, relative to the folder of its package."""
    path = Path(*module.split("."))
    return path / "__init__.py" if (sources / path).is_dir() else path.with_suffix(".py")


def break_in(sources: Path, mutant: Mutant) -> None:
    """Make the breakage in a folder that holds the package."""
    module, _, name = mutant.place.partition(":")
    path = sources / file_of(module, sources)
    content = broken(path.read_text(encoding="utf-8"), name, mutant.old, mutant.new)
    path.unlink()  # it may be linked to elsewhere
    path.write_text(content, encoding="utf-8")


def faults(mutants: Sequence[Mutant], sources: Path, tests: Path) -> list[str]:
    """What is wrong with the addresses of some mutants and of their tests, a line for each."""
    found = [f"{name}: named twice" for name in {m.name for m in mutants} if [m.name for m in mutants].count(name) > 1]
    for mutant in mutants:
        module, _, name = mutant.place.partition(":")
        try:
            broken((sources / file_of(module, sources)).read_text(encoding="utf-8"), name, mutant.old, mutant.new)
        except (OSError, ValueError) as error:
            found.append(f"{mutant.name}: {mutant.place}: {error}")
    for test in sorted({test for mutant in mutants for test in mutant.tests}):
        file, _, function = test.partition("::")
        known = dict(definitions(ast.parse((tests / file).read_text()))) if (tests / file).is_file() else {}
        if not known or (function and function.partition("[")[0].replace("::", ".") not in known):
            found.append(f"tests/{test}: there is no such test")
    return found


# --- trying them ---------------------------------------------------------------------------------


def look(folder: str, options: Sequence[str], tests: Sequence[str]) -> None:
    """Run tests against the package in `folder`, in a process of its own that leaves with pytest's code."""
    import pytest

    with (Path(folder) / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(ROOT)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    used = importlib.import_module("limbeck").__file__
    assert used is not None
    assert used.startswith(folder), f"the tests would run against {used}, not against the copy"
    common = ["-x", "-q", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    # Of the plugins that packages bring along, only what the tests ask for: looking at all takes as long as many tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    common += ["-p", "pytest_timeout", "-p", "xdist.plugin"]
    sys.exit(int(pytest.main([*common, *options, *(str(TESTS / test) for test in tests)])))


def attempt(package: Path, mutant: Mutant | None, options: Sequence[str], tests: Sequence[str]) -> tuple[int, str]:
    """Pytest's exit code against a copy of `package` with the breakage or without any, and what it said."""
    with tempfile.TemporaryDirectory(prefix="limbeck-mutant-") as folder:
        shutil.copytree(package, Path(folder) / package.name, copy_function=os.link)
        if mutant:
            break_in(Path(folder), mutant)
        (Path(folder) / "log").touch()
        process = multiprocessing.get_context("forkserver").Process(target=look, args=(folder, options, tests))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, (Path(folder) / "log").read_text(encoding="utf-8", errors="replace")


def try_all(chosen: Sequence[Mutant], jobs: int) -> int:
    """Try some mutants, `jobs` at a time, and print what became of each; how many survived."""
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED])
    with tempfile.TemporaryDirectory(prefix="limbeck-whole-") as folder, ThreadPoolExecutor(jobs) as pool:
        package = Path(shutil.copytree(ROOT / "src" / "limbeck", Path(folder) / "limbeck"))
        compileall.compile_dir(package, quiet=1)
        tests = [*dict.fromkeys(test for mutant in chosen for test in mutant.tests)]
        code, said = attempt(package, None, ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else [], tests)
        if code != 0:
            sys.exit(f"{said[-3000:]}\nnot green without any breakage")
        survived = 0
        tried = pool.map(lambda mutant: attempt(package, mutant, [], mutant.tests), chosen)
        for mutant, (code, said) in zip(chosen, tried, strict=True):
            # Only a test that fails has noticed: tests that could not even be collected (another code) have not.
            failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", said, re.MULTILINE)
            print(*(("noticed ", mutant.name, "|", failed[1]) if code == 1 and failed else ("SURVIVED", mutant.name)))
            if code not in (0, 1):
                print(said[-3000:])
            sys.stdout.flush()
            survived += not (code == 1 and failed)
    return survived


def changed_since(commit: str) -> set[str]:
    """Files that differ from those of a commit, relative to the repository."""
    command = ["git", "diff", "--name-only", commit]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def main(mutants: Sequence[Mutant], arguments: Sequence[str]) -> int:
    """Check the addresses of all mutants, then try the chosen ones; 0 if the tests notice each."""
    parser = argparse.ArgumentParser(description="Break the sources on purpose. JOBS=n tries n breakages at a time.")
    parser.add_argument("words", nargs="*", help="only breakages whose names hold all of these")
    parser.add_argument("--since", metavar="COMMIT", help="only those whose module or tests have changed since then")
    parser.add_argument("--addresses", action="store_true", help="check the addresses, and try nothing")
    given = parser.parse_args(arguments)
    found = faults(mutants, ROOT / "src", TESTS)
    if found or given.addresses:
        print(*found, f"{len(mutants)} breakages, {len(found)} faults in their addresses", sep="\n")
        return 1 if found else 0
    chosen = [mutant for mutant in mutants if all(word in mutant.name for word in given.words)]
    if given.since:
        changed = changed_since(given.since)
        chosen = [mutant for mutant in chosen if changed & files_of(mutant)]
    jobs = os.environ.get("JOBS", "1")
    survived = try_all(chosen, os.cpu_count() or 1 if jobs == "auto" else int(jobs)) if chosen else 0
    print(f"{len(chosen) - survived} of {len(chosen)} breakages noticed")
    return 0 if survived == 0 and (chosen or given.since) else 1


def files_of(mutant: Mutant) -> set[str]:
    """Where a breakage is made and tested, relative to the repository."""
    module = file_of(mutant.place.partition(":")[0], ROOT / "src")
    return {f"src/{module.as_posix()}", *(f"tests/{test.partition('::')[0]}" for test in mutant.tests)}
