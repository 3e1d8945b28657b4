"""Spike types: the forward output, for any slope.

A spike type is a class with formulas and flags (see :class:`SpikeType`) and a public function that
sets it on a surrogate. A new one needs both of them here, its name in ``spikegrad.__init__`` and a
row in ``tests/core/test_kinds.py``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._checks import broadcast_checked, compute_dtype
from ._compat import match_varying_axes, shard_as, spread_as, zeros_like
from ._spike_base import Curve, SpikeType
from ._struct import Real, parameter
from ._surrogate import Surrogate, with_spike_type


class Strict(SpikeType, pure=True):
    """The spike type of :func:`strict`."""

    needs_magnitude = True  # in few bits a small positive number may become zero

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        return (x > 0).astype(x.dtype)


def strict(surrogate: Surrogate) -> Surrogate:
    r"""Return a surrogate that spikes only above the threshold, and not at the threshold itself.

    Several other libraries define spikes in this way.

    .. math:: s(x) = \begin{cases} 1 & x > 0 \\ 0 & x \le 0 \end{cases} \qquad
              \mathrm{d}s = g(x)\, \mathrm{d}x

    Here ``x`` is the potential minus the threshold, and :math:`g` is the slope of ``surrogate``.
    Use it to reproduce such a library, if potentials reach the threshold exactly, for example with
    small integer weights.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate without a spike type.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__`` or already has another spike
        type.

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
    """The spike type of :func:`soft`."""

    graded = True
    needs_smooth_step = True

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        return curve.surrogate_fun(x)


def soft(surrogate: Surrogate) -> Surrogate:
    r"""Return a surrogate that outputs its smooth step instead of a spike, to check gradients.

    .. math:: s = f(x), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    Here ``x`` is the potential minus the threshold, :math:`f` the smooth step (``surrogate_fun``),
    and :math:`f'` its derivative, the slope. The output is a real number, usually from 0 to 1. A
    network with soft spikes has an exact derivative, so you can compare its gradient with finite
    differences. Surrogate gradients approach its gradient if all outputs are near 0 or 1.

    Parameters
    ----------
    surrogate : Surrogate
        A surrogate with the method ``surrogate_fun`` and without a spike type.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__``, defines no ``surrogate_fun`` or
        already has another spike type.

    Notes
    -----
    The parameters of the surrogate get a gradient only with :func:`learnable`. This gradient is
    exact too.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid, soft
    >>> fire = soft(Sigmoid(4.0))
    >>> difference = (fire(0.35) - fire(0.25)) / 0.1
    >>> print(f"{fire(0.3):.3f} {difference:.2f} {jax.grad(fire)(0.3):.2f}")
    0.769 0.71 0.71
    """
    return with_spike_type(surrogate, Soft())


class Stochastic(SpikeType, pure=True):
    """The spike type of :func:`stochastic`."""

    draws = True
    needs_smooth_step = True
    needs_magnitude = True

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        if key is None:
            raise TypeError(
                "stochastic: key is missing. Pass it as surrogate(x, key=key), cell(v, current, "
                "key=key) or network(inputs, key=key). A custom cell stores the surrogate in a "
                "field and passes the key of fire(u, key=None) to it"
            )
        # At least float32: rounding the probability to half precision would bias the mean.
        wide = x.astype(compute_dtype(x.dtype))
        probability = curve.surrogate_fun(wide)
        # A probability of 0 never fires and one of 1 always does, because numbers are in [0, 1).
        fires = _uniform(key, probability) < probability
        return fires.astype(x.dtype)


def _uniform(key: jax.Array, like: jax.Array) -> jax.Array:
    """Draw numbers in [0, 1) from one key, or from one key for each entry of the leading axes."""
    if like.shape[: key.ndim] != key.shape:
        raise ValueError(
            f"stochastic: keys must have the leading axes of x, {like.shape}, got shape {key.shape}"
        )
    shape = like.shape[key.ndim :]
    draw = functools.partial(jax.random.uniform, shape=shape, dtype=like.dtype)
    # Each example has its own key, so its spikes do not depend on the batch around it.
    for _ in key.shape:
        draw = jax.vmap(draw)
    return shard_as(draw(key), like)


