"""What is worth storing for the way back, or for a moment, rather than recomputing."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jmeta._core.typing import PyTree

_KEPT = "jmeta_kept"
_LARGE = 1 << 16

STORE_MARKED = jax.checkpoint_policies.save_only_these_names(_KEPT)
"""Policy for `jax.checkpoint`: store what `mark_to_store` marks, where it is needed."""


def mark_to_store(tree: PyTree) -> PyTree:
    """Mark values that cost much to recompute or that stand for several others.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = jax.checkpoint(
        ...     lambda x: jnp.sin(mark_to_store(jnp.sin(x))), policy=STORE_MARKED
        ... )
        >>> round(float(jax.grad(f)(0.0)), 4)
        1.0
    """
    return checkpoint_name(tree, _KEPT)


def prevent_cpu_fusion(tree: PyTree) -> PyTree:
    """Have values computed before what uses them, and not again in each place.

    XLA's CPU backend merges cheap operations into those that use their result, even
    where that is a thousand pixels for each value. It does not merge a division, so the
    values are divided by 1, in a way that it cannot see. Large arrays, which matrix
    products read whole in any case and whose copies would cost memory, stay.

    Example:
        >>> float(prevent_cpu_fusion(jnp.array(2.0)))
        2.0
    """
    return jax.tree.map(_divided, tree) if jax.default_backend() == "cpu" else tree


def _divided(x):
    if x.size > _LARGE or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    never = jnp.isfinite(x) & (x != x)
    return x / (1 + never.astype(x.dtype))
