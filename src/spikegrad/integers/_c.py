"""Networks of integers as programs in C.

The program is an interpreter of tables: its text is the same for all networks, and the tables have
the sources, edges, layers and parameters. A weight takes as few bits as the weights of its edge
need, from 2 to 32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from .._files import write_atomically
from .._table import aligned
from .._weights import (
    Convolution,
    Factor,
    MaxPooling,
    Operation,
    Product,
    Rearrangement,
    Shape,
)
from ..network import Network
from ._arithmetic import LARGEST
from ._cells import FixedLIF
from ._functions import run, without_repeats
from ._replay import INNER, IntegerEdge, IntegerLayer, chip_layers, replay

_HEADER = """\
/* Made by spikegrad.integers.to_c.
   Flash: $tables_bytes bytes of tables. RAM: $state_bytes bytes of state, and up to $inputs_bytes
   bytes of inputs. Stack of a step: up to $stack_bytes bytes. A step has at most $operations
   products and sums. */
#ifndef ${NAME}_H
#define ${NAME}_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_INPUTS $input_size
#define ${NAME}_OUTPUTS $output_size
#define ${NAME}_LARGEST_INPUT $largest_input /* sums of inputs up to this size are exact */

/* The first number of each input and output, and of the potentials of each layer in the state. An
   output of a readout is its potential times its unit. */
$names

typedef struct {
    $number values[$states]; /* potentials and currents, layer by layer */
    int32_t past[$past]; /* outputs of earlier steps that a delay still needs */
    int32_t row[$sources]; /* where the next past outputs of each source go */
    int32_t currents[$neurons]; /* of the present step, then the outputs */
} ${name}_state;
void ${name}_start(${name}_state *state);
/* $inputs_comment */
void ${name}_step(${name}_state *state, $parameters, int32_t *outputs);

#ifdef __cplusplus
}
#endif
#endif
"""

_SOURCE = """\
#include "$name.h"

/* The rule of a neuron. ADAPTING has an adaptation or rests. LINEAR is a sum without a neuron. */
enum { FIXEDLIF, LOIHI, XYLO, ADAPTING, LINEAR };
enum { FLOOR, ZERO };               /* where a decay rounds to */
enum { SATURATE, WRAP, ERROR };     /* a state beyond its width; ERROR does not check */
/* The effect of a spike on the potential, also in the step after it. */
enum { VALUE, SUBTRACT, NONE, BASELINE, LATE_VALUE, LATE_SUBTRACT };

typedef $number number;             /* of a state */

/* Inputs, then layers. The outputs of a step start at `first`, and those of `rows` earlier steps at
   `past`. */
static const struct { int32_t size, rows, past, first; } source[] = $source;

/* A parameter in its table: `count` numbers from `first`. Each is that of `run` neurons in a row,
   and after the last number the first follows again. */
struct place { int32_t first, count, run; };

/* A layer has `edges` of the edges, and `states` arrays of states. A neuron fires up to `most`
   times a step, 0 for a readout. `memory` is the place in the table of adapting neurons. */
static const struct layer {
    int32_t edges, states, most, rule, bits, fraction, rounding, overflow, reset, offset, memory;
    struct place leak, current_leak, threshold, bias;
} layer[] = $layer;

/* A matrix, the inputs themselves, a convolution or sum of windows, or the maximum of windows. */
enum { DENSE, SAME, WINDOW, MAXIMUM };

/* Weights: their source, the delay of the inputs, the kind, the bits of a weight, the place of the
   first in the table of these bits, a factor of all weights, and the number of the window. The
   weights of an input follow each other. */
static const struct edge { int32_t source, lag, kind, bits, first, factor, window; } edge[] = $edge;
static const int32_t output[] = $output;
#define LENGTH(array) ((int32_t)(sizeof array / sizeof *array))

$tables
enum { SOURCES = LENGTH(source), LAYERS = LENGTH(layer), INPUTS = SOURCES - LAYERS };

/* Shifts of positive numbers, because those of negative ones are not portable. All products have
   at most 31 bits. */
$scaled
static int32_t leaked(int32_t x, int32_t shift) {
    const int32_t loss = x < 0 ? -((((int32_t)1 << shift) - 1 - x) >> shift) : x >> shift;
    return x - loss - (x > 0 && loss == 0);
}
static int32_t wrapped(int32_t x, int32_t bits) {
    const int32_t half = (int32_t)1 << (bits - 1);
    return (int32_t)(((uint32_t)x + (uint32_t)half) & (2 * (uint32_t)half - 1)) - half;
}
static int32_t clipped(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}
static int32_t keep(const struct layer *l, int32_t x) {
    const int32_t end = (int32_t)1 << (l->bits - 1);
    if (l->overflow == ERROR) return x;
    return l->overflow == WRAP ? wrapped(x, l->bits) : clipped(x, -end, end - 1);
}
/* Returns the place of a parameter of neuron n. Divisions are slow, and only channels need them. */
static int32_t of_neuron(const struct place *p, int32_t n) {
    if (p->run > 1) n /= p->run;
    return p->first + (n < p->count ? n : n % p->count);
}
#define PLACE(p) ((p).count == 1 ? (p).first : of_neuron(&(p), n))
#define OF_NEURON(table) table[PLACE(l->table)]

