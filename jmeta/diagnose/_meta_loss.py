"""The meta-loss of an adjoint, as a user's `make` gives it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta._core import validate
from jmeta._core.tree import is_float

_USE = "Pass `lambda adjoint: meta_loss`, whose loop takes the adjoint."


def check_make(make: Any) -> None:
    """`make` is a function of an adjoint."""
    validate.function("make", make, use=_USE)
    validate.takes("make", make, "adjoint")


def checked(meta_loss: Any, *args: Any) -> Callable[..., Any]:
    """What `make` gave, which must be a function of these arguments.

    Args:
        meta_loss: What it gave.
        *args: What it is going to be called with.

    Returns:
        The same function; it raises `NotAScalar` unless it gives a scalar.
    """
    if not callable(meta_loss):
        got = validate.kind(meta_loss)
        raise TypeError(f"`make` must give the meta-loss; got {got}. {_USE}")
    validate.takes("make(adjoint)", meta_loss, *args)
    return lambda *args: _scalar(meta_loss(*args))


class NotAScalar(Exception):
    """The meta-loss gives no floating-point scalar; the message says what to do."""


def _scalar(loss):
    is_array = isinstance(loss, jax.Array | np.ndarray | np.generic | float)
    if not is_array or jnp.shape(loss) or not is_float(loss):
        got = jax.typeof(loss) if is_array else validate.kind(loss)
        raise NotAScalar(
            "`make(adjoint)` must be the meta-loss, which gives a floating-point"
            f" scalar; got {got}. Pass the function, not its gradient."
        )
    return loss
