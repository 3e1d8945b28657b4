"""Output of the command: progress on standard error, tables on standard output."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from rich.table import Table

from .._files import Record, write_atomically

if TYPE_CHECKING:
    # Only for the type checker, because that module imports this one.
    from .tasks import Task

# Brackets of shapes and surrogates are text, not markup.
OUT = Console(markup=False, highlight=False)
NOTES = Console(markup=False, highlight=False, stderr=True)
"""The consoles of results and of progress. ``--quiet`` sets ``NOTES.quiet``."""


class Summary(NamedTuple):
    """The runs of one setting: means with standard deviations, None for a single run."""

    setting: Record
    n: int
    diverged: int
    validation: tuple[float, float | None]
    test: tuple[float, float | None]
    firing_rate: float


def best(rows: Iterable[Summary]) -> Summary:
    """Return the summary with the highest validation accuracy. The test set is not used."""
    return max(rows, key=lambda row: row.validation[0])


def say(*parts: str | Table) -> None:
    """Print lines and tables on standard output."""
    for part in parts:
        # A line of text is not cut, so that its paths and commands can be copied.
        OUT.print(part, soft_wrap=isinstance(part, str))


def note(text: str) -> None:
    """Print a line on standard error, such as the next step of the command."""
    NOTES.print(text, soft_wrap=True)


def accuracy(share: float, n: int) -> str:
    """Format a fraction of n with its 95 % interval by Wilson, which also holds for 0 and 1."""
    z = 1.96**2 / n
    center = share + z / 2
    half = math.sqrt(z * (share * (1 - share) + z / 4))
    # abs, because rounding can make the lower end -0.0
    low = abs(center - half) / (1 + z)
    high = (center + half) / (1 + z)
    return f"{share:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def spread(mean: float, std: float | None) -> str:
    """Format a mean with its standard deviation, if it is known."""
    return f"{mean:.1%}" if std is None else f"{100 * mean:.1f} ± {std:.1%}"


def label(value: object) -> str:
    """Format a value of a setting. Without a value, a surrogate stays unchanged."""
    return "own" if value is None else str(value)


def learnt(classes: int) -> float:
    """Return the least accuracy that counts as learning: 63 % for two classes, 22 % for ten."""
    # Above guessing, 1 / classes, by a factor that grows with the number of classes.
    return classes ** (-2 / 3)


def unknown(
    kind: str, name: str, known: Mapping[str, str], likeness: float = 0.6
) -> str:
    """Return the message for an unknown name.

    ``known`` has the text that the user writes for each name. Names of this likeness, from 0 to 1,
    are proposed first.
    """
    # Two at most, because a longer list would hide the likely one.
    near = difflib.get_close_matches(name, known, 2, likeness)
    proposal = " or ".join(known[other] for other in near)
    hint = f"did you mean {proposal}? Else use" if near else "use"
    return f"unknown {kind} {name!r}: {hint} {', '.join(known.values())}"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on a terminal, or else a line for every tenth of the work.

    Yields
    ------
    callable
        ``show(line, completed, total)``.
    """
    tenth = -1
    # A bar in a file would be a line for each of its states.
    is_bar = NOTES.is_terminal
    columns = "{task.description}", BarColumn(bar_width=16), TimeRemainingColumn()
    with Progress(*columns, console=NOTES, disable=not is_bar) as bar:
        # Without a total the bar pulses, because the time of the compilation is unknown.
        task = bar.add_task("compiling", total=None)

        def show(line: str, completed: int, total: int) -> None:
            nonlocal tenth
            bar.update(task, description=line, completed=completed, total=total)
            # Few lines, as a log of a long run may have days.
            if not is_bar and completed * 10 // total > tenth:
                tenth = completed * 10 // total
                note(line)

        yield show


def setting_label(setting: Record, axes: list[str]) -> str:
    """Format the values of a setting on some axes."""
    return ", ".join(f"{axis} {label(setting[axis])}" for axis in axes)


