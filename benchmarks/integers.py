"""Networks of integers: accuracy after quantization and after training on, and the program in C beside a dense one.

    python benchmarks/integers.py --json FILE
    python benchmarks/integers.py --only japanese_vowels --seeds 1
    python benchmarks/integers.py --only c

MNIST (5,000 images, a fifth to test on) has spikes at a rate of the gray value for 20 steps, and JapaneseVowels (12
channels, test as published) counts from 0 to 15. The real network is trained for ``epochs``, then quantized, then
trained on for a third of these at a third of the learning rate. Columns: mean accuracy on the test over the seeds of
the real network, after quantization, and trained on; the largest difference of the last two from the real one for a
seed; the accuracy of the replay in NumPy minus that of training, which must be 0; and the share of weights that are 0.

The rows ``c`` have a network of 784, 256 and 10 neurons on 100 examples of MNIST: bytes of constants and of state, and
microseconds of a step, for each of two flags of the compiler. The programs are that of ``to_c`` with weights of 8 bits,
one of float32 that also skips inputs of 0, and one of float32 that reads all weights in each step.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, chosen, keep_memory, report

from spikegrad import LIF, Arctan, LeakyReadout, Network, SynapticLIF, multi_spike
from spikegrad.data import load, load_packaged, rate_encoding, scale, standardize
from spikegrad.integers import quantize, replay, to_c
from spikegrad.training import combine, fit, partition

STEPS = 20
LIF_CELL = LIF(0.9, surrogate=Arctan(2.0), reset="value", detach_reset=True)
SYNAPTIC = SynapticLIF(0.875, surrogate=Arctan(2.0), synaptic_decay=0.75, detach_reset=True)


@dataclasses.dataclass(frozen=True)
class Data:
    train: Any
    test: Any
    encode: Callable[[Any, jax.Array], jax.Array]
    hidden: int
    epochs: int
    batch: int


def mnist(seed: int) -> Data:
    split = load("mnist5k", seed)

    def encode(x, key):
        images = scale(jnp.asarray(x[0]), split.low, split.high)
        return rate_encoding(images.reshape(len(images), -1), STEPS, key)

    return Data(split.train, split.test, encode, 256, 12, 100)


def vowels(seed: int) -> Data:
    del seed
    train, test = standardize(load_packaged("japanese_vowels"), load_packaged("japanese_vowels", "test"))

    def encode(x, key):
        del key
        return jnp.clip(jnp.round(4 * jnp.asarray(x, jnp.float32) + 8), 0, 15)

    return Data(train, test, encode, 100, 90, 45)


DATA = {"mnist5k": mnist, "japanese_vowels": vowels}
TARGETS = {
    "fixed": (LIF_CELL, LeakyReadout(0.9)),
    "loihi": (LIF_CELL, LeakyReadout(0.9)),
    # Hidden neurons fire up to 31 times in a step. 16 inputs, so not for images.
    "xylo": (dataclasses.replace(SYNAPTIC, surrogate=multi_spike(SYNAPTIC.surrogate, 31)), SYNAPTIC),
}
PAIRS = [("mnist5k", "fixed"), ("mnist5k", "loihi"), *(("japanese_vowels", target) for target in TARGETS)]


def logits(outputs: Any, mask: Any) -> Any:
    """The mean over the valid steps. Spikes of an output, few whole numbers, are multiplied by 10."""
    there = np.ones(outputs.shape[:2], bool) if mask is None else mask
    valid = jnp.asarray(there)[..., None]
    return (outputs * valid).sum(0) / valid.sum(0)


def train(network: Network, data: Data, epochs: int, rate: float, seed: int, gain: float) -> Network:
    trainable, static = partition(network)

    def loss(trainable, batch, key):
        spikes = data.encode(batch.x, key)
        _, outputs = combine(trainable, static)(spikes, mask=batch.mask)
        out = gain * logits(outputs, batch.mask)
        return optax.softmax_cross_entropy_with_integer_labels(out, batch.y).mean(), {}

    batches = data.train.batches(data.batch, seed)
    schedule = optax.cosine_decay_schedule(rate, epochs * len(batches))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    state = fit(loss, trainable, batches, optimizer=optimizer, key=jax.random.key(seed), epochs=epochs)
    return combine(state.trainable, static)


def accuracy(outputs: Any, batch: Any) -> float:
    return float((np.asarray(logits(jnp.asarray(outputs), batch.mask)).argmax(1) == batch.y).mean())


def measure(name: str, target: str, bits: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    data, (cell, readout) = DATA[name](seed), TARGETS[target]
    batch = data.test.as_batch()
    spikes = data.encode(batch.x, jax.random.key(99))
    first = next(iter(data.train.batches(128, seed)))
    start = data.encode(first.x, jax.random.key(98))
    network = Network.init(
        jax.random.key(seed), start, (data.hidden, data.train.classes), cell, readout, mask=first.mask, bias=True
    )
    gain = 10.0 if target == "xylo" else 1.0
    real = train(network, data, data.epochs, 2e-3, seed, gain)
    rows = []
    for n in bits:
        rounded, rows_of = quantize(real, target, start, bits=n, mask=first.mask)
        trained = train(rounded, data, data.epochs // 3, 7e-4, seed, gain)
        outputs = trained(spikes)[1]
        again = replay(trained, np.asarray(spikes))[1]
        rows.append(
            {
                "bits": n,
                "float": accuracy(real(spikes)[1], batch),
                "quantized": accuracy(rounded(spikes)[1], batch),
                "trained on": accuracy(outputs, batch),
                "replay": accuracy(again, batch),
                "equal": bool((np.asarray(outputs) == again).all()),
                "zeros": rows_of.layers[0].zeros,
            }
        )
        print(name, target, seed, rows[-1], flush=True)
    return rows


# Both programs of floats have the state of the integers: potentials of 256 neurons and of 10 readouts.
NEURONS = r"""
#include <stdio.h>
#include <string.h>
#include "weights.h"
static float v[256], out[10];
static void fire(const float *current, float *s) {
    for (int i = 0; i < 256; i++) {
        v[i] = 0.9f * v[i] + current[i];
        s[i] = v[i] >= 1.0f;
        if (v[i] >= 1.0f) v[i] = 0;
    }
}
"""
DENSE = r"""
void step(const float *x) {
    float a[256], s[256];
    for (int i = 0; i < 256; i++) {
        a[i] = 0;
        for (int j = 0; j < 784; j++) a[i] += x[j] * w0[i][j];
    }
    fire(a, s);
    for (int i = 0; i < 10; i++) {
        float b = 0;
        for (int j = 0; j < 256; j++) b += s[j] * w1[i][j];
        out[i] = 0.9f * out[i] + b;
    }
}
"""
# The weights of an input follow each other, as in the program of integers.
EVENTS = r"""
void step(const float *x) {
    float a[256] = {0}, s[256];
    for (int j = 0; j < 784; j++)
        if (x[j])
            for (int i = 0; i < 256; i++) a[i] += x[j] * w0[j][i];
    fire(a, s);
    for (int i = 0; i < 10; i++) out[i] *= 0.9f;
    for (int j = 0; j < 256; j++)
        if (s[j])
            for (int i = 0; i < 10; i++) out[i] += s[j] * w1[j][i];
}
"""
INTEGERS = r"""
#include "net.c"
#include <stdio.h>
static net_state state;
static int32_t out[10];
"""
FLAGS = "-O2", "-O3"
RUNS = 5
"""The least time of so many runs counts, because other programs can only slow a run down."""
MAIN = r"""
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
int main(void) {
    static TYPE x[100 * 20][784];
    for (int t = 0; t < 2000; t++)
        for (int j = 0; j < 784; j++) { int n; if (scanf("%d", &n) != 1) return 1; x[t][j] = n; }
    clock_t start = clock();
    for (int k = 0; k < REPEATS; k++) for (int t = 0; t < 2000; t++) { STEP; }
    printf("%g %d\n", 1e6 * (clock() - start) / CLOCKS_PER_SEC / (2000.0 * REPEATS), (int)(SIZE));
    return 0;
}
"""


class Program(NamedTuple):
    """A program in C of the network. Each weight is a number of the type ``weight``."""

    source: str
    inputs: str
    step: str
    state: str
    weight_bytes: int
    outputs_first: bool = False
    repeats: int = 100

    def main(self) -> str:
        text = MAIN.replace("TYPE", self.inputs).replace("STEP", self.step)
        return self.source + text.replace("REPEATS", str(self.repeats)).replace("SIZE", self.state)


FLOATS = "float", "step(x[t])", "sizeof v + sizeof out", 4
PROGRAMS = {
    "integers, event-driven": Program(INTEGERS, "int32_t", "net_step(&state, x[t], out)", "sizeof state", 1),
    "float32, event-driven": Program(NEURONS + EVENTS, *FLOATS),
    "float32, dense": Program(NEURONS + DENSE, *FLOATS, outputs_first=True, repeats=3),
}


def float_table(name: str, weight: np.ndarray) -> str:
    rows = ",".join("{" + ",".join(f"{x:.9g}f" for x in row) + "}" for row in weight)
    return f"static const float {name}[{len(weight)}][{weight.shape[1]}] = {{{rows}}};"


def programs() -> list[dict[str, Any]]:
    """Bytes and microseconds of a step of each program, by the flags of the compiler."""
    data = mnist(0)
    first = next(iter(data.train.batches(100, 0)))
    spikes = data.encode(first.x, jax.random.key(98))
    network = Network.init(jax.random.key(0), spikes, (256, 10), LIF_CELL, LeakyReadout(0.9))
    network = train(network, data, 3, 2e-3, 0, 1.0)
    integers, _ = quantize(network, "fixed", spikes)
    text = "\n".join(" ".join(map(str, row)) for row in np.asarray(spikes, int).swapaxes(0, 1).reshape(-1, 784))
    weights = [np.asarray(layer.weight) for layer in network.layers.values()]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        to_c(integers, folder / "net")
        for (label, program), flag in itertools.product(PROGRAMS.items(), FLAGS):
            tables = [float_table(f"w{k}", w.T if program.outputs_first else w) for k, w in enumerate(weights)]
            (folder / "weights.h").write_text("\n".join(tables))
            (folder / "main.c").write_text(program.main())
            subprocess.run(["cc", "-std=c99", flag, "main.c", "-o", "main"], cwd=folder, check=True)
            runs = [
                subprocess.run([folder / "main"], input=text, text=True, capture_output=True, check=True)
                for _ in range(RUNS)
            ]
            times, states = zip(*(run.stdout.split() for run in runs), strict=True)
            rows.append(
                {
                    "data": "c",
                    "target": label,
                    "flags": flag,
                    "weights, bytes": sum(w.size for w in weights) * program.weight_bytes,
                    "state, bytes": int(states[0]),
                    "us per step": min(map(float, times)),
                    "active inputs": float((np.asarray(spikes) != 0).mean()),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    keep_memory()
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help="some of " + ",".join([*DATA, "c"]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    options = parser.parse_args()
    names = chosen(dict.fromkeys([*DATA, "c"]), options.only)
    rows = []
    for name, target in PAIRS:
        if name not in names:
            continue
        runs = [measure(name, target, tuple(options.bits), seed) for seed in range(options.seeds)]
        for parts in zip(*runs, strict=True):
            mean = {
                key: statistics.mean(part[key] for part in parts)
                for key in ("float", "quantized", "trained on", "zeros")
            }
            rows.append(
                {"data": name, "target": target, "bits": parts[0]["bits"], **mean}
                | {"worst": min(p["trained on"] - p["float"] for p in parts)}
                | {"replay equal": all(p["equal"] and p["replay"] == p["trained on"] for p in parts)}
            )
    rows += programs() if "c" in names else []
    report(rows, options.json)


if __name__ == "__main__":
    main()
