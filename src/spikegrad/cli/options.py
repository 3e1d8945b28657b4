"""The options of a run, each declared once: the parser, run.json and the checks of ``--resume`` are derived from it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from inspect import cleandoc
from typing import Any

import click
import jax
import numpy as np
from click.core import ParameterSource

from .._struct import domain, lifted
from .._surrogate import Surrogate
from ..data import FORMS, Binning, Split
from ..network._modes import MODES
from ..neurons import LIF, decay_from_tau
from ..surrogates._registry import get
from . import sources
from .networks import CELLS, ENCODINGS, NO_ENCODING, READOUTS, SpikingNetwork
from .outputs import PATH

_LIF = LIF()


def declared(help: str, kind: click.ParamType | None = None, *names: str, absent: Any = None, **click_options) -> Any:
    """Declare a field of a dataclass that is an option of a command.

    Parameters
    ----------
    help : str
        Help text.
    kind : click.ParamType, optional
        Accepted values on the command line and in a record.
    *names : str
        Names as for ``click.option``. By default the name of :func:`option_of`.
    absent : optional
        The value in a record if the option does not apply to the data.
    **click_options
        More arguments of ``click.option``. An option without ``default`` depends on the data.
    """
    return dataclasses.field(
        metadata={"names": names, "kind": kind, "absent": absent, "click": {"help": help, "type": kind} | click_options}
    )


def option_of(name: str) -> str:
    """Return the option for the name of a field."""
    return f"--{name.replace('_', '-')}"


def options_of_class(cls: type, without: Collection[str] = ()) -> Callable[[Callable], Callable]:
    """Add the options that a dataclass declares to a command."""

    def add(function: Callable) -> Callable:
        for field in reversed(dataclasses.fields(cls)):
            if field.name not in without:
                names = field.metadata["names"] or (option_of(field.name),)
                function = click.option(*names, **field.metadata["click"])(function)
        return function

    return add


def check_values(options: Any) -> None:
    """Raise ValueError if a value of a dataclass with declared options, such as from a record, is not permitted."""
    for field in dataclasses.fields(options):
        value, kind, absent = getattr(options, field.name), field.metadata["kind"], field.metadata["absent"]
        if kind is None or value == absent:
            continue
        wanted = None
        if isinstance(kind, click.Choice):
            known = [*kind.choices, *([] if absent is None else [absent])]
            wanted = f"one of {', '.join(known)}" if value not in known else None
        elif kind.min is not None and (value < kind.min or (kind.min_open and value == kind.min)):
            wanted = f"{'above' if kind.min_open else 'at least'} {kind.min:g}"
        elif kind.max is not None and (value > kind.max or (kind.max_open and value == kind.max)):
            wanted = f"{'below' if kind.max_open else 'at most'} {kind.max:g}"
        if wanted:
            raise ValueError(f"{field.name} must be {wanted}, got {value!r:.40}")


@contextmanager
def bad_parameter(option: str | None = None) -> Iterator[None]:
    """Turn invalid values into errors of an option, by default of the option with the running callback."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=option) from None


LARGEST = 3e38
"""About the largest float32. Training converts learning rates, noise and parameters of surrogates to float32."""


def surrogate_of(spec: str) -> Surrogate:
    """Return a surrogate by name. Raise ValueError if float32 cannot hold a parameter."""
    found = get(spec)
    for number in jax.tree.leaves(lifted(found)):
        if abs(number) > LARGEST:
            raise ValueError(f"{spec:.80}: parameters must be at most {LARGEST:g}, got {number!r:.40}")
    return found


def parse_surrogate(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...]) -> Any:
    """Return a surrogate, or several, from names."""
    del ctx, param
    with bad_parameter():
        return surrogate_of(value) if isinstance(value, str) else tuple(map(surrogate_of, value))


