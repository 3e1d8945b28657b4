"""Trainable parameters that stay within bounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._checks import real_array
from ._struct import Domain, Real, Struct, as_real, parameter


class Bounded(Struct):
    """A trainable number that stays within bounds, which :func:`~spikegrad.bounded` creates.

    JAX functions use it as the array ``value``. The optimizer changes the number ``raw``, which has
    no bounds and from which ``value`` follows. So gradients are derivatives by ``raw``.

    Parameters
    ----------
    raw : float or array
        The number without bounds, which is trained.
    low, high : float, default -inf and inf
        The bounds of ``value``.
    """

    raw: Real = parameter()
    low: float = dataclasses.field(
        default=-math.inf, metadata={"domain": Domain(bound=True)}
    )
    high: float = dataclasses.field(
        default=math.inf, metadata={"domain": Domain(bound=True)}
    )

    @property
    def value(self) -> jax.Array:
        """The number within the bounds, an array."""
        raw = jnp.asarray(self.raw)
        low, high = self.low, self.high
        if math.isinf(low) and math.isinf(high):
            return raw
        if math.isinf(high):
            return low + jnp.exp(raw)
        if math.isinf(low):
            return high - jnp.exp(raw)
        value = low + (high - low) * jax.nn.sigmoid(raw)
        return jnp.clip(value, low, high)  # rounding may exceed the bounds

    def _within(self, low: float, high: float, owner: str, name: str) -> Bounded:
        """Return the value with these additional bounds."""
        # A cell calls this with the domain of its parameter, so ``bounded(0.9)`` as a decay stays
        # between 0 and 1.
        low = max(self.low, low)
        high = min(self.high, high)
        if (low, high) == (self.low, self.high):
            return self
        return _bounded(self.value, low, high, owner, name)

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __float__(self) -> float:
        return float(self.value)


def _as_its_value(name: str) -> Callable:
    return lambda self, *others: getattr(self.value, name)(*others)


for _name in (
    "neg",
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "pow",
    "rpow",
):
    # On the class, because Python looks up operators there and not on the instance.
    setattr(Bounded, f"__{_name}__", _as_its_value(f"__{_name}__"))


def bounded(value: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    r"""Make a parameter of a cell or a surrogate trainable, and keep it within its bounds.

    Pass it instead of a number: ``LIF(decay=bounded(0.9))``. The bounds come from the parameter,
    such as 0 and 1 for a decay factor. No update can exceed them, because training changes another
    number :math:`r` without bounds, from which the parameter :math:`x` follows:

    .. math:: x = \begin{cases} a + (b - a)\, / \,(1 + e^{-r}) & \text{between bounds } a \text{
              and } b \\
              a + e^r & \text{above } a \\ b - e^r & \text{below } b \\
              r & \text{without bounds} \end{cases}

    Parameters
    ----------
    value : float or array
        The initial value, strictly between the bounds. An array, for example with a number for each
        neuron, keeps its dtype. A number gets the default float.
    low, high : float, default -inf and inf
        Additional bounds, for example for a parameter that has none: ``threshold=bounded(1.0, 0.1,
        10.0)``.

    Returns
    -------
    Bounded
        A pytree with one leaf, the trainable array ``raw`` (:math:`r`). Its property ``value`` is
        the parameter, an array, which arithmetic and ``jnp.asarray`` use too.

    Raises
    ------
    ValueError
        If ``value`` is not strictly between the bounds.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking
    neural networks", ICCV, trains a decay factor in this way.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LIF, Sigmoid, bounded
    >>> cell = LIF(decay=bounded(0.9), surrogate=Sigmoid(bounded(4.0)))
    >>> pushed = jax.tree.map(lambda leaf: leaf + 3.0, cell)  # a step of any size
    >>> print(f"{cell.decay.value:.3f} {pushed.decay.value:.3f} {pushed.threshold}")
    0.900 0.994 1.0
    >>> LIF(decay=bounded(1.5))
    Traceback (most recent call last):
    ...
    ValueError: LIF: decay must be > 0 and < 1 to be bounded, got 1.5
    """
    return _bounded(value, low, high, "bounded", "value")


def _check_within(
    values: np.ndarray, low: float, high: float, owner: str, name: str
) -> None:
    is_within = (low < values) & (values < high)
    if np.all(is_within):
        return
    above = f"> {low:g}" if low > -math.inf else ""
    below = f"< {high:g}" if high < math.inf else ""
    bounds = " and ".join(filter(None, (above, below))) or "finite"
    raise ValueError(f"{owner}: {name} must be {bounds} to be bounded, got {values!s}")


def _bounded(value: Any, low: float, high: float, owner: str, name: str) -> Bounded:
    if not low < high:
        raise ValueError(f"{owner}: low must be below high, got {low:g} and {high:g}")
    x = real_array(as_real(owner, name, value), owner, name)
    if not isinstance(x, Tracer):
        _check_within(np.asarray(x), low, high, owner, name)
    if math.isinf(low) and math.isinf(high):
        return Bounded(x)
    if math.isinf(high):
        return Bounded(jnp.log(x - low), low)
    if math.isinf(low):
        return Bounded(jnp.log(high - x), high=high)
    # The inverse of the sigmoid in ``value``.
    logit = jnp.log(x - low) - jnp.log(high - x)
    return Bounded(logit, low, high)
