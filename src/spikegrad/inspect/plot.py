"""Plots of surrogates: the step, the smooth primals, and the slopes that are used backward."""

from __future__ import annotations

import contextlib
import re

import numpy as np
from jax.typing import ArrayLike

from .._surrogate import Surrogate

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "spikegrad.inspect.plot needs matplotlib: pip install '.[plot]' in a clone of spikegrad", name="matplotlib"
    ) from error

__all__ = ["plot"]

_DASHES = ("-", "--", "-.", ":")


def plot(*surrogates: Surrogate, x: ArrayLike | None = None, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw surrogates: the step and the primals on the left, the slopes on the right.

    Parameters
    ----------
    *surrogates : Surrogate
        One or more. Their parameters must broadcast to ``x``. One without ``surrogate_fun`` is drawn as a slope alone.
    x : array_like, optional
        Where to draw them, ``(points,)``, ascending; by default 2001 points from -4 to 4, or closer about 0 if all
        slopes are steep.
    figsize : tuple of float, optional
        Width and height in inches; by default 7 by 2.6, and higher where the legend needs it.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to ``matplotlib.pyplot``: save it with ``savefig``. Notebooks show it as it is.

    Raises
    ------
    ValueError
        Without a surrogate, or if ``x`` is not one-dimensional.

    Examples
    --------
    >>> from spikegrad import Arctan, Sigmoid
    >>> from spikegrad.inspect.plot import plot
    >>> figure = plot(Sigmoid(), Arctan(alpha=2.0))
    >>> [axes.get_title() for axes in figure.axes]
    ['step (grey) and primal', 'slope']
    """
    if not surrogates:
        raise ValueError("plot: give at least one surrogate")
    rows = len(surrogates) if len(surrogates) > 1 else 0
    columns = 2 if max(len(_named(s)) for s in surrogates) < 45 else 1
    rows = -(-rows // columns)
    figure = Figure(figsize=figsize or (7, 2.6 + 0.19 * rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, right, surrogates, x)
    handles, labels = right.get_legend_handles_labels()
    if rows:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    else:
        figure.suptitle(labels[0], fontsize=10)
    return figure


def draw(left: Axes, right: Axes, surrogates: tuple[Surrogate, ...], x: ArrayLike | None = None) -> None:
    """The two panels of :func:`plot`, in axes that exist."""
    x = _around(surrogates) if x is None else np.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"plot: x must have one dimension, got shape {x.shape}")
    x = x.astype(np.float32)
    left.plot(x, x >= 0, color="0.6", lw=1.2, label="step", zorder=1)
    for i, surrogate in enumerate(surrogates):
        style = {"color": f"C{i % 10}", "ls": _DASHES[i // 10 % len(_DASHES)], "lw": 1.6, "label": _named(surrogate)}
        with contextlib.suppress(NotImplementedError):  # a surrogate may consist of a slope alone
            left.plot(x, surrogate.surrogate_fun(x), **style)
        right.plot(x, surrogate.surrogate_grad(x), **style)
    left.set_title("step (grey) and primal", fontsize=9)
    right.set_title("slope", fontsize=9)
    for axes in (left, right):
        axes.axvline(0, color="0.85", lw=0.8, zorder=0)
        axes.axhline(0, color="0.85", lw=0.8, zorder=0)
        axes.set_xlabel("potential − threshold", fontsize=8)
        axes.margins(x=0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def _named(surrogate: Surrogate) -> str:
    """What is printed of it, with at most four digits of a number."""
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda found: f"{float(found[0]):.4g}", repr(surrogate))


def _around(surrogates: tuple[Surrogate, ...]) -> np.ndarray:
    """Points from -4 to 4, or from a quarter of that and so on while every slope fills but an eighth of the panel."""
    x = np.linspace(-4, 4, 2001)

    def narrow(surrogate):
        slope = np.abs(np.asarray(surrogate.surrogate_grad(np.float32(x))))
        return (slope[np.abs(x) > x[-1] / 8] < slope.max() / 10).all()

    while x[-1] > 1e-3 and all(narrow(s) for s in surrogates):
        x = x / 4
    return x
