"""The options of a run, each declared once: the parser, the help and run.json follow from it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import get
from .._struct import domain
from ..data import FORMS, Binning, Split
from ..network._modes import MODES
from ..neurons import LIF, decay_from_tau
from . import sources
from .networks import CELLS, ENCODINGS, NO_ENCODING, READOUTS, SpikingNetwork

PATH = click.Path(path_type=Path)
_LIF = LIF()


class Command(click.Command):
    """A command that rejects long options with one dash. click reads ``-out`` as ``-o ut``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        for argument in args:
            name = f"-{argument.partition('=')[0]}"
            if name.startswith("--") and name in known:
                raise click.UsageError(f"No such option {argument!r}, did you mean {name}?")
        return super().parse_args(ctx, args)


class WholeRange(click.IntRange):
    """A range of whole numbers in digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Python's int would reject 1e3 too, but without the fix.
        if not re.fullmatch(r"[+-]?\d+", str(value).strip()):
            with suppress(ValueError):
                if (number := float(value)).is_integer():
                    self.fail(f"{value!r} must be in digits: {int(number)}", param, ctx)
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)


class Numbers(click.ParamType):
    """Numbers above 0 with commas. ``parse`` returns the numbers of an item."""

    name = "numbers"

    def __init__(self, parse: Callable[[str], list[Any]], example: str) -> None:
        self.parse, self.example = parse, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):  # a default
            return value
        try:
            numbers = tuple(number for item in value.split(",") for number in self.parse(item))
        except (ValueError, OverflowError):
            numbers = ()
        if not numbers or not all(0 < number < math.inf for number in numbers):
            self.fail(f"{value!r}: pass numbers above 0, such as {self.example}", param, ctx)
        return numbers


def parse_surrogate(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return the surrogate of a text, or the surrogates of a tuple of texts."""
    del ctx, param
    try:
        return get(value) if isinstance(value, str) else tuple(map(get, value))
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


def option(help: str, kind: Any = None, *names: str, **settings: Any) -> Any:
    """Declare a field as an option of ``click``. Without ``default`` it depends on the data."""
    return dataclasses.field(
        metadata={"names": names, "click": {"help": help, "type": kind} | settings}
    )


def options_of_class(cls: type, without: Collection[str] = ()) -> Callable[[Callable], Callable]:
    """Add the options that a dataclass declares to a command."""

    def add(function: Callable) -> Callable:
        for field in reversed(dataclasses.fields(cls)):
            if field.name not in without:
                names = field.metadata["names"] or (f"--{field.name.replace('_', '-')}",)
                function = click.option(*names, **field.metadata["click"])(function)
        return function

    return add


