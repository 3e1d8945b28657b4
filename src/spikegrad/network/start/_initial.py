"""Initial weights, from the effect of the inputs on a potential.

Without spikes a potential is a weighted sum of inputs that the leaks of the cell have filtered.
Mean and mean square of the filtered inputs determine the weights for a chosen mean and standard
deviation of the potential.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from ..._checks import append_axes, brief
from ..._compat import evaluated
from ..._struct import Real
from ...neurons import Cell, LinearResponse, linear_response
from ..graph._connections import check_real
from ._response import Response, measure_response, receptors_of

Initializer: TypeAlias = Callable[..., jax.Array]
"""``initializer(key, shape, dtype) -> weights``, such as an initializer of ``jax.nn.initializers``.
"""

_LONG = 4096
"""Maximum duration of the response to one spike, in time steps."""


def fluctuation_driven(
    cell: Cell,
    rate: Real,
    *,
    mask: ArrayLike | None = None,
    mean: float = 0.0,
    std: Real | None = None,
) -> Initializer:
    r"""Create an initializer of random weights that make the potential fluctuate up to the
    threshold, so neurons spike before training.

    The weights are normally distributed. You choose the mean and the standard deviation of the
    potential that they give. To draw the weights of a layer or a network, use
    :meth:`spikegrad.Layer.init`, :meth:`spikegrad.Network.init` or :func:`draw_weights`, which call
    this function. The computation follows.

    An input spike with weight 1 changes the potential k time steps later by :math:`\varepsilon_k`.
    The sum :math:`\bar\varepsilon` of these numbers and the sum :math:`\hat\varepsilon` of their
    squares follow from the cell. For :class:`~spikegrad.SynapticLIF` with the decays :math:`\beta`
    and :math:`\gamma` and the input gain g, and for :class:`~spikegrad.LIF` with :math:`\gamma =
    0`, they are:

    .. math:: \bar\varepsilon = \frac{g}{(1-\beta)(1-\gamma)}, \qquad
              \hat\varepsilon = \frac{g^2\,(1+\beta\gamma)}{(1-\beta\gamma)(1-\beta^2)(1-\gamma^2)}.

    Suppose that a neuron has n independent inputs, whose values have the mean m and the mean square
    q. For spikes with probability p, m and q equal p. Weights of mean :math:`\mu_w` and variance
    :math:`\sigma_w^2` then give a potential of mean :math:`\mu_U = n \mu_w m \bar\varepsilon`. Its
    variance over neurons, examples and time steps is

    .. math:: \sigma_U^2 = n\, (\mu_w^2 + \sigma_w^2)\, (q - m^2)\, \hat\varepsilon
              + n\, \sigma_w^2\, m^2\, \bar\varepsilon^2.

    The first term is the fluctuation of each neuron in time. The second is the difference between
    neurons, because their weights differ. The initializer solves these two equations for
    :math:`\mu_w` and :math:`\sigma_w`.

    Parameters
    ----------
    cell : Cell
        The neurons that get the weights, or a wrapper around them. If a cell does not define
        :meth:`~spikegrad.Cell.linear_response`, its response to a small input is measured. A decay
        may be an array with one value per neuron.
    rate : float or array
        The probability p of an input spike per time step, above 0 and at most 1. Or a batch of
        inputs to measure, ``(steps, examples, inputs)``, which may be spikes or real numbers.
    mask : array of bool, optional
        The valid time steps of measured inputs, ``(steps, examples)``: False for padding.
    mean : float, default 0.0
        The mean :math:`\mu_U` of the potential without spikes, in the unit of the potential.
    std : float or array, optional
        The standard deviation :math:`\sigma_U` of the potential without spikes, above 0, in the
        unit of the potential. By default it is the threshold minus the mean, as in the examples of
        the paper (:math:`\xi = 1` there). Usual values are between one third of this default and
        the default. A readout has no threshold, and its default is 1.

    Returns
    -------
    callable
        An initializer ``initializer(key, shape, dtype)`` like the functions of
        ``jax.nn.initializers``, which returns the weights. The last axis of ``shape`` is the
        neurons: ``(inputs, neurons)`` for a matrix, ``(height, width, channels, neurons)`` for a
        convolution. All other axes are inputs of a neuron. For a cell with receptors, the shape is
        ``(inputs, neurons, receptors)``.

    Raises
    ------
    TypeError
        If the first array of the cell's state does not have the shape of its output, unless the
        cell defines :meth:`~spikegrad.Cell.encode`.
    ValueError
        If ``rate`` is outside its range, or if all inputs are zero. Also if ``mean`` is not 0 for
        inputs of mean 0, or if ``std`` is too small for ``mean``: equal weights for this mean would
        exceed it.

    Notes
    -----
    A number as ``rate`` assumes independent spikes and a long sequence. Measured inputs may also be
    correlated, or too short for a stationary potential, because the decays of the cell are applied
    to the inputs themselves. The mean and the variance of the result then replace the terms of the
    formulas. Inputs may be real numbers, also with mean 0.

    The paper leaves out the second term of the variance and replaces q - m\ :sup:`2` by q. For rare
    spikes, :math:`p\, \bar\varepsilon^2 \ll \hat\varepsilon`, the result is equal. For frequent
    spikes, most of the variance of the potential is between neurons. With the formula of the paper,
    the standard deviation would then be larger than requested.

    If a cell does not define ``linear_response``, it runs from rest with a small input in the first
    time step. The change of the potential over time is its response. This is exact for cells that
    are linear between spikes, and approximate for other cells. If a cell spikes without inputs, its
    response ends at the first spike. All receptors contribute equal parts of mean and variance.

    The paper has :math:`\bar\varepsilon = \tau_s` and :math:`\hat\varepsilon = \tau_s^2 / (2\tau_s
    + 2\tau_m)`, with the time constants of synapse and membrane. The formulas above approach these
    values for short time steps and ``norm_input=True``.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.network import fluctuation_driven
    >>> spikes = jax.random.bernoulli(jax.random.key(0), 0.05, (200, 16, 100))
    >>> initializer = fluctuation_driven(LIF(0.9), 0.05)
    >>> weight = initializer(jax.random.key(1), (100, 50))
    >>> print(f"{weight.std():.2f}")
    0.14
    >>> network = Network([Layer(weight, LIF(0.9, reset="none"))])
    >>> _, activity = network.observe(spikes)
    >>> bool(abs(activity[0].potential[50:].std() - 1) < 0.1)
    True
    """
    respond = functools.partial(measure_response, cell)
    return Driven(cell, checked_rate(rate), mask, mean, std, respond)


def checked_rate(rate: Real) -> Real:
    """Return a checked number, or the inputs to measure as an array."""
    if np.ndim(rate):
        if np.ndim(rate) < 3 or not np.size(rate):
            raise ValueError(
                "fluctuation_driven: inputs must be (steps, examples, inputs), got "
                f"{np.shape(rate)}"
            )
        inputs = jnp.asarray(rate)
        check_real("fluctuation_driven", "inputs", inputs)
        return inputs
    _check(
        rate,
        (rate > 0) & (rate <= 1),
        "rate must be > 0 and <= 1, got {}; for other inputs, pass an array to measure",
    )
    return rate


class Driven(NamedTuple):
    """The initializer of :func:`fluctuation_driven`, also for one of several sources."""

    cell: Cell
    rate: Any
    """The probability of a spike, or inputs ``(steps, examples, ..., inputs)``."""
    mask: ArrayLike | None
    mean: float
    std: Real | None
    respond: Callable[..., Response]
    """:func:`measure_response` of the cell, with a memory for several weights."""
    share: float = 1.0
    """The part of the variance of the potential that these weights give."""
    mean_share: float = 1.0
    """The part of its mean that they give."""

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike | None = None
    ) -> jax.Array:
        declared = _on_host(linear_response(self.cell))
        # A declared response has no axis of receptors, so only measured cells can have one.
        has_receptors = declared is None and receptors_of(self.cell, shape)
        # ``summed`` are the axes of the weighted sum, such as (inputs,) or (height, width,
        # channels).
        axes = 2 if has_receptors else 1
        like = shape[-axes:]
        summed = shape[:-axes]
        n = math.prod(summed)
        moments, threshold = self._moments(declared, like)
        square = moments.square
        _check(
            square,
            (square > 0) & (square < np.inf),
            "inputs must be finite and not all 0, because no weights can then drive the neurons; "
            "for recurrent weights raise std",
        )
        sigma = self._deviation(threshold)
        if has_receptors and np.ndim(sigma):
            sigma = sigma[:, None]
        # receptors have equal parts of the mean and of the variance
        parts = like[1] if has_receptors else 1
        mu = 0.0
        variance = sigma**2 / parts
        mean = self.mean * self.mean_share
        has_mean = isinstance(mean, Tracer) or np.any(np.asarray(mean))
        if has_mean:
            if np.ndim(self.rate) and len(summed) != 1:
                raise ValueError(
                    f"fluctuation_driven: mean must be 0 for inputs and shape {shape}, got {mean}"
                )
            _check(
                moments.mean,
                moments.mean != 0,
                f"mean must be 0 for inputs of mean 0, got {mean}",
            )
            # The equation of the mean in the docstring, solved for the mean of the weights.
            # Each receptor gives an equal part of it.
            mu = mean / (parts * n * moments.mean)
            # Equal weights already have this part of the variance, because inputs fluctuate
            # together. The rest is left for the random part of the weights.
            variance = variance - mu**2 * n * moments.variance
            _check(
                variance,
                variance > 0,
                f"std is too small: equal weights for mean {mean} exceed it",
            )
        dtype = jnp.result_type(float) if dtype is None else dtype
        # The equation of the variance, solved for the deviation of the weights. ``square`` has
        # the factor of the random weights, fluctuation and difference between neurons.
        sigma = (variance / (n * square)) ** 0.5
        return _normal(key, mu, sigma, tuple(shape), jnp.dtype(dtype))

    def _moments(
        self, declared: LinearResponse | None, like: tuple[int, ...]
    ) -> tuple[_Moments, Real | None]:
        """Return the moments of the inputs, and the distance of the threshold."""
        measured = np.ndim(self.rate) > 0
        if declared and not measured:
            # The closed form needs no sequence. It holds for independent spikes and a
            # stationary potential only, so measured inputs pass the kernel instead.
            return _of_long_response(declared, self.rate), declared.threshold
        # A measured sequence sees no more of the response than its length.
        steps = len(self.rate) if measured else _LONG
        # (steps, neurons), or (steps, neurons, receptors)
        if declared:
            decay, gain, synaptic_decay, threshold = declared
            kernel = _kernel_of(decay, gain, synaptic_decay, steps)
        else:
            kernel, threshold = self.respond(like, steps)
            kernel = kernel.swapaxes(1, 2).reshape(steps, *like)
        kernel, threshold = _on_host((kernel, threshold))
        # A gain of 0, or a cell that loses all small currents.
        _check(
            kernel,
            (kernel != 0).any(0),
            f"{type(self.cell).__name__} must respond to a small current at rest within "
            f"{steps} steps; define linear_response, or pass weights",
        )
        if not measured:
            return _of_short_response(kernel, self.rate), threshold
        # Neurons with equal leaks have equal kernels. Each costs one transform of all inputs.
        kernels, positions = _distinct(kernel.reshape(steps, -1).T)
        by_kernel = _on_host(_of_inputs(kernels, self.rate, self.mask))
        axes = kernel.shape[1:]
        moments = jax.tree.map(lambda a: a[positions].reshape(axes), by_kernel)
        return moments, threshold

    def _deviation(self, threshold: Real | None) -> Any:
        """Return the standard deviation of the potential. A readout has no threshold."""
        default = 1.0 if threshold is None else threshold - self.mean
        sigma = default if self.std is None else self.std
        _check(sigma, sigma > 0, "std must be > 0, got {}")
        # ``share`` is a part of the variance, hence the root.
        return sigma * self.share**0.5


@functools.partial(jax.jit, static_argnums=(3, 4))
def _normal(
    key: jax.Array, mean: Real, std: Real, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    """Draw normal weights. Mean and deviation are numbers, or have one for each neuron and
    receptor.
    """
    normal = jax.random.normal(key, shape, dtype)
    with jax.numpy_rank_promotion("allow"):
        return jnp.asarray(mean, dtype) + jnp.asarray(std, dtype) * normal


def _on_host(tree: Any) -> Any:
    """Return known arrays as NumPy arrays, because JAX compiles each operation on its own arrays.

    Traced arrays stay.
    """
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, Tracer) else jax.device_get(leaf), tree
    )


class _Moments(NamedTuple):
    """Moments of inputs that have passed the leaks.

    Each is a number, or has one for each neuron, or is ``(neurons, receptors)``.
    """

    mean: Any
    """The mean of an input."""
    square: Any
    """The mean square of an input."""
    variance: Any
    """The variance of the sum of all inputs, over their number."""


def _of_long_response(response: LinearResponse, p: Real) -> _Moments:
    """Return the moments of independent spikes in long sequences, from the formulas."""
    b, g, c, _ = response
    for value in (b, c):
        _check(
            value,
            value < 1,
            "decay must be < 1 for a rate, got {}; pass inputs to measure",
        )
    total = g / ((1 - b) * (1 - c))
    # The sum of squares of a difference of two exponentials, ``\hat\varepsilon`` of the
    # docstring.
    divisor = (1 - b * c) * (1 - b**2) * (1 - c**2)
    squares = g**2 * (1 + b * c) / divisor
    return _of_spikes(p, total, squares)


def _of_short_response(kernel: Any, p: Real) -> _Moments:
    """Return the moments of independent spikes, from a response that has ended."""
    squares = (kernel**2).sum(0)
    # The sums are cut off after the last step. A response that still has weight in the last
    # quarter would give too small moments.
    last_quarter = kernel[-_LONG // 4 :]
    late = (last_quarter**2).sum(0)
    message = f"the response must end within {_LONG} steps; pass inputs to measure"
    _check(late, late <= 1e-6 * squares, message)
    return _of_spikes(p, kernel.sum(0), squares)


def _of_spikes(p: Real, total: Any, squares: Any) -> _Moments:
    """Return the moments of spikes of probability p, from the sums of a response and of its
    squares.
    """
    # A Bernoulli variable has variance p (1 - p). Different steps are independent, so the
    # variances of all lags add up.
    variance = (p - p**2) * squares
    mean = p * total
    return _Moments(mean, variance + mean**2, variance)


@evaluated
@functools.partial(jax.jit, static_argnums=3)
def _kernel_of(decay: Real, gain: Real, synaptic_decay: Real, steps: int) -> jax.Array:
    """Return the response of each neuron to one spike, ``(steps, neurons)``."""
    dtype = jnp.result_type(float)
    parameters = decay, gain, synaptic_decay
    by_neuron = (jnp.atleast_1d(jnp.asarray(value, dtype)) for value in parameters)
    decay, gain, synaptic_decay = jnp.broadcast_arrays(*by_neuron)

    def step(v, current):
        u, i = v
        i = synaptic_decay * i + current
        u = decay * u + gain * i
        return (u, i), u

    pulse = jnp.zeros(steps, dtype).at[0].set(1)
    at_rest = jnp.zeros_like(decay)
    _, kernel = jax.lax.scan(step, (at_rest, at_rest), pulse)
    return kernel


@jax.jit
def _of_inputs(
    kernels: jax.Array, inputs: jax.Array, mask: ArrayLike | None
) -> _Moments:
    """Measure the moments of inputs ``(steps, examples, ..., inputs)``, for each kernel of
    ``(kernels, steps)``.

    One example at a time, because a transform of all inputs would take much memory.
    """
    steps, examples = inputs.shape[:2]
    active = jnp.asarray(True if mask is None else mask)
    active = jnp.broadcast_to(append_axes(active, 2), (steps, examples))

    def of_example(now):
        x, active = now
        x = jnp.where(append_axes(active, x.ndim), x, jnp.zeros_like(x))
        # Sort valid steps first, so masked steps do not affect them. Zeros after them have no
        # effect either.
        valid_first = jnp.argsort(~active, stable=True)
        x = x[valid_first].astype(kernels.dtype)
        valid = jnp.arange(steps) < active.sum()
        # Twice the length, because a product of transforms is a circular convolution. The
        # padding keeps the end of a response from the start of the sequence.
        length = 2 * steps
        spectrum = jnp.fft.rfft(x, length, axis=0)

        def of_kernel(kernel):
            response = append_axes(jnp.fft.rfft(kernel, length), x.ndim)
            u = jnp.fft.irfft(spectrum * response, axis=0)[:steps]
            u = jnp.where(append_axes(valid, x.ndim), u, 0)
            total = u.sum(-1)
            # ``total``, the sum over the inputs, gives the moments for equal weights. The
            # squares of the single inputs give the moment for independent ones.
            return total.sum(), (total**2).sum(), (u**2).sum()

        return jax.lax.map(of_kernel, kernels)

    by_example = jnp.moveaxis(inputs, 1, 0), active.T
    sums = jax.lax.map(of_example, by_example)
    # Axes between examples and inputs, such as the places of an image, count like further
    # examples.
    places = math.prod(inputs.shape[2:-1])
    count = places * active.sum(dtype=kernels.dtype)
    total, total_square, square = (value.sum(0) / count for value in sums)
    n = inputs.shape[-1]
    return _Moments(
        mean=total / n,
        square=square / n,
        variance=(total_square - total**2) / n,
    )


def _distinct(rows: Any) -> tuple[Any, slice | np.ndarray]:
    """Return the distinct rows and the position of each row among them.

    Traced rows count as distinct.
    """
    if isinstance(rows, Tracer):
        return rows, slice(None)
    unique, positions = np.unique(rows, axis=0, return_inverse=True)
    return unique, positions.reshape(-1)


def _check(value: Any, holds: Any, message: str) -> None:
    """Raise unless ``holds`` is true everywhere. Traced values are not checked."""
    if not isinstance(holds, Tracer) and not np.all(holds):
        raise ValueError(f"fluctuation_driven: {message.format(brief(value))}")
