"""Memory of the command: the most that `spikegrad train` takes of files of images, beside JAX that has one product to
compute. The target is what JAX takes so and three times the arrays of the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _measure import arguments, report

EMPTY = "import jax, jax.numpy as jnp; jax.jit(jnp.dot)(jnp.ones((9, 9)), jnp.ones((9, 9))).block_until_ready()"


def write_images(file: Path, count: int) -> float:
    """A noisy one of ten pictures each, and how many MB they take. In a process of its own: those that this one starts
    would count as theirs what it takes.
    """
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (10, 28, 28), np.uint8)
    y = rng.integers(0, 10, count)
    noise = rng.integers(0, 256, (count, 28, 28), np.uint8)
    arrays = {"x_train": np.where(rng.random(noise.shape, np.float32) < 0.3, pictures[y], noise), "y_train": y}
    np.savez(file, **arrays)
    return sum(array.nbytes for array in arrays.values()) / 1e6


def peak(call: list[str], rounds: int) -> float:
    """The most of several runs of Python, each in a folder of its own, in MB."""
    most = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen([sys.executable, *call], stdout=subprocess.DEVNULL, cwd=folder)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(call)}: exit code {process.returncode}")
        most = max(most, usage.ru_maxrss)
    return most * 1024 / 1e6  # Linux counts in units of 1024 bytes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    empty = peak(["-c", EMPTY], options.rounds)
    rows: list[dict[str, Any]] = [{"run": "JAX", "peak MB": empty}]
    with tempfile.TemporaryDirectory() as folder:
        for count in (600, 60_000, 120_000):
            file = Path(folder, f"{count}.npz")
            with ProcessPoolExecutor(1) as apart:
                size = apart.submit(write_images, file, count).result()
            for more in ([], ["--no-baseline", "--hidden", "8"]):
                call = ["-m", "spikegrad.cli", "train", "--data", str(file), "--epochs", "1", "--quiet", *more]
                row = {"run": " ".join([f"{count:,} images", *more]), "peak MB": peak(call, options.rounds)}
                rows.append(row | {"arrays MB": size, "target MB": empty + 3 * size})
    report(rows, options.json)


if __name__ == "__main__":
    main()
