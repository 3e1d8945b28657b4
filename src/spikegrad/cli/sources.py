"""What ``--data`` takes: a table of forms, of which the help and the errors are made, and how each of them is read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np

from .. import data as datasets
from ..data import Binned, Binning, DataError, Recordings, Sequences, Split
from ..data._accepted import chosen_of_each
from ..data._npz import keys_of
from ..data._reading import reading
from ..data._sequences import moments, standardized

Recorded: TypeAlias = Sequences | Recordings
Source = TypeVar("Source", Sequences, Recordings)
Read: TypeAlias = Callable[[str, int, int], tuple[Recorded, Recorded | None]]
"""From path, steps and seed to what is trained on, and what is published to test with."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of data.

    Parameters
    ----------
    written : str
        As it is given to the command.
    about : str
        What it is, in a line.
    read : callable, optional
        Reads recordings. Images have none: :func:`spikegrad.data.load` reads them.
    file : callable, optional
        Reads a file of one's own, whose labels may be missing if they are not needed: given as ``label``.
    test_from : str
        How the test set is chosen if none is published; ``split`` does it, from the data and the seed.
    steps : int, optional
        Steps unless the user says otherwise. None: the data has its own.
    bin_ms : float, optional
        Length of a step in which events are counted, unless the user says otherwise. None: the data has no events.
    pool, shift : int
        Neighboring units of a channel, and pixels by which training images move, likewise.
    """

    written: str
    about: str
    read: Read | None = None
    file: Callable[..., Recorded] | None = None
    test_from: str = "a fifth of each class, drawn with seed {}"
    split: Callable[[Any, int], tuple[Any, Any]] = lambda source, seed: datasets.train_test_split(source, 0.2, seed)
    steps: int | None = None
    bin_ms: float | None = None
    pool: int = 1
    shift: int = 0

    @property
    def name(self) -> str:
        """What precedes a path, or the whole."""
        return self.written.partition(":")[0]


def _pair(path: str, *names: tuple[str, str]) -> tuple[Path, Path | None]:
    """What to train on and to test with: of a folder that has both under known names; else the path alone."""
    where = Path(path)
    with reading(path):
        if not where.exists():
            raise DataError(f"{path}: no such file or folder")
        for train, test in names:
            if (where / train).exists():
                return where / train, where / test
    return where, None


def _file(written: str, about: str, reader: Callable[..., Recorded], **defaults: Any) -> Form:
    return Form(written, about, lambda path, *_: (reader(path), None), reader, **defaults)


def _both(read: Callable[[Path], Source], train: Path, test: Path | None) -> tuple[Source, Source | None]:
    return read(train), None if test is None else read(test)


def _heidelberg(name: str) -> Read:
    def read(path: str, steps: int, seed: int) -> tuple[Recordings, Recordings | None]:
        train, test = _pair(path, (f"{name}_train.h5", f"{name}_test.h5"))
        if train.is_dir():
            raise DataError(f"{path}: no {name}_train.h5 in this folder")
        return _both(datasets.read_shd, train, test)

    return read


def _nmnist(path: str, steps: int, seed: int) -> tuple[Recordings, Recordings | None]:
    return _both(datasets.read_nmnist, *_pair(path, ("Train", "Test")))


def _dvs128(path: str, steps: int, seed: int) -> tuple[Recordings, Recordings | None]:
    lists, arrays = ("trials_to_train.txt", "trials_to_test.txt"), ("ibmGestureTrain", "ibmGestureTest")
    train, test = _pair(path, lists, arrays)
    return _both(datasets.read_dvs_gesture_arrays if train.is_dir() else datasets.read_dvs_gesture, train, test)


def _ts(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences | None]:
    name = Path(path).name
    train, test = _pair(path, (f"{name}_TRAIN.ts", f"{name}_TEST.ts"))
    other = train.with_name(train.name.replace("_TRAIN.ts", "_TEST.ts"))
    if test is None and other != train and other.exists():
        test = other
    return _both(datasets.read_ts, train, test)


def _packaged(name: str) -> Read:
    return lambda path, steps, seed: (datasets.load_packaged(name), datasets.load_packaged(name, "test"))


def _generated(name: str, make: Callable[..., tuple[Sequences, Sequences | None]]) -> Read:
    """``make(steps=steps, seed=seed)``, with the errors of a parameter as those of data."""

    def read(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences | None]:
        try:
            return make(steps=steps, seed=seed)
        except ValueError as error:
            raise DataError(f"{name}, {steps} steps: {error}") from None

    return read


def _yin_yang(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    """The published points, whatever the seed."""
    last = steps // 2
    return datasets.yin_yang(steps=steps, last=last), datasets.yin_yang(1000, steps=steps, last=last, seed=40)


def _binary_adding(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    return datasets.binary_adding(steps=steps, seed=2 * seed), datasets.binary_adding(
        2000, steps=steps, seed=2 * seed + 1
    )


def _cue_accumulation(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    return datasets.cue_accumulation(seed=2 * seed), datasets.cue_accumulation(200, seed=2 * seed + 1)


IMAGES = Form("FILE.npz", "x_train, y_train: images or features", steps=8)
OWN = (
    IMAGES,
    _file("FILE.npz", "x, y: sequences (n, steps, channels)", datasets.read_npz),
    _file("FILE.npz", "times, units, ...: events", datasets.read_npz_events, steps=100, bin_ms=14),
)
"""Files of one's own, told apart by their keys."""

