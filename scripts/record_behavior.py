"""Record what the library computes, and compare the present code with the recordings.

    python scripts/record_behavior.py check             # a table of equal, close and different numbers
    python scripts/record_behavior.py check networks    # of a part: networks, weights, losses, costs, data
    python scripts/record_behavior.py record            # replaces the recordings

The recordings hold random networks in all modes, initial weights, losses, costs, encoders and readers. Spikes, costs,
encoders and readers must be equal. All other numbers may differ by a part of the largest number of their array, 1e-6
in float32 and 1e-13 in float64.

A network is described by a dictionary without classes of the library. When the form of the library changes, only
``build`` and ``run`` change.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import spikegrad
from spikegrad import data, losses, neurons, reports

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "recorded" / "behavior" / "behavior.npz"
LIMITS = {"float32": 1e-6, "float64": 1e-13}
MODES = "exact", "half", "8-bit", "recompute", "scan"
NETWORKS = 210

# --- descriptions of networks ----------------------------------------------------------------------------------------

SPIKES = "step", "soft", "stochastic", "multi_spike", "signed", "strict", "learnable", "keep_slope"
SURROGATES = "Sigmoid", "Arctan", "PiecewiseQuadratic", "GaussianGrad"
LIFS = [
    {"class": "LIF"},
    {"class": "LIF", "decay": 0.8, "reset": "value", "reset_value": -0.1},
    {"class": "LIF", "decay": 0.7, "delay_reset": True, "norm_input": True},
    {"class": "LIF", "decay": 0.95, "detach_reset": True},
    {"class": "SynapticLIF"},
    {"class": "AdaptiveLIF", "threshold": 0.5},
    {"class": "AdaptiveLIF", "threshold": 0.5, "reset": "baseline"},
]
OTHERS = [  # drive: the size of currents at which the cell fires
    {"class": "Refractory", "of": {"class": "LIF", "decay": 0.9}, "steps": 2},
    {"class": "MultiSynapticLIF", "receptors": 2},
    {"class": "MPBN"},
    {"class": "AdLIF", "drive": 15.0},
    {"class": "SymplecticAdLIF", "drive": 30.0},
    {"class": "EulerAdLIF", "drive": 30.0},
    {"class": "SynapticAdaptiveLIF"},
    {"class": "RF", "drive": 80.0},
    {"class": "BRF", "omega": 20.0, "drive": 200.0},
    {"class": "HRF", "omega": 20.0, "drive": 300.0},
    {"class": "TCLIF"},
    {"class": "QIF", "drive": 1.5},
    {"class": "EIF", "drive": 1.5},
    {"class": "AdEx", "drive": 3.0},
    {"class": "Izhikevich", "drive": 30.0},
    {"class": "CLIF"},
    {"class": "LeakyReadout"},
]


def describe(number):
    """Describe a random network: nodes in the order of their names, each with its sources, and a call."""
    rng = np.random.default_rng([7, number])
    stack = number // 5 % 5 < 2
    inputs = {"x": 3} if stack or rng.random() < 0.7 else {"x": 3, "y": 2}
    widths, nodes = dict(inputs), []
    over_time = not stack and rng.random() < 0.25
    for i in range(rng.choice([1, 1, 2] if stack else [2, 2, 3])):
        name, before = f"n{i}", [nodes[-1]["name"] if nodes else "x"] if stack else [*widths]
        if not stack and i and rng.random() < 0.35:
            nodes.append(_join(rng, name, widths, over_time))
        else:
            nodes.append(_layer(rng, number, name, before, stack))
        widths[name] = nodes[-1]["width"]
    if not stack and not over_time and nodes[0]["kind"] == "layer" and len(nodes) > 1:  # a loop with a delay
        nodes[0]["sources"][nodes[-1]["name"]] = {"kind": "delayed", "delay": int(rng.integers(1, 4))}
    outputs = [nodes[-1]["name"]] if stack or rng.random() < 0.7 else [nodes[-1]["name"], nodes[0]["name"]]
    for node in nodes:
        if node["kind"] == "layer":
            for source, weight in node["sources"].items():
                weight["inputs"] = widths[source]
    steps = int(rng.choice([5, 6, 6, 8, 8, 9]))
    call = {"mode": MODES[number % 5]}
    has_batch_statistics = any(node.get("cell", {}).get("class") == "MPBN" for node in nodes)
    for option, share, value in (
        ("truncate", 0.2, int(rng.integers(2, 5))),
        ("mask", 0.3, True),
        ("all_layers", 0.2, True),
        ("pre_spike", 0.4, True),
        ("chunk", 0.3, int(rng.integers(1, 4))),
    ):
        if rng.random() < share and not (option == "mask" and has_batch_statistics):
            call[option] = value
    form = "list" if stack else "mapping"
    dtype = "float64" if number % 6 == 0 else "float32"
    return {
        "number": number, "form": form, "dtype": dtype, "steps": steps, "inputs": inputs, "nodes": nodes,
        "outputs": outputs, "call": call,
    }  # fmt: skip


def _layer(rng, number, name, before, stack):
    is_other = number % 3 == 0 and name == "n0"
    cell = dict(OTHERS[number // 3 % len(OTHERS)] if is_other else LIFS[rng.integers(len(LIFS))])
    if cell["class"] in ("LIF", "SynapticLIF", "AdaptiveLIF") and cell.get("reset") != "baseline":
        refused = ("signed", "multi_spike") if "reset" in cell else ()
        refused += ("signed",) if cell["class"] == "AdaptiveLIF" else ()
        kinds = [kind for kind in SPIKES if kind not in refused]
        cell["spikes"] = kinds[(number + int(name[1])) % len(kinds)]
        cell["surrogate"] = SURROGATES[rng.integers(len(SURROGATES))]
    receptors = cell.get("receptors", 0)
    several = not stack and not receptors
    count = min(len(before), int(rng.integers(1, 3))) if several else 1
    kinds = ["matrix"] if stack or receptors else ["matrix", "matrix", "delayed", "window", "kernel"]
    names = sorted(rng.permutation(before)[:count].tolist()) if several else [before[-1]]
    sources = {}
    for source in names:
        sources[source] = {"kind": kinds[rng.integers(len(kinds))], "delay": int(rng.integers(1, 4))}
    return {
        "name": name, "kind": "layer", "cell": cell, "width": int(rng.integers(2, 6)), "sources": sources,
        "recurrent": bool(rng.random() < 0.4) and not receptors, "bias": bool(rng.random() < 0.3) and not receptors,
    }  # fmt: skip


def _join(rng, name, widths, over_time):
    first = str(rng.choice([*widths]))
    equal = [other for other in widths if widths[other] == widths[first]]
    function = "normalize" if over_time else str(rng.choice(["add", "gate", "concatenate"]))
    of = [first] if over_time else [first, str(rng.choice(equal if function != "concatenate" else [*widths]))]
    width = sum(widths[source] for source in of) if function == "concatenate" else widths[first]
    return {"name": name, "kind": "join", "function": function, "of": of, "width": width}


def arrays_of(description):
    """Return the weights, parameters, inputs, noise of the initial states, and mask of a described network."""
    rng = np.random.default_rng([8, description["number"]])
    weights = {}
    for node in description["nodes"]:
        if node["kind"] == "join":
            continue
        name, width, cell = node["name"], node["width"], node["cell"]
        drive = cell.get("drive", 1.0) / len(node["sources"])
        shapes = {"window": (3,), "kernel": ()}
        for source, weight in node["sources"].items():
            shape = (*shapes.get(weight["kind"], ()), weight["inputs"], width)
            shape += (cell["receptors"],) if "receptors" in cell else ()
            weights[f"{name}/{source}"] = drive * rng.normal(0.4, 0.6, shape)
            if weight["kind"] == "kernel":
                weights[f"{name}/{source}/delay"] = rng.uniform(0.5, 2.5, (weight["inputs"], width))
        if node["recurrent"]:
            weights[f"{name}/recurrent"] = drive * rng.normal(0, 0.4, (width, width))
        if node["bias"]:
            weights[f"{name}/bias"] = drive * rng.normal(0, 0.2, width)
        if cell["class"] == "LIF" and "decay" not in cell:
            weights[f"{name}/decay"] = rng.uniform(0.6, 0.95, width)
        if "receptors" in cell:
            weights[f"{name}/synaptic_decay"] = rng.uniform(0.3, 0.9, cell["receptors"])
    batch, steps = 2, description["steps"]
    shapes = {name: (steps, batch, size) for name, size in description["inputs"].items()}
    inputs = {name: (rng.random(shape) < 0.6) * rng.uniform(0.5, 1.5) for name, shape in shapes.items()}
    mask = np.arange(steps)[:, None] < np.array([steps, steps - 2])
    return weights, inputs, mask


# --- the two functions that know the form of the library --------------------------------------------------------------

JOINS = {
    "add": lambda a, b: a + b,
    "gate": lambda a, b: a * (1 - b),
    "concatenate": lambda a, b: jnp.concatenate([a, b], -1),
}


def normalize(x, mask=None):
    """A join over time with a statistic."""
    mean = x.mean((0, 1)) if mask is None else (x * mask[..., None]).sum((0, 1)) / mask.sum()
    return x - mean, mean


def _cell(cell, weights, name):
    options = {k: v for k, v in cell.items() if k not in ("class", "spikes", "surrogate", "drive", "receptors", "of")}
    for parameter in ("decay", "synaptic_decay"):
        if f"{name}/{parameter}" in weights:
            options[parameter] = weights[f"{name}/{parameter}"]
    if "surrogate" in cell:
        surrogate = getattr(spikegrad, cell["surrogate"])()
        if cell["spikes"] == "keep_slope":
            surrogate = spikegrad.keep_slope(surrogate, "bfloat16")
        elif cell["spikes"] == "multi_spike":
            surrogate = spikegrad.multi_spike(surrogate, 3)
        elif cell["spikes"] != "step":
            surrogate = getattr(spikegrad, cell["spikes"])(surrogate)
        options["surrogate"] = surrogate
    inner = [_cell(cell["of"], {}, name)] if "of" in cell else []
    return getattr(neurons, cell["class"])(*inner, **options)


def build(description, weights):
    """Return the network of a description."""

    def connection(name, source, weight):
        matrix = weights[f"{name}/{source}"]
        if weight["kind"] == "delayed":
            return spikegrad.Delayed(matrix, weight["delay"])
        if weight["kind"] == "kernel":
            kernel = spikegrad.network.DelayKernel(matrix, weights[f"{name}/{source}/delay"], length=4)
            return spikegrad.Window(kernel, length=4)
        return spikegrad.Window(matrix, delay=weight["delay"] - 1) if weight["kind"] == "window" else matrix

    layers = {}
    for node in description["nodes"]:
        name = node["name"]
        if node["kind"] == "join":
            over_time = node["function"] == "normalize"
            layers[name] = spikegrad.Join(
                normalize if over_time else JOINS[node["function"]], tuple(node["of"]), over_time
            )
            continue
        sources = {source: connection(name, source, weight) for source, weight in node["sources"].items()}
        matrices = sources if description["form"] == "mapping" else next(iter(sources.values()))
        recurrent, bias = weights.get(f"{name}/recurrent"), weights.get(f"{name}/bias")
        layers[name] = spikegrad.Layer(matrices, _cell(node["cell"], weights, name), recurrent, bias)
    if description["form"] == "list":
        return spikegrad.Network([*layers.values()])
    names = [*description["inputs"]], description["outputs"]
    return spikegrad.Network(layers, *(several if len(several) > 1 else several[0] for several in names))


NO_CHUNK = "chunk", "scan"
"""Mode "scan" has no chunks."""


def run(description, weights, inputs, mask):
    """Return outputs, states, potentials before the spike, and gradients of a network, as arrays by name."""
    call = description["call"]
    lengths = {name: call[name] for name in ("chunk", "truncate") if name in call and (name, call["mode"]) != NO_CHUNK}
    options = {"backward": spikegrad.Backward(call["mode"], **lengths)}
    if call.get("mask"):
        options["mask"] = mask
    stochastic = any(node.get("cell", {}).get("spikes") == "stochastic" for node in description["nodes"])
    options["key"] = jax.random.key(description["number"]) if stochastic else None
    is_list = description["form"] == "list"

    def as_inputs(inputs):
        return inputs if len(inputs) > 1 else inputs["x"]

    def recorded(entries, form=tuple):
        return form(entries.values()) if is_list else dict(entries)

    first = jax.tree.map(lambda x: x[0], as_inputs(inputs))
    network, states = build(description, weights), None
    if not any(node.get("function") == "normalize" for node in description["nodes"]):
        initial = jax.device_get(network.initial_state(first))
        states = jax.tree.map(lambda a: a + 0.05 * wave(a, np) if is_real(a) else a, initial)
        states = recorded(states, list)

    def loss(weights, inputs, states):
        network = build(description, weights)
        if is_list and states is not None:
            states = {str(n): state for n, state in enumerate(states)}
        pre_spike = []
        if not (call.get("all_layers") or call.get("pre_spike")):
            after, outputs = network(as_inputs(inputs), states, **options)
        else:
            after, activity = network.observe(as_inputs(inputs), states, parts=("output", "pre_spike"), **options)
            every = {name: node.output for name, node in activity.items()}
            if call.get("all_layers"):
                outputs = recorded(every)
            else:
                outputs = {name: every[name] for name in network.graph.outputs}
                outputs = outputs if len(outputs) > 1 else every[network.graph.outputs[0]]
            us = {name: node.pre_spike for name, node in activity.items() if node.pre_spike is not None}
            pre_spike = [recorded(us)] if call.get("pre_spike") else []
        after = recorded(after, list)
        results = {"outputs": outputs, "states": after, "pre_spike": pre_spike}
        return sum(jnp.vdot(wave(a), a) for a in jax.tree.leaves((outputs, after)) if is_real(a)), results

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True))
    (_, results), gradients = compiled(weights, inputs, states)
    return flat(results | dict(zip(("d weights", "d inputs", "d states"), gradients, strict=True)))


# --- all other parts --------------------------------------------------------------------------------------------------


def is_real(a):
    return jnp.issubdtype(a.dtype, jnp.floating)


def wave(a, numpy=jnp):
    """Return different numbers in the shape and dtype of an array."""
    return numpy.cos(numpy.arange(a.size, dtype=a.dtype)).reshape(a.shape)


def flat(tree, prefix=""):
    """Return the arrays of a tree by name, without those that have no derivative."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    arrays = {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths}
    return {name: array for name, array in arrays.items() if array.dtype != jax.dtypes.float0}


