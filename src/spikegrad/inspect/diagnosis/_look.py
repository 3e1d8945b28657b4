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
from jax.errors import (
    ConcretizationTypeError,
    TracerArrayConversionError,
    TracerIntegerConversionError,
)

from ..._optimizer import updates_of
from ..._pytree import inexact, is_array, is_inexact, merge, split
from ..._struct import as_numbers, lifted
from ..._surrogate import Surrogate
from ...network import Network
from ...network._connections import Delayed, Name, Window, matrix_of
from ...network._graph import Graph
from ...network._network import is_pure_network
from ...network._widths import surrogate_of
from ...neurons import Cell, says_how_to_encode
from ._fixes import Fix
from ._numbers import (
    LayerReport,
    Recorded,
    last_steps,
    norm,
    numbers,
    of_matrix,
    of_slope,
    offset_of_one_sign,
)
from ._places import Place, chain, places_of, weights_of_edges
from ._recorder import Run, first_updates, layer_outputs, losses_after, record

MANY = 1000
"""The number of updates in which an optimizer must move some weight."""
LEAST_UPDATE = 1e-4
"""The smallest norm of an update that trains, over the norm of its weights."""
SOME, ALL = 30, 100
"""The number of updates after which a silent layer may fire, and after which the loss is judged."""
FOLDS, FEW = 4, 32
"""Training holds out each of so many parts of the examples in turn, unless the examples are fewer
than the second
number."""
CAUTION = 0.0, 0.1, 0.3, 1.0
"""Outputs may be right but too sure.

So they are judged at these parts of their distances from constant outputs.
"""


class InputReport(NamedTuple):
    """Numbers of inputs, over steps and examples."""

    largest: float = 1.0
    """The largest size of an input."""
    usual: float = 0.0
    """The size that nine of ten inputs do not exceed, without zeros."""
    means: Sequence[float] = ()
    """Mean of each channel."""
    stds: Sequence[float] = ()
    """Its standard deviation."""
    channels: tuple[float, ...] = ()
    """Its root mean square."""
    source: str = ""
    """The source of these inputs, if the layer has several. They are the largest."""


class NetworkReport(NamedTuple):
    """Facts about a network that are not numbers of one layer."""

    cells: Sequence[Cell | None]
    mode: str = "exact"
    reads: Sequence[float] = ()
    """Norm of the gradient of the loss in the outputs of each step."""
    differ: Sequence[float] = ()
    """Norm of the differences between the inputs of the examples, in each step."""
    inputs: Mapping[int, InputReport] = {}
    """The inputs of each layer that reads inputs or outputs of joins without a delay."""
    loss: float | None = None
    losses_after: Sequence[float] = ()
    """The loss after the first update times each of ``PARTS``."""
    cosine: float = -1.0
    """The cosine of the first update and the gradient. Descent has a negative one."""
    idle_updates: int = 0
    """The number of first updates that leave all weights as they are, up to ``MANY``, although they
    have gradients.
    """
    later_update: float = 0.0
    """If the first update is 0: the largest norm of an update over the norm of its weights, in
    ``MANY`` updates, or up
    to the first that reaches ``LEAST_UPDATE``."""
    known_places: Sequence[Place] = ()
    """The places of the layers, unless each reads the one before."""

    @property
    def places(self) -> Sequence[Place]:
        return self.known_places or chain(len(self.cells))


class Seen(NamedTuple):
    """The numbers of each layer, and the facts about the network."""

    layers: list[LayerReport]
    network: NetworkReport


class Trained(NamedTuple):
    """A network after updates on the inputs."""

    network: Network
    """The network after ``SOME`` updates."""
    left: float
    """The loss after ``ALL`` updates, over the loss of constant outputs.

    These are zeros or the mean over the examples,
    whichever has the lower loss. A network that has learned these examples leaves hardly any of
    it."""
    learned: float
    """The part of the loss of constant outputs that the outputs, or less sure ones, remove: for
    examples that the
    updates did not use, or for all after updates on all, whichever is smaller. It is about 1 for a
    network that
    generalizes, and 0 for outputs without information."""


