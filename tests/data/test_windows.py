"""Windows of a series and sequences with targets, against loops over the points."""

import numpy as np
import pytest

from spikegrad.data import (
    FORMS,
    DataError,
    Recordings,
    Sequences,
    mackey_glass,
    series_windows,
    train_test_split,
)

POINTS = np.random.default_rng(0).normal(size=(20, 2))


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_targets_are_the_next_values(stride):
    source = series_windows("points", POINTS, 6, stride=stride)
    starts = range(0, 20 - 6, stride or 6)
    assert len(source) == len(starts)
    assert (source.classes, source.outputs, source.shape, source.steps) == (0, 2, (2,), 6)
    for example, start in zip(source, starts, strict=True):
        for t in range(6):
            assert (example.x[t] == POINTS[start + t]).all()
            assert (example.y[t] == np.float32(POINTS[start + t + 1])).all()


def test_batches_of_targets_have_time_first():
    source = series_windows("points", POINTS[:, 0], 4, stride=2)
    x, y, mask = source.subset([3, 0]).as_batch()
    assert (x.shape, y.shape, y.dtype, mask) == ((4, 2, 1), (4, 2, 1), np.float32, None)
    assert np.array_equal(y[:, 0, 0], np.float32(POINTS[7:11, 0]))
    train, test = train_test_split(source, 0.25, seed=0)
    assert (len(train), len(test)) == (6, 2)
    first_points = [example.x[0, 0] for part in (train, test) for example in part]
    assert sorted(first_points) == sorted(POINTS[:16:2, 0])
    ragged = Sequences(
        "two", [np.ones((3, 1)), np.ones((1, 1))], np.ones((2, 3, 1)), class_names=()
    )
    assert ragged.as_batch().mask.sum(0).tolist() == [3, 1]


def test_halves_of_mackey_glass_share_no_input():
    (form,) = [form for form in FORMS if form.name == "mackey_glass"]
    train, test = form.read("", 75, 0)
    series = mackey_glass()
    assert (len(train), len(test)) == (676, 10)
    assert train[675].x[-1, 0] == series[749]
    assert test[0].x[0, 0] == series[750] == pytest.approx(train[675].y[-1, 0], rel=1e-6)
    assert test[9].y[-1, 0] == pytest.approx(series[1500], rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: series_windows("s", POINTS, 20), "s: steps must be from 1 to 19 and stride"),
        (lambda: series_windows("s", POINTS, 5, stride=0), "got steps=5 and stride=0"),
        (lambda: series_windows("s", POINTS[None], 5), r"s: series must have shape \(points,\)"),
        (
            lambda: Sequences("s", np.ones((2, 4, 1)), np.ones((2, 3, 1))),
            r"s: targets must have shape \(2, 4, outputs\), got \(2, 3, 1\)",
        ),
        (
            lambda: Sequences("s", np.ones((2, 4, 1)), np.full((2, 4, 1), np.nan)),
            "s: y must be finite",
        ),
        (
            lambda: Recordings("r", (3,), np.ones((2, 4, 1)), lambda number: None),
            r"r: y must have shape \(n,\), an integer label",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises(DataError, match=message):
        make()
