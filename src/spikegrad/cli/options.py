"""The options of a run: how they are read, what they are by default, and the network that they describe."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from .. import data as datasets
from .._struct import domain
from ..data import Binning
from ..network._modes import MODES
from ..neurons import LIF, decay_from_tau
from ..surrogates._registry import get
from . import sources
from .networks import CELLS, CODINGS, NO_CODING, READOUTS, SpikingNetwork

_LIF = LIF()
_SHIFT = {"mnist5k": 2}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run: all that it depends on.

    ``taus`` are empty where ``decay`` and the cell's own defaults count. ``bin`` is in milliseconds, 0 without events.
    """

    data: str
    surrogate: str
    epochs: int
    seed: int
    batch: int
    hidden: tuple[int, ...]
    steps: int
    coding: str
    lr: float
    shift: int
    decay: float
    reset: str
    detach_reset: bool
    cell: str
    taus: tuple[float, ...]
    recurrent: bool
    readout: str
    mode: str
    bin: float
    pool: int
    noise: float

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r:.40}")
        for name, least in _AT_LEAST.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)!r:.40}")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr!r:.40}")
        if not self.hidden:
            raise ValueError("hidden must have one layer or more, got none")
        leaks = len(CELLS[self.cell][1])
        if len(self.taus) not in (0, leaks, leaks + 1):
            raise ValueError(f"taus of the cell {self.cell} are {leaks} or {leaks + 1}, got {len(self.taus)}")

    def network(self, shape: tuple[int, ...], classes: int) -> SpikingNetwork:
        """The network for examples of this shape; of recordings, that of their channels."""
        kind, names = CELLS[self.cell]
        decays = [decay_from_tau(tau) for tau in self.taus] or [self.decay]
        readout = decays[len(names)] if len(decays) > len(names) else None
        leaks = dict(zip(names, decays, strict=False))
        cell = kind(surrogate=get(self.surrogate), reset=self.reset, detach_reset=self.detach_reset, **leaks)
        sizes = (math.prod(shape), *self.hidden, classes)
        return SpikingNetwork(
            sizes, cell, self.steps, self.coding, self.readout, self.mode, self.recurrent, readout_decay=readout
        )

    @property
    def binning(self) -> Binning:
        """How events are binned; for other data its steps alone count."""
        return Binning(self.steps, self.bin * 1000 if self.bin else 1, pool=self.pool)


_CHOICES = {"coding": (*CODINGS, NO_CODING), "cell": tuple(CELLS), "readout": READOUTS, "mode": tuple(MODES)}
_AT_LEAST = {"epochs": 1, "batch": 1, "steps": 1, "pool": 1, "shift": 0, "bin": 0, "noise": 0}


def parse_surrogate(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...]) -> Any:
    """A surrogate, or several, of their names."""
    del ctx, param
    try:
        return get(value) if isinstance(value, str) else tuple(get(spec) for spec in value)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


