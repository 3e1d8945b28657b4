"""The Mackey-Glass series against the closed form of its first interval and SciPy's solution of the
next ones.
"""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from spikegrad.data import mackey_glass


def by_method_of_steps(times, tau, past, intervals):
    """Each interval of length tau is an ordinary differential equation, with the solution of the
    last one.
    """
    solutions = [lambda t: past]
    values = np.empty(len(times))
    start = past
    for n in range(intervals):
        delayed = solutions[-1]

        def slope(t, x, delayed=delayed, tau=tau):
            late = delayed(t - tau)
            return 0.2 * late / (1 + late**10) - 0.1 * x

        solved = solve_ivp(
            slope,
            (n * tau, (n + 1) * tau),
            [start],
            "DOP853",
            dense_output=True,
            rtol=1e-12,
            atol=1e-13,
        )
        solutions.append(lambda t, solved=solved: solved.sol(t)[0])
        inside = (times >= n * tau) & (times <= (n + 1) * tau)
        values[inside] = solved.sol(times[inside])[0]
        start = solved.y[0, -1]
    return values


@pytest.mark.slow
def test_three_lyapunov_times():
    times = np.arange(226) * 197 / 75
    expected = by_method_of_steps(times, 17.0, 0.7206597, 35)
    series = mackey_glass(226)
    assert np.abs(series - expected).max() < 2e-6
    assert np.ptp(series) > 0.5


def test_first_interval_and_own_parameters():
    """With a constant past the solution decays to beta f(past) / gamma."""
    times = np.arange(40) * 0.5
    rest = 0.3 * 0.5 / (1 + 0.5**8) / 0.2
    expected = rest + (0.5 - rest) * np.exp(-0.2 * times)
    series = mackey_glass(40, tau=20.0, past=0.5, interval=0.5, beta=0.3, gamma=0.2, exponent=8.0)
    np.testing.assert_allclose(series, expected, rtol=1e-9)
