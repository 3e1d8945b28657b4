"""Functions that run a network forward and backward and return the activity of each layer, and the
first updates.

Nodes that read each other form a component and run together, step by step. A layer of a list is a
component by itself. Each component runs over all steps before the next one, in two parts: the
products of other outputs, for all steps at once, and the steps. The currents are between the parts,
so their cotangent is known in the backward pass. The steps of each component run backward a second
time, from random signs on the last outputs of a layer. The decay of that gradient with the lag
depends only on the component.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import compute_dtype
from ..._compat import zeros_like
from ..._optimizer import updates_of
from ..._pytree import inexact, is_inexact, merge, split
from ...network import Network
from ...network._connections import Edge, Name, depths_of
from ...network._graph import Graph
from ...network._masks import Masks, make_masks, tree_keep, with_finite_padding
from ...network._nodes import initial_states
from ...network._past import lagged, places_of
from ...network._stages import over_time, stages_of
from ...network._states import is_over_time
from ...network._step import JoinSteps, LayerState, graph_step
from ...network._storage import EIGHT_BIT
from ...network.engine._convolution import canonical
from ...network.engine._functions import close
from ...network.engine._layer_vjp import (
    DRIVE,
    WITHOUT_GRADIENT,
    JoinVjp,
    LayerVjp,
    TracedJoin,
    trace_all,
)
from ...neurons import State
from ._numbers import Recorded
from ._places import EVERY_DELAY, feedback_edges
from ._potential import Potential, candidates, find, select

PARTS = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""The parts of the first update that are tried."""
LARGER = 1e10
"""A factor of the gradient that makes the epsilon of an optimizer negligible."""
SAME_DIRECTION = 0.99
"""Updates with at least this cosine have one direction."""
LINEAR_HALF = 0.48
"""The part of its largest size that an update reaches without an epsilon, for a gradient at which a
linear update would
reach half. With g / (g + epsilon) it is a third, and with g / sqrt(g**2 + epsilon**2) it is
0.45."""


def record(run: Run, last: jax.Array) -> dict[str, Any]:
    """Return the activity of each layer, its weights, their gradients, and the loss, by name.

    ``last`` has the last step of each example.
    """
    graph, weights, signs = run.graph, run.weights, run.signs
    # Each component runs over all steps, (steps, batch, inputs) -> (steps, batch, neurons). The
    # backward pass reverses the order. ``cts`` are the cotangents of outputs, (steps, batch,
    # neurons), summed over the readers so far.
    passes, outs = run.forward(weights)
    value, read = jax.value_and_grad(run.loss_of_outs)(run.outputs_of(outs))
    found: dict[str, Any] = {
        "loss": value,
        "read": read,
        "weights": weights,
        "weight_gradients": {},
    }
    found |= {"layers": {}, "at_rest": {}, "spikes": {}}
    cts = dict(read)
    for one in reversed(passes):
        # The readers of a component are later components, so ``cts`` has all terms of its outputs
        # now. The currents and outputs of its layers get cotangents of (steps, batch, neurons).
        gradients, ct_currents, ct_outs, ct_sources = one.back(cts)
        found["weight_gradients"] |= gradients
        for name, ct in ct_sources.items():
            cts[name] = cts[name] + ct if name in cts else ct
        for name in one.layers:
            layer = _Activity(
                one.layers[name], one.seen[name], one.outs[name], run.rest[name], run.masks.number
            )
            # Calls the pullback of the steps again, for another cotangent. Its other results are
            # unused.
            of_lags = one.back_from_end(name, signs[name], last)
            found["layers"][name] = layer.recorded(ct_currents[name], ct_outs[name], of_lags)
            found["at_rest"][name] = layer.distance(run.rest[name])
            found["spikes"][name] = layer.potential.spikes
    # Statistics of inputs need (steps, batch, inputs). The caller has the inputs of the network and
    # the outputs of layers, so only outputs of joins are added.
    found["joins"] = {
        edge.source: outs[edge.source]
        for name in graph.layers
        for edge in graph.edges[name]
        if edge.source not in graph.layers and edge.source not in run.inputs
    }
    return found


