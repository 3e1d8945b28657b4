"""Types of spikes: the forward output, for any slope.

Each is a class with its formulas and flags (see :class:`SpikeType`), and the public function that gives it to a
surrogate. A new one is both of these here, its name in ``spikegrad.__init__``, and a row in
``tests/core/test_kinds.py``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._checks import broadcast_checked, compute_dtype
from ._compat import match_varying_axes, shard_as, spread_as, zeros_like
from ._spike_type import Curve, SpikeType
from ._struct import Real, parameter, shown
from ._surrogate import Surrogate, with_spike_type


class Strict(SpikeType, pure=True):
    needs_magnitude = True  # what is kept of a small positive number may be zero

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x > 0).astype(x.dtype)


def strict(surrogate: Surrogate) -> Surrogate:
    r"""A spike above the threshold, and none at the threshold itself, as several libraries have it.

    .. math:: s(x) = \begin{cases} 1 & x > 0 \\ 0 & x \le 0 \end{cases} \qquad
              \mathrm{d}s = g(x)\, \mathrm{d}x

    with :math:`g` the slope, at the threshold as well. It matters where potentials reach a threshold exactly, as those
    of small integer weights do.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, strict
    >>> fire = strict(Sigmoid(4.0))
    >>> fire(jnp.array([-1.0, 0.0, 1.0])).tolist(), float(jax.grad(fire)(0.0))
    ([0.0, 0.0, 1.0], 1.0)
    """
    return with_spike_type(surrogate, Strict())


class Soft(SpikeType, pure=True):
    graded = True
    needs_primal = True

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x)


def soft(surrogate: Surrogate) -> Surrogate:
    r"""The smooth primal in place of the spike, so that finite differences confirm the derivative.

    .. math:: s = f(x), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    with :math:`f` the primal, ``surrogate_fun``, and :math:`f'` the slope. It is for checking the gradient of a
    network, and is what surrogate gradients are compared with: the gradient of the spiking network takes its place
    where all :math:`f` are near 0 or 1.

    Parameters
    ----------
    surrogate : Surrogate
        One that defines ``surrogate_fun``, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, defines no ``surrogate_fun``, or has another kind of
        spike already.

    Notes
    -----
    The parameters get a gradient with :func:`learnable` alone, as ever; finite differences confirm that one too.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid, soft
    >>> fire = soft(Sigmoid(4.0))
    >>> print(f"{fire(0.3):.3f} {(fire(0.35) - fire(0.25)) / 0.1:.2f} {jax.grad(fire)(0.3):.2f}")
    0.769 0.71 0.71
    """
    return with_spike_type(surrogate, Soft())


class Stochastic(SpikeType, pure=True):
    """The key is None, which is no leaf, until a spike is to be drawn."""

    draws = True
    needs_primal = True
    needs_magnitude = True

    key: Any = parameter(default=None, kind=object)

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        if self.key is None:
            raise TypeError(
                "stochastic: a spike is drawn, which takes a key: fire(x, key=key), cell(v, current, key=key), "
                "network(inputs, key=key); a cell of your own has the surrogate in one of its fields"
            )
        # in float32 at least: in half precision the probability would be rounded, and their mean be off
        probability = curve.surrogate_fun(x.astype(compute_dtype(x.dtype)))
        return (_uniform(self.key, probability) < probability).astype(x.dtype)


def _uniform(key: Any, like: jax.Array) -> jax.Array:
    """Numbers from 0 to 1, 1 excluded: of one key, or of one for each entry of the leading axes."""
    if like.shape[: key.ndim] != key.shape:
        raise ValueError(f"stochastic: keys of shape {key.shape} are not the leading axes of x of shape {like.shape}")
    draw = functools.partial(jax.random.uniform, shape=like.shape[key.ndim :], dtype=like.dtype)
    for _ in key.shape:
        draw = jax.vmap(draw)
    return shard_as(draw(key), like)


def stochastic(surrogate: Surrogate) -> Surrogate:
    r"""A spike that is drawn, with the smooth primal as its probability (escape noise).

    .. math:: P(s = 1) = \min(\max(f(x), 0), 1), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    with :math:`f` the primal, ``surrogate_fun``, and :math:`f'` the slope, which is the derivative of the mean wherever
    :math:`f` is a probability. Slope and noise are a pair: :class:`Sigmoid` gives the logistic escape noise of
    probability :math:`\sigma(\alpha x)`.

    It is called with a key, ``fire(x, key=key)``. So are a cell, :func:`unroll` and a :class:`Network`, which makes
    the keys of its steps from one.

    Parameters
    ----------
    surrogate : Surrogate
        One that defines ``surrogate_fun``, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, defines no ``surrogate_fun``, or has another kind of
        spike already. When it is called, without a key.

    Notes
    -----
    The same key draws the same spikes. The probability is computed in float32 at least.

    References
    ----------
    Gerstner, Kistler, Naud, Paninski 2014, "Neuronal Dynamics", chapter 9; Gygax, Zenke 2025, "Elucidating the
    theoretical underpinnings of surrogate gradient learning in spiking neural networks", Neural Computation 37.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, stochastic
    >>> fire = stochastic(Sigmoid(4.0))
    >>> spikes = fire(jnp.full(10_000, 0.3), key=jax.random.key(0))
    >>> print(f"{spikes.mean():.2f} {Sigmoid(4.0).surrogate_fun(0.3):.2f}")
    0.77 0.77
    """
    return with_spike_type(surrogate, Stochastic())


class MultiSpike(SpikeType, pure=True):
    several = True

    n: int = parameter(integer=True, at_least=1)
    threshold: Real = parameter(default=1.0, above=0)
    slopes: str = parameter(default="sum", choices=("sum", "nearest", "first"))

    @property
    def needs_magnitude(self) -> bool:  # type: ignore[override]
        return self.n > 1

    def expression(self, curve: str) -> str:
        more = f", {shown(self.threshold)}" if not _is_one(self.threshold) or self.slopes != "sum" else ""
        return f"multi_spike({curve}, {self.n}{more}{', ' + repr(self.slopes) if self.slopes != 'sum' else ''})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        most = 2 ** (jnp.finfo(x.dtype).nmant + 1)
        if self.n > most:
            raise ValueError(f"multi_spike: n must be <= {most}, up to which {x.dtype} counts, got {self.n}")
        wide = x.astype(compute_dtype(x.dtype))
        theta = self._distance(wide)
        count = jnp.clip(jnp.floor(wide / theta) + 1, 0, self.n)
        # A compiler may divide in another way, so that the quotient decides nothing: the multiples themselves do.
        more = (count < self.n) & (wide >= count * theta)
        less = (count > 0) & (wide < (count - 1) * theta)
        return (count + more.astype(wide.dtype) - less.astype(wide.dtype)).astype(x.dtype)

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)
        if self.slopes == "sum":
            return _total(lambda k: curve.surrogate_fun(x - k * theta), range(self.n), x)
        if self.slopes == "first":
            return curve.surrogate_fun(x)
        k, half = self._nearest(x, theta), spread_as(theta / 2, x)
        rise = curve.surrogate_fun(half) - curve.surrogate_fun(-half)  # from one level to the next
        return curve.surrogate_fun(x - k * theta) + k * rise

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)
        if self.slopes == "sum":
            return _total(lambda k: curve.surrogate_grad(x - k * theta), range(self.n), x)
        if self.slopes == "first":
            return curve.surrogate_grad(x)
        return curve.surrogate_grad(x - self._nearest(x, theta) * theta)

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        theta = self._distance(x)
        if self.n == 1 or self.slopes == "first":  # at x = 0 alone, wherever the others are
            return
        if self.slopes == "sum":
            moved = _total(lambda k: -k * curve.surrogate_grad(x - k * theta), range(1, self.n), x)
        else:
            k = self._nearest(x, theta)
            moved = -k * curve.surrogate_grad(x - k * theta)
        yield spread_as(_threshold_like(self, x), x), moved

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slopes == "sum" and self.n > _MOST_SLOPES:
            raise ValueError(
                f"multi_spike: n must be <= {_MOST_SLOPES:,} with slopes='sum', which computes n slopes, got {self.n}; "
                "pass slopes='nearest' or slopes='first'"
            )

    def _distance(self, x):
        """The distance between thresholds. XLA flushes numbers below the least normal one to 0, and x/0 is NaN."""
        theta, tiny = _threshold_like(self, x), jnp.finfo(x.dtype).tiny
        return jnp.where(jnp.abs(theta) < tiny, jnp.asarray(tiny, x.dtype), theta)

    def _nearest(self, x, theta):
        """Which multiple of the threshold is the nearest that counts; a constant for the derivative."""
        return jax.lax.stop_gradient(jnp.clip(jnp.floor(x / theta + 0.5), 0, self.n - 1))

    def in_units_of(self, threshold: Any, x: jax.Array) -> SpikeType:
        return MultiSpike(self.n, _scaled_threshold(self, threshold, x), self.slopes)


def multi_spike(surrogate: Surrogate, n: int, threshold: ArrayLike = 1.0, slopes: str = "sum") -> Surrogate:
    r"""Up to ``n`` spikes in one step, one for each multiple of the threshold that the potential has reached.

    .. math:: s = \sum_{k=0}^{n-1} H(x - k\theta), \qquad
              \frac{\partial s}{\partial x} = \sum_k g(x - k\theta), \qquad
              \frac{\partial s}{\partial\theta} = -\sum_k k\, g(x - k\theta)

    with :math:`H` the step and :math:`g` the slope. As :math:`x` is the potential minus the threshold, the first spike
    comes at :math:`x = 0`. With ``slopes="nearest"`` the sums have one term, of the multiple that is nearest to
    :math:`x`; with ``"first"`` that of :math:`k = 0`, so that the slope is the curve as it stands and the distance of
    multiples gets no gradient.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.
    n : int
        The largest number of spikes, at least 1.
    threshold : float or array, default 1.0
        Distance :math:`\theta > 0` between two multiples, in the unit of ``x``. A cell multiplies it by its own
        threshold, so that 1 means that of the cell. An array broadcasts to ``x``.
    slopes : {"sum", "nearest", "first"}
        The slope: that of all spikes together, or that of the nearest or of the first one alone.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``, and ``n``, ``threshold`` and ``slopes`` in its field ``forward``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.
    ValueError
        For a parameter out of its domain; when it is called, if ``n`` is more than the dtype of ``x`` can count to.

    Notes
    -----
    The sum takes ``n`` evaluations of the slope, the others take one. One level is the plain spike. A reset by
    subtraction takes as many thresholds as there are spikes; one to a value is refused.

    References
    ----------
    Weidel, Sheik 2021, "WaveSense: efficient temporal convolutions with spiking neural networks for keyword spotting",
    arXiv:2111.01456, has the nearest slope.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import PiecewiseQuadratic, multi_spike
    >>> fire = multi_spike(PiecewiseQuadratic(1.0), 3)
    >>> x = jnp.array([-0.5, 0.0, 1.5, 9.0])
    >>> fire(x).tolist(), jax.vmap(jax.grad(fire))(x).tolist()
    ([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.0, 0.0])
    """
    return with_spike_type(surrogate, MultiSpike(n, threshold, slopes))  # type: ignore[arg-type]


class Signed(SpikeType, pure=True):
    negative = True
    needs_magnitude = True

    threshold: Real = parameter(default=1.0, above=0)

    def expression(self, curve: str) -> str:
        return f"signed({curve}{'' if _is_one(self.threshold) else ', ' + shown(self.threshold)})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x >= 0).astype(x.dtype) - (self._mirrored(x) >= 0).astype(x.dtype)

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x) - curve.surrogate_fun(self._mirrored(x))

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x) + curve.surrogate_grad(self._mirrored(x))

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        yield spread_as(_threshold_like(self, x), x), 2 * curve.surrogate_grad(self._mirrored(x))

    def _mirrored(self, x):
        """``x`` of the opposite potential."""
        return -x - 2 * _threshold_like(self, x)

    def in_units_of(self, threshold: Any, x: jax.Array) -> SpikeType:
        return Signed(_scaled_threshold(self, threshold, x))


def signed(surrogate: Surrogate, threshold: ArrayLike = 1.0) -> Surrogate:
    r"""Spikes of both signs: 1 above the threshold, -1 below its negative.

    .. math:: s = H(x) - H(-x - 2\theta), \qquad
              \frac{\partial s}{\partial x} = g(x) + g(-x - 2\theta), \qquad
              \frac{\partial s}{\partial\theta} = 2\, g(-x - 2\theta)

    with :math:`H` the step and :math:`g` the slope. As :math:`x` is the potential :math:`v` minus the threshold, this
    is 1 from :math:`v = \theta` on and -1 from :math:`v = -\theta` on downwards: an odd function of :math:`v`.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.
    threshold : float or array, default 1.0
        Threshold :math:`\theta > 0`, in the unit of ``x``. A cell multiplies it by its own, so that 1 means that of the
        cell. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``, and ``threshold`` in its field ``forward``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.
    ValueError
        For a threshold that is not above 0.

    Notes
    -----
    A reset by subtraction adds the threshold at a negative spike; one to a value is refused, and so is a threshold that
    adapts.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Sigmoid, signed, unroll
    >>> v, spikes = unroll(LIF(1.0, 0.5, signed(Sigmoid())), jnp.array([0.75, -1.0, 0.0, 0.5]))
    >>> spikes.tolist(), v.tolist()
    ([1.0, -1.0, 0.0, 0.0], 0.25)
    """
    return with_spike_type(surrogate, Signed(threshold))  # type: ignore[arg-type]


def _threshold_like(kind: MultiSpike | Signed, x: jax.Array) -> jax.Array:
    return broadcast_checked(jnp.asarray(kind.threshold), x.dtype, x.shape, kind._public_name(), "threshold")


def _scaled_threshold(kind: MultiSpike | Signed, threshold: Any, x: jax.Array) -> Any:
    return threshold if _is_one(kind.threshold) else _threshold_like(kind, x) * threshold


_MOST_SLOPES = 1 << 16
_UNROLLED = 16


def _total(term: Callable[[Any], jax.Array], numbers: range, like: jax.Array) -> jax.Array:
    """Sum ``term(k)``, in a loop for many terms, because unrolled terms take long to compile."""
    if len(numbers) <= _UNROLLED:
        return functools.reduce(operator.add, map(term, numbers))
    ks = jnp.arange(numbers.start, numbers.stop).astype(like.dtype)
    first = match_varying_axes(zeros_like(like), like=like)
    return jax.lax.scan(lambda total, k: (total + term(k), None), first, ks)[0]


def _is_one(threshold: Any) -> bool:
    return isinstance(threshold, float) and threshold == 1
