"""Output of the command: progress on standard error, tables on standard output."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .._files import Record, write_atomically
from ..training import Report

PIPE_WIDTH = 180
"""Width of a table in a file or a pipe."""


class Summary(NamedTuple):
    """The runs of one setting: means with standard deviations, None for a single run."""

    setting: Record
    n: int
    diverged: int
    validation: tuple[float, float | None]
    test: tuple[float, float | None]
    firing_rate: float


def console(stderr: bool = False) -> Console:
    """Return a console. Brackets are text, not markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, markup=False, highlight=False, width=width)


def best(rows: Iterable[Summary]) -> Summary:
    """Return the summary with the highest validation accuracy. The test set is not used."""
    return max(rows, key=lambda row: row.validation[0])


def say(*parts: str | Table) -> None:
    """Print lines and tables on standard output."""
    for part in parts:
        console().print(part, soft_wrap=isinstance(part, str))


def note(text: str, quiet: bool = False) -> None:
    """Print a line on standard error, such as the next step of the command."""
    if not quiet:
        console(stderr=True).print(text, soft_wrap=True)


def percent(fraction: float) -> str:
    """Format a fraction."""
    return f"{100 * fraction:.1f} %"


def accuracy(fraction: float, n: int) -> str:
    """Format a fraction of n with its 95 % interval by Wilson, which also holds for 0 and 1."""
    z = 1.96
    middle = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = (
        z
        / (1 + z**2 / n)
        * math.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    )
    # rounding can make the lower end -0.0
    return f"{percent(fraction)} ({100 * abs(middle - half):.1f}-{100 * (middle + half):.1f})"


def spread(mean: float, std: float | None) -> str:
    """Format a mean with its standard deviation, if it is known."""
    return percent(mean) if std is None else f"{100 * mean:.1f} ± {100 * std:.1f} %"


