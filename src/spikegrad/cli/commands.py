"""The commands and their options."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from rich.table import Table

from .. import __version__
from .._surrogate import Surrogate
from ..neurons import LIF
from ..surrogates._measures import measure
from ..surrogates._registry import get, names
from ..training import Callback, DivergedError
from ..training._consensus import from_first
from . import allocator, diagnosis, learning, outputs, processes, runs, sources, streams, tables
from .networks import NO_CODING, Model, Params, count, init, without_spikes
from .options import (
    Options,
    RealRange,
    check_network,
    fitted,
    options_of,
    output_option,
    parse_surrogate,
    quiet_option,
    refuse_others,
    training_options,
    with_sources,
)
from .sweeping import sweep

_LIF = LIF()
_WIDE = 120
"""Columns from which on a surrogate takes one line of the list, and not two."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="spikegrad")
def command() -> None:
    """Train spiking networks with surrogate gradients, and look at surrogates.

    Exit codes: 0 done, 1 something failed on the way, 2 a wrong value, 130 Ctrl-C, 143 SIGTERM.
    """


@command.command(context_settings={"show_default": True})
@training_options
@click.option(
    "--surrogate",
    default=repr(_LIF.surrogate),
    callback=parse_surrogate,
    metavar="SPEC",
    help="Such as 'arctan(alpha=2)'.",
)
@click.option(
    "--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="Seed of the split, the weights and the order."
)
@click.option("--lr", default=2e-3, type=RealRange(0, min_open=True), help="Learning rate at the start; it falls to 0.")
@output_option
@click.option(
    "--checkpoint",
    default=1.0,
    type=RealRange(0),
    metavar="MINUTES",
    help="Time between checkpoints; a kill loses no more.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run that was interrupted or killed, with its options and the same result.",
)
@click.option("--baseline/--no-baseline", default=True, help="Also train a non-spiking network of the same size.")
@quiet_option
@processes.options
@click.pass_context
@with_sources
def train(  # noqa: PLR0915  (the order of a run, from its options to its files)
    context: click.Context,
    data: str,
    surrogate: Surrogate,
    output: Path | None,
    checkpoint: float,
    resume: Path | None,
    baseline: bool,
    quiet: bool,
    **rest: Any,
) -> int:
    """Train a spiking network and save it.

    Writes parameters.npz (weight_0, bias_0, ... of each layer), run.json (options, data, versions, results and learning
    curves), figure.png and, while it runs, metrics.jsonl (step, epoch, loss, accuracy, rates, learning rate, seconds).
    Ctrl-C ends training and keeps what was learnt so far, exit code 130; pressed twice, it ends at once. So does
    SIGTERM, exit code 143. Until a run has finished, it has checkpoints, and --resume goes on with it.

    \b
    Data:
      {sources}

    The documentation lists the keys of a file of one's own. The held-out
    examples are the test set where there is one, such as the published one
    in a folder. Elsewhere they are a fifth of each class, of randman a tenth,
    and of shd all of two speakers, drawn with the seed. They are never trained
    on, and nothing is chosen by them.

    \b
    Images go in over time by a coding of each value x, scaled to 0 to 1:
      current  the constant x at every step
      rate     a spike at each step with probability x
      latency  one spike, the earlier the greater x; none for 0

    Recordings go in as they are: events are counted in --steps of --bin
    milliseconds, real numbers are brought to mean 0 and deviation 1 in each
    channel. What shorter sequences are filled up with has no effect. Up to
    128 of them are measured, for weights at the start that make potentials
    fluctuate by a threshold.

    \b
    Time constants, --taus:
      lif        membrane
      synaptic   membrane,synapse
      adaptive   membrane,adaptation
    One more is that of the readout, by default the membrane's.
    """
    began = time.perf_counter()
    allocator.tune()
    runs.require("matplotlib")
    if resume is None:
        folder, options, loaded, record = from_first(
            lambda: _begin(options_of(context, data, surrogate=repr(surrogate), **rest), output, baseline)
        )
    else:
        refuse_others(context, ("resume", "checkpoint", "quiet", *processes.NAMES))
        folder, options, loaded, record = from_first(lambda: _go_on(resume))
    network = options.network(loaded.shape, loaded.classes)
    failures: list[str] = []

    def learn(network: Model, name: str, activity: str, start: Params, *callbacks: Callback) -> learning.Fit:
        with tables.progress(f"{name:7}", options.epochs, activity, quiet) as report:
            fit = learning.fit(
                network,
                start,
                loaded,
                name=name,
                **{setting: getattr(options, setting) for setting in _SETTINGS},
                report=report,
                stop=stop,
                folder=folder,
                minutes=checkpoint,
                identity={"options": record["options"], "data": record["data"]["training_sha256"]},
                callbacks=callbacks,
            )
        failures.extend(fit.failures)
        return fit

    key = jax.random.key(options.seed)
    start = learning.starts(network, loaded)(key)
    why = _diagnosed(diagnosis.reasons(network, start, loaded, options.lr))
    watch = diagnosis.Watch(why, loaded.classes, quiet)
    with runs.held(folder), processes.deferred() as stop:
        with diagnosis.explained(why):
            spiking = learn(network, "spiking", "firing", start, watch)
        record |= {"interrupted": spiking.interrupted, "results": {"spiking": _summary(spiking), "relu": None}}
        with _collected(failures):
            runs.save_parameters(folder, spiking.params)
            runs.save_record(folder, record)
        failures[:] = from_first(lambda: failures)  # it alone writes
        if not stop() and record["baseline"] and not failures:
            with _collected(failures):
                other = without_spikes(network)
                other_start = init(other.sizes, key, learning.gains(loaded)[1], other.recurrent)
                record["results"]["relu"] = _summary(learn(other, "ReLU", "active", other_start))
        record |= {"interrupted": bool(stop()), "finished": not stop() and not failures}
        record["seconds"] = sum(row["seconds"] for row in record["results"].values() if row)
        title = (
            f"{options.data}, {spiking.scores.accuracy(loaded.y_test):.1%} of {len(loaded.y_test):,} held-out examples "
            f"right, seed {options.seed}" + (", interrupted" if record["interrupted"] else "")
        )
        doubts = tables.warnings(record["results"]["spiking"], loaded.classes)
        doubts += tables.large_losses(record["results"], loaded.classes)
        # The rest looks at held-out examples alone. The figure is last: matplotlib takes memory that stays taken.
        loaded = dataclasses.replace(loaded, x_train=loaded.x_train[:0].copy())
        learning.forget_programs()
        reasons = why(spiking.params) if doubts or spiking.failures else []
        lines = [*doubts, *(reasons or [diagnosis.SOUND] * bool(doubts))]
        learning.forget_programs()
        with runs.drawing(folder, failures):
            from .figure import run_figure  # noqa: PLC0415  (it takes memory that training needs)

            figure = run_figure(network, get(options.surrogate), spiking.params, loaded, record["results"], title)
            runs.save(folder / runs.FIGURE, lambda stream: figure.savefig(stream, dpi=130, format="png"))
        with _collected(failures):
            runs.save_record(folder, record)
            if record["finished"] and jax.process_index() == 0:
                shutil.rmtree(folder / learning.CHECKPOINTS, ignore_errors=True)
    out = tables.console()
    for table in tables.results(record, options, loaded, count(network.sizes, network.recurrent)):
        out.print(table)
    for line in lines:
        out.print(f"warning: {line}", soft_wrap=True)
    if not doubts and not failures:
        out.print(f"nothing is amiss in accuracy and rates; spikegrad diagnose {folder} looks closer", soft_wrap=True)
    if record["interrupted"]:
        out.print(f"interrupted: what was learnt so far is kept; spikegrad train --resume {folder} goes on")
    tables.saved(out, folder, (runs.PARAMETERS, runs.RECORD, runs.FIGURE, learning.METRICS), began)
    for failure in failures:
        streams.fail(failure, 1)
    return 128 + stop() if stop() else 1 if failures else 0


