"""The surrogates once more, in arbitrary precision: the oracle of the tests.

Written from the published formulas, literally, without a thought for rounding: at this precision
none matters. A new surrogate adds one row to ``ROWS``, and no test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import spikegrad

mp = mpmath.mp.clone()
mp.prec = 200
pi, exp, log, sqrt, cos, sin = mp.pi, mp.exp, mp.log, mp.sqrt, mp.cos, mp.sin


def sign(x):
    return -1 if x < 0 else 1


def logistic(z):
    return 1 / (1 + exp(-z))


def normal(x, mean, deviation):
    return exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * sqrt(2 * pi))


def q_pseudo_spike(x, alpha):
    base = 1 + 2 * abs(x) / (alpha + 1)
    area = log(base) if alpha == 1 else mp.expm1((1 - alpha) * log(base)) / (1 - alpha)
    return 0.5 + sign(x) * (alpha + 1) / 2 * area


def multi_gaussian(x, h, s, sigma, scale):
    flanks = mp.ncdf((x - sigma) / (s * sigma)) + mp.ncdf((x + sigma) / (s * sigma)) - 1
    return 0.5 + scale * ((1 + h) * (mp.ncdf(x / sigma) - 0.5) - h * flanks)


def periodic_exp(x, alpha, beta, t):
    if x < 0:
        return 0.5 + mp.expm1(alpha * x) / alpha
    k = mp.nint(x / t)
    rest = x - k * t
    return (
        0.5 + (2 * k * (1 - exp(-beta * t / 2)) + sign(rest) * (1 - exp(-beta * abs(rest)))) / beta
    )


class Row(NamedTuple):
    """All that the tests know of a surrogate."""

    defaults: dict[str, Any]
    grad: Callable  # the slope of a scalar x and the parameters
    fun: Callable  # the primal
    knots: Callable[..., Sequence[Any]]  # where a formula ends and the next one begins
    settings: tuple[dict[str, Any], dict[str, Any]]  # two beside the defaults
    domain: dict[str, str]  # of each parameter, unless any finite number will do
    traits: tuple[str, ...] = ()  # see below


# What a formula is like whatever its parameters, and what the tests have to know of it.
SIGMOIDAL = "the primal rises from 0 to 1"
SIGNED = "the slope crosses zero, so that its error is measured against its peak"
PERIODIC = "a wave, without a limit at infinity"


def smooth(*_):
    return ()


def at_zero(*_):
    return (0,)


ROWS = {
    "Sigmoid": Row(
        {"alpha": 4.0},
        lambda x, a: a * logistic(a * x) * logistic(-a * x),
        lambda x, a: logistic(a * x),
        smooth,
        ({"alpha": 0.75}, {"alpha": 25.0}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "PiecewiseQuadratic": Row(
        {"alpha": 1.0},
        lambda x, a: max(mp.zero, a - a**2 * abs(x)),
        lambda x, a: (
            mp.zero if x < -1 / a else mp.one if x > 1 / a else a * x * (1 - a * abs(x) / 2) + 0.5
        ),
        lambda a: (-1 / a, 0, 1 / a),
        ({"alpha": 0.5}, {"alpha": 2.5}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "PiecewiseExp": Row(
        {"alpha": 1.0},
        lambda x, a: a / 2 * exp(-a * abs(x)),
        lambda x, a: exp(a * x) / 2 if x < 0 else 1 - exp(-a * x) / 2,
        at_zero,
        ({"alpha": 0.375}, {"alpha": 10.0}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "SoftSign": Row(
        {"alpha": 1.0},
        lambda x, a: a / (2 * (1 + a * abs(x)) ** 2),
        lambda x, a: (a * x / (1 + a * abs(x)) + 1) / 2,
        at_zero,
        ({"alpha": 0.25}, {"alpha": 50.0}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "Arctan": Row(
        {"alpha": 1.0},
        lambda x, a: a / (2 * (1 + (pi * a * x / 2) ** 2)),
        lambda x, a: mp.atan(pi * a * x / 2) / pi + 0.5,
        smooth,
        ({"alpha": 0.25}, {"alpha": 12.0}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "NonzeroSignLog": Row(
        {"alpha": 1.0},
        lambda x, a: a / (1 + a * abs(x)),
        lambda x, a: sign(x) * log(1 + a * abs(x)),
        at_zero,
        ({"alpha": 0.25}, {"alpha": 12.0}),
        {"alpha": "> 0"},
    ),
    "ERF": Row(
        {"alpha": 1.0},
        lambda x, a: a / sqrt(pi) * exp(-(a**2) * x**2),
        lambda x, a: mp.erfc(-a * x) / 2,
        smooth,
        ({"alpha": 0.25}, {"alpha": 5.0}),
        {"alpha": "> 0"},
        (SIGMOIDAL,),
    ),
    "PiecewiseLeakyRelu": Row(
        {"c": 0.01, "w": 1.0},
        lambda x, c, w: 1 / (2 * w) if abs(x) <= w else c,
        lambda x, c, w: (
            c * x + c * w if x < -w else c * x - c * w + 1 if x > w else x / (2 * w) + 0.5
        ),
        lambda c, w: (-w, w),
        ({"c": 0.0, "w": 0.5}, {"c": 0.125, "w": 3.0}),
        {"w": "> 0"},
    ),
    "SquarewaveFourierSeries": Row(
        {"n": 2, "t_period": 8.0},
        lambda x, n, t: 4 / t * sum(cos((2 * i - 1) * 2 * pi * x / t) for i in range(1, n + 1)),
        lambda x, n, t: (
            0.5
            + 2 / pi * sum(sin((2 * i - 1) * 2 * pi * x / t) / (2 * i - 1) for i in range(1, n + 1))
        ),
        smooth,
        ({"n": 1, "t_period": 3.0}, {"n": 5, "t_period": 20.0}),
        {"n": ">= 1, <= 128", "t_period": "> 0"},
        (SIGNED, PERIODIC),
    ),
    "S2NN": Row(
        {"alpha": 4.0, "beta": 1.0, "epsilon": 1e-8},
        lambda x, a, b, e: a * logistic(a * x) * logistic(-a * x) if x < 0 else b / (1 + x),
        lambda x, a, b, e: logistic(a * x) if x < 0 else b * log(1 + x + e) + 0.5,
        at_zero,
        (
            {"alpha": 0.75, "beta": -0.5, "epsilon": 1e-7},
            {"alpha": 20.0, "beta": 2.0, "epsilon": 0.0},
        ),
        {"alpha": "> 0", "epsilon": ">= 0"},
    ),
    "QPseudoSpike": Row(
        {"alpha": 2.0},
        lambda x, a: (1 + 2 * abs(x) / (a + 1)) ** -a,
        q_pseudo_spike,
        at_zero,
        ({"alpha": 1.0}, {"alpha": 3.75}),
        {"alpha": "> 0"},
    ),
    "LeakyRelu": Row(
        {"alpha": 0.1, "beta": 1.0},
        lambda x, a, b: a if x < 0 else b,
        lambda x, a, b: a * x if x < 0 else b * x,
        at_zero,
        ({"alpha": -0.25, "beta": 3.0}, {"alpha": 1.0, "beta": 1.0}),
        {},
    ),
    "LogTailedRelu": Row(
        {"alpha": 0.0},
        lambda x, a: a if x <= 0 else mp.one if x <= 1 else 1 / x,
        lambda x, a: a * x if x <= 0 else x if x <= 1 else 1 + log(x),
        lambda a: (0, 1),
        ({"alpha": 0.25}, {"alpha": -2.0}),
        {},
    ),
    "ReluGrad": Row(
        {"alpha": 0.3, "width": 1.0},
        lambda x, a, w: a * max(mp.zero, w - abs(x)),
        lambda x, a, w: 0.5 + a * (w * (u := min(max(x, -w), w)) - u * abs(u) / 2),
        lambda a, w: (-w, 0, w),
        ({"alpha": 2.0, "width": 0.375}, {"alpha": -0.5, "width": 4.0}),
        {"width": "> 0"},
    ),
    "GaussianGrad": Row(
        {"sigma": 0.5, "alpha": 0.5},
        lambda x, s, a: a * normal(x, 0, s),
        lambda x, s, a: 0.5 + a * (mp.ncdf(x / s) - 0.5),
        smooth,
        ({"sigma": 2.0, "alpha": 1.0}, {"sigma": 0.125, "alpha": -3.0}),
        {"sigma": "> 0"},
    ),
    "MultiGaussianGrad": Row(
        {"h": 0.15, "s": 6.0, "sigma": 0.5, "scale": 0.5},
        lambda x, h, s, sigma, scale: (
            scale
            * (
                (1 + h) * normal(x, 0, sigma)
                - h * (normal(x, sigma, s * sigma) + normal(x, -sigma, s * sigma))
            )
        ),
        multi_gaussian,
        smooth,
        (
            {"h": 0.0, "s": 2.0, "sigma": 1.0, "scale": 1.0},
            {"h": -0.5, "s": 0.75, "sigma": 0.25, "scale": 2.0},
        ),
        {"s": "> 0", "sigma": "> 0"},
        (SIGNED,),
    ),
    "InvSquareGrad": Row(
        {"alpha": 100.0},
        lambda x, a: 1 / (1 + a * abs(x)) ** 2,
        lambda x, a: 0.5 + x / (1 + a * abs(x)),
        at_zero,
        ({"alpha": 0.5}, {"alpha": 10.0}),
        {"alpha": "> 0"},
    ),
    "SlayerGrad": Row(
        {"alpha": 1.0},
        lambda x, a: exp(-a * abs(x)),
        lambda x, a: 0.5 + sign(x) * (1 - exp(-a * abs(x))) / a,
        at_zero,
        ({"alpha": 0.25}, {"alpha": 8.0}),
        {"alpha": "> 0"},
    ),
    "Dspike": Row(
        {"b": 1.0},
        lambda x, b: b / (2 * mp.tanh(b / 2)) * mp.sech(b * x) ** 2 if abs(x) <= 0.5 else mp.zero,
        lambda x, b: 0.5 + mp.tanh(b * min(max(x, -0.5), 0.5)) / (2 * mp.tanh(b / 2)),
        lambda b: (-mp.mpf(0.5), mp.mpf(0.5)),
        ({"b": 0.125}, {"b": 20.0}),
        {"b": "> 0"},
        (SIGMOIDAL,),
    ),
    "PowerTail": Row(
        {"q": 2.0},
        lambda x, q: (1 + 2 * abs(x) / (q - 1)) ** -q,
        lambda x, q: 0.5 + sign(x) * (1 - (1 + 2 * abs(x) / (q - 1)) ** (1 - q)) / 2,
        at_zero,
        ({"q": 1.25}, {"q": 4.75}),
        {"q": "> 1"},
        (SIGMOIDAL,),
    ),
    "Circle": Row(
        {"alpha": 1.0},
        lambda x, a: (1 + (x / a) ** 2) ** -mp.mpf(1.5),
        lambda x, a: 0.5 + x / sqrt(1 + (x / a) ** 2),
        smooth,
        ({"alpha": 0.25}, {"alpha": 6.0}),
        {"alpha": "> 0"},
    ),
    "CappedInverse": Row(
        {"alpha": 0.3},
        lambda x, a: min(1 / abs(x), a) if x else a,
        lambda x, a: 0.5 + (a * x if a * abs(x) <= 1 else sign(x) * (1 + log(a * abs(x)))),
        lambda a: (-1 / a, 1 / a),
        ({"alpha": 2.0}, {"alpha": 25.0}),
        {"alpha": "> 0"},
    ),
    "ArctanApprox": Row(
        {"alpha": 1.0},
        lambda x, a: (1 - mp.mpf("0.28") * (a * x) ** 2) / (1 + mp.mpf("0.28") * (a * x) ** 2) ** 2,
        lambda x, a: 0.5 + x / (1 + mp.mpf("0.28") * (a * x) ** 2),
        smooth,
        ({"alpha": 0.5}, {"alpha": 12.0}),
        {"alpha": "> 0"},
        (SIGNED,),
    ),
    "OneSidedInvSquare": Row(
        {"alpha": 20.0},
        lambda x, a: 1 / (1 + a * max(-x, 0)) ** 2,
        lambda x, a: 0.5 + (x / (1 - a * x) if x < 0 else x),
        at_zero,
        ({"alpha": 0.5}, {"alpha": 100.0}),
        {"alpha": "> 0"},
    ),
    "OneSidedExp": Row(
        {"alpha": 1.0},
        lambda x, a: exp(a * min(x, 0)),
        lambda x, a: 0.5 + ((exp(a * x) - 1) / a if x < 0 else x),
        at_zero,
        ({"alpha": 0.25}, {"alpha": 8.0}),
        {"alpha": "> 0"},
    ),
    "EscapeExp": Row(
        {"p": 0.01, "d": 0.133},
        lambda x, p, d: p / d * exp(min(x / d, 10)),
        lambda x, p, d: p * exp(min(x / d, 10)) * (1 + max(x / d - 10, 0)),
        lambda p, d: (10 * d,),
        ({"p": 0.5, "d": 1.5}, {"p": 0.25, "d": 0.5}),
        {"p": "> 0", "d": "> 0"},
    ),
    "Softplus": Row(
        {"alpha": 10.0},
        lambda x, a: logistic(a * x),
        lambda x, a: 0.5 + (max(x, 0) + (mp.log1p(exp(-a * abs(x))) - log(2)) / a),
        smooth,
        ({"alpha": 0.25}, {"alpha": 50.0}),
        {"alpha": "> 0"},
    ),
    "HardTanhGrad": Row(
        {"alpha": 1.0},
        lambda x, a: 1 + min(max(a * x, -1), 1),
        lambda x, a: (
            0.5 - 1 / (2 * a)
            if x < -1 / a
            else 0.5 + 2 * x - 1 / (2 * a)
            if x > 1 / a
            else 0.5 + x + a * x * x / 2
        ),
        lambda a: (-1 / a, 1 / a),
        ({"alpha": 100.0}, {"alpha": 0.375}),
        {"alpha": "> 0"},
    ),
    "PeriodicExp": Row(
        {"alpha": 2.0, "beta": 2.0, "t_period": 1.0},
        lambda x, a, b, t: exp(a * x) if x < 0 else exp(-b * abs(x - t * mp.nint(x / t))),
        periodic_exp,
        lambda a, b, t: [i * t / 2 for i in range(int(82 / t) + 1)],
        (
            {"alpha": 0.5, "beta": 4.0, "t_period": 3.25},
            {"alpha": 4.0, "beta": 0.5, "t_period": 12.0},
        ),
        {"alpha": "> 0", "beta": "> 0", "t_period": "> 0"},
        (PERIODIC,),
    ),
}


class Case:
    """A surrogate with one setting of its parameters: the library's object, and the truth
    about it.
    """

    def __init__(self, name: str, setting: dict[str, Any]):
        self.name, self.setting, self.row = name, setting, ROWS[name]
        self.parameters = self.row.defaults | setting
        self.known: dict[tuple, dict[float, Any]] = {}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.setting.items())})"

    def make(self) -> spikegrad.Surrogate:
        return self.kind(**self.setting)

    @property
    def kind(self) -> type[spikegrad.Surrogate]:
        return getattr(spikegrad.surrogates, self.name)

    @property
    def numbers(self) -> list[str]:
        """The parameters that have a derivative."""
        return [name for name, value in self.parameters.items() if isinstance(value, float)]

    def values(self, dtype=np.float64) -> list[Any]:
        """The parameters as the library sees them: rounded to the dtype in which it computes."""
        return [
            mp.mpf(float(dtype(v))) if isinstance(v, float) else v for v in self.parameters.values()
        ]

    @property
    def signed(self) -> bool:
        return SIGNED in self.row.traits

    @property
    def periodic(self) -> bool:
        return PERIODIC in self.row.traits

    @functools.cached_property
    def even(self) -> bool:
        """Whether the slope is the same on both sides."""
        x = np.geomspace(1e-3, 30, 9)
        return bool((self.grad(x) == self.grad(-x)).all())

    def knots(self, dtype=np.float64) -> list[Any]:
        return [mp.mpf(knot) for knot in self.row.knots(*self.values(dtype))]

    def grid(self, dtype=np.float64) -> np.ndarray:
        """Both zeros, knots and their neighbors, the neighbourhood of the threshold, and tails:
        always 128 points.
        """
        far = 10.0 ** np.arange(-30, 31, 2)
        knots = np.array([dtype(float(k)) for k in self.knots() if k != 0][:3], dtype)
        parts = (
            np.linspace(-6, 6, 49),
            far,
            -far,
            np.array([0.0, -0.0, -15.0, 15.0, -40.0, 40.0]),
            knots,
            np.nextafter(knots, dtype(np.inf)),
            np.nextafter(knots, dtype(-np.inf)),
        )
        points = np.concatenate([part.astype(dtype) for part in parts])
        return np.pad(
            points, (0, 128 - points.size), mode="edge"
        )  # one shape, so that JAX compiles once for all

    def near_grid(self, dtype=np.float64) -> np.ndarray:
        """The grid, sorted, with its far tails and far too small values brought near: for
        derivatives of the slope.
        """
        x = np.sort(np.clip(self.grid(dtype), -40, 40))
        return np.where((x != 0) & (np.abs(x) < 1e-16), x.dtype.type(1e-16) * np.sign(x), x)

    def near_knot(self, x) -> np.ndarray:
        """Whether a point is a knot but for the rounding of the knot's own formula."""
        eps = float(np.finfo(x.dtype).eps)
        return np.array(
            [any(abs(float(v) - k) <= 4 * eps * abs(k) for k in self.knots()) for v in x.ravel()]
        )

    def side(self, x) -> int:
        """The direction in which nothing happens to the formula close to ``x``."""
        nearest = min(self.knots(), key=lambda knot: abs(x - knot), default=None)
        return 0 if nearest is None else sign(x - nearest)

    def _pointwise(self, formula, x, *key):
        """The formula at each point; what has been asked for under the same key and dtype is
        remembered.
        """
        x = np.asarray(x)
        known = self.known.setdefault((*key, x.dtype), {})
        for v in map(float, x.ravel()):
            if v not in known:
                known[v] = formula(mp.mpf(v))
        return np.array([known[float(v)] for v in x.ravel()], object).reshape(x.shape)

    def grad(self, x, order: int = 0, side: int | None = None):
        """The slope, or a derivative of it in x, at each point; at a knot from the side that is
        asked for.
        """
        dtype = np.asarray(x).dtype.type
        values = self.values(dtype)
        slope = functools.partial(_call, self.row.grad, values)
        if order == 0:
            return self._pointwise(slope, x, "grad")
        derivative = lambda v: _diff(slope, v, order, self.side(v) if side is None else side)  # noqa: E731
        return self._pointwise(derivative, x, "grad", order, side)

    def fun(self, x):
        dtype = np.asarray(x).dtype.type
        with mp.workprec(1100):  # a primal of 1e-300 may be a difference of halves
            return self._pointwise(
                functools.partial(_call, self.row.fun, self.values(dtype)), x, "fun"
            )

    def fun_slope(self, x):
        """The derivative of the primal in x."""
        primal = functools.partial(_call, self.row.fun, self.values())
        return self._pointwise(lambda v: _diff(primal, v, 1, self.side(v)), x, "fun_slope")

    def parameter_slope(self, x, name: str, order: int = 1, of: str = "fun"):
        """The derivative of the primal, or of the slope, in a parameter."""
        at = list(self.parameters).index(name)
        values = self.values(np.asarray(x).dtype.type)
        formula = getattr(self.row, of)

        def derivative(v):  # from above: a parameter may stand at the lower end of its domain
            along = lambda p: formula(v, *values[:at], p, *values[at + 1 :])  # noqa: E731
            return mp.diff(along, values[at], order, direction=1)

        return self._pointwise(derivative, x, of, name, order)


