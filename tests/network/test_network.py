"""Networks over time: every mode against plain autodiff of an explicit loop, and what the backward pass keeps."""

import contextlib
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, ROOT, STORAGES, enable_x64, few
from networks import backward_of, named, observed, truncated_options

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Backward,
    Cell,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    parameter,
    spike,
)
from spikegrad.inspect import residual_report

STEPS, BATCH, INPUTS, NEURONS, CLASSES = 8, 3, 5, 7, 4

CELLS = {  # of the arguments they share, and of the decay of their second state
    "LIF": lambda *args, second: LIF(*args),  # noqa: PLW0108
    "SynapticLIF": lambda *args, second: SynapticLIF(*args, second),
    "AdaptiveLIF": lambda *args, second: AdaptiveLIF(*args, 0.3, second),
}
OPTIONS = [
    {},
    {"backward": Backward(segment=4)},
    {"backward": Backward(segment=3)},
    {"backward": Backward(chunk=1, segment=3)},
    {"backward": Backward(chunk=3)},
    {"backward": Backward(chunk=8)},
    {"backward": Backward("recompute", segment=6, chunk=3)},
    {"backward": Backward("half", chunk=2, segment=4)},
    *({"backward": mode} for mode in MODES if mode != "exact"),
]
# of the largest entry of a gradient, or of its norm where what is kept is rounded
ERRORS = GRADIENT_ERRORS | {"bfloat16": 5e-2}


def label(value):
    if isinstance(value, (dict, tuple)):
        return "-".join(map(str, value.values() if isinstance(value, dict) else value)) or "exact"
    return str(value)


def draw(depth, recurrent, dtype=jnp.float32, seed=0, cell="LIF"):
    rng = np.random.default_rng(seed)

    def array(*shape, scale=1.0):
        return jnp.asarray(rng.normal(0, scale, shape), dtype)

    sizes = [INPUTS] + [NEURONS] * depth
    return {
        "weights": [array(n, m, scale=1.5 / n**0.5) for n, m in itertools.pairwise(sizes)],
        "recurrent": [array(NEURONS, NEURONS, scale=0.3) for _ in range(depth)] if recurrent else [None] * depth,
        "bias": array(NEURONS, scale=0.1),
        "readout": array(NEURONS, CLASSES),
        "decay": jnp.linspace(0.5, 0.85, NEURONS, dtype=dtype),
        "threshold": jnp.linspace(0.6, 1.2, NEURONS, dtype=dtype),
        "inputs": jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS)), dtype),
        # of the second state, where there is one
        **({} if cell == "LIF" else {"second": jnp.linspace(0.6, 0.9, NEURONS, dtype=dtype)}),
    }


def build(p, cell="LIF", reset="subtract", detached=False):
    cells = [CELLS[cell](p["decay"], p["threshold"], Sigmoid(2.0), reset, detached, second=p.get("second"))]
    cells += [CELLS[cell](0.8, 0.5, Arctan(2.0), reset, detached, second=0.7)] * (len(p["weights"]) - 1)
    biases = [p["bias"]] + [None] * (len(cells) - 1)
    layers = [Layer(*each) for each in zip(p["weights"], cells, p["recurrent"], biases, strict=True)]
    return Network([*layers, Layer(p["readout"], LeakyReadout(0.9))])


