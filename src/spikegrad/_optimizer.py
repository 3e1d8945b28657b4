"""Arguments of optax optimizers besides the gradient. This file does not import optax."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jax.typing import ArrayLike

from ._pytree import PyTree

if TYPE_CHECKING:
    from optax import GradientTransformation


def updates_of(
    optimizer: GradientTransformation,
    gradient: PyTree,
    state: PyTree,
    trainable: PyTree,
    value: ArrayLike,
    loss: Callable[[PyTree], ArrayLike],
) -> tuple[PyTree, PyTree]:
    """Return updates and the new state.

    ``value`` is the loss at ``trainable``, ``loss`` a function of parameters.

    Optax has several names for these arguments, and none of the optimizers takes all of them.
    """

    def value_fn(
        trainable: PyTree, obj_fn: Any = None, grad_fn: Any = None
    ) -> ArrayLike:
        return loss(trainable)  # a line search passes on arguments that it does not use

    offered = {
        "value": value,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": loss,
        "grad_fn": lambda trainable, _: jax.grad(loss)(trainable),
    }
    accepted = inspect.signature(optimizer.update).parameters
    takes_any = any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()
    )
    # Optimizers without ``**extra_args`` take only the arguments that they name.
    if not takes_any:
        names = offered.keys() & accepted.keys()
        offered = {name: offered[name] for name in names}
    with jax.numpy_dtype_promotion("standard"):  # optax promotes
        return optimizer.update(gradient, state, trainable, **offered)
