"""Data of the command: values of ``--data``, read as training and test set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from types import SimpleNamespace
from typing import Any

import click
import jax
import numpy as np

from .. import data as datasets
from .._files import Record
from ..data import (
    FORMS,
    Binned,
    Binning,
    DataError,
    Form,
    Recordings,
    Sequences,
    Split,
    keys_of,
    moments,
    standardized,
    train_test_split,
)
from . import tables
from .networks import NO_ENCODING, sample

CSV = """numpy.loadtxt(file, delimiter=",", skiprows=1) reads a table of numbers, and
numpy.savez("my.npz", x_train=x, y_train=y) writes the file, with a label from 0
for each row. numpy.unique(names, return_inverse=True)[1] makes labels of names"""
"""The way from a table to the arrays of a file."""
TABLE = "\n".join(
    [*(f"{form.written:20}  {form.about}" for form in FORMS), "", f"A .csv: {CSV}."]
)


def form_of(source: str) -> Form:
    """Return the form of a value of ``--data``.

    Raises
    ------
    DataError
        If no form fits.
    """
    if source.endswith(".npz"):
        # Files of the user are distinguished by their keys.
        keys = keys_of(source)
        files = [form for form in FORMS if form.key]
        for form in files:
            if form.key in keys:
                return form
        known = ", or ".join(form.about for form in files)
        raise DataError(
            f"{source}: keys must be {known}, got {', '.join(sorted(keys))}. Rename the arrays, "
            "as numpy.savez(file, x_train=x, y_train=y) does"
        )
    name, _, path = source.partition(":")
    for form in FORMS:
        takes_path = ":" in form.written
        # "shd" without a path is unknown here, and the message proposes the form "shd:PATH".
        if form.name == name and takes_path == bool(path):
            return form
    if source.endswith((".csv", ".tsv")):
        raise DataError(f"{source} must be a .npz file. {CSV}")
    forms = {form.name: form.written for form in FORMS}
    raise DataError(tables.unknown("data", name, forms))


def load(source: str, seed: int, binning: Binning) -> Split:
    """Read a training and a test set.

    Parameters
    ----------
    source : str
        The value of ``--data``.
    seed : int
        Draws the test set if none is published.
    binning : Binning
        Converts events to sequences. Generated tasks use its number of time steps.

    Raises
    ------
    DataError
        If the data does not exist or is malformed.
    """
    form = form_of(source)
    if form.read is None:
        split = datasets.load(source, seed)
    else:
        split = _recordings(form, source, seed, binning)
    # Also of a file without labels, which is read as a single class.
    labels = np.arange(max(2, split.classes))
    missing = np.setdiff1d(labels, split.train.y)
    if form.key and missing.size:
        y = "y" if form.read else "y_train"
        raise DataError(
            f"{source}: {y} must hold at least two classes and every label from 0 to the "
            f"greatest, but lacks {missing[0]}. Number the classes with "
            f"numpy.unique({y}, return_inverse=True)[1]"
        )
    return split


def _recordings(form: Form, source: str, seed: int, binning: Binning) -> Split:
    train, test = form.read(_path(source), binning.steps, seed)  # type: ignore[misc]
    test_from = "the test set"
    if test is None:
        test_from = form.test_from.format(seed)
        train, test = form.split(train, seed)
    # Split first, because labels are known without binning.
    train = _sequences(train, binning)
    test = _sequences(test, binning)
    _warn_of_events_outside(train)
    means = stds = ()
    # Spikes and counts keep their zeros, which real numbers do not have.
    if train.sequence(0).dtype.kind == "f":
        mean, std = moments(train)
        train = standardized(train, mean, std)
        test = standardized(test, mean, std)
        means = tuple(mean.ravel().tolist())
        stds = tuple(std.ravel().tolist())
    return Split(train.in_memory(), test.in_memory(), test_from, mean=means, std=stds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validated(Split):
    """A split whose training set lacks the examples of a validation set."""

    validation: Sequences


def for_validation(split: Split, fraction: float, seed: int) -> Validated:
    """Take a validation set from the training set."""
    train, validation = train_test_split(split.train, fraction, seed)
    parts: Record = vars(split) | {"train": train.in_memory()}
    return Validated(**parts, validation=validation.in_memory())


def load_to_score(
    data: str | None, options: Any, like: SimpleNamespace
) -> tuple[Sequences, bool]:
    """Read examples for a network that was trained with these options on data ``like`` these.

    Possible training examples are excluded: published training sets, and the training part of the
    training data, which is the default. The second value is True if the examples have labels.
    """
    source = data or options.data
    form = form_of(source)
    # The network decides, because a .npz with x may have images or sequences.
    if form.read is None or options.encoding != NO_ENCODING:
        test, labelled = datasets.images_to_score(
            source, options.seed, like.low, like.high
        )
    else:
        path = _path(source)
        train, test = form.read(path, options.steps, options.seed)
        if test is None:
            # The training part of the same file must not be scored. Another file was not trained
            # on at all.
            trained_path = _path(options.data)
            test = train
            if os.path.realpath(path) == os.path.realpath(trained_path):
                _, test = form.split(train, options.seed)
        # Only files of the user may lack labels.
        labelled = not form.key or "y" in keys_of(source)
    scored = _sequences(test, options.binning)
    # A label that the network lacks would count as a mistake of it.
    if scored.shape != tuple(like.shape) or scored.outputs > like.outputs:
        raise DataError(
            f"{source}: the network was trained on channels of shape {tuple(like.shape)} and "
            f"{like.outputs} outputs, got {scored.shape} and {scored.outputs} outputs"
        )
    # By the training set of the run, not by these examples.
    if like.mean:
        mean = np.reshape(like.mean, like.shape)
        std = np.reshape(like.std, like.shape)
        scored = standardized(scored, mean, std)
    scored = scored.in_memory()
    # A relative path may be another file in another folder.
    if data is None and sha256(scored) != like.test_sha256:
        raise DataError(
            f"{source} is not the data of the run, or has changed. Pass the path of the data"
        )
    return scored, labelled


def sha256(source: Sequences) -> str:
    """Return a hash of examples: dtype, shape, values, labels and masks."""
    # Arrays of other dtypes or shapes may have equal bytes.
    form = source.sequence(0).dtype, source.steps, source.shape
    digest = hashlib.sha256(f"{form}".encode())
    for example in source:  # one by one, because they may be read from files
        for array in jax.tree.leaves(example):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _path(source: str) -> str:
    if source.endswith(".npz"):
        return source
    _, _, path = source.partition(":")
    # Generated data has no path, and its reader ignores this one.
    return path or source


def _sequences(source: Sequences | Recordings, binning: Binning) -> Sequences:
    return source.binned(binning) if isinstance(source, Recordings) else source


def _warn_of_events_outside(sequences: Sequences) -> None:
    """Warn of a binning that loses many events, from a sample of recordings."""
    if not isinstance(sequences, Binned):
        return
    part = sample(sequences)
    outside, events = part.outside()
    # Recordings have stray events at their ends, which change nothing.
    if outside > events / 1000:
        seconds = sequences.steps * sequences.binning.step_us / 1e6
        text = (
            f"warning: {outside:,} of {events:,} events of {len(part)} recordings are outside of "
            f"the {seconds:g} s of all steps: a longer --bin or more --steps take later ones in"
        )
        click.echo(text, err=True)
