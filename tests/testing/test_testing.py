"""The checks of spikegrad.testing: each property is broken on purpose, and right classes pass."""

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
from spikegrad.neurons import MultiSynapticLIF, Refractory, Relu
from spikegrad.testing import (
    CheckFailedError,
    CheckReport,
    CheckResult,
    check_cell,
    check_surrogate,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", few(CASES, *(case for case in DEFAULTS if case.name in RULE)), ids=repr
)
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


@pytest.mark.slow
def test_custom_surrogates_pass():
    assert str(check_surrogate(Logistic(jnp.array([2.0, 4.0])))).startswith("Logistic(")
    assert "Window declares no parameters" in str(check_surrogate(Window()))
    assert check_surrogate(Tanh()).passed


@pytest.mark.slow
def test_other_spike_types_and_scales_pass():
    assert check_surrogate(learnable(signed(Logistic()))).passed
    assert check_surrogate(soft(Logistic())).passed
    assert check_surrogate(Logistic(0.01), scale=400.0).passed


def as_step(x):
    return jnp.where(jnp.isnan(x), x, (x >= 0).astype(x.dtype))


def with_slope(step, slope, x):
    """What JAX users write: the step, and a derivative given by hand."""
    f = jax.custom_jvp(step)
    f.defjvp(lambda primals, tangents: (step(*primals), tangents[0] * slope(*primals)))
    return f(x)


class Raises(Logistic):
    def surrogate_grad(self, x):
        raise RuntimeError("out of order")


class ReverseOnly(Logistic):
    def __call__(self, x):
        f = jax.custom_vjp(as_step)
        f.defvjp(lambda x: (as_step(x), x), lambda x, ct: (ct * self.surrogate_grad(x),))
        return f(jnp.asarray(x))


class Half(Logistic):
    """Half a spike at 0, and a derivative of twice the slope, which is right behind it."""

    def __call__(self, x):
        step = lambda x: jnp.where(x == 0, 0.5, as_step(x)).astype(x.dtype)  # noqa: E731
        return with_slope(step, lambda x: 2 * self.surrogate_grad(x), jnp.asarray(x))


class Stopped(Logistic):
    def __call__(self, x):
        # The value comes from outside of the rule, so its own derivative is lost.
        return with_slope(
            as_step, lambda x: jax.lax.stop_gradient(self.surrogate_grad(x)), jnp.asarray(x)
        )


class Careless(Surrogate):
    """A primal that is off by a percent, a NaN that fires, a wrong second derivative."""

    def surrogate_fun(self, x):
        return 1.01 * Logistic().surrogate_fun(x)

    def surrogate_grad(self, x):
        return Logistic().surrogate_grad(x)

    def __call__(self, x):
        return with_slope(lambda x: (x >= 0).astype(x.dtype), self.surrogate_grad, jnp.asarray(x))


class Sloppy(Logistic):
    """A slope that is right at the default of its parameter alone, a parameter that changes
    nothing, and a jump.
    """

    beta: float = parameter(default=1.0)

    def surrogate_fun(self, x):
        return super().surrogate_fun(x) + jnp.where(x > 1, 0.25, 0)

    def surrogate_grad(self, x):
        return Logistic(4.0).surrogate_grad(x)


class Rough(Surrogate):
    """A slope that overflows, with a phase that float32 does not have."""

    def surrogate_grad(self, x):
        e = jnp.exp(-x)
        return e / (1 + e) ** 2 * (1 + 0.1 * jnp.sin(1e6 * x))


class Hole(Logistic):
    def surrogate_grad(self, x):
        return jnp.where(x == 0, jnp.nan, super().surrogate_grad(x))


class ByShape(Logistic):
    def __call__(self, x):
        return super().__call__(x) * (0.5 if jnp.ndim(x) == 0 else 1)


PRIMAL = {
    "the slope is the derivative of the smooth step",
    "the slope is the derivative of the smooth step for other parameters",
    "the smooth step is continuous",
}
TYPES = {"shapes and dtypes are preserved"}
SECOND = {"the second derivative is the derivative of the slope"}
BROKEN = {
    Raises(): TYPES,
    ReverseOnly(): TYPES,
    Half(): {"the spike is the step", "the derivative is the slope"} | SECOND,
    Stopped(): SECOND,
    Careless(): {"all is finite, and NaN for NaN only"} | SECOND | PRIMAL,
    Sloppy(): {
        "the slope is the derivative of the smooth step for other parameters",
        "the smooth step is continuous",
        "every parameter has a gradient",
    },
    Rough(): {"all is finite, and NaN for NaN only", "in float32 the slope equals float64"}
    | SECOND,
    Hole(): {"all is finite, and NaN for NaN only"} | PRIMAL - {"the smooth step is continuous"},
    ByShape(): {"jit and vmap change nothing"},
}


@functools.cache
def report_of(subject, **options):
    check = check_cell if isinstance(subject, Cell) else check_surrogate
    return check(subject, **options, raises=False)


def broken_properties(subject, **options):
    return {
        result.property: result.error
        for result in report_of(subject, **options).results
        if not result.passed
    }


