"""Find which inputs of a custom derivative rule are being differentiated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core.typing import PyTree
from jmeta._core.varying import axes_of, make_varying


def differentiated(tangents: PyTree) -> list[tuple[str, Any]]:
    """List the tangents that are not symbolic zeros, with their paths.

    Args:
        tangents: The tangents that a rule with `symbolic_zeros=True` gets.

    Returns:
        Pairs of a path, as a string, and a tangent.
    """
    return [
        (keystr(path), leaf)
        for path, leaf in tree_leaves_with_path(tangents)
        if not isinstance(leaf, SymbolicZero)
        and getattr(leaf, "dtype", None) != jax.dtypes.float0
    ]


def materialised(cotangents: PyTree) -> PyTree:
    """Replace symbolic zeros by arrays of zeros.

    Args:
        cotangents: The cotangents that a rule with `symbolic_zeros=True` gets.

    Returns:
        A tree of arrays.
    """

    def array(x):
        if not isinstance(x, SymbolicZero):
            return x
        aval: Any = x.aval
        if aval.dtype == jax.dtypes.float0:
            return np.zeros(aval.shape, aval.dtype)
        return make_varying(jnp.zeros(aval.shape, aval.dtype), axes_of(aval))

    return jax.tree.map(array, cotangents)
