"""What the command prints: progress on standard error, tables on standard output."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from .learning import Progress
from .streams import Output, spelt

PIPE_WIDTH = 180
"""Columns of a table that goes to a file or another program, where nothing has to fit a screen."""


class _Console(Console):
    """What the stream has to spell is spelt before a table is laid out: it takes more room."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(spelt(text, self.encoding), **options)


def console(stderr: bool = False) -> Console:
    """Where to print. Brackets are text here, never markup."""
    stream = Output(sys.stderr if stderr else sys.stdout, optional=stderr)
    return _Console(
        file=cast(TextIO, stream),
        markup=False,
        highlight=False,
        width=None if stream.isatty() else PIPE_WIDTH,
        soft_wrap=False,
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def accuracy(share: float, n: int) -> str:
    """A share of n with its standard error."""
    return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / n):.1f} %"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def _status(p: Progress, activity: str) -> str:
    parts = [f"loss {p.loss:.3f}" if p.loss < 1000 else f"loss {p.loss:.2e}", f"train {percent(p.accuracy)}"]
    if p.held_out is not None:
        parts.append(f"held out {percent(p.held_out)}")
    parts.append(f"{activity} {p.firing_rate:.2f}")
    if p.seconds_left is not None:  # not before the pace is known
        parts.append(f"{_duration(p.seconds_left)} left")
    return "  ".join(parts)


