"""Pictures of the README and of the galleries.

The documentation draws the galleries when it is built. ``python docs/pictures.py`` draws the README's picture into
``docs/_static``.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

import spikegrad
from spikegrad import Arctan, neurons
from spikegrad.reports.plot import tidy, traces
from spikegrad.training import Online

HERE = Path(__file__).parent
SHOWN = 1  # the test image of the README's picture
STEPS, ON, OFF = 160, 20, 120  # a current flows from step ON to step OFF
CURRENT = 0.2
SETTINGS = {  # parameters and current of a cell, if the defaults and CURRENT do not make it fire
    "AdEx": ({}, 0.3),
    "AdLIF": ({}, 8.0),
    "BRF": ({}, 25.0),
    "CLIF": ({}, 0.6),
    "EIF": ({"sharpness": 0.25}, 0.8),
    "EulerAdLIF": ({}, 8.0),
    "HRF": ({}, 25.0),
    "Izhikevich": ({}, 10.0),
    "MPBN": ({"mean": 0.0, "var": 1.0}, 0.38),
    "MultiSynapticLIF": ({"synaptic_decay": jnp.array([0.5, 0.95])}, [0.01, 0.01]),
    "QIF": ({}, 0.6),
    "RF": ({}, 12.0),
    "Refractory": ({"cell": spikegrad.LIF(), "steps": 10}, 0.2),
    "SymplecticAdLIF": ({}, 12.0),
    "SynapticAdaptiveLIF": ({}, 0.06),
    "SynapticLIF": ({}, 0.04),
    "TCLIF": ({}, 0.3),
}


def neuron(name):
    """A step of current, and the potential and the spikes of a cell."""
    parameters, size = SETTINGS.get(name, ({}, CURRENT))
    cell = getattr(neurons, name)(**parameters)
    n = np.arange(STEPS)
    currents = jnp.multiply.outer((n >= ON) & (n < OFF), jnp.asarray(size))  # (steps,) or (steps, receptors)
    potential, threshold, outs = response(cell, currents)
    fires = threshold is not None  # the output of a readout is its potential
    parts = [potential, outs if fires else None, currents.reshape(STEPS, -1).sum(1)]
    figure = traces(*(x if x is None else x[:, None] for x in parts), neurons=[0], figsize=(3.2, 2.6))
    top, middle, *_ = figure.axes
    top.get_legend().remove()
    top.lines[0].set_drawstyle("steps-post")
    top.set_xticks(range(0, STEPS, 40))
    if fires:
        middle.plot(threshold, color="0.4", lw=0.8, ls="--")
        figure.axes[-1].set_yticks([])
        figure.axes[-1].set_ylabel("spikes", fontsize=8)
    plt.figure(figure)


def response(cell, currents):
    """The first array of the state before the spike, the threshold if the cell fires, and the output, at each step."""

    def step(v, current):
        u = cell.integrate(v, current)
        v, out = cell.fire(u)
        potential, distance = jax.tree.leaves(u)[0], cell.encode(u)[0]
        return v, (potential, None if distance is None else potential - distance, out)

    return jax.lax.scan(step, cell.initial_state(currents.shape[1:], currents.dtype), currents)[1]


def surrogate(name):
    """Step, smooth step and slope of a surrogate with its default parameters."""
    axes = plt.figure(figsize=(2.7, 1.9), layout="constrained").subplots()
    fire = getattr(spikegrad.surrogates, name)()
    width = spikegrad.measure(fire).half_width
    reach = 2 * width if 1 < width < np.inf else 2
    draw(axes, fire, np.linspace(-reach, reach, 801, dtype=np.float32))
    low, high = axes.dataLim.intervaly
    high = min(high, 3)  # one of them is an exponential
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def draw(axes, fire, x):
    axes.plot(x, x >= 0, color="0.6", lw=1.2, label="step")
    axes.plot(x, fire.surrogate_grad(x), color="C1", lw=1.8, label="slope")
    axes.margins(x=0)
    tidy(axes, "", "potential − threshold")


def training():
    """Run the program of the README: potentials of one image before and after training, and the accuracy."""
    program = re.search(r"```python\n(.*?)```", (HERE.parent / "README.md").read_text(), re.DOTALL)[1]
    before, loop, after = program.partition("for _ in")
    space = {}
    exec(before, space)
    untrained = space["network"]
    exec(loop + after, space)
    label = space["test"].y[SHOWN]
    current = space["current"](space["test"].x[0])[:, SHOWN : SHOWN + 1]
    figure = plt.figure(figsize=(8, 2.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    middle.sharey(left)
    for axes, network, title in (
        (left, untrained, "before training"),
        (middle, space["network"], "after training"),
    ):
        for digit, line in enumerate(network(current)[1][:, 0].T):
            is_label = digit == label
            axes.plot(line, lw=2.4 if is_label else 1, color="C1" if is_label else "C0", zorder=2 + is_label)
        tidy(axes, title, "time step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("ten potentials, orange is right", fontsize=8)
    right.plot(100 * np.array(space["curve"]), color="C0", lw=1.8)
    right.set_ylim(0, 100)
    tidy(right, "test accuracy, %", "update")


def eligibility():
    """Input spikes of one synapse, potential and spikes of its neuron, and the two traces of e-prop."""
    steps, threshold = 120, 1.0
    inputs = np.zeros((steps, 1, 2), np.float32)
    inputs[[8, 14, 20, 52, 57, 62, 67, 90], 0, 0] = 1
    inputs[:, 0, 1] = 0.06  # another synapse, a constant current
    cell = spikegrad.LIF(0.93, threshold, Arctan(2.0), detach_reset=True)
    hidden = spikegrad.Layer(jnp.array([[0.25], [1.0]]), cell)
    out = spikegrad.Layer(jnp.ones((1, 1)), spikegrad.LeakyReadout(0.93))
    online = Online(spikegrad.Network({"hidden": hidden, "out": out}))
    carry, rows = online.start(inputs[0]), []
    step = jax.jit(lambda carry, x: online.step(carry, x, 0.0, lambda out, target: out.sum() - target))
    for x in inputs:
        carry, *_ = step(carry, x)
        potential, spikes = carry.states["hidden"]
        traces = carry.traces["hidden"]
        rows.append([potential[0, 0], spikes[0, 0], traces.state[0, 0, 0], traces.filtered["out"][0, 0, 0]])
    potential, spikes, state, filtered = np.array(rows).T
    figure, axes = plt.subplots(
        4, 1, figsize=(6.6, 4.4), sharex=True, layout="constrained", height_ratios=[0.5, 2, 1.5, 1.5]
    )
    axes[0].vlines(np.flatnonzero(inputs[:, 0, 0]), 0, 1, color="C0", lw=1.8)
    axes[1].plot(potential, color="0.3", lw=1.6)
    axes[1].vlines(np.flatnonzero(spikes), 1.1, 1.4, color="C3", lw=1.8)
    axes[1].axhline(threshold, color="0.6", lw=1, ls="--")
    axes[2].plot(state, color="C2", lw=1.6)
    axes[3].plot(filtered, color="C1", lw=1.6)
    for ax, title in zip(
        axes, ("input", "potential, spikes", "trace of the state", "trace of the readout"), strict=True
    ):
        tidy(ax, "", "")
        ax.set_title(title, fontsize=9, loc="left")
        ax.margins(x=0.01)
    axes[0].set_yticks([])
    axes[-1].set_xlabel("time step", fontsize=8)
    plt.figure(figure)


if __name__ == "__main__":
    import matplotlib as mpl

    grey = "#808080"  # on light and dark pages
    colors = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), grey)
    with mpl.rc_context(colors | {"svg.hashsalt": "spikegrad", "font.family": "DejaVu Sans"}):
        training()
        plt.savefig(HERE / "_static" / "training.svg", transparent=True, metadata={"Date": None})