def networks():
    """Yield recordings of random networks. A few run in every mode."""
    for number in range(NETWORKS):
        description = describe(number)
        mode = description["call"]["mode"]
        for other in MODES if number % 40 == 7 else [mode]:
            described = description | {"call": description["call"] | {"mode": other}}
            with jax.enable_x64(described["dtype"] == "float64"):
                weights, inputs, mask = arrays_of(described)
                cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, described["dtype"]), tree)  # noqa: B023, E731
                try:
                    yield f"networks/{number}/{other}", run(described, cast(weights), cast(inputs), mask)
                except (TypeError, ValueError) as error:  # a combination that the library refuses is not recorded
                    print(f"\n{number} in mode {other}: {error}", file=sys.stderr)


def initial_weights():
    """Yield mean and standard deviation of drawn weights."""
    key = jax.random.key(3)
    spikes = jax.random.bernoulli(key, 0.1, (30, 4, 40)).astype(jnp.float32)
    lif, he = neurons.LIF(0.9), jax.nn.initializers.he_normal()
    adaptive, readout = neurons.AdaptiveLIF(0.9), neurons.LeakyReadout(0.95)
    layer, network = spikegrad.Layer.init, spikegrad.Network.init
    empty = {"a": spikegrad.Layer(jnp.zeros((40, 30)), lif, jnp.zeros((30, 30)))}
    empty |= {"b": spikegrad.Layer({"a": jnp.zeros((30, 20)), "input": jnp.zeros((40, 20))}, adaptive)}
    cases = {
        "rate": layer(key, 40, 30, lif, rate=0.1, recurrent=True, bias=True),
        "measured": layer(key, spikes, 30, neurons.SynapticLIF(), recurrent=True),
        "he": layer(key, 40, 30, adaptive, weight=he, recurrent=jax.nn.initializers.orthogonal()),
        "stack of a rate": network(key, 40, (30, 20, 10), lif, readout, rate=0.1),
        "stack": network(key, spikes, (30, 20, 10), adaptive, readout, recurrent=True),
        "graph": spikegrad.network.draw_weights(spikegrad.Network(empty), key, spikes),
    }
    for name, drawn in cases.items():
        moments = [(a.mean(), a.std()) for a in jax.tree.leaves(drawn) if jnp.ndim(a) > 1]
        yield f"weights/{name}", flat(moments)


