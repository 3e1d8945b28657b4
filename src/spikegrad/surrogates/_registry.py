"""Surrogates by name."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .. import _spike_types
from .._checks import brief, snake_case
from .._functional import functions_of
from .._settings import keep_slope, learnable
from .._surrogate import Surrogate
from . import exponential, gaussian, logistic, one_sided, periodic, piecewise, power_law
from ._algebra import shifted, stretched, truncated
from ._measures import rescaled

_families = exponential, gaussian, logistic, one_sided, periodic, piecewise, power_law
_classes: dict[str, type[Surrogate]] = {
    snake_case(name): value
    for family in _families
    for name, value in vars(family).items()
    if inspect.isclass(value)
    and issubclass(value, Surrogate)
    and value.__module__ == family.__name__  # not only imported there
}

_INVERSE_SQUARE = (
    "1/(1 + k|x|)² is inv_square_grad(alpha=k), with k = 25 in snnTorch and spyx, "
    "100 in norse"
)
_TRIANGLE = (
    "h max(0, 1 − |x|/w) is relu_grad(alpha=h / w, width=w), with h = 0.3 and w = 1 "
    "in norse"
)
_BOX = "1/(2w) for |x| ≤ w is piecewise_leaky_relu(c=0, w=w)"
_EXPONENTIAL = (
    "exp(−k|x|) is slayer_grad(alpha=k), and (k/2) exp(−k|x|) is piecewise_exp(alpha=k)"
)
_CAUCHY = (
    "(k/2) / (1 + (πkx/2)²) is arctan(alpha=k), with k = 2 in snnTorch and SpikingJelly"
)
_STRAIGHT = "1 is leaky_relu(alpha=1, beta=1)"
_ELSEWHERE = {
    **dict.fromkeys(("fastsigmoid", "superspike"), _INVERSE_SQUARE),
    **dict.fromkeys(
        ("triangular", "triangle", "esser", "bellec", "eprop", "zif"), _TRIANGLE
    ),
    **dict.fromkeys(
        ("boxcar", "box", "rectangle", "rectangular", "rect", "gate", "stbp"), _BOX
    ),
    **dict.fromkeys(
        ("slayer", "exponential", "singleexponential", "laplace"), _EXPONENTIAL
    ),
    **dict.fromkeys(("atan", "arctangent", "cauchy", "lorentzian"), _CAUCHY),
    **dict.fromkeys(("ste", "straightthrough", "straightthroughestimator"), _STRAIGHT),
    "heaviside": "0 for x < 0 and 1 for x ≥ 0 is leaky_relu(alpha=0, beta=1)",
    "heavierfc": "(2/√π) exp(−k²x²) is gaussian_grad(sigma=0.5**0.5 / k, alpha=2 / k), with k "
    "= 100 in norse",
    "logistic": "k σ(kx) σ(−kx) is sigmoid(alpha=k), with k = 25 in snnTorch, 4 in SpikingJelly",
    "tanh": "1 − tanh(kx)² is 2/k times sigmoid(alpha=2 * k)",
}
"""Names of other libraries and of papers, in lower case and without ``_``, with their slopes and
names here.
"""


def names() -> list[str]:
    """Return the names of all surrogates of the library, for :func:`get`.

    Returns
    -------
    list of str
        The names in alphabetical order, such as ``"arctan"``.

    Examples
    --------
    >>> import spikegrad
    >>> spikegrad.names()[:3]
    ['arctan', 'arctan_approx', 'capped_inverse']
    """
    return sorted(_classes)


def get(spec: str, **parameters: object) -> Surrogate:
    """Return the surrogate that a string names or describes, such as ``"arctan"`` or
    ``"sigmoid(alpha=2.0)"``.

    Parameters
    ----------
    spec : str
        The text, in one of these forms:

        - A name, such as ``"soft_sign"`` or ``"SoftSign"``. :func:`names` lists them.
        - A name with parameters, ``"soft_sign(alpha=2.0)"``. Each surrogate also accepts ``peak``
          and ``half_width``, which apply :func:`rescaled`.
        - A composition as in Python, ``"0.3 * sigmoid(4) + shifted(arctan, 0.5)"``, with
          :func:`shifted`, :func:`stretched`, :func:`truncated`, :func:`rescaled`, and spike types
          and settings such as ``"soft(arctan)"``.
        - The ``repr`` of a surrogate whose parameters are numbers.
        - A surrogate of another library with the parameters of this library,
          ``"snntorch.fast_sigmoid(slope=25)"``. The module ``spikegrad.surrogates.presets`` lists
          them.
    **parameters
        Parameters of the surrogate, if ``spec`` is only a name: ``get("sigmoid", alpha=2.0)``.

    Returns
    -------
    Surrogate
        The surrogate.

    Raises
    ------
    ValueError
        If the name is unknown, if the text cannot be read, or if a parameter is outside its range.
        Also if spikegrad has no equivalent of a surrogate of another library. Messages suggest
        similar names and give reasons.
    TypeError
        If the surrogate does not have one of the parameters.

    Examples
    --------
    >>> from spikegrad import get
    >>> get("arctan", alpha=2.0)
    Arctan(alpha=2.0)
    >>> get("arctan(2.0)") == get("Arctan(alpha=2)")
    True
    >>> get("arctan(peak=1, half_width=0.5)")
    2.0 * stretched(Arctan(alpha=1.0), 0.7853981633974483)
    >>> get("snntorch.fast_sigmoid(slope=25)")
    strict(InvSquareGrad(alpha=25.0))
    >>> get("arctang")
    Traceback (most recent call last):
    ...
    ValueError: unknown surrogate 'arctang', did you mean 'arctan'?
    >>> get("boxcar")
    Traceback (most recent call last):
    ...
    ValueError: unknown surrogate 'boxcar': the slope 1/(2w) for |x| ≤ w is
    piecewise_leaky_relu(c=0, w=w)
    """
    try:
        node = ast.parse(spec.strip(), mode="eval").body
        # Keywords belong to a plain name, because an expression states its own parameters.
        if parameters:
            return _make(_dotted(node), (), parameters)
        return _read(node)
    except (SyntaxError, _Malformed):
        raise ValueError(
            f"malformed surrogate {brief(spec)}: write a name, or name(parameter=number, ...), or "
            "pass a name and keywords"
        ) from None


class _Malformed(Exception):  # noqa: N818
    """The string does not describe a surrogate."""


# Functions that a string may call with a surrogate as their first argument.
_operations: dict[str, Callable[..., Surrogate]] = {
    function.__name__: function
    for function in (
        shifted,
        stretched,
        truncated,
        rescaled,
        *functions_of(_spike_types).values(),
        keep_slope,
        learnable,
    )
}


def _read(node: ast.expr) -> Surrogate:
    """Return the surrogate of an expression: names, calls, products with numbers, and sums."""
    match node:
        case ast.Name() | ast.Attribute():
            return _make(_dotted(node), (), {})
        case ast.Call(called, args, keywords):
            name = _dotted(called)
            options = {str(k.arg): _number(k.value) for k in keywords}
            # The first argument of an operation is a surrogate, and its others are numbers.
            if name in _operations and args:
                first, *others = args
                inner = _read(first)
                numbers = map(_number, others)
                return _operations[name](inner, *numbers, **options)
            return _make(name, tuple(map(_number, args)), options)
        case ast.BinOp(left, ast.Mult(), right):
            return _number(left) * _read(right)
        case ast.BinOp(left, ast.Add(), right):
            return _read(left) + _read(right)
    raise _Malformed


def _dotted(node: ast.expr) -> str:
    """Return a name, or a name of a library."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Name(library), name):
            return f"{library}.{name}"
    raise _Malformed


