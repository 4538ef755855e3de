"""Operations on pytrees and their dtypes that several modules use."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._core.typing import Path, PyTree


def strongly_typed(tree: PyTree) -> PyTree:
    """Make every leaf a strongly typed array of the dtype that it has.

    A weakly typed float64 times a float32 setting would be rounded to float32.

    Args:
        tree: A pytree of arrays and numbers.

    Returns:
        The tree with strongly typed arrays; PRNG keys stay as they are.

    Example:
        >>> import jax.numpy as jnp
        >>> jnp.asarray(1.0).weak_type, strongly_typed(1.0).weak_type
        (True, False)
    """

    def convert(x):
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(convert, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Cast every leaf to its counterpart's dtype, so that a loop's carry is stable.

    Args:
        tree: A pytree of arrays and numbers.
        like: A pytree of the same structure, whose dtypes are used.

    Returns:
        The tree with the dtypes of `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> cast_like(jnp.ones(2), jnp.ones(2, jnp.bfloat16)).dtype.name
        'bfloat16'
    """
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), tree, like)


def widest(*values: Any) -> jnp.dtype:
    """Return the dtype that holds all values, also under strict promotion.

    Args:
        *values: Arrays, numbers or dtypes.

    Returns:
        The dtype to which JAX promotes them by default.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     widest(jnp.ones(2, jnp.bfloat16), jnp.float32).name
        'float32'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def allow_mixed_dtypes(*trees: PyTree) -> AbstractContextManager[Any]:
    """Promote dtypes as JAX does by default where the trees mix float precisions.

    A user who gives a float32 setting for a bfloat16 parameter wants the promotion,
    even where JAX's setting forbids implicit ones. Where the precisions agree, a
    promotion would be a mistake in the code, so JAX's setting stays in force.

    Args:
        *trees: The pytrees whose leaves are combined.

    Returns:
        A context manager.

    Example:
        >>> a, b = jnp.ones(2, jnp.bfloat16), jnp.ones(2)
        >>> with jax.numpy_dtype_promotion("strict"), allow_mixed_dtypes(a, b):
        ...     (a + b).dtype.name
        'float32'
    """
    dtypes = {jnp.result_type(x) for x in jax.tree.leaves(trees) if is_float(x)}
    if len(dtypes) < 2:
        return nullcontext()
    return jax.numpy_dtype_promotion("standard")


def is_float(leaf: Any) -> bool:
    """Tell whether a leaf has a real floating-point dtype.

    Args:
        leaf: An array or a number.
    """
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_inexact(leaf: Any) -> bool:
    """Tell whether a leaf is real or complex floating-point, so has a derivative.

    Args:
        leaf: An array or a number.
    """
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def path_strings(path: tuple[Any, ...]) -> Path:
    """Turn a key path into a tuple of strings, such as `("head", "kernel")`.

    Args:
        path: A key path, as `jax.tree_util.tree_flatten_with_path` gives it.

    Returns:
        One string for each key.

    Example:
        >>> import jax
        >>> [path_strings(p) for p, _ in jax.tree.leaves_with_path({"a": [1.0]})]
        [('a', '0')]
    """
    return tuple(keystr((key,), simple=True) for key in path)


def split_by_path(
    tree: PyTree, keep: Callable[[Path], bool]
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Take the leaves of a tree whose path a predicate accepts.

    Args:
        tree: A pytree.
        keep: Predicate on a leaf's path, such as `("head", "kernel")`.

    Returns:
        The tree with None for the leaves that were left out, and a function that merges
        a tree like it with those leaves.

    Example:
        >>> kept, merge = split_by_path({"a": 1.0, "b": 2.0}, lambda p: p == ("a",))
        >>> kept, merge({"a": 5.0, "b": None})
        ({'a': 1.0, 'b': None}, {'a': 5.0, 'b': 2.0})
    """
    paths_leaves, treedef = tree_flatten_with_path(tree)
    kept = [keep(path_strings(path)) for path, _ in paths_leaves]
    leaves = [leaf for _, leaf in paths_leaves]

    def merge(kept_tree: PyTree) -> PyTree:
        new = iter(jax.tree.leaves(kept_tree))
        return treedef.unflatten(
            [next(new) if k else x for k, x in zip(kept, leaves, strict=True)]
        )

    pruned = [x if k else None for k, x in zip(kept, leaves, strict=True)]
    return treedef.unflatten(pruned), merge
