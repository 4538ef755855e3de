"""Find the numbers that are not finite in a step, and name their cause."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core.tree import is_inexact
from jmeta._core.typing import PyTree


def leaf_names(params: PyTree, opt_state: PyTree) -> list[str]:
    """The names of the entries of `nonfinite`.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf_names({"w": jnp.ones(2)}, (jnp.zeros([], int),))
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

    An entry of the optimizer's state counts only if it was finite before the update,
    because some transforms start from an infinity.

    Args:
        grads: The meta-gradient.
        loss: The meta-loss, a scalar.
        new: The parameters and the optimizer's state after the update.
        old: The optimizer's state before the update.

    Returns:
        Booleans, shape `[n]`, in the order of `leaf_names`.
    """
    params, opt_state = new
    found = [~jnp.isfinite(x).all() for x in [*_leaves(grads), loss, *_leaves(params)]]
    for after, before in zip(_leaves(opt_state), _leaves(old), strict=True):
        found.append((~jnp.isfinite(after) & jnp.isfinite(before)).any())
    return jnp.stack(found)


def first_cause(names: list[str], found: np.ndarray) -> str:
    """The first leaf that is not finite, and how many others are of its kind.

    The kinds are the gradient, the loss, the parameters and the optimizer's state.

    Example:
        >>> first_cause(["gradient['v']", "gradient['w']", "loss"], np.array([1, 1, 1]))
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