def all_losses():
    """Yield values and gradients of losses."""
    rng = np.random.default_rng(5)
    spikes = jnp.asarray(rng.random((9, 4, 3)) < 0.4, jnp.float32)
    values = jnp.asarray(rng.normal(size=(9, 4, 3)), jnp.float32)
    other = jnp.asarray(rng.random((9, 4, 3)) < 0.3, jnp.float32)
    labels, mask = jnp.array([0, 2, 1, 1]), np.arange(9)[:, None] < np.array([9, 7, 5, 9])
    cases = {f"reduce {name}": (lambda x, m, n=name: losses.reduce_time(x, n, m), values) for name in losses.REDUCTIONS}
    cases |= {
        "count": (lambda x, m: losses.count_error(x, labels, 4.0, 1.0, m), spikes),
        "rate": (lambda x, m: losses.rate_error(x, labels, mask=m), spikes),
        "potential": (lambda x, m: losses.potential_error(x, labels, mask=m), values),
        "first spike": (losses.first_spike_time, spikes),
        "van Rossum": (lambda x, m: losses.van_rossum(x, other, 3.0, m), spikes),
        "lower": (lambda x, m: losses.lower_bound(x, 3.0), spikes),
        "upper": (lambda x, m: losses.upper_bound(x, 2.0, population=False), spikes),
        "voltage": (lambda x, m: losses.voltage_bound(x, -0.5, 0.7, mask=m), values),
    }
    for name, (loss, x) in cases.items():
        for kind, valid in (("", None), (" masked", mask)):
            value, pull = jax.vjp(lambda x: loss(x, valid), x)  # noqa: B023
            yield f"losses/{name}{kind}", flat((value, pull(wave(value))))


