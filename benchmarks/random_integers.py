"""Random networks of integers in every mode, beside an int64 loop, the replay and the program in C.

    python benchmarks/random_integers.py --json FILE
    python benchmarks/random_integers.py --count 5 --modes exact scan

A hundred networks of each target, the ones of ``tests/integers``: graphs with recurrence, delays,
windows and several sources, with states that saturate and wrap. Each network runs in each mode as
in training: the first half of ``jax.vjp``, which stores the residuals of this mode. A row counts the
networks, and those whose spikes, potentials and currents all equal those of the loop. It needs a
compiler, ``cc``, and takes 40 minutes of one processor. The table grows with each network.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, report

from spikegrad.integers import replay
from spikegrad.network.engine._modes import MODES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import integer_networks as reference


def is_equal(network: Any, run: tuple[Any, Any], expected: tuple[Any, Any]) -> bool:
    states, outputs = reference.as_arrays(network, *run)
    return all(
        np.array_equal(states[name], expected[0][name])
        # The potentials of a readout are real numbers in a call.
        and np.array_equal(np.rint(outputs[name]), expected[1][name])
        for name in network.layers
    )


def is_equal_in_c(network: Any, inputs: np.ndarray, outputs: dict[str, np.ndarray]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            reference.check_c(network, inputs, outputs, Path(folder))
        except AssertionError:
            return False
    return True


def call(spikes: jax.Array, mode: str, network: Any) -> Any:
    return network(spikes, backward=mode)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--count", type=int, default=100, help="networks of each target")
    parser.add_argument("--modes", nargs="*", default=[*MODES])
    options = parser.parse_args()
    equal: Counter[tuple[str, str]] = Counter()
    for seed in range(options.first, options.first + options.count):
        for number, target in enumerate(reference.TARGETS):
            rng = np.random.default_rng([seed, number])
            network = reference.random_network(target, rng)
            inputs = reference.random_inputs(rng)
            expected = reference.run_apart(network, inputs)
            runs = {"replay": is_equal(network, replay(network, inputs), expected)}
            runs["C"] = is_equal_in_c(network, inputs, expected[1])
            spikes = jnp.asarray(inputs, jnp.float32)
            for mode in options.modes:
                run, _ = jax.vjp(functools.partial(call, spikes, mode), network)
                runs[mode] = is_equal(network, run, expected)
            for name, result in runs.items():
                equal[target, name] += result
            jax.clear_caches()
        # After each network, because a run may be stopped.
        count = seed + 1 - options.first
        rows = [
            {"target": target, "run": name, "networks": count, "equal": number}
            for (target, name), number in equal.items()
        ]
        report(rows, options.json)


if __name__ == "__main__":
    main()
