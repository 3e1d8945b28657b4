"""Random networks of integers, and their steps in plain Python integers, written apart from the
library.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from spikegrad import Delayed, Layer, Network, Window
from spikegrad.integers import Fixed, FixedLIF, Loihi, Xylo, to_c

TARGETS = "fixed", "loihi", "xylo"


def random_network(target: str, rng: np.random.Generator) -> Network:
    """Two or three layers with recurrence, delays, windows and several sources. Weights are large
    enough to saturate and to wrap.
    """
    sizes = {"input": 4, "a": int(rng.integers(2, 7)), "b": int(rng.integers(2, 6)), "c": 3}
    gain = 10.0 ** rng.uniform(0.5, 2.2)

    def weight(*shape: int) -> Fixed:
        step = 2 if target == "loihi" else 1
        value = jnp.asarray(rng.normal(size=shape) * gain, jnp.float32)
        return Fixed(value, 1.0, -128 * step, 128 * step - step, step)

    def edge(source: str, name: str, delays: tuple[int, ...] = (0, 0, 2, 4)) -> Any:
        shape = sizes[source], sizes[name]
        delay = int(rng.choice(delays))
        if rng.random() < 0.25:
            return Window(weight(3, *shape), delay=delay)
        return Delayed(weight(*shape), delay) if delay else weight(*shape)

    def layer(name: str, sources: list[str], **options: Any) -> Layer:
        recurrent = edge(name, name, (1, 3)) if rng.random() < 0.6 and name != "c" else None
        bias = weight(sizes[name]) if rng.random() < 0.4 else None
        weights = {source: edge(source, name) for source in sources}
        return Layer(weights, random_cell(target, sizes[name], rng, **options), recurrent, bias)

    layers = {"a": layer("a", ["input"])}
    if deep := rng.random() < 0.5:
        layers["b"] = layer("b", ["a", "input"] if rng.random() < 0.5 else ["a"])
    is_readout = target != "xylo" and rng.random() < 0.4
    layers["c"] = layer("c", ["b", "a"] if deep else ["a"], is_readout=is_readout)
    return Network(layers, outputs=[*layers])


def random_cell(
    target: str, neurons: int, rng: np.random.Generator, is_readout: bool = False
) -> Any:
    def some(low: int, high: int) -> Any:
        """Return one integer, or one for each neuron."""
        return (
            rng.integers(low, high, neurons) if rng.random() < 0.5 else int(rng.integers(low, high))
        )

    if target == "loihi":
        vth = None if is_readout else some(0, 400)
        return Loihi(some(0, 4096), some(0, 4096), vth, bias=int(rng.integers(-500, 500)))
    if target == "xylo":
        n, bias = int(rng.choice([1, 5, 31])), int(rng.integers(-50, 50))
        return Xylo(some(0, 9), some(0, 9), some(1, 3000), n=n, bias=bias)
    bits, fraction = int(rng.choice([8, 12, 16, 24])), int(rng.integers(1, 13))
    one, memory = 2**fraction, {}
    if not is_readout and rng.random() < 0.5:
        memory |= {
            "adaptation": some(0, min(2 ** (bits - 1), 4000)),
            "adaptation_decay": some(one // 2, one + 1),
            "adaptation_fraction": int(rng.integers(0, 6)),
        }
    if not is_readout and rng.random() < 0.3:
        memory["refractory"] = int(rng.integers(1, 5))
    resets = ["value", "subtract", "none", "baseline"]
    if not memory:
        resets += ["late_value", "late_subtract"]
    return FixedLIF(
        some(0, one + 1),
        None if is_readout else some(1, min(2 ** (bits - 1), 800)),
        synaptic_decay=None if rng.random() < 0.5 else some(0, one + 1),
        fraction=fraction,
        bits=bits,
        rounding=str(rng.choice(["floor", "zero"])),
        overflow=str(rng.choice(["saturate", "wrap"])),
        reset=str(rng.choice(resets)),
        **memory,
    )


def random_inputs(rng: np.random.Generator, steps: int = 24, batch: int = 3) -> np.ndarray:
    """Spikes and counts."""
    return rng.integers(0, 4, (steps, batch, 4)) * (rng.random((steps, batch, 4)) < 0.5)


# --- the steps in integers of Python, from the sources that the docstrings of the cells name ------


def toward_zero(x: int, factor: int, bits: int) -> int:
    size = abs(x) * factor >> bits
    return size if x >= 0 else -size


def wrap(x: int, bits: int) -> int:
    x &= 2**bits - 1
    return x - 2**bits if x >= 2 ** (bits - 1) else x


def clip(x: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, x))


def xylo_decay(x: int, dash: int) -> int:
    change = x >> dash
    return (1 if x > 0 else -1 if x < 0 else 0) if change == 0 else change


PARAMETERS = (
    *("decay", "synaptic_decay", "threshold", "adaptation", "adaptation_decay"),
    *("du", "dv", "vth", "dash_mem", "dash_syn"),
)
"""The parameters that may differ between neurons."""
STATES = "potential", "synaptic current", "adaptation", "steps left"


def step_of(cell: Any, at: dict[str, int], state: list[int], current: int) -> tuple[list[int], int]:
    """Return the states of a neuron, see ``STATES``, and its output after a step. ``at`` has its
    parameters.
    """
    v, i, b, left = state
    if isinstance(cell, Loihi):
        i = wrap(toward_zero(i, 4096 - (at["du"] + 1), 12) + current * 64, 24)
        v = toward_zero(v, 4096 - at["dv"], 12) + i + cell.bias
        v = max(-(2**23) + 1, min(2**23 - 1, v))
        if cell.vth is None:
            return [v, i, b, left], v
        spike = int(v > at["vth"] << 6)
        return [0 if spike else v, i, b, left], spike
    if isinstance(cell, Xylo):
        i = clip(i + current, 16)
        i -= xylo_decay(i, at["dash_syn"])
        change = clip(clip(-xylo_decay(v, at["dash_mem"]) + i, 16) + cell.bias, 16)
        v, spikes = clip(v + change, 16), 0
        while v >= at["threshold"] and spikes < cell.n:
            v, spikes = v - at["threshold"], spikes + 1
        return [v, i, b, left], spikes
    fraction = cell.fraction

    def decay(x: int, factor: int) -> int:
        return (
            toward_zero(x, factor, fraction) if cell.rounding == "zero" else x * factor >> fraction
        )

    def keep(x: int) -> int:
        return {"saturate": clip, "wrap": wrap}.get(cell.overflow, lambda x, bits: x)(x, cell.bits)

    if cell.synaptic_decay is not None:
        current = i = keep(decay(i, at["synaptic_decay"]) + current)
    resets_late = cell.threshold is not None and cell.reset.startswith("late")
    is_late = resets_late and v >= at["threshold"]
    if left == 0:
        late = at["threshold"] if is_late and cell.reset == "late_subtract" else 0
        v = keep(decay(v, at["decay"]) + current - late)
    if is_late and cell.reset == "late_value":
        v = 0
    if cell.threshold is None:
        return [v, i, b, left], v
    theta = at["threshold"]
    raised = theta + (b >> cell.adaptation_fraction)
    spike = int(v >= raised and left == 0)
    if cell.adaptation is not None:
        b = (b * at["adaptation_decay"] >> fraction) + spike * at["adaptation"]
        b = min(b, 2 ** (cell.bits - 1) - 1)
    left = cell.refractory if spike else max(left - 1, 0)
    after = {"value": 0, "subtract": v - raised, "baseline": v - theta, "none": v}
    return [after.get(cell.reset, v) if spike else v, i, b, left], spike


def fire_all(cell: Any, states: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Change the states ``(4, batch, ...)`` by a step, and return the outputs of all neurons."""
    values = {name: getattr(cell, name, None) for name in PARAMETERS}
    arrays = {
        name: np.broadcast_to(x, current.shape) for name, x in values.items() if x is not None
    }
    out = np.zeros_like(current)
    for k in np.ndindex(current.shape):
        at = {name: int(x[k]) for name, x in arrays.items()}
        place = (slice(None), *k)
        after, out[k] = step_of(cell, at, states[place].tolist(), int(current[k]))
        states[place] = after
    return out


