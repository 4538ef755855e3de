"""The second moments of torch's Adafactor, kept as those of rows and columns."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.models.from_torch._match import with_leaves


def multiplied(entry: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An entry of torch's with the full second moments, laid out as the parameter.

    They are the product of `row_var` and `col_var` over their common mean, and take the
    place of `row_var`.
    """
    entry = dict(entry)
    if "row_var" in entry:
        row_var, col_var = entry["row_var"], entry.pop("col_var")
        mean = row_var.mean(axis=-2, keepdims=True)
        entry["row_var"] = row_var * col_var / np.where(mean > 0, mean, 1)
    return entry


def factors(found: Mapping[str, np.ndarray], like: Any) -> dict[str, Any]:
    """The fields `row_var` and `col_var` from second moments in Flax's layout.

    Raises:
        ValueError: One is of a kernel of more than two axes.
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
    """What None in torch's `eps` stands for: that of the parameters' dtype."""
    slots = jax.tree.leaves((like.row_var, like.variance))
    dtypes = {slot.dtype for slot in slots}
    if len(dtypes) != 1:
        return own
    return jnp.asarray(jnp.finfo(dtypes.pop()).eps, own.dtype)
