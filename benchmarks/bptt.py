"""Backpropagation through time: time and memory of one training step of a recurrent network.

Inputs of 700 channels, recurrent leaky integrate-and-fire layers, a leaky readout of 20; batch 64, float32, gradients
of all weights, also through the reset. `plain` is an ordinary scan with a `custom_jvp` spike, `chunked` is the mode
exact with products of 25 steps, and each peer is the plain scan with that library's spike, whose slope is the same
formula (that of spyx is lower by a constant). All run in turn within each round; a time is the ratio to `plain` in the
same round, temporary memory is that of the compiled program, in arrays of one float32 for each step, example, neuron
and layer. `grad_error` is the distance to the gradient of `plain`, relative, of all weights together.

Peers also run in torch, uncompiled, if it is installed: `_torch_peers.py` says what each is. Their `temp_units` are
what they keep for the backward pass, each storage once and without the arguments. Torch allocates little more than
that at its peak, but raises the process's memory by up to three times as much, which `--rss` shows.

    python benchmarks/bptt.py --sizes 256x100,1024x250 --json FILE
    python benchmarks/bptt.py --sizes 512x100 --depth 3 --peers
    python benchmarks/bptt.py --sizes 128x100,1024x100 --unroll 1,2,4,8 --json FILE
    python benchmarks/bptt.py --conv 8,32,100 --peers --json FILE

`--conv` takes a convolutional network instead over so many steps: `_convolutional.py` says what its variants are. Times
are ratios to `alone`; those that have convolutions in a plain loop are run once, over the first number of steps alone.

`--rss VARIANT` runs one variant of the first size alone and prints by how much it raised the peak of the process's
memory: `--sizes 1024x10000 --batch 16 --rss recompute`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import _convolutional
import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, interleave, keep_memory, ratio, report

from spikegrad import LIF, Arctan, Backward, Layer, LeakyReadout, Network

INPUTS, CLASSES, DECAY = 700, 20, 0.95
ALPHA = 1.0  # of the slope alpha / 2 / (1 + (pi / 2 * alpha * x)**2), which every contender has


@jax.custom_jvp
def spike(x):
    return (x >= 0).astype(x.dtype)


@spike.defjvp
def _spike_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return spike(x), ALPHA / 2 / (1 + (jnp.pi / 2 * ALPHA * x) ** 2) * dx


def peers() -> dict[str, Callable]:
    """Spikes of the other libraries that are installed."""
    found: dict[str, Callable] = {}
    try:
        import braintools.surrogate  # noqa: PLC0415

        found["braintools"] = braintools.surrogate.Arctan(ALPHA)
    except ImportError:
        pass
    try:
        import spyx.axn  # noqa: PLC0415

        found["spyx"] = spyx.axn.arctan(ALPHA / 2)
    except ImportError:
        pass
    try:
        import jaxpike.surrogate  # noqa: PLC0415

        found["jaxpike"] = jaxpike.surrogate.ATan(ALPHA)
    except ImportError:
        pass
    return found


def torch_peers(args) -> dict[str, Callable]:
    """Training steps of torch and those of its libraries that are installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import _torch_peers  # noqa: PLC0415

    return _torch_peers.steps(*args, DECAY, ALPHA)


def cross_entropy(potentials, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(potentials.mean(0)), labels[:, None], 1).mean()


def plain(weights, inputs, labels, fire):
    hidden, readout = weights

    def step(carry, x):
        states, r = carry
        new = []
        for (w, recurrent), (v, s) in zip(hidden, states, strict=True):
            u = DECAY * v + (x @ w + s @ recurrent)
            x = fire(u - 1)
            new.append((u - x, x))
        r = DECAY * r + x @ readout
        return (new, r), r

    batch = inputs.shape[1]
    zeros = [(jnp.zeros((batch, len(recurrent))),) * 2 for _, recurrent in hidden]
    return cross_entropy(jax.lax.scan(step, (zeros, jnp.zeros((batch, CLASSES))), inputs)[1], labels)


def ours(weights, inputs, labels, **options):
    hidden, readout = weights
    layers = [Layer(w, LIF(DECAY, 1.0, Arctan(ALPHA)), recurrent) for w, recurrent in hidden]
    network = Network([*layers, Layer(readout, LeakyReadout(DECAY))])
    return cross_entropy(network(inputs, **options)[1], labels)


def variants(steps: int, with_peers: bool, unrolled: tuple[int, ...] = ()) -> dict[str, Callable]:
    found = {"plain": functools.partial(plain, fire=spike)}
    if unrolled:
        for n, mode in itertools.product(unrolled, ("exact", "8-bit", "recompute")):
            found[f"{mode}, unroll={n}"] = functools.partial(ours, backward=Backward(mode, unroll=n))
        return found
    for mode in ("exact", "half", "8-bit", "recompute"):
        found[mode] = functools.partial(ours, backward=mode)
    found["chunked"] = functools.partial(ours, backward=Backward(chunk=min(25, steps)))
    if with_peers:
        found |= {name: functools.partial(plain, fire=fire) for name, fire in peers().items()}
    return found


