"""The architecture page draws the house as it is: the files, and what they import."""

import ast
import graphlib
import re
import subprocess
import sys

from conftest import ROOT

LIBRARY = ROOT / "src" / "spikegrad"
TREE, BETWEEN_FOLDERS, WITHIN_NETWORK, *_ = re.findall(
    r"^```text\n(.*?)^```$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE | re.DOTALL
)


def imports(path):
    """The files of the library that one of them imports, at its head or where they are used."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                yield next(p for p in candidates(base, name.name) if p.is_file())


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


def lines(drawn):
    """Of each name, the number of its line."""
    return {
        name: number
        for number, line in enumerate(drawn.splitlines())
        for name in re.split(r" {3,}|<-", line.strip())[0].split()
    }


def check(drawn, room):
    """``room`` says where a file is drawn, and None of files that are not in the picture."""
    line = lines(drawn)
    for path, imported in FILES.items():
        for other in imported:
            here, there = room(path), room(other)
            if None not in (here, there) and here != there:
                assert line[there] < line[here], f"{path.name} imports {other.name}"


def test_imports_go_upwards_in_the_picture():
    check(BETWEEN_FOLDERS, lambda path: path.relative_to(LIBRARY).parts[0].removesuffix(".py"))
    inside = LIBRARY / "network"
    check(WITHIN_NETWORK, lambda p: p.stem if p.parent == inside and p.stem != "__init__" else None)


def test_one_file_of_training_knows_networks():
    """The others train anything that has a loss."""
    training, network = LIBRARY / "training", LIBRARY / "network"
    knowing = {path.name for path, imported in FILES.items() if path.parent == training
               and any(other.is_relative_to(network) for other in imported)}  # fmt: skip
    assert knowing == {"_adapt_widths.py"}


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
