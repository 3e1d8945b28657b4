"""The loop over updates against gradient descent in NumPy, and everything that it is told
or tells.
"""

import collections
import dataclasses
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network
from spikegrad.data import constant_encoding, delta_encoding, latency_encoding, rate_encoding
from spikegrad.training import (
    Checkpoints,
    DivergedError,
    JsonLines,
    ShuffledBatches,
    State,
    TensorBoard,
    _update,
    combine,
    fit,
    partition,
    with_device_data,
)
from spikegrad.training._source import Source

pytestmark = pytest.mark.newest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
KEY = jax.random.key(7)


def start():
    return {"weight": jnp.zeros(3), "bias": jnp.zeros(())}


def loss(params, batch, key):
    """Least squares, of targets with noise."""
    x, y = batch
    error = x @ params["weight"] + params["bias"] - y - 0.1 * jax.random.normal(key, y.shape)
    return (error**2).mean(), {"each": jnp.stack([jnp.abs(error).max(), jnp.abs(error).min()])}


def by_hand(batches, rate=0.1):
    """The same in float64 and plain NumPy: weights, bias, and the loss before each update."""
    weight, bias, losses = np.zeros(3), 0.0, []
    for step, (x, y) in enumerate(batches):
        noise = np.asarray(jax.random.normal(jax.random.fold_in(KEY, step), y.shape), np.float64)
        error = x @ weight + bias - y - 0.1 * noise
        losses.append((error**2).mean())
        weight = weight - rate * 2 * x.T @ error / len(y)
        bias = bias - rate * 2 * error.mean()
    return weight, bias, np.array(losses)


def run(batches, **options):
    options = {"optimizer": optax.sgd(0.1), "key": KEY} | options
    return fit(loss, start(), batches, **options)


def same(first, second):
    return jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), first.trainable, second.trainable)
    )


BATCHES = ShuffledBatches((X, Y), 5, seed=3)


@pytest.fixture(scope="module")
def whole():
    """Three epochs of four batches, three updates to a call, and what was reported."""
    reports = []
    return run(BATCHES, epochs=3, updates_per_call=3, callbacks=[reports.append]), reports


def test_fit_is_gradient_descent(whole):
    state, reports = whole
    weight, bias, losses = by_hand([batch for epoch in range(3) for batch in BATCHES(epoch)])
    np.testing.assert_allclose(state.trainable["weight"], weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.trainable["bias"], bias, rtol=1e-4, atol=1e-5)
    assert [report.step for report in reports] == [3, 4, 7, 8, 11, 12]
    assert [report.epoch for report in reports] == [1, 1, 2, 2, 3, 3]
    assert [report.epoch_ended for report in reports] == [False, True] * 3
    assert [report.state.epoch for report in reports] == [0, 1, 1, 2, 2, 3]
    assert [report.state.batches for report in reports] == [3, 0, 3, 0, 3, 0]
    assert {report.total for report in reports} == {12}
    for report, calls, epoch in zip(
        reports, [(0, 3), (3, 4), (4, 7)], [(0, 3), (0, 4), (4, 7)], strict=False
    ):
        assert report.metrics["loss"] == pytest.approx(losses[slice(*calls)].mean(), rel=1e-4)
        assert report.epoch_metrics["loss"] == pytest.approx(losses[slice(*epoch)].mean(), rel=1e-4)
        assert report.metrics["each"].shape == (2,)
        assert list(report.metrics) == ["loss", "each"]
    assert reports[0].seconds < reports[-1].seconds == state.seconds


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    rows = ShuffledBatches(np.arange(10), 5, seed=1)
    epochs = [np.concatenate(list(rows(epoch))).tolist() for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [batch.tolist() for batch in rows(1)] == [
        epochs[1][:5],
        epochs[1][5:],
    ]  # asked again, the same
    assert np.concatenate(list(ShuffledBatches(np.arange(10), 5, seed=2)(0))).tolist() != epochs[0]


def test_how_batches_come_is_no_matter(whole):
    state, _ = whole
    rows = ShuffledBatches(np.arange(len(X), dtype=np.int32), 5, seed=3)
    with_rows = fit(
        with_device_data(loss, (X, Y)),
        start(),
        rows,
        optimizer=optax.sgd(0.1),
        key=KEY,
        epochs=3,
        updates_per_call=3,
    )
    assert same(state, with_rows)
    everything = (
        jax.tree.map(jnp.asarray, batch) for epoch in range(3) for batch in BATCHES(epoch)
    )
    assert same(state, run(everything, updates_per_call=3))
    assert same(state, run(lambda epoch: list(BATCHES(epoch)), steps=12, updates_per_call=3))


def test_batches_of_the_next_call_are_copied_to_a_gpu_ahead(whole, monkeypatch):
    """On a processor they stay arrays of NumPy, of which JAX has no copy while it computes."""
    state, _ = whole
    state_at_start = State.create(start(), optax.sgd(0.1), KEY)
    (before,) = next(Source(BATCHES).groups(state_at_start, None, 1))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (ahead,) = next(Source(BATCHES).groups(state_at_start, None, 1))
    for first, second in zip(before, ahead, strict=True):
        assert isinstance(first, np.ndarray)
        assert isinstance(second, jax.Array)
        np.testing.assert_array_equal(first, second)
    assert same(run(BATCHES, epochs=3), state)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="fit on an Explicit mesh")
