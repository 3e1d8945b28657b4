"""Networks of integers as programs in C."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from .._files import write_atomically
from ..network import Network
from ._replay import chip_layers

_FORMATS = "bits", "fraction", "rounding", "overflow", "reset", "bias"
_HEADER = """\
#ifndef ${NAME}_H
#define ${NAME}_H
#include <stdint.h>
#define ${NAME}_INPUTS $input_size
#define ${NAME}_OUTPUTS $output_size
typedef struct {
    int32_t values[$states]; /* potentials and currents, layer by layer */
    int32_t past[$past];     /* outputs of earlier steps that a delay still needs */
    int32_t row[$sources];   /* where the next past outputs of each source go */
} ${name}_state;
void ${name}_start(${name}_state *state);
void ${name}_step(${name}_state *state, const int32_t *inputs, int32_t *outputs);
#endif
"""

_SOURCE = """\
#include "$name.h"

#include <string.h>

enum { FIXEDLIF, LOIHI, XYLO };     /* the rule of a neuron */
enum { FLOOR, ZERO };               /* where a decay rounds to */
enum { SATURATE, WRAP, ERROR };     /* a state beyond its width; ERROR does not check */
enum { VALUE, SUBTRACT, NONE };     /* the effect of a spike on the potential */

/* Inputs, then layers: the outputs of a step, and where the outputs of `rows` earlier steps are. */
static const struct { int32_t size, rows, past; } source[] = $source;

/* A layer has `edges` of the edges, and `states` arrays of states. A neuron fires up to `most`
   times a step, 0 for a readout. */
static const struct layer {
    int32_t edges, states, most, rule, bits, fraction, rounding, overflow, reset, bias;
} layer[] = $layer;

/* A matrix of weights: its source, and the delay of the inputs. */
static const struct { int32_t source, lag; } edge[] = $edge;
static const int32_t output[] = $output;
#define LENGTH(array) ((int32_t)(sizeof array / sizeof *array))

/* Of each neuron. The weights of an input of an edge follow each other. */
$tables
enum { NEURONS = LENGTH(leak), SOURCES = LENGTH(source), LAYERS = LENGTH(layer) };
enum { INPUTS = SOURCES - LAYERS };

static int32_t scaled(int32_t x, int32_t factor, int32_t bits, int32_t rounding) {
    /* A quotient rounds to zero, and the shift of a negative number is not portable. */
    const int64_t product = (int64_t)x * factor, unit = (int64_t)1 << bits;
    return (int32_t)(product / unit - (rounding == FLOOR && product % unit < 0));
}
static int32_t leaked(int32_t x, int32_t shift) {
    const int32_t loss = scaled(x, 1, shift, FLOOR);
    return x - loss - (x > 0 && loss == 0);
}
static int32_t wrapped(int32_t x, int32_t bits) {
    const int64_t turn = (int64_t)1 << bits, rest = (x + turn / 2) % turn;
    return (int32_t)(rest < 0 ? rest + turn / 2 : rest - turn / 2);
}
static int32_t clipped(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}
static int32_t keep(const struct layer *l, int32_t x) {
    const int32_t end = (int32_t)1 << (l->bits - 1);
    if (l->overflow == ERROR) return x;
    return l->overflow == WRAP ? wrapped(x, l->bits) : clipped(x, -end, end - 1);
}

/* Adds a current to the states v and i of neuron n, and returns its output. */
static int32_t fire(const struct layer *l, int32_t n, int32_t current, int32_t *v, int32_t *i) {
    switch (l->rule) {
    case FIXEDLIF:
        if (l->states > 1) {
            *i = keep(l, scaled(*i, current_leak[n], l->fraction, l->rounding) + current);
            current = *i;
        }
        *v = keep(l, scaled(*v, leak[n], l->fraction, l->rounding) + current);
        break;
    case LOIHI:
        *i = wrapped(scaled(*i, current_leak[n], 12, ZERO) + 64 * current, 24);
        *v = clipped(scaled(*v, leak[n], 12, ZERO) + *i + l->bias, -8388607, 8388607);
        break;
    case XYLO:
        *i = leaked(keep(l, *i + current), current_leak[n]);
        current = keep(l, leaked(*v, leak[n]) - *v + *i);
        *v = keep(l, *v + keep(l, current + l->bias));
    }
    if (!l->most) return *v;
    if (*v < threshold[n]) return 0;
    current = clipped(*v / threshold[n], 0, l->most);
    if (l->reset == VALUE) *v = 0;
    if (l->reset == SUBTRACT) *v -= current * threshold[n];
    return current;
}

