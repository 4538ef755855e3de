"""Choices between storing a value and recomputing it."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jmeta._core.typing import PyTree

_MARK = "jmeta_kept"
_LARGE = 1 << 16

STORE_MARKED = jax.checkpoint_policies.save_only_these_names(_MARK)
"""Policy for `jax.checkpoint`: store only the values that `mark_to_store` marks.

Those are the inner gradient of `adjoint/_gradient.py` and the direction of SGD.
"""


def mark_to_store(tree: PyTree) -> PyTree:
    """Mark values that `jax.checkpoint` shall store under the policy `STORE_MARKED`.

    Worth it for a value that costs much to recompute, or that replaces several others.

    Args:
        tree: A pytree of arrays.

    Returns:
        The same values.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = jax.checkpoint(
        ...     lambda x: jnp.sin(mark_to_store(jnp.sin(x))), policy=STORE_MARKED
        ... )
        >>> round(float(jax.grad(f)(0.0)), 4)
        1.0
    """
    return checkpoint_name(tree, _MARK)


def prevent_cpu_fusion(tree: PyTree) -> PyTree:
    """Make XLA's CPU backend compute values once, before the operations that use them.

    That backend fuses cheap operations into each operation that uses their result, even
    where a thousand pixels use each value and all of them compute it again. It does not
    fuse a division, so the values are divided by 1 in a way that XLA cannot simplify.
    Large arrays stay as they are: matrix products read them whole in any case, and
    copies would cost memory.

    Args:
        tree: A pytree of arrays.

    Returns:
        The same values, on other backends the same tree.

    Example:
        >>> float(prevent_cpu_fusion(jnp.array(2.0)))
        2.0
    """
    return jax.tree.map(_divided, tree) if jax.default_backend() == "cpu" else tree


def _divided(x):
    if x.size > _LARGE or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    # no number is finite and unequal to itself, but XLA does not know that
    never = jnp.isfinite(x) & (x != x)
    return x / (1 + never.astype(x.dtype))