def _call(formula, values, x):
    return formula(x, *values)


def _diff(formula, x, order, side):
    return mp.diff(formula, x, order, direction=side, relative=abs(x) > 1)


CASES = [Case(name, setting) for name, row in ROWS.items() for setting in ({}, *row.settings)]
DEFAULTS = [case for case in CASES if not case.setting]


STANDING = (
    "Sigmoid",
    "PiecewiseQuadratic",
    "Arctan",
    "ERF",
    "SquarewaveFourierSeries",
    "S2NN",
    "QPseudoSpike",
    "LogTailedRelu",
    "MultiGaussianGrad",
    "SlayerGrad",
    "PeriodicExp",
)


RULE = (
    "Sigmoid",
    "PiecewiseQuadratic",
    "S2NN",
)  # smooth; with kinks and zero slope; with parameters and a jump


def standing(cases: Sequence[Case], names: Sequence[str] = STANDING) -> list[Any]:
    """A few cases that stand for the others, which come with --every.

    ``STANDING`` are one of each family, and of each way to write a formula. For a test about the
    rule, which is the same for every curve, ``RULE`` will do.
    """
    return [
        pytest.param(case, marks=[] if case.name in names else pytest.mark.every) for case in cases
    ]


def every_half(dtype: str) -> np.ndarray:
    """Every finite number of a 16-bit dtype."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    infinity = np.array(np.inf, jnp.dtype(dtype)).view(np.uint16)
    return bits[(bits & 0x7FFF) < infinity].view(jnp.dtype(dtype))


def with_arrays(surrogate):
    """The surrogate with an array in place of every number: JAX traces, batches and differentiates
    it.
    """
    return spikegrad.learnable(surrogate).surrogate