class Run:
    """A network on its inputs, as a function of its weights.

    ``signs`` are for the outputs of each layer, ``(examples, ...)``. The layers are traced as in
    the engine, because gradients must reach the arrays that a user's function closes over.
    """

    def __init__(
        self,
        network: Network,
        inputs: dict[Name, jax.Array],
        mask: jax.Array | None,
        key: jax.Array | None,
        loss: Callable | None,
        signs: dict[Name, Any],
    ) -> None:
        inputs = with_finite_padding(mask, inputs)
        self.network, self.inputs, self.loss, self.signs, self.graph = (
            network,
            inputs,
            loss,
            signs,
            network.graph,
        )
        masks = make_masks(len(next(iter(inputs.values()))), mask, None)
        # Spikes of a key must equal those of a call of the network, which derives the keys of a
        # step from its number.
        self.masks = masks if key is None else masks.numbered(0)
        states, pasts, traced, arrays, self.rest = _traced(network, inputs, self.masks, key)
        self.starts = states, pasts
        # The trainable arrays of each node by function. Integers are None, so an optimizer skips
        # them. The parameters of cells are constants here, because the rules judge the updates of
        # weights only.
        untrained = "fire", "integrate", *WITHOUT_GRADIENT
        self.weights = inexact(
            {
                name: {label: own[label] for label in own if label not in untrained}
                for name, own in arrays.items()
            }
        )
        kinds = {
            name: LayerVjp
            if name in self.graph.layers
            else _OverTime
            if is_over_time(node)
            else JoinVjp
            for name, node in self.graph.nodes.items()
        }
        self.nodes = {
            name: kinds[name](equations, arrays[name]) for name, equations in traced.items()
        }

    def forward(self, weights: Any) -> tuple[list[_Pass], dict[Name, jax.Array]]:
        """Return the passes of the components, in the order of a step, and the outputs of all
        nodes.
        """
        # One pass and one pullback per component. A single pullback of the complete network would
        # return the gradients of the weights, but not the cotangents between the components.
        passes, outs = [], dict(self.inputs)
        for names in self.graph.components(EVERY_DELAY):
            passes.append(
                _Pass(self.graph, names, self.nodes, weights, self.starts, self.masks, outs)
            )
            outs |= passes[-1].outs
        return passes, outs

    def loss_of_outs(self, outs: dict[Name, jax.Array]) -> jax.Array:
        if self.loss is None:
            return _probe(outs, self.signs)
        return self.loss(self.network._select(outs))

    def outputs_of(self, outs: dict[Name, jax.Array]) -> dict[Name, jax.Array]:
        return {name: outs[name] for name in self.network.graph.outputs}

    def loss_of(self, weights: Any) -> jax.Array:
        return self.loss_of_outs(self.outputs_of(self.forward(weights)[1]))


def first_updates(
    run: Run, optimizer: Any, trained: Any, gradients: Any, value: jax.Array
) -> dict[str, Any]:
    """Return first updates of the weights, by function.

    ``trained`` has the arrays of the network as the training gives them to the optimizer.
    ``gradients`` and ``value`` are the gradients of the weights and the loss.
    """
    weights, loss_of, own = run.weights, run.loss_of, _Trained(trained, run.weights)
    # Every update below starts from the initial state of the optimizer, so they differ only in the
    # gradient.
    at_start = _initial(optimizer, own.params)

    def update(gradients, loss):
        updates, _ = updates_of(
            optimizer, own.gradients(gradients), at_start, own.params, value, loss
        )
        return own.weights(updates)

    found: dict[str, Any] = {"trained": (own.gradients(gradients), own.params)}
    found["updates"] = update(gradients, lambda params: loss_of(own.weights(params)))

    def update_for(factors):
        """Return the first update for multiples of the gradients."""
        # A line search would call the loss, which does not belong to the scaled gradient. Its loss
        # is constant.
        scaled = jax.tree.map(
            lambda gradient, factor: gradient * factor.astype(gradient.dtype), gradients, factors
        )
        return update(scaled, lambda _: value)

    # A gradient of 0 leaves the weight decay, and the noise of an optimizer that adds noise.
    idle = update_for(jax.tree.map(jnp.zeros_like, gradients))
    found["decays"] = jax.tree.map(_along, weights, idle)
    found["learned"] = jax.tree.map(jnp.subtract, found["updates"], idle)
    found["cosine"] = _cosine(found["learned"], gradients)
    found["rounded"] = jax.tree.map(_rounded, weights, found["updates"])
    # A huge gradient hides an epsilon. The second update is for gradients at which a linear
    # optimizer would reach half of the first. With an epsilon it is smaller, and with a limit of
    # each element it is not.
    larger = update_for(jax.tree.map(_large, gradients))
    halves = update_for(jax.tree.map(_factor_to_half, found["updates"], larger))
    found["without_epsilon"] = jax.tree.map(_if_slowed, found["updates"], halves, larger)
    return found


