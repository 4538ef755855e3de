"""Find what a step would poison: numbers that are not finite."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core.tree import is_inexact
from jmeta._core.typing import PyTree


def names(params: PyTree, opt_state: PyTree) -> list[str]:
    """What the entries of `nonfinite` stand for.

    Example:
        >>> import jax.numpy as jnp
        >>> names({"w": jnp.ones(2)}, (jnp.zeros([], int),))
        ["gradient['w']", 'loss', "params['w']"]
    """
    return [
        *_paths("gradient", params),
        "loss",
        *_paths("params", params),
        *_paths("opt_state", opt_state),
    ]


def nonfinite(
    grads: PyTree, loss: jax.Array, new: tuple[PyTree, PyTree], old: PyTree
) -> jax.Array:
    """Which leaves hold a number that is not finite, causes before consequences.

    An entry of the optimizer's state counts if it was finite before: some transforms
    start from an infinity.

    Args:
        grads: The meta-gradient.
        loss: The meta-loss, a scalar.
        new: The parameters and the optimizer's state after the update.
        old: The optimizer's state before it.

    Returns:
        Booleans, shape `[n]`, in the order of `names`.
    """
    params, opt_state = new
    found = [~jnp.isfinite(x).all() for x in [*_leaves(grads), loss, *_leaves(params)]]
    for after, before in zip(_leaves(opt_state), _leaves(old), strict=True):
        found.append((~jnp.isfinite(after) & jnp.isfinite(before)).any())
    return jnp.stack(found)


def blame(names: list[str], found: np.ndarray) -> str:
    """The first leaf that was found, and how many others are as near to the cause.

    Example:
        >>> blame(["gradient['v']", "gradient['w']", "loss"], np.array([1, 1, 1]))
        "`gradient['v']` and 1 other leaf"
    """
    bad = [name for name, is_bad in zip(names, found, strict=True) if is_bad]
    kinds = [re.split(r"\W", name)[0] for name in bad]
    others = kinds.count(kinds[0]) - 1
    if not others:
        return f"`{bad[0]}`"
    return f"`{bad[0]}` and {others} other {'leaf' if others == 1 else 'leaves'}"


def _leaves(tree):
    return [x for x in jax.tree.leaves(tree) if is_inexact(x)]


def _paths(name, tree):
    return [
        name + keystr(path) for path, x in tree_leaves_with_path(tree) if is_inexact(x)
    ]
