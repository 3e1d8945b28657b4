"""Put one random mistake at a time into a copy of the library, and see whether its tests notice.

A mistake changes one node of the syntax tree: a comparison, an operator, a number, a truth value, a
negation, or a keyword argument that is left out. The draws go round the folders of the library. A
file of a folder runs its doctests and the tests of the folder, in the usual selection.

    python scripts/mutate.py --draws 30 --seed 1
    python scripts/mutate.py --only network/engine --jobs 2

Mistakes that passed are printed with their lines. Some of them nobody can notice, such as another
tolerance or a loop that is slower. Judge these by hand. Tests that reach the limit of CPU time count
neither as noticed nor as passed. All runs share compiled programs.
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path("src/spikegrad")
PAIRS = (
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.And, ast.Or),
    (ast.BitAnd, ast.BitOr),
)
OPPOSITE = {a: b for pair in PAIRS for a, b in itertools.permutations(pair)}
RESULTS = "noticed", "PASSED", "limit"
IGNORED = shutil.ignore_patterns(".git", ".venv*", "_build", "generated", "runs", "__pycache__")


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
        case ast.BinOp(op=op, left=left) if type(op) in OPPOSITE and not is_text(left):
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


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def drawn(only: str, draws: int, rng: random.Random) -> Iterator[Mistake]:
    """Draw mistakes evenly over folders, and over the mistakes of a folder."""
    folders: dict[Path, list[Mistake]] = {}
    for path in sorted((ROOT / LIBRARY).rglob("*.py")):
        if only in str(path) and path.name != "__init__.py":
            here = path.relative_to(ROOT)
            folders.setdefault(here.parent, []).extend(mistakes(here, path.read_text()))
    for folder in itertools.islice(itertools.cycle(folders.values()), draws):
        yield rng.choice(folder)


def tests_of(path: Path) -> list[str]:
    """Return what checks a file: its doctests, and the tests of its folder."""
    folder = path.relative_to(LIBRARY).parts[0]
    tests = Path("tests", "core" if folder.endswith(".py") else folder)
    return [str(path), *([str(tests)] if (ROOT / tests).exists() else [])]


def result_of(mistake: Mistake, limit: int, programs: str) -> str:
    """Run the tests of a mistake. Return one of RESULTS."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        shutil.copytree(ROOT, clone, ignore=IGNORED, symlinks=True)
        (clone / mistake.path).write_text(mistake.source)
        tests = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--tb=no"]
        # The limit is of CPU time, because other programs of a machine make the tests slower.
        run = subprocess.Popen(
            [*tests, *tests_of(mistake.path)],
            cwd=clone,
            env={"JAX_COMPILATION_CACHE_DIR": programs, **os.environ, "PYTHONPATH": str(clone / "src")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        resource.prlimit(run.pid, resource.RLIMIT_CPU, (limit, limit))
        try:
            code = run.wait(timeout=5 * limit)
        except subprocess.TimeoutExpired:
            run.kill()
            code = run.wait()
    return "PASSED" if code == 0 else "limit" if code == -signal.SIGKILL else "noticed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="tests that run at the same time")
    parser.add_argument("--limit", type=int, default=600, help="seconds of CPU time for a mistake")
    parser.add_argument("--only", default="", help="a part of the path of a file")
    options = parser.parse_args()
    chosen = list(drawn(options.only, options.draws, random.Random(options.seed)))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as programs, ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda mistake: result_of(mistake, options.limit, programs), chosen)
        for mistake, result in zip(chosen, results, strict=True):
            counts[result] += 1
            print(f"{result:7} {mistake.path}:{mistake.line}", flush=True)
            if result != "noticed":
                print(f"    - {mistake.before}\n    + {mistake.after}", flush=True)
    print(", ".join(f"{counts[result]} {result}" for result in RESULTS))


if __name__ == "__main__":
    main()
