"""Losses of outputs over time: reductions, targets, spike times and spike trains."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from .._checks import (
    append_axes,
    brief,
    broadcast_checked,
    compute_dtype,
    is_float,
    order_of_axes,
    real_array,
)
from .._struct import Domain

REDUCTIONS = ("mean", "sum", "max", "last", "softmax_sum")

Pair: TypeAlias = tuple[jax.Array, jax.Array]
"""Two arrays ``(examples, neurons)`` in a loop over steps."""


def reduce_time(
    outputs: ArrayLike, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    r"""Reduce outputs over time to one score for each class, for example for a cross-entropy.

    Parameters
    ----------
    outputs : array_like
        Spikes or potentials of the last layer, ``(steps, examples, classes)``. You can also pass
        losses of each time step, ``(steps, examples)``.
    reduction : {"mean", "sum", "max", "last", "softmax_sum"}
        The operation over the valid time steps:

        - ``"mean"`` (default), ``"sum"`` or ``"max"``,
        - ``"last"``, the last valid time step,
        - ``"softmax_sum"``, the sum of :math:`\operatorname{softmax}(o_t)`, with the outputs
          :math:`o_t` of a time step.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding. By default
        all.

    Returns
    -------
    jax.Array
        The scores ``(examples, classes)``. They are 0 for an example without a valid time step.

    Raises
    ------
    ValueError
        If the reduction is unknown, if the outputs have no time steps, or if the shape of the mask
        does not fit.
    TypeError
        If the outputs are not real, or if the mask is not boolean.

    Notes
    -----
    With ``"max"``, the gradient flows to the time step with the maximum. If several time steps have
    it, each gets an equal part.

    With ``"softmax_sum"``, a cross-entropy cannot reach 0. For ``T`` time steps and ``C`` classes,
    it is at least :math:`\ln(1 + (C - 1) e^{-T})`. So expect larger losses for few time steps.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from spikegrad.losses import reduce_time
    >>> # 3 steps, 1 example, 2 classes
    >>> potentials = jnp.array([[[0.0, 1.0]], [[2.0, 1.0]], [[9.0, 9.0]]])
    >>> mask = jnp.array([True, True, False])
    >>> reduce_time(potentials, "mean", mask), reduce_time(potentials, "last", mask)
    (Array([[1., 1.]], dtype=float32), Array([[2., 1.]], dtype=float32))
    >>> labels = jnp.array([0])
    >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    >>> loss = cross_entropy(reduce_time(potentials, "max", mask), labels)
    >>> print(f"{loss.mean():.3f}")
    0.313

    The cross-entropy of each step, averaged over the valid steps:

    >>> each = jax.vmap(cross_entropy, (0, None))(potentials, labels)
    >>> print(f"{reduce_time(each, 'mean', mask).mean():.3f}")
    0.813
    """
    x, valid = over_time("reduce_time", "outputs", outputs, mask)
    Domain(choices=REDUCTIONS).check("reduce_time", "reduction", reduction)
    if reduction == "last":
        return _at(x, _last(valid), valid)
    if reduction == "max":
        # Masked steps are 0 here, which would win over negative potentials.
        largest = jnp.where(valid, x, -jnp.inf).max(0)
        # An example without a valid step has no maximum.
        return jnp.where(valid.any(0), largest, 0)
    if reduction == "softmax_sum":
        x = jax.nn.softmax(x, axis=-1)
    # Again, because a softmax of masked steps is not 0.
    total = jnp.where(valid, x, 0).sum(0)
    if reduction == "mean":
        return total / _count(valid, x)
    return total


def count_error(
    spikes: ArrayLike,
    labels: ArrayLike,
    correct: float,
    incorrect: float = 0.0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    r"""Compute the mean squared error of spike counts, as a loss for classification.

    .. math:: \big\langle (n_c - \hat n_c)^2 \big\rangle

    Here :math:`n_c` is the number of spikes of the output neuron of class ``c`` in a sequence, and
    :math:`\hat n_c` is its target. The mean is over examples and classes.

    Parameters
    ----------
    spikes : array_like
        Spikes of the last layer, ``(steps, examples, classes)``.
    labels : array_like of int
        The class of each example, integers ``(examples,)``.
    correct, incorrect : float
        The target counts: ``correct`` for the neuron of the right class, and ``incorrect`` for all
        others, in spikes per sequence.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding. By default
        all.

    Returns
    -------
    jax.Array
        The loss, one number.

    Raises
    ------
    ValueError, TypeError
        As in :func:`reduce_time`. Also if ``spikes`` have no axis of classes, or if ``labels`` are
        not one integer per example.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import count_error
    >>> # 2 steps, 1 example, 2 classes
    >>> spikes = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    >>> float(count_error(spikes, jnp.array([0]), correct=2, incorrect=0))
    0.5
    """
    x, _ = over_time("count_error", "spikes", spikes, mask)
    targets = _targets("count_error", x, labels, correct, incorrect)
    # Masked spikes are 0, so they do not count.
    counts = x.sum(0)
    return ((counts - targets) ** 2).mean()


def rate_error(
    spikes: ArrayLike,
    labels: ArrayLike,
    correct: float = 0.8,
    incorrect: float = 0.2,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Compute the mean squared error of spike rates, as a loss for classification.

    Parameters
    ----------
    spikes, labels, mask
        Spikes of the last layer, ``(steps, examples, classes)``, the class of each example,
        integers ``(examples,)``, and the valid time steps, ``(steps, examples)`` or ``(steps,)``,
        as in :func:`count_error`.
    correct, incorrect : float
        The target rates: ``correct`` for the neuron of the right class, and ``incorrect`` for all
        others, in spikes per time step.

    Returns
    -------
    jax.Array
        The loss, one number: the mean over examples and classes.

    Raises
    ------
    ValueError, TypeError
        As in :func:`count_error`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import rate_error
    >>> spikes = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    >>> print(f"{rate_error(spikes, jnp.array([0])):.3f}")
    0.065
    """
    x, valid = over_time("rate_error", "spikes", spikes, mask)
    targets = _targets("rate_error", x, labels, correct, incorrect)
    rates = x.sum(0) / _count(valid, x)
    return ((rates - targets) ** 2).mean()


