"""The plots show what the formulas say, and leave the rest of matplotlib alone."""

import importlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import Arctan, InvSquareGrad, Sigmoid, Surrogate, learnable, names, rescaled
from spikegrad.network import Activity
from spikegrad.reports.plot import activity, plot, raster, traces


def curves(axes):
    return {
        line.get_label(): line.get_xydata().T
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_the_curves_are_the_step_the_primals_and_the_slopes():
    left, right = plot(Sigmoid(alpha=3.0), Arctan(alpha=2.0)).axes
    x, y = curves(left)["Sigmoid(alpha=3.0)"]
    assert (x[0], x[-1], len(x)) == (-4, 4, 2001)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-3 * x)), rtol=1e-5)
    assert np.array_equal(curves(left)["step"][1], x >= 0)
    np.testing.assert_allclose(
        curves(left)["Arctan(alpha=2.0)"][1],
        0.5 + np.arctan(np.pi * x) / np.pi,
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        curves(right)["Arctan(alpha=2.0)"][1], 1 / (1 + (np.pi * x) ** 2), rtol=1e-5
    )
    assert set(curves(right)) == {"Sigmoid(alpha=3.0)", "Arctan(alpha=2.0)"}
    for axes in (left, right):  # grey lines through the threshold
        assert sum(not any(line.get_xdata()) for line in axes.lines) == 1
        assert sum(not any(line.get_ydata()) for line in axes.lines) == 1


def test_many_curves_are_distinguishable():
    surrogates = [learnable(Sigmoid(jnp.float32(n + 1))) for n in range(len(names()))]
    lines = [line for line in plot(*surrogates).axes[1].lines if str(line.get_label())[0] != "_"]
    assert (
        len({(line.get_color(), line.get_linestyle()) for line in lines})
        == len(lines)
        == len(names())
    )


def test_where_and_how_large():
    assert (
        curves(plot(InvSquareGrad(alpha=100.0)).axes[1])["InvSquareGrad(alpha=100.0)"][0].max()
        < 0.3
    )
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


@pytest.mark.slow
def test_pyplot_is_not_touched(tmp_path):
    code = "import sys; from spikegrad import Sigmoid; from spikegrad.reports.plot import plot; "
    code += (
        f"plot(Sigmoid()).savefig({str(tmp_path / 'a.svg')!r}); sys.exit('matplotlib.pyplot' "
        f"in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_without_matplotlib_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "spikegrad.reports.plot")
    with pytest.raises(
        ModuleNotFoundError,
        match=r"reports.plot needs matplotlib: pip install '.\[plot\]' in a clone",
    ):
        importlib.import_module("spikegrad.reports.plot")


def test_long_numbers_are_short_in_the_legend():
    figure = plot(rescaled(Sigmoid(), peak=1.0, half_width=0.3), Arctan(2.0))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["1 * stretched(Sigmoid(alpha=4.0), 0.6808)", "Arctan(alpha=2.0)"]


RNG = np.random.default_rng(5)
STEPS, EXAMPLES = 40, 3
SPIKES = (RNG.random((STEPS, EXAMPLES, 2, 4)) < 0.1).astype(np.float32)
MASK = np.arange(STEPS)[:, None] < np.array([40, 25, 40])


def drawn(axes):
    """Step, neuron and color of each spike."""
    (lines,) = axes.collections
    colors = lines.get_colors()
    return {
        (float(low[0]), (low[1] + high[1]) / 2): tuple(colors[i % len(colors)])
        for i, (low, high) in enumerate(lines.get_segments())
    }


def test_marks_of_many_neurons_are_seen():
    """At least 1.5 points in both directions."""
    spikes = RNG.random((100, 784)) < 0.01
    figure = raster(spikes)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (lines,) = axes.collections
    low, high = np.asarray(lines.get_segments())[0]
    size = axes.transData.transform(high) - axes.transData.transform(low)
    assert size[1] * 72 / figure.dpi >= 1.5
    assert min(lines.get_linewidths()) >= 1.5


def test_a_raster_has_a_line_for_each_spike_and_the_axes_of_the_whole():
    flat = SPIKES[:, 1].reshape(STEPS, 8)
    (axes,) = raster(SPIKES, example=1).axes
    assert set(drawn(axes)) == set(zip(*map(np.ndarray.tolist, np.nonzero(flat)), strict=True))
    for spikes in (flat, np.zeros_like(flat)):
        (axes,) = raster(spikes).axes
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 39.5), (-0.5, 7.5))
    signs = drawn(raster(np.array([[0, 2], [-1, 0]])).axes[0])
    assert signs[0, 1] != signs[1, 0] == (1, 0, 0, 1)
    assert raster(flat[:, 0]).axes[0].get_ylim() == (-0.5, 0.5)


def test_traces_show_the_chosen_neurons_of_one_example():
    u = RNG.normal(size=(STEPS, EXAMPLES, 5))
    spikes = u > 1
    current, potential, below = traces(
        (u, None), spikes, 2 * u, threshold=1.0, neurons=(4, 0, 9), example=2
    ).axes
    for axes, factor in ((current, 2), (potential, 1)):
        for line, n in zip(axes.lines, (4, 0), strict=False):
            np.testing.assert_array_equal(line.get_ydata(), factor * u[:, 2, n])
    assert potential.lines[2].get_ydata() == [1.0, 1.0]  # the threshold
    assert {t for t, row in drawn(below) if row == 0} == set(
        np.flatnonzero(spikes[:, 2, 4]).tolist()
    )
    assert [label.get_text() for label in below.get_yticklabels()] == ["4", "0"]
    assert len(traces(u).axes) == 1


def test_activity_draws_spikes_lines_and_images_with_grey_steps_that_are_not_valid():
    real = RNG.normal(size=(STEPS, EXAMPLES, 3))
    wide = RNG.normal(size=(STEPS, EXAMPLES, 20))
    figure = activity({"inputs": SPIKES, "wide": wide, "out": Activity(real)}, example=1, mask=MASK)
    spikes, image, lines, _ = figure.axes  # and the bar of colors
    assert (
        spikes.get_title(loc="left")
        == f"inputs, {(SPIKES[:, 1] != 0).mean():.3f} spikes per neuron and step"
    )
    np.testing.assert_array_equal(image.images[0].get_array(), wide[:, 1].T)
    np.testing.assert_array_equal([line.get_ydata() for line in lines.lines], real[:, 1].T)
    for axes in (spikes, image, lines):
        (grey,) = axes.patches
        assert (grey.get_x(), grey.get_x() + grey.get_width()) == (24.5, 39.5)
        assert axes.get_xlim() == (-0.5, 39.5)
    assert not activity({"inputs": SPIKES}, mask=MASK).axes[0].patches


def test_activity_does_not_count_spikes_in_outputs_of_zeros():
    """They are of a silent layer, or of a readout below one."""
    spikes, zeros = activity({"in": SPIKES, "readout": np.zeros((STEPS, EXAMPLES, 3))}).axes
    assert "spikes per neuron and step" in spikes.get_title(loc="left")
    assert zeros.get_title(loc="left") == "readout, all outputs are 0"
    assert not drawn(zeros)


def test_plots_of_activity_reject_invalid_arguments():
    with pytest.raises(ValueError, match=r"raster: mask must have 40 steps, got shape \(3,\)"):
        raster(SPIKES, mask=MASK[0])
