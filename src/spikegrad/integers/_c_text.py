"""The text of programs in C, as templates.

A program is an interpreter of tables, so its text is the same for all networks. ``$name`` is
replaced by a value of ``_c.py``. The parts for windows, maxima and adapting neurons are left out if
no layer has them.

The numbers of a program are int32_t, on microcontrollers without floats. The comments below derive
why no product or sum overflows, because C does not define a signed overflow. They use these ranges
of ``_cells.py``:

- A state has up to 24 bits with its sign, so its size is at most 2**23.
- A decay factor is from 0 to 2**12.
- The sizes of the products of a current add up to at most 2**24, which :func:`replay` checks.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# --- the header -----------------------------------------------------------------------------------

# All arrays are in the state of the caller. So the program allocates nothing, two networks can run
# at once, and the compiler reports the RAM. ``values`` has the type of the widest state: networks
# whose states all have 16 bits need half of the bytes.
HEADER = """\
/* Made by spikegrad.integers.to_c.
   Flash: $size_tables bytes of tables. RAM: $size_state bytes of state, and up to $size_inputs
   bytes of inputs. Stack of a step: up to $size_stack bytes. A step has at most $size_operations
   products and sums. */
#ifndef ${NAME}_H
#define ${NAME}_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_INPUTS $input_size
#define ${NAME}_OUTPUTS $output_size
#define ${NAME}_LARGEST_INPUT $size_largest_input /* sums of inputs up to this size are exact */

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
/* $comment */
void ${name}_step(${name}_state *state, $parameters, int32_t *outputs);

#ifdef __cplusplus
}
#endif
#endif
"""

# --- the source -----------------------------------------------------------------------------------

# The tables. The order of the fields is that of the records of the same names in ``_c_tables.py``.
# Words such as SATURATE are the constants of the enums, so the tables can be read.
_DECLARATIONS = """\
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

"""

# The arithmetic of ``_arithmetic.py``. A right shift of a negative number depends on the compiler
# in C99, so only numbers of at least 0 are shifted:
#
# - ``leaked``: for x < 0 the loss is x >> shift, rounded down: -((2**shift - 1 - x) >> shift). A
#   positive number loses at least 1, or a small potential would stay forever.
# - ``wrapped``: unsigned numbers wrap in C by definition. x + half is taken modulo 2 * half.
# - ``clipped``: the sum of a state of 24 bits and a current of 24 bits needs 25 bits.
_ARITHMETIC = """\
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
"""

# A state times a decay factor, by the bits of a state: x * factor / 2**bits, rounded. Names of the
# functions below are those of ``_arithmetic.py``.
#
# - 16 bits: the product is at most 2**15 * 2**12 = 2**27 in size. ~(~p >> bits) is p / 2**bits,
#   rounded down, because ~p = -p - 1 is at least 0 for p < 0.
# - 32 bits: 2**23 * 2**12 does not fit. With x = high * 2**bits + low, the product is
#   high * factor + low * factor / 2**bits, and both products have at most 24 bits.
SCALED = {
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

# The neurons of one layer, one function for each rule that has its own order of sums. A parameter
# has 1, channels or neurons numbers in its table, see ``Place`` in ``_c_tables.py``. PLACE avoids
# the division for one number of a whole layer, because a Cortex-M0 has no instruction for it.
_NEURONS = """\
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

"""

# Neurons with an adaptation, a rest or a late reset, see ``FixedLIF.fire``. Their states follow the
# potentials in this order, each with one number for each neuron: synaptic current, adaptation,
# steps left. The adaptation is a fixed-point number with ``shift`` bits behind the point. A
# potential before a late reset is at its threshold or above, so it tells that the neuron fired.
MEMORY_SOURCE = """\
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

MEMORY_CASE = """\
        case ADAPTING:
            for (int32_t n = 0; n < size; n++)
                current[n] = fire_adapting(l, n, size, current[n], v + n);
            break;"""

# The weights. A DENSE edge adds the row of an input to all neurons, row by row, so an input of 0
# costs nothing. x has up to 24 bits, and so has its product, see the sizes of products above.
_WEIGHTS = """\
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

"""

# The sum with a weight of each width, for current (neurons,) and a row w of weights. Weights of 2
# and 4 bits fill bytes from the low bits. Their codes are two's complement of so few bits, and
# (code ^ half) - half is the number with its sign.
ADDS = {
    2: "current[n] += x * (((w[n >> 2] >> 2 * (n & 3) & 3) ^ 2) - 2);",
    4: "current[n] += x * (((w[n >> 1] >> 4 * (n & 1) & 15) ^ 8) - 8);",
    **dict.fromkeys((8, 16, 32), "current[n] += x * w[n];"),
}