def _number(node: ast.expr) -> Any:
    # It reads signs and lists of numbers too, and runs no code.
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise _Malformed from None


def _make(name: str, args: tuple[Any, ...], parameters: dict[str, Any]) -> Surrogate:
    if "." in name:
        return _called(_preset(name), name, args, parameters)
    # The name of the class is accepted too: ``SoftSign`` for ``soft_sign``.
    cls = _classes.get(name) or _classes.get(snake_case(name))
    # A slope that is known under another name gets the name here as an answer.
    if cls is None:
        plain = name.lower().replace("_", "")
        if known := _ELSEWHERE.get(plain):
            raise ValueError(f"unknown surrogate {brief(name)}: the slope {known}")
        near = difflib.get_close_matches(snake_case(name), _classes, n=1)
        raise _unknown(name, near, names())
    size: dict[str, Any] = {}
    of_shape: dict[str, Any] = {}
    for key, value in parameters.items():
        # These two belong to ``rescaled``. No surrogate has a parameter of these names.
        chosen = size if key in ("peak", "half_width") else of_shape
        chosen[key] = value
    surrogate = _called(cls, cls.__name__, args, of_shape)
    return rescaled(surrogate, **size) if size else surrogate


def _unknown(name: str, near: list[str], known: Iterable[str]) -> ValueError:
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return ValueError(f"unknown surrogate {brief(name)}, {hint}")


def _preset(name: str) -> Callable[..., Surrogate]:
    from .presets import ABSENT, PRESETS  # noqa: PLC0415 (many modules, which most programs skip)

    if why := ABSENT.get(name):
        raise ValueError(f"no counterpart of {brief(name)} here: {why}")
    if name not in PRESETS:
        library = name.partition(".")[0]
        known = [preset for preset in PRESETS if preset.startswith(f"{library}.")]
        libraries = dict.fromkeys(preset.partition(".")[0] for preset in PRESETS)
        # Names of one library begin alike, so only very similar ones are near.
        near = difflib.get_close_matches(name, known or PRESETS, n=1, cutoff=0.8)
        raise _unknown(name, near, known or libraries)
    return PRESETS[name]


def _called(
    make: Callable[..., Surrogate],
    name: str,
    args: tuple[object, ...],
    parameters: dict[str, Any],
) -> Surrogate:
    # Bound first, because a TypeError of the call may have any other cause.
    signature = inspect.signature(make)
    try:
        signature.bind(*args, **parameters)
    except TypeError as error:
        raise TypeError(
            f"{name}: {error}, its parameters are {', '.join(signature.parameters)}"
        ) from None
    return make(*args, **parameters)
