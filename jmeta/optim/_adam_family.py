"""Adam's recursion, with both of torch's weight decays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import integer_power, safe_sqrt, scale
from jmeta._core.settings import Pair, Setting, check_settings, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class AdamState(NamedTuple):
    """State of `adam` and `adamw`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        exp_avg: Running mean of gradients, a tree like the parameters.
        exp_avg_sq: Running mean of squared gradients, a tree like the parameters.
        max_exp_avg_sq: Largest `exp_avg_sq` so far with `amsgrad`, else None.
        hyperparams: The next update's `lr, betas, eps, weight_decay`.
    """

    step: jax.Array
    exp_avg: PyTree
    exp_avg_sq: PyTree
    max_exp_avg_sq: PyTree | None
    hyperparams: dict[str, Setting]


def adam_family(
    lr: Setting,
    betas: Pair,
    eps: Setting,
    weight_decay: Setting,
    *,
    amsgrad: bool,
    maximize: bool,
    decoupled_weight_decay: bool,
) -> optax.GradientTransformationExtraArgs:
    """Build `adam` or, with decoupled weight decay, `adamw`.

    Both constructors document the arguments, which are passed on unchanged.
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
        {
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        },
        ("betas",),
        lr=(0, inf),
        betas=(0, 1),
        eps=(0, inf),
        weight_decay=(0, inf),
    )

    # This rule follows the capturable branch of `_single_tensor_adam` in
    # torch/optim/adam.py.
    def rule(hp, step, grad, param, exp_avg, exp_avg_sq, max_exp_avg_sq: Any = None):
        lr, eps, weight_decay = hp["lr"], hp["eps"], hp["weight_decay"]
        beta1, beta2 = hp["betas"]
        grad = -grad if maximize else grad
        if decoupled_weight_decay:
            decay = lr * weight_decay * param
        else:
            decay = 0.0
            grad = grad + weight_decay * param
        exp_avg = exp_avg + scale(1 - beta1, grad - exp_avg)
        exp_avg_sq = scale(beta2, exp_avg_sq) + scale(1 - beta2, grad**2)
        bias_correction1 = 1 - integer_power(beta1, step)
        bias_correction2 = 1 - integer_power(beta2, step)
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        if amsgrad:
            exp_avg_sq = jnp.maximum(max_exp_avg_sq, exp_avg_sq)
            slots["max_exp_avg_sq"] = exp_avg_sq
        denom = safe_sqrt(exp_avg_sq) / jnp.sqrt(bias_correction2) + eps
        return -decay - scale(lr / bias_correction1, exp_avg / denom), slots

    def zeros(hp, param):
        del hp
        return jnp.zeros_like(param)

    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]
    return per_leaf(AdamState, dict.fromkeys(names, zeros), rule, settings)