/* Multiplies states by their decay, and adds the currents. */
static void integrate(
    const struct layer *l, const struct place *decay, int32_t size, const int32_t *current,
    number *x
) {
    for (int32_t n = 0; n < size; n++) {
        const int32_t factor = leak[PLACE(*decay)];
        x[n] = keep(l, scaled(x[n], factor, l->fraction, l->rounding) + current[n]);
    }
}
/* Writes the outputs of neurons with the potentials v, and resets these. */
static void spike(const struct layer *l, int32_t size, number *v, int32_t *outputs) {
    /* A copy, because a compiler does not know that the loop leaves the original as it is. */
    const struct place of_threshold = l->threshold;
    for (int32_t n = 0; !l->most && n < size; n++) outputs[n] = v[n];
    for (int32_t n = 0; l->most && n < size; n++) {
        const int32_t theta = threshold[PLACE(of_threshold)];
        int32_t count = 1;
        outputs[n] = 0;
        if (v[n] < theta) continue;
        if (l->most > 1) count = clipped(v[n] / theta, 0, l->most);
        if (l->reset == VALUE) v[n] = 0;
        if (l->reset == SUBTRACT || l->reset == BASELINE) v[n] -= count * theta;
        outputs[n] = count;
    }
}

$memory_source
/* Adds a current to the potential v and the synapse i of neuron n of a chip. */
static void update(const struct layer *l, int32_t n, int32_t current, number *v, number *i) {
    if (l->rule == LOIHI) {
        /* By unsigned numbers, because 64 times a current may need more than 32 bits. */
        current = (int32_t)(((uint32_t)current << 6) & 0xffffff);
        *i = wrapped(scaled(*i, leak[PLACE(l->current_leak)], 12, ZERO) + current, 24);
        *v = clipped(scaled(*v, OF_NEURON(leak), 12, ZERO) + *i + l->offset, -8388607, 8388607);
    } else {
        *i = leaked(keep(l, *i + current), leak[PLACE(l->current_leak)]);
        current = keep(l, leaked(*v, OF_NEURON(leak)) - *v + *i);
        *v = keep(l, *v + keep(l, current + l->offset));
    }
}

/* Loops of a few instructions are faster if they are unrolled, which GCC does on request. */
#if defined __arm__ && defined __GNUC__ && !defined __clang__
#define UNROLL _Pragma("GCC unroll 4")
#else
#define UNROLL
#endif

/* Adds x times the weights of an input. */
static void add(int32_t *current, int32_t size, const struct edge *e, int32_t input, int32_t x) {
    const int32_t row = (size * e->bits + 7) / 8; /* bytes */
    x *= e->factor;
    switch (e->bits) {
$adds
    }
}

$window_source$maximum_source
/* Adds x from a place of a source. */
static void add_input(int32_t *current, int32_t size, const struct edge *e, int32_t at, int32_t x) {
    switch (e->kind) {
    case DENSE:
        add(current, size, e, at, x);
        break;
    case SAME:
        current[at] += e->factor * x;
        break;
$window_case
    }
}

/* Visits the inputs from `first` to `end` that are not 0. INPUT is the present one. */
#define EACH_INPUT(at) $each
#define INPUT(at) $input

/* Loops and not string.h, which a microcontroller may lack. */
void ${name}_start(${name}_state *state) {
    unsigned char *bytes = (unsigned char *)state;
    for (uint32_t n = 0; n < sizeof *state; n++) bytes[n] = 0;
}

void ${name}_step(${name}_state *state, $parameters, int32_t *outputs) {
    int32_t *current = state->currents, e = 0;
    number *v = state->values;
    for (int32_t k = 0; k < LAYERS; k++) {
        const struct layer *l = &layer[k];
        const int32_t size = source[INPUTS + k].size;
        for (int32_t n = 0; n < size; n++) current[n] = OF_NEURON(bias);
        /* Event-driven: the weights of an input are only read if it is not 0. */
        for (const int32_t last = e + l->edges; e < last; e++) {
            const int32_t s = edge[e].source, lag = edge[e].lag, rows = source[s].rows;
            const int32_t many = source[s].size, first = source[s].first;
            const int32_t *x = $present;
            if (lag) { /* so many rows before the next one, in the ring below */
                const int32_t at = state->row[s] - lag;
                x = state->past + source[s].past + (at < 0 ? at + rows : at) * many;
            }
$maximum_case$input_case            for (int32_t at = 0; at < many; at++)
                if (x[at]) add_input(current, size, &edge[e], at, x[at]);
        }
        switch (l->rule) {
$memory_case
        case FIXEDLIF:
            if (l->states > 1) { /* the synapses come first */
                integrate(l, &l->current_leak, size, current, v + size);
                for (int32_t n = 0; n < size; n++) current[n] = v[size + n];
            }
            integrate(l, &l->leak, size, current, v);
            spike(l, size, v, current);
            break;
        case LOIHI:
        case XYLO:
            for (int32_t n = 0; n < size; n++) update(l, n, current[n], v + n, v + size + n);
            spike(l, size, v, current);
        }
        current += size, v += l->states * size;
    }
    for (int32_t s = 0; s < SOURCES; s++) {
        const int32_t size = source[s].size, first = source[s].first, end = first + size;
        int32_t *oldest = state->past + source[s].past + state->row[s] * size;
        if (!source[s].rows) continue;
        /* The rows are a ring, and the new outputs replace the oldest. */
        for (int32_t n = 0; n < size; n++) oldest[n] = s < INPUTS ? 0 : state->currents[first + n];
        if (s < INPUTS) EACH_INPUT(at) oldest[at - first] += INPUT(at);
        if (++state->row[s] == source[s].rows) state->row[s] = 0;
    }
    for (int32_t k = 0; k < LENGTH(output); k++) {
        const int32_t *x = state->currents + source[output[k]].first;
        for (int32_t n = 0; n < source[output[k]].size; n++) *outputs++ = x[n];
    }
}