def parse_hidden(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Parse sizes of layers, ``N,...``."""
    del ctx, param
    if not re.fullmatch(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*)*", value) or 0 in map(int, value.split(",")):
        raise click.BadParameter(f"{value!r}: pass the neurons of each layer, such as 256,256")
    return tuple(map(int, value.split(",")))


class Command(click.Command):
    """A command that rejects long options with one dash. click reads ``-output`` as ``-o utput``."""

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
        if not re.fullmatch(r"[+-]?\d+", str(value).strip()):
            with suppress(ValueError):
                if (number := float(value)).is_integer():
                    self.fail(f"{value!r} must be in digits: {int(number)}", param, ctx)
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)


class RealRange(click.FloatRange):
    """A range of finite numbers. ``click.FloatRange`` accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not np.isfinite(number):
            self.fail(f"{value} is not finite", param, ctx)
        return number


def parse_taus(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Parse time constants, ``TAU,...``."""
    del ctx, param
    try:
        taus = tuple(map(float, value.split(","))) if value is not None else ()
    except ValueError:
        taus = (0.0,)
    if not all(0 < tau < math.inf for tau in taus):
        raise click.BadParameter(f"{value!r}: pass time constants above 0, in steps, such as 20 or 20,10")
    return taus


POSITIVE = RealRange(0, min_open=True)


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything that determines a run."""

    data: str = declared("Training data (see above).", default="mnist5k", metavar="DATA")
    epochs: int = declared("Passes over the training data.", WholeRange(1), default=40)
    batch: int = declared("Examples per update.", WholeRange(1), default=128)
    hidden: tuple[int, ...] = declared(
        "Neurons of each hidden layer.", default="256,256", callback=parse_hidden, metavar="N,..."
    )
    cell: str = declared("The neurons: LIF, SynapticLIF, AdaptiveLIF.", click.Choice(tuple(CELLS)), default="lif")
    recurrent: bool = declared("Connect the neurons of each hidden layer.", is_flag=True, show_default=False)
    readout: str = declared("Logits from the readout's potentials.", click.Choice(READOUTS), default="mean")
    mode: str = declared("Memory mode of the backward pass (see Network).", click.Choice(tuple(MODES)), default="exact")
    steps: int = declared("Time steps.", WholeRange(1), show_default="8 for images, 100 for events and randman")
    bin: float = declared("Length of a step of events.", POSITIVE, absent=0.0, metavar="MS", show_default="of the data")
    pool: int = declared(
        "Neighboring units of events that share a channel.", WholeRange(1), show_default="4 for dvs128, else 1"
    )
    encoding: str = declared(
        "Images as input over time (see above).", click.Choice(ENCODINGS), absent=NO_ENCODING, show_default="current"
    )
    shift: int = declared(
        "Move training images at random by up to this many pixels.",
        WholeRange(0),
        show_default="2 for mnist5k, else 0",
    )
    input_noise: float = declared(
        "Standard deviation of Gaussian noise added to training recordings.", RealRange(0, LARGEST), default=0.0
    )
    decay: float = declared(
        "Decay factor of the membrane potential per time step.", RealRange(0, 1), default=_LIF.decay
    )
    taus: tuple[float, ...] = declared(
        "Time constants in steps, instead of --decay, for membrane, synapse or adaptation, and readout (see above).",
        callback=parse_taus,
        metavar="TAU,...",
    )
    reset: str = declared(
        "Effect of a spike on the potential.",
        click.Choice(domain(LIF.__dataclass_fields__["reset"]).choices or ()),
        default=_LIF.reset,
    )
    detach_reset: bool = declared(
        "Pass no gradient through the reset.", None, "--detach-reset/--no-detach-reset", default=_LIF.detach_reset
    )
    surrogate: str = declared(
        "Such as 'arctan(alpha=2)'.",
        default=repr(_LIF.surrogate),
        callback=lambda *args: repr(parse_surrogate(*args)),
        metavar="SPEC",
    )
    seed: int = declared("Seed of the split, the weights and the order.", WholeRange(0, 2**32 - 1), default=0)
    lr: float = declared(
        "Initial learning rate (cosine decay to 0).", RealRange(0, LARGEST, min_open=True), default=2e-3
    )

    def __post_init__(self) -> None:
        check_values(self)
        if not self.hidden:
            raise ValueError("hidden must have one layer or more, got none")
        leaks = len(CELLS[self.cell][1])
        if len(self.taus) not in (0, leaks, leaks + 1):
            raise ValueError(
                f"taus must have {leaks} or {leaks + 1} values for the cell {self.cell}, got {len(self.taus)}"
            )

    def network(self, data: Any) -> SpikingNetwork:
        """Return the network for data with this ``shape``, ``classes``, ``low`` and ``high``."""
        kind, names = CELLS[self.cell]
        decays = [decay_from_tau(tau) for tau in self.taus] or [self.decay]
        readout = decays[len(names)] if len(decays) > len(names) else None
        leaks = dict(zip(names, decays, strict=False))
        cell = kind(surrogate=surrogate_of(self.surrogate), reset=self.reset, detach_reset=self.detach_reset, **leaks)
        sizes = (math.prod(data.shape), *self.hidden, data.classes)
        about = (self.steps, self.encoding, self.readout, self.mode, self.recurrent)
        return SpikingNetwork(sizes, cell, *about, readout_decay=readout, low=data.low, high=data.high)

    @property
    def binning(self) -> Binning:
        """The binning of events. Other data only uses its number of time steps."""
        return Binning(self.steps, self.bin * 1000 if self.bin else 1, pool=self.pool)

    def load(self) -> Split:
        """Read the data of the run."""
        return sources.load(self.data, self.seed, self.binning)


def was_given(context: click.Context, name: str) -> bool:
    """Return True if the command line has this option, False for its default."""
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def options_of(context: click.Context, data: str, **given: Any) -> Options:
    """Return the options of a new run, with the defaults of its data. Raise for options that do not apply to it."""
    form = sources.form_of(data)
    timed = form.read is not None
    why = {}
    if timed:
        why |= dict.fromkeys(("encoding", "shift"), f"only images support it, and {data} has a time axis")
    else:
        why["input_noise"] = f"only recordings support it, and {data} lacks a time axis"
    if form.bin_ms is None:
        events = ", ".join(f"{other.name} with times" if other.key else other.name for other in FORMS if other.bin_ms)
        why |= dict.fromkeys(("bin", "pool"), f"only events support it ({events}), and {data} has other values")
    if form.steps is None:
        why["steps"] = f"{data} defines its steps"
    if given["taus"]:
        why["decay"] = "--taus already sets the decay factors"
    for name, reason in why.items():
        if was_given(context, name):
            fix = f"Remove {option_of(name)}" + ("" if name == "decay" else ", or pass other --data")
            raise click.BadParameter(f"{context.params[name]}: {reason}. {fix}", param_hint=f"'{option_of(name)}'")
    defaults = {
        "encoding": NO_ENCODING if timed else "current",
        "shift": form.shift,
        "steps": form.steps or 1,
        "bin": form.bin_ms or 0.0,
        "pool": form.pool,
    }
    given |= {name: value for name, value in defaults.items() if given[name] is None}
    with bad_parameter("'--taus'"):  # click has already checked all other values
        options = Options(data, **given)
    with bad_parameter("'--bin'"):  # it may be infinite in microseconds
        _ = options.binning
    return options


def adapted(options: Options, data: Split) -> tuple[Options, list[str]]:
    """Adapt options to the data. Return them with warnings."""
    n, changed = len(data.train), []
    if options.batch > n:
        changed.append(f"--batch {options.batch} is cut to the {n} training examples")
        options = dataclasses.replace(options, batch=n)
    if options.epochs * (n // options.batch) >= 2**31:
        raise click.BadParameter(f"{options.epochs} are more than 2^31 updates", param_hint="'--epochs'")
    if options.encoding == NO_ENCODING:
        return dataclasses.replace(options, steps=data.train.steps), [*changed, *data.doubts]
    if options.shift and len(data.shape) == 1:
        raise click.BadParameter(
            f"{options.data} has {data.shape[0]} features instead of images to move", param_hint="'--shift'"
        )
    if options.shift and options.shift >= min(data.shape[:2]):
        raise click.BadParameter(
            f"{options.shift} moves an image of {data.shape[0]} x {data.shape[1]} out of sight", param_hint="'--shift'"
        )
    return options, changed


def check_network(network: SpikingNetwork, data: Split) -> None:
    """Raise BadParameter before training if the network cannot run on the data."""
    with bad_parameter("'--surrogate'"):
        network.check(data.shape)


output_option = click.option(
    "--output",
    "-o",
    type=PATH,
    show_default="runs/<date>-<time>",
    help="New or empty folder for the results. The command never overwrites a file.",
)


def resume_option(metavar: str, help: str) -> Callable[[Callable], Callable]:
    return click.option("--resume", type=PATH, metavar=metavar, help=help)


quiet_option = click.option("--quiet", is_flag=True, show_default=False, help="No progress, only the results.")


def with_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """Insert the table of values of ``--data`` into the help."""
    function.__doc__ = cleandoc(function.__doc__ or "").replace("  {sources}", sources.listed())
    return function


def refuse_others(context: click.Context, allowed: tuple[str, ...]) -> None:
    """Raise if an option is passed to a resumed run, except for ``allowed`` ones, which do not affect its result."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in allowed and was_given(context, name):
            raise click.BadParameter(
                f"--resume uses the options of the original run; remove {parameter.opts[0]}", param_hint="'--resume'"
            )