@pytest.mark.parametrize("size", few([1, 3], 3))
def test_batches_may_be_spread_over_an_explicit_mesh(size):
    """The same numbers as without, of examples and of their row numbers, whose examples are cut in
    the program.
    """
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    )
    options = {"epochs": 2, "updates_per_call": size, "optimizer": optax.sgd(0.1), "key": KEY}
    expected = run(ShuffledBatches((X, Y), 6, seed=3), **options).trainable
    with jax.set_mesh(mesh):  # a loss may read the mesh of the user
        fit(
            lambda p, x, key: loss(p, jax.sharding.reshard(x, PartitionSpec()), key),
            start(),
            BATCHES,
            **options,
        )
    options["batch_sharding"] = NamedSharding(mesh, PartitionSpec("data"))
    rows = ShuffledBatches(np.arange(len(X), dtype=np.int32), 6, seed=3)
    for of, batches in (
        (loss, ShuffledBatches((X, Y), 6, seed=3)),
        (with_device_data(loss, (X, Y)), rows),
    ):
        got = fit(of, start(), batches, **options).trainable
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected
        )
        assert got["weight"].sharding.mesh.axis_types == (AxisType.Explicit,)


def test_batches_that_do_not_divide_over_the_devices():
    """Three time steps of four examples, cut along the time."""
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match=r"axis 0 .* 2 times") as raised:
        run(
            [np.ones((3, 4, 5), np.float32)],
            batch_sharding=NamedSharding(mesh, PartitionSpec("batch")),
        )
    [note] = (line for line in raised.value.__notes__ if "batch_sharding" in line)
    assert "shape (3, 4, 5)" in note
    assert "P(None, 'batch') for time first" in note


