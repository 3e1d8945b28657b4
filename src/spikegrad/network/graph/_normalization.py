"""Batch normalization, folded into the weights before it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ..._checks import real_array


def fold_normalization(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mean: ArrayLike,
    var: ArrayLike,
    gain: ArrayLike = 1.0,
    shift: ArrayLike = 0.0,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    r"""Fold a batch normalization with running statistics into the weight before it, for inference.

    .. math:: \gamma\, \frac{W x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = W' x + b'

    Parameters
    ----------
    weight : array
        :math:`W`, with the outputs along ``axis``: a matrix ``(inputs, neurons)``, or a kernel of a
        convolution. Integers and bools become floats.
    bias : array, optional
        :math:`b`, of shape ``(neurons,)``. By default 0.
    mean, var : array
        :math:`\mu` and :math:`\sigma^2`, the running statistics, of shape ``(neurons,)``.
    gain, shift : float or array
        :math:`\gamma` and :math:`\beta`, numbers or of shape ``(neurons,)``. For tdBN (Zheng et al.
        2021), :math:`\gamma` includes the factor :math:`\alpha V_{th}`.
    axis : int, default -1
        The axis of the outputs: -1 for matrices and kernels ``HWIO``, 0 for kernels ``OIHW``.
    epsilon : float, default 1e-5
        :math:`\epsilon`, which PyTorch, Flax and Equinox set to 1e-5 as well.

    Returns
    -------
    weight, bias : jax.Array
        :math:`W'` in the shape of the weight, and :math:`b'`, of shape ``(neurons,)``.

    Raises
    ------
    ValueError
        If a shape does not fit. Gains and statistics for each step, as in TEBN and BNTT, need a
        weight for each step.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.network import fold_normalization
    >>> weight, bias = fold_normalization(
    ...     jnp.ones((4, 2)), mean=jnp.ones(2), var=jnp.full(2, 4.0), epsilon=0.0
    ... )
    >>> weight[0].tolist(), bias.tolist()
    ([0.5, 0.5], [-0.5, -0.5])
    """
    weight = real_array(jnp.asarray(weight), "fold_normalization", "weight")
    neurons = weight.shape[axis]

    def of_neurons(value: ArrayLike) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, weight.dtype), (neurons,))

    scale = of_neurons(gain) / jnp.sqrt(of_neurons(var) + epsilon)
    # The statistics are (neurons,), so they get axes of length 1 beside the outputs.
    along = [1] * weight.ndim
    along[axis] = neurons
    centered = of_neurons(0.0 if bias is None else bias) - of_neurons(mean)
    return weight * scale.reshape(along), centered * scale + of_neurons(shift)
