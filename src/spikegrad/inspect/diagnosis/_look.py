"""Run a network forward and back, and report each of its layers in numbers.

Each fix is tried in this way too, so inputs and loss are prepared once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._optimizer import updates_of
from ..._pytree import is_array, merge, split
from ..._struct import as_numbers, lifted
from ..._surrogate import Surrogate
from ...network import Network
from ...network._connections import Delayed, Name, Window, matrix_of
from ...network._graph import Graph
from ...network._network import is_pure_network
from ...network._widths import surrogate_of
from ...neurons import Cell, says_how_to_encode
from ._numbers import LayerReport, Recorded, last_steps, norm, numbers, of_matrix, of_slope
from ._places import Place, chain, places_of, weights_of_edges
from ._recorder import layer_outputs, record

MANY = 1000
"""The number of updates in which an optimizer must move some weight."""


class InputReport(NamedTuple):
    """Numbers of inputs, over steps and examples."""

    largest: float = 1.0
    """The largest size of an input."""
    means: Sequence[float] = ()
    """Mean of each channel."""
    stds: Sequence[float] = ()
    """Its standard deviation."""
    channels: tuple[float, ...] = ()
    """Its root mean square."""


class NetworkReport(NamedTuple):
    """Facts about a network that are not numbers of one layer."""

    cells: Sequence[Cell | None]
    mode: str = "exact"
    reads: Sequence[float] = ()
    """Norm of the gradient of the loss in the outputs of each step."""
    differ: Sequence[float] = ()
    """Norm of the differences between the inputs of the examples, in each step."""
    inputs: Mapping[int, InputReport] = {}
    """The inputs of each layer that reads inputs and nothing else, without a delay."""
    loss: float | None = None
    losses_after: Sequence[float] = ()
    """The loss after the first update times each of ``PARTS``."""
    idle_updates: int = 0
    """The number of first updates that leave all weights as they are, up to ``MANY``, although they have gradients."""
    known_places: Sequence[Place] = ()
    """The places of the layers, unless each reads the one before."""

    @property
    def places(self) -> Sequence[Place]:
        return self.known_places or chain(len(self.cells))


class Seen(NamedTuple):
    """The numbers of each layer, and the facts about the network."""

    layers: list[LayerReport]
    network: NetworkReport


class Look:
    """Inputs, loss and optimizer. A call examines a network."""

    def __init__(
        self, inputs: dict[Name, jax.Array], mask: Any, key: Any, loss: Callable | None, optimizer: Any, mode: str
    ) -> None:
        self.inputs, self.mask, self.key, self.loss = inputs, mask, key, loss
        self.optimizer, self.mode, self._programs = optimizer, mode, {}
        x = next(iter(inputs.values()))
        self.batched = x.ndim > 2
        self.active = np.ones((len(x), x.shape[1] if self.batched else 1), bool)
        if mask is not None:
            self.active &= np.asarray(mask).reshape(len(x), -1)
        flat = {name: np.asarray(x, np.float32).reshape(*self.active.shape, -1) for name, x in inputs.items()}
        self.flat = {name: x * self.active[:, :, None] for name, x in flat.items()}

    @np.errstate(invalid="ignore")  # of NaN or infinite numbers, which have issues
    def __call__(self, network: Network) -> Seen:
        found, graph = jax.device_get(self._run(network)), network.graph
        if not self.batched:
            found["layers"], found["joins"] = jax.tree.map(lambda a: a[:, None], (found["layers"], found["joins"]))
        places = places_of(graph, network._output_names)
        reports = [self._report(graph, place, found) for place in places]
        known = self.loss is not None
        of_network = NetworkReport(
            [layer.cell for layer in graph.layers.values()],
            self.mode,
            [norm(jax.tree.map(lambda a, t=t: a[t], found["read"])) for t in range(len(self.active))] if known else (),
            _differences(np.concatenate([*self.flat.values()], -1)),
            self._of_inputs(graph, places),
            float(found["loss"]) if known else None,
            np.asarray(found["losses_after"], float).tolist() if known and "losses_after" in found else (),
            0 if self.optimizer is None else self._idle_updates(found),
            places,
        )
        return Seen(reports, of_network)

    def _idle_updates(self, found: dict) -> int:
        gradients, weights, updates = found["weight_gradients"], found["weights"], found["updates"]
        if _is_zero(gradients) or not _is_zero(updates):
            return 0

        @jax.jit
        def update(state):
            return updates_of(self.optimizer, gradients, state, weights, found["loss"], lambda _: found["loss"])

        # A schedule may begin with 0, and an optimizer may collect gradients over several steps.
        state = self.optimizer.init(weights)
        for n in range(MANY):
            updates, state = update(state)
            if not _is_zero(updates):
                return n
        return MANY

    def _of_inputs(self, graph: Graph, places: Sequence[Place]) -> dict[int, InputReport]:
        found = {}
        for n, place in enumerate(places):
            source = _only_source(graph, place.name)
            if source in self.flat:
                x = np.asarray(self.flat[source][self.active], np.float64)
                channels = tuple(np.sqrt((x**2).mean(0)).tolist())
                largest = float(abs(x).max(initial=0))
                found[n] = InputReport(largest, x.mean(0).tolist(), x.std(0).tolist(), channels)
        return found

    def _report(self, graph: Graph, place: Place, found: dict) -> LayerReport:
        name = place.name
        layer = graph.nodes[name]
        made_by, rest, spikes = surrogate_of(layer.cell), found["at_rest"][name], found["spikes"][name]
        seen: Recorded = found["layers"][name]
        fires = rest is not None
        if not says_how_to_encode(layer.cell):  # it fires if it behaves so
            fires = bool(spikes) and bool((seen.out == np.round(seen.out)).all())
            if not fires:
                rest, seen = None, seen._replace(distance=None)
        weight_of = weights_of_edges(layer)
        norms: dict[str, Any] = {
            kind: {
                weight: norm(
                    [arrays for edge, arrays in found[kind][name].items() if weight_of.get(edge, edge) == weight]
                )
                for weight in (*layer.weights, "bias")
            }
            for kind in ("weights", "weight_gradients", "updates", "decays", "learned", "without_epsilon")
            if kind in found
        }
        if rest is not None:
            rest = np.asarray(rest, np.float64)  # NumPy would add in bfloat16
            norms |= {"scale": float(np.mean(abs(rest))), "at_rest": float(np.mean(rest >= 0))}
        source = _only_source(graph, name)
        if source is not None and (matrix := matrix_of(layer.weight)) is not None:
            known = self.flat | found["joins"]
            x = known[source] if source in known else found["layers"][source].out
            norms |= of_matrix(x.reshape(*self.active.shape, -1), matrix, self.active)
        surrogate = None if made_by is None else as_surrogate(made_by)
        return report(place.text, type(layer.cell).__name__, seen, self.active, surrogate, fires, **norms)

    def _run(self, network: Network) -> dict[str, Any]:
        """Record a network. Its arrays and numbers are arguments of the program, which may be compiled already."""
        arrays, rest = split(lifted(network), lambda _, leaf: is_array(leaf) or isinstance(leaf, (float, int)))
        # In 32 bits, JAX may pass a NumPy array of 64 bits to a program of 32 bits if 64 bits were on before.
        arrays = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, arrays)
        others, structure = jax.tree.flatten(rest)
        rng = np.random.default_rng(0)
        outs = layer_outputs(network, self.inputs, self.mask, self.key)
        one = np.asarray([-1, 1], np.float32)
        signs = {name: rng.choice(one, outs[name].shape) for name in network.graph.layers}
        last = last_steps(self.active)
        given = arrays, self.inputs, self.mask, self.key
        later = signs, last if self.batched else last[0]
        if is_pure_network(network) and (self.loss is None or isinstance(self.loss, jax.tree_util.Partial)):
            return _compiled(structure, tuple(others), self.optimizer, *given, self.loss, *later)
        made_for = structure, tuple(map(id, others))
        if made_for not in self._programs:
            fresh = functools.partial(_recorded, structure, tuple(others), self.optimizer)
            self._programs[made_for] = jax.jit(functools.partial(fresh, loss=self.loss))
        return self._programs[made_for](*given, signs=signs, last=later[1])


def _recorded(structure, others, optimizer, arrays, inputs, mask, key, loss, signs, last):
    return record(merge(arrays, structure.unflatten(others)), inputs, mask, key, loss, signs, last, optimizer)


_compiled = jax.jit(_recorded, static_argnums=(0, 1, 2))


def report(
    name: str,
    cell: str,
    seen: Recorded,
    active: np.ndarray,
    surrogate: Surrogate | None,
    fires: bool,
    **others: Any,
) -> LayerReport:
    """The report of one layer. ``others`` are the fields that do not follow from the recorded arrays."""
    slope: dict[str, Any] = {}
    if surrogate is not None:
        slope = of_slope(surrogate)
        slope["surrogate"] = None if isinstance(surrogate, _Called) else surrogate
    of_steps = numbers(seen, active, fires, slope.get("peak"))
    return LayerReport(name=name, cell=cell, **slope, **others, **of_steps)


def as_surrogate(found: Any) -> Surrogate:
    """A surrogate with one number for each parameter, or a function that makes spikes as one."""
    return as_numbers(found) if isinstance(found, Surrogate) else _Called(found)


class _Called(Surrogate):
    """A function that makes spikes, as a surrogate."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def surrogate_grad(self, x):
        return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]


def _only_source(graph: Graph, name: Name) -> Name | None:
    """The source of a layer, or None if it has several sources or a delay."""
    layer = graph.nodes[name]
    if isinstance(layer.weight, (Mapping, Delayed, Window)):
        return None
    return next(edge.source for edge in graph.edges[name] if edge.label == "weight")


def _is_zero(tree: Any) -> bool:
    return not any(np.any(leaf) for leaf in jax.tree.leaves(tree))


def _differences(x: np.ndarray) -> list[float]:
    """Norm of the differences between the examples in each step, or of a single example."""
    return [norm(of_step) for of_step in (x - x.mean(1, keepdims=True) if x.shape[1] > 1 else x)]
