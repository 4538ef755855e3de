"""Adamax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import integer_power
from jmeta._core.settings import Pair, Setting, check_settings, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class AdamaxState(NamedTuple):
    """State of `adamax`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        exp_avg: Running mean of gradients, a tree like the parameters.
        exp_inf: Decayed maximum of gradients, a tree like the parameters.
        hyperparams: The next update's `lr, betas, eps, weight_decay`.
    """

    step: jax.Array
    exp_avg: PyTree
    exp_inf: PyTree
    hyperparams: dict[str, Setting]


def adamax(
    lr: Setting = 2e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adamax with torch's semantics, differentiable in every setting.

        grad    <- grad + weight_decay * param
        exp_avg <- beta1 * exp_avg + (1 - beta1) * grad
        exp_inf <- max(beta2 * exp_inf, abs(grad) + eps)
        param   <- param - lr / (1 - beta1**step) * exp_avg / exp_inf

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_inf`, a tuple or a list of two.
        eps: Number added to the gradient's absolute value.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adamax(lr=0.5, eps=1.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()
        [-0.375, -0.0]

    Note:
        The absolute value of a gradient of 0 has derivative 0, as in torch.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization,
        arXiv:1412.6980, section 7.1.
    """
    settings = {
        "lr": lr,
        "betas": pair("betas", betas),
        "eps": eps,
        "weight_decay": weight_decay,
    }
    inf = float("inf")
    check_settings(
        settings,
        {"maximize": maximize},
        ("betas",),
        lr=(0, inf),
        betas=(0, 1),
        eps=(0, inf),
        weight_decay=(0, inf),
    )

    # This rule follows `_single_tensor_adamax` in torch/optim/adamax.py.
    def rule(hp, step, grad, param, exp_avg, exp_inf):
        beta1, beta2 = hp["betas"]
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        exp_avg = beta1 * exp_avg + (1 - beta1) * grad
        # The derivative of jnp.abs at 0 is 1, torch's is 0.
        size = jnp.sign(grad) * grad
        exp_inf = jnp.maximum(beta2 * exp_inf, size + hp["eps"])
        clr = hp["lr"] / (1 - integer_power(beta1, step))
        return -clr * exp_avg / exp_inf, {"exp_avg": exp_avg, "exp_inf": exp_inf}

    slots = {
        "exp_avg": lambda hp, param: jnp.zeros_like(param),
        "exp_inf": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(AdamaxState, slots, rule, settings)
