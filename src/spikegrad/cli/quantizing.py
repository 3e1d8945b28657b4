"""The command ``quantize``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..data import DataError, Split
from ..integers import TARGETS, QuantizationReport, quantize, replay, save, to_c
from ..training import partition
from . import runs, tables, trainer
from .networks import SpikingNetwork
from .options import COUNT, quiet_option

# On other chips the readout fires too, but not in the command.
CHOICES = [name for name, cell in TARGETS.items() if not cell.is_synaptic]
bits_option = click.option(
    "--bits", type=COUNT, default=8, help="Bits of a weight of integers."
)


@click.argument("run", type=Path)
@click.option(
    "--target",
    type=click.Choice(CHOICES),
    required=True,
    help="Arithmetic and limits.",
)
@bits_option
@click.option(
    "--epochs",
    type=click.IntRange(0),
    default=0,
    help="Train the integers on, at a third of the learning rate of the run.",
)
@quiet_option
def convert(run: Path, target: str, bits: int, epochs: int) -> None:
    """Convert a trained run to the integers of a chip, or of C.

    RUN is the folder that train wrote, with --reset value for loihi. Its inputs must be integers:
    images with --encoding rate or latency, or recordings of events. Writes network.json (all
    integers) and network.c with network.h (a program in C99) to the folder RUN/<target>-<bits>, and
    prints the report and the test accuracy before and after.
    """
    saved = runs.read(run)
    network = saved.network
    params = saved.params
    options = saved.options
    split = options.load()

    def accuracy(params: Any) -> str:
        return f"{trainer.score(network, params, split.test).metric:.1%}"

    accuracies = f"{accuracy(params)} in real numbers"
    params, report = converted(network, params, split, target, bits)
    accuracies += f", {accuracy(params)} in integers"
    # Before minutes of training.
    with runs.claimed(run / f"{target}-{bits}") as folder:
        if epochs:
            # A smaller learning rate, because the network has learned already.
            settings = dataclasses.replace(options, epochs=epochs, lr=options.lr / 3)
            trainable, _ = partition(params)
            params, _ = trainer.fit(network, trainable, split, settings)
            accuracies += f", {accuracy(params)} trained on for {epochs} epochs"
        scored = network.sampled(params, split.test)
        integers = scored.network
        # Before anything is written.
        try:
            replay(integers, scored.inputs)
        except OverflowError as error:
            raise DataError(f"{error}, or fewer --bits") from error
        save(integers, folder / "network.json")
        program = to_c(integers, folder / "network")
    tables.say(
        str(report), str(program), f"test accuracy {accuracies}", f"wrote {folder}"
    )


# ``train --target`` calls the function too.
command = click.command("quantize", context_settings={"show_default": True})(convert)


def converted(
    network: SpikingNetwork, params: Any, split: Split, target: str, bits: int
) -> tuple[Any, QuantizationReport]:
    """Return the parameters as integers, and the report. Raise for what the target lacks."""
    # A chip receives spikes or counts.
    if network.encoding == "current":
        raise DataError(
            "the network has real inputs. Train it with --encoding rate or latency"
        )
    some = network.sampled(params, split.train)
    try:
        integers, report = quantize(
            some.network, target, some.inputs, bits=bits, mask=some.mask
        )
    # The message names the layer and the limit of the target.
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    return tuple(integers.layers.values()), report