class Look:
    """Inputs, loss and optimizer. A call examines a network."""

    def __init__(
        self,
        inputs: dict[Name, jax.Array],
        mask: Any,
        key: Any,
        loss: Callable | None,
        optimizer: Any,
        mode: str,
        train: bool = True,
    ) -> None:
        self.inputs, self.mask, self.key, self.loss = inputs, mask, key, loss
        self.optimizer, self.mode, self.train, self._programs = optimizer, mode, train, {}
        self._trainings: dict[Any, Callable] = {}
        self._numbers_are_traced = True
        self._first: _OfNetwork | None = None
        x = next(iter(inputs.values()))
        self.batched = x.ndim > 2
        self.active = np.ones((len(x), x.shape[1] if self.batched else 1), bool)
        if mask is not None:
            self.active &= np.asarray(mask).reshape(len(x), -1)
        flat = {
            name: np.asarray(x, np.float32).reshape(*self.active.shape, -1)
            for name, x in inputs.items()
        }
        self.flat = {name: x * self.active[:, :, None] for name, x in flat.items()}

    @np.errstate(invalid="ignore")  # of NaN or infinite numbers, which have issues
    def __call__(self, network: Network) -> Seen:
        found, graph = jax.device_get(self._run(network)), network.graph
        if not self.batched:
            found["layers"], found["joins"] = jax.tree.map(
                lambda a: a[:, None], (found["layers"], found["joins"])
            )
        places = places_of(graph, graph.outputs)
        reports = [self._report(graph, place, found) for place in places]
        known = self.loss is not None
        of_network = NetworkReport(
            [layer.cell for layer in graph.layers.values()],
            self.mode,
            [
                norm(jax.tree.map(lambda a, t=t: a[t], found["read"]))
                for t in range(len(self.active))
            ]
            if known
            else (),
            _differences(np.concatenate([*self.flat.values()], -1)),
            self._of_inputs(graph, places, found["joins"]),
            float(found["loss"]) if known else None,
            np.asarray(found["losses_after"], float).tolist()
            if known and "losses_after" in found
            else (),
            float(found.get("cosine", -1.0)),
            *(self._later_updates(found) if "updates" in found else (0, 0.0)),
            places,
        )
        return Seen(reports, of_network)

    def _later_updates(self, found: dict) -> tuple[int, float]:
        gradients, params = found["trained"]
        if _is_zero(gradients) or not _is_zero(found["updates"]):
            return 0, 0.0

        @jax.jit
        def update(state):
            return updates_of(
                self.optimizer, gradients, state, params, found["loss"], lambda _: found["loss"]
            )

        # A schedule may begin with 0, and an optimizer may collect gradients over several steps.
        state, sizes = self.optimizer.init(params), []
        weights = [norm(w) or 1.0 for w in jax.tree.leaves(params)]
        while len(sizes) < MANY and (not sizes or sizes[-1] < LEAST_UPDATE):
            updates, state = update(state)
            pairs = zip(jax.tree.leaves(updates), weights, strict=True)
            sizes.append(max((norm(change) / size for change, size in pairs), default=0.0))
        return next((n for n, size in enumerate(sizes) if size), MANY), max(sizes)

    def trained(self, network: Network, fix: Fix | None = None) -> Trained | None:
        """Train a network by the optimizer on all examples, and on parts of them.

        A fix may change the learning rate or the epsilon of the optimizer. Return None without
        optimizer or loss, if no training is wanted, and if the optimizer has masks or labels for
        another structure, because a fix may add an array.
        """
        if not self.train or self.loss is None or self.optimizer is None or not self.batched:
            return None
        trainable, others = split(network, lambda _, leaf: is_array(leaf) and is_inexact(leaf))
        leaves, structure = jax.tree.flatten(others)
        made_for = structure, tuple(map(id, leaves))
        if made_for not in self._trainings:  # other weights run in the same program
            self._trainings[made_for] = self._training(others)
        try:
            state = self.optimizer.init(trainable)
        except Exception:  # of a mask of the user, which may check the structure
            return None
        # An epsilon acts as one that is larger by the factor by which the gradients are smaller.
        change, value = (fix.change, float(fix.value)) if fix else ("", 1.0)
        factors = (
            value if change == "learning rate" else 1.0,
            1 / value if change == "epsilon" else 1.0,
        )
        with jax.disable_jit(False):  # without jit, thousands of updates would take hours
            after_some, left, learned = self._trainings[made_for]((trainable, state), factors)
        return Trained(
            merge(after_some, others), float(left), min(float(learned), max(1 - float(left), 0.0))
        )

    def _training(self, others: Any) -> Callable:
        """Return a function that makes updates and returns the arrays after some, and the fractions
        of `Trained`.
        """
        loss = self.loss
        assert loss is not None
        inputs = self.inputs[others.inputs] if isinstance(others.inputs, str) else self.inputs
        examples = self.active.shape[1]
        fold_of = np.random.default_rng(0).permutation(examples) % FOLDS
        held_out = [*range(FOLDS)] if examples >= FEW else []
        counts, folds = (
            [SOME, ALL, *(ALL for _ in held_out)],
            [-1, -1, *held_out],
        )  # fold -1 has no examples

        def outputs_of(trainable):
            return merge(trainable, others)(
                inputs, mask=self.mask, key=self.key, backward=self.mode
            )[1]

        def update(_, carry, fold, factors):
            trainable, state = carry
            rate, gain = factors

            def fixed(
                out,
            ):  # outputs of examples that are held out get no gradient: (steps, batch, ...)
                is_held = (fold_of == fold).reshape((-1,) + (1,) * (out.ndim - 2))
                return jnp.where(is_held, jax.lax.stop_gradient(out), out)

            def loss_of(trainable):
                return loss(jax.tree.map(fixed, outputs_of(trainable)))

            value, gradient = jax.value_and_grad(loss_of)(trainable)
            gradient = jax.tree.map(lambda g: (g * gain).astype(g.dtype), gradient)
            updates, state = updates_of(self.optimizer, gradient, state, trainable, value, loss_of)
            return jax.tree.map(
                lambda w, change: w + (rate * change).astype(w.dtype), trainable, updates
            ), state

        def of_held(out):
            """The outputs of each example by the training that held it out:

            ``(runs, steps, batch, ...)``.
            """
            return jnp.moveaxis(out[2 + fold_of, :, np.arange(examples)], 0, 1)

        def fractions(outs):
            """The loss, and the lowest loss of less sure outputs, over the loss of constant
            outputs.
            """

            def loss_of_part(of):
                part, from_mean = of

                def less_sure(out):
                    zero = jnp.zeros((), out.dtype)
                    constant = jnp.where(from_mean, out.mean(1, keepdims=True), zero)
                    return constant + jnp.where(
                        part > 0, part.astype(out.dtype) * (out - constant), zero
                    )

                return loss(jax.tree.map(less_sure, outs))

            parts = jnp.repeat(jnp.asarray(CAUTION, jnp.float32), 2)
            losses = jax.lax.map(loss_of_part, (parts, jnp.arange(len(parts)) % 2 == 0))
            constant = jnp.nanmin(losses[:2])
            constant = jnp.where(constant > 0, constant, jnp.nan)
            return losses[-1] / constant, jnp.nanmin(losses) / constant

        @jax.jit
        def run(start, factors):
            def train(
                after_some, of
            ):  # the first run ends after some updates, and only its arrays are kept
                count, fold = of
                end, _ = jax.lax.fori_loop(
                    0, count, functools.partial(update, fold=fold, factors=factors), start
                )
                kept = jax.tree.map(functools.partial(jnp.where, count == SOME), end, after_some)
                return kept, outputs_of(end)

            after_some, outs = jax.lax.scan(
                train, start[0], (jnp.asarray(counts), jnp.asarray(folds))
            )
            outs_of_all = jax.tree.map(lambda a: a[1], outs)
            of_held_out = jax.tree.map(of_held, outs) if held_out else outs_of_all
            return after_some, fractions(outs_of_all)[0], 1 - fractions(of_held_out)[1]

        return run

    def _of_inputs(
        self, graph: Graph, places: Sequence[Place], joins: Mapping[Name, np.ndarray]
    ) -> dict[int, InputReport]:
        known = self.flat | {
            name: np.asarray(x).reshape(*self.active.shape, -1) for name, x in joins.items()
        }
        found = {}
        for n, place in enumerate(places):
            source, weight = _only_source(graph, place.name), graph.nodes[place.name].weight
            if source in known:
                found[n] = self._of_input(known[source])
            elif isinstance(weight, Mapping):
                direct = [
                    s
                    for s, w in weight.items()
                    if s in known and not isinstance(w, (Delayed, Window))
                ]
                reports = [
                    self._of_input(known[source])._replace(source=source) for source in direct
                ]
                found |= {n: max(reports, key=lambda report: report.largest)} if reports else {}
        return found

    def _of_input(self, x: np.ndarray) -> InputReport:
        x = np.asarray(x[self.active], np.float64)
        channels = tuple(np.sqrt((x**2).mean(0)).tolist())
        sizes = abs(x[x != 0])
        usual = float(np.quantile(sizes, 0.9)) if len(sizes) else 0.0
        return InputReport(
            float(abs(x).max(initial=0)), usual, x.mean(0).tolist(), x.std(0).tolist(), channels
        )

    def _report(self, graph: Graph, place: Place, found: dict) -> LayerReport:
        name = place.name
        layer = graph.nodes[name]
        made_by, rest, spikes = (
            surrogate_of(layer.cell),
            found["at_rest"][name],
            found["spikes"][name],
        )
        seen: Recorded = found["layers"][name]
        fires = rest is not None
        if not says_how_to_encode(layer.cell):  # it fires if it behaves so
            fires = bool(spikes) and bool((seen.out == np.round(seen.out)).all())
            coupled = bool(np.isnan(np.asarray(rest, np.float32)).any())
            if not fires or coupled:
                rest, seen = None, seen._replace(distance=None)
            if coupled:  # the slope is one of a normalized potential
                made_by = None
        weight_of = weights_of_edges(layer)
        norms: dict[str, Any] = {
            kind: {
                weight: norm(
                    [
                        arrays
                        for edge, arrays in found[kind][name].items()
                        if weight_of.get(edge, edge) == weight
                    ]
                )
                for weight in (*layer.weights, "bias")
            }
            for kind in (
                "weights",
                "weight_gradients",
                "updates",
                "decays",
                "learned",
                "rounded",
                "without_epsilon",
            )
            if kind in found
        }
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(found["weights"][name])]
        norms["dtype"] = str(min(dtypes, key=lambda dtype: dtype.itemsize)) if dtypes else None
        if rest is not None:
            rest = np.asarray(rest, np.float64)  # NumPy would add in bfloat16
            norms |= {"scale": float(np.mean(abs(rest))), "at_rest": float(np.mean(rest >= 0))}
        source = _only_source(graph, name)
        if source is not None and (matrix := matrix_of(layer.weight)) is not None:
            known = self.flat | found["joins"]
            x = known[source] if source in known else found["layers"][source].out
            norms |= of_matrix(x.reshape(*self.active.shape, -1), matrix, self.active)
        if (recurrent := matrix_of(layer.recurrent)) is not None:
            norms["recurrent_offset"] = offset_of_one_sign(recurrent)
        surrogate = None if made_by is None else as_surrogate(made_by)
        return report(
            place.text, type(layer.cell).__name__, seen, self.active, surrogate, fires, **norms
        )

    def _optimizer_of(self, network: Network, arrays: Any) -> tuple[Any, _OfNetwork]:
        """Return the optimizer for a network, and the structure that it gets.

        A fix may change a number or add an array, and the labels of an optimizer are made for the
        first structure.
        """
        own = _OfNetwork(network, arrays)
        self._first = self._first or own
        if len(self._first.positions) == len(own.positions):
            own.structure = self._first.structure
            return self.optimizer, own
        try:
            jax.eval_shape(self.optimizer.init, inexact(network))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None, own
        return self.optimizer, own

    def _run(self, network: Network) -> dict[str, Any]:
        """Record a network.

        Its arrays and numbers are arguments of the program, which may be compiled already.

        A custom cell may branch on a number, or pass it to NumPy. Then numbers are constants of the
        program.
        """
        try:
            return self._recorded(network)
        except (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError):
            if not self._numbers_are_traced:
                raise
            self._numbers_are_traced = False
            return self._recorded(network)

    def _recorded(self, network: Network) -> dict[str, Any]:
        arrays, rest = split(
            lifted(network),
            lambda _, leaf: is_array(leaf) or (self._numbers_are_traced and _is_number(leaf)),
        )
        optimizer, own = self._optimizer_of(network, arrays)
        # In 32 bits, JAX may pass a NumPy array of 64 bits to a program of 32 bits if 64 bits were
        # on before.
        arrays = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, arrays)
        others, structure = jax.tree.flatten(rest)
        rng = np.random.default_rng(0)
        outs = layer_outputs(network, self.inputs, self.mask, self.key)
        one = np.asarray([-1, 1], np.float32)
        signs = {name: rng.choice(one, outs[name].shape) for name in network.graph.layers}
        last = last_steps(self.active)
        given = arrays, self.inputs, self.mask, self.key, signs
        is_pure = is_pure_network(network) and (
            self.loss is None or isinstance(self.loss, jax.tree_util.Partial)
        )

        def compiled(function, *more):
            constants = structure, tuple(others), *more
            if is_pure:
                return functools.partial(_COMPILED[function], constants, self.loss, given)
            made_for = function, structure, tuple(map(id, others)), *more
            if made_for not in self._programs:
                self._programs[made_for] = jax.jit(
                    functools.partial(function, constants, self.loss)
                )
            return functools.partial(self._programs[made_for], given)

        # Three programs, because a compilation takes memory for the complete program.
        found = compiled(_recorded)(last if self.batched else last[0])
        if optimizer is not None:
            found |= compiled(_updated, optimizer, own)(found["weight_gradients"], found["loss"])
            found["losses_after"] = compiled(_after)(found["updates"])
        return found


