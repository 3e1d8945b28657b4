"""Initial weights, from the effect of the inputs on a potential.

Without spikes a potential is a weighted sum of inputs that the leaks of the cell have filtered.
Mean and mean square of the filtered inputs determine the weights for a chosen mean and standard
deviation of the potential.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from .._checks import append_axes, brief, is_float
from .._struct import as_real
from .._surrogate import as_key
from ..neurons import Cell, LinearResponse, State, linear_response
from ._connections import times_matrix
from ._masks import Masks, tree_keep
from ._response import Response, measure_response, receptors_of
from ._step import CellSteps, LayerState, Steps, layer_step

Initializer: TypeAlias = Callable[..., jax.Array]
"""``initializer(key, shape, dtype) -> weights``, such as an initializer of ``jax.nn.initializers``.
"""

_LONG = 4096
"""Maximum duration of the response to one spike, in time steps."""
FEEDFORWARD = 0.9
"""Fraction of a potential's variance that comes from the inputs in a recurrent layer, as in the
paper.
"""


def fluctuation_driven(
    cell: Cell,
    rate: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    mean: float = 0.0,
    std: Any = None,
) -> Initializer:
    r"""Create an initializer of normal weights that make the potential fluctuate up to the
    threshold.

    A spike of unit weight leaves the trace :math:`\varepsilon_k` on a potential, k steps later. The
    decays and the gain of :class:`~spikegrad.LIF` and :class:`~spikegrad.SynapticLIF`
    (:math:`\gamma = 0` without a synapse) give its sum and the sum of its squares:

    .. math:: \bar\varepsilon = \frac{g}{(1-\beta)(1-\gamma)}, \qquad
              \hat\varepsilon = \frac{g^2\,(1+\beta\gamma)}{(1-\beta\gamma)(1-\beta^2)(1-\gamma^2)}.

    Take n independent inputs of mean m and mean square q in a step. For spikes of probability p, m
    = q = p. Weights of mean :math:`\mu_w` and variance :math:`\sigma_w^2` give a potential of mean
    :math:`\mu_U = n \mu_w m \bar\varepsilon` and, over neurons, examples and steps, of variance

    .. math:: \sigma_U^2 = n\, (\mu_w^2 + \sigma_w^2)\, (q - m^2)\, \hat\varepsilon
              + n\, \sigma_w^2\, m^2\, \bar\varepsilon^2.

    The first term is the fluctuation of each neuron in time. The second is the difference between
    neurons, because their weights differ. The initializer solves these two equations for
    :math:`\mu_w` and :math:`\sigma_w`.

    Parameters
    ----------
    cell : Cell
        The neurons that get the weights, or a wrapper around them. The response of a cell that does
        not define :meth:`~spikegrad.Cell.linear_response` is measured. A decay may be an array with
        one value per neuron.
    rate : float or array
        The probability p of an input spike per step, above 0, at most 1. Or inputs to measure, in
        the form of a :class:`~spikegrad.Network`: ``(steps, examples, inputs)``, of any kind.
    mask : array of bool, optional
        The valid steps of measured inputs, in the form of a :class:`~spikegrad.Network`.
    mean : float, default 0.0
        :math:`\mu_U`, in the unit of the potential.
    std : float or array, optional
        :math:`\sigma_U > 0`, in the unit of the potential. By default :math:`\theta - \mu_U`, which
        the paper calls :math:`\xi = 1` and uses in its examples. Usual values are one third of it
        up to all of it. A readout has no threshold, and its default is 1.

    Returns
    -------
    callable
        ``initializer(key, shape, dtype)``, like the functions of ``jax.nn.initializers``. The last
        axis of the shape has the neurons. A weighted sum runs over all other axes: ``(inputs,
        neurons)`` for a matrix, ``(height, width, channels, neurons)`` for a convolution. For a
        cell with receptors the shape is ``(inputs, neurons, receptors)``.

    Raises
    ------
    TypeError
        If no state of the cell has the shape of its output, unless the cell defines
        :meth:`~spikegrad.Cell.encode`.
    ValueError
        If the rate is out of its domain, or if all inputs are zero. If inputs of mean 0 cannot give
        the mean, or if equal weights for this mean already exceed the standard deviation. The
        initializer raises it if the shape does not fit the inputs.

    Notes
    -----
    Measured inputs pass the leaks of the cell. The moments of the result replace :math:`m
    \bar\varepsilon` and the terms of the variance. So inputs may be correlated, also between steps.
    A sequence may be too short for a stationary potential. Values may be real: their mean *square*
    matters, so inputs of mean 0 also drive neurons. A number as rate assumes independent spikes and
    a long sequence.

    The paper leaves out the second term of the variance and replaces q - m\ :sup:`2` by q. For rare
    spikes, :math:`p\, \bar\varepsilon^2 \ll \hat\varepsilon`, this makes no difference. For
    frequent spikes most of a potential's variance is between neurons. They would then be further
    from the threshold than requested.

    A cell that does not declare its response runs from rest with a small current in the first step,
    so each potential follows the cell's own equations. This is exact for cells that are linear
    between spikes, and holds for small fluctuations of other cells. If a cell fires without inputs,
    its response lasts until the first spike. Receptors have equal parts of mean and variance.

    In the library's convention the kernel of the paper, with :math:`\bar\varepsilon = \tau_s` and
    :math:`\hat\varepsilon = \tau_s^2 / (2\tau_s + 2\tau_m)`, is the limit of short steps with
    ``norm_input=True``.

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
    return driven(cell, rate, mask, mean, deviation(std, mean), measuring(cell))


