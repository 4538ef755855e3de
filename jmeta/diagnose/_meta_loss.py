"""Checks of the meta-loss that a user's `make(adjoint)` gives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta._core import validate
from jmeta._core.tree import is_float

_USE = "Pass `lambda adjoint: meta_loss`, whose loop takes the adjoint."


def check_make(make: Any) -> None:
    """Refuse a `make` that is no function of an adjoint."""
    validate.function("make", make, use=_USE)
    validate.takes("make", make, "adjoint")


def checked_meta_loss(meta_loss: Any, *args: Any) -> Callable[..., Any]:
    """Refuse a meta-loss that does not take these arguments.

    Args:
        meta_loss: The result of `make(adjoint)`.
        *args: The arguments with which it will be called.

    Returns:
        The meta-loss as a function that raises `NotAScalar` where it gives no scalar.

    Raises:
        TypeError: `meta_loss` is no function of these arguments.
    """
    if not callable(meta_loss):
        got = validate.kind(meta_loss)
        raise TypeError(f"`make` must give the meta-loss; got {got}. {_USE}")
    validate.takes("make(adjoint)", meta_loss, *args)
    return lambda *args: _checked_scalar(meta_loss(*args))


class NotAScalar(Exception):
    """The meta-loss gives no floating-point scalar; the message says what to do.

    It has a class of its own so that `plan` can tell a wrong meta-loss, which concerns
    the user, from an error of one candidate, which becomes that candidate's row.
    """


def _checked_scalar(loss):
    is_array = isinstance(loss, jax.Array | np.ndarray | np.generic | float)
    if not is_array or jnp.shape(loss) or not is_float(loss):
        got = jax.typeof(loss) if is_array else validate.kind(loss)
        raise NotAScalar(
            "`make(adjoint)` must be the meta-loss, which gives a floating-point"
            f" scalar; got {got}. Pass the function, not its gradient."
        )
    return loss