def _run(constants, loss, given):
    (structure, others, *_), (arrays, inputs, mask, key, signs) = constants, given
    return Run(merge(arrays, structure.unflatten(others)), inputs, mask, key, loss, signs)


def _recorded(constants, loss, given, last):
    return record(_run(constants, loss, given), last)


def _updated(constants, loss, given, gradients, value):
    (*_, optimizer, own), (arrays, *_) = constants, given
    trained = own.of(jax.tree.leaves(arrays))
    return first_updates(_run(constants, loss, given), optimizer, trained, gradients, value)


def _after(constants, loss, given, updates):
    return losses_after(_run(constants, loss, given), updates)


_COMPILED: dict[Callable, Any] = {
    function: jax.jit(function, static_argnums=0) for function in (_recorded, _updated, _after)
}


def _is_number(leaf: Any) -> bool:
    """Return True for a Python number. A bool is an option, on which a cell may branch."""
    return isinstance(leaf, (float, int)) and not isinstance(leaf, bool)


class _OfNetwork:
    """The structure of a network, and the positions of its leaves among the arrays of a program.

    The program also has the Python numbers of cells, which are not leaves. Two networks compare
    equal if they differ in such numbers only, so one program runs both.
    """

    def __init__(self, network: Network, arrays: Any) -> None:
        leaves, self.structure = jax.tree.flatten(network)
        waiting = iter(enumerate(jax.tree.leaves(arrays)))
        self.positions = tuple(
            next(n for n, array in waiting if array is leaf) if is_array(leaf) else None
            for leaf in leaves
        )

    def of(self, leaves: Sequence[Any]) -> Any:
        return self.structure.unflatten([None if n is None else leaves[n] for n in self.positions])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfNetwork) and self.positions == other.positions

    def __hash__(self) -> int:
        return hash(self.positions)


def report(
    name: str,
    cell: str,
    seen: Recorded,
    active: np.ndarray,
    surrogate: Surrogate | None,
    fires: bool,
    **others: Any,
) -> LayerReport:
    """The report of one layer.

    ``others`` are the fields that do not follow from the recorded arrays.
    """
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
    if x.shape[1] > 1:
        x = x - x.mean(1, keepdims=True, dtype=np.float64).astype(
            x.dtype
        )  # a sum in float32 can overflow
    return [norm(of_step) for of_step in x]
