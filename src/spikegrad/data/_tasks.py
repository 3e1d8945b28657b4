"""Generated tasks: labelled sequences that a network can only classify with depth or with memory."""

from __future__ import annotations

import math

import numpy as np

from ._accepted import check_memory, integer
from ._forms import generated
from ._sequences import Sequences

_RADIUS, _DOT = 0.5, 0.1
"""Radii of the Yin-Yang and of its two dots."""


def yin_yang(samples: int = 5000, *, steps: int = 60, last: int = 30, seed: int = 42) -> Sequences:
    r"""Generate points in a Yin-Yang, as the times of single spikes [1]_.

    A point :math:`(x, y)` of the unit square is in the yin, in the yang or in one of the dots. Four units fire once, at
    the times of :math:`x, y, 1 - x` and :math:`1 - y`, a value of 1 at the step ``last``. A fifth unit fires at step 0.

    Parameters
    ----------
    samples : int, default 5000
        Number of examples. Their classes are drawn with equal probabilities.
    steps : int, default 60
        Time steps of a sequence.
    last : int, default 30
        The step of a value of 1, below ``steps``.
    seed : int, default 42
        Draws the points. The published sets are 5,000 points with seed 42 for training, 1,000 with 41 for validation
        and 1,000 with 40 for the test.

    Returns
    -------
    Sequences
        ``(steps, 5)`` of bool, with the classes yang, yin and dot.

    Raises
    ------
    TypeError, ValueError
        If a parameter is outside of its domain.

    Notes
    -----
    A network without a hidden layer reaches 63.8 % with the values as inputs, one with 30 hidden units 97.6 % [2]_.

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
    integer("yin_yang", "samples", samples, 1)
    integer("yin_yang", "steps", steps, 1)
    integer("yin_yang", "seed", seed, most=2**32 - 1)
    if integer("yin_yang", "last", last) >= steps:
        raise ValueError(f"yin_yang: last must be below the {steps} steps, got {last}")
    check_memory("yin_yang: the spikes", 5 * samples * steps)
    points, labels = yin_yang_points(samples, seed)
    values = np.concatenate([points, 1 - points, np.zeros((samples, 1))], axis=1)
    spikes = np.zeros((samples, steps, 5), bool)
    spikes[np.arange(samples)[:, None], np.rint(last * values).astype(int), np.arange(5)] = True
    return Sequences(f"Yin-Yang, seed {seed}", spikes, labels, class_names=["yang", "yin", "dot"])


def yin_yang_points(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates ``(samples, 2)`` and labels of the published generator, which rejects points one by one."""
    rng = np.random.RandomState(seed)
    points, labels = np.empty((samples, 2)), np.empty(samples, int)
    for i in range(samples):
        labels[i] = rng.randint(3)
        while True:
            x, y = points[i] = rng.rand(2) * 2 * _RADIUS
            if math.hypot(x - _RADIUS, y - _RADIUS) <= _RADIUS and _yin_yang_class(x, y) == labels[i]:
                break
    return points, labels


def _yin_yang_class(x: float, y: float) -> int:
    right, left = (math.hypot(x - center * _RADIUS, y - _RADIUS) for center in (1.5, 0.5))
    if right < _DOT or left < _DOT:
        return 2
    is_yin = right <= _DOT or _DOT < left <= _RADIUS / 2 or (y > _RADIUS and right > _RADIUS / 2)
    return int(is_yin)


