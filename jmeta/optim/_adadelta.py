"""Adadelta."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import safe_sqrt
from jmeta._core.settings import Setting, check_settings, is_plain
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class AdadeltaState(NamedTuple):
    """State of `adadelta`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        square_avg: Running mean of squared gradients, a tree like the parameters.
        acc_delta: Running mean of squared steps, a tree like the parameters.
        hyperparams: The next update's `lr, rho, eps, weight_decay`.
    """

    step: jax.Array
    square_avg: PyTree
    acc_delta: PyTree
    hyperparams: dict[str, Setting]


def adadelta(
    lr: Setting = 1.0,
    rho: Setting = 0.9,
    eps: Setting = 1e-6,
    weight_decay: Setting = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adadelta with torch's semantics, differentiable in every setting.

        grad       <- grad + weight_decay * param
        square_avg <- rho * square_avg + (1 - rho) * grad**2
        delta      <- sqrt(acc_delta + eps) / sqrt(square_avg + eps) * grad
        acc_delta  <- rho * acc_delta + (1 - rho) * delta**2
        param      <- param - lr * delta

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        rho: Decay rate of `square_avg` and `acc_delta`, at most 1.
        eps: Number added under both roots.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adadelta(lr=5.0, rho=0.0, eps=16.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()
        [-12.0, -0.0]

    References:
        Zeiler (2012), ADADELTA: an adaptive learning rate method, arXiv:1212.5701.
    """
    settings = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
    inf = float("inf")
    check_settings(
        settings,
        {"maximize": maximize},
        lr=(0, inf),
        rho=(0, inf),
        eps=(0, inf),
        weight_decay=(0, inf),
    )
    if is_plain(rho) and rho > 1:
        raise ValueError(f"`rho` must be at most 1; got {rho}.")

    # This rule follows `_single_tensor_adadelta` in torch/optim/adadelta.py.
    def rule(hp, step, grad, param, square_avg, acc_delta):
        del step
        rho, eps = hp["rho"], hp["eps"]
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        square_avg = rho * square_avg + (1 - rho) * grad**2
        std = safe_sqrt(square_avg + eps)
        delta = safe_sqrt(acc_delta + eps) / std * grad
        acc_delta = rho * acc_delta + (1 - rho) * delta**2
        return -hp["lr"] * delta, {"square_avg": square_avg, "acc_delta": acc_delta}

    slots = {
        "square_avg": lambda hp, param: jnp.zeros_like(param),
        "acc_delta": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(AdadeltaState, slots, rule, settings)
