"""Event cameras: N-MNIST, and DVS128 Gesture as AEDAT 3.1 or as arrays of single gestures."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import brief
from ._accepted import DataError, path_of
from ._events import Events, Recordings
from ._forms import Form, in_folder
from ._npz import read_array
from ._reading import lines_of, opened, reading, whole_file, whole_rows

NMNIST = (34, 34, 2)
NMNIST_OVERFLOW_ROW, NMNIST_OVERFLOW_US = 240, 2**13
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


def _camera_events(path: Path, shape: tuple[int, int, int], times, x, y, polarity) -> Events:
    """Return events of a camera. Raise if one is outside of the picture."""
    for name, values, size in (("x", x, shape[1]), ("y", y, shape[0]), ("polarity", polarity, shape[2])):
        right = (values >= 0) & (values < size) & (values % 1 == 0)
        if not right.all():
            raise DataError(f"{path}: an event has {name} {values[~right][0]:g}, not 0 to {size - 1}")
    x, y, polarity = (values.astype(np.int64) for values in (x, y, polarity))
    return Events(times.astype(np.float64), np.asarray(np.ravel_multi_index((y, x, polarity), shape)))


def read_nmnist(folder: str | os.PathLike) -> Recordings:
    """Read N-MNIST [1]_: a folder ``Train`` or ``Test`` with folders 0 to 9 and a ``.bin`` file for each recording.

    An event has 5 bytes: x, y, then polarity in the highest bit and 23 bits of microseconds. An entry with y = 240 is
    not an event: it adds 8192 microseconds to all later times.

    Parameters
    ----------
    folder : str or path-like
        Path of ``Train`` or ``Test``.

    Returns
    -------
    Recordings
        Units of shape ``(34, 34, 2)``: height, width, polarity. About 315 ms each, three saccades of 105 ms.

    Raises
    ------
    DataError
        If the folder lacks such files. When a recording is read, also if its file is truncated or if an event is
        outside of the picture.

    References
    ----------
    .. [1] G. Orchard, A. Jayawant, G. K. Cohen and N. Thakor, "Converting static image datasets to spiking neuromorphic
       datasets using saccades", Frontiers in Neuroscience 9, 437 (2015).
    """
    folder, digits = path_of("read_nmnist", folder), [str(digit) for digit in range(10)]
    with reading(folder):
        files = [(path, int(digit)) for digit in digits for path in sorted(Path(folder, digit).glob("*.bin"))]
    if not files:
        raise DataError(f"{folder}: no folders 0 to 9 with .bin files")
    paths, y = zip(*files, strict=True)
    return Recordings(str(folder), NMNIST, y, functools.partial(_of_file, _nmnist_events, paths), class_names=digits)


def _nmnist_events(path: Path) -> Events:
    x, y, high, middle, low = np.frombuffer(whole_rows(path, 5), np.uint8).reshape(-1, 5).astype(np.int64).T
    overflow = y == NMNIST_OVERFLOW_ROW
    times = ((high & 0x7F) << 16 | middle << 8 | low) + NMNIST_OVERFLOW_US * np.cumsum(overflow)
    event = ~overflow
    return _camera_events(path, NMNIST, times[event], x[event], y[event], high[event] >> 7)


def _of_file(read: Callable[[Path], Events], paths: Sequence[Path], number: int) -> Events:
    """Read the events of a recording that is a file."""
    return read(paths[number])


def read_dvs_gesture(path: str | os.PathLike) -> Recordings:
    """Read DVS128 Gesture [1]_, a recording for each labelled interval of its AEDAT 3.1 files.

    Each ``NAME.aedat`` needs a file ``NAME_labels.csv`` in its folder: a line of headings, then class (1 to 11), start
    and end in microseconds for each gesture. Events in overlapping intervals belong to several recordings.

    Parameters
    ----------
    path : str or path-like
        An ``.aedat`` file, or a text file that lists files of its folder, such as ``trials_to_train.txt``.

    Returns
    -------
    Recordings
        Units of shape ``(128, 128, 2)``: height, width, polarity. Labels are 0 to 10. Times count from the start of the
        interval. The start belongs to the interval, the end does not.

    Raises
    ------
    DataError
        If a file is missing or malformed. AEDAT files are read with the first of their recordings.

    Notes
    -----
    A packet has a header of 28 bytes and space for *capacity* events, and contains *number* events. An event has 8
    bytes. Its address has x from bit 17, y from bit 2, polarity in bit 1 and a valid flag in bit 0. Invalid events are
    skipped if the header counts fewer valid events than events. Packets of other types are skipped.

    References
    ----------
    .. [1] A. Amir et al., "A low power, fully event-based gesture recognition system", CVPR (2017).
    """
    path = Path(path_of("read_dvs_gesture", path))
    clips = [clip for recording in _listed(path) for clip in _labelled_intervals(recording)]
    y = [clip.label for clip in clips]
    files = {path: _Aedat(path) for path in dict.fromkeys(clip.path for clip in clips)}
    return Recordings(str(path), DVS128, y, functools.partial(_of_interval, files, clips), class_names=GESTURES)


def _listed(path: Path) -> list[Path]:
    if path.suffix == ".aedat":
        return [path]
    names = " ".join(lines_of(path)).split()
    if not names or not all(name.endswith(".aedat") for name in names):
        raise DataError(f"{path}: must be an .aedat file or a list of .aedat files")
    return [path.parent / name for name in names]


class _Clip(NamedTuple):
    path: Path
    label: int
    start: int
    end: int


def _labelled_intervals(path: Path) -> list[_Clip]:
    labels = path.with_name(f"{path.stem}_labels.csv")
    _, *lines = lines_of(labels) or [""]
    clips = []
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        try:
            label, start, end = map(int, line.split(","))
        except ValueError:
            raise DataError(f"{labels}: line {number} is not class,start,end: {line[:40]!r}") from None
        if not 1 <= label <= len(GESTURES) or not 0 <= start < end:
            raise DataError(
                f"{labels}: line {number} needs a class of 1 to 11 and a start before the end: {line[:40]!r}"
            )
        clips.append(_Clip(path, label - 1, start, end))
    if not clips:
        raise DataError(f"{labels}: no intervals")
    return clips


def _of_interval(files: dict[Path, _Aedat], clips: Sequence[_Clip], number: int) -> Events:
    """Read the events of a recording that is an interval of a file."""
    clip = clips[number]
    return files[clip.path].events(clip.start, clip.end)


_VERSION = b"#!AER-DAT3.1"
_END_OF_HEADER = b"#!END-HEADER\r\n"
_POLARITY_EVENTS = 1
_PACKET = np.dtype(
    [("type", "<u2"), ("source", "<u2")]
    + [(name, "<u4") for name in ("size", "offset", "overflow", "capacity", "number", "valid")]
)
_EVENT = np.dtype([("address", "<u4"), ("time", "<u4")])


class _Packet(NamedTuple):
    position: int  # offset of its first event in the file
    number: int
    all_valid: bool
    epoch: int  # start of its times in microseconds
    first: int  # smallest and largest time
    last: int


class _Aedat:
    """An AEDAT 3.1 file. The positions of its packets are determined once. A recording reads its packets only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def packets(self) -> list[_Packet]:
        data = whole_file(self.path)
        if not data.startswith(_VERSION):
            raise DataError(f"{self.path}: not an AEDAT 3.1 file")
        end = data.find(_END_OF_HEADER)
        if end < 0:
            raise DataError(f"{self.path}: truncated: its header does not end")
        packets, position = [], end + len(_END_OF_HEADER)
        while position < len(data):
            if len(data) - position < _PACKET.itemsize:
                raise DataError(f"{self.path}: truncated: a packet's header is cut off at byte {position}")
            header = np.frombuffer(data, _PACKET, 1, position)[0]
            size, capacity, number = (int(header[name]) for name in ("size", "capacity", "number"))
            position += _PACKET.itemsize
            if number > capacity:
                raise DataError(f"{self.path}: the packet at byte {position} has {number} events, room for {capacity}")
            if size * capacity > len(data) - position:
                raise DataError(f"{self.path}: truncated: the packet at byte {position} is cut off")
            if header["type"] == _POLARITY_EVENTS and number:
                if size != _EVENT.itemsize:
                    raise DataError(f"{self.path}: the packet at byte {position} has events of {size} bytes, not 8")
                times = np.frombuffer(data, _EVENT, number, position)["time"]
                epoch = int(header["overflow"]) << 31
                first, last = epoch + int(times.min()), epoch + int(times.max())
                packets.append(_Packet(position, number, int(header["valid"]) >= number, epoch, first, last))
            position += size * capacity
        return packets

    def events(self, start: int, end: int) -> Events:
        """Return the events of an interval in microseconds, with times from its start."""
        chosen = [packet for packet in self.packets if packet.first < end and packet.last >= start]
        addresses, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        with opened(self.path) as stream:
            for packet in chosen:
                stream.seek(packet.position)
                events = np.frombuffer(stream.read(packet.number * _EVENT.itemsize), _EVENT)
                address, time = events["address"].astype(np.int64), events["time"].astype(np.int64) + packet.epoch
                inside = (time >= start) & (time < end) & (packet.all_valid | (address & 1 == 1))
                addresses.append(address[inside])
                times.append(time[inside] - start)
        address = np.concatenate(addresses)
        x, y, polarity = address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, address >> 1 & 1
        return _camera_events(self.path, DVS128, np.concatenate(times), x, y, polarity)


