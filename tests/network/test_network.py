"""Networks over time: every mode against plain autodiff of an explicit loop, and what the backward pass keeps."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, ROOT, STORAGES, few
from networks import assert_close

from spikegrad import LIF, AdaptiveLIF, Backward, Cell, Layer, LeakyReadout, Network, Sigmoid, SynapticLIF, spike
from spikegrad.inspect import residual_report

STEPS, BATCH, INPUTS, NEURONS, CLASSES = 8, 3, 5, 7, 4


def label(value):
    if isinstance(value, (dict, tuple)):
        return "-".join(map(str, value.values() if isinstance(value, dict) else value)) or "exact"
    return str(value)


@functools.cache
def draw(dtype=jnp.float32):
    rng = np.random.default_rng(1)  # of which bfloat16 rounds no potential across its threshold

    def array(*shape, scale=1.0):
        return jnp.asarray(rng.normal(0, scale, shape), dtype)

    return {
        "weight": array(INPUTS, NEURONS, scale=1.5 / INPUTS**0.5),
        "recurrent": array(NEURONS, NEURONS, scale=0.3),
        "bias": array(NEURONS, scale=0.1),
        "readout": array(NEURONS, CLASSES),
        "decay": jnp.linspace(0.5, 0.85, NEURONS, dtype=dtype),
        "threshold": jnp.linspace(0.6, 1.2, NEURONS, dtype=dtype),
        "inputs": jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS)), dtype),
    }


def build(p):
    hidden = Layer(p["weight"], LIF(p["decay"], p["threshold"], Sigmoid(2.0)), p["recurrent"], p["bias"])
    return Network([hidden, Layer(p["readout"], LeakyReadout(0.9))])


def loop(p):
    """The outputs of the same network without cells, layers or the engine, only the rule of a spike."""

    def step(states, x):
        v, s, out = states
        u = p["decay"][None] * v + x @ p["weight"] + p["bias"][None] + s @ p["recurrent"]
        above = u - p["threshold"][None]
        s = spike(above, Sigmoid(2.0).surrogate_grad(above))
        out = 0.9 * out + s @ p["readout"]
        return (u - p["threshold"][None] * s, s, out), out

    zeros = jnp.zeros((BATCH, NEURONS), p["readout"].dtype)
    return jax.lax.scan(step, (zeros, zeros, zeros[:, :CLASSES]), p["inputs"])[1]


BY_DEFAULT = ("float32", "8-bit"), ("bfloat16", "exact")


@functools.cache
def expected(dtype):
    return jax.jit(jax.value_and_grad(lambda p: weighted(loop(p))))(draw(dtype))


def weighted(out):
    return (jnp.asarray(np.random.default_rng(9).normal(size=out.shape), out.dtype) * out).sum()


@pytest.mark.parametrize(
    ("dtype", "mode"), few(itertools.product(("float32", "bfloat16"), MODES), *BY_DEFAULT), ids=label
)
def test_gradients_are_those_of_an_explicit_loop(dtype, mode):
    """In the precisions that test_random_graphs.py has not. Errors are relative to the whole gradient."""
    p, (value, wanted) = draw(dtype), expected(dtype)
    run = jax.jit(jax.value_and_grad(lambda p: weighted(build(p)(p["inputs"], backward=mode)[1])))
    got, gradient = run(p)
    assert all(leaf.dtype == dtype and np.any(leaf) for leaf in jax.tree.leaves(gradient))
    error = 2e-2 if dtype == "bfloat16" else 3e-6
    assert abs(float(got) - float(value)) <= error * (1 + abs(float(value)))
    a, b = (np.concatenate([np.ravel(leaf).astype(float) for leaf in jax.tree.leaves(g)]) for g in (gradient, wanted))
    assert np.linalg.norm(a - b) <= max(error, GRADIENT_ERRORS.get(mode, 0)) * np.linalg.norm(b)


@pytest.mark.parametrize("neurons", few([512, 1024], 1024))
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


def test_inputs_of_integers():
    p = draw()
    x = np.asarray(p["inputs"]) > 0.7

    @jax.jit
    @jax.grad
    def run(w, x):
        return Network([Layer(w, LIF())])(x, backward="half")[1].sum()

    w = p["weight"]
    assert_close(run(w, x.astype(np.uint8)), run(w, x.astype(np.float32)), 1e-6)


# JAX before 0.12 loses a custom_jvp in a scan that is differentiated in reverse, once it is differentiated again
@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="second order through a scan is wrong in JAX before 0.12")
@pytest.mark.parametrize("options", few([{}, {"backward": Backward("recompute", segment=4)}], {}), ids=label)
def test_second_order(options):
    p = draw()

    def of_weights(run):
        return lambda w: (run({**p, "weight": w}) ** 2).sum()

    got = jax.jit(jax.jacrev(jax.grad(of_weights(lambda p: build(p)(p["inputs"], **options)[1]))))(p["weight"])
    assert_close(got, jax.jit(jax.hessian(of_weights(loop)))(p["weight"]), 1e-5)


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
    storage = STORAGES[mode]

    @jax.jit
    def both(potential):
        state = potential if cell is LIF else (potential, jnp.asarray(second))
        encoded = neuron.encode(state)
        kept = neuron.decode(*storage.read(storage.write(encoded), encoded))
        return neuron.fire(kept)[1], neuron.fire(state)[1]

    for potential in (u, *near):
        np.testing.assert_array_equal(*both(potential))


@pytest.mark.parametrize("mode", few(STORAGES, "8-bit"))
def test_no_second_order_of_what_is_kept_in_few_bits(mode):
    p = draw()
    gradient = jax.grad(lambda p: build(p)(p["inputs"], backward=mode)[1].sum())
    with pytest.raises(TypeError, match=f"Network: mode '{mode}' has a first derivative only"):
        jax.grad(lambda p: gradient(p)["readout"].sum() ** 2)(p)


def test_forward_mode():
    p = draw()
    d = jax.tree.map(jnp.ones_like, p)
    run = lambda p, **options: build(p)(p["inputs"], **options)[1].sum()  # noqa: E731
    functions = lambda p: run(p, backward="scan"), lambda p: loop(p).sum()
    assert_close(*jax.jit(lambda: [jax.jvp(f, (p,), (d,))[1] for f in functions])(), 1e-5)
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


# --- memory: of the compiled program, so that no other load of the machine matters -----------------------------------


def units(steps, depth=1, cell=LIF, reported=False, backward="exact"):
    """Temporary bytes of a compiled gradient, in arrays of one float32 for each layer, step, example and neuron.

    With ``reported``, those that residual_report finds without compiling.
    """
    return _units(steps, depth, cell, reported, backward)


@functools.cache
def _units(steps, depth, cell, reported, backward):
    batch, neurons = 16, 128

    def loss(weights, x):
        layers = [Layer(w, cell(0.9), r) for w, r in weights]
        network = Network([*layers, Layer(jnp.ones((neurons, 1)), LeakyReadout(0.9))])
        return network(x, backward=backward)[1][-1].sum()

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


@pytest.mark.parametrize("mode", few(["exact", "half"], "half"))
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
    assert 3.5 < units(4000) * 4 / units(1000) <= 4.01
    recompute = [units(n, backward="recompute") * n for n in (2500, 10_000)]
    assert recompute[1] / recompute[0] < 2.3


def test_residual_report():
    p = draw()
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
        (ValueError, {"backward": "exakt"}, f"mode must be one of {', '.join(map(repr, MODES))}, got"),
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
            "states of layer '0' must be ('float32[3, 7]', 'float32[3, 7]'), got ('float32[3, 7]', 'float32[2]')",
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
    p = draw()
    with pytest.raises(error) as raised:
        build(p)(options.pop("inputs", p["inputs"]), options.pop("states", None), **options)
    assert message in str(raised.value)


def test_states_of_a_whole_sequence():
    """``initial_state`` cannot know that its inputs have an axis of steps."""
    layer, x = Layer(jnp.ones((5, 7)), SynapticLIF()), jnp.ones((8, 3, 5))
    for name, network in (("'0'", Network([layer])), ("'a'", Network({"a": layer}))):
        states = network.initial_state(x)
        message = (
            f"Network: states of layer {name} must be (('float32[3, 7]', 'float32[3, 7]'), 'float32[3, 7]'), got "
            "(('float32[8, 3, 7]', 'float32[8, 3, 7]'), 'float32[8, 3, 7]'); initial_state(inputs[0])"
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
        (lambda: Layer(w, LIF(), w), ValueError, "Layer: recurrent must be square, got a matrix of shape (3, 2)"),
        (lambda: Layer(w, LIF(), bias=True), TypeError, "got True; Layer.init(..., bias=True) creates one"),
        (lambda: Network([]), TypeError, "Network: layers must be one or more Layer objects, got []"),
        (lambda: Network(Layer(w, LIF()), Layer(w, LIF())), TypeError, "Network: layers must be"),
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
