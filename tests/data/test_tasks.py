"""Generated tasks: the published points, and counts that follow from the definitions."""

import numpy as np
import pytest

from spikegrad.data import Sequences, binary_adding, cue_accumulation, yin_yang
from spikegrad.data._tasks import yin_yang_points


def test_yin_yang_points_are_the_published_ones():
    """The first points and the counts of classes of the file that the authors published for training."""
    points, labels = yin_yang_points(5000, 42)
    np.testing.assert_allclose(points[:2], [[0.68030754, 0.45049925], [0.09767211, 0.68423303]], atol=5e-9)
    assert labels[:2].tolist() == [2, 1]
    assert np.bincount(labels).tolist() == [1681, 1702, 1617]


def test_yin_yang_classes_are_areas_of_the_symbol():
    """A turn of half a circle exchanges yin and yang, and keeps the dots, which have a radius of 0.1."""
    points, labels = yin_yang_points(3000, 0)
    centered = points - 0.5
    assert (np.hypot(*centered.T) <= 0.5).all()
    dots = np.minimum(np.hypot(centered[:, 0] - 0.25, centered[:, 1]), np.hypot(centered[:, 0] + 0.25, centered[:, 1]))
    assert ((dots < 0.1) == (labels == 2)).all()
    x, y = centered[labels != 2].T
    # the border: a half circle below on the left and above on the right, of radius 0.25
    bulge = np.where(np.hypot(np.abs(x) - 0.25, y) <= 0.25, x < 0, y > 0)
    assert (bulge == (labels[labels != 2] == 1)).all()


def test_yin_yang_spikes_are_the_times_of_the_values():
    source = yin_yang(50, steps=45, last=40, seed=3)
    points, labels = yin_yang_points(50, 3)
    x, y, mask = source.as_batch()
    assert x.shape == (45, 50, 5)
    assert mask is None
    assert (x.sum(0) == 1).all()
    times = x.argmax(0)
    assert np.abs(times[:, :2] - 40 * points).max() <= 0.5
    assert np.abs(times[:, 2:4] - 40 * (1 - points)).max() <= 0.5
    assert (times[:, 4] == 0).all()
    np.testing.assert_array_equal(y, labels)


def test_binary_adding_counts_the_marked_ones():
    source = binary_adding(2000, steps=40, marked=9, seed=1)
    bits, marks = np.moveaxis(np.stack([source[i].x for i in range(len(source))]), 2, 0)
    np.testing.assert_array_equal((bits & marks).sum(1), source.y)
    assert (marks.sum(1) == 9).all()
    assert np.bincount(source.y).tolist() == [200] * 10
    rest = bits[~marks].mean()
    assert abs(rest - 0.5) < 4 * 0.5 / np.sqrt((~marks).sum())
    assert abs(marks.mean(0) - 9 / 40).max() < 5 * np.sqrt(9 / 40 / 2000)  # every step alike
    ones = (bits & marks).sum(0) / marks.sum(0)
    assert abs(ones - 0.45 - 0.05).max() < 0.15  # and no step tells the label
    other = binary_adding(2000, steps=40, marked=9, seed=2)
    assert not any((source[i].x == other[i].x).all() for i in range(100))


def test_cue_accumulation_has_cues_a_delay_and_a_recall():
    source = cue_accumulation(60, cues=5, delay=300, rate=0.2, share=0.8, units=6, seed=4)
    x = np.stack([source[i].x for i in range(60)]).reshape(60, 5 * 150 + 300, 4, 6).astype(float)
    cues = x[:, :750].reshape(60, 5, 150, 4, 6)
    assert not cues[:, :, :50, :2].any()  # gaps
    sides = cues[..., :2, :].mean((2, 4))
    fires = sides > 0
    assert (fires.sum(2) == 1).all()  # of each cue one side
    assert sides.max(2).mean() == pytest.approx(0.2 * 100 / 150, rel=0.05)
    np.testing.assert_array_equal(source.y, fires[:, :, 1].sum(1) > 2.5)
    share = np.maximum(fires[:, :, 1].mean(1), fires[:, :, 0].mean(1)).mean()
    assert share == pytest.approx(0.82, abs=0.06)  # E max(k, 5 - k) / 5 of 0.8
    assert not x[:, 750:, :2].any()
    assert not x[:, :-150, 2].any()
    assert x[:, -150:, 2].mean() == pytest.approx(0.2, rel=0.05)
    assert x[:, :, 3].mean() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("make", [yin_yang, binary_adding, cue_accumulation])
def test_tasks_are_drawn_by_their_seed(make):
    one, same, other = make(12, seed=5), make(12, seed=5), make(12, seed=6)
    assert isinstance(one, Sequences)
    assert all((one[i].x == same[i].x).all() for i in range(12))
    assert any((one[i].x != other[i].x).any() for i in range(12))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("yin_yang: last must be below the 60 steps, got 60", lambda: yin_yang(last=60)),
        ("yin_yang: samples must be an integer of at least 1, got 0", lambda: yin_yang(0)),
        ("yin_yang: seed must be an integer from 0 to 4294967295", lambda: yin_yang(seed=2**32)),
        ("binary_adding: marked must be at most the 5 steps, got 9", lambda: binary_adding(steps=5)),
        ("cue_accumulation: cues must be odd, got 4", lambda: cue_accumulation(cues=4)),
        ("cue_accumulation: delay must be an integer of at least 150, got 10", lambda: cue_accumulation(delay=10)),
        ("cue_accumulation: rate must be above 0 and at most 1, got 40", lambda: cue_accumulation(rate=40)),
        ("cue_accumulation: share must be above 0 and at most 1, got nan", lambda: cue_accumulation(share=np.nan)),
    ],
)
def test_tasks_reject_invalid_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()