void ${name}_start(${name}_state *state) { memset(state, 0, sizeof *state); }

void ${name}_step(${name}_state *state, const int32_t *inputs, int32_t *outputs) {
    const int32_t *present[SOURCES]; /* the outputs of this step */
    int32_t currents[NEURONS], *current = currents, *v = state->values;
    int32_t neuron = 0, e = 0, w = 0;
    for (int32_t s = 0; s < INPUTS; inputs += source[s++].size) present[s] = inputs;
    for (int32_t k = 0; k < LAYERS; k++) {
        const struct layer *l = &layer[k];
        const int32_t size = source[INPUTS + k].size;
        for (int32_t n = 0; n < size; n++) current[n] = bias[neuron + n];
        for (const int32_t end = e + l->edges; e < end; e++) {
            const int32_t s = edge[e].source, lag = edge[e].lag, rows = source[s].rows;
            const int32_t many = source[s].size, *x = present[s];
            if (lag) /* so many rows before the next one, in the ring below */
                x = state->past + source[s].past + (state->row[s] + rows - lag) % rows * many;
            /* Event-driven: the weights of an input are only read if it is not 0. */
            for (int32_t j = 0; j < many; j++, w += size)
                if (x[j])
                    for (int32_t n = 0; n < size; n++) current[n] += x[j] * weight[w + n];
        }
        for (int32_t n = 0; n < size; n++)
            current[n] = fire(l, neuron + n, current[n], v + n, v + (l->states - 1) * size + n);
        present[INPUTS + k] = current;
        current += size, neuron += size, v += l->states * size;
    }
    for (int32_t s = 0; s < SOURCES; s++) {
        const int32_t size = source[s].size;
        int32_t *oldest = state->past + source[s].past + state->row[s] * size;
        if (!source[s].rows) continue;
        /* The rows are a ring, and the new outputs replace the oldest. */
        memcpy(oldest, present[s], size * sizeof *oldest);
        state->row[s] = (state->row[s] + 1) % source[s].rows;
    }
    for (int32_t k = 0; k < LENGTH(output); outputs += source[output[k++]].size)
        memcpy(outputs, present[output[k]], source[output[k]].size * sizeof(int32_t));
}

#ifdef ${NAME}_MAIN
#include <stdio.h>

