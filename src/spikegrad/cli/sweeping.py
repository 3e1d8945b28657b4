"""The command ``sweep``: settings times seeds, chosen by validation, reported on what is held out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from .._system import processors
from ..surrogates._measures import fitted as fitted_surrogate
from ..surrogates._registry import get
from ..training._json_lines import jsonable
from . import learning, runs, signals, sources, streams, tables
from .networks import count
from .options import (
    RealRange,
    at_once_option,
    check_network,
    fitted,
    options_of,
    output_option,
    quiet_option,
    refuse_others,
    training_options,
    with_sources,
)

RECORD, RESULTS = "sweep.json", "runs.jsonl"
AXES = ("surrogate", "height", "width", "lr")
"""What settings differ in, as results name it."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of these; ``heights`` and ``widths`` are empty where each surrogate has its own."""

    surrogates: tuple[str, ...]
    heights: tuple[float, ...]
    widths: tuple[float, ...]
    lrs: tuple[float, ...]
    seeds: int
    validation: float

    def __post_init__(self) -> None:
        if not self.surrogates or not self.lrs:
            raise ValueError("surrogates and lrs must have one value or more, got none")
        if not all(0 < x < math.inf for x in (*self.heights, *self.widths, *self.lrs)):
            raise ValueError("heights, widths and lrs must be above 0")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be above 0 and below 1, got {self.validation:g}")
        if not 1 <= self.seeds <= _SEEDS:
            raise ValueError(f"seeds must be from 1 to {_SEEDS:,}, got {self.seeds:,}")
        values = (self.surrogates, self.heights or (None,), self.widths or (None,), self.lrs)
        if (runs := math.prod(map(len, values)) * self.seeds) > _RUNS:
            raise ValueError(f"a sweep has up to {_RUNS:,} runs, got {runs:,}")

    def settings(self) -> list[dict[str, Any]]:
        """What :func:`learning.sweep` takes.

        Raises
        ------
        ValueError
            If a surrogate cannot be brought to a height or width.
        """
        values = (self.surrogates, self.heights or (None,), self.widths or (None,), self.lrs)
        return [
            {**dict(zip(AXES, chosen, strict=True)), "spike": fitted_surrogate(get(chosen[0]), *chosen[1:3])}
            for chosen in itertools.product(*values)
        ]


_SEEDS, _RUNS = 10_000, 100_000


class Summary(NamedTuple):
    """The runs of one setting, which differ in their seeds: means with standard deviations, NaN for a single run."""

    setting: dict[str, Any]
    n: int
    diverged: int
    validation: tuple[float, float]
    held_out: tuple[float, float]
    firing_rate: float


def summaries(results: Iterable[dict[str, Any]]) -> list[Summary]:
    """One for each setting, the runs of all seeds together, in whatever order they ended."""
    by_setting: dict[tuple, list[dict[str, Any]]] = {}
    for result in sorted(results, key=operator.itemgetter("seed")):  # sums are rounded in their order
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
            spread(group, "held_out"),
            float(np.mean([np.mean(result["rates"]) for result in group if "rates" in result] or [math.nan])),
        )
        for setting, group in by_setting.items()
    ]


def best(rows: Iterable[Summary]) -> Summary:
    """The one with the highest accuracy on the validation examples; the held-out ones have no say."""
    return max(rows, key=lambda row: row.validation[0])


