"""The diagnosis of a network, and of one layer of a custom loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..._checks import brief, real_array
from ..._pytree import NOTHING_TO_TRAIN, is_array, is_inexact
from ...network import Network
from ...network._arguments import check_shapes, checked_key, named_inputs
from ...network._modes import as_backward
from ._issues import issues
from ._look import Look, NetworkReport, as_surrogate, report
from ._numbers import Recorded, norm
from ._report import Diagnosis
from ._trials import checked


def diagnose(
    network: Network,
    inputs: Any,
    loss: Callable[[jax.Array], jax.Array] | None = None,
    *,
    optimizer: Any = None,
    key: Any = None,
    mask: ArrayLike | None = None,
    mode: str = "exact",
    train: bool = True,
) -> Diagnosis:
    """Diagnose why a network does not learn: statistics of each layer, issues and fixes.

    The network runs forward and backward once, and again for each fix that is tried.

    Parameters
    ----------
    network : Network
        The network, with any weights and cells.
    inputs : array_like or dict
        Inputs of the network, ``(steps, batch, ...)``. A hundred examples are enough.
    loss : callable, optional
        A function from the outputs of the network, ``(steps, batch, neurons)`` or a dict, to one
        number. By default the outputs are added with random signs. The gradient then shows the flow
        through the network, but not the learning, and no issue depends on the steps that the loss
        reads.
    optimizer : optax.GradientTransformation, optional
        The optimizer of the training, learning rate included. ``diagnose`` judges its first update
        of weights and biases by its size and by the loss after it. The network itself does not
        change. The optimizer gets the arrays in the structure of the network, so masks and labels
        must fit it.
    key : array of jax.random.key, optional
        For :func:`stochastic` spikes.
    mask : array_like of bool, optional
        The valid steps, ``(steps, batch)`` or ``(steps,)``.
    mode : str, default "exact"
        The mode of the training. For ``"8-bit"``, too few bits are an issue. The error of 8 bits is
        reported in every mode.
    train : bool, default True
        Train the network with the loss and the optimizer, on ``inputs``. Trainings show if it
        learns in spite of its issues or without any, and which fix is best. If False, the forward
        pass, the gradients and the first update decide. Then no issue is ``"slow"``, and the
        diagnosis takes seconds.

    Returns
    -------
    Diagnosis
        The statistics of each layer in the order of a step, ``layers``, and ``issues`` with their
        fixes. It prints as a table and has ``plot()`` and ``to_dict()``.

    Raises
    ------
    TypeError, ValueError
        For invalid inputs, key or mask, as in :class:`Network`. Also if no step is valid, if
        ``loss`` does not return one number, or if the network has no array for the optimizer.

    Notes
    -----
    Norms and fractions are over all examples and neurons. The gradient over lags is the gradient of
    a layer's own outputs in the last step, with random signs, with respect to its currents. Its
    factor per step is ``decay`` for neurons that pass gradients only through the potential. A
    differentiated reset reduces it, and recurrent weights increase it. In a loop of layers, the
    gradient also passes through the other layers.

    The diagnosis stores about ten arrays of ``(steps, batch, neurons)`` for each layer, so use
    fewer examples for long sequences. Each call compiles, because ``loss`` may have changed. A pure
    network (see :class:`Network`) with a ``jax.tree_util.Partial`` of a function and arrays as loss
    is compiled once, for all values of its cells.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016, for the scale of the potential.
    Zenke, Vogels 2021, "The remarkable robustness of surrogate gradient learning for instilling
    complex function in spiking neural networks", Neural Computation 33(4):899-925, for slopes that
    explode.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, LeakyReadout, Network, diagnose
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> w = jax.random.normal(keys[0], (20, 30))
    >>> out = jax.random.normal(keys[1], (30, 2))
    >>> network = Network([
    ...     Layer(w, LIF(0.9, threshold=60.0)),
    ...     Layer(out, LeakyReadout(0.9)),
    ... ])
    >>> spikes = jax.random.bernoulli(keys[2], 0.1, (25, 16, 20))
    >>> found = diagnose(network, spikes, lambda out: (out[-1] ** 2).mean())
    >>> [(issue.kind, issue.index) for issue in found.issues]
    [('silent', 0)]
    >>> better = found.issues[0].fix.apply(network)
    >>> diagnose(better, spikes).issues
    ()
    """
    if not isinstance(network, Network):
        raise TypeError(f"diagnose: network must be a Network, got {brief(network)}")
    as_backward(mode)
    named = named_inputs(network.inputs, inputs)
    key = checked_key(key)
    mask = None if mask is None else jnp.asarray(mask)
    check_shapes(named, mask)
    look = Look(named, mask, key, loss, optimizer, mode, train)
    _check_active("diagnose", look.active)
    if optimizer is not None and not any(
        is_array(leaf) and is_inexact(leaf) for leaf in jax.tree.leaves(network)
    ):
        raise ValueError(f"diagnose: network {NOTHING_TO_TRAIN}")
    try:
        seen = look(network)
    except (TypeError, ValueError) as error:
        steps, examples = look.active.shape
        error.add_note(
            f"diagnose: inputs are (steps, examples, ...): {steps} steps, {examples} examples"
        )
        raise
    losses_after = seen.network.losses_after
    loss_after = losses_after[0] if losses_after else None
    return Diagnosis(
        tuple(seen.layers), checked(network, look, seen), seen.network.loss, loss_after
    )


def diagnose_layer(
    distance: ArrayLike,
    spikes: ArrayLike,
    surrogate: Callable[[jax.Array], jax.Array],
    *,
    threshold: float = 1.0,
    gradient: ArrayLike | None = None,
    lagged: ArrayLike | None = None,
    weights: Mapping[str, Any] | None = None,
    weight_gradients: Mapping[str, Any] | None = None,
    updates: Mapping[str, Any] | None = None,
    mask: ArrayLike | None = None,
    name: str = "the layer",
) -> Diagnosis:
    """Diagnose one layer of a custom loop from recorded arrays.

    Parameters
    ----------
    distance : array_like
        The potential before the spike minus the threshold, ``(steps, batch, neurons)`` or with more
        axes of neurons.
    spikes : array_like
        The outputs, of the same shape.
    surrogate : callable
        The function from ``distance`` to ``spikes``.
    threshold : float, default 1.0
        Distance of the threshold from the potential at rest.
    gradient : array_like, optional
        The gradient of the loss with respect to the currents, of the same shape. To get it, add
        zeros to the currents and differentiate with respect to these zeros.
    lagged : array_like, optional
        The gradient of the outputs of the last step, added with random signs, with respect to the
        currents.
    weights, weight_gradients, updates : dict, optional
        The weights of the layer, their gradients, and the first update of the optimizer, by name.
    mask : array_like of bool, optional
        The valid steps, ``(steps, batch)``.
    name : str, default "the layer"
        Name of the layer in texts.

    Returns
    -------
    Diagnosis
        The diagnosis of one layer. Its fixes have values and texts. Statistics that need a
        :class:`Network` are None.

    Raises
    ------
    TypeError, ValueError
        If an array is not real, if shapes differ, or if no step is valid.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import PiecewiseQuadratic
    >>> from spikegrad.inspect.diagnosis import diagnose_layer
    >>> distance = jnp.linspace(-2.0, 1.0, 60).reshape(10, 2, 3)
    >>> narrow = PiecewiseQuadratic(alpha=500.0)
    >>> [issue] = diagnose_layer(distance, narrow(distance), narrow).issues
    >>> print(issue.fix)
    fit its slope to them (`rescaled(PiecewiseQuadratic(alpha=500.0), peak=1,
    half_width=0.44)`)
    """
    given: dict[str, Any] = {
        "distance": distance,
        "spikes": spikes,
        "gradient": gradient,
        "lagged": lagged,
    }
    for what, array in given.items():
        given[what] = (
            None if array is None else real_array(np.asarray(array), "diagnose_layer", what)
        )
        if array is not None and given[what].shape != given["distance"].shape:
            shape = given["distance"].shape
            raise ValueError(
                f"diagnose_layer: {what} must be of shape {shape}, got {given[what].shape}"
            )
    x, spikes, gradient, lagged = given.values()
    if x.ndim < 3:
        raise ValueError(
            f"diagnose_layer: distance must be of shape (steps, batch, neurons), got {x.shape}"
        )
    active = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask)
    if active.dtype != bool or active.shape != x.shape[:2]:
        raise ValueError(
            f"diagnose_layer: mask must be of bool and of shape {x.shape[:2]}, got "
            f"{active.dtype}{list(active.shape)}"
        )
    _check_active("diagnose_layer", active)
    slope = jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]
    potential = x + threshold
    seen = Recorded(potential, x, spikes, slope, None, potential, gradient, None, lagged)
    norms: dict[str, Any] = {
        what: {weight: norm(array) for weight, array in arrays.items()}
        for what, arrays in (
            ("weights", weights),
            ("weight_gradients", weight_gradients),
            ("updates", updates),
        )
        if arrays is not None
    }
    scale = abs(float(threshold))
    found = report(name, "", seen, active, as_surrogate(surrogate), True, scale=scale, **norms)
    return Diagnosis((found,), issues([found], NetworkReport([None])))


def _check_active(owner: str, active: np.ndarray) -> None:
    if not active.any():
        raise ValueError(f"{owner}: mask must contain at least one valid step")
