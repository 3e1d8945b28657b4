"""Function forms of surrogate classes, and the public functions of a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Concatenate, ParamSpec

import jax
from jax.typing import ArrayLike

from ._checks import snake_case
from ._surrogate import Surrogate

P = ParamSpec("P")
_MISSING = object()


def functional(
    cls: Callable[P, Surrogate],
) -> Callable[Concatenate[ArrayLike, P], jax.Array]:
    """Return the function form of a surrogate class: a function of ``x`` and the parameters, which
    returns spikes.

    ``functional(Sigmoid)(x, alpha=2.0)`` equals ``Sigmoid(alpha=2.0)(x)``.

    Parameters
    ----------
    cls : type
        A subclass of :class:`~spikegrad.Surrogate`, such as ``Sigmoid``.

    Returns
    -------
    callable
        A function of ``x``, the potential minus the threshold, and of the parameters of ``cls``.
        The parameters have the defaults of ``cls``.

    Examples
    --------
    >>> import inspect
    >>> from spikegrad import Sigmoid
    >>> from spikegrad.surrogates import functional
    >>> sigmoid = functional(Sigmoid)
    >>> float(sigmoid(0.3, alpha=2.0))
    1.0
    >>> list(inspect.signature(sigmoid).parameters)
    ['x', 'alpha']
    """

    name = snake_case(cls.__name__)

    def function(x: Any = _MISSING, *args: P.args, **kwargs: P.kwargs) -> jax.Array:
        if x is _MISSING:  # other libraries use these names for factories
            raise TypeError(
                f"{name}: x is missing. Use {cls.__name__}() to pass the surrogate"
            )
        return cls(*args, **kwargs)(x)

    # The signature of the class with ``x`` first, for editors and ``help``.
    signature = inspect.signature(cls)
    x = inspect.Parameter(
        "x", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=ArrayLike
    )
    function.__name__ = function.__qualname__ = name
    function.__module__ = cls.__module__
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[x, *signature.parameters.values()], return_annotation=jax.Array
    )
    function.__doc__ = f"""Function form of :class:`~spikegrad.{cls.__name__}`.

    ``{name}(x, ...)`` is ``{cls.__name__}(...)(x)``.

    See the class for formula, parameters and errors.
    """
    return function


def functions_of(module: ModuleType) -> dict[str, Callable]:
    """Return the public functions that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