def losses_after(run: Run, updates: Any) -> jax.Array:
    """Return the losses after parts of an update.

    If the loss falls only for small parts, the learning rate is too large.
    """

    def loss_after(part):
        # The update is scaled in at least float32 and rounded once. In half precision, a part of it
        # may be 0.
        return run.loss_of(
            jax.tree.map(
                lambda w, update: w + (part * update.astype(part.dtype)).astype(w.dtype),
                run.weights,
                updates,
            )
        )

    # The parts run sequentially, because each run needs the activity of all layers.
    return jax.lax.map(loss_after, jnp.asarray(PARTS))


def _initial(optimizer: Any, trainable: Any) -> Any:
    """Return the initial state of an optimizer for the arrays of a network."""
    try:
        return optimizer.init(trainable)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "diagnose: optimizer must take the arrays of the network, in its structure, got "
            f"{type(error).__name__} "
            "from its init; make its masks and labels for this structure, or leave them out"
        ) from error


class _Trained:
    """Weights by function, and the same weights in the structure of the network.

    The masks and labels of an optimizer are made for the second structure. A function may close
    over an array that is no leaf of the network. Then the optimizer gets the weights by function.
    """

    def __init__(self, network: Any, weights: Any) -> None:
        self._leaves, self._of_network = jax.tree.flatten(inexact(network))
        mine, self._by_function = jax.tree.flatten(weights)
        at = {id(leaf): n for n, leaf in enumerate(self._leaves)}
        self._at = [at.get(id(w), -1) for w in mine]
        if -1 in self._at:
            self._leaves, self._of_network, self._at = mine, self._by_function, [*range(len(mine))]
        self.params = self._of_network.unflatten(self._leaves)

    def gradients(self, gradients: Any) -> Any:
        """Return the gradients.

        Parameters of cells have gradients of 0, because no rule judges their updates.
        """
        leaves = [jnp.zeros_like(leaf) for leaf in self._leaves]
        for n, gradient in zip(self._at, jax.tree.leaves(gradients), strict=True):
            leaves[n] = leaves[n] + gradient  # several functions may have the same array
        return self._of_network.unflatten(leaves)

    def weights(self, params: Any) -> Any:
        leaves = jax.tree.leaves(params)
        return self._by_function.unflatten([leaves[n] for n in self._at])


