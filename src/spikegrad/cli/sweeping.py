"""The command ``sweep``: many settings and seeds, and the best setting by validation."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import get, rescaled
from .._files import Record
from . import processes, runs, sources, tables, trainer
from .figure import sweep_figure
from .options import (
    COUNT,
    Command,
    Options,
    adapted,
    numbers,
    option,
    options_of,
    options_of_class,
    output_option,
    parse_surrogate,
    quiet_option,
    refuse_others,
    resume_option,
)
from .tables import Summary, best

RECORD, RESULTS = "sweep.json", "runs.jsonl"
AXES = ("surrogate", "peak", "half_width", "lr")
"""The options of a setting, which are also its names in results."""


def summaries(results: Iterable[Record], settings: list[Record]) -> list[Summary]:
    """Summarize the seeds of each setting, independent of the order of the results."""
    groups = [
        # Rounding depends on the order.
        sorted(
            (row for row in results if all(row[axis] == values[axis] for axis in AXES)),
            key=operator.itemgetter("seed"),
        )
        for values in settings
    ]

    def moments(group: list[Record], name: str) -> tuple[float, float | None]:
        values = [result[name] for result in group]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return float(np.mean(values)), std

    return [
        Summary(
            {axis: group[0][axis] for axis in AXES},
            len(group),
            sum(result["diverged"] is not None for result in group),
            moments(group, "validation"),
            moments(group, "test"),
            # A run that diverges in its first update has no rates.
            float(np.mean([np.mean(result.get("rates", 0.0)) for result in group])),
        )
        for group in groups
        if group
    ]


def parse_surrogates(text: str) -> tuple[str, ...]:
    """Parse surrogates, ``SPEC,...``. Their brackets may contain commas."""
    specs, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            specs.append("")
        else:
            specs[-1] += character
    for spec in specs:
        parse_surrogate(spec)
    return tuple(dict.fromkeys(map(str.strip, specs)))


def parse_range(item: str) -> list[float]:
    """Return the numbers of ``X`` or ``FROM:TO:xFACTOR``."""
    match = re.fullmatch("(.+):(.+):x(.+)", item)
    if match is None:
        return [float(item)]
    first, last, factor = map(float, match.groups())
    # Rounded, so the last value is included in spite of errors.
    steps = int(round(math.log(last / first) / math.log(factor), 9))
    return [float(f"{first * factor**i:.12g}") for i in range(steps + 1)]


RANGE = numbers(parse_range, "0.1,0.3, or a range, such as 0.05:3.2:x2")


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of values. Without peaks or half-widths, surrogates stay unchanged."""

    surrogate: tuple[str, ...] = option(
        "Surrogates, such as 'sigmoid,arctan(alpha=2)'.",
        parse_surrogates,
        default="sigmoid,arctan,inv_square_grad",
        metavar="SPEC,...",
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
    lr: tuple[float, ...] = option(
        "Initial learning rates (cosine decay to 0).",
        RANGE,
        default="0.002",
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

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """The values of each of :data:`AXES`."""
        return {axis: getattr(self, axis) or (None,) for axis in AXES}

    @property
    def varying(self) -> list[str]:
        """The surrogate, and the axes with more than one value."""
        return [
            axis
            for axis, values in self.values.items()
            if values[1:] or axis == "surrogate"
        ]

    def settings(self) -> list[Record]:
        """Return the settings for :func:`trainer.sweep`."""
        settings = []
        for values in itertools.product(*map(dict.fromkeys, self.values.values())):
            try:
                spike = rescaled(get(values[0]), *values[1:3])
            except ValueError as error:  # a surrogate that cannot be rescaled
                raise click.BadParameter(
                    str(error), param_hint="'--surrogate'"
                ) from None
            settings.append({**dict(zip(AXES, values, strict=True)), "spike": spike})
        return settings


@click.command(cls=Command, context_settings={"show_default": True})
@options_of_class(Grid)
@options_of_class(Options, without=("surrogate", "lr"))
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
    quiet: bool,
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
    began, run = time.perf_counter(), None
    if resume is None:
        grid = Grid(
            **{field.name: values.pop(field.name) for field in dataclasses.fields(Grid)}
        )
        options = options_of(
            context, surrogate=grid.surrogate[0], lr=grid.lr[0], **values
        )
    else:
        refuse_others(context, "resume", "jobs", "quiet")
        run = runs.read(resume, RECORD)
        options, grid = run.options, runs.as_object(Grid, run.record["sweep"])
    settings = grid.settings()
    split = options.load()
    data, validation = sources.for_validation(
        split, grid.validation_fraction, options.seed
    )
    if run is None:
        options = adapted(options, data)
        run = runs.start(output, options, data, RECORD, sweep=dataclasses.asdict(grid))
    else:
        run.check_resumable(data)
    options, record = run.options, run.record
    total, results = len(settings) * grid.seeds, []
    with (
        processes.deferred() as stop,
        tables.progress(quiet) as show,
    ):
        for result in trainer.sweep(
            run.network,
            data,
            validation,
            options,
            settings,
            range(options.seed, options.seed + grid.seeds),
            stop=stop,
            path=run.folder / RESULTS,
            resume=resume is not None,
            jobs=jobs,
        ):
            results.append(result)
            line = f"{len(results)}/{total}  {tables.result_line(result, grid.varying)}"
            show(line, len(results), total)
    # Runs end in any order, and tables have the order of the options.
    if rows := summaries(results, settings):
        record["results"] = {
            "interrupted": len(results) < total,
            "settings": [row._asdict() for row in rows],
            "best": best(rows)._asdict(),
        }
        run.save_record()
        tables.say(*tables.sweep(rows, grid.varying, record, len(validation.test)))
        tables.note(f"drawing {run.folder / runs.FIGURE}", quiet)
        title = f"{options.data}, epochs {options.epochs}, seeds {grid.seeds}"
        run.save_figure(sweep_figure(rows, best(rows), title))
    if len(results) < total:
        command = f"spikegrad sweep --resume {run.folder}"
        tables.say(
            f"interrupted: {len(results)} of {total} runs. To continue, run {command}"
        )
    tables.end(run.folder, began)
    return 128 + stop() if stop() else 0
