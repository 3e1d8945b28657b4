"""The loop over time as a whole: second derivatives of all that it returns, schedules, and what is stored."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import STORAGES
from networks import assert_close, named, observed, truncated_options

from spikegrad import LIF, Backward, Cell, Layer, LeakyReadout, Network

STEPS, BATCH, SIZES = 7, 4, (2, 4, 3)
RNG = np.random.default_rng(0)
INPUTS = RNG.uniform(0, 1.6, (STEPS, BATCH, SIZES[0]))
WEIGHTS = [RNG.normal(0.3, 0.8, shape) for shape in itertools.pairwise(SIZES)]
RECURRENT = RNG.normal(0, 0.5, (SIZES[1],) * 2)
MASK = RNG.uniform(size=(STEPS, BATCH)) < 0.6
MASK[:2, 0], MASK[3:5, 1], MASK[:, 2] = False, False, False  # nothing at first; a gap over a window's start; nothing
MASK[3:6, 3] = True, False, True  # a gap within a window
TRUNCATE = 3
RUNS = [
    {},
    {"backward": Backward(chunk=2)},
    {"backward": Backward(chunk=1, segment=3)},  # and a part of the step that is left over
    {"backward": Backward("recompute", segment=4, chunk=2)},
    {"backward": "scan"},
]


def label(options):
    return "-".join(map(str, options.values())) or "exact"


class Smooth(Cell):
    """Two arrays and an output without a rule of its own: JAX differentiates it any number of times."""

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.ones(shape, dtype)

    def integrate(self, v, current):
        u, trace = v
        return 0.8 * u - 0.1 * u * trace + jnp.tanh(current), 0.7 * trace + 0.1 * u

    def fire(self, u):
        u, trace = u
        s = jax.nn.sigmoid(2 * (u - 0.5 * trace))
        return (u - s, trace + s * s), s


def parameters():
    states = [tuple(jnp.asarray(RNG.normal(0.2, 0.5, (2, BATCH, size)))) for size in SIZES[1:]]
    return {
        "inputs": jnp.asarray(INPUTS),
        "weights": list(map(jnp.asarray, WEIGHTS)),
        "recurrent": jnp.asarray(RECURRENT),
        "bias": jnp.linspace(-0.1, 0.2, SIZES[1]),
        "states": states,
    }


def network_and_states(p):
    w, out = p["weights"]
    (a, b), (c, d) = p["states"]
    layers = [Layer(w, Smooth(), p["recurrent"], p["bias"]), Layer(out, LeakyReadout(0.8))]
    return Network(layers), [((a, 0.5 + b), b), (c, d)]


def by_hand(p):
    """Steps that do not take place hold the state, and windows cut its derivative."""
    network, states = network_and_states(p)

    def step(carried, now):
        (x, active, t), (states, window) = now, carried
        keep, cut = active[:, None], (window < t // TRUNCATE)[:, None]
        below, shown, states = x, [], [*states]
        for n, layer in enumerate(network.layers.values()):
            v, out = jax.tree.map(lambda a: jnp.where(cut, jax.lax.stop_gradient(a), a), states[n])
            current = below @ layer.weight
            if n == 0:
                current = current + layer.bias[None] + out @ layer.recurrent
            u = layer.cell.integrate(v, current)
            v, below = layer.cell.fire(u)
            states[n] = jax.tree.map(lambda a, b: jnp.where(keep, a, b), (v, below), states[n])
            shown.append(jax.tree.map(lambda a: jnp.where(keep, a, 0), (below, u)))
        window = jnp.where(active, t // TRUNCATE, window)
        return (states, window), ([out for out, _ in shown], [u for _, u in shown])

    carried = states, jnp.zeros(BATCH, int)
    (states, _), activity = jax.lax.scan(step, carried, (p["inputs"], jnp.asarray(MASK), jnp.arange(STEPS)))
    return states, *activity


def by_network(p, options):
    network, states = network_and_states(p)
    found = observed(network, p["inputs"], named(states), mask=MASK, **truncated_options(options, TRUNCATE))
    return [[*part.values()] for part in found]


def loss(returned):
    """Of all that is returned, each number with a weight of its own, and squared so that second derivatives count."""
    leaves = jax.tree.leaves(returned)
    weights = [np.cos(np.arange(leaf.size) + n).reshape(leaf.shape) for n, leaf in enumerate(leaves)]
    return sum((w * (leaf + 0.3 * leaf * leaf)).sum() for w, leaf in zip(weights, leaves, strict=True))


def derivatives(run):
    """The gradient of the gradient times a direction."""
    direction = jax.tree.map(lambda a: jnp.asarray(np.sin(np.arange(a.size) + 1)).reshape(a.shape), given())

    def along(p):
        gradient = jax.grad(lambda p: loss(run(p)))(p)
        return sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))

    return jax.jit(jax.grad(along))(given())


@functools.cache
def expected():
    return derivatives(by_hand)


@functools.cache
def given():
    return parameters()


@pytest.mark.every  # by default those of test_orders.py
@pytest.mark.parametrize("options", RUNS, ids=label)
def test_second_derivatives_of_all_that_a_network_returns(options, x64):
    """Of a cell without a rule of its own, which JAX before 0.12 loses in a loop that is differentiated twice."""
    assert_close(derivatives(lambda p: by_network(p, options)), expected(), 1e-11)


def test_gradients_of_large_weights_are_added_in_place_where_memory_is_saved():
    """Of the compiled program: beside its results less than half a matrix, and in mode exact two of them."""

    def matrices(mode, neurons=1024):
        def loss(w, r, x):
            return Network([Layer(w, LIF(0.9), r)])(x, backward=mode)[1].sum()

        matrix = jax.ShapeDtypeStruct((neurons, neurons), jnp.float32)
        x = jax.ShapeDtypeStruct((20, 2, neurons), jnp.float32)
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(matrix, matrix, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * neurons**2)

    assert matrices("half") < 0.6
    assert matrices("recompute") < 0.6


def test_loops_are_not_unrolled_on_processors():
    def program(**options):
        network = Network([Layer(jnp.asarray(w, "float32"), LIF()) for w in WEIGHTS])
        return jax.jit(lambda x: network(x, **options)).lower(jnp.asarray(INPUTS, "float32")).as_text()

    assert program() == program(backward=Backward(unroll=1)) != program(backward=Backward(unroll=2))


@pytest.mark.parametrize("mode", STORAGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stored_distances_keep_their_sign_and_know_no_other_example(mode, dtype, x64):
    """Of any size beside each other, down to numbers that fewer bits cannot tell from zero."""
    rng = np.random.default_rng(0)
    least = np.log10(float(jnp.finfo(dtype).tiny)) + 1
    size = 10 ** rng.uniform([least, -12, -3], [0, 0, 3], (64, 3)).T
    distance = jnp.asarray(np.where(rng.uniform(size=size.shape) < 0.5, -size, size), dtype)
    distance = distance.at[:, 0].set(-jnp.finfo(dtype).tiny).at[:, 1].set(0.0)

    @jax.jit
    def stored(distance):
        encoded = distance, ()
        storage = STORAGES[mode]
        return storage.read(storage.write(encoded), encoded)[0]

    found = stored(distance)
    np.testing.assert_array_equal(found >= 0, distance >= 0)
    for n in range(3):
        np.testing.assert_array_equal(found[n], stored(distance[n : n + 1])[0])
    np.testing.assert_allclose(found[2], distance[2], rtol=1 / 15, atol=5e-5 * float(jnp.abs(distance[2]).max()))


def test_matrices_without_a_fraction_compute_in_the_dtype_of_the_inputs():
    """Masks of connections and counts; inputs without a fraction become the default float."""
    for matrix, inputs in itertools.product(("int32", "bool"), ("bfloat16", "float32", "bool", "int8")):
        network = Network([Layer(jnp.ones(SIZES[:2], matrix), LIF())])
        out = jax.eval_shape(lambda x, network=network: network(x)[1], jnp.asarray(INPUTS, inputs))
        assert out.dtype == (inputs if "float" in inputs else "float32")
