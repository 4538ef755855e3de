"""RMSprop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import safe_sqrt
from jmeta._core.settings import Setting, check_settings
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class RMSpropState(NamedTuple):
    """State of `rmsprop`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        square_avg: Running mean of squared gradients, a tree like the parameters.
        momentum_buffer: Running sum of steps, a tree like the parameters.
        grad_avg: Running mean of gradients with `centered`, else None.
        started: Whether an update with momentum has begun the buffer, a bool scalar
            for each parameter.
        hyperparams: The next update's `lr, alpha, eps, weight_decay, momentum`.
    """

    step: jax.Array
    square_avg: PyTree
    momentum_buffer: PyTree
    grad_avg: PyTree | None
    started: PyTree
    hyperparams: dict[str, Setting]


def rmsprop(
    lr: Setting = 1e-2,
    alpha: Setting = 0.99,
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum: Setting = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """RMSprop with torch's semantics, differentiable in every setting.

        grad            <- grad + weight_decay * param
        square_avg      <- alpha * square_avg + (1 - alpha) * grad**2
        avg             <- sqrt(square_avg) + eps
        momentum_buffer <- momentum * momentum_buffer + grad / avg
        param           <- param - lr * momentum_buffer
        with centered:
            grad_avg    <- alpha * grad_avg + (1 - alpha) * grad
            avg         <- sqrt(square_avg - grad_avg**2) + eps

    As in torch, a `momentum` of exactly 0 leaves a buffer that has begun unchanged.

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        alpha: Decay rate of the running means.
        eps: Number added to the root; `optax.rmsprop` adds it below the root.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        momentum: Decay rate of the buffer.
        centered: Divide by the standard deviation of the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = rmsprop(lr=0.5, alpha=0.75)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()
        [-1.0, -0.0]

    Note:
        At a gradient of 0 the root of 0 has derivative 0, as in `adam`, centered or
        not. The true slope there is `-lr / eps`.

    References:
        Hinton, Srivastava and Swersky (2012), Neural networks for machine learning,
        lecture 6e. Graves (2013), Generating sequences with recurrent neural networks,
        arXiv:1308.0850, for `centered`.
    """
    settings = {
        "lr": lr,
        "alpha": alpha,
        "eps": eps,
        "weight_decay": weight_decay,
        "momentum": momentum,
    }
    check_settings(
        settings,
        {"maximize": maximize, "centered": centered},
        **dict.fromkeys(settings, (0, float("inf"))),
    )

    # This rule follows `_single_tensor_rmsprop` in torch/optim/rmsprop.py.
    def rule(
        hp, step, grad, param, square_avg, momentum_buffer, started, grad_avg=None
    ):
        del step
        alpha, momentum = hp["alpha"], hp["momentum"]
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        square_avg = alpha * square_avg + (1 - alpha) * grad**2
        slots = {"square_avg": square_avg}
        if centered:
            grad_avg = alpha * grad_avg + (1 - alpha) * grad
            slots["grad_avg"] = grad_avg
            avg = safe_sqrt(square_avg - grad_avg**2) + hp["eps"]
        else:
            avg = safe_sqrt(square_avg) + hp["eps"]
        scaled = grad / avg
        decayed = momentum * momentum_buffer + scaled
        # A buffer that has not begun holds the last step, so that the derivative with
        # respect to a momentum of 0 is the limit.
        zero = momentum == 0
        buffer = jnp.where(
            started,
            jnp.where(zero, momentum_buffer, decayed),
            jnp.where(zero, decayed, scaled),
        )
        slots["momentum_buffer"] = buffer
        slots["started"] = started | jnp.any(momentum != 0)
        return -hp["lr"] * jnp.where(zero & started, scaled, buffer), slots

    slots = {
        "square_avg": lambda hp, param: jnp.zeros_like(param),
        "momentum_buffer": lambda hp, param: jnp.zeros_like(param),
        "started": lambda hp, param: jnp.zeros((), bool),
    }
    if centered:
        slots["grad_avg"] = lambda hp, param: jnp.zeros_like(param)
    return per_leaf(RMSpropState, slots, rule, settings)
