"""Learned delays: weights spread over the steps around a real delay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ..._pytree import PyTree
from ..._struct import Real, Struct, parameter
from ._connections import check_real, matrix_of


class DelayKernel(Struct, pure=True):
    r"""Weights with learned delays, for a :class:`~spikegrad.Window`.

    Each weight acts on the outputs of :math:`K` steps, and most on steps near its delay :math:`d`,
    a real number:

    .. math:: M_k &= W \frac{g(k - d)}{\sum_j g(j - d)}, \\
              g(x) &= e^{-x^2 / 2 \sigma^2} \;\text{(gaussian)}, \\
              g(x) &= \max(0,\; 1 + \sigma - |x|) \;\text{(triangular)}.

    A wider kernel extends the range of the gradient of a delay. So training starts with wide
    kernels, shrinks them, and ends with integer delays: :class:`spikegrad.training.ShrinkDelays`
    and :func:`rounded_delays`.

    Parameters
    ----------
    weight : array
        :math:`W`, a matrix ``(inputs, neurons)``.
    delay : float or array
        :math:`d`, in steps, from 0 to :math:`K - 1`. The shape is ``(inputs, neurons)`` for a delay
        per synapse, ``(inputs, 1)`` per axon, ``(1, neurons)`` per dendrite. Pass an array to learn
        it. It should be :func:`~spikegrad.bounded` between 0 and :math:`K - 1`, because a kernel is
        cut off outside.
    length : int
        :math:`K \ge 1`, the number of steps.
    width : float or array, default 1.0
        :math:`\sigma \ge 0`, in steps. It does not get a gradient. With a width of 0 a Gaussian
        kernel has only the nearest step, and a triangular one the two steps around the delay.
    kernel : {"gaussian", "triangular"}
        The shape.

    Raises
    ------
    TypeError, ValueError
        If the weight is not a matrix, or if a number is out of its domain. The values of arrays are
        not checked.

    Notes
    -----
    The library ``dcls`` has the same kernels, with :math:`\sigma` = \|SIG\| + 0.27 for its version
    ``"gauss"`` and :math:`\sigma` = \|SIG\| for ``"max"``. Its position ``P`` is :math:`d = K - 1 -
    (P + \lfloor K/2 \rfloor)`.

    References
    ----------
    Hammouamri, Khalfaoui-Hassani, Masquelier 2024, "Learning delays in spiking neural networks
    using dilated convolutions with learnable spacings", ICLR.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.network import DelayKernel
    >>> kernel = DelayKernel(jnp.ones((1, 1)), delay=2.0, length=5, width=0.5)
    >>> [f"{part:.2f}" for part in jnp.asarray(kernel)[:, 0, 0]]
    ['0.00', '0.11', '0.79', '0.11', '0.00']
    """

    weight: ArrayLike = parameter(kind=object)
    delay: Real = parameter(at_least=0)
    length: int = parameter(integer=True, at_least=1)
    width: Real = parameter(default=1.0, at_least=0)
    kernel: str = parameter(default="gaussian", choices=("gaussian", "triangular"))

    def __post_init__(self) -> None:
        super().__post_init__()
        matrix = matrix_of(self.weight)
        if matrix is None or matrix.ndim < 2:
            raise TypeError(
                f"DelayKernel: weight must be a matrix, got {self.weight!r}"
            )
        check_real("DelayKernel", "weight", matrix)
        if isinstance(self.delay, int | float) and self.delay > self.length - 1:
            raise ValueError(
                f"DelayKernel: delay must be at most length - 1 = {self.length - 1}, got "
                f"{self.delay}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, *matrix_of(self.weight).shape)

    def __jax_array__(self) -> jax.Array:
        weight = jnp.asarray(matrix_of(self.weight))
        dtype = weight.dtype
        delay = jnp.asarray(self.delay, dtype)
        # (lags, inputs, neurons): delays of one number, of the neurons, or of each weight
        # broadcast from the right.
        delay = delay.reshape((1,) * (3 - delay.ndim) + delay.shape)
        # Only the position of a delay is learned. The width follows a schedule (``ShrinkDelays``).
        width = jax.lax.stop_gradient(jnp.asarray(self.width, dtype))
        lags = jnp.arange(self.length, dtype=dtype).reshape(-1, 1, 1)
        away = lags - delay
        if self.kernel == "triangular":
            # JAX differentiates abs(0) from the right, which would pull whole delays to one side
            distance = jnp.where(away == 0, 0, jnp.abs(away))
            spread = jnp.maximum(1 + width - distance, 0)
            total = spread.sum(0, keepdims=True)
            # A delay outside may reach no step.
            spread = spread / jnp.where(total > 0, total, 1)
        else:
            # A softmax stays finite even if all terms underflow.
            spread = jax.nn.softmax(
                -(away**2) / (2 * jnp.where(width > 0, width, 1) ** 2), 0
            )
            # A width of 0 is a single lag. The softmax above would divide by 0 there, so it gets a
            # width of 1, and its result is replaced.
            nearest = jnp.abs(lags - jnp.round(delay)) < 0.5
            spread = jnp.where(width > 0, spread, nearest.astype(dtype))
        return weight[None] * spread


def rounded_delays(tree: PyTree) -> PyTree:
    """Round the delays of a network to integers, for inference.

    Parameters
    ----------
    tree : pytree
        A :class:`~spikegrad.Network`, or another pytree that contains :class:`DelayKernel` objects.

    Returns
    -------
    pytree
        A copy with each delay rounded to the nearest step, and widths of 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.network import DelayKernel, rounded_delays
    >>> kernel = rounded_delays(
    ...     DelayKernel(jnp.ones((1, 1)), delay=jnp.array(1.7), length=4)
    ... )
    >>> jnp.asarray(kernel)[:, 0, 0]
    Array([0., 0., 1., 0.], dtype=float32)
    """

    def is_kernel(leaf):
        return isinstance(leaf, DelayKernel)

    def rounded(leaf):
        if not is_kernel(leaf):
            return leaf
        return leaf._replaced(delay=jnp.round(jnp.asarray(leaf.delay)), width=0.0)

    return jax.tree.map(rounded, tree, is_leaf=is_kernel)
