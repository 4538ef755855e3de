"""Checks of what the algorithms are given; each message says what to pass instead."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from jmeta._core import validate
from jmeta._core.libraries import library

_USE_MAKE_FUNCTIONAL = (
    "Split it first: `apply_fn, params = jmeta.make_functional(module, state=False)`."
)


def apply_fn(value: Any) -> None:
    """Refuse anything but a pure function, also a module that can be called."""
    is_flax = isinstance(value, nnx.Module | linen.Module)
    origin = library(value)
    is_module = is_flax or origin == "torch"
    is_module |= origin == "equinox" and not inspect.isroutine(inspect.unwrap(value))
    if is_module or origin == "haiku":
        raise TypeError(
            "`apply_fn` must be a pure function `apply_fn(params, inputs)`; got the"
            f" module {validate.kind(value)}. {_USE_MAKE_FUNCTIONAL}"
        )
    validate.function(
        "apply_fn", value, use=_USE_MAKE_FUNCTIONAL.replace("it", "a module", 1)
    )


def key(value: Any) -> None:
    """Refuse anything but a PRNG key, or None for a model without randomness."""
    if value is not None:
        validate.key("key", value)


def checked_loss(name: str, loss_fn: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Wrap a loss function so that a wrong result is refused with what to do."""

    def loss(outputs: Any, targets: Any) -> jax.Array:
        try:
            result = loss_fn(outputs, targets)
        except TypeError as error:
            # An `apply_fn` with state gives a tuple, which is the usual mistake. Any
            # other error is the loss function's own.
            if not isinstance(outputs, tuple | list):
                raise
            raise TypeError(
                f"`{name}` must take what `apply_fn` gives; it fails ({error}) on"
                f" outputs that are a {type(outputs).__name__} of {len(outputs)}. Let"
                " `apply_fn` give one array; of a model with state make it by"
                " `make_functional(model, state=False)`."
            ) from error
        scalar(name, result)
        return result

    return loss


def scalar(name: str, loss: Any) -> None:
    """Refuse a result of a user's function that is no floating-point scalar."""
    if isinstance(loss, tuple | list | dict) or not hasattr(loss, "shape"):
        raise TypeError(
            f"`{name}` must give a scalar, a JAX array; got {validate.kind(loss)}."
            " Compute it with jax.numpy, and give nothing else beside it."
        )
    if loss.shape:
        raise ValueError(
            f"`{name}` must give a scalar; got an array of shape {tuple(loss.shape)}."
            " Reduce it, for example with `.mean()`."
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must give a float; got dtype {loss.dtype}, which has no"
            " derivative. Convert what it is computed from to floats."
        )
