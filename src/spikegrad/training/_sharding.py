"""Arrays that are sharded over the devices of all processes."""

from __future__ import annotations

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._consensus import gathered
from .._pytree import PyTree
from ._partition import name_of


def mesh_of(batch_sharding: PyTree) -> Mesh:
    """Return the mesh of a batch sharding.

    Raises
    ------
    TypeError
        If it does not consist of NamedSharding.
    """
    shardings = jax.tree.leaves(batch_sharding)
    for sharding in shardings or [None]:
        if not isinstance(sharding, NamedSharding):
            raise TypeError(
                f"fit: batch_sharding must consist of jax.sharding.NamedSharding, got {sharding!r}"
            )
    return shardings[0].mesh


def spread(batch: PyTree, batch_sharding: PyTree) -> PyTree:
    """Shard a batch. Every process has the complete batch, and puts its part onto its devices."""

    def under(sharding, part):
        return jax.tree.map(partial(_placed, sharding), part)

    return jax.tree.map(under, batch_sharding, batch)


def _placed(sharding: NamedSharding, leaf: PyTree) -> jax.Array:
    if is_spread(leaf):
        return leaf
    array = np.asarray(leaf)
    array = array.astype(jnp.result_type(array), copy=False)  # as jit does
    # Scalars lack axes.
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[: array.ndim]))
    # The callback gets the index of each shard of this process, so no process transfers the parts
    # of others.
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def is_spread(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def replicated(tree: PyTree, mesh: Mesh, part: str) -> PyTree:
    """Put every array that is not sharded on all devices.

    Raises
    ------
    ValueError
        If processes have different values of an array. The message starts its name with ``part``.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [leaf for _, leaf in paths]
    local = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array) and not is_spread(leaf)
    ]
    # Keys are compared and placed as their numbers, because NumPy has no dtype for them.
    host = {i: np.asarray(unwrap_key(leaves[i])) for i in local}
    if local and jax.process_count() > 1:
        # Hashes are enough to compare, and parameters may have gigabytes.
        hashes = gathered(*map(_hash, host.values()))
        for i, column in zip(local, hashes.T, strict=True):
            if len(set(column)) > 1:
                name = "/".join(filter(None, (part, name_of(paths[i][0]))))
                raise ValueError(
                    f"fit: {name} differs between processes; start all processes from one seed"
                )
    everywhere = NamedSharding(mesh, PartitionSpec())
    for i, array in host.items():
        leaves[i] = wrap_like(
            jax.make_array_from_callback(array.shape, everywhere, array.__getitem__),
            leaves[i],
        )
    return structure.unflatten(leaves)


def _hash(array: np.ndarray) -> int:
    # Four bytes, because the processes exchange integers of 32 bits.
    about = hashlib.blake2b(f"{array.dtype} {array.shape} ".encode(), digest_size=4)
    about.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return int.from_bytes(about.digest(), "little", signed=True)


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def unwrap_key(leaf: jax.Array) -> jax.Array:
    """Return an array, or the numbers of a key."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def wrap_like(numbers: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return the numbers, as a key if ``leaf`` is a key."""
    return (
        jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else numbers
    )
