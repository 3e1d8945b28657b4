"""Networks over time: every mode against plain autodiff of an explicit loop, and what the backward
pass keeps.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, ROOT, STORAGES, few
from networks import assert_close, assert_raises

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Backward,
    Cell,
    Delayed,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    Window,
    spike,
)
from spikegrad.network import DelayKernel, fluctuation_driven
from spikegrad.neurons import Refractory
from spikegrad.reports import residual_report

pytestmark = pytest.mark.oldest

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
    hidden = Layer(
        p["weight"], LIF(p["decay"], p["threshold"], Sigmoid(2.0)), p["recurrent"], p["bias"]
    )
    return Network([hidden, Layer(p["readout"], LeakyReadout(0.9))])


def loop(p):
    """The outputs of the same network without cells, layers or the engine, only the rule of a
    spike.
    """

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
    ("dtype", "mode"),
    few(itertools.product(("float32", "bfloat16"), MODES), *BY_DEFAULT),
    ids=label,
)
def test_gradients_are_those_of_an_explicit_loop(dtype, mode):
    """In the precisions that test_random_graphs.py has not. Errors are relative to the whole
    gradient.
    """
    p, (value, wanted) = draw(dtype), expected(dtype)
    run = jax.jit(jax.value_and_grad(lambda p: weighted(build(p)(p["inputs"], backward=mode)[1])))
    got, gradient = run(p)
    assert all(leaf.dtype == dtype and np.any(leaf) for leaf in jax.tree.leaves(gradient))
    error = 2e-2 if dtype == "bfloat16" else 3e-6
    assert abs(float(got) - float(value)) <= error * (1 + abs(float(value)))
    a, b = (
        np.concatenate([np.ravel(leaf).astype(float) for leaf in jax.tree.leaves(g)])
        for g in (gradient, wanted)
    )
    assert np.linalg.norm(a - b) <= max(error, GRADIENT_ERRORS.get(mode, 0)) * np.linalg.norm(b)


@pytest.mark.slow
def test_gradients_of_large_matrices_are_added_in_parts():
    rng, neurons = np.random.default_rng(0), 1024
    weights = [
        jnp.asarray(rng.normal(0, 1.5 / n**0.5, (n, neurons)), jnp.float32) for n in (700, neurons)
    ]
    x = jnp.asarray(rng.uniform(0, 1, (6, 2, 700)), jnp.float32)

    def loss(weights, **options):
        out = Network([Layer(weights[0], LIF(), weights[1])])(x, **options)[1]
        return (out * jnp.cos(jnp.arange(neurons))[None, None]).sum()

    modes = {"backward": "scan"}, {"backward": Backward("recompute", segment=2)}
    exact, kept = (jax.jit(jax.grad(functools.partial(loss, **mode)))(weights) for mode in modes)
    assert all(jnp.any(part != 0) for leaf in exact for part in jnp.split(leaf, 4))
    assert_close(kept, exact, 3e-6)


@pytest.mark.slow
def test_matrices_and_inputs_of_integers():
    """Masks of connections and counts. Inputs without a fraction become the default float."""
    for matrix, inputs in itertools.product(
        ("int32", "bool"), ("bfloat16", "float32", "bool", "int8")
    ):
        network = Network([Layer(jnp.ones((INPUTS, NEURONS), matrix), LIF())])
        out = jax.eval_shape(
            lambda x, network=network: network(x)[1], jnp.zeros((4, 3, INPUTS), inputs)
        )
        assert out.dtype == (inputs if "float" in inputs else "float32")

    x, w = np.asarray(draw()["inputs"]) > 0.7, draw()["weight"]
    run = jax.jit(jax.grad(lambda w, x: Network([Layer(w, LIF())])(x, backward="half")[1].sum()))
    assert_close(run(w, x.astype(np.uint8)), run(w, x.astype(np.float32)), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", few([{}, {"backward": Backward("recompute", segment=4)}], {}), ids=label
)
def test_second_order(options):
    p = draw()

    def twice(run):
        direction = jnp.cos(jnp.arange(35.0)).reshape(5, 7)
        gradient = jax.grad(lambda w: (run({**p, "weight": w}) ** 2).sum())
        by_reverse = jax.grad(lambda w: jnp.vdot(gradient(w), direction))
        if jax.__version_info__ < (0, 10):
            return by_reverse
        return lambda w: (by_reverse(w), jax.jvp(gradient, (w,), (direction,))[1])

    runs = lambda p: build(p)(p["inputs"], **options)[1], loop
    assert_close(*jax.jit(lambda w: [twice(run)(w) for run in runs])(p["weight"]), 1e-5)


@pytest.mark.parametrize("cell", [LIF, SynapticLIF, AdaptiveLIF, Refractory])
@pytest.mark.parametrize("mode", STORAGES)
def test_spikes_are_exact_in_few_bits(mode, cell):
    """Also next to the threshold, and next to a threshold that has itself been rounded."""
    rng = np.random.default_rng(0)
    neuron, n = (
        Refractory(LIF(threshold=0.7), 3) if cell is Refractory else cell(threshold=0.7),
        4096,
    )
    second = rng.uniform(0, 3, n).astype(np.float32)
    second[::2] = rng.uniform(
        0.29, 0.3, n // 2
    )  # a threshold just below 1, beyond which numbers are further apart
    threshold = np.float32(0.7) + (second if cell is AdaptiveLIF else 0)
    second = second.astype(np.uint8) if cell is Refractory else second  # steps left
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
    for refused in (lambda: jax.jvp(run, (p,), (d,)), lambda: jax.jvp(jax.jit(run), (p,), (d,))):
        with pytest.raises(TypeError, match="custom_vjp"):
            refused()


# --- memory: of the compiled program, so that no other load of the machine matters ----------------


@functools.cache
def units(steps, backward, cell=LIF, *, reported=False):
    """Temporary bytes of a compiled gradient, in arrays of one float32 for each step, example and
    neuron.

    With ``reported``, those that residual_report finds without compiling.
    """
    batch, neurons = 16, 128

    def loss(w, r, x):
        network = Network(
            [Layer(w, cell(0.9), r), Layer(jnp.ones((neurons, 1)), LeakyReadout(0.9))]
        )
        return network(x, backward=backward)[1][-1].sum()

    matrix = jax.ShapeDtypeStruct((neurons, neurons), jnp.float32)
    x = jax.ShapeDtypeStruct((steps, batch, neurons), jnp.float32)
    if reported:
        found = residual_report(loss, matrix, matrix, x).bytes
    else:
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(matrix, matrix, x).compile()
        found = compiled.memory_analysis().temp_size_in_bytes
    return found / (steps * batch * neurons * 4)


MOST = {"exact": 1.1, Backward(chunk=10): 1.15, "half": 0.6, "8-bit": 0.35, "recompute": 0.2}


@pytest.mark.parametrize("backward", MOST)
def test_memory_of_each_mode(backward):
    assert units(1000, backward) <= MOST[backward]


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(["exact", "half"], "half"))
def test_memory_of_a_state_of_two_arrays(mode):
    """Kept is what the derivative needs: of a synaptic current, which is linear, nothing."""
    one = units(1000, mode)
    assert units(1000, mode, SynapticLIF) < 1.05 * one
    assert 1.8 * one < units(1000, mode, AdaptiveLIF) < 2.05 * one


@pytest.mark.parametrize("mode", few(["exact", "half", "8-bit"], "half"))
def test_residual_report_agrees_with_compiled_memory(mode):
    """It has no temporaries, so it is less, but by little over many steps: never an array that no
    pass reads. The segment of "recompute" is temporary, and as large as what is kept.
    """
    for cell in ((), (SynapticLIF,), (AdaptiveLIF,)):
        assert 0.75 * units(1000, mode, *cell) < units(1000, mode, *cell, reported=True)
        assert 0.9 * units(1000, mode, *cell, reported=True) < units(1000, mode, *cell)


@pytest.mark.slow
def test_memory_grows_with_the_steps_or_their_square_root():
    assert 3.5 < units(4000, "exact") * 4 / units(1000, "exact") <= 4.01
    recompute = [units(n, "recompute") * n for n in (1000, 4000)]
    assert recompute[1] / recompute[0] < 2.3


@pytest.mark.slow
def test_gradients_of_large_weights_are_added_in_place_where_memory_is_saved():
    """Beside its results, a compiled program has less than half a matrix. In mode exact it has two
    of them.
    """
    matrix, x = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 1024), (20, 2, 1024))
    )
    for mode in ("half", "recompute"):

        def loss(w, r, x, mode=mode):
            return Network([Layer(w, LIF(0.9), r)])(x, backward=mode)[1].sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(matrix, matrix, x).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 0.6 * 4 * 1024**2


def test_loops_are_not_unrolled_on_processors():
    def program(backward="exact"):
        return (
            jax.jit(lambda x: build(draw())(x, backward=backward)).lower(draw()["inputs"]).as_text()
        )

    assert program() == program(Backward(unroll=1)) != program(Backward(unroll=2))


def test_residual_report_says_that_temporaries_are_not_counted():
    report = residual_report(lambda x: jnp.sin(x).sum(), jnp.ones(5))
    table, _, text = str(report).partition(" bytes\nThe temporary arrays ")
    assert table.split() == ["float32[5]", "20", "bytes", "total", "20"]
    assert text.split()[-3:] == ["and", "call", "memory_analysis()."]


@pytest.mark.slow
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
    short, long = (
        residual_report(lambda p, x=x: build(p)(x)[1].sum(), p).bytes
        for x in (x, jnp.tile(x, (8, 1, 1)))
    )
    assert unit <= (long - short) / 7 < 1.6 * unit  # of more steps, whatever is kept once
    kept = of()
    sizes = [int(np.prod(array.shape)) * array.dtype.itemsize for array in kept.arrays]
    assert len(set(sizes)) > 2
    assert sizes == sorted(sizes, reverse=True)
    rows = [line for line in str(kept).splitlines() if line.endswith(" bytes")]
    assert [row.split()[-2] for row in rows] == [f"{size:,}" for size in (*sizes, sum(sizes))]


def test_each_mode_is_documented():
    page = (ROOT / "docs" / "memory.md").read_text()
    for mode in MODES:
        assert f'\n| `"{mode}"` | ' in page
        assert f'"{mode}"' in Backward.__doc__


# --- bad input ------------------------------------------------------------------------------------

SHAPES = "('float32[3, 7]', 'float32[3, 7]')"
BAD_CALLS = {
    f"ValueError: mode must be one of {', '.join(map(repr, MODES))}, got": {"backward": "exakt"},
    "ValueError: mask must be of bool and of shape": {"mask": np.ones((8, 3))},
    "ValueError: The inputs are (steps, examples, ...): 8 steps, 3 examples. The masks "
    "of shape (3, 8) fit the other order: "
    "move the axis with jnp.swapaxes(x, 0, 1)": {"mask": np.ones((3, 8), bool)},
    f"ValueError: states of layer '0' must be {SHAPES}, got ('float32[3, 7]', 'float32[2]')": {
        "states": {"0": (jnp.zeros((3, 7)), jnp.zeros(2))}
    },
    "ValueError: states must have the keys ['0', '1'], got 'x'": {
        "states": {"x": jnp.zeros((3, 7))}
    },
    "ValueError: states of layer '0' must be a pair (state of the cell, last output), got "
    "'float32[3, 7]'; "
    "initial_state(": {"states": {"0": jnp.zeros((3, 7))}},
    "ValueError: states of layer '1' must be a pair (state of the cell, last output), got "
    "'rest'; initial_state(": {"states": {"1": "rest"}},
    "TypeError: inputs must be one array, got a tuple of 2 arrays for 'input'; stack the steps "
    "with jnp.stack, or name "
    "several inputs and pass a dict": {"inputs": (jnp.ones((8, 3, 5)),) * 2},
    "TypeError: inputs must be an array, got a dict with the keys ['input']; pass the array "
    "itself, or give the "
    "network a tuple of names: inputs=('input',)": {"inputs": {"input": jnp.ones((8, 3, 5))}},
    "TypeError: layer '0': Layer: the input of weight must be real, got complex64; pass real and "
    "imaginary parts as "
    "separate arrays": {"inputs": jnp.ones((8, 3, 5), complex)},
    "TypeError: states must be a mapping, one entry for each name, got Array": {
        "states": jax.random.key(0)
    },
    "ValueError: inputs must be of shape (steps, ..., inputs), got (3,)": {"inputs": jnp.ones(3)},
    "ValueError: weight of shape (5, 7) does not take an input of shape (3, 6)": {
        "inputs": jnp.ones((8, 3, 6))
    },
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_calls(message):
    options = {"inputs": draw()["inputs"]} | BAD_CALLS[message]
    assert_raises(lambda: build(draw())(**options), message)


class Pair(Cell):
    def integrate(self, v, current):
        return v + current

    def fire(self, u):
        return u, (u, u)


class Counting(Pair):
    def fire(self, u):
        return u, (u > 0).astype(jnp.int32)


W, X, Z = jnp.ones((3, 2)), jnp.ones((8, 4, 3)), jnp.ones((3, 2), complex)
NETWORK, SYNAPTIC = Network([Layer(W, LIF())]), Network([Layer(W, SynapticLIF())])
REFUSED = {
    "TypeError: Layer: cell must be a Cell, got 'LIF'": lambda: Layer(W, "LIF"),
    "TypeError: Layer: weight must be a matrix or callable, got Array": lambda: Layer(
        jnp.ones(3), LIF()
    ),
    "TypeError: Layer: weight must be real, got complex64; pass": lambda: Layer(Z, LIF()),
    "TypeError: Layer: weight['b'] must be real, got complex64": lambda: Layer(
        {"a": W, "b": Z}, LIF()
    ),
    "TypeError: Layer: recurrent must be real, got complex64": lambda: Layer(
        W, LIF(), recurrent=Z[:2]
    ),
    "TypeError: Layer: bias must be real, got complex128": lambda: Layer(
        W, LIF(), bias=1j * np.ones(2)
    ),
    "TypeError: Delayed: weight must be real, got complex64": lambda: Layer(Delayed(Z, 1), LIF()),
    "TypeError: Window: weight must be real, got complex64": lambda: Layer(Window(Z[None]), LIF()),
    "TypeError: DelayKernel: weight must be real, got complex64": lambda: DelayKernel(
        Z, delay=0.0, length=1
    ),
    "TypeError: fluctuation_driven: inputs must be real, got complex64": (
        lambda: fluctuation_driven(LIF(), jnp.ones_like(X, complex))
    ),
    "ValueError: Network.init: sizes must be integers above 0, got 2. Write (2,)": (
        lambda: Network.init(jax.random.key(0), 3, 2, LIF(), rate=0.1)
    ),
    "TypeError: got True; Layer.init(..., bias=True) creates one": lambda: Layer(
        W, LIF(), bias=True
    ),
    "TypeError: Network: layers must be one or more Layer objects, got []": lambda: Network([]),
    "TypeError: draw_weights: key must be one of jax.random.key": lambda: Network.init(
        0, 3, [2], LIF(), rate=0.1
    ),
    "TypeError: got 0. Pass jax.random.key(0)": lambda: Layer.init(0, 3, 2, LIF(), rate=0.1),
    "ValueError: LIF: reset must be one of 'subtract', 'value', 'none', got None": lambda: LIF(
        reset=None
    ),
    "NotImplementedError: Cell defines no integrate": lambda: Cell()(0.0, 1.0),
    "TypeError: Pair: fire must return (state, output) with one array of": lambda: Network(
        [Layer(W, Pair())]
    )(X),
    "TypeError: Counting: fire must return (state, output) with one": lambda: Network(
        [Layer(W, Counting())]
    )(X),
    "TypeError: one array of floats, got int": lambda: Network(
        [Layer(lambda x: x.astype(int), LIF())]
    )(X),
    "TypeError: one array of floats, got tu": lambda: Network([Layer(lambda x: (x, 1), LIF())])(X),
    "ValueError: ; initial_state(inputs[0]), with the inputs of one step, returns states that "
    "fit": (lambda: NETWORK.step(NETWORK.initial_state(X[0]), X)),
    # initial_state cannot know that its inputs have an axis of steps
    "ValueError: got (('float32[8, 4, 2]', 'float32[8, 4, 2]'), 'float32[8, 4, 2]'); "
    "initial_state(inputs[0])": (lambda: SYNAPTIC(X, SYNAPTIC.initial_state(X))),
    "TypeError: Network: states must be a mapping, one entry for each name": lambda: NETWORK.step(
        [0], X[0]
    ),
    "ValueError: Backward: unroll must be an integer >= 1, got 0": lambda: Backward(unroll=0),
    "ValueError: Backward: chunk must divide segment, got 4 and 6": lambda: Backward(
        chunk=4, segment=6
    ),
    "ValueError: Backward: mode 'scan' does not take chunk or segment": lambda: Backward(
        "scan", chunk=2
    ),
    "TypeError: LIF: no parameter tau. Give decay=decay_from_tau(tau, dt)": lambda: LIF(tau=10.0),
    "TypeError: LeakyReadout: no parameter beta. Give decay=beta": lambda: LeakyReadout(beta=0.9),
    "TypeError: LIF: surrogate must be an instance, got the class Sigmoid": lambda: LIF(
        surrogate=Sigmoid
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_layers_and_networks_that_are_refused(message):
    assert_raises(REFUSED[message], message)
