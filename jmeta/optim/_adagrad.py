"""Adagrad."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import safe_sqrt
from jmeta._core.settings import Setting, check_settings
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class AdagradState(NamedTuple):
    """State of `adagrad`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        sum: Sum of squared gradients, a tree like the parameters.
        hyperparams: The next update's `lr, lr_decay, weight_decay,
            initial_accumulator_value, eps`.
    """

    step: jax.Array
    sum: PyTree
    hyperparams: dict[str, Setting]


def adagrad(
    lr: Setting = 1e-2,
    lr_decay: Setting = 0.0,
    weight_decay: Setting = 0.0,
    initial_accumulator_value: Setting = 0.0,
    eps: Setting = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adagrad with torch's semantics, differentiable in every setting.

        grad  <- grad + weight_decay * param
        clr   <- lr / (1 + (step - 1) * lr_decay)
        sum   <- sum + grad**2
        param <- param - clr * grad / (sqrt(sum) + eps)

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        lr_decay: How fast the step size falls, `lr / (1 + lr_decay * updates so far)`.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        initial_accumulator_value: Value that `sum` begins at. The first update reads
            it, so it can be overridden and learned like any other setting.
        eps: Number added to the root of `sum`.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adagrad(lr=0.5, initial_accumulator_value=7.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
        >>> updates.tolist()
        [-0.375, -0.0]

    Note:
        At a gradient of 0 the root of 0 has derivative 0, as in `adam`. The true slope
        there is `-clr / eps`. torch ignores an `initial_accumulator_value` given for a
        single group; here each group has its own.

    References:
        Duchi, Hazan and Singer (2011), Adaptive subgradient methods for online
        learning and stochastic optimization, JMLR 12.
    """
    settings = {
        "lr": lr,
        "lr_decay": lr_decay,
        "weight_decay": weight_decay,
        "initial_accumulator_value": initial_accumulator_value,
        "eps": eps,
    }
    check_settings(
        settings, {"maximize": maximize}, **dict.fromkeys(settings, (0, float("inf")))
    )

    # This rule follows `_single_tensor_adagrad` in torch/optim/adagrad.py.
    def rule(hp, step, grad, param, sum):
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        past = (step - 1).astype(hp["lr_decay"].dtype)
        clr = hp["lr"] / (1 + past * hp["lr_decay"])
        sum = jnp.where(step == 1, hp["initial_accumulator_value"], sum) + grad**2
        return -clr * grad / (safe_sqrt(sum) + hp["eps"]), {"sum": sum}

    def initial_sum(hp, param):
        value = hp["initial_accumulator_value"].astype(param.dtype)
        return jnp.broadcast_to(value, param.shape)

    return per_leaf(AdagradState, {"sum": initial_sum}, rule, settings)
