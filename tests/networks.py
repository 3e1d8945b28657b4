"""Calls of networks that several tests make, and comparisons of what these return."""

import jax
import numpy as np
import pytest


def observed(network, *args, **options):
    """The states after the last step, and outputs and states before the spike of each node, by name
    and by place.
    """
    states, activity = network.observe(*args, **options)
    outs = {name: node.output for name, node in activity.items()}
    before = {name: node.pre_spike for name, node in activity.items() if node.pre_spike is not None}
    return states, type(activity)(outs), type(activity)(before)


def value_and_gradient(run, p, x, cotangents):
    """The outputs of ``run(p, x)``, and the gradients of their weighted sum in both arguments."""

    def loss(p, x):
        outputs = run(p, x)
        return (cotangents * outputs).sum(), outputs

    (_, outputs), gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(p, x)
    return np.asarray(outputs), gradient


def assert_close(got, expected, error=3e-6, zero=False):
    """Of each leaf the largest error, relative to its largest number, which is not 0 unless that is
    allowed.
    """
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert zero or np.any(y), jax.tree_util.keystr(path)
        assert np.abs(x - y).max() <= error * np.abs(y).max(), jax.tree_util.keystr(path)


def assert_raises(call, message):
    """The call raises an error with the class and the words of a message, as "TypeError: Layer:
    cell must be".
    """
    error, _, words = message.partition(": ")
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as raised:
        call()
    text = f"{type(raised.value).__name__}: {raised.value}"
    assert text.startswith(f"{error}: ")
    assert words in text