def smape(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    r"""Compute the symmetric mean absolute percentage error (sMAPE), a measure of forecasts.

    .. math:: 200\, \Big\langle \frac{|p - y|}{|p| + |y|} \Big\rangle

    Parameters
    ----------
    predictions, targets : array_like
        The predictions :math:`p` and the true values :math:`y`, arrays of one shape.

    Returns
    -------
    jax.Array
        One number from 0 (equal values) to 200, the mean over all entries. If both values of an
        entry are 0, its error is 0.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import smape
    >>> print(f"{smape(jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])):.2f}")
    33.33
    """
    p = real_array(predictions, "smape", "predictions")
    y = real_array(targets, "smape", "targets").astype(p.dtype)
    if p.shape != y.shape:
        raise ValueError(
            f"smape: targets must have the shape of predictions, {p.shape}, got {y.shape}"
        )
    scale = abs(p) + abs(y)
    # A quotient of 0 by 0 would make the mean, and the gradient of each prediction, NaN.
    is_zero = scale == 0
    difference = abs(p - y)
    errors = difference / jnp.where(is_zero, 1, scale)
    return 200 * jnp.where(is_zero, 0, errors).mean()


def potential_error(
    potentials: ArrayLike,
    labels: ArrayLike,
    correct: float = 1.0,
    incorrect: float = 0.0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Compute the mean squared error of potentials in all valid time steps, as a loss for
    classification.

    Parameters
    ----------
    potentials : array_like
        Potentials, ``(steps, examples, classes)``: outputs of a readout, or potentials before the
        spike of a spiking layer.
    labels, mask
        The class of each example, integers ``(examples,)``, and the valid time steps, ``(steps,
        examples)`` or ``(steps,)``, as in :func:`count_error`.
    correct, incorrect : float
        The target potentials: ``correct`` for the neuron of the right class, and ``incorrect`` for
        all others.

    Returns
    -------
    jax.Array
        The loss, one number: the mean over the valid time steps of each example, then over examples
        and classes.

    Raises
    ------
    ValueError, TypeError
        As in :func:`count_error`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import potential_error
    >>> potentials = jnp.array([[[1.0, 0.5]], [[0.0, 0.0]]])
    >>> float(potential_error(potentials, jnp.array([0])))
    0.3125
    """
    x, valid = over_time("potential_error", "potentials", potentials, mask)
    targets = _targets("potential_error", x, labels, correct, incorrect)
    # targets: (examples, classes), the same at each step.
    squares = jnp.where(valid, (x - targets[None]) ** 2, 0)
    means = squares.sum(0) / _count(valid, x)
    return means.mean()


def first_spike_time(spikes: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    r"""Return the time step of the first spike of each neuron, with a gradient, for losses on spike
    times.

    Time steps count from 0. The derivative of the time by the output in this time step is defined
    as -1, and as 0 by all other outputs. So a gradient step that raises the potential there makes
    the spike earlier. For a neuron without a spike, the result is the number of valid time steps.
    Its derivative by the output in the last valid time step is -1. So a loss for early spikes can
    make a silent neuron spike.

    Parameters
    ----------
    spikes : array_like
        Outputs of a layer, ``(steps, examples, neurons)``. Each value other than 0 is a spike.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding. By default
        all. Only valid time steps are counted.

    Returns
    -------
    jax.Array
        Times in time steps, floats ``(examples, neurons)``.

    Raises
    ------
    ValueError, TypeError
        As in :func:`reduce_time`.

    References
    ----------
    Göltz, Kriener et al. 2021, "Fast and energy-efficient neuromorphic deep learning with
    first-spike times", Nature Machine Intelligence 3:823-835: a cross-entropy of ``-time / tau``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad.losses import first_spike_time
    >>> # 3 steps, 1 example, 2 neurons
    >>> spikes = jnp.array([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    >>> first_spike_time(spikes)
    Array([[1., 3.]], dtype=float32)
    >>> jax.grad(lambda s: first_spike_time(s).sum())(spikes)[:, 0, 0]
    Array([ 0., -1.,  0.], dtype=float32)
    """
    x, valid = over_time("first_spike_time", "spikes", spikes, mask)
    # Negative spikes count too.
    fires = (x != 0) & valid
    fired = fires.any(0)
    # argmax of bools returns the first step that fires. A silent neuron counts as firing after the
    # last valid step.
    step = jnp.where(fired, fires.argmax(0), _last(valid))
    # The number of valid steps up to and including each step.
    number = jnp.broadcast_to(jnp.cumsum(valid, 0), x.shape)
    steps = jnp.take_along_axis(number, step[None], 0)[0]
    output = _at(x, step, valid)
    zero = output - jax.lax.stop_gradient(output)  # with the derivative of the output
    # A spike in the first valid step has time 0. More output at this step means an earlier spike,
    # so its derivative is -1.
    time = jnp.where(fired, steps - 1, steps)
    return time.astype(x.dtype) - zero


def van_rossum(
    spikes: ArrayLike, targets: ArrayLike, tau: ArrayLike, mask: ArrayLike | None = None
) -> jax.Array:
    r"""Compute the squared van Rossum distance between spike trains, as a loss for given spike
    times.

    .. math:: D^2 = \frac1\tau \int_0^\infty \big(f(t) - \hat f(t)\big)^2\,dt

    Here :math:`f` is the sum of :math:`e^{-(t - t_i)/\tau}` over the spikes at times :math:`t_i`
    before :math:`t`, and :math:`\hat f` is this sum for the target spikes. So the distance is small
    if each spike is close to a target spike. A spike far from all others contributes 1/2. The
    integral is exact, and includes the time after the last time step.

    Parameters
    ----------
    spikes : array_like
        Spikes of a layer, ``(steps, examples, neurons)``.
    targets : array_like
        The target spikes, in the shape of ``spikes``.
    tau : float or array
        The time constant :math:`\tau` in time steps, above 0. Spikes that are much closer than
        ``tau`` count as nearly equal. An array must broadcast to ``(examples, neurons)``.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding. Masked time
        steps are left out, as if they took no time. By default all are valid.

    Returns
    -------
    jax.Array
        The loss, one number: the mean of :math:`D^2` over examples and neurons.

    Raises
    ------
    ValueError, TypeError
        As in :func:`reduce_time`. Also if the shape of ``targets`` differs, or if ``tau`` is not
        above 0. JAX arrays are not checked, because they may be traced.

    References
    ----------
    van Rossum 2001, "A novel spike distance", Neural Computation 13(4):751-763.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import van_rossum
    >>> spikes = jnp.zeros((5, 1, 1)).at[1].set(1.0)
    >>> print(f"{van_rossum(spikes, jnp.zeros((5, 1, 1)), tau=10.0):.3f}")
    0.500
    """
    x, valid = over_time("van_rossum", "spikes", spikes, mask)
    y = real_array(targets, "van_rossum", "targets").astype(x.dtype)
    if y.shape != x.shape:
        hint = order_of_axes("spikes", x.shape, "targets", y.shape)
        raise ValueError(
            f"van_rossum: targets must have the shape of spikes {x.shape}, got {y.shape}{hint}"
        )
    y = jnp.where(valid, y, 0)
    tau = Domain(above=0).check("van_rossum", "tau", tau)
    tau = real_array(tau, "van_rossum")
    tau = broadcast_checked(
        tau, x.dtype, x.shape[1:], "van_rossum", "tau", "spikes of one step"
    )
    # One time constant may hold for all neurons: (examples, neurons...).
    decay = jnp.broadcast_to(jnp.exp(-1 / tau), x.shape[1:])

    def step(carry: Pair, now: Pair) -> tuple[Pair, None]:
        # The filtered difference before the step, and the sum of its squares.
        trace, area = carry
        difference, valid = now
        after = decay * trace + difference
        # No time passes in a masked step.
        trace = jnp.where(valid, after, trace)
        area = jnp.where(valid, area + after**2, area)
        return (trace, area), None

    zeros = jnp.zeros_like(x[0])
    steps = x - y, jnp.broadcast_to(valid, x.shape)
    carry, _ = jax.lax.scan(step, (zeros, zeros), steps)
    end, area = carry
    # A step of length 1 after a value h has the integral tau h^2 (1 - decay^2) / 2.
    within = -jnp.expm1(-2 / tau) * area / 2
    after_the_end = decay**2 * end**2 / 2
    return (within + after_the_end).mean()


def over_time(
    owner: str, name: str, outputs: Any, mask: Any
) -> tuple[jax.Array, jax.Array]:
    """Return the outputs, ``(steps, examples, ...)``, and the mask reshaped to their number of
    axes.

    Masked outputs are 0, because padding may be NaN, and a gradient of zero times NaN is NaN.
    """
    x = real_array(outputs, owner, name)
    x = x.astype(compute_dtype(x.dtype))
    if x.ndim < 2 or not len(x):
        raise ValueError(
            f"{owner}: {name} must be (steps, examples, ...) with one step or more, got {x.shape}"
        )
    valid = jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask)
    if valid.dtype != bool:
        raise TypeError(f"{owner}: mask must be boolean, got {valid.dtype}")
    of_steps = x.shape[:1]
    of_examples = x.shape[:2]
    if valid.shape not in (of_steps, of_examples):
        hint = order_of_axes(name, x.shape, "masks", valid.shape)
        raise ValueError(
            f"{owner}: mask must be {of_steps} or {of_examples}, got {valid.shape}{hint}"
        )
    # (steps,) or (steps, examples) -> the number of axes of x.
    valid = append_axes(valid, x.ndim)
    if mask is not None:
        x = jnp.where(valid, x, 0)
    return x, valid


def _count(valid: jax.Array, x: jax.Array) -> jax.Array:
    """Return the number of valid steps, at least 1."""
    count = jnp.maximum(valid.sum(0), 1)
    return count.astype(x.dtype)


def _last(valid: jax.Array) -> jax.Array:
    """Return the last valid step."""
    # argmax finds the first True, so the steps are reversed.
    from_the_end = jnp.flip(valid, 0).argmax(0)
    return len(valid) - 1 - from_the_end


def _at(x: jax.Array, step: jax.Array, valid: jax.Array) -> jax.Array:
    """Return the values at one step of each example or neuron, and 0 for an example without a valid
    step.
    """
    step = jnp.broadcast_to(step, x.shape[1:])
    has_step = valid.any(0)
    values = jnp.take_along_axis(x, step[None], 0)[0]
    return jnp.where(has_step, values, 0)


def _targets(
    owner: str, x: jax.Array, labels: Any, correct: Any, incorrect: Any
) -> jax.Array:
    """Return the target of each class, ``(examples, classes)``."""
    labels = jnp.asarray(labels)
    if x.ndim != 3:
        raise ValueError(
            f"{owner}: outputs must be (steps, examples, classes), got {x.shape}"
        )
    _, examples, classes = x.shape
    is_integer = not is_float(labels) and labels.dtype != bool
    if not is_integer or labels.shape != (examples,):
        hint = order_of_axes("outputs", x.shape, "labels", labels.shape, at=1)
        got = f"{labels.dtype} {labels.shape}"
        raise ValueError(
            f"{owner}: labels must be integers of shape {(examples,)}, got {got}{hint}"
        )
    # Traced labels have no values yet.
    is_known = not isinstance(labels, Tracer)
    if is_known and not np.isin(labels, np.arange(classes)).all():
        raise ValueError(
            f"{owner}: labels must be from 0 to {classes - 1}, got {brief(labels)}"
        )
    is_correct = jax.nn.one_hot(labels, classes, dtype=bool)
    correct = jnp.asarray(correct, x.dtype)
    incorrect = jnp.asarray(incorrect, x.dtype)
    return jnp.where(is_correct, correct, incorrect)
