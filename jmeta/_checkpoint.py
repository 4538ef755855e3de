"""What is worth storing for the way back rather than recomputing."""

import jax
from jax.ad_checkpoint import checkpoint_name

from jmeta._typing import PyTree

_KEPT = "jmeta_kept"

KEEP = jax.checkpoint_policies.save_only_these_names(_KEPT)
"""Policy for `jax.checkpoint`: store what `keep` marks, where it is needed."""


def keep(tree: PyTree) -> PyTree:
    """Mark values that cost much to recompute or that stand for several others.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = jax.checkpoint(lambda x: jnp.sin(keep(jnp.sin(x))), policy=KEEP)
        >>> round(float(jax.grad(f)(0.0)), 4)
        1.0
    """
    return checkpoint_name(tree, _KEPT)
