"""The commands ``train``, ``predict``, ``list`` and ``plot``."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from .. import __version__, get, measure, names
from .._consensus import from_first
from .._files import write_atomically
from ..reports.plot import plot as draw
from ..training import DivergedError
from . import (
    diagnosis,
    figure,
    processes,
    quantizing,
    runs,
    sources,
    tables,
    trainer,
)
from .networks import Params
from .options import (
    LEARNING_RATE,
    Command,
    Options,
    of_run,
    options_of_class,
    output_file,
    output_option,
    parse_surrogate,
    quiet_option,
    resume_option,
)
from .sweeping import sweep


class Commands(click.Group):
    """Commands in the order in which a user meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            known = {name: name for name in self.commands}
            # Lower than for data, because a command may be meant in other words: learn is train.
            text = tables.unknown("command", args[0], known, likeness=0.4)
            raise click.UsageError(text)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="spikegrad")
def command() -> None:
    """Train spiking networks with surrogate gradients, and compare surrogates.

    \b
    spikegrad train                          5,000 images of digits, half a minute
    spikegrad train --data my.npz -o runs/a  your data
    spikegrad predict runs/a                 the accuracy of each class
    spikegrad diagnose runs/a                why it does not learn
    COMMAND --help                           the options of a command

    Exit codes: 0 done, 1 failure during the run, 2 invalid value, 130 Ctrl-C, 143 SIGTERM.
    """