def test_a_state_is_gone_on_from_with_the_same_bits(whole):
    state, _ = whole
    for steps in (4, 11):
        first = run(BATCHES, steps=steps, updates_per_call=3)
        assert (first.step, first.epoch, first.batches) == (steps, steps // 4, steps % 4)
        reports = []
        rest = fit(
            loss,
            first,
            BATCHES,
            optimizer=optax.sgd(0.1),
            epochs=3,
            updates_per_call=3,
            callbacks=[reports.append],
        )
        assert same(state, rest)
        assert reports[-1].epoch_metrics["loss"] == whole[1][-1].epoch_metrics["loss"]
        assert rest.seconds > first.seconds


@pytest.mark.slow
def test_the_number_of_updates_per_call_and_shapes_of_batches():
    ragged = [(X[:5], Y[:5]), (X[5:10], Y[5:10]), (X[10:13], Y[10:13]), (X[13:18], Y[13:18])]
    weight, _, losses = by_hand(ragged)
    for size, steps in ((2, [2, 3, 4]), (7, [2, 3, 4])):
        reports = []
        state = run(ragged, updates_per_call=size, callbacks=[reports.append])
        assert [report.step for report in reports] == steps
        np.testing.assert_allclose(state.trainable["weight"], weight, rtol=1e-4, atol=1e-5)
        assert reports[-1].epoch_metrics["loss"] == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.slow
def test_any_optimiser():
    for optimizer in (optax.lbfgs(), optax.chain(optax.clip(1.0), optax.polyak_sgd(1.0))):
        state = run([(X, Y)], optimizer=optimizer, epochs=60, updates_per_call=20)
        np.testing.assert_allclose(state.trainable["weight"], [1.0, -2.0, 0.5], atol=0.15)


def squared(weight, batch, key):
    """Least squares alone."""
    x, y = batch
    return ((x @ weight - y) ** 2).mean(), {}


@pytest.mark.parametrize("size", few([1, 3], 3))
def test_an_optimiser_that_asks_for_gradients_elsewhere(size):
    """Sharpness-aware minimisation, Foret et al. 2021: the gradient at the worst point within a
    radius.
    """
    radius, rate, weight = 0.3, 0.05, np.zeros(3)
    up = optax.chain(optax.contrib.normalize(), optax.sgd(radius))
    optimizer = optax.contrib.sam(optax.sgd(rate), up, opaque_mode=True)
    state = fit(
        squared,
        jnp.zeros(3),
        [(X, Y)],
        optimizer=optimizer,
        key=KEY,
        epochs=5,
        updates_per_call=size,
    )
    for _ in range(5):
        slope = 2 * X.T @ (X @ weight - Y) / len(Y)
        worst = weight + radius * slope / np.linalg.norm(slope)
        weight = weight - rate * 2 * X.T @ (X @ worst - Y) / len(Y)
    np.testing.assert_allclose(state.trainable, weight, rtol=1e-4)


def test_an_optimiser_that_asks_for_the_loss_by_another_name():
    optimizer, weight = optax.contrib.sophia(0.01), jnp.zeros(3)
    state = fit(squared, weight, [(X, Y)], optimizer=optimizer, key=KEY, epochs=5)

    def alone(weight):
        return ((X @ weight - Y) ** 2).mean()

    @jax.jit
    def step(weight, own):
        change, own = optimizer.update(jax.grad(alone)(weight), own, weight, obj_fn=alone)
        return weight + change, own

    own = jax.jit(optimizer.init)(weight)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            weight, own = step(weight, own)
    np.testing.assert_allclose(state.trainable, weight, rtol=1e-4)


def test_a_generator_is_read_no_further_than_needed():
    batches = iter([(X[:5], Y[:5])] * 10)
    run(batches, steps=3, updates_per_call=2)
    assert len(list(batches)) == 7
    for limit in ({"steps": 5}, {"epochs": 2}):
        with pytest.warns(
            UserWarning,
            match="batches is an iterator, which lasts one epoch, and ended after update 2",
        ):
            assert run(iter([(X, Y)] * 2), **limit).step == 2


@pytest.mark.parametrize("size", [1, 4])
def test_divergence_has_the_last_good_state(size):
    good = [(X[:5], Y[:5])] * 6
    bad = [*good, (X[:5] * np.inf, Y[:5])]
    ended = []

    class Ends:
        def __call__(self, report):
            return None

        def end(self, state):
            ended.append(state.step)

    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at update 7, in epoch 1"
    ) as error:
        run(bad, updates_per_call=size, callbacks=[Ends()])
    state = error.value.state
    assert (
        ended == [state.step] == [5 if size == 1 else 4]
    )  # the loss after the sixth is not known to be finite
    assert same(state, run(good[: state.step], updates_per_call=size))
    assert np.isfinite(state.trainable["weight"]).all()


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_infinite_losses_with_finite_gradients_are_divergence(bad):
    """The last good state is the start of the last call whose first loss is finite."""

    def shifted(w, batch, key):
        return w**2 + batch, {}

    batches = np.where(np.arange(6) == bad, np.inf, 1.0).astype(np.float32)
    with pytest.raises(
        DivergedError, match=f"the loss is inf at update {bad + 1}, in epoch 1"
    ) as error:
        fit(
            shifted,
            jnp.array(1.0),
            list(batches),
            optimizer=optax.sgd(0.1),
            key=KEY,
            updates_per_call=3,
        )
    assert error.value.state.step == (3 if bad == 4 else 0)
    np.testing.assert_allclose(error.value.state.trainable, 0.8**error.value.state.step, rtol=1e-6)


