"""Training of the command: seconds of an update and of a whole run, and against another version of the library.

The network is that of ``spikegrad train`` on 5,000 MNIST images: 784-256-256-10, 8 steps, batches of 128. Each update
is a turn of ``trainer.fit``, progress, metrics and scores of the held-out examples included, checkpoints and the
first epoch, in which everything is compiled, not.

With ``--against DIR``, a checkout of another version, both run in processes of their own in turn, as often as
``--rounds`` says; the ratio is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import arguments, report

ROOT = Path(__file__).resolve().parent.parent


def measure(epochs: int) -> dict[str, float]:
    """In this process: seconds of an update, of each of the two networks."""
    import jax  # noqa: PLC0415

    from spikegrad.cli import trainer  # noqa: PLC0415
    from spikegrad.cli.options import Options  # noqa: PLC0415

    given = Options(
        data="mnist5k", epochs=epochs, batch=128, hidden=(256, 256), cell="lif", recurrent=False, readout="mean",
        mode="exact", steps=8, bin=0.0, pool=1, encoding="current", shift=2, input_noise=0.0,
        taus=(), reset="subtract", detach_reset=False, surrogate="sigmoid", seed=0, lr=2e-3,
    )  # fmt: skip
    data = given.load()
    spiking = given.network(data)
    found, folder = {}, Path(tempfile.mkdtemp())
    for name, network in (("spiking", spiking), ("ReLU", spiking.without_spikes())):
        seen = []  # of each report: updates made, and when

        def note(now, seen=seen):
            seen.append((now.step, time.perf_counter()))

        began = time.perf_counter()
        start = network.init(jax.random.key(0))
        trainer.fit(network, start, data, given, folder=folder, callbacks=[note])
        per_epoch = len(data.train) // 128
        first = next(at for at in seen if at[0] >= per_epoch)
        found[f"{name}, an update"] = (seen[-1][1] - first[1]) / (seen[-1][0] - first[0])
        found[f"{name}, all {epochs} epochs"] = time.perf_counter() - began
    return found


def in_a_process(root: Path, epochs: int) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    script = root / "benchmarks" / "training.py"  # of that version
    call = [sys.executable, str(script), "--epochs", str(epochs), "--worker"]
    return json.loads(subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--against", type=Path, metavar="DIR", help="a checkout of another version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--worker", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.epochs)))
        return
    mine, other = [], []
    for _ in range(options.rounds):
        mine.append(in_a_process(ROOT, options.epochs))
        if options.against:
            other.append(in_a_process(options.against, options.epochs))
    rows = []
    for name in mine[0]:
        seconds = [sample[name] for sample in mine]
        row = {"what": name, "seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        if other:
            before = [sample[name] for sample in other]
            ratios = sorted(a / b for a, b in zip(seconds, before, strict=True))
            row |= {"before": statistics.median(before), "ratio": statistics.median(ratios)}
            row |= {"ratio of the least": min(seconds) / min(before)}
        rows.append(row)
    report(rows, options.json)


if __name__ == "__main__":
    main()
