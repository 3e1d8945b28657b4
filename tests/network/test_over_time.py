"""Functions of whole sequences within a network, such as batch normalization, against layers run one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, assert_runs_agree, few
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from networks import observed

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Backward,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    soft,
    stochastic,
)
from spikegrad._compat import of_mesh
from spikegrad.inspect import residual_report
from spikegrad.network import fold_normalization
from spikegrad.network._stages import stages_of

STEPS, BATCH, UNITS = 7, 3, 4
CELLS = {
    "LIF": LIF(0.8, 0.6),
    "adaptive": AdaptiveLIF(0.7, 0.5, adaptation=0.3, adaptation_decay=0.9),
    "soft": LIF(0.9, 0.5, surrogate=soft(Sigmoid(2.0))),
    "readout": LeakyReadout(0.7),
}


def normalized(x, gain, mask=None):
    """Batch normalization over the steps that took place, and its statistics."""
    wide = jnp.ones_like(x) if mask is None else jnp.broadcast_to(mask[..., None], x.shape).astype(x.dtype)

    def mean_of(a):
        return (wide * a).sum((0, 1), keepdims=True) / wide.sum((0, 1), keepdims=True)

    mean = mean_of(x)
    var = mean_of((x - mean) ** 2)
    return gain[None, None] * (x - mean) / jnp.sqrt(var + 1e-5), {"mean": mean, "var": var}


class Spec:
    """A random feed-forward network of joins over time, joins of one step, and layers, which read earlier entries."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.nodes, self.params = {}, {}
        names = [f"n{k}" for k in rng.permutation(int(rng.integers(3, 9)))]
        for n, name in enumerate(names):
            earlier = ["input", *names[:n]]
            kind = str(rng.choice(["layer", "layer", "norm", "norm", "sum"]))
            kind = {0: "norm", len(names) - 1: "layer"}.get(n, kind)
            if kind == "layer":
                sources = {str(rng.choice(earlier)): 0}
                for source in rng.choice(earlier, size=int(rng.integers(0, 3)), replace=False):
                    sources.setdefault(str(source), int(rng.integers(1, 4)))
                own = bool(rng.uniform() < 0.3)
                self.nodes[name] = ("layer", str(rng.choice([*CELLS])), sources, own)
                for source in [*sources, *["own"] * own]:
                    self.params[f"{name} of {source}"] = rng.normal(0.2, 0.7, (UNITS, UNITS))
                continue
            sources = rng.choice(earlier, size=min(len(earlier), int(rng.integers(1, 3))), replace=False)
            self.nodes[name] = (kind, None, [str(source) for source in sources], False)
            if kind == "norm":
                self.params[f"{name} weight"] = rng.normal(0, 1, (UNITS, UNITS))
                self.params[f"{name} gain"] = rng.uniform(0.5, 1.5, UNITS)
        self.outputs = tuple(rng.choice(names, size=int(rng.integers(1, len(names) + 1)), replace=False).tolist())
        self.x = rng.uniform(0, 1.5, (STEPS, BATCH, UNITS))
        self.mask = None if rng.uniform() < 0.5 else rng.uniform(size=(STEPS, BATCH)) < 0.7

    def given(self):
        return {"params": jax.tree.map(jnp.asarray, self.params), "x": jnp.asarray(self.x)}

    def network(self, params):
        nodes = {}
        for name, (kind, what, sources, own) in self.nodes.items():
            if kind == "layer":
                weights = {
                    source: Delayed(params[f"{name} of {source}"], lag) if lag else params[f"{name} of {source}"]
                    for source, lag in sources.items()
                }
                nodes[name] = Layer(weights, CELLS[what], recurrent=params[f"{name} of own"] if own else None)
            elif kind == "norm":
                w, gain = params[f"{name} weight"], params[f"{name} gain"]
                nodes[name] = Join(
                    lambda *x, mask=None, w=w, gain=gain: normalized(sum(x) @ w, gain, mask), sources, over_time=True
                )
            else:
                nodes[name] = Join(lambda *x: jnp.tanh(sum(x)), sources)
        return Network(nodes, outputs=self.outputs)


def by_network(spec, given, **options):
    states, outs, before = observed(spec.network(given["params"]), given["x"], mask=spec.mask, **options)
    layers = [name for name, (kind, *_) in spec.nodes.items() if kind == "layer"]
    statistics = {name: states[name] for name, (kind, *_) in spec.nodes.items() if kind == "norm"}
    return {name: states[name][0] for name in layers}, statistics, dict(outs), dict(before)


