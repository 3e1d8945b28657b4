"""Kinds of spike: what comes out, whatever the slope is."""

from __future__ import annotations

from jax.typing import ArrayLike

from ._forward import Excluding, Levels, Signed, Soft, Stochastic
from ._surrogate import Surrogate, set_forward


def excluding(surrogate: Surrogate) -> Surrogate:
    r"""A spike above the threshold, and none at the threshold itself, as several libraries have it.

    .. math:: s(x) = \begin{cases} 1 & x > 0 \\ 0 & x \le 0 \end{cases} \qquad
              \mathrm{d}s = g(x)\, \mathrm{d}x

    with :math:`g` the slope, at the threshold as well. It matters where potentials reach a threshold exactly, as those
    of small integer weights do.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, excluding
    >>> fire = excluding(Sigmoid(4.0))
    >>> fire(jnp.array([-1.0, 0.0, 1.0])).tolist(), float(jax.grad(fire)(0.0))
    ([0.0, 0.0, 1.0], 1.0)
    """
    return set_forward("excluding", surrogate, Excluding())


def soft(surrogate: Surrogate) -> Surrogate:
    r"""The smooth primal in place of the spike, so that finite differences confirm the derivative.

    .. math:: s = f(x), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    with :math:`f` the primal, ``surrogate_fun``, and :math:`f'` the slope. It is for checking the gradient of a
    network, and is what surrogate gradients are compared with: the gradient of the spiking network takes its place
    where all :math:`f` are near 0 or 1.

    Parameters
    ----------
    surrogate : Surrogate
        One that defines ``surrogate_fun``, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, defines no ``surrogate_fun``, or has another kind of
        spike already.

    Notes
    -----
    The parameters get a gradient with :func:`learnable` alone, as ever; finite differences confirm that one too.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid, soft
    >>> fire = soft(Sigmoid(4.0))
    >>> print(f"{fire(0.3):.3f} {(fire(0.35) - fire(0.25)) / 0.1:.2f} {jax.grad(fire)(0.3):.2f}")
    0.769 0.71 0.71
    """
    return set_forward("soft", surrogate, Soft(), needs_primal=True)


def stochastic(surrogate: Surrogate) -> Surrogate:
    r"""A spike that is drawn, with the smooth primal as its probability (escape noise).

    .. math:: P(s = 1) = \min(\max(f(x), 0), 1), \qquad \mathrm{d}s = f'(x)\, \mathrm{d}x

    with :math:`f` the primal, ``surrogate_fun``, and :math:`f'` the slope, which is the derivative of the mean wherever
    :math:`f` is a probability. Slope and noise are a pair: :class:`Sigmoid` gives the logistic escape noise of
    probability :math:`\sigma(\alpha x)`.

    It is called with a key, ``fire(x, key=key)``. So are a cell, :func:`unroll` and a :class:`Network`, which makes
    the keys of its steps from one.

    Parameters
    ----------
    surrogate : Surrogate
        One that defines ``surrogate_fun``, with or without settings.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, defines no ``surrogate_fun``, or has another kind of
        spike already. When it is called, without a key.

    Notes
    -----
    The same key draws the same spikes. The probability is computed in float32 at least.

    References
    ----------
    Gerstner, Kistler, Naud, Paninski 2014, "Neuronal Dynamics", chapter 9; Gygax, Zenke 2025, "Elucidating the
    theoretical underpinnings of surrogate gradient learning in spiking neural networks", Neural Computation 37.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, stochastic
    >>> fire = stochastic(Sigmoid(4.0))
    >>> spikes = fire(jnp.full(10_000, 0.3), key=jax.random.key(0))
    >>> print(f"{spikes.mean():.2f} {Sigmoid(4.0).surrogate_fun(0.3):.2f}")
    0.77 0.77
    """
    return set_forward("stochastic", surrogate, Stochastic(), needs_primal=True)


