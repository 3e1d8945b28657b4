"""What the README and the guide say, run: their Python, and whether the commands they print exist.

The cells of docs/tutorials run when the documentation is built, and an error in a cell ends the
build.
"""

import ast
import doctest
import itertools
import re
import shlex

import pytest
from conftest import ROOT, few

pytestmark = pytest.mark.ci

PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "generated" not in p.parts),
]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [found for found in BLOCK.finditer(page.read_text()) if found[1] == language]


def name(page):
    return str(page.relative_to(ROOT))


RUN = [page for page in PAGES if blocks(page, "python")]
# nine tenths of the time of all
LONG = (
    "README",
    "conversion",
    "cost",
    "data",
    "diagnose",
    "exchange",
    "graphs",
    "integers",
    "layers",
    "losses",
    "memory",
    "mistakes",
    "neurons",
    "normalization",
    "online",
    "rule",
    "saving",
    "start",
    "starting",
    "surrogates",
    "sweep",
    "training",
)


@pytest.mark.parametrize(
    "page", few(RUN, *(page for page in RUN if page.stem not in LONG)), ids=name
)
@pytest.mark.usefixtures("default_promotion")
def test_python_of_a_page(page, capsys):
    """The blocks of one page, in order, in one namespace. The outputs of sessions are compared, and
    those of scripts if a block of text follows.
    """
    space = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        line = page.read_text()[: block.start()].count("\n") + 1
        capsys.readouterr()
        if ">>>" not in block[2]:
            exec(compile("\n" * line + block[2], str(page), "exec"), space)
            if printed := re.match(
                r"\s*```text\n(.*?)```", page.read_text()[block.end() :], re.DOTALL
            ):
                assert capsys.readouterr().out == printed[1]
            continue
        session = doctest.DocTestParser().get_doctest(block[2], space, name(page), str(page), line)
        runner = doctest.DocTestRunner(
            optionflags=doctest.NORMALIZE_WHITESPACE
        )  # long outputs are wrapped
        failed, _ = runner.run(session, clear_globs=False)
        assert not failed, f"{page}: see above"
        space = session.globs


def commands():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for block in blocks(page, "bash"):
            for line in block[2].replace("\\\n", " ").splitlines():
                found = re.search(r"(?:^ *|[/ ])spikegrad ([a-z].*)", line.partition("  #")[0])
                if found:
                    yield pytest.param(
                        shlex.split(found[1]), id=f"{name(page)}: {found[1].strip()}"
                    )


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands_and_options_exist(arguments, capsys):
    pytest.importorskip("click")
    from spikegrad.cli import main  # noqa: PLC0415

    code = main([*arguments, "--help"])
    out, err = capsys.readouterr()
    assert code == 0, err
    # without such a command, the help would be that of all
    assert f"spikegrad {arguments[0]} [OPTIONS]" in out, out


def test_paths_exist():
    """Every file of the repository that the pages name by a path."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for path in re.findall(
            r"(?:python3?(?:\.\d+)? |`)((?:benchmarks|examples|scripts|tests|src)/[\w/.]+\.py)",
            page.read_text(),
        ):
            assert (ROOT / path).is_file(), f"{name(page)} names {path}"


ON_GITHUB = [page for page in PAGES if "_templates" not in page.parts]


def test_pictures_exist_and_are_shown():
    """Each file of docs/_static is drawn by docs/pictures.py, and is on a page."""
    shown = set()
    for page in ON_GITHUB:
        for path in re.findall(r"!\[[^\]]*\]\((?!http|\.\./\.\./)([^)]+)\)", page.read_text()):
            assert (page.parent / path).is_file(), f"{name(page)} shows {path}"
            shown.add((page.parent / path).resolve())
    files = {path.resolve() for path in (ROOT / "docs" / "_static").glob("*.svg")}
    assert files == shown
    text = (ROOT / "docs" / "pictures.py").read_text().partition("FILES = {")[2].partition("}")[0]
    assert {path.stem for path in files} == set(re.findall(r'"([\w-]+)":', text))


def test_links_of_pages_work_on_github():
    """Files exist, sections have the anchors that GitHub makes, and no role is left."""
    for page in ON_GITHUB:
        text = FENCE.sub("", page.read_text())
        assert not re.search(r"\{[\w:-]+\}`", text), name(page)
        for link in re.findall(r"\]\((?!http|\.\./\.\./actions)([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{name(page)} links to {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text()), re.MULTILINE)
                slugs = {
                    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert anchor in slugs, f"{name(page)} links to {link}"


def test_figures_of_a_page_have_files_of_their_own():
    """Those written into a page are named after it, and counted anew in each block."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        figures = re.findall(r"^\.\. plot::\n((?: +:.*\n)*)", page.read_text(), re.MULTILINE)
        names = [
            found[1]
            for options in figures
            if (found := re.search(r":filename-prefix: (\S+)", options))
        ]
        assert len(set(names)) == len(names) >= len(figures) - 1, page.name


FENCE = re.compile(r"^(`{3,})(\{?[\w-]*\}?).*?\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def code_of_page(page):
    """The lines of the blocks that are shown as code."""
    for _, kind, block in FENCE.findall(page.read_text()):
        if not kind.startswith("{"):
            yield from block.splitlines()
        if kind == "{code-cell}":
            yield from (line for line in block.splitlines() if not line.startswith(":"))


def code_of_docstrings(path):
    """The lines of the examples, with their prompts and outputs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            for example in doctest.DocTestParser().get_examples(text):
                yield from (f">>> {line}" for line in example.source.splitlines())
                yield from example.want.splitlines()


def test_code_fits_the_text_column():
    """Of 80 characters. What is longer is cut off."""
    lines = [
        (page, line) for page in [*PAGES, ROOT / "CONTRIBUTING.md"] for line in code_of_page(page)
    ]
    lines += [
        (path, line) for path in (ROOT / "src").rglob("*.py") for line in code_of_docstrings(path)
    ]
    assert len(lines) > 2000
    assert [f"{name(path)}: {line}" for path, line in lines if len(line) > 80] == []


def test_titles_have_at_most_six_words():
    for page in PAGES:
        for title in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
            assert len(title.split()) <= 6, f"{name(page)}: {title}"


def test_titles_skip_no_level():
    """Sphinx warns of a title two levels below the one before."""
    for page in PAGES:
        marks = re.findall(r"^(#+) ", FENCE.sub("", page.read_text()), re.MULTILINE)
        levels = [len(mark) for mark in marks]
        for above, below in itertools.pairwise(levels):
            assert below <= above + 1, f"{name(page)}: levels {levels}"
