"""The plots show what the formulas say, and leave the rest of matplotlib alone."""

import subprocess
import sys

import numpy as np
import pytest

from spikegrad import Arctan, InvSquareGrad, Sigmoid, Surrogate, fitted, get, names
from spikegrad.inspect.plot import plot


def curves(axes):
    return {line.get_label(): line.get_xydata().T for line in axes.lines if not line.get_label().startswith("_")}


def test_the_curves_are_the_step_the_primals_and_the_slopes():
    left, right = plot(Sigmoid(alpha=3.0), Arctan(alpha=2.0)).axes
    x, y = curves(left)["Sigmoid(alpha=3.0)"]
    assert (x[0], x[-1], len(x)) == (-4, 4, 2001)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-3 * x)), rtol=1e-5)
    assert np.array_equal(curves(left)["step"][1], x >= 0)
    np.testing.assert_allclose(
        curves(left)["Arctan(alpha=2.0)"][1], 0.5 + np.arctan(np.pi * x) / np.pi, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(curves(right)["Arctan(alpha=2.0)"][1], 1 / (1 + (np.pi * x) ** 2), rtol=1e-5)
    assert set(curves(right)) == {"Sigmoid(alpha=3.0)", "Arctan(alpha=2.0)"}


def test_all_of_them_draw_distinguishably(tmp_path):
    figure = plot(*map(get, names()))
    figure.savefig(tmp_path / "all.png")
    styles = [(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines if line.get_label()[0] != "_"]
    assert len(set(styles)) == len(styles) == len(names())


def test_where_and_how_large():
    assert curves(plot(InvSquareGrad(alpha=100.0)).axes[1])["InvSquareGrad(alpha=100.0)"][0].max() < 0.3
    both = curves(plot(InvSquareGrad(alpha=100.0), Sigmoid()).axes[1])
    assert both["Sigmoid(alpha=4.0)"][0].max() == 4
    figure = plot(Sigmoid(), x=[-1, 0, 1], figsize=(5, 2))
    assert curves(figure.axes[1])["Sigmoid(alpha=4.0)"][0].tolist() == [-1, 0, 1]
    assert figure.get_size_inches().tolist() == [5, 2]


def test_a_slope_alone_is_drawn():
    class Box(Surrogate):
        def surrogate_grad(self, x):
            return abs(x) < 0.5

    left, right = plot(Box()).axes
    assert list(curves(left)) == ["step"]
    assert curves(right)["Box()"][1].max() == 1


def test_errors():
    with pytest.raises(ValueError, match="plot: give at least one surrogate"):
        plot()
    with pytest.raises(ValueError, match=r"plot: x must have one dimension, got shape \(2, 2\)"):
        plot(Sigmoid(), x=np.zeros((2, 2)))


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_pyplot_is_not_touched(tmp_path):
    done = run(
        f"import sys; from spikegrad import Sigmoid; from spikegrad.inspect.plot import plot; "
        f"plot(Sigmoid()).savefig({str(tmp_path / 'a.svg')!r}); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_without_matplotlib_the_way_to_install_it_is_told():
    done = run("import sys; sys.modules['matplotlib'] = None; import spikegrad.inspect.plot")
    assert (
        "ModuleNotFoundError: spikegrad.inspect.plot needs matplotlib: pip install '.[plot]' in a clone" in done.stderr
    )


def test_long_numbers_are_short_in_the_legend():
    figure = plot(fitted(Sigmoid(), height=1.0, width=0.3), Arctan(2.0))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["1 * stretched(Sigmoid(alpha=4.0), 0.6808)", "Arctan(alpha=2.0)"]
