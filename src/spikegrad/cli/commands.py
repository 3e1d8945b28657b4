"""The commands and their options."""

from __future__ import annotations

import dataclasses
import shutil
import time
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jax
import numpy as np

from .. import __version__
from .._surrogate import Surrogate
from ..data import Split
from ..surrogates._measures import measure
from ..surrogates._registry import get, names
from ..training import Callback
from ..training._consensus import from_first
from . import allocator, costs, diagnosis, outputs, processes, runs, tables, trainer
from .networks import NO_ENCODING, Params, SpikingNetwork, without_spikes
from .options import (
    Command,
    Options,
    RealRange,
    options_of,
    options_of_class,
    output_option,
    parse_surrogate,
    quiet_option,
    refuse_others,
    resume_option,
    with_sources,
)
from .sweeping import sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDE = 120
"""Columns of the terminal that fit a surrogate of the list in one line."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="spikegrad")
def command() -> None:
    """Train spiking networks with surrogate gradients, and compare surrogates.

    Exit codes: 0 done, 1 failure during the run, 2 invalid value, 130 Ctrl-C, 143 SIGTERM.
    """


@command.command(cls=Command, context_settings={"show_default": True})
@options_of_class(Options)
@output_option
@click.option(
    "--checkpoint",
    default=1.0,
    type=RealRange(0),
    metavar="MINUTES",
    help="Minutes between checkpoints. A kill loses at most this much.",
)
@resume_option("RUN", "Resume an interrupted run with its original options. The result is bit-identical.")
@click.option("--baseline/--no-baseline", default=True, help="Also train a non-spiking network of equal size.")
@quiet_option
@processes.options
@click.pass_context
@with_sources
def train(  # noqa: PLR0915  (the order of a run, from its options to its files)
    context: click.Context,
    output: Path | None,
    checkpoint: float,
    resume: Path | None,
    baseline: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Train a spiking network and save it.

    Writes parameters.npz (weight_0, bias_0, ... of each layer), run.json (options, data, versions, results and learning
    curves), figure.png and, in training, metrics.jsonl (step, epoch, loss, accuracy, rates, learning rate, seconds).
    Ctrl-C ends training and saves the results so far, with exit code 130. Pressed twice, it ends immediately. SIGTERM
    works like Ctrl-C, with exit code 143. An unfinished run has checkpoints, and --resume continues it.

    \b
    Data:
      {sources}

    The documentation lists the keys of a custom file. The test set is the
    published one if the data has one. Otherwise it is a fifth of each class,
    a tenth for randman, or all recordings of two speakers for shd, drawn with
    the seed. The test set is not used for training or for selection.

    \b
    Images are encoded over time, from values x scaled to 0 to 1:
      current  the constant x at every step
      rate     a spike at each step with probability x
      latency  one spike, the earlier the greater x, and no spike for x = 0

    Recordings are fed to the network without spike encoding. Events are
    counted in --steps of --bin milliseconds. Real numbers are shifted and
    scaled to mean 0 and standard deviation 1 in each channel. Padding of
    shorter sequences has no effect. Up to 128 recordings are measured, and
    the initial weights make potentials fluctuate by about a threshold.

    \b
    Time constants, --taus:
      lif        membrane
      synaptic   membrane,synapse
      adaptive   membrane,adaptation
    One more value sets the readout, by default the membrane's.
    """
    began = time.perf_counter()
    allocator.tune()
    runs.require("matplotlib")
    if resume is not None:
        refuse_others(context, ("resume", "checkpoint", "quiet", *processes.NAMES))

    def begin() -> tuple[runs.Run, Split]:
        before = None if resume is None else runs.read(resume)
        if before is not None and runs.read_part(before, None, runs.Stage).finished:
            raise runs.RunError(f"{resume} is already finished. Start a new run")
        options = options_of(context, **given) if before is None else before.options
        data = options.load()
        stage = {"baseline": baseline, "finished": False, "interrupted": False, "results": {}}
        return runs.Run.prepared(before, output, options, data, **stage), data

    run, data = from_first(begin)
    options, record, network = run.options, run.record, run.network
    test, classes = data.test, data.classes

    def learn(network: SpikingNetwork, name: str, activity: str, start: Params, *callbacks: Callback) -> trainer.Fit:
        with tables.progress(f"{name:7}", options.epochs, activity, quiet) as report:
            fit = trainer.fit(
                network,
                start,
                data,
                options,
                name=name,
                report=report,
                stop=stop,
                folder=run.folder,
                minutes=checkpoint,
                identity={"options": record["options"], "data": record["data"]["training_sha256"]},
                callbacks=callbacks,
            )
        run.failures.extend(fit.failures)
        return fit

    key = jax.random.key(options.seed)
    start = trainer.starts(network, data.train)(key)
    why = diagnosis.reasons(network, start, data.train, options.lr)
    watch = diagnosis.Watch(why, classes, quiet)
    with runs.held(run.folder), processes.deferred() as stop:
        with diagnosis.explained(why, quiet):
            spiking = learn(network, "spiking", "firing", start, watch)
        record |= {"interrupted": spiking.interrupted, "results": {"spiking": _summary(spiking), "relu": None}}
        with run.collecting():
            run.save_parameters(spiking.params)
            run.save_record()
        run.failures[:] = from_first(lambda: run.failures)  # only the first process writes
        if not stop() and record["baseline"] and not run.failures:
            with run.collecting():
                other = without_spikes(network)
                other_start = other.init(key, trainer.gains(network)[1])
                record["results"]["relu"] = _summary(learn(other, "ReLU", "active", other_start))
        record |= {"interrupted": bool(stop()), "finished": not stop() and not run.failures}
        record["seconds"] = sum(row["seconds"] for row in record["results"].values() if row)
        data = dataclasses.replace(data, train=test)  # frees the training set
        doubts = tables.warnings(record["results"]["spiking"], classes)
        doubts += tables.large_losses(record["results"], classes)
        trainer.forget_programs()
        reasons = []
        if doubts or spiking.failures:
            tables.note("diagnosing", quiet)
            reasons = why(spiking.params)
        lines = [*doubts, *(reasons or [diagnosis.SOUND] * bool(doubts))]
        tables.note("counting synaptic operations", quiet)
        cost = costs.line(network, spiking.params, test)
        trainer.forget_programs()

        def figure() -> Figure:
            from .figure import run_figure  # noqa: PLC0415  (it takes memory that training needs)

            title = (
                f"{options.data}, {spiking.scores.accuracy(test.y):.1%} of {len(test):,} test examples right, "
                f"seed {options.seed}" + (", interrupted" if record["interrupted"] else "")
            )
            return run_figure(network, get(options.surrogate), spiking.params, test, record["results"], title)

        run.draw(figure, quiet)
        with run.collecting():
            run.save_record()
            if record["finished"] and jax.process_index() == 0:
                shutil.rmtree(run.folder / trainer.CHECKPOINTS, ignore_errors=True)
    out = tables.console()
    for table in tables.results(record, network.count):
        out.print(table)
    out.print(cost, soft_wrap=True)
    for line in lines:
        out.print(f"warning: {line}", soft_wrap=True)
    if not run.failures:
        more = " --initial" if doubts else ""
        out.print(f"For more checks, run spikegrad diagnose {run.folder}{more}", soft_wrap=True)
    if record["interrupted"]:
        out.print(f"interrupted: results so far are saved. To continue, run spikegrad train --resume {run.folder}")
    return run.end(out, (runs.PARAMETERS, runs.RECORD, runs.FIGURE, trainer.METRICS), began, stop())


