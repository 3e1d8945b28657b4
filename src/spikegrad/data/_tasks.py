"""Generated tasks: sequences that a network can only classify with depth or with memory."""

from __future__ import annotations

import math

import numpy as np

from ._forms import FORMS, SEQUENCES, Form
from ._sequences import Sequences

_RADIUS = 0.5
"""Radius of the Yin-Yang."""
_DOT = 0.1
"""Radius of its two dots."""


def yin_yang(
    samples: int = 5000,
    *,
    steps: int = 60,
    last: int = 30,
    seed: int = 42,
) -> Sequences:
    r"""Generate the Yin-Yang task: points in three areas of a Yin-Yang symbol, as times of single
    spikes [1]_.

    A point :math:`(x, y)` between 0 and 1 is in the yin, in the yang or in one of the dots: three
    classes. Four inputs spike once, at times in proportion to :math:`x, y, 1 - x` and :math:`1 -
    y`. A value of 0 spikes in time step 0, and a value of 1 in time step ``last``. A fifth input
    spikes in time step 0.

    Parameters
    ----------
    samples : int, default 5000
        Number of examples. All classes have equal probabilities.
    steps : int, default 60
        Number of time steps of a sequence.
    last : int, default 30
        The time step of a value of 1, below ``steps``.
    seed : int, default 42
        Seed of the random points. The published sets are 5,000 points with seed 42 for training,
        1,000 with seed 41 for validation, and 1,000 with seed 40 for the test.

    Returns
    -------
    Sequences
        Sequences of shape ``(steps, 5)``, bool, with the classes yang, yin and dot.

    Notes
    -----
    With the values as inputs, a network without a hidden layer reaches an accuracy of 63.8%. A
    network with 30 hidden units reaches 97.6% [2]_.

    References
    ----------
    .. [1] L. Kriener, J. Göltz and M. A. Petrovici, "The Yin-Yang dataset", NICE 2022, 107-111.
    .. [2] https://github.com/lkriener/yin_yang_data_set

    Examples
    --------
    >>> from spikegrad.data import yin_yang
    >>> train, test = yin_yang(), yin_yang(1000, seed=40)
    >>> train
    <Yin-Yang, seed 42: 5000 sequences, 60 steps, channels (5,), 3 classes>
    >>> train[0].x.argmax(0)  # the spike time of each unit
    array([20, 14, 10, 16,  0])
    """
    points, labels = yin_yang_points(samples, seed)
    bias = np.zeros((samples, 1))
    # Five units: x, y, 1 - x, 1 - y, and one that fires at step 0 as a reference of time.
    values = np.concatenate([points, 1 - points, bias], axis=1)
    spikes = np.zeros((samples, steps, 5), bool)
    times = np.rint(last * values).astype(int)
    examples = np.arange(samples)[:, None]
    spikes[examples, times, np.arange(5)] = True
    names = ["yang", "yin", "dot"]
    return Sequences(f"Yin-Yang, seed {seed}", spikes, labels, class_names=names)


