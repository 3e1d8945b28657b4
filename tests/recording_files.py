"""Files of data sets for the tests: their contents, and functions that write them in the formats of
the data sets.
"""

import random
import struct

import numpy as np
import pytest

# images

IMAGES = {
    "x_train": np.arange(60).reshape(20, 3),
    "y_train": np.arange(20) % 2,
    "x_test": np.arange(12).reshape(4, 3) + 50.0,
    "y_test": np.array([0, 1, 0, 1], np.uint8),
}


# SHD and SSC

SHD = {
    # float16 seconds: 1.3 is 1.2998046875, and times a million would be infinite in float16
    "times": [[0.0, 0.25, 1.3, 1.359], [], [0.0139, 0.0141], [0.5], [1.41, 0.1], [0.9]],
    "units": [[0, 699, 350, 1], [], [7, 7], [3], [4, 5], [6]],
    "labels": [0, 1, 0, 2, 1, 0],
    "extra/speaker": [1, 1, 2, 4, 2, 9],
    "extra/keys": [b"zero", b"one", b"two"],
}


def write_shd(path, **change):
    h5py = pytest.importorskip("h5py")
    content = {**SHD, **change}
    with h5py.File(path, "w") as file:
        for key, dtype in (("times", np.float16), ("units", np.uint16)):
            rows = content[key]
            if rows is None:
                continue
            if isinstance(rows, np.ndarray):
                file[f"spikes/{key}"] = rows
                continue
            dataset = file.create_dataset(f"spikes/{key}", (len(rows),), h5py.vlen_dtype(dtype))
            for i, row in enumerate(rows):
                dataset[i] = np.asarray(row, dtype)
        for key in ("labels", "extra/speaker", "extra/keys"):
            if content[key] is not None:
                file[key] = np.asarray(content[key])
    return path


# N-MNIST


def nmnist_bytes(events):
    """Each event as x, y, polarity and 23 bits of time, with the markers that 8192 us have
    passed.
    """
    written, passed = b"", 0
    for x, y, polarity, time in events:
        while time - passed >= 2**23:
            written += bytes([0, 240, 0, 0, 0])
            passed += 8192
        written += bytes([x, y]) + struct.pack(">I", polarity << 23 | time - passed)[1:]
    return written


def write_nmnist(folder, samples):
    for digit, name, content in samples:
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        (folder / str(digit) / f"{name}.bin").write_bytes(content)
    return folder


# events of a camera


def camera_events(seed, number, size, longest):
    draw = random.Random(seed)
    times = sorted(draw.randrange(longest) for _ in range(number))
    return [(draw.randrange(size), draw.randrange(size), draw.randrange(2), time) for time in times]


# DVS128 Gesture

AEDAT_HEADER = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2015-10-06 "
    b"13:00:00 (TZ+0200)\r\n"
)


VALID = 1


def packet(events, *, kind=1, capacity=None, valid=None, overflow=0, size=8):
    """Header and events of one packet; what is not used of its capacity is noise."""
    capacity = len(events) if capacity is None else capacity
    valid = len(events) if valid is None else valid
    body = b"".join(
        struct.pack("<II", x << 17 | y << 2 | p << 1 | mark, time)
        for x, y, p, time, mark in (e + (1,) * (5 - len(e)) for e in events)
    )
    noise = b"\xab" * (size * capacity - len(body))
    return (
        struct.pack("<HHIIIIII", kind, 1, size, 4, overflow, capacity, len(events), valid)
        + body
        + noise
    )


def write_aedat(path, packets, labels, header=AEDAT_HEADER + b"#!END-HEADER\r\n"):
    path.write_bytes(header + b"".join(packets))
    rows = "\n".join(",".join(map(str, row)) for row in labels)
    path.with_name(f"{path.stem}_labels.csv").write_text(
        f"class,startTime_usec,endTime_usec\n{rows}\n"
    )
    return path


EVENT = (3, 4, 1, 10)


# .ts

TS = """#A comment, with a latin letter: \xe9
%Another
@problemName Tiny
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
1.5,2,-3e-1:4,5,6:down

7:8:up
"""


def write_ts(path, *changes):
    text = TS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_bytes(text.encode("latin-1"))
    return path


# a user's own .npz

DENSE = {
    "x": np.arange(48, dtype=np.uint8).reshape(3, 4, 2, 2),
    "y": np.array([0, 2, 1], np.uint8),
    "lengths": np.array([4, 1, 2]),
}


SPARSE = {
    "times": np.array([0, 0.002, 1.3, 0.5], np.float16),
    "time_unit": "s",
    "units": np.array([0, 5, 11, 3], np.uint8),
    "shape": np.array([3, 2, 2]),
    "offsets": np.array([0, 3, 3, 4]),
    "y": np.array([1, 0, 1]),
    "speakers": np.array([7, 8, 7]),
}


def write_npz(path, arrays, **change):
    np.savez(
        path, **{key: value for key, value in {**arrays, **change}.items() if value is not None}
    )
    return path
