"""Settings of the gradient rule: gradients of parameters, and a slope in fewer bits."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike

from ._struct import parts_of
from ._surrogate import FLOATS, Surrogate, configured, curve_of, settings_of


def learnable(surrogate: Surrogate) -> Surrogate:
    r"""Give the parameters of a surrogate a gradient.

    The step does not depend on the parameters, so by default their gradient is 0. With
    ``learnable``, it is the derivative of the smooth step, as if the smooth step were the output:

    .. math:: \frac{\mathrm{d}\,s}{\mathrm{d}\alpha} =
              \frac{\partial}{\partial\alpha}\,\mathrm{surrogate\_fun}(x).

    The output, the derivative in ``x``, and the mixed derivative in ``x`` and a parameter do not
    change.

    Parameters
    ----------
    surrogate : Surrogate
        A surrogate with annotated parameters and ``surrogate_fun``, with or without other settings.

    Returns
    -------
    Surrogate
        The curve is its field ``surrogate``, with every Python number as an array of JAX's default
        float. Gradients have its structure.

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
    r"""Store the slope in fewer bits for the backward pass.

    Under differentiation JAX stores one array per call in the dtype of ``x``: the slope, or ``x``
    in half precision. This setting rounds the slope to ``dtype`` and stores it. Compared with
    float32, bfloat16 needs half of the memory and an 8-bit float a quarter. Spikes do not change.
    The gradient in ``x`` has the rounding error of ``dtype``, the gradient in the parameters
    (:func:`learnable`) has none.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate, with or without other settings.
    dtype : dtype
        ``bfloat16`` (relative error of the slope up to 2**-8), ``float16``, ``float8_e5m2`` (2**-3,
        slopes from 2**-16) or ``float8_e4m3fn`` (2**-4, slopes from 2**-9 to 448, NaN above). A
        dtype that is not narrower than ``x`` has no effect.

    Returns
    -------
    Surrogate
        The curve is its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, overrides ``__call__`` or already stores its slope in
        another dtype, or if ``dtype`` is not in this list.

    Notes
    -----
    Second derivatives differentiate the slope before it is rounded, and round the result.

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
