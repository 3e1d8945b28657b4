"""Diagnoses of graphs: numbers against JAX's derivative of the network itself, and faults put in on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few

from spikegrad import (
    LIF,
    Arctan,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    Window,
    diagnose,
    measure,
    stochastic,
)
from spikegrad.inspect import residual_report
from spikegrad.inspect.diagnosis import Fix
from spikegrad.inspect.diagnosis._places import chain, feedback_weights, places_of
from spikegrad.network import DelayKernel, match_widths

STEPS, BATCH, INPUTS, NEURONS, OUTPUTS = 30, 16, 20, 30, 4


def matrix(key, inputs, neurons, gain=2.5):
    rng = np.random.default_rng(sum(map(ord, key)))
    return jnp.asarray(rng.normal(0, gain / inputs**0.5, (inputs, neurons)), jnp.float32)


def spikes(inputs=INPUTS, steps=STEPS, batch=BATCH, seed=0):
    return (np.random.default_rng(seed).random((steps, batch, inputs)) < 0.2).astype(np.float32)


def loss(out):
    return (out[-1] ** 2).mean()


# --- numbers ----------------------------------------------------------------------------------------------------------

SHAPES = {"a": (5, 6), "b": (6, 6), "c": (6, 6), "out": (6, 3)}
CELL = LIF(0.9, surrogate=Arctan(2.0))


def everything(weights, probes=None):
    """Two inputs and outputs, a loop of three nodes with delays, a window, a join and recurrent weights.

    ``probes`` are inputs that are added to the currents.
    """
    w = weights

    def also(name, weight):
        return weight if probes is None else {**weight, f"~{name}": lambda x: x}

    of = () if probes is None else tuple(f"~{name}" for name in SHAPES)
    return Network(
        {
            "a": Layer(also("a", {"x": w["a"], "c": Delayed(w["ca"], 2), "y": w["ya"]}), CELL, w["aa"], w["bias"]),
            "b": Layer(also("b", {"a": Window(w["ab"])}), CELL),
            "sum": Join(lambda a, b: a + w["gain"] * b, of=("a", "b")),
            "c": Layer(also("c", {"sum": lambda x: x @ w["c"]}), CELL),
            "out": Layer(also("out", {"sum": Delayed(w["out"], 1), "y": w["yout"]}), LeakyReadout(0.8)),
        },
        inputs=("x", "y", *of),
        outputs=("sum", "out"),
    )


def all_weights():
    shapes = {"a": (5, 6), "ca": (6, 6), "ya": (2, 6), "aa": (6, 6), "c": (6, 6), "out": (6, 3), "yout": (2, 3)}
    weights = {name: matrix(name, *shape) for name, shape in shapes.items()}
    weights["ab"] = jnp.stack([matrix(f"ab{k}", 6, 6) for k in range(3)])
    return weights | {"bias": jnp.full(6, 0.1), "gain": jnp.asarray(0.7)}


def of_both(outs):
    return (outs["out"][-1] ** 2).sum() + (outs["sum"].mean(0) * jnp.arange(6.0)[None]).sum()


@pytest.mark.parametrize("masked", few((False, True), True))
def test_numbers_are_those_of_the_network(masked):
    weights, names = all_weights(), ("a", "b", "c", "out")
    x = {"x": spikes(5, 12, 4), "y": spikes(2, 12, 4, seed=1)}
    mask = np.random.default_rng(3).random((12, 4)) < 0.8 if masked else np.ones((12, 4), bool)
    optimizer = None if masked else optax.sgd(0.01)
    found = diagnose(everything(weights), x, of_both, mask=mask, optimizer=optimizer, train=False)
    assert [report.name for report in found.layers] == [f"layer {name!r}" for name in names]
    reports = dict(zip(names, found.layers, strict=True))
    zeros = {f"~{name}": jnp.zeros((12, 4, SHAPES[name][1])) for name in names}
    last = 11 - np.argmax(mask[::-1], 0)

    def run(weights, probes, signs):
        """The loss and the last outputs with these signs."""
        network = everything(weights, probes)
        _, outs, u = network({**x, **probes}, mask=mask, mode="scan", all_layers=True, pre_spike=True)
        ends = sum((outs[name][last, np.arange(4)] * signs[name]).sum() for name in names)
        return of_both(outs) * signs["loss"] + ends, (outs, u)

    differentiated = jax.jit(jax.grad(run, (0, 1), has_aux=True))
    none = {name: jnp.zeros((4, SHAPES[name][1])) for name in names} | {"loss": 0.0}
    (of_weights, of_probes), (outs, u) = differentiated(weights, zeros, none | {"loss": 1.0})
    np.testing.assert_allclose(found.loss, of_both(outs), rtol=1e-5)
    close = {"rtol": 2e-5}
    rng = np.random.default_rng(0)
    for name, report in reports.items():
        np.testing.assert_allclose(report.rate, outs[name][mask].mean(), err_msg=name, **close)
        if report.fires:
            np.testing.assert_allclose(report.mean, u[name][mask].mean() - 1, err_msg=name, **close)
        by_step = np.sqrt((np.square(of_probes[f"~{name}"]) * mask[:, :, None]).sum((1, 2)))
        np.testing.assert_allclose(report.by_step, by_step, err_msg=name, rtol=2e-5, atol=1e-7)
        signs = rng.choice(np.asarray([-1, 1], np.float32), none[name].shape)
        of_lags = np.asarray(differentiated(weights, zeros, none | {name: signs})[0][1][f"~{name}"])
        steps = last[None] - np.arange(12)[:, None]
        there = np.take_along_axis(of_lags, np.maximum(steps, 0)[:, :, None], 0) * (steps >= 0)[:, :, None]
        by_lag = np.sqrt((there**2).sum((1, 2)))
        np.testing.assert_allclose(report.by_lag, by_lag, err_msg=name, rtol=1e-4, atol=1e-5 * by_lag.max())
    of = {
        "a": {"weight['x']": "a", "weight['c']": "ca", "weight['y']": "ya", "recurrent": "aa", "bias": "bias"},
        "b": {"weight['a']": "ab"},
        "c": {"weight['sum']": "c"},
        "out": {"weight['sum']": "out", "weight['y']": "yout"},
    }
    for name, arrays in of.items():
        report = reports[name]
        assert report.weight_gradients.keys() == {*arrays, "bias"}
        for label, key in arrays.items():
            np.testing.assert_allclose(report.weights[label], np.linalg.norm(weights[key]), **close)
            size = np.linalg.norm(of_weights[key])
            np.testing.assert_allclose(report.weight_gradients[label], size, err_msg=label, **close)
            if optimizer is not None:
                np.testing.assert_allclose(report.updates[label], 0.01 * size, err_msg=label, **close)
    if optimizer is None:
        return
    after = jax.tree.map(lambda w, g: w - 0.01 * g, weights, of_weights)  # the gain of the join is trained as well
    _, (outs, _) = jax.jit(run)(after, zeros, none)
    np.testing.assert_allclose(found.loss_after, of_both(outs), rtol=1e-4)


def test_currents_are_from_below_or_feedback():
    """In NumPy, in a loop of two layers: currents, the potential without spikes, and gradients in the outputs."""
    w, r, back, up = matrix("w", 5, 6), matrix("r", 6, 6), matrix("back", 6, 6), matrix("up", 6, 6)
    network = Network({"a": Layer({"input": w, "b": Delayed(back, 2)}, CELL, r), "b": Layer(up, CELL, of="a")})
    x = spikes(5, 12, 4)
    _, outs = network(x, all_layers=True)
    a, b = (np.asarray(outs[name], float) for name in "ab")

    def before(out, lag):
        return np.concatenate([np.zeros((lag, *out.shape[1:])), out[:-lag]])

    below, feedback = x @ np.asarray(w, float), before(a, 1) @ np.asarray(r) + before(b, 2) @ np.asarray(back)
    v, free = 0.0, []
    for current in below:
        v = 0.9 * v + current
        free.append(v)
    first, second = diagnose(network, x, lambda out: out[-1].sum()).layers

    def rms(x):
        return np.sqrt(np.mean(np.square(x)))

    got = [first.drive, first.feedback, first.free, second.drive]
    np.testing.assert_allclose(got, [rms(below), rms(feedback), rms(free), rms(a @ np.asarray(up))], rtol=1e-5)
    assert second.feedback is None
    # b is read by the loss in the last step, and by a two steps later
    signs = np.zeros((12, 4, 6))
    signs[-1] = 1

    def of_currents(more):
        probed = Network(
            {
                "a": Layer({"input": w, "more": lambda x: x, "b": Delayed(back, 2)}, CELL, r),
                "b": Layer(up, CELL, of="a"),
            },
            inputs=("input", "more"),
        )
        return probed({"input": x, "more": more}, mode="scan")[1][-1].sum()

    in_a = np.asarray(jax.grad(of_currents)(jnp.zeros((12, 4, 6))), float)
    np.testing.assert_allclose(first.current_gradient, np.linalg.norm(in_a), rtol=1e-5)
    later = np.concatenate([in_a[2:], np.zeros((2, 4, 6))]) @ np.asarray(back, float).T
    np.testing.assert_allclose(second.output_gradient, np.linalg.norm(signs + later), rtol=1e-5)


@pytest.mark.every
def test_list_and_chain_have_the_same_diagnosis():
    w, r, out = matrix("w", 5, 6), matrix("r", 6, 6), matrix("out", 6, 3)
    layers = Layer(w, CELL, Delayed(r, 2)), Layer(r, CELL), Layer(out, LeakyReadout(0.8))
    x = spikes(5, 12, 4)
    of_list = diagnose(Network([*layers]), x, loss).to_dict()
    of_names = diagnose(Network(dict(zip("abc", layers, strict=True))), x, loss).to_dict()
    for a, b, name in zip(of_list.pop("layers"), of_names.pop("layers"), "abc", strict=True):
        assert (a.pop("name"), b.pop("name")) == (f"layer {'abc'.index(name) + 1}", f"layer {name!r}")
        assert a == b
    assert of_list == of_names


@pytest.mark.every
def test_key_draws_the_spikes_of_the_graph():
    cell = LIF(surrogate=stochastic(Sigmoid(4.0)))
    network = Network(
        {
            "b": Layer({"input": matrix("b", 5, 6), "a": Delayed(matrix("ba", 6, 6), 1)}, cell),
            "a": Layer(matrix("a", 6, 6), cell, of="b"),
        }
    )
    x, key = spikes(5, 12, 4), jax.random.key(3)
    _, outs = network(x, key=key, all_layers=True)
    for report in diagnose(network, x, key=key).layers:
        np.testing.assert_allclose(report.rate, outs[report.name[-2]].mean(), rtol=1e-6)


@pytest.mark.every
@pytest.mark.parametrize("masked", [False, True])
def test_joins_over_time_are_in_the_gradient(masked):
    x = spikes(5, 12, 4)
    mask = np.random.default_rng(3).random((12, 4)) < 0.8 if masked else None

    def network(w, out, late):
        def normalized(x, mask=None):
            there = jnp.ones(x.shape[:2]) if mask is None else mask.astype(float)
            current, there = x @ w, there[:, :, None] / there.sum()
            centered = current - (current * there).sum((0, 1), keepdims=True)
            return centered / jnp.sqrt((centered**2 * there).sum((0, 1), keepdims=True)), there.sum()

        return Network(
            {
                "norm": Join(normalized, of="input", over_time=True),
                "hidden": Layer(lambda current: current, LIF(0.9)),
                "out": Layer({"hidden": out, "norm": Delayed(late, 2)}, LeakyReadout(0.8)),
            }
        )

    weights = matrix("w", 5, 6), matrix("out", 6, 3), matrix("late", 6, 3)
    found = diagnose(network(*weights), x, loss, mask=mask, optimizer=optax.sgd(0.1), train=False)
    hidden, out = found.layers

    @jax.jit
    @jax.value_and_grad
    def expected(weights):
        return loss(network(*weights)(x, mask=mask)[1])

    value, gradients = expected(weights)
    np.testing.assert_allclose(found.loss, value, rtol=1e-5)
    after, _ = expected(tuple(w - 0.1 * g for w, g in zip(weights, gradients, strict=True)))
    np.testing.assert_allclose(found.loss_after, after, rtol=1e-4)
    assert hidden.drive == pytest.approx(1, rel=1e-3)
    sizes = [out.weight_gradients[f"weight['{name}']"] for name in ("hidden", "norm")]
    np.testing.assert_allclose(sizes, [np.linalg.norm(g) for g in gradients[1:]], rtol=1e-4)


def test_places_of_a_list_are_a_chain():
    network = Network([Layer(matrix("w", 6, 6), LIF(), Delayed(matrix("r", 6, 6), d)) for d in (1, 2, 3)])
    places = places_of(network.graph, network._output_names)
    assert [place._replace(delay=1) for place in places] == chain(3)
    assert [place.delay for place in places] == [1, 2, 3]


def test_feedback_is_a_delayed_weight_of_a_loop():
    w = matrix("w", 6, 6)
    window = Window(jnp.stack([w, w]))
    graph = Network(
        {
            "a": Layer({"input": w, "input2": Delayed(w, 1), "b": window, "c": Delayed(w, 1)}, LIF(), recurrent=w),
            "b": Layer({"a": Delayed(w, 2)}, LIF()),
            "c": Layer({"b": w}, LIF()),
            "end": Layer({"c": Delayed(w, 1), "end": Delayed(w, 1)}, LIF()),
        },
        inputs=("input", "input2"),
    ).graph
    assert feedback_weights(graph, "a") == {"weight['c']", "recurrent"}
    assert feedback_weights(graph, "b") == frozenset()  # nothing else reaches it
    assert feedback_weights(graph, "end") == {"weight['end']"}


# --- faults -----------------------------------------------------------------------------------------------------------


def residual(**changed):
    layers = {
        "stem": Layer(matrix("stem", INPUTS, NEURONS), LIF(0.9)),
        "one": Layer(matrix("one", NEURONS, NEURONS), LIF(0.9)),
        "two": Layer(matrix("two", NEURONS, NEURONS), LIF(0.9)),
        "sum": Join(lambda identity, branch: identity + branch, of=("stem", "two")),
        "out": Layer(matrix("out", NEURONS, OUTPUTS, 1.0), LeakyReadout(0.9)),
    }
    return Network({name: changed.get(name, layer) for name, layer in layers.items()})


def branches(scale=1.0):
    return Network(
        {
            "left": Layer(matrix("left", INPUTS, NEURONS), LIF(0.9), of="input"),
            "right": Layer(matrix("right", INPUTS, NEURONS) * scale, LIF(0.9), of="input"),
            "out": Layer(
                {"left": matrix("l", NEURONS, OUTPUTS), "right": matrix("r", NEURONS, OUTPUTS)}, LeakyReadout(0.9)
            ),
        }
    )


def loop(scale=1.0, delay=1):
    return Network(
        {
            "low": Layer(
                {
                    "input": matrix("low", INPUTS, NEURONS),
                    "high": Delayed(scale * matrix("b", NEURONS, NEURONS, 1.0), delay),
                },
                LIF(0.9),
            ),
            "high": Layer(matrix("high", NEURONS, NEURONS), LIF(0.9), of="low"),
            "out": Layer(matrix("out", NEURONS, OUTPUTS, 1.0), LeakyReadout(0.9)),
        }
    )


HEALTHY = {"residual": residual(), "branches": branches(), "loop": loop(), "delayed loop": loop(delay=3)}


@pytest.mark.parametrize("name", few(HEALTHY, "branches"))
def test_healthy_graph_gets_no_alarm(name):
    assert diagnose(HEALTHY[name], spikes(), loss, optimizer=optax.sgd(1e-3)).issues == ()


FAULTS = {
    "silent second layer": (residual(two=Layer(matrix("two", NEURONS, NEURONS) * 1e-4, LIF(0.9))), "silent", "two"),
    "weak branch": (branches(1e-4), "silent", "right"),
    "strong feedback": (loop(30.0), "saturated", "low"),
    "strong delayed feedback": (loop(30.0, delay=3), "saturated", "low"),
}


@pytest.mark.parametrize("fault", few(FAULTS, "strong feedback"))
def test_fault_is_named_and_its_fix_cures_it(fault):
    network, kind, name = FAULTS[fault]
    issue, *_ = diagnose(network, spikes(), loss).issues
    assert (issue.kind, issue.index, issue.fix.index) == (kind, name, name)
    assert str(issue).startswith(f"layer {name!r} is {kind}")
    changed = issue.fix.apply(network)
    assert changed.outputs == network.outputs
    before, after = (jax.tree_util.tree_leaves_with_path(one) for one in (network, changed))
    paths = [
        jax.tree_util.keystr(path)
        for (path, old), (_, new) in zip(before, after, strict=True)
        if not np.array_equal(old, new)
    ]
    if "feedback" in fault:
        assert "scale its weights of feedback from 'high' by" in str(issue.fix)
        assert paths == [".layers['low'].weight['high'].weight"]
    else:
        assert paths == [f".layers[{name!r}].weight"]
    assert diagnose(changed, spikes(), loss).issues == ()


@pytest.mark.every
def test_both_branches_are_named():
    w = {name: matrix(name, INPUTS, NEURONS) * 1e-4 for name in ("left", "right")}
    network = Network(
        {
            "left": Layer(w["left"], LIF(0.9), of="input"),
            "right": Layer(w["right"], LIF(0.9), of="input"),
            "both": Join(lambda a, b: a + b, of=("left", "right")),
            "above": Layer(matrix("above", NEURONS, OUTPUTS) * 1e-4, LIF(0.9)),
        }
    )
    assert [issue.index for issue in diagnose(network, spikes(), loss).issues] == ["left", "right"]


def test_fixes_reach_the_weights_of_every_source():
    w = matrix("w", 6, 6)
    kernel = DelayKernel(w, delay=jnp.asarray(1.0), length=3)
    layer = Layer(
        {"input": w, "a": Delayed(w, 1), "b": Window(jnp.stack([w, w])), "c": Window(kernel), "d": lambda x: x @ w},
        LIF(),
        bias=jnp.ones(6),
    )
    network = Network({"all": layer}, inputs=("input", *"abcd"))
    changed = Fix("all", "feedforward weights", 2.0, "").apply(network).layers["all"]
    for name in ("input", "a", "b", "c"):
        new, old = ([*map(np.asarray, jax.tree.leaves(one.weight[name]))] for one in (changed, layer))
        np.testing.assert_allclose(new[0], 2 * old[0])
    assert changed.weight["c"].weight.delay == 1
    np.testing.assert_allclose(changed.weight["d"](np.ones((1, 6), np.float32)), 2 * w.sum(0, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(changed.bias, 2)
    centered = Fix("all", "mean current", 0.0, "").apply(network).layers["all"].weight
    x = np.ones((1, 6), np.float32)
    currents = (
        centered["input"](x),
        centered["a"].weight(x),
        centered["d"](x),
        centered["b"].weight,
        centered["c"].weight,
    )
    for current in currents:
        assert abs(current).max() > 0.1
        np.testing.assert_allclose(current.mean(-1), 0, atol=1e-6)


# --- other reports ----------------------------------------------------------------------------------------------------


@pytest.mark.every
def test_widths_and_residuals_of_a_graph():
    network, x = loop(), spikes()
    wider = match_widths(network, x)
    _, _, u = wider(x, pre_spike=["low", "high"])
    for name in ("low", "high"):
        assert measure(wider.layers[name].cell.surrogate).half_width == pytest.approx(float(u[name].std()), rel=1e-3)

    def total(network):
        return loss(network(x)[1])

    kept = residual_report(total, network).bytes / (STEPS * BATCH * 4)
    assert 2 * NEURONS + OUTPUTS < kept + OUTPUTS < 1.2 * (2 * NEURONS + OUTPUTS)


@pytest.mark.every
def test_figure_of_a_graph():
    pytest.importorskip("matplotlib")
    titles = [axes.get_title() for axes in diagnose(loop(), spikes(), loss).plot().axes]
    assert [title.partition(",")[0] for title in titles[:3]] == ["layer 'low'", "layer 'high'", "layer 'out'"]