#ifdef ${NAME}_MAIN
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Reads the inputs of one step after the other, and prints the outputs of each. */
int main(void) {
    static ${name}_state state;
    static $input_type inputs[$input_length];
    static int32_t outputs[${NAME}_OUTPUTS];
    ${name}_start(&state);
    for (;;) {
        int32_t number$count_start;
        memset(inputs, 0, sizeof inputs);
        for (int32_t j = 0; j < ${NAME}_INPUTS; j++) {
            if (scanf("%" SCNd32, &number) != 1) return j != 0;
            if (number < $least_input || number > $most_input) return 2;
            $store
        }
        ${name}_step(&state, $arguments, outputs);
        for (int32_t i = 0; i < ${NAME}_OUTPUTS; i++)
            printf("%" PRId32 "%c", outputs[i], i + 1 < ${NAME}_OUTPUTS ? ' ' : '\\n');
    }
}
#endif
"""


_SCALED = {
    16: """\
static int32_t scaled(int32_t x, int32_t factor, int32_t bits, int32_t rounding) {
    const int32_t product = x * factor;
    if (product >= 0) return product >> bits;
    return rounding == FLOOR ? ~(~product >> bits) : -(-product >> bits);
}""",
    32: """\
static int32_t scaled(int32_t x, int32_t factor, int32_t bits, int32_t rounding) {
    const int32_t size = x < 0 ? -x : x, one = (int32_t)1 << bits;
    const int32_t low = (size & (one - 1)) * factor;
    const int32_t whole = (size >> bits) * factor + (low >> bits);
    if (x >= 0) return whole;
    return -whole - (rounding == FLOOR && (low & (one - 1)));
}""",
}
"""A state times a decay factor, by the bits of a state. A factor has up to 13 bits."""

_MEMORY_SOURCE = """\
/* Neurons with an adaptation, whose binary point is at `shift`, with `rest` steps of rest, or with
   a late reset. */
static const struct memory {
    int32_t has_current, adapts, shift, rest;
    struct place adaptation, adaptation_decay;
} memory[] = $memories;
static int32_t fire_adapting(
    const struct layer *l, int32_t n, int32_t size, int32_t current, number *v
) {
    const struct memory *m = &memory[l->memory];
    /* Potential, current, adaptation and steps left, as far as the neuron has them. */
    number *i = v + (m->has_current ? size : 0), *b = i + (m->adapts ? size : 0);
    number *left = b + (m->rest ? size : 0);
    const int32_t theta = OF_NEURON(threshold), rests = m->rest && *left > 0;
    /* The adaptation is never negative. */
    const int32_t present = theta + (m->adapts ? *b >> m->shift : 0);
    const int32_t is_late = l->reset >= LATE_VALUE && *v >= theta;
    int32_t spike;
    if (m->has_current) {
        *i = keep(l, scaled(*i, leak[PLACE(l->current_leak)], l->fraction, l->rounding) + current);
        current = *i;
    }
    if (is_late && l->reset == LATE_SUBTRACT) current -= theta;
    if (!rests) *v = keep(l, scaled(*v, OF_NEURON(leak), l->fraction, l->rounding) + current);
    if (is_late && l->reset == LATE_VALUE) *v = 0;
    spike = !rests && *v >= present;
    if (m->rest) *left = spike ? m->rest : rests ? *left - 1 : 0;
    if (m->adapts) {
        const int32_t decay = adaptation_decay[of_neuron(&m->adaptation_decay, n)];
        const int32_t raise = spike ? adaptation[of_neuron(&m->adaptation, n)] : 0;
        const int32_t end = (int32_t)1 << (l->bits - 1);
        *b = clipped(scaled(*b, decay, l->fraction, FLOOR) + raise, -end, end - 1);
    }
    if (spike && l->reset == VALUE) *v = 0;
    if (spike && l->reset == SUBTRACT) *v -= present;
    if (spike && l->reset == BASELINE) *v -= theta;
    return spike;
}
"""
_MEMORY_CASE = """\
        case ADAPTING:
            for (int32_t n = 0; n < size; n++)
                current[n] = fire_adapting(l, n, size, current[n], v + n);
            break;"""
_WINDOW_SOURCE = """
/* The geometry of a convolution: channels, rows and columns of inputs and outputs with the distance
   of neighbours, and rows and columns of the kernel. Without groups it is a sum of the window. */
static const struct window {
    int32_t inputs[3], in_step[3], outputs[3], out_step[3];
    int32_t kernel[2], stride[2], padding[2], dilation[2], groups;
} window[] = $windows;