@pytest.mark.parametrize("surrogate", BROKEN, ids=repr)
def test_broken_properties_are_reported(surrogate):
    assert {*broken_properties(surrogate)} == BROKEN[surrogate], report_of(surrogate)


def test_every_property_is_broken_by_something():
    assert {result.property for result in report_of(Sloppy()).results} == set().union(
        *BROKEN.values()
    )


def test_errors_of_broken_properties_are_the_largest_differences():
    broken = broken_properties(Careless())
    assert 1e-6 < broken["the smooth step is continuous"] < 0.01
    assert broken["the slope is the derivative of the smooth step"] == pytest.approx(0.01, rel=1e-3)
    assert broken["all is finite, and NaN for NaN only"] == np.inf
    assert broken_properties(Half())["the derivative is the slope"] == pytest.approx(1.0)
    [at] = [result.at for result in report_of(Stopped()).results if not result.passed]
    assert float(at.removeprefix("x = ")) == pytest.approx(
        0.384, abs=0.02
    )  # 2 s'^2 + 3 s'' of s' = 1 - tanh(2 x)^2


@pytest.mark.parametrize("wrong", [-0.25, np.nan])
def test_error_and_place_of_a_bump_in_the_slope(wrong):
    class Bump(Tanh):
        def surrogate_grad(self, x):
            slope = (1 - jnp.tanh(x) ** 2) / 2
            return slope + jnp.where(abs(x - 1) < 0.1, wrong, 0)

    law = "the slope is the derivative of the smooth step"
    result = next(result for result in report_of(Bump()).results if result.property == law)
    assert result.error == pytest.approx(np.inf if np.isnan(wrong) else 0.5, rel=1e-5)
    assert abs(float(result.at.removeprefix("x = ")) - 1) < 0.1


def test_report_marks_what_does_not_apply():
    results = (
        CheckResult("one"),
        CheckResult("two", None, note="no smooth step"),
        CheckResult("three", 2.0, 1.0),
    )
    assert str(CheckReport("subject", results)).splitlines() == [
        "subject",
        "ok      one: error 0, limit 0",
        "n/a     two: no smooth step",
        "BROKEN  three: error 2, limit 1",
    ]


def test_error_names_the_first_broken_property():
    with pytest.raises(
        CheckFailedError, match=r"Sloppy\(.*: the slope is .*: error 0.0.* at x = "
    ) as error:
        check_surrogate(Sloppy())
    assert "BROKEN  the smooth step is continuous" in str(error.value)
    assert not error.value.report.passed
    assert "RuntimeError: out of order" in str(report_of(Raises()))
    assert "custom_vjp" in str(report_of(ReverseOnly()))
    with pytest.raises(
        TypeError, match="check_surrogate: surrogate must be a Surrogate, got <class"
    ):
        check_surrogate(Sigmoid)
    for check, noisy in (
        (check_surrogate, stochastic(Sigmoid())),
        (check_cell, LIF(surrogate=stochastic(Sigmoid()))),
    ):
        with pytest.raises(
            TypeError, match=r"stochastic\(Sig.* must not be stochastic, because the check is exact"
        ):
            check(noisy)
    with pytest.raises(TypeError, match="check_cell: cell must be a Cell, got 3"):
        check_cell(3)


