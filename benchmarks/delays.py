"""Two tasks that need delays: networks with and without learned ones, five seeds each.

*Lag XOR*: of random bits, each step asks for the exclusive or of this bit and the one ten steps before. A network of
neurons without memory is told nothing of the latter. *Order of channels*: eight channels fire once each, one after the
other, in one of four orders, from a random step on. To neurons without memory, whose outputs are added over time, all
four are the same set of inputs.

Neurons forget everything from one step to the next (a decay of 0), so that only delays can help. Accuracies are those
on new data after the last update. Delays that were learned are rounded to whole steps before.

    python benchmarks/delays.py --json FILE
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, report

from spikegrad import LIF, Arctan, Delayed, Layer, LeakyReadout, Network, Window, bounded
from spikegrad.network import DelayKernel, rounded_delays
from spikegrad.training import ShrinkDelays, combine, fit, partition

LAG, STEPS = 10, 40
NEURON = LIF(0.0, surrogate=Arctan(2.0), reset="value")


def xor_batch(rng, examples):
    bits = rng.integers(0, 2, (STEPS, examples))
    return np.stack([bits, 1 - bits], -1).astype(np.float32), bits[LAG:] ^ bits[:-LAG]


def xor_network(seed, delay):
    rng = np.random.default_rng(seed)
    w, r, out = (
        jnp.asarray(rng.normal(0, s, shape), jnp.float32)
        for s, shape in ((1, (2, 32)), (0.25, (32, 32)), (0.2, (32, 2)))
    )
    recurrent = None if delay is None else Delayed(r, delay)
    return Network([Layer(w, NEURON, recurrent=recurrent, bias=jnp.zeros(32)), Layer(out, LeakyReadout(0.0))])


def xor_accuracy(seed, delay):
    rng = np.random.default_rng(seed + 100)
    trainable, static = partition(xor_network(seed, delay))

    def loss(trainable, batch, key):
        x, y = batch
        out = combine(trainable, static)(x)[1][LAG:]
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean(), {}

    batches = [xor_batch(rng, 32) for _ in range(500)]
    state = fit(loss, trainable, batches, optimizer=optax.adam(1e-2), key=jax.random.key(seed))
    x, y = xor_batch(rng, 1000)
    return float((combine(state.trainable, static)(x)[1][LAG:].argmax(-1) == y).mean())


CHANNELS, CLASSES, GAP, LONGEST, HIDDEN, UPDATES = 8, 4, 2, 16, 32, 600


def orders_batch(rng, orders, examples):
    labels = rng.integers(0, CLASSES, examples)
    starts = rng.integers(0, STEPS - GAP * CHANNELS - LONGEST + 2, examples)
    x = np.zeros((STEPS, examples, CHANNELS), np.float32)
    for place in range(CHANNELS):
        x[starts + GAP * place, np.arange(examples), orders[labels, place]] = 1
    return x, labels


def orders_network(seed, delays):
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(0, 0.8, (CHANNELS, HIDDEN)), jnp.float32)
    out = jnp.asarray(rng.normal(0, 0.2, (HIDDEN, CLASSES)), jnp.float32)
    if delays:
        start = bounded(jnp.asarray(rng.uniform(0.5, LONGEST - 0.5, w.shape), jnp.float32), 0, LONGEST)
        w = Window(DelayKernel(w, start, LONGEST + 1, width=jnp.asarray(LONGEST / 2)))
    return Network({"hidden": Layer(w, NEURON), "out": Layer(out, LeakyReadout(0.0))})


def orders_accuracy(seed, delays):
    rng = np.random.default_rng(seed + 200)
    orders = np.stack([rng.permutation(CHANNELS) for _ in range(CLASSES)])
    trainable, static = partition(orders_network(seed, delays))

    def loss(trainable, batch, key):
        x, y = batch
        out = combine(trainable, static)(x)[1].sum(0)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean(), {}

    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "delay" if ".delay" in jax.tree_util.keystr(path) else "weight", trainable
    )
    rates = {"delay": optax.adam(optax.cosine_decay_schedule(0.1, UPDATES)), "weight": optax.adam(1e-2)}
    batches = [orders_batch(rng, orders, 64) for _ in range(UPDATES)]
    state = fit(
        loss,
        trainable,
        batches,
        optimizer=optax.multi_transform(rates, lambda params: labels),
        key=jax.random.key(seed),
        callbacks=[ShrinkDelays(LONGEST / 2, 0.25, updates=UPDATES // 2)] if delays else [],
    )
    x, y = orders_batch(rng, orders, 2000)
    network = rounded_delays(combine(state.trainable, static))
    return float((network(x)[1].sum(0).argmax(-1) == y).mean())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    runs = {
        ("lag XOR", "no recurrence"): functools.partial(xor_accuracy, delay=None),
        ("lag XOR", "recurrence after 1 step"): functools.partial(xor_accuracy, delay=1),
        ("lag XOR", "recurrence after 10 steps"): functools.partial(xor_accuracy, delay=LAG),
        ("order of channels", "no delays"): functools.partial(orders_accuracy, delays=False),
        ("order of channels", "learned delays"): functools.partial(orders_accuracy, delays=True),
    }
    rows = []
    for (task, network), run in runs.items():
        if options.only not in f"{task}, {network}":
            continue
        found = [run(seed) for seed in range(options.seeds)]
        rows.append(
            {"task": task, "network": network, "mean": float(np.mean(found)), "min": min(found), "max": max(found)}
        )
    report(rows, options.json)


if __name__ == "__main__":
    main()
