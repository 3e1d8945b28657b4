"""Surrogates by name."""

from __future__ import annotations

import ast
import difflib
import inspect
from typing import Any

from .. import surrogates
from .._checks import brief, shorten
from .._functional import snake_case
from .._surrogate import Surrogate

_classes: dict[str, type[Surrogate]] = {
    snake_case(name): value
    for name, value in vars(surrogates).items()
    if inspect.isclass(value) and issubclass(value, Surrogate)
}


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
        ``"soft_sign(alpha=2.0)"``. The ``repr`` of a surrogate with number parameters is such a string.
    **parameters
        Parameters by keyword, for a name alone.

    Returns
    -------
    Surrogate

    Raises
    ------
    ValueError
        For an unknown name (the message has the nearest one) or a string that cannot be read, and for parameters out
        of their domain.
    TypeError
        For parameters that the surrogate does not have.

    Examples
    --------
    >>> from spikegrad import get
    >>> get("arctan", alpha=2.0)
    Arctan(alpha=2.0)
    >>> get("arctan(2.0)") == get("Arctan(alpha=2)")
    True
    >>> get("arctang")
    Traceback (most recent call last):
    ...
    ValueError: unknown surrogate 'arctang', did you mean 'arctan'?
    """
    if not isinstance(spec, str):
        raise TypeError(f"get: spec must be a string, got {brief(spec)}")
    malformed = ValueError(f"malformed surrogate {brief(spec)}: write a name, or name(parameter=number, ...)")
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two for thousands of brackets
        raise malformed from None
    args: list[Any] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
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
    if not isinstance(node, ast.Name):
        raise malformed
    cls = _classes.get(node.id) or _classes.get(snake_case(node.id))
    if cls is None:
        near = difflib.get_close_matches(snake_case(node.id), _classes, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(names())}"
        raise ValueError(f"unknown surrogate {brief(node.id)}{hint}")
    signature = inspect.signature(cls)
    try:
        signature.bind(*args, **parameters)
    except TypeError as error:
        raise TypeError(
            f"{cls.__name__}: {shorten(str(error))}; its parameters are {', '.join(signature.parameters)}"
        ) from None
    return cls(*args, **parameters)
