"""The list of surrogates, on a screen of any width; and that a picture is announced."""

import io
import re

import pytest

from spikegrad import get, names

pytest.importorskip("rich")
pytest.importorskip("click")

from rich.console import Console

from spikegrad.cli import main, tables


@pytest.mark.parametrize("width", [80, 100, 180])
def test_the_list_fits_its_screen(width, capsys, monkeypatch):
    wide = tables.console
    monkeypatch.setattr(
        tables, "console", lambda: Console(file=wide().file, markup=False, highlight=False, width=width)
    )
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    if width < 120:
        text = "\n".join(cell for (cell,) in cells)
        entry = r"^(\w+\([^)]*\))\n.*?\npeak (\S+), area (\S+), half-width (\S+)$"
        shown = re.findall(entry, text, re.MULTILINE | re.DOTALL)
        assert [get(spec.replace("\n", " ")) for spec, *_ in shown] == [get(name) for name in names()]
        measures = [list(found) for _, *found in shown]
    else:
        assert [row[0] for row in cells] == names()
        measures = [row[-3:] for row in cells]
    assert measures[names().index("sigmoid")] == ["1", "1", "0.4407"]


def test_ascii_replacements_stay_aligned(monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    assert main(["list"]) == 0
    ascii_only.flush()
    _, *lines = ascii_only.buffer.getvalue().decode().splitlines()
    assert len(set(map(len, lines))) == 1
    assert "| alpha / (2(1 + (pi alpha x/2)^2)) " in lines[2]
