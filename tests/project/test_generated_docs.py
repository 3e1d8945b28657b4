"""Generated pages of the documentation: tables show the numbers of the results, and every public
name has a page.
"""

import inspect
import itertools
import re
import runpy
import types

import numpy as np
import pytest
from conftest import ROOT

import spikegrad
from spikegrad import neurons, surrogates


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """The settings of the documentation, which fill the templates when they run: in another
    folder.
    """
    for package in ("sphinx", "jinja2", "matplotlib", "click", "optax"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("clone")
    (root / "docs").mkdir()
    (root / "docs" / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    for path in ("docs/_templates", "docs/matplotlibrc", "examples", "benchmarks"):
        (root / path).symlink_to(ROOT / path)
    return types.SimpleNamespace(**runpy.run_path(str(root / "docs" / "conf.py")))


@pytest.fixture(scope="module")
def pages(conf):
    return {path.name: path.read_text() for path in (conf.HERE / "generated").iterdir()}


def tables(text):
    """The cells of each table of a Markdown page, its line of dashes left out."""
    lines = text.splitlines()
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in group]
            yield [row for row in rows if not re.fullmatch(r"-+", "".join(row))]


def test_pages_are_filled(conf, pages):
    """No template is left, no value is missing, and each row of a table is as wide as its
    header.
    """
    templates = (ROOT / "docs" / "_templates" / "pages").iterdir()
    assert len(pages) + len(conf.tables) == len(list(templates)) + len(conf.MODULES)
    for name, text in (pages | conf.tables).items():
        assert not re.search(r"\{[{%]", text), name
        for header, *rows in tables(text):
            assert rows, (name, header)
            assert {len(row) for row in rows} == {len(header)}, (name, header)
            assert not {"None", "Undefined", "nan"} & {word for row in rows for word in row}, (
                name,
                header,
            )


def test_tables_of_pages_are_those_of_the_results(conf):
    """Each template of a table is in one page, and each page has the text that the build fills
    in.
    """
    shown = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        shown += [found[2] for found in conf.TABLE.finditer(text)]
        assert conf.filled(text) == text, f"{page.name}: run `python docs/conf.py`"
        assert text.count("<!-- table: ") == text.count("<!-- end of the table -->"), page.name
    assert sorted(set(shown)) == sorted(conf.tables)


def test_names_in_code_link_to_their_page(conf):
    """In full, as in an import, with their class, or with a call, and commands."""
    entry = types.SimpleNamespace
    found = conf.targets_of_names(
        {
            "spikegrad.Network": entry(docname="network", node_id="a", objtype="class"),
            "spikegrad.Network.init": entry(docname="network", node_id="b", objtype="method"),
            "spikegrad.data": entry(docname="data", node_id="c", objtype="module"),
            "spikegrad.data.load": entry(docname="load", node_id="d", objtype="function"),
        }
    )
    assert found["spikegrad.Network"] == found["Network"] == ("network", "#a")
    assert found["Network.init"] == ("network", "#b")
    assert found["spikegrad.data.load"] == ("load", "#d")
    assert found["spikegrad train"] == ("generated/cli", "#spikegrad-train")
    # modules by their full names, and no words of other meanings
    assert not {"data", "load", "init"} & set(found)


def test_titles_have_at_most_six_words_and_commands_fit_the_text_column(pages):
    for name, text in pages.items():
        for markdown, underlined in re.findall(r"^#+ (.+)$|^(.+)\n(?:=+|-+)$", text, re.MULTILINE):
            assert len((markdown or underlined).split()) <= 6, (name, markdown, underlined)
        for block in re.findall(r"^```(?:bash|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            assert max(map(len, block.splitlines())) <= 80, name


def test_the_gallery_has_each_neuron(conf, pages):
    cells = {name for name in neurons.__all__ if hasattr(getattr(neurons, name), "integrate")} - {
        "Cell"
    }
    drawn = re.findall(r'pictures\.neuron\("(\w+)"\)', pages["gallery-neurons.rst"])
    assert sorted(drawn) == sorted(cells)
    documented = {name for name, _ in conf.public()}
    assert {full for _, full in conf.context["cells"]} <= documented


def test_the_catalogue_has_each_surrogate_once_with_its_measures(conf, pages):
    classes = {type(spikegrad.get(name)) for name in spikegrad.names()}
    names = [name for _, _, family in conf.context["families"] for name in family]
    assert sorted(names) == sorted({conf.public_name(cls) for cls in classes})
    for name in names:
        short = name.removeprefix("surrogates.")
        assert hasattr(spikegrad if short == name else surrogates, short)
    listed = re.findall(r"^   (?:surrogates\.)?(\w+)$", pages["catalogue.rst"], re.MULTILINE)
    assert sorted(listed) == sorted(cls.__name__ for cls in classes)
    rows = re.findall(r"\* - :class:`([\w.]+)`\n((?:     - .*\n)+)", pages["catalogue.rst"])
    assert sorted(name for name, _ in rows) == sorted(names)
    for name, cells in rows:
        found = spikegrad.measure(getattr(surrogates, name.removeprefix("surrogates."))())
        shown = re.findall(r"     - (.*)", cells)
        numbers = [
            float(text.translate({ord("∞"): "inf", ord("−"): "-", ord("—"): "nan"}))
            for text in shown
        ]
        expected = found.peak, found.area, found.half_width
        np.testing.assert_allclose(numbers, expected, rtol=1e-3, err_msg=name)


def test_other_libraries_names_are_shown_as_get_makes_them(conf):
    shown = {
        (lib["name"], row[0].partition("(")[0]): row
        for lib in conf.context["libraries"]
        for row in lib["rows"]
    }
    functions = {
        name for name, make in surrogates.presets.PRESETS.items() if inspect.isfunction(make)
    }
    assert {".".join(name) for name in shown} == functions
    for (library, name), (call, expression, text) in shown.items():
        required = re.findall(r"[(, ](\w+)(?=[,)])", call)
        made = spikegrad.get(f"{library}.{name}", **dict.fromkeys(required, 1))
        assert expression == repr(made), call
        assert text.count("|") == text.count("\\|"), call  # or it would end the cell


def test_a_public_name_without_a_page_is_an_error(conf):
    names = sorted({name for name, _ in conf.public()})
    assert {"spikegrad.LIF", "spikegrad.training.fit", "spikegrad.surrogates.Softplus"} <= set(
        names
    )

    def environment(documented):
        domain = types.SimpleNamespace(
            get_objects=lambda: [(name, name, "class", "", "", 1) for name in documented]
        )
        return types.SimpleNamespace(get_domain={"py": domain}.get)

    conf.every_public_name_has_a_page(None, environment(names))
    for n in (0, len(names) // 2, -1):
        rest = [name for name in names if name != names[n]]
        with pytest.raises(conf.ExtensionError, match=rf"without a page: {re.escape(names[n])}$"):
            conf.every_public_name_has_a_page(None, environment(rest))


def test_the_page_of_the_command_has_the_help_of_each_command(conf, pages):
    assert {"train", "sweep", "predict", "diagnose"} <= set(conf.command.commands)
    for name in conf.command.commands:
        assert f"spikegrad {name} [OPTIONS]" in pages["cli.md"]