# A convolution, as the inputs see it: each input is added to the outputs that read it. An output o
# reads the input o * stride - padding + k * dilation by the weight k of the kernel. So o is
# (input + padding - k * dilation) / stride, if this is a whole number within the output.
# The weights of an input channel and a place of the kernel are one row, for all outputs of the
# group. They are ``out_step[0]`` apart in the current.
WINDOW_SOURCE = """
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

WINDOW_CASE = """\
    case WINDOW:
        spread(current, e, at, x);
        break;"""

# A maximum is no sum of inputs, so it reads all inputs of a window, also zeros. Numbers beyond the
# array do not count. A padding is less than a window, so each window has a number within the array.
MAXIMUM_SOURCE = """\
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

MAXIMUM_CASE = """\
            if (edge[e].kind == MAXIMUM) {
                add_maximum(current, &edge[e], x);
                continue;
            }
"""

# Inputs of the present step in another form than int32, read where they are. A delay reads the ring
# of past outputs, whose numbers are always int32.
INPUT_CASE = """\
            if (s < INPUTS && !lag) {
                const int32_t end = first + many;
                EACH_INPUT(at) add_input(current, size, &edge[e], at - first, INPUT(at));
                continue;
            }
"""

# One time step. Layers run in their order, each with its edges, then its neurons. So an edge
# without a delay reads the outputs of this step. ``currents`` has the currents of a layer first,
# and its outputs after the neurons. At the end the outputs go into the rings of the sources that a
# delay reads. The zeros of ``start`` are the outputs before the first step.
_STEP = """\
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

"""

# For tests on a computer: it reads numbers from a pipe. The exit code is 1 for half a step, and 2
# for an input out of range.
_MAIN = """\
#ifdef ${NAME}_MAIN
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Reads the inputs of one step after the other, and prints the outputs of each. */
int main(void) {
    static ${name}_state state;
    static ${kind}_t inputs[$input_length];
    static int32_t outputs[${NAME}_OUTPUTS];
    ${name}_start(&state);
    for (;;) {
        int32_t number$count_start;
        memset(inputs, 0, sizeof inputs);
        for (int32_t j = 0; j < ${NAME}_INPUTS; j++) {
            if (scanf("%" SCNd32, &number) != 1) return j != 0;
            if (number < $least || number > $most) return 2;
            $store
        }
        ${name}_step(&state, $arguments, outputs);
        for (int32_t i = 0; i < ${NAME}_OUTPUTS; i++)
            printf("%" PRId32 "%c", outputs[i], i + 1 < ${NAME}_OUTPUTS ? ' ' : '\\n');
    }
}
#endif
"""

SOURCE = _DECLARATIONS + _ARITHMETIC + _NEURONS + _WEIGHTS + _STEP + _MAIN

# --- the test -------------------------------------------------------------------------------------

# Examples follow each other, and each starts with a state of zeros. ``first`` has one number more
# than steps, because events of a step are as many as it has spikes.
TEST = """\
/* Made by spikegrad.integers.to_c: $examples examples of $steps steps, and the outputs of
   replay. */
#include "$name.h"

static const ${kind}_t inputs[] = $inputs;
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

# --- the inputs -----------------------------------------------------------------------------------


class InputFormat(NamedTuple):
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
INPUTS = {
    "int32": InputFormat(
        "int32",
        least=1 - 2**31,
        most=2**31 - 1,
        each=f"{_EACH} if (inputs[at])",
        store="inputs[j] = number;",
        comment="One number for each input.",
    ),
    "bytes": InputFormat(
        "uint8",
        least=0,
        most=255,
        each=f"{_EACH} if (inputs[at])",
        store="inputs[j] = (uint8_t)number;",
        comment="One byte for each input.",
    ),
    "bits": InputFormat(
        "uint8",
        least=0,
        most=1,
        each=f"{_EACH} if (inputs[at >> 3] >> (at & 7) & 1)",
        store="inputs[j >> 3] |= (uint8_t)(number << (j & 7));",
        comment="One bit for each input, the first in the lowest bit of the first byte.",
        input="1",
        per_element=8,
    ),
    "events": InputFormat(
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
STACK = 320
"""Bytes. The most that GCC 14 uses for a step on Cortex-M0 and M4 from ``-Os`` to ``-O3``, 256,
rounded up. The text of the program is the same for all networks."""


# --- values ---------------------------------------------------------------------------------------


def braces(values: Any) -> str:
    """Return a number, a word, or the initializer of nested sequences."""
    if not isinstance(values, (list, tuple)):
        return str(values)
    text = ",".join(map(braces, values))
    # Lines of 20 numbers, because editors and compilers are slow with long ones.
    lines = re.sub("(?:[^,]*,){20}", r"\g<0>\n    ", text)
    return f"{{{lines}}}"
