"""Networks of integers as programs in C."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from ..network import Network
from ._arithmetic import Block
from ._replay import IntegerLayer, integer_layers

_FUNCTIONS = """\
static inline int32_t scaled_floor(int32_t x, int32_t factor, int bits) {
    const int64_t product = (int64_t)x * factor, unit = (int64_t)1 << bits;
    return (int32_t)(product >= 0 ? product / unit : -((unit - 1 - product) / unit));
}
static inline int32_t scaled_zero(int32_t x, int32_t factor, int bits) {
    return (int32_t)((int64_t)x * factor / ((int64_t)1 << bits));
}
static inline int32_t leaked(int32_t x, int shift) {
    const int32_t loss = scaled_floor(x, 1, shift);
    return x - loss - (x > 0 && loss == 0);
}
static inline int32_t wrapped(int32_t x, int bits) {
    const int64_t turn = (int64_t)1 << bits, rest = (x + turn / 2) % turn;
    return (int32_t)(rest < 0 ? rest + turn / 2 : rest - turn / 2);
}
static inline int32_t clipped(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}
static inline int32_t fired(int32_t distance) { return distance >= 0; }
static inline int32_t counted(int32_t distance, int32_t threshold, int32_t most) {
    return distance < 0 ? 0 : clipped(distance / threshold + 1, 0, most);
}
"""
_MAIN = """
#ifdef {guard}_MAIN
#include <stdio.h>

/* Reads the inputs of one step after the other, and prints the outputs of each. */
int main(void) {{
    static {name}_state state;
    static int32_t inputs[{guard}_INPUTS], outputs[{guard}_OUTPUTS];
    {name}_start(&state);
    for (;;) {{
        for (int j = 0; j < {guard}_INPUTS; j++)
            if (scanf("%d", &inputs[j]) != 1) return j != 0;
        {name}_step(&state, inputs, outputs);
        for (int i = 0; i < {guard}_OUTPUTS; i++)
            printf("%d%c", outputs[i], i + 1 < {guard}_OUTPUTS ? ' ' : '\\n');
    }}
}}
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
        As :func:`replay`.
    ValueError
        If the last part of the path is not an identifier of C.

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
    name = path.name
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            f"to_c: the last part of path must be a name in C, got {name!r}"
        )
    program = _Program(name, network)
    for suffix, text in ((".h", program.header()), (".c", program.source())):
        data = text.encode()
        write_atomically(
            path.with_name(name + suffix), lambda stream, data=data: stream.write(data)
        )


