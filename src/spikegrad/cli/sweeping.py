"""The command ``sweep``: settings and seeds, selected on the validation set, reported on the test set."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from .._system import processors
from ..surrogates._measures import rescaled
from ..surrogates._registry import get
from ..training._json_lines import jsonable
from . import runs, signals, sources, tables, trainer
from .options import (
    LARGEST,
    Command,
    Options,
    RealRange,
    WholeRange,
    bad_parameter,
    check_values,
    declared,
    options_of,
    options_of_class,
    output_option,
    quiet_option,
    refuse_others,
    resume_option,
    surrogate_of,
    with_sources,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, RESULTS = "sweep.json", "runs.jsonl"
AXES = ("surrogate", "peak", "half_width", "lr")
"""The values of a setting, by their names in results."""


_RUNS = 100_000


class Summary(NamedTuple):
    """The runs of one setting with several seeds: means with standard deviations, NaN for a single run."""

    setting: dict[str, Any]
    n: int
    diverged: int
    validation: tuple[float, float]
    test: tuple[float, float]
    firing_rate: float


def summaries(results: Iterable[dict[str, Any]]) -> list[Summary]:
    """Summarize the seeds of each setting, independent of their order."""
    by_setting: dict[tuple, list[dict[str, Any]]] = {}
    for result in sorted(results, key=operator.itemgetter("seed")):  # rounding depends on the order
        by_setting.setdefault(tuple(result[axis] for axis in AXES), []).append(result)

    def spread(group: list[dict[str, Any]], name: str) -> tuple[float, float]:
        values = [result[name] for result in group]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    return [
        Summary(
            dict(zip(AXES, setting, strict=True)),
            len(group),
            sum(result["diverged"] is not None for result in group),
            spread(group, "validation"),
            spread(group, "test"),
            float(np.mean([np.mean(result["rates"]) for result in group if "rates" in result] or [math.nan])),
        )
        for setting, group in by_setting.items()
    ]


def best(rows: Iterable[Summary]) -> Summary:
    """Return the summary with the highest validation accuracy. The test set is not used."""
    return max(rows, key=lambda row: row.validation[0])


def parse_surrogates(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse surrogates, ``SPEC,...``. Their brackets may contain commas."""
    del ctx, param
    specs, depth = [""], 0
    for character in value:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            specs.append("")
        else:
            specs[-1] += character
    specs = list(dict.fromkeys(spec.strip() for spec in specs))
    with bad_parameter():
        for spec in specs:
            surrogate_of(spec)
    return tuple(specs)


