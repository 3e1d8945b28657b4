"""Why a run does not learn: what train says of it, and the command that looks closer."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

from .. import training
from ..data import Data
from ..inspect.diagnosis import Diagnosis, diagnose
from ..inspect.diagnosis._report import HEADINGS, laid_out
from . import learning, outputs, runs, sources, tables
from .networks import NO_CODING, Params, SpikingNetwork

EXAMPLES = 128
"""So many tell as much as all."""


def examine(
    network: SpikingNetwork,
    params: Params,
    examples: tuple[Any, np.ndarray, np.ndarray | None],
    prepare: Callable[[jax.Array], jax.Array],
    lr: float | None = None,
    most: int = EXAMPLES,
) -> Diagnosis:
    """A diagnosis of some of the examples: values, labels, and lengths or None.

    With a learning rate, the first update is judged as well.
    """
    x, y, lengths = examples
    params = jax.tree.map(np.asarray, params)  # each of several processes looks for itself
    rows = sources.spaced(len(x), most)
    steps = None if lengths is None else jnp.asarray(lengths[rows])
    key = jax.random.key(0)
    layers, inputs, mask = network.taken_apart(params, prepare(jnp.asarray(x[rows])), key, steps)
    ends = jnp.full(len(rows), len(inputs)) if steps is None else steps

    def loss(potentials):
        last = potentials[ends - 1, jnp.arange(len(rows))]
        return learning.cross_entropy(network.logits(last, potentials, mask), jnp.asarray(y[rows])).mean()

    optimizer = None if lr is None else optax.adam(lr)
    return diagnose(layers, inputs, loss, optimizer=optimizer, mask=mask, mode=network.mode, key=network.spike_key(key))


def reasons(network: SpikingNetwork, start: Params, data: Data, lr: float) -> Callable[[Params], list[str]]:
    """A function that says why nothing is learnt: by what training began with, or else by what has become of it."""
    prepare = sources.preparation(isinstance(data, sources.Timed), data.low, data.high)
    look = functools.partial(examine, network, prepare=prepare)
    rows, lengths = sources.spaced(len(data.x_train), EXAMPLES), sources.lengths_of(data)[0]
    examples = data.x_train[rows], data.y_train[rows], None if lengths is None else lengths[rows]  # not all are held

    @functools.cache  # asked for more than once, and compiled each time
    def at_start() -> list[str]:
        return [f"at the start, {v}" for v in look(start, examples, lr=lr).verdicts]

    return lambda params: at_start() or [str(v) for v in look(params, examples).verdicts]


SOUND = "potentials and gradients show nothing else amiss: more epochs may help"
"""What there is to say where :func:`reasons` has none."""


class Watch:
    """A callback that says why, once, at the end of the first epoch in which nothing was learnt."""

    def __init__(self, why: Callable[[Params], list[str]], classes: int, quiet: bool) -> None:
        self.why, self.least, self.quiet, self.looked = why, tables.learnt(classes), quiet, False

    def __call__(self, now: training.Report) -> None:
        if self.quiet or self.looked or not now.epoch_ended or now.epoch_metrics["accuracy"] >= self.least:
            return
        self.looked = True
        out = tables.console(stderr=True)
        for line in self.why(now.state.trainable):
            out.print(f"nothing is learnt in epoch {now.epoch}: {line}", soft_wrap=True)


@contextmanager
def explained(why: Callable[[Params], list[str]]) -> Iterator[None]:
    """Say why training has diverged, before the error that ends it."""
    try:
        yield
    except training.DivergedError as error:
        for line in why(error.state.trainable):
            tables.console(stderr=True).print(line, soft_wrap=True)
        raise


def layers(rows: list[tuple[str, ...]], title: str, width: int) -> list[Table]:
    """The numbers of each layer, as wide as a screen."""
    return [_table(title, headings, cells) for headings, *cells in laid_out(rows, width, between=3)]


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for row in rows:
        table.add_row(*row)
    return table


@click.command("diagnose")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", metavar="[DATA]", required=False)
@click.option("--start", is_flag=True, help="Look at the weights that training began with, and at its first update.")
@click.option("--examples", default=EXAMPLES, type=click.IntRange(2), show_default=True, help="How many are looked at.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Draw it to a .png, .svg or .pdf, or write all numbers to a .json.",
)
@outputs.force
def command(run: Path, data: str | None, start: bool, examples: int, output: Path | None, force: bool) -> None:
    """Say why a saved run does not learn.

    RUN is the folder that train wrote, DATA as for predict. For each layer: spikes per neuron and step, neurons that
    never or always fire, the potential about its threshold (mean and deviation), the slope's half-width and the share
    of potentials within it, the mean slope over its peak, norms of the gradient in weights and currents, neurons
    without any gradient, and by which factor the gradient changes with each step back. Then what is wrong, and what
    helps.
    """
    saved = runs.load(run)
    source = saved.options.data if data is None else data
    if output is not None:
        outputs.check(output, (".png", ".svg", ".pdf", ".json"), force, reads=(run / runs.RECORD, Path(source)))
    found = runs.to_score(saved, source)
    if found[1] is None:
        raise runs.RunError(f"{source} has no labels, which the loss needs")
    options, about = saved.options, saved.data
    prepare = sources.preparation(options.coding == NO_CODING, about.low, about.high)
    params, lr = saved.params, None
    if start:
        trained_on = sources.load(options.data, options.seed, options.binning)
        params, lr = learning.starts(saved.network, trained_on)(jax.random.key(options.seed)), options.lr
    diagnosis = examine(saved.network, params, found, prepare, lr, examples)
    if output is not None and output.suffix == ".json":
        text = json.dumps(diagnosis.to_dict(), indent=1) + "\n"
        outputs.write(output, lambda stream: stream.write(text.encode()))
    elif output is not None:
        figure = diagnosis.plot()
        outputs.write(output, lambda stream: figure.savefig(stream, dpi=150, format=output.suffix[1:]))
    out = tables.console()
    weights = "at the start" if start else "as trained"
    title = f"{run}, weights {weights}, {min(examples, len(found[0]))} examples of {source}"
    for table in layers(diagnosis.rows(), title, out.width):
        out.print(table)
    for line in diagnosis.lines():
        out.print(line, soft_wrap=True)
    if output is not None:
        out.print(f"wrote {output}", soft_wrap=True)