def by_layers(spec, given):
    """One entry after the other, each over all steps of every example by itself."""
    params, outs, before, states, statistics = given["params"], {"input": given["x"]}, {}, {}, {}
    mask = np.ones((STEPS, BATCH), bool) if spec.mask is None else spec.mask
    for name, (kind, what, sources, own) in spec.nodes.items():
        if kind == "norm":
            x = sum(outs[source] for source in sources) @ params[f"{name} weight"]
            found, statistics[name] = normalized(x, params[f"{name} gain"], mask)
            outs[name] = jnp.where(mask[..., None], found, 0)
        elif kind == "sum":
            outs[name] = jnp.where(mask[..., None], jnp.tanh(sum(outs[source] for source in sources)), 0)
        else:
            cell, found = CELLS[what], []
            for b in range(BATCH):
                ran, t_before, out, v = [], [], jnp.zeros(UNITS), cell.initial_state((UNITS,), jnp.result_type(float))
                times = [t for t in range(STEPS) if mask[t, b]]
                for n in range(len(times)):
                    current = jnp.zeros(UNITS)
                    for source, lag in sources.items():
                        if n >= lag:
                            current = current + outs[source][times[n - lag], b] @ params[f"{name} of {source}"]
                    if own and n:
                        current = current + ran[-1] @ params[f"{name} of own"]
                    u = cell.integrate(v, current)
                    v, out = cell.fire(u)
                    ran.append(out)
                    t_before.append(u)
                zero = jax.tree.map(jnp.zeros_like, (cell.initial_state((UNITS,), jnp.result_type(float)), out))
                places = {t: n for n, t in enumerate(times)}
                steps = [(t_before[places[t]], ran[places[t]]) if t in places else zero for t in range(STEPS)]
                found.append((v, jax.tree.map(lambda *a: jnp.stack(a), *steps)))
            stack = functools.partial(jax.tree.map, lambda *a: jnp.stack(a))
            states[name] = stack(*[v for v, _ in found])
            before[name], outs[name] = jax.tree.map(lambda *a: jnp.stack(a, 1), *[steps for _, steps in found])
    del outs["input"]
    return states, statistics, outs, before


RUNS = [{"backward": mode} for mode in MODES] + [{"backward": Backward(chunk=2)}, {"backward": Backward(chunk=3)}]


@pytest.mark.parametrize("seed", few(range(60), 21))
def test_random_networks(seed, x64):
    if seed % 10 == 0:
        jax.clear_caches()  # the compiled networks of all seeds exceed what one process may map
    spec = Spec(seed)
    runs = RUNS[seed % len(RUNS)], RUNS[(seed + 3) % len(RUNS)]
    assert_runs_agree(functools.partial(by_network, spec), functools.partial(by_layers, spec), spec.given(), runs)


# --- one network in several ways ------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1.5, (12, BATCH, UNITS)), jnp.float32)
PARAMS = {
    **{name: jnp.asarray(RNG.normal(0.2, 0.7, (UNITS, UNITS)), jnp.float32) for name in ("stem", "branch", "deep")},
    "gain": jnp.asarray(RNG.uniform(0.5, 1.5, UNITS), jnp.float32),
}


def same(x):
    return x


def residual(params, function=normalized, cell=CELLS["LIF"]):
    """Two blocks of weights, batch normalization and neurons, and a sum that skips the second."""

    def block(name):
        return lambda x, mask=None: function(x @ params[name], params["gain"], mask)

    return Network(
        {
            "stem norm": Join(block("stem"), "input", over_time=True),
            "stem": Layer(same, cell),
            "branch norm": Join(block("branch"), "stem", over_time=True),
            "branch": Layer(same, cell),
            "sum": Join(lambda a, b: a + b, ("stem", "branch")),
            "deep norm": Join(block("deep"), "sum", over_time=True),
            "deep": Layer(same, cell),
        }
    )


def squared(params, x=X, **options):
    weights = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return (weights * residual(params)(x, **options)[1]).sum()


@pytest.mark.parametrize(("mode", "arrays"), [("exact", 3), ("half", 1.5), ("8-bit", 0.94)])
def test_only_the_states_of_the_layers_are_kept(mode, arrays):
    x = jnp.zeros((60, 8, UNITS))
    bytes_of_a_layer = 4 * x.size
    report = residual_report(lambda p: residual(p)(x, backward=mode)[1].sum(), PARAMS)
    assert report.bytes <= 1.01 * arrays * bytes_of_a_layer


def test_graded_outputs_reach_later_stages_in_full():
    """In few bits the potentials that are kept are rounded, but not what the next normalization sees."""
    network = residual(PARAMS, cell=CELLS["soft"])

    def loss_of(x):
        out = network(x, backward="8-bit")[1]
        return (out**2).sum(), out

    gradient, out = jax.jit(jax.grad(loss_of, has_aux=True))(X)
    np.testing.assert_allclose(out, jax.jit(functools.partial(network, backward="scan"))(X)[1], rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_second_derivatives(x64):
    params, x = jax.tree.map(lambda a: a.astype(float), (PARAMS, X))

    def twice(mode):
        return jax.grad(lambda p: sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(squared)(p, x, backward=mode))))

    exact, scan = (jax.jit(twice(mode))(params) for mode in ("exact", "scan"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), exact, scan)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(scan))


