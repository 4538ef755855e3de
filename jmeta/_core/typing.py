"""Type aliases used across the package."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import chex

PyTree: TypeAlias = Any
"""A tree of anything that JAX takes: arrays, states, keys, shapes, or None."""

Params: TypeAlias = (
    "chex.ArrayTree | chex.Numeric | Iterable[Params] | Mapping[Any, Params]"
)
"""Parameters as a user gives them: a tree of arrays, some of which may be numbers."""

Key: TypeAlias = chex.PRNGKey
"""A typed PRNG key, as `jax.random.key` makes it."""

Path: TypeAlias = tuple[str, ...]
"""Where a leaf stands in a tree, e.g. `("head", "kernel")`."""
