"""Learned delays: weights spread over the steps around a real delay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ..._pytree import PyTree
from ..._struct import Real, Struct, parameter
from ._connections import check_real, matrix_of


class DelayKernel(Struct, pure=True):
    r"""Weights with a learned delay for each synapse, as the weight of a
    :class:`~spikegrad.Window`.

    A weight :math:`W` with the delay :math:`d`, a real number, acts on the last :math:`K` outputs
    of its source. It acts most on the output :math:`d` time steps ago. The array :math:`M_k`
    multiplies the output :math:`k` time steps ago:

    .. math:: M_k &= W \frac{g(k - d)}{\sum_j g(j - d)}, \\
              g(x) &= e^{-x^2 / 2 \sigma^2} \;\text{(gaussian)}, \\
              g(x) &= \max(0,\; 1 + \sigma - |x|) \;\text{(triangular)}.

    With a wider kernel, the gradient of a delay depends on more time steps, so it finds better
    delays that are further away. Therefore start training with a wide kernel, and shrink it with
    the callback :class:`spikegrad.training.ShrinkDelays`. After training, round the delays to
    integers with :func:`rounded_delays`.

    Parameters
    ----------
    weight : array
        The weights :math:`W`, a matrix ``(inputs, neurons)``.
    delay : float or array
        The delays :math:`d` in time steps, at least 0 and at most :math:`K - 1`. The shape is
        ``(inputs, neurons)`` for a delay of each synapse, ``(inputs, 1)`` for a delay of each
        input, or ``(1, neurons)`` for a delay of each neuron. To train delays, pass
        ``bounded(delays, 0, K - 1)`` with :func:`spikegrad.bounded`. It keeps them between the
        limits, because the kernel reaches no further.
    length : int
        The number :math:`K` of outputs that the window reads, an integer of at least 1.
    width : float or array, default 1.0
        The width :math:`\sigma` of the kernel in time steps, at least 0. It gets no gradient. With
        0, a Gaussian kernel acts on the nearest time step only, and a triangular kernel on the two
        time steps around the delay.
    kernel : {"gaussian", "triangular"}
        The shape :math:`g` of the kernel, by default ``"gaussian"``.

    Raises
    ------
    TypeError, ValueError
        If ``weight`` is not a matrix, or if a number is outside its range. JAX arrays are not
        checked, because they may be traced.

    Notes
    -----
    The library ``dcls`` has these kernels too, with :math:`\sigma` = \|SIG\| + 0.27 for its version
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
        longest = self.length - 1
        if isinstance(self.delay, int | float) and self.delay > longest:
            raise ValueError(
                f"DelayKernel: delay must be at most length - 1 = {longest}, got "
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
        missing_axes = (1,) * (3 - delay.ndim)
        delay = delay.reshape(missing_axes + delay.shape)
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
            # A width of 0 is a single lag. The softmax would divide by 0 there, so it gets a width
            # of 1, and its result is replaced.
            safe_width = jnp.where(width > 0, width, 1)
            # A softmax stays finite even if all terms underflow.
            spread = jax.nn.softmax(-(away**2) / (2 * safe_width**2), 0)
            nearest = jnp.abs(lags - jnp.round(delay)) < 0.5
            spread = jnp.where(width > 0, spread, nearest.astype(dtype))
        return weight[None] * spread


def rounded_delays(tree: PyTree) -> PyTree:
    """Round the learned delays of a network to integers, for inference after training.

    Parameters
    ----------
    tree : pytree
        A :class:`~spikegrad.Network`, or another pytree that contains :class:`DelayKernel` objects.

    Returns
    -------
    pytree
        A copy in which each delay is rounded to the nearest time step, and each kernel has the
        width 0.

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

    def rounded(kernel: DelayKernel) -> DelayKernel:
        delay = jnp.round(jnp.asarray(kernel.delay))
        return kernel._replaced(delay=delay, width=0.0)

    return map_kernels(rounded, tree)


def is_kernel(leaf: object) -> bool:
    """Return True for weights with learned delays."""
    return isinstance(leaf, DelayKernel)


def map_kernels(change: Callable[[DelayKernel], Any], tree: PyTree) -> PyTree:
    """Change the weights with learned delays. Everything else stays."""

    def changed(leaf: Any) -> Any:
        return change(leaf) if is_kernel(leaf) else leaf

    return jax.tree.map(changed, tree, is_leaf=is_kernel)
