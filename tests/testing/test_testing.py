"""The checks of spikegrad.testing: each property is broken on purpose, and right classes pass."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, few
from reference import CASES, DEFAULTS, RULE

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    LeakyReadout,
    Network,
    Sigmoid,
    Surrogate,
    SynapticLIF,
    learnable,
    parameter,
    signed,
    soft,
    stochastic,
)
from spikegrad.neurons import MultiSynapticLIF, Refractory
from spikegrad.testing import CheckFailedError, check_cell, check_surrogate


@pytest.mark.parametrize("case", few(CASES, *(case for case in DEFAULTS if case.name in RULE)), ids=repr)
def test_the_surrogates_of_the_library(case):
    """Every law of every surrogate; their values are compared with formulas elsewhere."""
    with np.errstate(under="raise"):
        assert check_surrogate(case.make()).passed


class Logistic(Surrogate):
    """As a user would write it."""

    alpha: float = parameter(default=4.0, above=0)

    def surrogate_fun(self, x):
        return jax.nn.sigmoid(self.alpha * x)

    def surrogate_grad(self, x):
        y = jax.nn.sigmoid(-self.alpha * abs(x))
        return self.alpha * y * (1 - y)


class Cauchy(Surrogate):
    """As in the documentation."""

    gamma: float = parameter(default=1.0, above=0)

    def surrogate_grad(self, x):
        return 1 / (1 + (x / self.gamma) ** 2)


class Tanh(Surrogate):
    """As in the documentation."""

    def surrogate_fun(self, x):
        return (1 + jnp.tanh(x)) / 2


class Window(Surrogate):
    """A slope with two jumps."""

    def __init__(self, width=1.0):
        super().__init__()
        self.width = width

    def surrogate_grad(self, x):
        return jnp.where(abs(x) < self.width / 2, 1 / self.width, 0.0)


@pytest.mark.parametrize("surrogate", [Cauchy(2.0), Tanh(), Window()], ids=repr)
def test_surrogates_of_the_documentation_pass(surrogate):
    assert check_surrogate(surrogate).passed


def test_custom_surrogates_pass():
    report = check_surrogate(Logistic(jnp.array([2.0, 4.0])))
    assert report.passed
    assert "its parameters are arrays" in str(report)


@pytest.mark.every
def test_other_spike_types_and_scales_pass():
    assert check_surrogate(learnable(signed(Logistic()))).passed
    assert check_surrogate(soft(Logistic())).passed
    assert check_surrogate(Logistic(0.01), scale=400.0).passed


# --- broken surrogates -----------------------------------------------------------------------------------------------


def calling(fire):
    """A surrogate with another ``__call__``."""
    return type("Calling", (Logistic,), {"__call__": lambda self, x: fire(self, jnp.asarray(x))})()


def with_slope(step, slope):
    """What JAX users write: the step, and a derivative given by hand."""

    def fire(self, x):
        f = jax.custom_jvp(step)
        f.defjvp(lambda primals, tangents: (step(*primals), tangents[0] * slope(self, *primals)))
        return f(x)

    return fire


def as_step(x):
    return jnp.where(jnp.isnan(x), x, (x >= 0).astype(x.dtype))


def mixed(slope):
    """The slope, whose own derivative is twice as large in forward mode as in reverse mode."""
    f = jax.custom_jvp(slope)

    def rule(primals, tangents):
        bend = jax.jvp(slope, primals, (jnp.ones_like(primals[0]),))[1]
        one_way, back = (lambda bend, t: 2 * bend * t), (lambda bend, t: bend * t)
        return slope(*primals), jax.custom_derivatives.linear_call(one_way, back, bend, tangents[0])

    f.defjvp(rule)
    return f


def reverse_only(self, x):
    f = jax.custom_vjp(as_step)
    f.defvjp(lambda x: (as_step(x), x), lambda x, ct: (ct * self.surrogate_grad(x),))
    return f(x)


class Changed(Logistic):
    """A right one, of which subclasses break one method."""


class Steep(Changed):
    def surrogate_grad(self, x):
        return 2 * super().surrogate_grad(x)


class Jump(Changed):
    def surrogate_fun(self, x):
        return super().surrogate_fun(x) + jnp.where(x > 1, 0.25, 0)


class Overflow(Changed):
    def surrogate_grad(self, x):
        e = jnp.exp(-self.alpha * x)
        return self.alpha * e / (1 + e) ** 2


class Cancels(Changed):
    def surrogate_grad(self, x):
        return super().surrogate_grad(x) * (1 + 0.1 * jnp.sin(1e6 * x))  # a phase that float32 does not know


class Fixed(Changed):
    """Right at the default of its parameter alone. The second parameter changes nothing."""

    beta: float = parameter(default=1.0)

    def surrogate_grad(self, x):
        return Logistic(4.0).surrogate_grad(x)


class Stopped(Changed):
    def surrogate_grad(self, x):
        return jax.lax.stop_gradient(super().surrogate_grad(x))


class Staircase(Surrogate):
    def surrogate_grad(self, x):
        return jnp.round(16 / (1 + x * x)) / 16


class Detached(Changed):
    def surrogate_fun(self, x):
        return jax.nn.sigmoid(jax.lax.stop_gradient(self.alpha) * x)


class Counting(Surrogate):
    def __init__(self):
        self.calls = 0

    def surrogate_grad(self, x):
        self.calls += 1
        return self.calls / (1 + x * x)


class Unequal(Changed):
    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


class Unpicklable(Changed):
    def __reduce__(self):
        raise TypeError("not today")


class Raises(Changed):
    def surrogate_grad(self, x):
        raise RuntimeError("out of order")


def half(self, x):
    return jnp.where(x == 0, 0.5, Logistic.__call__(self, x)).astype(x.dtype)


by_shape = calling(lambda self, x: x * 0 + (0.5 if x.ndim == 0 else 1))
single = calling(lambda self, x: Logistic.__call__(self, x.astype("float32")))
BROKEN = {
    "shapes and dtypes are preserved": [
        Raises(),
        calling(lambda self, x: Logistic.__call__(self, x.astype("float32"))),
    ],
    "the spike is the step": [calling(half)],
    "the derivative is the slope": [calling(with_slope(as_step, lambda self, x: 2 * self.surrogate_grad(x)))],
    "the derivative in forward mode is the slope": [calling(reverse_only)],
    "the second derivative is the derivative of the slope": [
        calling(with_slope(as_step, lambda self, x: jax.lax.stop_gradient(self.surrogate_grad(x)))),
        calling(with_slope(as_step, lambda self, x: mixed(self.surrogate_grad)(x))),
        # the value of the step comes from outside of the rule, so that its own derivative is lost
        calling(with_slope(as_step, lambda self, x: self.surrogate_grad(x))),
    ],
    "the slope rises by the integral of its derivative": [Stopped(), Staircase()],
    "the slope is the derivative of the primal": [Steep()],
    "the slope is the derivative of the primal for other parameters": [Fixed()],
    "the primal is continuous": [Jump()],
    "every parameter has a gradient": [Fixed(), Detached()],
    "NaN stays NaN": [calling(with_slope(lambda x: (x >= 0).astype(x.dtype), lambda self, x: self.surrogate_grad(x)))],
    "all is finite at zero, the largest numbers and infinity": [Overflow()],
    "in float32 the slope equals float64": [Cancels()],
    "jit and vmap change nothing": [by_shape, Counting()],
    "a copy has an equal value and hash": [Unequal(), Unpicklable()],
}


@functools.cache
def report_of(subject, **options):
    check = check_cell if isinstance(subject, Cell) else check_surrogate
    return check(subject, **options, raises=False)


def broken_properties(subject, **options):
    return {result.property: result.error for result in report_of(subject, **options).results if not result.passed}


@pytest.mark.parametrize("law", few(BROKEN, *list(BROKEN)[::2]))
def test_a_broken_property_is_reported(law):
    for surrogate in BROKEN[law]:
        assert law in broken_properties(surrogate), report_of(surrogate)


def test_every_property_is_broken_by_something():
    assert [result.property for result in report_of(BROKEN["the primal is continuous"][0]).results] == [*BROKEN]


class Careless(Surrogate):
    """Several mistakes at once: a primal that is off by a percent, a NaN that fires, a wrong mixed derivative."""

    def surrogate_fun(self, x):
        return 1.01 * Logistic().surrogate_fun(x)

    def surrogate_grad(self, x):
        return Logistic().surrogate_grad(x)

    def __call__(self, x):
        step = lambda x: (x >= 0).astype(x.dtype)  # noqa: E731
        return with_slope(step, lambda self, x: mixed(self.surrogate_grad)(x))(self, jnp.asarray(x))


def test_each_of_several_mistakes_breaks_its_own_property():
    broken = broken_properties(Careless())
    assert 1e-6 < broken.pop("the primal is continuous") < 0.01
    assert broken.pop("the second derivative is the derivative of the slope") > 0.1
    assert broken == {
        "the slope is the derivative of the primal": pytest.approx(0.01, rel=1e-3),
        "the slope is the derivative of the primal for other parameters": pytest.approx(0.01, rel=1e-3),
        "NaN stays NaN": np.inf,
    }


@pytest.mark.parametrize("error", [0.5, -0.5])
def test_error_is_the_largest_difference(error):
    """A bump in the slope, whose height is a part of the peak, either up or down."""

    class Bump(Tanh):
        def surrogate_grad(self, x):
            slope = (1 - jnp.tanh(x) ** 2) / 2
            return slope + jnp.where(abs(x - 1) < 0.1, error * 0.5, 0)

    law = "the slope is the derivative of the primal"
    result = next(result for result in report_of(Bump()).results if result.property == law)
    assert result.error == pytest.approx(0.5, rel=1e-5)
    assert abs(float(result.at.removeprefix("x = ")) - 1) < 0.1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_wrong_numbers_have_an_infinite_error(wrong):
    class Wrong(Tanh):
        def surrogate_grad(self, x):
            return jnp.where(x > 2, wrong, super().surrogate_grad(x))

    broken = broken_properties(Wrong())
    assert broken["the slope is the derivative of the primal"] == np.inf


def test_error_names_the_first_broken_property():
    with pytest.raises(
        CheckFailedError, match=r"Jump\(alpha=4.0\): the primal is continuous: error 0.2.* at x = 0.99"
    ) as error:
        check_surrogate(Jump())
    assert "BROKEN  the primal is continuous" in str(error.value)
    assert not error.value.report.passed
    assert str(copy.copy(error.value)) == str(error.value)  # as a pool of processes does
    assert "RuntimeError: out of order" in str(report_of(Raises()))
    assert "Counting has a custom __init__" in str(report_of(BROKEN["jit and vmap change nothing"][1]))
    with pytest.raises(TypeError, match="check_surrogate: surrogate must be a Surrogate, got <class"):
        check_surrogate(Sigmoid)
    for check, noisy in ((check_surrogate, stochastic(Sigmoid())), (check_cell, LIF(surrogate=stochastic(Sigmoid())))):
        with pytest.raises(
            TypeError, match=r"stochastic\(Sigmoid.* must not be stochastic, because the check is exact"
        ):
            check(noisy)
    with pytest.raises(TypeError, match="check_cell: cell must be a Cell, got 3"):
        check_cell(3)


# --- cells -----------------------------------------------------------------------------------------------------------

CELLS = {
    "LIF": LIF(jnp.array([0.5, 0.6, 0.7, 0.8, 0.9])),
    "AdaptiveLIF": AdaptiveLIF(0.9, threshold=0.5),
    "SynapticLIF": SynapticLIF(),
    "LeakyReadout": LeakyReadout(),
    "Refractory": Refractory(LIF(0.9), 2),
    "delayed": LIF(0.9, reset="value", delay_reset=True),
}


@pytest.mark.parametrize("name", few(CELLS))  # an LIF is in the docstring
def test_the_cells_of_the_library(name):
    assert check_cell(CELLS[name], steps=6).passed


class Receptors(Cell):
    """Sums over several receptors, with a flag that Python code reads."""

    training: bool = parameter(default=False, kind=bool)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape[:-1], dtype)

    def integrate(self, v, current):
        return 0.9 * v + (0.0 if self.training else current.sum(-1))

    def fire(self, u):
        s = Sigmoid()(u - 1)
        return u - s, s


class Quadratic(Cell):
    """Its potentials run away from each other, above a point of no return."""

    dt: float = parameter(default=0.2)
    gain: float = parameter(default=1.0)

    def initial_state(self, shape, dtype):
        return jnp.full(shape, -1.0, dtype)

    def integrate(self, v, current):
        return v + self.dt * self.gain * (v * v + 3 * current)

    def fire(self, u):
        s = Sigmoid(0.5)(u - 10)
        return u * (1 - s) - s, s

    def encode(self, u):
        return u - 10, ()

    def decode(self, distance, rest):
        return distance + 10


class Counting(Cell):
    """A counter comes first, and one number is shared by all examples."""

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, dtype), 0

    def integrate(self, v, current):
        left, v, steps = v
        return left, 0.9 * v + jnp.where(left > 0, 0, current), steps + 1

    def fire(self, u):
        left, u, steps = u
        s = Sigmoid()(u - 1)
        return (jnp.where(s > 0, 2, jnp.maximum(left - 1, 0)), u - s, steps), s


RIGHT_CELLS = {
    "multisynaptic": (MultiSynapticLIF(synaptic_decay=jnp.array([0.5, 0.8])), {"features": (5, 2)}),
    "several receptors": (Receptors(), {"features": (5, 2), "steps": 60}),  # a loop in Python would not end
    "quadratic": (Quadratic(), {}),
    "quadratic over many steps": (Quadratic(), {"steps": 60}),
    "chaotic": (Quadratic(gain=4.0), {"steps": 40}),
    "counter first": (Counting(), {}),
}


@pytest.mark.every
@pytest.mark.parametrize(
    ("cell", "note"),
    [(LIF(threshold=-1.0), "it fires at rest"), (Quadratic(), "Quadratic declares no linear_response")],
)
def test_a_linear_response_that_cannot_be_compared(cell, note):
    results = {result.property: result for result in report_of(cell, steps=4).results}
    response = results["without spikes the potential is the declared linear response"]
    assert (response.error, response.note) == (None, note)


@pytest.mark.parametrize("name", few(RIGHT_CELLS, "several receptors"))
def test_right_cells_of_users_pass(name):
    cell, options = RIGHT_CELLS[name]
    assert check_cell(cell, **options).passed


@pytest.mark.every
def test_a_cell_of_another_shape_and_unit():
    cell = LIF(jnp.full((2, 3), 0.9), threshold=50.0)
    assert check_cell(cell, features=(2, 3), drive=50.0, steps=4).passed
    with pytest.raises(CheckFailedError, match="it fires and is silent"):
        check_cell(cell, features=(2, 3), steps=4)


class Mixing(LIF):
    def integrate(self, v, current):
        return super().integrate(v, current + 1e-3 * current.mean())


class Narrow(LIF):
    def fire(self, u):
        v, s = super().fire(u)
        return v, s.astype("float32")


class Rooted(LIF):
    def integrate(self, v, current):
        return super().integrate(v, jnp.sqrt(jnp.maximum(current, 0)))


class Forgetful(LIF):
    def decode(self, distance, rest):
        return distance + 1.01 * self.threshold


class Quarter(LIF):
    """What it keeps fires alike, at another slope."""

    def encode(self, u):
        return (u - self.threshold) / 4, ()


class WinnerTakesAll(LIF):
    """Neurons see each other in ``fire``."""

    def fire(self, u):
        v, s = super().fire(u)
        return v, s * (u == u.max(-1, keepdims=True)).astype(s.dtype)


class Shifted(LIF):
    """Its threshold is elsewhere when it encodes; ``decode`` is the inverse."""

    def encode(self, u):
        return u - self.threshold + 1e-3, ()

    def decode(self, distance, rest):
        return distance + self.threshold - 1e-3


class Early(LIF):
    """It fires before the distance is 0."""

    def decode(self, distance, rest):
        return super().decode(distance, rest) + 1e-3


class Coarse(LIF):
    """Its spikes depend on a sum that loses the potential in 16 bits."""

    def encode(self, u):
        return u - self.threshold, u + 1000

    def decode(self, distance, rest):
        return jnp.where(abs(distance) < 1e-6, distance + self.threshold, rest - 1000)


class Misnamed(SynapticLIF):
    state_names = "potential", "current", "trace"

    def initial_state(self, shape, dtype):
        return (jnp.zeros(shape, dtype),) * 2


class Approximate(LIF):
    def encode(self, u):
        return u - self.threshold + 1e-3, ()


class Restless(Cell):
    """Not what it was a call before."""

    def __init__(self):
        self.count = 0

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        self.count += 1
        return v / 2 + current + self.count / 100

    def fire(self, u):
        s = Sigmoid()(u - 1)
        return u - s, s


class Silent(LIF):
    def integrate(self, v, current):
        return 0.0 * super().integrate(v, current)


class OneWay(LIF):
    def integrate(self, v, current):
        f = jax.custom_vjp(lambda v, current: 0.9 * v + current)
        f.defvjp(lambda v, current: (f(v, current), None), lambda _, ct: (0.9 * ct, ct))
        return f(v, current)


class Misdeclared(SynapticLIF):
    def linear_response(self):
        return super().linear_response()._replace(gain=1.01)


BROKEN_CELLS = {
    "shapes and dtypes are preserved": [Narrow(), Misnamed()],
    "it fires and is silent": [Silent()],
    "a step is integrate, then fire": [restless := Restless()],
    "jit and vmap change nothing": [restless],
    "examples do not see each other": [Mixing()],
    "fire is elementwise: neurons do not see each other": [WinnerTakesAll()],
    "without spikes the potential is the declared linear response": [Misdeclared()],
    "decode is the inverse of encode": [Approximate(), Forgetful()],
    "the sign of the distance is the spike": [Shifted(), Early(), Coarse()],
    "gradients are finite": [Rooted()],
    "forward mode is reverse mode": [OneWay()],
    "in mode 'half' a network equals mode 'scan'": [quarter := Quarter()],
    "in mode '8-bit' a network equals mode 'scan'": [quarter],
}


@pytest.mark.parametrize("law", few(BROKEN_CELLS, "decode is the inverse of encode", "gradients are finite"))
def test_a_broken_property_of_cells_is_reported(law):
    for cell in BROKEN_CELLS[law]:
        assert law in broken_properties(cell, steps=4), report_of(cell, steps=4)


def test_every_property_of_cells_is_broken_by_something():
    exact = {f"in mode {mode!r} a network equals mode 'scan'" for mode in ("exact", "recompute")}
    laws = {result.property for result in report_of(quarter, steps=4).results}
    assert laws == {*BROKEN_CELLS, *exact, "a copy has an equal value and hash"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v, s: (v.astype("float32"), s), r"in float16 the state float16 \[2, 5\] becomes float32 \[2, 5\]"),
        (lambda v, s: (v.sum(-1), s), r"in float16 the state float16 \[2, 5\] becomes float16 \[2\]"),
        (lambda v, s: ((v, v), s), "becomes"),
        (lambda v, s: (v, s.astype("float32")), r"in float16 the output is float32 \[2, 5\]"),
        (lambda v, s: (v, s[:, :2]), r"in float16 the output is float16 \[2, 2\]"),
        (lambda v, s: (v, s > 0), r"in float16 the output is bool \[2, 5\]"),
    ],
)
def test_cell_that_changes_a_type_is_found(change, said):
    cell = type("Changing", (LIF,), {"fire": lambda self, u: change(*LIF.fire(self, u))})()
    with pytest.raises(CheckFailedError, match=f"shapes and dtypes are preserved: error inf.*{said}"):
        check_cell(cell)


def test_each_mode_is_compared_with_a_loop(monkeypatch):
    """Outputs of one mode, and gradients of the others, that are wrong by a little more than their limit."""
    exact, call = 1.1e-9, Network.__call__
    gradients = {mode: 1.1 * error for mode, error in GRADIENT_ERRORS.items()} | {"exact": -2.0}

    def wrong_call(self, x, mode):
        state, outs = call(self, x, backward="scan")
        if mode == "recompute":
            return state, (1 + exact) * outs
        return state, outs + gradients.get(mode, 0.0) * (outs - jax.lax.stop_gradient(outs))

    monkeypatch.setattr(Network, "__call__", wrong_call)
    results = check_cell(LIF(), steps=4, raises=False).results
    errors = {result.property.split("'")[1]: result.error for result in results if "in mode" in result.property}
    expected = {mode: abs(error) for mode, error in gradients.items()} | {"recompute": exact}
    assert errors == pytest.approx(expected, rel=1e-3)
    assert {*errors} == {*MODES} - {"scan"}


def test_receptors_without_an_axis_of_features_are_told_of_it():
    cell = MultiSynapticLIF(synaptic_decay=jnp.array([0.5, 0.8]))
    with pytest.raises(CheckFailedError, match=r"for a cell of several receptors, pass features=\(5, receptors\)"):
        check_cell(cell)
