"""Plots of surrogates, of the graph of a network, and of the activity that it returns.

The figures are not registered with ``matplotlib.pyplot``. Save them with ``savefig``. A notebook
shows them after ``%matplotlib inline``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike

from .._checks import needed
from .._surrogate import Surrogate
from ..network import Activity, Network

with needed("spikegrad.reports.plot", "matplotlib", "plot"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.ticker import MaxNLocator

__all__ = ["activity", "graph", "plot", "raster", "traces"]

_DASHES = ("-", "--", "-.", ":")


def plot(
    *surrogates: Surrogate,
    x: ArrayLike | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw surrogates: spikes and smooth steps on the left, slopes on the right.

    Parameters
    ----------
    *surrogates : Surrogate
        One or more surrogates. Array parameters must broadcast to ``x``. Surrogates without
        ``surrogate_fun`` are drawn only on the right.
    x : array_like, optional
        The values of the horizontal axis, the potential minus the threshold, ``(points,)``, in
        ascending order. By default 2001 points from -4 to 4, or from a smaller range if all slopes
        are narrow.
    figsize : tuple of float, optional
        Width and height of the figure in inches. By default 7 by 2.6, and the height of the legend
        in addition.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Save it with its method ``savefig``. A notebook shows it after ``%matplotlib
        inline``. ``matplotlib.pyplot.show()`` does not show it.

    Examples
    --------
    >>> from spikegrad import Arctan, Sigmoid
    >>> from spikegrad.reports.plot import plot
    >>> figure = plot(Sigmoid(), Arctan(alpha=2.0))
    >>> [axes.get_title() for axes in figure.axes]
    ['step (grey) and smooth step', 'slope']
    """
    # Two columns if the names are short.
    longest = max(len(_named(surrogate)) for surrogate in surrogates)
    columns = 2 if longest < 45 else 1
    rows = -(-len(surrogates) // columns)  # rounded up
    height = 2.6 + 0.19 * rows
    figure = Figure(figsize=figsize or (7, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, right, surrogates, x)
    # The right panel has a line of every surrogate, the left one only of those with a smooth step.
    figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )
    return figure


def draw(
    left: Axes,
    right: Axes,
    surrogates: tuple[Surrogate, ...],
    x: ArrayLike | None = None,
) -> None:
    """Draw the two panels of :func:`plot` in existing axes."""
    x = _around(surrogates) if x is None else np.asarray(x)
    x = x.astype(np.float32)
    left.plot(x, x >= 0, color="0.6", lw=1.2, label="step", zorder=1)
    for i, surrogate in enumerate(surrogates):
        style = {
            "color": f"C{i}",
            # The colors repeat after ten.
            "ls": _DASHES[i // 10 % len(_DASHES)],
            "lw": 1.6,
            "label": _named(surrogate),
        }
        # Some surrogates define only the slope.
        with contextlib.suppress(NotImplementedError):
            left.plot(x, surrogate.surrogate_fun(x), **style)
        right.plot(x, surrogate.surrogate_grad(x), **style)
    for axes, title in ((left, "step (grey) and smooth step"), (right, "slope")):
        axes.axvline(0, color="0.5", alpha=0.3, lw=0.8, zorder=0)
        axes.axhline(0, color="0.5", alpha=0.3, lw=0.8, zorder=0)
        axes.margins(x=0)
        tidy(axes, title, "potential − threshold")


def tidy(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Label a panel, and remove its upper and right edges."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _named(surrogate: Surrogate) -> str:
    """Return the text of a surrogate, with long decimals rounded to four digits."""
    long_decimal = r"\d+\.\d{5,}(e-?\d+)?"

    def rounded(match: re.Match) -> str:
        return f"{float(match[0]):.4g}"

    return re.sub(long_decimal, rounded, repr(surrogate))


def _around(surrogates: tuple[Surrogate, ...]) -> np.ndarray:
    """Return points from -4 to 4.

    Divide this range by 4 while all slopes fill less than an eighth of it.
    """
    # The usual slopes have half-widths of 0.2 to 1.
    x = np.linspace(-4, 4, 2001)

    def narrow(surrogate: Surrogate) -> bool:
        slope = np.asarray(surrogate.surrogate_grad(np.float32(x)))
        size = np.abs(slope)
        # Beyond the inner eighth, the slope is below a tenth of its peak.
        is_outside = np.abs(x) > x[-1] / 8
        is_small = size < size.max() / 10
        return bool(is_small[is_outside].all())

    # The bound ends the loop for slopes of zero.
    while x[-1] > 1e-3 and all(narrow(s) for s in surrogates):
        x = x / 4
    return x


def raster(
    spikes: ArrayLike,
    *,
    example: int = 0,
    mask: ArrayLike | None = None,
    figsize: tuple[float, float] = (7, 2.6),
) -> Figure:
    """Draw the spikes of one example: time on the horizontal axis, a row for each neuron, and a
    mark for each spike.

    Parameters
    ----------
    spikes : array_like
        Outputs of a layer: ``(steps, examples, neurons...)``, ``(steps, neurons)`` or ``(steps,)``.
        Each value other than 0 is a spike. Negative spikes are red.
    example : int, default 0
        Number of the example to draw, if the spikes have an axis of examples.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding, which is
        drawn in grey.
    figsize : tuple of float, default (7, 2.6)
        Width and height of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Its axes contain all time steps and neurons, also without spikes.

    Raises
    ------
    IndexError, ValueError
        If the example does not exist, or if ``mask`` does not fit the spikes.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.reports.plot import raster
    >>> _, spikes = Network([Layer(jnp.ones((3, 8)) / 8, LIF(0.9))])(
    ...     jnp.ones((100, 4, 3))
    ... )
    >>> figure = raster(spikes, example=2)
    >>> print(*figure.axes[0].get_xlim())
    -0.5 99.5
    """
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots()
    draw_spikes(axes, _of_example(spikes, example))
    _finish("raster", [axes], spikes, example, mask)
    return figure


def traces(
    potentials: ArrayLike | tuple,
    spikes: ArrayLike | None = None,
    currents: ArrayLike | None = None,
    *,
    threshold: float | None = None,
    neurons: Sequence[int] = (0, 1, 2),
    example: int = 0,
    mask: ArrayLike | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw the potentials of some neurons of one example over time, and optionally their input
    currents and spikes.

    Parameters
    ----------
    potentials : array_like or tuple of them
        States before the spike from :meth:`spikegrad.Network.observe` (``pre_spike``), whose first
        array is the potential, or outputs of a readout. The shape is as in :func:`raster`.
    spikes, currents : array_like, optional
        Spikes and input currents of the layer, of the shape of the potentials. Each has a panel,
        only if you pass it.
    threshold : float, optional
        The threshold, which is drawn as a dashed line among the potentials.
    neurons : sequence of int, default (0, 1, 2)
        Numbers of the neurons to draw, counted over all axes of neurons. Numbers that the layer
        does not have are ignored.
    example, mask
        Number of the example to draw, and valid time steps, as in :func:`raster`.
    figsize : tuple of float, optional
        Width and height of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As in :func:`raster`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.reports.plot import traces
    >>> network = Network([Layer(jnp.ones((3, 8)) / 8, LIF(0.9))])
    >>> layer = network.observe(jnp.ones((100, 4, 3)))[1][0]
    >>> len(traces(layer.potential, layer.output, threshold=1.0).axes)
    2
    """
    # The first array of a state is the potential.
    u = potentials[0] if isinstance(potentials, tuple) else potentials
    parts = {"current": currents, "potential": u, "spikes": spikes}
    # (steps, neurons) for each panel, in the order of cause and effect.
    arrays = {
        name: _of_example(x, example) for name, x in parts.items() if x is not None
    }
    count = arrays["potential"].shape[1]
    chosen = [n for n in neurons if 0 <= n < count]
    # Rows of spikes need less room than curves.
    heights = [0.8 if name == "spikes" else 1.6 for name in arrays]
    figure, panels = _stack(heights, figsize)
    for axes, (name, x) in zip(panels, arrays.items(), strict=True):
        if name == "spikes":
            # A neuron has one color in all panels.
            colors = [f"C{i}" for i in range(len(chosen))]
            draw_spikes(axes, x[:, chosen], colors)
            axes.set_yticks(range(len(chosen)), chosen)
            continue
        for i, n in enumerate(chosen):
            axes.plot(x[:, n], color=f"C{i}", lw=1.2, label=f"neuron {n}")
        axes.set_ylabel(name, fontsize=8)
        if name == "potential" and threshold is not None:
            axes.axhline(threshold, color="0.4", lw=0.8, ls="--")
    panels[0].legend(
        fontsize=8,
        frameon=False,
        ncols=6,
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )
    _finish("traces", panels, u, example, mask)
    return figure


def activity(
    layers: Mapping[str, ArrayLike | Activity],
    *,
    example: int = 0,
    mask: ArrayLike | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw the activity of a network for one example: a panel for the inputs and a panel for each
    layer.

    In each panel, the horizontal axis is time. Spikes and other whole numbers are drawn as marks,
    one row for each neuron. The title of the panel has the number of spikes per neuron and time
    step. Real numbers, such as potentials, are drawn as lines, or as an image for more than 12
    neurons. A panel without spikes is empty, and its title says so.

    Parameters
    ----------
    layers : mapping of array_like or Activity
        A mapping from the title of each panel to its array ``(steps, examples, neurons...)``, or to
        the activity of a layer from :meth:`spikegrad.Network.observe`. For an activity, its outputs
        are drawn.
    example, mask
        Number of the example to draw, and valid time steps, as in :func:`raster`.
    figsize : tuple of float, optional
        Width and height of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As in :func:`raster`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, LeakyReadout, Network
    >>> from spikegrad.reports.plot import activity
    >>> network = Network.init(
    ...     jax.random.key(0), 20, (30, 4), LIF(0.9), LeakyReadout(0.9), rate=0.1
    ... )
    >>> inputs = jax.random.bernoulli(jax.random.key(1), 0.1, (80, 2, 20))
    >>> _, observed = network.observe(inputs)
    >>> len(activity({"inputs": inputs, **observed}, example=1).axes)
    3
    """
    outputs = [x.output if isinstance(x, Activity) else x for x in layers.values()]
    arrays = [_of_example(x, example) for x in outputs]
    figure, panels = _stack([1.4] * len(layers), figsize)
    draw_activity(panels, [*layers], arrays, example, mask)
    return figure


def _stack(
    heights: Sequence[float], figsize: tuple[float, float] | None
) -> tuple[Figure, np.ndarray]:
    """Return a figure with a column of panels of these heights in inches, over one time axis."""
    size = figsize or (7, 0.6 + sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    # squeeze=False, because one panel would not be an array.
    panels = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )
    return figure, panels[:, 0]


def draw_activity(
    panels: Sequence[Axes] | np.ndarray,
    names: Sequence[str],
    arrays: Sequence[np.ndarray],
    example: int = 0,
    mask: ArrayLike | None = None,
) -> None:
    """Draw the panels of :func:`activity` in existing axes. An array is ``(steps, neurons)``."""
    for axes, name, x in zip(panels, names, arrays, strict=True):
        if (x == np.rint(x)).all():
            draw_spikes(axes, x)
            text = f"{(x != 0).mean():.3f} spikes per neuron and step"
            if not x.any():  # a silent layer, or a readout below one
                text = "all outputs are 0"
            name = f"{name}, {text}"
        elif x.shape[1] <= _LINES:
            axes.set_ylabel("output", fontsize=8)
            for n, line in enumerate(x.T):
                # Matplotlib has ten colors, so the dashes tell line 0 from line 10.
                dashes = _DASHES[n // 10]
                axes.plot(line, lw=1.2, color=f"C{n}", ls=dashes, label=str(n))
            axes.legend(
                fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
            )
        else:
            # (neurons, steps), the first neuron at the bottom as in a raster.
            image = axes.imshow(
                x.T,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
            )
            axes.figure.colorbar(image, ax=axes)
        axes.set_title(name, fontsize=9, loc="left")
    _finish("activity", panels, arrays[0], example, mask)


_LINES = 12
"""Maximum number of neurons with real outputs as lines. Outputs of more neurons are an image."""


_MARKS, _WIDTH = 80, 200.0
"""Rows of marks that a panel has room for, and points of the marks of all its steps."""


def _of_example(x: ArrayLike | None, example: int) -> np.ndarray:
    """Return one example of ``(steps, examples, neurons...)`` as ``(steps, neurons)``."""
    # Matplotlib does not take bfloat16.
    x = np.asarray(x, np.float64)
    if x.ndim > 2:
        x = x[:, example]
    return x.reshape(len(x), -1)


def draw_spikes(
    axes: Axes, spikes: np.ndarray, colors: Sequence[str] | None = None
) -> None:
    """Draw a vertical line for each nonzero value of ``(steps, neurons)``."""
    steps, neurons = spikes.shape
    # At least about two points tall in a panel of usual height, or marks of many neurons vanish.
    half = max(0.5, neurons / _MARKS)
    # One call for all lines, because a layer may have 100,000 spikes.
    t, n = np.nonzero(spikes)
    of_neurons = np.asarray(colors or ["black"] * neurons)
    is_negative = spikes[t, n] < 0
    line_colors = np.where(is_negative, "red", of_neurons[n])
    # Most of the width of a step in a panel of usual width.
    width = np.clip(_WIDTH / max(steps, 1), 1.5, 5.0)
    axes.vlines(
        t,
        n - half,
        n + half,
        linewidth=float(width),
        colors=line_colors.tolist(),
    )
    axes.set_ylim(-0.5, neurons - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("neuron", fontsize=8)


def _finish(
    owner: str,
    panels: Sequence[Axes] | np.ndarray,
    like: ArrayLike,
    example: int,
    mask: ArrayLike | None,
) -> None:
    """Set the time axis to the steps of the sequence, and shade the invalid steps."""
    steps = len(np.asarray(like))
    # (steps,) or (steps, examples)
    valid = np.ones(steps, bool) if mask is None else np.asarray(mask)
    if valid.ndim > 1:
        valid = valid[:, example]
    if valid.shape != (steps,):
        raise ValueError(
            f"{owner}: mask must have {steps} steps, got shape {valid.shape}"
        )
    # The first and last steps are framed by valid ones, so starts and ends of masked intervals
    # come in pairs.
    framed = np.concatenate([[True], valid, [True]])
    edges = np.flatnonzero(np.diff(framed))
    for axes in panels:
        for start, stop in edges.reshape(-1, 2):
            axes.axvspan(
                start - 0.5, stop - 0.5, color="0.5", alpha=0.15, lw=0, zorder=0
            )
        axes.set_xlim(-0.5, steps - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time step", fontsize=8)


def graph(network: Network, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw the layers, the joins and the connections of a network.

    Parameters
    ----------
    network : Network
        The network. Layers of a list have their numbers as names.
    figsize : tuple of float, optional
        Width and height of the figure in inches. By default they fit the network.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Layers are boxes with the class of their cell, joins are rounded boxes, and
        inputs have no frame. A box is to the right of the sources that it reads without a delay.
        Dashed lines are connections with a delay, and show the delay in time steps.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network
    >>> from spikegrad.reports.plot import graph
    >>> w = jnp.ones((3, 3))
    >>> network = Network({
    ...     "a": Layer({"input": w, "b": Delayed(w, 2)}, LIF()),
    ...     "b": Layer(w, LIF(), of="a"),
    ...     "sum": Join(jnp.add, ("a", "b")),
    ...     "out": Layer(w, LeakyReadout()),
    ... })
    >>> figure = graph(network)
    >>> sorted(filter(None, (text.get_text() for text in figure.axes[0].texts)))
    ['2', 'a\\nLIF', 'b\\nLIF', 'input', 'out\\nLeakyReadout', 'sum']
    """
    wires = network.graph
    # The nodes are in the order of a step, so the columns of all sources are known.
    columns = dict.fromkeys(wires.inputs, 0)
    for name, edges in wires.edges.items():
        # A delayed edge may lead back to an earlier node, so it does not set the column.
        before = [columns[edge.source] for edge in edges if 0 in edge.lags]
        columns[name] = 1 + max(before, default=0)
    rows: dict[int, list[str]] = {}
    for name, column in columns.items():
        rows.setdefault(column, []).append(name)
    tallest = max(map(len, rows.values()))
    width = 1.45 * len(rows)
    height = 0.8 * tallest + 0.1 * len(rows) + 0.8
    figure = Figure(figsize=figsize or (width, height), layout="constrained")
    axes = figure.add_subplot()
    boxes = {}
    for column, members in rows.items():
        for n, name in enumerate(members):
            text = name
            shape = "round"
            if name in wires.layers:
                shape = "square"
                text = f"{name}\n{type(wires.layers[name].cell).__name__}"
            edge = "none" if name in wires.inputs else "black"
            frame = {"boxstyle": f"{shape},pad=0.35", "fc": "white", "ec": edge}
            x = 1.9 * column
            y = (len(members) - 1) / 2 - n  # The rows of a column are centered.
            boxes[name] = axes.text(
                x, y, text, ha="center", va="center", fontsize=9, bbox=frame
            )
    # One arrow for all edges between two nodes, such as those of a window.
    for name, edges in wires.edges.items():
        lags_by_source: dict[str, list[int]] = {}
        for edge in edges:
            lags_by_source.setdefault(edge.source, []).extend(edge.lags)
        for source, lags in lags_by_source.items():
            _connect(axes, boxes[source], boxes[name], lags)
    widest = 1.9 * (len(rows) - 1)
    bottom = -tallest / 2 - 0.6
    top = tallest / 2 + 0.3 + 0.08 * widest
    axes.set(xlim=(-0.8, widest + 1.0), ylim=(bottom, top), aspect="equal")
    axes.set_axis_off()
    return figure


def _connect(axes: Axes, start: Text, end: Text, lags: list[int]) -> None:
    """Draw an edge between two boxes, with its delays. It is dashed if all its lags are above 0."""
    is_now = min(lags) == 0
    x, y = start.get_position()
    to_x, to_y = end.get_position()
    if start is end:
        # From the right part of the lower edge to its left part.
        x += 0.25
        to_x -= 0.25
        y -= 0.2
        to_y -= 0.2
    dx = to_x - x
    dy = to_y - y
    length = math.hypot(dx, dy)
    is_to_next = 0 < dx < 2
    # A line to the next column is straight. Other lines bend around the nodes in between, and lines
    # to the left pass below them.
    height = 0.0 if is_to_next and is_now else 0.3 + 0.08 * length
    # The middle of an arc3 curve is rad * length / 2 from the straight line.
    rad = -2 * height / length
    arrow = {
        "arrowstyle": "-|>",
        "connectionstyle": f"arc3,rad={rad}",
        "linestyle": "-" if is_now else (0, (4, 3)),
        "fc": "black",
        "patchA": start.get_bbox_patch(),
        "patchB": end.get_bbox_patch(),
    }
    axes.annotate("", (to_x, to_y), (x, y), arrowprops=arrow)
    if max(lags) > 0:
        first_and_last = sorted({min(lags), max(lags)})
        text = "-".join(map(str, first_and_last))
        middle_x = (x + to_x + rad * dy) / 2
        middle_y = (y + to_y - rad * dx) / 2
        frame = {"fc": "white", "ec": "none", "pad": 1}
        axes.text(
            middle_x,
            middle_y,
            text,
            ha="center",
            va="center",
            fontsize=8,
            bbox=frame,
        )
