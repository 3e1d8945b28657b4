"""Generated pages of the documentation: tables show the numbers of the results, and every public name has a page."""

import collections
import inspect
import itertools
import math
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
    """The settings of the documentation, which fill the templates when they run: in another folder."""
    for package in ("sphinx", "jinja2", "matplotlib", "click", "optax"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("clone")
    (root / "docs").mkdir()
    (root / "docs" / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    for folder in ("docs/_templates", "examples", "benchmarks"):
        (root / folder).symlink_to(ROOT / folder)
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


def test_pages_are_filled(pages):
    """No template is left, no value is missing, and each row of a table is as wide as its header."""
    assert len(pages) == len(list((ROOT / "docs" / "_templates" / "pages").iterdir()))
    for name, text in pages.items():
        assert not re.search(r"\{[{%]", text), name
        for header, *rows in tables(text):
            assert rows, (name, header)
            assert {len(row) for row in rows} == {len(header)}, (name, header)
            assert not {"None", "Undefined", "nan"} & {word for row in rows for word in row}, (name, header)


def test_titles_have_at_most_six_words_and_commands_fit_the_text_column(pages):
    for name, text in pages.items():
        for markdown, underlined in re.findall(r"^#+ (.+)$|^(.+)\n(?:=+|-+)$", text, re.MULTILINE):
            assert len((markdown or underlined).split()) <= 6, (name, markdown, underlined)
        for block in re.findall(r"^```(?:bash|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            assert max(map(len, block.splitlines())) <= 80, name


def test_wrapped_commands_are_the_same_for_a_shell(conf):
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = ["".join(rng.choice(list("abc-="), n)) for n in rng.integers(1, 40, 12)]
        words.insert(3, ",".join(words))
        text = conf.wrapped(" ".join(words))
        assert max(map(len, text.splitlines())) <= 80
        assert text.replace("\\\n", "").split() == words


def test_the_gallery_has_each_neuron(conf, pages):
    cells = {name for name in neurons.__all__ if hasattr(getattr(neurons, name), "integrate")} - {"Cell"}
    drawn = re.findall(r'pictures\.neuron\("(\w+)"\)', pages["gallery-neurons.rst"])
    assert sorted(drawn) == sorted(cells)
    documented = {name for name, _ in conf.public()}
    assert {full for _, full in conf.context["cells"]} <= documented


@pytest.mark.parametrize("differs", ["surrogate", "depth", "detached"])
def test_tables_of_choices_show_test_accuracies_and_mark_the_best_by_validation(conf, differs):
    """Of random results, whose columns have different bests, and some of whose runs diverged."""
    rng = np.random.default_rng(0)
    columns = {"data": ["a", "b", "c"], "depth": [1, 3], "detached": [False, True]}
    kept = {"surrogate": ["data"], "depth": ["depth"], "detached": ["detached"]}[differs]
    varied = {axis: values if axis in kept else values[:1] for axis, values in columns.items()}
    rows = [
        dict(zip(varied, place, strict=True))
        | {"question": "q", "surrogate": name, "peak": None, "half_width": width, "command": f"train {place}"}
        | {"validation": rng.uniform(0.4, 1), "test": rng.uniform(0.4, 1), "test, deviation": rng.uniform()}
        | {"runs": 5, "diverged": int(rng.choice([0, 0, 2, 5]))}
        for place in itertools.product(*varied.values())
        for name in ("arctan", "sigmoid")
        for width in (0.1, 0.4, 1.6)
    ]
    other = rows[0] | {"question": "other", "half_width": 9.0}
    text = conf.choices({"choosing": {"rows": [*rows, other]}}, "q")
    found = {}
    for header, *lines in tables(text):
        assert header[:2] == ["surrogate", "half_width"]
        for name, width, *cells in lines:
            found |= {(name, float(width), column): cell for column, cell in zip(header[2:], cells, strict=True)}
    titles = {"depth": "{} hidden".format, "detached": {False: "reset differentiated", True: "reset detached"}.get}
    title_of, place = titles.get(differs, str), kept[0]
    best = collections.defaultdict(float)
    for row in rows:
        best[row[place]] = max(best[row[place]], row["validation"])
    assert len(found) == len(rows)
    for row in rows:
        cell = found[row["surrogate"], row["half_width"], title_of(row[place])]
        assert cell.startswith("**") == cell.endswith("**") == (row["validation"] == best[row[place]])
        if row["diverged"] == row["runs"]:
            assert cell.strip("*") == "diverged"
            continue
        mean, deviation = map(float, cell.strip("*").split(" ± "))
        assert abs(mean - 100 * row["test"]) <= 0.05 + 1e-9
        assert abs(deviation - 100 * row["test, deviation"]) <= 0.05 + 1e-9
    assert all(row["command"] in text for row in rows)


def test_numbers_of_pages_are_the_values_to_their_digits(conf):
    for value in (-1.0, 1.0) * np.geomspace(1e-9, 1e9, 271)[:, None]:
        for number in map(float, value):
            assert math.isclose(float(conf.short(number)), number, rel_tol=0.05)
            assert math.isclose(float(conf.infinity(number).replace("−", "-")), number, rel_tol=5e-4)
    assert (conf.short(0.0), conf.short(7), conf.short("text")) == ("0", 7, "text")
    assert [conf.infinity(v) for v in (math.inf, -math.inf, math.nan)] == ["∞", "−∞", "—"]
    for share in np.linspace(0, 1, 101):
        assert math.isclose(float(conf.percent(share, None)), 100 * share, abs_tol=0.0501)


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
        peak, area, half_width, support, even, *_ = re.findall(r"     - (.*)", cells)
        shown = [peak, area, half_width, *support.split(", ")]
        numbers = [float(text.translate({ord("∞"): "inf", ord("−"): "-", ord("—"): "nan"})) for text in shown]
        expected = found.peak, found.area, found.half_width, *found.support
        np.testing.assert_allclose(numbers, expected, rtol=1e-3, err_msg=name)
        assert even == ("yes" if found.symmetric else "no")


def test_other_libraries_names_are_shown_as_get_makes_them(conf):
    shown = {(lib["name"], row[0].partition("(")[0]): row for lib in conf.context["libraries"] for row in lib["rows"]}
    functions = {name for name, make in surrogates.presets.PRESETS.items() if inspect.isfunction(make)}
    assert {".".join(name) for name in shown} == functions
    for (library, name), (call, expression, text) in shown.items():
        required = re.findall(r"[(, ](\w+)(?=[,)])", call)
        made = spikegrad.get(f"{library}.{name}", **dict.fromkeys(required, 1))
        assert expression == repr(made), call
        assert text.count("|") == text.count("\\|"), call  # or it would end the cell


def test_a_public_name_without_a_page_is_an_error(conf):
    names = sorted({name for name, _ in conf.public()})
    assert {"spikegrad.LIF", "spikegrad.training.fit", "spikegrad.surrogates.Softplus"} <= set(names)

    def environment(documented):
        domain = types.SimpleNamespace(get_objects=lambda: [(name, name, "class", "", "", 1) for name in documented])
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
