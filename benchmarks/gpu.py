"""Whatever device JAX has, in one command: modes, unrolling, a residual network of images, and surrogates.

Training steps of the recurrent network of ``bptt.py`` in all modes, and unrolled; those of ``graphs.py``; and
``elementwise.py`` in float32 and bfloat16. Each is a ratio to the plain scan, or to a copy and a product, in the same
rounds. ``temp_units`` is the temporary memory in arrays of one float32 for each step, example and neuron. The file
names the device.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    python benchmarks/gpu.py --small
"""

from __future__ import annotations

import bptt
import elementwise
import graphs
from _measure import arguments, report

SURROGATES = "sigmoid", "arctan", "piecewise_quadratic", "relu_grad", "gaussian_grad", "multi_gaussian_grad"
SIZES = (256, 100, 1), (1024, 250, 1), (512, 100, 3)  # neurons, steps, layers
UNROLLED = 1, 2, 4, 8, 16


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--small", action="store_true", help="as little as shows that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    small, rounds = options.small, 1 if options.small else options.rounds
    batch = 4 if small else 64
    rows = []
    for neurons, steps, depth in [(8, 6, 1)] if small else SIZES:
        found = bptt.recurrent(neurons, steps, batch, depth, rounds, False, ())
        rows += [{"part": "modes", **row} for row in found]
    neurons, steps = (8, 6) if small else (256, 100)
    found = bptt.recurrent(neurons, steps, batch, 1, rounds, False, UNROLLED[:2] if small else UNROLLED)
    rows += [{"part": "unroll", **row} for row in found]
    modes = "scan", "exact", "8-bit"
    found = graphs.measure(*graphs.images(*((2, 4, 3) if small else (16, 32, 8)), batch), modes, rounds)
    rows += [{"part": "images", **row} for row in found]
    for dtype in ("float32", "bfloat16"):
        found = elementwise.measure(SURROGATES, dtype, 1 << (10 if small else 24), rounds)
        rows += [{"part": "surrogates", **row} for row in found]
    report(rows, options.json)


if __name__ == "__main__":
    main()
