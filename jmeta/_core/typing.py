"""Type aliases used across the package."""

from typing import Any, TypeAlias

import jax

PyTree: TypeAlias = Any
"""A tree of arrays: nested dicts, lists, tuples and registered dataclasses."""

Key: TypeAlias = jax.Array
"""A typed PRNG key, as `jax.random.key` makes it."""

Path: TypeAlias = tuple[str, ...]
"""Where a leaf stands in a tree, e.g. `("head", "kernel")`."""
