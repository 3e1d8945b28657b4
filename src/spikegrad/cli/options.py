"""The options of a run, each declared once: the parser, the help and run.json follow from it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import click
from click.core import ParameterSource

from .. import get
from .._struct import domain
from .._surrogate import Surrogate
from ..data import Binning, Split
from ..network import MODES
from ..neurons import LIF, decay_from_tau
from . import sources, tables
from .networks import CELLS, ENCODINGS, NO_ENCODING, READOUTS, SpikingNetwork
from .tasks import EACH

SECTIONS = {
    "--data": "Data",
    "--surrogate": "Network",
    "--half-width": "Network",
    "--epochs": "Training",
    "--seeds": "Training",
    "--output": "Output",
    "--distributed": "Several machines",
    "-h": "Other",
}
"""The sections of a help text, by the option with which each begins."""
COUNT = click.IntRange(1)
POSITIVE = click.FloatRange(0, min_open=True)
UNUSED = {
    "steps": 1,
    "encoding": NO_ENCODING,
    "bin": 0.0,
    "pool": 1,
    "shift": 0,
    "input_noise": 0.0,
    "readout": EACH,
}
"""The options that only some data have, with the values for other data."""
LEARNING_RATE = 2e-3
"""The default of ``--lr``: 5,000 images reach their best accuracy within 40 epochs."""
LISTS = ("N,...", "TAU,...", "SPEC,...", "RANGE")
"""The values of options that take several values, divided by commas, as the help shows them."""
_LIF = LIF()


def numbers(kind: type, example: str) -> Callable[[str], tuple]:
    """Return a parser of numbers above 0 and of ranges, with commas."""

    # A function and not a type of click, which would name the type and not an example.
    def parse(text: str) -> tuple:
        # All that fails has one message: no number, a factor of 1, a range that does not end.
        with suppress(ValueError, ArithmeticError):
            values = tuple(kind(x) for item in text.split(",") for x in _range(item))
            # NaN fails both comparisons.
            if values and all(0 < value < math.inf for value in values):
                return values
        raise click.BadParameter(f"{text!r}: pass numbers above 0, such as {example}")

    return parse


def _range(item: str) -> list[float]:
    """Return the numbers of ``X`` or ``FROM:TO:xFACTOR``."""
    parts = item.replace(":x", ":").split(":")
    first, *rest = map(float, parts)
    if not rest:
        return [first]
    # Another number of parts is a ValueError, which the parser reports.
    last, factor = rest
    # Rounded, so the last value is included in spite of errors.
    exact_steps = math.log(last / first) / math.log(factor)
    steps = int(round(exact_steps, 9))
    # With 12 digits, the second value of 0.1:0.9:x3 is 0.3 and not 0.30000000000000004.
    return [float(f"{first * factor**i:.12g}") for i in range(steps + 1)]


def parse_surrogate(text: str) -> Surrogate:
    """Return the surrogate of a text."""
    try:
        return get(text)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


class Command(click.Command):
    """A command whose help has its options in sections."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A copy, because click removes the words that it parses from ``args``.
        words = [*args]
        ctx.allow_extra_args = True  # the message of click has no fix
        extra = super().parse_args(ctx, args)
        if extra:
            raise click.UsageError(self._about_extra(words, extra[0]))
        return extra

    def _about_extra(self, words: list[str], extra: str) -> str:
        """Return the message for a word that follows the value of an option."""
        # A shell divides a command line at spaces, so the values after the first one are extra.
        for parameter in self.params:
            name = parameter.opts[0]
            if parameter.metavar not in LISTS or name not in words:
                continue
            after = words[words.index(name) + 1 :]
            values = [*itertools.takewhile(lambda word: word[:1] != "-", after)]
            if extra in values[1:]:
                return (
                    f"{name} must have commas between its values, got {' '.join(values)}. Write "
                    f"{name} {','.join(values)}"
                )
        return f"unexpected argument {extra}. Write an option before it, such as --data {extra}"

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the sections in the order of their first options."""
        # In the order of first use, because click adds its own options at the end.
        sections: dict[str, list[tuple[str, str]]] = {}
        section = "Options"
        for parameter in self.get_params(ctx):
            section = SECTIONS.get(parameter.opts[0], section)
            # Hidden options have no line.
            if line := parameter.get_help_record(ctx):
                sections.setdefault(section, []).append(line)
        for section, lines in sections.items():
            with formatter.section(section):
                formatter.write_dl(lines)


def option(help: str, kind: Any = None, **settings: Any) -> Any:
    """Declare a field as an option of ``click``. Without ``default`` it depends on the data."""
    return dataclasses.field(
        metadata={"click": {"help": help, "type": kind} | settings}
    )


def options_of_class(cls: type) -> list[click.Parameter]:
    """Return the options that a dataclass declares."""
    return [
        click.Option([f"--{field.name.replace('_', '-')}"], **field.metadata["click"])
        for field in dataclasses.fields(cls)
    ]


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything that determines a run. Its record has the name ``file``."""

    # Without an annotation it is no field, so it is no option either.
    file = "run.json"

    data: str = option(
        "Training data, see spikegrad data.", default="mnist5k", metavar="DATA"
    )
    steps: int = option(
        "Time steps.", COUNT, show_default="8 for images, 100 for events and randman"
    )
    encoding: str = option(
        "Images as input over time (see above).",
        click.Choice(ENCODINGS),
        show_default="current",
    )
    bin: float = option(
        "Length of a step of events.",
        POSITIVE,
        metavar="MS",
        show_default="of the data",
    )
    pool: int = option(
        "Neighboring units of events that share a channel.",
        COUNT,
        show_default="4 for dvs128, else 1",
    )
    shift: int = option(
        "Move training images at random by up to this many pixels.",
        click.IntRange(0),
        show_default="2 for mnist5k, else 0",
    )
    input_noise: float = option(
        "Standard deviation of Gaussian noise added to training recordings.",
        click.FloatRange(0),
        default=0.0,
    )
    surrogate: str = option(
        "The slope, such as 'arctan(alpha=2)', see spikegrad list.",
        # In full, so a record also has the parameters that a default sets.
        lambda text: repr(parse_surrogate(text)),
        default=repr(_LIF.surrogate),
        metavar="SPEC",
    )
    hidden: tuple[int, ...] = option(
        "Neurons of each hidden layer.",
        numbers(int, "256,256"),
        default="256,256",
        metavar="N,...",
    )
    cell: str = option(
        "The neurons: LIF, SynapticLIF, AdaptiveLIF.",
        click.Choice(tuple(CELLS)),
        default="lif",
    )
    recurrent: bool = option("Connect the neurons of each hidden layer.", is_flag=True)
    readout: str = option(
        "Logits from the readout's potentials.",
        click.Choice(READOUTS),
        show_default="mean",
    )
    taus: tuple[float, ...] = option(
        "Time constants in steps, of membrane, synapse or adaptation, and readout (see above).",
        numbers(float, "20 or 20,10, in steps"),
        show_default="those of the cell",
        metavar="TAU,...",
    )
    reset: str = option(
        "Effect of a spike on the potential.",
        click.Choice(domain(LIF.__dataclass_fields__["reset"]).choices or ()),
        default=_LIF.reset,
    )
    detach_reset: bool = option("Pass no gradient through the reset.", is_flag=True)
    epochs: int = option("Passes over the training data.", COUNT, default=40)
    batch: int = option("Examples per update.", COUNT, default=128)
    lr: float = option(
        "Initial learning rate (cosine decay to 0).",
        POSITIVE,
        default=LEARNING_RATE,
    )
    seed: int = option(
        "Seed of the split, the weights and the order.",
        # Without its 64-bit mode JAX takes a seed modulo 2**32, so a larger one repeats weights.
        click.IntRange(0, 2**32 - 1),
        default=0,
    )
    mode: str = option(
        "Memory mode of the backward pass (see Network).",
        click.Choice(tuple(MODES)),
        default="exact",
    )

    def __post_init__(self) -> None:
        """Check the number of time constants."""
        # One for each decay of the cell, and maybe one more for the readout.
        _, decays = CELLS[self.cell]
        count = len(decays)
        if len(self.taus) not in (0, count, count + 1):
            raise click.BadParameter(
                f"taus must have {count} or {count + 1} values for the cell {self.cell}, "
                f"got {len(self.taus)}"
            )

    def network(self, data: Split | SimpleNamespace) -> SpikingNetwork:
        """Return the network for data with this ``shape``, ``outputs``, ``low`` and ``high``."""
        kind, names = CELLS[self.cell]
        # For steps of length 1, because users give time constants in steps.
        decays = [decay_from_tau(tau) for tau in self.taus]
        cell = kind(
            surrogate=get(self.surrogate),
            reset=self.reset,
            detach_reset=self.detach_reset,
            # Without --taus the cell has its defaults. One more value than names is the readout's.
            **dict(zip(names, decays, strict=False)),
        )
        readout_decay = decays[-1] if len(decays) > len(names) else cell.decay
        # Channels of an image or a camera are connected like any other inputs.
        inputs = math.prod(data.shape)
        return SpikingNetwork(
            (inputs, *self.hidden, data.outputs),
            cell,
            self.steps,
            self.encoding,
            self.readout,
            self.mode,
            self.recurrent,
            readout_decay=readout_decay,
            low=data.low,
            high=data.high,
        )

    @property
    def binning(self) -> Binning:
        """The binning of events. Other data only uses its number of time steps."""
        # Other data has no length of a step, and a binning needs one above 0.
        step_us = 1000 * self.bin if self.bin else 1
        return Binning(self.steps, step_us, pool=self.pool)

    def load(self) -> Split:
        """Read the data of the run."""
        return sources.load(self.data, self.seed, self.binning)

    def adapted(self, data: Split) -> Self:
        """Adapt batch and steps to the data, which define the steps of recordings."""
        # A run of few examples is a trial, and needs no options to start.
        batch = min(self.batch, len(data.train))
        steps = data.train.steps if self.encoding == NO_ENCODING else self.steps
        return dataclasses.replace(self, batch=batch, steps=steps)


