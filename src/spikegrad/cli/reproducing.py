"""The command ``reproduce``: a published result, trained again."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..training._json_lines import jsonable
from . import runs, signals, streams, tables
from .options import at_once_option, output_option, quiet_option, refuse_others, was_given

RECORD, RESULTS = "reproduction.json", "runs.jsonl"
_AXES = ["shape", "beta", "height", "recurrent", "detached", "lr", "epochs"]


@click.command(context_settings={"show_default": True})
@click.argument("result", type=click.Choice(["zenke-vogels"]))
@click.option("--quick", is_flag=True, show_default=False, help="A small part, in less than two minutes.")
@click.option("--seeds", default=3, type=click.IntRange(1, 1000), help="Runs of each setting.")
@at_once_option
@output_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Go on with one that was interrupted or killed; finished runs are kept, and --seeds may add others.",
)
@quiet_option
@click.pass_context
def reproduce(
    context: click.Context,
    result: str,
    quick: bool,
    seeds: int,
    at_once: int | None,
    output: Path | None,
    resume: Path | None,
    quiet: bool,
) -> int:
    """Train again what a paper has trained, and draw what it shows.

    \b
    zenke-vogels  Zenke and Vogels 2021: shapes of surrogates and their widths
                  on Randman, with and without recurrence, peaks of 1 and of β,
                  the reset differentiated and detached. It takes half an hour
                  on two processors, since most runs are shorter than theirs.

    Writes runs.jsonl (a line for each run, as it ends), reproduction.json (what was trained, versions, accuracies of
    all seeds) and figure.png. What is chosen, learning rates and the best β, is chosen by validation examples;
    accuracies are of held-out ones.
    """
    began = time.perf_counter()
    from . import zenke_vogels as task  # noqa: PLC0415  (optax; and matplotlib now, to fail before training)
    from .zenke_vogels_figure import figure  # noqa: PLC0415

    def with_seeds(grid: Any) -> Any:
        return dataclasses.replace(grid, seeds=seeds) if was_given(context, "seeds") else grid

    if resume is None:
        grid = with_seeds(task.QUICK if quick else task.Grid())
        record: dict[str, Any] = {"format": runs.FORMAT, "reproduction": result, **runs.environment()}
        folder = runs.claim(output, record | {"grid": dataclasses.asdict(grid)}, RECORD)
    else:
        refuse_others(context, ("result", "resume", "seeds", "at_once", "quiet"))
        folder, record = resume, runs.read_any(resume, RECORD)
        grid = with_seeds(runs.read_part(folder, RECORD, record, "grid", task.Grid))
    record |= {"grid": dataclasses.asdict(grid)}
    found, failures = [], list[str]()
    with (
        runs.held(folder),
        signals.deferred() as stop,
        tables.sweep_progress(grid.runs, grid.updates, _AXES, quiet) as progress,
    ):
        runs.save_record(folder, record, RECORD)
        for row in task.results(
            grid,
            folder / RESULTS,
            stop=stop,
            report=progress.updates,
            at_once=at_once,
        ):
            runs.check_result(folder / RESULTS, row)
            found.append(row)
            progress.result(row)
        interrupted = len(found) < grid.runs
        rows, long = task.summary(grid, found), task.at_length(grid, found)
        best, laws = task.chosen(rows), task.laws(rows, long)
        record["results"] = jsonable(
            {
                "interrupted": interrupted,
                "runs": len(found),
                "seconds_of_runs": round(sum(row["seconds"] for row in found)),
                "laws": [law._asdict() for law in laws],
                "best": best,
                "rows": rows,
                "at_length": long,
            }
        )
        runs.save_record(folder, record, RECORD)
        if rows:
            with runs.drawing(folder, failures):
                drawn = figure(rows, long, task.title(grid))
                runs.save(folder / runs.FIGURE, lambda stream: drawn.savefig(stream, dpi=130, format="png"))
    out = tables.console()
    if rows:
        out.print(task.title(grid), soft_wrap=True)
        for table in chosen_tables(best):
            out.print(table)
        out.print("β of the best mean accuracy on the validation examples")
    if interrupted:
        again = f"spikegrad reproduce {result} --resume {folder}"
        out.print(f"interrupted: {len(found)} of {grid.runs} runs; {again} goes on", soft_wrap=True)
    else:
        for law in laws:
            met = "met" if law.met else "not met"
            out.print(f"{met}: {law.statement}: {law.found}, expected {law.expected}", soft_wrap=True)
    tables.saved(out, folder, (RESULTS, RECORD, runs.FIGURE), began)
    for failure in failures:
        streams.fail(failure, 1)
    return 128 + stop() if stop() else 1 if failures else 0


def chosen_tables(chosen: list[dict[str, Any]]) -> Iterator[Table]:
    """A table for each kind of network, reset and slope, whose names would not fit a screen beside the numbers."""
    for condition, rows in itertools.groupby(chosen, key=lambda row: row["condition"]):
        table = Table(title=condition)
        table.add_column("shape")
        for heading in ("best β", "held out", "lowest over β", "spikes", "lr", "seeds"):
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(
                row["shape"],
                f"{row['beta']:g}",
                tables.spread(row["mean"], row["deviation"]),
                tables.percent(row["lowest"]),
                f"{row['spikes']:.1f}",
                f"{row['lr']:g}",
                str(row["seeds"]),
            )
        yield table