def parse_surrogates(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Surrogates of ``SPEC,...``, in whose brackets there may be commas."""
    del ctx, param
    specs, depth = [""], 0
    for character in value:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            specs.append("")
        else:
            specs[-1] += character
    specs = list(dict.fromkeys(spec.strip() for spec in specs))
    try:
        for spec in specs:
            get(spec)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None
    return tuple(specs)


def parse_reals(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Numbers above 0 of ``X,...`` and ``FROM:TO:xFACTOR`` or ``FROM:TO:+STEP``; none if not given."""
    del ctx, param
    if value is None:
        return ()
    try:
        reals = [x for item in value.split(",") for x in _range(item)]
    except (ValueError, OverflowError):
        reals = []
    if not reals or not all(0 < x < math.inf for x in reals):
        raise click.BadParameter(
            f"{value!r:.80}: give numbers above 0, such as 0.1,0.3, or a range, such as 0.05:3.2:x2 or 0.1:0.5:+0.1"
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


@click.command(context_settings={"show_default": True})
@click.option(
    "--surrogate",
    default="sigmoid,arctan,inv_square_grad",
    callback=parse_surrogates,
    metavar="SPEC,...",
    help="Surrogates, such as 'sigmoid,arctan(alpha=2)'.",
)
@click.option(
    "--width",
    callback=parse_reals,
    metavar="RANGE",
    show_default="each surrogate's own",
    help="Half-widths at half of the peak, in units of the potential.",
)
@click.option(
    "--height", callback=parse_reals, metavar="RANGE", show_default="each surrogate's own", help="Peaks of the slopes."
)
@click.option(
    "--lr", default="0.002", callback=parse_reals, metavar="RANGE", help="Learning rates at the start; they fall to 0."
)
@click.option("--seeds", default=3, type=click.IntRange(1, _SEEDS), help="Runs of each setting: --seed, and the next.")
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the splits, and of the weights and the order of the first run.",
)
@click.option(
    "--validation",
    default=0.1,
    type=RealRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of the training examples of each class, to choose by.",
)
@training_options
@at_once_option
@output_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="SWEEP",
    help="Go on with a sweep that was interrupted or killed, with its options; finished runs are kept.",
)
@quiet_option
@click.pass_context
@with_sources
def sweep(  # noqa: PLR0915  (the order of a sweep, from its options to its files)
    context: click.Context,
    data: str,
    surrogate: tuple[str, ...],
    height: tuple[float, ...],
    width: tuple[float, ...],
    lr: tuple[float, ...],
    seeds: int,
    seed: int,
    validation: float,
    at_once: int | None,
    output: Path | None,
    resume: Path | None,
    quiet: bool,
    **rest: Any,
) -> int:
    """Train with many surrogates, widths and learning rates, and tell which are best.

    There is a run for each combination and seed. A run is one of train, on fewer examples: a share of them is left out
    to choose by. The best setting is the one with the highest mean accuracy on these, and is reported by its accuracy
    on the held-out examples, which have no part in the choice. All runs have the same examples.

    Writes runs.jsonl (a line for each run, as it ends: setting, seed, accuracies, loss, rates, seconds), sweep.json
    (options, data, versions, means and spreads) and figure.png. Runs of one surrogate are compiled once, whatever their
    numbers. After Ctrl-C, SIGTERM or a kill, --resume goes on; no finished run is made again.

    \b
    A RANGE is a list of numbers and ranges:
      0.1,0.3,1     these
      0.05:3.2:x2   from 0.05 to 3.2, each twice the one before
      0.1:0.5:+0.1  from 0.1 to 0.5 in steps of 0.1

    \b
    Data:
      {sources}

    train --help says more of data, codings and time constants.
    """
    began, before = time.perf_counter(), None
    runs.require("matplotlib")
    if resume is None:
        grid = _grid(surrogate, height, width, lr, seeds, validation)
        options = options_of(context, data, surrogate=surrogate[0], lr=lr[0], seed=seed, **rest)
        if seed + seeds > 2**32:
            raise click.BadParameter(f"{seed} and the next {seeds - 1} are more than 2^32 - 1", param_hint="'--seed'")
    else:
        refuse_others(context, ("resume", "at_once", "quiet"))
        options, before, record = runs.read_record(resume, RECORD)
        grid = runs.read_part(resume, RECORD, record, "sweep", Grid)
        runs.or_damaged(resume, grid.settings, RECORD)
    settings = _settings(grid)
    loaded, to_choose_by = sources.for_validation(
        sources.load(options.data, options.seed, options.binning), grid.validation, options.seed
    )
    if resume is not None and before is not None:
        runs.check_unchanged(resume, options.data, loaded, before)
    options, doubts = fitted(options, loaded)
    network = options.network(loaded.shape, loaded.classes)
    for spec in grid.surrogates:
        check_network(dataclasses.replace(options, surrogate=spec).network(loaded.shape, loaded.classes), loaded)
    at_once = processors() if at_once is None else at_once
    together = dataclasses.replace(options, batch=options.batch * at_once)
    size = count(network.sizes, network.recurrent)
    doubts += runs.check_resources(output or resume or Path("runs"), together, loaded, size * at_once)
    record = runs.describe(options, loaded) | {"sweep": dataclasses.asdict(grid)}
    folder = runs.claim(output, record, RECORD) if resume is None else resume
    for line in doubts:
        tables.console(stderr=True).print(f"warning: {line}", soft_wrap=True)
    total = len(settings) * grid.seeds
    updates = len(loaded.x_train) // options.batch * options.epochs
    results, failures = [], list[str]()
    with (
        runs.held(folder),
        signals.deferred() as stop,
        tables.sweep_progress(total, updates, _varying(grid), quiet) as progress,
    ):
        runs.save_record(folder, record, RECORD)
        for result in learning.sweep(
            network,
            loaded,
            to_choose_by,
            settings,
            range(options.seed, options.seed + grid.seeds),
            epochs=options.epochs,
            batch=options.batch,
            shift=options.shift,
            noise=options.noise,
            report=progress.updates,
            stop=stop,
            path=folder / RESULTS,
            resume=resume is not None,
            at_once=at_once,
        ):
            runs.check_result(folder / RESULTS, result)
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
            runs.save_record(folder, record, RECORD)
            with runs.drawing(folder, failures):
                from .figure import sweep_figure  # noqa: PLC0415  (it takes memory that training needs)

                figure = sweep_figure(rows, best(rows), f"{options.data}, epochs {options.epochs}, seeds {grid.seeds}")
                runs.save(folder / runs.FIGURE, lambda stream: figure.savefig(stream, dpi=130, format="png"))
    out = tables.console()
    if rows:
        chosen = [best(row for row in rows if row.setting["surrogate"] == spec) for spec in _found(rows)]
        for table in tables.sweep(rows, chosen, best(rows), _varying(grid), loaded, to_choose_by):
            out.print(table)
    if interrupted:
        out.print(f"interrupted: {len(results)} of {total} runs; spikegrad sweep --resume {folder} goes on")
    tables.saved(out, folder, (RESULTS, RECORD, runs.FIGURE), began)
    for failure in failures:
        streams.fail(failure, 1)
    return 128 + stop() if stop() else 1 if failures else 0


def _grid(*values: Any) -> Grid:
    try:
        return Grid(*values)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _settings(grid: Grid) -> list[dict[str, Any]]:
    try:
        return grid.settings()
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="'--surrogate'") from None


def _varying(grid: Grid) -> list[str]:
    """The axes with more than one value, and the surrogate."""
    values = zip(AXES, (grid.surrogates, grid.heights, grid.widths, grid.lrs), strict=True)
    return [axis for axis, some in values if len(some) > 1 or axis == "surrogate"]


def _found(rows: list[Summary]) -> list[str]:
    return list(dict.fromkeys(row.setting["surrogate"] for row in rows))
