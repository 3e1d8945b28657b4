"""ReLU networks on 5,000 MNIST images, converted to spiking networks, without and with further training.

    python benchmarks/relu.py --json FILE

`dense` is 784-256-256-10, converted at 2, 4 and 8 steps without training. `convolutional` has two layers of 3 × 3
convolutions, batch normalization and average pooling. It is converted at 4 steps, trained for 3 more epochs, and
compared with the same spiking network from drawn weights, which normalizes its currents over the batch and all steps.
Columns are accuracies on 1,000 held-out images. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, chosen, report

from spikegrad import LIF, Cell, Join, Layer, LeakyReadout, Network
from spikegrad.conversion import to_spiking
from spikegrad.data import load
from spikegrad.network import fold_normalization
from spikegrad.neurons import Relu
from spikegrad.training import combine, fit, partition

DENSE, CHANNELS, CLASSES, SIZE = (784, 256, 256, 10), (1, 8, 16), 10, 28
BATCH, MEASURED = 100, 500
EPOCHS = {"dense": 20, "convolutional": 10}
MORE_EPOCHS = 3
RATE, RATE_OF_CONVERTED = 2e-3, 5e-4

Build = Callable[[Any], Network]


def images(x: Any, shape: tuple[int, ...]) -> jax.Array:
    """Examples as one time step of images or of features, ``(1, batch, ...)``."""
    return jnp.asarray(x, jnp.float32).reshape(1, -1, *shape)


def logits(network: Network, x: jax.Array, steps: int) -> jax.Array:
    return network(jnp.broadcast_to(x, (steps, *x.shape[1:])))[1].mean(0)


def trained(build: Build, start: Any, data: Any, shape: tuple[int, ...], steps: int, epochs: int, rate: float,
            seed: int) -> Any:  # fmt: skip
    """The parameters after some epochs of Adam, whose rate falls to 0."""
    batches = data.batches(BATCH, seed=seed)
    schedule = optax.cosine_decay_schedule(rate, epochs * len(batches))

    def loss(parameters, batch, key):
        outputs = logits(build(parameters), images(batch.x, shape), steps)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.y).mean(), {}

    adam, key = optax.adam(schedule), jax.random.key(seed)
    return fit(loss, start, batches, optimizer=adam, key=key, epochs=epochs).trainable


def accuracy(network: Network, test: Any, shape: tuple[int, ...], steps: int) -> float:
    outputs = jax.jit(lambda x: logits(network, x, steps))(images(test.x, shape))
    return float((np.asarray(outputs).argmax(1) == test.y).mean())


def dense(parameters: list) -> Network:
    *hidden, (weight, bias) = parameters
    layers = [Layer(w, Relu(), bias=b) for w, b in hidden]
    return Network([*layers, Layer(weight, LeakyReadout(0.0), bias=bias)])


def measure_dense(data: Any, seed: int, epochs: int) -> list[dict[str, Any]]:
    he, shape = jax.nn.initializers.he_normal(), DENSE[:1]
    keys = jax.random.split(jax.random.key(seed), len(DENSE) - 1)
    sizes = itertools.pairwise(DENSE)
    start = [(he(key, (n, m)), jnp.zeros(m)) for key, (n, m) in zip(keys, sizes, strict=True)]
    network = dense(trained(dense, start, data.train, shape, 1, epochs, RATE, seed))
    test, some = data.test.as_batch(), data.train.subset(np.arange(MEASURED)).as_batch()
    rows = [{"network": "dense", "seed": seed, "steps": 1, "kind": "ReLU", "test": accuracy(network, test, shape, 1)}]
    for steps in (2, 4, 8):
        spiking = to_spiking(network, images(some.x, shape), steps)
        found = accuracy(spiking, test, shape, steps)
        rows.append({"network": "dense", "seed": seed, "steps": steps, "kind": "converted", "test": found})
    return rows


def pooled(x: jax.Array) -> jax.Array:
    """Means over 2 × 2 pixels, ``(batch, channels, height, width)``."""
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4


def convolve(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.conv(x, kernel, (1, 1), "SAME")


def convolve_pooled(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return convolve(kernel, pooled(x))


def classify(weight: jax.Array, x: jax.Array) -> jax.Array:
    return pooled(x).reshape(len(x), -1) @ weight


FUNCTIONS = convolve, convolve_pooled


def normalized(parameters: dict, cell: Cell) -> Network:
    """A network that normalizes over the batch and all steps. Its states contain these statistics."""
    nodes: dict[str, Any] = {}
    for n, (function, layer) in enumerate(zip(FUNCTIONS, parameters["layers"], strict=True)):

        def norm(x, function=function, layer=layer):
            steps, batch = x.shape[:2]
            currents = function(layer["kernel"], x.reshape(-1, *x.shape[2:]))
            mean, var = currents.mean((0, 2, 3)), currents.var((0, 2, 3))
            scale = layer["gain"] / jnp.sqrt(var + 1e-5)
            currents = (currents - mean[:, None, None]) * scale[:, None, None] + layer["shift"][:, None, None]
            return currents.reshape(steps, batch, *currents.shape[1:]), {"mean": mean, "var": var}

        source = f"layer {n - 1}" if n else "input"
        nodes |= {f"norm {n}": Join(norm, of=source, over_time=True), f"layer {n}": Layer(None, cell)}
    readout = jax.tree_util.Partial(classify, parameters["weight"])
    return Network(nodes | {"out": Layer(readout, LeakyReadout(0.0), bias=parameters["bias"])})


def folded(parameters: dict, cell: Cell, x: jax.Array) -> Network:
    """The network without normalization, with the statistics of these inputs."""
    states, _ = jax.jit(normalized(parameters, cell))(x)
    layers = []
    for n, (function, layer) in enumerate(zip(FUNCTIONS, parameters["layers"], strict=True)):
        kernel, bias = fold_normalization(
            layer["kernel"], gain=layer["gain"], shift=layer["shift"], axis=0, **states[f"norm {n}"]
        )
        layers.append(Layer(jax.tree_util.Partial(function, kernel), cell, bias=bias[:, None, None]))
    readout = jax.tree_util.Partial(classify, parameters["weight"])
    return Network([*layers, Layer(readout, LeakyReadout(0.0), bias=parameters["bias"])])


def drawn(seed: int) -> dict:
    keys = iter(jax.random.split(jax.random.key(seed), 3))
    kernels = jax.nn.initializers.he_normal(in_axis=1, out_axis=0)
    layers = [
        {"kernel": kernels(next(keys), (m, n, 3, 3)), "gain": jnp.ones(m), "shift": jnp.zeros(m)}
        for n, m in itertools.pairwise(CHANNELS)
    ]
    features = CHANNELS[-1] * (SIZE // 4) ** 2
    weight = jax.nn.initializers.he_normal()(next(keys), (features, CLASSES))
    return {"layers": layers, "weight": weight, "bias": jnp.zeros(CLASSES)}


def measure_convolutional(data: Any, seed: int, epochs: int, steps: int = 4) -> list[dict[str, Any]]:
    shape, train = (1, SIZE, SIZE), functools.partial(trained, data=data.train, shape=(1, SIZE, SIZE), seed=seed)
    test, some = data.test.as_batch(), data.train.subset(np.arange(2 * MEASURED)).as_batch()
    examples, rows = images(some.x, shape), []

    def row(kind: str, network: Network, steps: int) -> None:
        found = accuracy(network, test, shape, steps)
        rows.append({"network": "convolutional", "seed": seed, "steps": steps, "kind": kind, "test": found})
        print(rows[-1], flush=True)

    relu = functools.partial(normalized, cell=Relu())
    network = folded(train(relu, drawn(seed), steps=1, epochs=epochs, rate=RATE), Relu(), examples)
    row("ReLU", network, 1)
    spiking = to_spiking(network, examples, steps)
    row("converted", spiking, steps)
    start, static = partition(spiking)
    more = train(lambda p: combine(p, static), start, steps=steps, epochs=MORE_EPOCHS, rate=RATE_OF_CONVERTED)
    row(f"converted, {MORE_EPOCHS} epochs", combine(more, static), steps)
    cell = LIF(1.0)
    scratch = train(functools.partial(normalized, cell=cell), drawn(seed), steps=steps, epochs=MORE_EPOCHS, rate=RATE)
    over_time = jnp.broadcast_to(examples, (steps, *examples.shape[1:]))
    row(f"from drawn weights, {MORE_EPOCHS} epochs", folded(scratch, cell, over_time), steps)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, and the accuracy of the ReLU network minus that of each seed."""
    found = []
    for name, steps, kind in dict.fromkeys((row["network"], row["steps"], row["kind"]) for row in rows):
        of_network = [row for row in rows if row["network"] == name]
        relu = {row["seed"]: row["test"] for row in of_network if row["kind"] == "ReLU"}
        seeds = {row["seed"]: row["test"] for row in of_network if (row["steps"], row["kind"]) == (steps, kind)}
        found.append(
            {"network": name, "kind": kind, "steps": steps, "seeds": len(seeds)}
            | {"test": float(np.mean([*seeds.values()])), "deviation": float(np.std([*seeds.values()]))}
            | {"below ReLU": [round(relu[seed] - test, 4) for seed, test in seeds.items()]}
        )
    return found


MEASURES = {"dense": measure_dense, "convolutional": measure_convolutional}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NETWORK,...", help="these networks alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="epochs of each ReLU network")
    options = parser.parse_args()
    data, rows = load("mnist5k"), []
    for name in chosen(MEASURES, options.only):
        for seed in range(options.seeds):
            rows += MEASURES[name](data, seed, options.epochs or EPOCHS[name])
    report(summary(rows), options.json)


if __name__ == "__main__":
    main()
