"""Surrogates by name."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from .. import surrogates
from .._checks import brief, shorten
from .._functional import snake_case
from .._surrogate import Surrogate
from .presets import ABSENT, PRESETS

_classes: dict[str, type[Surrogate]] = {
    snake_case(name): value
    for name, value in vars(surrogates).items()
    if inspect.isclass(value) and issubclass(value, Surrogate)
}

_INVERSE_SQUARE = "1/(1 + k|x|)² is inv_square_grad(alpha=k); k is 25 in snnTorch and spyx, 100 in norse"
_TRIANGLE = "h max(0, 1 − |x|/w) is relu_grad(alpha=h / w, width=w); h is 0.3 and w is 1 in norse"
_BOX = "1/(2w) for |x| ≤ w is piecewise_leaky_relu(c=0, w=w)"
_EXPONENTIAL = "exp(−k|x|) is slayer_grad(alpha=k), and (k/2) exp(−k|x|) is piecewise_exp(alpha=k)"
_CAUCHY = "(k/2) / (1 + (πkx/2)²) is arctan(alpha=k); k is 2 in snnTorch and SpikingJelly"
_STRAIGHT = "1 is leaky_relu(alpha=1, beta=1)"
_ELSEWHERE = {
    **dict.fromkeys(("fastsigmoid", "superspike"), _INVERSE_SQUARE),
    **dict.fromkeys(("triangular", "triangle", "esser", "bellec", "eprop", "zif"), _TRIANGLE),
    **dict.fromkeys(("boxcar", "box", "rectangle", "rectangular", "rect", "gate", "stbp"), _BOX),
    **dict.fromkeys(("slayer", "exponential", "singleexponential", "laplace"), _EXPONENTIAL),
    **dict.fromkeys(("atan", "arctangent", "cauchy", "lorentzian"), _CAUCHY),
    **dict.fromkeys(("ste", "straightthrough", "straightthroughestimator"), _STRAIGHT),
    "heaviside": "0 for x < 0 and 1 for x ≥ 0 is leaky_relu(alpha=0, beta=1)",
    "heavierfc": "(2/√π) exp(−k²x²) is gaussian_grad(sigma=0.5**0.5 / k, alpha=2 / k); k is 100 in norse",
    "logistic": "k σ(kx) σ(−kx) is sigmoid(alpha=k); k is 25 in snnTorch, 4 in SpikingJelly",
    "tanh": "1 − tanh(kx)² is sigmoid(alpha=2 * k) times 2/k",
}
"""Names of other libraries and of papers, in lower case and without ``_``: the slope, and what it is called here."""


def names() -> list[str]:
    """The names that :func:`get` knows: one for each surrogate of the library.

    Examples
    --------
    >>> import spikegrad
    >>> spikegrad.names()[:3]
    ['arctan', 'erf', 'gaussian_grad']
    """
    return sorted(_classes)


def get(spec: str, **parameters: Any) -> Surrogate:
    """The surrogate that a string describes.

    Parameters
    ----------
    spec : str
        A name, ``"soft_sign"`` or ``"SoftSign"``, alone or with parameters in Python's notation,
        ``"soft_sign(alpha=2.0)"``. The ``repr`` of a surrogate with number parameters is such a string. Or a name of
        another library with its parameters there, ``"snntorch.fast_sigmoid(slope=25)"``: see
        :mod:`spikegrad.surrogates.presets`.
    **parameters
        Parameters by keyword, for a name alone.

    Returns
    -------
    Surrogate

    Raises
    ------
    ValueError
        For an unknown name (the message has the nearest one, or what a name of other libraries is called here), for one
        of another library that has no counterpart (the message says why), for a string that cannot be read, and for
        parameters out of their domain.
    TypeError
        For parameters that the surrogate does not have.

    Examples
    --------
    >>> from spikegrad import get
    >>> get("arctan", alpha=2.0)
    Arctan(alpha=2.0)
    >>> get("arctan(2.0)") == get("Arctan(alpha=2)")
    True
    >>> get("snntorch.fast_sigmoid(slope=25)")
    excluding(InvSquareGrad(alpha=25.0))
    >>> get("arctang")
    Traceback (most recent call last):
    ...
    ValueError: unknown surrogate 'arctang', did you mean 'arctan'?
    >>> get("boxcar")
    Traceback (most recent call last):
    ...
    ValueError: unknown surrogate 'boxcar': the slope 1/(2w) for |x| ≤ w is piecewise_leaky_relu(c=0, w=w)
    """
    if not isinstance(spec, str):
        raise TypeError(f"get: spec must be a string, got {brief(spec)}")
    malformed = ValueError(f"malformed surrogate {brief(spec)}: write a name, or name(parameter=number, ...)")
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two for thousands of brackets
        raise malformed from None
    args: list[Any] = []
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        try:
            args = [ast.literal_eval(arg) for arg in node.args]
            given = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
        except (ValueError, TypeError, MemoryError, RecursionError):
            raise malformed from None
        if "" in given or len(given) < len(node.keywords):  # **{...}, or a keyword twice
            raise malformed
        if parameters and (args or given):
            raise TypeError(f"get: parameters both in {brief(spec)} and by keyword")
        parameters, node = parameters or given, node.func
    if not isinstance(node, ast.Name) and not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
        raise malformed
    name = ast.unparse(node)
    make = _named(name)
    signature = inspect.signature(make)
    try:
        signature.bind(*args, **parameters)
    except TypeError as error:
        shown = name if "." in name else make.__name__
        raise TypeError(
            f"{shown}: {shorten(str(error))}; its parameters are {', '.join(signature.parameters)}"
        ) from None
    return make(*args, **parameters)


def _named(name: str) -> Callable[..., Surrogate]:
    """What makes the surrogate of a name, or an error that says which name may be meant."""
    found = _classes.get(name) or _classes.get(snake_case(name)) or PRESETS.get(name)
    if found is not None:
        return found
    if why := ABSENT.get(name):
        raise ValueError(f"no counterpart of {brief(name)} here: {why}")
    if known := _ELSEWHERE.get(name.lower().replace("_", "")):
        raise ValueError(f"unknown surrogate {brief(name)}: the slope {known}")
    near = difflib.get_close_matches(name, PRESETS, n=1) if "." in name else []
    near = near or difflib.get_close_matches(snake_case(name), _classes, n=1)
    hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(names())}"
    raise ValueError(f"unknown surrogate {brief(name)}{hint}")
