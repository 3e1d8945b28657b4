"""Costs, against loops over single connections and the numbers of the eight counters of other
libraries.

The small cases are those on which the counters were compared: NeuroBench 2.3.0, SpikingJelly 2.0.0,
sinabs 3.1.3, norse PR 444 and syops 0.0.5. ``docs/cost.md`` has their numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from networks import assert_raises, observed

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Window,
    stochastic,
)
from spikegrad.network import DelayKernel, rounded_delays
from spikegrad.reports import EnergyPrices, cost_report

pytestmark = pytest.mark.newest

rng = np.random.default_rng(0)
NOTHING = (0, 0, 0)


class Silent(Cell):
    """A cell that outputs its current, so that every layer above reads known numbers."""

    def integrate(self, v, current):
        return current

    def fire(self, u):
        return u, u


def of(weight, x, **options):
    """The cost of one layer. ``x`` is (steps, batch, ...)."""
    return cost_report(
        Network([Layer(weight, Silent())]), jnp.asarray(x, jnp.float32), **options
    ).total


def conv(kernel, stride=1, padding=0):
    return lambda x: jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, ((padding,) * 2,) * 2)


IMAGE = np.zeros((1, 1, 1, 4, 4))
IMAGE[..., 0, 0] = 1


def image(second):
    x = IMAGE.copy()
    x[..., 1, 1] = second
    return x


@pytest.mark.parametrize(
    ("x", "spikes", "graded", "real"),
    [
        (image(1), (2, 10, 10), NOTHING, NOTHING),  # norse 36
        (image(-1), (2, 10, 10), NOTHING, NOTHING),  # sinabs -6
        (image(2), (1, 2, 2), (1, 8, 8), NOTHING),  # sinabs 18, SpikingJelly 0
        (image(1) / 4, NOTHING, NOTHING, (2, 10, 10)),  # sinabs 2.5
    ],
)
def test_convolution_with_stride_and_padding(x, spikes, graded, real):
    found = of(conv(np.ones((2, 1, 3, 3), np.float32), 2, 1), x)
    assert found[:3] == (spikes, graded, real)
    assert (found.connections, found.dense) == (50, 50)  # 72 with padding
    assert (found.updates, found.state_words) == (8, 16)


def test_matrix_with_a_weight_of_zero():
    w = (np.arange(12).reshape(4, 3) != 1).astype(np.float32)
    found = of(w, [[[1, 0, 0, 1]]])
    assert found.spikes == (2, 6, 5)  # SpikingJelly 6, NeuroBench 5
    assert found.dense == 12
    assert of(lambda x: x @ w, [[[1, 0, 0, 1]]]) == found
    assert of(w, [[[1.5, 0, 0, -0.3]]]).real == (2, 6, 5)


@pytest.mark.slow
def test_counts_are_exact_above_the_range_of_float32():
    """NeuroBench sums in float32 and reports 50,405,408."""
    assert of(np.ones((4099, 3), np.float32), np.ones((4099, 1, 4099))).spikes == (
        4099**2,
        3 * 4099**2,
        50_405_403,
    )


def test_a_batch_costs_what_its_examples_cost():
    """A counter that decides per call whether values are spikes makes one graded value change all
    others.
    """
    x = rng.choice([0, 0, 1, -1, 2, 0.5], (4, 6, 5))
    w = jnp.asarray(rng.integers(0, 2, (5, 7)), jnp.float32)
    parts = [of(w, x[:, b : b + 1]) for b in range(6)]
    whole = of(w, x)
    for kind in range(3):
        assert whole[kind] == tuple(map(sum, zip(*(part[kind] for part in parts), strict=True)))
    assert whole.dense == sum(part.dense for part in parts)


def by_hand(weight, x):
    """The number of events, and the connections of each input, from a matrix that one input at a
    time gives.
    """
    size = np.prod(x.shape[2:], dtype=int)
    basis = jnp.eye(size, dtype=jnp.float32).reshape(size, *x.shape[2:])
    bias = np.asarray(weight(jnp.zeros_like(basis)))
    matrix = (np.asarray(weight(basis)) - bias).reshape(size, -1)
    return (x != 0).sum(), (np.abs(matrix) > 1e-6).sum(1)


CONV, DEPTHWISE = rng.uniform(0.5, 1, (3, 2, 3, 3)), rng.uniform(0.5, 1, (4, 1, 2, 2))
MATRIX = jnp.asarray(rng.uniform(0.5, 1, (2 * 6 * 6, 5)), jnp.float32)
PLACES = np.array([3, 0, 0, 5])
GAIN = jnp.asarray(rng.uniform(0.5, 1, (1, 1, 1, 6)), jnp.float32)
KERNELS = jnp.asarray(CONV, jnp.float32), jnp.asarray(DEPTHWISE, jnp.float32)

FUNCTIONS = {
    "convolution": conv(KERNELS[0], 2, 1),
    "dilated": lambda x: jax.lax.conv_general_dilated(
        x, KERNELS[0], (1, 1), "SAME", rhs_dilation=(2, 2)
    ),
    "transposed": lambda x: jax.lax.conv_general_dilated(
        x, KERNELS[0], (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2)
    ),
    "depthwise": lambda x: jax.lax.conv_general_dilated(
        x, KERNELS[1], (1, 1), "VALID", feature_group_count=2
    ),
    "with a bias": lambda x: conv(KERNELS[0])(x) + np.ones((1, 3, 1, 1), np.float32),
    "under jit": jax.jit(lambda x: x.reshape(len(x), -1) @ MATRIX),
    "einsum": lambda x: jnp.einsum("bcij,cijn->bn", x, MATRIX.reshape(2, 6, 6, 5)),
    "pooling": lambda x: x.reshape(len(x), 2, 3, 2, 3, 2).mean((3, 5)),
    "pooling by windows": lambda x: (
        jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 1, 1), "VALID") / 4
    ),
    "pooling, then convolution": lambda x: conv(KERNELS[0])(
        x.reshape(len(x), 2, 3, 2, 3, 2).sum((3, 5))
    ),
    "rows picked": lambda x: x[:, :, PLACES, 1:3],
    "one by one": lambda x: x * GAIN,
    "differences": lambda x: x[..., 1:] - x[..., :-1],
    "stacked": lambda x: jnp.stack([x, -x], 1),
    "tiled": lambda x: jnp.tile(x, (1, 1, 2, 3)),
    "unstacked": lambda x: jnp.unstack(x, axis=1)[0] + jnp.unstack(x, axis=1)[1],
    "padded and joined": lambda x: jnp.concatenate(
        [jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0))), -x], 2
    ),
    "one channel replaced": lambda x: x.at[:, 0].set(0.5),
    # 301 connections of each input, which bfloat16 has no number for
    "half precision": lambda x: (
        x.reshape(len(x), -1).astype(jnp.bfloat16) @ jnp.ones((72, 301), jnp.bfloat16)
    ),
}


@pytest.mark.parametrize(
    "name",
    few(FUNCTIONS, "half precision", "pooling, then convolution", "stacked", "tiled", "unstacked"),
)
def test_connections_of_a_function(name):
    weight = FUNCTIONS[name]
    x = rng.choice([0, 0, 1], (2, 3, 2, 6, 6))
    events, connections = by_hand(weight, x)
    found = of(weight, x)
    operations = (x.sum((0, 1)).reshape(-1) * connections).sum()
    assert found.spikes == (events, operations, operations)
    assert found.dense == 6 * connections.sum()


def test_each_path_to_an_output_counts():
    """A sum over the outputs of a convolution has as many paths as there are windows with the
    value.
    """
    x = np.ones((1, 1, 1, 4, 4))
    windows = np.convolve(np.ones(3), np.ones(2))  # of size 2 along an axis of length 4
    found = of(lambda x: conv(np.ones((1, 1, 2, 2), np.float32))(x).sum((1, 2, 3))[:, None], x)
    assert found.spikes == (16, np.outer(windows, windows).sum(), 36)


def test_zeros_of_kernels_and_masks_are_not_effective():
    kernel = jnp.asarray(rng.integers(0, 2, (3, 2, 3, 3)), jnp.float32)
    keep = rng.integers(0, 2, (3, 2, 6, 6)).astype(bool)  # a mask for each of three examples

    def weight(x):
        return conv(kernel)(jnp.where(keep, x / 0.5, 0))

    x = rng.choice([0, 0, 1], (2, 3, 2, 6, 6))
    found = of(weight, x)
    _, fan_out = by_hand(conv(jnp.ones_like(kernel)), x)
    _, effective = by_hand(conv(kernel), x)
    times = x.sum(0).reshape(3, -1)
    kept = keep.reshape(3, -1)
    assert found.spikes == (
        x.sum(),
        (times * kept * fan_out).sum(),
        (times * kept * effective).sum(),
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda x: jax.nn.relu(x @ np.ones((2, 2), np.float32)), "max is not linear"),
        (
            lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID"),
            "max pooling (reduce_window_max)",
        ),
        (lambda x: x * x, "mul of two values that depend on the input"),
        (lambda x: jnp.where(x > 0, x, 0), "gt is not linear"),
        (
            lambda x: x @ np.ones((2, 3), np.float32) @ np.ones((3, 2), np.float32),
            "two products in series",
        ),
        (lambda x: 1 / (x + 2), "a division by a value"),
        (lambda x: x.astype(int).astype(float), "a conversion from float32 to int"),
    ],
)
def test_a_function_that_is_not_linear_has_a_message_and_no_counts(weight, message):
    layers = [Layer(np.ones((3, 2), np.float32), Silent()), Layer(weight, Silent())]
    report = cost_report(Network(layers), np.ones((2, 1, 3), np.float32))
    assert not report.complete
    assert message in report.rows[2].message
    assert report.rows[2].cost is None
    assert report.total.spikes == report.layers["0"].spikes == (6, 12, 12)
    assert f"weight of layer '1' cannot be counted: {message}" in str(report)
    with pytest.raises(ValueError, match="all weights must have counts: weight of layer '1'"):
        report.energy("45nm fp32")


def test_a_layer_without_a_weight_multiplies_nothing():
    x = rng.choice([0, 0, 1, 2, 0.5], (3, 2, 4))
    found = of(None, x)
    assert found[:3] == tuple((kind.sum(), 0, 0) for kind in (x == 1, x == 2, x == 0.5))
    assert (found.connections, found.dense, found.updates) == (0, 0, 3 * 2 * 4)


def test_max_pooling_in_a_join_counts_what_it_passes_on():
    x = spikes(5, 2, 1, 6, 6)
    kernel = np.ones((2, 1, 3, 3), np.float32)

    def pool(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    layers = {"pool": Join(pool, of="input"), "out": Layer(conv(kernel), Silent())}
    report = cost_report(Network(layers), jnp.asarray(x, jnp.float32))
    pooled = x.reshape(5, 2, 1, 3, 2, 3, 2).any((4, 6))
    assert report.complete
    assert report.uncounted == ("pool",)
    # One window covers all 3 x 3 values, for each of two channels.
    assert report.total.spikes == (pooled.sum(), 2 * pooled.sum(), 2 * pooled.sum())


def test_tokens_have_an_axis_of_examples():
    tokens = rng.integers(0, 7, (5, 3))
    mask = np.arange(5) < 4
    table = jnp.asarray(rng.normal(size=(7, 6)), jnp.float32)
    layers = [
        Layer(jax.tree_util.Partial(lambda table, x: table[x], table), LIF(0.9)),
        Layer(np.ones((6, 2), np.float32), LeakyReadout()),
    ]
    report = cost_report(Network(layers), tokens, mask=mask)
    assert (report.examples, report.steps) == (3, 4 * 3)
    assert report.layers["1"].dense == 12 * 12
    assert report.layers["1"].updates == 12 * 2
    assert report.layers["0"].state_words == 12 * 6 * 2


def spikes(*shape, rate=0.3):
    return rng.random(shape) < rate


def test_recurrent_weights_read_the_spikes_of_the_step_before():
    x = spikes(9, 4, 6)
    w, r = (
        jnp.asarray(rng.normal(size=shape) * (rng.random(shape) < 0.7), jnp.float32)
        for shape in ((6, 5), (5, 5))
    )
    lengths = np.array([9, 7, 0, 1])
    mask = np.arange(9)[:, None] < lengths
    network = Network([Layer(w, LIF(0.9), r)])
    rows = {row.part: row.cost for row in cost_report(network, x, mask=mask).rows}
    outs = np.asarray(network(x, mask=mask)[1])
    before = np.concatenate([outs[:1] * 0, outs[:-1]]) * mask[..., None]
    for read, weight, label in ((x * mask[..., None], w, "weight"), (before, r, "recurrent")):
        events = read.sum((0, 1))
        assert rows[label].spikes == (
            events.sum(),
            events.sum() * 5,
            events @ (np.asarray(weight) != 0).sum(1),
        )
        assert rows[label].dense == lengths.sum() * weight.size
    assert rows["neurons"][-2:] == (lengths.sum() * 5, lengths.sum() * 5 * 2)


@pytest.mark.slow
def test_graph_with_delays_windows_joins_and_two_inputs():
    x, cue = spikes(8, 3, 4), rng.integers(0, 3, (8, 3, 2))
    mask = spikes(8, 3, rate=0.7)
    m = jnp.asarray(rng.normal(size=(3, 5, 5)) * (rng.random((3, 5, 5)) < 0.5), jnp.float32)

    def newest(window):  # (K, batch, neurons): a function of the two latest outputs
        return window[0] + window[1, :, ::-1]

    w, late = np.ones((4, 5), np.float32), Delayed(np.ones((2, 5), np.float32), 2)
    layers = {
        "a": Layer({"x": w, "cue": late}, LIF(0.9), Delayed(np.eye(5, dtype=np.float32), 3)),
        "b": Layer({"a": Window(m, delay=1), "j": Window(newest, 2)}, AdaptiveLIF(0.5)),
        "j": Join(lambda a, b: a + b, of=("a", "c")),
        "c": Layer(w, LIF(0.3), of="x"),
        "out": Layer(np.ones((5, 2), np.float32), LeakyReadout(), of="b"),
    }
    network, inputs = Network(layers, inputs=("x", "cue")), {"x": x, "cue": cue}
    report = cost_report(network, inputs, mask=mask)
    assert report.uncounted == ("j",)
    outs = jax.jit(lambda: {**inputs, **observed(network, inputs, mask=mask)[1]})()
    outs = {name: np.asarray(out) for name, out in outs.items()}

    def read(source, lag):
        """The values ``lag`` valid steps before, one example and step at a time."""
        found = np.zeros_like(outs[source], float)
        for b in range(3):
            valid = np.flatnonzero(mask[:, b])
            for n, t in enumerate(valid):
                if n >= lag:
                    found[t, b] = outs[source][valid[n - lag], b]
        return found

    rows = {(row.layer, row.part): row.cost for row in report.rows}
    both = {kind: read("cue", 2) == kind for kind in (1, 2)}
    assert rows["a", "weight['cue']"].spikes == (
        both[1].sum(),
        both[1].sum() * 5,
        both[1].sum() * 5,
    )
    assert rows["a", "weight['cue']"].graded == (
        both[2].sum(),
        both[2].sum() * 5,
        both[2].sum() * 5,
    )
    last = read("a", 3).sum()
    assert rows["a", "recurrent"].spikes == (
        last,
        last * 5,
        last,
    )  # of the identity, one weight counts
    window = [read("a", 1 + k).sum((0, 1)) for k in range(3)]
    effective = sum(
        part @ (np.asarray(own) != 0).sum(1) for part, own in zip(window, m, strict=True)
    )
    assert rows["b", "weight['a']"].spikes == (
        window[0].sum(),
        sum(part.sum() for part in window) * 5,
        effective,
    )
    now = [read("j", k) for k in range(2)]
    ones, twos = ([(part == kind).sum() for part in now] for kind in (1, 2))
    assert rows["b", "weight['j']"].spikes == (ones[0], sum(ones), sum(ones))
    assert rows["b", "weight['j']"].graded == (twos[0], sum(twos), sum(twos))
    assert rows["b", "neurons"].state_words == mask.sum() * 5 * 2 * 2
    assert rows["out", "weight"].spikes[0] == read("b", 0).sum()
    assert report.steps == mask.sum()


def test_joins_over_time_are_not_counted():
    centered = Join(lambda x: x - x.mean(0, keepdims=True), of="x", over_time=True)
    network = Network(
        {"c": centered, "a": Layer(np.ones((4, 3), np.float32), LIF(), of="c")}, inputs="x"
    )
    report = cost_report(network, [[[1.0, 0, 1, 0]], [[1.0, 1, 0, 0]]])
    assert report.uncounted == ("c",)
    assert report.total[:3] == (NOTHING, NOTHING, (4, 12, 12))


@pytest.mark.slow
def test_whole_delays_have_one_effective_operation_for_each_synapse():
    kernel = DelayKernel(
        np.ones((4, 6), np.float32), jnp.asarray(rng.uniform(0, 4, (4, 6)), jnp.float32), 5
    )
    network = Network({"a": Layer(Window(kernel), LIF(0.9))})
    x = np.zeros((9, 2, 4))
    x[0] = 1
    wide, whole = (cost_report(net, x).total.spikes for net in (network, rounded_delays(network)))
    assert wide == (8, 8 * 6 * 5, 8 * 6 * 5)
    assert whole == (8, 8 * 6 * 5, 8 * 6)


@pytest.mark.slow
def test_inputs_without_examples_and_drawn_spikes():
    x, key = spikes(5, 3), jax.random.key(1)
    report = cost_report(Network([Layer(np.ones((3, 2), np.float32), LIF())]), x)
    assert report.total.spikes == (x.sum(), 2 * x.sum(), 2 * x.sum())
    cell = LIF(surrogate=stochastic(LIF().surrogate))
    network = Network([Layer(np.ones((n, 2), np.float32), cell) for n in (3, 2)])
    drawn = network.observe(x[:, None], key=key)[1][0].output.sum()
    assert cost_report(network, x[:, None], key=key).layers["1"].spikes[0] == drawn > 0


FIRST = Layer((np.arange(12).reshape(4, 3) != 1).astype(np.float32), LIF())
NETWORK = Network([FIRST, Layer(np.ones((3, 2), np.float32), AdaptiveLIF())])
X = np.zeros((2, 2, 4))
X[0, 0, 0], X[1, 1, 1:3] = (
    1,
    (1, 0.5),
)  # two spikes and a real value; the second layer stays silent or not, see below


def test_energy_is_a_sum_of_counts_times_prices():
    prices = EnergyPrices("mine", "this test", addition=3.0, multiplication=7.0, word=11.0)
    report = cost_report(NETWORK, X)
    first, second = report.layers.values()
    assert (first.spikes, first.real) == ((2, 6, 5), (1, 3, 3))
    above = second.spikes.fan_out
    states = 2 * 2 * (3 * 1 + 2 * 2)  # steps, examples, neurons times numbers of a state
    low = (5 + above) * 3 + 3 * 7 + states * 7
    high = (6 + above) * 3 + 3 * 7 + states * 7 + (3 * (6 + above + 3) + 2 * states) * 11
    found = report.energy(prices, dense=prices, passes=2)
    assert found.spiking[0][1:] == (low / 2, high / 2)
    assert found.dense[1:] == (2 * 18 * 7, 2 * 18 * (7 + 2 * 11))
    assert "252 pJ to 1.04 nJ" in str(found)
    assert found.ratio == (low / 2 / (2 * 18 * 29), high / 2 / (2 * 18 * 7))


def test_energy_text_names_prices_sources_and_assumptions():
    text = str(cost_report(NETWORK, X).energy("45nm fp32", "45nm int8", dense="45nm int8"))
    assert "spiking  45nm fp32" in text
    assert "dense    45nm int8" in text
    assert (
        "per example: 1, one multiply-add per connection, of\n  unknown accuracy\nnot included: "
        "leakage" in text
    )
    assert "45nm fp32: Horowitz 2014" in text


def test_presets_have_the_multiply_adds_of_their_source():
    """Horowitz 2014: additions and multiplications in picojoules. A multiply-add is the sum of
    both.
    """
    table = {"fp32": (0.9, 3.7), "fp16": (0.4, 1.1), "int32": (0.1, 3.1), "int8": (0.03, 0.2)}
    one = cost_report(Network([Layer(np.ones((1, 1), np.float32), LIF())]), np.ones((1, 1, 1)))
    for name, (add, multiply) in table.items():
        found = one.energy(f"45nm {name}", dense=f"45nm {name}")
        assert found.dense.low == pytest.approx(add + multiply)
        assert found.spiking[0].low == pytest.approx(add + (add + multiply))
        assert found.dense.high - found.dense.low == pytest.approx(
            2 * 10 * int(name.lstrip("fpint")) / 64
        )


def test_devices_have_a_price_of_updates_and_none_of_multiplications():
    spiking = Network([Layer(np.ones((4, 3), np.float32), LIF())])
    report = cost_report(spiking, X != 0)
    assert report.energy("Loihi").spiking[0].low == pytest.approx((9 * 27.1 + 12 * 81) / 2)
    refused = {
        "ValueError: prices must have a price of a multiplication for 3 multiplications, got "
        "'Loihi'": (lambda: cost_report(spiking, X).energy("Loihi")),
        "ValueError: dense must have a price of a multiplication, got": lambda: report.energy(
            "Loihi", dense="Loihi"
        ),
        "ValueError: got 'loihi'": lambda: report.energy("loihi"),
        "TypeError: prices are missing": report.energy,
    }
    for message, call in refused.items():
        assert_raises(call, message)
