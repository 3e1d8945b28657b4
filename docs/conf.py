"""Settings of the documentation.

Before the build, the templates of pages are filled from the code, into generated/, and the tables in pages from the
results of benchmarks. So nobody copies lists of surrogates, results or options. ``python docs/conf.py`` fills them
without a build.
"""

import inspect
import itertools
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from click.testing import CliRunner
from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

import spikegrad
from spikegrad import (
    conversion,
    data,
    diagnosis,
    exchange,
    integers,
    losses,
    network,
    neurons,
    reports,
    surrogates,
    testing,
    training,
)
from spikegrad.cli.commands import command
from spikegrad.reports import plot
from spikegrad.surrogates import presets

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))  # for pictures.py

MODULES = (
    *(spikegrad, conversion, data, diagnosis, exchange, integers, losses),
    *(network, neurons, plot, reports, surrogates, testing, training),
)

project = "spikegrad"
author = "The spikegrad authors"
version = release = spikegrad.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_nb",  # Markdown, and the tutorials, which it runs
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx-mathjax-offline",  # includes the script for formulas, so pages load nothing from other hosts
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_templates", "jupyter_execute"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "scorer.js")
html_title = f"spikegrad {version}"
html_domain_indices = False  # the reference lists the modules
html_show_copyright = False

autodoc_typehints = "none"  # the docstrings contain the types
autodoc_member_order = "bysource"
autosummary_imported_members = True
numpydoc_show_class_members = False
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4  # links to sections as on GitHub: page.md#title-of-the-section
copybutton_prompt_text = r">>> |\.\.\. "  # outputs are not copied
copybutton_prompt_is_regexp = True
nb_execution_mode = "force"  # tutorials run with the current code whenever they are read
nb_execution_raise_on_error = True
nb_execution_timeout = 240  # seconds for one cell
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # text on stderr becomes a warning, which -W turns into an error
suppress_warnings = ["config.cache"]
rst_prolog = ".. |x| replace:: \\|x\\|"  # bars in formulas of docstrings, not a substitution

