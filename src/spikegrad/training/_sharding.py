"""Arrays that are sharded over the devices of all processes."""

from __future__ import annotations

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._consensus import gathered
from .._pytree import PyTree, name_of


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
    spec = PartitionSpec(*sharding.spec[: array.ndim])
    sharding = NamedSharding(sharding.mesh, spec)
    # The callback gets the index of each shard of this process, so no process transfers the parts
    # of others.
    try:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
    except ValueError as error:
        error.add_note(
            "fit: batch_sharding must divide the examples evenly, got an array of shape "
            f"{array.shape} and {sharding.spec}. Pass P('batch') for examples first, "
            "P(None, 'batch') for time first, and a batch size that is a multiple of the devices"
        )
        raise


def is_spread(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def spread_like(array: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return an array with the sharding of another one."""
    return jax.device_put(array, leaf.sharding) if is_spread(leaf) else array


def replicated(tree: PyTree, mesh: Mesh, part: str) -> PyTree:
    """Put every array that is not sharded on all devices.

    Raises
    ------
    ValueError
        If processes have different values of an array. The message starts its name with ``part``.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def placed(path, leaf):
        if not isinstance(leaf, jax.Array) or is_spread(leaf):
            return leaf
        # Keys are compared and placed as their numbers, because NumPy has no dtype for them.
        array = np.asarray(unwrap_key(leaf))
        # Hashes are enough to compare, and parameters may have gigabytes.
        if jax.process_count() > 1 and np.ptp(gathered(_hash(array))):
            names = filter(None, (part, name_of(path)))
            name = "/".join(names)
            raise ValueError(
                f"fit: {name} differs between processes. Start all processes from one seed"
            )
        whole = jax.make_array_from_callback(array.shape, everywhere, array.__getitem__)
        return wrap_like(whole, leaf)

    return jax.tree_util.tree_map_with_path(placed, tree)


def _hash(array: np.ndarray) -> int:
    # Four bytes, because the processes exchange integers of 32 bits.
    about = hashlib.blake2b(f"{array.dtype} {array.shape} ".encode(), digest_size=4)
    numbers = np.ascontiguousarray(array).reshape(-1)
    about.update(numbers.view(np.uint8).data)
    return int.from_bytes(about.digest(), "little", signed=True)


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def unwrap_key(leaf: jax.Array) -> jax.Array:
    """Return an array, or the numbers of a key."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def wrap_like(numbers: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return the numbers, as a key if ``leaf`` is a key."""
    if not _is_key(leaf):
        return numbers
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
