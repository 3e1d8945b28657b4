"""A trained network as a file that needs neither this library nor its Python
code: ``jax.export``.

Two programs are saved. One makes a step, for a stream: states and inputs of one
step in, states and outputs out. The other runs a whole sequence. The number of
examples is left open in both, and the number of steps in the second. They are
made for several platforms, whichever they are made on. Run with ``python
examples/export_network.py``.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.export  # not part of ``import jax``
import jax.numpy as jnp
import plain_jax
import task

from spikegrad import Layer, LeakyReadout, Network

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def trained():
    """The network of ``plain_jax.py`` after a few updates, its weights
    constants within it."""
    weights = task.initial_weights()
    for _ in range(10):
        _, weights = plain_jax.train_step(weights, *task.data())
    *hidden, last = weights
    return Network(
        [
            *(Layer(w, plain_jax.hidden) for w in hidden),
            Layer(last, LeakyReadout(0.9)),
        ]
    )


def programs(network):
    """The step and the sequence, exported."""
    steps, examples = jax.export.symbolic_shape("steps, examples")
    inputs = jax.ShapeDtypeStruct((examples, task.SIZES[0]), jnp.float32)
    states = dict(jax.eval_shape(network.initial_state, inputs))
    sequence = jax.ShapeDtypeStruct((steps, *inputs.shape), jnp.float32)

    # a plain dict of states: a file with the mapping of a network needs this
    # library
    def step(states, inputs):
        states, out = network.step(states, inputs)
        return dict(states), out

    # a loop over steps whose number is open; a call of the network itself wants
    # it known
    def run(sequence):
        return jax.lax.scan(
            network.step, network.initial_state(sequence[0]), sequence
        )[1]

    def export(function, *of):
        return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*of)

    return {
        "step": export(step, states, inputs),
        "sequence": export(run, sequence),
    }


def main(fast: bool = False):
    network, (spikes, labels) = trained(), task.data()
    spikes = spikes[:, :8] if fast else spikes
    with TemporaryDirectory() as folder:
        for name, program in programs(network).items():
            Path(folder, name).write_bytes(program.serialize())
        # elsewhere: the files and JAX are all that is needed
        step, sequence = (
            jax.export.deserialize(bytearray(Path(folder, name).read_bytes()))
            for name in ("step", "sequence")
        )
    potentials = sequence.call(spikes)
    states = dict(network.initial_state(spikes[0]))
    for inputs in spikes:
        states, out = step.call(states, inputs)
    examples = spikes.shape[1]
    print(f"{len(spikes)} steps of {examples} examples, {sequence.platforms}")
    right = potentials.mean(0).argmax(-1) == labels[:examples]
    print(f"accuracy {right.mean():.0%}")
    return network, spikes, potentials, out


if __name__ == "__main__":
    main()