/* Adds x times a row of weights to the channels of a place. */
static void add_apart(
    int32_t *current, int32_t step, int32_t size, const struct edge *e, int32_t input, int32_t x
) {
    const int32_t row = (size * e->bits + 7) / 8; /* bytes */
    switch (e->bits) {
$adds_apart
    }
}
/* Returns the place of an output that reads an input by a weight of the kernel, or -1. */
static int32_t place(const struct window *w, int32_t axis, int32_t input, int32_t k) {
    const int32_t at = input + w->padding[axis] - k * w->dilation[axis];
    if (at < 0 || at % w->stride[axis]) return -1;
    return at / w->stride[axis] < w->outputs[axis + 1] ? at / w->stride[axis] : -1;
}
/* Returns the channel, row or column of an input. */
static int32_t axis_of(const struct window *w, int32_t axis, int32_t at) {
    return at / w->in_step[axis] % w->inputs[axis];
}
/* Adds an input to all outputs that read it. */
static void spread(int32_t *current, const struct edge *e, int32_t at, int32_t x) {
    const struct window *w = &window[e->window];
    const int32_t channel = axis_of(w, 0, at), row = axis_of(w, 1, at), column = axis_of(w, 2, at);
    const int32_t groups = w->groups, size = groups ? w->outputs[0] / groups : 1;
    const int32_t first = groups ? channel / (w->inputs[0] / groups) * size : channel;
    x *= e->factor;
    for (int32_t k = 0; k < w->kernel[0]; k++) {
        const int32_t i = place(w, 0, row, k);
        if (i < 0) continue;
        for (int32_t m = 0; m < w->kernel[1]; m++) {
            const int32_t j = place(w, 1, column, m);
            int32_t *out = current + first * w->out_step[0] + i * w->out_step[1];
            if (j < 0) continue;
            out += j * w->out_step[2];
            if (groups) {
                const int32_t input = (channel * w->kernel[0] + k) * w->kernel[1] + m;
                add_apart(out, w->out_step[0], size, e, input, x);
            } else {
                *out += x;
            }
        }
    }
}
"""
_MAXIMUM_SOURCE = """\
/* Adds the largest input of each window, times a factor. */
static void add_maximum(int32_t *current, const struct edge *e, const int32_t *x) {
    const struct window *w = &window[e->window];
    for (int32_t c = 0; c < w->outputs[0]; c++)
        for (int32_t i = 0; i < w->outputs[1]; i++)
            for (int32_t j = 0; j < w->outputs[2]; j++) {
                const int32_t top = i * w->stride[0] - w->padding[0];
                const int32_t left = j * w->stride[1] - w->padding[1];
                int32_t largest = INT32_MIN;
                for (int32_t k = top; k < top + w->kernel[0]; k++)
                    for (int32_t m = left; m < left + w->kernel[1]; m++) {
                        int32_t at = c * w->in_step[0] + k * w->in_step[1] + m * w->in_step[2];
                        if (k < 0 || k >= w->inputs[1] || m < 0 || m >= w->inputs[2]) continue;
                        if (x[at] > largest) largest = x[at];
                    }
                current[c * w->out_step[0] + i * w->out_step[1] + j * w->out_step[2]] +=
                    e->factor * largest;
            }
}
"""
_MAXIMUM_CASE = """\
            if (edge[e].kind == MAXIMUM) {
                add_maximum(current, &edge[e], x);
                continue;
            }
"""
_INPUT_CASE = """\
            if (s < INPUTS && !lag) {
                const int32_t end = first + many;
                EACH_INPUT(at) add_input(current, size, &edge[e], at - first, INPUT(at));
                continue;
            }
"""
_WINDOW_CASE = """\
    case WINDOW:
        spread(current, e, at, x);
        break;"""

_ADDS = {
    2: "current[n] += x * (((w[n >> 2] >> 2 * (n & 3) & 3) ^ 2) - 2);",
    4: "current[n] += x * (((w[n >> 1] >> 4 * (n & 1) & 15) ^ 8) - 8);",
    **dict.fromkeys((8, 16, 32), "current[n] += x * w[n];"),
}
"""The sum with a weight of each width. Weights of 2 and 4 bits fill bytes from the low bits."""


_TEST = """\
/* Made by spikegrad.integers.to_c: $examples examples of $steps steps, and the outputs of
   replay. */
#include "$name.h"

static const $input_type inputs[] = $inputs;
static const int32_t first[] = $firsts; /* of the inputs of each step */
static const int32_t expected[] = $expected;

/* Returns how many outputs are wrong, 0 if all agree. */
int32_t ${name}_test(void) {
    static ${name}_state state;
    static int32_t outputs[${NAME}_OUTPUTS];
    const int32_t *wanted = expected;
    int32_t wrong = 0;
    for (int32_t k = 0; k < $all_steps; k++) {
        if (k % $steps == 0) ${name}_start(&state);
        ${name}_step(&state, inputs + first[k]$test_count, outputs);
        for (int32_t i = 0; i < ${NAME}_OUTPUTS; i++) wrong += outputs[i] != *wanted++;
    }
    return wrong;
}