matplotlib.use("Agg")
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")  # for the kernels of the tutorials
plot_rcparams = dict(matplotlib.rc_params_from_file(HERE / "matplotlibrc", use_default_template=False))
plot_apply_rcparams = True
plot_formats = [("svg", 100)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_pre_code = """
import matplotlib.pyplot as plt
import pictures
import spikegrad
from spikegrad.reports.plot import plot
"""


def families():
    """Yield the title, text and surrogates of each module. Surrogates are in source order."""
    classes = [type(spikegrad.get(name)) for name in spikegrad.names()]
    default = type(spikegrad.LIF().surrogate).__module__  # its family comes first
    modules = sorted({cls.__module__ for cls in classes}, key=lambda module: (module != default, module))
    for module in modules:
        mine = [cls for cls in classes if cls.__module__ == module]
        title, _, text = inspect.getdoc(sys.modules[module]).rstrip(".").partition(": ")
        yield title, text, [public_name(cls) for cls in sorted(mine, key=lambda cls: inspect.getsourcelines(cls)[1])]


def public_name(cls):
    """Return the name of a surrogate within the package."""
    return cls.__name__ if cls.__name__ in spikegrad.__all__ else f"surrogates.{cls.__name__}"


def cells():
    """Yield the name and the full name of each cell."""
    for name in sorted(neurons.__all__, key=str.lower):
        cls = getattr(neurons, name)
        if inspect.isclass(cls) and issubclass(cls, neurons.Cell) and cls is not neurons.Cell:
            yield name, f"spikegrad.{name}" if name in spikegrad.__all__ else f"spikegrad.neurons.{name}"


def public():
    """Yield each public class and function with its full name. Public tables and type aliases do not get a page."""
    for module in MODULES:
        for name in set(module.__all__) - (set() if module is spikegrad else set(spikegrad.__all__)):
            value = getattr(module, name)
            if value is not Any and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{module.__name__}.{name}", value


def module_pages():
    """Yield the name, the summary, the smallest example and the names of each module, without the surrogates, which are
    in the catalogue.
    """
    catalogue = {*functions.values(), *(type(spikegrad.get(name)).__name__ for name in spikegrad.names())}
    documented = [full.rpartition(".")[::2] for full, _ in public()]
    for module in MODULES:
        names = sorted(name for where, name in documented if where == module.__name__ and name not in catalogue)
        summary, *others = inspect.getdoc(module).split("\n\n")
        example = next((text for text in others if text.startswith(">>>")), "")
        yield module.__name__, summary, example, names


def attributes(cls):
    """Yield the documented fields and the properties of a class, each with its directive."""
    for owner, name in ModuleAnalyzer.for_module(cls.__module__).find_attr_docs():
        if owner == cls.__name__:
            yield "autoattribute", name
    for name, value in vars(cls).items():
        if isinstance(value, property) and not name.startswith("_"):
            yield "autoproperty", name


def libraries():
    """Yield each library of the presets: its text, its names with their surrogates, and its unsupported names."""
    for library, found in itertools.groupby(presets.PRESETS.items(), lambda item: item[0].partition(".")[0]):
        module = getattr(presets, library)
        rows = [
            (shown_call(make.__name__, make), repr(by_default(make)), difference(make))
            for _, make in found
            if inspect.isfunction(make)
        ]
        text = cell_of(inspect.getdoc(module).replace("``", "`"))
        yield {"name": library, "text": text, "rows": rows, "absent": list(getattr(module, "ABSENT", {}).items())}


def cell_of(text):
    """Return a paragraph as the cell of a table, a single line."""
    return " ".join(text.split()).replace("|", "\\|")


def difference(make):
    """Return the docstring of a preset without its first sentence, which names the shape."""
    return cell_of(re.split(r"(?<!\bal)\.\s+", inspect.getdoc(make) + " ", maxsplit=1)[1])


def shown_call(name, make):
    parameters = inspect.signature(make).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"{name}({', '.join(shown)})"


def by_default(make):
    """Return the surrogate for default parameters, with 1 for parameters without a default."""
    parameters = inspect.signature(make).parameters.values()
    return make(**{p.name: 1 for p in parameters if p.default is p.empty})


def helps():
    runner = CliRunner()
    for name in command.commands:
        yield name, runner.invoke(command, [name, "--help"], prog_name="spikegrad", terminal_width=78).output.strip()


def short(value):
    """Format a number with two digits, without a plus or zeros in its exponent."""
    if not isinstance(value, float):
        return value
    return (
        f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
        if not 1e-3 <= abs(value) < 1e3 and value
        else f"{float(f'{value:.2g}'):g}"
    )


def infinity(value):
    """Format a number with four digits, or as a sign for infinity and NaN."""
    return "—" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞").replace("-", "−")


def percent(mean, deviation):
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if deviation is not None else "")


def choices(results, question, *shown):
    """Return tables of the test accuracy for each choice, for all data sets or those shown.

    A column is a data set. If depth or reset also differ, each data set has its own table, with a column for each depth
    or reset. Choices within a standard deviation of a column's best are bold.
    """
    rows = [row for row in results["choosing"]["rows"] if row["question"] == question]
    axes = [axis for axis in ("surrogate", "peak", "half_width") if len({row[axis] for row in rows}) > 1]
    place = next((axis for axis in ("depth", "detached") if len({row[axis] for row in rows}) > 1), "data")
    lines = []
    if place == "data":
        lines += choices_of(rows, axes, place)
    else:
        for name in shown or dict.fromkeys(row["data"] for row in rows):
            lines += [f"*{name}*", "", *choices_of([row for row in rows if row["data"] == name], axes, place), ""]
    return "\n".join(lines)