def test_parameters_that_are_no_longer_finite_are_divergence_too():
    def steep(params, batch, key):
        return jnp.sqrt(jnp.abs(params["weight"]) * batch).sum(), {}  # its slope at 0 is infinite

    with pytest.raises(
        DivergedError, match="parameters are NaN or infinite after update 1, in epoch 1"
    ):
        fit(steep, start(), [np.ones(3)], optimizer=optax.sgd(0.1), key=KEY)


def test_fit_rejects_invalid_arguments():
    bad = {
        r"loss must return \(scalar, {name: metric}\), got .*. Without metrics return \(scalar, "
        r"{}\)": (lambda params, batch, key: params["bias"]),
        r"loss must take \(trainable, batch, key\), got \(params, batch\). "
        r"Add": lambda params, batch: (
            0.0,
            {},
        ),
        "a metric cannot be named 'loss'": lambda params, batch, key: (
            params["bias"],
            {"loss": 1.0},
        ),
    }
    for message, function in bad.items():
        with pytest.raises((TypeError, ValueError), match=message):
            fit(function, start(), [X], optimizer=optax.sgd(0.1), key=KEY)
    for trainable, message in (
        ({"size": jnp.arange(3)}, "got int32 at size"),
        (State.create({"size": jnp.arange(3)}, optax.sgd(0.1), KEY), "got int32 at size"),
        (jnp.zeros(3, complex), "got complex64 at its root"),
        ({"cell": jax.tree.map(lambda _: 0.9, LIF(jnp.array(0.9)))}, "got float at cell/decay"),
    ):
        options = {} if isinstance(trainable, State) else {"key": KEY}
        with pytest.raises(
            TypeError, match=f"trainable must hold floating-point arrays, {message}"
        ):
            fit(loss, trainable, BATCHES, optimizer=optax.sgd(0.1), **options)
    with pytest.raises(TypeError, match="trainable must hold arrays, got float at its root"):
        State.create(0.5, optax.sgd(0.1), KEY)
    for options, message in (
        ({"epochs": 0}, "fit: epochs must be >= 1, got 0"),
        ({"steps": 10 * 200 / 32}, "steps must be an integer, got 62.5"),
        ({"key": None}, "fit: key must be one of jax.random.key, got None"),
        ({"key": 0}, "fit: key must be one of jax.random.key, got 0"),
        (
            {"optimizer": "adam"},
            r"optimizer must be one of optax, got 'adam'. Pass for example optax.adam\(1e-3\)",
        ),
        ({"optimizer": optax.adam}, "fit: optimizer must be one of optax, got <function adam"),
        (
            {"callbacks": print},
            "fit: callbacks must be a sequence, got <built-in function print>. Pass a list",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            run(BATCHES, **options)
    state = State.create(start(), optax.adam(0.1), KEY)
    after = dataclasses.replace(state, epoch=1)
    for given, options, message in (
        (state, {"key": KEY}, "a State contains a key"),
        (
            state,
            {"optimizer": optax.adamw(0.1)},
            "optimizer must be the one that made the State, got one with another",
        ),
        (
            state,
            {"optimizer": optax.sgd(0.1)},
            r"another state. Pass that .* or State.create\(state.trainable",
        ),
        (after, {}, "epochs= and steps= are missing, and the State has 1 epochs"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fit(loss, given, BATCHES, **{"optimizer": optax.adam(0.1), **options})
    for call, message in (
        (lambda: run([]), "batches is empty in epoch 1"),
        (lambda: ShuffledBatches((X, Y), 24, 0), "ShuffledBatches: size must be 1 to 23 "),
        (lambda: ShuffledBatches((X, Y[1:]), 2, 0), r"one number of rows, got \[22, 23\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_note_on_batch_first_inputs():
    """23 examples of 4 steps, with a label for each example."""

    def classify(params, batch, key):
        x, labels = batch
        scores = (x @ params["weight"]).mean(0)[:, None]  # a network reads 23 steps of 4 examples
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean(), {}

    x, labels = np.ones((23, 4, 3), np.float32), np.zeros(23, int)
    with pytest.raises(ValueError, match="Incompatible shapes") as raised:
        fit(classify, start(), [(x, labels)], optimizer=optax.sgd(0.1), key=KEY)
    note = (
        "axis 0 is time and axis 1 the examples. The inputs are (steps, examples, ...): 23 steps, "
        "4 examples. The labels"
    )
    assert any(note in line for line in raised.value.__notes__)
    with pytest.raises(KeyError) as raised:
        fit(lambda w, batch, key: w["none"], {"w": x}, [x], optimizer=optax.sgd(0.1), key=KEY)
    assert any(
        line.endswith("axis 0 is time and axis 1 the examples") for line in raised.value.__notes__
    )

    def convolve(params, batch, key):  # images, with the examples first, and spikes as bools
        images = jnp.zeros((23, 3, 4, 4), bool)
        return jax.lax.conv(images, params["kernel"], (1, 1), "SAME").mean(), {}

    kernel = {"kernel": np.ones((2, 3, 3, 3), np.float32)}
    with pytest.raises(TypeError, match="same dtypes") as raised:
        fit(convolve, kernel, [(x, labels)], optimizer=optax.sgd(0.1), key=KEY)
    assert not any("swapaxes" in line for line in raised.value.__notes__)
    state = fit(classify, start(), [(x.swapaxes(0, 1), labels)], optimizer=optax.sgd(0.1), key=KEY)
    assert state.step == 1


def test_partition_warns_of_arrays_that_functions_hide():
    weight = jnp.ones((3, 2))

    class Holder:
        def __init__(self):
            self.weight = weight

        def __call__(self, x):
            return x @ self.weight

    def recursive(x):
        return recursive(x) if x is weight else x

    hiding = {
        "lambda": lambda x: x @ weight,
        "compiled": jax.jit(lambda x: x @ weight),
        "partial": functools.partial(jnp.dot, b=weight),
        "recursive": recursive,
        "object": Holder(),
    }
    for name, function in hiding.items():
        with pytest.warns(
            UserWarning,
            match=f"partition: the function at {name} holds arrays that are not trained",
        ):
            partition({name: function})
    scale = 2.0
    trainable, _ = partition(
        [jnp.tanh, lambda x: scale * x, jax.tree_util.Partial(jnp.dot, b=weight)]
    )
    assert [leaf.shape for leaf in jax.tree.leaves(trainable)] == [(3, 2)]


def test_partition_takes_floating_point_arrays_and_combine_puts_together():
    tree = {
        "cell": LIF(decay=jnp.array(0.9), threshold=1.5),
        "layers": [(np.ones(2), jnp.arange(3)), (jnp.zeros(1, jnp.bfloat16), None)],
        "name": "net",
        "function": jnp.tanh,
    }
    trainable, static = partition(tree)
    assert [str(leaf.dtype) for leaf in jax.tree.leaves(trainable)] == [
        "float32",
        "float64",
        "bfloat16",
    ]
    assert not set(map(id, jax.tree.leaves(trainable))) & set(map(id, jax.tree.leaves(static)))
    again = combine(trainable, static)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))
    asked = []
    some, _ = partition(tree, lambda path, leaf: asked.append(path) or path.startswith("layers/1"))
    assert asked == ["cell/decay", "layers/0/0", "layers/1/0"]
    assert len(jax.tree.leaves(some)) == 1


Moments = collections.namedtuple("Moments", ["mean", "var"])  # a pytree of its own class


@pytest.mark.parametrize("size", few([1, 3], 3))
def test_metrics_are_pytrees_averaged_leaf_by_leaf(size, tmp_path):
    """Of numbers that the batches say themselves, so NumPy has their means."""
    batches = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    reports, path = [], tmp_path / "metrics.jsonl"

    def of_batch(w, batch, key):
        moments = Moments(batch.mean(), batch.var()[None])
        nested = {"by": {"size": (batch.max(), batch), "least": batch.min()}}
        return w**2, {
            "norm": (batch.mean(), batch.var()),
            "moments": moments,
            "a": nested,
            "cell": LIF(batch.min()),
        }

    def go(state, steps, folder, *callbacks, **options):
        checkpoints, adam = Checkpoints(tmp_path / folder), optax.adam(0.1)
        state = (
            checkpoints.restore(State.create(jnp.array(1.0), adam, KEY)) if state is None else state
        )
        options = {
            "optimizer": adam,
            "updates_per_call": size,
            "callbacks": [checkpoints, *callbacks],
        } | options
        return fit(of_batch, state, list(batches), steps=steps, epochs=1, **options)

    go(None, 3, "run")
    state = go(None, 5, "run", reports.append, JsonLines(path))  # restored within the epoch
    assert state.epoch == 1
    for metrics, rows in (
        (reports[-1].epoch_metrics, batches),
        (reports[-1].metrics, batches[-(size - 1 or 1) :]),
    ):
        want = rows.mean(1).mean(), rows.var(1).mean(), rows.max(1).mean(), rows.min(1).mean()
        mean, var, most, least = want
        assert jax.tree.structure(metrics["moments"]) == jax.tree.structure(Moments(0, 0))
        got = (
            *metrics["norm"],
            metrics["moments"].mean,
            metrics["moments"].var[0],
            metrics["a"]["by"]["size"][0],
        )
        np.testing.assert_allclose(got, [mean, var, mean, var, most], rtol=1e-6)
        np.testing.assert_allclose(metrics["a"]["by"]["size"][1], rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(
            [metrics["a"]["by"]["least"], metrics["cell"].decay], least, rtol=1e-6
        )
    line = json.loads(path.read_text().splitlines()[-1])
    metrics = reports[-1].metrics
    assert line["norm"] == [*metrics["norm"]]
    assert line["moments"] == [metrics["moments"].mean, metrics["moments"].var.tolist()]
    assert line["a"]["by"]["size"][1] == metrics["a"]["by"]["size"][1].tolist()
    assert line["cell"] == {"decay": metrics["cell"].decay}


def test_a_metric_has_a_name_of_its_own(whole, tmp_path):
    report = whole[1][0]
    taken = dataclasses.replace(report, metrics={**report.metrics, "step": np.float64(0.5)})
    with pytest.raises(
        ValueError, match=r"JsonLines: 'step' has two values, 3 and 0.5. Rename the metric"
    ):
        JsonLines(tmp_path / "m.jsonl")(taken)
    with pytest.raises(ValueError, match="JsonLines: 'loss' has two values"):
        JsonLines(tmp_path / "m.jsonl", more=lambda now: {"loss": 1})(report)


def test_print_shows_what_is_trained():
    half = LIF(jnp.full(2, 0.5, jnp.bfloat16), threshold=2)
    network = Network(
        {
            "a": Layer(np.ones((3, 2), np.float32), half, recurrent=Delayed(jnp.ones((2, 2)), 3)),
            "both": Join(jnp.add, of=("a", "a")),
            "out": Layer({"both": jnp.ones((2, 1), int)}, LeakyReadout(0.9), bias=jnp.zeros(())),
        }
    )
    text = """Network: fit trains {} numbers, and all else is constant
a: LIF
    trained:  weight float32[3, 2], {}
    constant: cell/threshold=2.0, cell/surrogate/alpha=4.0, cell/reset_value=0.0, recurrent/delay=3
both: Join
    constant: function=add
out: LeakyReadout
{}    constant: weight/both int32[2, 1], cell/decay=0.9"""
    others = "cell/decay bfloat16[2], recurrent/weight float32[2, 2]"
    assert str(network) == text.format("4 arrays with 13", others, "    trained:  bias float32[]\n")
    one, static = partition(network, lambda path, leaf: path == "layers/out/bias")
    assert "fit trains 1 array with 1 numbers" in str(one)
    assert "int32[2, 1]" not in str(one)
    assert str(jax.tree.map(lambda leaf: leaf, network)) == str(network)
    assert "fit trains 3 arrays with 12 numbers" in str(static)


def test_json_lines(whole, tmp_path):
    _, reports = whole
    path = tmp_path / "metrics.jsonl"
    write = JsonLines(
        path, more=lambda report: {"rate": jnp.float32(0.5), "odd": np.inf}, of={"network": "a"}
    )
    for report in reports:
        write(report)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 7, 8, 11, 12]
    assert lines[1]["each"] == reports[1].metrics["each"].tolist()
    assert lines[1]["loss"] == reports[1].metrics["loss"]
    assert list(lines[1]) == [
        "network",
        "step",
        "epoch",
        "seconds",
        "loss",
        "each",
        "epoch_ended",
        "rate",
        "odd",
    ]
    assert (lines[0]["rate"], lines[0]["odd"]) == (0.5, None)
    assert "epoch_ended" not in lines[0]
    with pytest.raises(FileExistsError, match="resume=True"):
        JsonLines(path)(reports[0])
    with path.open("a") as file:
        file.write(
            '{"network": "b", "step": 8}\n{"network": "a", "st'
        )  # another network's, and what a kill left
    JsonLines(path, resume=True, of={"network": "a"})(reports[2])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["network"], line["step"]) for line in lines] == [
        ("a", 3),
        ("a", 4),
        ("b", 8),
        ("a", 7),
    ]


def test_tensor_board(whole, tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415

    _, reports = whole
    write = TensorBoard(
        tmp_path, more=lambda report: {"rate": 0.5, "norm": {"all": (0.25, np.ones(2))}}
    )
    for report in reports[:2]:
        write(report)
    write.end(reports[1].state)
    (file,) = tmp_path.iterdir()
    stream, found = io.BytesIO(file.read_bytes()), []
    while size := stream.read(8):  # length and its checksum, the event and its checksum
        stream.read(4)
        event = Event.FromString(stream.read(int.from_bytes(size, "little")))
        stream.read(4)
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    for report in reports[:2]:
        for tag, value in (
            ("loss", report.metrics["loss"]),
            ("each/1", report.metrics["each"][1]),
            ("rate", 0.5),
        ):
            assert (report.step, tag, pytest.approx(value)) in found
        assert {(report.step, "norm/all/0", 0.25), (report.step, "norm/all/1/1", 1.0)} <= {*found}


def test_constant_coding_repeats():
    x = np.array([[1, 2], [3, 4]])
    coded = constant_encoding(x, 3)
    assert coded.shape == (3, 2, 2)
    assert coded.dtype == jnp.float32
    assert (np.asarray(coded) == x).all()
    assert constant_encoding(x, 1).shape == (1, 2, 2)


def test_rate_coding_spikes_with_the_probability_of_the_value():
    x = jnp.array([-1.0, 0.0, 0.2, 0.5, 0.9, 1.0, 2.0])
    spikes = np.asarray(rate_encoding(x, 4000, jax.random.key(0))).astype(float)
    share = np.clip(np.asarray(x), 0, 1)
    assert (np.abs(spikes.mean(0) - share) <= 5 * np.sqrt(share * (1 - share) / 4000)).all()
    assert abs(np.corrcoef(spikes[1:, 3], spikes[:-1, 3])[0, 1]) < 0.08  # independent in time
    assert abs(np.corrcoef(spikes[:, 3], spikes[:, 4])[0, 1]) < 0.08  # and of each other


def test_latency_coding_spikes_once_and_earlier_for_more():
    x = np.array([0.0, 1e-9, 0.01, 0.3, 0.5, 0.75, 0.7499, 0.99, 1.0, 1.5, -0.5], np.float32)
    when = [None, 3, 3, 2, 2, 1, 1, 0, 0, 0, None]
    coded = np.asarray(latency_encoding(x, 4))
    assert coded.sum(0).tolist() == [int(step is not None) for step in when]
    assert all(coded[step, i] for i, step in enumerate(when) if step is not None)


def test_delta_coding_follows_the_signal():
    rng = np.random.default_rng(1)
    signal = np.cumsum(rng.uniform(-0.9, 0.9, (200, 3)), 0).astype(np.float32)
    spikes = np.asarray(delta_encoding(signal, 0.5))
    reference = signal[0].astype(np.float64)
    for value, spike in zip(signal, spikes, strict=True):
        away = value - reference
        assert (spike == np.where(np.abs(away) >= 0.5, np.sign(away), 0)).all()
        reference = reference + 0.5 * spike
    assert {-1.0, 0.0, 1.0} == set(np.unique(spikes))


def test_lines_of_steps_that_are_made_again_are_dropped(tmp_path):
    def toward(w, batch, key):
        return (w - batch) ** 2, {}

    def go_on(state, path, **options):
        return fit(
            toward,
            state,
            [0.0, 1.0] * 4,
            optimizer=sgd,
            callbacks=[JsonLines(path, resume=True)],
            **options,
        )

    sgd, path = optax.sgd(0.1), tmp_path / "m.jsonl"
    middle = go_on(State.create(jnp.array(1.0), sgd, KEY), path, steps=2)
    go_on(middle, path, steps=5)
    go_on(middle, path, epochs=1, updates_per_call=3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 5, 8]


def test_program_has_room_for_the_batches_of_an_epoch_only(whole, monkeypatch):
    """A program with room for 10,000 batches takes a minute to compile."""
    room, jit = [], jax.jit

    def spying(function, **options):
        compiled = jit(function, **options)

        def call(*arguments):
            room.append(len(arguments[0].batches))
            return compiled(*arguments)

        return call if function.__name__ in ("single", "loop") else compiled

    monkeypatch.setattr(_update.jax, "jit", spying)
    for batches, most in ((BATCHES, 4), (five_batches, 8)):
        reports = []
        state = run(batches, epochs=3, updates_per_call=10_000, callbacks=[reports.append])
        assert max(room) <= most
        assert [report.epoch_ended for report in reports] == [True] * 3
        room.clear()
    assert state.step == 15
    assert same(run(BATCHES, epochs=3, updates_per_call=10_000), whole[0])


def five_batches(epoch):
    return [*BATCHES(epoch), next(iter(BATCHES(epoch)))]


def test_callbacks_are_called_in_order_and_later_ones_see_the_state_of_earlier_ones():
    calls = []

    class Named:
        def __init__(self, name, answer=lambda now: None):
            self.name, self.answer = name, answer

        def __call__(self, now):
            calls.append((self.name, now.step, float(now.state.trainable["bias"].sum())))
            return self.answer(now)

        def end(self, state):
            calls.append((self.name, "end", state.step))

    def moved(now):
        bias = now.state.trainable["bias"] * 0 + now.step
        return dataclasses.replace(now.state, trainable=now.state.trainable | {"bias": bias})

    callbacks = [
        Named("first"),
        Named("moves", moved),
        Named("stops", lambda now: now.step == 2),
        Named("last"),
    ]
    state = run(BATCHES, callbacks=callbacks)
    assert state.step == 2
    assert [call[:2] for call in calls] == [
        (name, step) for step in (1, 2, "end") for name in ("first", "moves", "stops", "last")
    ]
    assert [value for name, step, value in calls if name == "last"] == [1.0, 2.0, 2]
    assert next(value for name, _, value in calls if name == "first") not in (0.0, 1.0)
