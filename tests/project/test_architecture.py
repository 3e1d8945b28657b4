"""The page on contributing draws the house as it is: the files, and what they import."""

import ast
import functools
import graphlib
import re

from conftest import ROOT

LIBRARY = ROOT / "src" / "spikegrad"
TREE, BETWEEN_FOLDERS, *_ = re.findall(
    r"^```text\n(.*?)^```$",
    (ROOT / "docs" / "contributing.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def imports(path):
    """The files that a file of the library imports to run. A function may import what builds on its
    file.
    """
    return imported_by(path, run_at_import(ast.parse(path.read_text())))


def imported_anywhere(path):
    return imported_by(path, ast.walk(ast.parse(path.read_text())))


def imported_by(path, nodes):
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                yield next(p for p in candidates(base, name.name) if p.is_file())


def run_at_import(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef) and not is_for_types(child):
            yield child
            yield from run_at_import(child)


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def candidates(base, name):
    return (
        base / f"{name}.py",
        base / name / "__init__.py",
        base.with_suffix(".py"),
        base / "__init__.py",
    )


@functools.cache  # and not a constant, because each process of a run would read all files
def files_of_library():
    """The files, each with the files that it imports."""
    return {path: set(imports(path)) for path in LIBRARY.rglob("*.py")}


def test_the_tree_is_that_of_the_files():
    drawn, folder = set(), LIBRARY
    for line in TREE.splitlines()[1:]:
        indent, first = len(line) - len(line.lstrip()), line.split()[0]
        if first.endswith("/"):
            folder = LIBRARY / first
            continue
        drawn |= {
            (folder if indent > 2 else LIBRARY) / name for name in re.findall(r"\w+\.py", line)
        }
    small = {
        path
        for path in files_of_library()
        if path.name in ("__init__.py", "__main__.py") and path.parent != LIBRARY
    }
    assert drawn == set(files_of_library()) - small


def between_folders(path):
    """The file or folder of the library that a file is in."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def test_each_line_has_what_its_files_import_from_lines_above():
    above = set()
    for line in re.sub(
        r"\n +", " ", BETWEEN_FOLDERS
    ).splitlines():  # a long line goes on in the next one
        left, _, right = line.partition("<-")
        names = set(left.split())
        pairs = {
            (between_folders(path), between_folders(other))
            for path in files_of_library()
            for other in files_of_library()[path]
        }
        imported = {there for here, there in pairs if here in names and there != here}
        assert set(right.replace(",", " ").split()) == imported, (
            f"{left}<- {', '.join(sorted(imported))}"
        )
        assert imported <= above, f"{left}imports from below: {imported - above}"
        assert not names & above, f"{left}is drawn twice"
        above |= names
    assert above == {between_folders(path) for path in files_of_library()}


FLOORS = ("graph", "step", "engine", "start")
"""The folders of networks, from the lowest. The files beside them are above."""


def test_networks_are_built_in_floors():
    """A file imports from its own folder and from lower ones, also for types and within
    functions.
    """
    network = LIBRARY / "network"

    def floor(path):
        folder = path.relative_to(network).parts[0]
        return FLOORS.index(folder) if folder in FLOORS else len(FLOORS)

    files = [path for path in files_of_library() if path.is_relative_to(network)]
    upward = [
        f"{path.relative_to(network)} imports {other.relative_to(network)}"
        for path in files
        for other in imported_anywhere(path)
        if other.is_relative_to(network) and floor(other) > floor(path)
    ]
    assert not upward
    folders = {path.relative_to(network).parts[0] for path in files if path.parent != network}
    assert folders == {*FLOORS}


def test_five_files_of_training_know_networks():
    """The others train anything that has a loss."""
    training, network = LIBRARY / "training", LIBRARY / "network"
    knowing = {path.name for path, imported in files_of_library().items() if path.parent == training
               and any(other.is_relative_to(network) for other in imported)}  # fmt: skip
    assert knowing == {
        "_adapt_widths.py",
        "_eligibility.py",
        "_online.py",
        "_shrink_delays.py",
        "_watch.py",
    }


def test_no_circle():
    assert list(graphlib.TopologicalSorter(files_of_library()).static_order())
