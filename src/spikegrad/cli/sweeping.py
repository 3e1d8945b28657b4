"""The command ``sweep``: many settings and seeds, and the best setting by validation."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import jax
import numpy as np
import optax

from .. import get, rescaled, training
from .._files import Record
from .._struct import lifted
from ..data import DataError
from . import processes, runs, tables, trainer
from .figure import sweep_figure
from .networks import Params, with_surrogate
from .options import (
    COUNT,
    Command,
    Options,
    numbers,
    option,
    options_of_class,
    output_option,
    parse_surrogate,
    quiet_option,
    resume_option,
)
from .sources import Validated, for_validation
from .tables import Summary, best
from .tasks import EACH

RESULTS = "runs.jsonl"
AXES = ("surrogate", "peak", "half_width", "lr")
"""The options of a setting, which are also its names in results."""


def summaries(results: Sequence[Record], settings: Iterable[Record]) -> list[Summary]:
    """Summarize the seeds of each setting, independent of the order of the results."""
    setting_of = operator.itemgetter(*AXES)

    # The sums of ``statistics`` are exact, so they do not depend on the order.
    def moments(group: list[Record], name: str) -> tuple[float, float | None]:
        values = [result[name] for result in group]
        # One seed has no standard deviation.
        return fmean(values), stdev(values) if values[1:] else None

    rows = []
    for setting in settings:
        group = [row for row in results if setting_of(row) == setting_of(setting)]
        if not group:  # no seed has ended
            continue
        # A run that diverges in its first update has no rates.
        rates = [np.mean(result.get("rates", 0.0)) for result in group]
        row = Summary(
            {axis: setting[axis] for axis in AXES},
            n=len(group),
            diverged=sum(result["diverged"] is not None for result in group),
            validation=moments(group, "validation"),
            test=moments(group, "test"),
            firing_rate=fmean(rates),
        )
        rows.append(row)
    return rows


def parse_surrogates(text: str) -> tuple[str, ...]:
    """Parse surrogates, ``SPEC,...``. Their brackets may contain commas."""
    # A comma within brackets separates parameters.
    specs = [spec.strip() for spec in re.split(r",(?![^(]*\))", text)]
    for spec in specs:
        parse_surrogate(spec)
    return tuple(specs)


RANGE = numbers(float, "0.1,0.3, or a range, such as 0.05:3.2:x2")


@dataclasses.dataclass(frozen=True)
class Grid(Options):
    """All combinations of values. Without peaks or half-widths, surrogates stay unchanged."""

    file = "sweep.json"

    surrogate: tuple[str, ...] = option(  # type: ignore[assignment]
        "Surrogates, such as 'sigmoid,arctan(alpha=2)'.",
        parse_surrogates,
        default="sigmoid,arctan,inv_square_grad",
        metavar="SPEC,...",
    )
    lr: tuple[float, ...] = option(  # type: ignore[assignment]
        "Initial learning rates (cosine decay to 0).",
        RANGE,
        default="0.002",
        metavar="RANGE",
    )
    half_width: tuple[float, ...] = option(
        "Half-widths at half maximum, in units of the potential.",
        RANGE,
        show_default="each surrogate's own",
        metavar="RANGE",
    )
    peak: tuple[float, ...] = option(
        "Peaks of the slopes.",
        RANGE,
        show_default="each surrogate's own",
        metavar="RANGE",
    )
    seeds: int = option(
        "Number of seeds per setting, starting at --seed.", COUNT, default=3
    )
    validation_fraction: float = option(
        "Fraction of each training class that is the validation set.",
        click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.1,
        metavar="FRACTION",
    )

    def load(self) -> Validated:
        """Read the data, with a validation set."""
        if self.readout == EACH:
            raise DataError(
                f"sweep: data must have classes, got {self.data}. Use spikegrad train for each "
                "setting"
            )
        # The split depends on --seed and not on the seed of a run, so all runs see equal examples.
        return for_validation(super().load(), self.validation_fraction, self.seed)

    @property
    def varying(self) -> list[str]:
        """The surrogate, and the axes with more than one value."""
        axes = [axis for axis in AXES[1:] if len(getattr(self, axis)) > 1]
        return ["surrogate", *axes]

    @property
    def settings(self) -> list[Record]:
        """The settings for :func:`spikegrad.training.sweep`."""

        def distinct(axis: str) -> Iterable[Any]:
            # Equal values are one setting. An axis without values leaves each surrogate unchanged.
            values = getattr(self, axis) or (None,)
            # It keeps the order of the options, which a set would not.
            return dict.fromkeys(values)

        settings: list[Record] = []
        for values in itertools.product(*map(distinct, AXES)):
            setting: Record = dict(zip(AXES, values, strict=True))
            try:
                spike = rescaled(
                    get(setting["surrogate"]),
                    peak=setting["peak"],
                    half_width=setting["half_width"],
                )
            # Before any run, so a mistake in the last setting does not cost the others.
            except ValueError as error:  # a surrogate that cannot be rescaled
                raise click.UsageError(str(error)) from None
            settings.append(setting | {"spike": spike})
        return settings


@click.command(
    cls=Command,
    params=options_of_class(Grid),
    context_settings={"show_default": True},
)
@click.option(
    "--jobs",
    type=COUNT,
    show_default="all processors",
    help="Number of parallel runs, each in a thread.",
)
@output_option
@resume_option
@quiet_option
@click.pass_context
def sweep(
    context: click.Context,
    jobs: int | None,
    output: Path | None,
    resume: Path | None,
    **values: Any,
) -> int:
    """Train with many surrogates, widths and learning rates, and report the best.

    \b
    spikegrad sweep --surrogate sigmoid,arctan --half-width 0.05:3.2:x2

    Each combination and seed is one run of train, on fewer examples: a fraction of the training
    examples is the validation set. The best setting has the highest mean accuracy on the validation
    set. The report has its accuracy on the test set, which is not used for selection. All runs use
    equal examples.

    Writes runs.jsonl (a line for each run, as it ends: setting, seed, accuracies, loss, rates,
    seconds), sweep.json (options, data, versions, means and spreads) and figure.png. Runs that
    differ only in numbers are compiled once. After Ctrl-C, SIGTERM or a kill, --resume continues
    without repeating finished runs.

    \b
    A RANGE is a list of numbers and ranges:
      0.1,0.3,1    these numbers
      0.05:3.2:x2  from 0.05 to 3.2, doubling each time

    train --help describes data, encodings and time constants.
    """
    # Not from_first as train does, because the runs of a sweep are threads of one process.
    run, split = runs.begin(context, Grid, output, resume, values)
    grid = run.options
    total = len(grid.settings) * grid.seeds
    results: list[Record] = []
    with processes.deferred() as stop, tables.progress() as show:
        for result in trainings(
            split,
            grid,
            stop=stop,
            path=run.folder / RESULTS,
            resume=resume is not None,
            jobs=jobs,
        ):
            results.append(result)
            line = (
                f"{len(results)}/{total}  {tables.setting_label(result, grid.varying)}  "
                f"seed {result['seed']}  validation {result['validation']:.1%}"
            )
            if result["diverged"]:
                line += "  diverged"
            show(line, len(results), total)
    # Runs end in any order, and tables have the order of the options.
    if rows := summaries(results, grid.settings):
        run.save_record(
            results={
                "interrupted": len(results) < total,
                "settings": [row._asdict() for row in rows],
                "best": best(rows)._asdict(),
            }
        )
        count = len(split.validation)
        tables.say(*tables.sweep(rows, grid.varying, run.record, count))
        title = f"{grid.data}, epochs {grid.epochs}, seeds {grid.seeds}"
        run.save_figure(sweep_figure(rows, grid.varying, title))
    # Also if nothing is finished yet.
    if len(results) < total:
        tables.say(
            f"interrupted: {len(results)} of {total} runs. To continue, run spikegrad sweep "
            f"--resume {run.folder}"
        )
    tables.say(f"saved in {run.folder}")
    # As a shell reports a process that ended by this signal.
    if signum := stop():
        return 128 + signum
    return 0


def trainings(data: Validated, grid: Grid, **more: Any) -> Iterator[Record]:
    """Train and score a network with all settings and seeds.

    Parameters
    ----------
    data : Validated
        Training, validation and test set.
    grid : Grid
        The settings and seeds, and the settings of the training as for :func:`trainer.fit`.
    **more
        Further arguments of :func:`spikegrad.training.sweep`.

    Yields
    ------
    dict
        Results of :func:`spikegrad.training.sweep` with the accuracies ``validation`` and
        ``test``, and with ``silent`` of :class:`trainer.Scores`.
    """
    # Any surrogate, because that of the setting replaces it.
    options = dataclasses.replace(grid, surrogate=grid.surrogate[0])
    network = options.network(data)
    loss_of_one = trainer.loss_of(network, grid)
    start = trainer.starts(network, data.train)

    def loss(
        params: Params, batch: trainer.Batch, key: jax.Array, setting: Mapping
    ) -> tuple[jax.typing.ArrayLike, Record]:
        # In the parameters, so numbers of a surrogate are arguments of one program.
        return loss_of_one(with_surrogate(params, setting["spike"]), batch, key)

    def score(params: Params, setting: Mapping) -> Record:
        # lifted numbers are arguments of the compiled function
        params = with_surrogate(params, lifted(setting["spike"]))
        validation = trainer.score(network, params, data.validation)
        test = trainer.score(network, params, data.test)
        return {
            "validation": validation.metric,
            "test": test.metric,
            "silent": test.silent,
        }

    def optimizer(setting: Mapping) -> optax.GradientTransformation:
        return optax.adam(trainer.schedule_of(setting["lr"], data, grid))

    return training.sweep(
        loss,
        # Equal initial parameters for all settings of a seed.
        lambda key, setting: start(key),
        partial(data.train.batches, grid.batch),
        grid.settings,
        optimizer=optimizer,
        seeds=range(grid.seed, grid.seed + grid.seeds),
        epochs=grid.epochs,
        updates_per_call=trainer.updates_per_call(network, data, grid),
        score=score,
        **more,
    )
