"""Training steps on a GPU: measured on the GPU of this machine, and counted for one that is only described.

Measured are training steps of the recurrent network of ``bptt.py`` in all modes, and unrolled; those of ``graphs.py``;
and ``elementwise.py`` in float32 and bfloat16. Each is a ratio to the plain scan, or to a copy and a product, in the
same rounds. ``temp_units`` is the temporary memory in arrays of one float32 for each step, example and neuron. The file
names the device.

Counted are the kernels and launches of a training step, divided by its time steps, for the networks of
``_gpu_cases.py`` in all modes, in plain JAX, and with ``jax.checkpoint``. The program is compiled for an H100 that this
machine does not have, see ``_described.py``. ``converts`` are the instructions that convert types in the program,
``products`` its matrix products and convolutions by the type of their operands. ``compile`` are the CPU seconds to
trace and compile over those of the plain scan, the least of all rounds. This part needs the wheels of JAX for CUDA, and
no GPU. Nothing counted is a time.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    python benchmarks/gpu.py --small
    python benchmarks/gpu.py --described h100 --json benchmarks/results/gpu-described.json
    python benchmarks/gpu.py --described h100 --only "one layer,recurrent" --modes exact,half
    python benchmarks/gpu.py --described h100 --compile
    python benchmarks/gpu.py --described v5e

For a TPU, which ``--described v5e`` describes, all cases and each kind of neuron are compiled in all modes, and nothing
is counted. This needs the package libtpu.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _described
from _measure import arguments, report

if described := "--described" in sys.argv:
    _described.prepare()  # before JAX

import bptt
import elementwise
import graphs
import jax
from _gpu_cases import CASES, COMPILED, Case, checkpointed, loss

SURROGATES = "sigmoid", "arctan", "piecewise_quadratic", "relu_grad", "gaussian_grad", "multi_gaussian_grad"
SIZES = (256, 100, 1), (1024, 250, 1), (512, 100, 3)  # neurons, steps, layers
UNROLLED = 1, 2, 4, 8, 16
MODES = "exact", "half", "8-bit", "recompute"
PLAIN = "plain scan"
GRAPHS = {"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE"}
"""The option of XLA that captures loops in CUDA graphs, too: its default and ``WHILE``."""


def measured(small: bool, rounds: int) -> list[dict[str, Any]]:
    """Rows of the device of this machine."""
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
    return rows


def variants(case: Case, modes: list[str]) -> dict[str, Callable]:
    """Return the outputs of a case in each way, as functions of weights and inputs."""
    found: dict[str, Callable] = {
        PLAIN: functools.partial(case.plain, scan=jax.lax.scan),
        "jax.checkpoint": functools.partial(case.plain, scan=checkpointed),
    }
    return found | {mode: functools.partial(case.network, backward=mode) for mode in modes}


def training_step(run: Callable) -> Callable:
    return jax.value_and_grad(lambda weights, inputs: loss(run(weights, inputs)))


def counted(name: str, modes: list[str], rounds: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a case, for a described H100."""
    case = CASES[name]()
    steps = {variant: training_step(run) for variant, run in variants(case, modes).items()}
    counts: dict[str, list[_described.Counts]] = {variant: [] for variant in steps}
    for _ in range(rounds):
        for variant, step in steps.items():
            jax.clear_caches()
            counts[variant].append(_described.count(step, case.weights, case.inputs, options=options))
    seconds = {variant: min(count.seconds for count in found) for variant, found in counts.items()}
    rows = []
    for variant, (count, *_) in counts.items():
        row = {"case": name, "variant": variant, "kernels": round(count.kernels / case.steps, 2)}
        row |= {"launches": round(count.launches / case.steps, 2), "temp_MB": round(count.temporaries / 1e6, 1)}
        row |= {"converts": count.converts, "products": count.products}
        rows.append(row | {"compile": round(seconds[variant] / seconds[PLAIN], 2)})
    return rows


def compiled(device: str, name: str, modes: list[str]) -> list[dict[str, Any]]:
    """Rows of a case that is compiled and not counted."""
    case = COMPILED[name]()
    rows = []
    for mode in modes:
        step = training_step(variants(case, modes)[mode])
        _, seconds = _described.compile_for(device, step, case.weights, case.inputs)
        rows.append({"case": name, "variant": mode, "compiled for": device, "CPU seconds": seconds})
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--small", action="store_true", help="as little as shows that it runs")
    parser.add_argument("--rounds", type=int, help="default: 9 to measure, 1 to count")
    parser.add_argument(
        "--described", choices=[*_described.DEVICES], help="count for this device, which need not exist"
    )
    parser.add_argument("--only", metavar="CASES", help="the cases to count; the file keeps rows of other cases")
    parser.add_argument("--modes", default=",".join(MODES), help="to count, default %(default)s")
    parser.add_argument("--compile", action="store_true", help="only compile the cases, and each kind of neuron")
    parser.add_argument("--graphs", action="store_true", help="count with loops in CUDA graphs, an option of XLA")
    options = parser.parse_args()
    if not options.described:
        report(measured(options.small, 1 if options.small else options.rounds or 9), options.json)
        return
    counts = options.described == "h100" and not options.compile
    names = options.only.split(",") if options.only else [*(CASES if counts else COMPILED)]
    modes = options.modes.split(",")
    kept = rows_of(options.json)
    for name in names:
        if counts:
            rows = counted(name, modes, options.rounds or 1, GRAPHS if options.graphs else {})
        else:
            rows = compiled(options.described, name, modes)
        kept = [row for row in kept if row["case"] != name] + rows
        kept.sort(key=lambda row: [*COMPILED].index(row["case"]))
        # after each case, because all of them take long
        report(kept, options.json)


def rows_of(file: Path | None) -> list[dict[str, Any]]:
    """Return the rows that an earlier call has written."""
    return json.loads(file.read_text())["rows"] if file and file.exists() else []


if __name__ == "__main__":
    main()