def run_apart(
    network: Network, inputs: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the last states, ``(4, batch, neurons)``, and the outputs of each layer. Readouts give
    integers.
    """
    steps, batch, _ = inputs.shape
    edges, states, history = {}, {}, {"input": inputs}
    for name, layer in network.layers.items():
        matrices = []
        weights = [
            *layer.weight.items(),
            *([(name, layer.recurrent)] if layer.recurrent is not None else []),
        ]
        for source, weight in weights:
            if isinstance(weight, Window):
                array = weight.weight.integers
                matrices += [(source, weight.delay + lag, array[lag]) for lag in range(len(array))]
            elif isinstance(weight, Delayed):
                matrices.append((source, weight.delay, weight.weight.integers))
            else:
                matrices.append((source, int(source == name), weight.integers))
        neurons = matrices[0][2].shape[1]
        bias = np.zeros(neurons, np.int64) if layer.bias is None else layer.bias.integers
        edges[name] = matrices, bias
        states[name] = np.zeros((len(STATES), batch, neurons), np.int64)
        history[name] = np.zeros((steps, batch, neurons), np.int64)
    for t in range(steps):
        for name, (matrices, bias) in edges.items():
            current = np.tile(bias, (batch, 1))
            for source, lag, matrix in matrices:
                if t >= lag:
                    current = current + history[source][t - lag] @ matrix
            history[name][t] = fire_all(network.layers[name].cell, states[name], current)
    history.pop("input")
    return states, history


def as_arrays(network: Network, states: Any, outputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return states and outputs of a call or replay in the form of :func:`run_apart`."""
    arrays = {}
    for name, layer in network.layers.items():
        # A call returns the state and the output of a layer, a replay the state.
        v = states[name] if isinstance(states, dict) else states[name][0]
        v = v if isinstance(v, tuple) else (v,)
        parts = dict(zip(layer.cell.state_names, map(np.asarray, v), strict=True))
        arrays[name] = np.stack([parts.get(state, np.zeros_like(v[0])) for state in STATES])
        if getattr(layer.cell, "threshold", 1) is None:
            outputs = {**outputs, name: np.asarray(outputs[name], np.float64) * layer.cell.unit}
    return arrays, {name: np.asarray(x) for name, x in outputs.items()}


def check_c(
    network: Network,
    inputs: np.ndarray,
    outputs: dict[str, np.ndarray],
    folder: Path,
    /,
    *,
    compiler: str = "cc",
    **options: Any,
) -> None:
    """Compile the program in C with all warnings and sanitizers, and compare its outputs. With
    ``examples`` among the options of ``to_c``, also run the test beside the program.
    """
    to_c(network, folder / "net", **options)
    flags = "-std=c99 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"

    def compiled(name: str, *files: str) -> Path:
        sources = [folder / file for file in files]
        command = [compiler, *flags.split(), f"-D{name}", *sources, "-o", folder / name]
        subprocess.run(command, check=True)
        return folder / name

    program_of_net = compiled("NET_MAIN", "net.c")
    expected = np.concatenate([*outputs.values()], -1)
    for b in range(inputs.shape[1]):
        text = "\n".join(" ".join(map(str, row)) for row in inputs[:, b].tolist())
        program = subprocess.run(
            [program_of_net], input=text, capture_output=True, text=True, check=True
        )
        rows = np.array([line.split() for line in program.stdout.splitlines()], np.int64)
        np.testing.assert_array_equal(rows, expected[:, b])
    if "examples" in options:
        subprocess.run([compiled("NET_TEST_MAIN", "net.c", "net_test.c")], check=True)
        test = folder / "net_test.c"
        text = test.read_text()
        # One expected number is another.
        changed = re.sub(r"(expected\[\] = \{)(-?\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", text)
        assert changed != text
        test.write_text(changed)
        test_of_net = compiled("NET_TEST_MAIN", "net.c", "net_test.c")
        assert subprocess.run([test_of_net], check=False).returncode == 1


def chip_network(target: str, seed: int) -> Network:
    """A network that the tools of a chip take: Xylo has two layers, Loihi also three."""
    rng = np.random.default_rng(seed)
    sizes = [5, 12, 3] if target == "xylo" or seed % 2 else [5, 12, 8, 3]
    layers = []
    for n, (inputs, neurons) in enumerate(itertools.pairwise(sizes)):
        is_last = n == len(sizes) - 2

        def weight(*shape: int, most: int = 60) -> np.ndarray:
            return (2 if target == "loihi" else 1) * rng.integers(-most, most, shape)

        cell: Any
        if target == "loihi":
            du, dv, bias = rng.integers(0, 3000), rng.integers(0, 2000), 64 * rng.integers(-3, 9)
            cell = Loihi(int(du), int(dv), int(rng.integers(50, 300)), bias=int(bias))
        else:
            shifts = rng.integers(1, 8, (2, neurons))
            count, bias = 1 if is_last else 31, int(rng.integers(-20, 20))
            threshold = rng.integers(50, 200 if is_last else 500, neurons)
            cell = Xylo(*shifts, threshold, n=count, bias=bias)
        recurrent = weight(neurons, neurons, most=12) if n == 0 and seed != 2 else None
        layers.append(Layer(weight(inputs, neurons), cell, recurrent))
    return Network(layers)


def chip_inputs(target: str, seed: int, steps: int = 60) -> np.ndarray:
    """Spikes, and counts for Xylo, ``(steps, 1, 5)``."""
    rng = np.random.default_rng(100 + seed)
    most = 2 if target == "loihi" else 4
    return rng.integers(0, most, (steps, 1, 5)) * (rng.random((steps, 1, 5)) < 0.4)