#ifdef ${NAME}_TEST_MAIN
int main(void) { return ${name}_test() != 0; }
#endif
"""


class _InputFormat(NamedTuple):
    """How a program in C takes the inputs of a step."""

    kind: str
    """The type of an element of the array, without ``_t``."""
    least: int
    most: int
    each: str
    """The head of a loop over the inputs that are not 0."""
    store: str
    """The statement that writes an input from the terminal into the array."""
    comment: str
    input: str = "inputs[at]"
    per_element: int = 1
    has_count: bool = False


_EACH = "for (int32_t at = first; at < end; at++)"
_INPUTS = {
    "int32": _InputFormat(
        "int32",
        least=1 - 2**31,
        most=2**31 - 1,
        each=f"{_EACH} if (inputs[at])",
        store="inputs[j] = number;",
        comment="One number for each input.",
    ),
    "bytes": _InputFormat(
        "uint8",
        least=0,
        most=255,
        each=f"{_EACH} if (inputs[at])",
        store="inputs[j] = (uint8_t)number;",
        comment="One byte for each input.",
    ),
    "bits": _InputFormat(
        "uint8",
        least=0,
        most=1,
        each=f"{_EACH} if (inputs[at >> 3] >> (at & 7) & 1)",
        store="inputs[j >> 3] |= (uint8_t)(number << (j & 7));",
        comment="One bit for each input, the first in the lowest bit of the first byte.",
        input="1",
        per_element=8,
    ),
    "events": _InputFormat(
        "uint16",
        least=0,
        most=1,
        each="for (int32_t i = 0, at; i < count; i++)"
        " if ((at = inputs[i]) >= first && at < end)",
        store="if (number) inputs[count++] = (uint16_t)j;",
        comment="The numbers of the inputs with a spike, `count` of them in any order.",
        input="1",
        has_count=True,
    ),
}
_STACK = 320
"""Bytes. The most that GCC 14 uses for a step on Cortex-M0 and M4 from ``-Os`` to ``-O3``, 256,
rounded up. The text of the program is the same for all networks."""


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
    if inputs not in _INPUTS:
        raise ValueError(
            f"to_c: inputs must be one of {', '.join(_INPUTS)}, got {inputs!r}"
        )
    program = _Program(network, path.name.upper(), _INPUTS[inputs])
    report = program.report()
    names = {"name": path.name, "NAME": path.name.upper(), **program.names(report)}
    texts = {".h": _HEADER, ".c": _SOURCE}
    if examples is not None:
        texts["_test.c"] = _TEST
        names |= _test_names(network, examples, inputs)
    for suffix, text in texts.items():
        data = Template(text).substitute(names).encode()
        write_atomically(
            path.with_name(path.name + suffix),
            lambda stream, data=data: stream.write(data),
        )
    return report


def _test_names(network: Network, examples: Any, inputs: str) -> dict[str, Any]:
    """Return the texts of the test of examples and their outputs."""
    form = _INPUTS[inputs]
    sources, outputs = network.graph.inputs, replay(network, examples)[1]
    arrays = {sources[0]: examples} if isinstance(network.inputs, str) else examples
    steps, count = np.shape(arrays[sources[0]])[:2]

    def in_order(array: Any) -> np.ndarray:
        """Return a row for each step of an example, one example after the other."""
        rows = np.asarray(array).reshape(steps, count, -1)
        return rows.swapaxes(0, 1).reshape(steps * count, -1)

    rows = np.concatenate([in_order(arrays[name]) for name in sources], 1)
    rows = rows.astype(np.int64)
    if rows.min(initial=0) < form.least or rows.max(initial=0) > form.most:
        wrong = rows[(rows < form.least) | (rows > form.most)][0]
        raise ValueError(
            f"to_c: examples must be from {form.least} to {form.most} for inputs={inputs!r}, got "
            f"{wrong}; use inputs='int32'"
        )
    if form.has_count:
        elements = [np.flatnonzero(row) for row in rows]
    elif form.per_element > 1:
        elements = [*np.packbits(rows.astype(bool), axis=1, bitorder="little")]
    else:
        elements = [*rows]
    firsts = np.cumsum([0, *map(len, elements)])
    expected = []
    if not isinstance(outputs, dict):
        outputs = {network.graph.outputs[0]: outputs}
    for name, output in outputs.items():
        cell: Any = getattr(network.layers[name], "cell", None)  # a join has none
        is_readout = getattr(cell, "threshold", 1) is None
        values = np.rint(output * cell.unit) if is_readout else output
        expected.append(in_order(values.astype(np.int64)))
    # C has no empty arrays.
    flat = np.concatenate(elements).astype(np.int64) if firsts[-1] else np.zeros(1, int)
    return {
        "examples": count,
        "steps": steps,
        "all_steps": steps * count,
        "inputs": _braces(flat.tolist()),
        "firsts": _braces(firsts.tolist()),
        "expected": _braces(np.concatenate(expected, 1).ravel().tolist()),
        "test_count": ", first[k + 1] - first[k]" if form.has_count else "",
    }


# --- tables ---------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """A constant array of the program."""

    kind: str
    """The type of a number, without ``_t``."""
    values: np.ndarray

    @classmethod
    def smallest(cls, values: np.ndarray) -> _Table:
        """Return a table with the smallest type that has all values."""
        kind = np.min_scalar_type(min(values.min(initial=0), ~values.max(initial=0)))
        return cls(str(kind), values)

    @property
    def size(self) -> int:
        return self.values.size * np.dtype(self.kind).itemsize

    def text(self, name: str) -> str:
        numbers = _braces(self.values.tolist())
        return f"static const {self.kind}_t {name}[{self.values.size}] = {numbers};"


class _Parameters:
    """A table with a parameter of all layers: one number for a layer, a channel or a neuron."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, values: Any, shape: Shape) -> list[int]:
        """Add the numbers of a layer with neurons of this shape. Return their place."""
        first = sum(part.size for part in self.parts)
        values = without_repeats(np.asarray(values), shape)
        # (before, axes with other numbers, behind): the numbers of the axes between repeat too.
        axes = [axis for axis, length in enumerate(values.shape) if length > 1]
        begin, end = (axes[0], axes[-1] + 1) if axes else (0, 0)
        middle = (*values.shape[:begin], *shape[begin:end], *values.shape[end:])
        numbers = np.broadcast_to(values, middle).ravel()
        self.parts.append(numbers)
        return [first, numbers.size, math.prod(shape[end:])]

    def table(self) -> _Table:
        return _Table.smallest(np.concatenate(self.parts))


class _Window(NamedTuple):
    """The geometry of a convolution or of a sum of windows, as the program reads it."""

    inputs: list[int]
    """Channels, rows and columns."""
    in_step: list[int]
    outputs: list[int]
    out_step: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    """0 for a sum."""


class _Stage(NamedTuple):
    """An edge of the program: one operation with weights or windows, at most."""

    source: str
    lag: int
    shape: Shape
    """The shape of its input, with an axis of length 1 in front."""
    output: Shape
    operation: Operation | None = None
    """None: the inputs themselves."""
    factor: int = 1
    result: Shape = ()
    """The shape of the result of the operation, before changes of shape."""


class _Node(NamedTuple):
    """A layer of the program. Results between two operations are layers without neurons."""

    name: str
    cell: Any
    stages: list[_Stage]
    bias: np.ndarray


def _nodes(layers: list[IntegerLayer]) -> list[_Node]:
    """Return the layers of the program, in the order of a step."""
    nodes: list[_Node] = []
    for layer in layers:
        last = []
        for edge in layer.edges:
            source = edge.source
            *before, stage = _stages(edge)
            for part in before:
                nodes.append(
                    _Node(
                        f"{layer.name}{INNER}{len(nodes)}",
                        None,
                        [part._replace(source=source)],
                        np.zeros(part.output, np.int64),
                    )
                )
                source = nodes[-1].name
            last.append(stage._replace(source=source))
        nodes.append(_Node(layer.name, layer.cell, last, layer.bias))
    return nodes


