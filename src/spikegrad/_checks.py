"""What the library accepts as an input, and how it brings values to one dtype and shape."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def real_array(x: Any, owner: str, name: str = "x") -> jax.Array:
    """``x`` as a floating-point array: ints and bools become the default float; anything not real is a TypeError."""
    if not isinstance(x, jax.Array):  # an array, traced or not, is left as it is: every un-jitted operation costs
        if isinstance(x, complex):
            raise TypeError(f"{owner}: {name} must be real, got complex")
        if hasattr(x, "__jax_array__"):
            x = x.__jax_array__()
        elif not isinstance(x, (np.ndarray, np.generic, float, int)):
            raise TypeError(f"{owner}: {name} must be a real number or array, got {type(x).__name__}")
        elif isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "OSUMm":
            raise TypeError(f"{owner}: {name} must be real, got {x.dtype}")
        x = jnp.asarray(x)
    if x.dtype.kind == "f" or jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if x.dtype.kind in "iub" or jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.result_type(float))
    raise TypeError(f"{owner}: {name} must be real, got {x.dtype}")


def broadcast_checked(
    value: jax.Array, dtype: Any, shape: tuple[int, ...], owner: str, name: str, of: str = "x"
) -> jax.Array:
    """``value`` in this dtype and of this rank, or an error if it does not broadcast to this shape."""
    padded = (1,) * (len(shape) - value.ndim) + value.shape
    if len(padded) != len(shape) or any(n not in (1, m) for n, m in zip(padded, shape, strict=True)):
        raise ValueError(f"{owner}: {name} of shape {value.shape} does not broadcast to {of} of shape {shape}")
    if value.ndim:  # a scalar needs no axes, and a rank is never promoted silently
        value = value.reshape(padded)
    return value.astype(dtype)


def compute_dtype(dtype: Any) -> Any:
    """The dtype in which formulas are computed for an ``x`` of this one: half precision in float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
