"""Event cameras: N-MNIST, and DVS128 Gesture as AEDAT 3.1."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._accepted import DataError
from ._events import Events, Recordings
from ._forms import EVENTS, FORMS, Form, in_folder
from ._reading import lines_of, reading

# Height, width and polarity, in the order of the units.
NMNIST = (34, 34, 2)
NMNIST_OVERFLOW_ROW = 240
NMNIST_OVERFLOW_US = 2**13
DVS128 = (128, 128, 2)
GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right hand clockwise",
    "right hand counter clockwise",
    "left hand clockwise",
    "left hand counter clockwise",
    "forearm roll",
    "drums",
    "guitar",
    "random other",
)


def read_nmnist(folder: str | os.PathLike) -> Recordings:
    """Read the data set N-MNIST [1]_: digits of MNIST in front of a moving event camera.

    The folder has subfolders 0 to 9 with a ``.bin`` file for each recording. An event has 5 bytes:
    x, y, then polarity in the highest bit and 23 bits of microseconds. An entry with y = 240 is not
    an event: it adds 8192 microseconds to all later times.

    Parameters
    ----------
    folder : str or path-like
        The path of the folder ``Train`` or ``Test``.

    Returns
    -------
    Recordings
        Recordings with units (pixels) of shape ``(34, 34, 2)``: height, width and polarity. Each
        takes about 315 ms, three movements of the camera of 105 ms.

    Raises
    ------
    DataError
        If the folder does not contain such files. When a recording is read, also if its file is
        incomplete, or if an event is outside of the picture.

    References
    ----------
    .. [1] G. Orchard, A. Jayawant, G. K. Cohen and N. Thakor, "Converting static image datasets to
       spiking neuromorphic datasets using saccades", Frontiers in Neuroscience 9, 437 (2015).
    """
    digits = [str(digit) for digit in range(10)]
    paths: list[Path] = []
    for digit in digits:
        paths += sorted(Path(folder, digit).glob("*.bin"))
    if not paths:
        raise DataError(f"{folder}: no folders 0 to 9 with .bin files")
    y = [int(path.parent.name) for path in paths]
    read = functools.partial(_nmnist_events, paths)
    return Recordings(str(folder), NMNIST, y, read, class_names=digits)


def _nmnist_events(paths: Sequence[Path], number: int) -> Events:
    with reading(paths[number]):
        # In 64 bits, because shifts of bytes would overflow.
        rows = np.fromfile(paths[number], np.uint8).reshape(-1, 5)
        x, y, *bytes_of_time = rows.T.astype(np.int64)
        high, middle, low = bytes_of_time
        # Entries that are not events advance the time, which has only 23 bits.
        overflow = y == NMNIST_OVERFLOW_ROW
        times = (high & 0x7F) << 16 | middle << 8 | low
        times += NMNIST_OVERFLOW_US * np.cumsum(overflow)
        event = ~overflow
        axes = y[event], x[event], high[event] >> 7
        # It raises an error if an event is outside of the picture.
        units = np.ravel_multi_index(axes, NMNIST)
        return Events(times[event].astype(np.float64), units)


def read_dvs_gesture(path: str | os.PathLike) -> Recordings:
    """Read the data set DVS128 Gesture [1]_: gestures of hands and arms, recorded by an event
    camera.

    Each labelled interval of a file is one recording. Each file ``NAME.aedat`` (AEDAT 3.1) needs a
    file ``NAME_labels.csv`` in its folder. It has a line of headings, and then a line for each
    gesture: class (1 to 11), start and end in microseconds. If intervals overlap, their common
    events belong to several recordings.

    Parameters
    ----------
    path : str or path-like
        An ``.aedat`` file, or a text file with the names of such files in its folder, such as
        ``trials_to_train.txt``.

    Returns
    -------
    Recordings
        Recordings with units (pixels) of shape ``(128, 128, 2)``: height, width and polarity.
        Labels are 0 to 10. Times count from the start of the interval. An interval includes its
        start and excludes its end.

    Raises
    ------
    DataError
        If a file is missing or has a wrong form. An AEDAT file is checked when its first recording
        is read.

    Notes
    -----
    A packet has a header of 28 bytes and space for *capacity* events, and contains *number* events.
    An event has 8 bytes. Its address has x from bit 17, y from bit 2, polarity in bit 1 and a valid
    flag in bit 0. Invalid events are skipped if the header counts fewer valid events than events.
    Packets of other types are skipped.

    References
    ----------
    .. [1] A. Amir et al., "A low power, fully event-based gesture recognition system", CVPR (2017).
    """
    path = Path(path)
    names = [path.name]
    if path.suffix != ".aedat":  # a list of files
        names = " ".join(lines_of(path)).split()
    clips = [clip for name in names for clip in _clips_of(path.with_name(name))]
    # Labels of the files start at 1.
    y = [label - 1 for _, label, _, _ in clips]
    read = functools.partial(_gesture_events, clips)
    return Recordings(str(path), DVS128, y, read, class_names=GESTURES)


def _clips_of(path: Path) -> list[tuple[_Aedat, int, int, int]]:
    labels = path.with_name(f"{path.stem}_labels.csv")
    with reading(labels):
        rows = np.loadtxt(labels, np.int64, delimiter=",", skiprows=1, ndmin=2)
    # The intervals of a file share its index of packets.
    file = _Aedat(path)
    return [(file, label, start, end) for label, start, end in rows.tolist()]


def _gesture_events(
    clips: Sequence[tuple[_Aedat, int, int, int]], number: int
) -> Events:
    file, _, start, end = clips[number]
    with reading(file.path):
        return file.events(start, end)


_VERSION = b"#!AER-DAT3.1"
_END_OF_HEADER = b"#!END-HEADER\r\n"
_HEADER_BYTES = 28
_EVENT_WORDS = 2
# Packets of other types have frames, or readings of other sensors.
_POLARITY_EVENTS = 1


class _Header(NamedTuple):
    """The words before a packet."""

    kind: int  # and the source in the upper half
    size: int  # of an event, in bytes
    offset_of_time: int
    overflow: int  # how often the times of 31 bits started again
    capacity: int  # space for events
    events: int
    valid: int  # events that are not marked as invalid


class _Packet(NamedTuple):
    position: int  # offset of its first event in the file
    number: int
    all_valid: bool
    epoch: int  # start of its times in microseconds
    first: int  # smallest and largest time
    last: int


class _Aedat:
    """An AEDAT 3.1 file. Its packets are listed once, and a recording reads only its packets."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def packets(self) -> list[_Packet]:
        data = self.path.read_bytes()
        if not data.startswith(_VERSION) or _END_OF_HEADER not in data:
            raise DataError(f"{self.path}: not an AEDAT 3.1 file")
        packets: list[_Packet] = []
        position = data.index(_END_OF_HEADER) + len(_END_OF_HEADER)
        while position < len(data):
            words = np.frombuffer(data, "<u4", _HEADER_BYTES // 4, position).tolist()
            header = _Header(*words)
            position += _HEADER_BYTES
            has_polarities = header.kind & 0xFFFF == _POLARITY_EVENTS
            # An empty packet has no smallest time.
            if has_polarities and header.events > 0:
                count = _EVENT_WORDS * header.events
                addresses_and_times = np.frombuffer(data, "<u4", count, position)
                times = addresses_and_times[1::2]
                # The times of a packet have 31 bits.
                epoch = header.overflow << 31
                packet = _Packet(
                    position,
                    header.events,
                    all_valid=header.valid >= header.events,
                    epoch=epoch,
                    first=epoch + int(times.min()),
                    last=epoch + int(times.max()),
                )
                packets.append(packet)
            # The space after the last event is not empty, but arbitrary.
            position += header.size * header.capacity
        return packets

    def events(self, start: int, end: int) -> Events:
        """Return the events of an interval in microseconds, with times from its start."""
        parts = [np.zeros((_EVENT_WORDS, 0), np.int64)]
        for packet in self.packets:
            # Packets may overlap in time, so no bisection.
            if packet.first < end and packet.last >= start:
                words = np.fromfile(
                    self.path,
                    "<u4",
                    _EVENT_WORDS * packet.number,
                    offset=packet.position,
                )
                # Later times need more than 32 bits.
                address, time = words.reshape(-1, _EVENT_WORDS).T.astype(np.int64)
                time += packet.epoch - start
                is_valid = packet.all_valid | (address & 1 == 1)
                inside = (time >= 0) & (time < end - start) & is_valid
                events = np.stack([address, time])
                parts.append(events[:, inside])
        address, time = np.concatenate(parts, axis=1)
        # The lowest of the 32 bits is the mark of validity. Rows and columns have 15 bits.
        polarity = address >> 1 & 1
        row = address >> 2 & 0x7FFF
        column = address >> 17 & 0x7FFF
        units = np.asarray(np.ravel_multi_index((row, column, polarity), DVS128))
        return Events(time.astype(np.float64), units)


FORMS += [
    Form(
        "nmnist:PATH",
        "the folder with Train and Test",
        in_folder(read_nmnist, "Train", "Test"),
        options=EVENTS | {"bin": 3.5},
    ),
    Form(
        "dvs128:PATH",
        "DVS128 Gesture, a folder or list",
        in_folder(read_dvs_gesture, "trials_to_train.txt", "trials_to_test.txt"),
        options=EVENTS | {"bin": 60.0, "pool": 4},
    ),
]
