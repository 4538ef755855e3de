"""AdamW."""

import optax

from jmeta._core.settings import Pair, Setting
from jmeta.optim._adam_family import adam_family


def adamw(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with torch's semantics, differentiable in every setting.

    This is `adam` with another weight decay: it shrinks the parameters directly and
    does not enter the gradient's running means.


        param <- param * (1 - lr * weight_decay)
        param <- param - lr / (1 - beta1**step) * exp_avg / denom

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_avg_sq`, a tuple or a list of two.
        eps: Number added to the root of `exp_avg_sq` after its bias correction.
        weight_decay: Share of each parameter that an update removes, as a multiple of
            `lr`. torch's default of 0.01 is 100 times that of `optax.adamw`.
        amsgrad: Divide by the root of the largest `exp_avg_sq` so far.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adamw(lr=0.5, weight_decay=0.25)
        >>> params = jnp.array([8.0])
        >>> updates, _ = tx.update(jnp.array([0.0]), tx.init(params), params)
        >>> updates.tolist()
        [-1.0]

    References:
        Loshchilov and Hutter (2019), Decoupled weight decay regularization,
        arXiv:1711.05101.
    """
    return adam_family(
        lr,
        betas,
        eps,
        weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled_weight_decay=True,
    )
