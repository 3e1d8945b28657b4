"""The checks of spikegrad.testing: each law is broken on purpose, and what is right passes."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, enable_x64, few
from reference import CASES, DEFAULTS, RULE

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    LeakyReadout,
    Network,
    Refractory,
    Sigmoid,
    Surrogate,
    SynapticLIF,
    learnable,
    parameter,
    signed,
    soft,
    stochastic,
    testing,
)
from spikegrad.neurons import MultiSynapticLIF
from spikegrad.testing import CheckFailedError, check_cell, check_surrogate
from spikegrad.testing._report import compare


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
    assert "the repr evaluates to an equal object" in str(report)
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


class Shy(Changed):
    def __repr__(self):
        return "a curve"


class Raises(Changed):
    def surrogate_grad(self, x):
        raise RuntimeError("out of order")


def half(self, x):
    return jnp.where(x == 0, 0.5, Logistic.__call__(self, x)).astype(x.dtype)


by_shape = calling(lambda self, x: x * 0 + (0.5 if x.ndim == 0 else 1))
counting = Counting()
BROKEN = {
    "the spike is the step": calling(half),
    "the derivative is the slope": calling(with_slope(as_step, lambda self, x: 2 * self.surrogate_grad(x))),
    "forward mode is reverse mode": calling(reverse_only),
    "the second derivative (reverse) is the derivative of the slope": calling(
        with_slope(as_step, lambda self, x: jax.lax.stop_gradient(self.surrogate_grad(x)))
    ),
    "the second derivative (mixed) is the derivative of the slope": calling(
        with_slope(as_step, lambda self, x: mixed(self.surrogate_grad)(x))
    ),
    # the value of the step comes from outside of the rule, so that its own derivative is lost
    "the square has its second derivative": calling(with_slope(as_step, lambda self, x: self.surrogate_grad(x))),
    "the slope is the derivative of the primal": Steep(),
    "the slope is the derivative of the primal for other parameters": (fixed := Fixed()),
    "the derivative of the slope equals finite differences": Stopped(),
    "the slope is not a staircase": Staircase(),
    "the primal is continuous": Jump(),
    "NaN stays NaN": calling(with_slope(lambda x: (x >= 0).astype(x.dtype), lambda self, x: self.surrogate_grad(x))),
    "all is finite at zero, the largest numbers and infinity": Overflow(),
    "in float32 the slope equals float64": Cancels(),
    "in float16 the slope equals rounded float64": Cancels(),
    "shapes and dtypes are preserved": calling(lambda self, x: Logistic.__call__(self, x.astype("float32"))),
    "every parameter matters": fixed,
    "learnable parameters get the derivative of the primal": Detached(),
    "vmap changes nothing": by_shape,
    "scan changes nothing": by_shape,
    "jit changes nothing": counting,
    "checkpoint changes nothing": counting,
    "a copy has an equal value and hash": Unequal(),
    "a pickle preserves values": Unpicklable(),
    "the repr evaluates to an equal object": Shy(),
    "the slope can be differentiated": Raises(),
}


PLAIN = (
    "the spike is the step",
    "forward mode is reverse mode",
    "the second derivative (reverse) is the derivative of the slope",
    "the slope is the derivative of the primal for other parameters",
    "the slope is not a staircase",
    "all is finite at zero, the largest numbers and infinity",
    "in float32 the slope equals float64",
    "in float16 the slope equals rounded float64",
    "every parameter matters",
    "vmap changes nothing",
    "scan changes nothing",
    "jit changes nothing",
    "checkpoint changes nothing",
    "a copy has an equal value and hash",
    "the slope can be differentiated",
)


@functools.cache
def report_of(surrogate):
    return check_surrogate(surrogate, raises=False)


@pytest.mark.parametrize("law", few(BROKEN, *PLAIN))
def test_a_broken_law_is_found(law):
    findings = {finding.property: finding for finding in report_of(BROKEN[law]).results}
    assert not findings[law].passed, report_of(BROKEN[law])


def test_every_law_is_broken_by_something():
    laws = {finding.property for finding in report_of(Jump()).results} | {"the slope can be differentiated"}
    assert laws == set(BROKEN) | {"in bfloat16 the slope equals rounded float64"}


class Careless(Surrogate):
    """Several mistakes at once: a primal that is off by a percent, a NaN that fires, a wrong mixed derivative."""

    def surrogate_fun(self, x):
        return 1.01 * Logistic().surrogate_fun(x)

    def surrogate_grad(self, x):
        return Logistic().surrogate_grad(x)

    def __call__(self, x):
        step = lambda x: (x >= 0).astype(x.dtype)  # noqa: E731
        return with_slope(step, lambda self, x: mixed(self.surrogate_grad)(x))(self, jnp.asarray(x))


def test_each_of_several_mistakes_breaks_its_own_law():
    report = check_surrogate(Careless(), raises=False)
    broken = {finding.property: finding.error for finding in report.results if not finding.passed}
    by_a_percent, square = broken.pop("the primal is continuous"), broken.pop("the square has its second derivative")
    assert 1e-6 < by_a_percent < 0.01
    assert square > 0.1
    assert broken == {
        "the slope is the derivative of the primal": pytest.approx(0.01, rel=1e-3),
        "the second derivative (mixed) is the derivative of the slope": pytest.approx(1.0),
        "NaN stays NaN": np.inf,
    }, report


def test_error_is_the_largest_difference_in_units_of_the_scale():
    x = np.array([-1.0, 0.5, 2.0])
    for by in (-0.25, 0.25):
        for n in range(3):
            found = compare("law", x + by * (np.arange(3) == n), x, 0.1, x, np.array([1.0, 2.0, 4.0]))
            assert (found.error, found.at, found.passed) == (0.25 / 2**n, f"x = {x[n]:g}", n == 2)
    for wrong in (np.nan, np.inf, -np.inf):
        spoilt = np.where(x > 1, wrong, x)
        assert compare("law", spoilt, x, 1e9).error == compare("law", x, spoilt, 1e9).error == np.inf
        assert compare("law", spoilt, spoilt, 0.0).error == 0
    assert compare("law", x[:2], x, 1e9).error == compare("law", ValueError("no"), x, 1e9).error == np.inf


def test_error_names_the_first_broken_property():
    with pytest.raises(
        CheckFailedError, match=r"Jump\(alpha=4.0\): the primal is continuous: error 0.2.* at x = 1"
    ) as error:
        check_surrogate(Jump())
    assert "BROKEN  the primal is continuous" in str(error.value)
    assert not error.value.report.passed
    assert str(copy.copy(error.value)) == str(error.value)  # as a pool of processes does
    assert "RuntimeError: out of order" in str(report_of(Raises()))
    assert "Counting has a custom __init__" in str(report_of(BROKEN["jit changes nothing"]))
    assert "note" in report_of(Jump()).results[0]._fields
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
    assert check_cell(CELLS[name]).passed


class Receptors(Cell):
    """Sums over several receptors."""

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape[:-1], dtype)

    def integrate(self, v, current):
        return 0.9 * v + current.sum(-1)

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


@pytest.mark.parametrize(
    ("cell", "note"),
    [(LIF(threshold=-1.0), "it fires at rest"), (Receptors(), "Receptors declares no linear_response")],
)
def test_a_linear_response_that_cannot_be_compared(cell, note):
    features = (5, 2) if isinstance(cell, Receptors) else 5
    found = {finding.property: finding for finding in check_cell(cell, features=features, raises=False).results}
    response = found["without spikes the potential is the declared linear response"]
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
    "without spikes the potential is the declared linear response": Misdeclared(),
    "vmap changes nothing: examples do not see each other": Mixing(),
    "a NaN stays in its example": Mixing(),
    "shapes and dtypes are preserved": Narrow(),
    "gradients are finite": Rooted(),
    "fire is elementwise: neurons do not see each other": WinnerTakesAll(),
    "the sign of the distance is the spike": Shifted(),
    "decode is the inverse of encode": Approximate(),
    "in mode 'half' spikes do not change": Forgetful(),
    "in mode '8-bit' spikes do not change": Forgetful(),
    "in mode 'half' gradients equal the loop's gradients": (quarter := Quarter()),
    "in mode '8-bit' gradients equal the loop's gradients": quarter,
    "jit changes nothing": (restless := Restless()),
    "scan changes nothing": restless,
    "a step is integrate, then fire": restless,
    "it fires and is silent": Silent(),
    "forward mode is reverse mode": OneWay(),
}


@pytest.mark.every
def test_every_law_of_cells_is_broken_by_something():
    modes = {f"in mode {mode!r} {what} equal the loop's {what}" for mode in MODES for what in ("outputs", "gradients")}
    copies = {
        "a copy has an equal value and hash",
        "the repr evaluates to an equal object",
        "a pickle preserves values",
    }
    laws = {finding.property for finding in report_of_cell(quarter).results}
    assert laws - set(BROKEN_CELLS) <= modes | copies


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


@pytest.mark.parametrize("shift", [-1e-3, 0.0, 1e-3])
def test_distance_begins_at_the_threshold(shift):
    """A cell that decodes to another potential fires too early or too late at each of six neurons."""
    decode = {"decode": lambda self, distance, rest: distance + self.threshold + shift}
    with enable_x64():
        distance = jnp.linspace(-1.0, 1.0, 6)
        assert testing._cells._wrong_signs(type("Off", (LIF,), decode)(), distance, ()) == (6 if shift else 0)


LIMITS = {"exact": 1e-9, "half": 1e-2, "8-bit": 0.1, "recompute": 1e-9, "scan": 1e-9}


def test_network_is_compared_with_the_loop_in_each_mode(monkeypatch):
    """Outputs and gradients that are wrong by a little more than their limits, and a gradient of the wrong sign."""
    exact = 1.1e-9  # all modes have one limit of outputs
    wrong = {mode: 1.1 * limit for mode, limit in LIMITS.items()} | {"scan": -2.0}

    class Wrong(Network):
        def __call__(self, x, mode):
            state, out = super().__call__(x, mode="scan")
            return state, (1 + exact) * out + (wrong[mode] - exact) * (out - jax.lax.stop_gradient(out))

    monkeypatch.setattr(testing._cells, "Network", Wrong)
    currents = np.random.default_rng(0).uniform(-0.5, 1.5, (4, 3, 5))
    with enable_x64(), jax.numpy_rank_promotion("allow"):
        found = list(testing._cells._modes(LIF(), (5,), 1.0, jnp.asarray(currents)))
    assert {finding.property: finding.error for finding in found} == {
        f"in mode {mode!r} {what} equal the loop's {what}": pytest.approx(error, rel=1e-3)
        for mode, gradient in wrong.items()
        for what, error in (("outputs", exact), ("gradients", abs(gradient)))
    }
    assert not any(finding.passed for finding in found)


report_of_cell = functools.cache(functools.partial(check_cell, steps=4, raises=False))


@pytest.mark.parametrize("law", few(BROKEN_CELLS, *list(BROKEN_CELLS)[::3], "decode is the inverse of encode"))
def test_a_broken_law_of_cells_is_found(law, monkeypatch):
    if not law.endswith(("the loop's outputs", "the loop's gradients")):
        monkeypatch.setattr(testing._cells, "_modes", lambda *_: iter(()))  # they take longest
    report = report_of_cell(BROKEN_CELLS[law])
    assert not next(finding for finding in report.results if finding.property == law).passed, report
