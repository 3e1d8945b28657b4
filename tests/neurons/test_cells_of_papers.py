"""Cells of the literature against loops in the order of the authors' code, and the bounds of their
stability.

Each reference is one step of the source, with its names and its order, on the whole state of the
source. It shares the spike with the library, and nothing else.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from networks import assert_raises

from spikegrad import AdaptiveLIF, Sigmoid, multi_spike, neurons, signed, unroll
from spikegrad.testing import check_cell

STEPS, SIZE = 60, 6
RNG = np.random.default_rng(11)
fire = Sigmoid(4.0)
stop = jax.lax.stop_gradient
sigmoid = jax.nn.sigmoid


def sparch_adlif(p, state, x):
    """The adaptation first, with the potential and the spike of the step before."""
    u, w, s = state
    w = p["adaptation_decay"] * w + p["a"] * u + p["b"] * s
    u = p["decay"] * (u - s) + (1 - p["decay"]) * (x - w)
    s = fire(u - 1)
    return (u, w, s), s


def se_adlif(p, state, x):
    u, w = state
    u = p["decay"] * u + (1 - p["decay"]) * (x - w)
    s = fire(u - p["threshold"])
    u = u * (1 - stop(s))
    w = p["adaptation_decay"] * w + (1 - p["adaptation_decay"]) * (p["a"] * u + p["b"] * s) * 120
    return (u, w), s


def ef_adlif(p, state, x):
    """Both from the values of the step before."""
    u, w, s = state
    new = p["decay"] * u + (1 - p["decay"]) * (x - w)
    w = p["adaptation_decay"] * w + (1 - p["adaptation_decay"]) * (p["a"] * u + p["b"] * s) * 65
    s = fire(new - p["threshold"])
    return (new * (1 - stop(s)), w, s), s


def eprop_alif(p, state, x):
    """The reset subtracts the baseline of the threshold."""
    v, a, z = state
    v = p["decay"] * v + x - z * p["threshold"]
    a = p["adaptation_decay"] * a + z
    z = fire(v - (p["threshold"] + p["adaptation"] * a))
    return (v, a, z), z


def synaptic_alif(p, state, x):
    v, a, i = state
    i = p["synaptic_decay"] * i + x
    v = p["decay"] * v + i
    threshold = p["threshold"] + a
    s = fire(v - threshold)
    return (v - threshold * s, p["adaptation_decay"] * a + p["adaptation"] * s, i), s


def rf_update(p, state, x):
    u, v = state
    u_ = u + p["b"] * u * 0.01 - p["omega"] * v * 0.01 + x * 0.01
    v = v + p["omega"] * u * 0.01 + p["b"] * v * 0.01
    return (u_, v), fire(u_ - p["threshold"])


def brf_update(p, state, x):
    u, v, q = state
    b = (-1 + jnp.sqrt(1 - (0.01 * p["omega"]) ** 2)) / 0.01 - jnp.abs(p["b"]) - q
    u_ = u + b * u * 0.01 - p["omega"] * v * 0.01 + x * 0.01
    v_ = v + p["omega"] * u * 0.01 + b * v * 0.01
    z = fire(u_ - p["threshold"] - q)
    return (u_, v_, 0.9 * q + z), z


def hrf_update(p, state, x):
    u, v, q = state
    b = p["omega"] ** 2 * 0.005 + jnp.abs(p["b"]) + q
    v = v + u * 0.01
    u = u + x * 0.01 - 2 * b * u * 0.01 - p["omega"] ** 2 * v * 0.01
    z = fire(u - p["threshold"] - q)
    return (u, v, 0.9 * q + z), z


def tclif(p, state, x):
    v1, v2 = state
    v1 = v1 - p["to_dendrite"] * v2 + x
    v2 = v2 + p["to_soma"] * v1
    s = fire(v2 - p["threshold"])
    return (v1 - p["dendritic_reset"] * s, v2 - p["threshold"] * s), s


def qif(p, v, x):
    h = v + (x + p["a"] * (v - p["rest"]) * (v - p["critical"])) / p["tau"]
    s = fire(h - p["threshold"])
    return (1 - s) * h + s * p["reset_value"], s


def eif(p, v, x):
    h = (
        v
        + (x + p["rest"] - v + p["sharpness"] * jnp.exp((v - p["rheobase"]) / p["sharpness"]))
        / p["tau"]
    )
    s = fire(h - p["threshold"])
    return (1 - s) * h + s * p["reset_value"], s


def lif_adex(p, state, x):
    """norse, with dt=0.001 and the inverse time constants 100, 200 and 2."""
    v, i, a = state
    i_jump = i + x
    dv = 0.1 * (-v + p["sharpness"] * jnp.exp((v - p["threshold"]) / p["sharpness"]) + i_jump - a)
    a_decayed = a + 0.002 * (p["coupling"] * v - a)
    z = fire(v + dv - p["threshold"])
    return (
        (1 - z) * (v + dv) + z * p["reset_value"],
        i_jump - 0.2 * i_jump,
        z * p["adaptation"] + a_decayed,
    ), z


def izhikevich(order):
    def step(p, state, x):
        v, u = state
        if order == "published":
            new = v + 0.5 * (0.04 * v**2 + 5 * v + 140 - u + x)
            new = new + 0.5 * (0.04 * new**2 + 5 * new + 140 - u + x)
        else:
            new = v + 0.25 * (0.04 * v**2 + 5 * v + 140 - u + x)
        dt = 1.0 if order == "published" else 0.25
        u = u + dt * p["a"] * (p["b"] * (v if order == "euler" else new) - u)
        z = fire((new - 30) / 10)
        return ((1 - z) * new + z * p["c"], u + z * p["d"]), z

    return step


def clif(p, state, x):
    v, m = state
    v = p["decay"] * v + x
    s = fire(v - p["threshold"])
    m = m * sigmoid(v * (1 - p["decay"])) + s
    return (v - s * (p["threshold"] + sigmoid(m)), m), s


ADLIF = {"decay": 0.9, "adaptation_decay": 0.98, "a": 0.04, "b": 1.5}
BAUD = {"decay": 0.9, "adaptation_decay": 0.99, "a": 0.5, "b": 1.0, "threshold": 0.9}
ALIF = {"decay": 0.9, "threshold": 0.8, "adaptation": 0.3, "adaptation_decay": 0.95}
TURN = {"omega": 20.0, "b": 1.0, "threshold": 1.0}
QUADRATIC = {
    "tau": 2.0,
    "critical": 0.8,
    "rest": 0.1,
    "a": 1.2,
    "threshold": 1.0,
    "reset_value": -0.1,
}
EXP = {
    "tau": 2.0,
    "rheobase": 0.8,
    "sharpness": 0.9,
    "rest": 0.1,
    "threshold": 1.1,
    "reset_value": -0.1,
}
IZ = {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0}
ADEX = {"coupling": 4.0, "adaptation": 0.02, "sharpness": 0.5, "threshold": 1.0, "reset_value": 0.0}
DENDRITE = {"to_dendrite": 0.6, "to_soma": 0.4, "threshold": 1.0, "dendritic_reset": 0.5}
delayed_alif = functools.partial(AdaptiveLIF, reset="baseline", delay_reset=True)


def spiking(order):
    return functools.partial(neurons.Izhikevich, order=order, dt=0.25)


class Source(NamedTuple):
    """A cell, and the step of its source."""

    cell: Callable
    parameters: dict[str, float]
    """Arguments of the cell, which the step gets too."""
    step: Callable
    """From parameters, the state of the source and the input to the next state and the spikes."""
    start: Callable
    """From the parameters to the state of the source before the first step."""
    currents: tuple[float, float]
    """Mean and deviation of the inputs. Up to six tenths of the steps must have a spike."""


def zeros(count):
    return lambda _: tuple(jnp.zeros(SIZE) for _ in range(count))


def at_rest(p):
    return jnp.zeros(SIZE) + p["rest"]


def of_izhikevich(p):
    v = jnp.broadcast_to(p["c"], SIZE)
    return v, p["b"] * v


def of_alif(p):
    # The library computes the spike of the first state, which has a slope.
    return jnp.zeros(SIZE), jnp.zeros(SIZE), fire(-p["threshold"])


CELLS = {
    "adLIF": Source(neurons.AdLIF, ADLIF, sparch_adlif, zeros(3), (4, 6)),
    "SE-adLIF": Source(neurons.SymplecticAdLIF, BAUD, se_adlif, zeros(2), (10, 20)),
    "EF-adLIF": Source(neurons.EulerAdLIF, BAUD, ef_adlif, zeros(3), (10, 20)),
    "ALIF, baseline": Source(delayed_alif, ALIF, eprop_alif, of_alif, (0.2, 0.5)),
    "synaptic ALIF": Source(
        neurons.SynapticAdaptiveLIF,
        ALIF | {"synaptic_decay": 0.7},
        synaptic_alif,
        zeros(3),
        (0.1, 0.4),
    ),
    "RF": Source(neurons.RF, TURN | {"b": -2.5}, rf_update, zeros(2), (10, 40)),
    "BRF": Source(neurons.BRF, TURN, brf_update, zeros(3), (10, 80)),
    "HRF": Source(neurons.HRF, TURN, hrf_update, zeros(3), (40, 80)),
    "TC-LIF": Source(neurons.TCLIF, DENDRITE, tclif, zeros(2), (0.3, 0.8)),
    "QIF": Source(neurons.QIF, QUADRATIC, qif, at_rest, (0.6, 1.0)),
    "EIF": Source(neurons.EIF, EXP, eif, at_rest, (-0.3, 1.0)),
    "AdEx": Source(neurons.AdEx, ADEX, lif_adex, zeros(3), (0.8, 1.5)),
    "Izhikevich, published": Source(
        neurons.Izhikevich, IZ, izhikevich("published"), of_izhikevich, (15, 10)
    ),
    "Izhikevich, semi-implicit": Source(
        spiking("semi-implicit"),
        IZ,
        izhikevich("semi-implicit"),
        of_izhikevich,
        (15, 10),
    ),
    "Izhikevich, euler": Source(spiking("euler"), IZ, izhikevich("euler"), of_izhikevich, (15, 10)),
    "CLIF": Source(neurons.CLIF, {"decay": 0.5, "threshold": 1.0}, clif, zeros(2), (0.6, 0.8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_cells_fire_and_learn_as_the_code_of_their_papers(x64, name):
    source = CELLS[name]
    currents = RNG.normal(*source.currents, (4 * STEPS, SIZE))
    weights = RNG.normal(size=currents.shape)
    parameters = {
        key: value * RNG.uniform(0.98, 1.0, SIZE) for key, value in source.parameters.items()
    }
    if name == "adLIF":
        parameters["threshold"] = np.ones(SIZE)  # the source subtracts 1

    def ours(p, x):
        spikes = unroll(source.cell(**p, surrogate=fire), x)[1]
        return (weights * spikes).sum(), spikes

    def theirs(p, x):
        spikes = jax.lax.scan(lambda state, x: source.step(p, state, x), source.start(p), x)[1]
        return (weights * spikes).sum(), spikes

    run = jax.jit(
        lambda *args: [jax.grad(each, (0, 1), has_aux=True)(*args) for each in (ours, theirs)]
    )
    (got, spikes), (wanted, expected) = run(parameters, currents)
    np.testing.assert_array_equal(spikes, expected)
    assert 0.005 < expected.mean() < 0.6
    if name == "adLIF":
        for gradients in (got, wanted):
            gradients[0].pop("threshold")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.isfinite(b).all()
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * np.abs(b).max())


# Those that test_testing.py checks, and MPBN, whose examples see each other.
OTHERS = {"LIF", "AdaptiveLIF", "SynapticLIF", "MultiSynapticLIF", "LeakyReadout", "Relu"}
OTHERS |= {"Cell", "Refractory", "MPBN"}
OF_PAPERS = [
    name
    for name in neurons.__all__
    if hasattr(getattr(neurons, name), "integrate") and name not in OTHERS
]
DRIVES = {  # sizes of currents at which a cell fires, if 1 is too small
    "AdLIF": 15.0,
    "SymplecticAdLIF": 30.0,
    "EulerAdLIF": 30.0,
    "RF": 80.0,
    "BRF": 200.0,
    "HRF": 300.0,
    "QIF": 1.5,
    "EIF": 1.5,
    "AdEx": 3.0,
    "Izhikevich": 30.0,
}


@pytest.mark.parametrize("name", few([*OF_PAPERS, "baseline"], ci=("AdLIF", "BRF", "AdEx")))
def test_cells_of_papers_have_the_properties_of_cells(name):
    frequency = {"BRF": (20.0,), "HRF": (20.0,)}.get(name, ())
    is_baseline = name == "baseline"
    cell = (
        AdaptiveLIF(0.9, 0.5, reset="baseline")
        if is_baseline
        else getattr(neurons, name)(*frequency)
    )
    assert check_cell(cell, drive=DRIVES.get(name, 1.0), steps=40).passed


def radius(cell, size=2):
    """The largest factor by which one step multiplies a small state, without input and spikes."""
    v = cell.initial_state((1,), jnp.result_type(float))

    def step(flat):
        state = tuple(flat[i : i + 1] for i in range(size))
        after = cell.fire(cell.integrate((*state, *v[size:]), jnp.zeros(1)))[0]
        return jnp.concatenate(after[:size])

    return np.abs(np.linalg.eigvals(jax.jit(jax.jacobian(step))(jnp.zeros(size)))).max()


def quiet(cls):
    """The cell with a threshold that is out of reach, so that the slope is 0."""
    return lambda **p: cls(**p, threshold=1e9)


SLOW = {"decay": 0.9, "adaptation_decay": 0.98}
FAST = {"decay": np.exp(-1 / 5), "adaptation_decay": np.exp(-1 / 60), "q": 1.0}
BOUNDS = {
    "AdLIF, low": (quiet(neurons.AdLIF), SLOW, "a", -0.02, -1),
    "AdLIF, high": (quiet(neurons.AdLIF), SLOW, "a", 1.9 * 1.98 / 0.1, 1),
    "SE-adLIF, low": (quiet(neurons.SymplecticAdLIF), SLOW | {"q": 1.0}, "a", -1, -1),
    "SE-adLIF, high": (quiet(neurons.SymplecticAdLIF), FAST, "a", 1204.0, 1),
    "EF-adLIF, high": (quiet(neurons.EulerAdLIF), FAST, "a", 65.02, 1),
    "RF": (quiet(neurons.RF), {"omega": 50.0}, "b", (np.sqrt(0.75) - 1) / 0.01, 1),
    "HRF": (quiet(neurons.HRF), {"omega": 100.0}, "b", 25.0, 1),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_stability_are_where_the_linear_part_begins_to_grow(x64, name):
    make, others, parameter, bound, outwards = BOUNDS[name]
    margin = 2e-3 * abs(bound) * outwards
    assert radius(make(**others, **{parameter: bound - margin})) < 1
    assert (
        radius(make(**others, **{parameter: jnp.asarray(bound + margin)})) > 1
    )  # an array is not checked
    with pytest.raises(ValueError, match=f"{parameter}.* to be stable, got .*{parameter}="):
        make(**others, **{parameter: bound + margin})


def test_a_balanced_neuron_on_the_boundary_neither_grows_nor_decays(x64):
    for omega in (5.0, 50.0, 99.0):
        assert radius(neurons.BRF(omega, b=0.0, threshold=1e9), 2) == pytest.approx(1, abs=1e-12)
    assert radius(neurons.TCLIF(threshold=1e9)) == pytest.approx(1, abs=1e-12)
    for a in (0.1, 0.9):  # the damping of the symplectic method does not depend on the coupling
        assert radius(neurons.SymplecticAdLIF(0.9, 0.99, a, threshold=1e9)) == pytest.approx(
            np.sqrt(0.9 * 0.99), rel=1e-9
        )


@pytest.mark.parametrize("cls", [neurons.RF, neurons.BRF, neurons.HRF])
def test_oscillations_do_not_depend_on_the_unit_of_time(x64, cls):
    """A unit four times as long, in which a step is a quarter, and frequencies, damping and
    currents are four times.
    """
    # Numbers of its own, so that no potential is near 0 by chance.
    currents = jnp.asarray(np.random.default_rng(1).normal(0, 10, (40, SIZE)))
    damping = -2.5 if cls is neurons.RF else 1.0

    def potentials(factor):
        cell = cls(20.0 * factor, b=damping * factor, dt=0.01 / factor, threshold=1e9)
        return unroll(cell, factor * currents)[0][0]

    expected = potentials(1)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(potentials(4), expected, rtol=1e-11)


@pytest.mark.slow
def test_gradients_are_finite_at_the_highest_frequency_of_a_balanced_neuron(x64):
    """The boundary counts as constant there. Without spikes a loop and its central differences are
    exact enough.
    """
    currents = RNG.normal(size=(12, 3))
    highest = 100.0

    def loop(omega):
        u = v = np.zeros(3)
        boundary = np.sqrt(1 - (0.01 * np.minimum(omega, highest)) ** 2)
        boundary[2] = 0.0
        b = (boundary - 1) / 0.01 - 1.0
        for x in currents:
            u, v = u + 0.01 * (b * u - omega * v + x), v + 0.01 * (omega * u + b * v)
        return u

    def potential(omega):
        return unroll(neurons.BRF(omega, threshold=1e9), jnp.asarray(currents))[0][0]

    omega = np.array([15.0, 60.0, highest])
    np.testing.assert_allclose(potential(jnp.asarray(omega)), loop(omega), rtol=1e-12)
    slopes = (loop(omega + 1e-4) - loop(omega - 1e-4)) / 2e-4
    gradient = jax.grad(lambda omega: potential(omega).sum())(jnp.asarray(omega))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6)


def of(cell, surrogate):
    return lambda: cell(surrogate=surrogate(Sigmoid()))


REFUSED = {
    "ValueError: BRF: omega must be at most 1 / dt, got omega=101.0, dt=0.01": lambda: neurons.BRF(
        101.0
    ),
    "ValueError: RF: omega must be at most 1 / dt": lambda: neurons.RF(np.array([10.0, 101.0])),
    "ValueError: QIF: a reset to a value, which takes one spike a step": of(
        neurons.QIF, lambda s: multi_spike(s, 2)
    ),
    "ValueError: CLIF: a reset that spikes increase": of(neurons.CLIF, signed),
    "ValueError: BRF: a threshold that spikes raise, does not go with signed": of(
        neurons.BRF, signed
    ),
    "ValueError: HRF: a threshold that spikes raise, does not go with signed": of(
        neurons.HRF, signed
    ),
    "ValueError: one of 'subtract', 'value', 'none', 'baseline'": lambda: AdaptiveLIF(reset="base"),
    "ValueError: one of 'subtract', 'value', 'none'": lambda: neurons.SynapticAdaptiveLIF(
        reset="base"
    ),
    "TypeError: AdEx: v must be a tuple (potential, adaptation, synaptic current), as": (
        lambda: neurons.AdEx()((jnp.zeros(3), jnp.zeros(3)), jnp.zeros(3))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_cells_of_papers_reject_invalid_parameters(message):
    assert_raises(REFUSED[message], message)