def binary_adding(samples: int = 50_000, *, steps: int = 100, marked: int = 9, seed: int = 0) -> Sequences:
    """Generate streams of bits, with the number of ones at marked positions as label [1]_.

    The first channel has a bit in each step, the second marks some of the steps. The label is the number of ones at the
    marked steps, from 0 to ``marked``. All labels are equally frequent. Bits at unmarked steps are 1 with probability
    1/2.

    Parameters
    ----------
    samples : int, default 50,000
        Number of examples.
    steps : int, default 100
        Time steps of a sequence.
    marked : int, default 9
        Number of marked steps, at most ``steps``.
    seed : int, default 0
        Draws the examples. Give the test set another seed.

    Returns
    -------
    Sequences
        ``(steps, 2)`` of bool, in ``marked + 1`` classes.

    Raises
    ------
    TypeError, ValueError
        If a parameter is outside of its domain.

    Notes
    -----
    The published generator draws the bits of its test set with the seed of its training set, so they are bits of
    training sequences. Here every seed gives other sequences.

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
    integer("binary_adding", "samples", samples, 1)
    integer("binary_adding", "steps", steps, 1)
    integer("binary_adding", "seed", seed)
    if integer("binary_adding", "marked", marked, 1) > steps:
        raise ValueError(f"binary_adding: marked must be at most the {steps} steps, got {marked}")
    check_memory("binary_adding: the bits", 10 * samples * steps)  # with the random numbers for positions
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(samples) % (marked + 1))
    bits = rng.random((samples, steps), np.float32) < 0.5
    positions = np.argsort(rng.random((samples, steps)), axis=1)[:, :marked]  # in a random order
    examples = np.arange(samples)[:, None]
    bits[examples, positions] = np.arange(marked) < labels[:, None]  # the first of them are the ones
    marks = np.zeros_like(bits)
    marks[examples, positions] = True
    name = f"binary adding, {marked} of {steps} steps, seed {seed}"
    return Sequences(name, np.stack([bits, marks], axis=2), labels, class_names=list(map(str, range(marked + 1))))


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
    """Generate cues to the left and to the right, with the more frequent side as label [1]_.

    Each cue takes 100 steps after a gap of 50. A unit of its side fires with the probability ``rate`` in each of these
    steps. After the delay, the network must report the side. The last 150 steps of the delay are the recall. Four
    groups of units: left, right, recall, and noise, which fires at a quarter of the rate in every step.

    Parameters
    ----------
    samples : int, default 500
        Number of examples.
    cues : int, default 7
        Cues of an example, an odd number.
    delay : int, default 1200
        Steps from the end of the last cue to the end of the sequence, 150 or more.
    rate : float, default 0.04
        Probability of a spike in a step of 1 ms: 40 Hz.
    share : float, default 0.7
        Probability of a cue to be on the favored side, which is drawn for each example.
    units : int, default 10
        Units of each group.
    seed : int, default 0
        Draws the examples. Give the test set another seed.

    Returns
    -------
    Sequences
        ``(150 * cues + delay, 4 * units)`` of bool, with the classes left and right.

    Raises
    ------
    TypeError, ValueError
        If a parameter is outside of its domain.

    References
    ----------
    .. [1] G. Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking neurons", Nature
       Communications 11, 3625 (2020), figure 4.

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
    for name, value, least in (
        ("samples", samples, 1),
        ("cues", cues, 1),
        ("delay", delay, _RECALL),
        ("units", units, 1),
    ):
        integer("cue_accumulation", name, value, least)
    integer("cue_accumulation", "seed", seed)
    if cues % 2 == 0:
        raise ValueError(f"cue_accumulation: cues must be odd, got {cues}")
    for name, value in (("rate", rate), ("share", share)):
        if not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"cue_accumulation: {name} must be above 0 and at most 1, got {value!r}")
    steps = cues * (_GAP + _CUE) + delay
    check_memory("cue_accumulation: the spikes", 5 * samples * steps * 4 * units)  # with the random numbers
    rng = np.random.default_rng(seed)
    favored = rng.integers(2, size=(samples, 1))
    sides = np.where(rng.random((samples, cues)) < share, favored, 1 - favored)
    probability = np.zeros((samples, steps, 4), np.float32)
    for cue, start in enumerate(range(_GAP, cues * (_GAP + _CUE), _GAP + _CUE)):
        probability[np.arange(samples), start : start + _CUE, sides[:, cue]] = rate
    probability[:, -_RECALL:, 2] = rate
    probability[:, :, 3] = rate / 4
    spikes = rng.random((samples, steps, 4, units), np.float32) < probability[..., None]
    labels = (2 * sides.sum(1) > cues).astype(int)
    name = f"cue accumulation, {cues} cues, seed {seed}"
    return Sequences(name, spikes.reshape(samples, steps, -1), labels, class_names=["left", "right"])


_GAP, _CUE, _RECALL = 50, 100, 150
"""Steps before each cue, of a cue, and of the recall at the end."""


def _published_points(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    """Return the published points for any seed."""
    del seed
    last = steps // 2
    return yin_yang(steps=steps, last=last), yin_yang(1000, steps=steps, last=last, seed=40)


def _bits(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    return binary_adding(steps=steps, seed=2 * seed), binary_adding(2000, steps=steps, seed=2 * seed + 1)


def _cues(steps: int, seed: int) -> tuple[Sequences, Sequences]:
    del steps
    return cue_accumulation(seed=2 * seed), cue_accumulation(200, seed=2 * seed + 1)


FORMS = (
    generated("yin_yang", "5,000 points as spike times, 3 classes", _published_points, steps=60),
    generated("binary_adding", "counts of marked bits, made with the seed", _bits, steps=100),
    generated("cue_accumulation", "sides of 7 cues, made with the seed", _cues),
)
