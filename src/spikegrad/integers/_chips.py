"""Networks of integers in the formats of the chips' own tools: Lava netx and Rockpool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .._checks import needed
from .._files import write_atomically
from .._weights import Product
from ..network import Network
from ._cells import Loihi, Xylo
from ._replay import IntegerLayer, chip_layers

BIAS_UNIT = 64
"""The bias of a cell in netx is in this unit, which is that of the weights on Loihi."""
NEVER = 2**18 - 1
"""The threshold that lava-dl writes for neurons that never fire. Times 64, it is above all
potentials of 24 bits."""


class _Dense(NamedTuple):
    """A layer of matrices that reads the layer before and itself."""

    name: str
    cell: Any
    weight: np.ndarray
    """``(inputs, neurons)``."""
    recurrent: np.ndarray | None
    """``(neurons, neurons)``, or None."""

    @property
    def neurons(self) -> int:
        return self.weight.shape[1]

    def spread(self, parameter: Any) -> np.ndarray:
        """Return a parameter with one number for each neuron."""
        # A copy, because a broadcast array is a read-only view with one number.
        return np.broadcast_to(np.asarray(parameter), (self.neurons,)).copy()


def _dense_layers(owner: str, network: Network, kind: type) -> list[_Dense]:
    """Return a chain of layers, or raise for the first part that the tool has no place for."""
    layers: list[_Dense] = []
    before = network.graph.inputs[0]
    if len(network.graph.inputs) > 1:
        raise TypeError(f"{owner}: network must have one input, got {network.inputs}")
    for layer in chip_layers(owner, network):
        layers.append(_dense_layer(owner, layer, kind, before))
        before = layer.name
    return layers


def _dense_layer(owner: str, layer: IntegerLayer, kind: type, before: str) -> _Dense:
    """Return a layer of the chain, or raise if it does not read just ``before`` and itself."""

    def refuse(text: str) -> NoReturn:
        raise TypeError(f"{owner}: layer {layer.name!r} {text}")

    if not isinstance(layer.cell, kind):
        text = "a join" if layer.cell is None else f"a {type(layer.cell).__name__}"
        refuse(f"must be a {kind.__name__}, got {text}. Quantize to this target")
    if layer.bias.any():
        refuse("must have no bias. Use an input that fires at each step")
    matrices: dict[str, np.ndarray] = {}
    for edge in layer.edges:
        if edge.source not in (before, layer.name):
            refuse(f"must read the layer before, got {edge.source!r}")
        # A plain recurrent weight has a delay of one step, as on the chips.
        expected_lag = 1 if edge.source == layer.name else 0
        # A window has several edges from one source.
        if edge.lag != expected_lag or edge.source in matrices:
            refuse("must have no delays, which the format has no place for")
        if len(edge.operations) != 1 or not isinstance(edge.operations[0], Product):
            refuse("must have a matrix. Use dequantize and to_nir for convolutions")
        matrices[edge.source] = np.asarray(edge.operations[0].weight)
    if before not in matrices:
        refuse("must read the layer before")
    return _Dense(layer.name, layer.cell, matrices[before], matrices.get(layer.name))


def to_netx(network: Network, path: str | Path) -> None:
    """Write a network of Loihi neurons as a file for Intel's library Lava, in the format of
    lava-dl's ``netx``.

    ``lava.lib.dl.netx.hdf5.Network(net_config=path)`` reads the file. In Lava, each connection
    between layers takes one time step. A spikegrad network has the outputs of Lava if its weights
    between layers are ``Delayed(weight, 1)``. Pass the network without these delays to ``to_netx``.

    Parameters
    ----------
    network : Network
        Layers one after the other, with :class:`Loihi` neurons and matrices as weights, from
        :func:`quantize` or written by hand. Layers may be recurrent. A readout is written as
        neurons with a threshold that no potential reaches.
    path : str or Path
        The HDF5 file to write.

    Raises
    ------
    ModuleNotFoundError
        If h5py is not installed.
    TypeError
        As in :func:`replay`. Also for parts that the format does not have: other cells, functions
        as weights, delays, joins, biases of a layer, several inputs, and arrays as decays or
        thresholds.
    ValueError
        If the bias of a cell is not a multiple of 64, the unit of the format.

    Examples
    --------
    >>> import jax.numpy as jnp, tempfile
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import Loihi, fixed, to_netx
    >>> weight = fixed(jnp.ones((3, 2)), scale=64.0, step=2)
    >>> network = Network([Layer(weight, Loihi(du=4095, dv=400, vth=100))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_netx(network, f"{folder}/net.net")
    """
    with needed("to_netx", "h5py", "hdf5"):
        import h5py  # noqa: PLC0415  (from an extra)
    layers = _dense_layers("to_netx", network, Loihi)
    records = [_netx_record(layer) for layer in layers]
    inputs = layers[0].weight.shape[0]
    first = {"type": "input", "shape": np.array([inputs])}

    def write(stream: Any) -> None:
        with h5py.File(stream, "w") as file:
            for n, record in enumerate([first, *records]):
                for key, value in record.items():
                    # Its reader takes texts as arrays of one.
                    is_text = key in ("type", "neuron/type")
                    # h5py cannot write NumPy's Unicode texts. The longest word has 9 bytes.
                    data = np.array([value], "S10") if is_text else value
                    file[f"layer/{n}/{key}"] = data

    write_atomically(Path(path), write)


def _netx_record(layer: _Dense) -> dict[str, Any]:
    """Return the entries of a layer."""
    cell = layer.cell
    for field in ("du", "dv", "vth"):
        if np.size(getattr(cell, field)) > 1:
            raise TypeError(
                f"to_netx: layer {layer.name!r} must have one {field} for all neurons, as netx has"
            )
    record = {
        "type": "dense" if layer.recurrent is None else "dense_rec",
        "shape": np.array([layer.neurons]),
        "inFeatures": layer.weight.shape[0],
        "outFeatures": layer.neurons,
        # PyTorch's order, (neurons, inputs).
        "weight": layer.weight.T,
        "neuron/type": "CUBA",
        "neuron/iDecay": int(cell.du) + 1,  # its reader takes 1 away again
        "neuron/vDecay": int(cell.dv),
        "neuron/vThMant": NEVER if cell.vth is None else int(cell.vth),
        # The least value of the format, without a step of rest.
        "neuron/refDelay": 1,
        "neuron/gradedSpike": False,
    }
    if layer.recurrent is not None:
        record["weight_rec"] = layer.recurrent.T
    if cell.bias % BIAS_UNIT:
        raise ValueError(
            f"to_netx: layer {layer.name!r} must have a bias in multiples of {BIAS_UNIT}, got "
            f"{cell.bias}"
        )
    if cell.bias:
        record["bias"] = layer.spread(cell.bias // BIAS_UNIT)
    return record


def to_xylo(network: Network) -> dict[str, Any]:
    """Convert a network of Xylo neurons to a specification for Rockpool, SynSense's library for the
    chip Xylo 2.

    To configure a chip, call ``config_from_specification(**to_xylo(network))`` of
    ``rockpool.devices.xylo.syns61201``. For the simulator ``XyloSim.from_specification``, rename
    the entry ``bias_hidden`` to ``bias``. Output neurons of the chip read the hidden spikes of the
    previous time step. So the outputs of the chip are one time step later than the outputs of the
    network.

    Parameters
    ----------
    network : Network
        A hidden layer and an output layer of :class:`Xylo` with matrices of 8 bits as weights, from
        :func:`quantize` or written by hand. The hidden layer may be recurrent.

    Returns
    -------
    dict
        The arguments by name: integers ``weights_in`` of shape ``(inputs, hidden)``,
        ``weights_rec`` of shape ``(hidden, hidden)`` and ``weights_out`` of shape ``(hidden,
        outputs)``. Also bit shifts, thresholds and biases, with a number for each neuron.

    Raises
    ------
    TypeError
        As in :func:`replay`. Also for parts that the chip does not have: other cells, functions as
        weights, delays, joins, biases of a layer, and several inputs.
    ValueError
        If the network does not have two layers, if the output layer is recurrent, or if a weight
        needs more than 8 bits. Also if ``n`` is not 31 in the hidden layer and 1 in the output
        layer.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import Xylo, to_xylo
    >>> hidden, out = Xylo(4, 3, 500), Xylo(4, 3, 500, n=1)
    >>> weights = np.full((3, 2), 100), np.full((2, 1), 100)
    >>> network = Network([Layer(weights[0], hidden), Layer(weights[1], out)])
    >>> to_xylo(network)["dash_mem"].tolist()
    [4, 4]
    """
    layers = _dense_layers("to_xylo", network, Xylo)
    if len(layers) != 2 or layers[1].recurrent is not None:
        raise ValueError(
            "to_xylo: network must have a hidden layer and an output layer without recurrent "
            f"weights, got {[layer.name for layer in layers]}"
        )
    hidden, out = layers
    # The chip counts up to 31 spikes of a hidden neuron in a step, and one of an output neuron.
    for layer, most in ((hidden, 31), (out, 1)):
        if layer.cell.n != most:
            raise ValueError(
                f"to_xylo: layer {layer.name!r} must have n={most}, got {layer.cell.n}"
            )
    recurrent = hidden.recurrent
    if recurrent is None:  # the specification has no place for None
        recurrent = np.zeros((hidden.neurons, hidden.neurons), int)
    weights = {
        "weights_in": hidden.weight,
        "weights_rec": recurrent,
        "weights_out": out.weight,
    }
    for name, weight in weights.items():
        if weight.min(initial=0) < -128 or weight.max(initial=0) > 127:
            raise ValueError(
                f"to_xylo: {name} must be from -128 to 127, got {weight.min()} to {weight.max()}"
            )
    # Rockpool's names of hidden neurons have no suffix here, but those of the biases do.
    parameters = {
        f"{name}{suffix}": layer.spread(getattr(layer.cell, name))
        for name in ("dash_mem", "dash_syn", "threshold")
        for suffix, layer in (("", hidden), ("_out", out))
    }
    biases = {
        "bias_hidden": hidden.spread(hidden.cell.bias),
        "bias_out": out.spread(out.cell.bias),
    }
    return weights | parameters | biases