class _Program:
    def __init__(self, name: str, network: Network) -> None:
        self.name, self.guard = name, name.upper()
        self.layers = [*integer_layers("to_c", network)]
        # A layer is n3 in C, because names in Python may be any string.
        self.names = {layer.name: f"n{k}" for k, layer in enumerate(self.layers)}
        self.names |= {
            source: f"in{k}" for k, source in enumerate(network.graph.inputs)
        }
        self.inputs, self.outputs = network.graph.inputs, network.graph.outputs
        self.sizes = {layer.name: layer.neurons for layer in self.layers}
        self.depths = {layer.name: 0 for layer in self.layers}
        """How many outputs before the present one each source must remember."""
        for layer in self.layers:
            for edge in layer.edges:
                self.sizes[edge.source] = len(edge.weight)
                self.depths[edge.source] = max(
                    self.depths.get(edge.source, 0), edge.lag
                )

    def header(self) -> str:
        fields = []
        for layer in self.layers:
            fields += [
                f"int32_t {self.names[layer.name]}_{k}[{layer.neurons}];"
                for k in range(len(layer.cell.state_names))
            ]
        for source, depth in self.depths.items():
            if depth:
                array = f"{self.names[source]}_past[{depth}][{self.sizes[source]}]"
                fields.append(f"int32_t {array};")
        inputs, outputs = (
            sum(self.sizes[name] for name in names)
            for names in (self.inputs, self.outputs)
        )
        return "\n".join(
            [
                f"#ifndef {self.guard}_H",
                f"#define {self.guard}_H",
                "#include <stdint.h>",
                f"#define {self.guard}_INPUTS {inputs}",
                f"#define {self.guard}_OUTPUTS {outputs}",
                "typedef struct {",
                *(f"    {field}" for field in fields),
                f"}} {self.name}_state;",
                f"void {self.name}_start({self.name}_state *state);",
                f"void {self.name}_step({self.name}_state *state, const int32_t *inputs,",
                "    int32_t *outputs);",
                "#endif",
                "",
            ]
        )

    def source(self) -> str:
        lines = [f'#include "{self.name}.h"', "", "#include <string.h>", ""]
        tables, body = [], []
        for layer in self.layers:
            self._add_layer(layer, tables, body)
        # Only the functions that the cells call, because an unused one is a warning.
        text = "\n".join(body)
        lines += [_used_functions(text), *tables, ""]
        lines += [
            f"void {self.name}_start({self.name}_state *state) {{",
            "    memset(state, 0, sizeof *state);",
            "}",
            "",
            f"void {self.name}_step({self.name}_state *state, const int32_t *inputs,",
            "    int32_t *outputs) {",
        ]
        place = 0
        for source in self.inputs:
            lines.append(f"    const int32_t *{self.names[source]} = inputs + {place};")
            place += self.sizes[source]
        lines.append(text)
        for source in self.depths:
            lines += self._push(source)
        place = 0
        for output in self.outputs:
            size, array = self.sizes[output], self.names[output]
            lines.append(
                f"    for (int i = 0; i < {size}; i++) outputs[{place} + i] = {array}[i];"
            )
            place += size
        lines.append("}")
        return "\n".join(lines) + _MAIN.format(name=self.name, guard=self.guard)

    def _add_layer(
        self, layer: IntegerLayer, tables: list[str], body: list[str]
    ) -> None:
        name, size = self.names[layer.name], layer.neurons
        body.append(f"    int32_t {name}[{size}];")
        if layer.bias.any():
            tables.append(_table(f"{name}_bias", layer.bias))
            body.append(
                f"    for (int i = 0; i < {size}; i++) {name}[i] = {name}_bias[i];"
            )
        else:
            body.append(f"    memset({name}, 0, sizeof {name});")
        for k, edge in enumerate(layer.edges):
            tables.append(_table(f"{name}_w{k}", edge.weight))
            array = self.names[edge.source]
            if edge.lag:
                array = f"state->{array}_past[{self.depths[edge.source] - edge.lag}]"
            # Event-driven: the row of weights is only read if the input is not 0.
            body += [
                f"    for (int j = 0; j < {len(edge.weight)}; j++)",
                f"        if ({array}[j])",
                f"            for (int i = 0; i < {size}; i++)",
                f"                {name}[i] += {array}[j] * {name}_w{k}[j][i];",
            ]
        # The cell runs on terms instead of numbers, and the block collects their lines.
        block = Block(name)
        arrays = [f"state->{name}_{k}[i]" for k in range(len(layer.cell.state_names))]
        v = tuple(map(block.define, arrays))
        current = block.define(f"{name}[i]")
        u = layer.cell.integrate(v if v[1:] else v[0], current)
        after, out = layer.cell.fire(u)
        after = after if isinstance(after, tuple) else (after,)
        tables += [
            _table(table, np.array(values)) for values, table in block.tables.items()
        ]
        lines = [
            *block.lines,
            *(f"{a} = {value};" for a, value in zip(arrays, after, strict=True)),
            f"{name}[i] = {out};",
        ]
        body += [
            f"    for (int i = 0; i < {size}; i++) {{",
            *(f"        {line}" for line in lines),
            "    }",
        ]

    def _push(self, source: str) -> list[str]:
        """Return the lines that remember the present outputs, if a later step reads them."""
        past, depth = f"state->{self.names[source]}_past", self.depths[source]
        if not depth:
            return []
        return [
            f"    memmove({past}, {past}[1], {depth - 1} * sizeof {past}[0]);"
            * (depth > 1),
            f"    memcpy({past}[{depth - 1}], {self.names[source]}, sizeof {past}[0]);",
        ]


def _table(name: str, values: np.ndarray) -> str:
    """Return a constant array, with the smallest type."""
    bits = next(
        bits for bits in (8, 16, 32) if (np.abs(values * 2 + 1) < 2**bits).all()
    )
    axes = "".join(f"[{n}]" for n in values.shape)
    return f"static const int{bits}_t {name}{axes} = {_braces(values.tolist())};"


def _braces(values: int | Sequence[Any]) -> str:
    if isinstance(values, int):
        return str(values)
    separator = ",\n    " if values and not isinstance(values[0], int) else ","
    return "{" + separator.join(map(_braces, values)) + "}"


def _used_functions(text: str) -> str:
    functions = re.split(r"(?<=\})\n(?=static)", _FUNCTIONS.strip())
    used: list[str] = []
    for function in reversed(functions):  # a function calls those above it
        name = re.search(r"(\w+)\(", function)[1]  # type: ignore[index]
        if re.search(rf"\b{name}\(", text + "".join(used)):
            used.insert(0, function)
    return "\n".join(used)
