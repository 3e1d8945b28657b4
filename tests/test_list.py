"""The list of surrogates, on a screen of any width; and that a picture is announced."""

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
        first = [row for row in cells if row[-1]]
        assert [get(row[0]) for row in first] == [get(name) for name in names()]  # as it can be given to get
        assert re.sub(r"\s", "", "".join(row[0] for row in cells)).count(")") > 18
    else:
        assert [row[0] for row in cells] == names()
        first = cells
    assert first[names().index("sigmoid")][-2:] == ["1", "1"]