def loop(p, states=None, mask=None, truncate=None, cell="LIF", reset="subtract", detached=False):
    """The same network without the library's cells, layers or loop, only its step and its slopes: the oracle."""
    depth, shape = len(p["weights"]), (BATCH, NEURONS)
    zeros, dtype = jnp.zeros(shape, p["readout"].dtype), p["readout"].dtype
    if states is None:
        hidden = [(zeros if cell == "LIF" else (zeros, zeros), zeros)] * depth
        states = [*hidden, (jnp.zeros((BATCH, CLASSES), dtype),) * 2]

    def step(states, x):
        new, below = [], x
        for n, (v0, s0) in enumerate(states[:-1]):
            decay, threshold = (p["decay"][None], p["threshold"][None]) if n == 0 else (0.8, 0.5)
            second = p["second"][None] if n == 0 and cell != "LIF" else 0.7
            slope = Sigmoid(2.0) if n == 0 else Arctan(2.0)
            current = below @ p["weights"][n] + (p["bias"][None] if n == 0 else 0)
            if p["recurrent"][n] is not None:
                current = current + s0 @ p["recurrent"][n]
            if cell == "SynapticLIF":
                v0, i = v0
                current = i = second * i + current
            if cell == "AdaptiveLIF":
                v0, a = v0
                threshold = threshold + a
            u = decay * v0 + current
            s = spike(u - threshold, slope.surrogate_grad(u - threshold))
            r = jax.lax.stop_gradient(s) if detached else s
            v = {"subtract": u - threshold * r, "value": u * (1 - r), "none": u}[reset]
            if cell != "LIF":
                v = (v, i) if cell == "SynapticLIF" else (v, second * a + 0.3 * s)
            new.append((v, s))
            below = s
        potential = 0.9 * states[-1][0] + below @ p["readout"]
        return [*new, (potential, potential)], potential

    def masked_step(carry, now):
        (states, window), (x, active, now_in) = carry, now
        cut = (window < now_in)[:, None]  # the last step that took place was in another window
        begin = jax.tree.map(lambda a: jnp.where(cut, jax.lax.stop_gradient(a), a), states)
        new, out = step(begin, x)
        held = states, jnp.zeros_like(out)
        new, out = jax.tree.map(lambda a, b: jnp.where(active[:, None], a, b), (new, out), held)
        return (new, jnp.where(active, now_in, window)), out

    if mask is None and truncate is None:
        return jax.lax.scan(step, states, p["inputs"])
    mask = jnp.ones((STEPS, BATCH), bool) if mask is None else mask
    windows = jnp.arange(STEPS) // (truncate or STEPS)
    (states, _), out = jax.lax.scan(masked_step, (states, jnp.zeros(BATCH, int)), (p["inputs"], mask, windows))
    return states, out


def loss_of(run):
    """Of all outputs, and of the last states, with different weights, so that nothing cancels."""

    def loss(p, states=None):
        ends, out = run(p, states)
        weights = jnp.asarray(np.random.default_rng(9).normal(size=out.shape), out.dtype)
        return (weights * out).sum() + sum(jnp.sin(end).sum() for end in jax.tree.leaves(ends))

    return loss


def assert_close(got, expected, error):
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(expected), strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(x - y).max() <= error * np.abs(y).max(), jax.tree_util.keystr(path)


