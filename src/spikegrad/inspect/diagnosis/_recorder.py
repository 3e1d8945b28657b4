"""One compiled program that runs a network forward and back, and hands out what each layer did.

Layers depend on each other in one direction, so that each is run over all steps before the next one, in two parts: the
products that wait for nothing, of all steps at once, and the steps one by one. Between the two stand the currents, and
so their cotangent is at hand when it goes back. The steps of each layer are gone back a second time, from random signs
on its own last outputs: how that gradient falls with the lag is the layer's own doing, whatever stands above it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._optimizer import updates_of
from ..._pytree import inexact, is_inexact, merge
from ...network import Network
from ...network._graph import INPUT
from ...network._masks import Masks, make_masks, tree_where
from ...network._nodes import initial_states
from ...network._step import LayerState, layer_step
from ...network._storage import EIGHT_BIT
from ...network.engine._convolution import canonical
from ...network.engine._layer_vjp import DRIVE, LayerVjp, trace_all
from ._numbers import Recorded
from ._potential import Potential, candidates, find, select

_PRODUCTS = ("weight", "bias")
_TRAINED = (*_PRODUCTS, "recurrent")
PARTS = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""The parts of the first update that are tried."""


def record(
    network: Network,
    inputs: jax.Array,
    mask: jax.Array | None,
    key: jax.Array | None,
    loss: Callable | None,
    signs: list,
    last: jax.Array,
    optimizer: Any,
) -> dict[str, Any]:
    """What was recorded of each layer, its weights, their gradients and first updates; the loss before and after these.

    ``signs`` are those of the outputs of each layer, ``(examples, ...)``, ``last`` the last step of each example.
    """
    # The layers are traced as in the engine, because gradients must reach the arrays that a user's function closes
    # over.
    masks = make_masks(len(inputs), mask, None)
    masks = masks if key is None else masks.numbered(0)
    graph = network.graph
    states, pasts = initial_states(graph, {INPUT: inputs[0]})
    found = trace_all(graph, {INPUT: inputs[0]}, states, pasts, key)
    states = [states[n] for n in graph.layers]
    traced = [tuple(of_layer[n] for of_layer in found) for n in graph.layers]
    # The trainable arrays of each layer by function. Integers are None, so that an optimizer skips them.
    weights = [inexact({name: own[name] for name in _TRAINED if name in own}) for _, own, _ in traced]

    def forward(weights):
        passes, x = [], inputs
        for (equations, own, _), trained, state in zip(traced, weights, states, strict=True):
            passes.append(_Pass(equations, own, trained, state, masks, x))
            x = passes[-1].out
        return passes

    # Each layer runs over all steps, (steps, batch, inputs) -> (steps, batch, neurons). The backward pass reverses the
    # order.
    passes = forward(weights)
    of_outputs = loss or functools.partial(_probe, signs[-1])
    value, ct = jax.value_and_grad(of_outputs)(passes[-1].out)
    found = {"loss": value, "read": ct, "layers": [], "weight_gradients": [], "weights": weights}
    found |= {"at_rest": [], "spikes": []}
    # ``ct`` passes downwards. It is the cotangent of a layer's outputs, (steps, batch, neurons), then of its inputs.
    for one, own_signs, (_, _, rest) in reversed(list(zip(passes, signs, traced, strict=True))):
        ct_out = ct
        gradients, ct_current, ct = one.back(ct_out)
        one.look_at_rest(rest)
        found["weight_gradients"].insert(0, gradients)
        found["layers"].insert(0, one.recorded(ct_current, ct_out, own_signs, last))
        found["at_rest"].insert(0, one.distance(rest))
        found["spikes"].insert(0, one.potential.spikes)
    if optimizer is not None:

        def loss_of(weights):
            return of_outputs(forward(weights)[-1].out)

        # Try the first update at full size and at smaller sizes. If the loss falls only for small sizes, the learning
        # rate is too large. The sizes run sequentially, because each run needs the activity of all layers.
        gradients, at_start = found["weight_gradients"], optimizer.init(weights)
        found["updates"], _ = updates_of(optimizer, gradients, at_start, weights, value, loss_of)

        def loss_after(part):
            return loss_of(
                jax.tree.map(
                    lambda w, update: w + (part * update.astype(part.dtype)).astype(w.dtype), weights, found["updates"]
                )
            )

        found["losses_after"] = jax.lax.map(loss_after, jnp.asarray(PARTS))
    return found


def _probe(signs: jax.Array, out: jax.Array) -> jax.Array:
    """What is differentiated where there is no loss: the outputs, added with random signs."""
    return (out * signs.astype(out.dtype)[None]).mean()