FORMS = (
    Form("mnist5k", "5,000 MNIST images", steps=8, shift=2),
    Form("digits", "1,797 images of 8 x 8", steps=8),
    Form(
        "shd:PATH",
        "shd_train.h5, or the folder with shd_test.h5",
        _heidelberg("shd"),
        test_from="all of two speakers, drawn with seed {}",
        split=lambda source, seed: datasets.split_by_speaker(source, 2, seed),
        steps=100,
        bin_ms=14,
    ),
    Form("ssc:PATH", "ssc_train.h5, or the folder with ssc_test.h5", _heidelberg("ssc"), steps=100, bin_ms=14),
    Form("nmnist:PATH", "the folder with Train and Test", _nmnist, steps=100, bin_ms=3.5),
    Form("dvs128:PATH", "DVS128 Gesture, a folder or list", _dvs128, steps=100, bin_ms=60, pool=4),
    Form("ts:PATH", "a .ts file, or the folder of a problem", _ts),
    Form("japanese_vowels", "270 utterances, 7 to 29 steps", _packaged("japanese_vowels")),
    Form("self_regulation_scp1", "268 trials of EEG, 896 steps", _packaged("self_regulation_scp1")),
    Form(
        "randman",
        "spikes on random manifolds, made with the seed",
        _generated("randman", lambda **options: (datasets.randman(**options), None)),
        test_from="a tenth of each class, drawn with seed {}",
        split=lambda source, seed: datasets.train_test_split(source, 0.1, seed),
        steps=100,
    ),
    Form("yin_yang", "5,000 points as spike times, 3 classes", _generated("yin_yang", _yin_yang), steps=60),
    Form(
        "binary_adding",
        "counts of marked bits, made with the seed",
        _generated("binary_adding", _binary_adding),
        steps=100,
    ),
    Form("cue_accumulation", "sides of 7 cues, made with the seed", _generated("cue_accumulation", _cue_accumulation)),
    *OWN,
)


def listed() -> str:
    """The table of the help."""
    width = max(len(form.written) for form in FORMS)
    return "\n".join(f"  {form.written:{width}}  {form.about}" for form in FORMS)


def form_of(source: str) -> Form:
    """The form of what ``--data`` was given.

    Raises
    ------
    DataError
        If there is none.
    """
    name, colon, path = source.partition(":")
    form = next((form for form in FORMS if form.name == name and form not in OWN), None)
    if form is None and source.endswith(".npz"):
        return _form_of_file(Path(source))
    if form is None:
        raise DataError(f"no data {source!r}: give {', '.join(dict.fromkeys(form.written for form in FORMS))}")
    if (":" in form.written) != bool(path) or bool(colon) != bool(path):
        raise DataError(f"no data {source!r}: give {form.written}")
    return form


def _form_of_file(path: Path) -> Form:
    images, sequences, events = OWN
    keys = keys_of(path)
    if "times" in keys:
        return events
    return sequences if "x" in keys else images  # whose reader says what is wrong with a file that cannot be read