def test_forward_mode():
    tangents = jax.tree.map(jnp.ones_like, PARAMS)
    got = jax.jit(lambda p: jax.jvp(functools.partial(squared, backward="scan"), (p,), (tangents,))[1])(PARAMS)
    gradient = jax.jit(jax.grad(squared))(PARAMS)
    np.testing.assert_allclose(got, sum(g.sum() for g in jax.tree.leaves(gradient)), rtol=1e-4)
    with pytest.raises(TypeError, match="backward='scan'"):
        jax.jvp(squared, (PARAMS,), (tangents,))


@pytest.mark.every
def test_networks_side_by_side():
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    both = jax.vmap(jax.grad(squared))(several)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-4),
        both,
        jax.grad(squared)(jax.tree.map(lambda a: a[1], several)),
    )


@pytest.mark.parametrize("kind", few([AxisType.Auto, AxisType.Explicit], AxisType.Explicit))
def test_several_devices_share_the_examples(kind):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,), devices=jax.devices()[:2])
    x = jnp.concatenate([X, X[:, :1]], 1)
    alone = jax.grad(squared)(PARAMS, x)
    with of_mesh(mesh):
        shared = jax.jit(jax.grad(squared))(PARAMS, jax.device_put(x, NamedSharding(mesh, P(None, "batch"))))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), alone, shared)


@pytest.mark.parametrize("mode", few([mode for mode in MODES if mode != "scan"], "exact"))
def test_keys_draw_the_same_spikes_in_every_mode(mode):
    cell = LIF(0.8, 0.6, surrogate=stochastic(Sigmoid(2.0)))
    mask = jnp.asarray(RNG.uniform(size=X.shape[:2]) < 0.7)
    network, key = residual(PARAMS, cell=cell), jax.random.key(1)
    runs = {"backward": Backward(mode, chunk=5)}, {"backward": "scan"}
    outs, scan = (
        jax.jit(functools.partial(observed, network, mask=mask, **options))(X, key=key)[1] for options in runs
    )
    assert 0 < scan["deep"].sum() < scan["deep"].size
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), outs, scan)


def test_states_go_on_where_a_call_ended():
    network = residual(PARAMS, function=lambda x, gain, mask: gain[None, None] * x)
    network = jax.jit(network)
    _, whole = network(X)
    states, before = network(X[:5])
    _, after = network(X[5:], states)
    np.testing.assert_array_equal(whole, jnp.concatenate([before, after]))


def delayed_norm(function):
    return Network(
        {
            "norm": Join(function, "input", over_time=True),
            "out": Layer({"norm": Delayed(PARAMS["stem"], 3)}, LeakyReadout(0.9)),
        }
    )


@pytest.mark.parametrize("with_statistics", [True, False])
def test_a_delayed_read_of_a_join_over_time_goes_on(with_statistics):
    def doubled(x, mask=None):
        del mask
        return (2 * x, {"sum": x.sum()}) if with_statistics else 2 * x

    network = delayed_norm(doubled)
    _, whole = network(X)
    states, before = network(X[:5])
    past, statistics = states["norm"] if with_statistics else (states["norm"], None)
    np.testing.assert_array_equal(past, 2 * X[2:5])
    assert statistics is None or float(statistics["sum"]) == pytest.approx(float(X[:5].sum()))
    _, after = network(X[5:], states)
    np.testing.assert_array_equal(whole, jnp.concatenate([before, after]))


def test_nan_in_masked_steps_reaches_no_gradient():
    """A join over time, a join of each step, a delayed and a recurrent read see the inputs of valid steps alone."""
    mask = jnp.asarray(np.random.default_rng(5).random(X.shape[:2]) < 0.6)
    padded = jnp.where(mask[..., None], X, jnp.nan)

    def loss(params, x, mode):
        w, r = params
        network = Network(
            {
                "norm": Join(
                    lambda x, mask: x - jnp.where(mask[..., None], x, 0).mean((0, 1), keepdims=True),
                    "input",
                    over_time=True,
                ),
                "sum": Join(lambda x, norm: jnp.tanh(x @ w + norm), ("input", "norm")),
                "a": Layer({"sum": w, "input": Delayed(w, 2)}, LIF(0.9, 0.3), recurrent=r),
                "out": Layer(w, LeakyReadout(0.9)),
            }
        )
        return (network(x, mask=mask, backward=mode)[1] ** 2).sum()

    @jax.jit
    def gradients(params, x):
        return {mode: jax.value_and_grad(loss, (0, 1))(params, x, mode) for mode in MODES}

    params = PARAMS["stem"], PARAMS["stem"]
    got, expected = (gradients(params, x) for x in (padded, jnp.nan_to_num(padded)))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert all(np.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(got))


