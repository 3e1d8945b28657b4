"""Pictures of the documentation.

The documentation draws those of the galleries and of plot directives when it is built. ``python docs/pictures.py``
draws the others, the functions in :data:`FILES`, into ``docs/_static``, so that pages show them on GitHub too. Draw
them again after a change of ``benchmarks/results``.
"""

import base64
import io
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

import spikegrad
from spikegrad import (
    LIF,
    Arctan,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    diagnose,
    multi_spike,
    neurons,
    signed,
    soft,
    stochastic,
)
from spikegrad.data import load
from spikegrad.reports.plot import activity, graph, plot, tidy, traces
from spikegrad.training import Online

HERE = Path(__file__).parent
GREY = "#808080"  # on light and dark pages
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


SWEEP = """<style>
@keyframes sweep { from { clip-path: inset(0 100% 0 0) } 60%, to { clip-path: inset(0) } }
g[id^="sweep"] { animation: sweep 7s linear infinite }
@media (prefers-reduced-motion: reduce) { g[id^="sweep"] { animation: none } }
</style>"""
"""The artists whose names start with ``sweep`` appear from the left to the right."""


def training():
    """Run the program of the README: a test image as spikes, the hidden spikes and the potentials, and the accuracy."""
    program = re.search(r"```python\n(.*?)```", (HERE.parent / "README.md").read_text(), re.DOTALL)[1]
    accuracies, space = [], {}
    test = load("digits").test.as_batch()

    def note(now):
        if now.epoch_ended:
            accuracies.append(100 * space["loss"](now.state.trainable, test, space["key"])[1]["accuracy"])

    space["note"] = note
    program = program.replace("adam, key=key", "adam, callbacks=[note], key=key")
    exec(program, space)
    assert len(accuracies) == 10
    inputs = space["spikes"](test, space["key"])[:, SHOWN : SHOWN + 1]
    hidden, readout = space["state"].trainable.observe(inputs)[1].values()
    label = test.y[SHOWN]
    figure = plt.figure(figsize=(8.6, 4.3), layout="constrained")
    (pixels, neurons_), (potentials, accuracy) = figure.subplots(2, 2)
    for axes, spikes, color, title in (
        (pixels, inputs, "C0", f"inputs: spikes of 64 pixels, the image of a {label}"),
        (neurons_, hidden.output, "C3", "spikes of 100 neurons"),
    ):
        step, neuron = np.nonzero(np.asarray(spikes[:, 0]))
        axes.vlines(step, neuron - 0.5, neuron + 0.5, color=color, lw=5, gid=f"sweep-{color}")
        axes.set(xlim=(-0.5, 19.5), ylim=(-1, spikes.shape[-1]))
        tidy(axes, title, "", "pixel" if color == "C0" else "neuron")
    for digit, line in enumerate(np.asarray(readout.output[:, 0]).T):
        is_label = digit == label
        color, width = ("C1", 2.6) if is_label else (GREY, 1)
        potentials.plot(line, lw=width, color=color, zorder=2 + is_label, gid=f"sweep-{digit}")
    potentials.text(0, potentials.get_ylim()[1], f"orange: class {label}", color="C1", va="top", fontsize=9)
    potentials.set_xlim(-0.5, 19.5)
    tidy(potentials, "potentials of ten classes", "time step", "potential")
    accuracy.plot(range(1, 11), accuracies, "o-", color="C2", lw=1.8)
    accuracy.set(ylim=(0, 100))
    tidy(accuracy, "test accuracy", "epoch", "%")
    for axes in (pixels, neurons_, potentials, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def drawn_digit():
    """The picture of the live page before a reader draws: the digit, the hidden spikes and the potentials."""
    page = (HERE / "web" / "digits.html").read_text()
    numbers = re.compile(r"-?[\d.]+")
    digit = plt.imread(io.BytesIO(base64.b64decode(re.search(r"image/png;base64,([^\"]+)", page)[1])))
    ink = np.zeros((*digit.shape[:2], 4), np.float32)
    ink[..., :3], ink[..., 3] = 0.5, 1 - digit[..., 0]
    figure = plt.figure(figsize=(8.6, 2.7), layout="constrained")
    pad, spikes, potentials = figure.subplots(1, 3)
    pad.imshow(ink, interpolation="nearest")
    pad.set(xticks=[], yticks=[])
    pad.set_title("draw a digit", loc="left", fontsize=9)
    for mark in re.search(r'class="spikes" d="([^"]+)"', page)[1].split("M")[1:]:
        x, y, _ = map(float, numbers.findall(mark))
        step, neuron = (x - 32) * 20 / 236, (y - 12) * 100 / 236
        spikes.vlines(step, neuron - 0.5, neuron + 0.5, color="C3", lw=4)
    spikes.set(xlim=(-0.5, 19.5), ylim=(-1, 100))
    tidy(spikes, "spikes of 100 neurons", "time step", "neuron")
    group = re.search(r'class="digits-potentials">(.*?)</g>', page, re.DOTALL)[1]
    for best, points in re.findall(r'<path( class="best")? d="([^"]+)"', group):
        x, y = np.array(numbers.findall(points), float).reshape(-1, 2).T
        color, width = ("C1", 2.6) if best else (GREY, 1)
        potentials.plot((x - 32) * 19 / 216, 246 - y, color=color, lw=width)
    answer = re.search(r">(\d)</text>", group)[1]
    potentials.set(yticks=[], xlim=(-0.5, 19.5))
    potentials.text(0, potentials.get_ylim()[1], f"answer: {answer}", color="C1", va="top", fontsize=9)
    tidy(potentials, "potentials of ten classes", "time step", "potential")
    for axes in (spikes, potentials):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


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
    axes[1].plot(potential, color=GREY, lw=1.6)
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


def results(name):
    """The rows of a file of results."""
    path = HERE.parent / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text())["rows"]


