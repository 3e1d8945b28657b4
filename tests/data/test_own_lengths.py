"""Recordings of their own lengths, and pairs of a structured array and a label, as Tonic's."""

import numpy as np
import pytest
from networks import assert_raises

from spikegrad.data import Binning, Events, Recordings, read_pairs, train_test_split

STEP = 250.0
RNG = np.random.default_rng(8)
CLIPS = [
    Events(
        np.array([0.0, 10, 249.9, 250]), np.array([0, 2, 2, 1])
    ),  # an event at the start of the second step
    Events(np.array([999.9, -1.0]), np.array([1, 1])),  # an event before the start
    Events(np.zeros(0), np.zeros(0, int)),
    Events(np.array([1750.0, 20.0]), np.array([2, 0])),
]


def recordings():
    return Recordings("clips", (3,), [0, 1, 1, 0], CLIPS.__getitem__)


def counted(events):
    """By a loop over events, in as many steps as they need."""
    steps = max([int(t // STEP) for t in events.times if t >= 0], default=0) + 1
    counts = np.zeros((steps, 3), int)
    for t, unit in zip(events.times, events.units, strict=True):
        if t >= 0:
            counts[int(t // STEP), unit] += 1
    return counts


def test_each_recording_ends_with_its_last_event():
    binned = recordings().binned(Binning(None, STEP))
    assert repr(binned) == "<clips: 4 sequences, 1 to 8 steps, channels (3,), 2 classes; " + (
        "bins of 0.25 ms from 0 to the last event, counts>"
    )
    expected = [counted(events) for events in CLIPS]
    assert binned.lengths.tolist() == [len(x) for x in expected] == [2, 4, 1, 8]
    assert binned.outside() == (1, 8)
    batch = next(iter(binned.batches(4)))
    for b, x in enumerate(expected):
        assert batch.mask[:, b].tolist() == [True] * len(x) + [False] * (8 - len(x))
        assert batch.x[: len(x), b].tolist() == x.tolist()
        assert not batch.x[len(x) :, b].any()
    # A function of a sequence gets no padding, and parts keep the number of steps and the masks.
    lengths = []
    mapped = binned.map(lambda x: lengths.append(len(x)) or x)
    assert mapped[2].x.shape == (8, 3)
    assert lengths[-1] == 1
    part = binned.subset([1, 0])
    assert (part.steps, part.lengths.tolist(), part.masked, part.outside()) == (
        8,
        [4, 2],
        True,
        (1, 6),
    )
    assert np.array_equal(part[1].x, binned[0].x)
    train, test = train_test_split(binned, 0.5)
    assert (train.steps, test.steps, len(train)) == (8, 8, 2)


def test_fixed_steps_have_no_masks():
    binned = recordings().binned(Binning(4, STEP))
    assert binned[0].mask is None
    assert binned.subset([2])[0].x.shape == (4, 3)


class Camera:
    """A dataset as Tonic writes them: pairs, and the size of the sensor as width, height,
    polarities.
    """

    sensor_size = (5, 3, 2)
    kind = np.dtype([("x", np.int16), ("y", np.int16), ("p", bool), ("t", np.int64)])

    def __init__(self):
        self.targets, self.reads = [1, 0, 1], 0
        draw = [np.sort(RNG.integers(0, 10**6, 9)) for _ in self.targets]
        places = [
            (RNG.integers(0, 5, 9), RNG.integers(0, 3, 9), RNG.integers(0, 2, 9))
            for _ in self.targets
        ]
        self.data = [
            np.array([*zip(*place, t, strict=True)], self.kind)
            for t, place in zip(draw, places, strict=True)
        ]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.reads += 1
        return self.data[index], self.targets[index]


@pytest.mark.parametrize("with_labels", [True, False])
def test_pairs_of_a_camera(with_labels):
    source = Camera()
    recordings = read_pairs(
        source, y=source.targets if with_labels else None, class_names=["a", "b"]
    )
    assert source.reads == (0 if with_labels else 3)
    assert repr(recordings) == "<Camera: 3 recordings, units (3, 5, 2), 2 classes>"
    assert recordings.y.tolist() == source.targets
    for number, events in enumerate(source.data):
        times, units = recordings[number]
        assert times.tolist() == events["t"].tolist()
        assert units.tolist() == [
            (y * 5 + x) * 2 + p
            for x, y, p in zip(
                events["x"].tolist(), events["y"].tolist(), events["p"].tolist(), strict=True
            )
        ]
    assert sum(recordings.binned(Binning(None, 10_000.0))[0].x.ravel()) == 9


def test_pairs_of_a_cochlea():
    """Of SHD, Tonic's events have no y, and the polarity 1 of one polarity."""
    kind = np.dtype([("t", int), ("x", int), ("p", int)])
    pairs = [(np.array([(5, 699, 1), (9, 0, 1)], kind), np.int64(3))]
    recordings = read_pairs(pairs, (700, 1, 1), name="shd")
    assert (recordings.shape, recordings.y.tolist(), recordings[0].units.tolist()) == (
        (700,),
        [3],
        [699, 0],
    )


FRAMES = [(np.zeros((2, 3, 3)), 0)]
WIDE = [(np.array([(7, 0, 1, 10)], Camera.kind), 0)]
REFUSED = {
    "no size": (
        lambda: read_pairs(WIDE),
        "list: sensor_size must be (width, height, polarities), got None; pass",
    ),
    "frames": (
        lambda: read_pairs(FRAMES, (3, 3, 2))[0],
        "list: recording 0 must be a structured array with the fields "
        "t, y, x, p, got a ndarray without t, y, x, p; leave out transforms",
    ),
    "beyond the width": (
        lambda: read_pairs(WIDE, (5, 3, 2))[0],
        "recording 0 must have x from 0 to 4, got 7 to 7; check sensor_size",
    ),
    "names as labels": (
        lambda: read_pairs([(WIDE[0][0], "cat")], (9, 3, 2)),
        "list: y must have shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pairs_that_are_refused(name):
    call, message = REFUSED[name]
    assert_raises(call, f"DataError: {message}")
