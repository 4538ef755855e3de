"""The device axes of a `jax.shard_map` that values differ over."""

from typing import Any

import jax

from jmeta._compat import varying_axes_of
from jmeta._core.typing import PyTree


def in_shard_map() -> bool:
    """Tell whether `jax.shard_map` traces this code, for one device of several."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def varying_axes(tree: PyTree) -> frozenset[Any]:
    """Return the manual axes that some array of a tree differs over.

    Args:
        tree: A pytree; leaves that are no JAX arrays count for nothing.

    Returns:
        Names of axes; none outside `jax.shard_map`.
    """
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return frozenset().union(*map(_axes, arrays))


def make_varying(tree: PyTree, axes: frozenset[Any]) -> PyTree:
    """Let every leaf of a tree differ over these axes.

    When a value is the same on all devices, JAX sums the gradient with respect to it
    over the devices. Training on each device's own data needs parameters of each
    device's own, whose gradient stays on the device.

    Args:
        tree: A pytree of arrays.
        axes: Names of manual axes of the `jax.shard_map` around.

    Returns:
        The same values, cast to differ over the axes too.
    """

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(axes - _axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree) if axes else tree


def axes_of(aval: Any) -> frozenset[Any]:
    """Return the manual axes that an array of this abstract value differs over.

    Args:
        aval: The array's abstract value.
    """
    return varying_axes_of(aval)


def _axes(x: jax.Array) -> frozenset[Any]:
    return axes_of(jax.typeof(x))
