"""E-prop by one ``stop_gradient``, against a loop with eligibility traces that goes forward in
time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

from spikegrad import LIF, AdaptiveLIF, Arctan, Layer, LeakyReadout, Network

STEPS, BATCH, INPUTS, NEURONS, OUTPUTS = 30, 3, 5, 7, 2
BETA, THRESHOLD, KAPPA, RHO, LEAK = 0.85, 0.7, 0.25, 0.9, 0.8

rng = np.random.default_rng(0)
W = rng.normal(0.1, 0.5, (INPUTS, NEURONS))
R = rng.normal(0, 0.4, (NEURONS, NEURONS))
OUT = rng.normal(size=(NEURONS, OUTPUTS))
X = (rng.random((STEPS, BATCH, INPUTS)) < 0.4).astype(float)
TARGET = rng.normal(size=(STEPS, BATCH, OUTPUTS))


def by_traces(adaptation, detach_reset):
    """Gradients of the squared error in ``W`` and ``R``, from learning signals and filtered
    eligibility traces.

    A neuron's state before its spike is (u, a). A trace is its derivative in a weight, ``(batch,
    sources, neurons)``.
    """
    v, a, s = np.zeros((3, BATCH, NEURONS))
    y = np.zeros((BATCH, OUTPUTS))
    sources = INPUTS + NEURONS
    of_u, of_a, filtered = np.zeros((3, BATCH, sources, NEURONS))
    jacobian = np.zeros((2, 2, BATCH, 1, NEURONS))  # of (u, a) after a step in (u, a) before
    gradient = np.zeros((sources, NEURONS))
    for x, target in zip(X, TARGET, strict=True):
        before = np.concatenate([x, s], -1)
        u = BETA * v + x @ W + s @ R
        (uu, ua), (au, aa) = jacobian
        of_u, of_a = uu * of_u + ua * of_a + before[:, :, None], au * of_u + aa * of_a
        threshold = THRESHOLD + a
        slope = 1 / (1 + (np.pi * (u - threshold)) ** 2)  # of Arctan(2)
        s = (u >= threshold).astype(float)
        filtered = LEAK * filtered + slope[:, None] * (of_u - of_a)
        y = LEAK * y + s @ OUT
        signal = 2 * (y - target) @ OUT.T / TARGET.size
        gradient += np.einsum("bj,bij->ij", signal, filtered)
        of_reset = np.zeros_like(slope) if detach_reset else slope
        jacobian = np.stack(
            [
                [BETA * (1 - threshold * of_reset), BETA * (threshold * of_reset - s)],
                [adaptation * slope, RHO - adaptation * slope],
            ]
        )[:, :, :, None]
        v, a = u - threshold * s, RHO * a + adaptation * s
    return gradient[:INPUTS], gradient[INPUTS:]


def by_network(adaptation, detach_reset, feedback, **options):
    more = {"adaptation": adaptation, "adaptation_decay": RHO} if adaptation else {}
    cell = (AdaptiveLIF if adaptation else LIF)(
        BETA, THRESHOLD, Arctan(2.0), detach_reset=detach_reset, **more
    )

    def loss(w, r):
        network = Network(
            [Layer(w, cell, recurrent=feedback(r)), Layer(jnp.asarray(OUT), LeakyReadout(LEAK))]
        )
        return ((network(jnp.asarray(X), **options)[1] - TARGET) ** 2).mean()

    return jax.jit(jax.grad(loss, (0, 1)))(jnp.asarray(W), jnp.asarray(R))


def stopped(r):
    return lambda s: jax.lax.stop_gradient(s) @ r


@pytest.mark.slow
@pytest.mark.parametrize("detach_reset", few([False, True], False))
@pytest.mark.parametrize("adaptation", few([0.0, KAPPA], KAPPA))
def test_a_stopped_gradient_is_eprop(x64, adaptation, detach_reset):
    wanted = by_traces(adaptation, detach_reset)
    for got, want in zip(by_network(adaptation, detach_reset, stopped), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    full = by_network(adaptation, detach_reset, lambda r: r)
    assert all(
        np.abs(got - want).max() > 0.01 * np.abs(want).max()
        for got, want in zip(full, wanted, strict=True)
    )