def distance(got, expected):
    """Relative, by the Euclidean norm over all leaves."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (got, expected))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@functools.cache
def expected(depth, recurrent, dtype, with_states, masked, truncate, cell, reset, detached):
    """Value and gradient of the oracle, which takes longer to compile than what is tested."""
    p, states, mask = case(depth, recurrent, dtype, with_states, masked, cell)
    run = functools.partial(loop, mask=mask, truncate=truncate, cell=cell, reset=reset, detached=detached)
    return jax.jit(jax.value_and_grad(loss_of(run), (0, 1) if with_states else 0))(p, states)


def case(depth, recurrent, dtype, with_states, masked, cell):
    rng = np.random.default_rng(3)
    mask = states = None
    if masked:  # nothing at first, and an example of no steps at all
        mask = jnp.asarray(rng.uniform(size=(STEPS, BATCH)) < 0.6).at[0].set(False).at[:, 0].set(False)
    if with_states:
        sizes = [NEURONS] * depth + [CLASSES]
        states = [tuple(jnp.asarray(rng.normal(size=(2, BATCH, n)), dtype)) for n in sizes]
        if cell != "LIF":
            states = [((v, jnp.abs(v) / 4), s) for v, s in states[:-1]] + states[-1:]
    return draw(depth, recurrent, dtype, cell=cell), states, mask


def check(
    options,
    depth,
    recurrent=True,
    *,
    dtype="float32",
    states=False,
    masked=False,
    truncate=None,
    cell="LIF",
    reset="subtract",
    detached=False,
):
    p, begin, mask = case(depth, recurrent, dtype, states, masked, cell)
    value, gradient = expected(depth, recurrent, dtype, states, masked, truncate, cell, reset, detached)
    run = loss_of(
        lambda p, s: build(p, cell, reset, detached)(
            p["inputs"], named(s), mask=mask, **truncated_options(options, truncate)
        )
    )
    got, got_gradient = jax.jit(jax.value_and_grad(run, (0, 1) if states else 0))(p, begin)
    mode = backward_of(options).mode
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got_gradient))
    # what is rounded, in what is kept or in every step, adds up as noise does: of the gradient as a whole
    if dtype == "bfloat16":
        assert np.isclose(float(got), float(value), rtol=2e-2, atol=0.1)
        assert distance(got_gradient, gradient) <= max(ERRORS.get(mode, 0), ERRORS["bfloat16"])
        return got_gradient
    assert np.isclose(float(got), float(value), rtol=1e-5)
    if mode in STORAGES:
        assert distance(got_gradient, gradient) <= ERRORS[mode]
    else:
        assert_close(got_gradient, gradient, 1e-13 if dtype == "float64" else 3e-6)
    return got_gradient


FACTORS = {
    "cell": tuple(CELLS),
    "reset": ("subtract", "value", "none"),
    "detached": (False, True),
    "options": ({}, *({"backward": mode} for mode in MODES if mode != "exact")),
    "depth": (1, 2),
    "recurrent": (True, False),
    "dtype": ("float32", "bfloat16", "float64"),
}
EVERY = {
    "options": [{"backward": "scan"}, {"backward": "recompute"}]
}  # JAX's own derivative; what is exact, computed again


def test_gradients_are_those_of_an_explicit_loop(combination):
    """Of all combinations of the factors, or of so many that every two of their values meet: see conftest.py."""
    with enable_x64() if combination["dtype"] == "float64" else contextlib.nullcontext():
        gradient = check(**combination)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("options", "masked", "truncate", "cell"),
    [
        *(
            pytest.param(options, True, 3, "LIF", marks=pytest.mark.every)  # test_loop_properties.py stands for these
            for options in OPTIONS
        ),
        ({}, False, 3, "LIF"),
        pytest.param({}, True, None, "LIF", marks=pytest.mark.every),
        ({}, True, 3, "AdaptiveLIF"),
        pytest.param({}, True, 3, "SynapticLIF", marks=pytest.mark.every),
    ],
    ids=label,
)
def test_masks_truncation_and_initial_states(options, masked, truncate, cell):
    check(options, 2, states=True, masked=masked, truncate=truncate, cell=cell)


@pytest.mark.parametrize("options", few(OPTIONS, *OPTIONS[::2], OPTIONS[-1]), ids=label)
def test_outputs_are_the_same_in_every_mode_and_step_by_step(options):
    p = draw(2, True)
    ends, outs, _ = jax.jit(lambda x: observed(build(p), x, **options))(p["inputs"])
    states, by_step = step_by_step()
    for n, expected in enumerate(by_step[:-1]):
        assert jnp.array_equal(outs[n], expected)
    np.testing.assert_allclose(outs[-1], by_step[-1], rtol=1e-5, atol=1e-6)
    assert_close(ends, states, 1e-5)
    assert float(outs[0].mean()) > 0.05


@functools.cache
def step_by_step():
    """The last states, and the outputs of all layers."""
    p = draw(2, True)
    network = build(p)
    states, step, outs = network.initial_state(p["inputs"][0]), jax.jit(network.step), []
    for x in p["inputs"]:
        states, _ = step(states, x)
        outs.append([out for _, out in states.values()])
    return states, [jnp.stack(each) for each in zip(*outs, strict=True)]


@pytest.mark.parametrize("neurons", [512, 1024])
def test_gradients_of_large_matrices_are_added_in_parts(neurons):
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(0, 1.5 / n**0.5, (n, neurons)), jnp.float32) for n in (700, neurons)]
    x = jnp.asarray(rng.uniform(0, 1, (6, 2, 700)), jnp.float32)

    def loss(weights, **options):
        out = Network([Layer(weights[0], LIF(), weights[1])])(x, **options)[1]
        return (out * jnp.cos(jnp.arange(neurons))[None, None]).sum()

    modes = {"backward": "scan"}, {"backward": Backward("recompute", segment=2)}
    exact, kept = (jax.jit(jax.grad(functools.partial(loss, **mode)))(weights) for mode in modes)
    assert all(jnp.any(part != 0) for leaf in exact for part in jnp.split(leaf, 4))
    assert_close(kept, exact, 3e-6)


def test_a_sequence_can_be_continued():
    p = draw(2, True)
    network = build(p)
    ends, whole = network(p["inputs"])
    states, first = network(p["inputs"][:5])
    states, rest = network(p["inputs"][5:], states, backward=Backward(chunk=2))
    np.testing.assert_allclose(jnp.concatenate([first, rest]), whole, rtol=1e-5, atol=1e-6)
    assert_close(states, ends, 1e-5)


@pytest.mark.parametrize("options", few([{}, {"backward": "half"}], {"backward": "half"}), ids=label)
def test_inputs_of_booleans_and_integers(options):
    p = draw(1, True)
    x = p["inputs"] > 0.7
    run = jax.jit(jax.grad(lambda p, x: build(p)(x, **options)[1].sum()))
    expected = run(p, x.astype(jnp.float32))["weights"]
    assert_close(run(p, x)["weights"], expected, 1e-6)
    assert_close(run(p, x.astype(jnp.uint8))["weights"], expected, 1e-6)


class Cubic(Cell):
    """Not linear in its current, and with a state of two arrays: what an engine might get wrong."""

    pull: float = parameter(default=0.1)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.ones(shape, dtype)

    def integrate(self, v, current):
        u, trace = v
        return 0.9 * u - self.pull * u * u * u + jnp.tanh(current), 0.8 * trace

    def fire(self, u):
        u, trace = u
        s = Sigmoid(2.0)(u - 0.5 - 0.1 * trace)
        return (u - s, trace + s), s


def test_a_cell_of_ones_own():
    p = draw(1, True)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, BATCH, NEURONS)), jnp.float32)

    def loss(parameters, options):
        w, r, pull = parameters
        network = Network([Layer(w, Cubic(pull), jax.tree_util.Partial(lambda r, s: s @ r, r))])
        if options is not None:
            return (weights * network(p["inputs"], **options)[1]).sum()
        return (weights * jax.lax.scan(network.step, network.initial_state(p["inputs"][0]), p["inputs"])[1]).sum()

    @jax.jit
    def gradients(parameters):
        modes = None, {}, {"backward": "scan"}, {"backward": Backward(chunk=3)}, {"backward": "recompute"}
        return [jax.grad(loss)(parameters, options) for options in modes]

    expected, *found = gradients((p["weights"][0], p["recurrent"][0], jnp.float32(0.1)))
    for got in found:
        assert_close(got, expected, 3e-6)


@pytest.mark.parametrize(
    "options", few([{}, {"backward": "scan"}, {"backward": "half"}], {"backward": "half"}), ids=label
)
def test_seeds_side_by_side(options):
    ps = [draw(1, True, seed=seed) for seed in range(3)]
    gradient = jax.jit(jax.grad(lambda p: build(p)(p["inputs"], **options)[1].sum()))
    together = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda *a: jnp.stack(a), *ps))
    for n, p in enumerate(ps):
        assert_close(jax.tree.map(lambda a, n=n: a[n], together), gradient(p), 1e-5)


# JAX before 0.12 loses a custom_jvp in a scan that is differentiated in reverse, once it is differentiated again
@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="second order through a scan is wrong in JAX before 0.12")
@pytest.mark.parametrize("options", few([{}, {"backward": Backward("recompute", segment=4)}], {}), ids=label)
def test_second_order(options):
    p = draw(1, True)

    def of_weights(run):
        return lambda w: (run({**p, "weights": [w]})[1] ** 2).sum()

    got = jax.jit(jax.jacrev(jax.grad(of_weights(lambda p: build(p)(p["inputs"], **options)))))(p["weights"][0])
    assert_close(got, jax.jit(jax.hessian(of_weights(loop)))(p["weights"][0]), 1e-5)


@pytest.mark.parametrize("cell", [LIF, SynapticLIF, AdaptiveLIF])
@pytest.mark.parametrize("mode", STORAGES)
def test_spikes_are_exact_in_few_bits(mode, cell):
    """Also next to the threshold, and next to a threshold that has itself been rounded."""
    rng = np.random.default_rng(0)
    neuron, n = cell(threshold=0.7), 4096
    second = rng.uniform(0, 3, n).astype(np.float32)
    second[::2] = rng.uniform(0.29, 0.3, n // 2)  # a threshold just below 1, beyond which numbers are further apart
    threshold = np.float32(0.7) + (second if cell is AdaptiveLIF else 0)
    u = rng.uniform(-5, 5, n).astype(np.float32)
    below = np.broadcast_to(threshold, n).astype(np.float32)
    near = [below]
    for _ in range(3):
        below = np.nextafter(below, np.float32(-9))
        near.append(below)
    for potential in map(jnp.asarray, [u, *near]):
        state = potential if cell is LIF else (potential, jnp.asarray(second))
        encoded = neuron.encode(state)
        storage = STORAGES[mode]
        kept = neuron.decode(*storage.read(storage.write(encoded), encoded))
        assert jnp.array_equal(neuron.fire(kept)[1], neuron.fire(state)[1])


@pytest.mark.parametrize("mode", STORAGES)
def test_no_second_order_of_what_is_kept_in_few_bits(mode):
    p = draw(1, True)
    gradient = jax.grad(lambda p: build(p)(p["inputs"], backward=mode)[1].sum())
    with pytest.raises(TypeError, match=f"Network: mode '{mode}' has a first derivative only"):
        jax.grad(lambda p: gradient(p)["readout"].sum() ** 2)(p)


def test_forward_mode():
    p = draw(1, True)
    d = jax.tree.map(jnp.ones_like, p)
    run = lambda p, **options: build(p)(p["inputs"], **options)[1].sum()  # noqa: E731
    got = jax.jvp(lambda p: run(p, backward="scan"), (p,), (d,))[1]
    assert_close(got, jax.jvp(lambda p: loop(p)[1].sum(), (p,), (d,))[1], 1e-5)
    for mode in ("exact", "half"):
        other = functools.partial(run, backward=mode)
        compiled = jax.jit(other)
        for refused in (
            functools.partial(jax.jvp, other, (p,), (d,)),
            functools.partial(jax.jvp, compiled, (p,), (d,)),
            functools.partial(jax.jacfwd(other), p),
        ):
            with pytest.raises(TypeError, match=f"^Network: for forward-mode .* use backward='scan', not '{mode}'"):
                refused()
    # in reverse mode nothing is refused, whatever is between
    both = jax.tree.map(lambda a: jnp.stack([a, a]), p)
    got = jax.grad(lambda both: jax.vmap(compiled)(both).sum())(both)
    assert_close(jax.tree.map(lambda a: a[1], got), jax.grad(compiled)(p), 1e-5)


# --- memory: of the compiled program, so that no other load of the machine matters -----------------------------------


@functools.cache
def units(steps, batch=16, neurons=128, depth=1, cell=LIF, reported=False, **options):
    """Temporary bytes of a compiled gradient, in arrays of one float32 for each layer, step, example and neuron.

    With ``reported``, those that residual_report finds without compiling.
    """

    def loss(weights, x):
        layers = [Layer(w, cell(0.9), r) for w, r in weights]
        network = Network([*layers, Layer(jnp.ones((neurons, 1)), LeakyReadout(0.9))])
        return network(x, **options)[1][-1].sum()

    matrix = jax.ShapeDtypeStruct((neurons, neurons), jnp.float32)
    x = jax.ShapeDtypeStruct((steps, batch, neurons), jnp.float32)
    given = [(matrix, matrix)] * depth, x
    if reported:
        found = residual_report(loss, *given).bytes
    else:
        found = jax.jit(jax.grad(loss)).lower(*given).compile().memory_analysis().temp_size_in_bytes
    return found / (steps * batch * neurons * 4 * depth)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 1.1),
        ({"backward": Backward(chunk=10)}, 1.15),
        ({"backward": "half"}, 0.6),
        ({"backward": "8-bit"}, 0.35),
        ({"backward": "recompute"}, 0.2),
    ],
    ids=label,
)
@pytest.mark.parametrize("depth", few([1, 3], 1))
def test_memory_of_each_mode(options, most, depth):
    assert units(1000, depth=depth, **options) <= most * (1 if depth == 1 else 1.15)


@pytest.mark.parametrize("mode", ["exact", "half"])
def test_memory_of_a_state_of_two_arrays(mode):
    """Kept is what the derivative needs: of a synaptic current, which is linear, nothing."""
    one = units(1000, backward=mode)
    assert units(1000, backward=mode, cell=SynapticLIF) < 1.05 * one
    assert 1.8 * one < units(1000, backward=mode, cell=AdaptiveLIF) < 2.05 * one


@pytest.mark.parametrize("mode", few(["exact", "half", "8-bit", "recompute"], "exact"))
def test_residual_report_agrees_with_compiled_memory(mode):
    """It has no temporaries, so it is less, but by little over many steps: never an array that no pass reads."""
    for cell in (LIF, SynapticLIF, AdaptiveLIF):
        reported = units(1000, backward=mode, cell=cell, reported=True)
        assert 0.9 * reported < units(1000, backward=mode, cell=cell)
        assert 0.75 * units(1000, backward=mode, cell=cell) < reported


def test_memory_grows_with_the_steps_or_their_square_root():
    for options in ({}, {"backward": "half"}):
        grown = units(4000, **options) * 4 / units(1000, **options)
        assert 3.5 < grown <= 4.01
    recompute = [units(n, backward="recompute") * n for n in (2500, 10_000)]
    assert recompute[1] / recompute[0] < 2.3


def test_residual_report():
    p = draw(1, True)
    of = lambda **options: residual_report(lambda p: build(p)(p["inputs"], **options)[1].sum(), p)  # noqa: E731
    unit = STEPS * BATCH * NEURONS * 4
    shapes = {(a.shape, a.dtype.name) for a in of(backward="scan").arrays}
    assert ((STEPS, BATCH, NEURONS), "float32") in shapes
    assert of(backward="half").bytes < of().bytes
    assert any(a.dtype == jnp.uint16 for a in of(backward="half").arrays)
    assert any(a.dtype == jnp.uint8 for a in of(backward="8-bit").arrays)
    x = p["inputs"]
    short, long = (residual_report(lambda p, x=x: build(p)(x)[1].sum(), p).bytes for x in (x, jnp.tile(x, (8, 1, 1))))
    assert unit <= (long - short) / 7 < 1.6 * unit  # of more steps, whatever is kept once
    kept = of()
    sizes = [int(np.prod(array.shape)) * array.dtype.itemsize for array in kept.arrays]
    assert len(set(sizes)) > 2
    assert sizes == sorted(sizes, reverse=True)
    assert [line.split()[-2] for line in str(kept).splitlines()] == [f"{size:,}" for size in (*sizes, sum(sizes))]


def test_each_mode_is_documented():
    page = (ROOT / "docs" / "memory.md").read_text()
    for mode in MODES:
        assert f'\n| `"{mode}"` | ' in page
        assert f'"{mode}"' in Backward.__doc__


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (
            ValueError,
            {"backward": "exakt"},
            f"mode must be one of {', '.join(map(repr, MODES))}, got",
        ),
        (ValueError, {"backward": Backward(chunk=9)}, "chunk must be from 1 to the 8 steps of the inputs, got 9"),
        (TypeError, {"backward": 8}, "backward must be the name of a mode or a Backward, got 8"),
        (ValueError, {"backward": Backward(chunk=4, segment=6)}, "chunk must divide segment, got 4 and 6"),
        (ValueError, {"mask": np.ones((3, 8), bool)}, "mask must be of bool and of shape"),
        (ValueError, {"mask": np.ones((8, 3))}, "mask must be of bool and of shape"),
        (
            ValueError,
            {"mask": np.ones((3, 8), bool)},
            "inputs are (steps, examples, ...): 8 steps, 3 examples; masks of shape (3, 8) fit the other order: "
            "move the axis with jnp.swapaxes(x, 0, 1)",
        ),
        (
            ValueError,
            {"states": {"0": (jnp.zeros((3, 7)), jnp.zeros(2))}},
            "states of layer '0': output must be float32[3, 7], got float32[2]; initial_state(inputs of one step)",
        ),
        (
            ValueError,
            {"states": {"0": (jnp.zeros((8, 7)), jnp.zeros((8, 7)))}},
            "8 steps, 3 examples; states of shape (8, 7) fit the other order",
        ),
        (ValueError, {"states": {"x": jnp.zeros((3, 7))}}, "states must have the keys ['0', '1'], got 'x'"),
        (
            ValueError,
            {"states": {"0": jnp.zeros((3, 7))}},
            "states of layer '0' must be ('float32[3, 7]', 'float32[3, 7]'), got float32[3, 7]; initial_state(",
        ),
        (TypeError, {"states": jax.random.key(0)}, "states must be a mapping, one entry for each name, got Array"),
        (ValueError, {"inputs": jnp.ones(3)}, "inputs must be of shape (steps, ..., inputs), got (3,)"),
        (ValueError, {"inputs": jnp.ones((8, 3, 6))}, "weight of shape (5, 7) does not take an input of shape (3, 6)"),
    ],
)
def test_bad_calls(error, options, message):
    p = draw(1, True)
    with pytest.raises(error) as raised:
        build(p)(options.pop("inputs", p["inputs"]), options.pop("states", None), **options)
    assert message in str(raised.value)


def test_states_of_a_whole_sequence():
    """``initial_state`` cannot know that its inputs have an axis of steps."""
    layer, x = Layer(jnp.ones((5, 7)), SynapticLIF()), jnp.ones((8, 3, 5))
    for name, network in (("'0'", Network([layer])), ("'a'", Network({"a": layer}))):
        states = network.initial_state(x)
        message = (
            f"Network: states of layer {name}: potential must be float32[3, 7], got float32[8, 3, 7]; "
            "pass the inputs of one step to initial_state, such as inputs[0]"
        )
        for call in (network, lambda x, states, step=network.step: step(states, x[0])):
            with pytest.raises(ValueError, match=re.escape(message)):
                call(x, states)


def test_bad_layers():
    w = jnp.ones((3, 2))
    for make, error, message in (
        (lambda: Layer(w, "LIF"), TypeError, "Layer: cell must be a Cell, got 'LIF'"),
        (lambda: Layer(jnp.ones(3), LIF()), TypeError, "Layer: weight must be a matrix or callable, got an array"),
        (lambda: Layer("w", LIF()), TypeError, "Layer: weight must be a matrix or callable, got 'w'"),
        (lambda: Layer(np.ones((2, 2), object), LIF()), TypeError, "Layer: weight must hold real numbers, got object"),
        (lambda: Layer(w, LIF(), w), ValueError, "Layer: recurrent must be square, got a matrix of shape (3, 2)"),
        (lambda: Layer(w, LIF(), bias=True), TypeError, "got True; Layer.init(..., bias=True) creates one"),
        (lambda: Network([]), TypeError, "Network: layers must be one or more Layer objects, got []"),
        (
            lambda: Network(Layer(w, LIF()), Layer(w, LIF())),
            TypeError,
            "must be a list or a mapping, got a layer; write Network([first, second])",
        ),
        (
            lambda: Network.init(0, 3, [2], LIF(), rate=0.1),
            TypeError,
            "Network.init: key must be one of jax.random.key",
        ),
        (lambda: Layer.init(0, 3, 2, LIF(), rate=0.1), TypeError, "got 0; pass jax.random.key(0)"),
        (lambda: LIF(reset=None), TypeError, "got None; write 'none'"),
        (lambda: Network([w]), TypeError, "Network: layers must be one or more Layer objects"),
    ):
        with pytest.raises(error) as raised:
            make()
        assert message in str(raised.value)
    with pytest.raises(NotImplementedError, match="Cell defines no integrate"):
        Cell()(0.0, 1.0)


def second_derivatives(run):
    """Along a direction, of all that a recurrent network of one hidden layer returns, from given states and masked."""
    p, states, _ = case(1, True, "float64", True, True, "LIF")
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), p)

    def slope(p):
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss_of(run))(p, states), direction)))

    return jax.jit(jax.grad(slope))(p)


@functools.cache
def second_derivatives_of_loop(cut):
    mask = case(1, True, "float64", True, True, "LIF")[2]
    return second_derivatives(functools.partial(loop, mask=mask, truncate=cut))


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="second order through a scan is wrong in JAX before 0.12")
@pytest.mark.parametrize(
    ("options", "cut"),
    [
        pytest.param({}, 1, marks=pytest.mark.every),
        ({}, 3),
        ({"backward": Backward("recompute", segment=4, chunk=2)}, 3),
        pytest.param({"backward": "scan"}, 3, marks=pytest.mark.every),  # test_loop_properties.py stands for it
    ],
    ids=label,
)
def test_second_derivatives_end_where_states_are_cut(options, cut, x64):
    mask = case(1, True, "float64", True, True, "LIF")[2]
    found = second_derivatives(
        lambda p, s: build(p)(p["inputs"], named(s), mask=mask, **truncated_options(options, cut))
    )
    assert_close(found, second_derivatives_of_loop(cut), 1e-9)