def canvas(width, height, columns=1, **options):
    """A figure with a row of panels."""
    return plt.figure(figsize=(width, height), layout="constrained").subplots(1, columns, **options)


def drawing(width, height):
    """A figure for boxes and arrows, with a unit of one inch."""
    axes = plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes


def box(axes, x, y, text, color=GREY, size=9, **options):
    """Text with a frame around it, centered at a point."""
    frame = {"boxstyle": "round,pad=0.45", "fc": "none", "ec": color, "lw": 1.4}
    return axes.text(x, y, text, ha="center", va="center", fontsize=size, bbox=frame, **options)


def arrow(axes, start, end, color=GREY, style="-|>", text="", at=0.5, offset=(0.06, 0.0), **options):
    """An arrow between two points, with a text beside it."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": style, "color": color, "lw": 1.3, **options})
    if text:
        x, y = (a + at * (b - a) + d for a, b, d in zip(start, end, offset, strict=True))
        axes.text(x, y, text, fontsize=8.5, va="center", color=color)


MODES = {"exact": "exact", "half": "half", "8-bit": "8-bit", "recompute": "recompute"}


def memory_time():
    """Memory of a training step against its time, both relative to a plain loop: modes, and libraries."""
    left, right = canvas(8.6, 3.4, 2)
    for size, marker, filled in (("256x250", "o", False), ("1024x250", "s", True)):
        rows = {row["variant"]: row for row in results("bptt") if row["size"] == size}
        plain = rows["plain"]["temp_units"]
        for n, mode in enumerate(MODES):
            x, y = rows[mode]["time_ratio"], 100 * rows[mode]["temp_units"] / plain
            color = f"C{n}"
            left.plot(x, y, marker, color=color, mfc=color if filled else "none", ms=8, mew=1.6)
            if filled:
                place = {"exact": (8, -3), "half": (8, 0), "8-bit": (9, -7), "recompute": (-30, 12)}[mode]
                left.annotate(f'"{mode}"', (x, y), place, textcoords="offset points", fontsize=9, color=color)
    left.plot(1, 100, "D", color=GREY, ms=8)
    left.annotate("plain jax.lax.scan, also with the\nsurrogates of other JAX libraries", (1, 100), (-6, -26),
                  textcoords="offset points", fontsize=8.5, ha="right")  # fmt: skip
    for marker, fill, text in (("o", "none", "256 neurons"), ("s", GREY, "1024 neurons")):
        left.plot([], [], marker, color=GREY, mfc=fill, ms=7, label=text, ls="none")
    left.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.8))
    left.set(xlim=(0.6, 1.35), ylim=(0, 112))
    tidy(left, "JAX, 250 time steps", "time of a training step / plain loop", "memory, % of a plain loop")

    rows = {row["variant"]: row for row in results("bptt-torch")}
    plain = rows["plain"]["temp_units"]
    names = {
        **{mode: f'"{mode}"' for mode in MODES},
        "torch": "plain PyTorch",
        "snntorch.Leaky": "snnTorch",
        "spikingjelly": "SpikingJelly",
        "norse": "norse",
        "sinabs": "sinabs",
    }
    places = {
        **{"torch": (-8, 7), "snntorch.Leaky": (8, -12), "spikingjelly": (8, 3), "norse": (8, 0), "sinabs": (2, -15)},
        **{"exact": (-8, 5), "half": (8, 0), "8-bit": (8, -8), "recompute": (8, -4)},
    }
    for variant, name in names.items():
        x, y = rows[variant]["time_ratio"], 100 * rows[variant]["temp_units"] / plain
        color = f"C{list(MODES).index(variant)}" if variant in MODES else GREY
        right.plot(x, y, "o" if variant in MODES else "D", color=color, ms=7)
        align = "right" if places[variant][0] < 0 else "left"
        right.annotate(name, (x, y), places[variant], textcoords="offset points", fontsize=8.5, color=color, ha=align)
    right.plot(1, 100, "D", color=GREY, ms=7)
    right.annotate("plain jax.lax.scan", (1, 100), (8, 0), textcoords="offset points", fontsize=8.5)
    right.text(0.62, 35, "modes of\nspikegrad", fontsize=8.5)
    right.set(xlim=(0.6, 1.5), ylim=(0, 170))
    tidy(right, "libraries of PyTorch, 256 neurons, 100 time steps", "time / plain jax.lax.scan", "memory, %")


def storage():
    """The arrays that each mode keeps for the backward pass, over twelve time steps."""
    steps = 12
    axes = drawing(8.6, 3.7)
    rows = (
        ('"scan"', "three arrays a step", 3, 1.0, GREY, range(steps)),
        ('"exact"', "the state before the spike", 1, 1.0, "C0", range(steps)),
        ('"half"', "the state in 16 of 32 bits", 1, 0.5, "C1", range(steps)),
        ('"8-bit"', "the state in 8 of 32 bits", 1, 0.25, "C2", range(steps)),
        ('"recompute"', "one state in √steps", 1, 1.0, "C3", range(0, steps, 4)),
    )
    top, side = 3.4, 0.27
    for name, text, count, part, color, at in rows:
        middle = top - 0.3 * max(count - 1, 0) / 2
        axes.text(1.05, middle, name, ha="right", va="center", fontsize=10, color=color)
        axes.text(6.05, middle, text, va="center", fontsize=9)
        for n in range(count):
            for step in range(steps):
                corner = 1.25 + 0.39 * step, top - side / 2 - 0.3 * n
                axes.add_patch(plt.Rectangle(corner, side, side, fc="none", ec=GREY, lw=0.7, ls=":"))
                if step in at:
                    axes.add_patch(plt.Rectangle(corner, side, part * side, fc=color, ec="none"))
        top -= 0.3 * count + 0.22
    axes.annotate("", (5.95, 0.36), (1.25, 0.36), arrowprops={"arrowstyle": "-|>", "color": GREY})
    axes.text(3.6, 0.15, "time steps of one layer, in the forward pass", ha="center", va="center", fontsize=9)


DATA = "mnist5k", "japanese_vowels", "self_regulation_scp1", "randman"  # of benchmarks/choosing.py


def curve_of(axes, rows, x, label, **options):
    """Accuracies with their standard deviations."""
    rows = sorted(rows, key=lambda row: row[x])
    accuracy, spread = ([100 * (row[key] or 0) for row in rows] for key in ("test", "test, deviation"))
    axes.errorbar([row[x] for row in rows], accuracy, spread, label=label, lw=1.6, ms=5, capsize=2, **options)


def choosing_width():
    """Test accuracy against the half-width and the height of the slope, a curve for each data set."""
    left, right = canvas(8.6, 3.3, 2, sharey=True)
    for axes, question, x in ((left, "width", "half_width"), (right, "height", "peak")):
        for n, data in enumerate(DATA):
            rows = [row for row in results("choosing") if row["question"] == question and row["data"] == data]
            if rows:
                curve_of(axes, rows, x, data, color=f"C{n}", marker="osD^"[n])
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2] if x == "half_width" else [0.1, 0.3, 1, 3, 10])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
    left.axvspan(0.1, 0.8, color="C2", alpha=0.12, lw=0)
    right.axvspan(0.085, 1, color="C2", alpha=0.12, lw=0)
    tidy(left, "height 1: accuracy hardly depends on the width", "half-width / threshold", "test accuracy, %")
    tidy(right, "half-width 0.4: high slopes do not learn", "height of the slope")
    left.set_ylim(0, 105)
    left.legend(fontsize=8, frameon=False, loc="lower left")


def choosing_reset():
    """Test accuracy against the height, with a detached and a differentiated reset."""
    left, right = canvas(8.6, 3.5, 2, sharey=True)
    for axes, data in ((left, "mnist5k"), (right, "japanese_vowels")):
        found = [row for row in results("choosing") if row["question"] == "reset" and row["data"] == data]
        for n, width in enumerate((0.1, 0.4, 1.6)):
            for detached in (False, True):
                rows = [row for row in found if row["half_width"] == width and row["detached"] == detached]
                label = f"half-width {width}, {'detached' if detached else 'differentiated'}"
                style = {"ls": "--", "mfc": "none"} if detached else {}
                curve_of(axes, rows, "peak", label, color=f"C{n}", marker="o", **style)
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 10])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
    tidy(left, "mnist5k, no recurrence", "height of the slope", "test accuracy, %")
    tidy(right, "japanese_vowels, recurrent", "height of the slope")
    left.set_ylim(0, 105)
    lines, labels = left.get_legend_handles_labels()
    left.figure.legend(lines, labels, ncols=3, fontsize=8, frameon=False, loc="outside lower center")


def choosing_depth():
    """Test accuracy against the half-width, a curve for each depth."""
    panels = canvas(8.6, 2.9, 2, sharey=True)
    for axes, data in zip(panels, ("mnist5k", "randman"), strict=True):
        for n, depth in enumerate((1, 3, 6)):
            rows = [row for row in results("choosing") if row["question"] == "depth" and row["data"] == data]
            rows = [row for row in rows if row["depth"] == depth]
            curve_of(axes, rows, "half_width", f"{depth} hidden layer{'s' * (depth > 1)}", color=f"C{n}", marker="o")
        axes.set_xscale("log")
        axes.set_xticks([0.1, 0.4, 1.6])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
        tidy(axes, data, "half-width / threshold", "test accuracy, %" if data == "mnist5k" else "")
    panels[0].set_ylim(0, 105)
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")


def axes_of_inputs():
    """The axes of inputs, and two arrays that are not in this order."""
    axes = drawing(8.6, 3.0)

    def block(x, y, widths, names, color):
        """A box in three axes: to the right, upward, and into the page."""
        wide, high, deep = widths
        dx, dy = 0.55 * deep, 0.4 * deep
        for start, end in (
            *(((0, 0), (wide, 0)), ((0, high), (wide, high)), ((0, 0), (0, high)), ((wide, 0), (wide, high))),
            *(((0, high), (dx, high + dy)), ((wide, high), (wide + dx, high + dy)), ((wide, 0), (wide + dx, dy))),
            *(((dx, high + dy), (wide + dx, high + dy)), ((wide + dx, dy), (wide + dx, high + dy))),
        ):
            axes.plot([x + start[0], x + end[0]], [y + start[1], y + end[1]], color=color, lw=1.4)
        axes.text(x + wide / 2, y - 0.2, names[0], ha="center", va="center", fontsize=9)
        axes.text(x - 0.12, y + high / 2, names[1], ha="center", va="center", fontsize=9, rotation=90)
        axes.text(x + wide + dx / 2 + 0.1, y + dy / 2 - 0.06, names[2], va="top", fontsize=9)

    block(0.75, 0.95, (2.6, 1.0, 0.9), ("axis 0: time steps", "axis 2: inputs", "axis 1:\nexamples"), "C0")
    for step in range(13):
        axes.plot([0.75 + 0.2 * step] * 2, [0.95, 1.95], color="C0", lw=0.5, alpha=0.6)
    axes.text(0.75, 2.62, "right: inputs of shape (steps, examples, inputs)", fontsize=10, color="C0")
    axes.text(0.75, 0.33, "A network reads one slice x[t] after the other.", fontsize=9)
    block(5.45, 0.95, (1.0, 1.0, 1.5), ("axis 0: examples", "axis 2: inputs", "axis 1:\ntime steps"), "C3")
    for step in range(6):
        axes.plot([5.45 + 0.2 * step] * 2, [0.95, 1.95], color="C3", lw=0.5, alpha=0.6)
    axes.text(5.15, 2.8, "wrong without an error: examples first", fontsize=10, color="C3")
    axes.text(4.9, 0.33, "The network reads one example after the other,", fontsize=9)
    axes.text(4.9, 0.12, "as if each was a time step: jnp.swapaxes(x, 0, 1)", fontsize=9)


def online_flow():
    """Arrays that flow forward and backward in time, in backpropagation and in e-prop."""
    axes = drawing(8.6, 3.5)
    for left, title in ((0.2, "backpropagation through time"), (4.6, "Online, forward in time")):
        online = left > 1
        axes.text(left + 0.05, 3.25, title, fontsize=10.5, color="C3" if online else "C0")
        for step in range(4):
            x = left + 0.5 + 1.0 * step
            box(axes, x, 2.0, "step" if step < 3 else "step T", size=8.5)
            arrow(axes, (x, 1.25), (x, 1.78))
            axes.text(x, 1.12, f"x[{step}]" if step < 3 else "x[T]", ha="center", va="center", fontsize=8.5)
            if online:
                arrow(axes, (x, 2.25), (x, 2.72), "C3")
                axes.text(x, 2.83, "gradient", ha="center", fontsize=8, color="C3")
            else:
                axes.add_patch(plt.Rectangle((x - 0.3, 2.55), 0.6, 0.22, fc="C0", alpha=0.5, ec="none"))
                arrow(axes, (x, 2.25), (x, 2.53), "C0")
            if step < 3:
                arrow(axes, (x + 0.31, 2.07), (x + 0.69, 2.07))
                if online:
                    arrow(axes, (x + 0.31, 1.92), (x + 0.69, 1.92), "C3")
                else:
                    arrow(axes, (x + 0.69, 1.92), (x + 0.31, 1.92), "C0", linestyle="--")
        if online:
            axes.text(left + 0.05, 0.72, "grey: states   red: eligibility traces", fontsize=9)
            axes.text(left + 0.05, 0.48, "Memory: the traces, for any number of steps.", fontsize=9)
            axes.text(left + 0.05, 0.24, "The gradient exists after each step.", fontsize=9)
        else:
            axes.text(left + 0.05, 0.72, "solid: states   dashed: gradient, after the last step", fontsize=9)
            axes.text(left + 0.05, 0.48, "Memory: one stored array per step (blue).", fontsize=9)
            axes.text(left + 0.05, 0.24, "The gradient exists after the last step.", fontsize=9)


def diagnosis_tree():
    """The decisions of ``diagnose``, from the first training to the last line of its report."""
    axes = drawing(8.6, 5.6)
    question, result, work = "C0", "C2", GREY
    box(axes, 2.35, 5.2, "train 60 updates on two thirds\nof the examples, as it is", work)
    box(axes, 2.35, 4.1, "Does the loss fall by 60 %\non the way to its lowest value?", question)
    box(axes, 6.6, 4.1, "no issue\n(or: it overfits, if other examples\ngain less than 10 %)", result)
    box(axes, 2.35, 2.95, "measure inputs and layers,\nfrom the inputs to the outputs", work)
    box(axes, 2.35, 1.85, "train with the changes for all measures\noutside of their bands, then with other\nmemories, "
        "learning rates and slopes", work)  # fmt: skip
    box(axes, 2.35, 0.6, "Does it learn with changes?", question)
    box(axes, 6.6, 1.85, "issues with their fixes,\nwithout changes that are not needed", result)
    box(axes, 6.6, 0.6, "the changes that were tried, and causes\noutside of the network to check", result)
    for start, end in (((2.35, 4.9), (2.35, 4.42)), ((2.35, 2.65), (2.35, 2.28)), ((2.35, 1.42), (2.35, 0.84))):
        arrow(axes, start, end)
    arrow(axes, (2.35, 3.78), (2.35, 3.26), text="no")
    arrow(axes, (3.85, 4.1), (5.05, 4.1), text="yes", offset=(-0.1, 0.13))
    arrow(axes, (3.6, 0.72), (5.1, 1.6), text="yes", offset=(-0.3, 0.1))
    arrow(axes, (3.6, 0.6), (4.75, 0.6), text="no", offset=(-0.1, 0.12))


def surrogate_curves():
    """The slopes of all surrogates with their default parameters, a panel for each."""
    names = sorted((type(spikegrad.get(name)).__name__ for name in spikegrad.names()), key=str.lower)
    names = list(dict.fromkeys(names))
    columns = 5
    rows = -(-len(names) // columns)
    panels = plt.figure(figsize=(8.6, 1.28 * rows), layout="constrained").subplots(rows, columns)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, names, strict=False):
        fire = getattr(spikegrad.surrogates, name)()
        x = np.linspace(-2, 2, 201, dtype=np.float32)
        slope = np.asarray(fire.surrogate_grad(x))
        axes.plot(x, slope, color="C1", lw=1.6)
        axes.set_ylim(min(0, slope.min()) - 0.05, min(slope.max(), 3) * 1.1)
        axes.axvline(0, color=GREY, lw=0.7, ls=":")
        axes.set_title(name, fontsize=8.2)
        axes.set_xticks([-1, 0, 1])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
        axes.locator_params(axis="y", nbins=3)


def gpu_launches():
    """Commands of the host and kernels of the device, per time step, for an H100 that is only described."""
    rows = results("gpu-described")
    cases = list(dict.fromkeys(row["case"] for row in rows))
    left, right = canvas(8.6, 0.42 * len(cases) + 1.1, 2, sharey=True)
    for axes, key, title in ((left, "launches", "launches per time step"), (right, "kernels", "kernels per time step")):
        for n, (variant, color) in enumerate((("plain scan", GREY), ("exact", "C0"))):
            values = [next((r[key] for r in rows if r["case"] == c and r["variant"] == variant), np.nan) for c in cases]
            places = np.arange(len(cases)) + 0.38 * n
            axes.barh(places, values, 0.36, color=color, label={"exact": '"exact"'}.get(variant, variant))
            for place, value in zip(places, values, strict=True):
                if np.isfinite(value):
                    axes.text(value, place, f" {value:.2g}" if value < 10 else f" {value:.0f}", va="center", fontsize=8)
        tidy(axes, title, "")
        axes.margins(x=0.12)
    left.set_yticks(np.arange(len(cases)) + 0.19, cases)
    left.invert_yaxis()
    right.legend(fontsize=8, frameon=False)


def choosing_widths():
    """One slope at three widths."""
    plt.figure(plot(spikegrad.Arctan(1.0), spikegrad.Arctan(2.0), spikegrad.Arctan(4.0)))


def diagnose_figure():
    """The figure of a diagnosis, with a silent layer."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(20, 50), (50, 50), (50, 4)]
    weights = [3 * jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip(keys, shapes, strict=False)]
    network = Network(
        [
            Layer(weights[0], LIF(0.9)),
            Layer(weights[1], LIF(0.9, threshold=20.0, surrogate=Sigmoid(2.0))),
            Layer(weights[2], LeakyReadout(0.97)),
        ]
    )
    spikes = jax.random.bernoulli(keys[3], 0.05, (40, 64, 20))
    plt.figure(diagnose(network, spikes, lambda out: (out.max(0) ** 2).mean()).plot())