def options_of(
    context: click.Context, kind: type[Options], data: str, **values: Any
) -> Options:
    """Return the options of a new run. Defaults depend on the data.

    Raises
    ------
    click.BadParameter
        If the command line has an option that does not apply to the data.
    """
    form = sources.form_of(data)
    # An option without an effect would be recorded as if it had one.
    refuse(context, UNUSED.keys() - form.options, f"--data {data} does not support it")
    # A value that the data does not use is recorded as its neutral value.
    defaults = UNUSED | form.options
    # click has None for options that are not passed and have no default of their own. Without a
    # default of the data either, they are lists, such as time constants.
    values = {
        name: defaults.get(name, ()) if value is None else value
        for name, value in values.items()
    }
    return kind(data, **values)


def refuse(context: click.Context, names: Collection[str | None], why: str) -> None:
    """Raise if the command line has one of these options."""
    for parameter in context.command.params:
        # Values of the command line alone, because a default is not a decision of the user.
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{why}. Remove {parameter.opts[0]}")


output_option = click.option(
    "--output",
    "-o",
    type=Path,
    show_default="runs/<date>-<time>",
    help="New folder for the results. The command never overwrites a file.",
)
resume_option = click.option(
    "--resume",
    type=Path,
    metavar="FOLDER",
    help="Resume an interrupted run or sweep with its original options. The result is "
    "bit-identical.",
)
quiet_option = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    # On the console and not as an argument, which all functions would pass on.
    callback=lambda _, parameter, quiet: setattr(tables.NOTES, "quiet", quiet),
    help="No progress, only the results.",
)


def output_file(
    help: str, *endings: str, **settings: Any
) -> Callable[[Callable], Callable]:
    """Add ``--output`` for a file. Its ending is checked before the work."""

    def path(text: str) -> Path:
        # The ending decides the format, and an old result is never replaced.
        if not text.endswith(endings):
            raise click.BadParameter(f"{text} must end in {' or '.join(endings)}")
        if Path(text).exists():
            raise click.BadParameter(f"{text} exists. Choose a new file")
        return Path(text)

    return click.option("--output", "-o", type=path, help=help, **settings)


def of_run(function: Callable) -> Callable:
    """Add the arguments of a command that reads a run and data."""
    function = click.argument("data", metavar="[DATA]", required=False)(function)
    return click.argument("run", type=Path)(function)