@command.command(
    cls=Command,
    params=options_of_class(Options),
    context_settings={"show_default": True},
)
@click.option(
    "--baseline/--no-baseline",
    default=True,
    help="Also train a non-spiking network of equal size.",
)
@click.option(
    "--target",
    type=click.Choice(quantizing.CHOICES),
    help="Then convert to integers and train these on, as quantize does.",
)
@quantizing.bits_option
@output_option
@resume_option
@click.option(
    "--checkpoint",
    default=1.0,
    type=click.FloatRange(0),
    metavar="MINUTES",
    help="Minutes between checkpoints. A kill loses at most this much.",
)
@quiet_option
@processes.options
@click.pass_context
def train(
    context: click.Context,
    output: Path | None,
    checkpoint: float,
    resume: Path | None,
    baseline: bool,
    target: str | None,
    bits: int,
    **values: Any,
) -> int:
    """Train a spiking network and save it.

    \b
    spikegrad train --epochs 10 --hidden 128
    spikegrad train --data shd:folder --recurrent --cell adaptive
    spikegrad train --resume runs/a

    Writes parameters.npz (weight_0, bias_0, ... of each layer), run.json (options, data, versions,
    results and learning curves), figure.png and, in training, metrics.jsonl (step, epoch, loss,
    accuracy or smape, rates, learning rate, seconds). Ctrl-C ends training and saves the results so
    far, with exit code 130. Pressed twice, it ends immediately. SIGTERM works like Ctrl-C, with
    exit code 143. An unfinished run has checkpoints, and --resume continues it.

    The test set is the published one if the data has one. Otherwise it is a
    fifth of each class, a tenth for randman, or all recordings of two speakers
    for shd, drawn with the seed. It is not used for training or for selection.

    \b
    Images are encoded over time, from values x scaled to 0 to 1:
      current  the constant x at every step
      rate     a spike at each step with probability x
      latency  one spike, the earlier the greater x, and no spike for x = 0

    Recordings are fed to the network without spike encoding. Events are
    counted in --steps of --bin milliseconds. Real numbers are shifted and
    scaled to mean 0 and standard deviation 1 in each channel. mackey_glass has
    values to predict at each step, with the mean squared error as loss. Padding of
    shorter sequences has no effect. Up to 128 recordings are measured, and
    the initial weights make potentials fluctuate by about a threshold.

    \b
    Time constants, --taus:
      lif        membrane
      synaptic   membrane,synapse
      adaptive   membrane,adaptation
    One more value sets the readout, by default the membrane's.
    """
    # Only process 0 reads the data and claims the folder.
    run, split = from_first(
        lambda: runs.begin(
            context,
            Options,
            output,
            resume,
            values,
            baseline=baseline,
            target=target,
            bits=bits,
        )
    )
    options = run.options
    record = run.record
    network = run.network
    target = record["target"]
    bits = record["bits"]
    shape = "x".join(map(str, split.shape))
    tables.note(f"{options.data} of {shape}, {network.sizes} neurons, {run.folder}")
    key = jax.random.key(options.seed)
    # Drawn here and not within the training, because a diagnosis compares with it.
    start = trainer.starts(network, split.train)(key)
    if target:
        # It raises for what the target lacks, before the training.
        quantizing.converted(network, start, split, target, bits)
    watch = diagnosis.Watch(network, start, split, options.lr)
    # A signal only sets a number until the end of a compiled call, so no file is cut and the last
    # state is saved.
    with processes.deferred() as stop:
        # Each network has its checkpoints, so a resumed run passes through one that was finished.
        learn = partial(
            trainer.fit,
            data=split,
            options=options,
            stop=stop,
            folder=run.folder,
            minutes=checkpoint,
        )
        try:
            params, result = learn(network, start, callbacks=[watch])
        except DivergedError as error:
            # They are finite, and show what grew.
            run.save_parameters(error.state.trainable)
            # Also with --quiet, as the reason of the error.
            for line in watch.issues(error.state.trainable):
                click.echo(line, err=True)
            # At most the default, because a tenth of a very large rate may diverge again.
            lr = min(options.lr / 10, LEARNING_RATE)
            text = f"training diverged: {error}. Use a smaller learning rate, such as --lr {lr:g}"
            raise click.ClickException(text) from None
        results = {"spiking": result}
        # Saved before the baseline, which may take as long.
        run.save_parameters(params)
        run.save_record(results=results)
        try:
            # ``stop`` asks all processes, so each of them must call it equally often.
            if record["baseline"] and not stop():
                rectified = network.without_spikes()
                _, results["ReLU"] = learn(rectified, rectified.init(key))
        except DivergedError as error:  # a baseline that diverges costs no results
            click.echo(f"the baseline diverged: {error}", err=True)
        run.save_record(interrupted=bool(stop()))
        _report(run, params, watch)
        if signum := stop():
            # As a shell reports a process that ended by this signal.
            return 128 + signum
        run.save_record(finished=True)
        # A finished run cannot be resumed, so its checkpoints are useless.
        if jax.process_index() == 0:
            shutil.rmtree(run.folder / trainer.CHECKPOINTS)
    if target:
        # The run is saved, so Ctrl-C may end the conversion immediately.
        # Fewer epochs than before, because the integers start from trained weights.
        epochs = max(1, options.epochs // 3)
        quantizing.convert(run.folder, target, bits, epochs)
    return 0


def _report(run: runs.RunFolder, params: Params, watch: diagnosis.Watch) -> None:
    """Print the results of a run, and draw its figure."""
    options = run.options
    record = run.record
    network = run.network
    test = watch.split.test
    tables.say(*tables.results(record, network.count, network.task))
    tables.note("counting synaptic operations")
    tables.say(diagnosis.costs(network, params, test))
    reached = record["results"]["spiking"]["test"]
    flag = ""
    if failure := network.task.failure(reached, watch.split):
        # The faults are most visible before the weights have drifted.
        flag = " --initial"
        issues = watch.issues(params) or [diagnosis.SOUND]
        for line in (failure, *issues):
            tables.say(f"warning: {line}")
    title = (
        f"{options.data}, {options.surrogate}, seed {options.seed}: test "
        f"{network.task.title} {reached:.1%}, {len(test):,} examples"
    )
    if record["interrupted"]:
        title += ", interrupted"
    run.save_figure(figure.run_figure(run, params, test, title))
    tables.say(
        f"saved in {run.folder}",
        f"For more checks, run spikegrad diagnose {run.folder}{flag}",
    )
    if record["interrupted"]:
        tables.say(
            "interrupted: results so far are saved. To continue, run spikegrad train --resume "
            f"{run.folder}"
        )


@command.command()
@of_run
@output_file(
    "Write y_pred (m,) and logits (m, classes), or y_pred (m, steps, outputs) of values, to this "
    ".npz file.",
    ".npz",
)
def predict(run: Path, data: str | None, output: Path | None) -> None:
    """Score data with a saved run.

    RUN is a folder written by train. DATA accepts the values of train. By default, and for the data
    of the run, its test set is scored. For other recordings it is their test set, or all examples
    if they have none. Of a file with images x_train, it is x_test or a fifth. To score all images,
    save them as x (m, ...). The labels y (m,) may be missing. Values are scaled like the training
    data.
    """
    saved = runs.read(run)
    network = saved.network
    params = saved.params
    scored, labelled = sources.load_to_score(data, saved.options, saved.data)
    scores = trainer.score(network, params, scored)
    title = f"{scored.name}: {len(scored):,} examples, {run}"
    # The labels of a file without labels are all 0.
    y = scored.y if labelled else None
    tables.say(
        network.task.report(scores, y, saved.data.outputs, title),
        diagnosis.costs(network, params, scored),
    )
    if output is not None:
        arrays = network.task.arrays(scores.predictions)
        write_atomically(output, lambda stream: np.savez(stream, **arrays))


command.add_command(diagnosis.command)
command.add_command(sweep)
command.add_command(quantizing.command)


@command.command("data")
def data_() -> None:
    """List the data that train takes, and the arrays of a file of yours."""
    tables.say(sources.TABLE)


@command.command("list")
def list_() -> None:
    """List every surrogate: formula, default parameters, peak, area, half-width at half maximum."""
    for name in names():
        surrogate = get(name)
        parameters = repr(surrogate).removeprefix(type(surrogate).__name__)
        measured = measure(surrogate)
        sizes = (
            f"peak {measured.peak:.4g}, area {measured.area:.4g}, "
            f"half-width {measured.half_width:.4g}"
        )
        # The area of a periodic slope is not a number.
        sizes = sizes.replace("nan", "periodic").replace("inf", "unbounded")
        tables.say(f"{name}{parameters}\n    {surrogate._formula}\n    {sizes}")


@command.command()
@click.argument(
    "surrogates", metavar="NAME...", nargs=-1, required=True, type=parse_surrogate
)
@output_file("Image file: .png, .svg or .pdf.", ".png", ".svg", ".pdf", required=True)
def plot(surrogates: tuple, output: Path) -> None:
    """Plot surrogates side by side: step, smooth steps and slopes.

    NAME is a name from spikegrad list, with optional parameters: sigmoid 'arctan(alpha=2)'.
    """
    tables.save_figure(draw(*surrogates), output)
    tables.say(f"wrote {output}")
