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
from ._replay import INNER, by_name, is_readout, replay


class ProgramReport(NamedTuple):
    """The memory and the operations that a C program of :func:`to_c` needs. ``print`` shows it as a
    table.
    """

    tables: int
    """Bytes of the constant tables, which are in flash memory. Instructions are not counted."""
    state: int
    """Bytes of the state of all neurons, in RAM."""
    inputs: int
    """Largest number of bytes of the inputs of one time step, in RAM."""
    stack: int
    """Bytes of the stack that one time step needs on a Cortex-M. No array is on the stack."""
    operations: int
    """Largest number of multiplications and additions in one time step, if all inputs are above 0
    and all neurons spike.
    """
    largest_input: int
    """Largest absolute value of an input for which all sums are exact. Larger inputs may give wrong
    results.
    """

    def __str__(self) -> str:
        rows = (
            (name.replace("_", " "), f"{n:,}") for name, n in self._asdict().items()
        )
        return "\n".join(aligned([[*row] for row in rows]))


def to_c(
    network: Network, path: str | Path, *, inputs: str = "int32", examples: Any = None
) -> ProgramReport:
    """Write a network of integers as a program in C99, in the files ``path.c`` and ``path.h``.

    The program computes the spikes and states of :func:`replay`. It needs no library and allocates
    no memory. It reads only the weights of inputs that are not 0, so it is fast for rare spikes.
    The header declares the type of the state and two functions. For a path that ends with ``net``,
    call them like this, ``net_step`` once for each time step::

        net_state state;
        net_start(&state);
        net_step(&state, inputs, outputs);

    ``outputs`` is an array of int32, and ``inputs`` is one too by default. Images have the axes in
    the order of the network. If the network has several inputs or outputs, they follow each other
    in the order of the network. The header then defines by name where each begins.

    The outputs of a readout are its potentials as integers. Divide them by the constant
    ``NET_UNIT_OUT`` of the header, for a readout named ``out``, to get the outputs of the network
    (``unit`` of :class:`FixedLIF`). It is one number, or a list with a number for each neuron.

    C++ can include the header. If you compile the file with ``-DNET_MAIN``, it is a program. It
    reads the inputs of each time step from the standard input, separated by spaces, and prints the
    outputs.

    Parameters
    ----------
    network : Network
        A network of integer cells, for example the first result of :func:`quantize`.
    path : str or Path
        The path of the files without a suffix. Its last part is the prefix of all names in the
        program, such as ``net`` in ``net_step``.
    inputs : str, default "int32"
        The form of the array of inputs. Smaller forms save RAM on a microcontroller.

        - ``"int32"``, a number for each input.
        - ``"bytes"``, a number from 0 to 255 for each input.
        - ``"bits"``, one bit for each input, 1 for a spike. A byte has eight inputs, the first in
          the lowest bit.
        - ``"events"``, the numbers of the inputs that spike, as uint16. The step then gets their
          count too: ``net_step(&state, inputs, count, outputs)``.
    examples : array or dict, optional
        Inputs, as in :func:`replay`. The file ``path_test.c`` then contains these inputs and the
        outputs of :func:`replay`. Its function ``net_test`` returns the number of outputs of the
        program that differ, which should be 0. If you compile it with ``-DNET_TEST_MAIN``, it is a
        program with the exit code 0 if all outputs are equal.

    Returns
    -------
    ProgramReport
        Bytes of flash memory, RAM and stack, and the largest number of operations in a time step.
        The header contains them too.

    Raises
    ------
    TypeError
        As in :func:`replay`, and for cells other than :class:`FixedLIF`, :class:`Loihi` and
        :class:`Xylo`.
    ValueError
        As in :func:`replay`. Also if the last part of the path is not a valid name in C, or if
        ``examples`` do not fit the form of the inputs.

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
    form = text.INPUTS[inputs]
    prefix = path.name.upper()
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
    parameters = f"const {form.kind}_t *inputs"
    arguments = "inputs"
    count_start = ""
    if form.has_count:
        parameters += ", int32_t count"
        arguments += ", count"
        count_start = ", count = 0"
    # Only inputs of int32 can be read by the pointer that also reads the outputs of layers.
    layers = "state->currents"
    if form.kind == "int32":
        present = f"(s < INPUTS ? inputs : {layers}) + first"
        input_case = ""
    else:
        present = f"{layers} + first"
        input_case = text.INPUT_CASE
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
        name = identifiers[layer.name]
        cell = layer.cell
        neurons = layer.bias.size
        yield f"#define {prefix}_SIZE_{name} {neurons}"
        # A join has outputs, but no numbers in the state.
        if cell is None:
            continue
        yield f"#define {prefix}_POTENTIAL_{name} {first}"
        if cell.threshold is None:
            # An array has the unit of each neuron.
            unit = np.asarray(cell.unit)
            if unit.ndim:
                unit = np.broadcast_to(unit, layer.bias.shape).ravel()
            # A macro of several lines needs a backslash at the end of each line but the last.
            value = braces(unit.tolist()).replace("\n", "\\\n")
            yield f"#define {prefix}_UNIT_{name} {value}"
        first += neurons * len(cell.state_names)


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return each name as a part of a macro of C. Equal ones get a number."""
    identifiers: dict[str, str] = {}
    for name in names:
        identifier = re.sub(r"[^A-Z0-9_]", "_", name.upper())
        number = 2
        # Names that differ only in case or punctuation are one macro.
        while identifier in identifiers.values():
            # Without the digits that it ends with, which may be the number before.
            identifier = f"{identifier.rstrip('0123456789')}{number}"
            number += 1
        identifiers[name] = identifier
    return identifiers


# --- the test of examples -------------------------------------------------------------------------


def _test_values(network: Network, examples: Any, inputs: str) -> dict[str, Any]:
    """Return the inputs of the test, one example after the other, and the outputs of replay."""
    graph = network.graph
    form = text.INPUTS[inputs]
    arrays = by_name(graph.inputs, examples)
    # The replay refuses inputs that are not integers, so the conversion to int64 below is exact.
    _, replayed = replay(network, examples)
    outputs = by_name(graph.outputs, replayed)
    steps, count = np.shape(arrays[graph.inputs[0]])[:2]
    # (steps * examples, inputs), in the order in which the test runs them.
    rows = np.concatenate([_rows_of_steps(arrays[name]) for name in graph.inputs], 1)
    elements = _elements(rows.astype(np.int64), form, inputs)
    # Where the inputs of each step start. Steps of events have different lengths.
    firsts = np.cumsum([0, *map(len, elements)])
    flat = np.zeros(1, int)  # C has no empty arrays
    if firsts[-1] > 0:
        flat = np.concatenate(elements).astype(np.int64)
    # One array for each output, (steps * examples, neurons), in the order of the program.
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
        # Inputs are 0 or 1 here, so the numbers of the ones are all events.
        return [np.flatnonzero(row) for row in rows]
    if form.per_element > 1:
        # The zeros that fill the last byte are no inputs, so the program ignores them.
        return [*np.packbits(rows.astype(bool), axis=1, bitorder="little")]
    return [*rows]


def _in_integers(node: Any, output: np.ndarray) -> np.ndarray:
    """Return the outputs of a layer or join in integers, as the program has them."""
    # A readout divides its potential by its unit, with an error far below 1/2.
    if is_readout(getattr(node, "cell", None)):
        output = np.rint(output * node.cell.unit)
    return output.astype(np.int64)