def levels(surrogate: Surrogate, n: int, threshold: ArrayLike = 1.0, slopes: str = "sum") -> Surrogate:
    r"""Up to ``n`` spikes in one step, one for each multiple of the threshold that the potential has reached.

    .. math:: s = \sum_{k=0}^{n-1} H(x - k\theta), \qquad
              \frac{\partial s}{\partial x} = \sum_k g(x - k\theta), \qquad
              \frac{\partial s}{\partial\theta} = -\sum_k k\, g(x - k\theta)

    with :math:`H` the step and :math:`g` the slope. As :math:`x` is the potential minus the threshold, the first spike
    comes at :math:`x = 0`. With ``slopes="nearest"`` the sums have one term, of the multiple that is nearest to
    :math:`x`; with ``"first"`` that of :math:`k = 0`, so that the slope is the curve as it stands and the distance of
    multiples gets no gradient.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.
    n : int
        The largest number of spikes, at least 1.
    threshold : float or array, default 1.0
        Distance :math:`\theta > 0` between two multiples, in the unit of ``x``. A cell multiplies it by its own
        threshold, so that 1 means that of the cell. An array broadcasts to ``x``.
    slopes : {"sum", "nearest", "first"}
        The slope: that of all spikes together, or that of the nearest or of the first one alone.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``, and ``n``, ``threshold`` and ``slopes`` in its field ``forward``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.
    ValueError
        For a parameter out of its domain; when it is called, if ``n`` is more than the dtype of ``x`` can count to.

    Notes
    -----
    The sum takes ``n`` evaluations of the slope, the others take one. One level is the plain spike. A reset by
    subtraction takes as many thresholds as there are spikes; one to a value is refused.

    References
    ----------
    Weidel, Sheik 2021, "WaveSense: efficient temporal convolutions with spiking neural networks for keyword spotting",
    arXiv:2111.01456, has the nearest slope.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import PiecewiseQuadratic, levels
    >>> fire = levels(PiecewiseQuadratic(1.0), 3)
    >>> x = jnp.array([-0.5, 0.0, 1.5, 9.0])
    >>> fire(x).tolist(), jax.vmap(jax.grad(fire))(x).tolist()
    ([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.0, 0.0])
    """
    return set_forward("levels", surrogate, Levels(n, threshold, slopes))  # type: ignore[arg-type]


def signed(surrogate: Surrogate, threshold: ArrayLike = 1.0) -> Surrogate:
    r"""Spikes of both signs: 1 above the threshold, -1 below its negative.

    .. math:: s = H(x) - H(-x - 2\theta), \qquad
              \frac{\partial s}{\partial x} = g(x) + g(-x - 2\theta), \qquad
              \frac{\partial s}{\partial\theta} = 2\, g(-x - 2\theta)

    with :math:`H` the step and :math:`g` the slope. As :math:`x` is the potential :math:`v` minus the threshold, this
    is 1 from :math:`v = \theta` on and -1 from :math:`v = -\theta` on downwards: an odd function of :math:`v`.

    Parameters
    ----------
    surrogate : Surrogate
        Any, with or without settings.
    threshold : float or array, default 1.0
        Threshold :math:`\theta > 0`, in the unit of ``x``. A cell multiplies it by its own, so that 1 means that of the
        cell. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        Holds the curve in its field ``surrogate``, and ``threshold`` in its field ``forward``.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, overrides ``__call__``, or has another kind of spike already.
    ValueError
        For a threshold that is not above 0.

    Notes
    -----
    A reset by subtraction adds the threshold at a negative spike; one to a value is refused, and so is a threshold that
    adapts.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Sigmoid, signed, unroll
    >>> v, spikes = unroll(LIF(1.0, 0.5, signed(Sigmoid())), jnp.array([0.75, -1.0, 0.0, 0.5]))
    >>> spikes.tolist(), v.tolist()
    ([1.0, -1.0, 0.0, 0.0], 0.25)
    """
    return set_forward("signed", surrogate, Signed(threshold))  # type: ignore[arg-type]