def drawn_graph():
    """The layers and connections of a network."""
    w = jnp.ones((8, 8))
    sources = {"gate": w, "loop": Delayed(w, 1), "out": Delayed(w, 3)}
    network = Network(
        {
            "stem": Layer(w, LIF()),
            "branch": Layer(w, LIF()),
            "gate": Join(lambda s, b: s * (1 - b), of=("stem", "branch")),
            "loop": Layer(sources, LIF()),
            "out": Layer(w, LeakyReadout()),
        }
    )
    figure = plt.figure(graph(network))
    for label in figure.axes[0].texts:
        frame = label.get_bbox_patch()
        if frame is None:
            continue
        if label.get_text().isdigit():  # a delay hides the line below it, on bright and on dark pages
            frame.set(boxstyle="round,pad=0.3", facecolor="lightgray")
            label.set_color("black")
        else:
            frame.set_facecolor("none")


def activity_layers():
    """The activity of all layers."""
    inputs = jax.random.bernoulli(jax.random.key(0), 0.05, (120, 4, 40))
    network = Network.init(jax.random.key(1), inputs, (30, 3), LIF(0.9), LeakyReadout(0.9))
    _, observed = network.observe(inputs)
    plt.figure(activity({"inputs": inputs, **observed}, example=2))


def activity_potentials():
    """Potentials of three neurons."""
    inputs = jax.random.bernoulli(jax.random.key(0), 0.05, (120, 4, 40))
    network = Network([Layer.init(jax.random.key(1), inputs, 30, LIF(0.95))])
    layer = network.observe(inputs)[1][0]
    plt.figure(traces(layer.potential, layer.output, threshold=1.0, neurons=(9, 10, 11)))


