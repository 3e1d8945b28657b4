"""Neurons that resonate: two variables that turn about each other, driven by the input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .._struct import Real, parameter
from ._cell import State
from ._spiking import Spikes, Spiking, share, spikes


class RF(Spiking, pure=True):
    r"""Resonate-and-fire neurons (RF), by the forward Euler method and without a reset.

    .. math:: u_t &= u_{t-1} + \delta\, (b\, u_{t-1} - \omega\, v_{t-1} + I_t) \\
              v_t &= v_{t-1} + \delta\, (\omega\, u_{t-1} + b\, v_{t-1}) \\ s_t &= H(u_t - \theta)

    The state is the pair :math:`(u, v)`, zeros at the start.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega`, in 1 per unit of time, from 0 to :math:`1/\delta`.
    b : float or array, default -1.0
        Damping, in 1 per unit of time. The oscillation does not grow for
        :math:`b \le (\sqrt{1 - (\delta\omega)^2} - 1) / \delta`.
    dt : float, default 0.01
        Length :math:`\delta` of a time step, above 0, in the unit of time.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of :math:`u`.
    surrogate : callable, default Sigmoid()
        Makes spikes of ``u - threshold``.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and for numbers of which the oscillation grows. Arrays of
        JAX, which are trained, are not looked at: bound them by :func:`spikegrad.bounded`.

    References
    ----------
    Izhikevich 2001, "Resonate-and-fire neurons", Neural Networks 14(6-7):883-894. The update is
    that of Higuchi et al. 2024, see :class:`BRF`.

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
            # A step multiplies u + i v by 1 + dt (b + i omega). Its magnitude is at most 1 for
            # this b.
            lambda omega, b, dt: b <= (np.sqrt(1 - (dt * omega) ** 2) - 1) / dt,
            "b must be at most (sqrt(1 - (dt omega)^2) - 1) / dt to be stable",
            *("omega", "b", "dt"),
        )

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, v = state
        return turned(self, self.b, u, v, current)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        return u


class BRF(Spiking, pure=True):
    r"""Balanced resonate-and-fire neurons (BRF): damping that keeps them stable, and a threshold
    that rises.

    .. math:: b_t &= p(\omega) - b' - q_{t-1}, \qquad
              p(\omega) = \frac{\sqrt{1 - (\delta\omega)^2} - 1}{\delta} \\
              u_t &= u_{t-1} + \delta\, (b_t\, u_{t-1} - \omega\, v_{t-1} + I_t) \\
              v_t &= v_{t-1} + \delta\, (\omega\, u_{t-1} + b_t\, v_{t-1}) \\
              s_t &= H(u_t - \theta - q_{t-1}), \qquad q_t = \gamma\, q_{t-1} + s_t

    Each spike raises the threshold and the damping for a while; neither :math:`u` nor :math:`v` is
    reset. With :math:`b' = q = 0` the oscillation neither grows nor decays. The state is the triple
    :math:`(u, v, q)`, zeros at the start.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega`, in 1 per unit of time, from 0 to :math:`1/\delta`. The
        paper draws it from 5 to 10 for spoken digits, and from 15 to 50 for sequential images.
    b : float or array, default 1.0
        Damping :math:`b'` beyond the boundary, at least 0, in 1 per unit of time.
    dt : float, default 0.01
        Length :math:`\delta` of a time step, above 0, in the unit of time.
    refractory_decay : float or array, default 0.9
        Decay factor :math:`\gamma` of the refractory variable per time step, from 0 to 1,
        dimensionless.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of :math:`u`.
    surrogate : callable, default Sigmoid()
        Makes spikes of the distance to the threshold. The paper has a multi-Gaussian.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and for negative spikes. Arrays of JAX, which are
        trained, are not checked. Frequencies above :math:`1/\delta` give NaN, so bound them by
        :func:`spikegrad.bounded`. At :math:`1/\delta` the derivative of :math:`p` is infinite, and
        0 takes its place.

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
        root = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))
        boundary = (root - 1) / self.dt
        return *turned(self, boundary - self.b - q, u, v, current), q

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        first, second, q = u
        # The oscillation goes on through a spike, so there is no reset. q acts on the damping and
        # the threshold from the next step.
        return first, second, self.refractory_decay * q + s

    def _threshold(self, *others: jax.Array) -> Real:
        # others: (v, q), without the first array of the state.
        return self.threshold + others[1]


class HRF(BRF, pure=True):
    r"""Harmonic resonate-and-fire neurons (HRF): a damped oscillator, by the symplectic Euler
    method.

    .. math:: b_t &= \tfrac12 \delta \omega^2 + b' + q_{t-1} \\ v_t &= v_{t-1} + \delta\, u_{t-1} \\
              u_t &= u_{t-1} + \delta\, (I_t - 2 b_t u_{t-1} - \omega^2 v_t)

    and spikes and refractory variable as in :class:`BRF`. The state is the triple :math:`(u, v,
    q)`: velocity, position and refractory variable.

    Parameters
    ----------
    omega : float or array, default 10.0
        Angular frequency :math:`\omega`, at least 0, in 1 per unit of time.
    b : float or array, default 1.0
        Damping :math:`b'`, at least 0, in 1 per unit of time. The oscillation does not grow for
        :math:`(\delta \omega)^2 \le 4 (1 - \delta b_t)`, which numbers must meet with :math:`q =
        0`.
    dt, refractory_decay, threshold, surrogate
        As in :class:`BRF`.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, for numbers of which the oscillation grows, and for
        negative spikes.

    Notes
    -----
    The authors' code has 0.005 in place of :math:`\delta/2`, which is the same for its time step of
    0.01.

    References
    ----------
    Higuchi et al. 2024, as of :class:`BRF`.

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
            # The step has determinant 1 - 2 dt b_t and trace 2 - 2 dt b_t - (dt omega)^2. The
            # condition is -trace <= 1 + determinant, for b_t without spikes.
            lambda omega, b, dt: (
                (dt * omega) ** 2 <= 4 * (1 - dt * (dt * omega**2 / 2 + b))
            ),
            "omega and b must keep (dt omega)^2 <= 4 (1 - dt (dt omega^2 / 2 + b)) to be stable",
            *("omega", "b", "dt"),
        )

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, v, q = state
        square = self.omega * self.omega
        b = self.dt / 2 * square + self.b + q
        # The new position drives the velocity below. With the old one the method would be forward
        # Euler, whose oscillation grows without damping.
        v = v + self.dt * u
        return u + self.dt * (current - 2 * b * u - square * v), v, q


def turned(
    cell: RF | BRF, b: Real, u: jax.Array, v: jax.Array, current: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One forward Euler step of a damped rotation, driven by the current."""
    # Both results are from the old u and v. Updating one after the other would be another method.
    dt, omega = cell.dt, cell.omega
    u_change = b * u - omega * v + current
    v_change = omega * u + b * v
    return u + dt * u_change, v + dt * v_change


def check_frequency(cell: Spiking) -> None:
    """Raise for frequencies that forward Euler cannot make stable by any damping."""
    message = "omega must be at most 1 / dt"
    cell._check_known(lambda omega, dt: omega * dt <= 1, message, "omega", "dt")
