"""The command ``diagnose``, the issues of a run that does not learn, and synaptic operations."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from .. import training
from .._files import write_atomically
from ..data import Sequences, Split
from ..diagnosis import Diagnosis, diagnose
from ..inspect import cost_report
from ..losses import reduce_time
from ..network import Network
from . import runs, sources, tables, trainer
from .networks import Params, SpikingNetwork, spike_key
from .options import of_run, output_file

EXAMPLES = 128
"""More examples hardly change a diagnosis or a mean cost."""
SOUND = "potentials and gradients show no other issue. More epochs may help"
"""The message if :class:`Watch` finds no issue."""


def _applied(
    network: SpikingNetwork, params: Params, source: Sequences, most: int
) -> tuple[Network, jax.Array, dict[str, Any], np.ndarray]:
    """Return layers with matrices as weights, examples over time, options of a call, and labels."""
    x, y, mask = sources.sample(source, most).as_batch()
    key = jax.random.key(0)
    params = jax.tree.map(np.asarray, params)  # each process computes separately
    inputs = network.inputs(jnp.asarray(x), key)
    mask = None if mask is None else jnp.asarray(mask)
    return Network(params), inputs, {"mask": mask, "key": spike_key(key)}, y


def costs(network: SpikingNetwork, params: Params, source: Sequences) -> str:
    """Return the synaptic operations of the network per example, next to a dense network."""
    layers, inputs, options, _ = _applied(network, params, source, EXAMPLES)
    report = cost_report(layers, inputs, **options)
    cost, n = report.total, report.examples
    # a spike costs an addition per connection, any other value a multiplication
    products = cost.graded.effective + cost.real.effective
    return (
        f"synaptic operations per example: {cost.synaptic_operations / n:,.0f} "
        f"({products / n:,.0f} multiplications), dense {cost.dense / n:,.0f}"
    )


def examine(
    network: SpikingNetwork,
    params: Params,
    source: Sequences,
    lr: float | None = None,
    most: int = EXAMPLES,
    train: bool = False,
) -> Diagnosis:
    """Diagnose a network on some examples. With a learning rate, include the first update."""
    layers, inputs, options, y = _applied(network, params, source, most)
    loss = Partial(Partial(_loss, network.readout), jnp.asarray(y), options["mask"])
    optimizer = None if lr is None else optax.adam(lr)
    progress = tables.note if train else None
    return diagnose(
        layers,
        inputs,
        loss,
        optimizer=optimizer,
        train=train,
        progress=progress,
        **options,
    )


def _loss(
    readout: str, y: jax.Array, mask: jax.Array | None, potentials: jax.Array
) -> jax.Array:
    return trainer.cross_entropy(reduce_time(potentials, readout, mask), y).mean()


class Watch:
    """Issues of a run that does not learn. As a callback it prints them once, after an epoch.

    The initial parameters are diagnosed first, without training, because the run waits for it.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        start: Params,
        split: Split,
        lr: float,
        quiet: bool,
    ) -> None:
        self.network, self.start, self.split, self.lr = network, start, split, lr
        self.quiet = self.done = quiet

    @functools.cached_property
    def issues_at_start(self) -> list[str]:
        diagnosis = examine(self.network, self.start, self.split.train, self.lr)
        return [f"at the start, {issue}" for issue in diagnosis.issues]

    def issues(self, params: Params) -> list[str]:
        """Return the issues of the initial parameters, or else of these."""
        tables.note("diagnosing", self.quiet)
        if self.issues_at_start:
            return self.issues_at_start
        return [
            str(issue)
            for issue in examine(self.network, params, self.split.train).issues
        ]

    def __call__(self, now: training.Report) -> None:
        least = tables.learnt(self.split.classes)
        if self.done or not now.epoch_ended or now.epoch_metrics["accuracy"] >= least:
            return
        self.done = True
        for line in self.issues(now.state.trainable):
            tables.note(f"no learning in epoch {now.epoch}: {line}")


@click.command("diagnose")
@click.option("--initial", is_flag=True, help="Diagnose the initial weights.")
@click.option(
    "--examples",
    default=EXAMPLES,
    type=click.IntRange(2),
    show_default=True,
    help="Number of examples.",
)
@of_run
@output_file(
    "Draw it to a .png, .svg or .pdf, or write all numbers to a .json.",
    *(".png", ".svg", ".pdf", ".json"),
)
def command(
    run: Path, data: str | None, initial: bool, examples: int, output: Path | None
) -> None:
    """Diagnose why a trained run does not learn.

    The network is trained for 60 updates on some of the examples, with and without changes, and
    scored on the others. RUN is the folder that train wrote, DATA as for predict. The table has for
    each layer: spikes per neuron and step, neurons that ever fire, spread and mean of the potential
    without spikes, the mean slope over its peak, the peak times the threshold, the gradient and the
    first update over the weights. Then follow the issues, with fixes as code, and a verdict.
    """
    saved = runs.read(run)
    source = data or saved.options.data
    scored, labelled = sources.load_to_score(source, saved.options, saved.data)
    if not labelled:
        raise runs.RunError(f"{source} must have labels, because the loss needs them")
    params = runs.read_parameters(saved)
    if initial:
        start = trainer.starts(saved.network, saved.options.load().train)
        params = start(jax.random.key(saved.options.seed))
    diagnosis = examine(
        saved.network, params, scored, saved.options.lr, examples, train=True
    )
    weights = "at the start" if initial else "as trained"
    tables.say(
        f"{run}, weights {weights}, {min(examples, len(scored))} examples of {source}"
    )
    tables.say(str(diagnosis))
    if output is None:
        return
    if output.suffix == ".json":
        text = json.dumps(diagnosis.to_dict(), indent=1) + "\n"
        write_atomically(output, lambda stream: stream.write(text.encode()))
    else:
        tables.note(f"drawing {output}")
        tables.save_figure(diagnosis.plot(), output, 150)
    tables.say(f"wrote {output}")
