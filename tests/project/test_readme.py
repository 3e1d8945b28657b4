"""The README, which the landing page includes: its numbers are those of the results, and its links
work on GitHub.
"""

import json
import re

from conftest import ROOT

import spikegrad
from spikegrad import neurons
from spikegrad.surrogates import presets

TEXT = (ROOT / "README.md").read_text()
TABLE = {
    cells[0]: cells[1:]
    for line in re.findall(r"^\| (.+) \|$", TEXT, re.MULTILINE)
    if (cells := line.split(" | "))
}


def test_memory_and_time_are_those_of_the_results():
    rows = json.loads((ROOT / "benchmarks" / "results" / "bptt.json").read_text())["rows"]
    rows = {row["variant"]: row for row in rows if row["size"] == "1024x250"}
    share = {
        mode: round(100 * row["temp_units"] / rows["plain"]["temp_units"])
        for mode, row in rows.items()
    }
    text = " ".join(TEXT.split())
    assert f"with {share['exact']}% of the memory of JAX's loop `jax.lax.scan`, and about" in text
    needs = f"With states in 8 bits it needs {share['8-bit']}%, and with recomputation"
    assert f"{needs} {share['recompute']}%." in text
    assert all(0.8 < rows[mode]["time_ratio"] < 1.1 for mode in ("exact", "8-bit"))  # about as fast


def test_numbers_of_neurons_and_surrogates():
    cells = {
        getattr(neurons, name)
        for name in neurons.__all__
        if hasattr(getattr(neurons, name), "integrate")
    }
    models = cells - {neurons.Cell, neurons.LeakyReadout, neurons.Refractory, neurons.Relu}
    libraries = {name.partition(".")[0] for name in presets.PRESETS}
    assert f"{len(models)} neuron models and {len(spikegrad.names())} surrogates" in TEXT
    assert len(libraries) == 15
    assert "surrogates of fifteen" in " ".join(TEXT.split())


def test_each_library_has_a_version_and_an_advantage():
    """No unfair cell: the table names a strength of each of the other libraries."""
    assert {len(cells) for cells in TABLE.values()} == {4}
    libraries = {name for name in TABLE if name not in ("library", "---")}
    assert len(libraries) >= 8
    for name in libraries:
        assert re.search(r" \d+\.\d+$", name), name
        assert ("–" in TABLE[name][1]) == name.startswith("spikegrad"), name


def test_links_work_on_github():
    """They name files of the repository without parts that only the site fills in."""
    links = re.findall(r"\]\((?!http|\.\./\.\./actions)([^)]+)\)", TEXT)
    assert len(links) > 5
    for link in links:
        path = ROOT / link
        assert path.is_file(), link
        if path.suffix == ".md":
            assert not re.search(
                r"^`{3,}\{(include|eval-rst|toctree|glossary)\}|^:{3,}\{",
                path.read_text(),
                re.MULTILINE,
            ), link


def test_ci_runs_the_commands_of_each_section():
    """The first block of a section. The second one of Start names a run that does not exist."""
    run = re.findall(r"as_written (\S+)\.md (\w+)", (ROOT / ".ci" / "run").read_text())
    for page in ("README", "CONTRIBUTING"):
        sections = re.split(r"^## ", (ROOT / f"{page}.md").read_text(), flags=re.MULTILINE)[1:]
        with_commands = [section.split()[0] for section in sections if "```bash\n" in section]
        assert sorted(with_commands) == sorted(section for other, section in run if other == page)