def choices_of(rows, axes, place):
    """Return the lines of one table."""
    columns = list(dict.fromkeys(row[place] for row in rows))
    settings = list(dict.fromkeys(tuple(row[axis] for axis in axes) for row in rows))
    cells = {}
    for column in columns:
        of_column = [row for row in rows if row[place] == column]
        best = max(of_column, key=lambda row: row["test"])
        bound = best["test"] - (best["test, deviation"] or 0)
        for row in of_column:
            text = "diverged" if row["diverged"] == row["runs"] else f"{percent(row['test'], row['test, deviation'])}%"
            setting = tuple(row[axis] for axis in axes)
            cells[setting, column] = f"**{text}**" if row["test"] >= bound else text
    title = {
        "data": lambda name: f"accuracy on {name.replace('_', '_<wbr>')}",  # long names are divided in a narrow table
        "depth": lambda depth: f"accuracy with {depth} hidden layer{'s' * (depth > 1)}",
        "detached": lambda detached: (
            f"accuracy with {'a detached reset' if detached else 'a gradient through the reset'}"
        ),
    }[place]
    names = {"surrogate": "shape of the slope", "peak": "height of the slope", "half_width": "half-width of the slope"}
    table = [[*(names[axis] for axis in axes), *map(title, columns)], ["---"] * (len(axes) + len(columns))]
    table += [[*map(str, setting), *(cells.get((setting, column), "") for column in columns)] for setting in settings]
    return [f"| {' | '.join(line)} |" for line in table]


functions = {type(spikegrad.get(name)).__name__: name for name in spikegrad.names() if hasattr(surrogates, name)}
autosummary_context = {
    "functions": functions,
    "attributes_of": {name: list(attributes(value)) for name, value in public() if inspect.isclass(value)},
}
context = {
    "families": list(families()),
    "cells": list(cells()),
    "results": {path.stem: json.loads(path.read_text()) for path in ROOT.glob("benchmarks/results/*.json")},
    "help": list(helps()),
    "libraries": list(libraries()),
    "measures": [(public_name(type(s)), spikegrad.measure(s)) for s in map(spikegrad.get, spikegrad.names())],
    "data": inspect.getdoc(data).split("\n\n", 2)[2],  # without the summary and the example, the format of the file
}
pages = jinja2.Environment(trim_blocks=True)
pages.filters |= {"short": short, "infinity": infinity, "choices": choices}
(HERE / "generated").mkdir(exist_ok=True)


def write(name, text):
    """Write a generated page. An unchanged page is not read again."""
    target = HERE / "generated" / name
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
tables = {}  # the texts that pages of docs/ contain between two comments, so that they are read on GitHub too
for template in sorted((HERE / "_templates" / "pages").iterdir()):
    text = pages.from_string(template.read_text()).render(context)
    text = text.replace(" ± ", "\xa0±\xa0")  # no line ends within a number
    if template.suffix == ".txt":
        tables[template.stem] = f"\n{text.strip()}\n\n"
    else:
        write(template.name, text)


def filled(text):
    """Return the text of a page with its tables."""
    return TABLE.sub(lambda found: found[1] + tables[found[2]] + found[3], text)


for page in sorted(HERE.glob("*.md")):
    text = page.read_text()
    if filled(text) != text:
        page.write_text(filled(text))
module_page = pages.from_string((HERE / "_templates" / "module.rst").read_text())
for module, text, example, names in module_pages():
    write(f"{module}.rst", module_page.render(module=module, text=text, example=example, names=names))


def every_public_name_has_a_page(app, env):
    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    if missing := sorted({name for name, _ in public()} - documented):
        raise ExtensionError(f"public names without a page: {', '.join(missing)}")


def offer_notebook(app, docname, source):
    """Write the link to the notebook of a tutorial above its first section."""
    if docname.startswith("tutorials/"):
        link = f"Download: {{nb-download}}`{docname.partition('/')[2]}.ipynb`."
        source[0] = source[0].replace("\n\n## ", f"\n\n{link}\n\n## ", 1)


