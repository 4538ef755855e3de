"""A penalty that keeps a loop near its start, for implicit differentiation."""

import chex
import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.typing import Params
from jmeta.adjoint import _checks


def proximal(params: Params, center: Params, weight: chex.Numeric) -> jax.Array:
    """Compute half the weighted squared distance from a center.

        0.5 * weight * ||params - center||^2

    Args:
        params: The parameters, a tree of arrays.
        center: The point to stay near, a tree of the structure and shapes of `params`.
        weight: Weight of the penalty, a scalar.

    Returns:
        The penalty, a scalar.

    Raises:
        TypeError: `weight` is no number.
        ValueError: `center` has another structure or other shapes than `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(proximal({"w": jnp.array([1.0, 3.0])}, {"w": jnp.zeros(2)}, 0.5))
        2.5

    References:
        Rajeswaran et al. (2019), Meta-learning with implicit gradients,
        arXiv:1909.04630.
    """
    validate.number("weight", weight)
    _checks.center(center, params)
    squares = jax.tree.map(lambda p, c: jnp.sum((p - c) ** 2), params, center)
    return 0.5 * jnp.asarray(sum(jax.tree.leaves(squares))) * weight
