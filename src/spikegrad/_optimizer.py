"""Arguments of optax optimizers besides the gradient. This file does not import optax."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax


def updates_of(
    optimizer: Any,
    gradient: Any,
    state: Any,
    trainable: Any,
    value: Any,
    loss: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """Return updates and the new state.

    ``value`` is the loss at ``trainable``, ``loss`` a function of parameters.

    Optax has several names for these arguments, and none of the optimizers takes all of them.
    """

    def value_fn(trainable: Any, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        return loss(trainable)  # a line search passes on arguments that it does not use

    offered = {
        "value": value,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": loss,
        "grad_fn": lambda trainable, _: jax.grad(loss)(trainable),
    }
    accepted = inspect.signature(optimizer.update).parameters
    if not any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()
    ):
        offered = {name: offered[name] for name in offered.keys() & accepted.keys()}
    with jax.numpy_dtype_promotion("standard"):  # optax promotes
        return optimizer.update(gradient, state, trainable, **offered)
