"""Find the library that an object comes from without importing that library."""

import inspect
from typing import Any

LIBRARIES = ("equinox", "haiku", "torch")
"""Libraries that jmeta does not depend on but whose models users pass to it."""


def library(x: Any) -> str | None:
    """Return the library that an object's class, or a class itself, derives from.

    Args:
        x: Any object or class.

    Returns:
        A name in `LIBRARIES`, or None.

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
