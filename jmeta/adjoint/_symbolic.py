"""Which inputs of a custom derivative rule are being differentiated."""

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._typing import PyTree


def differentiated(tangents: PyTree) -> list[tuple[str, Any]]:
    """List the leaves with a tangent that is not symbolically zero, with their paths.

    For a rule defined with `symbolic_zeros=True`.
    """
    return [
        (keystr(path), leaf)
        for path, leaf in tree_leaves_with_path(tangents)
        if not isinstance(leaf, SymbolicZero)
        and getattr(leaf, "dtype", None) != jax.dtypes.float0
    ]
