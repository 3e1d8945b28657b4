"""Functions as operations: the operations compute what the function does, or the reason is
named.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad._weights import (
    PRIMITIVES,
    Bias,
    Convolution,
    Factor,
    MaxPooling,
    Product,
    Rearrangement,
    SumPooling,
    read_function,
)
from spikegrad.integers._functions import RULES
from spikegrad.integers._save import _OPERATIONS

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 1, 3, 2)).astype(np.float32)  # of two groups
LAST = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)
MATRIX = RNG.normal(size=(12, 4)).astype(np.float32)
IMAGE, LAYOUT = (2, 7, 6), ("NHWC", "HWIO", "NHWC")


def convolved(x):
    return jax.lax.conv_general_dilated(
        x, KERNEL, (2, 1), [(1, 0), (2, 1)], rhs_dilation=(1, 2), feature_group_count=2
    )


def images_last(x):
    """Images with channels last, averaged over windows with one row of zeros."""
    x = jax.lax.conv_general_dilated(x, LAST, (1, 1), "SAME", dimension_numbers=LAYOUT)
    window, stride = (1, 2, 3, 1), (1, 2, 1, 1)
    return (
        jax.lax.reduce_window(x, 0.0, jax.lax.add, window, stride, [(0, 0), (1, 0), (0, 0), (0, 0)])
        / 6
    )


FUNCTIONS = {  # with the shape of an example, and the operations
    "product": (lambda x: x @ MATRIX, (12,), [Product]),
    "matrix on the left": (
        lambda x: (MATRIX.T @ x.T).T,
        (12,),
        [Rearrangement, Product, Rearrangement],
    ),
    "product of an image": (
        lambda x: jnp.tensordot(x, MATRIX.reshape(3, 4, 4), ((2, 1), (0, 1))),
        (4, 3),
        [Product],
    ),
    "turned": (
        jax.jit(lambda x: x.reshape(-1, 3, 4).mT.reshape(-1, 12) @ MATRIX - 0.5),
        (12,),
        None,
    ),
    "convolution": (
        lambda x: convolved(x) + jnp.arange(4.0)[None, :, None, None],
        IMAGE,
        [Convolution, Bias],
    ),
    "channels last": (images_last, (7, 6, 2), [Convolution, SumPooling, Factor]),
    "scaled": (lambda x: jnp.arange(12.0)[None] * (x / 4) * 0.5, (12,), [Factor] * 3),
    "padded": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3))), (4, 3), [SumPooling]),
    "maximum of a window": (
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 3), (1, 2, 1), "SAME"),
        (5, 4),
        [MaxPooling],
    ),
    "global average": (lambda x: x.mean((2, 3)), IMAGE, [SumPooling, Rearrangement, Factor]),
    "slice": (lambda x: x[:, 9:21] @ MATRIX, (30,), [Rearrangement, Product]),
    "column backwards": (lambda x: x[:, :, 1][:, ::-1], (4, 3), [Rearrangement] * 3),
    "nothing": (lambda x: sum([x, 0.0]), (12,), []),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_compute_the_function(name):
    function, shape, kinds = FUNCTIONS[name]
    x = RNG.normal(size=(1, *shape)).astype(np.float32)
    value = read_function(function, jax.ShapeDtypeStruct(x.shape, x.dtype))
    expected, got = function(x), jnp.asarray(x)
    for operation in value.operations:
        got = operation(got)
    assert got.shape == value.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() > 0.1
    assert kinds is None or [*map(type, value.operations)] == kinds
    # The arrays are the leaves of a pytree.
    leaves = jax.tree.leaves(value.operations)
    assert sum(np.size(leaf) for leaf in leaves) >= (48 if kinds is None or Product in kinds else 0)


def test_integers_and_exports_know_each_operation():
    """A class that is missing in one of these tables would be a KeyError for users."""
    operations = {*PRIMITIVES.values()}
    assert {*RULES} == operations - {Bias}  # which integers move behind the others
    assert {*_OPERATIONS.values()} == operations - {Bias}
    pytest.importorskip("nir")
    from spikegrad.exchange._nodes import AFTER  # noqa: PLC0415  (NIR is an extra)

    assert {*AFTER} == operations


def test_arguments_add_up():
    """A join adds its sources before its operations, or after equal moves."""
    three = [jax.ShapeDtypeStruct((1, 4, 3), np.float32)] * 3
    value = read_function(lambda a, b, c: (sum([c, a]) + b).reshape(1, 12) @ MATRIX, *three)
    assert [term.source for term in value.terms] == [2, 0, 1]
    assert [*map(type, value.operations)] == [Rearrangement, Product]
    flat = read_function(lambda a, b: a.reshape(1, 12) + b.reshape(1, 12), *three[:2])
    assert [term.source for term in flat.terms] == [0, 1]
    assert flat.shape == (1, 12)


def test_concatenations_are_sums_with_zeros():
    def joined(a, b, c):
        return jnp.concatenate([a.reshape(1, 3, 4), 2 * (b + c)], 1).sum(2) @ MATRIX[:5]

    arrays = [RNG.normal(size=(1, *shape)).astype(np.float32) for shape in ((12,), (2, 4), (2, 4))]
    value = read_function(joined, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays))
    parts = []
    for term in value.terms:
        parts.append(jnp.asarray(arrays[term.source]))
        for operation in term.operations:
            parts[-1] = operation(parts[-1])
    got = sum(parts)
    for operation in value.operations:
        got = operation(got)
    np.testing.assert_allclose(got, joined(*arrays), rtol=1e-5)


REASONS = {
    "tanh": jnp.tanh,
    "a difference from a constant": lambda x: 1 - x,
    "a division by a value that depends on the inputs": lambda x: 1 / x,
    "add of two values that depend on the inputs": lambda x: x @ MATRIX + x @ MATRIX,
    "a sum that does not add each argument once": lambda x: x + x,
    "mul of two values that depend on the inputs": lambda x: x * x,
    "a product along some of the axes of an example": lambda x: (
        x.reshape(-1, 1, 3, 4) @ np.ones((4, 2), np.float32)
    ),
    "broadcast_in_dim to another number of values": lambda x: jnp.broadcast_to(
        x[..., None], (1, 12, 2)
    ),
    "a result that does not depend on the input": lambda _: jnp.zeros((1, 3)),
    "reduce_max": lambda x: x.max(1),
    "a padding with other numbers than zeros around": lambda x: jnp.pad(
        x, ((0, 0), (1, 1)), constant_values=2
    ),
    "a concatenation with a constant": lambda x: jnp.concatenate([x, np.ones((1, 2))], 1),
    "a concatenation of a sum with a bias": lambda x: jnp.concatenate([x + x + 1.0, x], 1),
    "a pooling with gaps": lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 2), (1, 1), "VALID", window_dilation=(1, 2)
    ),
    "a convolution of three dimensions or a transposed": lambda x: jax.lax.conv_general_dilated(
        x[:, None], np.ones((1, 1, 3), np.float32), (1,), [(0, 0)], lhs_dilation=(2,)
    ),
    "a convolution with a kernel from the inputs": lambda x: jax.lax.conv_general_dilated(
        np.ones((1, 1, 20), np.float32), x[:, None], (1,), "VALID"
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        read_function(REASONS[reason], jax.ShapeDtypeStruct((1, 12), np.float32))