@contextmanager
def progress(name: str, epochs: int, activity: str, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A live bar on a terminal; elsewhere a line at the start and for every tenth of the way."""
    out = console(stderr=True)
    if quiet:
        yield lambda p: None
    elif out.is_terminal:
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), TextColumn("{task.fields[status]}")]
        if out.width >= 100:
            columns.insert(1, BarColumn(bar_width=16))
        with Bar(*columns, console=out) as bar:
            task = bar.add_task(f"{name}  compiling", status="")

            def show(p: Progress) -> None:
                at = f"{name} {p.epoch:{len(str(epochs))}}/{epochs}"
                bar.update(task, description=at, completed=p.batches, total=p.total, status=_status(p, activity))

            yield show
    else:
        shown = -1

        def line(p: Progress) -> None:
            nonlocal shown
            tenth = p.batches * 10 // p.total
            if tenth > shown:
                shown = tenth
                out.print(f"{name} {p.epoch:{len(str(epochs))}}/{epochs}  {_status(p, activity)}")

        yield line


def results(record: dict[str, Any], options: Any, data: Any, parameters: int) -> list[Table]:
    """The tables at the end of training."""
    n = len(data.y_test)
    networks = Table(
        title=f"{data.name}: {len(data.y_train):,} examples to train on, {n:,} held out ({data.held_out})",
        caption=f"spiking: {options.surrogate}, {options.steps} steps; both: seed {options.seed}",
    )
    networks.add_column("network")
    for heading in ("held out", "training", "parameters", "epochs", "time"):
        networks.add_column(heading, justify="right")
    for name, key in (("spiking", "spiking"), ("ReLU, no spikes", "relu")):
        row = record["results"][key]
        if row is None:
            networks.add_row(name, "not trained", "", f"{parameters:,}", "", "")
            continue
        networks.add_row(
            name,
            accuracy(row["held_out"], n),
            percent(row["accuracy"]),
            f"{parameters:,}",
            f"{row['epochs']}" + (f" of {options.epochs}" if row["interrupted"] else ""),
            f"{row['seconds']:.1f} s",
        )
    layers = Table(title="spiking layers, on the held-out examples")
    for heading in ("layer", "neurons", "spikes per neuron and step", "silent"):
        layers.add_column(heading, justify="right")
    spiking = record["results"]["spiking"]
    for i, (size, rate, silent) in enumerate(zip(options.hidden, spiking["rates"], spiking["silent"], strict=True)):
        layers.add_row(str(i + 1), str(size), f"{rate:.3f}", percent(silent))
    return [networks, layers]


def warnings(spiking: dict[str, Any], classes: int) -> list[str]:
    """Why a network has not learnt, where its activity tells."""
    found = []
    for i, (rate, silent) in enumerate(zip(spiking["rates"], spiking["silent"], strict=True)):
        if silent > 0.5:
            found.append(
                f"layer {i + 1}: {percent(silent)} of the neurons never fire; more steps, a slower decay or a wider "
                "surrogate help"
            )
        elif rate > 0.9:
            found.append(f"layer {i + 1}: {percent(rate)} of all steps are spikes; a faster decay or smaller lr helps")
    if spiking["held_out"] < learnt(classes):
        found.append(f"{percent(spiking['held_out'])} is close to guessing one of {classes} classes")
    return found


def learnt(classes: int) -> float:
    """The accuracy from which on something has been learnt: a share of guesses, and half that share of the rest."""
    return (1 + (1 - 1 / classes) / 2) / classes


def large_losses(results: dict[str, Any], classes: int) -> list[str]:
    """Networks that have learnt less than nothing, although every number is finite."""
    guessing = math.log(classes)
    return [
        f"the loss of {name} is {row['loss']:.3g}, and that of guessing {guessing:.3g}: a smaller lr helps"
        for name, row in (("the spiking network", results["spiking"]), ("the ReLU network", results["relu"]))
        if row is not None and row["loss"] > 10 * guessing
    ]


def _label(value: Any) -> str:
    return "own" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def spread(mean: float, deviation: float) -> str:
    """A mean with its standard deviation, if there is one."""
    return f"{100 * mean:.1f} %" if math.isnan(deviation) else f"{100 * mean:.1f} ± {100 * deviation:.1f} %"


class SweepProgress:
    """How a sweep goes: told of updates and results, it shows nothing."""

    def updates(self, count: int) -> None: ...

    def result(self, result: dict[str, Any]) -> None: ...


class _Lines(SweepProgress):
    """A line for each result, and under them on a terminal a bar over all updates."""

    def __init__(self, out: Console, total: int, axes: list[str], bar: Bar | None, updates: int) -> None:
        self.out, self.total, self.axes, self.bar, self.done = out, total, axes, bar, 0
        self.of_run = updates
        self.task = bar.add_task("compiling", total=total * updates) if bar else None

    def updates(self, count: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=count, description=self._runs())

    def result(self, result: dict[str, Any]) -> None:
        self.done += 1
        if self.bar is not None and self.task is not None:  # it may have been made before, or have diverged
            least = self.done * self.of_run
            completed = max(self.bar.tasks[self.task].completed, least)
            self.bar.update(self.task, completed=completed, description=self._runs())
        setting = "  ".join(f"{'' if axis == 'surrogate' else f'{axis} '}{_label(result[axis])}" for axis in self.axes)
        text = (
            f"{self.done:{len(str(self.total))}}/{self.total}  {setting}  seed {result['seed']}  validation "
            f"{percent(result['validation'])}  {result['seconds']:.1f} s" + ("  diverged" if result["diverged"] else "")
        )
        self.out.print(text, soft_wrap=True)

    def _runs(self) -> str:
        return f"{self.done}/{self.total} runs"


@contextmanager
def sweep_progress(total: int, updates: int, axes: list[str], quiet: bool) -> Iterator[SweepProgress]:
    """Results as they come, and a live bar on a terminal."""
    out = console(stderr=True)
    if quiet:
        yield SweepProgress()
    elif out.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Bar(*columns, console=out) as bar:
            yield _Lines(bar.console, total, axes, bar, updates)
    else:
        yield _Lines(out, total, axes, None, updates)


def sweep(rows: list[Any], chosen: list[Any], best: Any, axes: list[str], data: Any, validation: Any) -> list[Any]:
    """All settings of a sweep; the best ones of each surrogate; and the best one in words."""
    examples = f"{len(validation.y_test):,} examples to choose by, {len(data.y_test):,} held out ({data.held_out})"

    def table(title: str, of: list[Any], told: bool) -> Table:
        table = Table(title=title, caption=examples if told else None)
        for axis in axes:
            table.add_column(axis, justify="left" if axis == "surrogate" else "right", overflow="fold")
        for heading in ("validation", *(["held out"] if told else []), "runs", "firing"):
            table.add_column(heading, justify="right")
        for row in of:
            runs = f"{row.n}" + (f", {row.diverged} diverged" if row.diverged else "")
            table.add_row(
                *(_label(row.setting[axis]) for axis in axes),
                spread(*row.validation),
                *([spread(*row.held_out)] if told else []),
                runs,
                f"{row.firing_rate:.3f}",
            )
        return table

    found: list[Any] = [table(f"{data.name}, all settings", rows, False)]
    found.append(table("chosen by validation, reported on what is held out", chosen, True))
    name = ", ".join(f"{axis} {_label(best.setting[axis])}" for axis in axes)
    runs = "one run" if best.n == 1 else f"{best.n} runs"
    found.append(f"best by validation: {name}; {spread(*best.held_out)} of what is held out, {runs}")
    return found


def saved(out: Console, folder: Path, files: tuple[str, ...], began: float) -> None:
    """The last lines of a command: which of its files are there, and how long it took."""
    there = [name for name in files if (folder / name).exists()]
    out.print(f"saved in {folder}: {', '.join(there) or 'nothing'}", soft_wrap=True)
    out.print(f"{time.perf_counter() - began:.1f} s in all")


def by_class(answers: np.ndarray, y: np.ndarray | None, classes: int, title: str) -> Table:
    """Accuracy of each class and of all; without labels, how often each class was the answer."""
    table = Table(title=title)
    table.add_column("class", justify="right")
    given = np.bincount(answers, minlength=classes)
    if y is None:
        table.add_column("answers", justify="right")
        for label in range(classes):
            table.add_row(str(label), f"{given[label]:,}")
        return table
    for heading in ("examples", "right", "accuracy", "answers", "mistaken for"):
        table.add_column(heading, justify="right")
    for label in range(classes):
        mine = answers[y == label]
        wrong = np.bincount(mine[mine != label], minlength=classes)
        right = int((mine == label).sum())
        mistaken = f"{wrong.argmax()} ({wrong.max()} times)" if wrong.max() else ""
        share = accuracy(right / len(mine), len(mine)) if len(mine) else ""
        table.add_row(str(label), f"{len(mine):,}", f"{right:,}", share, f"{given[label]:,}", mistaken)
    right = int((answers == y).sum())
    table.add_section()
    table.add_row("all", f"{len(y):,}", f"{right:,}", accuracy(right / len(y), len(y)), f"{len(y):,}", "")
    return table
