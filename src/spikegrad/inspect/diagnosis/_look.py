"""Run a network forward and back, and report each of its layers in numbers.

Each fix is tried in this way too, so inputs and loss are prepared once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._pytree import is_array, merge, split
from ..._struct import as_numbers, lifted
from ..._surrogate import Surrogate
from ...network import Network
from ...network._connections import matrix_of
from ...network._network import is_pure_network
from ...network._widths import surrogate_of
from ...neurons import Cell, says_how_to_encode
from ._numbers import LayerReport, Recorded, last_steps, norm, numbers, of_matrix, of_slope
from ._recorder import record


class NetworkReport(NamedTuple):
    """Facts about a network that are not numbers of one layer."""

    cells: Sequence[Cell | None]
    mode: str = "exact"
    reads: Sequence[float] = ()
    """Norm of the gradient of the loss in the outputs of each step."""
    differ: Sequence[float] = ()
    """Norm of the differences between the inputs of the examples, in each step."""
    inputs: float = 1.0
    """The largest size of an input."""
    input_means: Sequence[float] = ()
    """Mean of each channel of the inputs, over steps and examples."""
    input_stds: Sequence[float] = ()
    """Its standard deviation."""
    channels: tuple[float, ...] = ()
    """Root mean square of each channel of the inputs."""
    loss: float | None = None
    losses_after: Sequence[float] = ()
    """The loss after the first update times each of ``PARTS``."""


class Seen(NamedTuple):
    """The numbers of each layer, and the facts about the network."""

    layers: list[LayerReport]
    network: NetworkReport


class Look:
    """Inputs, loss and optimizer. A call examines a network."""

    def __init__(
        self, inputs: jax.Array, mask: Any, key: Any, loss: Callable | None, optimizer: Any, mode: str
    ) -> None:
        self.inputs, self.mask, self.key, self.loss = inputs, mask, key, loss
        self.optimizer, self.mode, self._programs = optimizer, mode, {}
        self.batched = inputs.ndim > 2
        self.active = np.ones((len(inputs), inputs.shape[1] if self.batched else 1), bool)
        if mask is not None:
            self.active &= np.asarray(mask).reshape(len(inputs), -1)
        flat = np.asarray(inputs, np.float32).reshape(*self.active.shape, -1)
        self.flat = flat * self.active[:, :, None]

    @np.errstate(invalid="ignore")  # of NaN or infinite numbers, which have issues
    def __call__(self, network: Network) -> Seen:
        found = jax.device_get(self._run(network))
        if not self.batched:
            found["layers"] = jax.tree.map(lambda a: a[:, None], found["layers"])
        reports = [self._report(layer, n, found) for n, layer in enumerate(network.graph.layers.values())]
        known = self.loss is not None
        of_network = NetworkReport(
            [layer.cell for layer in network.graph.layers.values()],
            self.mode,
            [norm(of_step) for of_step in found["read"]] if known else (),
            _differences(self.flat),
            *self._of_inputs(),
            float(found["loss"]) if known else None,
            np.asarray(found["losses_after"], float).tolist() if known and "losses_after" in found else (),
        )
        return Seen(reports, of_network)

    def _of_inputs(self) -> tuple[float, list[float], list[float], tuple[float, ...]]:
        x = np.asarray(self.flat[self.active], np.float64)
        of_channels = x.mean(0).tolist(), x.std(0).tolist(), tuple(np.sqrt((x**2).mean(0)).tolist())
        return float(abs(x).max(initial=0)), *of_channels

    def _report(self, layer: Any, n: int, found: dict) -> LayerReport:
        made_by, rest, spikes = surrogate_of(layer.cell), found["at_rest"][n], found["spikes"][n]
        seen: Recorded = found["layers"][n]
        fires = rest is not None
        if not says_how_to_encode(layer.cell):  # it fires if it behaves so
            fires = bool(spikes) and bool((seen.out == np.round(seen.out)).all())
            if not fires:
                rest, seen = None, seen._replace(distance=None)
        norms: dict[str, Any] = {
            name: {weight: norm(arrays) for weight, arrays in found[name][n].items()}
            for name in ("weights", "weight_gradients", "updates")
            if name in found
        }
        if rest is not None:
            rest = np.asarray(rest, np.float64)  # NumPy would add in bfloat16
            norms |= {"scale": float(np.mean(abs(rest))), "at_rest": float(np.mean(rest >= 0))}
        matrix = matrix_of(layer.weight)
        if matrix is not None:
            x = self.flat if n == 0 else found["layers"][n - 1].out
            norms |= of_matrix(x.reshape(*self.active.shape, -1), matrix, self.active)
        surrogate = None if made_by is None else as_surrogate(made_by)
        return report(f"layer {n + 1}", type(layer.cell).__name__, seen, self.active, surrogate, fires, **norms)

    def _run(self, network: Network) -> dict[str, Any]:
        """Record a network. Its arrays and numbers are arguments of the program, which may be compiled already."""
        arrays, rest = split(lifted(network), lambda _, leaf: is_array(leaf) or isinstance(leaf, (float, int)))
        others, structure = jax.tree.flatten(rest)
        rng = np.random.default_rng(0)
        states = network.initial_state(self.inputs[0])
        signs = [rng.choice(np.asarray([-1, 1], np.float32), out.shape) for _, out in states]
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


def _differences(x: np.ndarray) -> list[float]:
    """Norm of the differences between the examples in each step, or of a single example."""
    return [norm(of_step) for of_step in (x - x.mean(1, keepdims=True) if x.shape[1] > 1 else x)]