def yin_yang_points(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates ``(samples, 2)`` and labels of the published generator."""
    # One by one and with the old generator, because only this order draws the published points.
    rng = np.random.RandomState(seed)
    points = np.empty((samples, 2))
    labels = np.empty(samples, int)
    for i in range(samples):
        labels[i] = rng.randint(3)
        while True:
            points[i] = rng.rand(2) * 2 * _RADIUS
            x, y = points[i]
            is_inside = math.hypot(x - _RADIUS, y - _RADIUS) <= _RADIUS
            if is_inside and _yin_yang_class(x, y) == labels[i]:
                break
    return points, labels


def _yin_yang_class(x: float, y: float) -> int:
    # The distances to the centers of the dots.
    right = math.hypot(x - 1.5 * _RADIUS, y - _RADIUS)
    left = math.hypot(x - 0.5 * _RADIUS, y - _RADIUS)
    if right < _DOT or left < _DOT:
        return 2
    # The cases of the published program. Here the first one holds only on the edge of a dot.
    is_yin = (
        right <= _DOT
        or _DOT < left <= _RADIUS / 2
        or (y > _RADIUS and right > _RADIUS / 2)
    )
    return int(is_yin)


def binary_adding(
    samples: int = 50_000,
    *,
    steps: int = 100,
    marked: int = 9,
    seed: int = 0,
) -> Sequences:
    """Generate the task "binary adding": count the ones of a bit stream at marked positions [1]_.

    The first channel has a random bit in each time step. The second channel is 1 in some time
    steps, which it marks. The label is the number of ones in marked time steps, from 0 to
    ``marked``. All labels are equally frequent. Bits at other time steps are 1 with probability
    1/2.

    Parameters
    ----------
    samples : int, default 50,000
        Number of examples.
    steps : int, default 100
        Number of time steps of a sequence.
    marked : int, default 9
        Number of marked time steps, at most ``steps``.
    seed : int, default 0
        Seed of the random examples. Use another seed for the test set.

    Returns
    -------
    Sequences
        Sequences of shape ``(steps, 2)``, bool, in ``marked + 1`` classes.

    Notes
    -----
    The published generator uses one seed for the bits of training set and test set, so the test set
    contains bits of training sequences. Here each seed gives other sequences.

    References
    ----------
    .. [1] NeuroSeqBench, arXiv:2502.09449.

    Examples
    --------
    >>> from spikegrad.data import binary_adding
    >>> train, test = binary_adding(1000), binary_adding(200, seed=1)
    >>> x, y, _ = train[7]
    >>> int(x[:, 1].sum()), bool((x[:, 0] & x[:, 1]).sum() == y)
    (9, True)
    """
    rng = np.random.default_rng(seed)
    balanced = np.arange(samples) % (marked + 1)
    labels = rng.permutation(balanced)
    bits = rng.random((samples, steps), np.float32) < 0.5
    # Positions without repetition, in a random order. The first of them are the ones.
    order = np.argsort(rng.random((samples, steps)), axis=1)
    positions = order[:, :marked]
    examples = np.arange(samples)[:, None]
    # (samples, marked): the first ``label`` of the marked positions get ones. The positions are in
    # random order.
    bits[examples, positions] = np.arange(marked) < labels[:, None]
    marks = np.zeros_like(bits)
    marks[examples, positions] = True
    return Sequences(
        f"binary adding, {marked} of {steps} steps, seed {seed}",
        np.stack([bits, marks], axis=2),
        labels,
        class_names=[str(count) for count in range(marked + 1)],
    )


def cue_accumulation(
    samples: int = 500,
    *,
    cues: int = 7,
    delay: int = 1200,
    rate: float = 0.04,
    share: float = 0.7,
    units: int = 10,
    seed: int = 0,
) -> Sequences:
    """Generate the task "cue accumulation": report after a delay on which side most cues were [1]_.

    A sequence has several cues, each on the left or on the right. The label is the side with more
    cues, 0 or 1. A cue takes 100 time steps, after a gap of 50 time steps. The inputs are four
    groups of units. During a cue, each unit of the group "left" or "right" spikes with the
    probability ``rate`` in each time step. After the last cue, the network must remember the side.
    In the last 150 time steps, the group "recall" spikes, and the network must report the side. The
    group "noise" spikes at a quarter of the rate in all time steps.

    Parameters
    ----------
    samples : int, default 500
        Number of examples.
    cues : int, default 7
        Number of cues, an odd number.
    delay : int, default 1200
        Number of time steps from the end of the last cue to the end of the sequence, at least 150.
    rate : float, default 0.04
        Probability that a unit spikes in a time step. The default is 40 Hz for time steps of 1 ms.
    share : float, default 0.7
        Probability of each cue to be on the favored side. The favored side is random for each
        example.
    units : int, default 10
        Number of units in each group.
    seed : int, default 0
        Seed of the random examples. Use another seed for the test set.

    Returns
    -------
    Sequences
        Sequences of shape ``(150 * cues + delay, 4 * units)``, bool, with the classes left and
        right.

    Raises
    ------
    ValueError
        If ``cues`` is even, or if ``delay`` is below 150.

    References
    ----------
    .. [1] G. Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking
       neurons", Nature Communications 11, 3625 (2020), figure 4.

    Examples
    --------
    >>> from spikegrad.data import cue_accumulation
    >>> source = cue_accumulation(20)
    >>> source
    <cue accumulation, 7 cues, seed 0: 20 sequences, 2250 steps,
    channels (40,), 2 classes>
    >>> bool(source[0].x[:50, :30].any()), bool(source[0].x[-150:, 20:30].any())
    (False, True)
    """
    if cues % 2 == 0:  # both sides may be equally frequent
        raise ValueError(f"cue_accumulation: cues must be odd, got {cues}")
    if delay < _RECALL:
        raise ValueError(
            f"cue_accumulation: delay must be at least {_RECALL}, got {delay}"
        )
    rng = np.random.default_rng(seed)
    # The favored side is not the label, which is the side of more cues.
    favored = rng.integers(2, size=(samples, 1))
    is_favored = rng.random((samples, cues)) < share
    sides = np.where(is_favored, favored, 1 - favored)
    steps = cues * (_GAP + _CUE) + delay
    # The probability of a spike for each of the four groups.
    probability = np.zeros((samples, steps, 4), np.float32)
    examples = np.arange(samples)
    for cue in range(cues):
        start = cue * (_GAP + _CUE) + _GAP
        end = start + _CUE
        # (samples, steps of the cue): each example has the group of its own side.
        probability[examples, start:end, sides[:, cue]] = rate
    # Groups 0 and 1 are the sides, 2 the recall, 3 the noise.
    probability[:, -_RECALL:, 2] = rate
    probability[:, :, 3] = rate / 4
    # In float32, because 500 examples of the default size need 180 MB already.
    draws = rng.random((samples, steps, 4, units), np.float32)
    spikes = draws < probability[..., None]
    is_right = 2 * sides.sum(1) > cues  # the side of more cues
    return Sequences(
        f"cue accumulation, {cues} cues, seed {seed}",
        spikes.reshape(samples, steps, -1),
        is_right.astype(int),
        class_names=["left", "right"],
    )


_GAP = 50
"""Steps before each cue."""
_CUE = 100
"""Steps of a cue."""
_RECALL = 150
"""Steps of the recall at the end."""


def _published_points(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences]:
    """Return the published points for any seed."""
    last = steps // 2
    train = yin_yang(steps=steps, last=last)
    test = yin_yang(1000, steps=steps, last=last, seed=40)
    return train, test


def _bits(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences]:
    # Even seeds draw training sets and odd ones test sets, so no run shares examples.
    train = binary_adding(steps=steps, seed=2 * seed)
    test = binary_adding(2000, steps=steps, seed=2 * seed + 1)
    return train, test


def _cues(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences]:
    # The task defines its number of steps, so ``steps`` has no effect.
    train = cue_accumulation(seed=2 * seed)
    test = cue_accumulation(200, seed=2 * seed + 1)
    return train, test


FORMS += [
    Form(
        "yin_yang",
        "5,000 points as spike times, 3 classes",
        _published_points,
        options=SEQUENCES | {"steps": 60},
    ),
    Form(
        "binary_adding",
        "counts of marked bits, made with the seed",
        _bits,
        options=SEQUENCES | {"steps": 100},
    ),
    Form("cue_accumulation", "sides of 7 cues, made with the seed", _cues),
]
