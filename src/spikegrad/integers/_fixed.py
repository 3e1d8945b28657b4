"""Weights as integers with a scale."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import broadcasts
from .._struct import Struct, parameter, wiring
from ._arithmetic import clipped, like, rounded
from ._cells import WeightFormat, signed, static_positive


class Fixed(Struct, pure=True):
    r"""A weight or bias of integers: real numbers to train, which each call rounds to integers with
    a constant scale.

    .. math:: q = \operatorname{clip}\bigl(k \operatorname{round}(w\, S / k)\bigr)

    A real weight :math:`w` becomes the integer :math:`q`. The backward pass treats the derivative
    of the rounding as 1, and as 0 for clipped values. Pass it to a layer like an array, also within
    :class:`~spikegrad.Delayed` and :class:`~spikegrad.Window`. :func:`fixed` creates it from a
    number of bits.

    Parameters
    ----------
    value : array
        The real weights :math:`w`, which the optimizer changes.
    scale : float or array
        The scale :math:`S`, above 0: the factor from real numbers to integers. Training does not
        change it. An array must broadcast to the weights, for example one scale for each neuron.
    low, high : int
        The smallest and the largest integer. Other integers are clipped.
    step : int, default 1
        The integers are multiples of this number :math:`k`, such as 2 for Loihi.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.integers import Fixed
    >>> weight = Fixed(jnp.array([[0.3, -0.4, 0.2, 1.5]]), 100.0, -128, 127)
    >>> weight.integers.tolist(), weight.clipped
    ([[30, -40, 20, 127]], 1)
    """

    value: Any = parameter(kind=object)
    scale: Any = wiring()
    low: int = parameter(integer=True)  # type: ignore[misc]  # wiring() has no default
    high: int = parameter(integer=True)  # type: ignore[misc]
    step: int = parameter(default=1, integer=True, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A part of the tree's structure, so no optimizer moves it.
        scale = static_positive("Fixed", "scale", self.scale)
        object.__setattr__(self, "scale", scale)
        if not broadcasts(np.shape(scale), self.shape):
            raise ValueError(
                f"Fixed: scale must be a number or broadcast to the shape {self.shape} of value, "
                f"got shape {np.shape(scale)}"
            )
        are_multiples = self.low % self.step == self.high % self.step == 0
        if self.low >= self.high or not are_multiples:
            raise ValueError(
                "Fixed: low and high must be multiples of step, low below high, got "
                f"low={self.low}, high={self.high}, step={self.step}"
            )

    def __jax_array__(self) -> jax.Array:
        """Return the integers as floats, with the derivative of training."""
        return clipped(self._steps(), self.low, self.high)

    def _steps(self) -> jax.Array:
        value = jnp.asarray(self.value)
        factor = like(value, np.asarray(self.scale) / self.step)
        return rounded(value * factor) * self.step

    @property
    def integers(self) -> np.ndarray:
        """The integers, a NumPy array of int64."""
        return np.asarray(self.__jax_array__(), np.int64)

    @property
    def clipped(self) -> int:
        """The number of weights that were too large for the limits."""
        return int((self._steps() != self.__jax_array__()).sum())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return jnp.shape(self.value)


def fixed(
    weight: ArrayLike, bits: int = 8, scale: Any = None, *, step: int = 1
) -> Fixed:
    r"""Return a weight of integers with this number of bits, as a :class:`Fixed`.

    The integers are from :math:`-2^{n-1}` to :math:`2^{n-1} - 1` for :math:`n` bits, multiplied by
    ``step``.

    Parameters
    ----------
    weight : array
        The real weights.
    bits : int, default 8
        The number :math:`n` of bits with the sign, from 2 to 16.
    scale : float or array, optional
        The factor from real numbers to integers, above 0. By default the largest power of two for
        which no weight is clipped. An array must broadcast to the weights.
    step : int, default 1
        The integers are multiples of this number. With ``step=2`` and 8 bits, they are weights of
        Loihi.

    Returns
    -------
    Fixed

    Raises
    ------
    ValueError
        If ``bits`` is outside its range, or if ``scale`` is not above 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.integers import fixed
    >>> weight = fixed(jnp.array([[0.3, -0.4, 0.2]]))
    >>> weight.scale, weight.integers.tolist()
    (256.0, [[77, -102, 51]])
    """
    bits = checked_bits("fixed", bits, 16)
    form = signed(bits, step)
    if scale is None:
        largest = float(np.abs(weight).max())
        scale = 1.0  # of zeros
        if largest != 0:
            scale = 2.0 ** math.floor(math.log2(form.high / largest))
    return Fixed(weight, scale, *form)


def checked_bits(owner: str, bits: int, most: int) -> int:
    """Return the bits of a weight as an int, or raise if a weight cannot have them."""
    try:
        checked = operator.index(bits)
    except TypeError:
        checked = 0  # 8.5, for which powers of two would be fractions
    if not 2 <= checked <= most:
        raise ValueError(
            f"{owner}: bits must be an integer from 2 to {most}, got {bits!r}"
        )
    return checked


def best_scales(
    values: np.ndarray,
    groups: np.ndarray,
    form: WeightFormat,
    most: np.ndarray,
    *,
    powers_of_two: bool,
) -> np.ndarray:
    """Return the scale of each group of weights with the least squared error, up to ``most``.

    ``values`` and ``groups`` have a weight and the number of its group in each place. ``most`` has
    a number for each group.
    """
    count = len(most)
    largest = np.zeros(count)
    np.maximum.at(largest, groups, np.abs(values))
    # A few large weights may clip so that the others get finer steps. The tails of trained weights
    # are long: 2 bits of a Laplace distribution are best at 7 times the scale that clips nothing.
    clipping_nothing = form.high / np.where(largest > 0, largest, 1.0)
    ratios = np.geomspace(1, 64, 193)  # 32 for each factor of 2
    if powers_of_two:
        clipping_nothing = _power_below(clipping_nothing)
        most = _power_below(most)
        ratios = 2.0 ** np.arange(7)
    # Without a scale up to ``most`` among the candidates, ``most`` itself.
    best = np.array(most)
    least = np.full(count, np.inf)
    for ratio in ratios:
        scales = clipping_nothing * ratio  # (groups,)
        scale = scales[groups]  # (weights,)
        steps = np.rint(values * (scale / form.step)) * form.step
        integers = np.clip(steps, form.low, form.high)
        squares = np.square(integers / scale - values)
        errors = np.bincount(groups, squares, count)
        is_better = (errors < least) & (scales <= most)
        best = np.where(is_better, scales, best)
        least = np.where(is_better, errors, least)
    return best


def _power_below(x: np.ndarray) -> np.ndarray:
    """Return the largest power of two up to ``x``."""
    return 2.0 ** np.floor(np.log2(x))