def notebooks_stand_alone(app, env):
    """Remove links between pages from the notebooks for download, and check that their pictures exist."""
    for path in Path(env.mystnb_config.output_folder).rglob("*.ipynb"):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            pictures = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
            if "mystnb" in cell["metadata"] and not pictures:  # it contains the text alternative of a picture
                raise ExtensionError(f"{path.stem}: a cell did not draw its picture: {''.join(cell['source'])}")
            if cell["cell_type"] == "markdown":
                text = re.sub(r"\s+Download:\s+{nb-download}`[^`]+`\.", "", "".join(cell["source"]))
                cell["source"] = re.sub(r"\[([^]]+)\]\((?!http)[^)]+\)", r"*\1*", text)
        path.write_text(json.dumps(notebook, indent=1))


# Words of other meanings, which are also public functions.
WORDS = {
    "activity",
    "collate",
    "get",
    "graph",
    "hop",
    "load",
    "moments",
    "names",
    "parameter",
    "plot",
    "scale",
    "spike",
}
# Pages without a public object of their name.
OTHER_PAGES = {
    "spikegrad.surrogates.presets": "generated/spikegrad.surrogates.presets",
    **{f"spikegrad {name}": "generated/cli" for name in command.commands},
}


def link_names(app, doctree, page):
    """Link each public name in code to its page, so that authors write `LIF` and GitHub shows it."""
    targets = targets_of_names(app.env.get_domain("py").objects)
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()")
        if name not in targets or has_link(literal):
            continue
        target, anchor = targets[name]
        if target != page:
            address = app.builder.get_relative_uri(page, target) + anchor
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=address))


def targets_of_names(objects):
    """Return the page and the anchor of each public name, in full and as in an import."""
    found = {
        name: (target, f"#{name.replace(' ', '-')}" if " " in name else "") for name, target in OTHER_PAGES.items()
    }
    for full, entry in objects.items():
        owner, _, short = full.rpartition(".")
        if entry.objtype in ("method", "attribute", "property"):  # with the name of the class
            short = f"{owner.rpartition('.')[2]}.{short}"
        target = entry.docname, f"#{entry.node_id}"
        found.setdefault(full, target)
        if entry.objtype != "module" and short not in WORDS:
            found.setdefault(short, target)
    return found


def has_link(node):
    """Return True for code in a link, in a title or in a signature."""
    while node := node.parent:
        if isinstance(node, nodes.reference | nodes.title | addnodes.desc_signature | addnodes.download_reference):
            return True
    return False


def shorten_sidebar(app, page, template, context, doctree):
    """Keep the pages below a page only around the current one: the reference has 200."""
    from bs4 import BeautifulSoup  # noqa: PLC0415  (the tests run this file, and install no theme)

    tree = BeautifulSoup(context.get("furo_navigation_tree", ""), "html.parser")
    for entry in tree.select("li.has-children"):
        if not entry.decomposed and "current" not in entry["class"]:
            for part in entry.find_all(["ul", "input", "label"], recursive=False):
                part.decompose()
            entry["class"].remove("has-children")
    context["furo_navigation_tree"] = str(tree)


def mark_tables(app, doctree, page):
    """Mark the tables with sentences, which need a minimum width on a phone."""
    for table in doctree.findall(nodes.table):
        if any(len(entry.astext()) > 40 for entry in table.findall(nodes.entry)):
            table["classes"].append("sentences")


def setup(app):
    app.connect("source-read", offer_notebook)
    app.connect("html-page-context", shorten_sidebar, priority=900)  # after the theme has made it
    app.connect("doctree-resolved", mark_tables)
    app.connect("doctree-resolved", link_names)
    app.connect("env-updated", notebooks_stand_alone)
    app.connect("env-check-consistency", every_public_name_has_a_page)
