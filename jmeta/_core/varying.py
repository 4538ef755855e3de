"""The device axes of a `jax.shard_map` that values differ over."""

from typing import Any

import jax

from jmeta._compat import varying_axes_of
from jmeta._core.typing import PyTree


def in_shard_map() -> bool:
    """Whether this is traced for one device of several, by `jax.shard_map`."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def varying_axes(tree: PyTree) -> frozenset[Any]:
    """Names of the manual axes that some array differs over; none outside shard_map."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return frozenset().union(*map(_axes, arrays))


def make_varying(tree: PyTree, axes: frozenset[Any]) -> PyTree:
    """Let every leaf differ over these axes.

    JAX adds up a gradient over the devices when what it is taken with respect to does
    not differ between them. Training on each device's own data needs parameters of its
    own, whose gradient stays there.
    """

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(axes - _axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree) if axes else tree


def axes_of(aval: Any) -> frozenset[Any]:
    """The manual axes that an array of this abstract value differs over."""
    return varying_axes_of(aval)


def _axes(x: jax.Array) -> frozenset[Any]:
    return axes_of(jax.typeof(x))
