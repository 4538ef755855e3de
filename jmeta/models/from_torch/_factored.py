"""The second moments of torch's Adafactor, which are factored by rows and columns."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.models.from_torch._match import with_leaves


def unfactored(entry: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the factors in a parameter's entry by its full second moments.

    They are the product of `row_var` and `col_var` over their common mean. The result
    has them as `row_var`, in the shape of the parameter, and no `col_var`.
    """
    entry = dict(entry)
    if "row_var" in entry:
        row_var, col_var = entry["row_var"], entry.pop("col_var")
        mean = row_var.mean(axis=-2, keepdims=True)
        entry["row_var"] = row_var * col_var / np.where(mean > 0, mean, 1)
    return entry


def factored(found: Mapping[str, np.ndarray], like: Any) -> dict[str, Any]:
    """Factor second moments in Flax's layout into `row_var` and `col_var`.

    Args:
        found: Full second moments by Flax path.
        like: The state to fill.

    Returns:
        The new fields `row_var` and `col_var` of the state, by name.

    Raises:
        ValueError: A kernel has more than two axes.
    """
    for path, array in found.items():
        if array.ndim > 2 and path.split(".")[-1] == "kernel":
            raise ValueError(
                f"torch's Adafactor keeps the moments of the kernel `{path}` over other"
                f" axes: ours has {array.ndim} of them in another order, so that they"
                " have no counterpart. Begin with `tx.init`."
            )
    axes = {"row_var": -1, "col_var": -2}
    return {
        slot: with_leaves(
            getattr(like, slot),
            {path: a.mean(axis=axis, keepdims=True) for path, a in found.items()},
        )
        for slot, axis in axes.items()
    }


def machine_epsilon(like: Any, own: jax.Array) -> jax.Array:
    """The value of None in torch's `eps`: the machine epsilon of the parameters.

    Args:
        like: The state, whose moments have the dtypes of the parameters.
        own: The value in `like`, which stays if the parameters differ in dtype.
    """
    slots = jax.tree.leaves((like.row_var, like.variance))
    dtypes = {slot.dtype for slot in slots}
    if len(dtypes) != 1:
        return own
    return jnp.asarray(jnp.finfo(dtypes.pop()).eps, own.dtype)
