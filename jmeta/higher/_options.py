"""Checks of the options that several functions of this folder take."""

from typing import Any

import jax
import optax

from jmeta._core import validate


def check_options(device: Any, override: Any, grad_callback: Any) -> None:
    """Refuse a device, overrides or a gradient callback of the wrong kind."""
    check_device(device)
    if override is not None:
        use = "Pass for example `{'lr': [0.1]}`."
        validate.mapping("override", override, use=use)
    if grad_callback is not None:
        validate.function(
            "grad_callback", grad_callback, use="It maps gradients to gradients."
        )
        validate.takes("grad_callback", grad_callback, "grads")


def check_device(device: Any) -> None:
    """Refuse anything but a `jax.Device`, a sharding or None."""
    if device is None:
        return
    use = "Pass for example `jax.devices('cpu')[0]`."
    if isinstance(device, str):
        kind, _, index = device.partition(":")
        kind = "gpu" if kind == "cuda" else kind
        index = index if index.isdigit() else "0"
        use = f"Pass `jax.devices({kind!r})[{index}]`."
    places = jax.Device, jax.sharding.Sharding
    validate.instance("device", device, places, "a `jax.Device` or sharding", use=use)


def check_model(model: Any) -> None:
    """Refuse an optimizer where the model is expected."""
    if isinstance(model, optax.GradientTransformation):
        raise TypeError(
            "`model` must be an nnx module, `(linen module, variables)`, `(apply_fn,"
            " params)` or `(apply_fn, params, state)`; got an optax transform. The"
            " model comes first: `innerloop_ctx(model, tx)`."
        )