def read_dvs_gesture_arrays(folder: str | os.PathLike) -> Recordings:
    """Read DVS128 Gesture as arrays of single gestures, as Tonic provides them: ``folder/.../LABEL.npy``.

    Each trial has a folder. An array is ``(events, 4)``: x, y, polarity and **milliseconds**, unlike the microseconds
    of AEDAT. The name of the file is the label, 0 to 10.

    Parameters
    ----------
    folder : str or path-like
        Path of a folder such as ``ibmGestureTrain``.

    Returns
    -------
    Recordings
        Units of shape ``(128, 128, 2)``: height, width, polarity.

    Raises
    ------
    DataError
        If the folder lacks such files. When a recording is read, also if its array has another shape or dtype. Files
        are read without pickle.
    """
    folder = path_of("read_dvs_gesture_arrays", folder)
    with reading(folder):
        files = sorted(Path(folder).rglob("*.npy"))
    if not files:
        raise DataError(f"{folder}: no .npy files in it")
    for path in files:
        if not re.fullmatch("[0-9]|10", path.stem):
            raise DataError(f"{path}: its name must be a label, 0 to 10")
    y = [int(path.stem) for path in files]
    return Recordings(str(folder), DVS128, y, functools.partial(_of_file, _cut_events, files), class_names=GESTURES)


def _cut_events(path: Path) -> Events:
    array = read_array(path)
    if array.dtype.kind not in "uif" or array.ndim != 2 or array.shape[1] != 4:
        found = f"{array.dtype} of shape {brief(array.shape)}"
        raise DataError(f"{path}: must hold numbers of shape (events, 4), got {found}")
    x, y, polarity, milliseconds = array.T.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite times raise later
        return _camera_events(path, DVS128, milliseconds * 1000, x, y, polarity)


_DVS128 = in_folder(
    lambda path: (read_dvs_gesture_arrays if path.is_dir() else read_dvs_gesture)(path),
    ("trials_to_train.txt", "trials_to_test.txt"),
    ("ibmGestureTrain", "ibmGestureTest"),
)
_NMNIST = in_folder(read_nmnist, ("Train", "Test"))
FORMS = (
    Form("nmnist:PATH", "the folder with Train and Test", _NMNIST, steps=100, bin_ms=3.5),
    Form("dvs128:PATH", "DVS128 Gesture, a folder or list", _DVS128, steps=100, bin_ms=60, pool=4),
)
