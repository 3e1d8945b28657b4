"""From a surrogate class, the function of the same name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import jax
from jax.typing import ArrayLike

from ._surrogate import Surrogate

P = ParamSpec("P")
_MISSING = object()


def snake_case(name: str) -> str:
    """``SoftSign`` to ``soft_sign``, ``QPseudoSpike`` to ``q_pseudo_spike``, ``S2NN`` to ``s2nn``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def functional(cls: Callable[P, Surrogate]) -> Callable[Concatenate[ArrayLike, P], jax.Array]:
    """The function form of a surrogate class: ``f(x, ...)`` is ``cls(...)(x)``.

    Parameters
    ----------
    cls : type
        A subclass of :class:`Surrogate`.

    Returns
    -------
    callable
        Takes ``x`` and then the parameters of ``cls``, with its defaults, by position or keyword.

    Examples
    --------
    >>> import inspect
    >>> from spikegrad import Sigmoid, functional
    >>> sigmoid = functional(Sigmoid)
    >>> float(sigmoid(0.3, alpha=2.0))
    1.0
    >>> list(inspect.signature(sigmoid).parameters)
    ['x', 'alpha']
    """

    name = snake_case(cls.__name__)

    def function(x: Any = _MISSING, *args: P.args, **kwargs: P.kwargs) -> jax.Array:
        if x is _MISSING:  # other libraries have factories of these names
            raise TypeError(f"{name}: x is missing; write {cls.__name__}() for a surrogate that you pass on")
        return cls(*args, **kwargs)(x)

    signature = inspect.signature(cls)
    x = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=ArrayLike)
    function.__name__ = function.__qualname__ = name
    function.__module__ = cls.__module__
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[x, *signature.parameters.values()], return_annotation=jax.Array
    )
    function.__doc__ = f"""Function form of :class:`{cls.__name__}`: ``{name}(x, ...)`` is ``{cls.__name__}(...)(x)``.

    Formula, parameters and errors are those of the class.
    """
    return function