def parse_hidden(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Sizes of layers, of ``N,...``."""
    del ctx, param
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", value) or 0 in map(int, value.split(",")):
        raise click.BadParameter(f"{value!r}: give the neurons of each layer, such as 256,256")
    return tuple(map(int, value.split(",")))


class RealRange(click.FloatRange):
    """A finite number: NaN passes every comparison of a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not np.isfinite(number):
            self.fail(f"{value} is not finite", param, ctx)
        return number


def parse_taus(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Time constants, of ``TAU,...``; none if not given."""
    del ctx, param
    try:
        taus = tuple(map(float, value.split(","))) if value is not None else ()
    except ValueError:
        taus = (0.0,)
    if not all(0 < tau < math.inf for tau in taus):
        raise click.BadParameter(f"{value!r}: give time constants above 0, in steps, such as 20 or 20,10")
    return taus


def was_given(context: click.Context, name: str) -> bool:
    """Whether the command line has this option; else its value is the default."""
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def options_of(context: click.Context, data: str, **given: Any) -> Options:
    """The options of a new run, with the defaults of its data; an error for those that do not go with it."""
    form = sources.form_of(data)
    timed = form.read is not None
    why = {}
    if timed:
        why |= dict.fromkeys(("coding", "shift"), f"it goes with images, and {data} has a time axis")
    else:
        why["noise"] = f"it goes with recordings, and {data} has no time axis"
    if form.bin_ms is None:
        why |= dict.fromkeys(("bin", "pool"), f"it goes with events, and {data} has none")
    if form.steps is None:
        why["steps"] = f"{data} has steps of its own"
    if given["taus"]:
        why["decay"] = "--taus say it already"
    for name, reason in why.items():
        if was_given(context, name):
            raise click.BadParameter(f"{context.params[name]}: {reason}", param_hint=f"'--{name}'")
    defaults = {
        "coding": NO_CODING if timed else "current",
        "shift": _SHIFT.get(data, 0),
        "steps": form.steps or 1,
        "bin": form.bin_ms or 0.0,
        "pool": form.pool,
    }
    given |= {name: value for name, value in defaults.items() if given[name] is None}
    try:
        return Options(data, **given)
    except ValueError as error:  # the choices have been made sure of
        raise click.BadParameter(str(error), param_hint="'--taus'") from None


def fitted(options: Options, data: datasets.Data) -> tuple[Options, list[str]]:
    """Options as far as the data permits them, and what was changed."""
    n, changed = len(data.x_train), []
    if options.batch > n:
        changed.append(f"--batch {options.batch} is cut to the {n} training examples")
        options = dataclasses.replace(options, batch=n)
    if options.epochs * (n // options.batch) >= 2**31:
        raise click.BadParameter(f"{options.epochs} are more than 2^31 updates", param_hint="'--epochs'")
    if isinstance(data, sources.Timed):
        return dataclasses.replace(options, steps=data.x_train.shape[1]), [*changed, *data.doubts]
    if options.shift and len(data.shape) == 1:
        raise click.BadParameter(
            f"{data.name} has no images to move, but {data.shape[0]} features", param_hint="'--shift'"
        )
    if options.shift and options.shift >= min(data.shape[:2]):
        raise click.BadParameter(
            f"{options.shift} moves an image of {data.shape[0]} x {data.shape[1]} out of sight", param_hint="'--shift'"
        )
    return options, changed


def check_network(network: SpikingNetwork, data: datasets.Data) -> None:
    """Raise BadParameter before training if the network cannot run on the data."""
    try:
        network.check(data.shape)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="'--surrogate'") from None


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run to a command, those apart that are single for ``train`` and many for ``sweep``."""
    for option in reversed(_TRAINING):
        function = option(function)
    return function


_TRAINING = (
    click.option("--data", default="mnist5k", metavar="DATA", help="What to learn from (see above)."),
    click.option("--epochs", default=40, type=click.IntRange(1), help="Passes over the training data."),
    click.option("--batch", default=128, type=click.IntRange(1), help="Examples per update."),
    click.option(
        "--hidden", default="256,256", callback=parse_hidden, metavar="N,...", help="Neurons of each hidden layer."
    ),
    click.option(
        "--cell", default="lif", type=click.Choice(tuple(CELLS)), help="The neurons: LIF, SynapticLIF, AdaptiveLIF."
    ),
    click.option("--recurrent", is_flag=True, show_default=False, help="Connect the neurons of each hidden layer."),
    click.option(
        "--readout", default="mean", type=click.Choice(READOUTS), help="Logits from the readout's potentials."
    ),
    click.option(
        "--mode",
        default="exact",
        type=click.Choice(tuple(MODES)),
        help="What the backward pass keeps (Network's mode).",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1),
        show_default="8 for images, 100 for events and randman",
        help="Time steps.",
    ),
    click.option(
        "--bin",
        type=RealRange(0, min_open=True),
        metavar="MS",
        show_default="of the data",
        help="Length of a step of events.",
    ),
    click.option(
        "--pool",
        type=click.IntRange(1),
        show_default="4 for dvs128, else 1",
        help="Neighbouring units of events that share a channel.",
    ),
    click.option(
        "--coding", type=click.Choice(CODINGS), show_default="current", help="Images as input over time (see above)."
    ),
    click.option(
        "--shift",
        type=click.IntRange(0),
        show_default="2 for mnist5k, else 0",
        help="Move training images at random by up to this many pixels.",
    ),
    click.option(
        "--noise",
        default=0.0,
        type=RealRange(0),
        help="Deviation of what is added to recordings in training, anew each time.",
    ),
    click.option("--decay", default=_LIF.decay, type=RealRange(0, 1), help="Share of a potential left after a step."),
    click.option(
        "--taus",
        callback=parse_taus,
        metavar="TAU,...",
        help="Time constants in steps, in place of --decay: of membrane, synapse or adaptation, and readout "
        "(see above).",
    ),
    click.option(
        "--reset",
        default=_LIF.reset,
        type=click.Choice(domain(LIF.__dataclass_fields__["reset"]).choices or ()),
        help="What a spike does to the potential.",
    ),
    click.option(
        "--detach-reset/--no-detach-reset", default=_LIF.detach_reset, help="Pass no gradient through the reset."
    ),
)


output_option = click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    show_default="runs/<date>-<time>",
    help="A new or empty folder for the results. Nothing is ever overwritten.",
)
at_once_option = click.option(
    "--at-once", type=click.IntRange(1), show_default="all processors", help="Runs at a time, each in a thread."
)
quiet_option = click.option("--quiet", is_flag=True, show_default=False, help="No progress, only the results.")


def with_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """The help, with the table of what ``--data`` takes."""
    function.__doc__ = cleandoc(function.__doc__ or "").replace("  {sources}", sources.listed())
    return function


def refuse_others(context: click.Context, allowed: tuple[str, ...]) -> None:
    """A run that goes on has its options: none may be given but those that do not matter to it."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in allowed and was_given(context, name):
            raise click.BadParameter(
                f"the run has its own options: leave out {parameter.opts[0]}", param_hint="'--resume'"
            )
