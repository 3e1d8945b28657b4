"""The command ``diagnose``, the issues of a run that does not learn, and synaptic operations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import optax

from .. import training
from .._files import write_atomically
from ..data import DataError, Sequences, Split
from ..diagnosis import Diagnosis, diagnose
from ..diagnosis.moves import (
    Move,
    ReplaceOptimizer,
    ScaleRate,
    Standardize,
    number,
)
from ..reports import cost_report
from . import runs, sources, tables, trainer
from .networks import NO_ENCODING, SAMPLE, Params, SpikingNetwork
from .options import of_run, output_file

SOUND = "potentials and gradients show no other issue. More epochs may help"
"""The message if :class:`Watch` finds no issue."""


def costs(network: SpikingNetwork, params: Params, source: Sequences) -> str:
    """Return the synaptic operations of the network per example, next to a dense network."""
    some = network.sampled(params, source)
    report = cost_report(some.network, some.inputs, key=some.key, mask=some.mask)
    cost = report.total
    n = report.examples
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
    lr: float,
    train: bool = False,
) -> Diagnosis:
    """Diagnose a network on some examples."""
    some = network.sampled(params, source)
    task = network.task

    # The loss of the training, so the gradients are those of the run.
    def loss(potentials: jax.Array) -> jax.Array:
        predictions = task.predictions(potentials, network.readout, some.mask)
        return task.loss(predictions, jnp.asarray(some.y), some.mask)

    diagnosis = diagnose(
        some.network,
        some.inputs,
        loss,
        # The rate of the first updates of a run. Its schedule falls from this rate.
        optimizer=optax.adam(lr),
        train=train,
        progress=tables.note if train else None,
        key=some.key,
        mask=some.mask,
    )
    # The command standardizes real recordings and scales images of packages, so only the values of
    # a file can be changed.
    # All sequences of a source have one dtype, so the first one decides.
    is_real = source.sequence(0).dtype.kind == "f"
    is_standardized = network.encoding == NO_ENCODING and is_real
    can_scale = source.name.endswith(".npz") and not is_standardized
    issues = []
    for issue in diagnosis.issues:
        if issue.kind == "unscaled" and not can_scale:
            continue
        fixes = tuple(_at_the_command(move, lr) for move in issue.fixes)
        issues.append(dataclasses.replace(issue, fixes=fixes))
    return dataclasses.replace(diagnosis, issues=tuple(issues))


@dataclasses.dataclass(frozen=True)
class PassRate(ScaleRate):
    """A change of the learning rate, whose text is the option of the command."""

    rate: float

    @property
    def text(self) -> str:
        return f"use --lr {number(self.rate)}"


class StandardizeFile(Standardize):
    """A change of the inputs, whose text is about the file of the user."""

    @property
    def text(self) -> str:
        return "save each channel of the data with mean 0 and standard deviation 1"


def _at_the_command(move: Move, lr: float) -> Move:
    """Return a change with the text for a user of the command."""
    # train has an optimizer of its own, and an option for its learning rate only.
    if isinstance(move, ReplaceOptimizer):
        # The value of this move is a learning rate. The value of ScaleRate is a factor of it.
        return PassRate(move.place, move.value / lr, move.value)
    if isinstance(move, ScaleRate):
        return PassRate(move.place, move.value, lr * move.value)
    if isinstance(move, Standardize):
        return StandardizeFile(move.place, move.value)
    return move


@dataclasses.dataclass
class Watch:
    """Issues of a run that does not learn. As a callback it prints them once, after an epoch.

    The initial parameters are diagnosed first, without training, because the run waits for it.
    """

    network: SpikingNetwork
    start: Params
    split: Split
    lr: float
    done: bool = False

    def issues(self, params: Params) -> list[str]:
        """Return the issues of the initial parameters, or else of these."""
        tables.note("diagnosing")
        # The cause of a silent network is easier to see before its weights have drifted.
        train = self.split.train
        # On the training set, as a test set must not lead to decisions.
        start = examine(self.network, self.start, train, self.lr)
        if start.issues:
            return [f"at the start, {issue}" for issue in start.issues]
        now = examine(self.network, params, train, self.lr)
        return [str(issue) for issue in now.issues]

    def __call__(self, now: training.Report) -> None:
        # A diagnosis takes seconds, and --quiet would not print it.
        if self.done or tables.NOTES.quiet or not now.epoch_ended:
            return
        task = self.network.task
        # Once, because a network that starts to learn late would print it after each epoch.
        if task.failure(now.epoch_metrics[task.metric], self.split):
            self.done = True
            for line in self.issues(now.state.trainable):
                tables.note(f"no learning in epoch {now.epoch}: {line}")


@click.command("diagnose")
@click.option("--initial", is_flag=True, help="Diagnose the initial weights.")
@of_run
@output_file(
    "Draw it to a .png, .svg or .pdf, or write all numbers to a .json.",
    *(".png", ".svg", ".pdf", ".json"),
)
def command(run: Path, data: str | None, initial: bool, output: Path | None) -> None:
    """Diagnose why a trained run does not learn.

    The network is trained for 60 updates on some of the examples, with and without changes, and
    scored on the others. RUN is the folder that train wrote, DATA as for predict. The table has for
    each layer: spikes per neuron and step, neurons that ever fire, spread and mean of the potential
    without spikes, the mean slope over its peak, the peak times the threshold, the gradient and the
    first update over the weights. Then follow the issues, with fixes as code, and a verdict.
    """
    saved = runs.read(run)
    network = saved.network
    params = saved.params
    scored, labelled = sources.load_to_score(data, saved.options, saved.data)
    # Without labels ``y`` is 0 for all examples, and the loss would pull the network to class 0.
    if not labelled:
        raise DataError(f"{scored.name} must have labels, because the loss needs them")
    if initial:
        # Not saved, but drawn again by the seed of the run.
        start = trainer.starts(network, saved.options.load().train)
        params = start(jax.random.key(saved.options.seed))
    diagnosis = examine(network, params, scored, saved.options.lr, train=True)
    weights = "at the start" if initial else "as trained"
    tables.say(
        f"{run}, weights {weights}, {min(SAMPLE, len(scored))} examples of {scored.name}",
        str(diagnosis),
    )
    if output is None:
        return
    if output.suffix == ".json":
        text = json.dumps(diagnosis.to_dict(), indent=1) + "\n"
        write_atomically(output, lambda stream: stream.write(text.encode()))
    else:
        tables.save_figure(diagnosis.plot(), output)
    tables.say(f"wrote {output}")