/* Reads the inputs of one step after the other, and prints the outputs of each. */
int main(void) {
    static ${name}_state state;
    static int32_t inputs[${NAME}_INPUTS], outputs[${NAME}_OUTPUTS];
    ${name}_start(&state);
    for (;;) {
        for (int j = 0; j < ${NAME}_INPUTS; j++)
            if (scanf("%d", &inputs[j]) != 1) return j != 0;
        ${name}_step(&state, inputs, outputs);
        for (int i = 0; i < ${NAME}_OUTPUTS; i++)
            printf("%d%c", outputs[i], i + 1 < ${NAME}_OUTPUTS ? ' ' : '\\n');
    }
}
#endif
"""


def to_c(network: Network, path: str | Path) -> None:
    """Write a network of integers as a program in C99: ``path.c`` and ``path.h``.

    The program has no dependencies beyond ``string.h``, allocates nothing and reads only the
    weights of inputs that are not 0. The header declares the state, a ``start`` and a ``step``::

        net_state state;
        net_start(&state);
        net_step(&state, inputs, outputs);

    Inputs and outputs are arrays of int32. Several inputs or outputs follow each other in the order
    of the network. The outputs of a readout are its potentials as integers, see ``unit`` of
    :class:`FixedLIF`. With ``-DNET_MAIN`` the file is a program that reads the inputs of each step
    from the standard input, separated by spaces, and prints the outputs.

    Parameters
    ----------
    network : Network
        As in :func:`replay`. The spikes and states of the program are those of :func:`replay`.
    path : str or Path
        The files, without a suffix. Its last part is the name of the functions.

    Raises
    ------
    TypeError
        As :func:`replay`, and for cells other than :class:`FixedLIF`, :class:`Loihi` and
        :class:`Xylo`.
    ValueError
        As :func:`replay`, and if the last part of the path is not an identifier of C.

    Examples
    --------
    >>> import jax.numpy as jnp, tempfile, pathlib
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import FixedLIF, fixed, to_c
    >>> cell = FixedLIF(decay=4000, threshold=100)
    >>> network = Network([Layer(fixed(jnp.ones((3, 2))), cell)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_c(network, f"{folder}/net")
    ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
    ['net.c', 'net.h']
    """
    path = Path(path)
    if not (path.name.isascii() and path.name.isidentifier()):
        raise ValueError(
            f"to_c: the last part of path must be a name in C, got {path.name!r}"
        )
    names = {"name": path.name, "NAME": path.name.upper()} | _tables(network)
    for suffix, text in ((".h", _HEADER), (".c", _SOURCE)):
        data = Template(text).substitute(names).encode()
        write_atomically(
            path.with_suffix(suffix),
            lambda stream, data=data: stream.write(data),
        )


def _tables(network: Network) -> dict[str, Any]:
    """Return the numbers and tables of the templates by name."""
    layers, graph = chip_layers("to_c", network), network.graph
    edges = [edge for layer in layers for edge in layer.edges]
    sizes = {edge.source: len(edge.weight) for edge in edges}
    sizes |= {layer.name: len(layer.bias) for layer in layers}
    names = [*graph.inputs, *graph.nodes]
    # A source remembers as many outputs as its longest delay.
    rows = {
        name: max([e.lag for e in edges if e.source == name], default=0)
        for name in names
    }
    sources, past = [], 0
    for name in names:
        sources.append([sizes[name], rows[name], past])
        past += sizes[name] * rows[name]
    records, columns, states = [], [], 0
    for name, cell, edges_in, bias in layers:
        most, threshold = cell.n, cell.threshold
        if threshold is None:
            most = threshold = 0
        parts = len(cell.state_names)
        # A cell without a format has the first of it.
        formats = [getattr(cell, name, 0) for name in _FORMATS]
        records.append([len(edges_in), parts, most, type(cell).__name__, *formats])
        columns.append(np.broadcast_arrays(*cell.leaks, threshold, bias))
        states += sizes[name] * parts
    arrays = *np.hstack(columns), np.concatenate([e.weight.ravel() for e in edges])
    names_of_tables = "leak", "current_leak", "threshold", "bias", "weight"
    return {
        "input_size": sum(sizes[name] for name in graph.inputs),
        "output_size": sum(sizes[name] for name in graph.outputs),
        "sources": len(names),
        "states": states,
        "past": max(past, 1),  # C has no empty arrays
        "source": _braces(sources),
        # The names of formats are constants of the program.
        "layer": _braces(records).upper(),
        "edge": _braces([[names.index(edge.source), edge.lag] for edge in edges]),
        "output": _braces([names.index(name) for name in graph.outputs]),
        "tables": "\n".join(map(_table, names_of_tables, arrays)),
    }


def _table(name: str, values: np.ndarray) -> str:
    """Return a constant array, with the smallest type."""
    kind = np.min_scalar_type(min(values.min(), ~values.max()))
    return f"static const {kind}_t {name}[{len(values)}] = {_braces(values.tolist())};"


def _braces(values: Any) -> str:
    if not isinstance(values, list):
        return str(values)
    # Lines of 20 numbers, because editors and compilers are slow with long ones.
    text = re.sub("(?:[^,]*,){20}", r"\g<0>\n    ", ",".join(map(_braces, values)))
    return f"{{{text}}}"
