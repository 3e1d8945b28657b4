"""Networks of integers as programs in C.

The text of a program is in ``_c_text.py`` and its tables in ``_c_tables.py``. A weight takes as few
bits as the weights of its edge need, from 2 to 32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from .._files import write_atomically
from .._table import aligned
from ..network import Network
from . import _c_text as text
from ._c_tables import Program, kind_of
from ._c_text import braces
from ._replay import INNER, is_readout, replay


class ProgramReport(NamedTuple):
    """The sizes of a program in C, from :func:`to_c`. Printed, it is a table."""

    tables: int
    """Bytes of the constant tables, in flash. Instructions are not counted."""
    state: int
    """Bytes of the state, in RAM."""
    inputs: int
    """The most bytes of the inputs of a step, in RAM."""
    stack: int
    """Bytes of the stack that a step needs on a Cortex-M. No array is on the stack."""
    operations: int
    """The most products and sums of a step, if all inputs are above 0 and all neurons fire."""
    largest_input: int
    """The largest size of an input for which each sum of a current is exact."""

    def __str__(self) -> str:
        rows = (
            (name.replace("_", " "), f"{n:,}") for name, n in self._asdict().items()
        )
        return "\n".join(aligned([[*row] for row in rows]))


def to_c(
    network: Network, path: str | Path, *, inputs: str = "int32", examples: Any = None
) -> ProgramReport:
    """Write a network of integers as a program in C99: ``path.c`` and ``path.h``.

    The program needs no library, allocates nothing and reads only the weights of inputs that are
    not 0. The header declares the state, a ``start`` and a ``step``::

        net_state state;
        net_start(&state);
        net_step(&state, inputs, outputs);

    Outputs are an array of int32, and so are inputs by default. Images have the order of axes of
    the network. Several inputs or outputs follow each other in the order of the network, and the
    header has the first number of each by name. The outputs of a readout are its potentials as
    integers, with ``NET_UNIT_OUT`` for the readout ``out``, see ``unit`` of :class:`FixedLIF`: a
    number, or an initializer with one for each neuron. C++ can include the header. With
    ``-DNET_MAIN`` the file is a program that reads the inputs of each step from the standard input,
    separated by spaces, and prints the outputs.

    Parameters
    ----------
    network : Network
        As in :func:`replay`. The spikes and states of the program are those of :func:`replay`.
    path : str or Path
        The files, without a suffix. Its last part is the name of the functions.
    inputs : str, default "int32"
        The array of inputs, which saves RAM on a microcontroller:

        - ``"int32"``, a number for each input.
        - ``"bytes"``, a number from 0 to 255 for each input.
        - ``"bits"``, a spike or none for each input, eight in a byte, the first in the lowest bit.
        - ``"events"``, a list of the inputs that spike, as uint16. The step takes its length too:
          ``net_step(&state, inputs, count, outputs)``.
    examples : array or dict, optional
        Inputs as in :func:`replay`. The file ``path_test.c`` then has these inputs and the outputs
        of :func:`replay`, and its function ``net_test`` returns the number of wrong outputs. With
        ``-DNET_TEST_MAIN`` it is a program, whose exit code is 0 if all outputs are equal.

    Returns
    -------
    ProgramReport
        Bytes of flash, RAM and stack, and the most operations of a step. The header has them too.

    Raises
    ------
    TypeError
        As :func:`replay`, and for cells other than :class:`FixedLIF`, :class:`Loihi` and
        :class:`Xylo`.
    ValueError
        As :func:`replay`, if the last part of the path is not an identifier of C, and if the
        examples do not fit the array of inputs.

    Examples
    --------
    >>> import jax.numpy as jnp, tempfile, pathlib
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import FixedLIF, fixed, to_c
    >>> cell = FixedLIF(decay=4000, threshold=100)
    >>> network = Network([Layer(fixed(jnp.ones((3, 2))), cell)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_c(network, f"{folder}/net")
    ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
    ['net.c', 'net.h']
    >>> report.state, report.operations
    (24, 6)
    """
    path = Path(path)
    if not (path.name.isascii() and path.name.isidentifier()):
        raise ValueError(
            f"to_c: the last part of path must be a name in C, got {path.name!r}"
        )
    if inputs not in text.INPUTS:
        raise ValueError(
            f"to_c: inputs must be one of {', '.join(text.INPUTS)}, got {inputs!r}"
        )
    form, prefix = text.INPUTS[inputs], path.name.upper()
    program = Program(network, form)
    report = _report(program)
    values = {
        "name": path.name,
        "NAME": prefix,
        "names": "\n".join(_macros(program, prefix)),
        **_input_values(form),
        **_size_values(program),
        **_table_values(program),
        **_optional_parts(program),
        **{f"size_{name}": number for name, number in report._asdict().items()},
    }
    texts = {".h": text.HEADER, ".c": text.SOURCE}
    if examples is not None:
        texts["_test.c"] = text.TEST
        values |= _test_values(network, examples, inputs)
    for suffix, template in texts.items():
        data = Template(template).substitute(values).encode()
        write_atomically(
            path.with_name(path.name + suffix),
            lambda stream, data=data: stream.write(data),
        )
    return report


def _report(program: Program) -> ProgramReport:
    return ProgramReport(
        tables=program.table_bytes,
        state=program.state_bytes,
        inputs=program.input_length * np.dtype(program.form.kind).itemsize,
        stack=text.STACK,
        operations=program.operations,
        largest_input=program.largest_input(),
    )


# --- values of the templates ----------------------------------------------------------------------


def _input_values(form: text.InputFormat) -> dict[str, Any]:
    """Return the types and statements that depend on the form of the inputs."""
    parameters, arguments, count_start = f"const {form.kind}_t *inputs", "inputs", ""
    if form.has_count:
        parameters += ", int32_t count"
        arguments, count_start = "inputs, count", ", count = 0"
    # Only inputs of int32 can be read by the pointer that also reads the outputs of layers.
    layers = "state->currents"
    if form.kind == "int32":
        present, input_case = f"(s < INPUTS ? inputs : {layers}) + first", ""
    else:
        present, input_case = f"{layers} + first", text.INPUT_CASE
    return {
        **form._asdict(),
        "parameters": parameters,
        "arguments": arguments,
        "count_start": count_start,
        "present": present,
        "input_case": input_case,
    }


def _size_values(program: Program) -> dict[str, int]:
    """Return the lengths of the arrays."""
    return {
        "input_size": program.input_size,
        "input_length": program.input_length,
        "output_size": program.output_size,
        "sources": len(program.sources),
        "neurons": program.neurons,
        "states": program.states,
        "past": program.past,
    }


def _table_values(program: Program) -> dict[str, str]:
    """Return the initializers of the tables."""
    tables = [
        f"static const {table.dtype}_t {name}[{table.size}] = {braces(table.tolist())};"
        for name, table in program.tables().items()
    ]
    return {
        "number": f"int{program.state_bits}_t",
        "source": braces(program.source_rows),
        # The names of formats are constants of the program, such as SATURATE.
        "layer": braces(program.layer_rows).upper(),
        "edge": braces(program.edge_rows),
        "output": braces([program.sources.index(x) for x in program.outputs]),
        "tables": "\n".join(tables),
    }


def _optional_parts(program: Program) -> dict[str, str]:
    """Return the parts that depend on the kinds of neurons and weights. Empty if no layer needs
    them.
    """
    adds = _adds(program)
    values = {
        "windows": braces(program.windows),
        "memories": braces(program.memory_rows),
        # The outputs of a place are a channel apart, not neighbours.
        "adds_apart": adds.replace("current[n]", "current[n * step]"),
    }
    has_maximum = any(row.kind == "MAXIMUM" for row in program.edge_rows)
    optional = {
        "window": (program.windows, text.WINDOW_SOURCE, text.WINDOW_CASE),
        "maximum": (has_maximum, text.MAXIMUM_SOURCE, text.MAXIMUM_CASE),
        "memory": (program.memory_rows, text.MEMORY_SOURCE, text.MEMORY_CASE),
    }
    parts = {"scaled": text.SCALED[program.state_bits], "adds": adds}
    for name, (is_needed, source, case) in optional.items():
        parts[f"{name}_source"] = (
            Template(source).substitute(values) if is_needed else ""
        )
        parts[f"{name}_case"] = case if is_needed else ""
    return parts


def _adds(program: Program) -> str:
    """Return the cases of a switch by the width of a weight."""
    # One loop for each width, because a test of the width within the loop over neurons would be
    # slow. Widths that no weight has are left out.
    lines = []
    for width in sorted(program.weights):
        # ``row`` has the bytes of the weights of an input.
        start = f"weight{width} + e->first + input * (row / {max(width // 8, 1)})"
        lines += [
            f"    case {width}: {{",
            f"        const {kind_of(width)}_t *w = {start};",
            f"        UNROLL for (int32_t n = 0; n < size; n++) {text.ADDS[width]}",
            "        break;",
            "    }",
        ]
    return "\n".join(lines)


def _macros(program: Program, prefix: str) -> Iterable[str]:
    """Yield the places of inputs, outputs and potentials by name."""
    # The sums within a join are no layers of the user.
    layers = [layer for layer in program.layers if INNER not in layer.name]
    identifiers = _identifiers([*program.inputs, *(layer.name for layer in layers)])
    for kind, names in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        first = 0
        for name in names:
            yield f"#define {prefix}_{kind}_{identifiers[name]} {first}"
            first += program.sizes[name]
    first = 0
    for layer in layers:
        name, cell, neurons = identifiers[layer.name], layer.cell, layer.bias.size
        yield f"#define {prefix}_SIZE_{name} {neurons}"
        if cell is None:
            continue
        yield f"#define {prefix}_POTENTIAL_{name} {first}"
        if cell.threshold is None:
            # An array has the unit of each neuron.
            unit = np.asarray(cell.unit)
            if unit.ndim:
                unit = np.broadcast_to(unit, layer.bias.shape).ravel()
            value = braces(unit.tolist()).replace("\n", "\\\n")
            yield f"#define {prefix}_UNIT_{name} {value}"
        first += neurons * len(cell.state_names)


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return each name as a part of a macro of C. Equal ones get a number."""
    identifiers: dict[str, str] = {}
    for name in names:
        identifier = re.sub(r"[^A-Z0-9_]", "_", name.upper())
        number = 2
        while identifier in identifiers.values():
            # Without the digits that it ends with, which may be the number before.
            identifier = f"{identifier.rstrip('0123456789')}{number}"
            number += 1
        identifiers[name] = identifier
    return identifiers


# --- the test of examples -------------------------------------------------------------------------


def _test_values(network: Network, examples: Any, inputs: str) -> dict[str, Any]:
    """Return the inputs of the test, one example after the other, and the outputs of replay."""
    form = text.INPUTS[inputs]
    sources, outputs = network.graph.inputs, replay(network, examples)[1]
    arrays = {sources[0]: examples} if isinstance(network.inputs, str) else examples
    if not isinstance(outputs, dict):
        outputs = {network.graph.outputs[0]: outputs}
    steps, count = np.shape(arrays[sources[0]])[:2]
    # (steps * examples, inputs), in the order in which the test runs them.
    rows = np.concatenate([_rows_of_steps(arrays[name]) for name in sources], 1)
    elements = _elements(rows.astype(np.int64), form, inputs)
    # Where the inputs of each step start. Steps of events have different lengths.
    firsts = np.cumsum([0, *map(len, elements)])
    # C has no empty arrays.
    flat = np.concatenate(elements).astype(np.int64) if firsts[-1] else np.zeros(1, int)
    expected = [
        _rows_of_steps(_in_integers(network.layers[name], output))
        for name, output in outputs.items()
    ]
    return {
        "examples": count,
        "steps": steps,
        "all_steps": steps * count,
        "inputs": braces(flat.tolist()),
        "firsts": braces(firsts.tolist()),
        "expected": braces(np.concatenate(expected, 1).ravel().tolist()),
        "test_count": ", first[k + 1] - first[k]" if form.has_count else "",
    }


def _rows_of_steps(array: Any) -> np.ndarray:
    """Return an array ``(steps, examples, ...)`` as a row for each step, example by example."""
    steps, count = np.shape(array)[:2]
    rows = np.asarray(array).reshape(steps, count, -1)
    return rows.swapaxes(0, 1).reshape(steps * count, -1)


def _elements(
    rows: np.ndarray, form: text.InputFormat, inputs: str
) -> list[np.ndarray]:
    """Return the array of inputs of each step, from rows with a number for each input."""
    is_outside = (rows < form.least) | (rows > form.most)
    if is_outside.any():
        raise ValueError(
            f"to_c: examples must be from {form.least} to {form.most} for inputs={inputs!r}, got "
            f"{rows[is_outside][0]}. Use inputs='int32'"
        )
    if form.has_count:
        return [np.flatnonzero(row) for row in rows]
    if form.per_element > 1:
        return [*np.packbits(rows.astype(bool), axis=1, bitorder="little")]
    return [*rows]


def _in_integers(node: Any, output: np.ndarray) -> np.ndarray:
    """Return the outputs of a layer or join in integers, as the program has them."""
    # A readout divides its potential by its unit, with an error far below 1/2.
    if is_readout(getattr(node, "cell", None)):
        output = np.rint(output * node.cell.unit)
    return output.astype(np.int64)