def table(title: str, headings: Iterable[str], caption: str | None = None) -> Table:
    """Return a table without rows. The first column is aligned to the left."""
    # Without borders, so tables fit a narrow terminal.
    lines = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in headings:
        # The first column has names, the others numbers.
        # Rich would cut a long word at an ellipsis. With "fold" it continues on the next line.
        justify = "right" if lines.columns else "left"
        lines.add_column(heading, justify=justify, overflow="fold")
    return lines


def results(record: Record, parameters: int, task: Task) -> list[Table]:
    """Return the tables at the end of training."""
    options = record["options"]
    data = record["data"]
    networks = record["results"]
    n = data["test"]
    scores = table(
        f"{options['data']}: {data['training']:,} training examples, {n:,} test examples "
        f"({data['test_from']})",
        ("network", task.heading, "training", "epochs", "time"),
        f"spiking: {options['surrogate']}, {options['steps']} steps; seed {options['seed']}; "
        f"{parameters:,} parameters{task.about_interval(n)}",
    )
    for name, result in networks.items():
        epochs = f"{result['epochs']}"
        if result["interrupted"]:
            epochs += f" of {options['epochs']}"
        scores.add_row(
            name,
            task.with_interval(result["test"], n),
            f"{result[task.metric]:.1%}",
            epochs,
            f"{result['seconds']:.1f} s",
        )
    layers = table(
        "spiking layers, on the test set",
        ("layer", "neurons", "spikes a step", "silent"),
    )
    spiking = networks["spiking"]
    for i, neurons in enumerate(options["hidden"]):
        rate = spiking["rates"][i]
        silent = spiking["silent"][i]
        layers.add_row(f"{i + 1}", f"{neurons}", f"{rate:.3f}", f"{silent:.1%}")
    return [scores, layers]


def by_class(
    answers: np.ndarray, y: np.ndarray | None, classes: int, title: str
) -> Table | str:
    """Return the accuracy of each class and of all, or without labels the number of answers."""
    # The classes that the network answered, also if it never answers some of them.
    counts = np.bincount(answers, minlength=classes)
    if y is None:
        return f"{title}\nanswers of each class: {', '.join(map(str, counts))}"
    lines = table(title, ("class", "examples", "right, 95 % interval", "answers"))
    for k, count in enumerate(counts):
        of_class = y == k
        n = int(of_class.sum())
        score = ""
        if n > 0:  # a test set may lack a class
            is_right = answers[of_class] == k
            score = accuracy(is_right.mean(), n)
        lines.add_row(f"{k}", f"{n:,}", score, f"{count:,}")
    n = len(y)
    is_right = answers == y
    lines.add_row("all", f"{n:,}", accuracy(is_right.mean(), n), f"{n:,}")
    return lines


def sweep(
    rows: list[Summary], axes: list[str], record: Record, validation: int
) -> list[Table | str]:
    """Return a table of all settings, and a line of the best."""
    data = record["data"]
    lines = table(
        f"{record['options']['data']}, all settings",
        (*axes, "validation", "runs", "firing"),
        f"mean ± deviation of the seeds; {validation:,} validation examples, "
        f"{data['test']:,} test examples ({data['test_from']})",
    )
    for row in rows:
        runs = f"{row.n}"
        if row.diverged:
            runs += f", {row.diverged} diverged"
        lines.add_row(
            *(label(row.setting[axis]) for axis in axes),
            spread(*row.validation),
            runs,
            f"{row.firing_rate:.3f}",
        )
    chosen = best(rows)
    reached, _ = chosen.validation
    # The best of many settings at the level of guessing is chance, and no setting to recommend.
    if reached < learnt(data["outputs"]):
        line = (
            f"no setting learned: the highest validation accuracy, {reached:.1%}, is close to "
            f"guessing one of {data['outputs']} classes"
        )
    else:
        line = (
            f"best by validation: {setting_label(chosen.setting, axes)}, with "
            f"{spread(*chosen.test)} of the test set, runs: {chosen.n}"
        )
    return [lines, line]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of its path."""
    # A stream has no ending, so without the format Matplotlib would write a PNG.
    write_atomically(path, partial(figure.savefig, dpi=150, format=path.suffix[1:]))
