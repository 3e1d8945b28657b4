"""Recordings of events, and their binning to sequences."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ._accepted import DataError, as_array, check_events
from ._sequences import Labelled, Lazy, Sequences


class Events(NamedTuple):
    """The events of one recording, such as the spikes of a sensor: for each event a time and a
    unit.

    Parameters
    ----------
    times : numpy.ndarray
        Time of each event in microseconds from the start of the recording, ``(events,)``, float64.
        They need not ascend.
    units : numpy.ndarray
        Unit (sensor) of each event, ``(events,)``, int64. If the units have several axes, such as
        the pixels of a camera, it is the index in C order of the ``shape`` of the recording.
        ``numpy.unravel_index(units, shape)`` then returns y, x and polarity.
    """

    times: np.ndarray
    units: np.ndarray


@dataclasses.dataclass(frozen=True)
class Binning:
    """Rule that converts the events of a recording to a sequence: number and length of time steps.

    Pass it to :meth:`Recordings.binned`. Time step ``i`` contains the events from ``i * step_us``
    to ``(i + 1) * step_us`` microseconds, including the start and excluding the end. Events before
    0 or after the last time step are ignored, and :meth:`Binned.outside` counts them. Times are
    compared in float64. A time that equals the start of a time step except for rounding, such as
    1.001 s with time steps of 1 ms, belongs to this time step.

    Parameters
    ----------
    steps : int or None, default 100
        Number of time steps, above 0. With None, each recording ends with its last event.
    step_us : float, default 14000
        Length of a time step in microseconds, above 0. The default is 14 ms.
    binary : bool, default False
        If False, the value of a time step is its number of events, in uint16. If True, it is a
        boolean: True if it has events.
    pool : int, default 1
        Number of neighboring units (sensors) that are added to one channel, above 0. For a camera,
        ``pool=2`` adds 2 × 2 pixels, and the polarities stay separate. If ``pool`` does not divide
        the size, the last channel has fewer units.

    Raises
    ------
    ValueError
        If a number is not within these bounds.

    Examples
    --------
    >>> from spikegrad.data import Binning
    >>> print(Binning())
    100 bins of 14 ms from 0, counts
    >>> print(Binning(250, 4_000, binary=True, pool=5))
    250 bins of 4 ms from 0, binary, 5 neighboring units a channel
    >>> print(Binning(None))
    bins of 14 ms from 0 to the last event, counts
    """

    steps: int | None = 100
    step_us: float = 14_000
    binary: bool = False
    pool: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        # A negative length would put every event before the first bin, where it is ignored.
        for name in ("steps", "pool"):
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"Binning: {name} must be an integer above 0, got {value}"
                )
        if not 0 < self.step_us < math.inf:
            raise ValueError(
                f"Binning: step_us must be microseconds above 0, got {self.step_us}"
            )

    def __str__(self) -> str:
        values = "binary" if self.binary else "counts"
        pooled = f", {self.pool} neighboring units a channel" if self.pool > 1 else ""
        number = "" if self.steps is None else f"{self.steps} "
        end = " to the last event" if self.steps is None else ""
        return (
            f"{number}bins of {self.step_us / 1000:g} ms from 0{end}, {values}{pooled}"
        )

    def steps_of(self, events: Events) -> int:
        """Return the number of time steps of a recording."""
        if self.steps is not None:
            return self.steps
        # A recording without events has one step.
        last = _floor(np.max(events.times, initial=0.0) / self.step_us)
        return int(last) + 1

    def channels(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the channels after pooling, for units of this shape."""
        # Rounded up: the last channel has the units that are left.
        channels = -(-np.array(shape) // self._pools(shape))
        return tuple(channels.tolist())

    def _pools(self, shape: Sequence[int]) -> np.ndarray:
        """Return the number of pooled units along each axis."""
        pools = np.full(len(shape), self.pool)
        # The last of several axes is the polarity, and opposite events must not add up.
        if len(shape) > 1:
            pools[-1] = 1
        return pools

    def __call__(self, events: Events, shape: Sequence[int]) -> tuple[np.ndarray, int]:
        """Return the sequence of one recording, and the number of events outside of it.

        Parameters
        ----------
        events : Events
            The events of the recording.
        shape : tuple of int
            The shape of the units (sensors), such as ``(700,)``.

        Returns
        -------
        x : numpy.ndarray
            The sequence ``(steps, channels...)``, bool or uint16.
        outside : int
            Number of events before the first or after the last time step.

        Raises
        ------
        DataError
            If a time is not finite, if a unit is not within ``shape``, or if a time step of a
            channel has more than 65,535 events.
        """
        channels = self.channels(shape)
        times, units = check_events("Binning: a recording", events, shape)
        # As floats, because late times exceed the integers.
        step = _floor(times / self.step_us)
        steps = self.steps_of(Events(times, units))
        inside = (step >= 0) & (step < steps)
        units = units[inside]
        if self.pool > 1:
            # (axes, events), so pools of shape (axes, 1) divide all events at once.
            axes = np.array(np.unravel_index(units, tuple(shape)))
            pooled = axes // self._pools(shape)[:, None]
            units = np.ravel_multi_index(pooled, channels)
        # Time steps and channels in one number, because bincount is the fastest histogram.
        size = math.prod(channels)
        cells = step[inside].astype(np.int64) * size + units
        counts = np.bincount(cells, minlength=steps * size)
        counts = counts.reshape(steps, *channels)
        outside = int(len(inside) - inside.sum())
        if self.binary:
            return counts > 0, outside
        if counts.max() > np.iinfo(np.uint16).max:
            raise DataError(
                f"Binning: a bin of a channel must have at most 65,535 events, got {counts.max()}; "
                "use shorter steps or binary=True"
            )
        return counts.astype(np.uint16), outside


def _floor(x: np.ndarray) -> np.ndarray:
    """Round down, or to an integer that differs only by rounding of time, unit and quotient."""
    # 1.001 s divided by 1 ms is less than 1001 in float64.
    nearest = np.rint(x)
    tolerance = 4 * np.finfo(np.float64).eps * np.abs(nearest)
    is_near = np.abs(x - nearest) <= tolerance
    return np.where(is_near, nearest, np.floor(x))


class Recordings(Labelled):
    """A data set of labelled event recordings, such as spikes of a sensor, which are read from
    their files when needed.

    ``recordings[i]`` returns the :class:`Events` of one recording. To train with them, convert them
    to sequences with :meth:`binned`. Functions such as :func:`read_shd` return this object.

    Parameters
    ----------
    name : str
        The path of the data, for messages.
    shape : tuple of int
        The shape of the units (sensors): ``(700,)`` for 700 channels, or height, width and
        polarities for a camera.
    y : array_like
        The labels ``(recordings,)``, integers from 0.
    read : callable
        A function ``read(number)`` that returns the :class:`Events` of a recording.
    speakers : array_like, optional
        The speaker of each recording, integers ``(recordings,)``, for :func:`split_by_speaker`.
    class_names : sequence of str, optional
        The names of the classes, in the order of the labels.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Events, Recordings
    >>> clicks = [
    ...     Events(np.array([0.0, 500.0]), np.array([0, 2])),
    ...     Events(np.array([250.0]), np.array([1])),
    ... ]
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
        y: npt.ArrayLike,
        read: Callable[[int], Events],
        *,
        speakers: npt.ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, shape, y, class_names)
        self._read = read
        # A subset keeps the numbers of its recordings in the file.
        self._numbers = np.arange(len(self))
        self.speakers = None
        if speakers is not None:
            self.speakers = as_array(
                self.name, "speakers", speakers, "ui", self.y.shape
            )

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} recordings, units {self.shape}, {self.classes} classes>"

    def __getitem__(self, index: int) -> Events:
        """Return the :class:`Events` of one recording.

        Raises
        ------
        DataError
            If the events cannot be read, if a time is not finite, or if a unit is not within
            ``shape``.
        """
        # The number in the file, by which the reader and an error find a recording of a subset.
        number = int(self._numbers[index])
        owner = f"{self.name}: recording {number}"
        return Events(*check_events(owner, self._read(number), self.shape))

    def _part(self, chosen: np.ndarray) -> Self:
        part = super()._part(chosen)
        part._numbers = self._numbers[chosen]
        if self.speakers is not None:
            part.speakers = self.speakers[chosen]
        return part

    def augmented(
        self,
        function: Callable[[np.random.Generator, Events, tuple[int, ...]], Events],
        seed: int | Sequence[int],
    ) -> Recordings:
        """Return the recordings with random changes, which are made when a recording is read.

        Parameters
        ----------
        function : callable
            A function ``function(rng, events, shape)`` that returns the changed :class:`Events`,
            such as :func:`drop_events`. To combine several, write a function that calls them.
        seed : int or sequence of int
            Seed of the random changes. With one seed, a recording has the same changes whenever it
            is read. For new changes in each epoch, pass ``(seed, epoch)``.
        """
        augmented = copy.copy(self)
        seeds = np.atleast_1d(seed).tolist()
        # A partial can be pickled for worker processes, unlike a closure.
        augmented._read = functools.partial(
            _changed, self._read, function, self.shape, seeds
        )
        return augmented

    def binned(self, binning: Binning | None = None) -> Binned:
        """Return the recordings as sequences of counts, to train with. By default 100 time steps of
        14 ms.
        """
        return Binned(self, binning or Binning())


def _changed(
    read: Callable[[int], Events],
    function: Callable,
    shape: tuple[int, ...],
    seed: list[int],
    number: int,
) -> Events:
    # The number in the file belongs to the seed, so a recording changes alike in every subset and
    # order of reading.
    rng = np.random.default_rng([*seed, number])
    return function(rng, read(number), shape)


class Binned(Sequences):
    """Event recordings as sequences: for each time step (*bin*), the number of events in each
    channel.

    :meth:`Recordings.binned` returns it. It has the methods of :class:`Sequences`, such as
    :meth:`~Sequences.batches`. If ``binning.steps`` is None, each recording is read once for its
    length. Shorter recordings then get zeros at the end, and masks.

    Parameters
    ----------
    recordings : Recordings
        The recordings. They are binned when an example is read.
    binning : Binning
        Number and length of the time steps, and the kind of values.
    """

    def __init__(self, recordings: Recordings, binning: Binning) -> None:
        self.recordings = recordings
        self.binning = binning
        count = len(recordings)
        # The bins then have a length in time, and the recording decides their number.
        if binning.steps is None:
            lengths = [binning.steps_of(recordings[index]) for index in range(count)]
        else:
            lengths = [binning.steps] * count
        read = functools.partial(_bins, recordings, binning)
        super().__init__(
            recordings.name,
            Lazy(count, read),
            recordings.y,
            lengths=lengths,
            class_names=recordings.class_names,
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}; {self.binning}>"

    def outside(self) -> tuple[int, int]:
        """Return two numbers: the events outside of the time steps, and all events.

        It reads all recordings. If many events are outside, use more or longer time steps.
        """
        outside = events = 0
        for index in range(len(self)):
            recording = self.recordings[index]
            _, outside_of_one = self.binning(recording, self.recordings.shape)
            outside += outside_of_one
            events += len(recording.times)
        return outside, events

    def _part(self, chosen: np.ndarray) -> Self:
        part = super()._part(chosen)
        # A part of the recordings, so it counts its events outside.
        part.recordings = self.recordings.subset(chosen)
        return part


def _bins(recordings: Recordings, binning: Binning, index: int) -> np.ndarray:
    x, _ = binning(recordings[index], recordings.shape)
    return x


def split_by_speaker(
    recordings: Recordings, count: int = 1, seed: int = 0
) -> tuple[Recordings, Recordings]:
    """Split recordings into a training set and a test set with different speakers.

    Use it to split a validation set off the training set of SHD, which has no validation set. The
    test set of SHD contains two speakers that its training set does not contain. A validation set
    of other speakers is similar to it.

    Parameters
    ----------
    recordings : Recordings
        Recordings whose ``speakers`` are known.
    count : int, default 1
        Number of speakers in the test set, at least 1, and less than the number of all speakers.
    seed : int, default 0
        Seed of the random choice of these speakers.

    Returns
    -------
    train, test : Recordings
        ``test`` has the recordings of the chosen speakers, and ``train`` all others.

    Raises
    ------
    DataError
        If the speakers are unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Events, Recordings, split_by_speaker
    >>> silence = Events(np.zeros(0), np.zeros(0, int))
    >>> recordings = Recordings(
    ...     "silence",
    ...     (3,),
    ...     [0, 1, 0, 1],
    ...     lambda number: silence,
    ...     speakers=[4, 4, 7, 7],
    ... )
    >>> rest, test = split_by_speaker(recordings)
    >>> len(rest), len(test), len(set(test.speakers.tolist()))
    (2, 2, 1)
    """
    if recordings.speakers is None:
        raise DataError(
            f"{recordings.name}: speakers are missing; pass speakers= to Recordings"
        )
    present = np.unique(recordings.speakers)
    # Speakers and not recordings, because a voice in both parts makes the test too easy.
    chosen = np.random.default_rng(seed).choice(present, count, replace=False)
    test = np.isin(recordings.speakers, chosen)
    return recordings.subset(~test), recordings.subset(test)