def label(value: object) -> str:
    """Format a value of a setting."""
    return (
        "own"
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def learnt(classes: int) -> float:
    """Return the least accuracy that counts as learning: 63 % for two classes, 22 % for ten."""
    # Above guessing, 1 / classes, by a factor that grows with the number of classes.
    return classes ** (-2 / 3)


def guessing(classes: int) -> str:
    """Describe an accuracy that does not count as learning."""
    return f"close to guessing one of {classes} classes"


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on a terminal, or else a line for every tenth of the work.

    Yields
    ------
    callable
        ``show(line, completed, total)``.
    """
    out, printed = console(stderr=True), -1
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=quiet or not out.is_terminal) as bar:
        task = bar.add_task("compiling", total=None)

        def show(line: str, completed: int, total: int) -> None:
            nonlocal printed
            bar.update(task, description=line, completed=completed, total=total)
            if completed * 10 // total > printed and not out.is_terminal:
                printed = completed * 10 // total
                note(line, quiet)

        yield show


def training_line(now: Report, name: str, epochs: int, test: list[float]) -> str:
    """Describe the course of a training. ``test`` has the accuracy after each epoch."""
    loss, accuracy, rates = (
        now.epoch_metrics[key] for key in ("loss", "accuracy", "rates")
    )
    return (
        f"{name:7} {now.epoch:{len(str(epochs))}}/{epochs}  loss {float(loss):.3g}"
        f"  train {percent(float(accuracy))}"
        + "".join(f"  test {percent(last)}" for last in test[-1:])
        + f"  active {rates.mean():.2f}"
    )


def result_line(result: Record, axes: list[str]) -> str:
    """Describe a run of a sweep."""
    return (
        f"{setting_label(result, axes)}  seed {result['seed']}  "
        f"validation {percent(result['validation'])}"
        + "  diverged"
        * bool(result["diverged"])
    )


def setting_label(setting: Record, axes: list[str]) -> str:
    """Format the values of a setting on some axes."""
    return ", ".join(f"{axis} {label(setting[axis])}" for axis in axes)


def table(
    title: str,
    headings: Iterable[str],
    rows: Iterable[Iterable],
    caption: str | None = None,
) -> Table:
    """Return a table. The first column is aligned to the left."""
    # Without borders, so tables fit a narrow terminal.
    lines = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for i, heading in enumerate(headings):
        lines.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in rows:
        lines.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    return lines


def results(record: Record, parameters: int) -> list[Table]:
    """Return the tables at the end of training."""
    options, data, networks = record["options"], record["data"], record["results"]
    rows = [
        (
            name,
            accuracy(result["test"], data["test"]),
            percent(result["accuracy"]),
            f"{result['epochs']}" + f" of {options['epochs']}" * result["interrupted"],
            f"{result['seconds']:.1f} s",
        )
        for name, result in networks.items()
    ]
    examples = (
        f"{options['data']}: {data['training']:,} training examples, {data['test']:,} test "
        f"examples ({data['test_from']})"
    )
    caption = (
        f"spiking: {options['surrogate']}, {options['steps']} steps; seed {options['seed']}; "
        f"{parameters:,} parameters; interval: by Wilson, for {data['test']:,} examples"
    )
    headings = "network", "test, 95 % interval", "training", "epochs", "time"
    spiking = networks["spiking"]
    layers = enumerate(
        zip(options["hidden"], spiking["rates"], spiking["silent"], strict=True), 1
    )
    return [
        table(examples, headings, rows, caption=caption),
        table(
            "spiking layers, on the test set",
            ("layer", "neurons", "spikes a step", "silent"),
            ((i, n, f"{rate:.3f}", percent(silent)) for i, (n, rate, silent) in layers),
        ),
    ]


def by_class(
    answers: np.ndarray, y: np.ndarray | None, classes: int, title: str
) -> Table:
    """Return the accuracy of each class and of all, or without labels the number of answers."""
    counts = np.bincount(answers, minlength=classes).tolist()
    if y is None:
        return table(title, ("class", "answers"), enumerate(counts))
    rows: list[tuple] = []
    for k, count in enumerate(counts):
        answered = np.bincount(answers[y == k], minlength=classes)
        n, right = int(answered.sum()), int(answered[k])
        answered[k] = 0
        mistaken = f"{answered.argmax()} ({answered.max()})"
        score = accuracy(right / n, n) if n else ""
        rows.append((k, n, score, count, mistaken if answered.any() else ""))
    n, right = len(y), int((answers == y).sum())
    rows.append(("all", n, accuracy(right / n, n), n, ""))
    headings = "class", "examples", "right, 95 % interval", "answers", "mistaken for"
    return table(title, headings, rows)


def sweep(
    rows: list[Summary], axes: list[str], record: Record, validation: int
) -> list[Table | str]:
    """Return tables of all settings and of the best of each surrogate, and a line of the best."""
    data, best_row = record["data"], best(rows)
    tested = f"{data['test']:,} test examples ({data['test_from']})"
    caption = (
        f"mean ± deviation of the seeds; {validation:,} validation examples, {tested}"
    )

    def settings(title: str, summaries: Iterable[Summary], *scores: str) -> Table:
        lines = (
            (
                *(label(row.setting[axis]) for axis in axes),
                *(spread(*getattr(row, score)) for score in scores),
                f"{row.n}" + f", {row.diverged} diverged" * bool(row.diverged),
                f"{row.firing_rate:.3f}",
            )
            for row in summaries
        )
        return table(title, (*axes, *scores, "runs", "firing"), lines, caption=caption)

    reached = best_row.validation[0]
    line = (
        f"no setting learned: the highest validation accuracy, {percent(reached)}, is "
        f"{guessing(data['classes'])}"
    )
    if reached >= learnt(data["classes"]):
        setting = setting_label(best_row.setting, axes)
        count = "one run" if best_row.n == 1 else f"{best_row.n} runs"
        score = f"{spread(*best_row.test)} of the test set"
        line = f"best by validation: {setting}, with {score}, {count}"
    surrogates = dict.fromkeys(row.setting["surrogate"] for row in rows)
    return [
        settings(f"{record['options']['data']}, all settings", rows, "validation"),
        settings(
            "chosen by validation, reported on the test set",
            (
                best(row for row in rows if row.setting["surrogate"] == name)
                for name in surrogates
            ),
            *("validation", "test"),
        ),
        line,
    ]


def end(folder: Path, began: float) -> None:
    """Print the files of a run, and the time since ``began``."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    say(f"saved in {folder}: {', '.join(files)}")
    say(f"{time.perf_counter() - began:.1f} s in all")


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure atomically, in the format of its path."""
    write_atomically(
        path, lambda stream: figure.savefig(stream, dpi=dpi, format=path.suffix[1:])
    )
