"""NAdam."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import integer_power, safe_sqrt
from jmeta._core.settings import Pair, Setting, check_settings, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class NAdamState(NamedTuple):
    """State of `nadam`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        mu_product: Product of the momenta so far, a scalar for each parameter.
        exp_avg: Running mean of gradients, a tree like the parameters.
        exp_avg_sq: Running mean of squared gradients, a tree like the parameters.
        hyperparams: The next update's `lr, betas, eps, weight_decay, momentum_decay`.
    """

    step: jax.Array
    mu_product: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    hyperparams: dict[str, Setting]


def nadam(
    lr: Setting = 2e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum_decay: Setting = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam with Nesterov momentum and torch's semantics, fully differentiable.

        mu         <- beta1 * (1 - 0.96**(step * momentum_decay) / 2)
        mu_next    <- beta1 * (1 - 0.96**((step + 1) * momentum_decay) / 2)
        mu_product <- mu_product * mu
        exp_avg    <- beta1 * exp_avg + (1 - beta1) * grad
        exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * grad**2
        denom      <- sqrt(exp_avg_sq / (1 - beta2**step)) + eps
        param      <- param - lr * (1 - mu) / (1 - mu_product) * grad / denom
                            - lr * mu_next / (1 - mu_product * mu_next)
                                 * exp_avg / denom

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_avg_sq`, a tuple or a list of two.
        eps: Number added to the root of `exp_avg_sq` after its bias correction.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        momentum_decay: Rate at which the momentum grows from about `beta1 / 2` to
            `beta1`.
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
        >>> tx = nadam(lr=0.5, betas=(0.0, 0.5))
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()
        [-0.5, -0.0]

    Note:
        At a gradient of 0 the root of 0 has derivative 0, as in `adam`. `optax.nadam`
        has no `momentum_decay`. `betas` or `momentum_decay` with an array for each
        parameter must be given to the constructor and not as a later override, since
        `mu_product` has its shape.

    References:
        Dozat (2016), Incorporating Nesterov momentum into Adam, ICLR workshop.
    """
    settings = {
        "lr": lr,
        "betas": pair("betas", betas),
        "eps": eps,
        "weight_decay": weight_decay,
        "momentum_decay": momentum_decay,
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
        momentum_decay=(0, inf),
    )

    # This rule follows `_single_tensor_nadam` in torch/optim/nadam.py.
    def rule(hp, step, grad, param, mu_product, exp_avg, exp_avg_sq):
        lr, weight_decay, momentum_decay = (
            hp[name] for name in ("lr", "weight_decay", "momentum_decay")
        )
        beta1, beta2 = hp["betas"]
        grad = -grad if maximize else grad
        if decoupled_weight_decay:
            decay = lr * weight_decay * param
        else:
            decay = 0.0
            grad = grad + weight_decay * param
        count = step.astype(momentum_decay.dtype)
        mu = beta1 * (1 - 0.5 * 0.96 ** (count * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((count + 1) * momentum_decay))
        mu_product = mu_product * mu
        exp_avg = beta1 * exp_avg + (1 - beta1) * grad
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad**2
        denom = safe_sqrt(exp_avg_sq / (1 - integer_power(beta2, step))) + hp["eps"]
        update = (
            -decay
            - lr * (1 - mu) / (1 - mu_product) * grad / denom
            - lr * mu_next / (1 - mu_product * mu_next) * exp_avg / denom
        )
        slots = {
            "mu_product": mu_product,
            "exp_avg": exp_avg,
            "exp_avg_sq": exp_avg_sq,
        }
        return update, slots

    slots = {
        "mu_product": lambda hp, param: jnp.ones_like(
            hp["betas"][0] * hp["momentum_decay"]
        ),
        "exp_avg": lambda hp, param: jnp.zeros_like(param),
        "exp_avg_sq": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(NAdamState, slots, rule, settings)
