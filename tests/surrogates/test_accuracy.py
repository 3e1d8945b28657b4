"""No surrogate is less accurate than is published: the harness of the published table, and what it must catch."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from reference import DEFAULTS, RULE, Case, every_half, standing

import spikegrad
from spikegrad import Surrogate, parameter

sys.path.insert(0, str(ROOT / "benchmarks"))
from accuracy import HALF, QUANTITIES, TARGETS, against_float64, against_truth, sample

OPTIMISED = True


def exceeded(dtype, worst):
    return {key: float(worst[key]) for key, most in TARGETS[dtype].items() if not worst[key] <= most}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_every_number_of_sixteen_bits_and_every_exponent_of_single_precision(case):
    xs = {dtype: jnp.asarray(every_half(dtype)) for dtype in HALF} | {"float32": single_precision(case)}
    for quantity, found in against_float64(case, tuple(QUANTITIES), *xs.values()).items():
        for dtype, worst in zip(xs, found, strict=True):
            assert not exceeded(dtype, worst), (quantity, dtype, float(worst["at"]))


def single_precision(case):
    x = sample(case, np.float32, 10)
    return jnp.asarray(np.pad(x, (0, 8192 - x.size), mode="edge"))  # one shape for all


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_double_precision_against_arbitrary_precision(case):
    x = sample(case, np.float64, 1)
    x = x[:: max(1, x.size // 300)]  # the whole sample is the benchmark's
    for quantity in QUANTITIES:
        worst = against_truth(case, quantity, x)
        assert not exceeded("float64", worst), (quantity, float(worst["at"]))


class TextbookSigmoid(Surrogate):
    """The tail is lost: sigma is 1 long before 1 - sigma is 0."""

    alpha: float = parameter(default=4.0, above=0)

    def surrogate_fun(self, x):
        return jax.nn.sigmoid(self.alpha * x)

    def surrogate_grad(self, x):
        s = jax.nn.sigmoid(self.alpha * x)
        return self.alpha * s * (1 - s)


class TextbookInvSquare(Surrogate):
    """In half precision throughout, where the square overflows on the way to a small number."""

    alpha: float = parameter(default=100.0, above=0)

    def surrogate_grad(self, x):
        return 1 / (1 + self.alpha * jnp.abs(x)).astype(jnp.float16) ** 2


class TextbookS2NN(Surrogate):
    """The branch that is not taken overflows, and its derivative is NaN."""

    alpha: float = parameter(default=4.0, above=0)
    beta: float = parameter(default=1.0)
    epsilon: float = parameter(default=1e-8)

    def surrogate_fun(self, x):
        return jnp.where(x < 0, jnp.exp(self.alpha * x) / (1 + jnp.exp(self.alpha * x)), jnp.log1p(x))

    def surrogate_grad(self, x):
        e = jnp.exp(self.alpha * x)
        return jnp.where(x < 0, self.alpha * e / (1 + e) ** 2, self.beta / (1 + x))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "textbook", "quantity", "dtype"),
    [
        ("Sigmoid", TextbookSigmoid, "slope", "bfloat16"),
        ("Sigmoid", TextbookSigmoid, "slope", "float32"),
        ("InvSquareGrad", TextbookInvSquare, "slope", "float16"),
        ("S2NN", TextbookS2NN, "second", "float32"),
    ],
)
def test_textbook_formulas_are_caught(monkeypatch, name, textbook, quantity, dtype):
    case = Case(name, {})  # a new one, so that no compiled comparison of the right formula is used
    x = jnp.asarray(every_half(dtype)) if dtype in HALF else single_precision(case)
    exact = getattr(spikegrad.surrogates, name)

    def either(**parameters):  # the right formula in float64, as the reference, and the textbook's in fewer bits
        right, wrong = exact(**parameters), textbook(**parameters)

        class Mixed(Surrogate):
            def surrogate_fun(self, x):
                return (right if x.dtype == jnp.float64 else wrong).surrogate_fun(x)

            def surrogate_grad(self, x):
                return (right if x.dtype == jnp.float64 else wrong).surrogate_grad(x)

        return Mixed()

    monkeypatch.setattr(spikegrad.surrogates, name, either)
    (worst,) = against_float64(case, (quantity,), x)[quantity]
    assert exceeded(dtype, worst)