def costs():
    """Yield the counts of cost_report."""
    for number in range(0, 216, 24):
        weights, inputs, mask = arrays_of(description := describe(number))
        mask = mask if "mask" in description["call"] else None
        cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
        network, x = build(description, cast(weights)), cast(inputs)
        report = reports.cost_report(network, x if len(x) > 1 else x["x"], key=jax.random.key(1), mask=mask)
        yield f"costs/{number}", flat([row.cost for row in report.rows])


def sources():
    """Yield results of encoders, tasks and readers."""
    sys.path[:0] = [str(ROOT / "tests")]
    import recording_files as files  # noqa: PLC0415

    x = jnp.asarray(np.random.default_rng(6).uniform(-0.2, 1.2, (5, 4)), jnp.float32)
    yield "data/encoders", flat({
        "constant": data.constant_encoding(x, 3),
        "rate": data.rate_encoding(x, 6, jax.random.key(2)),
        "latency": data.latency_encoding(x, 7),
        "delta": data.delta_encoding(x, 0.3),
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def npz(name, arrays):
            np.savez(folder / name, **arrays)
            return folder / name

        np.save(folder / "4.npy", np.array(files.camera_events(7, 60, 128, 6_000), float))
        events = files.nmnist_bytes(files.camera_events(0, 50, 34, 315_000))
        packets = [files.packet([files.EVENT] * 5, capacity=7), files.packet([files.EVENT])]
        cases = {
            "yin_yang": data.yin_yang(12, steps=20, last=10),
            "binary_adding": data.binary_adding(12, steps=12, marked=4),
            "cue_accumulation": data.cue_accumulation(4, cues=3, delay=150),
            "randman": data.randman(3, 5, 4, steps=12),
            "npz": data.read_npz(npz("dense.npz", files.DENSE)),
            "npz events": data.read_npz_events(npz("sparse.npz", files.SPARSE)),
            "shd": data.read_shd(files.write_shd(folder / "shd.h5")),
            "ts": data.read_ts(files.write_ts(folder / "file.ts")),
            "nmnist": data.read_nmnist(files.write_nmnist(folder / "nmnist", [(3, "file", events)])),
            "dvs": data.read_dvs_gesture(files.write_aedat(folder / "f.aedat", packets, [(1, 0, 50), (3, 5, 11)])),
            "images": (split := data.load(npz("images.npz", files.IMAGES))).train,
            "test images": split.test,
        }
        for name, source in cases.items():
            arrays = {}
            if isinstance(source, data.Recordings):
                arrays = {"recording": [tuple(source[i]) for i in range(min(3, len(source)))]}
                source = source.binned(data.Binning(4, 14_000))
            batch = next(iter(data.Batches(source, min(4, len(source)), seed=1)))
            yield f"data/{name}", flat(arrays | {"batch": tuple(batch), "labels": np.asarray(source.y)})


PARTS = {"weights": initial_weights, "losses": all_losses, "costs": costs, "data": sources, "networks": networks}


def computed(parts):
    for part in parts:
        for case, arrays in PARTS[part]():
            print(f"\r{case:40}", end="", file=sys.stderr, flush=True)
            yield from ((f"{case}/{name}", array) for name, array in arrays.items())


# --- the file ---------------------------------------------------------------------------------------------------------


def record():
    """Write one array of bytes for each dtype, because a file of thousands of small arrays is large."""
    arrays = dict(computed(PARTS))
    index, flattened = {}, collections.defaultdict(list)
    for name, array in arrays.items():
        index[name] = str(array.dtype), array.shape
        flattened[str(array.dtype)].append(array.ravel())
    FILE.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    np.savez_compressed(FILE, index=text, **{dtype: np.concatenate(parts) for dtype, parts in flattened.items()})
    count = len({name.split("/")[1] for name in arrays if name.startswith("networks")})
    print(f"\n{count} networks, {len(arrays)} arrays, {FILE.stat().st_size / 1e6:.2f} MB")


def recorded():
    with np.load(FILE) as file:
        flattened = {name: file[name] for name in file.files}
    start = collections.Counter()
    for name, (dtype, shape) in json.loads(flattened.pop("index").tobytes()).items():
        size = int(np.prod(shape))
        yield name, flattened[dtype][start[dtype] : start[dtype] + size].reshape(shape)
        start[dtype] += size


def verdict(name, got, expected):
    """Return "equal", "close" or "off", and the largest difference as a part of the largest number."""
    if got is None or (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return "off", np.inf
    if np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f"):
        return "equal", 0.0
    if expected.dtype.kind != "f" or np.array_equal(expected, np.round(expected)) or name.startswith(("costs", "data")):
        return "off", float(np.max(np.abs(got.astype(float) - expected)))
    with np.errstate(invalid="ignore"):
        error = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
    return ("close" if error <= LIMITS.get(str(expected.dtype), 0) else "off"), error


def check(parts):
    """Print a table, and the arrays that are off. Return whether there is none."""
    present, table, off = dict(computed(parts)), collections.defaultdict(collections.Counter), []
    for name, expected in recorded():
        part = name.split("/")[0]
        if part in parts:
            mode = name.split("/")[2] if part == "networks" else ""
            result, error = verdict(name, present.pop(name, None), expected)
            kind = name.split("['")[1].split("']")[0] if part == "networks" else ""
            table[part, mode, kind][result] += 1
            if result == "off":
                off.append(f"{name}: {error:.1e}")
    off += [f"{name}: not recorded" for name in present]
    print(f"\n{'part':10}{'mode':11}{'arrays':12}{'equal':>7}{'close':>7}{'off':>7}")
    for (part, mode, kind), counts in table.items():
        print(f"{part:10}{mode:11}{kind:12}" + "".join(f"{counts[k]:7}" for k in ("equal", "close", "off")))
    print(*off[:60], sep="\n")
    print(f"{len(off)} arrays are off")
    return not off


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    # almost all time is compilation
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
    command, *parts = sys.argv[1:] or ["check"]
    if command == "record":
        record()
    elif command != "check" or not {*parts} <= {*PARTS}:
        sys.exit(__doc__)
    elif not check(parts or [*PARTS]):
        sys.exit(1)
