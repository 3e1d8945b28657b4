"""Arguments of optax optimizers besides the gradient. This file does not import optax."""

from __future__ import annotations

import functools
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
    with jax.numpy_dtype_promotion("standard"):  # optax promotes
        return optimizer.update(
            gradient, state, trainable, **_accepted(optimizer, offered)
        )


def _accepted(
    optimizer: GradientTransformation, offered: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments that the optimizer takes. Without ``**extra_args``, it names them."""
    accepted = inspect.signature(optimizer.update).parameters
    takes_any = any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()
    )
    names = offered.keys() if takes_any else offered.keys() & accepted.keys()
    return {name: offered[name] for name in names}


def in_structure(
    optimizer: GradientTransformation, structure: Any
) -> GradientTransformation:
    """Return the optimizer for parameters of a changed network.

    Masks and labels of users have the structure of their own network. A change of the network may
    add a node without parameters. The optimizer gets its parameters in the given structure, unless
    their number is different.
    """
    import optax  # noqa: PLC0415  (optax is an extra)

    def passed(tree: PyTree) -> PyTree:
        leaves = jax.tree.leaves(tree)
        return (
            structure.unflatten(leaves) if len(leaves) == structure.num_leaves else tree
        )

    def init(params: PyTree) -> PyTree:
        return optimizer.init(passed(params))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **offered: Any
    ) -> tuple[PyTree, PyTree]:
        own = jax.tree.structure(updates)

        def converted(value: Any) -> Any:
            # A tree of parameters first, because a network can be called.
            if jax.tree.structure(value) == own:
                return passed(value)
            if not callable(value):
                return value

            # A line search calls functions of parameters, and reads their signatures.
            @functools.wraps(value)
            def function(tree: PyTree, *rest: Any, **options: Any) -> Any:
                restored = own.unflatten(jax.tree.leaves(tree))
                return converted(value(restored, *rest, **options))

            return function

        extra = {
            name: converted(value)
            for name, value in _accepted(optimizer, offered).items()
        }
        changes, state = optimizer.update(
            passed(updates), state, passed(params), **extra
        )
        return own.unflatten(jax.tree.leaves(changes)), state

    return optax.GradientTransformationExtraArgs(init, update)