def parse_reals(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Parse numbers above 0, ``X,...`` with ranges ``FROM:TO:xFACTOR`` or ``FROM:TO:+STEP``."""
    del ctx, param
    if value is None:
        return ()
    try:
        reals = [x for item in value.split(",") for x in _range(item)]
    except (ValueError, OverflowError):
        reals = []
    if not reals or not all(0 < x <= LARGEST for x in reals):
        raise click.BadParameter(
            f"{value!r:.80}: pass numbers above 0 and up to {LARGEST:g}, such as 0.1,0.3, or a range, such as "
            "0.05:3.2:x2 or 0.1:0.5:+0.1"
        )
    return tuple(dict.fromkeys(reals))


_MOST = 1000  # values of a range


def _range(item: str) -> list[float]:
    match = re.fullmatch(r"\s*([^:]+):([^:]+):\s*([x+])([^:]+)", item)
    if match is None:
        return [float(item)]
    first, last, step = float(match[1]), float(match[2]), float(match[4])
    if not 0 < first <= last < math.inf or not (1 if match[3] == "x" else 0) < step < math.inf:
        raise ValueError(item)
    places = math.log(last / first) / math.log(step) if match[3] == "x" else (last - first) / step
    if places > _MOST:
        raise ValueError(item)
    number = np.arange(math.floor(places + 1e-9) + 1)
    values = first * step**number if match[3] == "x" else first + step * number
    return [float(f"{x:.12g}") for x in values]


def _range_option(name: str, help: str, **more: Any) -> Any:
    return declared(
        help, None, name, f"{name.strip('-').replace('-', '_')}s", callback=parse_reals, metavar="RANGE", **more
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of these values. Empty ``peaks`` or ``half_widths`` leave surrogates unchanged."""

    surrogates: tuple[str, ...] = declared(
        "Surrogates, such as 'sigmoid,arctan(alpha=2)'.", None, "--surrogate", "surrogates",
        default="sigmoid,arctan,inv_square_grad", callback=parse_surrogates, metavar="SPEC,...",
    )  # fmt: skip
    half_widths: tuple[float, ...] = _range_option(
        "--half-width",
        "Half-widths at half maximum, in units of the potential.",
        show_default="each surrogate's own",
    )
    peaks: tuple[float, ...] = _range_option("--peak", "Peaks of the slopes.", show_default="each surrogate's own")
    lrs: tuple[float, ...] = _range_option("--lr", "Initial learning rates (cosine decay to 0).", default="0.002")
    seeds: int = declared("Number of seeds per setting, starting at --seed.", WholeRange(1, 10_000), default=3)
    validation_fraction: float = declared(
        "Fraction of each training class that is the validation set.",
        RealRange(0, 1, min_open=True, max_open=True),
        default=0.1,
        metavar="FRACTION",
    )

    def __post_init__(self) -> None:
        check_values(self)
        if not self.surrogates or not self.lrs:
            raise ValueError("surrogates and lrs must have one value or more, got none")
        if not all(0 < x <= LARGEST for x in (*self.peaks, *self.half_widths, *self.lrs)):
            raise ValueError(f"peaks, half_widths and lrs must be above 0 and up to {LARGEST:g}")
        if (runs := math.prod(map(len, self._axes)) * self.seeds) > _RUNS:
            raise ValueError(f"a sweep has up to {_RUNS:,} runs, got {runs:,}")

    @property
    def _axes(self) -> tuple[tuple[Any, ...], ...]:
        """The values of each of :data:`AXES`."""
        return self.surrogates, self.peaks or (None,), self.half_widths or (None,), self.lrs

    @property
    def varying(self) -> list[str]:
        """The axes with more than one value, and the surrogate."""
        return [axis for axis, values in zip(AXES, self._axes, strict=True) if len(values) > 1 or axis == "surrogate"]

    def settings(self) -> list[dict[str, Any]]:
        """Return the settings for :func:`trainer.sweep`.

        Raises
        ------
        ValueError
            If a surrogate cannot be rescaled to a peak or half-width.
        """
        return [
            {**dict(zip(AXES, chosen, strict=True)), "spike": rescaled(get(chosen[0]), *chosen[1:3])}
            for chosen in itertools.product(*self._axes)
        ]


@click.command(cls=Command, context_settings={"show_default": True})
@options_of_class(Grid)
@options_of_class(Options, without=("surrogate", "lr"))
@click.option(
    "--jobs", type=WholeRange(1), show_default="all processors", help="Number of parallel runs, each in a thread."
)
@output_option
@resume_option("SWEEP", "Resume an interrupted sweep with its original options. Finished runs are not repeated.")
@quiet_option
@click.pass_context
@with_sources
def sweep(
    context: click.Context, jobs: int | None, output: Path | None, resume: Path | None, quiet: bool, **given: Any
) -> int:
    """Train with many surrogates, widths and learning rates, and report the best.

    Each combination and seed is one run of train, on fewer examples: a fraction of the training examples is the
    validation set. The best setting has the highest mean accuracy on the validation set. The report has its accuracy on
    the test set, which is not used for selection. All runs use equal examples.

    Writes runs.jsonl (a line for each run, as it ends: setting, seed, accuracies, loss, rates, seconds), sweep.json
    (options, data, versions, means and spreads) and figure.png. Runs that differ only in numbers are compiled once.
    After Ctrl-C, SIGTERM or a kill, --resume continues without repeating finished runs.

    \b
    A RANGE is a list of numbers and ranges:
      0.1,0.3,1     these numbers
      0.05:3.2:x2   from 0.05 to 3.2, doubling each time
      0.1:0.5:+0.1  from 0.1 to 0.5 in steps of 0.1

    \b
    Data:
      {sources}

    train --help describes data, encodings and time constants.
    """
    began = time.perf_counter()
    runs.require("matplotlib")
    if resume is None:
        before = None
        grid = _grid({field.name: given.pop(field.name) for field in dataclasses.fields(Grid)})
        options = options_of(context, surrogate=grid.surrogates[0], lr=grid.lrs[0], **given)
        if (last := options.seed + grid.seeds - 1) >= 2**32:
            raise click.BadParameter(f"{last} is more than 2^32 - 1", param_hint="'--seed'")
    else:
        refuse_others(context, ("resume", "jobs", "quiet"))
        before = runs.read(resume, RECORD)
        options, grid = before.options, runs.read_part(before, "sweep", Grid)
        runs.or_damaged(resume / RECORD, grid.settings)
    with bad_parameter("'--surrogate'"):
        settings = grid.settings()
    data, validation = sources.for_validation(options.load(), grid.validation_fraction, options.seed)
    jobs = processors() if jobs is None else jobs
    run = runs.Run.prepared(
        before, output, options, data, RECORD, grid.surrogates, jobs, sweep=dataclasses.asdict(grid)
    )
    options, record = run.options, run.record
    total, results = len(settings) * grid.seeds, []
    updates = len(data.train) // options.batch * options.epochs
    with (
        runs.held(run.folder),
        signals.deferred() as stop,
        tables.sweep_progress(total, updates, grid.varying, quiet) as progress,
    ):
        run.save_record()
        with run.collecting():  # results that cannot be written are still shown
            for result in trainer.sweep(
                run.network,
                data,
                validation,
                options,
                settings,
                range(options.seed, options.seed + grid.seeds),
                report=progress.updates,
                stop=stop,
                path=run.folder / RESULTS,
                resume=resume is not None,
                jobs=jobs,
            ):
                runs.check_result(run.folder / RESULTS, result)
                results.append(result)
                progress.result(result)
        interrupted = len(results) < total
        rows = summaries(results)
        order = [tuple(setting[axis] for axis in AXES) for setting in settings]
        rows.sort(key=lambda row: order.index(tuple(row.setting.values())))
        if rows:
            record["results"] = jsonable(
                {
                    "interrupted": interrupted,
                    "settings": [row._asdict() for row in rows],
                    "best": best(rows)._asdict(),
                }
            )
            run.save_record()

            def figure() -> Figure:
                from .figure import sweep_figure  # noqa: PLC0415  (it takes memory that training needs)

                return sweep_figure(rows, best(rows), f"{options.data}, epochs {options.epochs}, seeds {grid.seeds}")

            run.draw(figure, quiet)
    out = tables.console()
    if rows:
        specs = dict.fromkeys(row.setting["surrogate"] for row in rows)
        chosen = [best(row for row in rows if row.setting["surrogate"] == spec) for spec in specs]
        for table in tables.sweep(rows, chosen, best(rows), grid.varying, record, len(validation.test)):
            out.print(table)
    if interrupted:
        out.print(
            f"interrupted: {len(results)} of {total} runs. To continue, run spikegrad sweep --resume {run.folder}"
        )
    return run.end(out, (RESULTS, RECORD, runs.FIGURE), began, stop())


def _grid(values: dict[str, Any]) -> Grid:
    try:
        return Grid(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
