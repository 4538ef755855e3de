"""Adam."""

import optax

from jmeta._core.settings import Pair, Setting
from jmeta.optim._adam_family import adam_family


def adam(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam with torch's semantics, differentiable in every setting.

        grad       <- grad + weight_decay * param
        exp_avg    <- beta1 * exp_avg + (1 - beta1) * grad
        exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * grad**2
        denom      <- sqrt(exp_avg_sq) / sqrt(1 - beta2**step) + eps
        param      <- param - lr / (1 - beta1**step) * exp_avg / denom

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_avg_sq`, a tuple or a list of two.
        eps: Number added to the root of `exp_avg_sq` after its bias correction.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        amsgrad: Divide by the root of the largest `exp_avg_sq` so far. The maximum is
            taken before the bias correction (`optax.amsgrad` takes it after).
        maximize: Maximize the loss: the sign of each gradient is flipped.
        decoupled_weight_decay: Multiply the parameters by `1 - lr * weight_decay`, as
            `adamw` does, instead of adding a penalty to the gradient.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adam(lr=0.5)
        >>> params = jnp.array([1.0, 2.0])
        >>> state = tx.init(params)
        >>> updates, state = tx.update(jnp.array([3.0, 0.0]), state, params)
        >>> updates.round(4).tolist()
        [-0.5, -0.0]

    Note:
        Where `exp_avg_sq` is 0 its root has derivative 0. This is the exact limit,
        since `exp_avg` is 0 there too. The true slope of the update at a gradient of 0
        is `-lr / eps`: finite, and huge with the default `eps`.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization,
        arXiv:1412.6980. Reddi et al. (2018), On the convergence of Adam and beyond,
        arXiv:1904.09237.
    """
    return adam_family(
        lr,
        betas,
        eps,
        weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled_weight_decay=decoupled_weight_decay,
    )
