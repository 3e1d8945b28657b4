"""Random changes of events and batches: each is undone or done again by a loop, and what must stay
stays.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad.data import (
    Binning,
    Events,
    Recordings,
    drop_batch,
    drop_events,
    flip_batch,
    flip_events,
    jitter_times,
    shift_batch,
    shift_events,
    stretch_times,
)

SHAPE = (6, 8, 2)  # height, width, polarity
RNG = np.random.default_rng(3)
EVENTS = Events(np.sort(RNG.uniform(0, 1000, 200)), RNG.integers(0, 96, 200))
SEEDS = range(150)


def rows(events):
    """(time, y, x, polarity) of each event, by arithmetic."""
    return [
        (t, u // 16, u // 2 % 8, u % 2)
        for t, u in zip(events.times.tolist(), events.units.tolist(), strict=True)
    ]


def changed(function, **options):
    """The results for all seeds, with the events as lists of rows."""
    return [rows(function(np.random.default_rng(seed), EVENTS, SHAPE, **options)) for seed in SEEDS]


BEFORE = rows(EVENTS)


def test_times():
    for after in changed(jitter_times, deviation_us=20.0):
        assert [row[1:] for row in after] == [row[1:] for row in BEFORE]
        assert all(0 <= row[0] <= BEFORE[-1][0] for row in after)
    inside = [i for i, row in enumerate(BEFORE) if 200 < row[0] < 800]  # nothing is clipped there
    differences = [
        after[i][0] - BEFORE[i][0]
        for after in changed(jitter_times, deviation_us=20.0)
        for i in inside
    ]
    assert abs(np.mean(differences)) < 0.7
    assert abs(np.std(differences) - 20) < 0.5

    factors = []
    for after in changed(stretch_times, low=0.5, high=2.0):
        assert [row[1:] for row in after] == [row[1:] for row in BEFORE]
        factors += [after[-1][0] / BEFORE[-1][0]]
        np.testing.assert_allclose(
            [row[0] for row in after], [factors[-1] * row[0] for row in BEFORE]
        )
    assert 0.5 <= min(factors) < 0.6
    assert 1.9 < max(factors) <= 2


def test_flips_and_shifts_of_events():
    mirrored = [(t, y, 7 - x, p) for t, y, x, p in BEFORE]
    flips = changed(flip_events)
    assert all(after in (BEFORE, mirrored) for after in flips)
    assert 0.35 < np.mean([after == mirrored for after in flips]) < 0.65

    found = set()
    for after in changed(shift_events, most=2):

        def moved(dy, dx):
            places = [(t, y + dy, x + dx, p) for t, y, x, p in BEFORE]
            return [row for row in places if 0 <= row[1] < 6 and 0 <= row[2] < 8]

        (by,) = [by for by in np.ndindex(5, 5) if moved(by[0] - 2, by[1] - 2) == after]
        found |= {by}
    assert len(found) == 25


def test_dropped_events():
    """Of a time window, an area or a number of events, and the others in their order."""
    shares = {"time": [], "area": [], "random": []}
    for kind, found in shares.items():
        for after in changed(drop_events, kinds=(kind,)):
            left = {*after}
            gone = [row for row in BEFORE if row not in left]
            assert [row for row in BEFORE if row in left] == after
            assert after
            axes = {"time": [0], "area": [1, 2], "random": []}[kind]
            bounds = [(min(g[a] for g in gone), max(g[a] for g in gone)) for a in axes if gone]
            for row in after if bounds else ():  # what stays is outside of the box of what is gone
                assert any(
                    not low <= row[a] <= high for a, (low, high) in zip(axes, bounds, strict=True)
                )
            found.append(len(gone) / len(BEFORE))
    assert {*np.round(shares["random"], 6).tolist()} == {n / 10 for n in range(1, 10)}
    assert (
        0.3 < np.mean(shares["time"]) < 0.45
    )  # a mean share of 1/2, of which a part is beyond the end
    assert (
        max(shares["area"]) <= 2 * 3 / 48
    )  # a quarter of 6 rows has at most 2, of 8 columns at most 3
    kinds = changed(drop_events)
    assert 0.15 < np.mean([after == BEFORE for after in kinds]) < 0.4
    single = EVENTS._replace(times=EVENTS.times[:1], units=EVENTS.units[:1])
    assert len(drop_events(np.random.default_rng(0), single, SHAPE, kinds=("random",)).times) == 1
    for seed in SEEDS:
        assert len(drop_events(np.random.default_rng(seed), single, SHAPE).times) == 1
    assert_raises(
        lambda: drop_events(np.random.default_rng(0), EVENTS, SHAPE, kinds=("all",)),
        "ValueError: drop_events: kinds must be among",
    )


def test_one_axis_of_space():
    clicks = Events(np.arange(5.0), np.arange(5))
    flips = {
        tuple(flip_events(np.random.default_rng(seed), clicks, (5,)).units.tolist())
        for seed in range(9)
    }
    assert flips == {(0, 1, 2, 3, 4), (4, 3, 2, 1, 0)}
    shifts = {
        tuple(shift_events(np.random.default_rng(seed), clicks, (5,), most=1).units.tolist())
        for seed in SEEDS
    }
    assert shifts == {(0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4)}


def test_augmented_recordings():
    """Equal draws for equal seeds, whatever the subset, and others for each recording and epoch."""
    recordings = Recordings("same", SHAPE, [0, 1, 1], lambda number: EVENTS)
    change = functools.partial(jitter_times, deviation_us=5.0)
    first, again, other = (recordings.augmented(change, seed) for seed in ((0, 0), (0, 0), (0, 1)))
    assert np.array_equal(first[1].times, again.subset([1])[0].times)
    assert len({first[0].times[0], first[1].times[0], other[0].times[0]}) == 3
    assert first.y.tolist() == [0, 1, 1]
    binned = first.binned(Binning(10, 101.0))
    assert all(binned[i].x.sum() == 200 for i in range(3))


COUNTS = RNG.poisson(0.7, (7, 48, 6, 8, 2)).astype(np.uint16)
COUNTS[5:, ::2] = 0
MASK = np.ones((7, 48), bool)
MASK[5:, ::2] = False
KEYS = jax.random.split(jax.random.key(0), 4)


def batches(function, x=COUNTS):
    """Each example before and after, in four batches."""
    compiled = jax.jit(function)
    for key in KEYS:
        after = np.asarray(compiled(key, x))
        assert after.dtype == x.dtype
        for b in range(x.shape[1]):
            yield b, x[:, b], after[:, b]


@pytest.mark.slow
def test_flips_and_shifts_of_batches():
    flips = []
    for _, before, after in batches(flip_batch):
        flips.append(np.array_equal(after, before[:, :, ::-1]))
        assert flips[-1] or np.array_equal(after, before)
    assert 0.4 < np.mean(flips) < 0.6

    rolled = {}
    for circular in (False, True):
        found = set()
        for _, before, after in batches(functools.partial(shift_batch, most=1, circular=circular)):
            matches = []
            for dy, dx in np.ndindex(3, 3):
                expected = np.zeros_like(before)
                for y, x in np.ndindex(6, 8):
                    to = y + dy - 1, x + dx - 1
                    if circular:
                        expected[:, to[0] % 6, to[1] % 8] = before[:, y, x]
                    elif 0 <= to[0] < 6 and 0 <= to[1] < 8:
                        expected[:, to[0], to[1]] = before[:, y, x]
                matches += [(dy, dx)] if np.array_equal(expected, after) else []
            assert len(matches) == 1
            found |= {*matches}
        rolled[circular] = found
    assert len(rolled[False]) == len(rolled[True]) == 9


@pytest.mark.parametrize("x", [COUNTS, COUNTS > 0], ids=["counts", "bools"])
def test_counts_dropped_at_random(x):
    shares = []
    for _, before, after in batches(functools.partial(drop_batch, kinds=("random",)), x):
        assert (after <= before).all()
        shares.append(1 - after.sum() / before.sum())
    np.testing.assert_allclose(np.mean(shares), 0.5, atol=0.05)
    for share in shares:  # near one of the nine shares, by the law of large numbers
        assert min(abs(share - n / 10) for n in range(1, 10)) < 0.08


def test_counts_of_windows_and_areas():
    windows = []
    for b, before, after in batches(
        functools.partial(drop_batch, mask=jnp.asarray(MASK), kinds=("time",))
    ):
        gone = [t for t in range(7) if not after[t].any() and before[t].any()]
        assert gone == [*range(gone[0], gone[-1] + 1)] if gone else True
        kept = [t for t in range(7) if t not in gone]
        assert np.array_equal(after[kept], before[kept])
        windows.append(len(gone) / MASK[:, b].sum())
    assert 0.25 < np.mean(windows) < 0.5

    areas = []
    for _, before, after in batches(functools.partial(drop_batch, kinds=("area",))):
        differs = (before != after).any((0, 3))
        assert not after[:, differs].any()
        ys, xs = np.nonzero(differs)
        if len(ys):  # a full box
            box = differs[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            assert box.all()
            assert box.shape[0] <= 2
            assert box.shape[1] <= 3
        areas.append(len(ys))
    assert max(areas) > 2


@pytest.mark.slow
def test_a_batch_of_channels_and_all_kinds():
    x = COUNTS[..., 0, 0]
    untouched = [
        np.array_equal(before, after) for _, before, after in batches(drop_batch, x[:, :, :])
    ]
    assert 0.2 < np.mean(untouched) < 0.6
    for _, before, after in batches(flip_batch, COUNTS[:, :, 0, :, 0]):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