def choice(names: Collection[str], **settings: Any) -> dict[str, Any]:
    return {"kind": click.Choice(tuple(names)), **settings}


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything that determines a run."""

    data: str = option("Training data (see above).", default="mnist5k", metavar="DATA")
    surrogate: str = option(
        "Such as 'arctan(alpha=2)'.",
        default=repr(_LIF.surrogate),
        callback=lambda *args: repr(parse_surrogate(*args)),
        metavar="SPEC",
    )
    hidden: tuple[int, ...] = option(
        "Neurons of each hidden layer.",
        Numbers(lambda item: [int(item)], "256,256"),
        default="256,256",
        metavar="N,...",
    )
    steps: int = option(
        "Time steps.", WholeRange(1), show_default="8 for images, 100 for events and randman"
    )
    epochs: int = option("Passes over the training data.", WholeRange(1), default=40)
    batch: int = option("Examples per update.", WholeRange(1), default=128)
    lr: float = option(
        "Initial learning rate (cosine decay to 0).",
        click.FloatRange(0, min_open=True),
        default=2e-3,
    )
    seed: int = option(
        "Seed of the split, the weights and the order.", WholeRange(0, 2**32 - 1), default=0
    )
    cell: str = option(
        "The neurons: LIF, SynapticLIF, AdaptiveLIF.", **choice(CELLS, default="lif")
    )
    recurrent: bool = option(
        "Connect the neurons of each hidden layer.", is_flag=True, show_default=False
    )
    readout: str = option(
        "Logits from the readout's potentials.", **choice(READOUTS, default="mean")
    )
    mode: str = option(
        "Memory mode of the backward pass (see Network).", **choice(MODES, default="exact")
    )
    bin: float = option(
        "Length of a step of events.",
        click.FloatRange(0, min_open=True),
        metavar="MS",
        show_default="of the data",
    )
    pool: int = option(
        "Neighboring units of events that share a channel.",
        WholeRange(1),
        show_default="4 for dvs128, else 1",
    )
    encoding: str = option(
        "Images as input over time (see above).", **choice(ENCODINGS, show_default="current")
    )
    shift: int = option(
        "Move training images at random by up to this many pixels.",
        WholeRange(0),
        show_default="2 for mnist5k, else 0",
    )
    input_noise: float = option(
        "Standard deviation of Gaussian noise added to training recordings.",
        click.FloatRange(0),
        default=0.0,
    )
    decay: float = option(
        "Decay factor of the membrane potential per time step.",
        click.FloatRange(0, 1),
        default=_LIF.decay,
    )
    taus: tuple[float, ...] = option(
        "Time constants in steps, instead of --decay, for membrane, synapse or adaptation, and "
        "readout (see above).",
        Numbers(lambda item: [float(item)], "20 or 20,10, in steps"),
        default=(),
        show_default=False,
        metavar="TAU,...",
    )
    reset: str = option(
        "Effect of a spike on the potential.",
        **choice(domain(LIF.__dataclass_fields__["reset"]).choices or (), default=_LIF.reset),
    )
    detach_reset: bool = option(
        "Pass no gradient through the reset.",
        None,
        "--detach-reset/--no-detach-reset",
        default=_LIF.detach_reset,
    )

    def __post_init__(self) -> None:
        count = len(CELLS[self.cell][1])
        if len(self.taus) not in (0, count, count + 1):
            raise click.BadParameter(
                f"taus must have {count} or {count + 1} values for the cell {self.cell}, "
                f"got {len(self.taus)}",
                param_hint="'--taus'",
            )

    def network(self, data: Any) -> SpikingNetwork:
        """Return the network for data with this ``shape``, ``classes``, ``low`` and ``high``."""
        kind, names = CELLS[self.cell]
        decays = [decay_from_tau(tau) for tau in self.taus] or [self.decay]
        cell = kind(
            surrogate=get(self.surrogate),
            reset=self.reset,
            detach_reset=self.detach_reset,
            **dict(zip(names, decays, strict=False)),
        )
        return SpikingNetwork(
            (math.prod(data.shape), *self.hidden, data.classes),
            cell,
            self.steps,
            self.encoding,
            self.readout,
            self.mode,
            self.recurrent,
            readout_decay=decays[-1] if len(decays) > len(names) else decays[0],
            low=data.low,
            high=data.high,
        )

    @property
    def binning(self) -> Binning:
        """The binning of events. Other data only uses its number of time steps."""
        return Binning(self.steps, self.bin * 1000 or 1, pool=self.pool)

    def load(self) -> Split:
        """Read the data of the run."""
        return sources.load(self.data, self.seed, self.binning)


def options_of(context: click.Context, data: str, **values: Any) -> Options:
    """Return the options of a new run. Defaults depend on the data.

    Raises
    ------
    click.BadParameter
        If the command line has an option that does not apply to the data.
    """
    form = sources.form_of(data)
    timed = form.read is not None
    names = (
        f"{other.name} with times" if other.key else other.name for other in FORMS if other.bin_ms
    )
    events = f"events ({', '.join(names)})"
    applies: dict[Any, tuple[str, Any]] = {
        "encoding": ("images", not timed),
        "shift": ("images", not timed),
        "input_noise": ("recordings", timed),
        "bin": (events, form.bin_ms),
        "pool": (events, form.bin_ms),
        "steps": ("images, events and tasks of any length", form.steps),
        "decay": ("runs without --taus", not values["taus"]),
    }
    for parameter in passed(context):
        kind, is_valid = applies.get(parameter.name, ("", True))
        if not is_valid:
            name = parameter.opts[0]
            other = "" if name == "--decay" else f", or change --data {data}"
            raise click.BadParameter(
                f"only {kind} support it. Remove {name}{other}", param_hint=f"'{name}'"
            )
    # click has None for options that are not passed and have no default of their own.
    defaults = {
        "encoding": NO_ENCODING if timed else "current",
        "shift": form.shift,
        "steps": form.steps or 1,
        "bin": form.bin_ms or 0.0,
        "pool": form.pool,
    }
    return Options(
        data,
        **values | {name: value for name, value in defaults.items() if values[name] is None},
    )


def adapted(options: Options, data: Split) -> tuple[Options, list[str]]:
    """Adapt options to the data. Return them with warnings."""
    count, warnings = len(data.train), list(data.doubts)
    if options.batch > count:
        warnings.append(f"--batch {options.batch} is cut to the {count} training examples")
        options = dataclasses.replace(options, batch=count)
    if options.encoding == NO_ENCODING:
        # Recordings define their number of steps.
        options = dataclasses.replace(options, steps=data.train.steps)
    elif options.shift and len(data.shape) == 1:
        raise click.BadParameter(
            f"{options.data} has {data.shape[0]} features instead of images to move",
            param_hint="'--shift'",
        )
    return options, warnings


output_option = click.option(
    "--output",
    "-o",
    type=PATH,
    show_default="runs/<date>-<time>",
    help="New or empty folder for the results. The command never overwrites a file.",
)
quiet_option = click.option(
    "--quiet", is_flag=True, show_default=False, help="No progress, only the results."
)


def resume_option(metavar: str, help: str) -> Callable[[Callable], Callable]:
    return click.option("--resume", type=PATH, metavar=metavar, help=help)


def with_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """Insert the table of values of ``--data`` into the help."""
    table = sources.listed()
    function.__doc__ = cleandoc(function.__doc__ or "").replace("  {sources}", table)
    return function


def passed(context: click.Context) -> list[click.Parameter]:
    """Return the options of the command line, without defaults."""
    return [
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
    ]


def refuse_others(context: click.Context, *allowed: str) -> None:
    """Raise if an option of a resumed run affects its result."""
    for parameter in passed(context):
        if parameter.name not in allowed:
            raise click.BadParameter(
                f"--resume uses the options of the original run; remove {parameter.opts[0]}",
                param_hint="'--resume'",
            )


# --- files that --output names ---

force_option = click.option("--force", is_flag=True, help="Overwrite the file that --output names.")


def of_run(output: str) -> Callable[[Callable], Callable]:
    """Add the arguments of a command that reads a run and data, and may write a file."""

    def add(function: Callable) -> Callable:
        function = click.option("--output", "-o", type=PATH, help=output)(force_option(function))
        function = click.argument("data", metavar="[DATA]", required=False)(function)
        return click.argument("run", type=PATH)(function)

    return add


def check_output(path: Path, endings: tuple[str, ...], force: bool, *reads: Path) -> None:
    """Raise before the work if a file may not be written."""
    problem = None
    if path.suffix not in endings:
        problem = f"{path} must end in {' or '.join(endings)}"
    elif not path.parent.is_dir():
        problem = f"{path} cannot be written: the folder {path.parent} does not exist"
    elif path.exists() and any(other.exists() and path.samefile(other) for other in reads):
        problem = f"{path} is also an input. Choose another file"
    elif path.exists() and not force:
        problem = f"{path} exists; pass --force to overwrite it"
    if problem:
        raise click.BadParameter(problem, param_hint="'--output'")