Examples: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def examples(source: Sequences, rows: Any = slice(None)) -> Examples:
    """Values ``(n, steps, ...)``, labels, and numbers of steps, or None if all are equally long."""
    return source.padded(rows), source.y[rows], source.lengths[rows] if source.masked else None


def load(source: str, seed: int, binning: Binning) -> Split:
    """Data to train on.

    Parameters
    ----------
    source : str
        What ``--data`` was given.
    seed : int
        Draws the examples that are held out, where nothing is published to test with.
    binning : Binning
        How events become sequences; its steps are also those of what is made.

    Raises
    ------
    DataError
        If there is no such data, or it is malformed.
    """
    form = form_of(source)
    split = datasets.load(source, seed) if form.read is None else _recordings(form, form.read, source, seed, binning)
    if jax.default_backend() == "cpu" and isinstance(split.train.x, np.ndarray):
        split.train.x = np.asarray(jax.device_put(split.train.x))  # memory that the device takes over without a copy
    return split


def spaced(count: int, most: int) -> np.ndarray:
    """Which of so many to look at, if not at more: evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


_CLASSES = 1000
"""Classes, each an output of the network, that may be more than the recordings, in an excerpt of a data set."""


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
            f"{test.name} does not match {train.name}: channels {test.shape} of {len(test.class_names)} classes, "
            f"and {train.shape} of {len(train.class_names)}"
        )
    if len(np.unique(train.y)) < 2:
        raise DataError(f"{source}: all recordings to train on are of class {train.y[0]}; two are needed")
    train, test = _sequences(train, binning), _sequences(test, binning)
    doubts = _events_outside(train)
    mean = std = np.zeros(0)
    if train.sequence(0).dtype.kind == "f":
        mean, std = moments(train)
        train, test = standardized(train, mean, std), standardized(test, mean, std)
    mean, std = (tuple(values.ravel().tolist()) for values in (mean, std))
    return Split(train.in_memory(), test.in_memory(), test_from, mean=mean, std=std, doubts=doubts)


def for_validation(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """A split with fewer training examples, and one that has a validation set of the others instead of its test set.

    Parameters
    ----------
    share : float
        Fraction of the training examples of each class that are drawn, with ``seed``, for validation.

    Raises
    ------
    DataError
        If there are too few.
    """
    train = split.train
    chosen = chosen_of_each(train.y, share, seed)
    missing = np.setdiff1d(train.y, train.y[~chosen])
    if not chosen.any() or missing.size:
        raise DataError(f"{train.name}: too few training examples to choose by {share:g} of each class")
    split = dataclasses.replace(split, train=train.subset(~chosen).in_memory())
    return split, dataclasses.replace(split, test=train.subset(chosen).in_memory())


def load_to_score(source: str, trained_on: str, seed: int, binning: Binning, like: Any) -> tuple[Sequences, bool]:
    """Recordings to score with a network that was trained on ones like them, and whether they have labels.

    Whatever the network may have been trained on is left out: what is published to train on, and of the data that it
    was trained on, all but what was held out.
    """
    form = form_of(source)
    if form.read is None:
        raise DataError(f"{source} has no time axis, and the network was trained on {trained_on}, which has one")
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
    """A doubt about the binning of events, from as many recordings as are soon read."""
    if not isinstance(sequences, Binned):
        return ()
    few = sequences.subset(spaced(len(sequences), _LOOKED_AT))
    try:
        outside, events = few.outside()
        early = sum(int((few.recordings[i].times < 0).sum()) for i in range(len(few))) if outside else 0
    except OverflowError:  # which is an error when they are read
        return ()
    doubts, binning = [], sequences.binning
    if early > events / 1000:
        doubts.append(f"{early:,} of {events:,} events of {len(few)} recordings come before 0, and are left out")
    if outside - early > events / 1000:
        doubts.append(
            f"{outside - early:,} of {events:,} events of {len(few)} recordings come after the last step, "
            f"{binning.steps * binning.step_us / 1e6:g} s: a longer --bin or more --steps take them in"
        )
    return tuple(doubts)


_LOOKED_AT = 100
"""Recordings, whose events are soon counted."""