def _stages(edge: IntegerEdge) -> list[_Stage]:
    """Return the operations of an edge, one for each stage."""
    stages = [_Stage(edge.source, edge.lag, edge.shape, edge.shape)]
    for operation in edge.operations:
        last = stages[-1]
        shape = run([operation], np.zeros((1, *last.output), np.int64)).shape[1:]
        if isinstance(operation, Factor):
            stages[-1] = last._replace(factor=last.factor * int(operation.factor))
        elif isinstance(operation, Rearrangement):
            stages[-1] = last._replace(output=shape)
        elif last.operation is None:
            stages[-1] = last._replace(
                operation=operation, shape=last.output, output=shape, result=shape
            )
        else:
            stages.append(
                _Stage(edge.source, 0, last.output, shape, operation, result=shape)
            )
    return stages


def _steps(shape: Shape) -> list[int]:
    """Return the distance of neighbours along each axis of a flat array."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _window_of(stage: _Stage) -> _Window:
    """Return the geometry of a stage with a convolution or a sum of windows."""
    operation: Any = stage.operation
    if isinstance(operation, Convolution):
        in_axes, out_axes = operation.input_axes[1:], operation.output_axes[1:]
        kernel, stride = operation.weight.shape[2:], operation.stride
        padding, dilation = operation.padding, operation.dilation
        groups = operation.groups
    else:
        # The channels are an axis without a window, if any.
        axes = [*range(1, len(stage.shape))]
        plain = [n for n in axes if operation.window[n] == operation.stride[n] == 1]
        plain = [n for n in plain if operation.padding[n] == (0, 0)]
        first = plain[:1] if len(axes) > 2 else []
        windowed = [n for n in axes if n not in first]
        if len(windowed) > 2 or operation.window[0] != 1:
            raise TypeError("to_c: a window must have at most two axes")
        in_axes = out_axes = (*first, *windowed)
        kernel, stride, padding = (
            [values[n] for n in windowed]
            for values in (operation.window, operation.stride, operation.padding)
        )
        dilation, groups = [1] * len(windowed), 0
        if not first:
            in_axes = out_axes = (0, *windowed)  # the axis of length 1
    missing = 3 - len(in_axes)  # without rows, there is one

    def of_axes(values: Iterable[Any], filler: int) -> list[int]:
        return [filler] * missing + [*values]

    def sizes(shape: Shape, axes: Shape, filler: int) -> list[int]:
        channels, *places = (shape[axis] for axis in axes)
        return [channels, *of_axes(places, filler)]

    return _Window(
        sizes(stage.shape, in_axes, 1),
        sizes(tuple(_steps(stage.shape)), in_axes, 1),
        sizes(stage.result, out_axes, 1),
        sizes(tuple(_steps(stage.result)), out_axes, 0),
        of_axes(kernel, 1),
        of_axes(stride, 1),
        of_axes((low for low, _ in padding), 0),
        of_axes(dilation, 1),
        groups,
    )


class _Program:
    """The tables of a network."""

    def __init__(self, network: Network, prefix: str, form: _InputFormat) -> None:
        self.form = form
        layers, self.graph = chip_layers("to_c", network), network.graph
        self.layers, self.nodes, self.prefix = layers, _nodes(layers), prefix
        self.sizes = {
            edge.source: math.prod(edge.shape)
            for layer in layers
            for edge in layer.edges
        }
        self.sizes |= {node.name: node.bias.size for node in self.nodes}
        self.sources = [*self.graph.inputs, *(node.name for node in self.nodes)]
        # A source remembers as many outputs as its longest delay.
        self.rows = dict.fromkeys(self.sources, 0)
        stages = [stage for node in self.nodes for stage in node.stages]
        for stage in stages:
            self.rows[stage.source] = max(self.rows[stage.source], stage.lag)
        self.parameters = {
            name: _Parameters() for name in ("leak", "threshold", "bias")
        }
        self.memory_parameters = {
            name: _Parameters() for name in ("adaptation", "adaptation_decay")
        }
        self.memories: list[list[Any]] = []
        """The rows of neurons with an adaptation or a refractory period."""
        self.weights: dict[int, list[np.ndarray]] = {}
        """The weights of each width, of all edges."""
        self.windows: list[_Window] = []
        self.operations = 0
        self.layer_rows = [self._layer_row(node) for node in self.nodes]
        self.edge_rows = [self._edge_row(stage) for stage in stages]

    def _layer_row(self, node: _Node) -> list[Any]:
        cell: Any = node.cell
        if cell is None:
            cell = _Linear()
        # A cell without a format has the first of it.
        formats = [
            getattr(cell, name, 0)
            for name in ("bits", "fraction", "rounding", "overflow", "reset", "bias")
        ]
        fires = cell.threshold is not None
        leak, current_leak = cell.leaks
        values = [
            ("leak", leak),
            ("leak", current_leak),
            ("threshold", cell.threshold if fires else 0),
            ("bias", node.bias),
        ]
        places = [self.parameters[name].add(x, node.bias.shape) for name, x in values]
        rule, most = type(cell).__name__.strip("_"), cell.n if fires else 0
        memory = 0
        if getattr(cell, "has_memory_of_spikes", False):
            rule, memory = "ADAPTING", len(self.memories)
            self.memories.append(self._memory_row(cell, node.bias.shape))
        row = [len(node.stages), len(cell.state_names), most, rule]
        return [*row, *formats, memory, *places]

    def _memory_row(self, cell: FixedLIF, shape: Shape) -> list[Any]:
        flags = [int(cell.synaptic_decay is not None), int(cell.adaptation is not None)]
        places = [
            table.add(getattr(cell, name) or 0, shape)
            for name, table in self.memory_parameters.items()
        ]
        return [*flags, cell.adaptation_fraction, cell.refractory, *places]

    def _edge_row(self, stage: _Stage) -> list[Any]:
        operation, row = stage.operation, [0, 0, 0]
        kind, factor, number = "SAME", stage.factor, 0
        self.operations += math.prod(stage.shape)
        if isinstance(operation, Product):
            kind, row = "DENSE", self._add_weights(operation.weight)
            self.operations += operation.weight.size - math.prod(stage.shape)
        elif operation is not None:
            window = _window_of(stage)
            kind, number = "WINDOW", len(self.windows)
            if isinstance(operation, MaxPooling):
                kind = "MAXIMUM"
                is_input = stage.source in self.graph.inputs and not stage.lag
                if is_input and self.form.kind != "int32":
                    raise TypeError(
                        f"to_c: maxima of the windows of {stage.source!r} need inputs='int32'"
                    )
            self.windows.append(window)
            outputs = math.prod(window.outputs[1:]) * math.prod(window.kernel)
            self.operations -= math.prod(stage.shape)
            if isinstance(operation, Convolution):
                # A row has the weights of a channel and a place, for all outputs of its group.
                groups, weight = window.groups, operation.weight
                grouped = weight.reshape(
                    groups, len(weight) // groups, *weight.shape[1:]
                )
                rows = np.moveaxis(grouped, 1, -1)
                row = self._add_weights(rows.reshape(-1, rows.shape[-1]))
                self.operations += outputs * weight.shape[0] * weight.shape[1]
            else:
                row = [8, 0, 1]
                self.operations += outputs * window.outputs[0]
        width, first, common = row
        place = self.sources.index(stage.source)
        factor *= common if kind != "SAME" else 1
        return [place, stage.lag, kind, width, first, factor, number]

    def _add_weights(self, weight: np.ndarray) -> list[int]:
        """Add a matrix to the table of its width. Return width, place and common factor."""
        factor = int(np.gcd.reduce(weight, axis=None)) or 1
        numbers = weight // factor
        # A width has the numbers from -half to half - 1.
        half = max(-int(numbers.min(initial=0)), int(numbers.max(initial=0)) + 1)
        width = next(n for n in _ADDS if half <= 2 ** (n - 1))
        parts = self.weights.setdefault(width, [])
        first = sum(part.size for part in parts)
        parts.append(_packed(numbers, width) if width < 8 else numbers.ravel())
        return [width, first, factor]

    def tables(self) -> dict[str, _Table]:
        parameters = self.parameters | (self.memory_parameters if self.memories else {})
        tables = {name: x.table() for name, x in parameters.items()}
        for width, parts in sorted(self.weights.items()):
            kind = "uint8" if width < 8 else f"int{width}"
            tables[f"weight{width}"] = _Table(kind, np.concatenate(parts))
        return tables

    def report(self) -> ProgramReport:
        # The tables of sources, layers, edges, windows and outputs have numbers of 4 bytes.
        numbers = 4 * len(self.sources) + 23 * len(self.nodes) + 7 * len(self.edge_rows)
        numbers += 21 * len(self.windows) + 10 * len(self.memories)
        numbers += len(self.graph.outputs)
        return ProgramReport(
            tables=4 * numbers + sum(table.size for table in self.tables().values()),
            # A struct starts and ends at multiples of 4 bytes.
            state=4 * math.ceil(self.states * self.state_bits / 32)
            + 4 * (max(self.past, 1) + len(self.sources) + self.neurons),
            inputs=self.input_length * np.dtype(self.form.kind).itemsize,
            stack=_STACK,
            operations=self.operations,
            largest_input=self.largest_input(),
        )

    @property
    def input_size(self) -> int:
        return sum(self.sizes[name] for name in self.graph.inputs)

    @property
    def input_length(self) -> int:
        return math.ceil(self.input_size / self.form.per_element)

    @property
    def state_bits(self) -> int:
        """The bits of a number of the state, 16 if all states of all neurons have them."""
        cells = [layer.cell for layer in self.layers if layer.cell is not None]
        fit = all(
            cell.bits <= 16 and getattr(cell, "refractory", 0) < 2**15 for cell in cells
        )
        return 16 if fit else 32

    @property
    def neurons(self) -> int:
        return sum(node.bias.size for node in self.nodes)

    @property
    def states(self) -> int:
        cells = [(x.bias.size, x.cell) for x in self.layers if x.cell is not None]
        return max(sum(size * len(cell.state_names) for size, cell in cells), 1)

    @property
    def past(self) -> int:
        return sum(self.sizes[name] * rows for name, rows in self.rows.items())

    def largest_input(self) -> int:
        """Return the largest input for which float32 and 32 bits have all sums of a current."""
        # An output is at most a constant, and a slope times the largest input.
        constants = {name: LARGEST for name in self.sources}
        constants |= {x.name: x.cell.n for x in self.layers if x.cell is not None}
        constants |= dict.fromkeys(self.graph.inputs, 0)
        slopes = dict.fromkeys(self.sources, 0) | dict.fromkeys(self.graph.inputs, 1)
        largest = LARGEST
        for layer in self.layers:
            constant, slope = np.abs(layer.bias), np.zeros_like(layer.bias)
            for edge in layer.edges:
                ones = np.ones((1, *edge.shape), np.int64)
                sums = edge.absolute().run(ones)[0]
                constant = constant + constants[edge.source] * sums
                slope = slope + slopes[edge.source] * sums
            room = np.maximum(LARGEST - constant, 0) // np.maximum(slope, 1)
            largest = min(largest, int(room[slope > 0].min(initial=LARGEST)))
            if layer.cell is None:
                constants[layer.name] = int(constant.max(initial=0))
                slopes[layer.name] = int(slope.max(initial=0))
        return largest

    def names(self, report: ProgramReport) -> dict[str, Any]:
        """Return the texts of the templates by name."""
        past, sources, first = 0, [], 0
        for name in self.sources:
            if name == self.nodes[0].name:
                first = 0  # inputs and outputs are arrays of their own
            sources.append([self.sizes[name], self.rows[name], past, first])
            past += self.sizes[name] * self.rows[name]
            first += self.sizes[name]
        form = self.form
        count = ", count" if form.has_count else ""
        window_texts = {
            "windows": _braces([[*window] for window in self.windows]),
            "adds_apart": self._adds().replace("current[n]", "current[n * step]"),
        }
        has_maxima = any(row[2] == "MAXIMUM" for row in self.edge_rows)
        has_windows, memories = bool(self.windows), _braces(self.memories)
        return {
            "input_size": self.input_size,
            "input_type": f"{form.kind}_t",
            "input_length": self.input_length,
            "inputs_comment": form.comment,
            "inputs_bytes": report.inputs,
            "parameters": f"const {form.kind}_t *inputs"
            + (", int32_t count" if form.has_count else ""),
            "arguments": f"inputs{count}",
            "count_start": f"{count} = 0" if count else "",
            "each": form.each,
            "input": form.input,
            # Other arrays than those of int32 have no pointer like the outputs of layers.
            "present": "(s < INPUTS ? inputs : state->currents) + first"
            if form.kind == "int32"
            else "state->currents + first",
            "input_case": "" if form.kind == "int32" else _INPUT_CASE,
            "store": form.store,
            "least_input": form.least,
            "most_input": form.most,
            "number": f"int{self.state_bits}_t",
            "scaled": _SCALED[self.state_bits],
            "output_size": sum(self.sizes[name] for name in self.graph.outputs),
            "sources": len(self.sources),
            "neurons": self.neurons,
            "states": self.states,
            "past": max(self.past, 1),  # C has no empty arrays
            "source": _braces(sources),
            # The names of formats are constants of the program.
            "layer": _braces(self.layer_rows).upper(),
            "edge": _braces(self.edge_rows),
            "output": _braces([self.sources.index(x) for x in self.graph.outputs]),
            "tables": "\n".join(x.text(name) for name, x in self.tables().items()),
            "adds": self._adds(),
            "window_source": Template(_WINDOW_SOURCE).substitute(window_texts)
            if has_windows
            else "",
            "window_case": _WINDOW_CASE if has_windows else "",
            "maximum_source": _MAXIMUM_SOURCE if has_maxima else "",
            "maximum_case": _MAXIMUM_CASE if has_maxima else "",
            "memory_source": Template(_MEMORY_SOURCE).substitute(memories=memories)
            if self.memories
            else "",
            "memory_case": _MEMORY_CASE if self.memories else "",
            "names": "\n".join(self._macros()),
            "tables_bytes": report.tables,
            "state_bytes": report.state,
            "stack_bytes": report.stack,
            "operations": report.operations,
            "largest_input": report.largest_input,
        }

    def _adds(self) -> str:
        """Return the cases of a switch by the width of a weight."""
        lines = []
        for width in sorted(self.weights):
            kind = "uint8" if width < 8 else f"int{width}"
            start = f"weight{width} + e->first + input * (row / {max(width // 8, 1)})"
            lines += [
                f"    case {width}: {{",
                f"        const {kind}_t *w = {start};",
                f"        UNROLL for (int32_t n = 0; n < size; n++) {_ADDS[width]}",
                "        break;",
                "    }",
            ]
        return "\n".join(lines)

    def _macros(self) -> Iterable[str]:
        """Yield the places of inputs, outputs and potentials by name."""
        layers = [layer for layer in self.layers if INNER not in layer.name]
        identifiers = _identifiers(
            [*self.graph.inputs, *(layer.name for layer in layers)]
        )
        for kind, names in (
            ("INPUT", self.graph.inputs),
            ("OUTPUT", self.graph.outputs),
        ):
            first = 0
            for name in names:
                yield f"#define {self.prefix}_{kind}_{identifiers[name]} {first}"
                first += self.sizes[name]
        first = 0
        for name, cell, _, bias in layers:
            yield f"#define {self.prefix}_SIZE_{identifiers[name]} {bias.size}"
            if cell is None:
                continue
            yield f"#define {self.prefix}_POTENTIAL_{identifiers[name]} {first}"
            if cell.threshold is None:
                # An array has the unit of each neuron.
                unit = np.asarray(cell.unit)
                if unit.ndim:
                    unit = np.broadcast_to(unit, bias.shape).ravel()
                text = _braces(unit.tolist()).replace("\n", "\\\n")
                yield f"#define {self.prefix}_UNIT_{identifiers[name]} {text}"
            first += bias.size * len(cell.state_names)


class _Linear:
    """The parameters of a sum without neurons."""

    leaks, threshold, state_names, n = (0, 0), None, (), 0


def _packed(weight: np.ndarray, width: int) -> np.ndarray:
    """Return bytes with several weights each, the first in the low bits. A row starts a byte."""
    per_byte = 8 // width
    rows, size = weight.shape
    codes = np.zeros((rows, math.ceil(size / per_byte) * per_byte), np.int64)
    codes[:, :size] = weight & (2**width - 1)
    shifts = width * np.arange(per_byte)
    return (codes.reshape(rows, -1, per_byte) << shifts).sum(-1).ravel()


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return each name as a part of a macro of C. Equal ones get a number."""
    identifiers: dict[str, str] = {}
    for name in names:
        text = re.sub(r"[^A-Z0-9_]", "_", name.upper())
        number = 2
        while text in identifiers.values():
            text, number = f"{text.rstrip('0123456789')}{number}", number + 1
        identifiers[name] = text
    return identifiers


def _braces(values: Any) -> str:
    if not isinstance(values, list):
        return str(values)
    # Lines of 20 numbers, because editors and compilers are slow with long ones.
    text = re.sub("(?:[^,]*,){20}", r"\g<0>\n    ", ",".join(map(_braces, values)))
    return f"{{{text}}}"
