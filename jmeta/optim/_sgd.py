"""Stochastic gradient descent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import scale
from jmeta._core.remat import mark_to_store
from jmeta._core.settings import Setting, check_settings, is_plain
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class SGDState(NamedTuple):
    """State of `sgd`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        momentum_buffer: Running sum of gradients, a tree like the parameters.
        started: Whether an update with momentum has begun the buffer, a bool scalar
            for each parameter; torch's buffer is None until then.
        hyperparams: The next update's `lr, momentum, dampening, weight_decay`.
    """

    step: jax.Array
    momentum_buffer: PyTree
    started: PyTree
    hyperparams: dict[str, Setting]


def sgd(
    lr: Setting = 1e-3,
    momentum: Setting = 0.0,
    dampening: Setting = 0.0,
    weight_decay: Setting = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SGD with torch's semantics, differentiable in every setting.

        grad            <- grad + weight_decay * param
        momentum_buffer <- momentum * momentum_buffer + (1 - dampening) * grad
        param           <- param - lr * momentum_buffer
        with nesterov:     param - lr * (grad + momentum * momentum_buffer)

    The first buffer is the gradient itself, without dampening. As in torch, a
    `momentum` of exactly 0 gives the step `-lr * grad` whatever the dampening, and
    leaves a buffer that has begun unchanged.

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        momentum: Decay rate of the buffer.
        dampening: Share of the gradient kept out of the buffer.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        nesterov: Look one step of momentum ahead. As in torch this requires a
            `momentum` above 0, also where `momentum` is overridden later.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range, or `nesterov` is combined with
            a `momentum` that is the number 0 or a `dampening` that is any other number.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sgd(lr=0.5, momentum=0.5)
        >>> params = jnp.array([1.0, 2.0])
        >>> state = tx.init(params)
        >>> updates, state = tx.update(jnp.array([1.0, 4.0]), state, params)
        >>> updates, state = tx.update(jnp.array([1.0, 4.0]), state, params)
        >>> updates.tolist()
        [-0.75, -3.0]

    References:
        Sutskever et al. (2013), On the importance of initialization and momentum in
        deep learning, PMLR 28.
    """
    settings = {
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
    }
    inf = float("inf")
    check_settings(
        settings,
        {"maximize": maximize, "nesterov": nesterov},
        lr=(0, inf),
        momentum=(0, inf),
        weight_decay=(0, inf),
    )
    if nesterov:
        _check_nesterov(momentum, dampening)

    # This rule follows `_single_tensor_sgd` in torch/optim/sgd.py.
    def rule(hp, step, grad, param, momentum_buffer, started):
        del step
        momentum = hp["momentum"]
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        decayed = scale(momentum, momentum_buffer)
        # Until a momentum other than 0 begins the buffer, it holds the last gradient,
        # so that the derivative with respect to a momentum of 0 is the limit.
        zero = momentum == 0
        first = jnp.where(zero, decayed + grad, grad)
        later = jnp.where(zero, momentum_buffer, decayed + (1 - hp["dampening"]) * grad)
        buffer = jnp.where(started, later, first)
        if nesterov:
            direction = grad + momentum * buffer
        else:
            direction = jnp.where(zero & started, grad, buffer)
        slots = {
            "momentum_buffer": buffer,
            "started": started | jnp.any(momentum != 0),
        }
        # With the direction stored for reverse mode, the buffer need not be stored
        # unless the momentum is differentiated.
        return -scale(hp["lr"], mark_to_store(direction)), slots

    slots = {
        "momentum_buffer": lambda hp, param: jnp.zeros_like(param),
        "started": lambda hp, param: jnp.zeros((), bool),
    }
    return per_leaf(SGDState, slots, rule, settings)


def _check_nesterov(momentum, dampening):
    """Refuse the numbers that torch refuses; traced and scheduled settings pass."""
    if is_plain(momentum) and momentum == 0:
        raise ValueError(
            "`nesterov=True` needs a `momentum` above 0; got 0. Give one, also where it"
            " is overridden later, or leave `nesterov` out."
        )
    if is_plain(dampening) and dampening != 0:
        raise ValueError(
            f"`nesterov=True` needs a `dampening` of 0; got {dampening}. Leave one of"
            " the two out."
        )
