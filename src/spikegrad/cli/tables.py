"""Output of the command: progress on standard error, tables on standard output."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ..training import Report
from .streams import Output, spelt
from .trainer import Reporter

PIPE_WIDTH = 180
"""Width of a table in a file or a pipe."""


class _Console(Console):
    """A console that replaces characters that the stream lacks before layout, because replacements are wider."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(spelt(text, self.encoding), **options)


def console(stderr: bool = False) -> Console:
    """Return a console. Brackets are text, not markup."""
    stream = Output(sys.stderr if stderr else sys.stdout, optional=stderr)
    return _Console(
        file=cast(TextIO, stream),
        markup=False,
        highlight=False,
        width=None if stream.isatty() else PIPE_WIDTH,
        soft_wrap=False,
    )


def note(text: str, quiet: bool = False) -> None:
    """Print the next step of the command, which takes seconds."""
    if not quiet:
        console(stderr=True).print(text, soft_wrap=True)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def accuracy(share: float, n: int) -> str:
    """Format a fraction of n with its 95 % interval, by Wilson's formula, which also holds for 0 and 1."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # rounding can make the lower end -0.0
    return f"{percent(share)} ({100 * abs(middle - half):.1f}-{100 * (middle + half):.1f})"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def _status(now: Report, test: float | None, activity: str) -> str:
    loss, accuracy = (float(now.epoch_metrics[name]) for name in ("loss", "accuracy"))
    parts = [f"loss {loss:.3f}" if loss < 1000 else f"loss {loss:.2e}", f"train {percent(accuracy)}"]
    if test is not None:
        parts.append(f"test {percent(test)}")
    parts.append(f"{activity} {now.epoch_metrics['rates'].mean():.2f}")
    if now.seconds_left is not None:  # unknown before the second call
        parts.append(f"{_duration(now.seconds_left)} left")
    return "  ".join(parts)


@contextmanager
def progress(name: str, epochs: int, activity: str, quiet: bool) -> Iterator[Reporter]:
    """Show a live bar on a terminal, or else a line at the start and for every tenth of the updates."""
    out, shown = console(stderr=True), -1
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), TextColumn("{task.fields[status]}")]
    if out.width >= 100:
        columns.insert(1, BarColumn(bar_width=16))
    with Bar(*columns, console=out, disable=quiet or not out.is_terminal) as bar:
        task = bar.add_task(f"{name}  compiling", status="")

        def show(now: Report, test: float | None) -> None:
            nonlocal shown
            at, total = f"{name} {now.epoch:{len(str(epochs))}}/{epochs}", now.total or now.step
            status, tenth = _status(now, test, activity), now.step * 10 // total
            bar.update(task, description=at, completed=now.step, total=total, status=status)
            if bar.disable and not quiet and tenth > shown:
                shown = tenth
                out.print(f"{at}  {status}")

        yield show


def table(title: str | None, left: Iterable[str], right: Iterable[str], **more: Any) -> Table:
    """Return a table with columns aligned to the left, then to the right."""
    found = Table(title=title, **more)
    for heading in left:
        found.add_column(heading, overflow="fold")
    for heading in right:
        found.add_column(heading, justify="right")
    return found


def results(record: dict[str, Any], parameters: int) -> list[Table]:
    """Return the tables at the end of training."""
    options, data = record["options"], record["data"]
    n = data["test"]
    networks = table(
        f"{options['data']}: {data['training']:,} training examples, {n:,} test examples ({data['test_from']})",
        ["network"],
        ("test, 95 % interval", "training", "parameters", "epochs", "time"),
        caption=f"spiking: {options['surrogate']}, {options['steps']} steps; both: seed {options['seed']}",
    )
    for name, key in (("spiking", "spiking"), ("ReLU", "relu")):
        row = record["results"][key]
        if row is None:
            networks.add_row(name, "not trained", "", f"{parameters:,}", "", "")
            continue
        networks.add_row(
            name,
            accuracy(row["test"], n),
            percent(row["accuracy"]),
            f"{parameters:,}",
            f"{row['epochs']}" + (f" of {options['epochs']}" if row["interrupted"] else ""),
            f"{row['seconds']:.1f} s",
        )
    headings = ("layer", "neurons", "spikes per neuron and step", "silent")
    layers = table("spiking layers, on the test set", (), headings)
    spiking = record["results"]["spiking"]
    for i, (size, rate, silent) in enumerate(zip(options["hidden"], spiking["rates"], spiking["silent"], strict=True)):
        layers.add_row(str(i + 1), str(size), f"{rate:.3f}", percent(silent))
    return [networks, layers]


def warnings(spiking: dict[str, Any], classes: int) -> list[str]:
    """Return warnings about activity and accuracy."""
    found = []
    for i, (rate, silent) in enumerate(zip(spiking["rates"], spiking["silent"], strict=True)):
        if silent > 0.5:
            found.append(
                f"layer {i + 1}: {percent(silent)} of the neurons never fire. Use more steps, a slower decay or a "
                "wider surrogate"
            )
        elif rate > 0.9:
            found.append(f"layer {i + 1}: {percent(rate)} of all steps are spikes. Use a faster decay or smaller lr")
    if spiking["test"] < learnt(classes):
        found.append(f"{percent(spiking['test'])} is {_guessing(classes)}")
    return found


def _guessing(classes: int) -> str:
    return f"close to guessing one of {classes} classes"


def learnt(classes: int) -> float:
    """Return the least accuracy that counts as learning, such as 63 % for two classes and 22 % for ten."""
    return classes ** (-2 / 3)


def large_losses(results: dict[str, Any], classes: int) -> list[str]:
    """Return warnings about losses far above guessing."""
    guessing = math.log(classes)
    return [
        f"the loss of {name} is {row['loss']:.3g}, and guessing gives {guessing:.3g}. Use a smaller lr"
        for name, row in (("the spiking network", results["spiking"]), ("the ReLU network", results["relu"]))
        if row is not None and row["loss"] > 10 * guessing
    ]


def label(value: Any) -> str:
    return "own" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def spread(mean: float, deviation: float) -> str:
    """Format a mean with its standard deviation, if it is known."""
    return f"{100 * mean:.1f} %" if math.isnan(deviation) else f"{100 * mean:.1f} ± {100 * deviation:.1f} %"


class SweepProgress:
    """A line for each result, and on a terminal a bar over all updates below them."""

    def __init__(self, bar: Bar, total: int, updates: int, axes: list[str], quiet: bool) -> None:
        self.bar, self.total, self.of_run, self.axes, self.quiet, self.done = bar, total, updates, axes, quiet, 0
        self.task = bar.add_task("compiling", total=total * updates)

    def updates(self, count: int) -> None:
        """Add updates. It is called in the threads of the runs."""
        self.bar.update(self.task, advance=count, description=f"{self.done}/{self.total} runs")

    def result(self, result: dict[str, Any]) -> None:
        """Add the result of a run."""
        self.done += 1
        completed = max(self.bar.tasks[self.task].completed, self.done * self.of_run)  # it may be from a resumed sweep
        self.bar.update(self.task, completed=completed, description=f"{self.done}/{self.total} runs")
        setting = "  ".join(f"{'' if axis == 'surrogate' else f'{axis} '}{label(result[axis])}" for axis in self.axes)
        text = (
            f"{self.done:{len(str(self.total))}}/{self.total}  {setting}  seed {result['seed']}  validation "
            f"{percent(result['validation'])}  {result['seconds']:.1f} s" + ("  diverged" if result["diverged"] else "")
        )
        if not self.quiet:
            self.bar.console.print(text, soft_wrap=True)


@contextmanager
def sweep_progress(total: int, updates: int, axes: list[str], quiet: bool) -> Iterator[SweepProgress]:
    """Show results as runs end, and a live bar on a terminal."""
    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=out, disable=quiet or not out.is_terminal) as bar:
        yield SweepProgress(bar, total, updates, axes, quiet)


def sweep(
    rows: list[Any], chosen: list[Any], best: Any, axes: list[str], record: dict[str, Any], validation: int
) -> list[Any]:
    """Return tables of all settings and of the best setting of each surrogate, and a line about the best setting."""
    data = record["data"]
    examples = f"{validation:,} validation examples, {data['test']:,} test examples ({data['test_from']})"

    def settings(title: str, of: list[Any], told: bool) -> Table:
        left = [axis for axis in axes if axis == "surrogate"]
        right = [*axes[len(left) :], "validation", *(["test"] if told else []), "runs", "firing"]
        found = table(title, left, right, caption=examples if told else None)
        for row in of:
            runs = f"{row.n}" + (f", {row.diverged} diverged" if row.diverged else "")
            found.add_row(
                *(label(row.setting[axis]) for axis in axes),
                spread(*row.validation),
                *([spread(*row.test)] if told else []),
                runs,
                f"{row.firing_rate:.3f}",
            )
        return found

    found: list[Any] = [settings(f"{record['options']['data']}, all settings", rows, False)]
    found.append(settings("chosen by validation, reported on the test set", chosen, True))
    name = ", ".join(f"{axis} {label(best.setting[axis])}" for axis in axes)
    runs = "one run" if best.n == 1 else f"{best.n} runs"
    reached, classes = best.validation[0], data["classes"]
    if reached < learnt(classes):
        found.append(
            f"no setting learned: the highest validation accuracy, {percent(reached)}, is {_guessing(classes)}"
        )
    else:
        found.append(f"best by validation: {name}, with {spread(*best.test)} of the test set, {runs}")
    return found


def by_class(answers: np.ndarray, y: np.ndarray | None, classes: int, title: str) -> Table:
    """Return the accuracy of each class and of all classes, or without labels the number of answers."""
    given = np.bincount(answers, minlength=classes)
    if y is None:
        found = table(title, (), ("class", "answers"))
        for label in range(classes):
            found.add_row(str(label), f"{given[label]:,}")
        return found
    found = table(title, (), ("class", "examples", "right", "accuracy, 95 % interval", "answers", "mistaken for"))
    for label in range(classes):
        mine = answers[y == label]
        wrong = np.bincount(mine[mine != label], minlength=classes)
        right = int((mine == label).sum())
        mistaken = f"{wrong.argmax()} ({wrong.max()} times)" if wrong.max() else ""
        share = accuracy(right / len(mine), len(mine)) if len(mine) else ""
        found.add_row(str(label), f"{len(mine):,}", f"{right:,}", share, f"{given[label]:,}", mistaken)
    right = int((answers == y).sum())
    found.add_section()
    found.add_row("all", f"{len(y):,}", f"{right:,}", accuracy(right / len(y), len(y)), f"{len(y):,}", "")
    return found
