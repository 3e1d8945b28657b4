"""Generated tasks: the published points, formulas, and counts that follow from the definitions."""

import inspect
import math

import numpy as np
import pytest

from spikegrad.data import FORMS, Sequences, binary_adding, cue_accumulation, randman, yin_yang


def test_yin_yang_points_are_the_published_ones():
    """The first points and the counts of classes of the file that the authors published for
    training.
    """
    times = yin_yang(2, steps=100_001, last=100_000).as_batch().x.argmax(0)
    expected = np.array([[0.68030754, 0.45049925], [0.09767211, 0.68423303]])
    np.testing.assert_allclose(times[:, :4] / 1e5, np.hstack([expected, 1 - expected]), atol=5.1e-6)
    labels = yin_yang().y
    assert labels[:2].tolist() == [2, 1]
    assert np.bincount(labels).tolist() == [1681, 1702, 1617]


def test_yin_yang_classes_are_areas_of_the_symbol():
    """A turn of half a circle exchanges yin and yang, and keeps the dots, which have a radius of
    0.1.
    """
    source = yin_yang(1000, steps=4001, last=4000, seed=3)
    x, y, mask = source.as_batch()
    assert (x.shape, mask) == ((4001, 1000, 5), None)
    assert (x.sum(0) == 1).all()
    times = x.argmax(0)
    assert (times[:, 4] == 0).all()
    assert np.abs(times[:, :2] + times[:, 2:4] - 4000).max() <= 1
    centered = times[:, :2] / 4000 - 0.5
    assert (np.hypot(*centered.T) <= 0.501).all()
    dots = np.minimum(*(np.hypot(centered[:, 0] - side, centered[:, 1]) for side in (0.25, -0.25)))
    far = (
        np.abs(dots - 0.1) > 1e-3
    )  # from the border, where a rounded time may be on the other side
    assert ((dots < 0.1) == (y == 2))[far].all()
    # the border: a half circle below on the left and above on the right, of radius 0.25
    radius = np.hypot(np.abs(centered[:, 0]) - 0.25, centered[:, 1])
    bulge = np.where(radius <= 0.25, centered[:, 0] < 0, centered[:, 1] > 0)
    far &= (np.abs(radius - 0.25) > 1e-3) & (np.abs(centered).min(1) > 1e-3)
    assert (bulge == (y == 1))[far & (y != 2)].all()
    assert far.mean() > 0.9


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
    assert 0.25 < source.y.mean() < 0.75  # the favored side differs between examples
    share = np.maximum(fires[:, :, 1].mean(1), fires[:, :, 0].mean(1)).mean()
    assert share == pytest.approx(0.82, abs=0.06)  # E max(k, 5 - k) / 5 of 0.8
    assert not x[:, 750:, :2].any()
    assert not x[:, :-150, 2].any()
    assert x[:, -150:, 2].mean() == pytest.approx(0.2, rel=0.05)
    assert x[:, :, 3].mean() == pytest.approx(0.05, rel=0.05)


def amplitudes(spectrum, alpha, terms):
    """(frequency, amplitude) of each term, as the module's text has them."""
    for k in range(terms):
        if spectrum == "paper":
            yield k + 1, 1 / (k + 1) ** alpha
        elif k == 0:
            yield 0, 0.0
        else:
            yield k, 1 / (k + 1) ** alpha if spectrum == "numpy" else 1 / ((k + 1) ** alpha + 1)


@pytest.mark.parametrize("spectrum", ["paper", "numpy", "torch"])
def test_randman_is_the_formula(spectrum):
    classes, units, samples, dimensions, alpha, seed = 2, 3, 6, 2, 1.7, 4
    source = randman(
        classes, units, samples, dimensions=dimensions, alpha=alpha, spectrum=spectrum, seed=seed
    )
    terms = 59  # ceil(1000 ** (1 / 1.7)) = ceil(58.2)
    rng = np.random.default_rng(seed)
    for label in range(classes):
        coefficients = rng.uniform(size=(3, units, dimensions, terms))
        points = rng.uniform(size=(samples, dimensions))
        for j in range(units):
            f = [
                math.prod(
                    sum(
                        coefficients[0, j, d, k]
                        * amplitude
                        * math.sin(
                            2
                            * math.pi
                            * (
                                frequency * point[d] * coefficients[1, j, d, k]
                                + coefficients[2, j, d, k]
                            )
                        )
                        for k, (frequency, amplitude) in enumerate(
                            amplitudes(spectrum, alpha, terms)
                        )
                    )
                    for d in range(dimensions)
                )
                for point in points
            ]
            for i in range(samples):
                step = min(int(50 * (f[i] - min(f)) / (max(f) - min(f))), 49)
                x, y, _ = source[label * samples + i]
                assert np.flatnonzero(x[:, j]).tolist() == [step]
                assert y == label


def test_randman_fills_a_fraction_of_the_steps():
    x, _, mask = randman(classes=1, units=2, samples=9, fraction=1, steps=30).as_batch()
    assert (x.shape, x.dtype, mask) == ((30, 9, 2), bool, None)
    assert (x.argmax(0).min(), x.argmax(0).max()) == (0, 29)


@pytest.mark.parametrize("make", [yin_yang, binary_adding, cue_accumulation])
def test_tasks_are_drawn_by_their_seed(make):
    one, same, other = make(12, seed=5), make(12, seed=5), make(12, seed=6)
    assert isinstance(one, Sequences)
    assert all((one[i].x == same[i].x).all() for i in range(12))
    assert any((one[i].x != other[i].x).any() for i in range(12))


@pytest.mark.parametrize(("name", "held_out"), [("binary_adding", 2000), ("cue_accumulation", 200)])
def test_runs_of_different_seeds_share_no_example(name, held_out):
    (form,) = (form for form in FORMS if form.name == name)
    train, test = form.read("", 20, 3)
    assert [part.name.split()[-1] for part in (train, test)] == ["6", "7"]
    assert len(test) == held_out


def test_defaults_are_those_of_the_publications():
    for task, expected in (
        (randman, [10, 20, 1000, 1, 1.0, 100, 0.5, "paper", 0]),
        (yin_yang, [5000, 60, 30, 42]),
        (binary_adding, [50_000, 100, 9, 0]),
        (cue_accumulation, [500, 7, 1200, 0.04, 0.7, 10, 0]),
    ):
        assert [
            parameter.default for parameter in inspect.signature(task).parameters.values()
        ] == expected


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("cue_accumulation: cues must be odd, got 4", lambda: cue_accumulation(cues=4)),
        (
            "cue_accumulation: delay must be at least 150, got 10",
            lambda: cue_accumulation(delay=10),
        ),
        (
            "randman: spectrum must be one of paper, numpy, torch, got 'jax'",
            lambda: randman(spectrum="jax"),
        ),
    ],
)
def test_tasks_reject_invalid_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()