def measuring(cell: Cell) -> Callable[[tuple[int, ...], int], Response]:
    """Return :func:`measure_response` of a cell, which runs once for equal arguments."""
    return functools.cache(functools.partial(measure_response, cell))


def driven(
    cell: Cell,
    rate: Any,
    mask: Any,
    mean: Any,
    std: Callable[[Any], Any],
    respond: Callable[..., Response],
) -> Initializer:
    """Return :func:`fluctuation_driven`, with the standard deviation as a function of the
    threshold.
    """
    measured = np.ndim(rate) > 0
    if measured and (np.ndim(rate) < 3 or not np.size(rate)):
        raise ValueError(
            f"fluctuation_driven: inputs must be (steps, examples, inputs), got {np.shape(rate)}"
        )
    p: Any = jnp.asarray(rate) if measured else as_real("fluctuation_driven", "rate", rate)
    mask = None if mask is None else jnp.asarray(mask)
    if not measured:
        if mask is not None:
            raise TypeError(
                "fluctuation_driven: mask requires inputs to measure, got a rate; leave mask out"
            )
        _check(
            p,
            (p > 0) & (p <= 1),
            "rate must be > 0 and <= 1, got {}; for other inputs, pass an array to measure",
        )
    declared = None
    if (response := _declared(cell)) is not None:
        moments = _measure(response, p, mask) if measured else _expect(response, p)
        declared = _checked_moments(moments), std(response.threshold)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = None) -> jax.Array:
        like = _neurons_of(cell, shape)
        summed = shape[: -len(like)]
        n = math.prod(summed)
        if measured and len(summed) == 1 and n != p.shape[-1]:
            raise ValueError(
                f"fluctuation_driven: shape must fit {p.shape[-1]} inputs, got {shape}"
            )
        moments, sigma = declared or _of_kernel(respond, like, p, mask, std)
        parts = (
            like[1] if len(like) > 1 else 1
        )  # receptors have equal parts of the mean and of the variance
        mu, variance = 0.0, sigma**2 / parts
        if not _is_zero(mean):
            if measured and len(summed) != 1:
                raise ValueError(
                    f"fluctuation_driven: mean must be 0 for inputs and shape {shape}, got {mean}"
                )
            _check(
                moments.mean, moments.mean != 0, f"mean must be 0 for inputs of mean 0, got {mean}"
            )
            mu = mean / (parts * n * moments.mean)
            variance = variance - mu**2 * moments.variance_of_sum(n)
            _check(
                variance, variance > 0, f"std is too small: equal weights for mean {mean} exceed it"
            )
        dtype = jnp.result_type(float) if dtype is None else dtype
        normal = jax.random.normal(key, shape, dtype)
        sigma = (variance / (n * moments.square)) ** 0.5
        return _of_neurons(mu, shape, dtype) + _of_neurons(sigma, shape, dtype) * normal

    return initialize


