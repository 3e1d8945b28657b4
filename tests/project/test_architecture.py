"""The page on contributing draws the house as it is: the files, and what they import."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

LIBRARY = ROOT / "src" / "spikegrad"
TREE, BETWEEN_FOLDERS, WITHIN_NETWORK, *_ = re.findall(
    r"^```text\n(.*?)^```$", (ROOT / "docs" / "contributing.md").read_text(), re.MULTILINE | re.DOTALL
)


def imports(path):
    """The files that a file of the library imports to run. A function may import what builds on its file."""
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) or is_for_types(node)]
    later = {id(node) for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in later:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                yield next(p for p in candidates(base, name.name) if p.is_file())


def is_for_types(node):
    return (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and "not" not in ast.unparse(node.test)
    )


def candidates(base, name):
    return base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"), base / "__init__.py"


FILES = {path: set(imports(path)) for path in LIBRARY.rglob("*.py")}


def test_the_tree_is_that_of_the_files():
    drawn, folder = set(), LIBRARY
    for line in TREE.splitlines()[1:]:
        indent, first = len(line) - len(line.lstrip()), line.split()[0]
        if first.endswith("/"):
            folder = LIBRARY / first
            continue
        drawn |= {(folder if indent > 2 else LIBRARY) / name for name in re.findall(r"\w+\.py", line)}
    small = {path for path in FILES if path.name in ("__init__.py", "__main__.py") and path.parent != LIBRARY}
    assert drawn == set(FILES) - small


def between_folders(path):
    """The file or folder of the library that a file is in."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def within_network(path):
    """The name of a file of the folder ``network``; None for other files and for an ``__init__``."""
    inside = path.is_relative_to(LIBRARY / "network") and path.name != "__init__.py"
    return path.relative_to(LIBRARY / "network").with_suffix("").as_posix() if inside else None


def imported_by(names, room):
    """What the files of some rooms import from other rooms; ``room`` says in which one a file is."""
    found = {(room(path), room(other)) for path in FILES if room(path) in names for other in FILES[path]}
    return {there for here, there in found if there not in (here, None)}


@pytest.mark.parametrize(
    ("drawn", "room"),
    [(BETWEEN_FOLDERS, between_folders), (WITHIN_NETWORK, within_network)],
    ids=["folders", "network"],
)
def test_each_line_has_what_its_files_import_from_lines_above(drawn, room):
    above = set()
    for line in re.sub(r"\n +", " ", drawn).splitlines():  # a long line goes on in the next one
        left, _, right = line.partition("<-")
        names = set(left.split())
        imported = imported_by(names, room)
        assert set(right.replace(",", " ").split()) == imported, f"{left}<- {', '.join(sorted(imported))}"
        assert imported <= above, f"{left}imports from below: {imported - above}"
        assert not names & above, f"{left}is drawn twice"
        above |= names
    assert above == {room(path) for path in FILES} - {None}


def test_three_files_of_training_know_networks():
    """The others train anything that has a loss."""
    training, network = LIBRARY / "training", LIBRARY / "network"
    knowing = {path.name for path, imported in FILES.items() if path.parent == training
               and any(other.is_relative_to(network) for other in imported)}  # fmt: skip
    assert knowing == {"_adapt_widths.py", "_online.py", "_shrink_delays.py"}


def test_no_circle():
    assert list(graphlib.TopologicalSorter(FILES).static_order())


def test_a_doctest_before_a_test_makes_no_second_copy_of_its_module():
    """Pickle finds a class by its name, and refuses one of another copy."""
    files = ["src/spikegrad/data/_sequences.py", "tests/data/test_sequences.py"]
    args = ["-n", "0", "-q", "-p", "no:cacheprovider", "-k", "collate or travel", *files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert re.search(r"^2 passed", done.stdout, re.MULTILINE), done.stdout
