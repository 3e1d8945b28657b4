"""Randman: random smooth manifolds as spike times."""

from __future__ import annotations

import math

import numpy as np

from ._forms import FORMS, SEQUENCES, Form
from ._sequences import Sequences, train_test_split

SPECTRA = ("paper", "numpy", "torch")
PRECISION = 1e-3
MOST_TERMS = 1000


def _spectrum(name: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequency and amplitude of each term."""
    # Later terms have an amplitude k^-alpha below the precision.
    # An exponent above 1 would give more than MOST_TERMS, and overflow for a small alpha.
    needed = math.ceil(PRECISION ** -min(1 / alpha, 1))
    k = np.arange(min(needed, MOST_TERMS), dtype=np.float64)
    amplitude = (k + 1) ** -alpha
    if name == "paper":
        return k + 1, amplitude
    if name == "torch":
        amplitude = 1 / ((k + 1) ** alpha + 1)
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
    r"""Generate the task Randman: classify spike times that lie on random smooth curves or
    surfaces, one for each class [1]_.

    Each class is a random manifold (a curve, a surface, ...) in a space with one dimension for each
    unit (input). An example is a random point on the manifold. Its coordinate for unit j is

    .. math:: f_j(x) = \prod_d \sum_k A_{jdk} s_k \sin(2\pi (k x_d B_{jdk} + C_{jdk}))

    scaled to the range from 0 to 1 by the minimum and the maximum of the class and the unit. Here
    :math:`x_d` is random for each example. A, B and C are random for each class, unit, dimension
    and term. All of them are uniform from 0 to 1. Each unit spikes once, in time step ``int(steps *
    fraction * f)``.

    Parameters
    ----------
    classes, units, samples : int, default 10, 20 and 1000
        Number of classes, number of units (inputs), and number of examples of each class, at least
        2.
    dimensions : int, default 1
        Number of dimensions of the manifolds, above 0. 1 gives curves, and 2 surfaces.
    alpha : float, default 1
        Smoothness of the manifolds, above 0 and at most 100. Larger numbers give smoother
        manifolds. The sum has ``min(ceil(1000 ** (1 / alpha)), 1000)`` terms.
    steps : int, default 100
        Number of time steps. In the paper a time step is 1 ms.
    fraction : float, default 0.5
        Fraction of the time steps, from the first one, that contains the spikes, above 0 and at
        most 1.
    spectrum : {"paper", "numpy", "torch"}
        The weights :math:`s_k` of the terms. Three versions are published. ``"paper"`` (default) is
        the formula of the paper: :math:`s_k = k^{-\alpha}`, with k from 1. The published programs
        [2]_ have k from 0, without the constant term. ``"numpy"`` is their version in NumPy,
        :math:`s_k = (k+1)^{-\alpha}`. ``"torch"`` is their version in PyTorch and JAX, :math:`s_k =
        1 / ((k+1)^\alpha + 1)`.
    seed : int, default 0
        Seed of the random manifolds and points.

    Returns
    -------
    Sequences
        ``classes * samples`` sequences of shape ``(steps, units)``, bool, sorted by class.

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
        low = f.min(0)
        high = f.max(0)
        share = (f - low) / (high - low)
        # The largest value is at the end of the last step.
        last = int(steps * fraction) - 1
        times = (steps * fraction * share).astype(int)
        times = np.minimum(times, last)
        examples = np.arange(samples)[:, None]
        spikes[label, examples, times, np.arange(units)] = True
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