def draw(
    key: jax.Array,
    inputs: Any,
    neurons: int | tuple[int, ...],
    cell: Cell,
    *,
    rate: Any,
    mask: Any,
    mean: float,
    std: Any,
    weight: Initializer | None,
    recurrent: bool | Initializer,
    dtype: Any,
) -> tuple[jax.Array, jax.Array | None]:
    """Draw the input and recurrent weights of a layer, see ``Layer.init``."""
    dtype = jnp.result_type(float) if dtype is None else dtype
    measured = np.ndim(inputs) > 0
    n = np.shape(inputs)[-1] if measured else inputs
    axes: tuple[int, ...] = tuple(np.atleast_1d(neurons).tolist())
    key, key_recurrent, key_spikes = jax.random.split(as_key("Layer.init", key), 3)
    other = weight if recurrent is True else recurrent or None
    if weight is not None:
        matrix = _checked("weight", weight)(key, (n, *axes), dtype)
    elif measured == (rate is not None):
        raise TypeError(
            "Layer.init: pass a number of inputs and a rate, or inputs to measure, or weight"
        )
    else:
        respond, both = measuring(cell), recurrent and other is None
        rate = inputs if measured else rate
        of_inputs = deviation(std, mean, FEEDFORWARD if both else 1.0)
        matrix = driven(cell, rate, mask, mean, of_inputs, respond)(key, (n, *axes), dtype)
        if both:
            if measured:
                rate = _spikes(cell, matrix, jnp.asarray(inputs), mask, key_spikes)
                _check(
                    rate,
                    rate.any(),
                    "no neuron fires, so recurrent weights cannot be scaled; raise std",
                )
            other = driven(cell, rate, mask, 0.0, deviation(std, mean, 1 - FEEDFORWARD), respond)
    if other is None:
        return matrix, None
    return matrix, _checked("recurrent", other)(key_recurrent, (axes[0], *axes), dtype)


def _checked(name: str, initializer: Any) -> Initializer:
    if not callable(initializer):
        raise TypeError(
            f"Layer.init: {name} must be an initializer such as jax's, got {brief(initializer)}"
        )
    return cast("Initializer", initializer)


def deviation(std: Any, mean: Any = 0.0, share: float = 1.0) -> Callable[[Any], Any]:
    """Return the standard deviation of a potential as a function of the threshold.

    ``share`` is the fraction of the variance to keep. The threshold is None for a cell without
    threshold.
    """

    def of_threshold(threshold: Any) -> Any:
        default = 1.0 if threshold is None else threshold - mean
        sigma = _numbers(default if std is None else std, "std")
        _check(sigma, sigma > 0, "std must be > 0, got {}")
        return sigma * share**0.5

    return of_threshold