def data(neurons: int, steps: int, batch: int, depth: int):
    """Weights, random spikes as inputs, and labels; currents are in the order of the threshold."""
    rng = np.random.default_rng(0)
    sizes = [INPUTS] + [neurons] * depth
    matrix = lambda n, m, scale: jnp.asarray(rng.normal(0, scale, (n, m)), jnp.float32)  # noqa: E731
    hidden = [
        (matrix(n, m, 0.06 if i == 0 else 1.5 / n**0.5), matrix(m, m, 0.5 / m**0.5))
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    ]
    weights = hidden, matrix(neurons, CLASSES, 0.05)
    inputs = np.empty((steps, batch, INPUTS), np.float32)
    for now in inputs:  # no more than one copy at a time, for the sake of the peak
        now[:] = rng.random(now.shape, np.float32) < 0.1
    return weights, jnp.asarray(inputs), jnp.asarray(rng.integers(0, CLASSES, batch))


def norm(tree) -> float:
    return float(jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree))))


CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak() -> float:
    """MB that this process had resident at most. Linux only."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def compile_(fun, args):
    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(fun)).lower(*args).compile()
    return compiled, time.perf_counter() - start


def recurrent(neurons: int, steps: int, batch: int, depth: int, rounds: int, with_peers: bool, unrolled) -> list[dict]:
    """Rows of one size of the recurrent network."""
    args = data(neurons, steps, batch, depth)
    others = torch_peers(args) if with_peers else {}
    unit = steps * batch * neurons * 4 * depth
    rows = measure(variants(steps, with_peers, unrolled), args, unit, rounds, others)
    return [{"variant": name, "size": f"{neurons}x{steps}", "depth": depth} | row for name, row in rows.items()]


def convolutional(steps: int, batch: int, rounds: int, with_peers: bool, slow_too: bool) -> list[dict]:
    """Rows of one number of steps of the convolutional network."""
    found = _convolutional.variants(DECAY, ALPHA, spike, with_peers and importlib.util.find_spec("jaxpike") is not None)
    args = _convolutional.data(steps, batch)
    unit = steps * batch * _convolutional.neurons() * 4
    slow = {name: found.pop(name) for name in _convolutional.SLOW if name in found}
    rows = measure(found, args, unit, rounds, slow=slow, run_slow=slow_too)
    return [{"variant": name, "size": f"conv x{steps}", "depth": 3} | row for name, row in rows.items()]


def measure(found, args, unit, rounds, others=None, slow=None, run_slow=False) -> dict[str, dict]:
    """A row for each variant. The first is the one that the others are compared with.

    ``others`` are run as they are and not compiled; ``slow`` ones are compiled, and run once or not at all.
    """
    others, slow = others or {}, slow or {}
    compile_(functools.partial(plain, fire=spike), data(2, 2, 1, 1))  # JAX's own start
    compiled = {name: compile_(fun, args) for name, fun in {**found, **slow}.items()}
    temporary = {name: run.memory_analysis().temp_size_in_bytes for name, (run, _) in compiled.items()}
    temporary |= {name: step.saved() for name, step in others.items()}
    steps = {name: (lambda run=run: jax.block_until_ready(run(*args))) for name, (run, _) in compiled.items()} | others
    seconds = interleave({name: step for name, step in steps.items() if name not in slow}, rounds)
    first = next(iter(found))
    _, reference = steps[first]()
    rows = {}
    for name, step in steps.items():
        row = rows[name] = {
            "temp_units": temporary[name] / unit,
            "compile_ratio": compiled[name][1] / compiled[first][1] if name in compiled else "",
        }
        if name in slow and not run_slow:
            continue
        start = time.perf_counter()
        loss, gradient = step()
        spread = ratio(seconds.get(name) or [time.perf_counter() - start] * rounds, seconds[first])
        row |= {"time_ratio": spread["ratio"], "min": spread["min"], "max": spread["max"]}
        row |= {
            "loss": float(loss),
            "grad_norm": norm(gradient),
            "grad_error": norm(jax.tree.map(jnp.subtract, gradient, reference)) / norm(reference),
        }
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", default="256x100,1024x250", help="neurons x steps, default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="default %(default)s")
    parser.add_argument("--depth", type=int, default=1, help="recurrent layers, default %(default)s")
    parser.add_argument("--unroll", metavar="N", help="the engine alone, its loops unrolled so often, 1,2,4,8 say")
    parser.add_argument("--conv", metavar="STEPS", help="the convolutional network over so many steps, 8,32,100 say")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    parser.add_argument("--peers", action="store_true", help="also the other libraries that are installed")
    parser.add_argument("--rss", metavar="VARIANT", help="the peak memory of one variant alone")
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    if options.rss:
        neurons, steps = sizes[0]
        args = data(neurons, steps, options.batch, options.depth)
        run = variants(steps, True).get(options.rss)
        step = functools.partial(compile_(run, args)[0], *args) if run else torch_peers(args)[options.rss]
        CLEAR.write_text("5")  # the peak starts again, from what is resident now
        before = peak()
        loss, gradient = jax.block_until_ready(step())
        after = peak()
        row = {"variant": options.rss, "size": options.sizes, "peak_MB": after, "rise_MB": after - before}
        report([row | {"loss": float(loss), "grad_norm": norm(gradient)}], options.json)
        return
    keep_memory()
    unrolled = tuple(map(int, options.unroll.split(","))) if options.unroll else ()
    rows = []
    if options.conv:
        for n, steps in enumerate(map(int, options.conv.split(","))):
            rows += convolutional(steps, options.batch, options.rounds, options.peers, slow_too=n == 0)
    else:
        for neurons, steps in sizes:
            rows += recurrent(neurons, steps, options.batch, options.depth, options.rounds, options.peers, unrolled)
    report(rows, options.json)


if __name__ == "__main__":
    main()
