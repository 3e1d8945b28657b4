"""Settings of the gradient rule: gradients of parameters, and a slope in fewer bits."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike

from ._struct import parts_of
from ._surrogate import FLOATS, Surrogate, configured, curve_of, settings_of


def learnable(surrogate: Surrogate) -> Surrogate:
    r"""Return a surrogate whose parameters, such as its steepness, get gradients, so they can be
    trained.

    A spike does not depend on the parameters of its surrogate, so by default their gradient is 0.
    With ``learnable``, the gradient is the derivative of the smooth step by the parameter, as if
    the smooth step were the output:

    .. math:: \frac{\mathrm{d}\,s}{\mathrm{d}\alpha} =
              \frac{\partial}{\partial\alpha}\,\mathrm{surrogate\_fun}(x).

    Spikes and the gradient by ``x`` do not change.

    Parameters
    ----------
    surrogate : Surrogate
        A surrogate with annotated parameters and the method ``surrogate_fun``, such as all
        surrogates of the library.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one, with JAX arrays instead of
        Python numbers as parameters. Gradients have the structure of the result.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__``, defines no ``surrogate_fun``,
        or has a custom ``__init__``, which hides its parameters from JAX.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking
    neural networks", ICCV; Wang et al. 2023, "Adaptive smoothing gradient learning for spiking
    neural networks", ICML.

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
    # A composition may contain such a class further inside.
    for part in parts_of(curve):
        if isinstance(part, Surrogate) and not part._frozen:
            raise TypeError(
                f"learnable: {type(part).__name__} has a custom __init__, which hides its "
                "parameters from JAX. Declare "
                "them by annotations"
            )
    if lacking := curve._without_smooth_step():
        raise TypeError(
            f"learnable: {lacking} must define surrogate_fun, because its derivative trains the "
            "parameters"
        )
    return configured(surrogate, learn=True)


def keep_slope(surrogate: Surrogate, dtype: DTypeLike) -> Surrogate:
    r"""Return a surrogate that stores its slope in 16 or 8 bits for the backward pass, to save
    memory.

    For gradients, each call of a surrogate stores one array in the dtype of ``x``. With this
    setting, the array is the slope, rounded to ``dtype``. Compared with float32, bfloat16 needs
    half of the memory, and a float of 8 bits a quarter. Spikes do not change. The gradient by ``x``
    has the rounding error of ``dtype``. The gradient by the parameters (:func:`learnable`) is not
    rounded. In a :class:`Network`, use a memory mode of :class:`Backward` instead, which stores no
    slopes.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate.
    dtype : dtype
        The dtype of the stored slope. A dtype that is not narrower than ``x`` has no effect.

        - ``bfloat16``, with a relative error up to 2**-8, or ``float16``,
        - ``float8_e5m2``, with a relative error up to 2**-3 for slopes of at least 2**-16,
        - ``float8_e4m3fn``, with a relative error up to 2**-4 for slopes from 2**-9 to 448. Larger
          slopes become NaN.

    Returns
    -------
    Surrogate
        The new surrogate. Its field ``surrogate`` is the original one.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__`` or already stores its slope in
        another dtype, or if ``dtype`` is not in this list.

    Notes
    -----
    Second derivatives use the derivative of the slope without rounding, and round the result.

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
    name = jnp.dtype(dtype).name
    if name not in FLOATS:
        raise TypeError(
            f"keep_slope: dtype must be one of {', '.join(FLOATS)}, got {name}"
        )
    before = settings_of(surrogate).slope_dtype
    if before not in (None, name):
        raise TypeError(
            f"keep_slope: dtype is already {before}, got {name} as a second dtype. Call keep_slope "
            "once"
        )
    return configured(surrogate, slope_dtype=name)