def spike_types():
    """Forward output and slope of four spike types."""
    v = np.linspace(-2, 4.5, 651, dtype=np.float32)
    s = Sigmoid(5.0)
    drawn = np.asarray(stochastic(s)(np.broadcast_to(v - 1, (50, v.size)), key=jax.random.key(0))).mean(0)
    kinds = [
        ("soft", [(soft(s), "-")], None),
        ("stochastic, mean of 50", [(soft(s), "-")], drawn),
        (
            "multi_spike, n=3\nsum, nearest (dashed)",
            [(multi_spike(s, 3), "-"), (multi_spike(s, 3, slopes="nearest"), "--")],
            None,
        ),
        ("signed", [(signed(s), "-")], None),
    ]
    _, axes = plt.subplots(2, 4, figsize=(10, 4), sharex=True, sharey="row", layout="constrained")
    for (above, below), (title, fires, dots) in zip(axes.T, kinds, strict=True):
        above.set_title(title, fontsize=9)
        if dots is not None:
            above.plot(v, dots, ".", ms=2, color="C1")
        else:
            above.plot(v, fires[0][0](v - 1), color="C0")
        for fire, style in fires:
            below.plot(v, fire.surrogate_grad(v - 1), style, color="C0" if style == "-" else "C3")
        below.set_xlabel("potential, in thresholds", fontsize=8)
        for ax in (above, below):
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=8)
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("output", fontsize=8)
    axes[1, 0].set_ylabel("slope", fontsize=8)


