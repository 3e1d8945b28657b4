"""The two questions: of a network, and of one layer of a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..._checks import brief, real_array
from ...network import Network
from ...network._modes import check_mode
from ...network._network import check_shapes, checked_key
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
) -> Diagnosis:
    """Why a network does not learn: what each layer does forward and back, what is wrong, and what helps.

    The network runs forward and back in one compiled program, and once more for each fix that is tried.

    Parameters
    ----------
    network : Network
        Any, whatever its weights and cells.
    inputs : array_like or dict
        Time first, then the examples, as the network takes them: ``(steps, batch, ...)``. A hundred examples tell
        as much as all.
    loss : callable, optional
        A function from the outputs of the network, ``(steps, batch, neurons)`` or a dict, to one number. By default the
        outputs are added with random signs: it shows what passes, but not what is learnt, and no issue depends on where
        the loss looks.
    optimizer : optax.GradientTransformation, optional
        The optimizer of the training, learning rate included. ``diagnose`` judges its first update of weights and
        biases by its size and by the loss after it. The network itself does not change.
    key : array of jax.random.key, optional
        For :func:`stochastic` spikes.
    mask : array_like of bool, optional
        Which steps take place, ``(steps, batch)`` or ``(steps,)``.
    mode : str, default "exact"
        In which mode the network is trained. With ``"8-bit"`` it is judged whether 8 bits suffice; their error is in
        the numbers anyway.

    Returns
    -------
    Diagnosis
        Numbers of each layer in the order of a step, ``layers``, and ``issues``, each with its fixes. It prints as a
        table, and has ``plot()`` and ``to_dict()``.

    Raises
    ------
    TypeError, ValueError
        As the network does for its inputs, key and mask; if no step takes place; if ``loss`` returns no single number.

    Notes
    -----
    Norms and shares are over all examples and neurons. The gradient over lags goes back from a layer's own outputs of
    the last step, with random signs, to its currents. Its factor per step is ``decay`` for neurons that pass gradients
    through the potential alone, less with a differentiated reset, more with recurrent weights. In a loop of layers, it
    also goes through the other layers.

    About ten arrays of ``(steps, batch, neurons)`` are kept for each layer: of long sequences take fewer examples. It
    is compiled at each call, since ``loss`` may have changed. A pure network (see :class:`Network`) with a loss that is
    a ``jax.tree_util.Partial`` of a function and arrays is compiled once, whatever the numbers of its cells.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network training", Neuromorphic
    Computing and Engineering 2(4):044016, has the scale of the potential. Zenke, Vogels 2021, "The remarkable
    robustness of surrogate gradient learning for instilling complex function in spiking neural networks", Neural
    Computation 33(4):899-925, has the slopes that explode.

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
    check_mode("diagnose", mode)
    named = network._named_inputs(inputs)
    key = None if key is None else checked_key(key)
    mask = None if mask is None else jnp.asarray(mask)
    check_shapes(named, mask)
    look = Look(named, mask, key, loss, optimizer, mode)
    _check_active("diagnose", look.active)
    seen = look(network)
    losses_after = seen.network.losses_after
    loss_after = losses_after[0] if losses_after else None
    return Diagnosis(tuple(seen.layers), checked(network, look, seen), seen.network.loss, loss_after)


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
    """The same for one layer of a loop of your own, from what you recorded of it.

    Parameters
    ----------
    distance : array_like
        The potential before the spike minus the threshold, ``(steps, batch, neurons)`` or with more axes of neurons.
    spikes : array_like
        The outputs, of the same shape.
    surrogate : callable
        What made them of ``distance``.
    threshold : float, default 1.0
        Distance of the threshold from the potential at rest.
    gradient : array_like, optional
        The gradient of the loss in the currents, of the same shape: add zeros to the currents, and differentiate in
        them.
    lagged : array_like, optional
        Likewise, the gradient of the outputs of the last step, added with random signs, in place of the loss.
    weights, weight_gradients, updates : dict, optional
        By name, the weights of the layer, their gradients, and the first update that the optimizer makes of these.
    mask : array_like of bool, optional
        Which steps take place, ``(steps, batch)``.
    name : str, default "the layer"
        What the layer is called in the text.

    Returns
    -------
    Diagnosis
        That of one layer. Its fixes have numbers and words; what a :class:`Network` is needed for is not known.

    Raises
    ------
    TypeError, ValueError
        If an array is not real; if shapes differ, or no step takes place.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import PiecewiseQuadratic, diagnose_layer
    >>> distance = jnp.linspace(-2.0, 1.0, 60).reshape(10, 2, 3)
    >>> narrow = PiecewiseQuadratic(alpha=500.0)
    >>> [issue] = diagnose_layer(distance, narrow(distance), narrow).issues
    >>> print(issue.fix)
    fit its slope to them (`rescaled(PiecewiseQuadratic(alpha=500.0), peak=1,
    half_width=0.44)`)
    """
    given: dict[str, Any] = {"distance": distance, "spikes": spikes, "gradient": gradient, "lagged": lagged}
    for what, array in given.items():
        given[what] = None if array is None else real_array(np.asarray(array), "diagnose_layer", what)
        if array is not None and given[what].shape != given["distance"].shape:
            shape = given["distance"].shape
            raise ValueError(f"diagnose_layer: {what} must be of shape {shape}, got {given[what].shape}")
    x, spikes, gradient, lagged = given.values()
    if x.ndim < 3:
        raise ValueError(f"diagnose_layer: distance must be of shape (steps, batch, neurons), got {x.shape}")
    active = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask)
    if active.dtype != bool or active.shape != x.shape[:2]:
        raise ValueError(
            f"diagnose_layer: mask must be of bool and of shape {x.shape[:2]}, got {active.dtype}{list(active.shape)}"
        )
    _check_active("diagnose_layer", active)
    slope = jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]
    potential = x + threshold
    seen = Recorded(potential, x, spikes, slope, None, potential, gradient, None, lagged)
    norms: dict[str, Any] = {
        what: {weight: norm(array) for weight, array in arrays.items()}
        for what, arrays in (("weights", weights), ("weight_gradients", weight_gradients), ("updates", updates))
        if arrays is not None
    }
    scale = abs(float(threshold))
    found = report(name, "", seen, active, as_surrogate(surrogate), True, scale=scale, **norms)
    return Diagnosis((found,), issues([found], NetworkReport([None])))


def _check_active(owner: str, active: np.ndarray) -> None:
    if not active.any():
        raise ValueError(f"{owner}: mask leaves no step of any example")