CELLS = {
    "LIF": LIF(jnp.array([0.5, 0.6, 0.7, 0.8, 0.9])),
    "AdaptiveLIF": AdaptiveLIF(0.9, threshold=0.5),
    "SynapticLIF": SynapticLIF(),
    "LeakyReadout": LeakyReadout(),
    "Relu": Relu(),
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

    def initial_state(self, shape, dtype):
        return jnp.full(shape, -1.0, dtype)

    def integrate(self, v, current):
        return v + self.dt * (v * v + 3 * current)

    def fire(self, u):
        s = Sigmoid(0.5)(u - 10)
        return u * (1 - s) - s, s

    def encode(self, u):
        return u - 10, ()

    def decode(self, distance, rest):
        return distance + 10


RIGHT_CELLS = {
    "multisynaptic": (MultiSynapticLIF(synaptic_decay=jnp.array([0.5, 0.8])), {"features": (5, 2)}),
    "several receptors": (
        Receptors(),
        {"features": (5, 2), "steps": 60},
    ),  # a loop in Python would not end
    "quadratic": (Quadratic(), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "note"),
    [
        (LIF(threshold=-1.0), "it fires at rest"),
        (Quadratic(), "Quadratic declares no linear_response"),
    ],
)
def test_a_linear_response_that_cannot_be_compared(cell, note):
    results = {result.property: result for result in report_of(cell, steps=4).results}
    response = results["without spikes the potential is the declared linear response"]
    assert (response.error, response.note) == (None, note)


@pytest.mark.slow
@pytest.mark.parametrize("name", few(RIGHT_CELLS, "several receptors"))
def test_right_cells_of_users_pass(name):
    cell, options = RIGHT_CELLS[name]
    assert check_cell(cell, **options).passed


@pytest.mark.slow
def test_a_cell_of_another_shape_and_unit():
    cell = LIF(jnp.full((2, 3), 0.9), threshold=50.0)
    assert check_cell(cell, features=(2, 3), drive=50.0, steps=4).passed
    with pytest.raises(CheckFailedError, match="it fires and is silent"):
        check_cell(cell, features=(2, 3), steps=4)


class Tangled(LIF):
    """Examples mix a little, neurons see each other, and the threshold is elsewhere when it
    encodes.
    """

    def integrate(self, v, current):
        return super().integrate(v, current + 1e-3 * current.mean())

    def fire(self, u):
        v, s = super().fire(u)
        return v, s * (u == u.max(-1, keepdims=True)).astype(s.dtype)

    def linear_response(self):
        return super().linear_response()._replace(gain=1.01)

    def encode(self, u):
        return u - self.threshold + 1e-3, ()

    def decode(self, distance, rest):
        return distance + self.threshold - 1e-3


class Quarter(LIF):
    """What it keeps fires alike, at another slope."""

    def encode(self, u):
        return (u - self.threshold) / 4, ()


class Narrow(LIF):
    def fire(self, u):
        v, s = super().fire(u)
        return v, s.astype("float32")


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


class Silent(Quarter):
    """Also, it never fires, and its gradient is not finite where the current is 0."""

    def integrate(self, v, current):
        return super().integrate(v, 1e-3 * jnp.sqrt(jnp.maximum(current, 0)))


IN_EACH_MODE = {
    f"in mode {mode!r} a network equals mode 'scan'" for mode in MODES if mode != "scan"
}
IN_FEW_BITS = {law for law in IN_EACH_MODE if law.split("'")[1] in GRADIENT_ERRORS}
INVERSE = "decode is the inverse of encode"
SIGN = "the sign of the distance is the spike"
BROKEN_CELLS = {
    Narrow(): TYPES,
    Silent(): {"it fires and is silent", "gradients are finite", INVERSE} | IN_EACH_MODE,
    Tangled(): {
        "examples do not see each other",
        "fire is elementwise: neurons do not see each other",
        "without spikes the potential is the declared linear response",
        SIGN,
    }
    | IN_FEW_BITS,
}


@pytest.mark.parametrize(
    "cell",
    few(BROKEN_CELLS, Narrow(), ci=[Silent(), Tangled()]),
    ids=lambda cell: type(cell).__name__,
)
def test_broken_properties_of_cells_are_reported(cell):
    assert {*broken_properties(cell, steps=4)} == BROKEN_CELLS[cell], report_of(cell, steps=4)


@pytest.mark.slow
def test_a_cell_that_changes_is_not_its_loop():
    assert "a step is integrate, then fire, with jit and vmap too" in broken_properties(
        Restless(), steps=4
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda v, s: (v.astype("float32"), s),
            r"in float16 the state float16 \[2, 5\] becomes float32 \[2, 5\]",
        ),
        (lambda v, s: ((v, v), s), "becomes"),
        (lambda v, s: (v, s.astype("float32")), r"in float16 the output is float32 \[2, 5\]"),
        (lambda v, s: (v, s > 0), r"in float16 the output is bool \[2, 5\]"),
    ],
)
def test_cell_that_changes_a_type_is_found(change, said):
    cell = type("Changing", (LIF,), {"fire": lambda self, u: change(*LIF.fire(self, u))})()
    with pytest.raises(
        CheckFailedError, match=f"shapes and dtypes are preserved: error inf.*{said}"
    ):
        check_cell(cell)


@pytest.mark.parametrize(
    "cell", [LIF(np.full(3, 0.9)), MultiSynapticLIF(synaptic_decay=np.array([0.5, 0.9]))], ids=type
)
def test_currents_of_another_shape_need_features(cell):
    with pytest.raises(
        CheckFailedError, match=r". For currents of another shape pass features=, here \(5,\)"
    ):
        check_cell(cell)


def test_each_mode_is_compared_with_a_loop(monkeypatch):
    """Outputs of one mode, and gradients of the others, that are wrong by a little more than their
    limit.
    """
    exact, call = 1.1e-9, Network.__call__
    gradients = {mode: 1.1 * error for mode, error in GRADIENT_ERRORS.items()} | {"exact": -2.0}

    def wrong_call(self, x, backward):
        state, outs = call(self, x, backward="scan")
        if backward == "recompute":
            return state, (1 + exact) * outs
        return state, outs + gradients.get(backward, 0.0) * (outs - jax.lax.stop_gradient(outs))

    monkeypatch.setattr(Network, "__call__", wrong_call)
    results = check_cell(LIF(), steps=4, raises=False).results
    errors = {
        result.property.split("'")[1]: result.error
        for result in results
        if "in mode" in result.property
    }
    expected = {mode: abs(error) for mode, error in gradients.items()} | {"recompute": exact}
    assert errors == pytest.approx(expected, rel=1e-3)
    assert {*errors} == {*MODES} - {"scan"}
