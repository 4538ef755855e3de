"""AdamW."""

import optax

from jmeta._settings import Setting
from jmeta.optim._adam import adam_family


def adamw(
    lr: Setting = 1e-3,
    betas: tuple[Setting, Setting] = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with torch's semantics, differentiable in every setting.

    `adam`, except that the weight decay acts on the parameters and not through the
    gradient's running means:

        param <- param * (1 - lr * weight_decay), then Adam's update

    Args:
        lr: As in `adam`, and so are `betas`, `eps`, `amsgrad` and `maximize`.
        betas: See `lr`.
        eps: See `lr`.
        weight_decay: Decay of the parameters in units of `lr`; torch's default of
            0.01 is 100 times that of `optax.adamw`.
        amsgrad: See `lr`.
        maximize: See `lr`.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        ValueError: A number outside torch's range.

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