def surrogate_shapes():
    """Five shapes of equal height and half-width."""
    shapes = ("relu_grad", "erf", "sigmoid", "arctan", "inv_square_grad")
    shapes = [spikegrad.rescaled(spikegrad.get(shape), peak=1.0, half_width=0.3) for shape in shapes]
    plt.figure(plot(*shapes, x=[i / 200 for i in range(-400, 401)]))


FILES = {
    "training": training,
    "drawn-digit": drawn_digit,
    "memory-time": memory_time,
    "memory-modes": storage,
    "choosing-width": choosing_width,
    "choosing-reset": choosing_reset,
    "choosing-depth": choosing_depth,
    "axes": axes_of_inputs,
    "online-flow": online_flow,
    "online-traces": eligibility,
    "diagnose-tree": diagnosis_tree,
    "surrogate-curves": surrogate_curves,
    "gpu-launches": gpu_launches,
    "choosing-widths": choosing_widths,
    "diagnose-figure": diagnose_figure,
    "graph": drawn_graph,
    "activity-layers": activity_layers,
    "activity-potentials": activity_potentials,
    "spike-types": spike_types,
    "surrogate-shapes": surrogate_shapes,
}
"""The files in ``docs/_static``, without their ending, and the functions that draw them."""

if __name__ == "__main__":
    import matplotlib as mpl

    colors = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY)
    plt.rcParams.update(mpl.rc_params_from_file(HERE / "matplotlibrc", use_default_template=False))
    with mpl.rc_context(colors | {"svg.hashsalt": "spikegrad", "font.family": "DejaVu Sans"}):
        for name in sys.argv[1:] or FILES:
            FILES[name]()
            path = HERE / "_static" / f"{name}.svg"
            plt.savefig(path, transparent=True, metadata={"Date": None})
            text = path.read_text().replace("#000000", GREY)  # black would not be seen on dark pages
            path.write_text(text.replace("<defs>", f"{SWEEP}\n <defs>", 1) if "sweep" in text else text)
            plt.close("all")
