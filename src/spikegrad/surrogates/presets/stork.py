"""stork, ``stork.activations`` of its repository.

In stork, parameters are class attributes. It fires for x > 0.
"""

from ..._spike_types import multi_spike, stochastic, strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import (
    EscapeExp,
    HardTanhGrad,
    InvSquareGrad,
    LeakyRelu,
    OneSidedInvSquare,
    ReluGrad,
    Sigmoid,
)
from ._ratio import ratio

ABSENT = {
    "SuperSpike_norm": "its slope is divided by a norm over the batch",
    "MultilayerSpiker": "a surrogate_type of CustomSpike. By mistake its slope is x instead of "
    "the spike",
}


def SuperSpike(beta: Real = 20) -> Surrogate:
    """SuperSpike, Zenke and Ganguli 2018."""
    return strict(InvSquareGrad(beta))


def CustomSpike(
    escape_noise_type: str = "step",
    surrogate_type: str = "SuperSpike",
    beta: Real = 10,
    p0: Real = 0.01,
    delta_u: Real = 0.133,
) -> Surrogate:
    """Selectable slope and escape noise, Gygax and Zenke 2025.

    Here noise requires the slope with its name.
    """
    curves = {
        "SuperSpike": InvSquareGrad(beta),
        "sigmoid": Sigmoid(beta),
        "exponential": EscapeExp(p0, delta_u),
    }
    if surrogate_type not in curves:
        raise ValueError(
            f"stork.CustomSpike: surrogate_type must be one of {', '.join(curves)}, got "
            f"{surrogate_type!r}"
        )
    if escape_noise_type not in ("step", surrogate_type):
        raise ValueError(
            f"stork.CustomSpike: escape_noise_type must be 'step' or the surrogate_type, got "
            f"{escape_noise_type!r} with {surrogate_type!r}"
        )
    return (strict if escape_noise_type == "step" else stochastic)(
        curves[surrogate_type]
    )


def SuperSpike_MemClamp(beta: Real = 20.0) -> Surrogate:
    """SuperSpike below the threshold, 1 above."""
    return strict(OneSidedInvSquare(beta))


def SuperSpike_rescaled(beta: Real = 20.0) -> Surrogate:
    """SuperSpike with the value 1 at x = −1, the resting potential."""
    # At x = -1 the slope of InvSquareGrad is 1 / (1 + beta)^2.
    return strict((beta + 1) ** 2 * InvSquareGrad(beta))


def MultiSpike(beta: Real = 100, maxspk: int = 10) -> Surrogate:
    """Spikes at multiples of the threshold.

    Stork excludes odd multiples, and has slopes beyond maxspk.
    """
    # Stork's slope is that of the distance to the nearest multiple.
    return multi_spike(InvSquareGrad(beta), maxspk, slopes="nearest")


def SuperSpike_asymptote(beta: Real = 100) -> Surrogate:
    """SuperSpike of height beta."""
    return strict(beta * InvSquareGrad(beta))


def TanhSpike(beta: Real = 100) -> Surrogate:
    """The sum of 1 and 1 − tanh(beta·x)²."""
    # 1 - tanh(bx)^2 is 4 sigma(2bx) sigma(-2bx), and Sigmoid(2b) has 2b times this product of
    # sigmas.
    return strict(LeakyRelu(1, 1) + ratio(2, beta) * Sigmoid(2 * beta))


def EsserSpike(beta: Real = 1) -> Surrogate:
    """Triangle of height 1, Esser et al. 2016."""
    return strict(ReluGrad(beta, ratio(1, beta)))


def HardTanhSpike(beta: Real = 100) -> Surrogate:
    """Ramp from 0 to 2."""
    return strict(HardTanhGrad(beta))
