"""Recordings of events, and how they become sequences: one binning for all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import brief
from ._accepted import DataError, as_array, check_array, check_events, check_memory, integer, positive, shape_of
from ._sequences import Labelled, Sequences


class Events(NamedTuple):
    """The events of one recording, in the order of the file.

    Parameters
    ----------
    times : numpy.ndarray
        ``(events,)``, float64, microseconds from the start of the recording. All formats are exact in it.
    units : numpy.ndarray
        ``(events,)``, int64, number of the unit, in C order of the recording's ``shape``:
        ``numpy.unravel_index(units, shape)`` gives y, x and polarity of a camera's events.
    """

    times: np.ndarray
    units: np.ndarray


@dataclasses.dataclass(frozen=True)
class Binning:
    """How events become a sequence: step ``i`` holds those from ``i * step_us`` on, before ``(i + 1) * step_us``.

    Events before 0 or after the last step are left out, and counted: see :meth:`Binned.outside`. The step of an event
    is computed in float64, whatever the times are stored in. A time that is the start of a step but for rounding, such
    as 1.001 s in steps of 1 ms, belongs to that step.

    Parameters
    ----------
    steps : int, default 100
        Number of steps, above 0.
    step_us : float, default 14000
        Length of a step in microseconds, above 0.
    binary : bool, default False
        Whether a step says that there were events, as a bool, or how many, in uint16.
    pool : int, default 1
        Neighboring units that share a channel, above 0: along the only axis of a shape of one, along height and width
        of a camera, whose polarities stay apart. The last channel has fewer if ``pool`` does not divide.

    Examples
    --------
    >>> from spikegrad.data import Binning
    >>> print(Binning())
    100 bins of 14 ms from 0, counts
    >>> print(Binning(250, 4_000, binary=True, pool=5))
    250 bins of 4 ms from 0, binary, 5 neighboring units a channel
    """

    steps: int = 100
    step_us: float = 14_000
    binary: bool = False
    pool: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "pool"):
            integer("Binning", name, getattr(self, name), 1)
        positive("Binning", "step_us", self.step_us)

    def __str__(self) -> str:
        pooled = f", {self.pool} neighboring units a channel" if self.pool > 1 else ""
        return (
            f"{self.steps} bins of {self.step_us / 1000:g} ms from 0, {'binary' if self.binary else 'counts'}{pooled}"
        )

    def channels(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the channels that units of a shape are pooled to."""
        shape = shape_of("Binning", shape)
        return tuple(-(-size // pool) for size, pool in zip(shape, self._pools(shape), strict=True))

    def _pools(self, shape: Sequence[int]) -> list[int]:
        """How many units are pooled along each axis. The last of several axes is the polarity."""
        return [self.pool] if len(shape) == 1 else [*[self.pool] * (len(shape) - 1), 1]

    def __call__(self, events: Events, shape: Sequence[int]) -> tuple[np.ndarray, int]:
        """The sequence of one recording.

        Parameters
        ----------
        events : Events
        shape : tuple of int
            Shape of the units.

        Returns
        -------
        x : numpy.ndarray
            ``(steps, channels...)``, bool or uint16.
        outside : int
            Number of events that fell outside of the steps.

        Raises
        ------
        OverflowError
            If more than 65,535 events fall into one bin of one channel.
        DataError
            If a time is not finite, a unit is not within ``shape``, or the sequence does not fit into memory.
        """
        channels = self.channels(shape)
        check_memory(f"Binning: {self.steps:,} steps of channels {channels}", 8 * self.steps * math.prod(channels))
        times, units = check_events("Binning: a recording", events, shape)
        with np.errstate(over="ignore"):  # an infinite step is after the last
            step = _floor(times / self.step_us)
        inside = (step >= 0) & (step < self.steps)
        units = units[inside]
        if self.pool > 1:
            axes = zip(np.unravel_index(units, tuple(shape)), self._pools(shape), strict=True)
            units = np.ravel_multi_index([axis // pool for axis, pool in axes], channels)
        cells = step[inside].astype(np.int64) * math.prod(channels) + units
        counts = np.bincount(cells, minlength=self.steps * math.prod(channels)).reshape(self.steps, *channels)
        if not self.binary and counts.max() > np.iinfo(np.uint16).max:
            raise OverflowError(f"Binning: {counts.max()} events in one bin of one channel, more than uint16 holds")
        return counts > 0 if self.binary else counts.astype(np.uint16), int(len(inside) - inside.sum())


def _floor(x: np.ndarray) -> np.ndarray:
    """The integer below; or that which x is but for the rounding of a time, of its unit and of the quotient."""
    near = np.rint(x)
    with np.errstate(invalid="ignore"):  # an infinite step less itself
        is_near = np.abs(x - near) <= 4 * np.finfo(np.float64).eps * np.abs(near)
    return np.where(is_near, near, np.floor(x))


class Recordings(Labelled):
    """Labelled recordings of events, each read from its file when it is asked for.

    Parameters
    ----------
    name : str
        Path of the file or folder.
    shape : tuple of int
        Shape of the units: ``(700,)``, or height, width and polarity of a camera.
    y : array_like
        ``(n,)``, integers from 0.
    read : callable
        From the number of a recording to its :class:`Events`.
    numbers : array_like, optional
        ``(n,)``, what ``read`` knows the recordings by. By default 0, 1, ...
    speakers : array_like, optional
        ``(n,)``, integers: who speaks.
    class_names : sequence of str, optional
        In the order of the labels.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Events, Recordings
    >>> clicks = [Events(np.array([0.0, 500.0]), np.array([0, 2])), Events(np.array([250.0]), np.array([1]))]
    >>> recordings = Recordings("clicks", (3,), [0, 1], clicks.__getitem__)
    >>> recordings
    <clicks: 2 recordings, units (3,), 2 classes>
    >>> recordings[1].units.tolist()
    [1]
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        y: Any,
        read: Callable[[int], Events],
        *,
        numbers: Any = None,
        speakers: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, shape, y, class_names)
        if not callable(read):
            raise TypeError(f"{self.name}: read must be callable, got {brief(read)}")
        self._read = read
        self._numbers = np.arange(len(self)) if numbers is None else self._one_each("numbers", numbers)
        self.speakers = None if speakers is None else self._one_each("speakers", speakers)

    def _one_each(self, name: str, values: Any) -> np.ndarray:
        values = as_array(self.name, name, values, "ui", "integers")
        check_array(self.name, name, values, "ui", self.y.shape)
        return values

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} recordings, units {self.shape}, {self.classes} classes>"

    def __getitem__(self, index: int) -> Events:
        """Events of one recording.

        Raises
        ------
        DataError
            If they cannot be read, a time is not finite, or a unit is not within ``shape``.
        """
        number = int(self._numbers[self._position(index)])
        return Events(*check_events(f"{self.name}: recording {number}", self._read(number), self.shape))

    def _part(self, chosen: np.ndarray) -> Recordings:
        return Recordings(
            self.name,
            self.shape,
            self.y[chosen],
            self._read,
            numbers=self._numbers[chosen],
            speakers=None if self.speakers is None else self.speakers[chosen],
            class_names=self.class_names,
        )

    def binned(self, binning: Binning | None = None) -> Binned:
        """Sequences, each made when it is asked for; by default 100 bins of 14 ms, counts."""
        if not isinstance(binning, Binning | None):
            raise TypeError(f"binned: binning must be a Binning, got {brief(binning)}")
        return Binned(self, Binning() if binning is None else binning)


class Binned(Sequences):
    """Recordings as sequences of counts, or of whether there were events: what :meth:`Recordings.binned` gives.

    Parameters
    ----------
    recordings : Recordings
        What is binned, recording by recording, when it is asked for.
    binning : Binning
        How: number and length of the bins, counts or binary.
    """

    def __init__(self, recordings: Recordings, binning: Binning) -> None:
        self.recordings, self.binning = recordings, binning
        lengths = np.full(len(recordings), binning.steps)
        super().__init__(
            recordings.name,
            _Bins(recordings, binning),
            recordings.y,
            lengths=lengths,
            class_names=recordings.class_names,
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}; {self.binning}>"

    def outside(self) -> tuple[int, int]:
        """How many events fell outside of the bins, and how many there are. Reads every recording."""
        outside, events = 0, 0
        for index in range(len(self)):
            recording = self.recordings[index]
            outside += self.binning(recording, self.recordings.shape)[1]
            events += len(recording.times)
        return outside, events

    def _part(self, chosen: np.ndarray) -> Binned:
        return Binned(self.recordings.subset(chosen), self.binning)


class _Bins:
    def __init__(self, recordings: Recordings, binning: Binning) -> None:
        self.recordings, self.binning = recordings, binning
        self.shape = (len(recordings), binning.steps, *binning.channels(recordings.shape))

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return self.binning(self.recordings[index], self.recordings.shape)[0]
        except OverflowError as error:
            raise DataError(f"{self.recordings.name}: recording {index}: {error}") from None


def split_by_speaker(recordings: Recordings, count: int = 1, seed: int = 0) -> tuple[Recordings, Recordings]:
    """All recordings of some speakers, drawn with the seed, apart from the rest: no voice is in both.

    A validation split for SHD, which comes without one and whose test has voices that the training data does not have.

    Parameters
    ----------
    recordings : Recordings
        With ``speakers``.
    count : int, default 1
        Speakers to hold out, 1 to all but one.
    seed : int, default 0
        Draws the speakers.

    Returns
    -------
    rest, test : Recordings
        Those of the other speakers, and those of the speakers that were drawn.

    Raises
    ------
    DataError
        If the file does not say who speaks, or there are too few speakers.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Events, Recordings, split_by_speaker
    >>> silence = Events(np.zeros(0), np.zeros(0, int))
    >>> recordings = Recordings("silence", (3,), [0, 1, 0, 1], lambda number: silence, speakers=[4, 4, 7, 7])
    >>> rest, test = split_by_speaker(recordings)
    >>> len(rest), len(test), len(set(test.speakers.tolist()))
    (2, 2, 1)
    """
    if not isinstance(recordings, Recordings):
        raise TypeError(f"split_by_speaker: recordings must be Recordings, got {brief(recordings)}")
    if recordings.speakers is None:
        raise DataError(f"{recordings.name}: does not say who speaks")
    present = np.unique(recordings.speakers)
    if len(present) < 2:
        raise DataError(f"{recordings.name}: all recordings are of one speaker")
    integer("split_by_speaker", "count", count, 1, len(present) - 1)
    integer("split_by_speaker", "seed", seed)
    chosen = np.random.default_rng(seed).choice(present, count, replace=False)
    test = np.isin(recordings.speakers, chosen)
    return recordings.subset(~test), recordings.subset(test)
