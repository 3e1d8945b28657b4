"""Put one random mistake at a time into a copy of the library, and see whether its tests notice.

A mistake changes one node of the syntax tree: a comparison, an operator, a number, a truth value, a
negation, or a keyword argument that is left out. The draws go round the folders of the library.
First record which lines each test runs, and its seconds, in one run of all tests:

    export COVERAGE_FILE=.coverage.tests COVERAGE_CORE=ctrace
    pytest -n 2 --cov --cov-context=test --cov-report= --durations=0 -vv > .coverage-times
    python scripts/mutate.py --draws 30 --seed 1
    python scripts/mutate.py --only network/engine --json results.json

A mistake runs the tests of its line, then the tests beside them, near and short ones first,
until their seconds add up to the limit. Mistakes that passed are printed. Some of them nobody can
notice, such as another tolerance or a loop that is slower. Judge these by hand. Tests that use
three times the limit count neither as noticed nor as passed. All runs share compiled programs.
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path("src/spikegrad")
PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, Add Sub, Mult Div, And Or, BitAnd BitOr"
OPPOSITE = {
    getattr(ast, a): getattr(ast, b) for pair in PAIRS.split(", ") for a, b in itertools.permutations(pair.split())
}
RESULTS = "noticed", "PASSED", "limit"
IGNORED = shutil.ignore_patterns(".git", ".venv*", ".coverage*", "_build", "generated", "runs")
RECORD, TIMES = ROOT / ".coverage.tests", ROOT / ".coverage-times"


class Mistake(NamedTuple):
    path: Path
    line: int
    before: str
    after: str
    source: str
    """The complete source with the mistake."""


def mistakes(path: Path, source: str) -> Iterator[Mistake]:
    """Yield all mistakes of a file that change a single line."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    # An annotation has no effect, and a message no right wording. The parts of f-strings have wrong
    # columns before Python 3.12.
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        for part in (
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
            node if isinstance(node, ast.Raise | ast.JoinedStr) else None,
        )
        if part is not None
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in ignored or not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        if (changed := mutated(node)) is None:
            continue
        # Columns are counted in bytes.
        raw = lines[node.lineno - 1].encode()
        line = (raw[: node.col_offset] + changed.encode() + raw[node.end_col_offset :]).decode()
        text = "".join([*lines[: node.lineno - 1], line, *lines[node.lineno :]])
        yield Mistake(path, node.lineno, raw.decode().strip(), line.strip(), text)


def mutated(node: ast.expr) -> str | None:
    """Return the text of an expression with a mistake, or None if no operator applies."""
    node = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[first, *_]) if type(first) in OPPOSITE:
            node.ops[0] = OPPOSITE[type(first)]()
        case ast.BinOp(left=ast.JoinedStr() | ast.Constant(value=str())):
            return None
        case ast.BinOp(op=op) if type(op) in OPPOSITE:
            node.op = OPPOSITE[type(op)]()
        case ast.BoolOp(op=op) if type(op) in OPPOSITE:
            node.op = OPPOSITE[type(op)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            node = operand
        case ast.Constant(value=bool(value)):
            node = ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            node = ast.Constant(value * 2 or 1)
        case ast.Call(keywords=[ast.keyword(arg=str()), *_]):
            node.keywords.pop(0)
            return ast.unparse(node)
        case _:
            return None
    return f"({ast.unparse(node)})"


def drawn(only: str, draws: int, rng: random.Random) -> Iterator[Mistake]:
    """Draw mistakes evenly over folders, and over the mistakes of a folder."""
    folders: dict[Path, list[Mistake]] = {}
    for path in sorted((ROOT / LIBRARY).rglob("*.py")):
        if only in str(path) and path.name != "__init__.py":
            here = path.relative_to(ROOT)
            folders.setdefault(here.parent, []).extend(mistakes(here, path.read_text()))
    for folder in itertools.islice(itertools.cycle(folders.values()), draws):
        yield rng.choice(folder)


def tests_of(mistake: Mistake, limit: int) -> list[str]:
    """Return the tests for a mistake in their order. The cases of a function are one test."""
    seconds: Counter[str] = Counter()
    times = TIMES.read_text()
    for number, test in re.findall(r"(?m)^([\d.]+)s \w+ +([^[\n]+)", times):
        seconds[test] += float(number)
        seconds[test.partition("::")[0]] += float(number)
    record = CoverageData(str(RECORD))
    record.read()
    contexts = record.contexts_by_lineno(str(ROOT / mistake.path))
    of_line = {re.split(r"[|\[]", name)[0] for name in contexts.get(mistake.line, ())}
    beside = {test.partition("::")[0] for test in of_line}
    # A test can run what an earlier test of its file has traced, so all tests of a file count.
    files = {name.partition("::")[0] for names in contexts.values() for name in names}
    folder = mistake.path.relative_to(LIBRARY).parts[0]
    near = str(mistake.path), f"tests/{'core' if folder.endswith('.py') else folder}"

    def rank(test: str) -> tuple[object, ...]:
        file = test.partition("::")[0]
        distance = test not in of_line, file not in beside, not file.startswith(near)
        return distance, seconds[file], file, seconds[test]

    tests = set(re.findall(r"(?:src|tests)/\S+\.py::[^\s[]+", times))
    tests = sorted((test for test in tests if test.partition("::")[0] in files), key=rank)
    starts = itertools.accumulate((seconds[test] for test in tests), initial=0)
    chosen = [test for test, start in zip(tests, starts, strict=False) if start < limit]
    return chosen or list(near)  # only other processes run these lines


def result_of(mistake: Mistake, limit: int, programs: str) -> str:
    """Run the tests of a mistake. Return one of RESULTS."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        shutil.copytree(ROOT, clone, ignore=IGNORED, symlinks=True)
        (clone / mistake.path).write_text(mistake.source)
        # The limit is of CPU time, because other programs of a machine make the tests slower.
        limits = "timeout", f"{15 * limit}", "prlimit", f"--cpu={3 * limit}"
        pytest = sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--tb=no"
        command = *limits, *pytest, *tests_of(mistake, limit)
        env = {"JAX_COMPILATION_CACHE_DIR": programs, **os.environ, "PYTHONPATH": str(clone / "src")}
        code = subprocess.run(command, cwd=clone, env=env, capture_output=True, check=False).returncode
    return {0: "PASSED", 124: "limit", -9: "limit"}.get(code, "noticed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=100, help="seconds of tests for a mistake")
    parser.add_argument("--only", default="", help="a part of the path of a file")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    folders: dict[str, Counter[str]] = {}
    passed = []
    with tempfile.TemporaryDirectory() as programs:
        for mistake in drawn(options.only, options.draws, random.Random(options.seed)):
            result = result_of(mistake, options.limit, programs)
            folders.setdefault(str(mistake.path.parent), Counter())[result] += 1
            print(f"{result:7} {mistake.path}:{mistake.line}", flush=True)
            if result != "noticed":
                print(f"    - {mistake.before}\n    + {mistake.after}", flush=True)
                passed.append([str(mistake.path), mistake.line, mistake.before, mistake.after])
    total = sum(folders.values(), Counter())
    print(", ".join(f"{total[result]} {result}" for result in RESULTS))
    if options.json:
        options.json.write_text(json.dumps({"folders": folders, "passed": passed}, indent=1))


if __name__ == "__main__":
    main()
