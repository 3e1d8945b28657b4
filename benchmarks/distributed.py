"""Data-parallel training: examples a second on several devices and in several processes, and what they exchange.

The network is that of ``spikegrad train``: 784-256-256-10, 8 steps, by Adam, in calls of 16 updates; all that
``spikegrad.training.fit`` does is in it, compilation not. On one machine all devices share its cores, and a single one
uses all of them: what is measured is what cutting costs there, not what machines of their own would gain. Each setting
runs in processes of its own, in turn; the ratio is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

from _measure import arguments, ratio, report

SETTINGS = ((1, 1), (1, 2), (1, 4), (2, 1))  # processes, and devices of each
BATCHES = (128, 1024)
PER_CALL, CALLS = 16, 6
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)
ARRAY = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")


def measure(batch: int) -> dict[str, float]:
    """In this process: examples a second, and the collectives of an update with their bytes."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import optax  # noqa: PLC0415
    from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: PLC0415

    from spikegrad import LIF  # noqa: PLC0415
    from spikegrad.cli.networks import SpikingNetwork  # noqa: PLC0415
    from spikegrad.training import ShuffledBatches, fit, with_device_data  # noqa: PLC0415

    network = SpikingNetwork((784, 256, 256, 10), LIF(), 8, "current")
    rng = np.random.default_rng(0)
    count = PER_CALL * batch
    examples = rng.integers(0, 256, (count, 784), np.uint8), rng.integers(0, 10, count, np.int32)

    def loss(params, batch, key):
        x, y = batch
        logits, _, _ = network(params, x[None].astype(jnp.float32) / 255, key)
        right = (logits.argmax(-1) == y).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), {"accuracy": right}

    texts, jit = [], jax.jit

    def recorded(function, **options):
        """``jax.jit``, which keeps the text of the program of an update before it runs first."""
        jitted = jit(function, **options)
        if function.__name__ != "advance":
            return jitted

        def run(*args):
            if not texts:
                texts.append(jitted.lower(*args).compile().as_text())
            return jitted(*args)

        return run

    jax.jit, seen = recorded, []
    fit(
        with_device_data(loss, examples),
        network.init(jax.random.key(0)),
        ShuffledBatches(np.arange(count, dtype=np.int32), batch, 0),
        optimizer=optax.adam(1e-3),
        key=jax.random.key(1),
        epochs=CALLS,
        updates_per_call=PER_CALL,
        batch_sharding=NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch")),
        callbacks=[lambda now: seen.append((now.step, time.perf_counter()))],
    )
    jax.jit = jit
    (first, began), (last, ended) = seen[1], seen[-1]
    found = COLLECTIVE.findall(texts[0])
    sizes = [int(bits) // 8 * _count(shape) for arrays, _ in found for bits, shape in ARRAY.findall(arrays)]
    return {
        "rate": batch * (last - first) / (ended - began),
        "collectives": sorted(name for _, name in found),
        "bytes": sum(sizes),
    }


def _count(shape: str) -> int:
    count = 1
    for n in filter(None, shape.split(",")):
        count *= int(n)
    return count


def worker(processes: int, process: int, port: int) -> None:
    from spikegrad.training import distributed  # noqa: PLC0415

    with distributed(f"localhost:{port}", processes, process) if processes > 1 else nullcontext():
        found = {batch: measure(batch) for batch in BATCHES}
    print(json.dumps(found))


def in_processes(processes: int, devices: int) -> dict[str, dict]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    calls = [[sys.executable, __file__, "--worker", *map(str, (processes, i, port))] for i in range(processes)]
    started = [subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True) for call in calls]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed: see above")
    return json.loads(outputs[0])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=int, nargs=3, metavar=("PROCESSES", "PROCESS", "PORT"), help="used by itself")
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    rounds = [{setting: in_processes(*setting) for setting in SETTINGS} for _ in range(options.rounds)]
    rows = []
    for batch in map(str, BATCHES):
        base = [found[SETTINGS[0]][batch]["rate"] for found in rounds]
        for setting in SETTINGS:
            results = [found[setting][batch] for found in rounds]
            rates = [result["rate"] for result in results]
            rows.append(
                {
                    "batch": int(batch),
                    "processes": setting[0],
                    "devices": setting[0] * setting[1],
                    "examples_s": statistics.median(rates),
                    **ratio(rates, base),
                    "collectives": ", ".join(results[0]["collectives"]) or "none",
                    "bytes": results[0]["bytes"],
                }
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
