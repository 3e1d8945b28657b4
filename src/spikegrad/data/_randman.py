"""Randman: random smooth manifolds as spike times."""

from __future__ import annotations

import math

import numpy as np

from ._forms import FORMS, SEQUENCES, Form
from ._sequences import Sequences, train_test_split

SPECTRA = ("paper", "numpy", "torch")
PRECISION, MOST_TERMS = 1e-3, 1000


def _spectrum(name: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequency and amplitude of each term."""
    # Later terms have an amplitude k^-alpha below the precision.
    terms = min(math.ceil(PRECISION ** -min(1 / alpha, 1)), MOST_TERMS)
    k = np.arange(terms, dtype=np.float64)
    if name == "paper":
        return k + 1, (k + 1) ** -alpha
    amplitude = (k + 1) ** -alpha if name == "numpy" else 1 / ((k + 1) ** alpha + 1)
    amplitude[0] = 0  # the constant term, disabled in the released classes
    return k, amplitude


def randman(
    classes: int = 10,
    units: int = 20,
    samples: int = 1000,
    *,
    dimensions: int = 1,
    alpha: float = 1.0,
    steps: int = 100,
    fraction: float = 0.5,
    spectrum: str = "paper",
    seed: int = 0,
) -> Sequences:
    r"""Generate spike times from random smooth manifolds, one for each class [1]_.

    A class is a random curve or surface in a space with a dimension for each unit. An example is a
    point on it. Its coordinate for unit j, with :math:`x_d` uniform in 0 to 1 and A, B and C drawn
    from 0 to 1 for each class, unit, dimension and term, is

    .. math:: f_j(x) = \prod_d \sum_k A_{jdk} s_k \sin(2\pi (k x_d B_{jdk} + C_{jdk}))

    scaled to 0 to 1 by the minimum and maximum of the class and unit. Each unit fires once, at time
    step ``int(steps * fraction * f)``.

    Parameters
    ----------
    classes, units, samples : int, default 10, 20 and 1000
        Number of classes, of units, and of examples of each class, 2 or more.
    dimensions : int, default 1
        Dimensions of the manifolds, above 0.
    alpha : float, default 1
        Decay of the spectrum, above 0, at most 100. Larger values are smoother. The sum has
        ``min(ceil(1000 ** (1 / alpha)), 1000)`` terms.
    steps : int, default 100
        Number of time steps. In the paper they are 1 ms long.
    fraction : float, default 0.5
        Fraction of the time steps, from the first one, that contains the spikes, above 0, at most
        1.
    spectrum : {"paper", "numpy", "torch"}
        Randman has three published spectra. ``"paper"``: :math:`s_k = k^{-\alpha}`, k from 1, as
        printed. The released classes [2]_ have k from 0 without the constant term: ``"numpy"``
        :math:`s_k = (k+1)^{-\alpha}`, and ``"torch"``, also in JAX,
        :math:`s_k = 1 / ((k+1)^\alpha + 1)`.
    seed : int, default 0
        Draws manifolds and points.

    Returns
    -------
    Sequences
        ``classes * samples`` sequences, class by class, ``(steps, units)`` of bool.

    Raises
    ------
    ValueError
        If ``spectrum`` is another name.

    References
    ----------
    .. [1] F. Zenke and T. P. Vogels, "The remarkable robustness of surrogate gradient learning for
       instilling complex function in spiking neural networks", Neural Computation 33, 899 (2021).
    .. [2] https://github.com/fzenke/randman

    Examples
    --------
    >>> from spikegrad.data import randman
    >>> source = randman(classes=2, samples=5)
    >>> source
    <randman, paper spectrum, alpha 1, seed 0: 10 sequences, 100 steps,
    channels (20,), 2 classes>
    >>> x, y, _ = source[0]
    >>> x.sum(0).tolist() == [1] * 20  # each unit fires once,
    True
    >>> bool(x[50:].any())  # in the first half
    False
    """
    if spectrum not in SPECTRA:
        raise ValueError(
            f"randman: spectrum must be one of {', '.join(SPECTRA)}, got {spectrum!r}"
        )
    rng = np.random.default_rng(seed)
    frequency, amplitude = _spectrum(spectrum, alpha)
    spikes = np.zeros((classes, samples, steps, units), bool)
    for label in range(classes):
        a, b, c = rng.uniform(size=(3, units, dimensions, len(frequency)))
        points = rng.uniform(size=(samples, dimensions))
        f = np.ones((samples, units))
        # Unit by unit, to bound the memory.
        for j, d in np.ndindex(units, dimensions):
            # (samples, frequencies)
            turns = b[j, d] * frequency * points[:, d, None] + c[j, d]
            waves = a[j, d] * amplitude * np.sin(2 * np.pi * turns)
            f[:, j] *= waves.sum(-1)
        # f: (samples, units), scaled for each unit of the class.
        share = (f - f.min(0)) / (f.max(0) - f.min(0))
        # The largest value is at the end of the last step.
        times = (steps * fraction * share).astype(int)
        times = np.minimum(times, int(steps * fraction) - 1)
        spikes[label, np.arange(samples)[:, None], times, np.arange(units)] = True
    name = f"randman, {spectrum} spectrum, alpha {alpha:g}, seed {seed}"
    labels = np.repeat(np.arange(classes), samples)
    return Sequences(name, spikes.reshape(-1, steps, units), labels)


FORMS.append(
    Form(
        "randman",
        "spikes on random manifolds, made with the seed",
        lambda path, steps, seed: (randman(steps=steps, seed=seed), None),
        test_from="a tenth of each class, drawn with seed {}",
        split=lambda source, seed: train_test_split(source, 0.1, seed),
        options=SEQUENCES | {"steps": 100},
    )
)
