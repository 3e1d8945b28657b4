"""Sweeps: against the same runs started one by one, as whole processes; and in what way runs share a processor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import arguments, interleave, ratio, report

SHAPES, WIDTHS, SEEDS = ("sigmoid", "arctan", "inv_square_grad"), (0.2, 0.8), (0, 1)
RUNS = len(SHAPES) * len(WIDTHS) * len(SEEDS)
PROCESSES = {
    "digits, 64 hidden, 5 epochs": ["--data", "digits", "--hidden", "64", "--epochs", "5"],
    "mnist5k, 128 hidden, 2 epochs": ["--data", "mnist5k", "--hidden", "128", "--epochs", "2"],
}
NETWORKS: dict[str, tuple[str, tuple[int, ...], int, str]] = {
    "digits, 64 hidden, 8 steps": ("digits", (64,), 8, "current"),
    "mnist5k, 256 and 256 hidden, 8 steps": ("mnist5k", (256, 256), 8, "current"),
    "randman, 100 hidden, 100 steps": ("randman", (100,), 100, "none"),
}
UPDATES, AT_A_TIME = 10, 4


def started(*arguments: str) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "spikegrad.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def whole_processes(name: str, options: list[str]) -> dict[str, Any]:
    """The sweep, and in a second half of the same minutes the runs that it makes."""
    with tempfile.TemporaryDirectory() as folder:
        widths, surrogates = ",".join(map(str, WIDTHS)), ",".join(SHAPES)
        grid = ["--surrogate", surrogates, "--half-width", widths, "--seeds", str(len(SEEDS))]
        together = started("sweep", *options, *grid, "--quiet", "-o", f"{folder}/sweep")
        lines = (Path(folder, "sweep", "runs.jsonl")).read_text().splitlines()
        apart = sum(
            started(
                "train", *options, "--no-baseline", "--quiet", "--surrogate", run["spike"],
                "--seed", str(run["seed"]), "-o", f"{folder}/{i}",
            )
            for i, run in enumerate(map(json.loads, lines))
        )  # fmt: skip
    return {"what": f"{RUNS} runs, {name}", "way": "sweep / one by one", "s": together, "ratio": together / apart}


def ways(name: str, rounds: int) -> list[dict[str, Any]]:
    """Updates of several runs of one program: in turn, in two threads, as one batch."""
    import math  # noqa: PLC0415 (this process must not hold memory and threads while others are timed)
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import optax  # noqa: PLC0415

    from spikegrad import LIF, Sigmoid, rescaled  # noqa: PLC0415
    from spikegrad.cli import networks, sources, trainer  # noqa: PLC0415
    from spikegrad.data import Binning  # noqa: PLC0415

    source, hidden, steps, encoding = NETWORKS[name]
    data = sources.load(source, 0, Binning(steps, 1))
    sizes = (math.prod(data.shape), *hidden, data.classes)
    network = networks.SpikingNetwork(sizes, LIF(), steps, encoding, low=data.low, high=data.high)
    examples = jnp.asarray(data.train.x), jnp.asarray(data.train.y)

    def loss(params, width, rows):
        x, y = (array[rows] for array in examples)
        params = networks.with_surrogate(params, rescaled(Sigmoid(), half_width=width))
        return trainer.cross_entropy(network(params, x.swapaxes(0, 1), jax.random.key(0))[0], y).mean()

    def updates(params, state, width, lr, rows):
        def update(i, carry):
            params, state = carry
            change, state = optax.adam(lr).update(jax.grad(loss)(params, width, rows[i]), state)
            return optax.apply_updates(params, change), state

        return jax.lax.fori_loop(0, UPDATES, update, (params, state))

    rng = np.random.default_rng(0)
    runs = []
    for i in range(AT_A_TIME):
        params = network.init(jax.random.key(i))
        rows = rng.integers(0, len(data.train), (UPDATES, 128))
        runs.append((params, optax.adam(1e-3).init(params), jnp.float32(0.1 * 2**i), jnp.float32(1e-3), rows))
    one, batch = jax.jit(updates), jax.jit(jax.vmap(updates))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)

    def single(run):
        return jax.block_until_ready(one(*run))

    with ThreadPoolExecutor(2) as pool:
        contenders = {
            "in turn": lambda: list(map(single, runs)),
            "two threads": lambda: list(pool.map(single, runs)),
            "vmap": lambda: jax.block_until_ready(batch(*stacked)),
        }
        seconds = interleave(contenders, rounds)
    return [
        {
            "what": name,
            "way": way,
            "s": min(seconds[way]) / AT_A_TIME / UPDATES,
            **ratio(seconds[way], seconds["in turn"]),
        }
        for way in contenders
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = [whole_processes(name, given) for name, given in PROCESSES.items()]
    rows += [row for name in NETWORKS for row in ways(name, options.rounds)]
    report(rows, options.json)


if __name__ == "__main__":
    main()