_SETTINGS = ("epochs", "batch", "lr", "shift", "noise", "seed")


def _begin(options: Options, output: Path | None, baseline: bool) -> tuple:
    """Folder, options, data and record of a new run, after all that can be wrong with it has been looked for."""
    data = sources.load(options.data, options.seed, options.binning)
    options, doubts = fitted(options, data)
    network = options.network(data.shape, data.classes)
    check_network(network, data)
    size = count(network.sizes, network.recurrent)
    doubts += runs.check_resources(output or Path("runs"), options, data, size, checkpoints=3)
    for line in doubts:
        tables.console(stderr=True).print(f"warning: {line}", soft_wrap=True)
    record = runs.describe(options, data)
    record |= {"baseline": baseline, "finished": False, "interrupted": False, "results": {}}
    return runs.claim(output, record), options, data, record


def _go_on(folder: Path) -> tuple:
    """The same of a run that has not finished."""
    options, about, record = runs.read_record(folder)
    if runs.read_part(folder, runs.RECORD, record, None, runs.Stage).finished:
        raise runs.RunError(f"{folder} has finished: there is nothing to go on with")
    data = sources.load(options.data, options.seed, options.binning)
    runs.check_unchanged(folder, options.data, data, about)
    options, _ = runs.or_damaged(folder, lambda: fitted(options, data))
    network = options.network(data.shape, data.classes)
    runs.check_resources(folder, options, data, count(network.sizes, network.recurrent), checkpoints=3)
    return folder, options, data, record