def stochastic(surrogate: Surrogate) -> Surrogate:
    r"""Return a surrogate with random spikes. The probability of a spike is the smooth step (escape
    noise).

    .. math:: P(s = 1) = \min(\max(f(x), 0), 1), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    Here ``x`` is the potential minus the threshold, :math:`f` the smooth step (``surrogate_fun``),
    and :math:`f'` its derivative, the slope. For example, ``stochastic(Sigmoid(4.0))`` spikes with
    the probability :math:`\sigma(4 x)`, 1/2 at the threshold. If :math:`f` is between 0 and 1, the
    gradient is the derivative of the mean output.

    Pass a random key to each call, ``fire(x, key=key)``. Also pass a key to a cell, to
    :func:`unroll` and to a :class:`Network` with such a surrogate. The last two compute other keys
    from it for each time step.

    Parameters
    ----------
    surrogate : Surrogate
        A surrogate with the method ``surrogate_fun`` and without a spike type.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__``, defines no ``surrogate_fun`` or
        already has another spike type. Also when the result is called without a key.

    Notes
    -----
    Equal keys give equal spikes. Probabilities are computed in float32 or a wider dtype.

    References
    ----------
    Gerstner, Kistler, Naud, Paninski 2014, "Neuronal Dynamics", chapter 9. Gygax, Zenke 2025,
    "Elucidating the theoretical underpinnings of surrogate gradient learning in spiking neural
    networks", Neural Computation 37.

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
    """The spike type of :func:`multi_spike`."""

    multiple = True

    n: int = parameter(integer=True, at_least=1)
    threshold: Real = parameter(default=1.0, above=0)
    slopes: str = parameter(default="sum", choices=("sum", "nearest", "first"))

    @property
    def needs_magnitude(self) -> bool:  # type: ignore[override]
        return self.n > 1

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        most = 2 ** (jnp.finfo(x.dtype).nmant + 1)
        if self.n > most:
            raise ValueError(
                f"multi_spike: n must be <= {most}, the largest exact count in {x.dtype}, got "
                f"{self.n}"
            )
        wide = x.astype(compute_dtype(x.dtype))
        theta = self._distance(wide)
        estimate = jnp.floor(wide / theta) + 1
        count = jnp.clip(estimate, 0, self.n)
        # Compilers round a quotient differently, so the multiples decide and the quotient is only
        # an estimate.
        too_low = (count < self.n) & (wide >= count * theta)
        too_high = (count > 0) & (wide < (count - 1) * theta)
        # The estimate is at most one off.
        count = count + too_low.astype(wide.dtype) - too_high.astype(wide.dtype)
        return count.astype(x.dtype)

    def smooth_step(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)

        def smooth_step_at(k: int | jax.Array) -> jax.Array:
            return curve.surrogate_fun(x - k * theta)

        if self.slopes != "nearest":
            return _total(smooth_step_at, self._summed, x)
        k = self._nearest(x, theta)
        # Half-way between two thresholds the nearest one changes. The rise between two levels joins
        # the pieces there.
        half = spread_as(theta / 2, x)
        rise = curve.surrogate_fun(half) - curve.surrogate_fun(-half)
        return smooth_step_at(k) + k * rise

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)

        def slope_at(k: int | jax.Array) -> jax.Array:
            return curve.surrogate_grad(x - k * theta)

        if self.slopes == "nearest":
            return slope_at(self._nearest(x, theta))
        return _total(slope_at, self._summed, x)

    def own_slopes(
        self, curve: Curve, x: jax.Array
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        theta = self._distance(x)
        # The only threshold that counts is x = 0.
        if self.n == 1 or self.slopes == "first":
            return

        def moved_by(k: int | jax.Array) -> jax.Array:
            # Threshold k is at k theta, so it moves by k for each unit of theta.
            return -k * curve.surrogate_grad(x - k * theta)

        if self.slopes == "nearest":
            moved = moved_by(self._nearest(x, theta))
        else:
            moved = _total(moved_by, self._summed[1:], x)
        yield spread_as(_threshold_like(self, x), x), moved

    @property
    def _summed(self) -> range:
        """The numbers of the thresholds whose slopes are summed."""
        return range(1 if self.slopes == "first" else self.n)

    def _distance(self, x):
        """Return the distance between thresholds, at least the smallest normal number.

        XLA flushes others to 0.
        """
        theta = _threshold_like(self, x)
        tiny = jnp.asarray(jnp.finfo(x.dtype).tiny, x.dtype)
        return jnp.where(jnp.abs(theta) < tiny, tiny, theta)

    def _nearest(self, x, theta):
        """Return the number of the nearest threshold, a constant for the derivative."""
        nearest = jnp.floor(x / theta + 0.5)
        nearest = jnp.clip(nearest, 0, self.n - 1)
        return jax.lax.stop_gradient(nearest)

    def in_units_of(self, threshold: Real, x: jax.Array) -> SpikeType:
        scaled = _scaled_threshold(self, threshold, x)
        return MultiSpike(self.n, scaled, self.slopes)


def multi_spike(
    surrogate: Surrogate, n: int, threshold: ArrayLike = 1.0, slopes: str = "sum"
) -> Surrogate:
    r"""Return a surrogate that gives several spikes in one time step: one for each multiple of the
    threshold that the potential has reached.

    .. math:: s = \sum_{k=0}^{n-1} H(x - k\theta), \qquad
              \frac{\partial s}{\partial x} = \sum_k g(x - k\theta), \qquad
              \frac{\partial s}{\partial\theta} = -\sum_k k\, g(x - k\theta)

    Here :math:`H` is the step (1 if its argument is at least 0), and :math:`g` is the slope of
    ``surrogate``. The first spike is at :math:`x = 0`, because ``x`` is the potential minus the
    threshold. The output is a number from 0 to ``n``.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate without a spike type.
    n : int
        Largest number of spikes, at least 1.
    threshold : float or array, default 1.0
        The distance :math:`\theta` between two multiples, above 0, in the unit of ``x``. A cell
        multiplies it by its threshold, so 1 means the threshold of the cell. An array must
        broadcast to ``x``.
    slopes : {"sum", "nearest", "first"}
        ``"sum"`` (default) adds the slopes of all multiples, as in the formula. ``"nearest"`` uses
        the slope of the multiple nearest to ``x`` only. ``"first"`` uses the slope of :math:`k = 0`
        only, and :math:`\theta` gets no gradient.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one. Its field ``forward`` has
        ``n``, ``threshold`` and ``slopes``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__`` or already has another spike
        type.
    ValueError
        If a parameter is outside its range. When the result is called, also if the dtype of ``x``
        cannot represent all numbers up to ``n``.

    Notes
    -----
    ``"sum"`` computes the slope ``n`` times, so it is slower than ``"nearest"`` and ``"first"``. In
    a cell, use ``reset="subtract"``, which subtracts one threshold for each spike. A reset to a
    value is not supported.

    References
    ----------
    Weidel, Sheik 2021, "WaveSense: efficient temporal convolutions with spiking neural networks for
    keyword spotting", arXiv:2111.01456, has the nearest slope.

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
    """The spike type of :func:`signed`."""

    negative = True
    needs_magnitude = True

    threshold: Real = parameter(default=1.0, above=0)

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        positive = (x >= 0).astype(x.dtype)
        negative = (self._mirrored(x) >= 0).astype(x.dtype)
        return positive - negative

    def smooth_step(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x) - curve.surrogate_fun(self._mirrored(x))

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x) + curve.surrogate_grad(self._mirrored(x))

    def own_slopes(
        self, curve: Curve, x: jax.Array
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        threshold = spread_as(_threshold_like(self, x), x)
        # Only the second step depends on the threshold: H(-x - 2 theta).
        yield threshold, 2 * curve.surrogate_grad(self._mirrored(x))

    def _mirrored(self, x):
        """Return ``x`` for the opposite potential."""
        # x = v - theta, so the opposite is -v - theta = -x - 2 theta.
        return -x - 2 * _threshold_like(self, x)

    def in_units_of(self, threshold: Real, x: jax.Array) -> SpikeType:
        return Signed(_scaled_threshold(self, threshold, x))


def signed(surrogate: Surrogate, threshold: ArrayLike = 1.0) -> Surrogate:
    r"""Return a surrogate with spikes of both signs: 1 above the threshold, and -1 below the
    negative threshold.

    .. math:: s = H(x) - H(-x - 2\theta), \qquad
              \frac{\partial s}{\partial x} = g(x) + g(-x - 2\theta), \qquad
              \frac{\partial s}{\partial\theta} = 2\, g(-x - 2\theta)

    Here ``x`` is the potential minus the threshold, :math:`H` the step (1 if its argument is at
    least 0), and :math:`g` the slope of ``surrogate``. So for the potential :math:`v = x + \theta`,
    the output is 1 for :math:`v \ge \theta`, -1 for :math:`v \le -\theta`, and 0 between.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate without a spike type.
    threshold : float or array, default 1.0
        The threshold :math:`\theta`, above 0, in the unit of ``x``. A cell multiplies it by its
        threshold, so 1 means the threshold of the cell. An array must broadcast to ``x``.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one. Its field ``forward`` has
        ``threshold``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__`` or already has another spike
        type.
    ValueError
        If ``threshold`` is not above 0.

    Notes
    -----
    In a cell, use ``reset="subtract"``. At a negative spike, this reset adds the threshold. Resets
    to a value and adaptive thresholds are not supported.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Sigmoid, signed, unroll
    >>> v, spikes = unroll(
    ...     LIF(1.0, 0.5, signed(Sigmoid())), jnp.array([0.75, -1.0, 0.0, 0.5])
    ... )
    >>> spikes.tolist(), v.tolist()
    ([1.0, -1.0, 0.0, 0.0], 0.25)
    """
    return with_spike_type(surrogate, Signed(threshold))  # type: ignore[arg-type]


def _threshold_like(kind: MultiSpike | Signed, x: jax.Array) -> jax.Array:
    threshold = jnp.asarray(kind.threshold)
    owner = kind._public_name()
    return broadcast_checked(threshold, x.dtype, x.shape, owner, "threshold")


def _scaled_threshold(kind: MultiSpike | Signed, threshold: Real, x: jax.Array) -> Real:
    # The default 1 costs no product, and keeps the threshold of the cell as it is.
    if _is_one(kind.threshold):
        return threshold
    return _threshold_like(kind, x) * threshold


_UNROLLED = 16
"""The largest sum without a loop. XLA fuses its terms into one pass over the potentials."""


def _total(
    term: Callable[[int | jax.Array], jax.Array], numbers: range, like: jax.Array
) -> jax.Array:
    """Sum ``term(k)``, in a loop for many terms, because unrolled terms take long to compile."""
    if len(numbers) <= _UNROLLED:
        return functools.reduce(operator.add, map(term, numbers))
    ks = jnp.arange(numbers.start, numbers.stop).astype(like.dtype)
    first = match_varying_axes(zeros_like(like), like=like)

    def add(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        return total + term(k), None

    total, _ = jax.lax.scan(add, first, ks)
    return total


def _is_one(threshold: object) -> bool:
    return isinstance(threshold, float) and threshold == 1