def _summary(fit: trainer.Fit) -> dict[str, Any]:
    return {
        "test": fit.curves["test"][-1],
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


@command.command(cls=Command)
@outputs.of_run("Write y_pred (m,) and logits (m, classes) to this .npz file.")
def predict(run: Path, data: str | None, output: Path | None, force: bool) -> None:
    """Score data with a saved run.

    RUN is a folder written by train. DATA accepts the values of train. By default, and for the data of the run, its
    test set is scored. For other recordings it is their test set, or all examples if they have none. A custom .npz may
    lack the labels y (m,), and images may be in one array x (m, ...). Values are scaled like the training data.
    """
    saved = runs.read(run)
    params = runs.read_parameters(saved)
    source = saved.options.data if data is None else data
    if output is not None:
        outputs.check(output, (".npz",), force, reads=(run / runs.PARAMETERS, Path(source)))
    found, labelled = runs.to_score(saved, source)
    is_image = saved.options.encoding != NO_ENCODING
    if data is None and (not labelled or runs.sha256(found, is_image) != saved.about.test_sha256):
        tables.console(stderr=True).print(f"warning: {source} has changed since the run drew its test set")
    scores = trainer.make_evaluator(saved.network)(params, found)
    if not np.isfinite(scores.logits).all():
        raise runs.RunError(f"{run}: scores of {source} are NaN or infinite")
    title = f"{source}: {len(found):,} examples, {run}"
    out = tables.console()
    out.print(tables.by_class(scores.answers, found.y if labelled else None, saved.about.classes, title))
    out.print(costs.line(saved.network, params, found), soft_wrap=True)
    if output is not None:
        arrays = {"y_pred": scores.answers.astype(np.int32), "logits": scores.logits}
        outputs.write(output, lambda stream: np.savez(stream, **arrays))


def _size(value: float) -> str:
    return "periodic" if np.isnan(value) else "unbounded" if np.isinf(value) else f"{value:.4g}"


@command.command("list", cls=Command)
def list_() -> None:
    """List every surrogate with its formula, default parameters, peak, area and half-width at half maximum."""
    out = tables.console()
    narrow = out.width < _WIDE
    measures = ("peak", "area", "half-width")
    left = ("surrogate, slope and measures",) if narrow else ("name", "slope g(x)", "parameters")
    table = tables.table(None, left, () if narrow else measures, show_lines=narrow)
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


@command.command(cls=Command)
@click.argument("surrogates", metavar="NAME...", nargs=-1, required=True, callback=parse_surrogate)
@click.option("--output", "-o", required=True, type=outputs.PATH, help="Image file: .png, .svg or .pdf.")
@outputs.force
def plot(surrogates: tuple[Surrogate, ...], output: Path, force: bool) -> None:
    """Plot surrogates side by side: step, smooth steps and slopes.

    NAME is a name from spikegrad list, with optional parameters: sigmoid 'arctan(alpha=2)'.
    """
    runs.require("matplotlib")
    outputs.check(output, (".png", ".svg", ".pdf"), force)
    with outputs.drawing(output):
        from ..inspect.plot import plot  # noqa: PLC0415  (it takes memory that other commands need)

        outputs.write(output, outputs.drawn(plot(*surrogates), output, 200))
    tables.console().print(f"wrote {output}", soft_wrap=True)


command.add_command(diagnosis.command)