def _cosine(one: Any, other: Any) -> jax.Array:
    """Return the cosine of two trees of arrays, 0 if one of them is zero."""

    def dot(a, b):
        return sum(
            jnp.vdot(x.astype(jnp.float32), y.astype(jnp.float32))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    size = jnp.sqrt(dot(one, one)) * jnp.sqrt(dot(other, other))
    return jnp.where(size > 0, dot(one, other) / jnp.where(size > 0, size, 1), 0)


def _along(w: jax.Array, update: jax.Array) -> jax.Array:
    """Return the part of an update that multiplies a weight by a factor.

    For noise this part is about zero.
    """
    # The projection of the update on the weight. Decoupled weight decay is parallel to the weight.
    # Noise is nearly orthogonal to it in many dimensions.
    w, update = w.astype(jnp.float32), update.astype(jnp.float32)
    size = jnp.vdot(w, w)
    return jnp.where(size > 0, jnp.vdot(w, update) / size, 0) * w


def _rounded(w: jax.Array, update: jax.Array) -> jax.Array:
    """Return the part of an update that the dtype of the weight rounds away."""
    of, wide = jnp.finfo(w.dtype), compute_dtype(w.dtype)
    w, update = w.astype(wide), update.astype(wide)
    # Two conversions would not round, because XLA may leave them out.
    return update - (jax.lax.reduce_precision(w + update, of.nexp, of.nmant) - w)


def _large(gradient: jax.Array) -> jax.Array:
    """Return a large gradient. The largest number of float16 is smaller than ``LARGER``."""
    return jnp.full_like(gradient, min(LARGER, float(jnp.finfo(gradient.dtype).max)))


def _factor_to_half(update: jax.Array, larger: jax.Array) -> jax.Array:
    """Return the factor of a gradient that would make a linear update half of a larger one."""
    size = _magnitude(update)
    return jnp.where(size > 0, _magnitude(larger) / (2 * jnp.where(size > 0, size, 1)), 1)


def _if_slowed(update: jax.Array, half: jax.Array, larger: jax.Array) -> jax.Array:
    """Return the update for a larger gradient if an epsilon makes the update smaller, otherwise the
    update.

    An epsilon changes the direction, because it is added to each element. A learning rate and a
    limit of the norm only scale the update. A limit of each element (``optax.clip``) changes the
    direction too, but the update grows linearly up to the limit.
    """
    u, v = update.astype(jnp.float32), larger.astype(jnp.float32)
    size = jnp.maximum(_magnitude(larger), jnp.finfo(jnp.float32).tiny)  # its square would overflow
    v = v / size
    turned = jnp.vdot(u, v) < SAME_DIRECTION * jnp.sqrt(jnp.vdot(u, u) * jnp.vdot(v, v))
    return jnp.where(turned & (_magnitude(half) < LINEAR_HALF * size), larger, update)


def _magnitude(array: jax.Array) -> jax.Array:
    return abs(array.astype(jnp.float32)).max(initial=0)


def layer_outputs(
    network: Network, inputs: dict[Name, jax.Array], mask: Any, key: Any
) -> dict[Name, Any]:
    """Return shape and dtype of the outputs of each node in one step, ``(batch, neurons)``.

    Joins may be missing.
    """
    if not any(map(is_over_time, network.graph.nodes.values())):
        states, _ = initial_states(network.graph, {name: x[0] for name, x in inputs.items()})
        return {name: out for name, (_, out) in states.items()}
    given = inputs[network.inputs] if isinstance(network.inputs, str) else inputs
    outs = jax.eval_shape(lambda: network.observe(given, mask=mask, key=key)[1])
    return {
        name: jax.ShapeDtypeStruct(node.output.shape[1:], node.output.dtype)
        for name, node in outs.items()
    }


def _traced(network: Network, inputs: dict[Name, jax.Array], masks: Masks, key: Any) -> list[dict]:
    """Return states, pasts, equations, arrays and pre-spike states of all nodes, traced by stage as
    in a call.
    """
    stages = stages_of(network.graph)
    steps, found = len(masks.started), [{}, {}, {}, {}, {}]
    known = {name: x[0] for name, x in inputs.items()}
    if len(stages) > 1:
        # A stage reads outputs of earlier stages. Tracing needs only shapes and dtypes, so zeros
        # replace these outputs.
        shapes = layer_outputs(network, inputs, masks.active, key)
        known |= {name: jnp.zeros(out.shape, out.dtype) for name, out in shapes.items()}
    for stage in stages:
        for name in stage.over_time:
            join, edges = network.graph.nodes[name], network.graph.edges[name]

            def function(reads, active, name=name, join=join):
                return over_time(name, join, [*reads.values()], active)[0]

            # A function over time takes complete sequences, (steps, batch, ...), instead of the
            # inputs of one step.
            reads = {
                edge.label: jnp.broadcast_to(known[edge.source], (steps, *known[edge.source].shape))
                for edge in edges
            }
            # The backward pass calls a join with its arrays and reads, so the mask is bound here.
            call, own, _ = close(function, reads, masks.active)
            found[2][name] = TracedJoin(
                functools.partial(_with_mask, call, masks.active), edges, per_step=False
            )
            found[3][name] = {"function": own}
        graph = stage.graph
        if not graph.nodes:
            continue
        first = {name: known[name] for name in graph.inputs}
        states, pasts = initial_states(graph, first)
        for total, new in zip(
            found, (states, pasts, *trace_all(graph, first, states, pasts, key)), strict=True
        ):
            total |= new
    return found


def _with_mask(call: Callable, active: Any, arrays: Any, reads: dict) -> jax.Array:
    return call(arrays, reads, active)


class _OverTime(JoinVjp):
    """A join over time."""

    def with_arrays(self, arrays: dict[str, Any]) -> _OverTime:
        return _OverTime(self.traced, {**self.arrays, **arrays})

    def over_chunk(self, reads: dict[str, Any], arrays: Any = None) -> jax.Array:
        return self.function(reads)


def _probe(outs: dict[Name, jax.Array], signs: dict[Name, Any]) -> jax.Array:
    """Add the outputs with random signs, to differentiate without a loss."""
    # In a plain sum, gradients of neurons would cancel. The signs are (batch, neurons), and
    # constant over the steps.

    def signs_of(name, out):
        if name in signs:
            return signs[name]
        return np.random.default_rng(1).choice(
            np.asarray([-1, 1], np.float32), out.shape[1:]
        )  # of a join

    probed = [
        (out * jnp.asarray(signs_of(name, out), out.dtype)[None]).mean()
        for name, out in outs.items()
    ]
    return functools.reduce(jnp.add, probed)


class _Pass:
    """A component that has run over all steps, with the functions of the backward pass."""

    def __init__(
        self,
        graph: Graph,
        names: tuple[Name, ...],
        nodes: Mapping[Name, LayerVjp | JoinVjp],
        weights: dict[Name, dict],
        starts: tuple[dict[Name, LayerState], dict[Name, jax.Array]],
        masks: Masks,
        outs: dict[Name, jax.Array],
    ) -> None:
        self.names, self.masks = names, masks
        # With masks per example, a lag counts the valid steps of each example (see ``_past``).
        steps, places = len(masks.started), places_of(masks.active)

        def with_trained(mine):
            return {
                name: nodes[name].with_arrays(
                    {k: merge(own, nodes[name].arrays[k]) for k, own in mine[name].items()}
                )
                for name in names
            }

        def products(mine, sources):
            given = {}
            for name, node in with_trained(mine).items():
                edges = (edge for edge in graph.edges[name] if edge.source not in names)
                reads = {
                    edge.label: _read(edge, sources[edge.source], steps, places) for edge in edges
                }
                given[name] = (
                    {DRIVE: node.drive(reads, steps)} if isinstance(node, LayerVjp) else reads
                )
            # Only floats are differentiated outputs. Reads of integers, such as event counts, are
            # auxiliary outputs.
            return split(given, lambda _, leaf: is_inexact(leaf))

        # The backward pass has two parts, which give access to the cotangent of the current between
        # them. The first part is W x + b, one product for all steps. The second part is the
        # sequential steps. A weight belongs to the part that uses it: within the steps
        # (``looped``), or before them (``feeding``).
        all_nodes = with_trained(weights)
        self.layers = {name: node for name, node in all_nodes.items() if isinstance(node, LayerVjp)}
        feeding, looped = {}, {}
        for name, node in all_nodes.items():
            later = node.traced.looped if isinstance(node, LayerVjp) else ("function",)
            looped[name] = {label: own for label, own in weights[name].items() if label in later}
            feeding[name] = {
                label: own for label, own in weights[name].items() if label not in later
            }
        sources = {
            e.source: outs[e.source]
            for name in names
            for e in graph.edges[name]
            if e.source not in names
        }
        given, self._back_products, fixed = _vjp(products, feeding, sources)
        # The cotangent of a probe, (steps, batch, neurons), is the gradient of the outputs from
        # their readers.
        probes = {
            name: jnp.zeros((steps, *starts[0][name][1].shape), starts[0][name][1].dtype)
            for name in self.layers
        }

        def run(mine, given, probes):
            return _over_steps(
                graph, with_trained(mine), starts, merge(given, fixed), probes, masks
            )

        self.outs, self._back_steps, self.seen = _vjp(run, looped, given, probes)

    def back(self, cts: Mapping[Name, jax.Array]) -> tuple[dict, dict, dict, dict]:
        """Return the gradients of the weights, and the cotangents of currents, outputs and sources.

        A layer's own reads are not in the cotangent of its outputs.
        """
        # The parts run backward in reverse order. ``ct_given`` connects them: the current of a
        # layer, the reads of a join. An output without readers has a cotangent of zeros.
        looped, ct_given, ct_outs = self._back_steps(
            {n: cts.get(n, zeros_like(out)) for n, out in self.outs.items()}
        )
        feeding, ct_sources = self._back_products(ct_given)
        gradients = {name: {**feeding[name], **looped[name]} for name in self.names}
        ct_sources = {name: ct for name, ct in ct_sources.items() if ct is not None}
        return gradients, {name: ct_given[name][DRIVE] for name in self.layers}, ct_outs, ct_sources

    def back_from_end(self, name: Name, signs: Any, last: jax.Array) -> jax.Array:
        """Return the cotangent of a layer's currents for random signs at the last step of each
        example.
        """
        # Other outputs have zero cotangents, so the gradient at a lag depends only on this
        # component. The decay of this gradient with the lag shows if it vanishes or explodes
        # (Bengio, Simard, Frasconi 1994).
        cts = {n: zeros_like(out) for n, out in self.outs.items()}  # (steps, batch, neurons)
        # ``last`` is (batch,), with a separate step for each example, or a scalar for inputs
        # without a batch axis.
        index = (last,) if cts[name].ndim < 3 else (last, jnp.arange(len(last)))
        cts[name] = cts[name].at[index].set(jnp.asarray(signs, cts[name].dtype))
        return self._back_steps(cts)[1][name][DRIVE]


def _vjp(function: Callable, *args: Any) -> tuple[Any, Callable, Any]:
    """``jax.vjp`` of a function with auxiliary outputs.

    Arguments of bools and integers get cotangents of None.
    """
    given, others = split(args, lambda _, leaf: is_inexact(leaf))
    return jax.vjp(lambda *given: function(*merge(given, others)), *given, has_aux=True)


def _read(edge: Edge, out: jax.Array, steps: int, places: Any) -> Any:
    """Read an edge in all steps, (steps, batch, ...), or a tuple of these for a window."""

    # Before the first step, outputs are zeros: (lag, batch, ...). A lag of 0 has an empty past.
    def one(lag):
        return lagged(jnp.zeros((lag, *out.shape[1:]), out.dtype), out, lag, steps, places)

    return edge.read(one)


def _over_steps(
    graph: Graph,
    nodes: Mapping[Name, LayerVjp | JoinVjp],
    starts: tuple[dict[Name, LayerState], dict[Name, jax.Array]],
    given: dict[Name, dict],
    probes: dict[Name, jax.Array],
    masks: Masks,
) -> tuple[dict[Name, jax.Array], dict[Name, _PreSpike]]:
    """Return outputs, and pre-spike states with the currents.

    ``probes`` are zeros that are added to the outputs for other nodes.
    """
    layers = {name: node for name, node in nodes.items() if isinstance(node, LayerVjp)}
    joins = {name: node for name, node in nodes.items() if isinstance(node, JoinVjp)}
    if not layers:  # a join without a loop
        return {
            name: tree_keep(masks.active, node.over_chunk(given[name]))
            for name, node in joins.items()
        }, {}
    states, pasts = {}, {}
    steps: dict[Any, tuple[Any, tuple[Edge, ...]]] = {}
    for name, node in nodes.items():
        # Other nodes read a layer through its probe, and the layer itself reads its outputs
        # directly.
        edges = tuple(
            edge._replace(source=_probed(edge.source))
            if edge.source in layers and edge.source != name
            else edge
            for edge in graph.edges[name]
            if edge.source in nodes
        )
        if isinstance(node, JoinVjp):
            steps[name] = JoinSteps(node.function), edges
            continue
        v, out = starts[0][name]
        # Without a spike, the state before a spike is also the state after it, if both have equal
        # shapes and dtypes. The second state below then runs without spikes. It is a statistic and
        # gets no gradient.
        drive = jax.tree.map(lambda a: a[0], given[name][DRIVE])
        has_free = _types(jax.eval_shape(node.integrate, v, drive)) == _types(v)
        states[name] = (v, jax.lax.stop_gradient(v) if has_free else None), out
        steps[name] = _Recording(node, feedback_edges(graph, name), has_free), edges
        # In a loop of layers, the readers in the component get the probed output from this
        # additional join.
        steps[_probed(name)] = (
            JoinSteps(lambda reads: reads["out"] + reads["probe"]),
            (Edge("out", name, (0,)),),
        )
        pasts[name] = pasts[_probed(name)] = out
    pasts = {**{name: past[0] for name, past in starts[1].items()}, **pasts}
    depths = depths_of(itertools.chain(*(edges for _, edges in steps.values())), layers)

    # Scan over the steps. Carry: the states, each (batch, neurons), and the pasts that are read
    # within the steps, (depth, batch, neurons). Slices: the current of other nodes, (batch,
    # neurons), and the masks.
    def step(carry, now):
        states, pasts = carry
        given, probes, mask = now
        given = given | {_probed(name): {"probe": probe} for name, probe in probes.items()}
        new = graph_step(steps, states, dict(zip(depths, pasts, strict=True)), {}, given, mask)
        outs = {name: new.outputs[_probed(name) if name in layers else name] for name in nodes}
        return (new.states, [new.pasts[source] for source in depths]), (outs, new.pre_spike)

    start = (
        states,
        [jnp.stack([zeros_like(pasts[source])] * depth) for source, depth in depths.items()],
    )
    # XLA's convolutions are slow in loops unless their axes have one order (see
    # ``engine._convolution``).
    fast = canonical(step) if any(node.traced.per_step for node in nodes.values()) else step
    _, (outs, seen) = jax.lax.scan(fast, start, (given, probes, masks))
    return outs, seen


def _probed(name: Name) -> Any:
    return "probed", name


class _PreSpike(NamedTuple):
    """A pre-spike state, with the pre-spike state without spikes and the parts of the current."""

    u: State
    free: State
    current: jax.Array
    feedback: jax.Array | None


class _Recording(NamedTuple):
    """A layer that adds these to its pre-spike state."""

    layer: LayerVjp
    feedback: Collection[str]
    """The labels of edges with spikes of former steps from a loop."""
    has_free: bool

    def current(self, given: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        hoisted, reads = given
        # XLA merges these products with the equal products of ``layer.current``. The current of the
        # layer is still the engine's sum, because another order could change a spike. The other two
        # are statistics, (batch, neurons).
        parts = {label: self.layer.call(label, read) for label, read in reads.items()}
        feedback = [part for label, part in parts.items() if label in self.feedback]
        below = [part for label, part in parts.items() if label not in self.feedback]
        return (
            self.layer.current(given),
            functools.reduce(jnp.add, below, hoisted[DRIVE]),
            functools.reduce(jnp.add, feedback) if feedback else None,
        )

    def integrate(self, v: Any, current: Any) -> _PreSpike:
        # The state without spikes receives only the current from below. The gradient must not pass
        # through it.
        (v, free), (total, below, feedback) = v, current
        if self.has_free:
            free = self.layer.integrate(free, jax.lax.stop_gradient(below))
        return _PreSpike(self.layer.integrate(v, total), free, below, feedback)

    def fire(self, u: _PreSpike, number: Any, active: Any = None) -> Any:
        v, out = self.layer.fire(u.u, number, active)
        return (v, u.free), out


class _Activity:
    """The activity of a layer."""

    def __init__(
        self, layer: LayerVjp, seen: _PreSpike, out: jax.Array, rest: Any, number: Any
    ) -> None:
        self.layer, self.seen, self.out, self.rest, self.number = layer, seen, out, rest, number
        # The search for the threshold fires a neuron at rest repeatedly. It uses the key of the
        # first step.
        first = None if number is None else number[0]
        known = layer.traced.encoded is not None
        if known and layer.traced.encoded[0] is None:  # a readout
            self.potential = Potential(jnp.zeros((), jnp.int32))
        else:
            self.potential = find(
                rest, lambda u: layer.fire(u, first), self._encoded if known else None
            )

    def recorded(self, ct_current: jax.Array, ct_out: jax.Array, ct_lagged: jax.Array) -> Recorded:
        u, free, current, feedback = self.seen
        return Recorded(
            self._read(u),
            jax.vmap(self.distance)(u),  # vmap over the steps
            self.out,
            self._slope(u),
            current,
            None if free is None else self._read(free) - self._read(self.rest, self.out[0])[None],
            ct_current,
            ct_out,
            ct_lagged,
            self._narrow(u),
            feedback,
        )

    def distance(self, u: Any) -> Any:
        """Return the distance of a pre-spike state to the threshold, or None for a readout."""
        if self.potential.level is None:
            return self._encoded(u)
        return self._read(u, self.potential.level) - self.potential.level

    def _encoded(self, u: Any) -> Any:
        return self.layer.call("encode", u)[0]

    def _read(self, u: Any, like: Any = None) -> jax.Array:
        # The potential has the shape of the output. Other arrays of a state, such as receptors, may
        # have more axes.
        like = self.out if like is None else like
        arrays, _ = candidates(u, like)
        return select(self.potential.which, arrays) if arrays else like

    def _each_step(self, function: Callable) -> Callable:
        return jax.vmap(function, in_axes=(0, None if self.number is None else 0))

    def _slope(self, u: Any) -> jax.Array:
        """Return the derivative of the output with respect to the potential."""

        # ``fire`` is elementwise, so one tangent gives the derivatives of all neurons. With batch
        # normalization it is not: the signs of the examples are random, so the effects of other
        # examples cancel. vmap is over the steps.
        def slope(u, number):
            arrays, replaced = candidates(u, self.out[0])
            if not arrays:
                return jnp.zeros_like(self.out[0])
            out = self.out[0]
            signs = (
                np.random.default_rng(2)
                .choice([-1, 1], len(out))
                .reshape(-1, *[1] * (out.ndim - 1))
            )
            ones = [
                jnp.broadcast_to(
                    jnp.where(self.potential.which == k, signs, 0).astype(a.dtype), a.shape
                )
                for k, a in enumerate(arrays)
            ]
            slopes = jax.jvp(
                lambda *given: self.layer.fire(replaced([*given]), number)[1], arrays, ones
            )[1]
            return slopes * signs.astype(slopes.dtype)

        return self._each_step(slope)(u, self.number)

    def _narrow(self, u: Any) -> Any:
        """Return a mask of distances that mode "8-bit" cannot resolve, and the slopes after
        storage.
        """
        if self.layer.traced.encoded is None or self.layer.traced.encoded[0] is None:
            return None
        # vmap over the steps, because the engine also stores (batch, neurons) of one step at a
        # time. The unit of the codes depends on all neurons of one example in one step.
        kept = self._each_step(lambda u, number: self.layer.store(EIGHT_BIT, u, number))(
            u, self.number
        )
        distance, _ = kept
        return EIGHT_BIT.lost(distance), self._slope(
            jax.vmap(lambda kept: self.layer.load(EIGHT_BIT, kept))(kept)
        )


def _types(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)
