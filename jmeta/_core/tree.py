"""The tree verbs that are used in several places."""

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

    Example:
        >>> import jax.numpy as jnp
        >>> cast_like(jnp.ones(2), jnp.ones(2, jnp.bfloat16)).dtype.name
        'bfloat16'
    """
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), tree, like)


def widest(*values: Any) -> jnp.dtype:
    """The dtype that holds all of these, also where JAX promotes none implicitly.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     widest(jnp.ones(2, jnp.bfloat16), jnp.float32).name
        'float32'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def allow_mixed_dtypes(*trees: PyTree) -> AbstractContextManager[Any]:
    """Promote as JAX does by default, where these hold floats of several precisions.

    Who mixes them, as in a float32 setting for a bfloat16 parameter, has asked for it,
    also where JAX promotes none implicitly. Elsewhere a promotion is a mistake of the
    code, and JAX's setting stays what it is.

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
    """Whether a leaf is of a real floating-point dtype and can be differentiated."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is real or complex floating-point: it can carry a derivative."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def path_strings(path: tuple[Any, ...]) -> Path:
    """A key path as a tuple of strings, such as `("head", "kernel")`.

    Example:
        >>> import jax
        >>> [path_strings(p) for p, _ in jax.tree.leaves_with_path({"a": [1.0]})]
        [('a', '0')]
    """
    return tuple(keystr((key,), simple=True) for key in path)


def split_by_path(
    tree: PyTree, keep: Callable[[Path], bool]
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Take the leaves that a predicate on the path keeps; None stands for the others.

    Returns:
        The kept leaves in the tree's structure, and a function that puts a tree like
        it back together with the leaves that were left out.

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
