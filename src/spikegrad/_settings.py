"""Settings of the gradient rule around a surrogate: gradients of its parameters, and a slope kept in fewer bits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ._checks import brief
from ._struct import parts_of
from ._surrogate import FLOATS, Surrogate, configured, curve_of, settings_of


def learnable(surrogate: Surrogate) -> Surrogate:
    r"""The same spike, whose parameters get a gradient.

    The step does not depend on the parameters, so a surrogate gives them none. With ``learnable``, the derivative in a
    parameter is that of the smooth primal, as if it were the output:

    .. math:: \frac{\mathrm{d}\,s}{\mathrm{d}\alpha} = \frac{\partial}{\partial\alpha}\,\mathrm{surrogate\_fun}(x).

    The output, the derivative in ``x`` and the derivative of that in a parameter are the same with and without it.

    Parameters
    ----------
    surrogate : Surrogate
        One declared by annotations, which defines ``surrogate_fun``, with or without other settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``, with every Python number as an array of JAX's default float. The
        gradient of a function of it has the same structure.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, has a hand-written ``__init__``, so that JAX sees no parameters in it, defines
        no ``surrogate_fun``, or overrides ``__call__``.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking neural networks",
    ICCV; Wang et al. 2023, "Adaptive smoothing gradient learning for spiking neural networks", ICML.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, learnable
    >>> loss = lambda surrogate: surrogate(0.3)
    >>> print(f"{jax.grad(loss)(Sigmoid(jnp.array(4.0))).alpha:.4f}")
    0.0000
    >>> print(f"{jax.grad(loss)(learnable(Sigmoid(4.0))).surrogate.alpha:.4f}")
    0.0534
    """
    curve = curve_of("learnable", surrogate)
    for part in parts_of(curve):
        if isinstance(part, Surrogate) and not part._frozen:
            raise TypeError(
                f"learnable: {type(part).__name__} has its own __init__, so that JAX sees no parameters in it; declare "
                "them by annotations"
            )
    if lacking := curve._without_primal():
        raise TypeError(f"learnable: {lacking} defines no surrogate_fun, whose derivative the parameters would get")
    return configured(surrogate, learn=True)


def keep_slope(surrogate: Surrogate, dtype: Any) -> Surrogate:
    r"""The same spike, whose slope is kept for the backward pass in fewer bits.

    JAX keeps one array of each call under differentiation, in the dtype of ``x``: the slope, or in half precision ``x``
    itself. This setting rounds the slope to ``dtype`` and keeps it so: half the memory of float32 in bfloat16, a
    quarter in an 8-bit float. Spikes are the same; the gradient in ``x`` has the rounding error of ``dtype``, and that
    in the parameters (:func:`learnable`) none.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without other settings.
    dtype : dtype
        ``bfloat16`` (relative error of the slope up to 2**-8), ``float16``, ``float8_e5m2`` (2**-3, slopes from 2**-16)
        or ``float8_e4m3fn`` (2**-4, slopes from 2**-9 to 448, NaN above). One that is not narrower than ``x`` changes
        nothing.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__`` or keeps its slope in another dtype already, or if
        ``dtype`` is none of these.

    Notes
    -----
    Derivatives of the second order differentiate the slope before it is rounded, and round the result in turn.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, keep_slope
    >>> fire = keep_slope(Sigmoid(4.0), jnp.bfloat16)
    >>> exact, kept = jax.grad(Sigmoid(4.0))(0.3), jax.grad(fire)(0.3)
    >>> kept.dtype.name, bool(abs(kept - exact) < 2**-8 * exact)
    ('float32', True)
    """
    curve_of("keep_slope", surrogate)
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = None
    if name not in FLOATS:
        raise TypeError(f"keep_slope: dtype must be one of {', '.join(FLOATS)}, got {name or brief(dtype)}")
    before = settings_of(surrogate).slope_dtype
    if before not in (None, name):
        raise TypeError(f"keep_slope: the slope is kept in {before} already, and cannot be kept in {name} as well")
    return configured(surrogate, slope_dtype=name)