def _diagnosed(why: Callable[[Params], list[str]]) -> Callable[[Params], list[str]]:
    """The reasons, or one line if the diagnosis itself fails: it must not end training."""

    def reasons(params: Params) -> list[str]:
        try:
            return why(params)
        except Exception as error:
            return [f"the diagnosis failed: {streams.brief(error)}"]

    return reasons


@contextmanager
def _collected(failures: list[str]) -> Iterator[None]:
    """A failure after which what was learnt is still to be shown."""
    try:
        yield
    except (DivergedError, OSError) as error:
        failures.append(str(error))


def _summary(fit: learning.Fit) -> dict[str, Any]:
    return {
        "held_out": fit.curves["held_out"][-1],
        "accuracy": fit.curves["accuracy"][-1],
        "loss": fit.curves["loss"][-1],
        "rates": fit.scores.rates,
        "silent": fit.scores.silent,
        "epochs": len(fit.curves["loss"]),
        "interrupted": fit.interrupted,
        "seconds": fit.seconds,
        "curves": fit.curves,
    }


command.add_command(sweep)


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", metavar="[DATA]", required=False)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write y_pred (m,) and logits (m, classes) to this .npz."
)
@outputs.force
def predict(run: Path, data: str | None, output: Path | None, force: bool) -> None:
    """Score data with a saved run.

    RUN is the folder that train wrote. DATA is what train takes: of the run's own data, and by default, what it has
    held out is scored, of other recordings the test set, or all where there is none. A .npz of your own may lack the
    labels y (m,), and images may come in one with x (m, ...). Values are scaled as those of the training data were.
    """
    saved = runs.load(run)
    source = saved.options.data if data is None else data
    if output is not None:
        outputs.check(output, (".npz",), force, reads=(run / runs.PARAMETERS, Path(source)))
    about, options = saved.data, saved.options
    x, y, lengths = runs.to_score(saved, source)
    if data is None and (y is None or runs.sha256(x, y, lengths) != about.held_out_sha256):
        tables.console(stderr=True).print(f"warning: {source} has changed since the run held examples out of it")
    runs.check_scoring(saved, len(x))
    prepare = sources.preparation(options.coding == NO_CODING, about.low, about.high)
    scores = learning.make_evaluator(saved.network, prepare)(saved.params, x, lengths)
    if not np.isfinite(scores.logits).all():
        raise runs.RunError(f"{run}: its answers to {source} are NaN or infinite")
    if output is not None:
        arrays = {"y_pred": scores.answers.astype(np.int32), "logits": scores.logits}
        outputs.write(output, lambda stream: np.savez(stream, **arrays))
    title = f"{source}: {len(x):,} examples, {run}"
    tables.console().print(tables.by_class(scores.answers, y, about.classes, title))


def _size(value: float) -> str:
    return "periodic" if np.isnan(value) else "unbounded" if np.isinf(value) else f"{value:.4g}"


@command.command("list")
def list_() -> None:
    """List every surrogate: formula, parameters with defaults, peak, area, half-width at half of the peak."""
    out = tables.console()
    narrow = out.width < _WIDE
    table = Table(show_lines=narrow)
    measures = ("peak", "area", "half-width")
    for heading in ("surrogate, slope and measures",) if narrow else ("name", "slope g(x)", "parameters", *measures):
        table.add_column(heading, justify="right" if heading in measures else "left")
    for name in names():
        surrogate = get(name)
        parameters = ", ".join(
            f"{p.name}={getattr(surrogate, p.name):g}" for p in signature(type(surrogate)).parameters.values()
        )
        found = measure(surrogate)
        shown = [_size(value) for value in (found.peak, found.area, found.half_width)]
        if narrow:
            line = ", ".join(f"{what} {value}" for what, value in zip(measures, shown, strict=True))
            table.add_row(f"{name}({parameters})\n{surrogate._formula}\n{line}")
        else:
            table.add_row(name, surrogate._formula, parameters, *shown)
    out.print(table)


@command.command()
@click.argument("surrogates", metavar="NAME...", nargs=-1, required=True, callback=parse_surrogate)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The picture: .png, .svg or .pdf.")
@outputs.force
def plot(surrogates: tuple[Surrogate, ...], output: Path, force: bool) -> None:
    """Draw surrogates side by side: step, primals and slopes.

    NAME is one that list prints, with parameters if you like: sigmoid 'arctan(alpha=2)'.
    """
    from ..inspect.plot import plot  # noqa: PLC0415  (only this command and train need matplotlib)

    outputs.check(output, (".png", ".svg", ".pdf"), force)
    figure = plot(*surrogates)
    outputs.write(output, lambda stream: figure.savefig(stream, dpi=200, format=output.suffix[1:]))
    tables.console().print(f"wrote {output}", soft_wrap=True)


command.add_command(diagnosis.command)