def _of_neurons(value: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Reshape a number, or one number per neuron and receptor, to the axes of weights."""
    value = jnp.asarray(value, dtype)
    return value.reshape((1,) * (len(shape) - value.ndim) + value.shape)


def _neurons_of(cell: Cell, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the neurons of weights of this shape, and their receptors if the cell has an axis for
    these.
    """
    has_receptors = _declared(cell) is None and receptors_of(cell, shape)
    return shape[-2:] if has_receptors else shape[-1:]


class _Moments(NamedTuple):
    """Moments of inputs that have passed the leaks. Each is a number, or one number per neuron."""

    mean: Any
    """The mean of an input."""
    square: Any
    """The mean square of an input."""
    variance_of_sum: Callable[[int], Any]
    """The variance of the sum of a number of inputs."""


class _Leaks(NamedTuple):
    """A cell without spikes, one step of its linear response. Its output is the potential."""

    decay: Any
    synaptic_decay: Any
    gain: Any

    def current(self, inputs: jax.Array) -> jax.Array:
        return inputs

    def integrate(self, v: State, current: jax.Array) -> State:
        u, i = v
        i = self.synaptic_decay * i + current.astype(i.dtype)
        return self.decay * u + self.gain * i, i

    def fire(self, u: State, number: Any, active: Any = None) -> LayerState:
        return u, u[0]


def _declared(cell: Cell) -> LinearResponse | None:
    response = linear_response(cell)
    if response is None:
        return None
    numbers = {
        name: _numbers(value, name)
        for name, value in response._asdict().items()
        if value is not None
    }
    return response._replace(**numbers)


def _numbers(value: Any, name: str) -> Any:
    """Return a checked number, or one number per neuron."""
    value = as_real("fluctuation_driven", name, value)
    if np.ndim(value) > 1:
        raise ValueError(
            f"fluctuation_driven: {name} must be a number or one for each neuron, got "
            f"{np.shape(value)}"
        )
    return value if isinstance(value, float) else jnp.asarray(value, jnp.result_type(float))


def _checked_moments(moments: _Moments) -> _Moments:
    _check(
        moments.square, jnp.isfinite(moments.square), "inputs must be finite, got NaN or infinity"
    )
    _check(
        moments.square, moments.square > 0, "inputs are all 0, so no weights can drive the neurons"
    )
    return moments


def _expect(response: LinearResponse, p: Any) -> _Moments:
    """Return the moments of independent spikes in long sequences.

    Their first steps are neglected.
    """
    b, g, c, _ = response
    for value in (b, c):
        _check(value, value < 1, "decay must be < 1 for a rate, got {}; pass inputs to measure")
    total = g / ((1 - b) * (1 - c))
    squares = g**2 * (1 + b * c) / ((1 - b * c) * (1 - b**2) * (1 - c**2))
    return _of_spikes(p, total, squares)


def _of_spikes(p: Any, total: Any, squares: Any) -> _Moments:
    """Return the moments of spikes of probability p, from the sums of a response and of its
    squares.
    """
    variance = (p - p**2) * squares
    return _Moments(p * total, variance + (p * total) ** 2, lambda n: n * variance)


def _measure(response: LinearResponse, inputs: jax.Array, mask: Any) -> _Moments:
    """Measure the moments of inputs ``(steps, examples, ..., inputs)``."""
    b, g, c, _ = response
    leaks = [jnp.asarray(value, jnp.result_type(float)) for value in (b, c, g)]
    per_neuron = any(value.ndim for value in leaks)
    return _of_sums(
        _of_each(jnp.broadcast_arrays(*leaks), inputs, mask)
        if per_neuron
        else _sums(leaks, inputs, mask),
        inputs,
        mask,
    )


def _of_sums(sums: Sequence[jax.Array], inputs: jax.Array, mask: Any) -> _Moments:
    """Return the moments, from sums of the total over inputs, its square, and the squares of
    inputs.
    """
    count = math.prod(inputs.shape[2:-1]) * math.prod(inputs.shape[:2])
    if mask is not None:
        count = count * jnp.broadcast_to(_wide(mask), inputs.shape[:2]).mean(dtype=sums[0].dtype)
    total, total_square, square = (value / count for value in sums)
    n = inputs.shape[-1]
    return _Moments(total / n, square / n, lambda _: total_square - total**2)


def _of_kernel(
    respond: Callable[..., Response], like: tuple[int, ...], rate: Any, mask: Any, std: Callable
) -> tuple[_Moments, Any]:
    """Return the moments and the standard deviation for a measured cell, with the axes ``like``."""
    inputs = rate if np.ndim(rate) else None
    kernel, threshold = respond(like, _LONG if inputs is None else len(inputs))
    if inputs is None:
        squares = (kernel**2).sum(0)
        late = (kernel[-_LONG // 4 :] ** 2).sum(0)
        message = f"the response must end within {_LONG} steps; pass inputs to measure"
        _check(late, late <= 1e-6 * squares, message)
        moments = _of_spikes(rate, kernel.sum(0), squares)
    else:
        rows, positions = _distinct(kernel.reshape(len(kernel), -1).T)
        sums = [
            value[positions].reshape(kernel.shape[1:]) for value in _convolved(rows, inputs, mask)
        ]
        moments = _of_sums(sums, inputs, mask)

    def arranged(value):  # (receptors, neurons) -> (neurons, receptors), or (neurons,)
        return value.T if len(like) > 1 else value[0]

    arranged_moments = _Moments(
        arranged(moments.mean),
        arranged(moments.square),
        lambda n: arranged(moments.variance_of_sum(n)),
    )
    sigma = std(threshold)
    return _checked_moments(arranged_moments), jnp.asarray(sigma)[..., None] if len(
        like
    ) > 1 and np.ndim(sigma) else sigma


@jax.jit
def _convolved(kernel: jax.Array, inputs: jax.Array, mask: Any) -> list[jax.Array]:
    """Return the sums of :func:`_sums` for each kernel, of shape ``(kernels, steps)``.

    One example at a time, because a transform of all inputs would take much memory.
    """
    steps, examples = inputs.shape[:2]
    active = jnp.ones((steps, 1), bool) if mask is None else _wide(mask)
    active = jnp.broadcast_to(active, (steps, examples))

    def of_example(now):
        x, active = now
        # Sort valid steps first, so masked steps do not affect them. Zeros after them have no
        # effect either.
        x = jnp.where(append_axes(active, x.ndim), x, jnp.zeros_like(x))[
            jnp.argsort(~active, stable=True)
        ]
        valid = jnp.arange(steps) < active.sum()
        spectrum = jnp.fft.rfft(x.astype(kernel.dtype), 2 * steps, axis=0)

        def of_kernel(k):
            response = append_axes(jnp.fft.rfft(k, 2 * steps), x.ndim)
            u = jnp.fft.irfft(spectrum * response, axis=0)[:steps]
            u = jnp.where(append_axes(valid, x.ndim), u, 0)
            total = u.sum(-1)
            return total.sum(), (total**2).sum(), (u**2).sum()

        return jax.lax.map(of_kernel, kernel)

    return [
        value.sum(0) for value in jax.lax.map(of_example, (jnp.moveaxis(inputs, 1, 0), active.T))
    ]


@jax.jit
def _sums(leaks: Sequence[jax.Array], inputs: jax.Array, mask: Any) -> tuple[jax.Array, ...]:
    """Sum filtered inputs over steps and examples: their total over inputs, its square, and the
    squares.
    """

    def look(_, u):
        total = u.sum(-1)
        return total.sum(), (total**2).sum(), (u**2).sum()

    zeros = jnp.zeros(inputs.shape[1:], jnp.result_type(float))
    return tuple(
        sums.sum()
        for sums in _over_steps(_Leaks(*leaks), ((zeros, zeros), zeros), inputs, mask, look)
    )


def _of_each(leaks: Sequence[jax.Array], inputs: jax.Array, mask: Any) -> tuple[jax.Array, ...]:
    """Compute :func:`_sums` for the decays of each neuron, once per distinct row of decays."""
    rows, positions = _distinct(jnp.stack(leaks, 1))
    out = jax.lax.map(lambda row: _sums(list(row), inputs, mask), rows)
    return tuple(value[positions] for value in out)


def _distinct(rows: jax.Array) -> tuple[jax.Array, Any]:
    """Return the distinct rows and the position of each row among them.

    Traced rows count as distinct.
    """
    if isinstance(rows, Tracer):
        return rows, slice(None)
    unique, positions = np.unique(np.asarray(rows), axis=0, return_inverse=True)
    return jnp.asarray(unique), positions.reshape(-1)


def _spikes(
    cell: Cell, matrix: jax.Array, inputs: jax.Array, mask: Any, key: jax.Array
) -> jax.Array:
    """Return the inputs of recurrent weights, ``(steps, examples, neurons)``: outputs of the last
    valid step.
    """
    layer = CellSteps(
        cell, lambda x: times_matrix(x, matrix), functools.partial(jax.random.fold_in, key)
    )
    v = jax.tree.map(
        jnp.asarray, cell.initial_state((*inputs.shape[1:-1], *matrix.shape[1:]), matrix.dtype)
    )
    start = v, jnp.zeros_like(layer.fire(v, 0)[1])
    mask = None if mask is None else jnp.asarray(mask)
    return tree_keep(mask, _over_steps(layer, start, inputs, mask, lambda before, _: before))


def _over_steps(
    layer: Steps, start: LayerState, inputs: jax.Array, mask: Any, look: Callable
) -> Any:
    """Return ``look(previous output, output)`` of each step."""

    def turn(state, now):
        number, x, active = now
        x = x if is_float(x) else x.astype(jnp.result_type(float))
        after = layer_step(layer, state, x, Masks(active, number=number))
        return after.state, look(state[1], after.output)

    return jax.lax.scan(turn, start, (jnp.arange(len(inputs)), inputs, mask))[1]


def _wide(mask: jax.Array) -> jax.Array:
    return mask if mask.ndim > 1 else mask[:, None]


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tracer) and not np.any(np.asarray(value))


def _check(value: Any, holds: Any, message: str) -> None:
    """Raise unless ``holds`` is true everywhere. Traced values are not checked."""
    if not isinstance(holds, Tracer) and not np.all(holds):
        raise ValueError(f"fluctuation_driven: {message.format(brief(value))}")
