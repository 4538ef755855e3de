"""RAdam."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import integer_power, safe_sqrt
from jmeta._core.settings import Pair, Setting, check_settings, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class RAdamState(NamedTuple):
    """State of `radam`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        exp_avg: Running mean of gradients, a tree like the parameters.
        exp_avg_sq: Running mean of squared gradients, a tree like the parameters.
        hyperparams: The next update's `lr, betas, eps, weight_decay`.
    """

    step: jax.Array
    exp_avg: PyTree
    exp_avg_sq: PyTree
    hyperparams: dict[str, Setting]


def radam(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rectified Adam with torch's semantics, differentiable in every setting.

    It takes plain momentum steps until `rho > 5`, when the running mean of squares has
    seen enough gradients to have a bounded variance. From then on it takes rectified
    Adam steps.

        exp_avg    <- beta1 * exp_avg + (1 - beta1) * grad
        exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * grad**2
        rho_inf    <- 2 / (1 - beta2) - 1
        rho        <- rho_inf - 2 * step * beta2**step / (1 - beta2**step)
        rect       <- sqrt((rho - 4) * (rho - 2) * rho_inf
                           / ((rho_inf - 4) * (rho_inf - 2) * rho))
        adaptive   <- rect * sqrt(1 - beta2**step) / (sqrt(exp_avg_sq) + eps)
        param      <- param - lr * exp_avg / (1 - beta1**step)
                            * (adaptive if rho > 5 else 1)

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_avg_sq`, a tuple or a list of two.
        eps: Number added to the root of `exp_avg_sq` before its bias correction.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        decoupled_weight_decay: Multiply the parameters by `1 - lr * weight_decay`, as
            `adamw` does, instead of adding a penalty to the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = radam(lr=0.5)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()
        [-1.5, -0.0]

    Note:
        At a gradient of 0 the root of 0 has derivative 0, as in `adam`. `optax.radam`
        has NaN derivatives everywhere in the first steps, where `rect` is the root of a
        negative number.

    References:
        Liu et al. (2020), On the variance of the adaptive learning rate and beyond,
        arXiv:1908.03265.
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
        {"maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay},
        ("betas",),
        lr=(0, inf),
        betas=(0, 1),
        eps=(0, inf),
        weight_decay=(0, inf),
    )

    # This rule follows `_single_tensor_radam` in torch/optim/radam.py.
    def rule(hp, step, grad, param, exp_avg, exp_avg_sq):
        lr, weight_decay = hp["lr"], hp["weight_decay"]
        beta1, beta2 = hp["betas"]
        grad = -grad if maximize else grad
        if decoupled_weight_decay:
            decay = lr * weight_decay * param
        else:
            decay = 0.0
            grad = grad + weight_decay * param
        exp_avg = beta1 * exp_avg + (1 - beta1) * grad
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad**2
        bias_correction1 = 1 - integer_power(beta1, step)
        bias_correction2 = 1 - integer_power(beta2, step)
        rho_inf = 2 / (1 - beta2) - 1
        count = step.astype(beta2.dtype)
        rho = rho_inf - 2 * count * integer_power(beta2, step) / bias_correction2
        rectified = rho > 5
        # Harmless numbers replace what the branch not taken divides by or takes the
        # root of. Selecting only its result would let 0 * inf into the derivatives.
        rho, rho_inf = (
            jnp.where(rectified, rho, 6.0),
            jnp.where(rectified, rho_inf, 7.0),
        )
        denom = jnp.where(rectified, safe_sqrt(exp_avg_sq) + hp["eps"], 1.0)
        rect = jnp.sqrt(
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        )
        adaptive = jnp.where(rectified, rect * jnp.sqrt(bias_correction2) / denom, 1.0)
        update = -decay - lr * (exp_avg / bias_correction1) * adaptive
        return update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}

    slots = {
        "exp_avg": lambda hp, param: jnp.zeros_like(param),
        "exp_avg_sq": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(RAdamState, slots, rule, settings)
