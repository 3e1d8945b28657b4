"""Data of the command: the form of a value of ``--data``, and functions that read, split, bin and scale it."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from .. import data as datasets
from ..data import FORMS, Binned, Binning, DataError, Recordings, Sequences, Split
from ..data._accepted import chosen_of_each
from ..data._forms import Form, Read, Recorded
from ..data._npz import keys_of
from ..data._sequences import moments, standardized

OWN = [form for form in FORMS if form.key]
"""Files of the user, distinguished by their keys."""


def listed() -> str:
    """Return the table of the help."""
    width = max(len(form.written) for form in FORMS)
    return "\n".join(f"  {form.written:{width}}  {form.about}" for form in FORMS)


def form_of(source: str) -> Form:
    """Return the form of a value of ``--data``.

    Raises
    ------
    DataError
        If no form fits.
    """
    name, colon, path = source.partition(":")
    form = next((form for form in FORMS if form.name == name and form not in OWN), None)
    if form is None and source.endswith(".npz"):
        return _form_of_file(Path(source))
    if form is None and not colon and (Path(source).suffix or Path(source).exists()):
        arrays = f"{Path(source).with_suffix('.npz').name!r}, x_train=x, y_train=y"
        raise DataError(f"{source} is not a .npz file. Save it as one: numpy.savez({arrays})")
    if form is None:
        written = {form.name: form.written for form in FORMS}
        near = [written[other] for other in written if difflib.get_close_matches(name, [other])]
        hint = f", did you mean {' or '.join(near)}?" if near else f": use {', '.join(written.values())}"
        raise DataError(f"unknown data {source!r}{hint}")
    if (":" in form.written) != bool(path) or bool(colon) != bool(path):
        raise DataError(f"unknown data {source!r}: use {form.written}")
    return form


def _form_of_file(path: Path) -> Form:
    """Return the last form with a key of the file. By default images, with a reader that reports any error."""
    keys = keys_of(path)
    return next((form for form in reversed(OWN) if form.key in keys), OWN[0])


Examples: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def examples(source: Sequences, rows: Any = slice(None)) -> Examples:
    """Return values ``(n, steps, ...)``, labels, and lengths, None if all sequences are equally long."""
    return source.padded(rows), source.y[rows], source.lengths[rows] if source.masked else None


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
    split = datasets.load(source, seed) if form.read is None else _recordings(form, form.read, source, seed, binning)
    if jax.default_backend() == "cpu" and isinstance(split.train.x, np.ndarray):
        split.train.x = np.asarray(jax.device_put(split.train.x))  # the device uses this memory without a copy
    return split


def spaced(count: int, most: int) -> np.ndarray:
    """Return up to ``most`` row numbers of ``count``, evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


_CLASSES = 1000
"""Classes that are accepted even if an excerpt of a data set has fewer recordings. Each is an output of the network."""


def _recordings(form: Form, read: Read, source: str, seed: int, binning: Binning) -> Split:
    train, test = read(_path(source), binning.steps, seed)
    if train.classes > (most := max(_CLASSES, len(train))):
        raise DataError(
            f"{source}: labels must be below {most:,} for {len(train):,} recordings, got {train.classes - 1:,}; "
            "number the classes from 0"
        )
    test_from = "the test set"
    if test is None:
        test_from = form.test_from.format(seed)
        train, test = form.split(train, seed)
    if test.shape != train.shape or test.class_names != train.class_names:
        raise DataError(
            f"{test.name} must match {train.name}: got channels {test.shape} of {len(test.class_names)} classes, "
            f"and {train.shape} of {len(train.class_names)}"
        )
    if len(np.unique(train.y)) < 2:
        raise DataError(f"{source}: training recordings must have at least two classes, got only class {train.y[0]}")
    train, test = _sequences(train, binning), _sequences(test, binning)
    doubts = _events_outside(train)
    mean = std = np.zeros(0)
    if train.sequence(0).dtype.kind == "f":
        mean, std = moments(train)
        train, test = standardized(train, mean, std), standardized(test, mean, std)
    mean, std = (tuple(values.ravel().tolist()) for values in (mean, std))
    return Split(train.in_memory(), test.in_memory(), test_from, mean=mean, std=std, doubts=doubts)


def for_validation(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return the split without its validation examples, and a split with the validation set instead of the test set.

    Parameters
    ----------
    share : float
        Fraction of each training class in the validation set, drawn with ``seed``.

    Raises
    ------
    DataError
        If a class has too few examples.
    """
    train = split.train
    chosen = chosen_of_each(train.y, share, seed)
    missing = np.setdiff1d(train.y, train.y[~chosen])
    if not chosen.any() or missing.size:
        raise DataError(f"{train.name}: too few training examples for a validation set of {share:g} of each class")
    split = dataclasses.replace(split, train=train.subset(~chosen).in_memory())
    return split, dataclasses.replace(split, test=train.subset(chosen).in_memory())


def load_to_score(source: str, trained_on: str, seed: int, binning: Binning, like: Any) -> tuple[Sequences, bool]:
    """Read recordings to score with a trained network. Return them, and True if they have labels.

    Possible training examples are excluded: published training sets, and the training part of the training data.
    """
    form = form_of(source)
    if form.read is None:
        raise DataError(f"{source} lacks a time axis, but the network was trained on {trained_on} with one")
    labelled = form.file is None or "y" in keys_of(Path(source))
    if form.file and not labelled:
        test = form.file(source, label=0)
    else:
        train, test = form.read(_path(source), binning.steps, seed)
        if test is None:
            test = form.split(train, seed)[1] if _same(source, trained_on) else train
    found = _sequences(test, binning)
    if found.shape != like.shape:
        raise DataError(
            f"{source}: recordings have channels of shape {found.shape}, the network was trained on {like.shape}"
        )
    if found.y.max() >= like.classes:
        raise DataError(f"{source}: has label {found.y.max()}, the network was trained on {like.classes} classes")
    if like.mean:
        found = standardized(found, *(np.reshape(values, like.shape) for values in (like.mean, like.std)))
    return found.in_memory(), labelled


def _path(source: str) -> str:
    return source if form_of(source) in OWN else source.partition(":")[2]


def _same(source: str, other: str) -> bool:
    return source == other or os.path.realpath(_path(source)) == os.path.realpath(_path(other)) != os.path.realpath("")


def _sequences(source: Recorded, binning: Binning) -> Sequences:
    return source.binned(binning) if isinstance(source, Recordings) else source


def _events_outside(sequences: Sequences) -> tuple[str, ...]:
    """Warn of a binning that loses many events, from a sample of recordings."""
    if not isinstance(sequences, Binned):
        return ()
    few = sequences.subset(spaced(len(sequences), _LOOKED_AT))
    try:
        outside, events = few.outside()
        early = sum(int((few.recordings[i].times < 0).sum()) for i in range(len(few))) if outside else 0
    except OverflowError:  # reported when they are read
        return ()
    doubts, binning = [], sequences.binning
    if early > events / 1000:
        doubts.append(f"{early:,} of {events:,} events of {len(few)} recordings come before 0 and are ignored")
    if outside - early > events / 1000:
        doubts.append(
            f"{outside - early:,} of {events:,} events of {len(few)} recordings come after the last step, "
            f"{binning.steps * binning.step_us / 1e6:g} s: a longer --bin or more --steps take them in"
        )
    return tuple(doubts)


_LOOKED_AT = 100
"""Number of recordings that are read quickly."""
