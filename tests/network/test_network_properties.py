"""Random networks against a tape in NumPy, which shares no code with the library: values and gradients of everything.

Each case is one compiled program for several random networks: of masks, windows, states that are passed in, states
that are returned, and weights of several dtypes.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS
from networks import backward_of, named, observed

from spikegrad import LIF, Backward, Layer, LeakyReadout, Network, Sigmoid

NETWORKS, STEPS, BATCH, INPUTS, NEURONS, CLASSES = 4, 11, 3, 4, 5, 2
ALPHA = 3.0


def slope(x):
    y = 1 / (1 + np.exp(ALPHA * np.abs(x)))
    return ALPHA * y * (1 - y)


# --- the tape --------------------------------------------------------------------------------------------------------


def tape(p, x, states, mask, truncate, resets, cotangents):  # noqa: PLR0915  (it is one loop there and one back)
    """Outputs, pre-spike states and last states; the gradient of their sum, each times its cotangent."""
    depth = len(p["w"])
    of_out, of_u, of_end = cotangents
    outs = [np.zeros((STEPS, BATCH, w.shape[1])) for w in p["w"]]
    us = [np.zeros_like(out) for out in outs]
    trace, window = [], np.zeros(BATCH, int)
    states = [(v.copy(), s.copy()) for v, s in states]
    for t in range(STEPS):
        m = mask[t][:, None]
        cut = ((t // truncate > window) & mask[t])[:, None] if truncate else np.zeros((BATCH, 1), bool)
        window = np.where(mask[t], t // truncate, window) if truncate else window
        below = x[t]
        for n in range(depth):
            v0, s0 = states[n]
            current = below @ p["w"][n] + (s0 @ p["r"] + p["b"] if n == 0 else 0)
            u = p["decay"][n] * v0 + current
            if n == depth - 1:
                s, v = u, u
            else:
                s = (u >= p["threshold"][n]).astype(float)
                v = {"subtract": u - p["threshold"][n] * s, "value": u * (1 - s) + p["reset"] * s, "none": u}[
                    resets[n][0]
                ]
            trace.append((below, v0, s0, u, s, m, cut))
            states[n] = np.where(m, v, v0), np.where(m, s, s0)
            outs[n][t], us[n][t] = np.where(m, s, 0), np.where(m, u, 0)
            below = outs[n][t]
    g = jax.tree.map(np.zeros_like, p)
    g_x, ct = np.zeros_like(x), [(a.copy(), b.copy()) for a, b in of_end]
    for t in reversed(range(STEPS)):
        from_above = 0
        for n in reversed(range(depth)):
            below, v0, s0, u, s, m, cut = trace.pop()
            ct_v, ct_s = ct[n]
            to_v, to_s = m * ct_v, m * (ct_s + of_out[n][t] + from_above)
            to_u = m * of_u[n][t]
            if n == depth - 1:
                to_u = to_u + to_v + to_s
            else:
                reset, detached = resets[n]
                if reset == "value":
                    of_spike, of_potential = p["reset"] - u, 1 - s
                    g["reset"] += (s * to_v).sum(0)
                else:
                    subtracts = float(reset == "subtract")
                    of_spike, of_potential = -p["threshold"][n] * subtracts, 1.0
                    g["threshold"][n] -= subtracts * (s * to_v).sum(0)
                to_s = to_s + (0 if detached else of_spike * to_v)
                fired = slope(u - p["threshold"][n]) * to_s
                g["threshold"][n] -= fired.sum(0)
                to_u = to_u + of_potential * to_v + fired
            g["decay"][n] += (to_u * v0).sum(0)
            g["w"][n] += below.T @ to_u
            from_above = to_u @ p["w"][n].T
            before = p["decay"][n] * to_u, 0 * s0
            if n == 0:
                g["r"] += s0.T @ to_u
                g["b"] += to_u.sum(0)
                g_x[t] = from_above
                before = before[0], to_u @ p["r"].T
            held = ~m * ct_v, ~m * ct_s
            ct[n] = tuple(np.where(cut, 0, a) + b for a, b in zip(before, held, strict=True))
    return (outs, us, states), (g, g_x, ct)


# --- random networks, and the cases ----------------------------------------------------------------------------------


def draw(seed):
    rng = np.random.default_rng(seed)
    sizes = [INPUTS, NEURONS, NEURONS, CLASSES]
    p = {
        "w": [rng.normal(0.2, 0.8, (a, b)) for a, b in itertools.pairwise(sizes)],
        "r": rng.normal(0, 0.5, (NEURONS, NEURONS)),
        "b": rng.normal(0.1, 0.1, NEURONS),
        "decay": [rng.uniform(0.5, 0.95, n) for n in sizes[1:]],
        "threshold": [rng.uniform(0.5, 1.2, NEURONS) for _ in range(2)],
        "reset": rng.uniform(-0.3, 0.1, NEURONS),
    }
    states = [(rng.normal(0, 0.3, (BATCH, n)), rng.integers(0, 2, (BATCH, n)).astype(float)) for n in sizes[1:]]
    like = [np.zeros((STEPS, BATCH, n)) for n in sizes[1:]]
    cotangents = jax.tree.map(lambda a: rng.normal(size=a.shape), (like, like, states))
    mask = rng.uniform(size=(STEPS, BATCH)) < 0.75
    mask[: rng.integers(0, 4), 0] = False  # it begins later
    mask[7:, 1] = False  # and it ends earlier
    return p, rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS)), states, mask, cotangents


RESETS = (
    [("subtract", False), ("value", False)],
    [("none", False), ("subtract", True)],
    [("value", True), ("value", False)],
)
CASES = {  # options, the number of the resets, whether steps are left out, and the dtypes of the weights
    "exact": ({"backward": Backward(truncate=3, chunk=2)}, 0, True, "float64", "float64"),
    "recurrent weights in a wider dtype": ({"backward": "recompute"}, 0, True, "float32", "float64"),
    "8-bit": ({"backward": Backward("8-bit", truncate=4)}, 0, True, "float64", "float64"),
    "other resets": ({"backward": Backward(truncate=4, segment=5)}, 1, True, "float64", "float64"),
    "detached": ({"backward": Backward("recompute", truncate=2, segment=4, chunk=2)}, 2, True, "float64", "float64"),
    "all steps": ({"backward": Backward(chunk=11)}, 0, False, "float64", "float64"),
    "scan": ({"backward": Backward("scan", truncate=3)}, 2, True, "float64", "float64"),
    "half": ({"backward": "half"}, 1, True, "float64", "float64"),
    "input weights in a wider dtype": ({}, 2, True, "float64", "float32"),
    "unrolled": ({"backward": Backward(unroll=3, truncate=5)}, 1, True, "float64", "float64"),
}
BY_DEFAULT = ("exact", "recurrent weights in a wider dtype", "8-bit")


def network(p, resets, of_weight, of_recurrent):
    cells = [
        LIF(
            p["decay"][n],
            p["threshold"][n],
            Sigmoid(ALPHA),
            reset,
            detached,
            **({"reset_value": p["reset"]} if reset == "value" else {}),
        )
        for n, (reset, detached) in enumerate(resets)
    ]
    cells.append(LeakyReadout(p["decay"][-1]))
    first = Layer(p["w"][0].astype(of_weight), cells[0], p["r"].astype(of_recurrent), p["b"])
    return Network([first, *(Layer(w, cell) for w, cell in zip(p["w"][1:], cells[1:], strict=True))])


def case_of(name):
    options, resets, masked, *dtypes = CASES[name]
    drawn = [draw(seed) for seed in range(NETWORKS)]
    if not masked:
        drawn = [(*rest, np.ones_like(mask), ct) for *rest, mask, ct in drawn]
    rounded = []
    for p, x, states, mask, ct in drawn:  # as the program has them
        first = [p["w"][0].astype(dtypes[0]).astype(float), *p["w"][1:]]
        rounded.append(({**p, "w": first, "r": p["r"].astype(dtypes[1]).astype(float)}, x, states, mask, ct))
    return options, RESETS[resets], masked, dtypes, rounded


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.every) for name in CASES]
)
def test_network_has_the_values_and_gradients_of_a_tape(x64, name):
    options, resets, masked, dtypes, drawn = case_of(name)

    def run(p, x, states, mask, ct):
        def loss(p, x, states):
            made = network(p, resets, *dtypes)
            ends, outs, us = observed(made, x, named(states), mask=mask if masked else None, **options)
            found = [*outs.values()], [*us.values()], [*ends.values()]
            return sum(map(jnp.vdot, jax.tree.leaves(found), jax.tree.leaves(ct))), found

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(p, x, states)

    together = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *drawn)
    (_, found), gradients = jax.jit(jax.vmap(run))(*together)
    single = "float32" in dtypes
    low = GRADIENT_ERRORS.get(backward_of(options).mode)
    fired = 0
    for i, (p, x, states, mask, ct) in enumerate(drawn):
        expected, slopes = tape(p, x, states, mask, backward_of(options).truncate, resets, ct)
        one = functools.partial(jax.tree.map, lambda a, i=i: np.asarray(a[i]))
        for spikes, right in zip(one(found)[0][:-1], expected[0][:-1], strict=True):
            np.testing.assert_array_equal(spikes, right)
            fired += right.mean() / NETWORKS / 2
        for got, right in zip(jax.tree.leaves(one(found)), jax.tree.leaves(expected), strict=True):
            assert got.dtype == "float64"  # the wider of the weights
            np.testing.assert_allclose(got, right, rtol=0, atol=2e-6 if single else 1e-12)
        paths = jax.tree_util.tree_flatten_with_path(one(gradients))[0]
        for (path, got), right in zip(paths, jax.tree.leaves(slopes), strict=True):
            error, size = np.linalg.norm(got - right), np.linalg.norm(right)
            assert error <= (low or (1e-5 if single else 1e-11)) * max(size, 1e-3), jax.tree_util.keystr(path)
    assert 0.1 < fired < 0.6
