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
    r"""Fold a batch normalization into the weight and the bias before it, for inference.

    .. math:: \gamma\, \frac{W x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = W' x + b'

    The left side is the normalization of the current :math:`W x + b`. The right side is the current
    with the new weight :math:`W'` and the new bias :math:`b'`. Use these in a
    :class:`spikegrad.Layer` without a normalization.

    Parameters
    ----------
    weight : array
        The weight :math:`W`, a matrix ``(inputs, neurons)`` or the kernel of a convolution.
        Integers and booleans become floats.
    bias : array, optional
        The bias :math:`b`, of shape ``(neurons,)``. By default 0.
    mean, var : array
        The running mean :math:`\mu` and the running variance :math:`\sigma^2` of the normalization,
        of shape ``(neurons,)``.
    gain, shift : float or array
        The factor :math:`\gamma` and the summand :math:`\beta` of the normalization, numbers or
        arrays of shape ``(neurons,)``. For tdBN (Zheng et al. 2021), multiply :math:`\gamma` by its
        factor :math:`\alpha V_{th}`.
    axis : int, default -1
        The axis of the outputs (neurons) in ``weight``: -1 for matrices and kernels ``HWIO``, 0 for
        kernels ``OIHW``.
    epsilon : float, default 1e-5
        The small number :math:`\epsilon` that prevents a division by 0. PyTorch, Flax and Equinox
        use 1e-5 too.

    Returns
    -------
    weight, bias : jax.Array
        :math:`W'` in the shape of the weight, and :math:`b'`, of shape ``(neurons,)``.

    Raises
    ------
    ValueError
        If a shape does not fit. The normalizations TEBN and BNTT have gains or statistics for each
        time step. They need a weight for each time step and are not supported.

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
    if bias is None:
        bias = 0.0
    centered = of_neurons(bias) - of_neurons(mean)
    return weight * scale.reshape(along), centered * scale + of_neurons(shift)
