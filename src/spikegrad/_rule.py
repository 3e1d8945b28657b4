"""The gradient rule."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._checks import broadcast_checked, real_array
from ._compat import with_jvp


def spike(x: ArrayLike, slope: ArrayLike) -> jax.Array:
    r"""Return the spikes of ``x`` (1 for ``x >= 0``, otherwise 0), with any array that you pass as
    their derivative.

    .. math:: s(x) = \begin{cases} 1 & x \ge 0 \\ 0 & x < 0 \\
              \mathrm{NaN} & x\ \text{is NaN} \end{cases}
              \qquad \mathrm{d}s = \mathrm{slope} \cdot \mathrm{d}x

    Use it to write a surrogate as a function: ``spike(x, 1 / (1 + abs(x)) ** 2)``. The array
    ``slope`` does not affect the output, and gets no gradient from a first derivative. Second
    derivatives differentiate it. So compute it from ``x`` without ``stop_gradient``, and
    derivatives of every order are correct, in forward and reverse mode.

    Parameters
    ----------
    x : array_like
        The potential minus the threshold, of any shape, without a unit. Integers and booleans
        become the default float.
    slope : array_like
        The derivative of the spikes. It must broadcast to ``x``, and is cast to the dtype of ``x``.
        The backward pass stores it, so a slope in fewer bits saves memory. It is then cast when the
        derivative is computed.

    Returns
    -------
    jax.Array
        The spikes, in the shape and dtype of ``x``. A NaN in ``x`` gives NaN.

    Raises
    ------
    TypeError
        If ``x`` or ``slope`` is not real.
    ValueError
        If ``slope`` does not broadcast to ``x``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import spike
    >>> fire = lambda x: spike(x, jnp.exp(-jnp.abs(x)))
    >>> fire(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 1.0, 1.0]
    >>> print(f"{jax.grad(fire)(-1.0):.4f} {jax.grad(jax.grad(fire))(-1.0):.4f}")
    0.3679 0.3679
    """
    x = real_array(x, "spike")
    slope = real_array(slope, "spike", "slope")
    # A narrower slope keeps its dtype, because it is the residual that JAX stores.
    is_narrow = slope.dtype.itemsize < x.dtype.itemsize
    dtype = slope.dtype if is_narrow else x.dtype
    slope = broadcast_checked(slope, dtype, x.shape, "spike", "slope")
    return _spike(x, jnp.broadcast_to(slope, x.shape))


def derivative(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return the derivative of an elementwise function at each entry of ``x``."""
    # Forward mode gives all of them at once, because an output depends on one entry only.
    ones = jnp.ones_like(x)
    _, slope = jax.jvp(function, (x,), (ones,))
    return slope


def _step(x: jax.Array, slope: jax.Array) -> jax.Array:
    del slope  # only the derivative reads it
    if x.dtype.itemsize == 2:
        return _half_step(x)
    is_nan = jnp.isnan(x)
    spikes = (x >= 0).astype(x.dtype)
    return jnp.where(is_nan, x, spikes)


def _half_step(x: jax.Array) -> jax.Array:
    """Compute the step in 16 bits.

    It compares bits, because many processors would convert bfloat16 to float32.
    """
    numbers = np.asarray([0, 1, np.inf, -0.0], x.dtype)
    zero, unit, infinity, minus_zero = numbers.view(np.uint16)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
    # Without the sign, numbers and their bits have equal order, and NaNs come after infinity.
    is_nan = bits & np.uint16(~minus_zero) > infinity
    # As unsigned integers, all numbers from 0 to infinity are below -0.0, which fires like 0.0.
    fires = bits <= minus_zero
    spikes = jnp.where(fires, unit, zero)
    spikes = jnp.where(is_nan, bits, spikes)
    return jax.lax.bitcast_convert_type(spikes, x.dtype)


def _step_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, slope = primals
    # The slope is a value of the rule, so the spike does not depend on it.
    dx, _ = tangents
    is_narrow = slope.dtype.itemsize < dx.dtype.itemsize
    product = _narrow_product if is_narrow else _product
    # The output is the spike, so the next order of derivative uses this rule again.
    return _spike(x, slope), product(slope, dx)


# A forward-mode rule has both modes, because JAX transposes its linear tangent. It also keeps the
# rule under vmap, scan and checkpoint. A custom_vjp would have no forward mode and no forward over
# reverse. Outside jit, one compiled call replaces several.
_spike = jax.jit(with_jvp(_step, _step_jvp), inline=True)


def _product(slope: jax.Array, dx: jax.Array) -> jax.Array:
    """Return ``slope * dx``, computed in the wider dtype and rounded once to the dtype of
    ``dx``."""
    # A product in the narrow dtype would round the slope first and the product again.
    wide = max(slope.dtype, dx.dtype, key=lambda dtype: dtype.itemsize)
    product = slope.astype(wide) * dx.astype(wide)
    return product.astype(dx.dtype)


# The residual is the narrow slope, not its wider copy.
_narrow_product = jax.checkpoint(_product)
