"""Which library an object comes from, told without importing that library."""

import inspect
from typing import Any

LIBRARIES = ("equinox", "haiku", "torch")
"""Libraries that jmeta does not depend on, and whose models it is given."""


def library(x: Any) -> str | None:
    """The library that an object's class, or a class itself, is derived from.

    Example:
        >>> import equinox as eqx, jax
        >>> library(eqx.nn.Linear(2, 3, key=jax.random.key(0))), library(eqx.nn.MLP)
        ('equinox', 'equinox')
        >>> print(library(jax.jit), library(3.0))
        None None
    """
    bases = inspect.getmro(x if inspect.isclass(x) else type(x))
    origins = [str(base.__module__).partition(".")[0] for base in bases]
    return next((origin for origin in origins if origin in LIBRARIES), None)
