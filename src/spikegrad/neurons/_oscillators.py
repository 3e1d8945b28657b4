"""Neurons that resonate: two variables that turn about each other, driven by the input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._struct import Real, parameter
from ._cell import State
from ._spiking import Spikes, Spiking, share, spikes


class RF(Spiking, pure=True):
    r"""Resonate-and-fire neurons (RF): a potential that oscillates and responds most to inputs of
    its frequency. Without a reset.

    .. math:: u_t &= u_{t-1} + \delta\, (b\, u_{t-1} - \omega\, v_{t-1} + I_t) \\
              v_t &= v_{t-1} + \delta\, (\omega\, u_{t-1} + b\, v_{t-1}) \\ s_t &= H(u_t - \theta)

    :math:`I_t` is the input, :math:`s_t` is the spike, and the step :math:`H` is 1 if its argument
    is at least 0. The pair :math:`(u, v)` is the state, initially zeros. It is the real and the
    imaginary part of a number that rotates around 0 with the angular frequency :math:`\omega`. Each
    time step is one step of the forward Euler method. A spike does not change the state.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega` in radians per unit of time, at least 0 and at most
        :math:`1/\delta`. One oscillation takes about :math:`2\pi/\omega` units of time. With the
        defaults these are 63 time steps.
    b : float or array, default -1.0
        Damping, in 1 per unit of time, usually negative: the more negative, the faster the
        oscillation decays. It must be at most :math:`(\sqrt{1 - (\delta\omega)^2} - 1) / \delta`,
        because otherwise the oscillation grows without input.
    dt : float, default 0.01
        Length :math:`\delta` of a time step, above 0, in the unit of time that you choose for
        ``omega`` and ``b``, such as seconds.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of :math:`u`. A neuron spikes if :math:`u_t` is at
        least this number.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or if the oscillation would grow.
        JAX arrays are not checked, because they may be traced. To train ``omega``, pass
        ``omega=bounded(10.0, 0.0, 1 / dt)`` with :func:`spikegrad.bounded`.

    References
    ----------
    Izhikevich 2001, "Resonate-and-fire neurons", Neural Networks 14(6-7):883-894. The update is the
    one of Higuchi et al. 2024, see :class:`BRF`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import RF
    >>> t = jnp.arange(400.0)
    >>> # an angular frequency of 10 per unit of time
    >>> inputs = 20 * jnp.sin(0.1 * t)[:, None]
    >>> [bool(unroll(RF(omega, b=-5.0), inputs)[1].any()) for omega in (10.0, 30.0)]
    [True, False]
    """

    state_names = "real part", "imaginary part"

    omega: Real = parameter(default=10.0, at_least=0)
    b: Real = parameter(default=-1.0)
    dt: float = parameter(default=0.01, above=0)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_frequency(self)
        self._check_known(
            self._is_stable,
            "b must be at most (sqrt(1 - (dt omega)^2) - 1) / dt to be stable",
            "omega",
            "b",
            "dt",
        )

    @staticmethod
    def _is_stable(omega: Real, b: Real, dt: float) -> ArrayLike:
        # A step multiplies u + i v by 1 + dt (b + i omega). Its magnitude is at most 1 for this b.
        return b <= (np.sqrt(1 - (dt * omega) ** 2) - 1) / dt

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, v = state
        return turned(self, self.b, u, v, current)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        return u


class BRF(Spiking, pure=True):
    r"""Balanced resonate-and-fire neurons (BRF): oscillating neurons whose damping keeps them
    stable. Spikes raise the threshold for some time.

    .. math:: b_t &= p(\omega) - b' - q_{t-1}, \qquad
              p(\omega) = \frac{\sqrt{1 - (\delta\omega)^2} - 1}{\delta} \\
              u_t &= u_{t-1} + \delta\, (b_t\, u_{t-1} - \omega\, v_{t-1} + I_t) \\
              v_t &= v_{t-1} + \delta\, (\omega\, u_{t-1} + b_t\, v_{t-1}) \\
              s_t &= H(u_t - \theta - q_{t-1}), \qquad q_t = \gamma\, q_{t-1} + s_t

    :math:`I_t` is the input, :math:`s_t` is the spike, and the step :math:`H` is 1 if its argument
    is at least 0. The pair :math:`(u, v)` oscillates with the angular frequency :math:`\omega`. A
    spike does not reset it. Instead, a spike adds 1 to the *refractory variable* :math:`q`, which
    decays. As long as :math:`q` is above 0, the threshold is higher and the oscillation decays
    faster. With the damping :math:`p(\omega)` and without :math:`b'` and :math:`q`, the oscillation
    neither grows nor decays. The state is the triple :math:`(u, v, q)`, initially zeros.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega` in radians per unit of time, at least 0 and at most
        :math:`1/\delta`. One oscillation takes about :math:`2\pi/\omega` units of time. The paper
        draws initial frequencies from 5 to 10 for spoken digits, and from 15 to 50 for sequential
        images.
    b : float or array, default 1.0
        Additional damping :math:`b'`, at least 0, in 1 per unit of time. The oscillation decays
        faster with a larger number.
    dt : float, default 0.01
        Length :math:`\delta` of a time step, above 0, in the unit of time that you choose for
        ``omega`` and ``b``, such as seconds.
    refractory_decay : float or array, default 0.9
        Decay factor :math:`\gamma` of the refractory variable for one time step, at least 0 and at
        most 1, without a unit.
    threshold : float or array, default 1.0
        Threshold :math:`\theta` without recent spikes, in the unit of :math:`u`. A neuron spikes if
        :math:`u_t` is at least :math:`\theta + q_{t-1}`.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold - q``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`. The paper uses a sum of Gaussians,
        such as :class:`spikegrad.MultiGaussianGrad`.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or for a surrogate with negative
        spikes, such as :func:`spikegrad.signed`. JAX arrays are not checked, because they may be
        traced. Frequencies above :math:`1/\delta` give NaN. To train them, pass
        ``omega=bounded(10.0, 0.0, 1 / dt)`` with :func:`spikegrad.bounded`.

    Notes
    -----
    At the frequency :math:`1/\delta`, the derivative of :math:`p` is infinite. The backward pass
    uses 0 instead.

    References
    ----------
    Higuchi, Kairat, Bohté, Otte 2024, "Balanced resonate-and-fire neurons", ICML, arXiv:2402.14603.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import BRF
    >>> t = jnp.arange(400.0)
    >>> # an angular frequency of 10 per unit of time
    >>> inputs = 8 * jnp.sin(0.1 * t)[:, None]
    >>> [bool(unroll(BRF(omega), inputs)[1].any()) for omega in (10.0, 30.0)]
    [True, False]
    """

    state_names = "real part", "imaginary part", "refractory variable"

    omega: Real = parameter(default=10.0, at_least=0)
    b: Real = parameter(default=1.0, at_least=0)
    dt: float = parameter(default=0.01, above=0)
    refractory_decay: Real = share(0.9)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("a threshold that spikes raise", "negative")
        self._check()

    def _check(self) -> None:
        check_frequency(self)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, v, q = state
        square = 1 - (self.dt * self.omega) ** 2
        # The derivative of the root is infinite at 0, and would make every gradient NaN.
        is_zero = square == 0
        safe = jnp.where(is_zero, 1, square)
        root = jnp.where(is_zero, 0, jnp.sqrt(safe))
        boundary = (root - 1) / self.dt
        b = boundary - self.b - q
        return *turned(self, b, u, v, current), q

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        first, second, q = u
        # The oscillation goes on through a spike, so there is no reset. q acts on the damping and
        # the threshold from the next step.
        return first, second, self.refractory_decay * q + s

    def _threshold(self, *others: jax.Array) -> Real:
        # others: (v, q), without the first array of the state.
        return self.threshold + others[1]


class HRF(BRF, pure=True):
    r"""Harmonic resonate-and-fire neurons (HRF): a damped harmonic oscillator that spikes. Spikes
    raise the threshold for some time.

    .. math:: b_t &= \tfrac12 \delta \omega^2 + b' + q_{t-1} \\ v_t &= v_{t-1} + \delta\, u_{t-1} \\
              u_t &= u_{t-1} + \delta\, (I_t - 2 b_t u_{t-1} - \omega^2 v_t)

    :math:`I_t` is the input, :math:`u` is the velocity of the oscillator and :math:`v` is its
    position. A neuron spikes if :math:`u_t` is at least :math:`\theta + q_{t-1}`. Each spike adds 1
    to the refractory variable :math:`q`, which decays and raises the threshold and the damping, as
    in :class:`BRF`. A spike does not reset :math:`u` and :math:`v`. The state is the triple
    :math:`(u, v, q)`, initially zeros. Each time step is one step of the symplectic Euler method.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega` in radians per unit of time, at least 0. One oscillation
        takes about :math:`2\pi/\omega` units of time.
    b : float or array, default 1.0
        Damping :math:`b'`, at least 0, in 1 per unit of time. The oscillation decays faster with a
        larger number. Without spikes, :math:`(\delta \omega)^2 \le 4 (1 - \delta b_t)` must hold,
        because otherwise the oscillation grows.
    dt, refractory_decay, threshold, surrogate
        As in :class:`BRF`, with the same defaults. ``dt`` is the length :math:`\delta` of a time
        step, and ``refractory_decay`` the factor by which :math:`q` decays in each time step, from
        0 to 1. ``threshold`` is :math:`\theta`. ``surrogate`` computes spikes and their slope.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, if the oscillation would grow, or
        for a surrogate with negative spikes. JAX arrays are not checked, because they may be
        traced.

    Notes
    -----
    The authors' code has the constant 0.005 instead of :math:`\delta/2`. For its time step of 0.01,
    both are equal.

    References
    ----------
    Higuchi et al. 2024, see :class:`BRF`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import HRF
    >>> t = jnp.arange(400.0)
    >>> # an angular frequency of 10 per unit of time
    >>> inputs = 8 * jnp.sin(0.1 * t)[:, None]
    >>> [bool(unroll(HRF(omega), inputs)[1].any()) for omega in (10.0, 30.0)]
    [True, False]
    """

    state_names = "velocity", "position", "refractory variable"

    def _check(self) -> None:
        self._check_known(
            self._is_stable,
            "omega and b must keep (dt omega)^2 <= 4 (1 - dt (dt omega^2 / 2 + b)) to be stable",
            "omega",
            "b",
            "dt",
        )

    @staticmethod
    def _is_stable(omega: Real, b: Real, dt: float) -> ArrayLike:
        # The step has determinant 1 - 2 dt b_t and trace 2 - 2 dt b_t - (dt omega)^2. The condition
        # is -trace <= 1 + determinant, for b_t without spikes.
        return (dt * omega) ** 2 <= 4 * (1 - dt * (dt * omega**2 / 2 + b))

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, v, q = state
        square = self.omega * self.omega
        b = self.dt / 2 * square + self.b + q
        # The new position drives the velocity below. With the old one the method would be forward
        # Euler, whose oscillation grows without damping.
        v = v + self.dt * u
        u_change = current - 2 * b * u - square * v
        return u + self.dt * u_change, v, q


def turned(
    cell: RF | BRF, b: Real, u: jax.Array, v: jax.Array, current: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One forward Euler step of a damped rotation, driven by the current."""
    # Both results are from the old u and v. Updating one after the other would be another method.
    dt = cell.dt
    omega = cell.omega
    u_change = b * u - omega * v + current
    v_change = omega * u + b * v
    return u + dt * u_change, v + dt * v_change


def check_frequency(cell: Spiking) -> None:
    """Raise for frequencies that forward Euler cannot make stable by any damping."""
    message = "omega must be at most 1 / dt"
    cell._check_known(lambda omega, dt: omega * dt <= 1, message, "omega", "dt")