class _Pass:
    """A layer that was run over all steps, with what it takes to go back."""

    def __init__(self, traced: Any, own: dict, trained: dict, state: LayerState, masks: Masks, x: jax.Array) -> None:
        def with_trained(mine):
            filled = {name: merge(arrays, own[name]) for name, arrays in mine.items()}
            return LayerVjp(traced, {**own, **filled})

        def products(mine, x):
            layer = with_trained(mine)
            return layer.call_chunk("bias", layer.call_chunk("weight", x))

        def steps(mine, drive):
            return _over_steps(with_trained(mine), drive, state, masks)

        # The backward pass has two parts, which give access to the cotangent of the current between them. The first
        # part is W x + b, one product for all steps. The second part is the sequential steps.
        self.layer, self.number = with_trained(trained), masks.number
        feeding = {name: arrays for name, arrays in trained.items() if name in _PRODUCTS}
        feedback = {name: arrays for name, arrays in trained.items() if name not in _PRODUCTS}
        # Inputs of bools or integers have no derivative, and vjp does not take them.
        if is_inexact(x):
            drive, self._back_products = jax.vjp(products, feeding, x)
        else:
            drive, back = jax.vjp(lambda mine: products(mine, x), feeding)
            self._back_products = lambda ct: (*back(ct), None)
        self.out, self._back_steps, self._seen = jax.vjp(steps, feedback, drive, has_aux=True)

    def back(self, ct_out: jax.Array) -> tuple[dict, jax.Array, Any]:
        """Gradients of the weights, and the cotangents of currents and inputs."""
        feedback, ct_current = self._back_steps(ct_out)
        feeding, ct_inputs = self._back_products(ct_current)
        return {**feeding, **feedback}, ct_current, ct_inputs

    def look_at_rest(self, rest: Any) -> None:
        """Find the potential. The methods below depend on it."""
        self.rest = rest
        number = None if self.number is None else self.number[0]
        known = self.layer.traced.encoded is not None
        if known and self.layer.traced.encoded[0] is None:  # a readout
            self.potential = Potential(jnp.zeros((), jnp.int32))
        else:
            self.potential = find(rest, lambda u: self.layer.fire(u, number), self._encoded if known else None)

    def recorded(self, ct_current: jax.Array, ct_out: jax.Array, signs: jax.Array, last: jax.Array) -> Recorded:
        u, current, feedback, free = self._seen
        # Cotangents with random signs at each example's last step and zeros elsewhere, (steps, batch, neurons). The
        # decay of the resulting gradient with the lag shows if it vanishes or explodes (Bengio, Simard, Frasconi 1994).
        # It depends only on this layer.
        at_end = jnp.zeros_like(self.out)
        index = (last,) if self.out.ndim < 3 else (last, jnp.arange(len(last)))
        at_end = at_end.at[index].set(signs.astype(self.out.dtype))
        return Recorded(
            self._read(u),
            jax.vmap(self.distance)(u),  # vmap over the steps
            self.out,
            self._slope(u),
            current,
            None if free is None else self._read(free) - self._read(self.rest, self.out[0])[None],
            ct_current,
            ct_out,
            self._back_steps(at_end)[1],
            self._narrow(u),
            feedback,
        )

    def distance(self, u: Any) -> Any:
        """The distance of a pre-spike state to the threshold, or None for a readout."""
        if self.potential.level is None:
            return self._encoded(u)
        return self._read(u, self.potential.level) - self.potential.level

    def _encoded(self, u: Any) -> Any:
        return self.layer.call("encode", u)[0]

    def _read(self, u: Any, like: Any = None) -> jax.Array:
        like = self.out if like is None else like
        arrays, _ = candidates(u, like)
        return select(self.potential.which, arrays) if arrays else like

    def _each_step(self, function: Callable) -> Callable:
        return jax.vmap(function, in_axes=(0, None if self.number is None else 0))

    def _slope(self, u: Any) -> jax.Array:
        """The derivative of the output in the potential."""

        # ``fire`` is elementwise, so a tangent of ones gives the derivative of every neuron. vmap is over the steps.
        def slope(u, number):
            arrays, replaced = candidates(u, self.out[0])
            if not arrays:
                return jnp.zeros_like(self.out[0])
            ones = [jnp.full_like(a, self.potential.which == k) for k, a in enumerate(arrays)]
            return jax.jvp(lambda *given: self.layer.fire(replaced([*given]), number)[1], arrays, ones)[1]

        return self._each_step(slope)(u, self.number)

    def _narrow(self, u: Any) -> Any:
        """Of mode "8-bit", which distances it cannot tell from zero, and the slopes that it reads again."""
        if self.layer.traced.encoded is None or self.layer.traced.encoded[0] is None:
            return None
        # vmap over the steps, because the engine also stores (batch, neurons) of one step at a time.
        kept = self._each_step(lambda u, number: self.layer.store(EIGHT_BIT, u, number))(u, self.number)
        distance, _ = kept
        return EIGHT_BIT.lost(distance), self._slope(jax.vmap(lambda kept: self.layer.load(EIGHT_BIT, kept))(kept))


def _over_steps(layer: LayerVjp, drive: jax.Array, state: LayerState, masks: Masks) -> tuple[jax.Array, tuple]:
    """Outputs, then pre-spike states, both currents, and pre-spike states without spikes."""

    # without a spike the state after the step is that before it, if the cell has one kind of state
    after = jax.eval_shape(layer.integrate, state[0], drive[0])
    has_free = _types(after) == _types(state[0])

    # Scan over the steps. Carry: ``v``, ``out`` and the state without spikes, each (batch, neurons). Slices: the
    # current of the inputs, (batch, neurons), and the masks.
    def step(carry, now):
        state, free = carry
        given, mask = now
        # XLA merges this product with the equal one in the step.
        feedback = layer.call("recurrent", state[1]) if "recurrent" in layer.arrays else None
        state, out, u = layer_step(layer, state, ({DRIVE: given}, {"recurrent": state[1]}), mask)
        if has_free:
            free = tree_where(mask.active, layer.integrate(free, jax.lax.stop_gradient(given)), free)
        return (state, free), (out, (u, given, feedback, free))

    start = jax.lax.stop_gradient(state[0]) if has_free else None
    fast = canonical(step) if layer.traced.per_step else step
    _, (out, seen) = jax.lax.scan(fast, (state, start), (drive, masks))
    return out, seen


def _types(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)