def test_finite_padding_stays_for_functions_that_are_singular_at_zero():
    mask = jnp.arange(len(X))[:, None] < jnp.array([[len(X), 4, 7]])

    def loss(w):
        network = Network(
            {
                "share": Join(lambda x, mask: x / x.sum(-1, keepdims=True), "input", over_time=True),
                "norm": Join(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), "input"),
                "a": Layer({"share": w, "norm": w, "input": lambda x: jnp.log(x) @ w}, LIF(0.9, 0.5)),
            }
        )
        return network(1 + X**2, mask=mask)[1].sum()

    assert jnp.isfinite(jax.grad(loss)(PARAMS["stem"])).all()


def test_joins_over_time_share_a_stage_where_they_can():
    network = residual(PARAMS)
    stages = stages_of(network.graph)
    assert [stage.over_time for stage in stages] == [(), ("stem norm",), ("branch norm",), ("deep norm",)]
    assert [[*stage.graph.nodes] for stage in stages] == [[], ["stem"], ["branch", "sum"], ["deep"]]


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_function_of_whole_sequences_in_a_loop():
    w = PARAMS["stem"]
    with pytest.raises(
        ValueError, match=r"join 'norm' takes all steps at once.*through 'cell'; normalize the inputs of the loop"
    ):
        Network(
            {
                "cell": Layer({"input": w, "norm": Delayed(w, 1)}, LIF()),
                "norm": Join(same, "cell", over_time=True),
            }
        )


def test_a_network_that_needs_all_steps_has_no_step():
    network = residual(PARAMS)
    for call in (lambda: network.initial_state(X[0]), lambda: network.step({}, X[0])):
        with pytest.raises(TypeError, match=r"join 'stem norm' takes all steps at once.*fold a normalization"):
            call()


def norm_of(function):
    return Network({"norm": Join(function, "input", over_time=True), "out": Layer(same, LeakyReadout(0.9))})


def test_what_a_function_of_whole_sequences_must_take_and_return():
    with pytest.raises(TypeError, match=r"join 'norm': the call has a mask.*function\(..., mask\)"):
        norm_of(lambda x: x)(X, mask=jnp.ones(len(X), bool))
    with pytest.raises(TypeError, match=r"join 'norm': .*leading axes steps and examples, \(12, 3\).*got float32\[4\]"):
        norm_of(lambda x: x.mean((0, 1)))(X)
    with pytest.raises(TypeError, match="over_time must be a bool, got 1"):
        Join(same, "input", over_time=1)  # type: ignore[arg-type]


def test_states_of_other_entries():
    network = residual(PARAMS)
    with pytest.raises(ValueError, match=r"states must have the keys \['branch', 'deep', 'stem'\], got 'x'"):
        network(X, {"x": X[0]})


# --- inference ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0])
def test_folded_weights_compute_the_normalized_currents(axis, x64):
    weight, x = RNG.normal(size=(5, UNITS)), RNG.normal(size=(BATCH, 5))
    bias, mean, shift = RNG.normal(size=(3, UNITS))
    var, gain = RNG.uniform(0.5, 2, UNITS), RNG.normal(size=UNITS)
    wanted = gain * (x @ weight + bias - mean) / np.sqrt(var + 1e-3) + shift
    given = weight if axis == -1 else weight.T
    folded, own = fold_normalization(given, bias, mean=mean, var=var, gain=gain, shift=shift, axis=axis, epsilon=1e-3)
    np.testing.assert_allclose(x @ (folded if axis == -1 else folded.T) + own[None], wanted, rtol=1e-12)


@pytest.mark.parametrize("dtype", [int, bool])
def test_integer_weights_fold_in_floats(dtype):
    weight = RNG.integers(0, 2, (5, UNITS)).astype(dtype)
    mean, gain = RNG.normal(size=(2, UNITS))
    var = RNG.uniform(0.05, 0.5, UNITS)
    scale = gain / np.sqrt(var + 1e-5)
    folded, own = fold_normalization(weight, mean=mean, var=var, gain=gain)
    np.testing.assert_allclose(folded, weight * scale, rtol=1e-5)
    np.testing.assert_allclose(own, -mean * scale, rtol=1e-5)


def test_gains_of_each_step_do_not_fold():
    with pytest.raises(ValueError, match=r"fold_normalization: gain must be a number or of shape \(2,\), got"):
        fold_normalization(jnp.ones((4, 2)), mean=jnp.zeros(2), var=jnp.ones(2), gain=jnp.ones((6, 2)))
