"""Random integer networks of images in every mode, beside loops of integers, the replay, a file and the program in C.

    python benchmarks/random_image_networks.py --json FILE
    python benchmarks/random_image_networks.py --count 5 --modes exact scan

The networks of ``tests/image_networks.py``: convolutions with strides, paddings, dilations and groups, channels first
or last, sums, averages and maxima of windows, joins that add or concatenate, delays, feedback, adaptive and refractory
cells, parameters and scales for each channel, weights of 2 to 12 bits. ``quantize`` makes the integers of a graph.
Then it has several draws: its weights in another order and with other signs, and other inputs. Each draw is a network
that runs in each mode as in training, with the residuals of ``jax.vjp``, by the replay, from a file, and as a program
in C that each installed compiler builds with sanitizers. A row counts the networks, and those whose outputs of all
layers equal those of the loops. The table grows with each graph, which takes about half a minute of one processor.
"""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, report

from spikegrad.integers import Fixed, load, replay, save
from spikegrad.network.engine._modes import MODES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import integer_networks as reference
from image_networks import Images

DRAWS = 3
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]


def drawn(network: Any, rng: np.random.Generator) -> Any:
    """Return the network with its weights in another order and with other signs."""

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, Fixed):
            return leaf
        values = rng.permutation(np.ravel(leaf.value)) * rng.choice([-1, 1, 1], np.size(leaf.value))
        return leaf._replaced(value=jnp.asarray(values.reshape(leaf.shape), jnp.float32))

    return jax.tree.map(change, network, is_leaf=lambda x: isinstance(x, Fixed))


@functools.partial(jax.jit, static_argnums=2)
def call(network: Any, spikes: jax.Array, mode: str) -> Any:
    # The second result has the residuals, so nothing of the mode is removed.
    return jax.vjp(lambda network: network(spikes, backward=mode), network)


def is_equal_in_c(network: Any, images: Images, expected: dict[str, np.ndarray], folder: Path, compiler: str) -> bool:
    flat = {name: x.reshape(*x.shape[:2], -1) for name, x in expected.items()}
    inputs = images.user.reshape(*images.user.shape[:2], -1)
    try:
        reference.check_c(network, inputs, flat, folder, compiler=compiler)
    except AssertionError:
        return False
    return True


def runs_of(network: Any, images: Images, modes: list[str]) -> dict[str, bool]:
    """Return the runs of a network, and if each equals the loops."""
    layers = network.layers
    expected = images.run_apart(layers)
    equal = functools.partial(images.is_equal, layers, expected=expected)
    runs = {"replay": equal(replay(network, images.user))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.json"
        save(network, file)
        runs["file"] = equal(replay(load(file), images.user))
        for compiler in COMPILERS:
            runs[compiler] = is_equal_in_c(network, images, expected, Path(folder), compiler)
    spikes = jnp.asarray(images.user, jnp.float32)
    for mode in modes:
        runs[mode] = equal(call(network, spikes, mode)[0])
    return runs


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--count", type=int, default=100, help="number of graphs")
    parser.add_argument("--draws", type=int, default=DRAWS, help="networks of a graph")
    parser.add_argument("--modes", nargs="*", default=[*MODES])
    options = parser.parse_args()
    equal: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.count):
        images = Images(seed)
        network, _ = images.quantized(images.network())
        for draw in range(options.draws):
            if draw:
                network = drawn(network, images.rng)
                images.draw_spikes()
            runs = runs_of(network, images, options.modes)
            equal.update({name: int(result) for name, result in runs.items()})
            if not all(runs.values()):
                print(f"graph {seed}, draw {draw}:", runs, flush=True)
        jax.clear_caches()
        # After each graph, because a run may be stopped.
        graphs = seed + 1 - options.first
        networks = graphs * options.draws
        rows = [
            {"run": name, "graphs": graphs, "networks": networks, "equal": number} for name, number in equal.items()
        ]
        report(rows, options.json)


if __name__ == "__main__":
    main()
