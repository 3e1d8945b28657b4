"""The diagnosis of runs that do not learn, for ``train`` and for the command ``diagnose``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from rich.table import Table

from .. import training
from ..data import Sequences
from ..inspect.diagnosis import Diagnosis, diagnose
from ..inspect.diagnosis._report import laid_out
from . import outputs, runs, streams, tables, trainer
from .networks import Params, SpikingNetwork, spike_key
from .options import Command, WholeRange
from .sources import examples, spaced

EXAMPLES = 128
"""More examples hardly change a diagnosis."""


def examine(
    network: SpikingNetwork,
    params: Params,
    source: Sequences,
    lr: float | None = None,
    most: int = EXAMPLES,
    train: bool = False,
) -> Diagnosis:
    """Diagnose a network on some of the examples. With a learning rate, include the first update."""
    x, y, lengths = examples(source, spaced(len(source), most))
    params = jax.tree.map(np.asarray, params)  # each process diagnoses separately
    key = jax.random.key(0)
    steps = None if lengths is None else jnp.asarray(lengths)
    layers, inputs, mask = network.taken_apart(params, network.prepare(jnp.asarray(x)), key, steps)
    ends = jnp.full(len(y), len(inputs)) if steps is None else steps
    # A function and arrays, so a second diagnosis of the network runs the same program.
    loss = Partial(_loss, Partial(network.logits), jnp.asarray(y), ends, mask)
    optimizer = None if lr is None else trainer.optimizer_of(lr, 1)
    return diagnose(
        layers,
        inputs,
        loss,
        optimizer=optimizer,
        mask=mask,
        mode=network.mode,
        key=spike_key(params, key),
        train=train,
    )


def _loss(
    logits: Callable[..., jax.Array], y: jax.Array, ends: jax.Array, mask: jax.Array | None, potentials: jax.Array
) -> jax.Array:
    last = potentials[ends - 1, jnp.arange(len(y))]
    return trainer.cross_entropy(logits(last, potentials, mask), y).mean()


def reasons(network: SpikingNetwork, start: Params, train: Sequences, lr: float) -> Callable[[Params], list[str]]:
    """Return a function that lists issues of the initial parameters. Without any, it lists issues of its argument.

    It does not train, because the run waits for it.
    """
    few = train.subset(spaced(len(train), EXAMPLES)).in_memory()  # does not keep all examples in memory

    @functools.cache  # may be called again, and compiles
    def at_start() -> list[str]:
        return [f"at the start, {v}" for v in examine(network, start, few, lr).issues]

    def why(params: Params) -> list[str]:
        try:
            return at_start() or [str(v) for v in examine(network, params, few).issues]
        except Exception as error:  # the diagnosis must not end training
            return [f"the diagnosis failed: {streams.brief(error)}"]

    return why


SOUND = "potentials and gradients show no other issue. More epochs may help"
"""The message if :func:`reasons` finds no issue."""


class Watch:
    """A callback that prints issues once, after the first epoch without learning."""

    def __init__(self, why: Callable[[Params], list[str]], classes: int, quiet: bool) -> None:
        self.why, self.least, self.quiet, self.looked = why, tables.learnt(classes), quiet, False

    def __call__(self, now: training.Report) -> None:
        if self.quiet or self.looked or not now.epoch_ended or now.epoch_metrics["accuracy"] >= self.least:
            return
        self.looked = True
        tables.note("diagnosing")
        out = tables.console(stderr=True)
        for line in self.why(now.state.trainable):
            out.print(f"no learning in epoch {now.epoch}: {line}", soft_wrap=True)


@contextmanager
def explained(why: Callable[[Params], list[str]], quiet: bool) -> Iterator[None]:
    """Print issues before the error of diverged training."""
    try:
        yield
    except training.DivergedError as error:
        tables.note("diagnosing", quiet)
        for line in why(error.state.trainable):
            tables.console(stderr=True).print(line, soft_wrap=True)
        raise


def layers(rows: list[tuple[str, ...]], title: str, width: int) -> list[Table]:
    """Return tables with the numbers of each layer, up to ``width`` columns wide."""
    found = []
    for headings, *cells in laid_out(rows, width, between=3):
        found.append(tables.table(title, headings[:1], headings[1:]))
        for row in cells:
            found[-1].add_row(*row)
    return found


@click.command("diagnose", cls=Command)
@click.option("--initial", is_flag=True, help="Diagnose the initial weights and the first update.")
@click.option("--examples", default=EXAMPLES, type=WholeRange(2), show_default=True, help="Number of examples.")
@outputs.of_run("Draw it to a .png, .svg or .pdf, or write all numbers to a .json.")
def command(run: Path, data: str | None, initial: bool, examples: int, output: Path | None, force: bool) -> None:
    """Diagnose why a trained run does not learn.

    With --initial, the network is also trained on the examples, to judge its issues and their fixes. RUN is the folder
    that train wrote, DATA as for predict. The tables have for each layer: spikes per neuron and step, neurons that
    never or always fire, the potential about its threshold (mean and standard deviation), the slope's half-width and
    the fraction of potentials within it, the mean slope over its peak. Then follow norms of the gradient in weights and
    currents, neurons without any gradient, and the factor of the gradient per step back. The last lines list issues and
    fixes.
    """
    saved = runs.read(run)
    source = saved.options.data if data is None else data
    if output is not None:
        outputs.check(output, (".png", ".svg", ".pdf", ".json"), force, reads=(run / runs.RECORD, Path(source)))
        if output.suffix != ".json":
            runs.require("matplotlib")
    found, labelled = runs.to_score(saved, source)
    if not labelled:
        raise runs.RunError(f"{source} must have labels, because the loss needs them")
    params, lr = runs.read_parameters(saved), None
    if initial:
        params = trainer.starts(saved.network, saved.options.load().train)(jax.random.key(saved.options.seed))
        lr = saved.options.lr
    tables.note("diagnosing")
    diagnosis = examine(saved.network, params, found, lr, examples, train=True)
    out = tables.console()
    weights = "at the start" if initial else "as trained"
    title = f"{run}, weights {weights}, {min(examples, len(found))} examples of {source}"
    for table in layers(diagnosis.rows(), title, out.width):
        out.print(table)
    for line in diagnosis.lines():
        out.print(line, soft_wrap=True)
    if output is None:
        return
    if output.suffix == ".json":
        text = json.dumps(diagnosis.to_dict(), indent=1) + "\n"
        outputs.write(output, lambda stream: stream.write(text.encode()))
    else:
        tables.note(f"drawing {output}")
        with outputs.drawing(output):
            outputs.write(output, outputs.drawn(diagnosis.plot(), output, 150))
    out.print(f"wrote {output}", soft_wrap=True)
